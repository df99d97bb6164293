//! What tenants have: requests in flight at one host, bodies that are read there, or places. Pure.
//!
//! The tenant that always exists has whatever others have not, so that nothing is kept as long as it is alone.

use crate::model::tenant::{DEFAULT_NO, TenantNo};

/// How many each tenant but [`DEFAULT_NO`] has; no more than there may be in all, so they stand in a list.
#[derive(Debug, Default)]
#[allow(clippy::box_collection)] // A hundred thousand hosts may be remembered, and few have any.
pub(super) struct Shares(Option<Box<Vec<(TenantNo, u32)>>>);

/// Who asks a host for a request, as far as tenants go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asking {
    /// For whom.
    pub(crate) tenant: TenantNo,
    /// How many of its places are promised to others.
    pub(crate) kept: u32,
    /// Whether the tenants that the rate refuses stand in a line.
    pub(crate) lines_up: bool,
}

/// How much of a host a tenant may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Portion {
    /// So many requests in flight; `u32::MAX`: any number.
    pub(super) most: u32,
    /// Whether the last ones are left to others.
    pub(super) is_shared: bool,
}

impl Asking {
    /// Somebody asks while nothing is promised to others, and nobody stands in a line.
    pub(crate) fn of(tenant: TenantNo) -> Asking {
        Asking { tenant, kept: 0, lines_up: false }
    }
}

impl Shares {
    /// Counts one more.
    pub(super) fn start(&mut self, tenant: TenantNo) {
        if tenant == DEFAULT_NO {
            return;
        }
        let list = self.0.get_or_insert_default();
        match list.iter_mut().find(|(other, _)| *other == tenant) {
            Some((_, count)) => *count += 1,
            None => list.push((tenant, 1)),
        }
    }

    /// Counts one less.
    pub(super) fn release(&mut self, tenant: TenantNo) {
        let Some(list) = &mut self.0 else { return };
        let Some(place) = list.iter().position(|(other, _)| *other == tenant) else { return };
        list[place].1 -= 1;
        if list[place].1 == 0 {
            list.swap_remove(place);
        }
        if list.is_empty() {
            self.0 = None;
        }
    }

    /// Returns how many of `all` are a tenant's.
    pub(super) fn of(&self, tenant: TenantNo, all: u32) -> u32 {
        let mut list = self.0.iter().flat_map(|list| list.iter());
        if tenant == DEFAULT_NO {
            return all.saturating_sub(list.map(|(_, count)| count).sum());
        }
        list.find(|(other, _)| *other == tenant).map_or(0, |(_, count)| *count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tenant_has_its_own_and_one_alone_costs_nothing() {
        let mut shares = Shares::default();
        shares.start(DEFAULT_NO);
        assert!(shares.0.is_none());
        for tenant in [7, 7, 8] {
            shares.start(tenant);
        }
        assert_eq!([DEFAULT_NO, 7, 8, 9].map(|tenant| shares.of(tenant, 4)), [1, 2, 1, 0]);
        for tenant in [8, 7, 9, DEFAULT_NO, 7] {
            shares.release(tenant);
        }
        assert!(shares.0.is_none());
        assert_eq!(shares.of(DEFAULT_NO, 1), 1);
    }
}
