//! JSON without changing it: values are found by pointer and handed out as the bytes that were sent.

use std::borrow::Cow;

use serde::de::{DeserializeSeed, IgnoredAny};
use serde_json::value::RawValue;

use crate::fetch::scan;
use crate::model::failure::{Failure, FailureReason};

/// Checks that `body` is one JSON text, in UTF-8.
pub fn check(body: &[u8]) -> Result<(), Failure> {
    serde_json::from_str::<IgnoredAny>(text_of(body)?).map(drop).map_err(|error| not_json(&error))
}

/// What a listing has to know of a page.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// How many items it has.
    pub item_count: u64,
    /// A fingerprint of them, by which they are known when they come again. That of a page which names the next one is not always
    /// taken.
    pub mark: u64,
    /// What stands at the pointer to the next page.
    pub next: Option<String>,
}

/// Reads a page, once: counts the items at `items_pointer`, and takes what stands at `next_pointer`.
pub fn page(body: &[u8], items_pointer: &str, next_pointer: Option<&str>) -> Result<Page, Failure> {
    let (items, next) = (steps(items_pointer), next_pointer.and_then(steps));
    let mut found = scan::Found::default();
    let node = scan::Node { items: items.as_deref(), next: next.as_deref(), found: &mut found };
    let mut reader = serde_json::Deserializer::from_str(text_of(body)?);
    node.deserialize(&mut reader).and_then(|()| reader.end()).map_err(|error| not_json(&error))?;
    let (item_count, mark) = match found.items {
        scan::Items::List(count, mark) => (count, mark.value()),
        scan::Items::Missing => return Err(bad_items(items_pointer, "does not exist")),
        scan::Items::NotAList => return Err(bad_items(items_pointer, "is not a list")),
    };
    let next = match (found.next, next_pointer) {
        (Some(value), Some(pointer)) => text(value, pointer)?,
        _ => None,
    };
    Ok(Page { item_count, mark, next })
}

/// The items at `pointer` (RFC 6901; empty: the whole page), byte for byte. A `null` is an empty list, as some languages
/// write theirs.
pub fn items<'a>(page: &'a [u8], pointer: &str) -> Result<Vec<&'a RawValue>, Failure> {
    let bad = |what: &str| bad_items(pointer, what);
    let list = find(page, pointer)?.ok_or_else(|| bad("does not exist"))?;
    match list.get().as_bytes().first() {
        Some(b'[') => serde_json::from_str(list.get()).map_err(|error| not_json(&error)),
        Some(b'n') => Ok(Vec::new()),
        _ => Err(bad("is not a list")),
    }
}

fn bad_items(pointer: &str, what: &str) -> Failure {
    let place = if pointer.is_empty() { "the page".to_owned() } else { format!("`{pointer}` of the page") };
    Failure::fatal(FailureReason::BadContent, format!("{place} {what}; check `pagination.items_pointer`"))
}

/// The text of a value that stands at `pointer`: a string's content, a number as it is written. `None` where it leads
/// nowhere: `null`, `false`, or empty.
fn text(value: &RawValue, pointer: &str) -> Result<Option<String>, Failure> {
    let raw = value.get();
    match raw.as_bytes().first() {
        Some(b'"') => {
            let text: String = serde_json::from_str(raw).map_err(|error| not_json(&error))?;
            Ok((!text.is_empty()).then_some(text))
        }
        Some(b'-' | b'0'..=b'9') => Ok(Some(raw.to_owned())),
        Some(b'n' | b'f') => Ok(None),
        _ => Err(Failure::fatal(
            FailureReason::BadContent,
            format!("`{pointer}` of the page is neither text nor a number; check `next_pointer`"),
        )),
    }
}

/// The value at `pointer`, or `None` where there is none.
fn find<'a>(page: &'a [u8], pointer: &str) -> Result<Option<&'a RawValue>, Failure> {
    let next = steps(pointer);
    let mut found = scan::Found::default();
    let node = scan::Node { items: None, next: next.as_deref(), found: &mut found };
    let mut reader = serde_json::Deserializer::from_str(text_of(page)?);
    node.deserialize(&mut reader).and_then(|()| reader.end()).map_err(|error| not_json(&error))?;
    Ok(found.next)
}

/// The steps of a pointer; `None` for a text that is not one, which leads nowhere.
fn steps(pointer: &str) -> Option<Vec<Cow<'_, str>>> {
    if pointer.is_empty() {
        return Some(Vec::new());
    }
    Some(pointer.strip_prefix('/')?.split('/').map(unescape).collect())
}

/// The byte order mark that some programs write before all text; a reader may pass it over (RFC 8259, section 8.1).
const MARK: &[u8] = b"\xef\xbb\xbf";

/// JSON is UTF-8 (RFC 8259, section 8.1), also within strings that nobody looks at.
fn text_of(body: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(body.strip_prefix(MARK).unwrap_or(body)).map_err(|error| {
        let message = format!("the body is not JSON (its byte {} is not UTF-8)", error.valid_up_to());
        Failure::fatal(FailureReason::BadContent, message)
    })
}

fn unescape(step: &str) -> Cow<'_, str> {
    if step.contains('~') { step.replace("~1", "/").replace("~0", "~").into() } else { step.into() }
}

fn not_json(error: &serde_json::Error) -> Failure {
    Failure::fatal(FailureReason::BadContent, format!("the body is not JSON ({error})"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(page: &str, pointer: &str) -> Result<Vec<String>, FailureReason> {
        let items = items(page.as_bytes(), pointer).map_err(|failure| failure.reason)?;
        Ok(items.into_iter().map(|item| item.get().to_owned()).collect())
    }

    #[test]
    fn items_stay_as_they_were_sent() {
        let page =
            r#" {"data" : {"rows":[ {"a": 1.00} , "x\u0041", 1e400 ,null]}, "a/b~c": [0], "l":[[],[7]], "n":null} "#;
        assert_eq!(
            list(page, "/data/rows"),
            Ok(["{\"a\": 1.00}", "\"x\\u0041\"", "1e400", "null"].map(Into::into).into())
        );
        assert_eq!(list(page, "/a~1b~0c"), Ok(vec!["0".into()]));
        assert_eq!(list(page, "/l/1"), Ok(vec!["7".into()]));
        assert_eq!(list(page, "/n"), Ok(vec![]));
        assert_eq!(list("[1, 2]", ""), Ok(vec!["1".into(), "2".into()]));
        assert_eq!(list(r#"{"a":[1],"a":[2]}"#, "/a"), Ok(vec!["2".into()]));
        for missing in ["", "/data", "/nothing", "/l/01", "/l/9", "/l/x", "data", "/n/x", "/data/rows/2/x"] {
            assert_eq!(list(page, missing), Err(FailureReason::BadContent), "{missing}");
        }
        assert_eq!(list("[1, 2", ""), Err(FailureReason::BadContent));
    }

    #[test]
    fn texts_that_lead_on_and_texts_that_do_not() {
        let page = br#"{"s":"a\nb","i":17,"big":12345678901234567890123,"e":"","n":null,"f":false,"o":{}}"#;
        let text = |pointer| {
            let value = find(page, pointer).unwrap();
            value.map_or(Ok(None), |value| super::text(value, pointer)).map_err(|failure| failure.reason)
        };
        assert_eq!(text("/s"), Ok(Some("a\nb".into())));
        assert_eq!(text("/i"), Ok(Some("17".into())));
        assert_eq!(text("/big"), Ok(Some("12345678901234567890123".into())));
        assert_eq!([text("/e"), text("/n"), text("/f"), text("/x")], [Ok(None), Ok(None), Ok(None), Ok(None)]);
        assert_eq!(text("/o"), Err(FailureReason::BadContent));
    }

    #[test]
    fn says_where_it_is_not_json() {
        insta::assert_snapshot!(check(b"{\"a\": 1,\n oops}").unwrap_err(), @"the body is not JSON (key must be a string at line 2 column 2)");
        insta::assert_snapshot!(check(b"").unwrap_err(), @"the body is not JSON (EOF while parsing a value at line 1 column 0)");
        insta::assert_snapshot!(check(b"[\"caf\xe9\"]").unwrap_err(), @"the body is not JSON (its byte 5 is not UTF-8)");
        assert!(check(b" [1, {\"x\": null}] ").is_ok());
        assert!(check(b"\xef\xbb\xbf[1]").is_ok(), "a byte order mark");
        assert_eq!(items(b"\xef\xbb\xbf[1]", "").unwrap().len(), 1);
    }

    #[test]
    fn a_page_is_read_once_for_all_that_is_asked() {
        let page = |body: &str, items, next| {
            let page = super::page(body.as_bytes(), items, next).map_err(|failure| failure.reason);
            page.map(|page| (page.item_count, page.next))
        };
        let found = |item_count: u64, next: Option<&str>| Ok((item_count, next.map(str::to_owned)));
        assert_eq!(page(r#"{"d":[1,1e400,{"d":[]}],"n":"x"}"#, "/d", Some("/n")), found(3, Some("x")));
        assert_eq!(page(r#"{"d":{"i":[1],"n":7}}"#, "/d/i", Some("/d/n")), found(1, Some("7")));
        assert_eq!(page(r#"[{"n":"a"},{"n":"b"}]"#, "", Some("/1/n")), found(2, Some("b")));
        assert_eq!(page(r#"{"d":null}"#, "/d", Some("/d")), found(0, None), "both at one place");
        assert_eq!(page(r#"{"d":[1],"n":"x","d":[],"n":null}"#, "/d", Some("/n")), found(0, None), "the last counts");
        assert_eq!(page(r#"{"d":[1],"d":{}}"#, "/d", None), Err(FailureReason::BadContent));
        for bad in ["{}", r#"{"d":7}"#, r#"{"d":[1]"#, r#"{"d":[1]} x"#, "7"] {
            assert_eq!(page(bad, "/d", Some("/n")), Err(FailureReason::BadContent), "{bad}");
        }
    }

    #[test]
    fn the_same_items_are_known_again_whatever_is_around_them() {
        let mark = |body: &str, items| super::page(body.as_bytes(), items, None).unwrap().mark;
        let first = mark(r#"{"id":1,"d":[1,{"a": 2}]}"#, "/d");
        assert_eq!(mark(r#"{"d":[ 1 ,{"a": 2} ],"id":2}"#, "/d"), first);
        assert_eq!(mark(r#"[1,{"a": 2}]"#, ""), first);
        for other in [r#"[1,{"a": 3}]"#, r#"[{"a": 2},1]"#, "[1]", "[]"] {
            assert_ne!(mark(other, ""), first, "{other}");
        }
        assert_ne!(mark("[1,23]", ""), mark("[12,3]", ""));
    }

    proptest! {
        #[test]
        fn never_panics(page in "[\\[\\]{}\",:~/a0-9. ntruefals\\\\-]{0,40}", pointer in "(/?[a0~1]{0,3}){0,4}") {
            let _ = items(page.as_bytes(), &pointer);
            let _ = super::page(page.as_bytes(), &pointer, Some(&pointer));
        }

        #[test]
        fn finds_what_serde_json_finds(a in "[a-c/~]{0,3}", b in 0usize..3) {
            let page = serde_json::json!({ &a: [[1], [2, 3], []], "other": { &a: 0 } });
            let pointer = format!("/{}/{b}", a.replace('~', "~0").replace('/', "~1"));
            let expected = page.pointer(&pointer).and_then(serde_json::Value::as_array).map(Vec::len);
            let found = items(page.to_string().as_bytes(), &pointer).ok().map(|items| items.len());
            prop_assert_eq!(found, expected);
            let count = super::page(page.to_string().as_bytes(), &pointer, None).ok().map(|page| page.item_count);
            prop_assert_eq!(count, expected.map(|count| count as u64));
        }
    }
}
