//! Tenants: whose work it is. Pure.
//!
//! A tenant's number is never given twice, so that a new tenant of an old name inherits nothing. What grants name is the
//! name: who deletes a tenant takes its name out of all of them.

use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use crate::model::failure::is_default;
use crate::model::made_by::{MadeBy, PrincipalNo};
use crate::model::quotas::{Quota, Quotas};
use crate::model::time::Timestamp;

/// The tenant that always exists.
pub const DEFAULT_TENANT: &str = "default";
/// All tenants, also those to come.
pub const EVERY_TENANT: &str = "*";

/// The number of a tenant. It is never given twice.
pub type TenantNo = u32;

/// The number of the tenant that always exists.
pub const DEFAULT_NO: TenantNo = 1;
/// The most bytes of a name: that of a label of DNS.
const NAME_BYTES_MAX: usize = 63;

/// What the tasks of a tenant may have of the server at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// How large its share is beside those of others; 0 means 1.
    pub weight: u32,
    /// How many of its tasks may run; `None`: any number.
    pub running: Option<u32>,
    /// How many requests to one host it may have in flight; `None`: any number.
    pub per_host: Option<u32>,
    /// Whether none may start.
    pub is_suspended: bool,
}

/// Somebody for whom the server works.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its number.
    pub no: TenantNo,
    /// Its name.
    pub name: Arc<str>,
    /// For people.
    #[serde(default, skip_serializing_if = "is_default")]
    pub title: String,
    /// Whether it was deleted. Its number stays taken.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_gone: bool,
    /// What it may have.
    #[serde(default, skip_serializing_if = "is_default")]
    pub quotas: Quotas,
    /// How large its share is beside those of others; 0 means 1.
    #[serde(default, skip_serializing_if = "is_default")]
    pub weight: u32,
    /// Whether it submits nothing, and none of its tasks start.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_suspended: bool,
    /// When it was made.
    pub create_time: Timestamp,
    /// How often it was changed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub version: u32,
    /// The request that made it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub request: MadeBy,
}

impl Tenant {
    /// Returns the tenant that always exists, as it is before anybody changes it.
    pub fn default_one() -> Tenant {
        Tenant {
            no: DEFAULT_NO,
            name: DEFAULT_TENANT.into(),
            title: String::new(),
            is_gone: false,
            quotas: Quotas::default(),
            weight: 0,
            is_suspended: false,
            create_time: Timestamp(0),
            version: 0,
            request: MadeBy::default(),
        }
    }

    /// Returns what its tasks may have of the server at once.
    pub fn share(&self) -> Share {
        let Quotas { running_tasks: running, running_per_host: per_host, .. } = self.quotas;
        Share { weight: self.weight, running, per_host, is_suspended: self.is_suspended }
    }

    /// Returns the name of this version of it.
    pub fn etag(&self) -> String {
        format!("{}-{}", self.no, self.version)
    }
}

/// What is changed of a tenant: what is `Some`, and the quotas that are named.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)] // Those of `Tenant`.
pub struct TenantPatch {
    pub title: Option<String>,
    pub weight: Option<u32>,
    pub is_suspended: Option<bool>,
    pub quotas: Quotas,
    pub named: Vec<Quota>,
}

impl TenantPatch {
    /// Returns a tenant with what it changes.
    pub fn over(&self, tenant: &Tenant) -> Tenant {
        let mut changed = tenant.clone();
        changed.title = self.title.clone().unwrap_or(changed.title);
        changed.weight = self.weight.unwrap_or(changed.weight);
        changed.is_suspended = self.is_suspended.unwrap_or(changed.is_suspended);
        for quota in &self.named {
            changed.quotas.take(*quota, &self.quotas);
        }
        changed
    }

    /// Returns the names of what it changes, as update masks have them.
    pub fn changed(&self) -> Vec<String> {
        let named = [
            ("title", self.title.is_some()),
            ("weight", self.weight.is_some()),
            ("suspended", self.is_suspended.is_some()),
        ];
        let named = named.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| (*name).to_owned());
        named.chain(self.named.iter().map(|quota| format!("quotas.{}", quota.name()))).collect()
    }
}

/// Returns why this cannot be the name of a tenant; `None` where it can.
pub fn name_objection(name: &str) -> Option<String> {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    let is_good = (1..=NAME_BYTES_MAX).contains(&bytes.len())
        && bytes.iter().all(|byte| is_letter(*byte) || *byte == b'-')
        && bytes.first().is_some_and(|byte| is_letter(*byte))
        && bytes.last().is_some_and(|byte| is_letter(*byte));
    let rule = "must be 1 to 63 of the letters a to z, digits and `-`, with a letter or digit at each end";
    (!is_good).then(|| rule.to_owned())
}

/// Whose something is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The number of the tenant.
    pub no: TenantNo,
    /// Its name.
    pub name: Arc<str>,
}

impl Default for Owner {
    /// The tenant that always exists.
    fn default() -> Self {
        static NAME: LazyLock<Arc<str>> = LazyLock::new(|| DEFAULT_TENANT.into());
        Owner { no: DEFAULT_NO, name: NAME.clone() }
    }
}

/// For whom something is done: for which tenant, and which principal there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Party {
    /// The tenant.
    pub tenant: TenantNo,
    /// The principal.
    pub principal: PrincipalNo,
}

impl Default for Party {
    /// The server's own user, for the tenant that always exists.
    fn default() -> Self {
        Party { tenant: DEFAULT_NO, principal: 0 }
    }
}

/// Which parties are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parties {
    /// Those of this tenant; `None`: of all.
    pub tenant: Option<TenantNo>,
    /// Only this principal; `None`: all.
    pub principal: Option<PrincipalNo>,
}

impl Parties {
    /// Returns whether a party is one of them.
    pub fn has(&self, party: Party) -> bool {
        self.tenant.is_none_or(|no| no == party.tenant) && self.principal.is_none_or(|no| no == party.principal)
    }
}

/// What a call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// No tenant: the caller has no role at any, or at several without having said which.
    Nowhere,
    /// This tenant.
    One(Owner),
    /// All tenants.
    Every,
}

impl Scope {
    /// Returns the tenant that always exists.
    pub fn default_one() -> Scope {
        Scope::One(Owner::default())
    }

    /// Returns its name as grants have it; empty: no tenant.
    pub fn name(&self) -> &str {
        match self {
            Scope::Nowhere => "",
            Scope::One(owner) => &owner.name,
            Scope::Every => EVERY_TENANT,
        }
    }

    /// Returns the number of its one tenant.
    pub fn no(&self) -> Option<TenantNo> {
        match self {
            Scope::One(owner) => Some(owner.no),
            Scope::Nowhere | Scope::Every => None,
        }
    }

    /// Returns whether what belongs to this tenant is within it.
    pub fn holds(&self, tenant: TenantNo) -> bool {
        match self {
            Scope::Nowhere => false,
            Scope::One(owner) => owner.no == tenant,
            Scope::Every => true,
        }
    }
}

impl From<&Tenant> for Scope {
    fn from(tenant: &Tenant) -> Self {
        Scope::One(Owner { no: tenant.no, name: tenant.name.clone() })
    }
}

/// Why a call has no scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoScope {
    /// The tenant is not there, or the caller has no role at it.
    NotAllowed(String),
    /// The caller has roles at several tenants, and did not say which is meant.
    Required,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels_of_dns_in_lower_case() {
        for good in ["a", "0", "acme", "a-b", "a--b", "default", &"x".repeat(63)] {
            assert_eq!(name_objection(good), None, "{good}");
        }
        for bad in ["", "-", "-a", "a-", "A", "a.b", "a/b", "*", "é", "a b", "..", &"x".repeat(64)] {
            assert!(name_objection(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_scope_holds_its_tenant_alone() {
        let one = Scope::One(Owner { no: 7, name: "seven".into() });
        assert!(one.holds(7) && !one.holds(1) && one.no() == Some(7));
        assert!(Scope::Every.holds(7) && !Scope::Nowhere.holds(7));
        assert!(Scope::default_one().holds(DEFAULT_NO));
    }
}
