//! The tasks that drive connections, and who owns them.

use std::future::Future;
use std::sync::{Arc, Mutex, Weak};

use tokio::task::JoinSet;

use crate::net::lock;

/// Owns the tasks of a client. They end with their connections, with [`Tasks::close`], or with the owner.
#[derive(Default)]
pub(super) struct Tasks(Arc<Mutex<Option<JoinSet<()>>>>);

impl Tasks {
    pub(super) fn new() -> Tasks {
        Tasks(Arc::new(Mutex::new(Some(JoinSet::new()))))
    }

    /// Spawns on the runtime of the caller. After [`Tasks::close`] the future is dropped instead.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        spawn(&self.0, task);
    }

    /// A handle for hyper, which spawns tasks of its own for HTTP/2. It does not keep the tasks alive.
    pub(super) fn executor(&self) -> Executor {
        Executor(Arc::downgrade(&self.0))
    }

    /// Ends all tasks, and returns when they have ended.
    pub(super) async fn close(&self) {
        let set = lock(&self.0).take();
        if let Some(mut set) = set {
            set.shutdown().await;
        }
    }
}

fn spawn(tasks: &Mutex<Option<JoinSet<()>>>, task: impl Future<Output = ()> + Send + 'static) {
    if let Some(set) = lock(tasks).as_mut() {
        // What has ended is taken out here, so that the set is no longer than what lives.
        while set.try_join_next().is_some() {}
        set.spawn(task);
    }
}

/// See [`Tasks::executor`].
#[derive(Clone)]
pub(super) struct Executor(Weak<Mutex<Option<JoinSet<()>>>>);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
{
    fn execute(&self, future: F) {
        if let Some(tasks) = self.0.upgrade() {
            spawn(&tasks, async move {
                future.await;
            });
        }
    }
}
