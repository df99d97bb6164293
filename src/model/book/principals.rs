//! The principals of the book: every change of one, and who may make it.

use std::sync::Arc;

use crate::model::access::{AccessAnswer, AccessError, AccessRow, Actor, Principal, name_objection};
use crate::model::book::{Book, Decided};
use crate::model::role::{Grant, Role, has_role_at, holds, may_give};
use crate::model::time::Timestamp;

impl Book {
    pub(super) fn update_principal(
        &self,
        principal: &Arc<Principal>,
        mut changed: Principal,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Decided, AccessError> {
        if changed == **principal {
            let answer = AccessAnswer::Principal { principal: principal.clone(), is_first: false };
            return Ok(Decided::new(Vec::new(), answer));
        }
        // What it had already was given by somebody who might.
        let wider: Vec<Grant> = changed.grants.iter().filter(|it| !holds(&principal.grants, it)).cloned().collect();
        check_gift(by, &wider)?;
        self.check_tenants(&wider, "principal.grants")?;
        check_default(&changed)?;
        if changed.identities != principal.identities {
            if !by.is_operator() {
                return Err(AccessError::MissingRole(Role::Operator, String::new()));
            }
            self.check_identities(&changed, by)?;
        }
        changed.update_time = now;
        changed.version += 1;
        Ok(self.with_principal(changed))
    }

    pub(super) fn create_principal(&self, principal: Principal, by: &Actor) -> Result<Decided, AccessError> {
        if let Some(why) = name_objection(&principal.name) {
            return Err(AccessError::Invalid("principal.name", why));
        }
        if !by.manages(&principal) {
            return Err(manager_of(&principal));
        }
        let same = |it: &&Arc<Principal>| it.request.repeats(&principal.request) && !it.is_gone;
        if let Some(there) = self.principals.values().find(same) {
            if there.request != principal.request {
                return Err(AccessError::RequestIdTaken(principal.request.id));
            }
            let answer = AccessAnswer::Principal { principal: there.clone(), is_first: false };
            return Ok(Decided::new(Vec::new(), answer));
        }
        if self.names.contains_key(&principal.name) {
            return Err(AccessError::Exists(principal.name));
        }
        if principal.home().is_some_and(|home| self.tenant(home).is_none()) {
            let what = "belongs to a tenant that does not exist; create it first".to_owned();
            return Err(AccessError::Invalid("principal.name", what));
        }
        check_gift(by, &principal.grants)?;
        self.check_tenants(&principal.grants, "principal.grants")?;
        check_default(&principal)?;
        self.check_identities(&principal, by)?;
        self.check_room_for(&principal)?;
        Ok(self.with_principal(principal))
    }

    /// Refuses identities that `by` may not give, or that another principal has. An admin gives none: it could claim the
    /// certificates of another tenant.
    fn check_identities(&self, principal: &Principal, by: &Actor) -> Result<(), AccessError> {
        if !principal.identities.is_empty() && !by.is_operator() {
            return Err(AccessError::MissingRole(Role::Operator, String::new()));
        }
        let mut owners = principal.identities.iter().filter_map(|it| self.identities.get(it));
        match owners.find(|no| **no != principal.no) {
            Some(no) => Err(AccessError::IdentityTaken(self.name_of(*no).to_owned())),
            None => Ok(()),
        }
    }

    /// Stores a principal. The first that signs in without a token makes authentication required, as the first token does.
    fn with_principal(&self, principal: Principal) -> Decided {
        let is_first = !self.is_required && !principal.identities.is_empty();
        let principal = Arc::new(principal);
        let mut rows = vec![AccessRow::Principal(principal.clone())];
        rows.extend(is_first.then_some(AccessRow::Required));
        Decided::new(rows, AccessAnswer::Principal { principal, is_first })
    }

    pub(super) fn managed(&self, name: &str, etag: &str, by: &Actor) -> Result<&Arc<Principal>, AccessError> {
        let unknown = || AccessError::NoPrincipal(name.to_owned());
        let principal = self.principal(name).filter(|it| by.sees(it)).ok_or_else(unknown)?;
        if !by.manages(principal) {
            return Err(manager_of(principal));
        }
        if !etag.is_empty() && etag != principal.etag() {
            return Err(AccessError::Stale(format!("principals/{name}")));
        }
        Ok(principal)
    }
}

/// Returns the refusal of who does not manage a principal.
pub(super) fn manager_of(principal: &Principal) -> AccessError {
    let role = if principal.home().is_some() { Role::Admin } else { Role::Operator };
    AccessError::MissingRole(role, principal.home().unwrap_or_default().to_owned())
}

/// Refuses a tenant to fall back on at which the principal has no role.
fn check_default(principal: &Principal) -> Result<(), AccessError> {
    let name = &principal.default_tenant;
    if name.is_empty() || has_role_at(&principal.grants, name) {
        return Ok(());
    }
    let what = "is a tenant at which the principal has no role; grant it one there, or leave this empty".to_owned();
    Err(AccessError::Invalid("principal.default_tenant", what))
}

/// Refuses what `by` may not give.
pub(super) fn check_gift(by: &Actor, grants: &[Grant]) -> Result<(), AccessError> {
    match grants.iter().find(|grant| !may_give(&by.grants, grant)) {
        Some(grant) => Err(AccessError::Escalation(format!(
            "`{}` cannot grant `{grant}`: an admin can grant the roles of its tenant, an operator every role",
            by.name
        ))),
        None => Ok(()),
    }
}
