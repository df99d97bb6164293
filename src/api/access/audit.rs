//! `ListAuditEvents`.

use prost::Message as _;
use tonic::Status;

use crate::api::access::caller::Caller;
use crate::api::pages::page_size;
use crate::api::status::{Violations, missing_role};
use crate::api::to_proto::timestamp;
use crate::api::values;
use crate::model::audit::{AuditFilter, AuditRecord};
use crate::model::book::Book;
use crate::model::role::Role;
use crate::model::tenant::Scope;
use crate::pb;
use crate::store::{AuditPlace, Store};

/// Answers `ListAuditEvents`. Callers without the role of an auditor see only the events of the tenant that they call about.
pub(super) async fn list(
    store: &dyn Store,
    book: &Book,
    caller: &Caller,
    request: pb::ListAuditEventsRequest,
) -> Result<pb::ListAuditEventsResponse, Status> {
    let mut v = Violations::default();
    let size = page_size(request.page_size, &mut v);
    let same =
        pb::ListAuditEventsRequest { page_size: 0, page_token: String::new(), ..request.clone() }.encode_to_vec();
    let tokens = store.page_tokens();
    let mut place = request.after_sequence.map_or(AuditPlace::Before(u64::MAX), AuditPlace::After);
    if !request.page_token.is_empty() {
        match (tokens.read_number(&same, &request.page_token), place) {
            (Ok(last), AuditPlace::After(_)) => place = AuditPlace::After(last),
            (Ok(last), AuditPlace::Before(_)) => place = AuditPlace::Before(last),
            (Err(bad), _) => v.add("page_token", bad.to_string()),
        }
    }
    let mut filter = AuditFilter {
        principal: request.principal,
        tenant: request.tenant,
        method: request.method,
        subject: request.subject,
        start: request.start_time.and_then(|it| values::timestamp(it, &"start_time", &mut v)),
        end: request.end_time.and_then(|it| values::timestamp(it, &"end_time", &mut v)),
        without_server: !caller.may(Role::Auditor),
    };
    v.or(())?;
    if !caller.may(Role::Auditor) {
        let scope = &caller.actor.scope;
        if *scope != Scope::Every {
            if !filter.tenant.is_empty() && filter.tenant != scope.name() {
                return Err(missing_role(Role::Auditor, "", "", ""));
            }
            scope.name().clone_into(&mut filter.tenant);
            if let Scope::One(tenant) = scope {
                // Rows have the name alone, and a deleted tenant may have had the same.
                filter.start = filter.start.max(book.tenant_numbered(tenant.no).map(|it| it.create_time));
            }
        }
    }
    let page = store.audit(&filter, place, size).await?;
    let next = page.next.map(|next| match next {
        AuditPlace::After(last) | AuditPlace::Before(last) => tokens.after_number(&same, last),
    });
    let events = page.records.into_iter().map(event).collect();
    Ok(pb::ListAuditEventsResponse { events, next_page_token: next.unwrap_or_default() })
}

/// Converts an event.
pub(crate) fn event(AuditRecord { sequence, row, chain }: AuditRecord) -> pb::AuditEvent {
    pb::AuditEvent {
        sequence,
        time: Some(timestamp(row.time)),
        principal: row.principal,
        token_id: row.token_id,
        address: row.address,
        tenant: row.tenant,
        method: row.method,
        subject: row.subject,
        code: row.code,
        reason: row.reason,
        changed: row.changed,
        request_id: row.request_id,
        count: row.count,
        chain: chain.into(),
    }
}
