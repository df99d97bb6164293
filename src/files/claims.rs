//! Which parts are in use in this process.
//!
//! Work on the blocking pool may outlive the attempt that began it, so that an attempt has ended for the engine while a
//! checkpoint of it is still written. The claim lives as long as the last of them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The parts of a download root that are in use.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<HashSet<String>>);

/// The right to use one part; dropping it releases it.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Arc<Claims>,
    path: String,
}

impl Claims {
    /// Claims the part of this path; `None`: it is in use.
    pub(super) fn claim(self: &Arc<Self>, path: String) -> Option<Claim> {
        let is_free = self.lock().insert(path.clone());
        is_free.then(|| Claim { claims: Arc::clone(self), path })
    }

    /// Whether the part of this path is in use.
    pub(super) fn has(&self, path: &str) -> bool {
        self.lock().contains(path)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.lock().remove(&self.path);
    }
}
