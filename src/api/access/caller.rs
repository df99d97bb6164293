//! Who calls: judged by what a request shows, against the book of principals and tokens. Pure, but for the look at a job.

use std::sync::Arc;

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName};
use tonic::{Code, Request, Status};
use zeroize::Zeroizing;

use crate::api::access::sessions::{self, OwnPage, Sessions};
use crate::api::access::table::{self, Need};
use crate::api::status::{Fault, Violations, missing_role, no_job, shown, tenant_required};
use crate::engine::command::EngineError;
use crate::engine::handle::Engine;
use crate::listen::Party;
use crate::listen::budget::Holder;
use crate::listen::peer::{Origin, Peer};
use crate::model::access::{ANONYMOUS_NAME, Actor, AuthMode, LOCAL_NAME, Method, Token};
use crate::model::book::Book;
use crate::model::identity::{self, Identities};
use crate::model::ids::JobId;
use crate::model::job::Job;
use crate::model::role::Role;
use crate::model::tenant::{NoScope, Scope, TenantNo};
use crate::model::time::Timestamp;
use crate::model::token::TokenText;

/// The name of the tenant that a call is about.
pub(crate) const TENANT_HEADER: HeaderName = HeaderName::from_static("haul-tenant");

/// Headers by which a proxy says for whom it asks.
const PROXY_HEADERS: [&str; 3] = ["forwarded", "via", "x-real-ip"];

/// The prefix of the headers that proxies invented for this before there was a standard one.
const PROXY_PREFIX: &str = "x-forwarded-";

/// Who has to authenticate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    /// Who has to authenticate.
    pub mode: AuthMode,
    /// Whether other machines may call without a token, as long as none was ever made.
    pub is_open: bool,
}

impl Policy {
    /// Returns whether a token is needed.
    pub(crate) fn is_required(self, book: &Book) -> bool {
        match self.mode {
            AuthMode::Auto => book.is_required,
            AuthMode::Required => true,
            AuthMode::Off => false,
        }
    }
}

/// What calls are judged by, beside what they show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<'a> {
    pub(crate) policy: Policy,
    /// The identities of the settings.
    pub(crate) identities: &'a Identities,
    pub(crate) book: &'a Book,
    pub(crate) sessions: &'a Sessions,
}

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// Nobody is known to call.
    Unknown(Unknown),
    /// The caller lacks this role where the call is about.
    Lacks(Role, Scope),
    /// It is not known what the call is about.
    NoTenant(NoTenant),
}

/// Why it is not known which tenant a call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoTenant {
    /// It names two.
    Two,
    /// It names none, and the caller has roles at several.
    None,
    /// It names one that is not there, or at which the caller has no role.
    Other(String),
    /// It names all, and the method is about one.
    All,
}

impl NoTenant {
    fn status(&self) -> Status {
        match self {
            NoTenant::Two => Violations::one("haul-tenant", "is given twice; a call is about one tenant"),
            NoTenant::None => tenant_required(
                "names no tenant, and the caller has roles at several; send one of them (the command line: --tenant)",
            ),
            NoTenant::All => {
                let over_all = "ListJobs, WatchJobs, ListHosts and ListAuditEvents";
                tenant_required(&format!("is `*`, and only {over_all} are about all tenants; name one"))
            }
            NoTenant::Other(name) => {
                let message =
                    format!("tenant `{}` does not exist, or the caller has no role at it; name another", shown(name));
                Fault::new(Code::PermissionDenied, "TENANT_NOT_ALLOWED", message).into()
            }
        }
    }
}

impl Denied {
    /// Returns the error of a call of `method` that is refused for this.
    pub(crate) fn status(self, method: &str) -> Status {
        match self {
            Denied::Unknown(unknown) => unknown.status(method),
            Denied::Lacks(role, scope) => missing_role(role, scope.name(), method, ""),
            Denied::NoTenant(why) => why.status(),
        }
    }
}

/// Decides over a call of `method` at `now`: who makes it, what it is about, and whether they may, by the row of the method.
///
/// `before` is the caller as the same call was allowed before: a role that it may have relied on and has not any more ends
/// it, also where another would allow a new call.
pub(crate) fn decide(
    shown: &Shown,
    rules: Rules<'_>,
    (method, need): (&str, Need),
    before: Option<&Caller>,
    now: Timestamp,
) -> Result<Caller, Denied> {
    let mut caller = shown.judge(rules, now).map_err(Denied::Unknown)?;
    let scope = match before {
        Some(before) => still(&before.actor.scope, rules.book),
        None => shown.scope(rules.book, &caller.actor, method, need),
    };
    Arc::make_mut(&mut caller.actor).scope = scope.map_err(Denied::NoTenant)?;
    let lacking = table::lacks(need, &caller.actor);
    let lost = before.and_then(|before| table::lost(need, &before.actor, &caller.actor));
    match lacking.or(lost) {
        Some(role) => Err(Denied::Lacks(role, caller.actor.scope.clone())),
        None => Ok(caller),
    }
}

/// Returns what an open call is about: a call stays with the tenant that it began with, as long as there is that.
fn still(scope: &Scope, book: &Book) -> Result<Scope, NoTenant> {
    match scope {
        Scope::One(owner) if book.tenant_numbered(owner.no).is_none() => Err(NoTenant::Other(owner.name.to_string())),
        scope => Ok(scope.clone()),
    }
}

/// Why nobody is known to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// The request shows nothing.
    Nothing,
    /// The credentials are invalid, for this reason. The answer does not say which.
    Bad(&'static str),
    /// What it shows is a session that has ended. Sessions cannot be guessed, and each page that is open after a restart
    /// shows one, so that does not count as a wrong credential.
    Session,
    /// A proxy passes on what is not from this machine.
    Proxied,
}

impl Unknown {
    /// Returns the error of a call of `method` by somebody who is not known.
    pub(crate) fn status(self, method: &str) -> Status {
        let (reason, message) = match self {
            Unknown::Nothing => (
                "NO_CREDENTIALS",
                "this server needs a token; send it as `authorization: Bearer TOKEN` (the command line: --token-file or \
                 HAUL_TOKEN), and get one with `haul token create`",
            ),
            Unknown::Bad(why) => {
                tracing::debug!(method, why, "credentials are refused");
                (
                    "BAD_CREDENTIALS",
                    "invalid credentials: the token or certificate is unknown, damaged, expired or revoked; get a new one",
                )
            }
            Unknown::Session => ("BAD_CREDENTIALS", "the session has ended; sign in again"),
            Unknown::Proxied => (
                "PROXIED_WITHOUT_AUTH",
                "a proxy passes this call on, so it may come from anywhere; make a token with `haul token create`, and have \
                 callers send it",
            ),
        };
        Fault::new(Code::Unauthenticated, reason, message).into()
    }

    /// Returns what the audit says beyond that.
    pub(crate) fn detail(self) -> &'static str {
        match self {
            Unknown::Bad("two headers" | "another scheme") => "damaged",
            Unknown::Bad("no identity") => "unknown",
            Unknown::Bad(why) => why,
            Unknown::Session => "session",
            Unknown::Nothing | Unknown::Proxied => "",
        }
    }
}

/// Somebody who calls.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) actor: Arc<Actor>,
    pub(crate) method: Method,
    /// When what it showed ends.
    pub(crate) expire_time: Option<Timestamp>,
}

impl Caller {
    /// Returns who makes this call. The layer has judged that; without the layer it is nobody, who may do nothing.
    pub(crate) fn of<T>(request: &Request<T>) -> Caller {
        request.extensions().get::<Caller>().cloned().unwrap_or_else(|| {
            let actor = Actor { principal: u64::MAX, grants: [].into(), ..Actor::local() };
            Caller { actor: Arc::new(actor), method: Method::None, expire_time: None }
        })
    }

    /// Returns in whose name the call holds what is bounded. Where nobody has to say who calls, all are one, and nothing is
    /// kept free for others.
    pub(crate) fn holder(&self) -> Holder {
        match self.actor.name.as_str() {
            LOCAL_NAME | ANONYMOUS_NAME => Holder::Owner,
            _ => Holder::Known(self.actor.principal),
        }
    }

    /// As [`Caller::holder`], with the tenant that the call is for where there are several.
    pub(crate) fn party(&self, book: &Book) -> Party {
        let tenant = self.actor.scope.no().filter(|_| !book.has_one_tenant());
        Party { holder: self.holder(), tenant }
    }

    pub(crate) fn may(&self, role: Role) -> bool {
        self.actor.may_here(role)
    }

    fn owns(&self, job: &Job) -> bool {
        job.creator.no == self.actor.principal && self.may(Role::Submit)
    }

    /// Refuses what the caller may not do with a job: that it does not exist, where the caller may not know of it.
    pub(crate) async fn reach(&self, engine: &Engine, id: JobId, reach: Reach) -> Result<(), Status> {
        let role = match reach {
            Reach::Look => Some(Role::Read),
            Reach::Control => Some(Role::Control),
            Reach::Feed => None,
        };
        let has_role = role.is_some_and(|role| self.may(role));
        // A job of a tenant that is made after this look has a name that nobody knows yet.
        if has_role && engine.books().borrow().has_one_tenant() {
            return Ok(());
        }
        match engine.job(id).await {
            Ok(job) if !self.actor.scope.holds(job.tenant.no) => Err(no_job(id)),
            Ok(job) if has_role || self.owns(&job) => Ok(()),
            Ok(_) if self.may(Role::Read) => Err(missing_role(
                role.unwrap_or(Role::Submit),
                self.actor.scope.name(),
                "",
                if role.is_some() { "" } else { "; only who submitted a job adds to it" },
            )),
            // Whose it is cannot be told, so it is for those who see the jobs of all: they may delete it.
            Err(EngineError::Unreadable(..)) if has_role && matches!(self.actor.scope, Scope::Every) => Ok(()),
            Ok(_) | Err(EngineError::Unreadable(..)) => Err(no_job(id)),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns whose jobs the call is about: of which tenant, `None`: of all.
    pub(crate) fn only_of(&self) -> Option<TenantNo> {
        match &self.actor.scope {
            Scope::One(owner) => Some(owner.no),
            Scope::Every => None,
            // No tenant has this number; the layer lets no such call on.
            Scope::Nowhere => Some(0),
        }
    }

    /// Returns whose jobs the caller may list: `None`, everybody's.
    pub(crate) fn only_own(&self) -> Option<u64> {
        (!self.may(Role::Read)).then_some(self.actor.principal)
    }
}

/// What a call does with a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It reads of it.
    Look,
    /// It changes it.
    Control,
    /// It adds tasks, which run with the rights of who submitted the job.
    Feed,
}

/// What a request shows of who sends it.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    /// Each `authorization`.
    authorization: Vec<Zeroizing<Vec<u8>>>,
    /// The session of a page of this server.
    session: Option<sessions::Key>,
    certificate: Option<identity::Shown>,
    /// The user of this machine at the other end of a socket.
    user: Option<identity::Shown>,
    /// Whether it is the server's own user, by a socket.
    is_owner: bool,
    /// Whether it is on this machine.
    is_near: bool,
    is_proxied: bool,
    address: String,
    request_id: String,
    /// The first two of the tenants that it names.
    tenants: Vec<Vec<u8>>,
}

impl Shown {
    /// Takes from a request what says who sends it. `id` is the server's name of the call.
    pub(crate) fn by(headers: &HeaderMap, extensions: &http::Extensions, id: &str) -> Shown {
        let peer = extensions.get::<Arc<Peer>>();
        let origin = peer.map(|peer| peer.origin);
        let address = match origin {
            Some(Origin::Network(address)) => Some(address.ip().to_canonical()),
            _ => None,
        };
        let user = match origin {
            Some(Origin::User { uid, gid }) => Some(identity::Shown::by_socket(uid, gid)),
            _ => None,
        };
        let is_of_proxy = |name: &str| PROXY_HEADERS.contains(&name) || name.starts_with(PROXY_PREFIX);
        Shown {
            authorization: headers
                .get_all(AUTHORIZATION)
                .iter()
                .map(|value| Zeroizing::new(value.as_bytes().to_vec()))
                .collect(),
            session: extensions.get::<OwnPage>().and_then(|_| sessions::shown(headers)),
            certificate: peer.and_then(|peer| peer.certificate.clone()),
            is_owner: origin == Some(Origin::Owner),
            is_near: user.is_some() || address.is_some_and(|it| it.is_loopback()),
            user,
            is_proxied: headers.keys().any(|name| is_of_proxy(name.as_str())),
            address: address.map(|it| it.to_string()).unwrap_or_default(),
            request_id: id.to_owned(),
            tenants: headers.get_all(TENANT_HEADER).iter().take(2).map(|value| value.as_bytes().to_vec()).collect(),
        }
    }

    /// Returns what a call of `actor` is about.
    fn scope(&self, book: &Book, actor: &Actor, method: &str, need: Need) -> Result<Scope, NoTenant> {
        let wanted = match self.tenants.as_slice() {
            [] => None,
            [name] => Some(String::from_utf8_lossy(name)),
            _ => return Err(NoTenant::Two),
        };
        let own = book.numbered(actor.principal).map_or("", |principal| &principal.default_tenant);
        match book.scope(&actor.grants, own, wanted.as_deref()) {
            Ok(Scope::Every) if !table::may_be_over_all(method) => Err(NoTenant::All),
            Ok(scope) => Ok(scope),
            Err(NoScope::NotAllowed(name)) => Err(NoTenant::Other(name)),
            // What roles of the server are for is about no tenant.
            Err(NoScope::Required) if !table::is_of_tenant(need) || table::may_on_server(need, actor) => {
                Ok(Scope::Nowhere)
            }
            Err(NoScope::Required) => Err(NoTenant::None),
        }
    }

    /// Returns whether it is on this machine, and no proxy stands between.
    pub(crate) fn is_here(&self) -> bool {
        self.is_near && !self.is_proxied
    }

    /// Returns the session of a page.
    pub(crate) fn session(&self) -> Option<&sessions::Key> {
        self.session.as_ref()
    }

    /// Returns where it comes from, without a port; empty: from this machine, by a socket.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Judges who calls at `now`. A token goes before a certificate, and either before where the call comes from.
    pub(crate) fn judge(&self, rules: Rules<'_>, now: Timestamp) -> Result<Caller, Unknown> {
        let Rules { policy, book, .. } = rules;
        if policy.mode != AuthMode::Off && !self.authorization.is_empty() {
            return self.by_token(book, now);
        }
        if let Some(session) = self.session.filter(|_| policy.mode != AuthMode::Off) {
            let token_id = rules.sessions.token_of(&session, now).ok_or(Unknown::Session)?;
            let token = book.token(&token_id).ok_or(Unknown::Bad("unknown"))?;
            return self.of_token(token, book, now);
        }
        // A proxy that runs as the server's own user would make everybody that user, also where tokens are needed.
        if self.is_owner && self.is_proxied && policy.mode != AuthMode::Off {
            return Err(Unknown::Proxied);
        }
        if self.is_owner {
            return Ok(self.caller(self.actor(), Method::Socket));
        }
        if let Some(certificate) = &self.certificate {
            // One that nobody is known by is refused, wherever it comes from: it was shown to be known by.
            return self.by_identity(certificate, rules, Method::Certificate)?.ok_or(Unknown::Bad("no identity"));
        }
        if let Some(user) = &self.user
            && let Some(caller) = self.by_identity(user, rules, Method::Socket)?
        {
            return Ok(caller);
        }
        if policy.is_required(book) {
            return Err(Unknown::Nothing);
        }
        match self.is_near {
            true if policy.mode == AuthMode::Auto && self.is_proxied => Err(Unknown::Proxied),
            true => Ok(self.caller(self.actor(), Method::Loopback)),
            false if policy.is_open || policy.mode == AuthMode::Off => {
                Ok(self.caller(Actor { name: ANONYMOUS_NAME.to_owned(), ..self.actor() }, Method::None))
            }
            false => Err(Unknown::Nothing),
        }
    }

    /// Judges by identities; `None`: nobody is known by them. A name in the settings of a principal that there is not is
    /// that of nobody.
    fn by_identity(
        &self,
        shown: &identity::Shown,
        Rules { identities, book, .. }: Rules<'_>,
        method: Method,
    ) -> Result<Option<Caller>, Unknown> {
        let owners = |identity: &identity::Identity| {
            let own = book.identified(identity).map(|principal| principal.name.as_str());
            [identities.get(identity).map(String::as_str), own].into_iter().flatten().collect::<Vec<_>>()
        };
        let Some(principal) = shown.owner(owners).and_then(|name| book.principal(name)) else { return Ok(None) };
        if principal.disabled {
            return Err(Unknown::Bad("disabled"));
        }
        let actor = Actor {
            principal: principal.no,
            name: principal.name.clone(),
            grants: principal.grants.as_slice().into(),
            ..self.actor()
        };
        Ok(Some(self.caller(actor, method)))
    }

    fn by_token(&self, book: &Book, now: Timestamp) -> Result<Caller, Unknown> {
        let [value] = self.authorization.as_slice() else { return Err(Unknown::Bad("two headers")) };
        let text = std::str::from_utf8(value).map_err(|_| Unknown::Bad("damaged"))?;
        let (scheme, text) = text.split_once(' ').ok_or(Unknown::Bad("damaged"))?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Unknown::Bad("another scheme"));
        }
        let text = TokenText::parse(text.trim_start_matches(' ')).ok_or(Unknown::Bad("damaged"))?;
        let token = book.token(text.id()).ok_or(Unknown::Bad("unknown"))?;
        if !token.hash.is(&text.hash()) {
            return Err(Unknown::Bad("unknown"));
        }
        self.of_token(token, book, now)
    }

    /// Judges somebody who has shown this token, or what stands for it.
    fn of_token(&self, token: &Token, book: &Book, now: Timestamp) -> Result<Caller, Unknown> {
        if !token.is_live(now) {
            return Err(Unknown::Bad(if token.revoke_time.is_some() { "revoked" } else { "expired" }));
        }
        let principal = book.numbered(token.principal).ok_or(Unknown::Bad("unknown"))?;
        if principal.disabled {
            return Err(Unknown::Bad("disabled"));
        }
        let actor = Actor {
            principal: principal.no,
            name: principal.name.clone(),
            token_id: token.id.clone(),
            grants: book.grants_of(token).into(),
            ..self.actor()
        };
        Ok(Caller { actor: Arc::new(actor), method: Method::Token, expire_time: token.expire_time })
    }

    /// Somebody who is here and may do everything.
    fn actor(&self) -> Actor {
        Actor { address: self.address.clone(), request_id: self.request_id.clone(), ..Actor::local() }
    }

    #[allow(clippy::unused_self)] // Reads as the others do.
    fn caller(&self, actor: Actor, method: Method) -> Caller {
        Caller { actor: Arc::new(actor), method, expire_time: None }
    }
}

#[cfg(test)]
mod tests;
