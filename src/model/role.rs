//! What principals may do: roles, and where they hold. Pure.
//!
//! The roles are a closed set. Which method needs which is the table of `api::access`; who may give which is here.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use crate::model::tenant::{self, DEFAULT_TENANT, EVERY_TENANT};

/// What somebody may do; see the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // The contract's names.
pub enum Role {
    Submit = 1,
    Read = 2,
    Control = 3,
    Admin = 4,
    Operator = 5,
    Auditor = 6,
    Monitor = 7,
}

impl Role {
    /// All of them, in the order of the contract.
    pub const ALL: [Role; 7] =
        [Self::Submit, Self::Read, Self::Control, Self::Admin, Self::Operator, Self::Auditor, Self::Monitor];

    /// Returns the role with this number in the contract.
    pub fn from_number(number: i32) -> Option<Role> {
        Self::ALL.into_iter().find(|role| *role as i32 == number)
    }

    /// Returns its name, as people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Read => "read",
            Self::Control => "control",
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::Monitor => "monitor",
        }
    }

    /// Returns whether it is about the server as a whole, and so holds at no tenant.
    pub fn is_of_server(self) -> bool {
        matches!(self, Self::Operator | Self::Auditor | Self::Monitor)
    }

    /// Returns whether who has it has `other` too.
    fn holds(self, other: Role) -> bool {
        self == other || matches!((self, other), (Self::Control, Self::Read) | (Self::Operator, Self::Monitor))
    }
}

/// A role, and the tenant at which it holds; empty for roles of the server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grant {
    /// The role.
    pub role: Role,
    /// The tenant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tenant: String,
}

impl Grant {
    /// Returns `role` at `tenant`, or on the server where it is a role of the server.
    pub fn at(role: Role, tenant: &str) -> Grant {
        Grant { role, tenant: if role.is_of_server() { String::new() } else { tenant.to_owned() } }
    }

    /// Returns why this is no grant; `None` where it is one.
    pub fn objection(&self) -> Option<String> {
        let name = self.role.name();
        match self.tenant.as_str() {
            "" if !self.role.is_of_server() => {
                Some(format!("is `{name}` at no tenant; write `default`, or `*` for all"))
            }
            "" => None,
            _ if self.role.is_of_server() => Some(format!("is `{name}` at a tenant, and that is a role of the server")),
            EVERY_TENANT => None,
            name => tenant::name_objection(name).map(|rule| format!("is not the name of a tenant: it {rule}")),
        }
    }

    fn covers(&self, role: Role, tenant: &str) -> bool {
        self.role.holds(role) && (self.tenant == EVERY_TENANT || self.tenant == tenant)
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.role.name())?;
        if self.tenant.is_empty() { Ok(()) } else { write!(f, "@{}", self.tenant) }
    }
}

/// A text is not a grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid grant `{0}`; write ROLE or ROLE@TENANT, with a role of submit, read, control, admin, operator, auditor, monitor"
)]
pub struct NoGrant(String);

impl FromStr for Grant {
    type Err = NoGrant;

    /// Reads `ROLE` and `ROLE@TENANT`; without a tenant a role of a tenant is at `default`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, tenant) = text.split_once('@').map_or((text, None), |(name, tenant)| (name, Some(tenant)));
        let role = Role::ALL.into_iter().find(|role| role.name() == name).ok_or_else(|| NoGrant(text.to_owned()))?;
        let tenant = tenant.unwrap_or(if role.is_of_server() { "" } else { DEFAULT_TENANT });
        Ok(Grant { role, tenant: tenant.to_owned() })
    }
}

/// Returns whether these grants hold that one.
pub fn holds(grants: &[Grant], wanted: &Grant) -> bool {
    grants.iter().any(|grant| grant.covers(wanted.role, &wanted.tenant))
}

/// Returns whether these grants hold `role` at `tenant`, or on the server where it is a role of the server.
pub fn holds_at(grants: &[Grant], role: Role, tenant: &str) -> bool {
    let tenant = if role.is_of_server() { "" } else { tenant };
    grants.iter().any(|grant| grant.covers(role, tenant))
}

/// Returns whether somebody with these grants may name a tenant: who has a role at it, or one of the server as a whole.
pub fn may_name(grants: &[Grant], tenant: &str) -> bool {
    grants.iter().any(|grant| grant.role.is_of_server()) || has_role_at(grants, tenant)
}

/// Returns whether these grants have a role of tenants at this one.
pub fn has_role_at(grants: &[Grant], tenant: &str) -> bool {
    let is_at = |grant: &Grant| grant.tenant == tenant || grant.tenant == EVERY_TENANT;
    grants.iter().any(|grant| !grant.role.is_of_server() && is_at(grant))
}

/// Returns the tenants, other than all of them, at which these grants have a role.
pub fn named_tenants(grants: &[Grant]) -> impl Iterator<Item = &str> {
    grants.iter().map(|grant| grant.tenant.as_str()).filter(|tenant| !tenant.is_empty() && *tenant != EVERY_TENANT)
}

/// Returns what both lists hold.
pub fn common(one: &[Grant], other: &[Grant]) -> Vec<Grant> {
    let implied = |grant: &Grant| {
        let grant = grant.clone();
        Role::ALL
            .into_iter()
            .filter(move |role| grant.role.holds(*role))
            .map(move |role| Grant { role, ..grant.clone() })
    };
    let mut both: Vec<Grant> = Vec::new();
    for grant in one.iter().chain(other).flat_map(implied) {
        if holds(one, &grant) && holds(other, &grant) && !holds(&both, &grant) {
            both.retain(|less| !grant.covers(less.role, &less.tenant));
            both.push(grant);
        }
    }
    both
}

/// Returns every role in every tenant.
pub fn everything() -> Arc<[Grant]> {
    static ALL: LazyLock<Arc<[Grant]>> =
        LazyLock::new(|| Role::ALL.into_iter().map(|role| Grant::at(role, EVERY_TENANT)).collect());
    ALL.clone()
}

/// Returns whether who has the grants `maker` may give `wanted` to others: an operator everything, an admin the roles of
/// its tenant.
pub fn may_give(maker: &[Grant], wanted: &Grant) -> bool {
    let is_operator = holds(maker, &Grant::at(Role::Operator, ""));
    let is_one_tenants = !wanted.role.is_of_server() && wanted.tenant != EVERY_TENANT;
    is_operator || (is_one_tenants && holds(maker, &Grant::at(Role::Admin, &wanted.tenant)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(text: &str) -> Vec<Grant> {
        text.split_whitespace().map(|grant| grant.parse().unwrap()).collect()
    }

    fn text(grants: &[Grant]) -> String {
        grants.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn control_holds_read_and_operator_holds_monitor_and_nothing_else_holds_anything() {
        for have in Role::ALL {
            for want in Role::ALL {
                let expected =
                    have == want || matches!((have.name(), want.name()), ("control", "read") | ("operator", "monitor"));
                let (have, want) = (Grant::at(have, "a"), Grant::at(want, "a"));
                assert_eq!(holds(std::slice::from_ref(&have), &want), expected, "{have} {want}");
            }
        }
        assert!(holds(&grants("read@*"), &Grant::at(Role::Read, "a")));
        assert!(!holds(&grants("read@a"), &Grant::at(Role::Read, "*")));
        assert!(!holds(&grants("read@a"), &Grant::at(Role::Read, "b")));
    }

    #[test]
    fn what_two_lists_have_in_common_is_no_wider_than_either() {
        for (one, other, both) in [
            ("submit control", "read", "read@default"),
            ("read@*", "read@default control@a", "read@default read@a"),
            ("operator", "monitor submit", "monitor"),
            ("submit", "read", ""),
            ("submit@*", "submit@*", "submit@*"),
            ("", "operator", ""),
        ] {
            assert_eq!(text(&common(&grants(one), &grants(other))), both, "{one} / {other}");
            assert_eq!(text(&common(&grants(other), &grants(one))).len(), both.len(), "{other} / {one}");
        }
        assert_eq!(common(&everything(), &everything()).len(), 5, "two of the seven are held by others");
    }

    #[test]
    fn admins_give_roles_of_their_tenant_and_operators_everything() {
        let admin = grants("admin@default");
        for good in ["submit", "read", "control", "admin"] {
            assert!(may_give(&admin, &good.parse().unwrap()), "{good}");
        }
        for bad in ["submit@*", "admin@*", "submit@other", "operator", "auditor", "monitor"] {
            assert!(!may_give(&admin, &bad.parse().unwrap()), "{bad}");
            assert!(may_give(&grants("operator"), &bad.parse().unwrap()), "{bad}");
        }
        assert!(!may_give(&grants("submit control"), &"submit".parse().unwrap()), "to have a role is not to give it");
        assert!(!may_give(&grants("admin@*"), &"submit@*".parse().unwrap()));
    }

    #[test]
    fn grants_are_read_as_they_are_written() {
        assert_eq!(
            text(&grants("submit read@* operator admin@default")),
            "submit@default read@* operator admin@default"
        );
        for bad in ["", "root", "Submit", "@default", "submit,read"] {
            assert!(bad.parse::<Grant>().is_err(), "{bad}");
        }
        for bad in ["operator@default", "operator@*", "submit@", "submit@Other", "submit@-", "submit@a/b"] {
            assert!(bad.parse::<Grant>().unwrap().objection().is_some(), "{bad}");
        }
        assert!(everything().iter().all(|grant| grant.objection().is_none()));
    }
}
