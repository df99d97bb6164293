//! Principals and tokens, and what can be asked for them: plain data. What is decided over it is in [`crate::model::book`].

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::credential::Credential;
use crate::model::credential::put::PutCredential;
use crate::model::failure::is_default;
use crate::model::identity::Identity;
use crate::model::ids::JobId;
use crate::model::role::{Grant, Role, everything, holds_at, may_name};
use crate::model::tenant::{self, Scope, Tenant, TenantNo, TenantPatch};
use crate::model::time::Timestamp;
use crate::model::token::TokenHash;

pub use crate::model::made_by::{LOCAL, MadeBy, PrincipalNo};

/// The name of [`LOCAL`].
pub const LOCAL_NAME: &str = "local";
/// The name of every caller where all may call.
pub const ANONYMOUS_NAME: &str = "anonymous";
/// The most principals, and the most tokens: all of them are in memory.
pub(crate) const ENTRIES_MAX: usize = 100_000;

/// Who has to authenticate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthMode {
    /// Nobody on this machine, as long as no token and no identity was ever made; then everybody.
    #[default]
    Auto,
    /// Everybody.
    Required,
    /// Nobody.
    Off,
}

/// How a caller is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The contract's names.
pub enum Method {
    Token,
    Certificate,
    Socket,
    Loopback,
    None,
}

impl Method {
    /// Returns its name in the contract.
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "TOKEN",
            Self::Certificate => "CERTIFICATE",
            Self::Socket => "SOCKET",
            Self::Loopback => "LOOPBACK",
            Self::None => "NONE",
        }
    }
}

/// Somebody who calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Principal {
    /// Its number.
    pub no: PrincipalNo,
    /// Its name: `NAME`, or `TENANT/NAME`.
    pub name: String,
    /// For people.
    #[serde(default, skip_serializing_if = "is_default")]
    pub title: String,
    /// What it may do.
    #[serde(default, skip_serializing_if = "is_default")]
    pub grants: Vec<Grant>,
    /// By what it is known without a token.
    #[serde(default, skip_serializing_if = "is_default")]
    pub identities: Vec<Identity>,
    /// Whether its calls are refused.
    #[serde(default, skip_serializing_if = "is_default")]
    pub disabled: bool,
    /// The tenant that its calls are about when they name none; empty: it has none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub default_tenant: String,
    /// Whether it was deleted. Its number stays taken.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_gone: bool,
    /// When it was made.
    pub create_time: Timestamp,
    /// When it was last changed.
    pub update_time: Timestamp,
    /// How often it was changed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub version: u32,
    /// The request that made it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub request: MadeBy,
}

impl Principal {
    /// Returns the name of this version of it.
    pub fn etag(&self) -> String {
        format!("{}-{}", self.no, self.version)
    }

    /// Returns the tenant whose admins manage it; `None`: it is the server's.
    pub fn home(&self) -> Option<&str> {
        self.name.split_once('/').map(|(tenant, _)| tenant)
    }
}

/// A token, of which the text is not kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Token {
    /// Its name.
    pub id: String,
    /// Whose it is.
    pub principal: PrincipalNo,
    /// Of its whole text; a column of its own.
    #[serde(skip, default = "no_hash")]
    pub hash: TokenHash,
    /// For people.
    #[serde(default, skip_serializing_if = "is_default")]
    pub title: String,
    /// What it may do of what its principal may; empty: all of that.
    #[serde(default, skip_serializing_if = "is_default")]
    pub grants: Vec<Grant>,
    /// When it was made.
    pub create_time: Timestamp,
    /// When it ends; `None`: never.
    pub expire_time: Option<Timestamp>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "is_default")]
    pub revoke_time: Option<Timestamp>,
    /// When it was last used, to the minute, and from where.
    #[serde(default, skip_serializing_if = "is_default")]
    pub last_use: Option<(Timestamp, String)>,
    /// The principal that made it.
    pub created_by: String,
    /// The token that made it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub created_with: String,
    /// The request that made it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub request: MadeBy,
}

fn no_hash() -> TokenHash {
    TokenHash([0; 32])
}

impl Token {
    /// Returns when it ended or will end; `None`: never.
    pub fn end(&self) -> Option<Timestamp> {
        self.revoke_time.into_iter().chain(self.expire_time).min()
    }

    /// Returns whether it is good at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.end().is_none_or(|end| now < end)
    }
}

/// Who changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The number of the principal.
    pub principal: PrincipalNo,
    /// Its name.
    pub name: String,
    /// The token that it came by; empty: it came otherwise.
    pub token_id: String,
    /// Where it called from, without a port.
    pub address: String,
    /// What the call may do.
    pub grants: Arc<[Grant]>,
    /// The server's own name of the call; empty: no call, but the program that the engine is in.
    pub request_id: String,
    /// What the call is about.
    pub scope: Scope,
}

impl Actor {
    /// Returns the server's own user, who may do everything, about the tenant that always exists.
    pub fn local() -> Actor {
        Actor {
            principal: LOCAL,
            name: LOCAL_NAME.to_owned(),
            token_id: String::new(),
            address: String::new(),
            grants: everything(),
            request_id: String::new(),
            scope: Scope::default_one(),
        }
    }

    /// Returns whether the call may do this, at `tenant` where it is a role of a tenant.
    pub fn may(&self, role: Role, tenant: &str) -> bool {
        holds_at(&self.grants, role, tenant)
    }

    /// Returns whether the call may do this where it is about.
    pub fn may_here(&self, role: Role) -> bool {
        self.may(role, self.scope.name())
    }

    /// Returns whether the call may name this tenant.
    pub fn may_name(&self, tenant: &str) -> bool {
        may_name(&self.grants, tenant)
    }

    pub(crate) fn is_operator(&self) -> bool {
        self.may(Role::Operator, "")
    }

    /// Returns whether it manages this principal.
    pub fn manages(&self, principal: &Principal) -> bool {
        self.is_operator() || principal.home().is_some_and(|home| self.may(Role::Admin, home))
    }

    /// Returns whether it may know of this principal.
    pub fn sees(&self, principal: &Principal) -> bool {
        let is_at = |grant: &Grant| !grant.role.is_of_server() && self.may(Role::Admin, &grant.tenant);
        principal.no == self.principal || self.manages(principal) || principal.grants.iter().any(is_at)
    }
}

/// Something that is to be changed.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The contract's names.
pub enum AccessChange {
    CreatePrincipal {
        name: String,
        title: String,
        grants: Vec<Grant>,
        identities: Vec<Identity>,
        disabled: bool,
        default_tenant: String,
        request_id: String,
    },
    UpdatePrincipal {
        name: String,
        title: Option<String>,
        grants: Option<Vec<Grant>>,
        identities: Option<Vec<Identity>>,
        disabled: Option<bool>,
        default_tenant: Option<String>,
        etag: String,
    },
    DeletePrincipal {
        name: String,
        etag: String,
    },
    CreateTenant {
        name: String,
        patch: Box<TenantPatch>,
        request_id: String,
    },
    UpdateTenant {
        name: String,
        patch: Box<TenantPatch>,
        etag: String,
    },
    DeleteTenant {
        name: String,
        etag: String,
    },
    CreateToken(NewToken),
    RevokeToken {
        id: String,
        with_descendants: bool,
    },
    PutCredential(Box<PutCredential>),
    DeleteCredential {
        tenant: TenantNo,
        name: String,
        etag: String,
        /// Whether it goes though jobs that have not ended name it.
        force: bool,
    },
    /// Every call needs a token from now on, whether or not there is one.
    Require,
    /// Tokens were used: when, and from where.
    Used(Vec<(String, Timestamp, String)>),
    /// Credentials were used, and when.
    UsedCredentials(Vec<(TenantNo, String, Timestamp)>),
}

/// A token to make.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Its name.
    pub id: String,
    /// Of its whole text.
    pub hash: TokenHash,
    /// The principal that it is for.
    pub principal: String,
    /// For people.
    pub title: String,
    /// What it may do of what its principal may; empty: all of that.
    pub grants: Vec<Grant>,
    /// How long it lasts; `None`: as long as is usual.
    pub lifetime: Option<Duration>,
    /// The longest that it may last.
    pub lifetime_max: Duration,
    /// Whether it lasts until it is revoked.
    pub never_expires: bool,
    /// The request that makes it.
    pub request_id: String,
}

/// Why something is not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// There is no such principal, as far as the caller may know.
    #[error("there is no principal `{0}`")]
    NoPrincipal(String),
    /// There is no such tenant, as far as the caller may know.
    #[error("there is no tenant `{0}`")]
    NoTenant(String),
    /// There is a tenant of that name.
    #[error("there is a tenant `{0}` already; choose another name, or update that one")]
    TenantExists(String),
    /// Jobs of the tenant are left.
    #[error("tenant `{0}` still has jobs; delete them first")]
    TenantNotEmpty(String),
    /// There is no such token, as far as the caller may know.
    #[error("there is no token `{0}`")]
    NoToken(String),
    /// There is a principal of that name.
    #[error("there is a principal `{0}` already; choose another name, or update that one")]
    Exists(String),
    /// Another principal is known by that.
    #[error("principal `{0}` has one of these identities already; remove it there first")]
    IdentityTaken(String),
    /// The same request was made before, and asked for something else.
    #[error("`request_id` `{0}` was used for another request; choose a new one")]
    RequestIdTaken(String),
    /// Who asks may not give that.
    #[error("{0}")]
    Escalation(String),
    /// Who asks has no role for it.
    #[error("this needs the role `{}`", .0.name())]
    MissingRole(Role, String),
    /// Nobody could sign in as operator any more.
    #[error("nobody could sign in as operator any more; make another operator with a token first")]
    LastOperator,
    /// It has changed since it was read.
    #[error("`{0}` has changed since it was read; read it again and repeat the change")]
    Stale(String),
    /// A field is not what it must be.
    #[error("`{0}` {1}")]
    Invalid(&'static str, String),
    /// There are too many.
    #[error("there are {ENTRIES_MAX} {0} already, the most that the server keeps; delete some")]
    TooMany(&'static str),
    /// There are too many of one tenant, or of one principal: why, and the path of what there is too much of.
    #[error("{0}")]
    TooManyOf(&'static str, String),
    /// There is no such credential.
    #[error("there is no credential `{0}`")]
    NoCredential(String),
    /// It has changed since it was read.
    #[error("credential `{0}` has changed since it was read; read it again and repeat the change")]
    StaleCredential(String),
    /// A binding gets wider only together with a value.
    #[error("`{0}` would let the credential go further than it does; set `value` again, and name it in `update_mask`")]
    ValueRequired(&'static str),
    /// Jobs name it that have not ended.
    #[error(
        "job {1} has not ended and names the credential `{0}`; wait for it, or set `force`: its next attempt fails then"
    )]
    CredentialInUse(String, JobId),
    /// There are too many.
    #[error("{0}; delete some")]
    TooManyCredentials(&'static str),
}

/// What came of a change.
#[derive(Clone, Debug)]
pub enum AccessAnswer {
    /// Nothing to tell.
    Done,
    /// A principal.
    Principal {
        /// As it is now.
        principal: Arc<Principal>,
        /// Whether this change is what makes authentication required.
        is_first: bool,
    },
    /// A tenant, as it is now.
    Tenant(Arc<Tenant>),
    /// A token.
    Token {
        /// As it is kept.
        token: Arc<Token>,
        /// Whether this change made it; else the same request did so before.
        is_new: bool,
        /// Whether it is what makes authentication required.
        is_first: bool,
    },
    /// How many tokens ended.
    Revoked(u32),
    /// A credential.
    Credential(Arc<Credential>),
}

/// A row to store.
#[derive(Clone, Debug)]
pub enum AccessRow {
    /// A principal, new or changed.
    Principal(Arc<Principal>),
    /// A tenant, new or changed.
    Tenant(Arc<Tenant>),
    /// A token, new or changed.
    Token(Arc<Token>),
    /// A token that has ended long ago is forgotten.
    Forget(String),
    /// Every call needs a token from now on.
    Required,
    /// A credential, new or changed.
    Credential(Arc<Credential>),
    /// A credential is gone.
    NoCredential(TenantNo, String),
}

/// The longest that a token may last when nothing is said.
pub const LIFETIME_MAX_DEFAULT: Duration = Duration::from_secs(366 * 86_400);

/// Returns why this cannot be the name of a principal; `None` where it can. Whether there is its tenant is not looked at.
pub fn name_objection(name: &str) -> Option<String> {
    let (home, own) = name.split_once('/').map_or((None, name), |(home, own)| (Some(home), own));
    if own == LOCAL_NAME || own == ANONYMOUS_NAME {
        return Some(format!("is `{own}`, which is the server's own name; choose another"));
    }
    let is_good = home.into_iter().chain([own]).all(|part| tenant::name_objection(part).is_none());
    let rule = "must be 1 to 63 of the letters a to z, digits and `-`, with a letter or digit at each end; the name of a \
                tenant and `/` may stand before it";
    (!is_good).then(|| rule.to_owned())
}
