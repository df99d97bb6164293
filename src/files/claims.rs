//! Which parts are in use in this process.
//!
//! Work on the blocking pool may outlive the attempt that began it, so that an attempt has ended for the engine while a
//! checkpoint of it is still written. The claim lives as long as the last of them.
//!
//! Of the parts that are not in use, one on each file system may be kept by a download that waits for more room: several
//! would wait for what the others hold, and for ever.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::files::folder::Folder;

/// The parts of a download root that are in use.
#[derive(Debug, Default)]
pub(super) struct Claims {
    claimed: Mutex<HashSet<String>>,
    /// Those of all roots, since several may lie on one file system.
    waiters: Arc<Waiters>,
    /// The part that waits for room within what its tenant may store: a root is of one tenant.
    own: Mutex<Option<Waiter>>,
}

/// The parts that wait for room, one on each file system, by the number of its device.
#[derive(Debug, Default)]
pub(super) struct Waiters(Mutex<HashMap<u64, Waiter>>);

/// A part that waits for room.
#[derive(Debug)]
struct Waiter {
    folder: Folder,
    part_name: String,
}

impl Waiter {
    fn is(&self, folder: &Folder, part_name: &str) -> bool {
        self.part_name == part_name && self.folder.is_same(folder)
    }

    /// Whether it is still there. In case of doubt it is: then bytes come again, and nobody waits for ever.
    fn is_there(&self) -> bool {
        self.folder.has(&self.part_name).unwrap_or(true)
    }
}

/// The right to use one part; dropping it releases it.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Arc<Claims>,
    path: String,
}

impl Claims {
    /// Makes those of another root, beside which the parts of this one wait for room.
    pub(super) fn beside(&self) -> Claims {
        Claims { claimed: Mutex::default(), waiters: Arc::clone(&self.waiters), own: Mutex::default() }
    }

    /// Claims the part of this path; `None`: it is in use.
    pub(super) fn claim(self: &Arc<Self>, path: String) -> Option<Claim> {
        let is_free = self.lock().insert(path.clone());
        is_free.then(|| Claim { claims: Arc::clone(self), path })
    }

    /// Notes that a part does not wait for room any more, if it did. Few do, and its name is made only where one does.
    pub(super) fn goes_on(&self, folder: &Folder, part_name: impl Fn() -> String) {
        let is_it = |waiting: &Waiter| waiting.is(folder, &part_name());
        self.waiters.lock().retain(|_, waiting| !is_it(waiting));
        self.own.lock().unwrap_or_else(PoisonError::into_inner).take_if(|waiting| is_it(waiting));
    }

    /// Whether the part of this path is in use.
    pub(super) fn has(&self, path: &str) -> bool {
        self.lock().contains(path)
    }

    /// Removes a directory by `remove`, unless a part in it, or further down, is in use: its file may have no name yet. Says
    /// whether it is gone. `own`: the path of a part that is being removed.
    pub(super) fn remove_unused(&self, folder: &str, own: Option<&str>, remove: impl FnOnce() -> bool) -> bool {
        let claimed = self.lock();
        let is_within = |path: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        let is_in_use = claimed.iter().any(|path| is_within(path) && Some(path.as_str()) != own);
        // While nobody can begin to use one.
        !is_in_use && remove()
    }

    /// Whether a part may be kept while its download waits for room on the file system of its folder.
    pub(super) fn may_wait(&self, folder: &Folder, part_name: &str) -> bool {
        let mut waiting = self.waiters.lock();
        let other = waiting.get(&folder.device()).filter(|other| !other.is(folder, part_name));
        if other.is_some_and(Waiter::is_there) {
            return false;
        }
        waiting.insert(folder.device(), Waiter { folder: folder.clone(), part_name: part_name.to_owned() });
        true
    }

    /// Whether a part may be kept while its download waits for room within what its tenant may store.
    pub(super) fn may_wait_for_tenant(&self, folder: &Folder, part_name: &str) -> bool {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if own.as_ref().is_some_and(|other| !other.is(folder, part_name) && other.is_there()) {
            return false;
        }
        *own = Some(Waiter { folder: folder.clone(), part_name: part_name.to_owned() });
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Waiter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.lock().remove(&self.path);
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
    fn one_part_waits_for_room_on_a_file_system_also_of_two_roots() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            let dir = cap_std::fs::Dir::open_ambient_dir(&path, cap_std::ambient_authority()).unwrap();
            Folder::new(&dir, "").unwrap()
        };
        let (here, there) = (folder("here"), folder("there"));
        let claims = Arc::new(Claims::default());
        let beside = Arc::new(claims.beside());
        std::fs::write(dir.path().join("here/a"), "").unwrap();
        assert!(claims.may_wait(&here, "a") && claims.may_wait(&here, "a"));
        assert!(!claims.may_wait(&here, "b") && !beside.may_wait(&there, "a"));
        claims.goes_on(&here, || "a".to_owned());
        assert!(beside.may_wait(&there, "a"), "the other goes on");
        assert!(claims.may_wait(&here, "a"), "the other is gone: there is no such file");
    }
}
