//! What a client takes, by its `Accept`. Pure.

use http::HeaderMap;
use http::StatusCode;
use http::header::ACCEPT;
use tonic::Code;

use crate::rest::answer::Refusal;

/// The types of a stream that has a document a line.
pub(crate) const LINES: [&str; 2] = ["application/x-ndjson", "application/json"];

/// Returns whether the client prefers events. It has to name them, or to take nothing else: one that takes anything gets lines.
pub(crate) fn wants_events(headers: &HeaderMap) -> bool {
    let (events, rank) = weight(headers, "text/event-stream");
    let lines = LINES.iter().map(|kind| weight(headers, kind).0).fold(0.0, f32::max);
    events > 0.0 && (lines <= 0.0 || (rank == Rank::Name && events >= lines))
}

/// Returns whether a client names a type, and likes another one no better.
pub(crate) fn prefers(headers: &HeaderMap, kind: &str, other: &str) -> bool {
    let (weight, rank) = weight(headers, kind);
    weight > 0.0 && rank == Rank::Name && weight >= self::weight(headers, other).0
}

/// Checks that a client takes one of these types.
pub(crate) fn takes(headers: &HeaderMap, kinds: &[&str]) -> Result<(), Refusal> {
    if !headers.contains_key(ACCEPT) || kinds.iter().any(|kind| weight(headers, kind).0 > 0.0) {
        return Ok(());
    }
    let message = format!("the answer is {}, which `Accept` does not allow", kinds.join(" or "));
    Err(Refusal::new(StatusCode::NOT_ACCEPTABLE, Code::InvalidArgument, "NOT_ACCEPTABLE", &message))
}

/// How precisely a range names a type; the most precise one decides (RFC 9110, 12.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    None,
    Anything,
    Family,
    Name,
}

/// Returns the weight that a client gives to a type, 0 where it does not take it, and what gives it.
fn weight(headers: &HeaderMap, kind: &str) -> (f32, Rank) {
    let mut best = (0.0, Rank::None);
    for (range, weight) in ranges(headers) {
        let family = range.strip_suffix('*').filter(|it| it.ends_with('/'));
        let rank = match range.as_str() {
            "*/*" => Rank::Anything,
            name if name == kind => Rank::Name,
            _ if family.is_some_and(|it| kind.starts_with(it)) => Rank::Family,
            _ => continue,
        };
        if rank > best.1 || (rank == best.1 && weight > best.0) {
            best = (weight, rank);
        }
    }
    best
}

/// Returns the types and ranges of types that a client names, in lower case, with their weights.
fn ranges(headers: &HeaderMap) -> impl Iterator<Item = (String, f32)> {
    let texts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).filter_map(|range| {
        let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
        let kind = parts.next().filter(|kind| !kind.is_empty())?;
        let weight = parts.find_map(|part| part.strip_prefix("q=").and_then(|it| it.parse::<f32>().ok()));
        Some((kind, weight.unwrap_or(1.0)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, text.parse().unwrap())])
    }

    #[test]
    fn ranges_cover_what_they_name() {
        let json = ["application/json"];
        assert!(takes(&HeaderMap::new(), &json).is_ok());
        for good in
            ["*/*", "application/*", "Application/JSON;q=0.5", "text/html, application/json", "text/html,*/*;q=0.1"]
        {
            assert!(takes(&accept(good), &json).is_ok(), "{good}");
        }
        for bad in
            ["text/html", "application/xml", "application/json;q=0", "application/json;q=0, */*", "", "application"]
        {
            assert!(takes(&accept(bad), &json).is_err(), "{bad}");
        }
        for (text, expected) in [
            ("text/event-stream", true),
            ("text/*", true),
            ("text/event-stream, */*", true),
            ("application/json;q=0.5, text/event-stream", true),
            ("application/json, text/event-stream;q=0.1", false),
            ("text/*, application/json;q=0.5", false),
            ("text/event-stream;q=0", false),
            ("*/*", false),
        ] {
            assert_eq!(wants_events(&accept(text)), expected, "{text}");
        }
    }
}
