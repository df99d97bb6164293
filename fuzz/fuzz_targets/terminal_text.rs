//! What comes out for a terminal has no character that it obeys or that cannot be seen, and of an escape sequence only colours.
#![no_main]

use haul::model::text::{is_misleading, json_escaped, plain, plain_coloured, plain_lines};
use libfuzzer_sys::fuzz_target;

/// Joiners of letters stay between letters that they may join.
fn is_harmful(letter: char) -> bool {
    is_misleading(letter) && !matches!(letter, '\u{200c}' | '\u{200d}')
}

fuzz_target!(|text: &str| {
    let line = plain(text);
    assert!(!line.contains(is_harmful), "{text:?}");
    assert_eq!(line.chars().count(), text.chars().count());
    assert_eq!(plain(&line), line);
    assert!(!plain_lines(text).contains(|letter| is_harmful(letter) && letter != '\n' && letter != '\t'), "{text:?}");
    for sequence in plain_coloured(text).split('\x1b').skip(1) {
        let body = sequence.strip_prefix('[').unwrap_or_else(|| panic!("{text:?}"));
        let end = body.find(|letter: char| !letter.is_ascii_digit() && letter != ';');
        assert!(end.is_some_and(|end| body[end..].starts_with('m')), "{text:?}");
    }
    let document = serde_json::Value::from(text).to_string();
    let escaped = json_escaped(&document);
    assert!(!escaped.contains(is_misleading), "{text:?}");
    assert_eq!(serde_json::from_str::<String>(&escaped).ok().as_deref(), Some(text));
});
