//! Credentials: secrets that the server sends to origins for those who may use them, and who never see them. Pure.
//!
//! An admin binds a value to hosts, paths and methods ([`binding`]); a job names it and never has it. What comes back is
//! searched for it ([`echo`]). Which changes are allowed is decided in [`crate::model::book`].

pub mod binding;
pub mod echo;
pub mod put;
mod reading;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::credential::binding::Binding;
use crate::model::failure::is_default;
use crate::model::made_by::{MadeBy, PrincipalNo};
use crate::model::secret::Secret;
use crate::model::tenant::TenantNo;
use crate::model::time::Timestamp;

/// The most credentials that one job may name: they are kept with the job.
pub const NAMED_MAX: usize = 64;

/// A credential as it is kept. Binding and value are sealed as one, so that nobody moves the value to another binding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// The tenant whose it is.
    #[serde(skip)]
    pub tenant: TenantNo,
    /// Its name there.
    #[serde(skip)]
    pub name: String,
    /// To what it is bound.
    pub binding: Binding,
    /// What is sent; `None`: what it was sealed with is lost.
    pub value: Option<Value>,
    /// Trusted beside the system's authorities where it is sent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ca_pem: String,
    /// How often it was set, from 1.
    pub version: u32,
    /// When it was made.
    pub create_time: Timestamp,
    /// When it was last changed.
    pub update_time: Timestamp,
    /// When it ends; `None`: never.
    #[serde(default, skip_serializing_if = "is_default")]
    pub expire_time: Option<Timestamp>,
    /// When an attempt last used it, to the minute.
    #[serde(default, skip_serializing_if = "is_default")]
    pub last_use: Option<Timestamp>,
    /// The request that set it last.
    #[serde(default, skip_serializing_if = "is_default")]
    pub request: MadeBy,
}

impl Credential {
    /// Returns how many bytes it holds that somebody sent.
    pub(crate) fn bytes(&self) -> usize {
        self.ca_pem.len() + self.value.as_ref().map_or(0, Value::bytes)
    }

    /// Returns a credential of which only the name is known: the key of the rest is lost.
    pub fn lost(tenant: TenantNo, name: &str) -> Credential {
        Credential {
            tenant,
            name: name.to_owned(),
            binding: Binding::default(),
            value: None,
            ca_pem: String::new(),
            version: 0,
            create_time: Timestamp::default(),
            update_time: Timestamp::default(),
            expire_time: None,
            last_use: None,
            request: MadeBy::default(),
        }
    }

    /// Returns the name of this version of it.
    pub fn etag(&self) -> String {
        // One that is made anew begins at another time.
        format!("{:x}-{}", self.create_time.0, self.version)
    }

    /// Returns whether it has ended at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expire_time.is_some_and(|end| end <= now)
    }
}

/// What is sent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// `Authorization: Bearer` (RFC 6750).
    Bearer(Secret),
    /// `Authorization: Basic` (RFC 7617).
    Basic {
        /// The user's name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A header.
    Header {
        /// Its name, in lower case.
        name: String,
        /// Its value.
        value: Secret,
    },
    /// A client's certificate.
    Certificate {
        /// The chain, in PEM.
        certificate: String,
        /// The key, in PEM.
        key: Secret,
    },
    /// A parameter of the query.
    Query {
        /// Its name.
        name: String,
        /// Its value.
        value: Secret,
    },
}

impl Value {
    fn bytes(&self) -> usize {
        match self {
            Self::Bearer(token) => token.expose().len(),
            Self::Basic { user: name, password: value }
            | Self::Header { name, value }
            | Self::Certificate { certificate: name, key: value }
            | Self::Query { name, value } => name.len() + value.expose().len(),
        }
    }

    /// Returns its name in the contract.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bearer(_) => "BEARER",
            Self::Basic { .. } => "BASIC",
            Self::Header { .. } => "HEADER",
            Self::Certificate { .. } => "CERTIFICATE",
            Self::Query { .. } => "QUERY",
        }
    }

    /// Returns the header that it sets, in lower case.
    pub fn header(&self) -> Option<&str> {
        match self {
            Self::Bearer(_) | Self::Basic { .. } => Some("authorization"),
            Self::Header { name, .. } => Some(name),
            Self::Certificate { .. } | Self::Query { .. } => None,
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

/// The credentials of all tenants, by tenant and name. All of them are in memory.
#[derive(Clone, Debug, Default)]
pub struct Credentials(BTreeMap<(TenantNo, String), Arc<Credential>>);

impl Credentials {
    /// Returns a credential.
    pub fn get(&self, tenant: TenantNo, name: &str) -> Option<&Arc<Credential>> {
        self.0.get(&(tenant, name.to_owned()))
    }

    /// Returns the credentials of a tenant whose names come after `after`, by name.
    pub fn after<'a>(&'a self, tenant: TenantNo, after: &str) -> impl Iterator<Item = &'a Arc<Credential>> {
        let from = std::ops::Bound::Excluded((tenant, after.to_owned()));
        let range = (from, std::ops::Bound::Excluded((tenant + 1, String::new())));
        self.0.range(range).map(|(_, credential)| credential)
    }

    /// Returns a credential that jobs of `user` may use. One that is not there and one that is for others are told apart by
    /// nobody.
    pub fn usable(&self, tenant: TenantNo, name: &str, user: PrincipalNo) -> Option<&Arc<Credential>> {
        self.get(tenant, name).filter(|credential| credential.binding.serves(user))
    }

    /// Returns how many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns how many a tenant has, and how many bytes they hold that somebody sent, without the one of this name.
    pub(crate) fn of_tenant(&self, tenant: TenantNo, without: &str) -> (usize, usize) {
        let others = self.after(tenant, "").filter(|it| it.name != without);
        others.fold((0, 0), |(count, bytes), it| (count + 1, bytes + it.bytes()))
    }

    pub(crate) fn put(&mut self, credential: Arc<Credential>) {
        self.0.insert((credential.tenant, credential.name.clone()), credential);
    }

    pub(crate) fn remove(&mut self, tenant: TenantNo, name: &str) {
        self.0.remove(&(tenant, name.to_owned()));
    }
}

/// Returns why this cannot be the name of a credential; `None` where it can.
pub fn name_objection(name: &str) -> Option<&'static str> {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    let ends = [bytes.first(), bytes.last()].into_iter().all(|byte| byte.is_some_and(|byte| is_letter(*byte)));
    let is_good = bytes.len() <= 63 && ends && bytes.iter().all(|byte| is_letter(*byte) || *byte == b'-');
    (!is_good).then_some("must be 1 to 63 of the letters a to z, digits and `-`, with a letter or digit at each end")
}
