//! The body of a response, under its timeouts, and the way of its connection back to the pool.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, Sleep};

use crate::model::failure::{Failure, FailureReason};
use crate::model::spec::Timeouts;
use crate::net::connection::Connection;
use crate::net::incoming::Incoming;
use crate::net::patience;
use crate::net::pool::Endpoint;
use crate::net::{BodySource, classify};

/// What the framing of a body may cost over HTTP/1.1: so much, and beyond that so many bytes for each of its content. Chunks
/// of one byte cost six, and what was received and not asked for yet counts too.
const FRAMING_BYTES_MAX: u64 = 4 << 20;
const FRAMING_BYTES_EACH: u64 = 16;

/// A body that is still on its way.
pub(super) struct HttpBody {
    incoming: Incoming,
    /// Bytes of it that were handed on.
    handed_on: u64,
    /// `None` once the body has ended: the connection is back in the pool, or closed.
    connection: Option<Connection>,
    endpoint: Arc<Endpoint>,
    pace: Pace,
    /// Fires at or before the next deadline, and is set again only then: setting it for every chunk would cost more.
    timer: Option<Pin<Box<Sleep>>>,
    /// Until when is looked once more since the process stood still; at once where it did not, once that is known.
    second_look: Option<Instant>,
}

impl HttpBody {
    /// The body `incoming` over `connection`, which goes back to `endpoint` after it.
    pub(super) fn new(
        incoming: Incoming,
        connection: Connection,
        endpoint: Arc<Endpoint>,
        timeouts: &Timeouts,
    ) -> HttpBody {
        let pace = Pace::new(timeouts);
        let mut body = HttpBody {
            incoming,
            handed_on: 0,
            connection: Some(connection),
            endpoint,
            pace,
            timer: None,
            second_look: None,
        };
        body.release_at_end();
        body
    }

    /// Hands the connection on as soon as the last byte is here, without waiting to be asked for what is after it.
    fn release_at_end(&mut self) {
        if self.incoming.is_at_end() {
            self.release();
        }
    }

    /// The permit goes after the connection, so that whoever takes it up finds the connection unused.
    fn release(&mut self) {
        let permit = match self.connection.take() {
            Some(Connection::Http1(mut http1)) => {
                let permit = http1.free();
                self.endpoint.give_back(http1);
                permit
            }
            Some(Connection::Http2(mut share)) => share.free(),
            None => return,
        };
        drop(permit);
    }

    fn poll_chunk(
        &mut self,
        entered: &mut Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Failure>>> {
        // A body that comes faster than it is read is never waited for: its reader gives way to other tasks now and then.
        let progress = ready!(tokio::task::coop::poll_proceed(cx));
        let poll = self.poll_data(cx);
        if poll.is_ready() {
            progress.made_progress();
        }
        match poll {
            Poll::Ready(Some(Ok(data))) => {
                self.release_at_end();
                self.second_look = None;
                let waited = entered.map_or(Duration::ZERO, |entered| entered.elapsed());
                Poll::Ready(Some(self.pace.came(waited, data.len()).map(|()| data)))
            }
            Poll::Ready(Some(Err(failure))) => Poll::Ready(Some(Err(failure))),
            Poll::Ready(None) => {
                self.release();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let entered = *entered.get_or_insert_with(Instant::now);
                let failure = ready!(self.poll_timer(entered, cx));
                Poll::Ready(Some(Err(failure)))
            }
        }
    }

    /// The next bytes, for which a connection of HTTP/1.1 is moved where none are here yet.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        let host = self.endpoint.target.name();
        let mut poll = self.incoming.poll_data(host, cx);
        if let Some(Connection::Http1(http1)) = &mut self.connection
            && poll.is_pending()
        {
            http1.drive(cx);
            poll = self.incoming.poll_data(host, cx);
            let bytes_max = self.handed_on.saturating_mul(FRAMING_BYTES_EACH).saturating_add(FRAMING_BYTES_MAX);
            if poll.is_pending() && http1.body_bytes() > bytes_max {
                // Nothing but the sizes of chunks, and what may stand beside them, without end.
                return Poll::Ready(Some(Err(classify::endless_framing(host))));
            }
        }
        if let Poll::Ready(Some(Ok(data))) = &poll {
            self.handed_on += data.len() as u64;
        }
        poll
    }

    fn poll_timer(&mut self, entered: Instant, cx: &mut Context<'_>) -> Poll<Failure> {
        let Some((deadline, failure)) = self.pace.deadline(entered) else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            // Looked at first: a timer does not fire in a turn that reading has used up.
            if Instant::now() >= deadline {
                let second_look = || Instant::now() + patience::second_look(deadline).unwrap_or_default();
                let end = *self.second_look.get_or_insert_with(second_look);
                if Instant::now() >= end {
                    return Poll::Ready(failure(&self.pace));
                }
                timer.as_mut().reset(end);
                ready!(timer.as_mut().poll(cx));
                continue;
            }
            ready!(timer.as_mut().poll(cx));
            timer.as_mut().reset(deadline);
        }
    }
}

impl BodySource for HttpBody {
    fn chunk(&mut self) -> BoxFuture<'_, Option<Result<Bytes, Failure>>> {
        Box::pin(async move {
            let mut entered = None;
            let chunk = std::future::poll_fn(|cx| self.poll_chunk(&mut entered, cx)).await;
            if matches!(chunk, Some(Err(_))) {
                // Nothing more comes of it, and dropping it closes it.
                self.connection = None;
            }
            chunk
        })
    }

    fn origin_wait(&self) -> Duration {
        self.pace.origin_wait
    }
}

/// Whether a body comes fast enough. Only time spent waiting for bytes counts, so a reader that slows itself down, by a
/// limit or a disk, does not blame the origin.
struct Pace {
    idle: Duration,
    bytes_per_second: u64,
    window: Duration,
    /// The time spent waiting, and the bytes that came, in the current window.
    waited: Duration,
    bytes: u64,
    origin_wait: Duration,
}

impl Pace {
    fn new(timeouts: &Timeouts) -> Pace {
        let window = timeouts.low_speed_window;
        let bytes_per_second = if window.is_zero() { 0 } else { timeouts.low_speed_bytes_per_second };
        Pace {
            idle: timeouts.idle,
            bytes_per_second,
            window,
            waited: Duration::ZERO,
            bytes: 0,
            origin_wait: Duration::ZERO,
        }
    }

    /// Counts bytes that came after a wait for them.
    ///
    /// Fails where too few bytes came in a whole window.
    fn came(&mut self, waited: Duration, bytes: usize) -> Result<(), Failure> {
        self.waited += waited;
        self.origin_wait += waited;
        self.bytes += bytes as u64;
        if self.bytes_per_second == 0 || self.waited < self.window {
            return Ok(());
        }
        if (self.bytes as f64) < self.bytes_per_second as f64 * self.waited.as_secs_f64() {
            return Err(too_slow(self));
        }
        self.waited = Duration::ZERO;
        self.bytes = 0;
        Ok(())
    }

    /// Returns when a wait that began at `entered` has been too long, and what it is then.
    fn deadline(&self, entered: Instant) -> Option<(Instant, Verdict)> {
        let idle = (!self.idle.is_zero()).then_some((self.idle, too_idle as Verdict));
        // What came at once is enough for the time that it would have taken, and for no more than one window of it: a
        // body that falls silent after its first bytes is slow too.
        let earned = self.bytes.checked_div(self.bytes_per_second).map_or(Duration::ZERO, Duration::from_secs);
        let due = self.window.saturating_add(earned.min(self.window)).saturating_sub(self.waited);
        let slow = (self.bytes_per_second > 0).then_some((due, too_slow as Verdict));
        let (wait, failure) = idle.into_iter().chain(slow).min_by_key(|(wait, _)| *wait)?;
        Some((entered.checked_add(wait)?, failure))
    }
}

/// Makes the failure of a deadline that has passed.
type Verdict = fn(&Pace) -> Failure;

fn too_idle(pace: &Pace) -> Failure {
    let idle = pace.idle;
    Failure::retryable(FailureReason::TimeoutIdle, format!("no byte came for {idle:?} (`timeouts.idle`)"))
}

fn too_slow(pace: &Pace) -> Failure {
    let Pace { bytes_per_second, window, .. } = pace;
    Failure::retryable(
        FailureReason::LowSpeed,
        format!("fewer than {bytes_per_second} bytes per second came over {window:?} (`timeouts.low_speed`)"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(idle: u64, rate: u64) -> Pace {
        Pace::new(&Timeouts {
            idle: Duration::from_secs(idle),
            low_speed_bytes_per_second: rate,
            low_speed_window: Duration::from_secs(10),
            ..Timeouts::default()
        })
    }

    fn reason(pace: &Pace) -> Option<(u64, FailureReason)> {
        let start = Instant::now();
        pace.deadline(start).map(|(deadline, failure)| ((deadline - start).as_secs(), failure(pace).reason))
    }

    #[tokio::test]
    async fn the_nearest_rule_sets_the_deadline() {
        assert_eq!(reason(&pace(0, 0)), None);
        assert_eq!(reason(&pace(5, 100)), Some((5, FailureReason::TimeoutIdle)));
        assert_eq!(reason(&pace(0, 100)), Some((10, FailureReason::LowSpeed)));
        let mut late = pace(5, 100);
        late.came(Duration::from_secs(7), 10).unwrap();
        assert_eq!(reason(&late), Some((3, FailureReason::LowSpeed)));
        late.came(Duration::ZERO, 1000).unwrap();
        assert_eq!(reason(&late), Some((5, FailureReason::TimeoutIdle)), "the window has its bytes already");
        let mut burst = pace(0, 100);
        burst.came(Duration::ZERO, 1 << 30).unwrap();
        assert_eq!(reason(&burst), Some((20, FailureReason::LowSpeed)), "and then silence");
    }

    #[test]
    fn a_window_is_judged_by_the_time_spent_waiting() {
        let mut pace = pace(0, 100);
        assert!(pace.came(Duration::from_secs(9), 10).is_ok());
        assert_eq!(pace.came(Duration::from_secs(1), 10).unwrap_err().reason, FailureReason::LowSpeed);
        let mut pace = super::tests::pace(0, 100);
        assert!((0..1000).all(|_| pace.came(Duration::ZERO, 1).is_ok()));
        assert!(pace.came(Duration::from_secs(10), 1).is_ok());
        assert_eq!((pace.waited, pace.bytes), (Duration::ZERO, 0), "a new window");
    }
}
