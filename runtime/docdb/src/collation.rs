//! Collations: strings in the order of a language, and alike that are so to its readers. MongoDB's options as a type,
//! and the one thing that is done with it: key bytes and comparisons in which strings count by their collation and all
//! other values as ever.
//!
//! Collections and indexes may have one; then their stored keys have sort keys for strings, which hold for one version
//! of the tables ([`TABLES`]). An index serves strings under its own collation only (`query::Predicate::Collated`).

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use bson::raw::cstr;
use bson::{RawBsonRef, RawDocument, RawDocumentBuf};
use icu_collator::options::{AlternateHandling, CaseLevel, CollatorOptions, MaxVariable, Strength};
use icu_collator::preferences::{CollationCaseFirst, CollationNumericOrdering};
use icu_collator::{CollatorBorrowed, CollatorPreferences};
use icu_locale_core::Locale;

use crate::keycode::{self, Text};
use crate::value::{as_whole, elements, fields, is_true, shown, type_name};
use crate::{Code, Error, Result};

/// The languages that have one, by their codes: those that MongoDB documents.
const LANGUAGES: [&str; 103] = [
    "af", "am", "ar", "as", "az", "be", "bg", "bn", "bo", "bs", "ca", "chr", "cs", "cy", "da", "de", "dsb",
    "dz", "ee", "el", "en", "eo", "es", "et", "fa", "fi", "fil", "fo", "fr", "fy", "ga", "gl", "gsw", "gu",
    "ha", "haw", "he", "hi", "hr", "hsb", "hu", "hy", "id", "ig", "is", "it", "ja", "ka", "kk", "kl", "km",
    "kn", "ko", "kok", "ky", "lb", "lkt", "ln", "lo", "lt", "lv", "mk", "ml", "mn", "mr", "ms", "mt", "my",
    "nb", "ne", "nl", "nn", "no", "om", "or", "pa", "pl", "ps", "pt", "ro", "ru", "se", "si", "sk", "sl",
    "smn", "sq", "sr", "sv", "sw", "ta", "te", "th", "to", "tr", "ug", "uk", "ur", "vi", "wae", "yi", "yo",
    "zh",
];

/// The kinds of order that `@collation=` names, and their names in BCP 47.
const KINDS: [(&str, &str); 15] = [
    ("big5han", "big5han"),
    ("compat", "compat"),
    ("dictionary", "dict"),
    ("eor", "eor"),
    ("gb2312han", "gb2312"),
    ("phonebook", "phonebk"),
    ("phonetic", "phonetic"),
    ("pinyin", "pinyin"),
    ("search", "search"),
    ("searchjl", "searchjl"),
    ("standard", "standard"),
    ("stroke", "stroke"),
    ("traditional", "trad"),
    ("unihan", "unihan"),
    ("zhuyin", "zhuyin"),
];

/// The version of the tables that sort keys are made by. Stored keys hold for one version only, so whoever changes the
/// tables (a test tells) changes this too, and files with such keys are refused instead of misread.
pub(crate) const TABLES: &str = "icu4x-2.4";

/// The version of the rules that MongoDB shows with a collation, and without which it takes none of a dump.
const SHOWN_VERSION: &str = "57.1";

/// An order of strings other than that of their bytes.
pub(crate) struct Collation {
    collator: CollatorBorrowed<'static>,
    /// All its options, as MongoDB shows them: its identity.
    document: RawDocumentBuf,
}

impl PartialEq for Collation {
    fn eq(&self, other: &Self) -> bool {
        self.document == other.document
    }
}

impl fmt::Debug for Collation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collation")
    }
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(Code::BadValue, message)
}

impl Collation {
    /// Parses MongoDB's collation document. None for the simple collation, which `{}` is too.
    ///
    /// # Errors
    /// `BadValue` for a value that an option can't have and for an unknown locale, `TypeMismatch` for a value of the
    /// wrong type, 40414 without a locale, 40415 for unknown options, `CommandNotSupported` for `backwards: true`.
    pub(crate) fn parse(doc: &RawDocument) -> Result<Option<Arc<Collation>>> {
        if doc.is_empty() {
            return Ok(None);
        }
        let mut locale = None;
        let mut options = CollatorOptions::default();
        options.strength = Some(Strength::Tertiary);
        let (mut case_first, mut numeric) = (None, None);
        let mut others = false;
        for (name, value) in fields(doc) {
            if name == "locale" {
                locale = Some(text(name, value)?);
                continue;
            }
            others |= name != "version";
            match name {
                "strength" => options.strength = Some(strength(value)?),
                "caseLevel" => {
                    let on = flag(name, value)?;
                    options.case_level = Some(if on { CaseLevel::On } else { CaseLevel::Off });
                }
                "caseFirst" => {
                    case_first = Some(match text(name, value)? {
                        "upper" => CollationCaseFirst::Upper,
                        "lower" => CollationCaseFirst::Lower,
                        "off" => CollationCaseFirst::False,
                        other => return Err(unknown_value(name, other)),
                    });
                }
                "numericOrdering" => {
                    numeric = Some(if flag(name, value)? {
                        CollationNumericOrdering::True
                    } else {
                        CollationNumericOrdering::False
                    });
                }
                "alternate" => {
                    options.alternate_handling = Some(match text(name, value)? {
                        "non-ignorable" => AlternateHandling::NonIgnorable,
                        "shifted" => AlternateHandling::Shifted,
                        other => return Err(unknown_value(name, other)),
                    });
                }
                "maxVariable" => {
                    options.max_variable = Some(match text(name, value)? {
                        "punct" => MaxVariable::Punctuation,
                        "space" => MaxVariable::Space,
                        other => return Err(unknown_value(name, other)),
                    });
                }
                // Text is normalized in any case.
                "normalization" => drop(flag(name, value)?),
                "backwards" => {
                    if flag(name, value)? {
                        let message = "a collation with backwards: true is not supported";
                        return Err(Error::new(Code::CommandNotSupported, message));
                    }
                }
                "version" => drop(text(name, value)?),
                name => {
                    let message = format!("BSON field 'collation.{name}' is an unknown field.");
                    return Err(Error::new(Code::Location(40_415), message));
                }
            }
        }
        let locale = locale.ok_or_else(|| {
            let message = "BSON field 'collation.locale' is missing but a required field";
            Error::new(Code::Location(40_414), message)
        })?;
        if locale == "simple" {
            if others {
                return Err(bad("the simple collation takes no other options"));
            }
            return Ok(None);
        }
        let mut preferences = preferences(locale)?;
        preferences.case_first = case_first;
        preferences.numeric_ordering = numeric;
        let collator = CollatorBorrowed::try_new(preferences, options);
        let collator =
            collator.map_err(|error| bad(format!("no collation for locale {locale:?}: {error}")))?;
        let document = full(locale, &collator);
        Ok(Some(Arc::new(Collation { collator, document })))
    }

    /// All its options, as MongoDB shows them.
    pub(crate) fn document(&self) -> &RawDocument {
        &self.document
    }

    /// The order of values in which strings count by this collation.
    pub(crate) fn compare(&self, a: RawBsonRef<'_>, b: RawBsonRef<'_>) -> Ordering {
        use RawBsonRef as V;
        match (a, b) {
            (V::String(a) | V::Symbol(a), V::String(b) | V::Symbol(b)) => self.collator.compare(a, b),
            (a, b) if holds_text(a) || holds_text(b) => self.key(a).cmp(&self.key(b)),
            (a, b) => crate::value::compare(a, b),
        }
    }

    /// Ascending key bytes whose order is that of [`compare`](Self::compare).
    pub(crate) fn key(&self, v: RawBsonRef<'_>) -> Vec<u8> {
        let mut key = Vec::new();
        keycode::encode_text(&mut key, v, false, self);
        key
    }
}

impl Text for Collation {
    fn write(&self, out: &mut Vec<u8>, text: &str) {
        let mut key = Vec::with_capacity(text.len() * 2);
        let Ok(()) = self.collator.write_sort_key_to(text, &mut key);
        keycode::escape(out, &key);
    }
}

/// Appends the key of a value under a collation, or without one as [`keycode::encode`] does.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    v: RawBsonRef<'_>,
    descending: bool,
    collation: Option<&Arc<Collation>>,
) {
    match collation {
        None => keycode::encode(out, v, descending),
        Some(collation) => keycode::encode_text(out, v, descending, collation.as_ref()),
    }
}

/// The order of two values under a collation, or without one as `value` has it.
pub(crate) fn compare(a: RawBsonRef<'_>, b: RawBsonRef<'_>, collation: Option<&Arc<Collation>>) -> Ordering {
    match collation {
        None => crate::value::compare(a, b),
        Some(collation) => collation.compare(a, b),
    }
}

/// The options of a collator with what was left out.
fn full(locale: &str, collator: &CollatorBorrowed<'static>) -> RawDocumentBuf {
    let options = collator.resolved_options();
    let case_first = match options.case_first {
        CollationCaseFirst::Upper => "upper",
        CollationCaseFirst::Lower => "lower",
        _ => "off",
    };
    let strength = match options.strength {
        Strength::Primary => 1,
        Strength::Secondary => 2,
        Strength::Quaternary => 4,
        Strength::Identical => 5,
        _ => 3,
    };
    let alternate = match options.alternate_handling {
        AlternateHandling::Shifted => "shifted",
        _ => "non-ignorable",
    };
    let max_variable = match options.max_variable {
        MaxVariable::Space => "space",
        _ => "punct",
    };
    let mut document = RawDocumentBuf::new();
    document.append(cstr!("locale"), locale);
    document.append(cstr!("caseLevel"), options.case_level == CaseLevel::On);
    document.append(cstr!("caseFirst"), case_first);
    document.append(cstr!("strength"), strength);
    document.append(
        cstr!("numericOrdering"),
        options.numeric == CollationNumericOrdering::True,
    );
    document.append(cstr!("alternate"), alternate);
    document.append(cstr!("maxVariable"), max_variable);
    document.append(cstr!("normalization"), false);
    document.append(cstr!("backwards"), false);
    document.append(cstr!("version"), SHOWN_VERSION);
    document
}

/// Whether the value is or holds a string, which a collation may see in another way.
pub(crate) fn holds_text(v: RawBsonRef<'_>) -> bool {
    match v {
        RawBsonRef::String(_) | RawBsonRef::Symbol(_) => true,
        RawBsonRef::Document(doc) => fields(doc).any(|(_, value)| holds_text(value)),
        RawBsonRef::Array(array) => elements(array).any(holds_text),
        _ => false,
    }
}

fn mismatch(name: &str, v: RawBsonRef<'_>, expected: &str) -> Error {
    let found = type_name(v);
    let message =
        format!("BSON field 'collation.{name}' is the wrong type '{found}', expected type '{expected}'");
    Error::new(Code::TypeMismatch, message)
}

fn text<'v>(name: &str, v: RawBsonRef<'v>) -> Result<&'v str> {
    v.as_str().ok_or_else(|| mismatch(name, v, "string"))
}

fn flag(name: &str, v: RawBsonRef<'_>) -> Result<bool> {
    match v {
        RawBsonRef::Boolean(_) | RawBsonRef::Int32(_) | RawBsonRef::Int64(_) | RawBsonRef::Double(_) => {
            Ok(is_true(v))
        }
        v => Err(mismatch(name, v, "bool")),
    }
}

fn unknown_value(name: &str, value: &str) -> Error {
    bad(format!(
        "Enumeration value '{value}' for field 'collation.{name}' is not a valid value."
    ))
}

fn strength(v: RawBsonRef<'_>) -> Result<Strength> {
    match as_whole(v) {
        Some(1) => Ok(Strength::Primary),
        Some(2) => Ok(Strength::Secondary),
        Some(3) => Ok(Strength::Tertiary),
        Some(4) => Ok(Strength::Quaternary),
        Some(5) => Ok(Strength::Identical),
        _ => Err(unknown_value("strength", &shown(v))),
    }
}

/// The preferences of a locale as MongoDB writes it: `de_AT`, `zh_Hant@collation=stroke`.
fn preferences(name: &str) -> Result<CollatorPreferences> {
    let unknown = || bad(format!("Field 'locale' is invalid in: {{ locale: {name:?} }}"));
    let (place, kind) = match name.split_once("@collation=") {
        Some((place, kind)) => (place, Some(kind)),
        None => (name, None),
    };
    let language = place.split(['_', '-']).next().unwrap_or_default();
    if LANGUAGES.binary_search(&language).is_err() {
        return Err(unknown());
    }
    let mut tag = place.replace('_', "-");
    if let Some(kind) = kind {
        let known = KINDS.iter().find(|(theirs, _)| *theirs == kind);
        tag.push_str("-u-co-");
        tag.push_str(known.ok_or_else(unknown)?.1);
    }
    let locale = Locale::try_from_str(&tag).map_err(|_| unknown())?;
    Ok(CollatorPreferences::from(&locale))
}

#[cfg(test)]
mod tests {
    use bson::{Bson, Document, RawBson, RawDocumentBuf, doc};

    use super::*;

    fn raw(doc: Document) -> RawDocumentBuf {
        RawDocumentBuf::try_from(&doc).unwrap()
    }

    fn collation(doc: Document) -> Arc<Collation> {
        Collation::parse(&raw(doc)).unwrap().unwrap()
    }

    #[track_caller]
    fn check(options: Document, ascending: &[&[&str]]) {
        let collation = collation(options);
        for (i, alike) in ascending.iter().enumerate() {
            for (j, others) in ascending.iter().enumerate() {
                for (a, b) in alike.iter().flat_map(|a| others.iter().map(move |b| (*a, *b))) {
                    let (left, right) = (RawBsonRef::String(a), RawBsonRef::String(b));
                    assert_eq!(collation.compare(left, right), i.cmp(&j), "{a:?} {b:?}");
                    let keys = collation.key(left).cmp(&collation.key(right));
                    assert_eq!(keys, i.cmp(&j), "{a:?} {b:?} by key");
                }
            }
        }
    }

    #[test]
    fn strings_are_ordered_as_the_language_has_it() {
        check(
            doc! { "locale": "en" },
            &[&[""], &["a"], &["A"], &["á"], &["b"], &["B"], &["z"]],
        );
        check(
            doc! { "locale": "en", "strength": 1 },
            &[&["a", "A", "á", "Á"], &["b", "B"]],
        );
        check(
            doc! { "locale": "en_US", "strength": 2 },
            &[&["ping", "pINg", "PING"], &["píng"], &["pong"]],
        );
        check(
            doc! { "locale": "en", "strength": 1, "caseLevel": true },
            &[&["a", "á"], &["A", "Á"]],
        );
        check(
            doc! { "locale": "en", "caseFirst": "upper" },
            &[&["A"], &["a"], &["B"], &["b"]],
        );
        check(
            doc! { "locale": "en", "numericOrdering": true },
            &[&["a2"], &["a10"], &["a100"]],
        );
        check(
            doc! { "locale": "en", "alternate": "shifted" },
            &[&["blackbird", "black bird", "black-bird"], &["blackbirds"]],
        );
        check(doc! { "locale": "sv" }, &[&["z"], &["å"], &["ä"], &["ö"]]);
        check(doc! { "locale": "de" }, &[&["a"], &["ä"], &["z"]]);
        check(
            doc! { "locale": "de@collation=phonebook" },
            &[&["ad"], &["ä"], &["af"]],
        );
        check(doc! { "locale": "zh" }, &[&["阿"], &["北"], &["中"]]);
    }

    #[test]
    fn other_values_keep_their_order() {
        let collation = collation(doc! { "locale": "en", "strength": 2 });
        let ascending: Vec<RawBson> = [
            Bson::Null,
            Bson::Int32(5),
            Bson::Double(5.5),
            Bson::String("a\0".to_owned()),
            Bson::String("a\0b".to_owned()),
            Bson::Document(doc! { "a": "x" }),
            Bson::Document(doc! { "a": "Y" }),
            Bson::Document(doc! { "b": "A" }),
            Bson::Array(vec!["a".into()]),
            Bson::Array(vec!["A".into(), 1.into()]),
            Bson::Boolean(false),
        ]
        .into_iter()
        .map(|v| RawBson::try_from(v).unwrap())
        .collect();
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                let (a, b) = (a.as_raw_bson_ref(), b.as_raw_bson_ref());
                assert_eq!(collation.compare(a, b), i.cmp(&j), "{i} {j}");
                assert_eq!(
                    collation.key(a).cmp(&collation.key(b)),
                    i.cmp(&j),
                    "{i} {j} by key"
                );
            }
        }
    }

    #[test]
    fn a_collation_says_all_its_options_and_is_the_one_that_they_make() {
        let english = collation(doc! { "locale": "en" });
        let shown = doc! {
            "locale": "en", "caseLevel": false, "caseFirst": "off", "strength": 3, "numericOrdering": false,
            "alternate": "non-ignorable", "maxVariable": "punct", "normalization": false, "backwards": false,
            "version": "57.1",
        };
        assert_eq!(Document::try_from(english.document()).unwrap(), shown);
        assert!(english == collation(shown) && english == collation(doc! { "locale": "en", "strength": 3 }));
        assert!(english != collation(doc! { "locale": "en", "strength": 2 }));
        assert!(english != collation(doc! { "locale": "de" }));
    }

    /// Stored keys are made by these tables. Where this fails, the tables have changed: set `TABLES` to their version.
    #[test]
    fn sort_keys_are_those_of_the_version_that_files_name() {
        let mut all = Vec::new();
        for options in [
            doc! { "locale": "en" },
            doc! { "locale": "de@collation=phonebook", "strength": 1 },
            doc! { "locale": "sv", "strength": 2, "caseLevel": true },
            doc! { "locale": "zh", "numericOrdering": true },
            doc! { "locale": "en", "alternate": "shifted", "strength": 4 },
        ] {
            let collation = collation(options);
            for text in [
                "",
                "a",
                "Äpfel 10",
                "zürich-2",
                "北京",
                "한글",
                "Ελλάδα",
                "日本",
                "🦀 x",
                "ﬁn",
            ] {
                all.extend(collation.key(RawBsonRef::String(text)));
            }
        }
        assert_eq!(
            (TABLES, crate::index::hash(&all)),
            ("icu4x-2.4", 1_005_065_623_247_863_127)
        );
    }

    #[test]
    fn refuses_what_is_no_collation() {
        for (options, code) in [
            (doc! { "strength": 2 }, 40_414),
            (doc! { "locale": "en", "color": 1 }, 40_415),
            (doc! { "locale": 5 }, 14),
            (doc! { "locale": "xx" }, 2),
            (doc! { "locale": "en@collation=tall" }, 2),
            (doc! { "locale": "en", "strength": 6 }, 2),
            (doc! { "locale": "en", "caseFirst": "both" }, 2),
            (doc! { "locale": "en", "caseLevel": "yes" }, 14),
            (doc! { "locale": "simple", "strength": 1 }, 2),
            (doc! { "locale": "fr", "backwards": true }, 115),
        ] {
            let error = Collation::parse(&raw(options.clone())).unwrap_err();
            assert_eq!(error.code().number(), code, "{options}");
        }
        assert!(Collation::parse(&raw(doc! {})).unwrap().is_none());
        assert!(
            Collation::parse(&raw(doc! { "locale": "simple" }))
                .unwrap()
                .is_none()
        );
        assert!(LANGUAGES.is_sorted());
    }
}
