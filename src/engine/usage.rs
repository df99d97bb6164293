//! What tenants have, as sums over their jobs. Pure: who has the jobs says what each of them has.
//!
//! Counts change in many places, and who asks are few. So a job that may have changed is marked, and its part of the sums is
//! settled when they are asked for.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::ids::JobId;
use crate::model::quotas::Usage;
use crate::model::storage::{Storage, UsedUp};
use crate::model::tenant::TenantNo;

/// What one job has of what its tenant may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) tenant: TenantNo,
    /// Its tasks that have not ended, those of chunks on their way to the store among them.
    pub(crate) tasks: u64,
    /// Its tasks that run.
    pub(crate) running: u64,
    /// Bytes that it keeps. They stay when it has ended.
    pub(crate) stored: u64,
}

/// The sums of all tenants.
#[derive(Debug, Default)]
pub(crate) struct Usages {
    of: HashMap<TenantNo, Usage>,
    /// What the jobs of tenants keep, those that have ended among them, and what running attempts may add.
    stored: HashMap<TenantNo, Arc<Storage>>,
    /// Jobs on their way to the store.
    arriving: HashMap<JobId, Part>,
    /// Jobs that may have changed since they were counted.
    stale: Vec<JobId>,
}

impl Usages {
    /// Counts a job on its way to the store.
    pub(crate) fn arrives(&mut self, job: JobId, part: Part) {
        if let Some(before) = self.arriving.insert(job, part) {
            self.subtract(before);
        }
        self.add(part);
    }

    /// Counts it no more: it has arrived, or was not stored.
    pub(crate) fn has_arrived(&mut self, job: JobId) {
        if let Some(part) = self.arriving.remove(&job) {
            self.subtract(part);
        }
    }

    /// What a tenant stores.
    pub(crate) fn storage(&mut self, tenant: TenantNo) -> &Arc<Storage> {
        self.stored.entry(tenant).or_default()
    }

    /// What a tenant stores that stores as much as it may.
    pub(crate) fn storage_used_up(&self, tenant: TenantNo) -> Option<UsedUp> {
        self.stored.get(&tenant)?.used_up()
    }

    /// Counts what a job keeps by now.
    pub(crate) fn stores(&mut self, before: Part, now: Part) {
        if before.stored != now.stored {
            self.storage(now.tenant).moves(before.stored, now.stored);
        }
    }

    /// Counts a job.
    pub(crate) fn add(&mut self, part: Part) {
        let usage = self.of.entry(part.tenant).or_default();
        usage.unfinished_jobs += 1;
        usage.queued_tasks += part.tasks;
        usage.running_tasks += part.running;
    }

    /// Counts a job no more.
    pub(crate) fn subtract(&mut self, part: Part) {
        let Some(usage) = self.of.get_mut(&part.tenant) else { return };
        usage.unfinished_jobs = usage.unfinished_jobs.saturating_sub(1);
        usage.queued_tasks = usage.queued_tasks.saturating_sub(part.tasks);
        usage.running_tasks = usage.running_tasks.saturating_sub(part.running);
        if *usage == Usage::default() {
            self.of.remove(&part.tenant);
        }
    }

    /// Notes that a job may be changed.
    pub(crate) fn mark(&mut self, job: JobId) {
        self.stale.push(job);
    }

    /// How many jobs are marked, those that are gone among them.
    pub(crate) fn stale(&self) -> usize {
        self.stale.len()
    }

    /// Takes the jobs that may have changed, to be counted anew.
    pub(crate) fn take_stale(&mut self) -> Vec<JobId> {
        std::mem::take(&mut self.stale)
    }

    /// Returns what a tenant has, as far as it is counted.
    pub(crate) fn get(&self, tenant: TenantNo) -> Usage {
        let stored_bytes = self.stored.get(&tenant).map_or(0, |storage| storage.bytes());
        Usage { stored_bytes, ..self.of.get(&tenant).copied().unwrap_or_default() }
    }

    /// Compares the sums with what they are of. Slow: simulations call it after each step.
    pub(crate) fn check(&self, parts: impl Iterator<Item = Part>) -> Result<(), String> {
        let mut sums = Usages::default();
        parts.chain(self.arriving.values().copied()).for_each(|part| sums.add(part));
        if sums.of == self.of {
            Ok(())
        } else {
            Err(format!("tenants have {:?}, and {:?} is counted", sums.of, self.of))
        }
    }
}
