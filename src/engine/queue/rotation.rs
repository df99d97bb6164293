//! Chooses the lane that goes next. Pure: it knows names and counts, and asks the caller for everything else.
//!
//! A lane is (job, host). While its host is paused, a lane whose next task has mirrors may run at, or wait for, the host
//! of one of those. A lane with work is *ready* in its job's rotation, or *parked* at its host because the host had no
//! room. Jobs with ready lanes stand in the ring of their priority. A pick takes the front job of the highest ring and
//! the front lane of that job; a lane that the host refuses is parked and costs nothing until the host has room, so each
//! look at a lane is paid for by a dispatch or by a release: O(1), whatever is queued.
//!
//! A lane of which nothing is in memory has its turn when its page was read, before the others. The turn that it missed and
//! the one that it gets are one: after it, it stands where it would have stood, so that no lane has two for one of another.
//!
//! Invariants: a lane with work is ready or parked, never both; a host with room and parked work has woken as many lanes
//! as it has room for, or none of their jobs may run. Within a priority no job starves; a lower priority waits for as
//! long as a higher one has work that may run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::engine::queue::waiting::Waiting;
use crate::model::host::Host;
use crate::model::ids::JobId;
use crate::model::tenant::{Parties, Party};
use crate::store::LaneNumber;

/// The caller's answer to a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The lane runs: the caller has taken the permits, that of this host among them.
    Go(Host),
    /// The lane has no task; the caller calls [`Rotation::has_work`] when it has one.
    Empty,
    /// The lane has no task in memory; the caller reads some and then calls [`Rotation::has_read`].
    Read,
    /// As [`Admission::Read`], but enough lanes are being read: the lane keeps its turn until there are fewer.
    Later,
    /// This host has no room; the caller calls [`Rotation::wake_host`] when it may have some.
    HostBlocked(Host),
    /// The job has used up its rate; the caller calls [`Rotation::set_resting`] when it may start again.
    JobBlocked,
}

/// Elements up to which a list of lanes has no room to spare: most jobs have few lanes, and jobs are many.
const TIGHT_MAX: usize = 4;

/// Adds to a list that mostly stays short.
pub(super) fn push_tight<T>(list: &mut Vec<T>, item: T) {
    if list.len() < TIGHT_MAX {
        list.reserve_exact(1);
    }
    list.push(item);
}

/// Jobs that keep their turn in one pick before nothing is picked: bounds what a pick costs.
const LATER_MAX: usize = 64;

/// The reason why a lane with work does not run, as far as the rotation knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The job may not run: it is paused, not begun or being stopped.
    Job,
    /// As many tasks of the job run as its `max_concurrency` allows.
    Cap,
    /// The job's rate is used up.
    Rate,
    /// The lane's host has no room.
    Host,
    /// Only its turn has not come.
    Turn,
}

#[derive(Debug)]
struct JobEntry {
    priority: i32,
    /// For whom it is done.
    party: Party,
    may_run: bool,
    resting: bool,
    running: u32,
    /// 0: none.
    cap: u32,
    ready: VecDeque<LaneNumber>,
    /// The job's place in its ring, an entry there with another number is an old one; 0: it stands in none.
    ticket: u64,
    /// Lanes that a host woke for its free room, and that have not been picked since.
    #[allow(clippy::box_collection)] // Few jobs have any, and jobs are many.
    woken: Option<Box<Vec<LaneNumber>>>,
    /// Lanes that have left `ready` in their turn.
    turns: u64,
    /// By lane number.
    lanes: Vec<LaneEntry>,
}

#[derive(Debug)]
struct LaneEntry {
    /// The host whose permit this lane waits for, or last received. It differs from `host` only while `host` is paused and
    /// a mirror is used instead.
    at: Host,
    /// The host of the lane's tasks.
    host: Host,
    place: Place,
    /// How many of its tasks are in memory.
    queued: u32,
    /// Where the turn after the present one is, in turns of the job, if `owed` is not `Owed::No`. While it is parked, the
    /// ticket of its entry at the host.
    turn: u64,
    owed: Owed,
}

/// Whether a lane missed its turn because it had to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owed {
    No,
    /// It is being read.
    Missed,
    /// It is ready before its turn.
    Ready,
    /// It has had it, and goes on at its old place.
    Had,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Idle,
    Ready,
    Parked,
}

impl LaneEntry {
    /// Notes what became of a turn, after which `next` would be that of the turn after it. Returns whether it was the lane's
    /// regular one.
    fn turned(&mut self, admission: &Admission, next: u64) -> bool {
        if matches!(admission, Admission::Later | Admission::JobBlocked) {
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

    fn is_parked_by(&self, ticket: u64) -> bool {
        self.place == Place::Parked && self.turn == ticket
    }
}

impl JobEntry {
    fn is_runnable(&self) -> bool {
        self.may_run && !self.resting && (self.cap == 0 || self.running < self.cap)
    }
}

#[allow(clippy::box_collection)] // See `JobEntry::woken`.
fn forget(woken: &mut Option<Box<Vec<LaneNumber>>>, number: LaneNumber) {
    if let Some(numbers) = woken {
        numbers.retain(|other| *other != number);
        if numbers.is_empty() {
            *woken = None;
        }
    }
}

/// What waits for room at one host.
#[derive(Debug, Default)]
struct Parked {
    /// By priority of their jobs. An entry whose ticket is not the lane's is an old one.
    lanes: BTreeMap<Reverse<i32>, VecDeque<(JobId, LaneNumber, u64)>>,
    /// Old entries, about.
    old: usize,
    /// The tasks in memory of all lanes that are parked here.
    tasks: Waiting,
}

/// Old entries that a host has before they are looked for.
const OLD_MAX: usize = 64;

/// The rotation over all jobs.
#[derive(Debug, Default)]
pub(crate) struct Rotation {
    jobs: HashMap<JobId, JobEntry>,
    rings: BTreeMap<Reverse<i32>, VecDeque<(JobId, u64)>>,
    parked: HashMap<Host, Parked>,
    /// The last ticket that was given out.
    tickets: u64,
}

impl Rotation {
    /// Adds a job, without lanes.
    pub(crate) fn add_job(&mut self, job: JobId, priority: i32, cap: u32, may_run: bool) {
        let entry = JobEntry {
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
        };
        self.jobs.insert(job, entry);
    }

    /// Forgets a job. Rings and hosts forget it when they come to it.
    pub(crate) fn remove_job(&mut self, job: JobId) {
        if let Some(entry) = self.jobs.remove(&job) {
            for lane in entry.lanes.iter().filter(|lane| lane.place == Place::Parked) {
                if let Some(parked) = self.parked.get_mut(&lane.at) {
                    parked.tasks.remove(entry.party, lane.queued.into());
                    parked.old += 1;
                }
                self.forget_old(&lane.at);
            }
            for lane in entry.woken.iter().flat_map(|woken| woken.iter()) {
                if let Some(lane) = entry.lanes.get(*lane as usize) {
                    self.wake_host(&lane.at, 1);
                }
            }
        }
    }

    /// Removes old entries of a host, once they are more than the others.
    fn forget_old(&mut self, host: &Host) {
        let Some(parked) = self.parked.get_mut(host).filter(|parked| parked.old > OLD_MAX) else { return };
        let all: usize = parked.lanes.values().map(VecDeque::len).sum();
        if parked.old < all / 2 {
            return;
        }
        let jobs = &self.jobs;
        for lanes in parked.lanes.values_mut() {
            lanes.retain(|(job, lane, ticket)| {
                let lane = jobs.get(job).and_then(|entry| entry.lanes.get(*lane as usize));
                lane.is_some_and(|lane| lane.is_parked_by(*ticket))
            });
        }
        parked.lanes.retain(|_, lanes| !lanes.is_empty());
        parked.old = 0;
        if parked.lanes.is_empty() {
            self.parked.remove(host);
        }
    }

    /// Says for whom a job is done. It has no work yet.
    pub(crate) fn set_party(&mut self, job: JobId, party: Party) {
        if let Some(entry) = self.jobs.get_mut(&job) {
            entry.party = party;
        }
    }

    /// Adds the next lane of a job, without work. Lanes are numbered from 0 in the order of these calls.
    pub(crate) fn add_lane(&mut self, job: JobId, host: Host) {
        if let Some(entry) = self.jobs.get_mut(&job) {
            let at = host.clone();
            push_tight(
                &mut entry.lanes,
                LaneEntry { at, host, place: Place::Idle, queued: 0, turn: 0, owed: Owed::No },
            );
        }
    }

    /// Notes that a lane has a task to give, in memory or in the store.
    pub(crate) fn has_work(&mut self, job: JobId, lane: LaneNumber) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        let Some(it) = entry.lanes.get_mut(lane as usize).filter(|lane| lane.place == Place::Idle) else { return };
        it.place = Place::Ready;
        if std::mem::replace(&mut it.owed, Owed::No) == Owed::Had {
            // Linear in what stands before it, once for each page that is read.
            let before = it.turn.saturating_sub(entry.turns).min(entry.ready.len() as u64);
            entry.ready.insert(before as usize, lane);
        } else {
            entry.ready.push_back(lane);
        }
        self.enter_ring(job);
    }

    /// As [`Rotation::has_work`], for a lane that was read because its turn had come: it goes next, since its tasks may
    /// have to leave memory again before another turn comes.
    pub(crate) fn has_read(&mut self, job: JobId, lane: LaneNumber) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        let Some(it) = entry.lanes.get_mut(lane as usize).filter(|lane| lane.place == Place::Idle) else { return };
        it.place = Place::Ready;
        if it.owed == Owed::Missed {
            it.owed = Owed::Ready;
        }
        entry.ready.push_front(lane);
        if entry.is_runnable() {
            self.go_next(job);
        }
    }

    /// Notes how many tasks of a lane are in memory.
    pub(crate) fn set_queued(&mut self, job: JobId, lane: LaneNumber, queued: usize) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        let Some(lane) = entry.lanes.get_mut(lane as usize) else { return };
        let before = std::mem::replace(&mut lane.queued, queued as u32);
        if lane.place == Place::Parked
            && let Some(parked) = self.parked.get_mut(&lane.at)
        {
            parked.tasks.remove(entry.party, before.into());
            parked.tasks.add(entry.party, queued as u64);
        }
    }

    /// Sets whether a job may run at all.
    pub(crate) fn set_may_run(&mut self, job: JobId, may_run: bool) {
        self.adjust(job, |entry| entry.may_run = may_run);
    }

    /// Sets whether a job has used up its rate for now.
    pub(crate) fn set_resting(&mut self, job: JobId, resting: bool) {
        self.adjust(job, |entry| entry.resting = resting);
    }

    /// Changes how many tasks of a job run at once; 0: any number.
    pub(crate) fn set_cap(&mut self, job: JobId, cap: u32) {
        self.adjust(job, |entry| entry.cap = cap);
    }

    /// Changes the ring that a job stands in, and the place of its lanes among those that wait for room at their hosts.
    pub(crate) fn set_priority(&mut self, job: JobId, priority: i32) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        if entry.priority != priority {
            if let Some(ring) = self.rings.get_mut(&Reverse(entry.priority)) {
                ring.retain(|(other, _)| *other != job);
            }
            for (number, lane) in entry.lanes.iter().enumerate().filter(|(_, lane)| lane.place == Place::Parked) {
                let Some(parked) = self.parked.get_mut(&lane.at) else { continue };
                if let Some(lanes) = parked.lanes.get_mut(&Reverse(entry.priority)) {
                    lanes.retain(|(.., ticket)| *ticket != lane.turn);
                }
                let place = (job, number as LaneNumber, lane.turn);
                parked.lanes.entry(Reverse(priority)).or_default().push_back(place);
            }
            entry.priority = priority;
            entry.ticket = 0;
            self.enter_ring(job);
        }
    }

    /// A task of the job stopped running.
    pub(crate) fn ended(&mut self, job: JobId) {
        self.adjust(job, |entry| entry.running = entry.running.saturating_sub(1));
    }

    /// `host` may have room for so many more requests.
    pub(crate) fn wake_host(&mut self, host: &Host, room: usize) {
        for _ in 0..room {
            if !self.wake_one(host) {
                return;
            }
        }
    }

    /// The next lane to run, after the caller has admitted it. Its job counts one task more; the lane is idle until the
    /// caller says [`Rotation::has_work`] again.
    pub(crate) fn pick(
        &mut self,
        admit: impl FnMut(JobId, LaneNumber, &Host) -> Admission,
    ) -> Option<(JobId, LaneNumber)> {
        let mut later = Vec::new();
        let picked = self.pick_now(admit, &mut later);
        for job in later.into_iter().rev() {
            self.go_next(job);
        }
        picked
    }

    /// Picks a lane. Jobs that keep their turn are taken out of their rings and added to `later`.
    fn pick_now(
        &mut self,
        mut admit: impl FnMut(JobId, LaneNumber, &Host) -> Admission,
        later: &mut Vec<JobId>,
    ) -> Option<(JobId, LaneNumber)> {
        while later.len() < LATER_MAX {
            let mut ring = self.rings.first_entry()?;
            let Some((job, ticket)) = ring.get_mut().pop_front() else {
                ring.remove();
                continue;
            };
            let Some(entry) = self.jobs.get_mut(&job).filter(|entry| entry.ticket == ticket) else { continue };
            entry.ticket = 0;
            if !entry.is_runnable() {
                self.pass_on(job);
                continue;
            }
            let Some(number) = entry.ready.pop_front() else { continue };
            let Some(lane) = entry.lanes.get_mut(number as usize) else { continue };
            let admission = admit(job, number, &lane.host);
            if admission != Admission::Later {
                forget(&mut entry.woken, number);
            }
            entry.turns += u64::from(lane.turned(&admission, entry.turns + entry.ready.len() as u64));
            match admission {
                Admission::Go(host) => {
                    lane.at = host;
                    lane.place = Place::Idle;
                    // Enters the ring again, or passes on the room of its other woken lanes if this was the last it may run.
                    self.adjust(job, |entry| entry.running += 1);
                    return Some((job, number));
                }
                Admission::Empty | Admission::Read => {
                    lane.place = Place::Idle;
                    // The room for which a host may have woken the lane goes to another lane meanwhile.
                    let at = lane.at.clone();
                    if admission == Admission::Read {
                        self.enter_ring(job);
                    } else {
                        self.go_next(job);
                    }
                    self.wake_host(&at, 1);
                }
                Admission::Later => {
                    entry.ready.push_front(number);
                    later.push(job);
                }
                Admission::HostBlocked(host) => {
                    lane.place = Place::Parked;
                    lane.at = host.clone();
                    let parked = self.parked.entry(host).or_default();
                    self.tickets += 1;
                    lane.turn = self.tickets;
                    parked.lanes.entry(Reverse(entry.priority)).or_default().push_back((job, number, lane.turn));
                    parked.tasks.add(entry.party, lane.queued.into());
                    self.go_next(job);
                }
                Admission::JobBlocked => {
                    entry.resting = true;
                    entry.ready.push_front(number);
                    let host = lane.at.clone();
                    self.wake_host(&host, 1);
                    self.pass_on(job);
                }
            }
        }
        None
    }

    /// Undoes a pick for which the lane had no task after all; the room goes to the next one.
    pub(crate) fn unpick(&mut self, job: JobId, lane: LaneNumber) {
        let host = self.jobs.get(&job).and_then(|entry| entry.lanes.get(lane as usize)).map(|lane| lane.at.clone());
        self.ended(job);
        if let Some(host) = host {
            self.wake_host(&host, 1);
        }
    }

    /// What holds a lane with work.
    pub(crate) fn hold(&self, job: JobId, lane: LaneNumber) -> Hold {
        let Some(entry) = self.jobs.get(&job) else { return Hold::Job };
        if !entry.may_run {
            Hold::Job
        } else if entry.cap != 0 && entry.running >= entry.cap {
            Hold::Cap
        } else if entry.resting {
            Hold::Rate
        } else if entry.lanes.get(lane as usize).is_some_and(|lane| lane.place == Place::Parked) {
            Hold::Host
        } else {
            Hold::Turn
        }
    }

    /// How many tasks of some parties in memory are of lanes that are parked at a host.
    pub(crate) fn waiting_at(&self, host: &Host, whose: Parties) -> u32 {
        self.parked.get(host).map_or(0, |parked| u32::try_from(parked.tasks.of(whose)).unwrap_or(u32::MAX))
    }

    /// Compares what is counted of parked lanes with `queued`, how many tasks of a lane are in memory. Slow.
    pub(super) fn check(&self, queued: impl Fn(JobId, LaneNumber) -> usize) -> Result<(), String> {
        let mut tasks: HashMap<&Host, u64> = HashMap::new();
        for (job, entry) in &self.jobs {
            for (number, lane) in entry.lanes.iter().enumerate() {
                let really = queued(*job, number as LaneNumber);
                if really != lane.queued as usize {
                    return Err(format!(
                        "lane {number} of {job} has {really} tasks in memory, and {} are noted",
                        lane.queued
                    ));
                }
                let ready = entry.ready.iter().filter(|it| **it as usize == number).count();
                if ready != usize::from(lane.place == Place::Ready) {
                    return Err(format!("lane {number} of {job} is {:?}, and {ready} times ready", lane.place));
                }
                if lane.place == Place::Parked {
                    *tasks.entry(&lane.at).or_default() += u64::from(lane.queued);
                }
            }
        }
        let counted = self
            .parked
            .iter()
            .map(|(host, parked)| (host, parked.tasks.of(Parties::default())))
            .filter(|(_, tasks)| *tasks > 0);
        tasks.retain(|_, tasks| *tasks > 0);
        let counted: HashMap<&Host, u64> = counted.collect();
        if tasks == counted { Ok(()) } else { Err(format!("{tasks:?} wait for hosts, and {counted:?} are counted")) }
    }

    fn adjust(&mut self, job: JobId, change: impl FnOnce(&mut JobEntry)) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        change(entry);
        if entry.is_runnable() {
            self.enter_ring(job);
        } else {
            self.pass_on(job);
        }
    }

    fn enter_ring(&mut self, job: JobId) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        if entry.ticket == 0 && !entry.ready.is_empty() && entry.is_runnable() {
            self.tickets += 1;
            entry.ticket = self.tickets;
            self.rings.entry(Reverse(entry.priority)).or_default().push_back((job, entry.ticket));
        }
    }

    /// As `enter_ring`, but in front, also where the job stands in its ring: a job whose lane was refused has not had its
    /// turn yet.
    fn go_next(&mut self, job: JobId) {
        let Some(entry) = self.jobs.get_mut(&job).filter(|entry| !entry.ready.is_empty()) else { return };
        let ring = self.rings.entry(Reverse(entry.priority)).or_default();
        if ring.front() != Some(&(job, entry.ticket)) {
            self.tickets += 1;
            entry.ticket = self.tickets;
            ring.push_front((job, entry.ticket));
        }
    }

    /// The job cannot use the room that hosts woke its lanes for: others get it.
    fn pass_on(&mut self, job: JobId) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        for number in std::mem::take(&mut entry.woken).into_iter().flat_map(|woken| woken.into_iter()) {
            let host =
                self.jobs.get(&job).and_then(|entry| entry.lanes.get(number as usize)).map(|lane| lane.at.clone());
            if let Some(host) = host {
                self.wake_one(&host);
            }
        }
    }

    /// Moves parked lanes of `host` to their jobs until one was moved whose job may run.
    fn wake_one(&mut self, host: &Host) -> bool {
        while let Some((job, number)) = self.unpark(host) {
            let Some(entry) = self.jobs.get_mut(&job) else { continue };
            entry.ready.push_back(number);
            if entry.is_runnable() {
                entry.woken.get_or_insert_default().push(number);
                self.enter_ring(job);
                return true;
            }
        }
        false
    }

    fn unpark(&mut self, host: &Host) -> Option<(JobId, LaneNumber)> {
        let parked = self.parked.get_mut(host)?;
        let name = loop {
            let Some(mut first) = parked.lanes.first_entry() else { break None };
            let Some((job, number, ticket)) = first.get_mut().pop_front() else {
                first.remove();
                continue;
            };
            let entry = self.jobs.get_mut(&job);
            let lane = entry.and_then(|entry| Some((entry.party, entry.lanes.get_mut(number as usize)?)));
            // The job may have been forgotten, and taken in again, since the lane was parked.
            let Some((party, lane)) = lane.filter(|(_, lane)| lane.is_parked_by(ticket)) else {
                parked.old = parked.old.saturating_sub(1);
                continue;
            };
            lane.place = Place::Ready;
            parked.tasks.remove(party, lane.queued.into());
            break Some((job, number));
        };
        if parked.lanes.is_empty() {
            self.parked.remove(host);
        }
        name
    }
}

#[cfg(test)]
mod tests;
