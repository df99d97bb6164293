//! Keeps out web pages of others before anything runs, by [`BrowserRules`].
//!
//! Nothing but the name of the request comes before this layer. A refusal of gRPC is a status as any other; to everything else it is HTTP's 421 or 403.

use std::sync::Arc;

use http::header::{
    ACCEPT, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CACHE_CONTROL,
    CONTENT_TYPE, HOST, HeaderName, ORIGIN, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use serde_json::json;
use tonic::Code;
use tonic::body::Body;

use crate::api::access::sessions::OwnPage;
use crate::api::request_id::{REQUEST_ID, RequestId};
use crate::api::status::{DOMAIN, Fault, shown};
use crate::listen::peer::{Origin, Peer};
use crate::middleware::Middleware;
use crate::model::browser::{Asked, BrowserRules, Foreign, Verdict};
use crate::model::pages::is_page;

/// What pages of a listed origin may send, and what they may read.
pub(crate) const ALLOWED_METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
const ALLOWED_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, grpc-timeout, haul-tenant, idempotency-key, if-match, if-none-match, if-range, \
     last-event-id, range, x-grpc-web, x-user-agent",
);
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static(
    "content-disposition, content-range, etag, grpc-message, grpc-status, grpc-status-details-bin, haul-request-id, \
     repr-digest, retry-after",
);
/// How long a browser may remember what a preflight said, in seconds.
const PREFLIGHT_AGE: HeaderValue = HeaderValue::from_static("600");

/// Judges what browsers send.
#[derive(Clone)]
pub struct BrowserGuard {
    rules: Arc<BrowserRules>,
    /// Whether a token is needed just now.
    is_token_needed: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl BrowserGuard {
    /// Makes a guard of what the operator allows. `is_token_needed` is asked for each request that has a token.
    pub fn new(rules: BrowserRules, is_token_needed: impl Fn() -> bool + Send + Sync + 'static) -> BrowserGuard {
        BrowserGuard { rules: Arc::new(rules), is_token_needed: Arc::new(is_token_needed) }
    }
}

impl Middleware for BrowserGuard {
    /// The origin of a page that may read the answer, where the page is not the server's own.
    type Kept = Option<HeaderValue>;

    fn before(&self, request: &mut Request<Body>) -> Result<Option<HeaderValue>, Box<Response<Body>>> {
        // Whoever stands before the server may have judged another one of them (RFC 9112, 3.2).
        if request.headers().get_all(HOST).iter().nth(1).is_some() {
            let message = "the request has more than one `Host` line; send one";
            return Err(Box::new(answer(StatusCode::MISDIRECTED_REQUEST, "AUTHORITY_NOT_ALLOWED", message, request)));
        }
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        if peer.as_ref().is_some_and(|peer| !matches!(peer.origin, Origin::Network(_))) {
            // No page reaches a socket.
            return Ok(None);
        }
        let has_token = request.headers().contains_key(AUTHORIZATION);
        let is_authorized = has_token && (self.is_token_needed)();
        let asked = Asked { is_authorized, ..asked(request, peer.as_deref()) };
        let is_of_own_page = asked.is_of_own_page();
        match self.rules.judge(&asked) {
            Verdict::Passes => {
                if is_of_own_page {
                    request.extensions_mut().insert(OwnPage);
                }
                Ok(None)
            }
            Verdict::PassesTo(origin) => Ok(HeaderValue::from_str(origin).ok()),
            Verdict::Preflight(origin) => Err(Box::new(preflight(origin))),
            Verdict::Refused(foreign) => Err(Box::new(refusal(foreign, request))),
        }
    }

    async fn after<E: Send>(
        origin: Option<HeaderValue>,
        answer: impl Future<Output = Result<Response<Body>, E>> + Send,
    ) -> Result<Response<Body>, E> {
        let mut response = answer.await?;
        if let Some(origin) = origin {
            grant(response.headers_mut(), origin);
            response.headers_mut().insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
        }
        Ok(response)
    }
}

/// Reads from the head of a request what the rules judge.
fn asked<'a>(request: &'a Request<Body>, peer: Option<&'a Peer>) -> Asked<'a> {
    let headers = request.headers();
    let authorities = match request.uri().authority() {
        Some(authority) => vec![authority.as_str()],
        None => texts(headers, &HOST),
    };
    Asked {
        is_http1: request.version() < Version::HTTP_2,
        is_tls: peer.is_some_and(|peer| peer.is_encrypted),
        is_grpc: texts(headers, &CONTENT_TYPE)[..]
            .iter()
            .all(|it| matches!(*it, "application/grpc" | "application/grpc+proto"))
            && headers.contains_key(CONTENT_TYPE),
        is_probe: matches!(request.uri().path(), "/healthz" | "/readyz"),
        is_visit: is_visit(request),
        is_preflight: request.method() == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD),
        authorities,
        origins: texts(headers, &ORIGIN),
        fetch_sites: texts(headers, &HeaderName::from_static("sec-fetch-site")),
        is_authorized: false,
        has_fetch_metadata: headers.keys().any(|name| name.as_str().starts_with("sec-fetch-")),
        certificate_names: peer.map_or(&[], |peer| &peer.certificate_names),
    }
}

/// Returns whether a browser goes to a page of the dashboard, rather than a page asking for it.
fn is_visit(request: &Request<Body>) -> bool {
    let says = |name, value: &str| texts(request.headers(), &HeaderName::from_static(name)) == [value];
    matches!(*request.method(), Method::GET | Method::HEAD)
        && is_page(request.uri().path())
        && says("sec-fetch-mode", "navigate")
        && says("sec-fetch-dest", "document")
}

/// Returns each value of a header. A value that is not text becomes empty, which is never an allowed value.
fn texts<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default()).collect()
}

fn grant(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(VARY, HeaderValue::from_static("Origin"));
}

fn preflight(origin: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    if let Ok(origin) = HeaderValue::from_str(origin) {
        grant(headers, origin);
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_AGE);
    }
    response
}

/// Returns the answer to a request that a page of others could have sent.
fn refusal(foreign: Foreign, request: &Request<Body>) -> Response<Body> {
    let asked = |name| texts(request.headers(), &name).join(", ");
    let (reason, message, code) = match foreign {
        Foreign::Authority => {
            let named = request.uri().authority().map_or_else(|| asked(HOST), ToString::to_string);
            let message = format!(
                "`{}` is not a name of this server for browsers; use its address, or have the operator add the name to \
                 `web_hosts`",
                shown(&named)
            );
            ("AUTHORITY_NOT_ALLOWED", message, StatusCode::MISDIRECTED_REQUEST)
        }
        Foreign::Origin => {
            let message = format!(
                "pages of `{}` must not call this server; the operator can add their origin to `cors_origins`",
                shown(&asked(ORIGIN))
            );
            ("ORIGIN_NOT_ALLOWED", message, StatusCode::FORBIDDEN)
        }
    };
    tracing::debug!(reason, "a request is refused: {message}");
    answer(code, reason, &message, request)
}

/// Returns an error in the client's own kind of gRPC, else with HTTP's status and a JSON document.
fn answer(code: StatusCode, reason: &str, message: &str, request: &Request<Body>) -> Response<Body> {
    let kind = request.headers().get(CONTENT_TYPE).filter(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if let Some(kind) = kind {
        let id = RequestId::of(request);
        let mut response = id.on(Fault::new(Code::PermissionDenied, reason, message).into()).into_http();
        response.headers_mut().insert(CONTENT_TYPE, kind.clone());
        return response;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    if !accepts_json(request.headers()) {
        return response;
    }
    let info = json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": DOMAIN,
        "metadata": {REQUEST_ID.as_str(): RequestId::of(request).as_str()},
    });
    let error = json!({"code": code.as_u16(), "status": "PERMISSION_DENIED", "message": message, "details": [info]});
    *response.body_mut() = Body::new(http_body_util::Full::from(format!("{}\n", json!({"error": error}))));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Returns whether a client takes JSON: every one does that does not say what it takes.
fn accepts_json(headers: &HeaderMap) -> bool {
    let accepted = texts(headers, &ACCEPT);
    accepted.is_empty() || accepted.iter().any(|it| it.contains("json") || it.contains("*/*"))
}
