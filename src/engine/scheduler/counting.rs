//! How many tasks wait for what, over all jobs.
//!
//! Nobody counts that as it changes: a host that is full holds back whatever is queued behind it. So who asks has it counted,
//! a bounded number of lanes in each turn of the loop. What was counted within the last minute is the answer where counting takes
//! more than one turn, so that few wait for it.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::engine::explanation::{WaitReason, Waits};
use crate::engine::jobs::Stage;
use crate::engine::queue::Hold;
use crate::engine::scheduler::Scheduler;
use crate::limits::Blocked;
use crate::model::host::Host;
use crate::model::ids::JobId;
use crate::model::job::JobState;
use crate::model::outcome::ShortOf;
use crate::model::tenant::DEFAULT_NO;
use crate::model::time::Timestamp;
use crate::model::told;
use crate::store::LaneNumber;

/// Jobs and lanes that one turn of the loop looks at: about a millisecond.
const LOOKS_MAX: usize = 2_000;
/// How long the last count answers for the next one.
const LAST_KEPT: Duration = Duration::from_secs(60);
/// Lanes of one job that are looked at: what holds those stands for all.
const LANES_MAX: usize = 500;

impl Scheduler {
    /// Begins to count, unless that is under way, for somebody who asks.
    pub(super) fn ask_survey(&mut self, reply: oneshot::Sender<Waits>) {
        if self.survey.left.is_none() {
            self.survey.left = Some(self.jobs.iter().map(|(id, _)| *id).collect());
            self.survey.waits = Waits::default();
        }
        self.survey.asked.push(reply);
        let is_long = self.survey.left.as_ref().is_some_and(|left| left.len() > LOOKS_MAX);
        let now = self.now();
        if let Some((_, last)) = self.survey.last.clone().filter(|(at, _)| is_long && now.since(*at) < LAST_KEPT) {
            self.answer_survey(&last);
        }
    }

    /// Counts on, where somebody asked.
    pub(super) fn survey_on(&mut self) {
        let Some(mut left) = self.survey.left.take() else { return };
        let (now, mut looks) = (self.now(), 0);
        while looks < LOOKS_MAX {
            let Some(job) = left.pop() else {
                let mut waits = std::mem::take(&mut self.survey.waits);
                waits.add(WaitReason::DiskSpace, self.queue.held_for_room(ShortOf::Disk));
                waits.add(WaitReason::TenantStorage, self.queue.held_for_room(ShortOf::Tenant));
                waits.add(WaitReason::HostPaused, self.queue.held_for_hosts());
                self.answer_survey(&waits);
                self.survey.last = Some((now, waits));
                return;
            };
            looks += 1 + self.survey_job(job, now);
        }
        self.survey.left = Some(left);
    }

    fn answer_survey(&mut self, waits: &Waits) {
        for reply in self.survey.asked.drain(..) {
            // Who asked may be gone.
            let _ = reply.send(waits.clone());
        }
    }

    /// Counts the waiting tasks of a job. Returns how many lanes it looked at.
    fn survey_job(&mut self, job: JobId, now: Timestamp) -> usize {
        let Some(run) = self.jobs.get(job) else { return 0 };
        let counts = told::counts(run.job.state, run.job.counts);
        let waits = &mut self.survey.waits;
        waits.add(WaitReason::BackingOff, u64::from(counts.backing_off));
        let pending = u64::from(counts.pending);
        let whole = if self.draining {
            Some(WaitReason::Draining)
        } else if run.job.state == JobState::Paused {
            Some(WaitReason::JobPaused)
        } else if run.job.spec.start_time.is_some_and(|start| start > now) {
            Some(WaitReason::StartTime)
        } else {
            None
        };
        if let Some(reason) = whole {
            waits.add(reason, pending);
            return 0;
        }
        if pending == 0 || !matches!(run.stage, Stage::Open) {
            return 0;
        }
        let mut lanes: Vec<(Option<WaitReason>, u64)> = Vec::new();
        let (mut looks, mut held_back) = (0, 0);
        for look in self.queue.lane_looks(job, LANES_MAX) {
            looks += 1;
            held_back += look.held_back;
            if look.weight > 0 {
                lanes.push((self.lane_reason(job, look.number, look.host, now), look.weight));
            }
        }
        // How many tasks of a lane are in the store is not always known, so those of the job are shared out by what is.
        let shared = pending.saturating_sub(held_back);
        let all: u64 = lanes.iter().map(|(_, weight)| weight).sum();
        for (reason, weight) in lanes {
            if let Some(reason) = reason {
                let share = u128::from(shared) * u128::from(weight) / u128::from(all.max(1));
                self.survey.waits.add(reason, u64::try_from(share).unwrap_or(u64::MAX));
            }
        }
        looks
    }

    /// As the explanation of a task has it, without words. `None`: it only waits for its turn.
    fn lane_reason(&self, job: JobId, lane: LaneNumber, host: &Host, now: Timestamp) -> Option<WaitReason> {
        let tenant = self.jobs.get(job).map_or(DEFAULT_NO, |run| run.job.tenant.no);
        match self.queue.hold(job, lane) {
            Hold::Job => None,
            Hold::Cap => Some(WaitReason::JobLimit),
            Hold::Rate => Some(WaitReason::RateLimit),
            Hold::Tenant if self.storage_used_up(tenant).is_some() => Some(WaitReason::TenantStorage),
            Hold::Tenant => Some(WaitReason::TenantLimit),
            Hold::Host | Hold::Turn => match self.runner.hosts.check(host, tenant) {
                Err(Blocked::Full) => Some(WaitReason::HostLimit),
                Err(Blocked::Share | Blocked::LeftToOthers) => Some(WaitReason::TenantLimit),
                Err(Blocked::Rate(until)) => (until > now).then_some(WaitReason::RateLimit),
                Err(Blocked::Paused(_)) => Some(WaitReason::HostPaused),
                Ok(()) => (self.queue.running() >= self.places()).then_some(WaitReason::ServerLimit),
            },
        }
    }
}
