//! Whatever the text of a URL, what goes with a credential is of its host, scheme, port, path and method.
#![no_main]

use haul::model::credential::binding::{Binding, HostPattern, PathPrefix};
use libfuzzer_sys::fuzz_target;
use url::Url;

fuzz_target!(|input: (&str, &str, &str)| {
    let (text, host, path) = input;
    let api: HostPattern = "api.example.com".parse().unwrap_or_else(|error| panic!("{error}"));
    let below: HostPattern = "*.example.org".parse().unwrap_or_else(|error| panic!("{error}"));
    let prefix: PathPrefix = "/v1".parse().unwrap_or_else(|error| panic!("{error}"));
    let binding = Binding { hosts: vec![api, below], path_prefixes: vec![prefix], ..Binding::default() };
    for text in [text.to_owned(), format!("https://{text}api.example.com/v1"), format!("https://api.example.com/v1/{text}")] {
        let Ok(url) = Url::parse(&text) else { continue };
        if binding.fits("GET", &url) {
            let host = url.host_str().unwrap_or_default();
            assert!(host == "api.example.com" || host.ends_with(".example.org"), "{text}");
            assert!(url.scheme() == "https" && url.port().is_none() && url.username().is_empty(), "{text}");
            let path = url.path().to_ascii_lowercase();
            assert!(path == "/v1" || path.starts_with("/v1/"), "{text}");
            assert!(!["//", "\\", ";", "%2f", "%5c", "%2e", "%25", "%0", "%c0", "/../"].iter().any(|part| path.contains(part)), "{text}");
        }
        assert!(!binding.fits("POST", &url), "{text}");
    }
    // A pattern that is read is written so that it reads as the same.
    if let Ok(pattern) = host.parse::<HostPattern>() {
        assert_eq!(pattern.to_string().parse::<HostPattern>().as_ref(), Ok(&pattern), "{host}");
    }
    if let Ok(prefix) = path.parse::<PathPrefix>() {
        assert_eq!(prefix.to_string().parse::<PathPrefix>().as_ref(), Ok(&prefix), "{path}");
    }
});
