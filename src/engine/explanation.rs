//! The reasons why something does not run now: plain values.

use std::collections::HashMap;

use crate::model::ids::TaskIndex;
use crate::model::time::Timestamp;

/// What a task waits for, as the contract names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // The contract's names.
pub enum WaitReason {
    ServerLimit,
    HostLimit,
    JobLimit,
    RateLimit,
    HostPaused,
    BackingOff,
    StartTime,
    JobPaused,
    DiskSpace,
    Draining,
    TenantLimit,
    TenantStorage,
}

impl WaitReason {
    /// All of them, in the order of the contract.
    pub const ALL: [WaitReason; 12] = [
        Self::ServerLimit,
        Self::HostLimit,
        Self::JobLimit,
        Self::RateLimit,
        Self::HostPaused,
        Self::BackingOff,
        Self::StartTime,
        Self::JobPaused,
        Self::DiskSpace,
        Self::Draining,
        Self::TenantLimit,
        Self::TenantStorage,
    ];
}

/// How many tasks wait for what, in the order of [`WaitReason::ALL`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waits(pub [u64; WaitReason::ALL.len()]);

impl Waits {
    /// Adds tasks that wait for one reason.
    pub(crate) fn add(&mut self, reason: WaitReason, count: u64) {
        let all = &mut self.0[reason as usize];
        *all = all.saturating_add(count);
    }
}

/// What is said of a task that backs off.
pub const BACKING_OFF: &str = "its next attempt is not due yet";

/// What is said of a task whose job is paused.
pub const JOB_PAUSED: &str = "the job is paused; resume it to go on";

/// Says that so many tasks run, and that no more may.
pub(crate) fn as_many(count: u32, whose: &str, allowed: &str) -> String {
    let running = if count == 1 { format!("a task{whose} runs") } else { format!("{count} tasks{whose} run") };
    format!("{running}, as many as {allowed}")
}

/// A reason to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The kind of the reason.
    pub reason: WaitReason,
    /// When the wait ends, where that is known.
    pub until: Option<Timestamp>,
    /// A text for people.
    pub message: String,
}

/// The reasons why the waiting tasks of a job do not run.
#[derive(Clone, Debug, Default)]
pub struct Explanation {
    /// What holds the whole job.
    pub job: Option<Wait>,
    /// What holds the tasks that were asked for, where something does.
    pub tasks: HashMap<TaskIndex, Wait>,
    /// The reasons over the lanes that have work, each with how many tasks of them are in memory. Only where no task was
    /// asked for.
    pub lanes: Vec<(Wait, u32)>,
}

impl Explanation {
    /// The reason why a task does not run; `None`: it is about to.
    pub fn task(&self, index: TaskIndex) -> Option<&Wait> {
        self.job.as_ref().or_else(|| self.tasks.get(&index))
    }
}
