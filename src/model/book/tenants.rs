//! The tenants of the book: which one a call is about, and every change of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::model::access::{AccessAnswer, AccessError, AccessRow, Actor, ENTRIES_MAX, Principal, Token};
use crate::model::book::{Book, Decided};
use crate::model::limits::RateLimit;
use crate::model::made_by::MadeBy;
use crate::model::role::{Grant, Role, has_role_at, may_name, named_tenants};
use crate::model::tenant::{
    DEFAULT_NO, DEFAULT_TENANT, EVERY_TENANT, NoScope, Owner, Scope, Share, Tenant, TenantNo, TenantPatch,
    name_objection,
};
use crate::model::time::Timestamp;

/// The first number of a tenant that somebody made.
const FIRST: TenantNo = 16;

impl Book {
    /// Returns a tenant by its name.
    pub fn tenant(&self, name: &str) -> Option<&Arc<Tenant>> {
        self.tenants.get(self.tenant_names.get(name)?)
    }

    /// Returns a tenant by its number, unless it was deleted.
    pub fn tenant_numbered(&self, no: TenantNo) -> Option<&Arc<Tenant>> {
        self.tenants.get(&no).filter(|it| !it.is_gone)
    }

    /// Returns the name of a tenant, also of one that was deleted.
    pub fn tenant_name_of(&self, no: TenantNo) -> &str {
        self.tenants.get(&no).map_or("", |it| &it.name)
    }

    /// Returns the tenants whose names come after `after`, by name.
    pub fn tenants_after<'a>(&'a self, after: &str) -> impl Iterator<Item = &'a Arc<Tenant>> {
        let range = (std::ops::Bound::Excluded(Arc::from(after)), std::ops::Bound::Unbounded);
        self.tenant_names.range::<Arc<str>, _>(range).filter_map(|(_, no)| self.tenants.get(no))
    }

    /// Returns what a call is about that names `wanted`, or nothing, of somebody who may do this.
    ///
    /// All tenants can be named by everybody: whether a role holds at all of them is judged as at one.
    pub fn scope(&self, grants: &[Grant], default_tenant: &str, wanted: Option<&str>) -> Result<Scope, NoScope> {
        if let Some(name) = wanted {
            if name == EVERY_TENANT {
                return Ok(Scope::Every);
            }
            let there = self.tenant(name).filter(|_| may_name(grants, name));
            return there.map(|it| Scope::from(&**it)).ok_or_else(|| NoScope::NotAllowed(name.to_owned()));
        }
        let usable = |name: &str| self.tenant(name).filter(|_| has_role_at(grants, name));
        if let Some(tenant) = usable(default_tenant) {
            return Ok(Scope::from(&**tenant));
        }
        let has_all = grants.iter().any(|grant| grant.tenant == EVERY_TENANT);
        let mut others = named_tenants(grants);
        let first = others.next();
        if let Some(only) = first.filter(|first| !has_all && others.all(|other| other == *first))
            && let Some(tenant) = self.tenant(only)
        {
            return Ok(Scope::from(&**tenant));
        }
        // Who has no role at any tenant is told so about the one that always exists.
        match usable(DEFAULT_TENANT).or_else(|| self.tenant(DEFAULT_TENANT).filter(|_| first.is_none())) {
            Some(tenant) => Ok(Scope::from(&**tenant)),
            None => Err(NoScope::Required),
        }
    }

    /// Returns what the tasks of tenants may have of the server at once, where that is not the same for all.
    pub fn shares(&self) -> HashMap<TenantNo, Share> {
        let shares = self.tenants.values().map(|it| (it.no, it.share()));
        shares.filter(|(_, share)| *share != Share::default()).collect()
    }

    /// Returns the rates of tenants, where they are limited.
    pub fn tenant_rates(&self) -> HashMap<TenantNo, RateLimit> {
        let rates = self.tenants.values().map(|it| {
            let rate = RateLimit {
                requests_per_second: it.quotas.requests_per_second.unwrap_or_default(),
                bytes_per_second: it.quotas.bytes_per_second.unwrap_or_default(),
                ..RateLimit::default()
            };
            (it.no, rate)
        });
        rates.filter(|(_, rate)| *rate != RateLimit::default()).collect()
    }

    /// Returns whether there never was another tenant than the one that always exists.
    pub fn has_one_tenant(&self) -> bool {
        self.tenants.len() == 1
    }

    /// Returns whether there are several tenants now, who leave something to each other.
    pub fn has_several_tenants(&self) -> bool {
        self.tenant_names.len() > 1
    }

    /// Returns whether there are several for whom work may be done.
    pub fn has_parties(&self) -> bool {
        !self.has_one_tenant() || !self.principals.is_empty()
    }

    /// Returns the last tenant of each name of which there is no tenant any more.
    pub fn gone_tenants(&self) -> impl Iterator<Item = Owner> {
        let last: BTreeMap<&Arc<str>, TenantNo> = self.tenants.values().map(|it| (&it.name, it.no)).collect();
        let gone = last.into_iter().filter(|(name, _)| !self.tenant_names.contains_key(*name));
        gone.map(|(name, no)| Owner { no, name: name.clone() })
    }

    pub(super) fn take_tenant(&mut self, tenant: &Arc<Tenant>) {
        if !tenant.is_gone {
            self.tenant_names.insert(tenant.name.clone(), tenant.no);
        } else if self.tenant_names.get(&tenant.name) == Some(&tenant.no) {
            self.tenant_names.remove(&tenant.name);
        }
        self.tenants.insert(tenant.no, tenant.clone());
    }

    /// Refuses grants at tenants that do not exist.
    pub(super) fn check_tenants(&self, grants: &[Grant], field: &'static str) -> Result<(), AccessError> {
        match named_tenants(grants).find(|name| self.tenant(name).is_none()) {
            Some(name) => Err(AccessError::Invalid(field, format!("name tenant `{name}`, which does not exist"))),
            None => Ok(()),
        }
    }

    pub(super) fn create_tenant(
        &self,
        name: &str,
        patch: &TenantPatch,
        request_id: &str,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Decided, AccessError> {
        if let Some(why) = name_objection(name) {
            return Err(AccessError::Invalid("tenant.name", why));
        }
        needs_operator(by)?;
        let wish = patch.over(&Tenant { name: name.into(), create_time: now, ..Tenant::default_one() });
        let Tenant { title, quotas, weight, is_suspended, .. } = &wish;
        // As before there was more than a title, so that such a request is still known.
        let request = match patch.changed().as_slice() {
            [] => MadeBy::of(request_id, by.principal, &(name, title)),
            [only] if only == "title" => MadeBy::of(request_id, by.principal, &(name, title)),
            _ => MadeBy::of(request_id, by.principal, &(name, title, quotas, weight, is_suspended)),
        };
        if let Some(there) = self.tenants.values().find(|it| it.request.repeats(&request) && !it.is_gone) {
            if there.request != request {
                return Err(AccessError::RequestIdTaken(request.id));
            }
            return Ok(Decided::new(Vec::new(), AccessAnswer::Tenant(there.clone())));
        }
        if self.tenant(name).is_some() {
            return Err(AccessError::TenantExists(name.to_owned()));
        }
        if self.tenant_names.len() >= ENTRIES_MAX {
            return Err(AccessError::TooMany("tenants"));
        }
        let last = self.tenants.last_key_value().map_or(0, |(last, _)| *last);
        let tenant = Tenant { no: last.saturating_add(1).max(FIRST), request, ..wish };
        Ok(put(tenant))
    }

    pub(super) fn update_tenant(
        &self,
        name: &str,
        patch: &TenantPatch,
        etag: &str,
        by: &Actor,
    ) -> Result<Decided, AccessError> {
        let tenant = self.operated(name, etag, by)?;
        let mut changed = patch.over(tenant);
        if changed == **tenant {
            return Ok(Decided::new(Vec::new(), AccessAnswer::Tenant(tenant.clone())));
        }
        changed.version += 1;
        Ok(put(changed))
    }

    /// Deletes a tenant, of which no jobs are left, with all that names it: its principals and their tokens, and grants of
    /// others at it. A token that may do nothing else is revoked, since without grants of its own it would have all those
    /// of its principal.
    pub(super) fn delete_tenant(
        &self,
        name: &str,
        etag: &str,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Decided, AccessError> {
        let tenant = self.operated(name, etag, by)?;
        if tenant.no == DEFAULT_NO {
            return Err(AccessError::Invalid("name", "is `default`, which always exists".to_owned()));
        }
        let is_own = |principal: &Principal| principal.home() == Some(name);
        let stays =
            |grants: &[Grant]| -> Vec<Grant> { grants.iter().filter(|grant| grant.tenant != name).cloned().collect() };
        let mut rows = Vec::new();
        for token in self.tokens.values().filter(|token| token.is_live(now)) {
            let is_orphaned = self.numbered(token.principal).is_some_and(|it| is_own(it));
            let left = stays(&token.grants);
            let changed = match left.len() {
                _ if is_orphaned => Token { revoke_time: Some(now), ..Token::clone(token) },
                0 if !token.grants.is_empty() => Token { revoke_time: Some(now), ..Token::clone(token) },
                count if count < token.grants.len() => Token { grants: left, ..Token::clone(token) },
                _ => continue,
            };
            rows.push(AccessRow::Token(Arc::new(changed)));
        }
        for principal in self.principals.values().filter(|it| !it.is_gone) {
            let mut changed = Principal::clone(principal);
            if is_own(principal) {
                changed.is_gone = true;
            } else {
                changed.grants = stays(&principal.grants);
                if changed.default_tenant == name {
                    changed.default_tenant.clear();
                }
                if changed == **principal {
                    continue;
                }
                changed.version += 1;
            }
            changed.update_time = now;
            rows.push(AccessRow::Principal(Arc::new(changed)));
        }
        let credentials = self.credentials.after(tenant.no, "");
        rows.extend(credentials.map(|it| AccessRow::NoCredential(tenant.no, it.name.clone())));
        rows.push(AccessRow::Tenant(Arc::new(Tenant { is_gone: true, ..Tenant::clone(tenant) })));
        Ok(Decided::new(rows, AccessAnswer::Done))
    }

    fn operated(&self, name: &str, etag: &str, by: &Actor) -> Result<&Arc<Tenant>, AccessError> {
        needs_operator(by)?;
        let tenant = self.tenant(name).ok_or_else(|| AccessError::NoTenant(name.to_owned()))?;
        if !etag.is_empty() && etag != tenant.etag() {
            return Err(AccessError::Stale(format!("tenants/{name}")));
        }
        Ok(tenant)
    }
}

fn put(tenant: Tenant) -> Decided {
    let tenant = Arc::new(tenant);
    Decided::new(vec![AccessRow::Tenant(tenant.clone())], AccessAnswer::Tenant(tenant))
}

fn needs_operator(by: &Actor) -> Result<(), AccessError> {
    if by.is_operator() { Ok(()) } else { Err(AccessError::MissingRole(Role::Operator, String::new())) }
}
