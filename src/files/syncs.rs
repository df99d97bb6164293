//! Directories are synced once for all names that were changed by then, and not once for each.
//!
//! Whoever comes first leads: it syncs for all that have come so far. Those that come meanwhile cannot tell whether that
//! sync still covers them, and wait for the next, which one of them leads.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The syncs of all directories, by path.
#[derive(Debug, Default)]
pub(super) struct Syncs(Mutex<HashMap<String, Arc<Group>>>);

#[derive(Debug, Default)]
struct Group {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The round that who comes now belongs to.
    gathering: u64,
    /// The last round that has ended.
    ended: Option<u64>,
    is_leading: bool,
    /// Rounds that failed, with the error that their members get.
    failed: Vec<(u64, io::ErrorKind)>,
    members: usize,
}

impl Syncs {
    /// Returns once a sync of the directory `path` that began after this call has succeeded. Blocks the thread.
    pub(super) fn sync(&self, path: &str, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let group = self.enter(path);
        let result = group.sync(sync);
        self.leave(path, &group);
        result
    }

    fn enter(&self, path: &str) -> Arc<Group> {
        let mut groups = lock(&self.0);
        let group = Arc::clone(groups.entry(path.to_owned()).or_default());
        lock(&group.state).members += 1;
        group
    }

    fn leave(&self, path: &str, group: &Group) {
        let mut groups = lock(&self.0);
        let mut state = lock(&group.state);
        state.members -= 1;
        if state.members == 0 {
            groups.remove(path);
        }
    }
}

impl Group {
    fn sync(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = lock(&self.state);
        let own = state.gathering;
        while state.is_leading && state.ended.is_none_or(|ended| ended < own) {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.ended.is_none_or(|ended| ended < own) {
            state.is_leading = true;
            state.gathering = own + 1;
            drop(state);
            let result = sync();
            state = lock(&self.state);
            state.is_leading = false;
            state.ended = Some(own);
            if let Err(error) = &result {
                state.failed.push((own, error.kind()));
            }
            self.ended.notify_all();
            return result;
        }
        match state.failed.iter().find(|(round, _)| *round == own) {
            Some((_, kind)) => Err((*kind).into()),
            None => Ok(()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn one_sync_for_all_that_came_before_it() {
        let (syncs, made, open) = (Syncs::default(), AtomicU32::new(0), Mutex::new(()));
        let waiting = |count: usize| {
            while lock(&lock(&syncs.0)["d"].state).members < count {
                std::thread::yield_now();
            }
        };
        let closed = lock(&open);
        std::thread::scope(|scope| {
            let one = || {
                syncs.sync("d", || {
                    drop(lock(&open));
                    made.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                })
            };
            let first = scope.spawn(one);
            while !lock(&syncs.0).get("d").is_some_and(|group| lock(&group.state).is_leading) {
                std::thread::yield_now();
            }
            let others: Vec<_> = (0..20).map(|_| scope.spawn(one)).collect();
            waiting(21);
            drop(closed);
            assert!(first.join().unwrap().is_ok());
            assert!(others.into_iter().all(|other| other.join().unwrap().is_ok()));
        });
        // The threads that were counted may not have come to their wait yet: then there is a round or two more.
        assert!((2..=21).contains(&made.load(Ordering::SeqCst)));
        assert!(lock(&syncs.0).is_empty());
    }

    #[test]
    fn a_failure_is_told_to_all_of_its_round() {
        let syncs = Syncs::default();
        assert_eq!(
            syncs.sync("d", || Err(io::ErrorKind::StorageFull.into())).unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        assert!(syncs.sync("d", || Ok(())).is_ok(), "the next round is its own");
    }
}
