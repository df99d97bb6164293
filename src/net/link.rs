//! The `Link` header (RFC 8288), as far as listings use it.

use http::{HeaderMap, header};

/// The target of the first link whose relation is `next`, as it was written: relative to the page's URL.
pub fn next(headers: &HeaderMap) -> Option<&str> {
    headers.get_all(header::LINK).iter().filter_map(|value| value.to_str().ok()).find_map(next_in)
}

/// The same, in one value of the header.
pub fn next_in(value: &str) -> Option<&str> {
    let mut rest = value;
    loop {
        // Whatever stands before the target is none of ours.
        let (_, after) = rest.split_once('<')?;
        let (target, after) = after.split_once('>')?;
        let (is_next, after) = parameters(after);
        if is_next {
            return Some(target.trim());
        }
        rest = after;
    }
}

/// Reads the parameters of one link. Returns whether its relations include `next`, and what follows the link.
fn parameters(mut rest: &str) -> (bool, &str) {
    let mut relation = None;
    loop {
        rest = rest.trim_start();
        let Some(after) = rest.strip_prefix(';') else {
            let is_next = relation
                .is_some_and(|rel: &str| rel.split_ascii_whitespace().any(|one| one.eq_ignore_ascii_case("next")));
            return (is_next, rest);
        };
        let end = after.find(['=', ';', ',']).unwrap_or(after.len());
        let name = after[..end].trim();
        let Some(value) = after[end..].strip_prefix('=') else {
            rest = &after[end..];
            continue;
        };
        let (value, after) = self::value(value.trim_start());
        rest = after;
        // The first one counts (RFC 8288, section 3.3).
        if name.eq_ignore_ascii_case("rel") && relation.is_none() {
            relation = Some(value);
        }
    }
}

/// A token or a quoted string, and what follows it. Relations have no use for escapes, so those stay as they are.
fn value(text: &str) -> (&str, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',']).unwrap_or(text.len());
        return (text[..end].trim_end(), &text[end..]);
    };
    let mut is_escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return (&quoted[..at], &quoted[at + 1..]),
            _ => {}
        }
    }
    (quoted, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn finds_the_next_page() {
        assert_eq!(next_in(r#"<https://a/?page=2>; rel="next""#), Some("https://a/?page=2"));
        assert_eq!(next_in("</p1>; rel=prev, </p3>; rel=next"), Some("/p3"));
        assert_eq!(next_in(r#"</p,1>; title="a,b;\"rel=next"; rel="prev", </p3> ;REL="last  Next""#), Some("/p3"));
        assert_eq!(next_in(r#"</a>; crossorigin; rel="next"; rel="prev""#), Some("/a"));
        assert_eq!(next_in(r#"</a>; rel="prev"; rel="next""#), None, "the first relation counts");
        assert_eq!(next_in(r#"</a>; title="rel=next""#), None);
        for bad in ["", "<", "</a", "</a>", "</a>;", "</a>;rel", "</a>; rel=\"", ">;rel=next"] {
            assert_eq!(next_in(bad), None, "{bad}");
        }
    }

    #[test]
    fn looks_at_every_header() {
        let mut headers = HeaderMap::new();
        headers.append(header::LINK, "</a>; rel=prev".parse().unwrap());
        headers.append(header::LINK, "</b>; rel=next".parse().unwrap());
        assert_eq!(next(&headers), Some("/b"));
    }

    proptest! {
        #[test]
        fn never_panics(value in r#".*|([<>;,="\\ ]|rel|next|a){0,40}"#) {
            let _ = next_in(&value);
        }

        #[test]
        fn finds_it_among_others(before in "[a-z/?=]{0,9}", target in "[a-z/?=,;]{0,9}") {
            let value = format!(r#"<{before}>; rel="prev"; title="x, <y>", <{target}>; rel="next""#);
            prop_assert_eq!(next_in(&value), Some(target.as_str()));
        }
    }
}
