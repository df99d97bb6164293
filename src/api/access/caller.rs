//! Who calls: judged by what a request shows, against the book of principals and tokens. Pure, but for the look at a job.

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use tonic::{Request, Status};

use crate::api::access::table::{self, Need};
use crate::api::status::{missing_role, no_job};
use crate::engine::handle::Engine;
use crate::listen::peer::Peer;
use crate::listen::tls::Client;
use crate::model::access::{ANONYMOUS_NAME, Actor, AuthMode, Method};
use crate::model::book::Book;
use crate::model::ids::JobId;
use crate::model::job::Job;
use crate::model::role::{DEFAULT_TENANT, Role};
use crate::model::time::Timestamp;
use crate::model::token::TokenText;

/// Headers by which a proxy says for whom it asks.
const PROXY_HEADERS: [&str; 7] =
    ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-server", "x-real-ip"];

/// Whom the server takes a caller for without a token.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    /// Who must say who they are.
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

/// Why nobody is known to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// The request shows nothing.
    Nothing,
    /// What it shows is no good, for this reason. Clients are not told which.
    Bad(&'static str),
    /// A proxy passes on what is not from this machine.
    Proxied,
}

impl Unknown {
    /// Returns what the audit is told beyond what the client is.
    pub(crate) fn detail(self) -> &'static str {
        match self {
            Unknown::Bad("two headers" | "another scheme") => "damaged",
            Unknown::Bad("certificate of nobody") => "unknown",
            Unknown::Bad(why) => why,
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
            let actor = Actor { principal: u64::MAX, grants: Vec::new(), ..Actor::local() };
            Caller { actor: Arc::new(actor), method: Method::None, expire_time: None }
        })
    }

    pub(crate) fn may(&self, role: Role) -> bool {
        self.actor.may(role, DEFAULT_TENANT)
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
        if role.is_some_and(|role| self.may(role)) {
            return Ok(());
        }
        match engine.job(id).await {
            Ok(job) if self.owns(&job) => Ok(()),
            Ok(_) if self.may(Role::Read) => Err(missing_role(
                role.unwrap_or(Role::Submit),
                "",
                if role.is_some() { "" } else { "; only who submitted a job adds to it" },
            )),
            Ok(_) => Err(no_job(id)),
            Err(error) => Err(error.into()),
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
    authorization: Vec<Vec<u8>>,
    certificate: Option<Client>,
    /// Whether it is the server's own user, by the socket of the data directory.
    is_owner: bool,
    is_loopback: bool,
    is_proxied: bool,
    address: String,
    request_id: String,
}

impl Shown {
    /// Takes from a request what says who sends it. `id` is the server's name of the call.
    pub(crate) fn by(headers: &HeaderMap, peer: Option<&Peer>, id: &str) -> Shown {
        let address = peer.and_then(|peer| peer.address).map(|address| address.ip().to_canonical());
        Shown {
            authorization: headers.get_all(AUTHORIZATION).iter().map(|value| value.as_bytes().to_vec()).collect(),
            certificate: peer.and_then(|peer| peer.client.clone()),
            is_owner: peer.is_some_and(|peer| peer.address.is_none()),
            is_loopback: address.is_some_and(|it| it.is_loopback()),
            is_proxied: PROXY_HEADERS.iter().any(|name| headers.contains_key(*name)),
            address: address.map(|it| it.to_string()).unwrap_or_default(),
            request_id: id.to_owned(),
        }
    }

    /// Returns where it comes from, without a port; empty: from this machine, by a socket.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Judges who calls at `now`. A token goes before a certificate, and either before where the call comes from.
    pub(crate) fn judge(&self, policy: Policy, book: &Book, now: Timestamp) -> Result<Caller, Unknown> {
        if policy.mode != AuthMode::Off && !self.authorization.is_empty() {
            return self.by_token(book, now);
        }
        if self.is_owner {
            return Ok(self.caller(self.actor(), Method::Socket));
        }
        let is_required = policy.is_required(book);
        match &self.certificate {
            Some(Client::Stranger) => return Err(Unknown::Bad("certificate of nobody")),
            Some(Client::Named(name)) => match book.principal(name) {
                Some(principal) if principal.disabled => return Err(Unknown::Bad("disabled")),
                Some(principal) => {
                    let actor = Actor {
                        principal: principal.no,
                        name: principal.name.clone(),
                        grants: principal.grants.clone(),
                        ..self.actor()
                    };
                    return Ok(self.caller(actor, Method::Certificate));
                }
                None if is_required => return Err(Unknown::Bad("certificate of nobody")),
                None => return Ok(self.caller(Actor { name: name.clone(), ..self.actor() }, Method::Certificate)),
            },
            // As long as there are no principals, a certificate of the authority is enough.
            Some(Client::Vouched) if !is_required => return Ok(self.caller(self.actor(), Method::Certificate)),
            Some(Client::Vouched | Client::Unnamed) | None => {}
        }
        if is_required {
            return Err(Unknown::Nothing);
        }
        match self.is_loopback {
            true if policy.mode == AuthMode::Auto && self.is_proxied => Err(Unknown::Proxied),
            true => Ok(self.caller(self.actor(), Method::Loopback)),
            false if policy.is_open || policy.mode == AuthMode::Off => {
                Ok(self.caller(Actor { name: ANONYMOUS_NAME.to_owned(), ..self.actor() }, Method::None))
            }
            false => Err(Unknown::Nothing),
        }
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
            grants: book.grants_of(token),
            ..self.actor()
        };
        Ok(Caller { actor: Arc::new(actor), method: Method::Token, expire_time: token.expire_time })
    }

    /// Whoever is here and may do everything.
    fn actor(&self) -> Actor {
        Actor { address: self.address.clone(), request_id: self.request_id.clone(), ..Actor::local() }
    }

    #[allow(clippy::unused_self)] // Reads as the others do.
    fn caller(&self, actor: Actor, method: Method) -> Caller {
        Caller { actor: Arc::new(actor), method, expire_time: None }
    }
}

/// Returns why a caller may not make a call of this need; `None`: it may.
pub(crate) fn refusal(need: Need, method: &str, caller: &Caller) -> Option<Status> {
    table::lacks(need, &caller.actor).map(|role| missing_role(role, method, ""))
}

#[cfg(test)]
mod tests;
