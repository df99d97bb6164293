//! `/v1/session`: a cookie for pages of this server, in exchange for a token.

use http::header::SET_COOKIE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde_json::json;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::api::access::BrowserSessions;
use crate::rest::answer::{Refusal, document};

/// Where sessions begin and end.
pub(super) const PATH: &str = "/v1/session";

/// Answers a request for a session.
pub(super) fn answer(sessions: &BrowserSessions, request: &Request<Body>) -> Result<Response<Body>, Refusal> {
    match *request.method() {
        Method::POST => {
            let begun = sessions.begin(request).map_err(refusal)?;
            let said = json!({"principal": begun.principal, "expire_time": begun.expire_time});
            Ok(with_cookie(document(StatusCode::OK, &said), &begun.cookie))
        }
        Method::DELETE => Ok(with_cookie(document(StatusCode::OK, &json!({})), &sessions.end(request))),
        Method::OPTIONS => Ok(super::methods_of("POST, DELETE, OPTIONS")),
        _ => Err(Refusal::no_method(request.method().as_str(), PATH, "POST, DELETE, OPTIONS".to_owned())),
    }
}

fn refusal(status: Status) -> Refusal {
    let needs_tls = status.code() == Code::FailedPrecondition;
    let refusal = Refusal::from(status);
    if needs_tls { refusal.with_code(StatusCode::PRECONDITION_FAILED) } else { refusal }
}

fn with_cookie(mut response: Response<Body>, cookie: &str) -> Response<Body> {
    if let Ok(mut cookie) = HeaderValue::from_str(cookie) {
        cookie.set_sensitive(true);
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}
