//! Sessions of browsers: a cookie in place of a token that every script of the page could read.
//!
//! `POST /v1/session` with a token gives one, `DELETE` ends it. What a session may do is what its token may, since a request
//! that has the cookie goes on with the token; so it ends with the token. Only over TLS: without it a cookie goes to every
//! server of the machine, whatever its port, and the page sends the token itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{AUTHORIZATION, COOKIE, HOST, HeaderName, ORIGIN, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use tokio::time::Instant;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::rest::Rest;
use crate::rest::answer::Refusal;

/// Where sessions begin and end.
pub(super) const PATH: &str = "/v1/session";
/// A browser takes a cookie of this kind only over TLS, for this host alone and for all of it.
const COOKIE_NAME: &str = "__Host-haul";
const ATTRIBUTES: &str = "Secure; HttpOnly; SameSite=Strict; Path=/";
/// The longest that a session lasts, and the longest that it is not used.
const AGE_MAX: Duration = Duration::from_hours(12);
const IDLE_MAX: Duration = Duration::from_hours(1);
/// Sessions at once; one more ends the one that was not used for longest.
const SESSIONS_MAX: usize = 10_000;

/// What a session stands for.
#[derive(Debug)]
struct Session {
    /// The header with the token. It is marked as sensitive, so it is never printed.
    authorization: HeaderValue,
    began: Instant,
    used: Instant,
}

impl Session {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.began) >= AGE_MAX || now.duration_since(self.used) >= IDLE_MAX
    }
}

/// The sessions of this process; they do not outlive it.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    all: Arc<Mutex<HashMap<Id, Session>>>,
    /// Whether something in front of the server encrypts.
    is_behind_tls: bool,
}

/// The name of a session: 256 bits of chance, which nobody guesses.
type Id = [u8; 32];

impl Sessions {
    /// Makes none. `is_behind_tls` says that connections without TLS come from something that encrypts.
    pub fn new(is_behind_tls: bool) -> Sessions {
        Sessions { all: Arc::default(), is_behind_tls }
    }

    /// Answers what begins and ends sessions.
    pub(super) async fn answer(&self, rest: &Rest, request: Request<Body>, is_tls: bool) -> Response<Body> {
        match *request.method() {
            Method::POST if !is_tls && !self.is_behind_tls => Refusal::tls_required().into_response(),
            Method::POST => self.begin(rest, request).await,
            Method::DELETE => {
                if let Some(id) = id_of(request.headers()) {
                    self.lock().remove(&id);
                }
                with_cookie("", "; Max-Age=0")
            }
            _ => Refusal::no_method(request.method().as_str(), PATH, "POST, DELETE".to_owned()).into_response(),
        }
    }

    /// Begins a session where the token is good, and else answers as every call with it is answered.
    async fn begin(&self, rest: &Rest, request: Request<Body>) -> Response<Body> {
        let (mut head, _) = request.into_parts();
        let Some(mut authorization) = head.headers.get(AUTHORIZATION).cloned() else {
            return Refusal::no_credentials().into_response();
        };
        head.method = Method::GET;
        head.uri = http::Uri::from_static("/v1/whoami");
        let known = rest.answer(Request::from_parts(head, Body::empty())).await;
        if known.status() != StatusCode::OK {
            return known;
        }
        authorization.set_sensitive(true);
        let id: Id = rand::random();
        let now = Instant::now();
        let mut all = self.lock();
        all.retain(|_, session| !session.is_over(now));
        if all.len() >= SESSIONS_MAX
            && let Some(oldest) = all.iter().min_by_key(|(_, session)| session.used).map(|(id, _)| *id)
        {
            all.remove(&oldest);
        }
        all.insert(id, Session { authorization, began: now, used: now });
        drop(all);
        let text = id.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        with_cookie(&text, "")
    }

    /// Returns the token of the session that a request belongs to, if it is a request of a page of this server.
    fn authorization(&self, request: &Request<Body>) -> Option<HeaderValue> {
        let headers = request.headers();
        let is_program = request.version() >= Version::HTTP_2
            && text(headers, &http::header::CONTENT_TYPE)
                .is_some_and(|kind| matches!(kind, "application/grpc" | "application/grpc+proto"));
        if headers.contains_key(AUTHORIZATION) || is_program || !is_of_own_page(request) {
            return None;
        }
        let id = id_of(headers)?;
        let now = Instant::now();
        let mut all = self.lock();
        let session = all.get_mut(&id)?;
        if session.is_over(now) {
            all.remove(&id);
            return None;
        }
        session.used = now;
        Some(session.authorization.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Id, Session>> {
        // Each change is one insertion or removal, so what a panic left is whole.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Layer<S> for Sessions {
    type Service = Carried<S>;

    fn layer(&self, inner: S) -> Carried<S> {
        Carried { inner, sessions: self.clone() }
    }
}

/// The service that [`Sessions`] makes: it gives a request the token of its session.
#[derive(Clone, Debug)]
pub struct Carried<S> {
    inner: S,
    sessions: Sessions,
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Carried<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> S::Future {
        if request.headers().contains_key(COOKIE)
            && let Some(authorization) = self.sessions.authorization(&request)
        {
            request.headers_mut().insert(AUTHORIZATION, authorization);
        }
        // Nothing behind this knows sessions, but what ends them.
        if request.uri().path() != PATH {
            request.headers_mut().remove(COOKIE);
        }
        self.inner.call(request)
    }
}

fn with_cookie(value: &str, more: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if let Ok(cookie) = HeaderValue::from_str(&format!("{COOKIE_NAME}={value}; {ATTRIBUTES}{more}")) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

/// Returns whether the browser says that a page of this server asks. The guard has judged `Origin`, but also lets pages of
/// listed origins pass, which have no session.
fn is_of_own_page(request: &Request<Body>) -> bool {
    let headers = request.headers();
    if let Some(site) = text(headers, &HeaderName::from_static("sec-fetch-site")) {
        return site == "same-origin";
    }
    let host = request.uri().authority().map(http::uri::Authority::as_str).or_else(|| text(headers, &HOST));
    let origin = text(headers, &ORIGIN).and_then(|it| it.strip_prefix("https://"));
    host.is_some() && host == origin
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Returns the name of a session that a cookie has.
fn id_of(headers: &HeaderMap) -> Option<Id> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|it| it.to_str().ok()).flat_map(|it| it.split(';'));
    let mut own = pairs.filter_map(|it| it.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('='));
    let value = own.next().filter(|it| it.len() == 64 && it.is_ascii())?;
    let mut id = [0; 32];
    for (at, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&value[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(sessions: &Sessions) -> String {
        let id: Id = [7; 32];
        let now = Instant::now();
        let authorization = HeaderValue::from_static("Bearer x");
        sessions.lock().insert(id, Session { authorization, began: now, used: now });
        format!("other=1; {COOKIE_NAME}={}", "07".repeat(32))
    }

    fn asked(cookie: &str, more: &[(&'static str, &str)]) -> Request<Body> {
        let mut request = Request::builder().uri("/v1/jobs").header("host", "haul.lan:4285").header("cookie", cookie);
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    const OWN: &[(&str, &str)] = &[("sec-fetch-site", "same-origin")];

    #[tokio::test(start_paused = true)]
    async fn a_session_ends_by_its_age_and_when_it_is_not_used() {
        let sessions = Sessions::default();
        let cookie = begun(&sessions);
        for _ in 0..13 {
            assert!(sessions.authorization(&asked(&cookie, OWN)).is_some());
            tokio::time::advance(Duration::from_secs(55 * 60)).await;
        }
        assert!(sessions.authorization(&asked(&cookie, OWN)).is_some());
        tokio::time::advance(Duration::from_secs(6 * 60)).await;
        assert!(sessions.authorization(&asked(&cookie, OWN)).is_none(), "twelve hours");
        let cookie = begun(&sessions);
        tokio::time::advance(IDLE_MAX).await;
        assert!(sessions.authorization(&asked(&cookie, OWN)).is_none(), "an hour of silence");
    }

    #[tokio::test]
    async fn a_cookie_counts_for_own_pages_alone() {
        let sessions = Sessions::default();
        let cookie = begun(&sessions);
        let counts = |more: &[(&'static str, &str)]| sessions.authorization(&asked(&cookie, more)).is_some();
        assert!(counts(OWN));
        assert!(counts(&[("origin", "https://haul.lan:4285")]));
        assert!(!counts(&[]));
        assert!(!counts(&[("sec-fetch-site", "none")]));
        assert!(!counts(&[("sec-fetch-site", "same-site"), ("origin", "https://haul.lan:4285")]));
        assert!(!counts(&[("origin", "https://dash.example")]));
        assert!(!counts(&[("origin", "http://haul.lan:4285")]));
        assert!(
            !counts(&[("sec-fetch-site", "same-origin"), ("authorization", "Bearer y")]),
            "who shows a token has that"
        );
        let mut grpc = asked(&cookie, &[("sec-fetch-site", "same-origin"), ("content-type", "application/grpc")]);
        *grpc.version_mut() = Version::HTTP_2;
        assert!(sessions.authorization(&grpc).is_none());
        for other in [
            "",
            "__Host-haul=",
            "__Host-haul=07",
            &format!("__Host-haul={}", "zz".repeat(32)),
            &format!("__Host-haul={}", "08".repeat(32)),
        ] {
            assert!(sessions.authorization(&asked(other, OWN)).is_none(), "{other}");
        }
    }
}
