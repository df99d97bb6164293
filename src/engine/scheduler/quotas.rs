//! What tenants may have: the gate for what is added, and the shares of what runs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::admission;
use crate::engine::command::EngineError;
use crate::engine::explanation::as_many;
use crate::engine::scheduler::Scheduler;
use crate::engine::timers::Timer;
use crate::limits::transport::JobRates;
use crate::model::book::Book;
use crate::model::host::Host;
use crate::model::limits::RateLimit;
use crate::model::quotas::{Allowance, Quotas, Usage};
use crate::model::spec::{JobSpec, TaskSpec};
use crate::model::storage::UsedUp;
use crate::model::tenant::TenantNo;

impl Scheduler {
    /// Judges whether a tenant may have so many more jobs and tasks. What is on its way to the store counts, so that calls at
    /// once do not exceed together what each of them would not.
    ///
    /// # Errors
    ///
    /// It is suspended, or would have more than one of its quotas allows.
    pub(super) fn admits(&mut self, tenant: TenantNo, jobs: u64, tasks: u64) -> Result<(), EngineError> {
        let Some(it) = self.book.tenant_numbered(tenant).cloned() else { return Ok(()) };
        // What it has is counted only where that matters.
        let is = if it.quotas == Quotas::default() { Usage::default() } else { self.jobs.usage(tenant) };
        admission::amount(&it, is, Usage { unfinished_jobs: jobs, queued_tasks: tasks, ..Usage::default() })
    }

    /// Judges for how long a job is to be kept and its attempts may take. What it does not say is as much as its tenant may
    /// have.
    ///
    /// # Errors
    ///
    /// It asks for more.
    pub(super) fn admits_times(
        &self,
        tenant: TenantNo,
        spec: &mut JobSpec,
        tasks: &[Arc<TaskSpec>],
    ) -> Result<(), EngineError> {
        let Some(it) = self.book.tenant_numbered(tenant) else { return Ok(()) };
        admission::times(it, spec, tasks.iter().map(|task| task.options.timeouts.attempt))?;
        spec.retention = spec.retention.or(it.quotas.max_retention);
        Ok(())
    }

    /// Judges how long the attempts of tasks may take.
    ///
    /// # Errors
    ///
    /// One of them asks for more than its tenant may have.
    pub(super) fn admits_attempts(
        &self,
        tenant: TenantNo,
        list: &str,
        tasks: &[Arc<TaskSpec>],
    ) -> Result<(), EngineError> {
        let Some(it) = self.book.tenant_numbered(tenant) else { return Ok(()) };
        admission::attempts(it, list, tasks.iter().map(|task| task.options.timeouts.attempt))
    }

    /// Returns how long an attempt of a tenant may take that asks for so long, or for no limit.
    pub(super) fn attempt_limit(&self, tenant: TenantNo, asked: Option<Duration>) -> Option<Duration> {
        let most = self.book.tenant_numbered(tenant).and_then(|it| it.quotas.max_attempt);
        asked.into_iter().chain(most).min()
    }

    /// Takes tasks from what a tenant may add in a second.
    ///
    /// # Errors
    ///
    /// There are too many; nothing was taken.
    pub(super) fn take_tasks(&mut self, tenant: TenantNo, count: u64) -> Result<(), EngineError> {
        let Some(it) = self.book.tenant_numbered(tenant) else { return Ok(()) };
        let Some(rate) = it.quotas.tasks_per_second else { return Ok(()) };
        let now = self.now();
        let name = it.name.to_string();
        let allowance = self.allowances.entry(tenant).or_insert_with(|| Allowance::whole(rate, now));
        allowance.take(rate, count, now).map_err(|wait| EngineError::TaskRate { tenant: name, wait })
    }

    /// Gives back what was taken for tasks that were not added: they were there already, or there was no room for them.
    pub(super) fn give_back_tasks(&mut self, tenant: TenantNo, count: u64) {
        let rate = self.book.tenant_numbered(tenant).and_then(|it| it.quotas.tasks_per_second);
        if let (Some(rate), Some(allowance)) = (rate, self.allowances.get_mut(&tenant)) {
            allowance.give_back(rate, count);
        }
    }

    /// Lets tenants run as much as the book says from now on. What runs goes on.
    pub(super) fn share_out(&mut self, book: &Book) {
        let has_rate =
            |tenant: &TenantNo| book.tenant_numbered(*tenant).is_some_and(|it| it.quotas.tasks_per_second.is_some());
        self.allowances.retain(|tenant, _| has_rate(tenant));
        self.queue.set_shares(book.shares());
        let is_change = self.runner.hosts.set_shares(book.shares(), book.has_several_tenants());
        let mut hosts: BTreeSet<Host> = self.runner.hosts.take_freed().into_iter().collect();
        self.queue.set_left(self.runner.hosts.left());
        if is_change {
            // Who may have had nothing at a host waits there, and the host has no state for it.
            hosts.extend(self.queue.hosts_waited_for());
        }
        for host in hosts {
            self.wake_host(&host);
        }
        self.set_tenant_rates(book);
        for tenant in book.tenants_after("") {
            if self.jobs.storage(tenant.no).set_most(tenant.quotas.stored_bytes) {
                self.timers.set_earlier(self.now(), Timer::TenantRested(tenant.no));
            }
        }
    }

    /// What a tenant stores that runs nothing because it stores as much as it may.
    pub(super) fn storage_used_up(&self, tenant: TenantNo) -> Option<UsedUp> {
        let is_suspended = self.book.tenant_numbered(tenant).is_none_or(|it| it.is_suspended);
        self.jobs.storage_used_up(tenant).filter(|_| !is_suspended)
    }

    /// Changes the rates of tenants, also for what runs.
    fn set_tenant_rates(&mut self, book: &Book) {
        let (now, rates) = (self.now(), book.tenant_rates());
        self.tenant_rates.retain(|tenant, _| book.tenant_numbered(*tenant).is_some());
        for tenant in book.tenants_after("").map(|it| it.no) {
            let limit = rates.get(&tenant).copied().unwrap_or_default();
            let made = || (RateLimit::default(), Arc::new(JobRates::new(RateLimit::default())));
            let (before, rates) = self.tenant_rates.entry(tenant).or_insert_with(made);
            if std::mem::replace(before, limit) != limit {
                rates.set(limit, now);
                // One that rested by its old rate may start by the new one.
                self.timers.clear(&Timer::TenantRested(tenant));
                self.queue.set_tenant_resting(tenant, false);
            }
        }
    }

    /// Checks that no tenant has more than it may, where no quota is ever lowered.
    pub(super) fn check_quotas(&self) -> Result<(), String> {
        for tenant in self.book.tenants_after("").filter(|it| it.quotas != Quotas::default()) {
            let mut usage = Usage::default();
            for (_, run) in self.jobs.iter().filter(|(_, run)| run.job.tenant.no == tenant.no) {
                usage.unfinished_jobs += 1;
                usage.queued_tasks += u64::from(run.job.counts.unfinished()) + run.adding();
            }
            let runs = self.queue.running_of_tenant(tenant.no);
            if let Some((quota, most)) = tenant.quotas.exceeded(Usage::default(), usage) {
                return Err(format!("{} may have {most} {}, and has {usage:?}", tenant.name, quota.name()));
            }
            if tenant.quotas.running_tasks.is_some_and(|most| runs > most) {
                return Err(format!("{runs} tasks of {} run", tenant.name));
            }
        }
        Ok(())
    }

    /// Returns why a tenant starts nothing more now.
    pub(super) fn tenant_limit(&self, tenant: TenantNo) -> String {
        let Some(it) = self.book.tenant_numbered(tenant) else { return "the tenant is being deleted".to_owned() };
        match it.quotas.running_tasks {
            _ if it.is_suspended => "the tenant is suspended".to_owned(),
            Some(most) if self.queue.running_of_tenant(tenant) >= most => {
                as_many(most, " of the tenant", "its `running_tasks` allows")
            }
            _ if self.queue.is_held_back(tenant) => {
                let (runs, places) = (self.queue.running_of_tenant(tenant), self.places());
                format!("{runs} tasks of the tenant run, and the rest of the {places} places is left to other tenants")
            }
            _ => "the tenant's `requests_per_second` is used up".to_owned(),
        }
    }
}
