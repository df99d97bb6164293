//! Room at hosts that was promised to tenants. Pure.
//!
//! A host that has room wakes a lane of the tenant that has the fewest requests there. Before that lane's turn comes, lanes
//! of others that have just got work would take the room, again and again. So it is kept from them until the lane has been
//! looked at. That may be long after, where its tenant uses more than its share or has jobs of a higher priority: so a
//! promise lapses when each tenant could have had some turns. As long as there is one tenant nothing is promised.

use std::collections::{HashMap, VecDeque};

use crate::model::host::Host;
use crate::model::ids::JobId;
use crate::model::tenant::TenantNo;
use crate::store::LaneNumber;

/// For so many starts of each tenant, about, a promise holds.
const STARTS_EACH: u64 = 4;

/// How much of a host's room is promised to which tenants.
#[derive(Debug, Default)]
pub(super) struct Promises {
    hosts: HashMap<Host, Vec<(TenantNo, u32)>>,
    /// The tasks that have started.
    starts: u64,
    /// The number of the last promise.
    last: u64,
    /// When promises lapse, by `starts`; the oldest first, some of which have ended.
    lapsing: VecDeque<(u64, Promise)>,
}

/// A promise, and to which lane it was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promise {
    pub(super) number: u64,
    pub(super) job: JobId,
    pub(super) lane: LaneNumber,
}

impl Promises {
    /// Promises room for one request of a lane, while there are so many tenants. Returns the number of the promise.
    pub(super) fn make(
        &mut self,
        host: &Host,
        tenant: TenantNo,
        (job, lane): (JobId, LaneNumber),
        tenants: usize,
    ) -> u64 {
        let list = self.hosts.entry(host.clone()).or_default();
        match list.iter_mut().find(|(other, _)| *other == tenant) {
            Some((_, count)) => *count += 1,
            None => list.push((tenant, 1)),
        }
        self.last += 1;
        let promise = Promise { number: self.last, job, lane };
        self.lapsing.push_back((self.starts + STARTS_EACH * tenants as u64, promise));
        self.last
    }

    /// A task has started.
    pub(super) fn started(&mut self) {
        self.starts += 1;
    }

    /// Takes out a promise that has held for long enough, unless it has ended, and those before it that have.
    pub(super) fn lapsed(&mut self, holds: impl Fn(&Promise) -> bool) -> Option<Promise> {
        while let Some((at, promise)) = self.lapsing.front().copied() {
            let holds = holds(&promise);
            if holds && at > self.starts {
                return None;
            }
            self.lapsing.pop_front();
            if holds {
                return Some(promise);
            }
        }
        None
    }

    /// Takes one back.
    pub(super) fn end(&mut self, host: &Host, tenant: TenantNo) {
        let Some(list) = self.hosts.get_mut(host) else { return };
        if let Some(place) = list.iter().position(|(other, _)| *other == tenant) {
            list[place].1 -= 1;
            if list[place].1 == 0 {
                list.swap_remove(place);
            }
        }
        if list.is_empty() {
            self.hosts.remove(host);
        }
    }

    /// Returns how much is promised to a tenant.
    pub(super) fn to(&self, host: &Host, tenant: TenantNo) -> u32 {
        let mut list = self.hosts.get(host).into_iter().flatten();
        list.find(|(other, _)| *other == tenant).map_or(0, |(_, count)| *count)
    }

    /// Returns how much is promised to others than `tenant`.
    pub(super) fn to_others(&self, host: &Host, tenant: TenantNo) -> u32 {
        if self.hosts.is_empty() {
            return 0;
        }
        let list = self.hosts.get(host).into_iter().flatten();
        list.filter(|(other, _)| *other != tenant).map(|(_, count)| count).sum()
    }

    /// Returns all of them, to be compared.
    pub(super) fn all(&self) -> HashMap<(&Host, TenantNo), u32> {
        let all = self
            .hosts
            .iter()
            .flat_map(|(host, list)| list.iter().map(move |(tenant, count)| ((host, *tenant), *count)));
        all.collect()
    }
}
