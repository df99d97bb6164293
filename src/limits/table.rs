//! All hosts that are remembered, and which of them is forgotten when there are too many. Pure: the caller brings the time.
//!
//! A host has a state as long as that distinguishes it from one that was never seen: a request in flight, a rate that is
//! used up, a pause, failures that count. Once it is at rest the state is dropped, which changes no answer, and what stays
//! is the name and the last error, for operators.
//!
//! Hosts that may lose their state or their place in the listing are filed in the order in which they do, so that a change
//! looks at the front of a file and never at all hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::limits::state::HostState;
use crate::model::host::Host;
use crate::model::time::Timestamp;

/// Hosts that are listed in any case, some 200 bytes each beside the last error. Of more, those at rest are forgotten.
const LISTED_MAX: usize = 100_000;
/// Hosts that have a state, some 400 bytes each beside the last error. Of more, the one that would be at rest first loses
/// it before that time, since memory must stay bounded. Hosts with a request in flight never do.
const STATES_MAX: usize = 200_000;
/// Hosts that one change moves or forgets at most: more than it adds, so that a table that has grown shrinks again.
const TIDIED_AT_ONCE: usize = 2;

/// How many hosts a [`Table`] remembers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Beyond, hosts at rest are forgotten.
    pub(super) listed: usize,
    /// Beyond, states are dropped before their time.
    pub(super) states: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { listed: LISTED_MAX, states: STATES_MAX }
    }
}

#[derive(Debug, Default)]
pub(super) struct Table {
    bounds: Bounds,
    hosts: BTreeMap<Host, Entry>,
    files: Files,
    /// A state was dropped before its time; the log says so once.
    is_overfull: bool,
}

#[derive(Debug, Default)]
struct Entry {
    state: Option<Box<HostState>>,
    error: Option<Box<NotedError>>,
    filed: Filed,
}

// A hundred thousand of them are remembered.
const _: () = assert!(size_of::<(Host, Entry)>() <= 48);

/// Where a host is filed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Filed {
    /// Nowhere: it has a request in flight, or a body of it is being read.
    #[default]
    Nowhere,
    /// Among those with a state, by the time when it will be at rest.
    Active(Timestamp),
    /// Among those without a state, by the time since when it is at rest.
    AtRest(Timestamp),
}

/// The hosts that may lose something, in the order in which they do.
#[derive(Debug, Default)]
struct Files {
    active: BTreeSet<(Timestamp, Host)>,
    at_rest: BTreeSet<(Timestamp, Host)>,
}

/// The last error of a host.
#[derive(Debug)]
pub(super) struct NotedError {
    pub(super) time: Timestamp,
    pub(super) text: Arc<str>,
}

/// A host that is remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub(super) host: &'a Host,
    /// `None` for a host at rest.
    pub(super) state: Option<&'a HostState>,
    pub(super) error: Option<&'a NotedError>,
}

impl Table {
    #[cfg(test)]
    pub(super) fn new(bounds: Bounds) -> Table {
        Table { bounds, ..Table::default() }
    }

    /// Returns the state of `host`; `None` for a host at rest, which is as one that was never seen.
    pub(super) fn get(&self, host: &Host) -> Option<&HostState> {
        self.hosts.get(host)?.state.as_deref()
    }

    /// Changes the state of `host`, which is `new` if it has none.
    pub(super) fn change<T>(
        &mut self,
        host: &Host,
        now: Timestamp,
        new: impl FnOnce() -> HostState,
        change: impl FnOnce(&mut HostState) -> T,
    ) -> T {
        let entry = self.hosts.entry(host.clone()).or_default();
        let result = change(entry.state.get_or_insert_with(|| Box::new(new())));
        entry.file(host, now, &mut self.files);
        self.tidy(now);
        result
    }

    /// Changes the state of `host` if it has one.
    pub(super) fn change_known<T>(
        &mut self,
        host: &Host,
        now: Timestamp,
        change: impl FnOnce(&mut HostState) -> T,
    ) -> Option<T> {
        let entry = self.hosts.get_mut(host)?;
        let result = change(entry.state.as_mut()?);
        entry.file(host, now, &mut self.files);
        self.tidy(now);
        Some(result)
    }

    /// Changes all states.
    pub(super) fn change_all(&mut self, now: Timestamp, mut change: impl FnMut(&Host, &mut HostState)) {
        for (host, entry) in &mut self.hosts {
            if let Some(state) = &mut entry.state {
                change(host, state);
                entry.file(host, now, &mut self.files);
            }
        }
        self.tidy(now);
    }

    /// Keeps the last error of `host`.
    pub(super) fn note_error(&mut self, host: &Host, text: Arc<str>, now: Timestamp) {
        let entry = self.hosts.entry(host.clone()).or_default();
        entry.error = Some(Box::new(NotedError { time: now, text }));
        if entry.state.is_none() {
            self.files.put(host, &mut entry.filed, Filed::AtRest(now));
        }
        self.tidy(now);
    }

    /// Returns the hosts that come after `last` by name.
    pub(super) fn after(&self, last: Option<&Host>) -> impl Iterator<Item = Row<'_>> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        let hosts = self.hosts.range((from, Bound::Unbounded));
        hosts.map(|(host, entry)| Row { host, state: entry.state.as_deref(), error: entry.error.as_deref() })
    }

    /// Returns a host that is remembered.
    pub(super) fn row(&self, host: &Host) -> Option<Row<'_>> {
        let (host, entry) = self.hosts.get_key_value(host)?;
        Some(Row { host, state: entry.state.as_deref(), error: entry.error.as_deref() })
    }

    /// Returns how many hosts have a state.
    pub(super) fn states(&self) -> usize {
        self.hosts.len() - self.files.at_rest.len()
    }

    /// Checks that every host is filed where it belongs, and nowhere else.
    #[cfg(test)]
    pub(super) fn check_files(&self) {
        let (mut active, mut at_rest) = (0, 0);
        for (host, entry) in &self.hosts {
            match (&entry.state, entry.filed) {
                (Some(state), Filed::Nowhere) => assert_eq!(state.rests_at(), None),
                (Some(state), Filed::Active(at)) => {
                    active += 1;
                    assert_eq!(state.rests_at(), Some(at));
                    assert!(self.files.active.contains(&(at, host.clone())));
                }
                (None, Filed::AtRest(at)) => {
                    at_rest += 1;
                    assert!(self.files.at_rest.contains(&(at, host.clone())));
                }
                wrong => panic!("{host}: {wrong:?}"),
            }
        }
        assert_eq!((self.files.active.len(), self.files.at_rest.len()), (active, at_rest));
    }

    /// Drops states that no longer matter, and whatever exceeds the bounds.
    fn tidy(&mut self, now: Timestamp) {
        for _ in 0..TIDIED_AT_ONCE {
            let Some((rests_at, host)) = self.files.active.first() else { break };
            if *rests_at > now && self.states() <= self.bounds.states {
                break;
            }
            if *rests_at > now && !self.is_overfull {
                self.is_overfull = true;
                tracing::warn!(hosts = self.states(), "too many hosts are paused or failing: some of it is forgotten");
            }
            let host = host.clone();
            let Some(entry) = self.hosts.get_mut(&host) else { break };
            entry.state = None;
            self.files.put(&host, &mut entry.filed, Filed::AtRest(now));
        }
        for _ in 0..TIDIED_AT_ONCE {
            if self.hosts.len() <= self.bounds.listed {
                break;
            }
            let Some((_, host)) = self.files.at_rest.pop_first() else { break };
            self.hosts.remove(&host);
        }
    }
}

impl Entry {
    /// Files a host after a change of its state, and drops the state when it does not matter.
    fn file(&mut self, host: &Host, now: Timestamp, files: &mut Files) {
        let place = match self.state.as_ref().and_then(|state| state.rests_at()) {
            None => Filed::Nowhere,
            Some(at) if at > now => Filed::Active(at),
            Some(_) => {
                self.state = None;
                Filed::AtRest(now)
            }
        };
        files.put(host, &mut self.filed, place);
    }
}

impl Files {
    /// Moves `host` from where it is filed to `place`.
    fn put(&mut self, host: &Host, filed: &mut Filed, place: Filed) {
        if *filed == place {
            return;
        }
        match *filed {
            Filed::Nowhere => {}
            Filed::Active(at) => drop(self.active.remove(&(at, host.clone()))),
            Filed::AtRest(at) => drop(self.at_rest.remove(&(at, host.clone()))),
        }
        match place {
            Filed::Nowhere => {}
            Filed::Active(at) => drop(self.active.insert((at, host.clone()))),
            Filed::AtRest(at) => drop(self.at_rest.insert((at, host.clone()))),
        }
        *filed = place;
    }
}
