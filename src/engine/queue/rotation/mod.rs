//! Chooses the lane that goes next. Pure: it knows names and counts, and asks the caller for everything else.
//!
//! A lane is (job, host). While its host is paused, a lane whose next task has mirrors may run at, or wait for, the host
//! of one of those. A lane with work is *ready* in its job ([`entry`]), or *parked* at its host because the host had no
//! room. Jobs with ready lanes stand in the rings of their tenants and priorities ([`rings`]). A pick takes the tenant that
//! uses least of its share, the front job of its highest ring and the front lane of that job; a lane that the host refuses is
//! parked and costs nothing until the host has room, so each look at a lane is paid for by a dispatch or by a release: O(1),
//! whatever is queued.
//!
//! Room at a host goes to the tenant that has the fewest requests there, of those that wait for it ([`promises`]).
//!
//! Invariants: a lane with work is ready or parked, never both; a host with room and parked work has woken as many lanes
//! as it has room for, or none of their jobs may run, or their tenants, which then know that they have missed it. Within a
//! tenant and a priority no job starves; a lower priority waits for as long as a higher one has work that may run. No tenant
//! starves another.

mod admission;
mod check;
mod entry;
mod promises;
mod rings;
mod waking;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

pub(crate) use crate::engine::queue::rotation::admission::{Admission, Candidate, Hold, Standing};

use crate::engine::queue::parking::{Parking, Walk};
use crate::engine::queue::rotation::entry::{JobEntry, LaneEntry, Owed, Place};
use crate::engine::queue::rotation::promises::Promises;
use crate::engine::queue::rotation::rings::Rings;
use crate::engine::queue::tight::push_tight;
use crate::model::host::Host;
use crate::model::ids::{JobId, JobMap};
use crate::model::tenant::{Parties, Party, Share, TenantNo};
use crate::store::LaneNumber;

/// Jobs of one tenant that keep their turn in one pick before the tenant keeps its own: bounds what a pick costs.
const LATER_MAX: usize = 64;
/// Tenants that keep their turn so before nothing is picked.
const ASIDE_MAX: usize = 4;

/// Lanes of one tenant that a pick passes over before the tenant rests.
const PASSED_MAX: usize = 64;

/// What a pick has passed over, of tenants of which only some tasks may start.
#[derive(Debug, Default)]
struct Passed {
    /// How many lanes, by tenant.
    tenants: BTreeMap<TenantNo, usize>,
    /// How many lanes, by job.
    looks: JobMap<usize>,
    /// Jobs of which every ready lane was passed over: the pick does not come to them again.
    jobs: Vec<JobId>,
}

impl Passed {
    /// Notes that a lane was passed over. Returns whether it was one too many.
    fn add(&mut self, tenant: TenantNo) -> bool {
        let lanes = self.tenants.entry(tenant).or_default();
        *lanes += 1;
        *lanes > PASSED_MAX
    }
}

/// The rotation over all jobs.
#[derive(Debug, Default)]
pub(crate) struct Rotation {
    jobs: JobMap<Box<JobEntry>>,
    rings: Rings,
    parking: Parking,
    /// Walks over parked lanes that are to look again, by host.
    walks: HashMap<Host, Walk>,
    /// The hosts of the walks, the next to take a step first.
    walked: VecDeque<Host>,
    promises: Promises,
    standing: Standing,
}

impl Rotation {
    /// Sets whom to ask about tenants at hosts.
    pub(crate) fn set_standing(&mut self, standing: Standing) {
        self.standing = standing;
    }

    /// Adds a job, without lanes.
    pub(crate) fn add_job(&mut self, job: JobId, priority: i32, cap: u32, may_run: bool) {
        let entry = JobEntry::new(priority, cap, may_run);
        self.rings.join(entry.party.tenant);
        self.jobs.insert(job, Box::new(entry));
    }

    /// Forgets a job. Rings and hosts forget it when they come to it.
    pub(crate) fn remove_job(&mut self, job: JobId) {
        let Some(entry) = self.jobs.remove(&job) else { return };
        self.rings.leave(entry.party.tenant, job, entry.running);
        let jobs = &self.jobs;
        self.rings.sweep(entry.party.tenant, |job, ticket| jobs.get(&job).is_some_and(|entry| entry.ticket == ticket));
        self.forget_lanes(*entry);
    }

    /// Says for whom a job is done. It has no work yet.
    pub(crate) fn set_party(&mut self, job: JobId, party: Party) {
        if let Some(entry) = self.jobs.get_mut(&job) {
            let before = std::mem::replace(&mut entry.party, party);
            self.rings.join(party.tenant);
            self.rings.leave(before.tenant, job, 0);
        }
    }

    /// Adds the next lane of a job, without work. Lanes are numbered from 0 in the order of these calls.
    pub(crate) fn add_lane(&mut self, job: JobId, host: Host) {
        if let Some(entry) = self.jobs.get_mut(&job) {
            push_tight(&mut entry.lanes, LaneEntry::new(host));
        }
    }

    /// Notes that a lane has a task to give, in memory or in the store.
    pub(crate) fn has_work(&mut self, job: JobId, lane: LaneNumber) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        if entry.lanes.get(lane as usize).is_some_and(|lane| lane.place == Place::Idle) {
            entry.make_ready(lane);
            self.enter_ring(job);
        }
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

    /// Notes how many tasks of a lane wait, in memory or in the store.
    pub(crate) fn set_waiting(&mut self, job: JobId, lane: LaneNumber, waiting: u32) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        let Some(lane) = entry.lanes.get_mut(lane as usize) else { return };
        let before = std::mem::replace(&mut lane.waiting, waiting);
        if lane.place == Place::Parked {
            self.parking.set_waiting(&lane.at, entry.party, before, waiting);
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

    /// The hosts at which lanes wait, in the order of their names.
    pub(crate) fn hosts_waited_for(&self) -> BTreeSet<Host> {
        self.parking.hosts().cloned().collect()
    }

    /// Changes what tenants may, those that are not named as much as any.
    pub(crate) fn set_shares(&mut self, shares: HashMap<TenantNo, Share>) {
        for tenant in self.rings.set_shares(shares) {
            self.pass_on_all(tenant);
        }
    }

    /// Says how many places would be free once another task has begun, of which tenants leave some to each other; `None`: there is
    /// one tenant.
    pub(crate) fn set_left(&mut self, left: Option<u32>) {
        for tenant in self.rings.set_left(left) {
            self.pass_on_all(tenant);
        }
    }

    /// Says how many of a tenant's running tasks have given their places away.
    pub(crate) fn set_idle(&mut self, tenant: TenantNo, idle: u32) {
        if self.rings.set_idle(tenant, idle) {
            self.pass_on_all(tenant);
        }
    }

    /// Sets whether a tenant has used up its rate for now.
    pub(crate) fn set_tenant_resting(&mut self, tenant: TenantNo, is_resting: bool) {
        if self.rings.set_resting(tenant, is_resting) {
            self.pass_on_all(tenant);
        }
    }

    /// Changes the ring that a job stands in, and the place of its lanes among those that wait for room at their hosts.
    pub(crate) fn set_priority(&mut self, job: JobId, priority: i32) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        if entry.priority != priority {
            self.rings.remove(entry.party.tenant, entry.priority, job);
            let mut to_look = Vec::new();
            // Of many lanes that wait at one host each would be looked for among all.
            let mut at_hosts: BTreeMap<&Host, HashSet<u64>> = BTreeMap::new();
            for (number, lane) in entry.lanes.iter().enumerate().filter(|(_, lane)| lane.place == Place::Parked) {
                if self.walks.get(&lane.at).is_some_and(|walk| walk.is_to_come_to(lane.turn)) {
                    to_look.push(number as LaneNumber);
                } else {
                    at_hosts.entry(&lane.at).or_default().insert(lane.turn);
                }
            }
            for (host, tickets) in at_hosts {
                self.parking.set_priority(host, entry.party.tenant, (entry.priority, priority), &tickets);
            }
            entry.priority = priority;
            entry.ticket = 0;
            self.enter_ring(job);
            // The walk might not find them at their new place.
            for number in to_look {
                self.look_now(job, number);
            }
        }
    }

    /// A task of the job runs.
    pub(crate) fn runs(&mut self, job: JobId) {
        let Some(tenant) = self.jobs.get(&job).map(|entry| entry.party.tenant) else { return };
        // Enters the ring again, or passes on the room of its woken lanes if this was the last that it may run.
        self.adjust(job, |entry| entry.running += 1);
        if self.rings.started(tenant) {
            self.pass_on_all(tenant);
        }
    }

    /// How many tasks of a job run.
    pub(crate) fn running_of_job(&self, job: JobId) -> u32 {
        self.jobs.get(&job).map_or(0, |entry| entry.running)
    }

    /// A task of the job stopped running.
    pub(crate) fn ended(&mut self, job: JobId) {
        if let Some(entry) = self.jobs.get(&job).filter(|entry| entry.running > 0) {
            self.rings.ended(entry.party.tenant);
        }
        self.adjust(job, |entry| entry.running = entry.running.saturating_sub(1));
    }

    /// The next lane to run, after the caller has admitted it. Its job counts one task more; the lane is idle until the
    /// caller says [`Rotation::has_work`] again.
    pub(crate) fn pick(&mut self, admit: impl FnMut(Candidate<'_>) -> Admission) -> Option<(JobId, LaneNumber)> {
        let (mut later, mut passed) = (Vec::new(), Passed::default());
        let picked = self.pick_now(admit, &mut later, &mut passed);
        for job in later.into_iter().rev() {
            self.go_next(job);
        }
        // Behind the others, so that each has its looks.
        for job in passed.jobs {
            self.enter_ring(job);
        }
        let found = picked.and_then(|(job, _)| self.jobs.get(&job)).map(|entry| entry.party.tenant);
        for tenant in passed.tenants.into_keys().filter(|tenant| Some(*tenant) != found) {
            self.set_tenant_resting(tenant, true);
        }
        picked
    }

    /// Picks a lane. Jobs that keep their turn are taken out of their rings and added to `later`, those that have none to
    /// `passed`.
    fn pick_now(
        &mut self,
        mut admit: impl FnMut(Candidate<'_>) -> Admission,
        later: &mut Vec<JobId>,
        passed: &mut Passed,
    ) -> Option<(JobId, LaneNumber)> {
        let (mut aside, mut kept_turns) = (Vec::new(), 0);
        let mut has_looked = false;
        while aside.len() < ASIDE_MAX && later.len() < ASIDE_MAX * LATER_MAX {
            let tenant = self.rings.first(&aside)?;
            if !std::mem::replace(&mut has_looked, true) {
                // What has missed room would wait for as long as other hosts have work.
                self.look_at_missed(tenant);
            }
            let Some((job, ticket)) = self.rings.pop(tenant) else {
                if kept_turns > 0 && self.rings.missed(tenant).is_some() {
                    // Its jobs wait for reads: more lanes of it would do the same.
                    aside.push(tenant);
                } else {
                    self.look_at_missed(tenant);
                }
                kept_turns = 0;
                continue;
            };
            let Some(entry) = self.jobs.get_mut(&job).filter(|entry| entry.ticket == ticket) else { continue };
            entry.ticket = 0;
            if !entry.is_runnable() {
                self.pass_on(job);
                continue;
            }
            let Some(lane) = entry.ready.pop_front() else { continue };
            let priority = entry.priority;
            let Some(host) = entry.lanes.get(lane as usize).map(|lane| &lane.host) else { continue };
            let kept = self.promises.to_others(host, tenant);
            let mut admission = admit(Candidate { job, lane, host, kept });
            if admission == Admission::Behind && passed.add(tenant) {
                // What has a lower priority has its looks after the rest.
                self.rings.begin_below(tenant, priority);
                admission = Admission::TenantResting;
            }
            if admission == Admission::Behind {
                self.turned(job, lane, admission);
                self.passed_over(job, passed);
            } else if admission == Admission::Later {
                entry.ready.push_front(lane);
                later.push(job);
                kept_turns += 1;
                if kept_turns == LATER_MAX {
                    aside.push(tenant);
                    kept_turns = 0;
                }
            } else if self.turned(job, lane, admission) {
                return Some((job, lane));
            }
        }
        None
    }

    /// Takes a job out of its ring once each of its ready lanes was passed over.
    fn passed_over(&mut self, job: JobId, passed: &mut Passed) {
        let looks = passed.looks.entry(job).or_default();
        *looks += 1;
        if let Some(entry) = self.jobs.get_mut(&job).filter(|entry| *looks >= entry.ready.len() && entry.ticket != 0) {
            entry.ticket = 0;
            passed.jobs.push(job);
        }
    }

    /// Does what follows from the turn of a lane. Returns whether it runs.
    fn turned(&mut self, job: JobId, number: LaneNumber, admission: Admission) -> bool {
        let woken_at = self.forget_woken(job, number);
        let Some(entry) = self.jobs.get_mut(&job) else { return false };
        let (tenant, next) = (entry.party.tenant, entry.turns + entry.ready.len() as u64);
        let Some(lane) = entry.lanes.get_mut(number as usize) else { return false };
        entry.turns += u64::from(lane.turned(&admission, next));
        let is_tenants = matches!(admission, Admission::TenantBlocked(_));
        let (host, runs) = match admission {
            Admission::Go(host) => {
                lane.at = host.clone();
                lane.place = Place::Idle;
                self.runs(job);
                self.rings.turned(tenant);
                self.promises.started();
                self.lapse();
                (host, true)
            }
            Admission::HostBlocked(host) | Admission::TenantBlocked(host) => {
                lane.place = Place::Parked;
                lane.at = host.clone();
                lane.turn = self.parking.park(host.clone(), entry.priority, (job, number), entry.party, lane.waiting);
                self.rings.found(tenant, &host);
                self.go_next(job);
                if is_tenants {
                    self.wake_other(&host, tenant);
                } else {
                    // The host has no room for it, but others might take some.
                    self.parking.hope(&host);
                }
                (host, false)
            }
            other => {
                let host = lane.at.clone();
                self.not_now(job, number, &other);
                // The room for which a host may have woken the lane goes to another lane meanwhile. Lanes that are passed over
                // are many, and have mostly been promised none.
                if other != Admission::Behind || woken_at.is_some() {
                    self.wake_one(&host, None);
                }
                (host, false)
            }
        };
        if let Some(other) = woken_at.filter(|at| *at != host) {
            self.wake_one(&other, None);
        }
        runs
    }

    /// A lane does not run for a reason that its host has nothing to do with.
    fn not_now(&mut self, job: JobId, number: LaneNumber, admission: &Admission) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        if matches!(admission, Admission::JobBlocked | Admission::TenantResting) {
            entry.ready.push_front(number);
        } else if *admission == Admission::Behind {
            entry.ready.push_back(number);
        } else if let Some(lane) = entry.lanes.get_mut(number as usize) {
            lane.place = Place::Idle;
        }
        match admission {
            Admission::JobBlocked => {
                entry.resting = true;
                self.pass_on(job);
            }
            Admission::TenantResting => {
                let tenant = entry.party.tenant;
                self.go_next(job);
                self.set_tenant_resting(tenant, true);
            }
            Admission::Read | Admission::Behind => self.enter_ring(job),
            _ => self.go_next(job),
        }
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
        } else if !self.rings.is_able(entry.party.tenant) {
            Hold::Tenant
        } else if entry.lanes.get(lane as usize).is_some_and(|lane| lane.place == Place::Parked) {
            Hold::Host
        } else {
            Hold::Turn
        }
    }

    /// Whether a tenant leaves the places that are free to others.
    pub(crate) fn is_held_back(&self, tenant: TenantNo) -> bool {
        self.rings.is_held_back(tenant)
    }

    /// How many tasks of a tenant run.
    pub(crate) fn running_of(&self, tenant: TenantNo) -> u32 {
        self.rings.running(tenant)
    }

    /// How many tasks of some parties are of lanes that are parked at a host, as far as is known.
    pub(crate) fn waiting_at(&self, host: &Host, whose: Parties) -> u32 {
        u32::try_from(self.parking.tasks(host, whose)).unwrap_or(u32::MAX)
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
            entry.ticket = self.rings.push_back(entry.party.tenant, entry.priority, job);
        }
    }

    /// As `enter_ring`, but in front, also where the job stands in its ring: a job whose lane was refused has not had its
    /// turn yet.
    fn go_next(&mut self, job: JobId) {
        let Some(entry) = self.jobs.get_mut(&job).filter(|entry| !entry.ready.is_empty()) else { return };
        entry.ticket = self.rings.push_front(entry.party.tenant, entry.priority, (job, entry.ticket));
    }
}

#[cfg(test)]
mod tests;
