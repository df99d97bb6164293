//! Batches on their way to the store, and back: one of all kinds at a time, and beside it, while that one is blocked, one that
//! makes room.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::engine::command::EngineError;
use crate::engine::outbox::Sealed;
use crate::engine::scheduler::Scheduler;
use crate::engine::scheduler::in_flight::InFlight;
use crate::engine::timers::Timer;
use crate::engine::writer::Order;
use crate::store::{Committed, StoreError};

/// How long purges wait after there was no room even for them.
const REMOVALS_REST: Duration = Duration::from_secs(1);

impl Scheduler {
    /// Begins a commit where none is under way and there is something to commit. Returns whether attempts that had ended were taken in:
    /// others may start in their place.
    pub(super) async fn begin_commits(&mut self) -> bool {
        let before = self.attempts.len() + self.ends.len();
        // What makes room does not wait in one batch with what needs some.
        if self.removals.in_flight.is_none() && self.is_blocked() {
            if !self.removals.rest {
                self.add_purges();
            }
            if let Some(sealed) = self.outbox.seal_removals() {
                self.removals.in_flight = self.send(sealed, true).await;
            }
        }
        self.take_what_waited();
        // What needs no commit is done at once, and may leave something that does: nothing else would wake the loop for it.
        while self.in_flight.is_none() {
            self.store_uses();
            let in_pieces = self.add_pieces();
            if self.outbox.is_empty() {
                break;
            }
            let jobs = &self.jobs;
            let row = |id| jobs.get(id).map(|run| run.job.clone());
            let sealed = self.outbox.seal(row, |id| in_pieces.contains(&id), &self.book);
            self.in_flight = self.send(sealed, false).await;
            self.take_what_waited();
        }
        self.attempts.len() + self.ends.len() < before
    }

    async fn send(&mut self, sealed: Sealed, is_removal: bool) -> Option<InFlight> {
        let Sealed { number, batch, effects, ended } = sealed;
        if batch.is_empty() {
            self.perform(number, effects, &ended, Committed::default());
            return None;
        }
        let (result, answer) = oneshot::channel();
        let to = if is_removal { &self.link.removals } else { &self.link.orders };
        // The writer takes one order of each kind at a time and is given one at a time, so this does not wait. If the writer
        // is gone, the answer says so.
        let _ = to.send(Order { batch, result }).await;
        Some(InFlight { result: answer, number, effects, ended, since: Instant::now() })
    }

    pub(super) fn commit_done(&mut self, result: Result<Committed, StoreError>) -> Result<(), StoreError> {
        let Some(InFlight { number, effects, ended, since, .. }) = self.in_flight.take() else { return Ok(()) };
        match result {
            Ok(committed) => {
                tracing::trace!(batch = number, micros = since.elapsed().as_micros(), "committed");
                self.perform(number, effects, &ended, committed);
                Ok(())
            }
            Err(error) => {
                let answer = EngineError::Store(error.to_string());
                for effect in effects {
                    effect.fail(answer.clone());
                }
                Err(error)
            }
        }
    }

    pub(super) fn removals_done(&mut self, result: Result<Committed, StoreError>) -> Result<(), StoreError> {
        let Some(InFlight { number, effects, ended, .. }) = self.removals.in_flight.take() else { return Ok(()) };
        match result {
            Ok(committed) => {
                if std::mem::take(&mut self.removals.fail) {
                    tracing::info!("deletions are stored again");
                }
                self.perform(number, effects, &ended, committed);
            }
            Err(StoreError::Fatal(why)) => return Err(StoreError::Fatal(why)),
            // There was no room even for this: it is tried again with the next ones, each second perhaps.
            Err(error) => {
                if !std::mem::replace(&mut self.removals.fail, true) {
                    tracing::warn!("deletions were not stored, and are tried again: {error}");
                }
                self.removals.rest = true;
                self.timers.set(self.now().plus(REMOVALS_REST), Timer::Removals);
                for effect in effects {
                    self.retry_removal(effect, &error);
                }
            }
        }
        Ok(())
    }
}
