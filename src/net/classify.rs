//! What an error or a status means: which reason, whether another attempt may help, and how long the origin asks to
//! wait. Pure; every decision about "may I retry" below the engine is made in here.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::model::failure::{Failure, FailureReason};
use crate::model::time::Timestamp;
use crate::net::{retry_after, tls};

/// Statuses that a later attempt may not get (RFC 9110, RFC 6585, RFC 8470).
pub const RETRYABLE_STATUSES: [u16; 7] = [408, 425, 429, 500, 502, 503, 504];

/// Returns the failure that a status is which the task does not accept. `now` is what dates count from where the answer
/// has no `Date`, and `wait_max` the most that the origin may ask for.
///
/// `retry_after` is set wherever the origin says how long to wait, whatever the status: which statuses are tried again
/// is the task's policy. A spent quota counts with those statuses that mean one.
pub fn judge_status(status: StatusCode, headers: &HeaderMap, now: Timestamp, wait_max: Duration) -> Failure {
    let code = status.as_u16();
    let of_quota = || if matches!(code, 403 | 429 | 503) { retry_after::of_rate_limit(headers, now) } else { None };
    let retry_after = retry_after::of(headers, now).or_else(of_quota).map(|wait| wait.min(wait_max));
    let name = status.canonical_reason().map(|name| format!(" {name}")).unwrap_or_default();
    let hint = match code {
        401 | 407 => "; check the credentials",
        403 => "; the origin does not allow it, perhaps for want of credentials",
        404 | 410 => "; check the URL",
        429 => "; the origin asks for fewer requests",
        500..=599 => "; the fault is the origin's",
        _ => "",
    };
    let message = format!("the origin answered {code}{name}{hint}");
    Failure {
        http_status: code,
        retryable: RETRYABLE_STATUSES.contains(&code),
        retry_after,
        ..Failure::fatal(FailureReason::HttpStatus, message)
    }
}

/// Returns the failure of a name that did not resolve. Resolvers fail for a moment more often than names are wrong, and
/// cannot tell which.
pub(super) fn dns(name: &str, why: &str) -> Failure {
    Failure::retryable(FailureReason::Dns, format!("cannot resolve `{name}` ({why}); check the host name"))
}

/// Returns the failure of a name that this machine had no means to ask for.
pub(super) fn dns_own(name: &str, why: &str) -> Failure {
    let failure = Failure::retryable(FailureReason::Dns, format!("cannot look `{name}` up: {why}"));
    Failure { is_own: true, ..failure }
}

/// Returns what the resolver says of a name.
pub(super) fn dns_error(error: &io::Error) -> String {
    plain(error)
}

/// Returns the failure of a TCP connection that could not be made.
pub(super) fn connect(host: &str, error: &io::Error) -> Failure {
    let why = match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there: the connection was refused".to_owned(),
        io::ErrorKind::TimedOut => "the host does not answer".to_owned(),
        io::ErrorKind::HostUnreachable => "the host is unreachable".to_owned(),
        io::ErrorKind::NetworkUnreachable => "the network is unreachable".to_owned(),
        io::ErrorKind::ConnectionReset => "the connection was reset".to_owned(),
        _ => plain(error),
    };
    let failure = Failure::retryable(FailureReason::Connect, format!("cannot connect to `{host}`: {why}"));
    Failure { is_own: is_want_of_means(error), ..failure }
}

/// Whether this machine had no means for a connection, which says nothing of the host: no descriptor, no memory, no port of its own.
pub(super) fn is_want_of_means(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL))
}

/// Returns the failure of a request that was sent and not answered in time.
pub(super) fn no_answer(host: &str, wait: Duration) -> Failure {
    let message = format!("`{host}` did not answer within {wait:?} (`timeouts.response_headers`)");
    Failure::retryable(FailureReason::TimeoutHeaders, message)
}

/// Returns the failure of a request over HTTP/1.1 that was not answered; `began` says whether some of its answer came.
pub(super) fn answer(host: &str, error: &hyper::Error, began: bool) -> Failure {
    if let Some(error) = tls::inner(error) {
        return tls::explain(host, error);
    }
    if error.is_parse_too_large() {
        return large_head(host);
    }
    if error.is_parse() {
        return unreadable_head(host, &error.to_string());
    }
    if error.is_user() {
        return Failure::fatal(FailureReason::Protocol, format!("the request to `{host}` cannot be sent ({error})"));
    }
    let cause = cause(error);
    if began {
        let message = format!("the connection to `{host}` ended within the head of the answer ({cause})");
        return Failure::retryable(FailureReason::Truncated, message);
    }
    Failure::retryable(
        FailureReason::Connect,
        format!("the connection to `{host}` ended before an answer came ({cause})"),
    )
}

/// Returns the failure of an answer whose head cannot be read. `why`: hyper's words for it, which name the part that is wrong.
fn unreadable_head(host: &str, why: &str) -> Failure {
    let names = |part: &str| why.contains(part);
    if names("content-length") || names("transfer-encoding") {
        return broken_framing(host);
    }
    let message = if names("version") {
        format!("`{host}` answered with something that is not HTTP ({why})")
    } else {
        format!("the head of the answer of `{host}` cannot be read ({why})")
    };
    Failure::fatal(FailureReason::Protocol, message)
}

/// Returns the failure of an answer whose head, or what comes before it, is too large.
pub(super) fn large_head(host: &str) -> Failure {
    Failure::fatal(FailureReason::Protocol, format!("the head of the answer of `{host}` is too large"))
}

/// Returns the failure of an answer whose head has a framing header that is broken, or several that differ.
pub(super) fn broken_framing(host: &str) -> Failure {
    let message = format!("`{host}` answered with a broken `Content-Length` or `Transfer-Encoding`");
    Failure::fatal(FailureReason::Protocol, message)
}

/// Returns the failure of a body whose chunks are framed by far more bytes than they have.
pub(super) fn endless_framing(host: &str) -> Failure {
    let message = format!("the chunks of the body from `{host}` are framed by bytes without end");
    Failure::fatal(FailureReason::Protocol, message)
}

/// Returns the failure of a request over HTTP/2 that was not answered.
pub(super) fn stream(host: &str, error: &h2::Error) -> Failure {
    if let Some(error) = tls::inner(error) {
        return tls::explain(host, error);
    }
    if is_of_stream(error) && error.reason() == Some(h2::Reason::REFUSED_STREAM) {
        return large_head(host);
    }
    if is_of_stream(error) {
        // Its head is not one of HTTP/2, or it ended where it says that bytes follow.
        let message = format!("the answer of `{host}` contradicts itself or is malformed ({})", cause(error));
        return Failure::retryable(FailureReason::Protocol, message);
    }
    if error.is_library() {
        return Failure { reason: FailureReason::Connect, ..broken_connection(host, error) };
    }
    let cause = cause(error);
    if is_refused(error) {
        // The connection is sound.
        let message = format!("`{host}` refuses requests that it has not looked at ({cause})");
        return Failure::retryable(FailureReason::Protocol, message);
    }
    let what = if error.is_reset() { "request" } else { "connection" };
    Failure::retryable(FailureReason::Connect, format!("the {what} to `{host}` ended before an answer came ({cause})"))
}

/// Returns whether the peer says that it has not looked at the request (RFC 9113, section 8.7). A GOAWAY reaches the streams that
/// its sender has not looked at, and no others.
pub(super) fn is_refused(error: &h2::Error) -> bool {
    use h2::Reason;
    let is_unseen = || matches!(error.reason(), Some(Reason::REFUSED_STREAM | Reason::HTTP_1_1_REQUIRED));
    error.is_remote() && (error.is_go_away() || error.is_reset() && is_unseen())
}

/// Returns whether an answer is not as it should be, and the connection that it came by is sound.
fn is_of_stream(error: &h2::Error) -> bool {
    error.is_library() && error.is_reset()
}

/// Returns the failure of all that shared a connection whose peer broke the rules: any of them may be innocent.
fn broken_connection(host: &str, error: &h2::Error) -> Failure {
    let message =
        format!("the connection to `{host}` was closed, as its other end broke the rules of HTTP/2 ({})", cause(error));
    Failure::retryable(FailureReason::Truncated, message)
}

/// Returns the failure of a body over HTTP/2 that ended early. `due`: the bytes that came, and those that its
/// `Content-Length` says that there are.
pub(super) fn stream_body(host: &str, error: &h2::Error, due: Option<(u64, u64)>) -> Failure {
    match due.filter(|_| is_of_stream(error)) {
        Some((came, length)) if came < length => {
            let message = format!(
                "the body from `{host}` ended after {came} bytes or goes on behind {length}, which are \
                                   those of its `Content-Length`"
            );
            return Failure::retryable(FailureReason::Truncated, message);
        }
        Some((_, length)) => {
            let message = format!("the body from `{host}` is longer than the {length} bytes of its `Content-Length`");
            return Failure::retryable(FailureReason::Protocol, message);
        }
        None => {}
    }
    if is_of_stream(error) {
        let message = format!("the body from `{host}` is not framed as HTTP/2 frames it ({})", cause(error));
        return Failure::fatal(FailureReason::Protocol, message);
    }
    if error.is_library() {
        return broken_connection(host, error);
    }
    let message = format!("the body from `{host}` ended before its end ({})", cause(error));
    Failure::retryable(FailureReason::Truncated, message)
}

/// Returns the failure of a body that is not as long as its head says, which frames nothing.
pub(super) fn other_length(host: &str) -> Failure {
    let message = format!("the body from `{host}` has not the length that its head says");
    Failure::retryable(FailureReason::Truncated, message)
}

/// Returns the failure of a body over HTTP/1.1 that ended early.
pub(super) fn body(host: &str, error: &hyper::Error) -> Failure {
    match io_kind(error) {
        // Bad chunk sizes and the like; an early end has other kinds.
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) if tls::inner(error).is_none() => {
            let message = format!("the body from `{host}` is not framed as HTTP frames it ({})", cause(error));
            Failure::fatal(FailureReason::Protocol, message)
        }
        _ => Failure::retryable(
            FailureReason::Truncated,
            format!("the body from `{host}` ended before its end ({})", cause(error)),
        ),
    }
}

fn io_kind(error: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        next = error.source();
    }
    None
}

/// The innermost error, which says what happened; those around it say where.
fn cause(error: &(dyn StdError + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.downcast_ref::<io::Error>().map_or_else(|| inner.to_string(), plain)
}

/// An I/O error without the number that the standard library appends, or the address of a manual.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    if text.contains("close_notify") {
        return "the TLS connection was cut off".to_owned();
    }
    let text = text.split(" (os error").next().unwrap_or_default();
    text.strip_prefix("failed to lookup address information: ").unwrap_or(text).to_lowercase()
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn what_this_machine_lacks_says_nothing_of_a_host() {
        use rustix::io::Errno;
        let is_own = |errno: Errno| connect("h:1", &io::Error::from(errno)).is_own;
        assert!([Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL].into_iter().all(is_own));
        assert!(![Errno::CONNREFUSED, Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::CONNRESET].into_iter().any(is_own));
    }

    #[test]
    fn every_status() {
        let table = (200..600)
            .filter_map(|code| {
                let status = StatusCode::from_u16(code).ok()?;
                let failure = judge_status(status, &HeaderMap::new(), Timestamp(0), Duration::ZERO);
                let is_told = status.canonical_reason().is_some() || failure.retryable;
                is_told.then(|| format!("{}: {}\n", if failure.retryable { "again" } else { "fatal" }, failure.message))
            })
            .collect::<Vec<String>>()
            .concat();
        insta::assert_snapshot!(table);
    }

    #[test]
    fn every_status_may_ask_to_wait_and_none_for_ever() {
        let header =
            |value| HeaderMap::from_iter([(HeaderName::from_static("retry-after"), HeaderValue::from_static(value))]);
        let wait = |code, value| {
            let status = StatusCode::from_u16(code).unwrap();
            judge_status(status, &header(value), Timestamp(0), Duration::from_mins(1)).retry_after
        };
        assert_eq!(wait(429, "7"), Some(Duration::from_secs(7)));
        assert_eq!(wait(503, "7000"), Some(Duration::from_mins(1)));
        assert_eq!(wait(503, "Thu, 01 Jan 1970 00:00:09 GMT"), Some(Duration::from_secs(9)));
        assert_eq!(wait(429, "soon"), None);
        for code in [202, 301, 403, 408, 413, 500, 502, 504] {
            assert_eq!(wait(code, "7"), Some(Duration::from_secs(7)), "{code}");
        }
    }

    #[test]
    fn a_spent_quota_counts_where_the_status_means_one() {
        let headers: HeaderMap = [("x-ratelimit-reset", "30"), ("x-ratelimit-remaining", "0")]
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let wait = |code| {
            let status = StatusCode::from_u16(code).unwrap();
            judge_status(status, &headers, Timestamp(0), Duration::from_mins(1)).retry_after
        };
        assert_eq!([403, 429, 503].map(wait), [Some(Duration::from_secs(30)); 3]);
        assert_eq!([404, 500].map(wait), [None; 2]);
    }

    #[test]
    fn a_head_that_cannot_be_read_is_told_by_the_part_that_is_wrong() {
        let message = |why| unreadable_head("h", why).message;
        assert!(message("invalid content-length parsed").contains("broken `Content-Length`"));
        assert!(message("unexpected transfer-encoding parsed").contains("`Transfer-Encoding`"));
        assert!(message("invalid HTTP version parsed").contains("not HTTP"));
        assert!(message("invalid HTTP status-code parsed").starts_with("the head of the answer"));
    }

    #[test]
    fn every_kind_of_io_error() {
        use io::ErrorKind as K;
        let kinds = [
            K::NotFound,
            K::PermissionDenied,
            K::ConnectionRefused,
            K::ConnectionReset,
            K::HostUnreachable,
            K::NetworkUnreachable,
            K::ConnectionAborted,
            K::NotConnected,
            K::AddrInUse,
            K::AddrNotAvailable,
            K::NetworkDown,
            K::BrokenPipe,
            K::WouldBlock,
            K::InvalidInput,
            K::InvalidData,
            K::TimedOut,
            K::Interrupted,
            K::Unsupported,
            K::UnexpectedEof,
            K::OutOfMemory,
            K::Other,
        ];
        let table = kinds
            .into_iter()
            .flat_map(|kind| [connect("h:1", &kind.into()), dns("h", &dns_error(&kind.into()))])
            .map(|failure| format!("{:?} again={} {}\n", failure.reason, failure.retryable, failure.message))
            .collect::<Vec<String>>()
            .concat();
        insta::assert_snapshot!(table);
    }
}
