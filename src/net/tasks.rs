//! The tasks that drive connections, and who owns them.

use std::future::Future;
use std::sync::Mutex;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::net::lock;

/// Owns the tasks of a client. They end with their connections, with [`Tasks::close`], or with the owner.
pub(super) struct Tasks(Mutex<Option<JoinSet<()>>>);

impl Tasks {
    pub(super) fn new() -> Tasks {
        Tasks(Mutex::new(Some(JoinSet::new())))
    }

    /// Spawns on the runtime of the caller. After [`Tasks::close`], and outside of any runtime, the future is dropped
    /// instead.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let Ok(runtime) = Handle::try_current() else { return };
        if let Some(set) = lock(&self.0).as_mut() {
            // What has ended is taken out here, so that the set is no longer than what lives.
            while set.try_join_next().is_some() {}
            set.spawn_on(task, &runtime);
        }
    }

    /// Returns whether [`Tasks::close`] was called.
    pub(super) fn is_closed(&self) -> bool {
        lock(&self.0).is_none()
    }

    /// Ends all tasks, and returns when they have ended.
    pub(super) async fn close(&self) {
        let set = lock(&self.0).take();
        if let Some(mut set) = set {
            set.shutdown().await;
        }
    }
}
