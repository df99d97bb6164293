//! When those who watch a job look at what was published, where many do. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// The least time between two looks of a watcher at what is published, for each watcher of the job: five thousand looks a
/// second at one job, however many watch it. A look costs what lies in no cache any more of a watcher, its call and its stream,
/// which is more than what a few more events cost.
const LOOK_EACH: Duration = Duration::from_micros(200);
/// The longest such time, unless the watcher wants to be told of progress more often.
const LOOK_MAX: Duration = Duration::from_millis(200);
/// Below this the timer would cost more than the looks.
const LOOK_MIN: Duration = Duration::from_millis(2);
/// Groups in which the watchers of a job look. Those of a group are woken together and sent the same bytes.
const LOOK_GROUPS: u32 = 8;
/// How many events a look is to find at most: memory keeps only some more of them.
const LOOK_EVENTS: u64 = 256;

/// Returns how far apart the looks of a watcher are where so many watch, who wants to be told of progress each `interval` and
/// whose last look, if there was one, found so many events of so long a time. `None`: it looks as soon as something is published.
pub(super) fn between_looks(watchers: usize, interval: Duration, found: Option<(u64, Duration)>) -> Option<Duration> {
    let watchers = u32::try_from(watchers).unwrap_or(u32::MAX);
    let apart = LOOK_EACH.saturating_mul(watchers).min(LOOK_MAX).min(interval);
    // In which, at this rate, as many are published as a look is to find at most.
    let enough = |(found, of): (u64, Duration)| of.as_secs_f64() * LOOK_EVENTS as f64 / found.max(1) as f64;
    let enough = found.and_then(|found| Duration::try_from_secs_f64(enough(found)).ok());
    let apart = enough.map_or(apart, |enough| apart.min(enough));
    (apart >= LOOK_MIN).then_some(apart)
}

/// Returns when a watcher looks again that looked at `last`, where looks are `apart`: in step with all who have watched the job
/// since `since`, and not later than `apart` from then.
pub(super) fn next_look(since: Instant, last: Instant, apart: Duration) -> Instant {
    let (next, step) = (last + apart, apart / LOOK_GROUPS);
    let beyond = next.saturating_duration_since(since).as_nanos() % step.as_nanos().max(1);
    next - Duration::from_nanos(u64::try_from(beyond).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_watch_the_fewer_looks_each_takes_within_what_it_and_memory_allow() {
        let millis = Duration::from_millis;
        let apart = |watchers, interval, found| between_looks(watchers, millis(interval), Some((found, millis(200))));
        assert_eq!(apart(1, 500, 0), None);
        assert_eq!(between_looks(100, millis(500), None), Some(millis(20)), "it has not looked yet");
        assert_eq!(apart(100, 500, 20), Some(millis(20)));
        assert_eq!(apart(1_000, 500, 256), Some(millis(200)));
        assert_eq!(apart(usize::MAX, 500, 0), Some(millis(200)));
        assert_eq!(apart(1_000, 50, 0), Some(millis(50)), "who wants progress often is told of ends as often");
        assert_eq!(apart(1_000, 500, u64::MAX), None);
        // At a steady rate each look finds as many as memory has room for, and not each second one.
        for rate in [1_000, 2_600, 5_000, 10_000] {
            let mut of = millis(200);
            for _ in 0..8 {
                let found = (of.as_secs_f64() * f64::from(rate)) as u64;
                of = between_looks(1_000, millis(500), Some((found, of))).unwrap();
            }
            let expected = (256.0 / f64::from(rate)).min(0.2);
            assert!((of.as_secs_f64() / expected - 1.0).abs() < 0.05, "{rate}: {of:?}");
        }
    }

    #[test]
    fn watchers_look_in_step() {
        let since = Instant::now();
        let at = |micros| since + Duration::from_micros(micros);
        let apart = Duration::from_millis(100);
        let next: Vec<Instant> = [0, 400, 12_499, 12_500].map(|last| next_look(since, at(last), apart)).into();
        assert_eq!(next, [100_000, 100_000, 100_000, 112_500].map(at));
        assert_eq!(next_look(at(900_000), at(0), apart), at(100_000), "a feed that is newer than the last look");
    }
}
