//! Completes errors that come from the gRPC library: it refuses some calls (unknown methods, malformed
//! or over-long messages) before a service sees them, and its errors have none of the details that the contract promises.

use http::{Request, Response, Uri};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::api::inbound::QUESTION_BYTES_MAX;
use crate::api::status::{Fault, Violations, message_too_large, shown, unavailable};
use crate::middleware::Middleware;

/// Parts of the library's messages about a message beyond the limit, before and after it was decompressed.
const TOO_LARGE: [&str; 2] = ["message length too large", "exceeded while decompressing message"];
/// Beginnings of the library's messages about a request that it cannot read. Their code is INTERNAL, but the cause is the
/// client's.
const UNREADABLE: [&str; 6] = [
    // Of gRPC-Web: what is no base64, or a body that breaks off.
    "tonic-web: ",
    "failed to decode Protobuf message",
    "Error decompressing",
    "protocol error: received message",
    "Unexpected EOF decoding stream",
    "Missing request message",
];

/// Returns an error of the library as the contract has it.
pub(crate) fn complete(status: Status) -> Status {
    if !status.details().is_empty() {
        return status;
    }
    let text = status.message();
    if TOO_LARGE.iter().any(|sign| text.contains(sign)) {
        if text.contains(&format!(" {QUESTION_BYTES_MAX} bytes")) {
            return message_too_large("the message is longer than 4 KiB, the most that this method takes");
        }
        return message_too_large(
            "the message is longer than 16 MiB, the most that the server accepts; submit an open job, and add its tasks in several messages",
        );
    }
    if status.code() == Code::Internal && UNREADABLE.iter().any(|sign| text.starts_with(sign)) {
        return Violations::one(
            "message",
            format!("cannot be read: {text}; generate the client from the server's protos"),
        );
    }
    let reason = match status.code() {
        Code::Unimplemented => "UNIMPLEMENTED",
        // That of a message with too many entries names a field, as a violation does.
        Code::InvalidArgument => {
            let named = text.strip_prefix('`').and_then(|text| text.split_once("` "));
            let (field, what) = named.unwrap_or(("message", text));
            return Violations::one(field, what);
        }
        Code::Cancelled => "CANCELLED",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::Unavailable => return unavailable("UNAVAILABLE", text),
        // Of health, which knows services by name.
        Code::NotFound => {
            let fault = Fault::new(
                Code::NotFound,
                "SERVICE_NOT_FOUND",
                "the server has no service of this name; list its services by reflection",
            );
            return fault.resource("service", "").into();
        }
        _ => "INTERNAL",
    };
    Fault::new(status.code(), reason, text).into()
}

/// Returns the error of a method that does not exist; that of the library has no message.
fn no_method(path: &str) -> Status {
    let message = format!(
        "the server has no method `{}`; list its methods by reflection, and check that client and server are of one \
         version",
        shown(path)
    );
    Fault::new(Code::Unimplemented, "UNIMPLEMENTED", message).into()
}

/// Completes the errors that leave with a response's head.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompleteErrors;

impl Middleware for CompleteErrors {
    type Kept = Uri;

    fn before(&self, request: &mut Request<Body>) -> Result<Uri, Box<Response<Body>>> {
        Ok(request.uri().clone())
    }

    async fn after<E: Send>(
        uri: Uri,
        answer: impl Future<Output = Result<Response<Body>, E>> + Send,
    ) -> Result<Response<Body>, E> {
        let mut response = answer.await?;
        if !response.headers().contains_key("grpc-status-details-bin")
            && let Some(status) = Status::from_header_map(response.headers())
            && status.code() != Code::Ok
        {
            let is_silent = status.code() == Code::Unimplemented && status.message().is_empty();
            let whole = if is_silent { no_method(uri.path()) } else { complete(status) };
            // Fails only for metadata that cannot be a header, and that of `Fault` can.
            let _ = whole.add_header(response.headers_mut());
        }
        Ok(response)
    }
}
