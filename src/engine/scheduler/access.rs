//! Who may call: decided against the newest book, in force after the commit.

use std::sync::Arc;

use crate::engine::command::{Reply, answer};
use crate::engine::effect::Effect;
use crate::engine::scheduler::Scheduler;
use crate::model::access::{AccessAnswer, AccessChange, AccessError, AccessRow, Actor};
use crate::model::audit::{AuditEntry, AuditRow, Of};
use crate::model::book::{Book, Decided};
use crate::model::ids::JobId;
use crate::model::time::Timestamp;

impl Scheduler {
    /// Notes in the batch what somebody did. What did not come by a call is nobody's act.
    pub(super) fn note(&mut self, by: &Actor, of: Of, row: impl FnOnce(Timestamp) -> AuditRow) {
        if !by.request_id.is_empty() {
            let row = row(self.now());
            self.outbox.audit(AuditEntry { row, of });
        }
    }

    /// Notes what somebody did to a job.
    pub(super) fn note_job(&mut self, by: &Actor, of: Of, method: &str, job: JobId) {
        self.note(by, of, |now| AuditRow::of_job(by, method, job, now));
    }

    /// Stores rows of the audit that belong to no change.
    pub(super) fn store_audit(&mut self, rows: Vec<AuditRow>, reply: Reply<()>) {
        for row in rows {
            self.outbox.audit(AuditEntry { row, of: Of::Always });
        }
        self.outbox.then(Effect::Audited(reply));
    }

    pub(super) fn change_access(&mut self, change: AccessChange, by: Arc<Actor>, reply: Reply<AccessAnswer>) {
        match &change {
            AccessChange::DeleteTenant { name, .. } => {
                let name = name.clone();
                return self.delete_tenant(&name, change, by, reply);
            }
            // Its files are still where those of a new one would be.
            AccessChange::CreateTenant { name, .. } if self.is_closing(name) => {
                return answer(reply, Err(AccessError::TenantExists(name.clone()).into()));
            }
            _ => {}
        }
        match self.decide(&change, &by) {
            Ok(told) => self.outbox.then(Effect::AccessStored(told, reply)),
            Err(refusal) => answer(reply, Err(refusal.into())),
        }
    }

    /// Decides over a change of who may call, and puts it into the batch.
    pub(super) fn decide(&mut self, change: &AccessChange, by: &Actor) -> Result<AccessAnswer, AccessError> {
        let Decided { rows, answer: told } = self.book.decide(change, by, self.now())?;
        if let Some(refusal) = self.names_credential(change) {
            return Err(refusal);
        }
        let stored = (!by.request_id.is_empty()).then(|| rows.clone());
        // What changes nothing is answered once what it was decided upon is durable.
        self.put_into_book(rows);
        if let Some(stored) = stored {
            for row in AuditRow::of_access(by, change, &stored, &self.book, self.now()) {
                self.outbox.audit(AuditEntry { row, of: Of::Always });
            }
        }
        Ok(told)
    }

    /// Puts what was decided into the newest book and into the batch. The book is copied once for each batch at most: the one
    /// before it is in force, or on its way to the disk, and nobody has those between.
    pub(super) fn put_into_book(&mut self, rows: Vec<AccessRow>) {
        if rows.is_empty() {
            return;
        }
        let book = Arc::make_mut(&mut self.book);
        for row in &rows {
            book.take(row);
        }
        self.outbox.access(rows);
    }

    /// Lets everybody have a book that is durable. `has_others`: tenants or principals may be others than before.
    pub(super) fn publish_book(&mut self, book: Arc<Book>, has_others: bool) {
        if has_others {
            self.runner.hosts.tell_parties_apart(book.has_parties());
            self.share_out(&book);
        }
        self.books.send_replace(book);
    }
}
