//! How much one tenant stores: what is kept, and what running attempts may still add.
//!
//! What is kept is counted by who owns the jobs. What an attempt brings is held by it until then, so that many that each
//! fit do not exceed the quota together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The count of one tenant. Attempts have it for as long as they run.
#[derive(Debug, Default)]
pub struct Storage(Mutex<Counted>);

#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    /// The quota; `None`: no limit.
    most: Option<u64>,
    kept: u64,
    held: u64,
}

/// Why bytes cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{needed_bytes} bytes are needed, and {free_bytes} are left of the {most_bytes} that the tenant may store \
     (`stored_bytes`)"
)]
pub struct Full {
    /// How many more are needed.
    pub needed_bytes: u64,
    /// How many there is room for.
    pub free_bytes: u64,
    /// The quota.
    pub most_bytes: u64,
}

/// Why nothing more is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tenant stores {stored_bytes} bytes, and may store {most_bytes} (`stored_bytes`)")]
pub struct UsedUp {
    /// How much is kept or held.
    pub stored_bytes: u64,
    /// The quota.
    pub most_bytes: u64,
}

impl Counted {
    fn free(&self) -> u64 {
        self.most.map_or(u64::MAX, |most| most.saturating_sub(self.kept.saturating_add(self.held)))
    }
}

impl Storage {
    /// Sets the quota; `None`: no limit. What is there stays. Returns whether it was another.
    pub fn set_most(&self, most: Option<u64>) -> bool {
        std::mem::replace(&mut self.lock().most, most) != most
    }

    /// Counts bytes that are kept from now on in place of `before`.
    pub fn moves(&self, before: u64, now: u64) {
        let mut counted = self.lock();
        counted.kept = counted.kept.saturating_sub(before).saturating_add(now);
    }

    /// Returns how many bytes are kept or held.
    pub fn bytes(&self) -> u64 {
        let counted = self.lock();
        counted.kept.saturating_add(counted.held)
    }

    /// Returns what is stored and the quota, where all of it is used up.
    pub fn used_up(&self) -> Option<UsedUp> {
        let counted = self.lock();
        let most_bytes = counted.most.filter(|_| counted.free() == 0)?;
        Some(UsedUp { stored_bytes: counted.kept.saturating_add(counted.held), most_bytes })
    }

    /// Returns whether there is room for so many bytes more.
    pub fn has_room(&self, bytes: u64) -> bool {
        bytes <= self.lock().free()
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one attempt holds of the storage of its tenant, until it is dropped.
#[derive(Debug, Default)]
pub struct StorageHold {
    of: Arc<Storage>,
    bytes: Mutex<u64>,
    refusal: Mutex<Option<Full>>,
}

impl StorageHold {
    /// Holds what is there already, whatever the quota.
    pub fn of(storage: Arc<Storage>, bytes: u64) -> StorageHold {
        let mut counted = storage.lock();
        counted.held = counted.held.saturating_add(bytes);
        drop(counted);
        StorageHold { of: storage, bytes: Mutex::new(bytes), refusal: Mutex::default() }
    }

    /// Holds exactly so many bytes: what is there already, whatever the quota.
    pub fn holds(&self, bytes: u64) {
        let mut held = lock(&self.bytes);
        let mut counted = self.of.lock();
        counted.held = counted.held.saturating_sub(*held).saturating_add(bytes);
        *held = bytes;
    }

    /// Counts what is kept in place of `before`, and so many bytes as held, in one step: what an attempt takes over from what is
    /// kept, or leaves to it, is never counted twice.
    pub fn hands_over(&self, (before, kept): (u64, u64), holds: u64) {
        let mut held = lock(&self.bytes);
        let mut counted = self.of.lock();
        counted.kept = counted.kept.saturating_sub(before).saturating_add(kept);
        counted.held = counted.held.saturating_sub(*held).saturating_add(holds);
        *held = holds;
    }

    /// Holds at least so many bytes.
    ///
    /// # Errors
    ///
    /// The quota does not allow it. It holds what it held.
    pub fn at_least(&self, bytes: u64) -> Result<(), Full> {
        let mut held = lock(&self.bytes);
        let more = bytes.saturating_sub(*held);
        if more == 0 {
            return Ok(());
        }
        let mut counted = self.of.lock();
        let free_bytes = counted.free();
        if more > free_bytes {
            let full = Full { needed_bytes: more, free_bytes, most_bytes: counted.most.unwrap_or(u64::MAX) };
            *lock(&self.refusal) = Some(full);
            return Err(full);
        }
        counted.held = counted.held.saturating_add(more);
        *held = bytes;
        Ok(())
    }

    /// Holds so many bytes more.
    ///
    /// # Errors
    ///
    /// As [`StorageHold::at_least`].
    pub fn more(&self, bytes: u64) -> Result<(), Full> {
        let held = self.bytes();
        self.at_least(held.saturating_add(bytes))
    }

    /// Holds so many bytes less.
    pub fn less(&self, bytes: u64) {
        let mut held = lock(&self.bytes);
        let back = bytes.min(*held);
        *held -= back;
        let mut counted = self.of.lock();
        counted.held = counted.held.saturating_sub(back);
    }

    /// Returns how many bytes it holds.
    pub fn bytes(&self) -> u64 {
        *lock(&self.bytes)
    }

    /// Returns why it was refused last, if it was.
    pub fn refusal(&self) -> Option<Full> {
        *lock(&self.refusal)
    }
}

impl Drop for StorageHold {
    fn drop(&mut self) {
        let bytes = self.bytes();
        let mut counted = self.of.lock();
        counted.held = counted.held.saturating_sub(bytes);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_do_not_exceed_together_what_each_of_them_would_not() {
        let storage = Arc::new(Storage::default());
        storage.set_most(Some(100));
        storage.moves(0, 30);
        let hold = |bytes| StorageHold::of(storage.clone(), bytes);
        let (one, other) = (hold(10), hold(0));
        assert_eq!(one.at_least(50), Ok(()));
        assert_eq!(other.at_least(21), Err(Full { needed_bytes: 21, free_bytes: 20, most_bytes: 100 }));
        assert_eq!((other.bytes(), other.refusal().is_some(), storage.bytes()), (0, true, 80));
        let used_up = UsedUp { stored_bytes: 100, most_bytes: 100 };
        assert_eq!((other.more(20), storage.used_up()), (Ok(()), Some(used_up)));
        assert_eq!(one.at_least(50), Ok(()), "nothing more is asked for");
        storage.moves(30, 80);
        drop(one);
        assert_eq!((storage.bytes(), storage.has_room(1)), (100, false));
        drop(other);
        assert!(storage.has_room(20) && !storage.has_room(21) && storage.used_up().is_none());
        let cut = hold(30);
        cut.holds(5);
        assert_eq!((cut.bytes(), storage.bytes()), (5, 85));
        drop(cut);
        storage.set_most(Some(10));
        assert_eq!(hold(40).more(0), Ok(()), "what is there stays");
        storage.set_most(Some(100));
        let part = hold(0);
        part.hands_over((80, 50), 30);
        assert_eq!((part.bytes(), storage.bytes()), (30, 80));
        part.hands_over((50, 80), 0);
        drop(part);
        assert_eq!(storage.bytes(), 80);
        storage.set_most(None);
        assert_eq!(hold(0).at_least(u64::MAX), Ok(()));
    }
}
