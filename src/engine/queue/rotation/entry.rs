//! A job in the rotation, and its lanes: which of them is next.
//!
//! A lane of which nothing is in memory has its turn when its page was read, before the others. The turn that it missed and
//! the one that it gets are one: after it, it stands where it would have stood, so that no lane has two for one of another.

use std::collections::{BTreeMap, VecDeque};

use crate::engine::queue::rotation::admission::Admission;
use crate::engine::queue::rotation::promises::Promise;
use crate::model::host::Host;
use crate::model::tenant::Party;
use crate::store::LaneNumber;

#[derive(Debug)]
pub(super) struct JobEntry {
    pub(super) priority: i32,
    /// For whom it is done.
    pub(super) party: Party,
    pub(super) may_run: bool,
    pub(super) resting: bool,
    pub(super) running: u32,
    /// 0: none.
    pub(super) cap: u32,
    pub(super) ready: VecDeque<LaneNumber>,
    /// The job's place in its ring, an entry there with another number is an old one; 0: it stands in none.
    pub(super) ticket: u64,
    /// Lanes that a host woke for its free room, and that have not been picked since.
    #[allow(clippy::box_collection)] // Few jobs have any, and jobs are many.
    pub(super) woken: Option<Box<BTreeMap<LaneNumber, Woken>>>,
    /// Lanes that have left `ready` in their turn.
    pub(super) turns: u64,
    /// By lane number.
    pub(super) lanes: Vec<LaneEntry>,
}

/// A lane that a host woke for its free room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Woken {
    /// The number of the promise by which no other tenant gets that room; see [`super::promises`].
    pub(super) promise: Option<u64>,
}

#[derive(Debug)]
pub(super) struct LaneEntry {
    /// The host whose permit this lane waits for, or last received. It differs from `host` only while `host` is paused and
    /// a mirror is used instead.
    pub(super) at: Host,
    /// The host of the lane's tasks.
    pub(super) host: Host,
    pub(super) place: Place,
    /// How many of its tasks wait, as far as is known.
    pub(super) waiting: u32,
    /// Where the turn after the present one is, in turns of the job, if `owed` is not `Owed::No`. While it is parked, the
    /// ticket of its entry at the host.
    pub(super) turn: u64,
    pub(super) owed: Owed,
}

/// Whether a lane missed its turn because it had to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owed {
    No,
    /// It is being read.
    Missed,
    /// It is ready before its turn.
    Ready,
    /// It has had it, and goes on at its old place.
    Had,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Idle,
    Ready,
    Parked,
}

impl LaneEntry {
    /// A lane without work.
    pub(super) fn new(host: Host) -> LaneEntry {
        LaneEntry { at: host.clone(), host, place: Place::Idle, waiting: 0, turn: 0, owed: Owed::No }
    }

    /// Notes what became of a turn, after which `next` would be that of the turn after it. Returns whether it was the lane's
    /// regular one.
    pub(super) fn turned(&mut self, admission: &Admission, next: u64) -> bool {
        if matches!(admission, Admission::Later | Admission::JobBlocked | Admission::TenantResting) {
            return false;
        }
        let is_regular = self.owed != Owed::Ready;
        self.owed = match admission {
            Admission::Read => Owed::Missed,
            Admission::Go(_) if !is_regular => Owed::Had,
            _ => Owed::No,
        };
        if *admission == Admission::Read && is_regular {
            self.turn = next + 1;
        }
        is_regular
    }

    pub(super) fn is_parked_by(&self, ticket: u64) -> bool {
        self.place == Place::Parked && self.turn == ticket
    }
}

impl JobEntry {
    /// A job without lanes, of nobody in particular.
    pub(super) fn new(priority: i32, cap: u32, may_run: bool) -> JobEntry {
        JobEntry {
            priority,
            party: Party::default(),
            may_run,
            resting: false,
            running: 0,
            cap,
            ready: VecDeque::new(),
            ticket: 0,
            woken: None,
            turns: 0,
            lanes: Vec::new(),
        }
    }

    /// Returns whether a task of it may start, as far as the job goes.
    pub(super) fn is_runnable(&self) -> bool {
        self.may_run && !self.resting && (self.cap == 0 || self.running < self.cap)
    }

    /// Makes a lane ready: at the place that it is owed, or else behind the others.
    pub(super) fn make_ready(&mut self, number: LaneNumber) {
        let Some(lane) = self.lanes.get_mut(number as usize) else { return };
        lane.place = Place::Ready;
        if std::mem::replace(&mut lane.owed, Owed::No) == Owed::Had {
            // Linear in what stands before it, once for each page that is read.
            let before = lane.turn.saturating_sub(self.turns).min(self.ready.len() as u64);
            self.ready.insert(before as usize, number);
        } else {
            self.ready.push_back(number);
        }
    }

    /// Returns whether a promise to one of its lanes holds.
    pub(super) fn has(&self, promise: &Promise) -> bool {
        let woken = self.woken.as_ref().and_then(|woken| woken.get(&promise.lane));
        woken.is_some_and(|woken| woken.promise == Some(promise.number))
    }

    /// Forgets that a host woke a lane. Returns what was noted of it.
    pub(super) fn forget_woken(&mut self, number: LaneNumber) -> Option<Woken> {
        let woken = self.woken.as_mut()?;
        let was = woken.remove(&number)?;
        if woken.is_empty() {
            self.woken = None;
        }
        Some(was)
    }
}
