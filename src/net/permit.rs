//! The right to have a request in flight, as the network sees it: something to hold on to.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::net::tasks::Tasks;

/// How long a close or a reset takes to reach the peer, about: until then it counts the request that was broken off.
const CLOSE_TRAVEL: Duration = Duration::from_millis(250);

/// Held from before a request is sent until its response has been read to the end or its connection is closed: the
/// origin counts the request for as long. The network does not know what it is; dropping the last clone releases it.
#[derive(Clone, Default)]
pub struct Permit(Option<Arc<dyn Any + Send + Sync>>);

impl Permit {
    /// A permit that releases `held` when it is dropped.
    pub fn new(held: impl Any + Send + Sync) -> Permit {
        Permit(Some(Arc::new(held)))
    }

    /// Returns what is held, if it is a `T`.
    pub fn held<T: Any>(&self) -> Option<&T> {
        self.0.as_deref()?.downcast_ref()
    }

    /// Releases what is held once the peer knows that the request was broken off.
    pub(super) fn release_later(self, tasks: &Tasks) {
        if !self.is_empty() {
            tasks.spawn(async move {
                tokio::time::sleep(CLOSE_TRAVEL).await;
                drop(self);
            });
        }
    }

    /// Returns whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "no permit" } else { "a permit" })
    }
}
