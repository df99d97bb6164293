//! Names of headers, compared as origins read them. Pure.
//!
//! What is behind CGI or WSGI reads `X_Name` and `X-Name` as one variable, so whoever forbids or protects the one means both.

/// Returns whether two names are read as one header: case counts for nothing, and `_` is `-`.
pub fn is_header(name: &str, other: &str) -> bool {
    name.len() == other.len() && name.bytes().map(folded).eq(other.bytes().map(folded))
}

/// Returns whether a name, read in the same way, begins with `start`.
pub fn begins_header(name: &str, start: &str) -> bool {
    name.len() >= start.len() && name.bytes().zip(start.bytes()).all(|(own, other)| folded(own) == folded(other))
}

fn folded(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_underscores_tell_no_headers_apart() {
        for (name, other, is) in [
            ("X_Api-Key", "x-api_key", true),
            ("proxy_authorization", "proxy-authorization", true),
            ("x-api", "x-api-key", false),
            ("xapi", "x-api", false),
        ] {
            assert_eq!(is_header(name, other), is, "{name} {other}");
        }
        assert!(begins_header("IF_Match", "if-") && begins_header("if-", "if-"));
        assert!(!begins_header("if", "if-") && !begins_header("ifs-a", "if-"));
    }
}
