//! A bag opens in its own place alone, as it was sealed, and no bytes that were not sealed are taken for one.
#![no_main]

use haul::vault::{Key, Vault};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], &[u8], &[u8], usize, u8)| {
    let (place, plain, forged, at, change) = input;
    let key = Key::random();
    let Some(vault) = Vault::new(vec![(1, key.clone())], &key) else { return };
    assert!(vault.open(place, forged).is_err());
    let Ok(bag) = vault.seal(place, plain) else { return };
    assert_eq!(vault.open(place, &bag).map(|it| it.to_vec()).ok().as_deref(), Some(plain));
    assert!(vault.open(&[place, b"x"].concat(), &bag).is_err());
    let mut damaged = bag.clone();
    let at = at % damaged.len();
    damaged[at] ^= change.max(1);
    assert!(vault.open(place, &damaged).is_err());
    assert!(vault.open(place, &bag[..at]).is_err());
});
