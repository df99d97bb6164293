//! Free space, counted over all running downloads, so that many that each fit do not fill the disk together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::files::folder::Folder;

/// What is set aside on each file system, by device number.
#[derive(Debug, Default)]
pub struct Space {
    reserved: Mutex<HashMap<u64, u64>>,
}

/// The disk has not the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{needed_bytes} bytes are needed, and {free_bytes} are free and not set aside for other downloads")]
pub struct NoSpace {
    /// What was asked for.
    pub needed_bytes: u64,
    /// What could be had.
    pub free_bytes: u64,
}

/// Bytes that are set aside until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    space: Arc<Space>,
    device: u64,
    bytes: u64,
}

impl Space {
    /// Sets bytes aside on the file system of `folder`. Where its free space cannot be told, everything fits.
    pub(super) fn reserve(self: &Arc<Self>, folder: &Folder, bytes: u64) -> Result<Reservation, NoSpace> {
        let (Ok(device), Ok(free)) = (folder.device(), folder.free_bytes()) else {
            return Ok(Reservation { space: Arc::clone(self), device: 0, bytes: 0 });
        };
        self.reserve_of(device, free, bytes)
    }

    fn reserve_of(self: &Arc<Self>, device: u64, free: u64, bytes: u64) -> Result<Reservation, NoSpace> {
        let mut reserved = self.lock();
        let taken = reserved.entry(device).or_default();
        let left = free.saturating_sub(*taken);
        if bytes > left {
            return Err(NoSpace { needed_bytes: bytes, free_bytes: left });
        }
        *taken += bytes;
        Ok(Reservation { space: Arc::clone(self), device, bytes })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// Keeps at most `bytes`: the rest is on the disk by now, and the file system counts it itself.
    pub fn shrink_to(&mut self, bytes: u64) {
        let given_back = self.bytes.saturating_sub(bytes);
        self.bytes -= given_back;
        if let Some(taken) = self.space.lock().get_mut(&self.device) {
            *taken = taken.saturating_sub(given_back);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_all_have_set_aside() {
        let space = Arc::new(Space::default());
        let mut first = space.reserve_of(1, 100, 60).unwrap();
        assert_eq!(space.reserve_of(1, 100, 60).unwrap_err(), NoSpace { needed_bytes: 60, free_bytes: 40 });
        assert!(space.reserve_of(2, 100, 60).is_ok(), "another file system");
        // 50 of the 60 were written: 50 are left free, 10 of those are set aside.
        first.shrink_to(10);
        let second = space.reserve_of(1, 50, 40).unwrap();
        assert!(space.reserve_of(1, 50, 1).is_err());
        drop((first, second));
        assert!(space.reserve_of(1, 50, 50).is_ok());
    }
}
