//! Whatever an origin suggests, what is made of it is one plain name, and the same when it is made again.
#![no_main]

use haul::files::names;
use haul::net::disposition;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &[u8]| {
    let Some(name) = disposition::parse(value).and_then(|suggested| names::sanitize(&suggested)) else { return };
    assert!(!name.contains(['/', '\\', '\0']) && name != "." && name != "..", "{name:?}");
    assert!(name.len() <= 255, "{name:?}");
    names::check(&name).unwrap_or_else(|failure| panic!("{name:?}: {failure}"));
    assert_eq!(names::sanitize(&name).as_ref(), Some(&name));
    let other = names::candidate(&name, 7);
    names::check(&other).unwrap_or_else(|failure| panic!("{other:?}: {failure}"));
});
