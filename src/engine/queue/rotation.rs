//! Chooses the lane that goes next. Pure: it knows names and counts, and asks the caller for everything else.
//!
//! A lane is (job, host). While its host is paused, a lane whose next task has mirrors may run at, or wait for, the host
//! of one of those. A lane with work is *ready* in its job's rotation, or *parked* at its host because the host had no
//! room. Jobs with ready lanes stand in the ring of their priority. A pick takes the front job of the highest ring and
//! the front lane of that job; a lane that the host refuses is parked and costs nothing until the host has room, so each
//! look at a lane is paid for by a dispatch or by a release: O(1), whatever is queued.
//!
//! Invariants: a lane with work is ready or parked, never both; a host with room and parked work has woken as many lanes
//! as it has room for, or none of their jobs may run. Within a priority no job starves; a lower priority waits for as
//! long as a higher one has work that may run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::model::host::Host;
use crate::model::ids::JobId;
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
    may_run: bool,
    resting: bool,
    running: u32,
    /// 0: none.
    cap: u32,
    ready: VecDeque<LaneNumber>,
    /// The job's place in its ring, an entry there with another number is an old one; 0: it stands in none.
    ticket: u64,
    /// Rotation that a host woke for its free room, and that have not been picked since.
    woken: Vec<LaneNumber>,
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Idle,
    Ready,
    Parked,
}

impl JobEntry {
    fn is_runnable(&self) -> bool {
        self.may_run && !self.resting && (self.cap == 0 || self.running < self.cap)
    }
}

type Parked = BTreeMap<Reverse<i32>, VecDeque<(JobId, LaneNumber)>>;

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
            may_run,
            resting: false,
            running: 0,
            cap,
            ready: VecDeque::new(),
            ticket: 0,
            woken: Vec::new(),
            lanes: Vec::new(),
        };
        self.jobs.insert(job, entry);
    }

    /// Forgets a job. Rings and hosts forget it when they come to it.
    pub(crate) fn remove_job(&mut self, job: JobId) {
        if let Some(entry) = self.jobs.remove(&job) {
            for lane in &entry.woken {
                if let Some(lane) = entry.lanes.get(*lane as usize) {
                    self.wake_host(&lane.at, 1);
                }
            }
        }
    }

    /// Adds the next lane of a job, without work. Lanes are numbered from 0 in the order of these calls.
    pub(crate) fn add_lane(&mut self, job: JobId, host: Host) {
        if let Some(entry) = self.jobs.get_mut(&job) {
            entry.lanes.push(LaneEntry { at: host.clone(), host, place: Place::Idle });
        }
    }

    /// Notes that a lane has a task to give, in memory or in the store.
    pub(crate) fn has_work(&mut self, job: JobId, lane: LaneNumber) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        let Some(place) = entry.lanes.get_mut(lane as usize).map(|lane| &mut lane.place) else { return };
        if *place == Place::Idle {
            *place = Place::Ready;
            entry.ready.push_back(lane);
            self.enter_ring(job);
        }
    }

    /// As [`Rotation::has_work`], for a lane that was read because its turn had come: it goes next, since its tasks may
    /// have to leave memory again before another turn comes.
    pub(crate) fn has_read(&mut self, job: JobId, lane: LaneNumber) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        let Some(place) = entry.lanes.get_mut(lane as usize).map(|lane| &mut lane.place) else { return };
        if *place == Place::Idle {
            *place = Place::Ready;
            entry.ready.push_front(lane);
            if entry.is_runnable() {
                self.go_next(job);
            }
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

    /// Changes the ring that a job stands in.
    pub(crate) fn set_priority(&mut self, job: JobId, priority: i32) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        if entry.priority != priority {
            if let Some(ring) = self.rings.get_mut(&Reverse(entry.priority)) {
                ring.retain(|(other, _)| *other != job);
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
                entry.woken.retain(|woken| *woken != number);
            }
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
                    parked.entry(Reverse(entry.priority)).or_default().push_back((job, number));
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

    /// The lanes parked at a host, to count what waits.
    pub(crate) fn parked_at(&self, host: &Host) -> impl Iterator<Item = (JobId, LaneNumber)> + '_ {
        self.parked.get(host).into_iter().flat_map(|parked| parked.values().flatten().copied())
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
        for number in std::mem::take(&mut entry.woken) {
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
            let Some(lane) = entry.lanes.get_mut(number as usize) else { continue };
            lane.place = Place::Ready;
            entry.ready.push_back(number);
            if entry.is_runnable() {
                entry.woken.push(number);
                self.enter_ring(job);
                return true;
            }
        }
        false
    }

    fn unpark(&mut self, host: &Host) -> Option<(JobId, LaneNumber)> {
        let parked = self.parked.get_mut(host)?;
        let lane = loop {
            let Some(mut first) = parked.first_entry() else { break None };
            if let Some(lane) = first.get_mut().pop_front() {
                break Some(lane);
            }
            first.remove();
        };
        if parked.is_empty() {
            self.parked.remove(host);
        }
        lane
    }
}

#[cfg(test)]
mod tests;
