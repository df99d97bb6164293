//! What is done at hosts for each party, so that nobody has to be shown what others do there.
//!
//! As long as there is one party, nothing is counted here: what all do is what it does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::recent::{Activity, Rates, Recent, UnderWay};
use crate::limits::text::cut;
use crate::model::host::Host;
use crate::model::tenant::{Parties, Party, TenantNo};
use crate::model::time::Timestamp;

/// What is counted for parties.
#[derive(Debug, Default)]
pub(super) struct PerParty {
    is_on: AtomicBool,
    recent: Mutex<Recent<(Party, Host)>>,
}

/// What some parties do at a host.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct OwnView {
    pub(super) running: u32,
    pub(super) rates: Rates,
    pub(super) error: Option<(Timestamp, Arc<str>)>,
}

impl PerParty {
    /// Says whether there is more than one party.
    pub(super) fn set_on(&self, is_on: bool) {
        self.is_on.store(is_on, Ordering::Relaxed);
    }

    /// Returns whether there is more than one party.
    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Returns what is counted for a party at a host; `None`: nothing is.
    pub(super) fn of(&self, party: Party, host: &Host, now: Timestamp) -> Option<Arc<Activity>> {
        self.is_on().then(|| self.lock().of(&(party, host.clone()), now))
    }

    /// Counts a request, until what is returned is dropped.
    pub(super) fn begin(&self, party: Party, host: &Host, now: Timestamp) -> Option<UnderWay> {
        self.of(party, host, now).map(|activity| activity.begin(now))
    }

    /// Keeps an error of a host.
    pub(super) fn note_error(&self, party: Party, host: &Host, error: &str, now: Timestamp) {
        if let Some(activity) = self.of(party, host, now) {
            activity.note_error(cut(error).into(), now);
        }
    }

    /// Returns what these parties do, by host.
    pub(super) fn views(&self, whose: Parties, now: Timestamp) -> BTreeMap<Host, OwnView> {
        let mut views: BTreeMap<Host, OwnView> = BTreeMap::new();
        let recent = self.lock();
        for ((_, host), activity) in recent.iter().filter(|((party, _), _)| whose.has(*party)) {
            let (view, rates) = (views.entry(host.clone()).or_default(), activity.rates(now));
            view.running += activity.under_way();
            view.rates.bytes_per_second += rates.bytes_per_second;
            view.rates.requests_per_second += rates.requests_per_second;
            view.rates.failures += rates.failures;
            view.error = view.error.take().into_iter().chain(activity.error()).max_by_key(|(time, _)| *time);
        }
        views
    }

    /// Returns how many bytes come for a tenant in a second; `None`: nothing is counted here.
    pub(super) fn bytes_per_second(&self, tenant: TenantNo, now: Timestamp) -> Option<u64> {
        if !self.is_on.load(Ordering::Relaxed) {
            return None;
        }
        let is_own = |party: &Party| party.tenant == tenant;
        let own: Vec<Arc<Activity>> =
            self.lock().iter().filter(|((party, _), _)| is_own(party)).map(|(_, it)| it.clone()).collect();
        Some(own.iter().map(|it| it.rates(now).bytes_per_second).sum())
    }

    fn lock(&self) -> MutexGuard<'_, Recent<(Party, Host)>> {
        // Sums and stamps: whoever panicked left them usable.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_party_has_numbers_of_its_own() {
        let (per_party, now, host) = (PerParty::default(), Timestamp(1_000_000_000), Host::new("a:80"));
        let party = |tenant, principal| Party { tenant, principal };
        assert!(per_party.begin(party(1, 0), &host, now).is_none(), "there is one party");
        per_party.set_on(true);
        let first = per_party.begin(party(1, 7), &host, now);
        let second = per_party.begin(party(2, 7), &host, now);
        per_party.note_error(party(2, 7), &host, "reset", now);
        let of = |tenant, principal| {
            let view = per_party.views(Parties { tenant, principal }, now).remove(&host);
            view.map(|view| (view.running, view.error.is_some()))
        };
        assert_eq!(of(Some(1), None), Some((1, false)));
        assert_eq!(of(Some(2), Some(7)), Some((1, true)));
        assert_eq!((of(Some(2), Some(8)), of(Some(3), None)), (None, None));
        assert_eq!(of(None, None), Some((2, true)));
        drop(first);
        assert_eq!(of(Some(1), None), Some((0, false)));
        drop(second);
    }
}
