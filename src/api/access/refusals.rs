//! Calls that were refused, counted until they are written to the audit.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::model::access::Actor;
use crate::model::audit::AuditRow;
use crate::model::role::DEFAULT_TENANT;
use crate::model::time::Timestamp;

/// Rows of one minute. What is beyond has one row for all of it.
const ROWS_MAX: usize = 1_000;

/// Who was refused what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Refused {
    principal: String,
    token_id: String,
    address: String,
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
    rest: u32,
}

impl Refusals {
    /// Counts a call that was refused for want of credentials or rights. `detail` is what the client is not told.
    pub(super) fn note(
        &self,
        who: Option<&Actor>,
        address: &str,
        method: Option<&str>,
        status: &Status,
        detail: &str,
        now: Timestamp,
    ) {
        let code = match status.code() {
            Code::Unauthenticated => "UNAUTHENTICATED",
            Code::PermissionDenied => "PERMISSION_DENIED",
            _ => return,
        };
        let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        let refused = Refused {
            principal: who.map(|actor| actor.name.clone()).unwrap_or_default(),
            token_id: who.map(|actor| actor.token_id.clone()).unwrap_or_default(),
            address: address.to_owned(),
            // The name of a method that is not there is whatever a stranger writes.
            method: method.unwrap_or("?").to_owned(),
            code,
            reason: if detail.is_empty() { reason } else { format!("{reason}/{detail}") },
        };
        let mut minute = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if minute.rows.len() >= ROWS_MAX && !minute.rows.contains_key(&refused) {
            minute.rest = minute.rest.saturating_add(1);
            return;
        }
        let (_, count) = minute.rows.entry(refused).or_insert((now, 0));
        *count = count.saturating_add(1);
    }

    /// Takes the rows, the first refused first.
    pub(super) fn take(&self, now: Timestamp) -> Vec<AuditRow> {
        let Minute { rows, rest } = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut rows: Vec<AuditRow> = rows
            .into_iter()
            .map(|(refused, (time, count))| AuditRow {
                time,
                principal: refused.principal,
                token_id: refused.token_id,
                address: refused.address,
                tenant: DEFAULT_TENANT.to_owned(),
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
        if rest > 0 {
            let (method, code) = ("?".to_owned(), "PERMISSION_DENIED".to_owned());
            rows.push(AuditRow { time: now, method, code, count: rest, ..AuditRow::default() });
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::Fault;

    #[test]
    fn the_same_refusal_is_one_row_and_there_are_not_too_many() {
        let refusals = Refusals::default();
        let status: Status = Fault::new(Code::Unauthenticated, "BAD_CREDENTIALS", "no").into();
        for _ in 0..3 {
            refusals.note(None, "192.0.2.1", Some("haul.v1.JobService/ListJobs"), &status, "expired", Timestamp(5));
        }
        for number in 0..ROWS_MAX + 7 {
            refusals.note(None, &number.to_string(), None, &status, "", Timestamp(6));
        }
        refusals.note(None, "", None, &Status::internal(""), "", Timestamp(7));
        let rows = refusals.take(Timestamp(9));
        assert_eq!(rows.len(), ROWS_MAX + 1);
        assert_eq!((rows[0].reason.as_str(), rows[0].count), ("BAD_CREDENTIALS/expired", 3));
        assert_eq!((rows[1].method.as_str(), rows[1].count), ("?", 1));
        assert_eq!(rows[ROWS_MAX].count, 8);
        assert!(refusals.take(Timestamp(9)).is_empty());
    }
}
