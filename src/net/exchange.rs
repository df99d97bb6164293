//! Whole exchanges: a request with what its profile adds, through every redirect, to the answer that counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, COOKIE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::model::failure::{Failure, FailureReason};
use crate::model::secret::is_secret_header;
use crate::model::spec::HttpOptions;
use crate::net::jar::Jar;
use crate::net::redirect::{Hop, Trail};
use crate::net::{Body, Permit, Profile, Request, Response, Transport, redirect};

/// What haul calls itself.
pub const DEFAULT_USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("haul/", env!("CARGO_PKG_VERSION")));

/// How much of a body that nobody wants is read, and for how long.
const DRAIN_BYTES_MAX: usize = 16 << 10;
const DRAIN_WAIT: Duration = Duration::from_millis(100);

/// What goes from request to request of one task, and what its requests came to.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// The last request, whatever its end.
    pub trace: Trace,
    /// Ranges of statuses, both ends included, that are wanted as they are, though they may redirect.
    pub wanted_statuses: Vec<(u16, u16)>,
    /// The origin that the profile's secrets are for; `None`: that of the first request.
    home: Option<Url>,
    jar: Jar,
}

impl Session {
    /// A session whose secrets are for the origin of `url`, wherever its first request goes.
    pub fn at_home(url: &Url) -> Session {
        Session { home: Some(url.clone()), ..Session::default() }
    }
}

/// How far an exchange came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// The URL that was asked last. It may hold secrets.
    pub url: Option<Url>,
    /// The address that answered last; `None` when there was no answer.
    pub remote: Option<SocketAddr>,
    /// The status of the last answer; 0 when there was none.
    pub status: u16,
    /// Redirects followed.
    pub redirects: u32,
}

/// Sends `request` with the headers, credentials and cookies of its task, and follows redirects. Any status that is no
/// redirect is a success here: judging it is the caller's.
///
/// What is secret goes to the session's home only: once a redirect has left it, credentials, cookies that the client
/// set, sensitive headers and the client certificate stay behind for the rest of the exchange, even if it comes back.
pub async fn exchange(
    transport: &dyn Transport,
    request: Request,
    profile: &Arc<Profile>,
    session: &mut Session,
) -> Result<Response, Failure> {
    let limit = profile.http.max_redirects.unwrap_or(HttpOptions::REDIRECTS_DEFAULT);
    let home = session.home.get_or_insert_with(|| request.url.clone());
    let is_home = home.origin() == request.url.origin();
    let mut course = Course::new(request, profile)?;
    if !is_home {
        course.leave_secrets();
    }
    session.trace = Trace::default();
    let mut seen = Vec::new();
    loop {
        session.trace = Trace { url: Some(course.url.clone()), redirects: session.trace.redirects, ..Trace::default() };
        let response = transport.send(course.request(&session.jar), &course.profile).await?;
        session.trace.remote = response.remote;
        session.trace.status = response.status.as_u16();
        let has_new_cookies = session.jar.keep(&course.url, &response.headers);
        let is_wanted = |&(first, last): &(u16, u16)| (first..=last).contains(&response.status.as_u16());
        if !response.status.is_redirection() || session.wanted_statuses.iter().any(is_wanted) {
            return Ok(response);
        }
        // With new cookies the same URL may answer otherwise.
        if has_new_cookies {
            seen.clear();
        } else {
            seen.push(course.url.clone());
        }
        let trail =
            Trail { from: &course.url, method: &course.method, followed: session.trace.redirects, limit, seen: &seen };
        let location = response.headers.get(header::LOCATION).map(HeaderValue::as_bytes);
        match redirect::decide(response.status, location, &trail)? {
            None => return Ok(response),
            Some(hop) => course.turn(hop),
        }
        session.trace.redirects += 1;
        drain(response.body).await;
    }
}

/// Reads what is left of a small body, so that its connection can be used again. Gives up where it is not small or not
/// quick, which closes the connection.
pub async fn drain(body: Body) {
    let _ = tokio::time::timeout(DRAIN_WAIT, discard(body)).await;
}

async fn discard(mut body: Body) {
    let mut left = DRAIN_BYTES_MAX;
    while let Some(Ok(chunk)) = body.chunk().await {
        let Some(less) = left.checked_sub(chunk.len()) else { return };
        left = less;
    }
}

/// The request as it changes along its way.
struct Course {
    method: Method,
    url: Url,
    /// All but the cookies of the jar.
    headers: HeaderMap,
    body: Bytes,
    /// Of the first request; those after a redirect need their own.
    permit: Permit,
    profile: Arc<Profile>,
}

impl Course {
    fn new(request: Request, profile: &Arc<Profile>) -> Result<Course, Failure> {
        let Request { method, url, headers, body, permit } = request;
        let headers = complete(headers, &profile.http, &url)?;
        Ok(Course { method, url, headers, body, permit, profile: Arc::clone(profile) })
    }

    fn request(&mut self, jar: &Jar) -> Request {
        let mut headers = self.headers.clone();
        if let Some(cookies) = jar.header(&self.url, headers.get(COOKIE)) {
            headers.insert(COOKIE, cookies);
        }
        Request {
            method: self.method.clone(),
            url: self.url.clone(),
            headers,
            body: self.body.clone(),
            permit: std::mem::take(&mut self.permit),
        }
    }

    fn turn(&mut self, hop: Hop) {
        if !hop.keeps_body {
            self.body = Bytes::new();
            for name in
                [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::TRANSFER_ENCODING]
            {
                self.headers.remove(name);
            }
        }
        if hop.leaves_origin {
            self.leave_secrets();
        }
        self.method = hop.method;
        self.url = hop.url;
    }

    fn leave_secrets(&mut self) {
        let is_secret = |(name, value): (&HeaderName, &HeaderValue)| {
            let is_secret = value.is_sensitive() || is_secret_header(name.as_str()) || name == header::HOST;
            is_secret.then(|| name.clone())
        };
        let secrets: Vec<HeaderName> = self.headers.iter().filter_map(is_secret).collect();
        for name in secrets {
            self.headers.remove(name);
        }
        if self.profile.http.client_certificate_pem.is_some() {
            let mut profile = Profile::clone(&self.profile);
            profile.http.client_certificate_pem = None;
            profile.http.client_key_pem = None;
            self.profile = Arc::new(profile);
        }
    }
}

/// The request's headers, and those of the profile that it does not replace.
fn complete(mut headers: HeaderMap, http: &HttpOptions, url: &Url) -> Result<HeaderMap, Failure> {
    let own = if http.headers.is_empty() { HeaderMap::new() } else { headers.clone() };
    for header in &http.headers {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| bad_header(&header.name))?;
        if own.contains_key(&name) {
            continue;
        }
        let mut value =
            HeaderValue::from_bytes(header.value.expose().as_bytes()).map_err(|_| bad_header(&header.name))?;
        value.set_sensitive(header.sensitive || is_secret_header(&header.name));
        headers.append(name, value);
    }
    if let Some(agent) = &http.user_agent {
        let value = HeaderValue::from_bytes(agent.as_bytes()).map_err(|_| bad_header("user-agent"))?;
        headers.entry(USER_AGENT).or_insert(value);
    } else {
        headers.entry(USER_AGENT).or_insert(DEFAULT_USER_AGENT);
    }
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    if !headers.contains_key(AUTHORIZATION)
        && let Some(credentials) = credentials(http, url)
    {
        let mut value = HeaderValue::from_str(&credentials).map_err(|_| bad_header("authorization"))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

/// The options' credentials, else those in the URL.
fn credentials(http: &HttpOptions, url: &Url) -> Option<String> {
    if let Some(token) = &http.bearer_token {
        return Some(format!("Bearer {}", token.expose()));
    }
    let basic = |name: &str, password: &str| format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
    if let Some((name, password)) = &http.basic_auth {
        return Some(basic(name, password.expose()));
    }
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    Some(basic(&decode(url.username()), &decode(url.password().unwrap_or_default())))
}

fn bad_header(name: &str) -> Failure {
    Failure::fatal(FailureReason::Protocol, format!("the header `{name}` cannot be sent; check its name and value"))
}
