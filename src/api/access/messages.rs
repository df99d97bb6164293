//! Converts principals, tokens and grants between messages and the model.

use crate::api::spec_to_proto::duration;
use crate::api::status::Violations;
use crate::api::to_proto::timestamp;
use crate::api::values;
use crate::model::access::{Actor, Principal, Token};
use crate::model::book::Book;
use crate::model::identity::Identity;
use crate::model::quotas::Quotas;
use crate::model::role::{Grant, Role};
use crate::model::tenant::{EVERY_TENANT, Tenant};
use crate::model::time::Timestamp;
use crate::pb;
use crate::pb::identity::Kind;

/// The most grants of one principal or token.
const GRANTS_MAX: usize = 32;
/// The most identities of one principal, and the most bytes of one.
const IDENTITIES_MAX: usize = 32;
const IDENTITY_BYTES_MAX: usize = 2_048;

/// Reads grants, and adds what is wrong with them.
pub(super) fn read_grants(grants: &[pb::Grant], path: &str, v: &mut Violations) -> Vec<Grant> {
    if grants.len() > GRANTS_MAX {
        v.add(path, format!("has {} grants; at most {GRANTS_MAX} are accepted", grants.len()));
        return Vec::new();
    }
    let mut read = Vec::with_capacity(grants.len());
    for (index, grant) in grants.iter().enumerate() {
        let Some(role) = Role::from_number(grant.role) else {
            v.add(format!("{path}[{index}].role"), "is not a role");
            continue;
        };
        let grant = Grant { role, tenant: grant.tenant.clone() };
        if let Some(why) = grant.objection() {
            v.add(format!("{path}[{index}].tenant"), why);
        }
        read.push(grant);
    }
    read
}

/// Reads identities, and adds what is wrong with them.
pub(super) fn read_identities(identities: &[pb::Identity], path: &str, v: &mut Violations) -> Vec<Identity> {
    if identities.len() > IDENTITIES_MAX {
        v.add(path, format!("has {} identities; at most {IDENTITIES_MAX} are accepted", identities.len()));
        return Vec::new();
    }
    let mut read = Vec::with_capacity(identities.len());
    for (index, identity) in identities.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let (field, identity) = match identity.kind.clone() {
            Some(Kind::CertificateUri(uri)) => ("certificate_uri", Identity::CertificateUri(uri)),
            Some(Kind::CertificateDns(name)) => {
                ("certificate_dns", Identity::CertificateDns(name.to_ascii_lowercase()))
            }
            Some(Kind::UnixUid(uid)) => ("unix_uid", Identity::UnixUid(uid)),
            Some(Kind::UnixGid(gid)) => ("unix_gid", Identity::UnixGid(gid)),
            None => {
                v.add(path, "is empty; set `certificate_uri`, `certificate_dns`, `unix_uid` or `unix_gid`");
                continue;
            }
        };
        let path = format!("{path}.{field}");
        if let Identity::CertificateUri(text) | Identity::CertificateDns(text) = &identity {
            values::text(text, &path, IDENTITY_BYTES_MAX, v);
        }
        match identity.objection() {
            Some(why) => v.add(path, why),
            None if read.contains(&identity) => v.add(path, "is given twice"),
            None => read.push(identity),
        }
    }
    read
}

fn identity(identity: &Identity) -> pb::Identity {
    let kind = match identity {
        Identity::CertificateUri(uri) => Kind::CertificateUri(uri.clone()),
        Identity::CertificateDns(name) => Kind::CertificateDns(name.clone()),
        Identity::UnixUid(uid) => Kind::UnixUid(*uid),
        Identity::UnixGid(gid) => Kind::UnixGid(*gid),
    };
    pb::Identity { kind: Some(kind) }
}

pub(super) fn grants(grants: &[Grant]) -> Vec<pb::Grant> {
    grants.iter().map(|grant| pb::Grant { role: grant.role as i32, tenant: grant.tenant.clone() }).collect()
}

/// Converts a principal as `viewer` may see it: of one that belongs elsewhere, its name and its grants where the viewer is
/// admin.
/// Returns whether the viewer is shown all of a principal: where it comes from, and where else it may do something.
fn is_open(principal: &Principal, viewer: &Actor) -> bool {
    viewer.manages(principal) || principal.no == viewer.principal
}

/// Returns whether the viewer is shown this grant of a principal.
fn shows(principal: &Principal, grant: &Grant, viewer: &Actor) -> bool {
    is_open(principal, viewer) || !grant.role.is_of_server() && viewer.may(Role::Admin, &grant.tenant)
}

/// Returns whether the viewer is shown that a principal belongs to a tenant, or may do something there. What is left out of
/// its message cannot be asked for.
pub(super) fn is_seen_at(principal: &Principal, tenant: &str, viewer: &Actor) -> bool {
    let is_at = |grant: &Grant| !grant.role.is_of_server() && (grant.tenant == tenant || grant.tenant == EVERY_TENANT);
    let is_granted = |grant: &Grant| is_at(grant) && shows(principal, grant, viewer);
    tenant.is_empty() || principal.home() == Some(tenant) || principal.grants.iter().any(is_granted)
}

pub(super) fn principal(book: &Book, principal: &Principal, viewer: &Actor) -> pb::Principal {
    if !is_open(principal, viewer) {
        let here: Vec<Grant> = principal.grants.iter().filter(|it| shows(principal, it, viewer)).cloned().collect();
        return pb::Principal { name: principal.name.clone(), grants: grants(&here), ..Default::default() };
    }
    pb::Principal {
        name: principal.name.clone(),
        title: principal.title.clone(),
        grants: grants(&principal.grants),
        identities: principal.identities.iter().map(identity).collect(),
        disabled: principal.disabled,
        create_time: Some(timestamp(principal.create_time)),
        update_time: Some(timestamp(principal.update_time)),
        last_seen_time: book.last_seen(principal.no).map(timestamp),
        default_tenant: principal.default_tenant.clone(),
        etag: principal.etag(),
    }
}

pub(super) fn tenant(tenant: &Tenant, usage: Option<pb::Usage>) -> pb::Tenant {
    let Quotas { unfinished_jobs, queued_tasks, running_tasks, running_per_host, .. } = tenant.quotas;
    let quotas = pb::Quotas {
        unfinished_jobs,
        queued_tasks,
        running_tasks,
        running_per_host,
        requests_per_second: tenant.quotas.requests_per_second,
        bytes_per_second: tenant.quotas.bytes_per_second,
        stored_bytes: tenant.quotas.stored_bytes,
        max_retention: duration(tenant.quotas.max_retention),
        max_attempt: duration(tenant.quotas.max_attempt),
        calls_per_second: tenant.quotas.calls_per_second,
        watchers: tenant.quotas.watchers,
        tasks_per_second: tenant.quotas.tasks_per_second,
    };
    pb::Tenant {
        quotas: (tenant.quotas != Quotas::default()).then_some(quotas),
        usage,
        weight: tenant.weight,
        suspended: tenant.is_suspended,
        name: tenant.name.to_string(),
        title: tenant.title.clone(),
        // The one that always exists was never made.
        create_time: (tenant.create_time > Timestamp(0)).then(|| timestamp(tenant.create_time)),
        etag: tenant.etag(),
    }
}

pub(super) fn token(book: &Book, token: &Token) -> pb::Token {
    pb::Token {
        token_id: token.id.clone(),
        principal: book.name_of(token.principal).to_owned(),
        title: token.title.clone(),
        grants: grants(&token.grants),
        create_time: Some(timestamp(token.create_time)),
        expire_time: token.expire_time.map(timestamp),
        last_use_time: token.last_use.as_ref().map(|(time, _)| timestamp(*time)),
        last_use_address: token.last_use.as_ref().map(|(_, address)| address.clone()).unwrap_or_default(),
        revoke_time: token.revoke_time.map(timestamp),
        created_by: token.created_by.clone(),
        created_with: token.created_with.clone(),
    }
}
