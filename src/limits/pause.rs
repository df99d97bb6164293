//! What one host has asked of each tenant. Pure.
//!
//! An origin that asks somebody to wait may mean their account alone, so a pause is of the tenant that was asked. When two
//! tenants were asked within a minute it means everybody, until the earlier of the two ends: the later one is one tenant's
//! word.

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

/// A tenant was asked to wait.
#[derive(Debug)]
struct Asked {
    tenant: TenantNo,
    /// When it was asked last.
    at: Timestamp,
    until: Timestamp,
    reason: Box<str>,
}

impl Pause {
    /// Notes that a tenant was asked to wait. A shorter time does not shorten a longer one. Returns until when all have to wait
    /// from now on, if that is longer than before.
    pub(super) fn ask(
        &mut self,
        tenant: TenantNo,
        until: Timestamp,
        reason: &str,
        now: Timestamp,
    ) -> Option<Timestamp> {
        self.asked.retain(|asked| asked.until > now);
        let is_recent = |asked: &&Asked| asked.tenant != tenant && asked.at.plus(TOGETHER) >= now;
        let together = self.asked.iter().filter(is_recent).map(|asked| asked.until.min(until)).max();
        let before = self.for_all.filter(|all| *all > now);
        self.for_all = before.max(together);
        let longer = self.for_all.filter(|all| Some(*all) > before);
        match self.asked.iter_mut().find(|asked| asked.tenant == tenant) {
            Some(asked) => {
                asked.at = now;
                if asked.until < until {
                    (asked.until, asked.reason) = (until, cut(reason).into());
                }
            }
            None => self.asked.push(Asked { tenant, at: now, until, reason: cut(reason).into() }),
        }
        longer
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

    #[test]
    fn one_tenant_is_asked_for_itself_and_two_for_all() {
        let mut pause = Pause::default();
        pause.ask(1, at(600), "asked 1", at(1));
        assert_eq!((pause.until(Some(1)), pause.until(Some(2)), pause.until(None)), (at(600), at(0), at(600)));
        assert_eq!((pause.reason(Some(1)).as_str(), pause.reason(Some(2)).as_str()), ("asked 1", ""));
        pause.ask(2, at(75), "asked 2", at(70));
        assert_eq!((pause.until(Some(2)), pause.until(Some(3))), (at(75), at(0)), "more than a minute later");
        let for_all = pause.ask(1, at(80), "asked 1 again", at(71));
        assert_eq!((for_all, pause.ask(2, at(74), "asked 2", at(72))), (Some(at(75)), None));
        assert_eq!((pause.until(Some(1)), pause.until(Some(3))), (at(600), at(75)), "the shorter one holds for all");
        assert_eq!(pause.reason(Some(3)), "it asks everybody to wait");
        assert_eq!((pause.reason(Some(2)).as_str(), pause.reason(None).as_str()), ("asked 2", "asked 1"));
    }
}
