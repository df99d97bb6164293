//! Lanes that wait at hosts, and who is woken when a host has room.

use crate::engine::queue::parking::Step;
use crate::engine::queue::rotation::Rotation;
use crate::engine::queue::rotation::entry::{JobEntry, Place, Woken};
use crate::model::host::Host;
use crate::model::ids::{JobId, JobMap};
use crate::model::tenant::TenantNo;
use crate::store::LaneNumber;

impl Rotation {
    /// Forgets the lanes of a job that is there no more: the room that hosts woke them for goes to others.
    pub(super) fn forget_lanes(&mut self, mut entry: JobEntry) {
        let tenant = entry.party.tenant;
        let jobs = &self.jobs;
        for lane in entry.lanes.iter().filter(|lane| lane.place == Place::Parked) {
            let is_there = |job, lane, ticket| is_parked(jobs, job, lane, ticket);
            self.parking.forget(&lane.at, entry.party, lane.waiting, is_there);
        }
        for (number, woken) in entry.woken.take().into_iter().flat_map(|woken| woken.into_iter()) {
            if let Some(lane) = entry.lanes.get(number as usize) {
                if woken.promise.is_some() {
                    self.promises.end(&lane.at, tenant);
                }
                self.wake_one(&lane.at, None);
            }
        }
    }

    /// `host` may have room for so many more requests.
    pub(crate) fn wake_host(&mut self, host: &Host, room: usize) {
        for _ in 0..room {
            if !self.wake_one(host, None) {
                return;
            }
        }
    }

    /// All lanes that are parked at `host` now may look again, whoever's they are: a few at a time, with
    /// [`Rotation::wake_more`].
    pub(crate) fn wake_all(&mut self, host: &Host) {
        if self.walks.insert(host.clone(), self.parking.walk(host)).is_none() {
            self.walked.push_back(host.clone());
        }
    }

    /// Lets more of those lanes look, in at most `steps` steps: one host after the other, so that one that is woken again and
    /// again keeps no other waiting.
    pub(crate) fn wake_more(&mut self, steps: usize) {
        for _ in 0..steps {
            let Self { walks, walked, parking, jobs, .. } = self;
            let Some(host) = walked.pop_front() else { return };
            let Some(walk) = walks.get_mut(&host) else { continue };
            match parking.step(walk, |job, lane, ticket| is_parked(jobs, job, lane, ticket)) {
                Step::Lane(job, lane) => {
                    walked.push_back(host.clone());
                    self.unparked(&host, job, lane);
                }
                Step::Nothing => walked.push_back(host),
                Step::Over => {
                    parking.leave(&host);
                    walks.remove(&host);
                }
            }
        }
    }

    /// Lets a parked lane look, as a walk does that comes to it.
    pub(super) fn look_now(&mut self, job: JobId, number: LaneNumber) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        let party = entry.party;
        let Some(lane) = entry.lanes.get_mut(number as usize) else { return };
        lane.place = Place::Ready;
        let (host, jobs) = (lane.at.clone(), &self.jobs);
        self.parking.forget(&host, party, 0, |job, lane, ticket| is_parked(jobs, job, lane, ticket));
        self.unparked(&host, job, number);
    }

    /// Whether there are lanes for [`Rotation::wake_more`].
    pub(crate) fn has_to_wake(&self) -> bool {
        !self.walked.is_empty()
    }

    /// The job cannot use the room that hosts woke its lanes for: others get it.
    pub(super) fn pass_on(&mut self, job: JobId) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        let numbers: Vec<LaneNumber> = entry.woken.iter().flat_map(|woken| woken.keys().copied()).collect();
        for number in numbers {
            if let Some(host) = self.forget_woken(job, number) {
                self.wake_one(&host, None);
            }
        }
    }

    /// As `pass_on`, for all jobs of a tenant that can start nothing now.
    pub(super) fn pass_on_all(&mut self, tenant: TenantNo) {
        for job in self.rings.woken(tenant) {
            self.pass_on(job);
        }
    }

    /// Forgets that a host woke a lane. Returns that host, if one did.
    pub(super) fn forget_woken(&mut self, job: JobId, number: LaneNumber) -> Option<Host> {
        let entry = self.jobs.get_mut(&job)?;
        let woken = entry.forget_woken(number)?;
        if entry.woken.is_none() {
            self.rings.set_woken(entry.party.tenant, job, false);
        }
        let host = entry.lanes.get(number as usize).map(|lane| lane.at.clone())?;
        if woken.promise.is_some() {
            self.promises.end(&host, entry.party.tenant);
        }
        Some(host)
    }

    /// Moves parked lanes of `host` to their jobs until one was moved whose job may run. If nobody who waits there may start
    /// something now, somebody of each tenant looks, unless one of them has just done so.
    pub(super) fn wake_one(&mut self, host: &Host, but: Option<TenantNo>) -> bool {
        self.parking.hope(host);
        while let Some((job, number)) = self.unpark(host, but) {
            if self.unparked(host, job, number) {
                return true;
            }
        }
        if but.is_none() {
            self.look_each(host);
        }
        false
    }

    /// As `wake_one`, for somebody else than a tenant that was refused for a reason of its own. Where all who wait have such
    /// reasons, each of them is asked once and not whenever another one is refused.
    pub(super) fn wake_other(&mut self, host: &Host, but: TenantNo) {
        if !self.parking.is_hopeless(host) && !self.wake_one(host, Some(but)) {
            self.parking.give_up(host);
        }
    }

    /// Lets one lane of each tenant that waits at a host look: it is refused, and so the caller learns until when.
    fn look_each(&mut self, host: &Host) {
        for tenant in self.parking.tenants_at(host) {
            while self.rings.is_able(tenant)
                && let Some((job, number)) = self.next_parked(host, |other| (other == tenant).then_some(0))
            {
                if self.unparked(host, job, number) {
                    break;
                }
            }
        }
    }

    /// Takes out the lane that is next at a host, of the tenant that has the fewest requests there, but for one tenant.
    fn unpark(&mut self, host: &Host, but: Option<TenantNo>) -> Option<(JobId, LaneNumber)> {
        let (standing, is_alone) = (self.standing.clone(), self.parking.has_one_tenant(host));
        let mut missing = Vec::new();
        let Self { rings, parking, jobs, promises, .. } = self;
        let rank = |tenant| {
            if but == Some(tenant) {
                return None;
            }
            if !rings.is_able(tenant) {
                missing.push(tenant);
                return None;
            }
            let standing = if is_alone { Some(0) } else { (standing.0)(host, tenant) };
            standing.map(|has| has + promises.to(host, tenant))
        };
        // The job may have been forgotten, and taken in again, since the lane was parked.
        let next = parking.next(host, rank, |job, lane, ticket| is_parked(jobs, job, lane, ticket));
        for tenant in missing {
            rings.miss(tenant, host);
        }
        next
    }

    /// Takes out the lane that is next at a host, of the tenant that has the least rank.
    fn next_parked(&mut self, host: &Host, rank: impl FnMut(TenantNo) -> Option<u32>) -> Option<(JobId, LaneNumber)> {
        let Self { parking, jobs, .. } = self;
        parking.next(host, rank, |job, lane, ticket| is_parked(jobs, job, lane, ticket))
    }

    /// A lane that was taken out at a host is ready. Returns whether it may run.
    fn unparked(&mut self, host: &Host, job: JobId, number: LaneNumber) -> bool {
        let Some(entry) = self.jobs.get_mut(&job) else { return false };
        let Some(lane) = entry.lanes.get_mut(number as usize) else { return false };
        lane.place = Place::Ready;
        self.parking.set_waiting(host, entry.party, lane.waiting, 0);
        let tenant = entry.party.tenant;
        if !entry.is_runnable() || !self.rings.is_able(tenant) {
            entry.ready.push_back(number);
            self.enter_ring(job);
            return false;
        }
        // Who has nothing to start now takes no turns, so nobody waits for theirs.
        let contenders = self.rings.contenders().max(2);
        let is_shared = self.rings.count() > 1;
        let promise = is_shared.then(|| self.promises.make(host, tenant, (job, number), contenders));
        entry.woken.get_or_insert_default().insert(number, Woken { promise });
        self.rings.set_woken(tenant, job, true);
        if promise.is_none() {
            entry.ready.push_back(number);
            self.enter_ring(job);
            return true;
        }
        // Others wait for the room that is kept for it.
        entry.ready.push_front(number);
        if self.rings.may_jump(tenant) {
            self.go_next(job);
        } else {
            self.enter_ring(job);
        }
        true
    }

    /// Ends the promises that have held for long enough: others may have that room now. The lanes stay woken.
    pub(super) fn lapse(&mut self) {
        while let Some(lapsed) =
            self.promises.lapsed(|promise| self.jobs.get(&promise.job).is_some_and(|job| job.has(promise)))
        {
            let Some(entry) = self.jobs.get_mut(&lapsed.job) else { continue };
            let tenant = entry.party.tenant;
            if let Some(woken) = entry.woken.as_mut().and_then(|woken| woken.get_mut(&lapsed.lane)) {
                woken.promise = None;
            }
            let Some(host) = entry.lanes.get(lapsed.lane as usize).map(|lane| lane.at.clone()) else { continue };
            self.promises.end(&host, tenant);
            self.wake_one(&host, Some(tenant));
        }
    }

    /// A tenant may have missed room at a host: one lane that is parked there looks.
    pub(super) fn look_at_missed(&mut self, tenant: TenantNo) {
        let Some(host) = self.rings.missed(tenant).cloned() else { return };
        match self.next_parked(&host, |other| (other == tenant).then_some(0)) {
            Some((job, number)) => drop(self.unparked(&host, job, number)),
            None => self.rings.found(tenant, &host),
        }
    }
}

/// Whether the entry of a host with this ticket is that of the lane.
pub(super) fn is_parked(jobs: &JobMap<Box<JobEntry>>, job: JobId, lane: LaneNumber, ticket: u64) -> bool {
    let lane = jobs.get(&job).and_then(|entry| entry.lanes.get(lane as usize));
    lane.is_some_and(|lane| lane.is_parked_by(ticket))
}
