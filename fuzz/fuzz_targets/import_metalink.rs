//! Whatever a document holds, it is read or named by a line that it has, and each file has a URL of http.
#![no_main]

use haul::model::import::{Item, metalink};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let lines = text.bytes().filter(|byte| *byte == b'\n').count() as u64 + 1;
    match metalink::files(text) {
        Ok(files) => {
            for (line, item) in files {
                assert!((1..=lines).contains(&line));
                let Item::File(file) = item else { panic!("{item:?}") };
                assert!(std::iter::once(&file.url).chain(&file.mirrors).all(|url| url.starts_with("http")));
            }
        }
        Err(wrong) => assert!((1..=lines).contains(&wrong.line), "{wrong}"),
    }
});
