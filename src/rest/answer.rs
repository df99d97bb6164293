//! Errors as JSON: one document with HTTP's status, the status of gRPC by name, and its details.

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::api::request_id::RequestId;
use crate::api::status::{Fault, shown};
use crate::rest::json;

/// The reason of an error for which clients must not come again, though gRPC has one code for it and for those that pass.
const TOO_LARGE: &str = "MESSAGE_TOO_LARGE";

/// An error of this face: a status of gRPC with the status of HTTP that it becomes.
#[derive(Debug)]
pub(crate) struct Refusal {
    code: StatusCode,
    status: Status,
    /// A header that the answer has beside those of every error.
    header: Option<(HeaderName, String)>,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Refusal {
        Refusal { code: http_code(&status), status, header: None }
    }
}

impl Refusal {
    /// Makes an error that HTTP has a status of its own for.
    pub(crate) fn new(code: StatusCode, grpc: Code, reason: &str, message: &str) -> Refusal {
        Refusal { code, status: Fault::new(grpc, reason, message).into(), header: None }
    }

    /// Says that nothing is at a path.
    pub(crate) fn no_route(path: &str) -> Refusal {
        let message = format!("there is nothing at `{}`; /v1/openapi.json lists the paths", shown(path));
        let fault = Fault::new(Code::NotFound, "ROUTE_NOT_FOUND", &message).resource("path", &shown(path));
        Refusal { code: StatusCode::NOT_FOUND, status: fault.into(), header: None }
    }

    /// Says which methods a path has.
    pub(crate) fn no_method(method: &str, path: &str, allow: String) -> Refusal {
        let message = format!("`{}` does not allow {}; use {allow}", shown(path), shown(method));
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, "METHOD_NOT_ALLOWED", &message);
        refusal.with_header(ALLOW, allow)
    }

    /// Returns the error as gRPC has it.
    pub(crate) fn status(&self) -> &Status {
        &self.status
    }

    /// Adds a header to the answer.
    pub(crate) fn with_header(self, name: HeaderName, value: String) -> Refusal {
        Refusal { header: Some((name, value)), ..self }
    }

    /// Gives the answer another status of HTTP.
    pub(crate) fn with_code(self, code: StatusCode) -> Refusal {
        Refusal { code, ..self }
    }

    /// Adds the name of the request that the error answers.
    #[must_use]
    pub(crate) fn of(self, id: &RequestId) -> Refusal {
        Refusal { status: id.on(self.status), ..self }
    }

    /// Writes the error as an answer.
    pub(crate) fn into_response(self) -> Response<Body> {
        let mut response = document(self.code, &self.document());
        let headers = response.headers_mut();
        if self.code == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge(&self.status)));
        }
        if let Some(delay) = self.status.get_details_retry_info().and_then(|info| info.retry_delay) {
            let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some((name, value)) = self.header
            && let Ok(value) = HeaderValue::from_str(&value)
        {
            headers.insert(name, value);
        }
        response
    }

    /// Returns the error as a document of JSON.
    pub(crate) fn document(&self) -> Value {
        let details = json::details(&self.status);
        json!({"error": {
            "code": self.code.as_u16(),
            "status": name(self.status.code()),
            "message": self.status.message(),
            "details": details,
        }})
    }
}

/// Returns how a client authenticates, which each 401 has to say (RFC 9110, 11.6.1; RFC 6750, 3).
fn challenge(status: &Status) -> &'static str {
    match status.get_details_error_info() {
        Some(info) if info.reason == "BAD_CREDENTIALS" => "Bearer realm=\"haul\", error=\"invalid_token\"",
        _ => "Bearer realm=\"haul\"",
    }
}

/// Returns a document of JSON on a line of its own.
pub(crate) fn document(code: StatusCode, document: &Value) -> Response<Body> {
    let mut text = document.to_string();
    text.push('\n');
    whole(code, "application/json", text.into())
}

/// Returns an answer in one piece, which is not to be kept or guessed at by anybody.
pub(crate) fn whole(code: StatusCode, kind: &'static str, body: bytes::Bytes) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body)));
    *response.status_mut() = code;
    harden(&mut response, kind);
    response
}

/// Says what an answer is, and that nobody keeps it or guesses its type.
pub(crate) fn harden(response: &mut Response<Body>, kind: &'static str) {
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// Returns the status of HTTP for one of gRPC.
fn http_code(status: &Status) -> StatusCode {
    match status.code() {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        // Clients repeat a 429; a message that is too large will never fit.
        Code::ResourceExhausted if is_too_large(status) => StatusCode::PAYLOAD_TOO_LARGE,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::Internal | Code::Unknown | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
    }
}

fn is_too_large(status: &Status) -> bool {
    status.get_details_error_info().is_some_and(|info| info.reason == TOO_LARGE)
}

/// Returns the name of a code in upper case, as `INVALID_ARGUMENT`.
fn name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_status_that_googles_have() {
        for (code, name_of_it, http) in [
            (Code::InvalidArgument, "invalid_argument", 400),
            (Code::FailedPrecondition, "failed_precondition", 400),
            (Code::OutOfRange, "out_of_range", 400),
            (Code::Unauthenticated, "unauthenticated", 401),
            (Code::PermissionDenied, "permission_denied", 403),
            (Code::NotFound, "not_found", 404),
            (Code::AlreadyExists, "already_exists", 409),
            (Code::Aborted, "aborted", 409),
            (Code::ResourceExhausted, "resource_exhausted", 429),
            (Code::Cancelled, "cancelled", 499),
            (Code::Internal, "internal", 500),
            (Code::DataLoss, "data_loss", 500),
            (Code::Unimplemented, "unimplemented", 501),
            (Code::Unavailable, "unavailable", 503),
            (Code::DeadlineExceeded, "deadline_exceeded", 504),
        ] {
            let status = Status::new(code, "");
            assert_eq!((name(code).to_lowercase().as_str(), http_code(&status).as_u16()), (name_of_it, http));
        }
        let too_large: Status = Fault::new(Code::ResourceExhausted, TOO_LARGE, "").into();
        assert_eq!(http_code(&too_large), StatusCode::PAYLOAD_TOO_LARGE);
    }
}
