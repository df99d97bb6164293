//! What an attempt comes to in which no source brought the file: the one failure that is told, and whose it is. Pure.

use crate::download::probe::Exchanged;
use crate::files::remarks::Remarks;
use crate::model::failure::{Failure, FailureReason};
use crate::model::retry::{RetryPolicy, backoff};
use crate::model::time::Timestamp;

/// How a source failed.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    /// Its number.
    pub(super) source: usize,
    pub(super) failure: Failure,
    /// Whom it had asked last, and what came.
    pub(super) exchanged: Exchanged,
}

impl Failed {
    fn is_pause(&self) -> bool {
        self.failure.retryable && self.failure.paused_until.is_some()
    }

    fn is_wrong_file(&self) -> bool {
        self.failure.reason == FailureReason::ChecksumMismatch
    }
}

/// Returns what is known of the sources once an attempt has ended that does not count: each of those that were asked has
/// failed once more, and rests as a task of it alone would. Of one that had a wrong file the doubts say it.
pub(super) fn note_failures(
    remarks: &mut Remarks,
    failures: &[Failed],
    ids: &[String],
    retry: &RetryPolicy,
    now: Timestamp,
) {
    for (source, id) in ids.iter().enumerate() {
        let own = || failures.iter().filter(|it| it.source == source && !it.is_pause() && !it.is_wrong_file());
        let comes_again = |it: &Failed| it.failure.retryable || retry.asks_for(&it.failure);
        let Some(soonest) = own().min_by_key(|it| (!comes_again(it), it.failure.retry_after)) else { continue };
        if comes_again(soonest) {
            let times = remarks.failures(id).saturating_add(1);
            let wait = backoff(retry, times, 0.0).max(soonest.failure.retry_after.unwrap_or_default());
            remarks.note_failure(id, now.plus(wait));
        } else {
            remarks.note_gone(id);
        }
    }
}

/// Returns the failure of an attempt that does not count: the first end of a pause that is waited for, or the end of the backoff of
/// another source, as these have it, if that comes first. `awaited`: the sources that are waited for.
pub(super) fn waiting(
    failures: Vec<Failed>,
    awaited: &[usize],
    backoffs: impl Iterator<Item = Timestamp>,
) -> Option<Failed> {
    let pauses = failures.iter().filter(|it| it.is_pause() && awaited.contains(&it.source));
    let pause = pauses.min_by_key(|it| it.failure.paused_until)?.clone();
    let until = pause.failure.paused_until.into_iter().chain(backoffs).min();
    let mut others: Vec<usize> = failures.iter().filter(|it| !it.is_pause()).map(|it| it.source).collect();
    others.sort_unstable();
    others.dedup();
    let asked = failures.into_iter().rfind(|it| !it.is_pause());
    let message = match &asked {
        None => pause.failure.message.clone(),
        Some(asked) => {
            let count = others.len();
            let failed = if count == 1 { "another source".to_owned() } else { format!("{count} other sources") };
            format!("{}; {failed} failed: {}", pause.failure.message, asked.failure.message)
        }
    };
    let failure = Failure { paused_until: until, message, ..pause.failure };
    // What the attempt saw is what came of the source that it asked.
    Some(Failed { source: pause.source, failure, exchanged: asked.map_or(pause.exchanged, |asked| asked.exchanged) })
}

/// Returns the failure of an attempt that counts. Whether and when another follows is decided by a failure that another attempt may
/// resolve: the first of those that ask for the shortest wait; a pause only where there is no other. A wrong file explains more
/// than what else went wrong, and what came of a request more than that one was not made.
pub(super) fn counted(mut failures: Vec<Failed>, retry: &RetryPolicy, now: Timestamp) -> Option<Failed> {
    let comes_again = |it: &Failed| it.failure.retryable || retry.asks_for(&it.failure);
    let counts = |it: &Failed| comes_again(it) && !it.is_pause();
    let soonest = (0..failures.len()).filter(|at| counts(&failures[*at]));
    let soonest = soonest.min_by_key(|at| failures[*at].failure.retry_after);
    let decides = soonest.or_else(|| failures.iter().position(comes_again));
    let told = failures.iter().rposition(Failed::is_wrong_file).or(soonest);
    let told = told.or_else(|| failures.iter().position(|it| !it.is_pause())).unwrap_or_default();
    // A status that the task asks for again by itself needs no word from another failure.
    let retryable = decides.is_some_and(|at| at != told || failures[at].failure.retryable);
    let wait = decides.and_then(|at| {
        let failure = &failures[at].failure;
        failure.retry_after.max(failure.paused_until.map(|until| until.since(now)))
    });
    let more = more_of(&failures, told, now);
    let mut told = if failures.is_empty() { return None } else { failures.swap_remove(told) };
    told.failure = Failure {
        message: format!("{}{more}", told.failure.message),
        retryable,
        retry_after: if decides.is_some() { wait } else { told.failure.retry_after },
        paused_until: None,
        paused_host: None,
        ..told.failure
    };
    Some(told)
}

/// How many sources have failed, where that was more than one and does not go without saying, and how many were not asked.
fn more_of(failures: &[Failed], told: usize, now: Timestamp) -> String {
    let sources_of = |is_it: &dyn Fn(&Failed) -> bool| {
        let mut sources: Vec<usize> = failures.iter().filter(|it| is_it(it)).map(|it| it.source).collect();
        sources.sort_unstable();
        sources.dedup();
        sources
    };
    let failed = sources_of(&|it| !it.is_pause());
    let own = failures.get(told).map(|it| it.source);
    let paused = sources_of(&|it| it.is_pause() && !failed.contains(&it.source) && Some(it.source) != own);
    let mut parts = Vec::new();
    if failed.len() > 1 && !failures.get(told).is_some_and(Failed::is_wrong_file) {
        parts.push(format!("{} sources failed", failed.len()));
    }
    if !paused.is_empty() {
        let until = failures.iter().filter(|it| paused.contains(&it.source)).filter_map(|it| it.failure.paused_until);
        let until = until.min().unwrap_or_default().time_of_day(now);
        parts.push(match paused.len() {
            1 => format!("the host of 1 other source is paused until {until}"),
            count => format!("the hosts of {count} other sources are paused, the first until {until}"),
        });
    }
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join("; ")) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn of(source: usize, failure: Failure) -> Failed {
        Failed { source, failure, exchanged: Exchanged::default() }
    }

    fn cut() -> Failure {
        Failure::retryable(FailureReason::Truncated, "cut")
    }

    fn gone() -> Failure {
        Failure::fatal(FailureReason::HttpStatus, "gone")
    }

    fn wrong() -> Failure {
        Failure::fatal(FailureReason::ChecksumMismatch, "wrong")
    }

    fn paused(until: i64) -> Failure {
        let message = "`a:80` is paused".to_owned();
        Failure { paused_until: Some(Timestamp(until)), message, ..cut() }
    }

    fn told(failures: Vec<Failure>) -> (usize, String, bool) {
        let failures = failures.into_iter().enumerate().map(|(source, failure)| of(source, failure)).collect();
        let told = counted(failures, &RetryPolicy::default(), Timestamp(0)).unwrap();
        (told.source, told.failure.message, told.failure.retryable)
    }

    #[test]
    fn what_explains_is_told_and_what_may_pass_is_tried_again() {
        let says = |source, message: &str, retryable| (source, message.to_owned(), retryable);
        assert_eq!(told(vec![cut(), wrong()]), says(1, "wrong", true));
        assert_eq!(told(vec![wrong(), cut()]), says(0, "wrong", true));
        assert_eq!(told(vec![gone(), wrong()]), says(1, "wrong", false));
        assert_eq!(told(vec![gone(), cut()]), says(1, "cut (2 sources failed)", true));
        let busy = || Failure { retry_after: Some(Duration::from_secs(300)), ..cut() };
        assert_eq!(told(vec![busy(), cut()]).0, 1, "nobody waits for a source where another has no wish");
        assert_eq!(told(vec![cut(), busy()]).0, 0);
        assert!(counted(Vec::new(), &RetryPolicy::default(), Timestamp(0)).is_none());
    }

    /// Whichever failure is told.
    #[test]
    fn a_status_that_is_asked_for_again_is() {
        let retry = RetryPolicy { retry_statuses: vec![404], ..RetryPolicy::default() };
        let missing = || Failure { http_status: 404, ..gone() };
        for failures in [vec![missing(), wrong()], vec![wrong(), missing()], vec![gone(), missing()], vec![missing()]] {
            let failures =
                || failures.iter().cloned().enumerate().map(|(source, failure)| of(source, failure)).collect();
            let follows = |retry: &RetryPolicy| {
                let failure = counted(failures(), retry, Timestamp(0)).unwrap().failure;
                failure.retryable || retry.asks_for(&failure)
            };
            assert_eq!([&retry, &RetryPolicy::default()].map(follows), [true, false]);
        }
    }

    #[test]
    fn a_source_that_was_not_asked_is_not_said_to_have_failed() {
        let named = "the host of 1 other source is paused until 00:00:09 UTC";
        let says = |source, message: String, retryable| (source, message, retryable);
        assert_eq!(told(vec![paused(9_000_000), cut()]), says(1, format!("cut ({named})"), true));
        let two = told(vec![gone(), paused(9_000_000), cut()]);
        assert_eq!(two, says(2, format!("cut (2 sources failed; {named})"), true));
        let both = told(vec![paused(9_000_000), gone(), paused(8_000_000)]);
        let hosts = "the hosts of 2 other sources are paused, the first until 00:00:08 UTC";
        assert_eq!(both, says(1, format!("gone ({hosts})"), true));
        let failures = vec![of(0, wrong()), of(1, paused(9_000_000))];
        let told = counted(failures, &RetryPolicy::default(), Timestamp(2_000_000)).unwrap().failure;
        assert_eq!((told.retryable, told.paused_until), (true, None));
        assert_eq!(told.retry_after, Some(Duration::from_secs(7)), "it waits for the host all the same");
        assert_eq!(told.message, format!("wrong ({named})"));
    }

    #[test]
    fn a_wait_ends_with_the_first_pause_or_backoff_and_says_what_else_failed() {
        let failures = || vec![of(0, paused(9)), of(1, cut()), of(2, gone()), of(3, paused(8)), of(4, paused(3))];
        let end = waiting(failures(), &[0, 3], [].into_iter()).unwrap();
        assert_eq!((end.source, end.failure.paused_until), (3, Some(Timestamp(8))), "the last is not waited for");
        assert_eq!(end.failure.message, "`a:80` is paused; 2 other sources failed: gone");
        let end = waiting(failures(), &[0, 3], [Timestamp(5)].into_iter()).unwrap();
        assert_eq!(end.failure.paused_until, Some(Timestamp(5)));
        assert!(waiting(vec![of(1, cut())], &[0], [].into_iter()).is_none());
    }

    #[test]
    fn each_source_that_was_asked_rests_as_a_task_of_it_alone_would() {
        let ids = ["a", "b", "c", "d", "e"].map(String::from);
        let retry = RetryPolicy { jitter: 0.0, ..RetryPolicy::default() };
        let busy = Failure { retry_after: Some(Duration::from_secs(7)), ..cut() };
        let failures = [of(0, paused(9)), of(1, cut()), of(2, gone()), of(3, busy), of(4, wrong())];
        let mut remarks = Remarks::default();
        note_failures(&mut remarks, &failures, &ids, &retry, Timestamp(0));
        note_failures(&mut remarks, &failures, &ids, &retry, Timestamp(0));
        assert_eq!(ids.each_ref().map(|id| remarks.failures(id)), [0, 2, u32::MAX, 2, 0]);
        assert_eq!(remarks.rests_until("b"), Some(Timestamp(2_000_000)), "twice the first backoff");
        assert_eq!(remarks.rests_until("d"), Some(Timestamp(7_000_000)));
    }
}
