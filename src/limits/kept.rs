//! The pauses of all hosts that outlive the process, and what the store has yet to learn of them. Pure: the caller brings the
//! time.
//!
//! Their number is bounded, whatever origins ask for: of too many, those that end first are forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::model::host::Host;
use crate::model::pause::{HostPause, PauseCause, PauseChange, PauseKey};
use crate::model::tenant::TenantNo;
use crate::model::time::Timestamp;

/// Pauses that are kept, some 500 bytes each.
const PAUSES_MAX: usize = 4096;

/// The pauses that are kept.
#[derive(Debug)]
pub(super) struct Kept {
    max: usize,
    all: BTreeMap<PauseKey, HostPause>,
    /// By when they end.
    by_end: BTreeSet<(Timestamp, PauseKey)>,
    /// Those that the store has otherwise, or not, or still.
    unsaved: BTreeMap<PauseKey, Option<HostPause>>,
}

impl Default for Kept {
    fn default() -> Kept {
        Kept { max: PAUSES_MAX, all: BTreeMap::new(), by_end: BTreeSet::new(), unsaved: BTreeMap::new() }
    }
}

impl Kept {
    /// Keeps a pause, instead of the one of its key.
    pub(super) fn put(&mut self, key: PauseKey, pause: HostPause, now: Timestamp) {
        self.forget(&key);
        self.by_end.insert((pause.until, key.clone()));
        self.unsaved.insert(key.clone(), Some(pause.clone()));
        self.all.insert(key, pause);
        while let Some((until, first)) = self.by_end.first().cloned()
            && (until <= now || self.all.len() > self.max)
        {
            self.end(&first);
        }
    }

    /// Takes in what the store has.
    pub(super) fn restore(&mut self, key: &PauseKey, pause: HostPause, now: Timestamp) {
        self.put(key.clone(), pause, now);
        if self.all.contains_key(key) {
            self.unsaved.remove(key);
        }
    }

    /// Returns the pause of a key.
    pub(super) fn get(&self, key: &PauseKey) -> Option<&HostPause> {
        self.all.get(key)
    }

    /// Notes that a pause is over.
    pub(super) fn end(&mut self, key: &PauseKey) {
        if self.forget(key) {
            self.unsaved.insert(key.clone(), None);
        }
    }

    /// Notes that all pauses of a host are over.
    pub(super) fn end_all_of(&mut self, host: &Host) {
        let keys: Vec<PauseKey> = self.all.keys().filter(|key| key.host == *host).cloned().collect();
        for key in &keys {
            self.end(key);
        }
    }

    /// Returns the hosts at which a tenant has a pause, in the order of their names, from the first one after `last`.
    pub(super) fn hosts_of(
        &self,
        tenant: TenantNo,
        last: Option<&Host>,
        now: Timestamp,
    ) -> impl Iterator<Item = &Host> {
        let first = PauseKey { tenant, host: last.cloned().unwrap_or_else(|| Host::new("")), cause: PauseCause::Asked };
        let from = self.all.range((Bound::Included(first), Bound::Unbounded));
        let last = last.cloned();
        from.take_while(move |(key, _)| key.tenant == tenant)
            .filter(move |(key, pause)| pause.until > now && Some(&key.host) != last.as_ref())
            .map(|(key, _)| &key.host)
    }

    /// Takes out what the store has yet to learn.
    pub(super) fn take_unsaved(&mut self) -> Vec<PauseChange> {
        std::mem::take(&mut self.unsaved).into_iter().collect()
    }

    fn forget(&mut self, key: &PauseKey) -> bool {
        let Some(pause) = self.all.remove(key) else { return false };
        self.by_end.remove(&(pause.until, key.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tenant: TenantNo, host: &str) -> PauseKey {
        PauseKey { tenant, host: Host::new(host), cause: PauseCause::Asked }
    }

    fn until(end: i64) -> HostPause {
        HostPause { time: Timestamp(1), until: Timestamp(end), failures: 0, reason: "asked".into() }
    }

    fn told(kept: &mut Kept) -> Vec<(String, Option<i64>)> {
        let told = kept.take_unsaved().into_iter();
        told.map(|(key, pause)| (format!("{}@{}", key.host, key.tenant), pause.map(|it| it.until.0))).collect()
    }

    #[test]
    fn what_changes_is_told_once_and_what_is_past_is_forgotten() {
        let mut kept = Kept::default();
        kept.put(key(1, "a:80"), until(10), Timestamp(1));
        kept.put(key(1, "a:80"), until(20), Timestamp(1));
        kept.put(key(2, "a:80"), until(15), Timestamp(1));
        assert_eq!(told(&mut kept), [("a:80@1".into(), Some(20)), ("a:80@2".into(), Some(15))]);
        assert_eq!(told(&mut kept), []);
        kept.put(key(1, "b:80"), until(99), Timestamp(15));
        assert_eq!(told(&mut kept), [("b:80@1".into(), Some(99)), ("a:80@2".into(), None)]);
        kept.end_all_of(&Host::new("a:80"));
        kept.end(&key(3, "c:80"));
        assert_eq!(told(&mut kept), [("a:80@1".into(), None)]);
        assert!(kept.get(&key(1, "b:80")).is_some() && kept.by_end.len() == kept.all.len());
    }

    #[test]
    fn of_too_many_those_go_that_end_first() {
        let mut kept = Kept { max: 2, ..Kept::default() };
        for (host, end) in [("a:80", 50), ("b:80", 10), ("c:80", 30), ("d:80", 5)] {
            kept.put(key(1, host), until(end), Timestamp(1));
        }
        let hosts: Vec<&Host> = kept.hosts_of(1, None, Timestamp(1)).collect();
        assert_eq!(hosts, [&Host::new("a:80"), &Host::new("c:80")]);
        let told = told(&mut kept);
        assert_eq!(told.iter().filter(|(_, end)| end.is_some()).count(), 2, "{told:?}");
    }

    #[test]
    fn what_the_store_has_is_not_told_again_and_what_has_passed_is() {
        let mut kept = Kept::default();
        kept.restore(&key(1, "a:80"), until(50), Timestamp(20));
        kept.restore(&key(1, "b:80"), until(10), Timestamp(20));
        assert_eq!(told(&mut kept), [("b:80@1".into(), None)]);
        let hosts = |last: Option<&str>, now| {
            let last = last.map(Host::new);
            kept.hosts_of(1, last.as_ref(), Timestamp(now)).count()
        };
        assert_eq!([hosts(None, 20), hosts(None, 50), hosts(Some("a:80"), 20), hosts(Some("Z"), 20)], [1, 0, 0, 1]);
    }
}
