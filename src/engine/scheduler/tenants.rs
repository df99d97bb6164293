//! The deletion of a tenant: nothing of it may be left, and nothing may come meanwhile.
//!
//! From the first moment no job is taken for it. When all that was on its way to the store is there, it is looked whether it
//! has jobs; if not, it goes from the book. Then its files are put aside, and only after that its name can be used again.

use std::sync::Arc;

use crate::engine::command::{EngineError, Reply, answer};
use crate::engine::effect::{Effect, TenantDeletion};
use crate::engine::patience::{caught, patiently};
use crate::engine::scheduler::Scheduler;
use crate::engine::scheduler::read::Read;
use crate::files::beside;
use crate::model::access::{AccessAnswer, AccessChange, AccessError, Actor};
use crate::model::failure::Failure;
use crate::model::tenant::{Owner, TenantNo};
use crate::store::{JobFilter, StoreError};

impl Scheduler {
    /// Returns whether jobs are taken for a tenant.
    pub(super) fn takes_jobs_of(&self, tenant: TenantNo) -> bool {
        self.book.tenant_numbered(tenant).is_some() && !self.closing_tenants.contains_key(&tenant)
    }

    /// Returns whether a name is that of a tenant that is being deleted.
    pub(super) fn is_closing(&self, name: &str) -> bool {
        self.closing_tenants.values().any(|closing| **closing == *name)
    }

    pub(super) fn delete_tenant(
        &mut self,
        name: &str,
        change: AccessChange,
        by: Arc<Actor>,
        reply: Reply<AccessAnswer>,
    ) {
        if let Err(refusal) = self.book.decide(&change, &by, self.now()) {
            return answer(reply, Err(refusal.into()));
        }
        let tenant = self.book.tenant(name).map(|it| Owner { no: it.no, name: it.name.clone() });
        let Some(tenant) = tenant.filter(|_| !self.is_closing(name)) else {
            return answer(reply, Err(AccessError::NoTenant(name.to_owned()).into()));
        };
        self.closing_tenants.insert(tenant.no, tenant.name.clone());
        self.outbox.then(Effect::LookForJobs(Box::new(TenantDeletion { tenant, change, by, reply })));
    }

    /// All jobs of a tenant are in the store.
    pub(super) fn look_for_jobs(&mut self, deletion: Box<TenantDeletion>) {
        let store = self.runner.store.clone();
        self.reads.spawn(async move {
            let filter = JobFilter { tenant: Some(deletion.tenant.no), ..JobFilter::default() };
            let found = caught(patiently(|| store.job_ids(&filter, 1))).await;
            Read::JobsOf(deletion, found.map(|page| !page.items.is_empty()))
        });
    }

    pub(super) fn looked_for_jobs(&mut self, deletion: Box<TenantDeletion>, has_jobs: Result<bool, StoreError>) {
        let error = match has_jobs {
            Ok(false) => match self.decide(&deletion.change, &deletion.by) {
                Ok(_) => {
                    self.outbox.then(Effect::TenantDeleted(deletion));
                    return;
                }
                Err(refusal) => refusal.into(),
            },
            Ok(true) => AccessError::TenantNotEmpty(deletion.tenant.name.to_string()).into(),
            Err(error) => EngineError::Store(error.to_string()),
        };
        self.closing_tenants.remove(&deletion.tenant.no);
        answer(deletion.reply, Err(error));
    }

    /// A tenant is gone from the store.
    pub(super) fn tenant_deleted(&mut self, deletion: Box<TenantDeletion>) {
        let roots = self.runner.roots.clone();
        self.reads.spawn(async move {
            let tenant = deletion.tenant.clone();
            let aside = beside(move || roots.put_aside(&tenant)).await;
            if let Ok(Err(failure)) = &aside {
                tell_left(&deletion.tenant, failure);
            }
            Read::TenantGone(deletion, matches!(aside, Ok(Ok(()))))
        });
    }

    /// The files of a tenant are put aside. Where they are not, a new tenant of its name would have them, so the name stays
    /// taken until a start can put them aside.
    pub(super) fn tenant_gone(&mut self, deletion: TenantDeletion, is_aside: bool) {
        if is_aside {
            self.closing_tenants.remove(&deletion.tenant.no);
        }
        answer(deletion.reply, Ok(AccessAnswer::Done));
    }

    /// Puts aside what a tenant left whose deletion was cut short behind its commit.
    pub(super) async fn put_tenants_aside(&mut self) {
        let roots = self.runner.roots.clone();
        let gone: Vec<Owner> = self.book.gone_tenants().collect();
        if gone.is_empty() {
            return;
        }
        let look = move || {
            let is_left =
                |tenant: &Owner| roots.put_aside(tenant).inspect_err(|failure| tell_left(tenant, failure)).is_err();
            gone.into_iter().filter(is_left).collect::<Vec<_>>()
        };
        // It cannot be cancelled, and does not panic.
        let left = beside(look).await.unwrap_or_default();
        self.closing_tenants.extend(left.into_iter().map(|tenant| (tenant.no, tenant.name)));
    }
}

fn tell_left(tenant: &Owner, failure: &Failure) {
    tracing::error!(
        tenant = &*tenant.name,
        "the files of the deleted tenant are left, and its name stays taken; move them away and restart the server: {}",
        failure.message
    );
}
