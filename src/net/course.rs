//! A request as it changes along its redirects: what the profile adds to it, and what is left behind.

use std::sync::Arc;

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
use crate::net::redirect::Hop;
use crate::net::session::Session;
use crate::net::{Permit, Profile, Request};

/// What haul calls itself.
pub const DEFAULT_USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("haul/", env!("CARGO_PKG_VERSION")));

/// The request as it changes along its way.
pub(super) struct Course {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) profile: Arc<Profile>,
    /// All but the cookies of the jar.
    headers: HeaderMap,
    body: Bytes,
    separate: bool,
    /// Of the first request; those after a redirect need their own.
    permit: Permit,
}

impl Course {
    /// Begins at `request`. Away from the session's home it has none of the profile's secrets, and only those
    /// credentials that stand in its own URL.
    pub(super) fn new(request: Request, profile: &Arc<Profile>, session: &Session) -> Result<Course, Failure> {
        let Request { method, url, headers, body, separate, permit } = request;
        let headers = complete(headers, &profile.http)?;
        let mut course = Course { method, url, headers, body, profile: Arc::clone(profile), separate, permit };
        let Some(home) = session.home_of(&course.url) else {
            course.leave_secrets();
            let own = of_url(&course.url);
            course.authorize(own)?;
            return Ok(course);
        };
        if !course.headers.contains_key(AUTHORIZATION) {
            let credentials = of_options(&profile.http).or_else(|| of_url(&course.url)).or_else(|| of_url(home));
            course.authorize(credentials)?;
        }
        Ok(course)
    }

    /// The request to send now.
    pub(super) fn request(&mut self, jar: &Jar) -> Request {
        let mut headers = self.headers.clone();
        if let Some(cookies) = jar.header(&self.url, headers.get(COOKIE)) {
            headers.insert(COOKIE, cookies);
        }
        let (method, url, body) = (self.method.clone(), self.url.clone(), self.body.clone());
        Request { method, url, headers, body, separate: self.separate, permit: std::mem::take(&mut self.permit) }
    }

    /// Follows a redirect.
    ///
    /// A 307 or 308 takes the body along, to another origin too, as RFC 9110 says and curl does: storage sends uploads to the
    /// region of their bucket so. The origin that was named is the one that says it; a page of a listing, which its content
    /// leads to, is another matter.
    pub(super) fn turn(&mut self, hop: Hop) -> Result<(), Failure> {
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
        let own = of_url(&self.url);
        self.authorize(own)
    }

    /// Sets the credentials, where there are any.
    fn authorize(&mut self, credentials: Option<String>) -> Result<(), Failure> {
        if let Some(credentials) = credentials {
            let mut value = HeaderValue::from_str(&credentials).map_err(|_| bad_header("authorization"))?;
            value.set_sensitive(true);
            self.headers.insert(AUTHORIZATION, value);
        }
        Ok(())
    }

    fn leave_secrets(&mut self) {
        let stays = |(name, value): (&HeaderName, &HeaderValue)| {
            (value.is_sensitive() || !goes_along(name.as_str())).then(|| name.clone())
        };
        let home: Vec<HeaderName> = self.headers.iter().filter_map(stays).collect();
        for name in home {
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

/// Returns whether a header may be sent to another origin than the one that it was meant for. Only headers that say what
/// is asked for may: a list of names that hold secrets (`X-Api-Key`, `Private-Token`) is never complete.
fn goes_along(name: &str) -> bool {
    matches!(name, "cache-control" | "content-encoding" | "content-type" | "range" | "user-agent")
        || name.starts_with("accept")
        || name.starts_with("if-")
}

/// The request's headers, and those of the profile that it does not replace.
fn complete(mut headers: HeaderMap, http: &HttpOptions) -> Result<HeaderMap, Failure> {
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
    Ok(headers)
}

/// The credentials in the options.
fn of_options(http: &HttpOptions) -> Option<String> {
    if let Some(token) = &http.bearer_token {
        return Some(format!("Bearer {}", token.expose()));
    }
    http.basic_auth.as_ref().map(|(name, password)| basic(name, password.expose()))
}

/// The credentials in the user part of a URL.
fn of_url(url: &Url) -> Option<String> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    Some(basic(&decode(url.username()), &decode(url.password().unwrap_or_default())))
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

fn bad_header(name: &str) -> Failure {
    Failure::fatal(FailureReason::Protocol, format!("the header `{name}` cannot be sent; check its name and value"))
}
