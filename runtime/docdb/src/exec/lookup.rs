//! The most common query, one document by its `_id` and nothing else, answered without a filter, a plan or a scan.
//! It gives what [`find`](super::find) gives, which `properties` holds it to; whatever asks for more goes there.

use bson::{RawBsonRef, RawDocument};

use super::scan::Meter;
use crate::catalog::{Catalog, document_prefix};
use crate::check::check_well_formed;
use crate::collation::holds_text;
use crate::index::stored;
use crate::kv::KvRead;
use crate::{Find, Limits, Namespace, Page, Result, Shown, keycode};

/// The `_id` that a query asks for, if that is all it asks for and the value can only mean itself.
pub(crate) fn wanted_id<'f>(find: &'f Find, limits: &Limits) -> Option<RawBsonRef<'f>> {
    let Find {
        filter,
        sort: None,
        projection: None,
        variables: None,
        collation: None,
        skip: 0,
        limit: _,
        hint: None,
        min: None,
        max: None,
        after: None,
        batch: None | Some(1..),
        tailable: false,
        shown: Shown::Documents,
        allow_disk_use: _,
    } = find
    else {
        return None;
    };
    let id = only_id(filter)?;
    check_well_formed(filter, limits.depth_max).ok()?;
    Some(id)
}

/// The value of `_id` in a filter that has nothing but that, unless it could be an operator, a pattern or an array.
fn only_id(filter: &RawDocument) -> Option<RawBsonRef<'_>> {
    let mut fields = filter.iter();
    let (name, id) = fields.next()?.ok()?;
    let plain = matches!(
        id,
        RawBsonRef::ObjectId(_)
            | RawBsonRef::String(_)
            | RawBsonRef::Int32(_)
            | RawBsonRef::Int64(_)
            | RawBsonRef::Double(_)
            | RawBsonRef::Decimal128(_)
            | RawBsonRef::Boolean(_)
            | RawBsonRef::DateTime(_)
            | RawBsonRef::Binary(_)
    );
    (name == "_id" && plain && fields.next().is_none()).then_some(id)
}

/// The page with the document of this `_id`, if there is one; none of a view, which is to be made first, and of what a
/// collation finds.
pub(crate) fn find(
    kv: &dyn KvRead,
    catalog: &Catalog,
    ns: &Namespace,
    id: RawBsonRef<'_>,
    meter: &mut Meter<'_>,
) -> Result<Option<Page>> {
    let mut documents = Vec::new();
    if let Some(collection) = catalog.collection(ns) {
        // A time series may have several, and has them by their time.
        if collection.time_series.is_some() || (collection.collation.is_some() && holds_text(id)) {
            return Ok(None);
        }
        meter.check_deadline()?;
        let mut key = document_prefix(collection.id);
        keycode::encode(&mut key, id, false);
        let mut found = Ok(None);
        kv.get(&key, &mut |value| {
            meter.documents += 1;
            found = stored(value).map(|document| Some(document.to_owned()));
        })?;
        documents.extend(found?);
    } else if catalog.view(ns).is_some() {
        return Ok(None);
    }
    Ok(Some(Page {
        documents,
        cursor: None,
    }))
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};

    use super::*;
    use crate::tests::{query, raw};

    fn check(filter: Document, wanted: bool) {
        let find = query(filter);
        assert_eq!(
            wanted_id(&find, &Limits::default()).is_some(),
            wanted,
            "{:?}",
            find.filter
        );
    }

    #[test]
    fn only_a_plain_id_by_itself_is_looked_up() {
        check(doc! { "_id": 1 }, true);
        check(doc! { "_id": "a" }, true);
        check(doc! { "_id": bson::oid::ObjectId::from_bytes([7; 12]) }, true);
        check(doc! {}, false);
        check(doc! { "a": 1 }, false);
        check(doc! { "_id": 1, "a": 1 }, false);
        check(doc! { "_id": { "$gt": 1 } }, false);
        check(doc! { "_id": { "a": 1 } }, false);
        check(doc! { "_id": [1] }, false);
        check(doc! { "_id": null }, false);
    }

    #[test]
    fn what_asks_for_more_goes_the_long_way() {
        let plain = query(doc! { "_id": 1 });
        let check = |find: Find, wanted: bool| {
            assert_eq!(wanted_id(&find, &Limits::default()).is_some(), wanted, "{find:?}");
        };
        let other = |change: fn(&mut Find)| {
            let mut find = plain.clone();
            change(&mut find);
            find
        };
        check(other(|find| find.limit = Some(1)), true);
        check(other(|find| find.batch = Some(1)), true);
        check(other(|find| find.batch = Some(0)), false);
        check(other(|find| find.skip = 1), false);
        check(other(|find| find.hint = Some("_id_".into())), false);
        check(other(|find| find.sort = Some(raw(doc! { "a": 1 }))), false);
        check(other(|find| find.projection = Some(raw(doc! { "a": 1 }))), false);
        check(other(|find| find.variables = Some(raw(doc! { "a": 1 }))), false);
        check(other(|find| find.min = Some(raw(doc! { "_id": 1 }))), false);
        check(other(|find| find.max = Some(raw(doc! { "_id": 1 }))), false);
        check(other(|find| find.after = Some(Vec::new())), false);
        check(other(|find| find.tailable = true), false);
        check(other(|find| find.shown = Shown::WithRecordId), false);
    }
}
