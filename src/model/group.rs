//! What the end of one task does to its siblings.

use serde::{Deserialize, Serialize};

use crate::model::counts::Counts;
use crate::model::failure::is_default;

/// How the tasks of a job depend on each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupPolicy {
    /// What a failure does.
    pub mode: GroupMode,
    /// How many tasks may fail before the job has failed.
    #[serde(skip_serializing_if = "is_default")]
    pub max_failures: u32,
    /// How many tasks run at once; 0: as many as the server allows.
    #[serde(skip_serializing_if = "is_default")]
    pub max_concurrency: u32,
}

/// What one end does to the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupMode {
    /// The failure that exceeds `max_failures` cancels the siblings.
    #[default]
    FailFast,
    /// All run to their end.
    Collect,
    /// The first success cancels the rest.
    FirstSuccess,
}

/// What the group makes of the counts after an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The others go on.
    Continue,
    /// The others are to be stopped, because a sibling failed.
    StopFailed,
    /// The others are to be stopped, because a sibling succeeded and that is enough.
    StopSucceeded,
    /// All have ended, and this is how.
    Settle {
        /// SUCCEEDED or FAILED.
        succeeded: bool,
    },
}

/// Ends from before a retry, which decide nothing about the tasks that run again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Tasks that failed and were not put back.
    pub failures: u32,
    /// Tasks that succeeded.
    pub successes: u32,
}

/// Judges a group by its counts: `open` says whether more tasks may come. What was `settled` before a retry stops nobody,
/// and counts at the end as every other task does.
pub fn judge(policy: GroupPolicy, counts: &Counts, settled: Settled, open: bool) -> Verdict {
    let won = policy.mode == GroupMode::FirstSuccess && counts.succeeded > settled.successes;
    let lost =
        policy.mode == GroupMode::FailFast && counts.failed.saturating_sub(settled.failures) > policy.max_failures;
    if counts.unfinished() > 0 {
        return match (won, lost) {
            (true, _) => Verdict::StopSucceeded,
            (_, true) => Verdict::StopFailed,
            _ => Verdict::Continue,
        };
    }
    if open && !won && !lost {
        return Verdict::Continue;
    }
    let succeeded = match policy.mode {
        GroupMode::FirstSuccess => counts.succeeded > 0 || counts.total == 0,
        GroupMode::FailFast | GroupMode::Collect => counts.failed <= policy.max_failures,
    };
    Verdict::Settle { succeeded }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pending: u32, succeeded: u32, failed: u32) -> Counts {
        Counts { total: pending + succeeded + failed, pending, succeeded, failed, ..Counts::default() }
    }

    #[test]
    fn every_mode_over_every_kind_of_count() {
        let mut table = String::new();
        for mode in [GroupMode::FailFast, GroupMode::Collect, GroupMode::FirstSuccess] {
            for max_failures in [0, 1] {
                for (pending, succeeded, failed) in
                    [(0, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (1, 0, 2), (0, 2, 0), (0, 1, 1), (0, 0, 2)]
                {
                    for open in [false, true] {
                        let policy = GroupPolicy { mode, max_failures, max_concurrency: 0 };
                        let verdict = judge(policy, &counts(pending, succeeded, failed), Settled::default(), open);
                        table += &format!(
                            "{mode:?} max_failures={max_failures} pending={pending} succeeded={succeeded} failed={failed} open={open}: {verdict:?}\n"
                        );
                    }
                }
            }
        }
        insta::assert_snapshot!(table);
    }
}
