//! Whatever others write: what is printed of it has no character that a terminal obeys or that turns the direction of text.
#![no_main]

use haul::model::text::{json_escaped, plain, plain_coloured, plain_lines, shown};
use libfuzzer_sys::fuzz_target;

/// By the standard library and by hand, so that a gap in the table of the program is found.
fn is_harmful(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fuzz_target!(|text: &str| {
    let line = plain(text);
    assert!(!line.contains(is_harmful), "{line:?}");
    assert_eq!(plain(&line), line);
    assert!(!plain_lines(text).contains(|letter| is_harmful(letter) && letter != '\n' && letter != '\t'));
    let cut = shown(text);
    assert!(!cut.contains(is_harmful) && cut.len() <= 128, "{cut:?}");
    // Of what colours only whole sequences of digits are left.
    let coloured = plain_coloured(text);
    let mut parts = coloured.split('\x1b');
    assert!(!parts.next().unwrap_or_default().contains(is_harmful));
    for part in parts {
        let rest = part.strip_prefix('[').unwrap_or_else(|| panic!("{coloured:?}"));
        let end = rest.find('m').unwrap_or_else(|| panic!("{coloured:?}"));
        assert!(rest[..end].bytes().all(|byte| byte.is_ascii_digit() || byte == b';'), "{coloured:?}");
        assert!(!rest.contains(is_harmful), "{coloured:?}");
    }
    // A document means the same.
    let document = serde_json::Value::String(text.to_owned()).to_string();
    let escaped = json_escaped(&document);
    assert!(!escaped.contains(is_harmful), "{escaped:?}");
    assert_eq!(serde_json::from_str::<String>(&escaped).ok().as_deref(), Some(text));
});
