//! What every lane works on: the store, the catalog that is in force, limits, time, chance and metrics. Ties a
//! reader's view of the store to the catalog of the same commit.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use cloudlet_base::{Clock, Deadline, Entropy};

use crate::catalog::Catalog;
use crate::expression::{Runtime, Scope};
use crate::feed::{self, Bell};
use crate::kv::{Kv, KvRead, KvSnapshot, KvWrite};
use crate::lanes::guarded;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::object_ids::ObjectIds;
use crate::spill::Space;
use crate::transaction::Transactions;
use crate::{Code, Error, Result};

/// The parts that every operation needs.
pub(crate) struct Engine {
    kv: Box<dyn Kv>,
    catalog: RwLock<Published>,
    pub(crate) limits: Limits,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) ids: ObjectIds,
    pub(crate) metrics: Metrics,
    pub(crate) transactions: Arc<Transactions>,
    /// Where operations spill to.
    pub(crate) space: Arc<Space>,
    /// Wakes the change streams that wait.
    pub(crate) bell: Arc<Bell>,
    /// Wakes the tailable cursors that wait.
    pub(crate) tails: Arc<Bell>,
}

/// What a commit does: gets the catalog and returns it as it shall be.
pub(crate) type CommitBody<'b> = dyn FnMut(&mut dyn KvWrite, Arc<Catalog>) -> Result<Arc<Catalog>> + 'b;

/// The catalog in force.
struct Published {
    catalog: Arc<Catalog>,
    /// A commit failed and may be there or not: the catalog must be read again before it is used.
    stale: bool,
}

impl Engine {
    /// Takes the store over, making its meta rows if it is new.
    ///
    /// # Errors
    /// When the store is of a newer format, not ours, or can't be read.
    pub(crate) fn open(
        kv: Box<dyn Kv>,
        limits: Limits,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        metrics: Metrics,
        space: Arc<Space>,
    ) -> Result<Self> {
        kv.write(&mut |store| Catalog::prepare(store, entropy.as_ref()))?;
        let catalog = Arc::new(load(kv.as_ref())?);
        let bell = Arc::new(Bell::default());
        kv.read(&mut |store| {
            let bounds = feed::bounds(store)?;
            bell.ring(bounds.last, bounds.last_time, None);
            metrics
                .feed_bytes
                .set(i64::try_from(bounds.bytes).unwrap_or(i64::MAX));
            Ok(())
        })?;
        Ok(Self {
            kv,
            catalog: RwLock::new(Published {
                catalog,
                stale: false,
            }),
            limits,
            clock,
            ids: ObjectIds::new(entropy.as_ref()),
            entropy,
            metrics,
            transactions: Arc::default(),
            space,
            bell,
            tails: Arc::default(),
        })
    }

    /// Runs `body` on the newest committed state with the catalog that belongs to it.
    pub(crate) fn read<T>(&self, mut body: impl FnMut(&dyn KvRead, &Arc<Catalog>) -> Result<T>) -> Result<T> {
        // Held until the view is open: a commit that changes the catalog waits for it, so the two belong together.
        let mut published = Some(self.published()?);
        let mut catalog = None;
        let mut answer = None;
        self.kv.read(&mut |store| {
            if let Some(published) = published.take() {
                catalog = Some(published.catalog.clone());
            }
            let Some(catalog) = &catalog else {
                return Err(Error::new(Code::InternalError, "no catalog"));
            };
            answer = Some(body(store, catalog)?);
            Ok(())
        })?;
        answer.ok_or_else(|| Error::new(Code::InternalError, "the store did not run a read"))
    }

    /// The newest committed state, to be held, with the catalog that belongs to it.
    pub(crate) fn snapshot(&self) -> Result<(Box<KvSnapshot>, Arc<Catalog>)> {
        // Held until the view is open, as in `read`.
        let published = self.published()?;
        let snapshot = self.kv.snapshot()?;
        Ok((snapshot, published.catalog.clone()))
    }

    /// Where the expressions of a command are parsed that begins now.
    pub(crate) fn scope(&self, deadline: &Deadline) -> Scope {
        Scope::new(Runtime::new(self, deadline, None))
    }

    /// The same for a command that holds documents and says, or does not, whether it may spill them to disk.
    pub(crate) fn spilling_scope(&self, deadline: &Deadline, allowed: Option<bool>) -> Scope {
        Scope::new(Runtime::new(self, deadline, self.space.disk(allowed)))
    }

    /// The catalog in force.
    pub(crate) fn catalog(&self) -> Result<Arc<Catalog>> {
        Ok(self.published()?.catalog.clone())
    }

    /// Runs `body`, which gets the catalog and returns it as it shall be, and commits. Called by the writer only.
    pub(crate) fn commit(&self, body: &mut CommitBody<'_>) -> Result<()> {
        let before = self.catalog()?;
        let mut after = before.clone();
        let mut publishing = None;
        let committed = self.kv.write(&mut |store| {
            publishing = None;
            after = body(store, before.clone())?;
            if !Arc::ptr_eq(&after, &before) {
                publishing = Some(self.catalog.write().unwrap_or_else(PoisonError::into_inner));
            }
            Ok(())
        });
        match committed {
            Ok(()) => {
                if let Some(mut publishing) = publishing {
                    publishing.catalog = after;
                }
                Ok(())
            }
            Err(error) => {
                drop(publishing);
                self.catalog.write().unwrap_or_else(PoisonError::into_inner).stale = true;
                Err(error)
            }
        }
    }

    /// Whether [`tend`](Self::tend) has something to do.
    pub(crate) fn is_due(&self) -> bool {
        self.kv.is_due()
    }

    /// Does what the store put off, beside readers and writers.
    ///
    /// # Errors
    /// The store's.
    pub(crate) fn tend(&self) -> Result<()> {
        if !self.is_due() {
            return Ok(());
        }
        let started = self.clock.monotonic();
        guarded(|| self.kv.tend())?;
        let took = self.clock.monotonic().saturating_sub(started);
        self.metrics.checkpoint_seconds.observe(took.as_secs_f64());
        Ok(())
    }

    /// Tells metrics and waiting streams of events that were committed.
    pub(crate) fn tell(&self, appended: &feed::Appended) {
        self.metrics.feed_events.inc_by(appended.events);
        self.metrics.feed_trimmed.inc_by(appended.trimmed);
        self.metrics
            .feed_bytes
            .set(i64::try_from(appended.bytes).unwrap_or(i64::MAX));
        self.bell
            .ring(appended.last, appended.last_time, Some(&appended.touched));
    }

    /// After a commit that may be there or not: lets waiting streams see for themselves.
    pub(crate) fn look_at_log(&self) {
        // A store that can't be read now has no events for anybody; the next commit tells of all.
        let _ = self.read(|kv, _| {
            let bounds = feed::bounds(kv)?;
            self.bell.ring(bounds.last, bounds.last_time, None);
            Ok(())
        });
    }

    fn published(&self) -> Result<RwLockReadGuard<'_, Published>> {
        loop {
            let published = self.catalog.read().unwrap_or_else(PoisonError::into_inner);
            if !published.stale {
                return Ok(published);
            }
            drop(published);
            let mut published = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
            if published.stale {
                published.catalog = Arc::new(load(self.kv.as_ref())?);
                published.stale = false;
            }
        }
    }
}

fn load(kv: &dyn Kv) -> Result<Catalog> {
    let mut catalog = None;
    kv.read(&mut |store| {
        catalog = Some(Catalog::load(store)?);
        Ok(())
    })?;
    catalog.ok_or_else(|| Error::new(Code::InternalError, "the store did not run a read"))
}
