//! What is counted of the engine's work, in the words of the metrics; and what it answers to who asks how much there is.

use std::sync::atomic::{AtomicI64, Ordering};

use url::Url;

use crate::engine::attempt::Ended;
use crate::engine::queue::task::Running;
use crate::model::failure::FailureReason;
use crate::model::host::Host;
use crate::model::job::{Job, JobState};
use crate::model::outcome::ResumeKind;
use crate::model::spec::{TaskSpec, Work};
use crate::model::task::{Task, TaskEvent, TaskState};
use crate::model::time::Timestamp;
use crate::store::Batch;
use crate::telemetry::metrics::{AttemptOutcome, AttemptSeen, End, Kind, Metrics};

/// Jobs that have not ended and their tasks, by state, as they were committed last. One task writes it, and anybody reads.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// By the number of the state.
    jobs: [AtomicI64; 8],
    pending: AtomicI64,
    running: AtomicI64,
    backing_off: AtomicI64,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenWork {
    /// Jobs: pending, running, paused, cancelling.
    pub jobs: [u64; 4],
    /// Their tasks: pending, running, backing off.
    pub tasks: [u64; 3],
}

impl Totals {
    /// A job is other than it was; `None`: it was not there, or is there no more.
    pub(crate) fn moved(&self, before: Option<&Job>, after: Option<&Job>) {
        for (job, sign) in before.map(|job| (job, -1)).into_iter().chain(after.map(|job| (job, 1))) {
            self.jobs[job.state as usize].fetch_add(sign, Ordering::Relaxed);
            let counts = [
                (&self.pending, job.counts.pending),
                (&self.running, job.counts.running),
                (&self.backing_off, job.counts.backing_off),
            ];
            for (total, count) in counts {
                total.fetch_add(sign * i64::from(count), Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn read(&self) -> OpenWork {
        let value = |number: &AtomicI64| u64::try_from(number.load(Ordering::Relaxed)).unwrap_or(0);
        let states = [JobState::Pending, JobState::Running, JobState::Paused, JobState::Cancelling];
        OpenWork {
            jobs: states.map(|state| value(&self.jobs[state as usize])),
            tasks: [&self.pending, &self.running, &self.backing_off].map(value),
        }
    }
}

/// A host as it is counted by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamedHost {
    /// Requests to it.
    pub running: u64,
    /// Tasks in memory that wait for room there.
    pub waiting: u64,
    /// Whether no request to it may start for a while.
    pub is_paused: bool,
}

pub(crate) fn kind(work: &Work) -> Kind {
    match work {
        Work::Fetch(_) => Kind::Fetch,
        Work::Download(_) => Kind::Download,
    }
}

pub(crate) fn task_end(state: TaskState) -> End {
    match state {
        TaskState::Succeeded => End::Succeeded,
        TaskState::Cancelled => End::Cancelled,
        _ => End::Failed,
    }
}

pub(crate) fn job_end(state: JobState) -> End {
    match state {
        JobState::Succeeded => End::Succeeded,
        JobState::Cancelled => End::Cancelled,
        _ => End::Failed,
    }
}

/// Says what to count of an attempt that ended and meant `event` for its task, which is still as it ran.
pub(crate) fn attempt(running: &Running, ended: &Ended, event: &TaskEvent, now: Timestamp) -> AttemptSeen {
    let (outcome, reason) = match event {
        TaskEvent::Succeeded(_) => (AttemptOutcome::Succeeded, None),
        TaskEvent::Failed(_, error) | TaskEvent::BackedOff(_, error, _) => (AttemptOutcome::Failed, Some(error.reason)),
        // A sibling or a person ended it: that says nothing about the attempt.
        _ => (AttemptOutcome::GivenBack, None),
    };
    let report = &ended.report;
    let held = running.row.held().bytes;
    let (resumed_bytes, discarded_bytes) = match report.resume_kind {
        ResumeKind::Fresh => (0, 0),
        ResumeKind::Continued | ResumeKind::Complete => (report.resumed_from, 0),
        _ => (0, held),
    };
    AttemptSeen {
        kind: kind(&running.spec.work),
        outcome,
        time: now.since(running.attempt_start),
        failure_reason: reason.map(place),
        resumed_bytes,
        discarded_bytes,
    }
}

pub(crate) fn place(reason: FailureReason) -> usize {
    FailureReason::ALL.iter().position(|other| *other == reason).unwrap_or(usize::MAX)
}

/// Counts a failed attempt at its host, if the host is counted by itself.
pub(crate) fn note_host(metrics: &Metrics, spec: &TaskSpec, event: &TaskEvent) {
    if metrics.hosts().next().is_none() || !matches!(event, TaskEvent::Failed(..) | TaskEvent::BackedOff(..)) {
        return;
    }
    let url = match &spec.work {
        Work::Fetch(fetch) => &fetch.url,
        Work::Download(download) => &download.url,
    };
    let host = Url::parse(url).ok().and_then(|url| Host::of(&url));
    if let Some(own) = host.as_ref().and_then(|host| metrics.host(host.as_str(), host.name())) {
        own.failures.add(1);
    }
}

/// Returns since when a task that is about to start could: since the end of its backoff, or since its job came. Of others
/// (added later, requeued, retried) nobody noted it.
pub(crate) fn ready(job: &Job, task: &Task) -> Option<Timestamp> {
    let came = || job.spec.start_time.map_or(job.create_time, |start| start.max(job.create_time));
    task.due.or_else(|| (task.fence == 0 && !job.spec.open).then(came))
}

/// Returns how many rows a batch changes, about.
pub(crate) fn changes(batch: &Batch) -> usize {
    let submitted: usize = batch.submissions.iter().map(|it| it.tasks.len() + 1).sum();
    let added: usize = batch.additions.iter().map(|it| it.tasks.len() + 1).sum();
    let rest = [
        batch.pages.len(),
        batch.moves.len(),
        batch.claims.len(),
        batch.lane_heads.len(),
        batch.retries.len(),
        batch.sweeps.len(),
        batch.events.len(),
        batch.jobs.len(),
        batch.respecced.len(),
        batch.deletions.len(),
        batch.purges.len(),
        batch.access.len(),
        batch.pauses.len(),
        batch.audit.len(),
    ];
    submitted + added + rest.iter().sum::<usize>()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::ids::JobId;
    use crate::model::spec::JobSpec;

    #[test]
    fn totals_follow_jobs_until_they_are_gone() {
        let totals = Totals::default();
        let mut job = Job::new(JobId(Uuid::from_u128(1)), JobSpec::default(), 5, Timestamp(1));
        totals.moved(None, Some(&job));
        assert_eq!(totals.read(), OpenWork { jobs: [1, 0, 0, 0], tasks: [5, 0, 0] });
        let before = job.clone();
        job.state = JobState::Running;
        assert!(job.counts.try_move(TaskState::Pending, TaskState::Running, 2));
        totals.moved(Some(&before), Some(&job));
        assert_eq!(totals.read(), OpenWork { jobs: [0, 1, 0, 0], tasks: [3, 2, 0] });
        totals.moved(Some(&job), None);
        assert_eq!(totals.read(), OpenWork::default());
    }

    #[test]
    fn a_task_is_ready_when_its_job_came_or_its_backoff_ended() {
        let mut job = Job::new(JobId(Uuid::from_u128(1)), JobSpec::default(), 1, Timestamp(10));
        let mut task = Task::default();
        assert_eq!(ready(&job, &task), Some(Timestamp(10)));
        task.due = Some(Timestamp(30));
        assert_eq!(ready(&job, &task), Some(Timestamp(30)));
        let requeued = Task { fence: 1, ..Task::default() };
        assert_eq!(ready(&job, &requeued), None);
        std::sync::Arc::make_mut(&mut job.spec).open = true;
        assert_eq!(ready(&job, &Task::default()), None, "it may have been added a moment ago");
    }
}
