//! A pointer finds what serde_json's own finds, on pages whose objects name each member once.
#![no_main]

use haul::fetch::json;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: (&str, &[u8])| {
    let (pointer, page) = input;
    let checked = json::check(page);
    let (items, text) = (json::items(page, pointer), json::text(page, pointer));
    let Ok(value) = serde_json::from_slice::<Value>(page) else { return };
    assert!(checked.is_ok());
    // Writing it again is shorter where a member was named twice: which of them is meant is not defined.
    let plain = serde_json::to_vec(&value).unwrap_or_default();
    let (items, text) =
        if plain == page { (items, text) } else { (json::items(&plain, pointer), json::text(&plain, pointer)) };
    match value.pointer(pointer) {
        Some(Value::Array(list)) => assert_eq!(items.unwrap().len(), list.len()),
        Some(Value::Null) => assert!(items.unwrap().is_empty() && text.unwrap().is_none()),
        Some(Value::String(string)) => {
            assert!(items.is_err());
            assert_eq!(text.unwrap().unwrap_or_default(), *string);
        }
        Some(_) => assert!(items.is_err()),
        None => assert!(items.is_err() && text.unwrap().is_none()),
    }
});
