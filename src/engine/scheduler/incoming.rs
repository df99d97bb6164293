//! Pages of running fetches on their way into the batch: no more of them in one than a full disk has room for. What ended attempts
//! bring waits with them.

use std::sync::Arc;

use crate::engine::attempt::Ended;
use crate::engine::effect::Effect;
use crate::engine::jobs::JobRun;
use crate::engine::outbox::Outbox;
use crate::engine::scheduler::Scheduler;
use crate::engine::scheduler::incoming_page::Incoming;
use crate::model::failure::{Failure, FailureReason};
use crate::model::task::Crashes;

impl Scheduler {
    /// Takes a page: into the batch, or where that has enough of them, into one that follows.
    pub(super) fn page(&mut self, incoming: Incoming) {
        if self.outbox.takes_pages() && !self.store_rests() {
            self.keep_page(incoming);
        } else {
            self.incoming.push_back(incoming);
        }
    }

    /// A batch is on its way: the next one takes what waited for it. Pages fill half of it at first, then come ends, and what is left
    /// is for more pages: neither may keep the others out of every batch.
    pub(super) fn take_what_waited(&mut self) {
        self.take_crowded();
        self.take_incoming(Outbox::takes_many_pages);
        self.take_deferred_ends();
        self.take_ends();
        self.take_incoming(Outbox::takes_pages);
    }

    fn take_incoming(&mut self, takes_more: impl Fn(&Outbox) -> bool) {
        while takes_more(&self.outbox)
            && !self.store_rests()
            && let Some(incoming) = self.incoming.pop_front()
        {
            self.keep_page(incoming);
        }
    }

    /// Takes in the end of an attempt that was deferred: now, or where the batch has enough of what attempts bring, with one that
    /// follows. All ends of a job may have been deferred.
    pub(super) fn deferred_end(&mut self, ended: Ended) {
        self.ends.push_back(ended);
        self.take_deferred_ends();
    }

    fn take_deferred_ends(&mut self) {
        while self.takes_ends()
            && let Some(ended) = self.ends.pop_front()
        {
            self.attempt_ended(ended);
        }
    }

    fn keep_page(&mut self, Incoming { id, fence, page, reply }: Incoming) {
        let current = self.queue.running_task_mut(id).filter(|running| running.fence == fence);
        // While a piece of the job is at the store, pages go on: they change no counts.
        let stopped = self.jobs.get(id.job).is_none_or(JobRun::refuses_pages);
        let Some(running) = current.filter(|_| !stopped) else {
            let failure = Failure::retryable(FailureReason::Internal, "the attempt is not the task's current one");
            return drop(reply.send(Err(failure)));
        };
        running.cursor = page.next.as_deref().map(Arc::from);
        // It made progress, so a crash of the server from now on is the first one again.
        running.row.task.crashes = Crashes::default();
        self.cuts.passes(id, self.outbox.number());
        self.outbox.page(page);
        self.outbox.then(Effect::AckPage(id.job, reply));
    }
}
