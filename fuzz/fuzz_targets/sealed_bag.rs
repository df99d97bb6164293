//! Whatever bytes the database holds: a bag opens in its place and as it was sealed, or not at all.
#![no_main]

use std::sync::LazyLock;

use haul::vault::{Key, Vault, key_of};
use libfuzzer_sys::fuzz_target;

static VAULT: LazyLock<Vault> = LazyLock::new(|| {
    Vault::new(vec![(1, Key::random()), (2, Key::random())], &Key::random()).unwrap_or_else(|| panic!("it has keys"))
});

fuzz_target!(|input: (&[u8], &[u8], &[u8], u16, u8)| {
    let (bytes, place, other, at, change) = input;
    let _ = key_of(bytes);
    assert!(VAULT.open(place, bytes).is_err(), "nobody has sealed it");
    let mut bag = VAULT.seal(place, bytes).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(VAULT.open(place, &bag).map(|plain| plain.to_vec()).as_deref(), Ok(bytes));
    assert_eq!(VAULT.open(other, &bag).is_ok(), other == place);
    let at = usize::from(at) % bag.len();
    assert!(VAULT.open(place, &bag[..at]).is_err());
    bag[at] ^= change;
    assert_eq!(VAULT.open(place, &bag).is_ok(), change == 0);
});
