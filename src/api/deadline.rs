//! Deadlines of calls: a call whose deadline passes ends with `DEADLINE_EXCEEDED` and details, a stream too.
//!
//! The gRPC library leaves deadlines to its own transport, whose timer ends a call with CANCELLED, without details, and
//! does not end streams. The server has a transport of its own, so this layer alone decides.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tokio::time::{Instant, Sleep};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::api::status::{Fault, Violations, shown};
use crate::middleware::{Middleware, until};

const TIMEOUT_HEADER: &str = "grpc-timeout";
/// A call ends by this part of its time before its deadline, but no less than [`MARGIN_MIN`] and no more than [`MARGIN_MAX`].
///
/// A client ends the call by a timer of its own and then knows no details; some mix the two ends up when they come at
/// once. So the answer is sent while it can still arrive first. How long it takes to arrive is not known: it passes the
/// threads of two programs and the network between them, all of which may be busy, and the client's time began when the
/// call was made and not when the server read it. A call that is given more time can spare more of it.
const MARGIN_PART: u32 = 10;
/// What an answer needs on a machine that has other work, too.
const MARGIN_MIN: Duration = Duration::from_millis(25);
/// What an answer needs at most: more of a long call would be lost work.
const MARGIN_MAX: Duration = Duration::from_millis(250);
/// A call whose time is short keeps the rest of it: all but this part.
const MARGIN_PART_MAX: u32 = 4;

fn passed() -> Status {
    let message = "the call's deadline passed before its answer; a job goes on, so ask for it again or allow more time";
    Fault::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", message).into()
}

/// Returns the time that a client allows, as the gRPC protocol writes it: up to eight digits and a unit.
fn allowed(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(TIMEOUT_HEADER) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    parsed(&text).map(Some).ok_or_else(|| {
        let description = format!("is `{}`; a timeout is up to eight digits and one of H, M, S, m, u, n", shown(&text));
        Violations::one(TIMEOUT_HEADER, description)
    })
}

fn parsed(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit).filter(|it| (1..=8).contains(&it.len()))?;
    let count: u64 = digits.bytes().all(|it| it.is_ascii_digit()).then(|| digits.parse().ok())??;
    Some(match unit {
        'H' => Duration::from_secs(count * 3_600),
        'M' => Duration::from_secs(count * 60),
        'S' => Duration::from_secs(count),
        'm' => Duration::from_millis(count),
        'u' => Duration::from_micros(count),
        'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Returns how much earlier than its deadline a call ends.
fn margin(limit: Duration) -> Duration {
    (limit / MARGIN_PART).clamp(MARGIN_MIN, MARGIN_MAX).min(limit / MARGIN_PART_MAX)
}

/// Ends each call at its deadline.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deadlines;

impl Middleware for Deadlines {
    type Kept = Option<Limit>;

    fn before(&self, request: &mut Request<Body>) -> Result<Option<Limit>, Box<Response<Body>>> {
        let now = Instant::now();
        let limit = allowed(request.headers()).map_err(|status| Box::new(status.into_http()))?;
        Ok(limit.and_then(|limit| now.checked_add(limit.saturating_sub(margin(limit)))).map(Limit::new))
    }

    async fn after<E: Send>(
        limit: Option<Limit>,
        answer: impl Future<Output = Result<Response<Body>, E>> + Send,
    ) -> Result<Response<Body>, E> {
        let Some(mut limit) = limit else { return answer.await };
        let mut answer = pin!(answer);
        let answered = std::future::poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(answered) => Poll::Ready(Some(answered)),
            Poll::Pending => limit.poll_passed(cx).map(|()| None),
        });
        match answered.await {
            Some(response) => Ok(response?.map(|body| until(body, move |cx| limit.poll_passed(cx).map(|()| passed())))),
            None => Ok(passed().into_http()),
        }
    }
}

/// A point in time that can be waited for.
#[derive(Debug)]
pub struct Limit {
    at: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Limit {
    fn new(at: Instant) -> Limit {
        Limit { at, sleep: Box::pin(tokio::time::sleep_until(at)) }
    }

    /// Looks at the clock as well as at the timer: a stream that always has a message may be polled before the timer fires.
    fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.at {
            return Poll::Ready(());
        }
        self.sleep.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_ends_a_little_before_its_deadline() {
        let early = |millis| margin(Duration::from_millis(millis)).as_millis();
        let (short, long) = ([0, 8, 40, 100].map(early), [200, 250, 1_000, 2_000, 2_500, 60_000].map(early));
        assert_eq!((short, long), ([0, 2, 10, 25], [25, 25, 100, 200, 250, 250]));
    }

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        for (text, millis) in [("2H", 7_200_000), ("1M", 60_000), ("99999999S", 99_999_999_000), ("15m", 15), ("0S", 0)]
        {
            assert_eq!(parsed(text), Some(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parsed("7u"), Some(Duration::from_micros(7)));
        assert_eq!(parsed("7n"), Some(Duration::from_nanos(7)));
        for bad in ["", "S", "5", "5s", "-5S", "+5S", "123456789S", "5 S", "5ü"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}
