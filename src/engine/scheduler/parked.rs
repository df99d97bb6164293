//! Room for commands that wait for their job for as long as its files, its attempts or the store take: those that are large
//! keep none of the room that other callers wait for.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::engine::command::{Admitted, EngineError, JobCommand};

/// Memory of large commands that wait for their jobs, in KiB. One beyond is refused.
const PARKED_KIB: usize = 16 << 10;
/// A command that takes no more than this keeps the room that it has, in KiB.
const SMALL_KIB: usize = 4;

/// The room of all commands that wait so.
#[derive(Debug)]
pub(super) struct Parked(Arc<Semaphore>);

impl Default for Parked {
    fn default() -> Parked {
        Parked(Arc::new(Semaphore::new(PARKED_KIB)))
    }
}

impl Parked {
    /// Gives a command that is to wait room among those that do. Where there is none it is refused.
    pub(super) fn admit(&self, mut admitted: Admitted<JobCommand>) -> Option<Admitted<JobCommand>> {
        let is_here = admitted.room.as_ref().is_some_and(|room| Arc::ptr_eq(room.semaphore(), &self.0));
        let kib = admitted.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if is_here || kib <= SMALL_KIB {
            return Some(admitted);
        }
        let Ok(room) = self.0.clone().try_acquire_many_owned(kib as u32) else {
            admitted.command.refuse(EngineError::Overloaded);
            return None;
        };
        admitted.room = Some(room);
        Some(admitted)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::model::access::Actor;
    use crate::model::task_filter::TaskChoice;

    #[test]
    fn large_commands_give_back_the_room_of_others() {
        let (room, parked) = (Arc::new(Semaphore::new(64 << 10)), Parked::default());
        let command = |kib| {
            let command = JobCommand::Retry { which: TaskChoice::All, reply: oneshot::channel().0 };
            let room = room.clone().try_acquire_many_owned(kib).ok();
            Admitted { command, by: Arc::new(Actor::local()), room }
        };
        let small = parked.admit(command(4)).unwrap();
        let first = parked.admit(command(10 << 10)).unwrap();
        assert_eq!(room.available_permits(), (64 << 10) - 4);
        let first = parked.admit(first).unwrap();
        assert!(parked.admit(command(8 << 10)).is_none(), "it is refused, and its room is free");
        assert_eq!(room.available_permits(), (64 << 10) - 4);
        drop((first, small));
        assert!(parked.admit(command(16 << 10)).is_some());
    }
}
