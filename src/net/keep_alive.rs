//! How long a connection may wait for its next request. Pure.

use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue};

/// How long a connection is kept unused where its peer does not say otherwise.
pub(super) const IDLE_TIME: Duration = Duration::from_mins(1);
/// A request that must not be repeated takes a connection that has been idle for less than this: many servers close
/// theirs after 5 s, and a request that meets the closing is lost.
pub(super) const IDLE_TIME_UNSAFE: Duration = Duration::from_secs(2);
/// A peer's time counts from when it sent its answer, ours from when we have read it.
const MARGIN: Duration = Duration::from_secs(1);

/// Returns how long a connection with this answer may be idle: as `Keep-Alive: timeout=SECONDS` says, with a margin. One of
/// HTTP/1.0 ends with its answer, unless that says otherwise.
pub(super) fn idle_max(headers: &HeaderMap, is_http10: bool) -> Duration {
    let is_kept =
        |value: &HeaderValue| value.to_str().is_ok_and(|text| text.to_ascii_lowercase().contains("keep-alive"));
    if is_http10 && !headers.get_all(CONNECTION).iter().any(is_kept) {
        return Duration::ZERO;
    }
    let said = headers.get_all("keep-alive").iter().filter_map(|value| value.to_str().ok()).find_map(timeout);
    said.map_or(IDLE_TIME, |said| said.saturating_sub(MARGIN).min(IDLE_TIME))
}

fn timeout(value: &str) -> Option<Duration> {
    let mut parameters = value.split([',', ';']).filter_map(|parameter| parameter.split_once('='));
    let (_, seconds) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))?;
    seconds.trim().trim_matches('"').parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_says_how_long() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("keep-alive", value.parse().unwrap());
            idle_max(&headers, false).as_secs()
        };
        assert_eq!(
            [of("timeout=5, max=100"), of("max=9,Timeout = \"7\""), of("timeout=1"), of("timeout=0")],
            [4, 6, 0, 0]
        );
        assert_eq!(idle_max(&HeaderMap::new(), true), Duration::ZERO);
        let kept = [(CONNECTION, HeaderValue::from_static("Keep-Alive"))].into_iter().collect();
        assert_eq!(idle_max(&kept, true), IDLE_TIME);
        assert_eq!(
            [of("timeout=900"), of("timeout=x"), of("max=1"), idle_max(&HeaderMap::new(), false).as_secs()],
            [60; 4]
        );
    }
}
