//! Lanes that wait for room at a host, by the priority of their jobs and in the order in which they came. Pure.
//!
//! A lane that has left does not look for its entry: that is an old one then, which is passed over when its turn comes, and
//! removed where there are many.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::engine::queue::waiting::Waiting;
use crate::model::host::Host;
use crate::model::ids::JobId;
use crate::model::tenant::{Parties, Party};
use crate::store::LaneNumber;

/// Old entries that a host has before they are looked for.
pub(super) const OLD_MAX: usize = 64;

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

/// What waits for room at hosts.
#[derive(Debug, Default)]
pub(super) struct Parking {
    hosts: HashMap<Host, Parked>,
    /// The last ticket that was given out.
    tickets: u64,
}

impl Parking {
    /// Parks a lane of which so many tasks are in memory. Returns the ticket of its entry.
    pub(super) fn park(
        &mut self,
        host: Host,
        priority: i32,
        (job, lane): (JobId, LaneNumber),
        party: Party,
        queued: u32,
    ) -> u64 {
        self.tickets += 1;
        let parked = self.hosts.entry(host).or_default();
        parked.lanes.entry(Reverse(priority)).or_default().push_back((job, lane, self.tickets));
        parked.tasks.add(party, queued.into());
        self.tickets
    }

    /// Takes out the first lane that waits at a host. `is_there` says whether an entry is that of its lane.
    pub(super) fn next(
        &mut self,
        host: &Host,
        is_there: impl Fn(JobId, LaneNumber, u64) -> bool,
    ) -> Option<(JobId, LaneNumber)> {
        let parked = self.hosts.get_mut(host)?;
        let next = loop {
            let Some(mut first) = parked.lanes.first_entry() else { break None };
            let Some((job, lane, ticket)) = first.get_mut().pop_front() else {
                first.remove();
                continue;
            };
            if is_there(job, lane, ticket) {
                break Some((job, lane));
            }
            parked.old = parked.old.saturating_sub(1);
        };
        if parked.lanes.is_empty() {
            self.hosts.remove(host);
        }
        next
    }

    /// Notes how many tasks of a parked lane are in memory now; 0 when it has left.
    pub(super) fn set_queued(&mut self, host: &Host, party: Party, before: u32, now: u32) {
        if let Some(parked) = self.hosts.get_mut(host) {
            parked.tasks.remove(party, before.into());
            parked.tasks.add(party, now.into());
        }
    }

    /// Changes the priority of a parked lane, which goes behind the others of that.
    pub(super) fn set_priority(
        &mut self,
        host: &Host,
        (before, now): (i32, i32),
        (job, lane, ticket): (JobId, LaneNumber, u64),
    ) {
        let Some(parked) = self.hosts.get_mut(host) else { return };
        if let Some(lanes) = parked.lanes.get_mut(&Reverse(before)) {
            lanes.retain(|(.., other)| *other != ticket);
        }
        parked.lanes.entry(Reverse(now)).or_default().push_back((job, lane, ticket));
    }

    /// Notes that a parked lane is forgotten. `is_there` is that of [`Parking::next`].
    pub(super) fn forget(
        &mut self,
        host: &Host,
        party: Party,
        queued: u32,
        is_there: impl Fn(JobId, LaneNumber, u64) -> bool,
    ) {
        let Some(parked) = self.hosts.get_mut(host) else { return };
        parked.tasks.remove(party, queued.into());
        parked.old += 1;
        let all: usize = parked.lanes.values().map(VecDeque::len).sum();
        if parked.old <= OLD_MAX || parked.old < all / 2 {
            return;
        }
        for lanes in parked.lanes.values_mut() {
            lanes.retain(|(job, lane, ticket)| is_there(*job, *lane, *ticket));
        }
        parked.lanes.retain(|_, lanes| !lanes.is_empty());
        parked.old = 0;
        if parked.lanes.is_empty() {
            self.hosts.remove(host);
        }
    }

    /// How many tasks of some parties in memory are of lanes that are parked at a host.
    pub(super) fn tasks(&self, host: &Host, whose: Parties) -> u64 {
        self.hosts.get(host).map_or(0, |parked| parked.tasks.of(whose))
    }

    /// How many entries there are, old ones included.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.hosts.values().flat_map(|parked| parked.lanes.values()).map(VecDeque::len).sum()
    }

    /// The hosts at which tasks in memory wait, and how many.
    pub(super) fn all_tasks(&self) -> HashMap<&Host, u64> {
        let tasks = self.hosts.iter().map(|(host, parked)| (host, parked.tasks.of(Parties::default())));
        tasks.filter(|(_, tasks)| *tasks > 0).collect()
    }
}
