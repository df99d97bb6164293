//! The jobs that memory knows: those that have not ended, and ended ones for as long as something changes them.
//!
//! Whoever wants to change a job finds it here or queues up here, so that two changes of one job never meet in the store.
//! A job that has not ended is a [`JobRun`]; commands for any other job are a [`Visit`], which works on one of them at a
//! time: it reads what the store has, decides, and takes the next one when that is durable.

mod run;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::engine::command::{Admitted, JobCommand};
use crate::engine::usage::{Part, Usages};
use crate::model::ids::{JobId, JobMap, JobSet};
use crate::model::job::Job;
use crate::model::quotas::Usage;
use crate::model::storage::{Storage, StorageHold, UsedUp};
use crate::model::tenant::TenantNo;

pub(crate) use run::{Activity, Deferred, JobRun, Retrying, Stage, Sweeping};

/// Places of the table of jobs below which it is not made smaller.
const TABLE_MIN: usize = 1024;

/// Commands for a job that has ended, or that memory does not know. The first one is being worked on.
#[derive(Debug, Default)]
pub(crate) struct Visit {
    pub(crate) waiting: VecDeque<Admitted<JobCommand>>,
}

/// The jobs that memory knows.
#[derive(Debug, Default)]
pub(crate) struct JobTable {
    /// Apart from the table, which is the smaller and quicker to make larger: the jobs that wait are many.
    runs: JobMap<Box<JobRun>>,
    visits: BTreeMap<JobId, Visit>,
    /// Jobs on their way to the store. Readers see them a moment before memory does.
    arriving: JobSet,
    /// The memory of all jobs that have not ended, roughly.
    bytes: usize,
    usages: Usages,
    /// Those that name a credential, by their tenants and its name.
    naming: BTreeMap<(TenantNo, String), BTreeSet<JobId>>,
}

impl JobTable {
    /// A job that has not ended.
    pub(crate) fn get(&self, job: JobId) -> Option<&JobRun> {
        self.runs.get(&job).map(|run| &**run)
    }

    /// A job that has not ended.
    pub(crate) fn get_mut(&mut self, job: JobId) -> Option<&mut JobRun> {
        let run = self.runs.get_mut(&job)?;
        if !std::mem::replace(&mut run.is_stale, true) {
            self.usages.mark(job);
        }
        Some(run)
    }

    /// What a tenant has, jobs and tasks that are on their way to the store among it.
    pub(crate) fn usage(&mut self, tenant: TenantNo) -> Usage {
        self.settle_usages();
        self.usages.get(tenant)
    }

    /// What a tenant stores.
    pub(crate) fn storage(&mut self, tenant: TenantNo) -> &Arc<Storage> {
        self.usages.storage(tenant)
    }

    /// What a tenant stores that stores as much as it may.
    pub(crate) fn storage_used_up(&self, tenant: TenantNo) -> Option<UsedUp> {
        self.usages.storage_used_up(tenant)
    }

    /// Counts what has changed.
    pub(crate) fn settle_usages(&mut self) {
        for job in self.usages.take_stale() {
            // One that was removed, and added anew, is counted.
            let Some(run) = self.runs.get_mut(&job).filter(|run| run.is_stale) else { continue };
            self.usages.subtract(run.counted);
            let part = run.part();
            self.usages.stores(run.counted, part);
            (run.counted, run.is_stale) = (part, false);
            self.usages.add(part);
        }
    }

    /// Counts what a job keeps by now, and so many bytes as what an attempt of it holds, in one step: whoever looks meanwhile
    /// sees nothing twice.
    pub(crate) fn hand_over(&mut self, job: JobId, hold: &StorageHold, holds: u64) {
        let Some(run) = self.runs.get_mut(&job) else { return hold.holds(holds) };
        let (before, now) = (run.counted, run.part());
        run.counted = now;
        self.usages.subtract(before);
        self.usages.add(now);
        hold.hands_over((before.stored, now.stored), holds);
    }

    /// The memory of the jobs that have not ended, without their lanes and tasks, roughly.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes the spec of a job.
    pub(crate) fn respec(&mut self, job: JobId, change: impl FnOnce(&mut Job)) {
        if let Some(run) = self.runs.get_mut(&job) {
            self.bytes -= run.bytes();
            change(run.job_mut());
            self.bytes += run.bytes();
        }
    }

    /// Notes that tasks of a job name these credentials, too.
    pub(crate) fn names(&mut self, job: JobId, credentials: BTreeSet<String>) {
        if let Some(run) = self.runs.get_mut(&job) {
            for name in &credentials {
                self.naming.entry((run.job.tenant.no, name.clone())).or_default().insert(job);
            }
            run.job_mut().credentials.extend(credentials);
        }
    }

    /// Returns the first of the jobs of a tenant that name a credential.
    pub(crate) fn first_naming(&self, tenant: TenantNo, credential: &str) -> Option<JobId> {
        self.naming.get(&(tenant, credential.to_owned()))?.first().copied()
    }

    fn unname(&mut self, job: &Job) {
        for name in &job.credentials {
            let key = (job.tenant.no, name.clone());
            if let Some(jobs) = self.naming.get_mut(&key)
                && jobs.remove(&job.id)
                && jobs.is_empty()
            {
                self.naming.remove(&key);
            }
        }
    }

    /// Notes that a job of a tenant is on its way to the store, with so many tasks: commands for it wait until it is here.
    pub(crate) fn arrives(&mut self, job: JobId, tenant: TenantNo, tasks: u64) {
        self.arriving.insert(job);
        self.usages.arrives(job, Part { tenant, tasks, ..Part::default() });
    }

    /// Notes that such a job was not stored.
    pub(crate) fn does_not_arrive(&mut self, job: JobId) {
        self.arriving.remove(&job);
        self.usages.has_arrived(job);
    }

    /// Adds a job. What waited for it comes back, to be taken anew.
    pub(crate) fn insert(&mut self, mut run: JobRun) -> VecDeque<Admitted<JobCommand>> {
        let job = run.job.id;
        self.arriving.remove(&job);
        self.usages.has_arrived(job);
        (run.counted, run.is_stale) = (run.part(), false);
        self.usages.add(run.counted);
        self.bytes += run.bytes();
        let (tenant, names) = (run.job.tenant.no, run.job.credentials.clone());
        if let Some(before) = self.runs.insert(job, Box::new(run)) {
            self.bytes -= before.bytes();
            self.usages.subtract(before.counted);
            self.unname(&before.job);
        }
        for name in names {
            self.naming.entry((tenant, name)).or_default().insert(job);
        }
        self.visits.remove(&job).map(|visit| visit.waiting).unwrap_or_default()
    }

    /// Forgets a job that has ended. Its deferred commands come back, to be taken anew.
    pub(crate) fn remove(&mut self, job: JobId) -> Option<JobRun> {
        let run = self.runs.remove(&job)?;
        self.bytes -= run.bytes();
        // A table keeps the memory that it once needed.
        if self.runs.capacity() > TABLE_MIN && self.runs.len() < self.runs.capacity() / 8 {
            self.runs.shrink_to(2 * self.runs.len());
        }
        self.usages.subtract(run.counted);
        self.usages.stores(run.counted, run.part());
        self.unname(&run.job);
        // Where nobody asks, the marks of jobs that are gone would stay.
        if self.usages.stale() > 2 * self.runs.len() + TABLE_MIN {
            self.settle_usages();
        }
        Some(*run)
    }

    /// As [`JobTable::remove`], for a job that is to be taken in as the store has it: what it keeps is counted by that.
    pub(crate) fn take_back(&mut self, stored: &Job) -> Option<JobRun> {
        let run = self.remove(stored.id)?;
        self.usages.storage(stored.tenant.no).moves(run.job.stored_bytes(), stored.stored_bytes());
        Some(run)
    }

    /// Queues a command for a job that is not here. Returns whether it is the first, to be worked on now.
    pub(crate) fn visit(&mut self, job: JobId, command: Option<Admitted<JobCommand>>) -> bool {
        let is_first = !self.visits.contains_key(&job) && !self.arriving.contains(&job);
        self.visits.entry(job).or_default().waiting.extend(command);
        is_first
    }

    /// Whether the job is being visited.
    pub(crate) fn is_visited(&self, job: JobId) -> bool {
        self.visits.contains_key(&job)
    }

    /// Takes the next command of a visit; the visit is over when there is none.
    pub(crate) fn next_visitor(&mut self, job: JobId) -> Option<Admitted<JobCommand>> {
        let next = self.visits.get_mut(&job)?.waiting.pop_front();
        if next.is_none() {
            self.visits.remove(&job);
        }
        next
    }

    /// Takes back everything that waits for visits, to be refused.
    pub(crate) fn take_waiting(&mut self) -> Vec<JobCommand> {
        let visits = std::mem::take(&mut self.visits).into_values().flat_map(|visit| visit.waiting);
        // In an order that a simulation can repeat.
        let runs: BTreeMap<_, _> = self.runs.iter_mut().collect();
        let deferred = runs.into_values().filter_map(|run| run.ongoing()).flat_map(|activity| {
            let asked = activity.asked.drain(..).map(Deferred::Command);
            activity.deferred.drain(..).chain(asked)
        });
        let deferred = deferred.filter_map(|it| match it {
            Deferred::Command(command) => Some(command),
            Deferred::Attempt(_) => None,
        });
        visits.chain(deferred).map(|admitted| admitted.command).collect()
    }

    /// The jobs that have not ended.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&JobId, &JobRun)> {
        self.runs.iter().map(|(id, run)| (id, &**run))
    }

    /// Compares the counts of each job with what runs of it. Slow: simulations call it after each step.
    pub(crate) fn check(&self, running: impl Fn(JobId) -> usize) -> Result<(), String> {
        let bytes = self.runs.values().map(|run| run.bytes()).sum::<usize>();
        if bytes != self.bytes {
            return Err(format!("the jobs take {bytes} bytes, and {} are counted", self.bytes));
        }
        let outdated = self.runs.values().find(|run| !run.is_stale && run.counted != run.part());
        if let Some(run) = outdated {
            return Err(format!("{} has {:?}, and {:?} is counted", run.job.id, run.part(), run.counted));
        }
        self.usages.check(self.runs.values().map(|run| run.counted))?;
        let named = |run: &JobRun| run.job.credentials.len();
        if self.naming.values().map(BTreeSet::len).sum::<usize>()
            != self.runs.values().map(|run| named(run)).sum::<usize>()
        {
            return Err(format!("{:?} is noted of the credentials that jobs name", self.naming));
        }
        for (id, run) in &self.runs {
            let counts = run.job.counts;
            let sum = u64::from(counts.unfinished())
                + u64::from(counts.succeeded)
                + u64::from(counts.failed)
                + u64::from(counts.cancelled);
            if sum != u64::from(counts.total) {
                return Err(format!("the counts of {id} do not add up: {counts:?}"));
            }
            if run.job.failures.total() != counts.failed {
                let kinds = run.job.failures.by_size();
                return Err(format!("{} tasks of {id} failed, and their kinds are {kinds:?}", counts.failed));
            }
            // An attempt whose end is deferred still counts as running in both.
            let runs = running(*id);
            if !matches!(run.stage, Stage::Reloading { .. }) && runs != counts.running as usize {
                return Err(format!("{runs} tasks of {id} run, and {} are counted", counts.running));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use uuid::Uuid;

    use super::*;
    use crate::engine::command::Control;
    use crate::model::access::Actor;
    use crate::model::spec::JobSpec;
    use crate::model::time::Timestamp;

    /// Memory that a hundred thousand jobs needed is given back when they are gone.
    #[test]
    fn a_table_of_jobs_that_have_ended_is_small_again() {
        let mut table = JobTable::default();
        let id = |number: u128| JobId(Uuid::from_u128(number));
        for number in 0..10_000 {
            table.insert(JobRun::new(Job::new(id(number), JobSpec::default(), 1, Timestamp(1))));
        }
        for number in 1..10_000 {
            table.remove(id(number));
        }
        assert!(table.runs.capacity() < 2 * TABLE_MIN && table.get(id(0)).is_some());
    }

    /// Whoever deletes a credential does not look at all jobs.
    #[test]
    fn which_jobs_name_a_credential_is_known_by_its_name() {
        let mut table = JobTable::default();
        let id = |number: u128| JobId(Uuid::from_u128(number));
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let job = |number, tenant, names: &[&str]| {
            let mut job = Job::new(id(number), JobSpec::default(), 1, Timestamp(1));
            (job.tenant.no, job.credentials) = (tenant, named(names));
            JobRun::new(job)
        };
        table.insert(job(2, 1, &["a"]));
        table.insert(job(1, 1, &["a", "b"]));
        table.insert(job(3, 2, &[]));
        table.names(id(3), named(&["a"]));
        let first =
            |table: &JobTable| [(1, "a"), (1, "b"), (2, "a"), (2, "b")].map(|(of, it)| table.first_naming(of, it));
        assert_eq!(first(&table), [Some(id(1)), Some(id(1)), Some(id(3)), None]);
        table.insert(job(1, 1, &[]));
        table.remove(id(3));
        assert_eq!(first(&table), [Some(id(2)), None, None, None]);
        table.remove(id(2));
        assert!(table.naming.is_empty());
    }

    /// What memory had decided and the store did not take is gone, with what it would have kept.
    #[test]
    fn a_job_that_is_read_again_keeps_what_the_store_says() {
        let mut table = JobTable::default();
        let mut stored = Job::new(JobId(Uuid::from_u128(1)), JobSpec::default(), 1, Timestamp(1));
        stored.ended_bytes = 10;
        table.storage(stored.tenant.no).moves(0, 10);
        table.insert(JobRun::new(stored.clone()));
        if let Some(run) = table.get_mut(stored.id) {
            run.job_mut().ended_bytes += 5;
        }
        assert_eq!(table.usage(stored.tenant.no).stored_bytes, 15);
        assert!(table.take_back(&stored).is_some());
        table.insert(JobRun::new(stored.clone()));
        assert_eq!(table.usage(stored.tenant.no).stored_bytes, 10);
    }

    fn pause() -> Admitted<JobCommand> {
        let command = JobCommand::Control { what: Control::Pause, reply: oneshot::channel().0 };
        Admitted { command, by: Arc::new(Actor::local()), room: None }
    }

    /// Rows are visible before the answer to their commit is here. Whoever finds a job in a list at that moment must not
    /// make the engine read it as one that memory has lost.
    #[test]
    fn a_command_for_a_job_that_is_being_stored_waits_for_it() {
        let mut table = JobTable::default();
        let id = JobId(Uuid::from_u128(1));
        table.arrives(id, 1, 1);
        assert!(!table.visit(id, Some(pause())), "nothing is read");
        assert!(!table.visit(id, Some(pause())));
        let job = Job::new(id, JobSpec::default(), 1, Timestamp(1));
        assert_eq!(table.insert(JobRun::new(job)).len(), 2, "both are taken now");

        let other = JobId(Uuid::from_u128(2));
        table.arrives(other, 1, 1);
        table.does_not_arrive(other);
        assert!(table.visit(other, Some(pause())), "the store is asked");
    }
}
