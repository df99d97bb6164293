//! Which parts are in use in this process.
//!
//! Work on the blocking pool may outlive the attempt that began it, so that an attempt has ended for the engine while a
//! checkpoint of it is still written. The claim lives as long as the last of them.
//!
//! Of the parts that are not in use, one on each file system may be kept by a download that waits for more room: several
//! would wait for what the others hold, and for ever.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The parts of a download root that are in use.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    claimed: HashSet<String>,
    /// The part that waits for room on a file system, by the number of its device.
    waiting: HashMap<u64, String>,
}

/// The right to use one part; dropping it releases it.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Arc<Claims>,
    path: String,
}

impl Claims {
    /// Claims the part of this path; `None`: it is in use. If it waited for room it does not any more.
    pub(super) fn claim(self: &Arc<Self>, path: String) -> Option<Claim> {
        let mut state = self.lock();
        let is_free = state.claimed.insert(path.clone());
        if is_free {
            state.waiting.retain(|_, waiting| *waiting != path);
        }
        is_free.then(|| Claim { claims: Arc::clone(self), path })
    }

    /// Whether the part of this path is in use.
    pub(super) fn has(&self, path: &str) -> bool {
        self.lock().claimed.contains(path)
    }

    /// Removes a directory by `remove`, unless a part in it, or further down, is in use: its file may have no name yet. Says
    /// whether it is gone. `own`: the path of a part that is being removed.
    pub(super) fn remove_unused(&self, folder: &str, own: Option<&str>, remove: impl FnOnce() -> bool) -> bool {
        let state = self.lock();
        let is_within = |path: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        let is_in_use = state.claimed.iter().any(|path| is_within(path) && Some(path.as_str()) != own);
        // While nobody can begin to use one.
        !is_in_use && remove()
    }

    /// Whether the part of this path may be kept while its download waits for room on a file system. `is_there` says
    /// whether another one, which was kept, still exists.
    pub(super) fn may_wait(&self, device: u64, path: &str, is_there: impl FnOnce(&str) -> bool) -> bool {
        let mut state = self.lock();
        let other = state.waiting.get(&device).filter(|other| *other != path);
        if other.is_some_and(|other| is_there(other)) {
            return false;
        }
        state.waiting.insert(device, path.to_owned());
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.lock().claimed.remove(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_stays_while_a_part_in_it_is_in_use() {
        let claims = Arc::new(Claims::default());
        let (own, other) = (claims.claim("a/b/1".to_owned()).unwrap(), claims.claim("a/bc/2".to_owned()).unwrap());
        let is_removed = |folder, own| claims.remove_unused(folder, own, || true);
        assert!(!is_removed("a/b", None) && is_removed("a/b", Some("a/b/1")));
        assert!(!is_removed("a", Some("a/b/1")) && is_removed("a/c", None));
        drop((own, other));
        assert!(is_removed("a", None));
    }

    #[test]
    fn one_part_waits_for_room_on_each_file_system() {
        let claims = Arc::new(Claims::default());
        assert!(claims.may_wait(1, "a", |_| true) && claims.may_wait(1, "a", |_| true));
        assert!(!claims.may_wait(1, "b", |other| other == "a"));
        assert!(claims.may_wait(2, "b", |_| true));
        assert!(claims.may_wait(1, "c", |_| false), "the other is gone");
        drop(claims.claim("c".to_owned()));
        assert!(claims.may_wait(1, "b", |_| true), "the other goes on");
    }
}
