//! What one host has asked of each tenant. Pure.
//!
//! An origin that asks somebody to wait may mean their account alone, so a pause is of the tenant that was asked. When two
//! tenants were asked within a minute it means everybody, until the earlier of the two ends: the later one is one tenant's
//! word. What came by a proxy that a task has named says nothing of the host: whoever named it may have made it answer so.

use std::time::Duration;

use crate::limits::text::cut;
use crate::model::tenant::TenantNo;
use crate::model::time::Timestamp;

/// How far apart two tenants may be asked to wait for a host to be paused for all.
const TOGETHER: Duration = Duration::from_secs(60);

/// Until when no request may start, of whom, and why.
#[derive(Debug, Default)]
pub(super) struct Pause {
    /// What the origin asked for, once for each tenant; few.
    asked: Vec<Asked>,
    /// Until when it holds for all.
    for_all: Option<Timestamp>,
}

/// Who asked a tenant to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Voice {
    /// The host.
    Host,
    /// A proxy that the task has named, or nobody knows any more who.
    Other,
}

/// A tenant was asked to wait.
#[derive(Debug)]
struct Asked {
    tenant: TenantNo,
    until: Timestamp,
    reason: Box<str>,
    /// When the host has asked last, and until when to wait at most.
    by_host: Option<(Timestamp, Timestamp)>,
}

impl Pause {
    /// Notes that a tenant was asked to wait. A shorter time does not shorten a longer one. Returns until when all have to wait
    /// from now on, if that is longer than before.
    pub(super) fn ask(
        &mut self,
        tenant: TenantNo,
        until: Timestamp,
        reason: &str,
        voice: Voice,
        now: Timestamp,
    ) -> Option<Timestamp> {
        self.asked.retain(|asked| asked.until > now);
        let before = self.for_all.filter(|all| *all > now);
        let together = if voice == Voice::Host { self.together(tenant, until, now) } else { None };
        self.for_all = before.max(together);
        let longer = self.for_all.filter(|all| Some(*all) > before);
        let asked = self.entry(tenant, until, reason);
        if asked.until < until {
            (asked.until, asked.reason) = (until, cut(reason).into());
        }
        if voice == Voice::Host {
            let longest = asked.by_host.map_or(until, |(_, longest)| longest.max(until));
            asked.by_host = Some((now, longest));
        }
        longer
    }

    /// Returns until when the host has asked this tenant and another one, of late, to wait.
    fn together(&self, tenant: TenantNo, until: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let others = self.asked.iter().filter(|asked| asked.tenant != tenant).filter_map(|asked| asked.by_host);
        others.filter(|(at, other)| at.plus(TOGETHER) >= now && *other > now).map(|(_, other)| other.min(until)).max()
    }

    fn entry(&mut self, tenant: TenantNo, until: Timestamp, reason: &str) -> &mut Asked {
        let place = self.asked.iter().position(|asked| asked.tenant == tenant).unwrap_or_else(|| {
            self.asked.push(Asked { tenant, until, reason: cut(reason).into(), by_host: None });
            self.asked.len() - 1
        });
        &mut self.asked[place]
    }

    /// Takes in until when all have to wait, as it was in a process before.
    pub(super) fn ask_all(&mut self, until: Timestamp) {
        self.for_all = self.for_all.max(Some(until));
    }

    /// Returns what a tenant was asked itself: until when to wait, and why.
    pub(super) fn asked_of(&self, tenant: TenantNo) -> Option<(Timestamp, &str)> {
        self.of(Some(tenant)).map(|asked| (asked.until, &*asked.reason))
    }

    /// Returns when it ends for a tenant; without one, when it has ended for all of them.
    pub(super) fn until(&self, tenant: Option<TenantNo>) -> Timestamp {
        let asked = self.of(tenant).map(|asked| asked.until);
        asked.max(self.for_all).unwrap_or_default()
    }

    /// Returns why it ends for a tenant only then, without a word of what others were asked.
    pub(super) fn reason(&self, tenant: Option<TenantNo>) -> String {
        let until = self.until(tenant);
        match self.of(tenant) {
            Some(asked) if asked.until == until => asked.reason.to_string(),
            _ if self.for_all == Some(until) => "it asks everybody to wait".to_owned(),
            _ => String::new(),
        }
    }

    /// What a tenant was asked; without one, what was asked for longest.
    fn of(&self, tenant: Option<TenantNo>) -> Option<&Asked> {
        let asked = self.asked.iter().filter(|asked| tenant.is_none_or(|tenant| tenant == asked.tenant));
        asked.max_by_key(|asked| asked.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp(0).plus(Duration::from_secs(seconds))
    }

    fn ask(pause: &mut Pause, tenant: TenantNo, until: u64, reason: &str, now: u64) -> Option<Timestamp> {
        pause.ask(tenant, at(until), reason, Voice::Host, at(now))
    }

    #[test]
    fn one_tenant_is_asked_for_itself_and_two_for_all() {
        let mut pause = Pause::default();
        ask(&mut pause, 1, 600, "asked 1", 1);
        assert_eq!((pause.until(Some(1)), pause.until(Some(2)), pause.until(None)), (at(600), at(0), at(600)));
        assert_eq!((pause.reason(Some(1)).as_str(), pause.reason(Some(2)).as_str()), ("asked 1", ""));
        ask(&mut pause, 2, 75, "asked 2", 70);
        assert_eq!((pause.until(Some(2)), pause.until(Some(3))), (at(75), at(0)), "more than a minute later");
        let for_all = ask(&mut pause, 1, 80, "asked 1 again", 71);
        assert_eq!((for_all, ask(&mut pause, 2, 74, "asked 2", 72)), (Some(at(75)), None));
        assert_eq!((pause.until(Some(1)), pause.until(Some(3))), (at(600), at(75)), "the shorter one holds for all");
        assert_eq!(pause.reason(Some(3)), "it asks everybody to wait");
        assert_eq!((pause.reason(Some(2)).as_str(), pause.reason(None).as_str()), ("asked 2", "asked 1"));
    }

    /// The end of what the host has asked is for all, and not what somebody's proxy adds to it.
    #[test]
    fn what_others_than_the_host_ask_is_for_who_named_them() {
        let mut pause = Pause::default();
        pause.ask(1, at(600), "by its proxy", Voice::Other, at(1));
        assert_eq!(ask(&mut pause, 2, 500, "asked 2", 2), None);
        assert_eq!([Some(1), Some(2), Some(3)].map(|tenant| pause.until(tenant)), [600, 500, 0].map(at));
        assert_eq!(pause.ask(1, at(700), "by its proxy", Voice::Other, at(3)), None);
        assert_eq!(ask(&mut pause, 1, 9, "asked 1", 4), Some(at(9)));
        pause.ask(2, at(900), "by its proxy", Voice::Other, at(5));
        assert_eq!(ask(&mut pause, 1, 20, "asked 1", 6), Some(at(20)));
        assert_eq!([Some(1), Some(2), Some(3)].map(|tenant| pause.until(tenant)), [700, 900, 20].map(at));
    }
}
