//! Tenants: what their messages say, and lists of them.

use std::sync::Arc;

use tonic::Status;

use crate::api::access::caller::Caller;
use crate::api::access::messages;
use crate::api::pages::page_size;
use crate::api::status::{Violations, missing_role, not_found, shown};
use crate::api::values::{self, ID_BYTES_MAX, NAME_BYTES_MAX};
use crate::model::access::AccessChange;
use crate::model::book::Book;
use crate::model::role::Role;
use crate::model::tenant::Tenant;
use crate::pb;
use crate::store::page_token::{Listing, PageTokens};

/// Reads what is to be made.
pub(super) fn creation(request: pb::CreateTenantRequest) -> Result<AccessChange, Status> {
    let wish = request.tenant.unwrap_or_default();
    let mut v = Violations::default();
    values::text(&request.request_id, "request_id", ID_BYTES_MAX, &mut v);
    values::text(&wish.title, "tenant.title", NAME_BYTES_MAX, &mut v);
    v.or(AccessChange::CreateTenant { name: wish.name, title: wish.title, request_id: request.request_id })
}

/// Reads what is to be changed.
pub(super) fn update(request: pb::UpdateTenantRequest) -> Result<AccessChange, Status> {
    let wish = request.tenant.unwrap_or_default();
    let mut v = Violations::default();
    let mut title = None;
    for (index, path) in values::mask(request.update_mask, &mut v) {
        match path.as_str() {
            "title" => {
                values::text(&wish.title, "tenant.title", NAME_BYTES_MAX, &mut v);
                title = Some(wish.title.clone());
            }
            _ => v.add(format!("update_mask.paths[{index}]"), format!("`{}` is not title", shown(&path))),
        }
    }
    v.or(AccessChange::UpdateTenant { name: wish.name, title, etag: wish.etag })
}

/// Answers `GetTenant`. Another tenant than one's own is not there.
pub(super) fn get(book: &Book, caller: &Caller, name: &str) -> Result<pb::Tenant, Status> {
    let may = caller.actor.may(Role::Operator, "") || caller.actor.may(Role::Admin, name);
    match book.tenant(name).filter(|_| may) {
        Some(tenant) => Ok(messages::tenant(tenant)),
        None if caller.actor.may_name(name) && book.tenant(name).is_some() => {
            Err(missing_role(Role::Admin, name, "", ""))
        }
        None => Err(not_found("tenant", name)),
    }
}

/// Answers `ListTenants`.
pub(super) fn list(
    book: &Book,
    tokens: &PageTokens,
    request: &pb::ListTenantsRequest,
) -> Result<pb::ListTenantsResponse, Status> {
    let mut v = Violations::default();
    let size = page_size(request.page_size, &mut v) as usize;
    let mut after = String::new();
    if !request.page_token.is_empty() {
        match tokens.read_name(Listing::Tenants, &[], &request.page_token) {
            Ok(name) => after = name,
            Err(bad) => v.add("page_token", bad.to_string()),
        }
    }
    v.or(())?;
    let mut found: Vec<&Arc<Tenant>> = book.tenants_after(&after).take(size + 1).collect();
    let has_more = found.len() > size;
    found.truncate(size);
    let last = found.last().filter(|_| has_more);
    let next_page_token = last.map(|last| tokens.after_name(Listing::Tenants, &[], &last.name)).unwrap_or_default();
    Ok(pb::ListTenantsResponse { tenants: found.into_iter().map(|it| messages::tenant(it)).collect(), next_page_token })
}
