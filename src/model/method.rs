//! Methods of requests, judged as text (RFC 9110, 9.1).

/// CONNECT makes a tunnel, and TRACE (TRACK to some servers) sends the headers of a request back to whoever asks.
const REFUSED: [&str; 3] = ["CONNECT", "TRACE", "TRACK"];
const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];

/// Returns why a method cannot be used by a fetch, as the rest of a sentence about it; `None` when it can.
///
/// Methods are case-sensitive: an origin does not know `get`, so it is refused here rather than there. Whether the text
/// is a token is for the HTTP library to say.
pub fn objection(method: &str) -> Option<String> {
    let upper = method.to_ascii_uppercase();
    if REFUSED.contains(&upper.as_str()) {
        Some("cannot be used by a fetch".to_owned())
    } else if KNOWN.contains(&upper.as_str()) && upper != method {
        Some(format!("is unknown, since methods are case-sensitive; did you mean `{upper}`?"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_echoes_and_wrong_case_are_refused() {
        for bad in ["CONNECT", "trace", "Track", "get", "Patch"] {
            assert!(objection(bad).is_some(), "{bad}");
        }
        for good in ["GET", "PATCH", "PROPFIND", "purge"] {
            assert_eq!(objection(good), None);
        }
    }
}
