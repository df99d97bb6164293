//! The jobs that have lanes ready: in the rings of their priorities, each tenant with its own. Pure.
//!
//! Next is the tenant that uses least of its share: of which the fewest tasks run for each unit of its weight, and of several
//! such tenants whoever has waited longest. What is shared are the places at which tasks run and not the starts, since a
//! tenant whose origins never answer would come to hold every place otherwise. Only who has work stands in the order, and
//! nothing is saved up for who has none. Priorities are each tenant's own affair.
//!
//! None takes the last places ([`Level::held_from`]). The tenants stand in the order of what they use, so where the first is held
//! back by that all are, and nobody has to be told when there are more places again.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;

use crate::model::host::Host;
use crate::model::ids::JobId;
use crate::model::level::Level;
use crate::model::tenant::{Share, TenantNo};

/// The jobs of one tenant.
#[derive(Debug, Default)]
struct Ring {
    /// How many jobs the rotation has of it.
    members: usize,
    /// By priority. An entry whose ticket is not the job's is an old one.
    jobs: BTreeMap<Reverse<i32>, VecDeque<(JobId, u64)>>,
    /// How many entries there are.
    entries: usize,
    running: u32,
    /// How many of the tasks that run have given their places away.
    idle: u32,
    share: Share,
    /// It has used up its rate for now.
    is_resting: bool,
    /// Its place among the tenants; `None`: it stands there not.
    place: Option<Turn>,
    /// Jobs with lanes that hosts woke.
    woken: BTreeSet<JobId>,
    /// Hosts that had room for it when it could start nothing.
    missed: BTreeSet<Host>,
    /// The next job is one of a lower priority than this, since too many of higher ones were passed over.
    below: Option<i32>,
    /// How many tasks of it have to start before another job may go before its turn.
    jumped: u8,
}

/// A place among the tenants: how much of its share is used, and since when it stands there.
type Turn = (Level, u64);

/// Entries of jobs that are gone which a tenant may have whatever its jobs are.
const ENTRIES_SPARE: usize = 64;

/// The rings of all tenants.
#[derive(Debug, Default)]
pub(super) struct Rings {
    tenants: HashMap<TenantNo, Ring>,
    order: BTreeSet<(Turn, TenantNo)>,
    /// What tenants may, where that is not the same for all.
    shares: HashMap<TenantNo, Share>,
    /// The level from which on tenants leave what is free to others; `None`: there are no others.
    held_from: Option<Level>,
    /// The last ticket that was given out.
    tickets: u64,
}

impl Ring {
    /// Returns whether a task of it may start, as far as the tenant goes.
    fn is_able(&self) -> bool {
        !self.share.is_suspended && !self.is_resting && self.share.running.is_none_or(|most| self.running < most)
    }

    fn has_work(&self) -> bool {
        !self.jobs.is_empty() || !self.missed.is_empty()
    }

    /// The priority of the next job: the highest, or the highest of those that are to be come to first.
    fn next_priority(&mut self) -> Option<Reverse<i32>> {
        let below = self.below.map(|below| (Bound::Excluded(Reverse(below)), Bound::Unbounded));
        let lower = below.and_then(|lower| self.jobs.range(lower).next()).map(|(priority, _)| *priority);
        if lower.is_none() {
            self.below = None;
        }
        lower.or_else(|| self.jobs.first_key_value().map(|(priority, _)| *priority))
    }

    /// How much it has: what has given its place away has none.
    fn level(&self) -> Level {
        Level::of(self.running.saturating_sub(self.idle), self.share.weight)
    }

    /// Returns whether a task of it may start, where whoever has so much leaves what is free to others.
    fn may_start(&self, held_from: Option<Level>) -> bool {
        self.is_able() && !is_held(self.level(), held_from)
    }
}

impl Rings {
    /// Adds a job of a tenant.
    pub(super) fn join(&mut self, tenant: TenantNo) {
        let share = self.shares.get(&tenant).copied().unwrap_or_default();
        let ring = self.tenants.entry(tenant).or_insert_with(|| Ring { share, ..Ring::default() });
        ring.members += 1;
    }

    /// Removes a job of a tenant, of which so many tasks ran.
    pub(super) fn leave(&mut self, tenant: TenantNo, job: JobId, running: u32) {
        let Some(ring) = self.tenants.get_mut(&tenant) else { return };
        ring.members -= 1;
        ring.running -= running;
        ring.woken.remove(&job);
        if ring.members == 0 {
            if let Some(place) = ring.place {
                self.order.remove(&(place, tenant));
            }
            self.tenants.remove(&tenant);
        } else {
            self.place(tenant);
        }
    }

    /// Drops the entries of jobs that are gone, where a tenant has more of them than of others: who can start nothing now is not
    /// come to, however many jobs come and go. `is_there` says whether an entry is that of its job.
    pub(super) fn sweep(&mut self, tenant: TenantNo, is_there: impl Fn(JobId, u64) -> bool) {
        let Some(ring) = self.tenants.get_mut(&tenant) else { return };
        if ring.entries <= 2 * ring.members + ENTRIES_SPARE {
            return;
        }
        ring.jobs.retain(|_, jobs| {
            jobs.retain(|(job, ticket)| is_there(*job, *ticket));
            jobs.shrink_to_fit();
            !jobs.is_empty()
        });
        ring.entries = ring.jobs.values().map(VecDeque::len).sum();
        self.place(tenant);
    }

    /// Returns how many tenants have work and may start something of it.
    pub(super) fn contenders(&self) -> usize {
        self.order.len()
    }

    /// Returns how many tenants there are.
    pub(super) fn count(&self) -> usize {
        self.tenants.len()
    }

    /// Returns whether a task of a tenant may start, as far as that goes.
    pub(super) fn is_able(&self, tenant: TenantNo) -> bool {
        self.tenants.get(&tenant).is_none_or(|ring| ring.may_start(self.held_from))
    }

    /// Returns whether a tenant leaves what is free to others.
    pub(super) fn is_held_back(&self, tenant: TenantNo) -> bool {
        self.tenants.get(&tenant).is_some_and(|ring| is_held(ring.level(), self.held_from))
    }

    /// Says how many of a tenant's running tasks have given their places away. Returns whether it can start nothing any more that it
    /// could before.
    pub(super) fn set_idle(&mut self, tenant: TenantNo, idle: u32) -> bool {
        let before = self.is_able(tenant);
        if let Some(ring) = self.tenants.get_mut(&tenant) {
            ring.idle = idle;
        }
        self.place(tenant);
        before && !self.is_able(tenant)
    }

    /// Says how many places would be free once another task has begun; `None`: there is one tenant. Returns those that can start
    /// nothing any more.
    pub(super) fn set_left(&mut self, left: Option<u32>) -> Vec<TenantNo> {
        let from = left.map(Level::held_from);
        let before = std::mem::replace(&mut self.held_from, from);
        let Some(from) = from.filter(|from| before.is_none_or(|before| before > *from)) else { return Vec::new() };
        let held = self.order.range(((from, 0), 0)..).take_while(|((level, _), _)| !is_held(*level, before));
        held.map(|(_, tenant)| *tenant).collect()
    }

    /// Returns how many tasks of a tenant run.
    pub(super) fn running(&self, tenant: TenantNo) -> u32 {
        self.tenants.get(&tenant).map_or(0, |ring| ring.running)
    }

    /// Changes what tenants may. Returns those that can start nothing any more.
    pub(super) fn set_shares(&mut self, shares: HashMap<TenantNo, Share>) -> Vec<TenantNo> {
        self.shares = shares;
        let mut stopped = Vec::new();
        let all: BTreeSet<TenantNo> = self.tenants.keys().copied().collect();
        for tenant in all {
            let share = self.shares.get(&tenant).copied().unwrap_or_default();
            if self.change(tenant, |ring| ring.share = share) {
                stopped.push(tenant);
            }
        }
        stopped
    }

    /// Notes that a task of a tenant runs. Returns whether no other can start now.
    pub(super) fn started(&mut self, tenant: TenantNo) -> bool {
        self.change(tenant, |ring| {
            ring.running += 1;
            ring.below = None;
            ring.jumped = ring.jumped.saturating_sub(1);
        })
    }

    /// Notes that a task of a tenant runs no more.
    pub(super) fn ended(&mut self, tenant: TenantNo) {
        self.change(tenant, |ring| ring.running = ring.running.saturating_sub(1));
    }

    /// Sets whether a tenant has used up its rate for now. Returns whether it can start nothing any more.
    pub(super) fn set_resting(&mut self, tenant: TenantNo, is_resting: bool) -> bool {
        self.change(tenant, |ring| ring.is_resting = is_resting)
    }

    /// Changes a tenant, and its place. Returns whether it could start tasks before and cannot now.
    fn change(&mut self, tenant: TenantNo, change: impl FnOnce(&mut Ring)) -> bool {
        let Some(ring) = self.tenants.get_mut(&tenant) else { return false };
        let was_able = ring.may_start(self.held_from);
        change(ring);
        let is_able = ring.may_start(self.held_from);
        self.place(tenant);
        was_able && !is_able
    }

    /// Puts a tenant where it belongs.
    fn place(&mut self, tenant: TenantNo) {
        let Some(ring) = self.tenants.get_mut(&tenant) else { return };
        let level = (ring.is_able() && ring.has_work()).then(|| ring.level());
        if ring.place.map(|(level, _)| level) == level {
            return;
        }
        if let Some(place) = ring.place.take() {
            self.order.remove(&(place, tenant));
        }
        if let Some(level) = level {
            self.tickets += 1;
            ring.place = Some((level, self.tickets));
            self.order.insert(((level, self.tickets), tenant));
        }
    }

    /// Lets a tenant that has had a turn go behind the others that use as much of their shares.
    pub(super) fn turned(&mut self, tenant: TenantNo) {
        let Some(place) = self.tenants.get_mut(&tenant).and_then(|ring| ring.place.take()) else { return };
        self.order.remove(&(place, tenant));
        self.place(tenant);
    }

    /// Returns the tenant whose turn it is, but for those that were set aside. `None` also where all leave what is free to others.
    pub(super) fn first(&self, aside: &[TenantNo]) -> Option<TenantNo> {
        let ((level, _), tenant) = self.order.iter().find(|(_, tenant)| !aside.contains(tenant))?;
        (!is_held(*level, self.held_from)).then_some(*tenant)
    }

    /// Notes that the next job of a tenant is one of a lower priority than this, if there is any, until a task of it starts.
    pub(super) fn begin_below(&mut self, tenant: TenantNo, priority: i32) {
        if let Some(ring) = self.tenants.get_mut(&tenant) {
            ring.below = Some(priority);
        }
    }

    /// Takes out the first job of a tenant, mostly of the highest priority: see [`Rings::begin_below`].
    pub(super) fn pop(&mut self, tenant: TenantNo) -> Option<(JobId, u64)> {
        let ring = self.tenants.get_mut(&tenant)?;
        while let Some(priority) = ring.next_priority() {
            if let Some(next) = ring.jobs.get_mut(&priority).and_then(VecDeque::pop_front) {
                ring.entries -= 1;
                return Some(next);
            }
            ring.jobs.remove(&priority);
        }
        self.place(tenant);
        None
    }

    /// Puts a job behind the others of its priority. Returns its ticket.
    pub(super) fn push_back(&mut self, tenant: TenantNo, priority: i32, job: JobId) -> u64 {
        self.tickets += 1;
        let ticket = self.tickets;
        if let Some(ring) = self.tenants.get_mut(&tenant) {
            ring.jobs.entry(Reverse(priority)).or_default().push_back((job, ticket));
            ring.entries += 1;
            self.place(tenant);
        }
        ticket
    }

    /// Puts a job before the others of its priority, unless it stands there already by this ticket. Returns its ticket.
    pub(super) fn push_front(&mut self, tenant: TenantNo, priority: i32, (job, ticket): (JobId, u64)) -> u64 {
        let Some(ring) = self.tenants.get_mut(&tenant) else { return ticket };
        let jobs = ring.jobs.entry(Reverse(priority)).or_default();
        if jobs.front() == Some(&(job, ticket)) {
            return ticket;
        }
        self.tickets += 1;
        jobs.push_front((job, self.tickets));
        ring.entries += 1;
        let ticket = self.tickets;
        self.place(tenant);
        ticket
    }

    /// Takes a job out of the ring of its priority.
    pub(super) fn remove(&mut self, tenant: TenantNo, priority: i32, job: JobId) {
        let Some(ring) = self.tenants.get_mut(&tenant) else { return };
        let Some(jobs) = ring.jobs.get_mut(&Reverse(priority)) else { return };
        let before = jobs.len();
        jobs.retain(|(other, _)| *other != job);
        ring.entries -= before - jobs.len();
        // Of priorities that jobs had once nothing stays.
        if jobs.is_empty() {
            ring.jobs.remove(&Reverse(priority));
            self.place(tenant);
        }
    }

    /// Returns whether a job of a tenant may go before its turn, because room is kept for it from others: every second one
    /// may, so that those that do not wait for hosts have their turns as well.
    pub(super) fn may_jump(&mut self, tenant: TenantNo) -> bool {
        let Some(ring) = self.tenants.get_mut(&tenant).filter(|ring| ring.jumped == 0) else { return false };
        ring.jumped = 2;
        true
    }

    /// Notes whether a job has lanes that hosts woke.
    pub(super) fn set_woken(&mut self, tenant: TenantNo, job: JobId, is_woken: bool) {
        let Some(ring) = self.tenants.get_mut(&tenant) else { return };
        if is_woken {
            ring.woken.insert(job);
        } else {
            ring.woken.remove(&job);
        }
    }

    /// Returns the jobs of a tenant that have lanes which hosts woke.
    pub(super) fn woken(&self, tenant: TenantNo) -> Vec<JobId> {
        self.tenants.get(&tenant).map(|ring| ring.woken.iter().copied().collect()).unwrap_or_default()
    }

    /// Notes that a host had room for a tenant that could start nothing.
    pub(super) fn miss(&mut self, tenant: TenantNo, host: &Host) {
        if let Some(ring) = self.tenants.get_mut(&tenant)
            && !ring.missed.contains(host)
        {
            ring.missed.insert(host.clone());
            self.place(tenant);
        }
    }

    /// Returns a host that may still have room which a tenant has missed.
    pub(super) fn missed(&self, tenant: TenantNo) -> Option<&Host> {
        self.tenants.get(&tenant)?.missed.first()
    }

    /// Notes that a tenant has missed nothing more at a host.
    pub(super) fn found(&mut self, tenant: TenantNo, host: &Host) {
        if let Some(ring) = self.tenants.get_mut(&tenant)
            && ring.missed.remove(host)
        {
            self.place(tenant);
        }
    }

    /// Returns how many entries there are, those of jobs that are gone among them.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.tenants.values().flat_map(|ring| ring.jobs.values()).map(VecDeque::len).sum()
    }

    /// Returns how many priorities there are lists of.
    #[cfg(test)]
    pub(super) fn priorities(&self) -> usize {
        self.tenants.values().map(|ring| ring.jobs.len()).sum()
    }

    /// Compares what is counted of tenants with their jobs: how many there are and how many of their tasks run. Slow.
    pub(super) fn check(&self, jobs: &HashMap<TenantNo, (usize, u32)>) -> Result<(), String> {
        let counted: HashMap<TenantNo, (usize, u32)> =
            self.tenants.iter().map(|(tenant, ring)| (*tenant, (ring.members, ring.running))).collect();
        if counted != *jobs {
            return Err(format!("tenants have {jobs:?} jobs and running tasks, and {counted:?} are counted"));
        }
        let mut order = BTreeSet::new();
        for (tenant, ring) in &self.tenants {
            let level = (ring.is_able() && ring.has_work()).then(|| ring.level());
            if ring.place.map(|(level, _)| level) != level {
                return Err(format!("tenant {tenant} stands at {:?} and belongs to {level:?}", ring.place));
            }
            order.extend(ring.place.map(|place| (place, *tenant)));
            let entries: usize = ring.jobs.values().map(VecDeque::len).sum();
            if entries != ring.entries {
                return Err(format!(
                    "the ring of tenant {tenant} has {entries} entries, and {} are counted",
                    ring.entries
                ));
            }
        }
        if order == self.order {
            Ok(())
        } else {
            Err(format!("tenants stand at {order:?}, and {:?} is the order", self.order))
        }
    }
}

/// Whether who is at this level leaves what is free to others.
fn is_held(level: Level, held_from: Option<Level>) -> bool {
    held_from.is_some_and(|from| level >= from)
}
