//! Calls that were refused, and calls that only read where these are wanted, counted until they are written to the audit.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::model::access::Actor;
use crate::model::audit::{AuditRow, OK};
use crate::model::time::Timestamp;

/// Rows of one minute, of refusals and of reads each. What is beyond has one row for all of it.
const ROWS_MAX: usize = 1_000;

/// A call that was refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal<'a> {
    pub(super) who: Option<&'a Actor>,
    pub(super) address: &'a str,
    /// The tenant that it is about; empty: the server.
    pub(super) tenant: &'a str,
    /// `None`: it is not there.
    pub(super) method: Option<&'a str>,
    /// The part of the reason that the answer leaves out and the audit has.
    pub(super) detail: &'a str,
}

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Refused {
    principal: String,
    token_id: String,
    address: String,
    tenant: String,
    method: String,
    code: &'static str,
    reason: String,
}

/// What was counted since it was taken last.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Minute>);

#[derive(Debug, Default)]
struct Minute {
    rows: HashMap<Refused, (Timestamp, u32)>,
    /// How many of the rows are of reads: who reads a lot pushes no refusal out.
    reads: usize,
    /// How many of each code have no row of their own.
    rest: BTreeMap<&'static str, u32>,
}

impl Refusals {
    /// Counts a call that was refused for want of credentials or rights, or since there were too many.
    pub(super) fn note(&self, refusal: Refusal<'_>, status: &Status, now: Timestamp) {
        let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        let code = match status.code() {
            Code::Unauthenticated => "UNAUTHENTICATED",
            Code::PermissionDenied => "PERMISSION_DENIED",
            Code::ResourceExhausted if reason == "RATE_LIMITED" || reason == "TOO_MANY_STREAMS" => "RESOURCE_EXHAUSTED",
            _ => return,
        };
        self.count(refusal, code, reason, now);
    }

    /// Counts a call that only reads.
    pub(super) fn note_read(&self, call: Refusal<'_>, now: Timestamp) {
        self.count(call, OK, String::new(), now);
    }

    fn count(&self, call: Refusal<'_>, code: &'static str, reason: String, now: Timestamp) {
        let Refusal { who, address, tenant, method, detail } = call;
        let refused = Refused {
            principal: who.map(|actor| actor.name.clone()).unwrap_or_default(),
            token_id: who.map(|actor| actor.token_id.clone()).unwrap_or_default(),
            address: address.to_owned(),
            tenant: tenant.to_owned(),
            // The name of a method that is not there is whatever a stranger writes.
            method: method.unwrap_or("?").to_owned(),
            code,
            reason: if detail.is_empty() { reason } else { format!("{reason}/{detail}") },
        };
        let mut minute = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_read = code == OK;
        let taken = if is_read { minute.reads } else { minute.rows.len() - minute.reads };
        let is_new = !minute.rows.contains_key(&refused);
        if taken >= ROWS_MAX && is_new {
            let rest = minute.rest.entry(code).or_default();
            *rest = rest.saturating_add(1);
            return;
        }
        minute.reads += usize::from(is_read && is_new);
        let (_, count) = minute.rows.entry(refused).or_insert((now, 0));
        *count = count.saturating_add(1);
    }

    /// Takes the rows, the first refused first.
    pub(super) fn take(&self, now: Timestamp) -> Vec<AuditRow> {
        let Minute { rows, rest, .. } = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut rows: Vec<AuditRow> = rows
            .into_iter()
            .map(|(refused, (time, count))| AuditRow {
                time,
                principal: refused.principal,
                token_id: refused.token_id,
                address: refused.address,
                tenant: refused.tenant,
                method: refused.method,
                code: refused.code.to_owned(),
                reason: refused.reason,
                count,
                ..AuditRow::default()
            })
            .collect();
        rows.sort_by(|one, other| {
            (one.time, &one.method, &one.reason).cmp(&(other.time, &other.method, &other.reason))
        });
        rows.extend(rest.into_iter().map(|(code, count)| {
            let (method, code) = ("?".to_owned(), code.to_owned());
            AuditRow { time: now, method, code, count, ..AuditRow::default() }
        }));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::{Fault, rate_limited};

    fn by<'a>(address: &'a str, method: Option<&'a str>, detail: &'a str) -> Refusal<'a> {
        Refusal { who: None, address, tenant: "", method, detail }
    }

    #[test]
    fn the_same_refusal_is_one_row_and_there_are_not_too_many() {
        let refusals = Refusals::default();
        let status: Status = Fault::new(Code::Unauthenticated, "BAD_CREDENTIALS", "no").into();
        let limited = rate_limited("calls", "principals/a", std::time::Duration::ZERO);
        for _ in 0..3 {
            let refusal = by("192.0.2.1", Some("haul.v1.JobService/ListJobs"), "expired");
            refusals.note(refusal, &status, Timestamp(5));
        }
        for number in 0..ROWS_MAX + 7 {
            let address = number.to_string();
            refusals.note(by(&address, None, ""), &status, Timestamp(6));
        }
        refusals.note(by("", None, ""), &limited, Timestamp(7));
        refusals.note(by("", None, ""), &Status::internal(""), Timestamp(7));
        refusals.note(by("", None, ""), &Status::resource_exhausted(""), Timestamp(7));
        let rows = refusals.take(Timestamp(9));
        assert_eq!(rows.len(), ROWS_MAX + 2);
        assert_eq!((rows[0].reason.as_str(), rows[0].count), ("BAD_CREDENTIALS/expired", 3));
        assert_eq!((rows[1].method.as_str(), rows[1].count), ("?", 1));
        let rest = rows[ROWS_MAX..].iter().map(|row| (row.code.as_str(), row.count)).collect::<Vec<_>>();
        assert_eq!(rest, [("RESOURCE_EXHAUSTED", 1), ("UNAUTHENTICATED", 8)]);
        assert!(refusals.take(Timestamp(9)).is_empty());
    }
}
