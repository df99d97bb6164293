//! No text is taken for a token but one that was made, whole and unchanged; what is read is what was written.
#![no_main]

use haul::model::token::TokenText;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, Vec<u8>, usize, u8)| {
    let (text, chance, at, other) = input;
    if let Some(token) = TokenText::parse(text) {
        assert_eq!(token.expose(), text);
        assert!(text.is_ascii() && text.len() == 65 && text.starts_with("haul_"), "{text}");
    }
    let mut drawn = chance.into_iter().cycle().map(usize::from);
    let made = TokenText::of(|| drawn.next().unwrap_or(0));
    let read = TokenText::parse(made.expose()).unwrap_or_else(|| panic!("{} is none", made.expose()));
    assert!(read.hash().is(&made.hash()) && read.id() == made.id());
    // A checksum of 32 bits finds each change of one byte.
    let mut bytes = made.expose().as_bytes().to_vec();
    let at = at % bytes.len();
    bytes[at] = if bytes[at] == other { other ^ 1 } else { other };
    if let Ok(changed) = std::str::from_utf8(&bytes) {
        assert!(TokenText::parse(changed).is_none(), "{changed}");
    }
    assert!(TokenText::parse(&made.expose()[..at]).is_none());
});
