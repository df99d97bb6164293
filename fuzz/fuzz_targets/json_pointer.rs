//! A pointer finds what serde_json's own finds, on pages whose objects name each member once.
#![no_main]

use haul::fetch::json;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: (&str, &[u8])| {
    let (pointer, page) = input;
    let checked = json::check(page);
    let (items, counted) = (json::items(page, pointer), json::page(page, pointer, None));
    // Numbers beyond what serde_json holds are JSON all the same.
    let Ok(value) = serde_json::from_slice::<Value>(page) else { return };
    assert!(checked.is_ok());
    // Writing it again is shorter where a member was named twice: which of them is meant is not defined.
    let plain = serde_json::to_vec(&value).unwrap_or_default();
    let (items, counted) = if plain == page {
        (items, counted)
    } else {
        (json::items(&plain, pointer), json::page(&plain, pointer, None))
    };
    // The text is looked for in a page around this one, whose list of items is always there.
    let around = [br#"{"items":[],"page":"#.as_slice(), &plain, b"}"].concat();
    let within = format!("/page{pointer}");
    let next = json::page(&around, "/items", Some(&within)).map(|page| page.next);
    match value.pointer(pointer) {
        Some(Value::Array(list)) => {
            assert_eq!(items.unwrap().len(), list.len());
            assert_eq!(counted.unwrap().item_count, list.len() as u64);
        }
        Some(Value::Null) => {
            assert!(items.unwrap().is_empty() && counted.unwrap().item_count == 0 && next.unwrap().is_none());
        }
        Some(Value::String(string)) => {
            assert!(items.is_err() && counted.is_err());
            assert_eq!(next.unwrap().unwrap_or_default(), *string);
        }
        Some(_) => assert!(items.is_err() && counted.is_err()),
        None => assert!(items.is_err() && counted.is_err() && next.unwrap().is_none()),
    }
});
