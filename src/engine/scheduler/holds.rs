//! Jobs that are paused or sealed while room is short: plain data.

use std::collections::HashMap;

use crate::model::tenant::TenantNo;

/// Jobs that are held before that is refused: each takes some tens of KiB of the log.
const HOLDS_MAX: u32 = 100;

/// How many jobs were held since room became short, by tenant. A store that has room now and then lets as many be held anew
/// each time.
#[derive(Debug, Default)]
pub(super) struct Holds {
    of: HashMap<TenantNo, u32>,
    all: u32,
}

impl Holds {
    /// Whether a job of a tenant may be held: half of them are left for others, where there are `others`.
    pub(super) fn may(&self, tenant: TenantNo, others: bool) -> bool {
        let own = self.of.get(&tenant).copied().unwrap_or_default();
        self.all < HOLDS_MAX && (!others || own < HOLDS_MAX / 2)
    }

    /// Counts a job of a tenant that is held.
    pub(super) fn count(&mut self, tenant: TenantNo) {
        *self.of.entry(tenant).or_default() += 1;
        self.all += 1;
    }

    /// There is room again.
    pub(super) fn clear(&mut self) {
        if self.all > 0 {
            *self = Holds::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tenant_takes_all_that_may_be_held() {
        let mut holds = Holds::default();
        while holds.may(1, true) {
            holds.count(1);
        }
        assert_eq!(holds.of[&1], HOLDS_MAX / 2);
        while holds.may(2, true) {
            holds.count(2);
        }
        assert_eq!((holds.of[&2], holds.may(3, true), holds.may(1, false)), (HOLDS_MAX / 2, false, false));
        holds.clear();
        while holds.may(1, false) {
            holds.count(1);
        }
        assert_eq!(holds.all, HOLDS_MAX);
    }
}
