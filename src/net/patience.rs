//! Timeouts for what an origin is silent about.
//!
//! A process that stood still, with its machine perhaps, finds its timers over before it has looked at what came meanwhile. It
//! looks once more before it blames the origin.

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

/// How late a timer is that the process has slept through.
const STILL: Duration = Duration::from_millis(500);
/// How long is looked once more.
const SECOND_LOOK: Duration = Duration::from_millis(100);

/// The time of `wait` is over.
#[derive(Debug)]
pub(super) struct Over;

/// Waits for `work`, at most as long as `wait`.
pub(super) async fn within<F: Future + Unpin>(wait: Duration, mut work: F) -> Result<F::Output, Over> {
    let Some(deadline) = Instant::now().checked_add(wait) else { return Ok(work.await) };
    if let Ok(done) = timeout_at(deadline, &mut work).await {
        return Ok(done);
    }
    match second_look(deadline) {
        Some(look) => timeout(look, work).await.map_err(|_| Over),
        None => Err(Over),
    }
}

/// Returns how long is looked once more when `deadline` has passed; `None`: it is over.
pub(super) fn second_look(deadline: Instant) -> Option<Duration> {
    (deadline + STILL <= Instant::now()).then_some(SECOND_LOOK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_came_while_the_process_stood_still_is_taken() {
        let wait = Duration::from_secs(4);
        let ready_at = |at: Instant| {
            Box::pin(async move {
                tokio::time::sleep_until(at).await;
                1
            })
        };
        let now = Instant::now();
        assert!(within(wait, ready_at(now + wait * 2)).await.is_err(), "nothing came");
        assert_eq!(Instant::now() - now, wait);
        let (now, sleeps) = (Instant::now(), ready_at(Instant::now() + wait * 2));
        let mut waiting = Box::pin(within(wait, sleeps));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        tokio::time::advance(wait + Duration::from_millis(3_950)).await;
        assert_eq!(waiting.await.unwrap(), 1);
        assert!(Instant::now() - now < wait * 3);
    }
}
