//! What every host looks like to operators, and to those who see only their own.

use std::ops::Bound;

use crate::limits::hosts::{Hosts, Inner};
use crate::limits::parties::OwnView;
use crate::limits::state::HostState;
use crate::limits::table::Row;
use crate::model::host::Host;
use crate::model::limits::HostLimits;
use crate::model::tenant::{Parties, TenantNo};
use crate::model::time::Timestamp;

/// Hosts that are counted before others have the lock.
pub(super) const COUNTED_MAX: usize = 1024;

/// A host as an operator sees it.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The contract's names.
pub struct HostView {
    pub host: Host,
    pub running: u32,
    pub limits: HostLimits,
    pub paused_until: Option<Timestamp>,
    pub pause_reason: String,
    pub recent_error: Option<(Timestamp, String)>,
    pub bytes_per_second: u64,
    pub requests_per_second: f64,
    pub recent_failures: u32,
}

impl Hosts {
    /// Returns at most `limit` hosts that are asked for these parties, or paused for their tenant, in the order of their names,
    /// from the first one after `last`. The numbers, errors and pauses are theirs alone.
    pub fn own_views_after(&self, whose: Parties, last: Option<&Host>, limit: usize) -> Vec<HostView> {
        let now = self.clock.now();
        let mut own = self.per_party.views(whose, now);
        let inner = self.lock();
        // Which hosts others of the tenant ask is nobody's business who sees only its own.
        if let Parties { tenant: Some(tenant), principal: None } = whose {
            for host in inner.kept.hosts_of(tenant, last, now).take(limit) {
                own.entry(host.clone()).or_default();
            }
        }
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        let view = |(host, own): (&Host, &OwnView)| HostView {
            running: own.running,
            recent_error: own.error.as_ref().map(|(time, error)| (*time, error.to_string())),
            bytes_per_second: own.rates.bytes_per_second,
            requests_per_second: own.rates.requests_per_second,
            recent_failures: own.rates.failures,
            ..look(&inner, Row { host, state: inner.table.get(host), error: None }, whose.tenant, now)
        };
        own.range::<Host, _>((from, Bound::Unbounded)).take(limit).map(view).collect()
    }

    /// Returns at most `limit` hosts in the order of their names, from the first one after `last`.
    pub fn views_after(&self, last: Option<&Host>, limit: usize) -> Vec<HostView> {
        let now = self.clock.now();
        let inner = self.lock();
        inner.table.after(last).take(limit).map(|row| look(&inner, row, None, now)).collect()
    }

    /// Returns one host.
    pub fn view(&self, host: &Host) -> Option<HostView> {
        let now = self.clock.now();
        let inner = self.lock();
        inner.table.row(host).map(|row| look(&inner, row, None, now))
    }

    /// Returns how many hosts have work or a pause: those that are fine, and those that are paused for somebody.
    pub fn counts(&self) -> [u64; 2] {
        let now = self.clock.now();
        let mut counts = [0; 2];
        let mut last: Option<Host> = None;
        // A part at a time, since every request takes the lock.
        loop {
            let inner = self.lock();
            let mut rows = 0;
            let mut end = None;
            for row in inner.table.after(last.as_ref()).take(COUNTED_MAX) {
                rows += 1;
                end = Some(row.host);
                if let Some(state) = row.state {
                    counts[usize::from(state.paused_until(None, now).is_some())] += 1;
                }
            }
            if rows < COUNTED_MAX {
                return counts;
            }
            last = end.cloned();
        }
    }

    /// Returns the hosts that `name` stands for, one where it has a port and else those with each port: how many requests
    /// they have, and whether they are paused.
    pub fn named(&self, name: &str) -> Vec<(Host, u32, bool)> {
        let now = self.clock.now();
        let inner = self.lock();
        let look = |host: &Host, state: Option<&HostState>| {
            let (running, until) = state.map_or((0, None), |state| (state.in_flight(), state.paused_until(None, now)));
            (host.clone(), running, until.is_some())
        };
        let has_port = name.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if has_port {
            let host = Host::new(name);
            return vec![look(&host, inner.table.get(&host))];
        }
        let first = Host::new(&format!("{name}:"));
        let hosts = inner.table.after(Some(&first)).take_while(|row| row.host.as_str().starts_with(first.as_str()));
        hosts.map(|row| look(row.host, row.state)).collect()
    }

    /// Returns a message for the users of a tenant: that `host` is paused `until` then, as [`Blocked::Paused`](crate::limits::Blocked) has it, and
    /// why.
    pub fn explain_pause(&self, host: &Host, tenant: TenantNo, until: Timestamp) -> String {
        let now = self.clock.now();
        let inner = self.lock();
        let reason = inner.table.get(host).map(|state| state.pause_reason(Some(tenant), now)).unwrap_or_default();
        let reason = if reason.is_empty() { reason } else { format!(" ({reason})") };
        format!("`{host}` is paused until {}{reason}", until.time_of_day(now))
    }
}

/// How a host looks to a tenant; without one, to who sees all.
fn look(inner: &Inner, row: Row<'_>, tenant: Option<TenantNo>, now: Timestamp) -> HostView {
    let rates = inner.recent.rates(row.host, now);
    HostView {
        host: row.host.clone(),
        running: row.state.map_or(0, HostState::in_flight),
        limits: inner.rules.of(row.host),
        paused_until: row.state.and_then(|state| state.paused_until(tenant, now)),
        pause_reason: row.state.map(|state| state.pause_reason(tenant, now)).unwrap_or_default(),
        recent_error: row.error.map(|error| (error.time, error.text.to_string())),
        bytes_per_second: rates.bytes_per_second,
        requests_per_second: rates.requests_per_second,
        recent_failures: rates.failures,
    }
}
