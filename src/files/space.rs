//! Free space: counted over all running downloads, so that many that each fit do not fill the disk together, and with a
//! reserve that downloads never touch, so that the database beside them goes on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::files::folder::{DiskRoom, Folder};

/// The reserve where none is set: this, or a twentieth of the file system if that is less.
const RESERVE_DEFAULT_BYTES: u64 = 1 << 30;
const RESERVE_DEFAULT_FRACTION: u64 = 20;
/// Fewer bytes than this are granted by a look at the file system that is not older than [`LOOK_AGAIN`]: for a small file
/// the look would cost as much as its write.
const SMALL_BYTES: u64 = 1 << 20;
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What is set aside on each file system, by device number.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// What is kept free; `None`: the default.
    reserve: Option<u64>,
    devices: Mutex<HashMap<u64, Device>>,
}

#[derive(Debug, Default)]
struct Device {
    /// Set aside by running downloads.
    set_aside: u64,
    /// What is left of the last look, and when it was.
    seen: Option<(DiskRoom, Instant)>,
}

/// The file system does not have enough free space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{needed_bytes} bytes are needed, and {free_bytes} are free beside the reserve of {reserve_bytes} and what other \
     downloads have set aside"
)]
pub struct NoSpace {
    /// What was asked for.
    pub needed_bytes: u64,
    /// What could be had.
    pub free_bytes: u64,
    /// What is kept free.
    pub reserve_bytes: u64,
    /// The most that could ever be had, if nothing else were there.
    pub most_bytes: u64,
}

/// Bytes that are set aside until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    space: Arc<Space>,
    device: u64,
    bytes: u64,
}

impl Space {
    /// Keeps `reserve` bytes free on every file system; `None`: 1 GiB or a twentieth of it, whichever is less.
    pub(super) fn new(reserve: Option<u64>) -> Space {
        Space { reserve, ..Space::default() }
    }

    /// Sets bytes aside on the file system of `folder`. Where its free space is unknown, everything fits.
    pub(super) fn reserve(self: &Arc<Self>, folder: &Folder, bytes: u64) -> Result<Reservation, NoSpace> {
        let device = folder.device();
        if bytes < SMALL_BYTES
            && let Some(reservation) = self.reserve_by_last_look(device, bytes)
        {
            return Ok(reservation);
        }
        match folder.room() {
            Ok(room) => self.reserve_of(device, room, bytes),
            Err(_) => Ok(Reservation { space: Arc::clone(self), device, bytes: 0 }),
        }
    }

    /// Returns whether so many bytes could be set aside now. Always asks the system, since the caller was refused before.
    pub(super) fn has_room(self: &Arc<Self>, folder: &Folder, bytes: u64) -> bool {
        folder.room().map_or(true, |room| self.reserve_of(folder.device(), room, bytes).is_ok())
    }

    fn reserve_by_last_look(self: &Arc<Self>, device: u64, bytes: u64) -> Option<Reservation> {
        let mut devices = self.lock();
        let entry = devices.entry(device).or_default();
        let (room, _) = entry.seen.as_mut().filter(|(_, at)| at.elapsed() < LOOK_AGAIN)?;
        let needed = bytes.saturating_add(entry.set_aside).saturating_add(self.reserve_on(*room));
        // A close call is worth a look.
        if room.free < needed.saturating_add(SMALL_BYTES) {
            return None;
        }
        // Counted here until the next look, and not released: it is on the disk by then.
        room.free -= bytes;
        Some(Reservation { space: Arc::clone(self), device, bytes: 0 })
    }

    fn reserve_of(self: &Arc<Self>, device: u64, room: DiskRoom, bytes: u64) -> Result<Reservation, NoSpace> {
        let mut devices = self.lock();
        let entry = devices.entry(device).or_default();
        entry.seen = Some((room, Instant::now()));
        let reserve = self.reserve_on(room);
        let left = room.free.saturating_sub(reserve).saturating_sub(entry.set_aside);
        if bytes > left {
            return Err(NoSpace {
                needed_bytes: bytes,
                free_bytes: left,
                reserve_bytes: reserve,
                most_bytes: room.capacity.saturating_sub(reserve),
            });
        }
        entry.set_aside += bytes;
        Ok(Reservation { space: Arc::clone(self), device, bytes })
    }

    fn reserve_on(&self, room: DiskRoom) -> u64 {
        reserve_on(self.reserve, room)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Device>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is kept free on a file system where `reserve` was set, or nothing.
pub(super) fn reserve_on(reserve: Option<u64>, room: DiskRoom) -> u64 {
    reserve.unwrap_or(RESERVE_DEFAULT_BYTES.min(room.capacity / RESERVE_DEFAULT_FRACTION))
}

impl Reservation {
    /// Keeps at most `bytes`: the rest is on the disk by now, and the file system counts it itself.
    pub fn shrink_to(&mut self, bytes: u64) {
        let given_back = self.bytes.saturating_sub(bytes);
        self.bytes -= given_back;
        if let Some(device) = self.space.lock().get_mut(&self.device) {
            device.set_aside = device.set_aside.saturating_sub(given_back);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.shrink_to(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(free: u64) -> DiskRoom {
        DiskRoom { free, capacity: 1000 }
    }

    #[tokio::test]
    async fn counts_what_all_have_set_aside() {
        let space = Arc::new(Space::new(Some(10)));
        let mut first = space.reserve_of(1, room(110), 60).unwrap();
        let expected = NoSpace { needed_bytes: 60, free_bytes: 40, reserve_bytes: 10, most_bytes: 990 };
        assert_eq!(space.reserve_of(1, room(110), 60).unwrap_err(), expected);
        assert!(space.reserve_of(2, room(110), 60).is_ok(), "another file system");
        // 50 of the 60 were written: 60 are left free, 10 of those are set aside.
        first.shrink_to(10);
        let second = space.reserve_of(1, room(60), 40).unwrap();
        assert!(space.reserve_of(1, room(60), 1).is_err());
        drop((first, second));
        assert!(space.reserve_of(1, room(60), 50).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn small_ones_share_a_look_for_a_moment() {
        let space = Arc::new(Space::new(Some(0)));
        assert!(space.reserve_by_last_look(1, 1000).is_none(), "nobody has looked");
        drop(space.reserve_of(1, room(SMALL_BYTES + 2500), 0));
        assert!(space.reserve_by_last_look(1, 1000).is_some());
        assert!(space.reserve_by_last_look(1, 1000).is_some());
        assert!(space.reserve_by_last_look(1, 1000).is_none(), "a close call");
        drop(space.reserve_of(1, room(1 << 30), 0));
        tokio::time::advance(LOOK_AGAIN).await;
        assert!(space.reserve_by_last_look(1, 1).is_none(), "too long ago");
    }

    #[test]
    fn the_default_reserve_is_small_on_a_small_disk() {
        let space = Space::default();
        assert_eq!(space.reserve_on(DiskRoom { free: 0, capacity: 64 << 20 }), (64 << 20) / 20);
        assert_eq!(space.reserve_on(DiskRoom { free: 0, capacity: 1 << 40 }), 1 << 30);
    }
}
