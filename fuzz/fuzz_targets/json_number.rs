//! An integer is what its text says: written plainly it is the same, and the double next to it is next to the text.
#![no_main]

use haul::protojson::number;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let double = number::double(text);
    let Some(integer) = number::integer(text) else { return };
    assert_eq!(number::integer(&integer.to_string()), Some(integer));
    assert_eq!(double, Some(integer as f64));
    if let Ok(plain) = text.parse::<i128>() {
        assert_eq!(integer, plain);
    }
});
