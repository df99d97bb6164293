//! Tenants: what their messages say, and lists of them.

use std::fmt::Display;
use std::time::Duration;

use tonic::Status;

use crate::api::access::bounds::OpenWatches;
use crate::api::access::caller::Caller;
use crate::api::access::messages;
use crate::api::pages::page_size;
use crate::api::status::{Violations, missing_role, not_found, shown};
use crate::api::values::{self, ID_BYTES_MAX, NAME_BYTES_MAX};
use crate::engine::handle::Engine;
use crate::model::access::AccessChange;
use crate::model::book::Book;
use crate::model::quotas::{Quota, Quotas};
use crate::model::role::Role;
use crate::model::tenant::{TenantNo, TenantPatch};
use crate::pb;
use crate::store::page_token::{Listing, PageTokens};

/// The largest weight: shares are small numbers.
const WEIGHT_MAX: u32 = 100;

/// Reads what is to be made.
pub(super) fn creation(request: pb::CreateTenantRequest) -> Result<AccessChange, Status> {
    let wish = request.tenant.unwrap_or_default();
    let mut v = Violations::default();
    values::text(&request.request_id, &"request_id", ID_BYTES_MAX, &mut v);
    let mut patch = TenantPatch { named: Quota::ALL.to_vec(), ..TenantPatch::default() };
    patch.quotas = quotas(wish.quotas.unwrap_or_default(), &patch.named, &mut v);
    // What is not said is not a change, so that a request of before there were quotas is the same one.
    patch.named.retain(|quota| {
        let (mut only, none) = (Quotas::default(), Quotas::default());
        only.take(*quota, &patch.quotas);
        only != none
    });
    patch.title = Some(title(&wish.title, &mut v)).filter(|title| !title.is_empty());
    patch.weight = Some(weight(wish.weight, &mut v)).filter(|weight| *weight > 0);
    patch.is_suspended = wish.suspended.then_some(true);
    v.or(AccessChange::CreateTenant { name: wish.name, patch: Box::new(patch), request_id: request.request_id })
}

fn title(title: &str, v: &mut Violations) -> String {
    values::text(title, &"tenant.title", NAME_BYTES_MAX, v);
    title.to_owned()
}

fn weight(weight: u32, v: &mut Violations) -> u32 {
    if weight > WEIGHT_MAX {
        v.add("tenant.weight", format!("is {weight}; at most {WEIGHT_MAX} is accepted"));
    }
    weight
}

/// Reads a duration, and adds what is wrong with it.
type ReadDuration = fn(prost_types::Duration, &dyn Display, &mut Violations) -> Option<Duration>;

/// Reads the quotas that are named.
fn quotas(wish: pb::Quotas, named: &[Quota], v: &mut Violations) -> Quotas {
    let pb::Quotas { unfinished_jobs, queued_tasks, running_tasks, running_per_host, watchers, .. } = wish;
    let pb::Quotas { requests_per_second, bytes_per_second, calls_per_second, tasks_per_second, .. } = wish;
    let is_bad = |rate: Option<f64>| rate.is_some_and(|rate| !(rate > 0.0 && rate.is_finite()));
    let rates = [
        (Quota::RequestsPerSecond, is_bad(requests_per_second)),
        (Quota::BytesPerSecond, bytes_per_second == Some(0)),
        (Quota::CallsPerSecond, is_bad(calls_per_second)),
        (Quota::TasksPerSecond, is_bad(tasks_per_second)),
    ];
    for (quota, _) in rates.iter().filter(|(quota, is_bad)| *is_bad && named.contains(quota)) {
        v.add(format!("tenant.quotas.{}", quota.name()), "must be more than 0; to stop the tenant, suspend it");
    }
    let mut time = |quota: Quota, time: Option<prost_types::Duration>, read: ReadDuration| {
        let path = format_args!("tenant.quotas.{}", quota.name());
        time.filter(|_| named.contains(&quota)).and_then(|time| read(time, &path, v))
    };
    let max_retention = time(Quota::MaxRetention, wish.max_retention, values::duration);
    let max_attempt = time(Quota::MaxAttempt, wish.max_attempt, values::positive);
    Quotas {
        stored_bytes: wish.stored_bytes,
        unfinished_jobs,
        queued_tasks,
        running_tasks,
        running_per_host,
        requests_per_second,
        bytes_per_second,
        max_retention,
        max_attempt,
        calls_per_second,
        watchers,
        tasks_per_second,
    }
}

/// Reads what is to be changed.
pub(super) fn update(request: pb::UpdateTenantRequest) -> Result<AccessChange, Status> {
    let wish = request.tenant.unwrap_or_default();
    let mut v = Violations::default();
    let mut patch = TenantPatch::default();
    for (index, path) in values::mask(request.update_mask, &mut v) {
        match path.as_str() {
            "title" => patch.title = Some(title(&wish.title, &mut v)),
            "weight" => patch.weight = Some(weight(wish.weight, &mut v)),
            "suspended" => patch.is_suspended = Some(wish.suspended),
            "quotas" => patch.named.extend(Quota::ALL),
            other => match other.strip_prefix("quotas.").and_then(Quota::named) {
                Some(quota) => patch.named.push(quota),
                None => v.add(
                    format!("update_mask.paths[{index}]"),
                    format!(
                        "`{}` cannot be updated; the fields are title, quotas and its fields, weight, suspended",
                        shown(&path)
                    ),
                ),
            },
        }
    }
    patch.named.sort_unstable();
    patch.named.dedup();
    patch.quotas = quotas(wish.quotas.unwrap_or_default(), &patch.named, &mut v);
    v.or(AccessChange::UpdateTenant { name: wish.name, patch: Box::new(patch), etag: wish.etag })
}

/// Says what tenants have, in their order.
async fn usage(engine: &Engine, open: &OpenWatches, tenants: Vec<TenantNo>) -> Result<Vec<pb::Usage>, Status> {
    let told = engine.usage(tenants.clone()).await?.into_iter().zip(tenants).map(|(usage, tenant)| pb::Usage {
        unfinished_jobs: u32::try_from(usage.unfinished_jobs).unwrap_or(u32::MAX),
        queued_tasks: usage.queued_tasks,
        running_tasks: u32::try_from(usage.running_tasks).unwrap_or(u32::MAX),
        stored_bytes: usage.stored_bytes,
        watchers: open.of(tenant),
        bytes_per_second: engine.bytes_per_second(tenant) as f64,
    });
    Ok(told.collect())
}

/// Answers `GetTenant`. Another tenant than one's own is not there.
pub(super) async fn get(
    engine: &Engine,
    open: &OpenWatches,
    book: &Book,
    caller: &Caller,
    name: &str,
) -> Result<pb::Tenant, Status> {
    let may = caller.actor.may(Role::Operator, "") || caller.actor.may(Role::Admin, name);
    match book.tenant(name).filter(|_| may) {
        Some(tenant) => Ok(messages::tenant(tenant, usage(engine, open, vec![tenant.no]).await?.pop())),
        None if caller.actor.may_name(name) && book.tenant(name).is_some() => {
            Err(missing_role(Role::Admin, name, "", ""))
        }
        None => Err(not_found("tenant", name)),
    }
}

/// Answers `ListTenants`.
pub(super) async fn list(
    engine: &Engine,
    open: &OpenWatches,
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
    let mut found: Vec<_> = book.tenants_after(&after).take(size + 1).collect();
    let has_more = found.len() > size;
    found.truncate(size);
    let last = found.last().filter(|_| has_more);
    let next_page_token = last.map(|last| tokens.after_name(Listing::Tenants, &[], &last.name)).unwrap_or_default();
    let usage = usage(engine, open, found.iter().map(|it| it.no).collect()).await?;
    let tenants = found.into_iter().zip(usage).map(|(it, usage)| messages::tenant(it, Some(usage))).collect();
    Ok(pb::ListTenantsResponse { tenants, next_page_token })
}
