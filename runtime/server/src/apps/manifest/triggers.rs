//! The triggers that fire by themselves: timers, and those on changes of documents and objects.

use std::collections::{BTreeMap, BTreeSet};

use bson::RawDocumentBuf;
use cloudlet_blob::ObjectScope;

use super::Function;
use super::raw::*;
use super::resolve::{Names, Resolver};
use super::values;
use crate::triggers::changes::{ChangeTrigger, DocumentScope, Operation, Source};
use crate::triggers::timers::{Missed, Timer};
use crate::triggers::{Kind, Schedule};

/// Triggers of one kind of one app.
const TRIGGERS_MAX: usize = 100;
/// How often a failed invocation is tried again, unless the manifest says.
const RETRIES: u32 = 3;
/// The same at most.
const RETRIES_MAX: i64 = 20;
/// Longest text that a timer gives its function.
const MESSAGE_BYTES_MAX: usize = 4 << 10;
/// What may happen to an object.
const CREATED: &str = "created";
const DELETED: &str = "deleted";

/// What triggers refer to.
struct Around<'a, 'm> {
    names: &'a Names<'m>,
    functions: &'a BTreeMap<String, Function>,
    /// Names of triggers that are taken.
    taken: BTreeSet<String>,
}

impl Resolver<'_, '_> {
    /// Timers, and triggers on changes.
    pub(super) fn triggers(
        &mut self,
        raw: &RawTriggers,
        names: &Names<'_>,
        functions: &BTreeMap<String, Function>,
    ) -> (Vec<Timer>, Vec<ChangeTrigger>) {
        let RawTriggers {
            http: _,
            timer,
            database,
            storage,
        } = raw;
        let mut around = Around {
            names,
            functions,
            taken: BTreeSet::new(),
        };
        self.not_too_many(Kind::Timer, timer);
        self.not_too_many(Kind::Database, database);
        self.not_too_many(Kind::Storage, storage);
        let timers = timer
            .iter()
            .filter_map(|raw| self.timer(raw.value(), &mut around));
        let timers = timers.collect();
        let mut changes = Vec::new();
        for raw in database {
            changes.extend(self.database_trigger(raw.value(), &mut around));
        }
        for raw in storage {
            changes.extend(self.storage_trigger(raw.value(), &mut around));
        }
        (timers, changes)
    }

    fn not_too_many<T>(&mut self, kind: Kind, raw: &[At<T>]) {
        if let Some(one_more) = raw.get(TRIGGERS_MAX) {
            let message = format!("the app has {} {} triggers", raw.len(), kind.as_str());
            self.report
                .add(one_more.span(), message, format!("keep to {TRIGGERS_MAX}"));
        }
    }

    /// The function, and the trigger's name.
    fn called(
        &mut self,
        function: &Text,
        name: Option<&Text>,
        kind: Kind,
        around: &mut Around<'_, '_>,
    ) -> String {
        self.known(
            "function",
            std::slice::from_ref(function),
            &around.names.functions,
            "add [function.NAME]",
        );
        let at = name.unwrap_or(function);
        self.take(at.span(), values::name(kind.as_str(), at.value()));
        if !around.taken.insert(at.value().clone()) {
            let message = format!("there is a trigger {:?} already", at.value());
            self.report.add(
                at.span(),
                message,
                "give each trigger a name of its own: name = \"...\"",
            );
        }
        at.value().clone()
    }

    fn retries(&mut self, retries: Option<&At<i64>>) -> u32 {
        match retries {
            Some(number) if !(0..=RETRIES_MAX).contains(number.value()) => {
                let message = format!("retries is {}", number.value());
                self.report
                    .add(number.span(), message, format!("write 0 to {RETRIES_MAX}"));
                RETRIES
            }
            Some(number) => u32::try_from(*number.value()).unwrap_or(RETRIES),
            None => RETRIES,
        }
    }

    fn timer(&mut self, raw: &RawTimerTrigger, around: &mut Around<'_, '_>) -> Option<Timer> {
        let RawTimerTrigger {
            name,
            schedule,
            time_zone,
            function,
            message,
            missed,
            retries,
        } = raw;
        let function = function.as_ref()?;
        let name = self.called(function, name.as_ref(), Kind::Timer, around);
        let missed = self.parsed(missed.as_ref(), values::missed, Missed::default());
        let retries = self.retries(retries.as_ref());
        if let Some(text) = message
            .as_ref()
            .filter(|text| text.value().len() > MESSAGE_BYTES_MAX)
        {
            let wrong = format!("the message has {} bytes", text.value().len());
            self.report
                .add(text.span(), wrong, format!("keep to {MESSAGE_BYTES_MAX}"));
        }
        let text = schedule.as_ref()?;
        let zone = time_zone.as_ref().map_or("UTC", |zone| zone.value());
        let parsed = match (Schedule::parse(text.value(), zone), time_zone) {
            // What is wrong may be the zone: then its place is told.
            (Err(wrong), Some(zone)) if Schedule::parse(text.value(), "UTC").is_ok() => {
                self.take(zone.span(), Err(wrong))
            }
            (parsed, _) => self.take(text.span(), parsed),
        };
        Some(Timer {
            name,
            schedule: parsed?,
            function: function.value().as_str().into(),
            message: message
                .as_ref()
                .map(|text| text.value().clone())
                .unwrap_or_default(),
            missed,
            retries,
            timeout: around.functions.get(function.value())?.limits.timeout,
        })
    }

    fn database_trigger(
        &mut self,
        raw: &RawDatabaseTrigger,
        around: &mut Around<'_, '_>,
    ) -> Option<ChangeTrigger> {
        let RawDatabaseTrigger {
            name,
            collection,
            on,
            filter,
            function,
            retries,
        } = raw;
        let function = function.as_ref()?;
        let name = self.called(function, name.as_ref(), Kind::Database, around);
        let retries = self.retries(retries.as_ref());
        let mut operations = BTreeSet::new();
        for text in on {
            operations.extend(self.take(text.span(), values::operation(text.value())));
        }
        if on.is_empty() {
            operations.extend(Operation::ALL);
        }
        let filter = match filter {
            Some(filter) => self.take(filter.span(), values::event_filter(filter.value()))?,
            None => RawDocumentBuf::new(),
        };
        let collection = collection.as_ref()?;
        self.take(collection.span(), values::collection_name(collection.value()));
        Some(ChangeTrigger {
            name,
            source: Source::Documents(DocumentScope {
                collection: collection.value().clone(),
                on: operations.into_iter().collect(),
                filter,
            }),
            function: function.value().as_str().into(),
            retries,
            timeout: around.functions.get(function.value())?.limits.timeout,
        })
    }

    fn storage_trigger(
        &mut self,
        raw: &RawStorageTrigger,
        around: &mut Around<'_, '_>,
    ) -> Option<ChangeTrigger> {
        let RawStorageTrigger {
            name,
            prefix,
            on,
            function,
            retries,
        } = raw;
        let function = function.as_ref()?;
        let name = self.called(function, name.as_ref(), Kind::Storage, around);
        let retries = self.retries(retries.as_ref());
        for text in on
            .iter()
            .filter(|text| ![CREATED, DELETED].contains(&text.value().as_str()))
        {
            self.report.add(
                text.span(),
                format!("on has {:?}", text.value()),
                "write \"created\" and \"deleted\", or leave on out for both",
            );
        }
        let has = |word: &str| on.is_empty() || on.iter().any(|text| text.value() == word);
        if let Some(prefix) = prefix {
            self.take(prefix.span(), values::object_prefix(prefix.value()));
        }
        Some(ChangeTrigger {
            name,
            source: Source::Objects(ObjectScope {
                prefix: prefix
                    .as_ref()
                    .map(|prefix| prefix.value().clone())
                    .unwrap_or_default(),
                created: has(CREATED),
                deleted: has(DELETED),
            }),
            function: function.value().as_str().into(),
            retries,
            timeout: around.functions.get(function.value())?.limits.timeout,
        })
    }
}
