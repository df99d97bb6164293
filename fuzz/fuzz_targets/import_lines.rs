//! Whatever a list holds, it is read or named by its line, each entry comes from a line that was read, and a guess fits.
#![no_main]

use haul::model::import::{Format, Item, Lines};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let guessed = Format::guess(text);
    for format in [Format::Urls, Format::Json, Format::Aria2, guessed] {
        let mut lines = Lines::new(format);
        let mut last = 0;
        let mut take = |read: u64, entry: Option<(u64, Item)>| {
            let Some((line, item)) = entry else { return };
            assert!(last < line && line <= read, "{line} after {last} of {read}");
            last = line;
            if let Item::Url(url) | Item::Json(url) = item {
                assert!(!url.is_empty() && url == url.trim());
            }
        };
        let mut is_wrong = false;
        for text in text.lines() {
            match lines.next(text) {
                Ok(entry) => take(lines.line(), entry),
                Err(wrong) => {
                    assert_eq!(wrong.line, lines.line());
                    is_wrong = true;
                    break;
                }
            }
        }
        if !is_wrong {
            let entry = lines.end();
            take(lines.line(), entry);
        }
    }
});
