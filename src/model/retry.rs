//! Whether and when to try again.

use std::time::Duration;

use crate::model::failure::Failure;
use crate::model::time::Timestamp;

/// When and how often a failed attempt is tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Attempts, the first included.
    pub max_attempts: u32,
    /// The wait before the second attempt.
    pub initial_backoff: Duration,
    /// The longest wait.
    pub max_backoff: Duration,
    /// By what each wait grows over the one before.
    pub backoff_multiplier: f64,
    /// The random part of each wait, from 0 to 1.
    pub jitter: f64,
    /// Statuses that are tried again, beside those that always are.
    pub retry_statuses: Vec<u16>,
    /// Whether a request that an origin may have looked at is sent again. Where it is not, only what was never sent is
    /// tried again.
    pub may_repeat: bool,
}

impl RetryPolicy {
    /// Whether no attempt follows attempt number `attempt` (from 1, counted ones only).
    pub fn is_last(&self, attempt: u32) -> bool {
        attempt >= self.max_attempts
    }

    /// Whether another attempt is wanted after this failure, although the same is to be expected of it.
    pub fn asks_for(&self, failure: &Failure) -> bool {
        failure.http_status != 0 && self.retry_statuses.contains(&failure.http_status)
    }
}

/// Whether sending a request of this method twice is meant to have the effect of sending it once (RFC 9110, section
/// 9.2.2).
pub fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            max_attempts: 5,
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
            backoff_multiplier: 2.0,
            jitter: 0.5,
            retry_statuses: Vec::new(),
            may_repeat: true,
        }
    }
}

/// What to do after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Another attempt, not before this time.
    RetryAt(Timestamp),
    /// The task has failed.
    GiveUp,
}

/// Decides after attempt number `attempt` (from 1, counted ones only) failed at `now`. `chance` is uniform in `[0, 1)`.
///
/// The wait is the backoff with its jitter, or what the origin asked for (`Retry-After`) if that is longer; the latter
/// has been capped by the server's limit where it was read.
pub fn decide(policy: &RetryPolicy, attempt: u32, failure: &Failure, now: Timestamp, chance: f64) -> Decision {
    let may_repeat = policy.may_repeat || failure.is_unsent;
    if policy.is_last(attempt) || !may_repeat || !(failure.retryable || policy.asks_for(failure)) {
        return Decision::GiveUp;
    }
    let wait = backoff(policy, attempt, chance).max(failure.retry_after.unwrap_or_default());
    Decision::RetryAt(now.plus(wait))
}

/// The wait after attempt number `attempt`: exponential, capped, with its random part taken off the top, so that
/// `max_backoff` is never exceeded and waits of many tasks spread out downwards.
pub fn backoff(policy: &RetryPolicy, attempt: u32, chance: f64) -> Duration {
    let grown = policy.initial_backoff.as_secs_f64()
        * policy.backoff_multiplier.powi(i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX));
    let capped = grown.min(policy.max_backoff.as_secs_f64());
    Duration::try_from_secs_f64(capped * (1.0 - policy.jitter * chance)).unwrap_or(policy.max_backoff)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::failure::FailureReason;

    fn failure(retryable: bool, http_status: u16, retry_after: Option<Duration>) -> Failure {
        Failure { http_status, retryable, retry_after, ..Failure::fatal(FailureReason::HttpStatus, "") }
    }

    #[test]
    fn waits_double_up_to_the_cap() {
        let policy = RetryPolicy { jitter: 0.0, max_backoff: Duration::from_secs(5), ..RetryPolicy::default() };
        let waits: Vec<u64> = (1..=5).map(|attempt| backoff(&policy, attempt, 0.9).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
    }

    #[test]
    fn gives_up_on_the_last_attempt_and_on_what_is_fatal() {
        let policy = RetryPolicy { max_attempts: 2, ..RetryPolicy::default() };
        let now = Timestamp(0);
        assert_eq!(decide(&policy, 2, &failure(true, 503, None), now, 0.0), Decision::GiveUp);
        assert_eq!(decide(&policy, 1, &failure(false, 404, None), now, 0.0), Decision::GiveUp);
        assert_eq!(decide(&policy, 1, &failure(true, 503, None), now, 0.0), Decision::RetryAt(Timestamp(1_000_000)));
    }

    #[test]
    fn what_must_not_be_repeated_is_tried_again_only_if_it_was_never_sent() {
        let policy = RetryPolicy { may_repeat: false, retry_statuses: vec![404], ..RetryPolicy::default() };
        let now = Timestamp(0);
        assert_eq!(decide(&policy, 1, &failure(true, 503, None), now, 0.0), Decision::GiveUp);
        assert_eq!(decide(&policy, 1, &failure(false, 404, None), now, 0.0), Decision::GiveUp);
        let unsent = Failure { is_unsent: true, ..failure(true, 0, None) };
        assert_eq!(decide(&policy, 4, &unsent, now, 1.0), Decision::RetryAt(Timestamp(4_000_000)));
        assert_eq!(decide(&policy, 5, &unsent, now, 0.0), Decision::GiveUp);
    }

    #[test]
    fn obeys_retry_after_and_the_listed_statuses() {
        let policy = RetryPolicy { retry_statuses: vec![404], jitter: 0.0, ..RetryPolicy::default() };
        let asked = failure(false, 404, Some(Duration::from_secs(9)));
        assert_eq!(decide(&policy, 1, &asked, Timestamp(0), 0.0), Decision::RetryAt(Timestamp(9_000_000)));
    }

    proptest! {
        #[test]
        fn a_wait_is_never_longer_than_the_cap_nor_shorter_than_its_fixed_part(
            attempt in 1u32..2000, jitter in 0.0f64..=1.0, chance in 0.0f64..1.0, multiplier in 1.0f64..100.0,
        ) {
            let policy = RetryPolicy { jitter, backoff_multiplier: multiplier, ..RetryPolicy::default() };
            let wait = backoff(&policy, attempt, chance);
            let least = policy.initial_backoff.mul_f64(1.0 - jitter);
            prop_assert!(wait <= policy.max_backoff);
            prop_assert!(wait + Duration::from_nanos(1) >= least);
        }
    }
}
