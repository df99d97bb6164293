//! How long a job rests before it is read again. Pure.
//!
//! A contradiction is gone once its job was read again, mostly. One that is in the rows themselves, since they are damaged, is there
//! again at once: without a rest the loop would do little else, and fill the log.

use std::collections::HashMap;
use std::time::Duration;

use crate::model::ids::JobId;
use crate::model::time::Timestamp;

/// The rest before the second reading; doubled with each that follows.
const REST_MIN: Duration = Duration::from_secs(1);
/// The longest rest. Whoever asks something of the job waits for its end.
const REST_MAX: Duration = Duration::from_secs(10);
/// How long after a reading a contradiction is the first one again.
const FORGOTTEN: Duration = Duration::from_secs(120);

/// The jobs that were read again of late.
#[derive(Debug, Default)]
pub(super) struct Rereads(HashMap<JobId, Reread>);

/// The last reading of a job.
#[derive(Debug)]
struct Reread {
    /// The rest before it.
    rest: Duration,
    at: Timestamp,
}

impl Rereads {
    /// Notes that a job is to be read again. Returns how long it rests before that.
    pub(super) fn begin(&mut self, job: JobId, now: Timestamp) -> Duration {
        self.0.retain(|_, reread| reread.at.plus(FORGOTTEN) > now);
        let before = self.0.get(&job).map(|reread| reread.rest);
        let rest = before.map_or(Duration::ZERO, |rest| (rest * 2).clamp(REST_MIN, REST_MAX));
        self.0.insert(job, Reread { rest, at: now.plus(rest) });
        rest
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_job_that_contradicts_itself_again_and_again_rests_longer_each_time() {
        let mut rereads = Rereads::default();
        let [id, other] = [1, 2].map(|number| JobId(Uuid::from_u128(number)));
        let mut now = Timestamp(1_000_000);
        let mut rests = Vec::new();
        for _ in 0..10 {
            let rest = rereads.begin(id, now);
            rests.push(rest.as_secs());
            now = now.plus(rest);
        }
        assert_eq!(rests, [0, 1, 2, 4, 8, 10, 10, 10, 10, 10]);
        assert_eq!(rereads.begin(other, now), Duration::ZERO, "each job by itself");
        now = now.plus(FORGOTTEN);
        assert_eq!((rereads.begin(id, now), rereads.0.len()), (Duration::ZERO, 1), "it went well for long");
    }
}
