//! Whatever is sent as a token: what is read as one is written the same, and one letter less or another is none.
#![no_main]

use haul::model::token::TokenText;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &[u8], u8, char)| {
    let (text, draws, at, letter) = input;
    if let Some(token) = TokenText::parse(text) {
        assert_eq!(token.expose(), text);
        assert!(text.starts_with("haul_") && text.is_ascii());
    }
    let mut draws = draws.iter().cycle();
    let token = TokenText::of(|| usize::from(draws.next().copied().unwrap_or_default()));
    let made = token.expose();
    let read = TokenText::parse(made).unwrap_or_else(|| panic!("{made}"));
    assert_eq!((read.id(), read.hash().0), (token.id(), token.hash().0));
    let at = usize::from(at) % made.len();
    assert!(TokenText::parse(&made[..at]).is_none());
    let changed: String = made.char_indices().map(|(place, was)| if place == at { letter } else { was }).collect();
    assert_eq!(TokenText::parse(&changed).is_some(), changed == made, "{changed}");
});
