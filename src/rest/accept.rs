//! What a client takes, by its `Accept`. Pure.

use http::HeaderMap;
use http::StatusCode;
use http::header::ACCEPT;
use tonic::Code;

use crate::rest::answer::Refusal;

/// Returns whether the client asks for events by name; a client that takes anything gets lines.
pub(crate) fn wants_events(headers: &HeaderMap) -> bool {
    ranges(headers).any(|range| range == "text/event-stream")
}

/// Checks that a client takes one of these types.
pub(crate) fn takes(headers: &HeaderMap, kinds: &[&str]) -> Result<(), Refusal> {
    let mut is_said = false;
    for range in ranges(headers) {
        is_said = true;
        let is_taken = |kind: &&str| {
            range == **kind
                || range == "*/*"
                || range.strip_suffix("/*").is_some_and(|it| kind.starts_with(&format!("{it}/")))
        };
        if kinds.iter().any(is_taken) {
            return Ok(());
        }
    }
    if !is_said && !headers.contains_key(ACCEPT) {
        return Ok(());
    }
    let message = format!("the answer is {}, which `Accept` does not allow", kinds.join(" or "));
    Err(Refusal::new(StatusCode::NOT_ACCEPTABLE, Code::InvalidArgument, "NOT_ACCEPTABLE", &message))
}

/// Returns the types and ranges of types that a client takes, in lower case.
fn ranges(headers: &HeaderMap) -> impl Iterator<Item = String> {
    let texts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).filter_map(|range| {
        let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
        let kind = parts.next().filter(|kind| !kind.is_empty())?;
        let is_refused = parts.any(|part| {
            let weight = part.strip_prefix("q=").and_then(|it| it.parse::<f32>().ok());
            weight.is_some_and(|weight| weight <= 0.0)
        });
        (!is_refused).then_some(kind)
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
        for bad in ["text/html", "application/xml", "application/json;q=0", "", "application"] {
            assert!(takes(&accept(bad), &json).is_err(), "{bad}");
        }
        assert!(wants_events(&accept("text/event-stream")) && !wants_events(&accept("*/*")));
    }
}
