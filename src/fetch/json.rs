//! JSON without changing it: values are found by pointer and handed out as the bytes that were sent.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::model::failure::{Failure, FailureReason};

/// Checks that `body` is one JSON text.
pub fn check(body: &[u8]) -> Result<(), Failure> {
    serde_json::from_slice::<IgnoredAny>(body).map(drop).map_err(|error| not_json(&error))
}

/// The items at `pointer` (RFC 6901; empty: the whole page), byte for byte. A `null` is an empty list, as some languages
/// write theirs.
pub fn items<'a>(page: &'a [u8], pointer: &str) -> Result<Vec<&'a RawValue>, Failure> {
    let bad = |what: &str| {
        let place = if pointer.is_empty() { "the page".to_owned() } else { format!("`{pointer}` of the page") };
        Failure::fatal(FailureReason::BadContent, format!("{place} {what}; check `pagination.items_pointer`"))
    };
    let list = find(page, pointer)?.ok_or_else(|| bad("does not exist"))?;
    match list.get().as_bytes().first() {
        Some(b'[') => serde_json::from_str(list.get()).map_err(|error| not_json(&error)),
        Some(b'n') => Ok(Vec::new()),
        _ => Err(bad("is not a list")),
    }
}

/// The text at `pointer`: a string's content, a number as it is written. `None` where there is nothing: missing, `null`,
/// `false`, or empty.
pub fn text(page: &[u8], pointer: &str) -> Result<Option<String>, Failure> {
    let Some(value) = find(page, pointer)? else { return Ok(None) };
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
    let mut value: &RawValue = serde_json::from_slice(page).map_err(|error| not_json(&error))?;
    let Some(steps) = pointer.strip_prefix('/') else {
        return Ok(if pointer.is_empty() { Some(value) } else { None });
    };
    for step in steps.split('/') {
        let step = unescape(step);
        let found = Step(&step).deserialize(&mut serde_json::Deserializer::from_str(value.get()));
        match found.map_err(|error| not_json(&error))? {
            Some(inner) => value = inner,
            None => return Ok(None),
        }
    }
    Ok(Some(value))
}

fn unescape(step: &str) -> Cow<'_, str> {
    if step.contains('~') { step.replace("~1", "/").replace("~0", "~").into() } else { step.into() }
}

fn not_json(error: &serde_json::Error) -> Failure {
    Failure::fatal(FailureReason::BadContent, format!("the body is not JSON ({error})"))
}

/// One step of a pointer into an object or a list.
struct Step<'s>(&'s str);

impl<'de> DeserializeSeed<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<Key<'de>>()? {
            // The last of several counts, as for nearly every reader of JSON.
            if key.0 == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        // No leading zeros (RFC 6901, section 4).
        let index: Option<usize> = self.0.parse().ok().filter(|index: &usize| index.to_string() == self.0);
        let mut found = None;
        let mut at = 0;
        while Some(at) != index {
            if list.next_element::<IgnoredAny>()?.is_none() {
                return Ok(None);
            }
            at += 1;
        }
        if let Some(value) = list.next_element()? {
            found = Some(value);
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// A key, borrowed unless it has escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

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
        let text = |pointer| text(page, pointer).map_err(|failure| failure.reason);
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
        assert!(check(b" [1, {\"x\": null}] ").is_ok());
    }

    proptest! {
        #[test]
        fn never_panics(page in "[\\[\\]{}\",:~/a0-9. ntruefals\\\\-]{0,40}", pointer in "(/?[a0~1]{0,3}){0,4}") {
            let _ = items(page.as_bytes(), &pointer);
            let _ = text(page.as_bytes(), &pointer);
        }

        #[test]
        fn finds_what_serde_json_finds(a in "[a-c/~]{0,3}", b in 0usize..3) {
            let page = serde_json::json!({ &a: [[1], [2, 3], []], "other": { &a: 0 } });
            let pointer = format!("/{}/{b}", a.replace('~', "~0").replace('/', "~1"));
            let expected = page.pointer(&pointer).and_then(serde_json::Value::as_array).map(Vec::len);
            let found = items(page.to_string().as_bytes(), &pointer).ok().map(|items| items.len());
            prop_assert_eq!(found, expected);
        }
    }
}
