//! The attempts that run. Each is known by its task, so that one whose end is lost has failed, and holds neither its task nor
//! its job.

use std::collections::HashMap;

use tokio::runtime::Handle;
use tokio::task::{Id, JoinError, JoinSet};

use crate::engine::attempt::Ended;
use crate::model::failure::{Failure, FailureReason};
use crate::model::ids::{Fence, TaskId};
use crate::model::outcome::{AttemptEnd, AttemptReport};

/// All attempts whose end has not been taken.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    running: JoinSet<Ended>,
    of: HashMap<Id, (TaskId, Fence)>,
}

impl Attempts {
    /// Runs an attempt at a task.
    pub(crate) fn spawn(
        &mut self,
        of: (TaskId, Fence),
        attempt: impl Future<Output = Ended> + Send + 'static,
        runtime: &Handle,
    ) {
        let spawned = self.running.spawn_on(attempt, runtime);
        self.of.insert(spawned.id(), of);
    }

    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Waits for the next end; `None`: none runs.
    pub(crate) async fn next(&mut self) -> Option<Ended> {
        loop {
            let ended = self.running.join_next_with_id().await?;
            if let Some(ended) = self.take(ended) {
                return Some(ended);
            }
        }
    }

    /// Returns an end that is there already.
    pub(crate) fn try_next(&mut self) -> Option<Ended> {
        loop {
            let ended = self.running.try_join_next_with_id()?;
            if let Some(ended) = self.take(ended) {
                return Some(ended);
            }
        }
    }

    fn take(&mut self, ended: Result<(Id, Ended), JoinError>) -> Option<Ended> {
        match ended {
            Ok((spawned, ended)) => {
                self.of.remove(&spawned);
                Some(ended)
            }
            // Attempts catch their panics and are not aborted while the loop runs: what ran this one has ended.
            Err(error) => {
                let (id, fence) = self.of.remove(&error.id())?;
                tracing::error!(task = %id, "an attempt was lost: {error}");
                let message = "the attempt was lost; that is a defect of haul, please report it with the server's log";
                let end = AttemptEnd::Failed(Failure::retryable(FailureReason::Internal, message));
                Some(Ended { id, fence, end, report: AttemptReport::default(), body: None })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::JobId;

    #[tokio::test]
    async fn an_attempt_that_is_lost_with_its_thread_has_failed() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let id = TaskId { job: JobId(uuid::Uuid::nil()), index: 7 };
        let mut attempts = Attempts::default();
        attempts.spawn((id, 3), std::future::pending(), runtime.handle());
        let handle = runtime.handle().clone();
        runtime.shutdown_background();
        // Whoever is given to it from now on is lost at once.
        attempts.spawn((id, 4), std::future::pending(), &handle);
        let mut fences = Vec::new();
        while let Some(ended) = attempts.next().await {
            assert!(matches!(&ended.end, AttemptEnd::Failed(failure) if failure.retryable), "{ended:?}");
            assert_eq!(ended.id, id);
            fences.push(ended.fence);
        }
        fences.sort_unstable();
        assert_eq!(fences, [3, 4]);
        assert!(attempts.is_empty() && attempts.of.is_empty());
    }

    #[tokio::test]
    async fn an_end_is_taken_once() {
        let id = TaskId { job: JobId(uuid::Uuid::nil()), index: 7 };
        let mut attempts = Attempts::default();
        let failed = AttemptEnd::Failed(Failure::fatal(FailureReason::Cancelled, "stopped"));
        let ended = Ended { id, fence: 1, end: failed, report: AttemptReport::default(), body: None };
        attempts.spawn((id, 1), std::future::ready(ended), &Handle::current());
        assert_eq!(attempts.len(), 1);
        assert_eq!(attempts.next().await.map(|ended| ended.fence), Some(1));
        assert!(attempts.try_next().is_none() && attempts.of.is_empty());
    }
}
