//! Whatever an origin suggests, what is made of it is one name that a client could have given, however often it is taken.
#![no_main]

use haul::files::names;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, u32)| {
    let (text, nth) = input;
    let suggested = names::sanitize(text);
    let of_url = url::Url::parse(&format!("https://example.com/{text}")).ok().and_then(|url| names::from_url(&url));
    for name in suggested.into_iter().chain(of_url) {
        assert!(!name.contains(['/', '\\', '\0']) && !name.starts_with(['-', '.']), "{text:?} became {name:?}");
        let taken = names::candidate(&name, nth % 100_000);
        for name in [&name, &taken] {
            assert!(names::check(name).is_ok() && name.len() <= names::NAME_BYTES_MAX, "{text:?} became {name:?}");
        }
        assert_eq!(names::sanitize(&name).as_ref(), Some(&name), "{text:?}");
    }
    if let Ok((folder, name)) = names::split(text) {
        assert!(!text.starts_with('/') && !name.is_empty() && !folder.split('/').any(|part| part == ".."), "{text:?}");
    }
});
