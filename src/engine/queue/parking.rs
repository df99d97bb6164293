//! Lanes that wait for room at a host, each tenant's by the priority of their jobs and in the order in which they came.
//! Pure: which tenant is next the caller knows.
//!
//! A lane that has left does not look for its entry: that is an old one then, which is passed over when its turn comes, and
//! removed where there are many.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use crate::engine::queue::tight::push_tight;
use crate::engine::queue::waiting::Waiting;
use crate::model::host::Host;
use crate::model::ids::JobId;
use crate::model::tenant::{Parties, Party, TenantNo};
use crate::store::LaneNumber;

/// Old entries that a host has before they are looked for.
pub(super) const OLD_MAX: usize = 64;

/// The lanes of one tenant, by priority of their jobs. An entry whose ticket is not the lane's is an old one.
type Lanes = BTreeMap<Reverse<i32>, VecDeque<(JobId, LaneNumber, u64)>>;

/// What waits for room at one host.
#[derive(Debug, Default)]
struct Parked {
    /// By tenant, whoever has waited longest for a turn first; mostly there is one.
    tenants: Vec<(TenantNo, Lanes)>,
    /// How many entries there are.
    entries: usize,
    /// Old entries, about.
    old: usize,
    /// None of those who wait may start anything here, as far as is known: all were asked, and nothing has happened since that
    /// may let one start.
    is_hopeless: bool,
    /// The tasks of all lanes that are parked here, as far as is known.
    tasks: Waiting,
}

/// What waits for room at hosts.
#[derive(Debug, Default)]
pub(super) struct Parking {
    hosts: HashMap<Host, Parked>,
    /// The last ticket that was given out.
    tickets: u64,
    /// How many entries changes of priorities have looked at.
    #[cfg(test)]
    pub(super) moved_past: usize,
}

/// A walk over the lanes that were parked at a host when it began.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) host: Host,
    /// The last ticket that had been given out then.
    last: u64,
    /// The tenants that it has yet to come to, the next one last.
    tenants: Vec<TenantNo>,
    /// Where it is among the lanes of that one.
    priority: Reverse<i32>,
}

/// What a step of a walk came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A lane, which is taken out.
    Lane(JobId, LaneNumber),
    /// Nothing, and there may be more.
    Nothing,
    /// There is nothing more.
    Over,
}

/// Before the lanes of all priorities.
const HIGHEST: Reverse<i32> = Reverse(i32::MAX);

impl Walk {
    /// Whether it is yet to come to the lane that was parked at its host with this ticket, and is parked there still.
    pub(super) fn is_to_come_to(&self, ticket: u64) -> bool {
        ticket <= self.last
    }

    fn go_to_next_tenant(&mut self) -> Step {
        self.tenants.pop();
        self.priority = HIGHEST;
        Step::Nothing
    }
}

impl Parked {
    fn lanes(&mut self, tenant: TenantNo) -> &mut Lanes {
        let place = self.tenants.iter().position(|(other, _)| *other == tenant).unwrap_or(self.tenants.len());
        if place == self.tenants.len() {
            push_tight(&mut self.tenants, (tenant, Lanes::new()));
        }
        &mut self.tenants[place].1
    }

    fn counted(&self) -> usize {
        self.tenants.iter().flat_map(|(_, lanes)| lanes.values()).map(VecDeque::len).sum()
    }

    /// The place of the tenant with the least rank, the first of them that has it. Nobody has less than 0.
    fn best(&self, mut rank: impl FnMut(TenantNo) -> Option<u32>) -> Option<usize> {
        let mut best: Option<(u32, usize)> = None;
        for (place, (tenant, _)) in self.tenants.iter().enumerate() {
            if let Some(rank) = rank(*tenant).filter(|rank| best.is_none_or(|(least, _)| *rank < least)) {
                best = Some((rank, place));
                if rank == 0 {
                    break;
                }
            }
        }
        best.map(|(_, place)| place)
    }
}

impl Parking {
    /// Parks a lane of which so many tasks wait. Returns the ticket of its entry.
    pub(super) fn park(
        &mut self,
        host: Host,
        priority: i32,
        (job, lane): (JobId, LaneNumber),
        party: Party,
        waiting: u32,
    ) -> u64 {
        self.tickets += 1;
        let parked = self.hosts.entry(host).or_default();
        parked.lanes(party.tenant).entry(Reverse(priority)).or_default().push_back((job, lane, self.tickets));
        parked.entries += 1;
        parked.tasks.add(party, waiting.into());
        self.tickets
    }

    /// Notes that none of those who wait at a host may start anything, but for one that has just been refused.
    pub(super) fn give_up(&mut self, host: &Host) {
        if let Some(parked) = self.hosts.get_mut(host) {
            parked.is_hopeless = true;
        }
    }

    /// Notes that somebody who waits at a host may be able to start something there.
    pub(super) fn hope(&mut self, host: &Host) {
        if let Some(parked) = self.hosts.get_mut(host) {
            parked.is_hopeless = false;
        }
    }

    /// Returns whether nobody who waits at a host may start anything there, as far as is known.
    pub(super) fn is_hopeless(&self, host: &Host) -> bool {
        self.hosts.get(host).is_some_and(|parked| parked.is_hopeless)
    }

    /// Returns whether lanes of at most one tenant wait at a host.
    pub(super) fn has_one_tenant(&self, host: &Host) -> bool {
        self.hosts.get(host).is_none_or(|parked| parked.tenants.len() == 1)
    }

    /// The tenants of which lanes wait at a host.
    pub(super) fn tenants_at(&self, host: &Host) -> Vec<TenantNo> {
        self.hosts
            .get(host)
            .map(|parked| parked.tenants.iter().map(|(tenant, _)| *tenant).collect())
            .unwrap_or_default()
    }

    /// The hosts at which lanes wait.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.keys()
    }

    /// Takes out the first lane of the tenant that has the least `rank` of those that wait at a host; one without a rank may
    /// start nothing there. `is_there` says whether an entry is that of its lane.
    pub(super) fn next(
        &mut self,
        host: &Host,
        mut rank: impl FnMut(TenantNo) -> Option<u32>,
        is_there: impl Fn(JobId, LaneNumber, u64) -> bool,
    ) -> Option<(JobId, LaneNumber)> {
        let parked = self.hosts.get_mut(host)?;
        let next = loop {
            let Some(place) = parked.best(&mut rank) else { break None };
            let next = next_of(&mut parked.tenants[place].1, (&mut parked.entries, &mut parked.old), &is_there);
            let (tenant, lanes) = parked.tenants.remove(place);
            // One of which nothing is left does not wait, and another one may be alone now.
            if lanes.values().any(|lanes| !lanes.is_empty()) {
                parked.tenants.push((tenant, lanes));
            }
            if next.is_some() {
                break next;
            }
        };
        if parked.tenants.is_empty() {
            self.hosts.remove(host);
        }
        next
    }

    /// Begins a walk over all lanes that are parked at a host now.
    pub(super) fn walk(&self, host: &Host) -> Walk {
        Walk { host: host.clone(), last: self.tickets, tenants: self.tenants_at(host), priority: HIGHEST }
    }

    /// Takes a step of a walk. One that comes back after it was taken out has another ticket and is not met again; one whose
    /// priority is changed meanwhile may not be met at all, and has to be taken out by the caller. `is_there` is that of [`Parking::next`].
    pub(super) fn step(&mut self, walk: &mut Walk, is_there: impl Fn(JobId, LaneNumber, u64) -> bool) -> Step {
        let Some(tenant) = walk.tenants.last().copied() else { return Step::Over };
        let Some(parked) = self.hosts.get_mut(&walk.host) else { return Step::Over };
        let place = parked.tenants.iter().position(|(other, _)| *other == tenant);
        let Some((_, lanes)) = place.and_then(|place| parked.tenants.get_mut(place)) else {
            return walk.go_to_next_tenant();
        };
        let Some((priority, line)) = lanes.range_mut(walk.priority..).next() else { return walk.go_to_next_tenant() };
        walk.priority = *priority;
        let Some((job, lane, ticket)) = line.pop_front_if(|(.., ticket)| *ticket <= walk.last) else {
            match walk.priority.0.checked_sub(1) {
                Some(lower) => walk.priority = Reverse(lower),
                None => return walk.go_to_next_tenant(),
            }
            return Step::Nothing;
        };
        parked.entries -= 1;
        if line.is_empty() {
            lanes.remove(&walk.priority);
        }
        if lanes.is_empty() {
            parked.tenants.retain(|(other, _)| *other != tenant);
        }
        if is_there(job, lane, ticket) {
            return Step::Lane(job, lane);
        }
        parked.old = parked.old.saturating_sub(1);
        Step::Nothing
    }

    /// Forgets a host at which nothing is parked.
    pub(super) fn leave(&mut self, host: &Host) {
        if self.hosts.get(host).is_some_and(|parked| parked.tenants.is_empty()) {
            self.hosts.remove(host);
        }
    }

    /// Notes how many tasks of a parked lane wait now; 0 when it has left.
    pub(super) fn set_waiting(&mut self, host: &Host, party: Party, before: u32, now: u32) {
        if let Some(parked) = self.hosts.get_mut(host) {
            parked.tasks.remove(party, before.into());
            parked.tasks.add(party, now.into());
        }
    }

    /// Changes the priority of parked lanes of a tenant, which go behind the others of that in the order in which they stood.
    pub(super) fn set_priority(
        &mut self,
        host: &Host,
        tenant: TenantNo,
        (before, now): (i32, i32),
        tickets: &HashSet<u64>,
    ) {
        let Some(parked) = self.hosts.get_mut(host) else { return };
        let lanes = parked.lanes(tenant);
        let line = lanes.remove(&Reverse(before)).unwrap_or_default();
        #[cfg(test)]
        {
            self.moved_past += line.len();
        }
        let (moved, kept): (VecDeque<_>, VecDeque<_>) =
            line.into_iter().partition(|(.., ticket)| tickets.contains(ticket));
        // Of priorities that jobs had once nothing stays.
        if !kept.is_empty() {
            lanes.insert(Reverse(before), kept);
        }
        lanes.entry(Reverse(now)).or_default().extend(moved);
    }

    /// Notes that a parked lane is forgotten. `is_there` is that of [`Parking::next`].
    pub(super) fn forget(
        &mut self,
        host: &Host,
        party: Party,
        waiting: u32,
        is_there: impl Fn(JobId, LaneNumber, u64) -> bool,
    ) {
        let Some(parked) = self.hosts.get_mut(host) else { return };
        parked.tasks.remove(party, waiting.into());
        parked.old += 1;
        if parked.old <= OLD_MAX || parked.old < parked.entries / 2 {
            return;
        }
        for (_, lanes) in &mut parked.tenants {
            for lanes in lanes.values_mut() {
                lanes.retain(|(job, lane, ticket)| is_there(*job, *lane, *ticket));
            }
            lanes.retain(|_, lanes| !lanes.is_empty());
        }
        parked.tenants.retain(|(_, lanes)| !lanes.is_empty());
        (parked.entries, parked.old) = (parked.counted(), 0);
        if parked.tenants.is_empty() {
            self.hosts.remove(host);
        }
    }

    /// How many tasks of some parties are of lanes that are parked at a host.
    pub(super) fn tasks(&self, host: &Host, whose: Parties) -> u64 {
        self.hosts.get(host).map_or(0, |parked| parked.tasks.of(whose))
    }

    /// How many entries there are, old ones included.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.hosts.values().map(Parked::counted).sum()
    }

    /// How many priorities there are lists of.
    #[cfg(test)]
    pub(super) fn priorities(&self) -> usize {
        self.hosts.values().flat_map(|parked| &parked.tenants).map(|(_, lanes)| lanes.len()).sum()
    }

    /// Compares the number of entries with what is counted. Slow.
    pub(super) fn check(&self) -> Result<(), String> {
        let wrong = self.hosts.iter().find(|(_, parked)| parked.counted() != parked.entries);
        wrong.map_or(Ok(()), |(host, parked)| {
            Err(format!("{} entries wait at {host}, and {} are counted", parked.counted(), parked.entries))
        })
    }

    /// The hosts at which tasks wait, and how many.
    pub(super) fn all_tasks(&self) -> HashMap<&Host, u64> {
        let tasks = self.hosts.iter().map(|(host, parked)| (host, parked.tasks.of(Parties::default())));
        tasks.filter(|(_, tasks)| *tasks > 0).collect()
    }
}

/// Takes out the first lane of a tenant, and old entries before it.
fn next_of(
    lanes: &mut Lanes,
    (entries, old): (&mut usize, &mut usize),
    is_there: impl Fn(JobId, LaneNumber, u64) -> bool,
) -> Option<(JobId, LaneNumber)> {
    while let Some(mut first) = lanes.first_entry() {
        let Some((job, lane, ticket)) = first.get_mut().pop_front() else {
            first.remove();
            continue;
        };
        *entries -= 1;
        if is_there(job, lane, ticket) {
            return Some((job, lane));
        }
        *old = old.saturating_sub(1);
    }
    None
}
