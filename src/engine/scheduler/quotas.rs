//! What tenants may have: the gate for what is added, and the shares of what runs.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::engine::command::EngineError;
use crate::engine::scheduler::Scheduler;
use crate::engine::timers::Timer;
use crate::limits::transport::JobRates;
use crate::model::book::Book;
use crate::model::host::Host;
use crate::model::limits::RateLimit;
use crate::model::quotas::{Quotas, Usage};
use crate::model::tenant::TenantNo;

impl Scheduler {
    /// Judges whether a tenant may have so many more jobs and tasks. What is on its way to the store counts, so that calls at
    /// once do not exceed together what each of them would not.
    ///
    /// # Errors
    ///
    /// It is suspended, or would have more than one of its quotas allows.
    pub(super) fn admits(&mut self, tenant: TenantNo, jobs: u64, tasks: u64) -> Result<(), EngineError> {
        let Some(it) = self.book.tenant_numbered(tenant) else { return Ok(()) };
        if it.is_suspended {
            return Err(EngineError::Suspended(it.name.to_string()));
        }
        if it.quotas == Quotas::default() {
            return Ok(());
        }
        let it = it.clone();
        let more = Usage { unfinished_jobs: jobs, queued_tasks: tasks, running_tasks: 0 };
        match it.quotas.exceeded(self.jobs.usage(tenant), more) {
            None => Ok(()),
            Some((quota, most)) => Err(EngineError::Quota { tenant: it.name.to_string(), quota, most }),
        }
    }

    /// Lets tenants run as much as the book says from now on. What runs goes on.
    pub(super) fn share_out(&mut self, book: &Book) {
        self.queue.set_shares(book.shares());
        let is_change = self.runner.hosts.set_shares(book.host_shares());
        let mut hosts: BTreeSet<Host> = self.runner.hosts.take_freed().into_iter().collect();
        if is_change {
            // Who may have had nothing at a host waits there, and the host has no state for it.
            hosts.extend(self.queue.hosts_waited_for());
        }
        for host in hosts {
            self.wake_host(&host);
        }
        self.set_tenant_rates(book);
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
                format!("{most} tasks of the tenant run, as many as its `running_tasks` allows")
            }
            _ => "the tenant's `requests_per_second` is used up".to_owned(),
        }
    }
}
