//! Credentials that attempts use: judged when an attempt starts, for whoever made its job.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::credentials::InUse;
use crate::engine::new_tasks::Tasks;
use crate::engine::scheduler::Scheduler;
use crate::model::access::{AccessChange, AccessError, Actor, LOCAL_NAME};
use crate::model::audit::{AuditEntry, AuditRow, Of};
use crate::model::bag::is_erased;
use crate::model::book::Decided;
use crate::model::failure::{Failure, FailureReason};
use crate::model::ids::JobId;
use crate::model::spec::{JobSpec, TaskSpec};
use crate::model::time::Timestamp;

/// How often it is stored that a credential is in use.
const USE_KEPT: Duration = Duration::from_secs(60);
impl Scheduler {
    /// Returns the credential that an attempt at a task uses, or why it may not, or why it cannot be made without what was
    /// erased; `None`: the task names none.
    pub(super) fn credential(
        &mut self,
        job: JobId,
        name: Option<&str>,
        task: &TaskSpec,
        now: Timestamp,
    ) -> Option<Result<Arc<InUse>, Failure>> {
        let run = self.jobs.get_mut(job)?;
        if is_erased(&run.job.spec, task, run.job.secrets_gone) {
            let why = "the secrets that it was submitted with were erased; submit it again, or use a named credential";
            return Some(Err(Failure::fatal(FailureReason::Credential, why)));
        }
        let name = name?;
        let row = run.job.clone();
        let (creator, tenant) = (&row.creator, &row.tenant);
        let credential = match self.book.credential_for(tenant.no, name, creator.no, &task.work, now) {
            Ok(credential) => credential,
            Err(failure) => return Some(Err(failure)),
        };
        if run.activity_mut().credentials_used.insert(name.to_owned()) {
            let creator = if creator.name.is_empty() { LOCAL_NAME } else { &creator.name };
            let row = AuditRow::of_use(creator, &tenant.name, name, job, now);
            self.outbox.audit(AuditEntry { row, of: Of::Always });
        }
        if credential.last_use.is_none_or(|last| last.plus(USE_KEPT) <= now) {
            self.uses.note(tenant.no, name, now);
        }
        Some(Ok(Arc::new(InUse::new(credential))))
    }

    /// Stores when credentials were used, all that were within a while at once.
    pub(super) fn store_uses(&mut self) {
        let now = self.now();
        let used = self.uses.take(now, self.draining);
        if used.is_empty() {
            return;
        }
        let used = AccessChange::UsedCredentials(used);
        // Nobody asked, so nobody is answered.
        if let Ok(Decided { rows, .. }) = self.book.decide(&used, &Actor::local(), now) {
            self.put_into_book(rows);
        }
    }

    /// Returns the first job that has not ended and names a credential.
    pub(super) fn names_credential(&self, change: &AccessChange) -> Option<AccessError> {
        let AccessChange::DeleteCredential { tenant, name, force: false, .. } = change else { return None };
        let job = self.jobs.first_naming(*tenant, name)?;
        Some(AccessError::CredentialInUse(name.clone(), job))
    }
}

/// The credentials that tasks of a job name.
pub(super) fn named(job: &JobSpec, tasks: &Tasks) -> BTreeSet<String> {
    let of_tasks = tasks.specs.iter().filter_map(|task| task.options.http.credential.clone());
    of_tasks.chain(job.defaults.http.credential.clone()).collect()
}
