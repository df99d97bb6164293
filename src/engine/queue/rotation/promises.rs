//! Room at hosts that was promised to tenants. Pure.
//!
//! A host that has room wakes a lane of the tenant that has the fewest requests there. Before that lane's turn comes, lanes
//! of others that have just got work would take the room, again and again. So it is kept from them until the lane has been
//! looked at. As long as there is one tenant nothing is promised.

use std::collections::HashMap;

use crate::model::host::Host;
use crate::model::tenant::TenantNo;

/// How much of a host's room is promised to which tenants.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Promises(HashMap<Host, Vec<(TenantNo, u32)>>);

impl Promises {
    /// Promises room for one request.
    pub(super) fn make(&mut self, host: &Host, tenant: TenantNo) {
        let list = self.0.entry(host.clone()).or_default();
        match list.iter_mut().find(|(other, _)| *other == tenant) {
            Some((_, count)) => *count += 1,
            None => list.push((tenant, 1)),
        }
    }

    /// Takes one back.
    pub(super) fn end(&mut self, host: &Host, tenant: TenantNo) {
        let Some(list) = self.0.get_mut(host) else { return };
        if let Some(place) = list.iter().position(|(other, _)| *other == tenant) {
            list[place].1 -= 1;
            if list[place].1 == 0 {
                list.swap_remove(place);
            }
        }
        if list.is_empty() {
            self.0.remove(host);
        }
    }

    /// Returns how much is promised to a tenant.
    pub(super) fn to(&self, host: &Host, tenant: TenantNo) -> u32 {
        let mut list = self.0.get(host).into_iter().flatten();
        list.find(|(other, _)| *other == tenant).map_or(0, |(_, count)| *count)
    }

    /// Returns how much is promised to others than `tenant`.
    pub(super) fn to_others(&self, host: &Host, tenant: TenantNo) -> u32 {
        if self.0.is_empty() {
            return 0;
        }
        let list = self.0.get(host).into_iter().flatten();
        list.filter(|(other, _)| *other != tenant).map(|(_, count)| count).sum()
    }

    /// Returns all of them, to be compared.
    pub(super) fn all(&self) -> HashMap<(&Host, TenantNo), u32> {
        let all =
            self.0.iter().flat_map(|(host, list)| list.iter().map(move |(tenant, count)| ((host, *tenant), *count)));
        all.collect()
    }
}
