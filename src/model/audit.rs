//! The record of who changed what: plain data, and which change has a row.
//!
//! A row says who, from where, what and when. It never holds what was sent: no body, no URL, no label, no title.

use serde::{Deserialize, Serialize};

use crate::model::access::{AccessChange, AccessRow, Actor};
use crate::model::book::Book;
use crate::model::failure::is_default;
use crate::model::ids::JobId;
use crate::model::time::Timestamp;

/// The subject of what is about the server as a whole.
pub const SERVER: &str = "server";
/// What stands for a method where a job uses a credential.
pub const USE: &str = "credential-use";
/// The code of what was done.
pub const OK: &str = "OK";

/// What was done, or refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    /// When.
    #[serde(skip)]
    pub time: Timestamp,
    /// By whom; empty: nobody who is known.
    pub principal: String,
    /// The token that it came by.
    #[serde(default, skip_serializing_if = "is_default")]
    pub token_id: String,
    /// From where, without a port.
    #[serde(default, skip_serializing_if = "is_default")]
    pub address: String,
    /// The tenant that it is about; empty: the server.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tenant: String,
    /// As in `haul.v1.JobService/SubmitJob`.
    pub method: String,
    /// What was changed, as in `jobs/ID`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub subject: String,
    /// [`OK`], or the name of the code with which it was refused.
    pub code: String,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reason: String,
    /// The fields that were named.
    #[serde(default, skip_serializing_if = "is_default")]
    pub changed: Vec<String>,
    /// The server's name of the call.
    #[serde(default, skip_serializing_if = "is_default")]
    pub request_id: String,
    /// How many calls it stands for.
    pub count: u32,
}

impl AuditRow {
    /// Makes the row of something that `by` did, with a method of `service`.
    pub fn done(by: &Actor, method: &str, subject: String, tenant: &str, time: Timestamp) -> AuditRow {
        AuditRow {
            time,
            principal: by.name.clone(),
            token_id: by.token_id.clone(),
            address: by.address.clone(),
            tenant: tenant.to_owned(),
            method: ["haul.v1.", method].concat(),
            subject,
            code: OK.to_owned(),
            request_id: by.request_id.clone(),
            count: 1,
            ..AuditRow::default()
        }
    }

    /// Makes the row of something that `by` did to a job.
    pub fn of_job(by: &Actor, method: &str, job: JobId, time: Timestamp) -> AuditRow {
        let method = ["JobService/", method].concat();
        AuditRow::done(by, &method, format!("jobs/{job}"), by.scope.name(), time)
    }

    /// Makes the row of a job that uses a credential for the first time: no call, but an act of whoever made the job.
    pub fn of_use(creator: &str, tenant: &str, credential: &str, job: JobId, time: Timestamp) -> AuditRow {
        AuditRow {
            time,
            principal: creator.to_owned(),
            tenant: tenant.to_owned(),
            method: USE.to_owned(),
            subject: credential_subject(tenant, credential),
            code: OK.to_owned(),
            changed: vec![format!("jobs/{job}")],
            count: 1,
            ..AuditRow::default()
        }
    }

    /// Makes the rows of a change of who may call, which stores `stored`: one for each thing that it changes. None: it is
    /// no act of anybody, or changes nothing.
    pub fn of_access(
        by: &Actor,
        change: &AccessChange,
        stored: &[AccessRow],
        book: &Book,
        time: Timestamp,
    ) -> Vec<AuditRow> {
        let (method, changed) = match change {
            AccessChange::CreatePrincipal { .. } => ("CreatePrincipal", Vec::new()),
            AccessChange::UpdatePrincipal { title, grants, identities, disabled, default_tenant, .. } => {
                let named = [
                    ("title", title.is_some()),
                    ("grants", grants.is_some()),
                    ("identities", identities.is_some()),
                    ("disabled", disabled.is_some()),
                    ("default_tenant", default_tenant.is_some()),
                ];
                let named = named.iter().filter(|(_, is_set)| *is_set).map(|(field, _)| (*field).to_owned());
                ("UpdatePrincipal", named.collect())
            }
            AccessChange::DeletePrincipal { .. } => ("DeletePrincipal", Vec::new()),
            AccessChange::CreateTenant { .. } => ("CreateTenant", Vec::new()),
            AccessChange::UpdateTenant { patch, .. } => ("UpdateTenant", patch.changed()),
            AccessChange::DeleteTenant { .. } => ("DeleteTenant", Vec::new()),
            AccessChange::CreateToken(_) => ("CreateToken", Vec::new()),
            AccessChange::RevokeToken { .. } => ("RevokeToken", Vec::new()),
            AccessChange::PutCredential(put) => ("PutCredential", put.named()),
            AccessChange::DeleteCredential { .. } => ("DeleteCredential", Vec::new()),
            AccessChange::Require | AccessChange::Used(_) | AccessChange::UsedCredentials(_) => return Vec::new(),
        };
        let home_of = |no| book.name_of(no).split_once('/').map_or("", |(tenant, _)| tenant);
        let subjects = stored.iter().filter_map(|row| match row {
            AccessRow::Principal(principal) => Some((format!("principals/{}", principal.name), home_of(principal.no))),
            AccessRow::Token(token) => Some((format!("tokens/{}", token.id), home_of(token.principal))),
            AccessRow::Tenant(tenant) => Some((format!("tenants/{}", tenant.name), &*tenant.name)),
            AccessRow::Credential(credential) => {
                let tenant = book.tenant_name_of(credential.tenant);
                Some((credential_subject(tenant, &credential.name), tenant))
            }
            AccessRow::NoCredential(tenant, name) => {
                let tenant = book.tenant_name_of(*tenant);
                Some((credential_subject(tenant, name), tenant))
            }
            // What ended long ago is forgotten by the way.
            AccessRow::Forget(_) | AccessRow::Required => None,
        });
        let row = |(subject, home)| {
            let row = AuditRow::done(by, &format!("AccessService/{method}"), subject, home, time);
            AuditRow { changed: changed.clone(), ..row }
        };
        subjects.map(row).collect()
    }
}

fn credential_subject(tenant: &str, name: &str) -> String {
    format!("credentials/{tenant}/{name}")
}

/// What a row depends on: where that changes nothing after all, there is no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Nothing.
    Always,
    /// What the batch changes of this job.
    Job(JobId),
    /// The submission at this place in the batch.
    Submission(usize),
    /// The chunk at this place in the batch.
    Addition(usize),
    /// The sweep at this place in the batch.
    Sweep(usize),
    /// The hastening at this place in the batch.
    Hasten(usize),
    /// The deletion at this place in the batch.
    Deletion(usize),
}

/// A row to store.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    /// The row.
    pub row: AuditRow,
    /// What it depends on.
    pub of: Of,
}

/// A row as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// Its number, from 1, without gaps.
    pub sequence: u64,
    /// The row.
    pub row: AuditRow,
    /// The keyed digest over the one before and this row.
    pub chain: Vec<u8>,
}

/// Which rows, and in which order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Only those of this principal.
    pub principal: String,
    /// Only those about this tenant.
    pub tenant: String,
    /// Only those of this method.
    pub method: String,
    /// Only those about this subject.
    pub subject: String,
    /// Only those at this time or later.
    pub start: Option<Timestamp>,
    /// Only those before this time.
    pub end: Option<Timestamp>,
    /// Only those about a tenant.
    pub without_server: bool,
}

impl AuditFilter {
    /// Returns whether a row is asked for.
    pub fn fits(&self, row: &AuditRow) -> bool {
        let is = |wanted: &str, have: &str| wanted.is_empty() || wanted == have;
        is(&self.principal, &row.principal)
            && is(&self.tenant, &row.tenant)
            && is(&self.method, &row.method)
            && is(&self.subject, &row.subject)
            && self.start.is_none_or(|start| row.time >= start)
            && self.end.is_none_or(|end| row.time < end)
            && !(self.without_server && row.tenant.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::access::{LIFETIME_MAX_DEFAULT, NewToken};
    use crate::model::token::TokenHash;

    #[test]
    fn a_row_names_what_changed_and_holds_nothing_that_was_sent() {
        let by = Actor { name: "ops".into(), request_id: "r".into(), ..Actor::local() };
        let change = AccessChange::UpdatePrincipal {
            name: "default/ci".into(),
            title: Some("secret".into()),
            grants: Some(Vec::new()),
            identities: None,
            disabled: None,
            default_tenant: None,
            etag: String::new(),
        };
        let principal = AccessChange::CreatePrincipal {
            name: "default/ci".into(),
            title: "private".into(),
            grants: Vec::new(),
            identities: Vec::new(),
            disabled: false,
            default_tenant: String::new(),
            request_id: String::new(),
        };
        let made = Book::default().apply(&principal, &Actor::local(), Timestamp(1)).unwrap().book;
        let applied = made.apply(&change, &Actor::local(), Timestamp(1)).unwrap();
        let rows = AuditRow::of_access(&by, &change, &applied.rows, &applied.book, Timestamp(1));
        let text = serde_json::to_string(&rows).unwrap();
        assert_eq!(
            text,
            r#"[{"principal":"ops","tenant":"default","method":"haul.v1.AccessService/UpdatePrincipal","subject":"principals/default/ci","code":"OK","changed":["title","grants"],"request_id":"r","count":1}]"#
        );
        assert!(AuditRow::of_access(&by, &AccessChange::Require, &[], &made, Timestamp(1)).is_empty());
    }

    #[test]
    fn each_token_that_ends_has_a_row_at_the_tenant_of_its_owner() {
        let local = Actor::local();
        let principal = AccessChange::CreatePrincipal {
            name: "default/ci".into(),
            title: String::new(),
            grants: Vec::new(),
            identities: Vec::new(),
            disabled: false,
            default_tenant: String::new(),
            request_id: String::new(),
        };
        let token = |id: &str| {
            AccessChange::CreateToken(NewToken {
                id: id.into(),
                hash: TokenHash([1; 32]),
                principal: "default/ci".into(),
                title: String::new(),
                grants: Vec::new(),
                lifetime: None,
                lifetime_max: LIFETIME_MAX_DEFAULT,
                never_expires: false,
                request_id: String::new(),
            })
        };
        let child = Actor { token_id: "one".into(), ..Actor::local() };
        let mut book = Book::default();
        for (change, by) in [(principal, &local), (token("one"), &local), (token("two"), &child)] {
            book = book.apply(&change, by, Timestamp(1)).unwrap().book;
        }
        let revoke = AccessChange::RevokeToken { id: "one".into(), with_descendants: true };
        let delete = AccessChange::DeletePrincipal { name: "default/ci".into(), etag: String::new() };
        for (change, subjects) in [
            (revoke, vec!["tokens/one", "tokens/two"]),
            (delete, vec!["tokens/one", "tokens/two", "principals/default/ci"]),
        ] {
            let applied = book.apply(&change, &local, Timestamp(2)).unwrap();
            let rows = AuditRow::of_access(&local, &change, &applied.rows, &applied.book, Timestamp(2));
            assert_eq!(rows.iter().map(|row| row.subject.as_str()).collect::<Vec<_>>(), subjects);
            assert!(rows.iter().all(|row| row.tenant == "default"), "an admin of it sees them: {rows:?}");
        }
    }

    #[test]
    fn each_condition_of_a_filter_counts() {
        let row =
            AuditRow { principal: "a".into(), subject: "server".into(), time: Timestamp(5), ..Default::default() };
        assert!(AuditFilter::default().fits(&row));
        for filter in [
            AuditFilter { principal: "b".into(), ..Default::default() },
            AuditFilter { tenant: "default".into(), ..Default::default() },
            AuditFilter { method: "m".into(), ..Default::default() },
            AuditFilter { subject: "jobs/1".into(), ..Default::default() },
            AuditFilter { start: Some(Timestamp(6)), ..Default::default() },
            AuditFilter { end: Some(Timestamp(5)), ..Default::default() },
        ] {
            assert!(!filter.fits(&row), "{filter:?}");
        }
    }
}
