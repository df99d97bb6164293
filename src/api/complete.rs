//! Completes errors that did not come from us: the gRPC library refuses some calls (unknown methods, malformed or
//! over-long messages) before a service sees them, and its errors know nothing of our contract.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use tower::{Layer, Service};

use crate::api::status::{DOMAIN, exhausted};

/// What the library says of a message beyond the limit.
const TOO_LONG: &str = "message length too large";

/// The error as the contract has it.
pub(crate) fn complete(status: Status) -> Status {
    if !status.details().is_empty() {
        return status;
    }
    if status.message().contains(TOO_LONG) {
        return exhausted(
            "message",
            format!("{}; send less in one message, more tasks go through AddTasks", status.message()),
        );
    }
    let reason = match status.code() {
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::Cancelled => "CANCELLED",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::ResourceExhausted => "QUOTA_EXCEEDED",
        Code::Unavailable => "UNAVAILABLE",
        _ => "INTERNAL",
    };
    let details = ErrorDetails::with_error_info(reason, DOMAIN, std::collections::HashMap::new());
    Status::with_error_details(status.code(), status.message(), details)
}

/// Completes the errors that leave with a response's head.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompleteErrors;

impl<S> Layer<S> for CompleteErrors {
    type Service = Completing<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Completing(inner)
    }
}

/// See [`CompleteErrors`].
#[derive(Clone, Debug)]
pub struct Completing<S>(S);

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Service<Request<Body>> for Completing<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            if !response.headers().contains_key("grpc-status-details-bin")
                && let Some(status) = Status::from_header_map(response.headers())
                && status.code() != Code::Ok
            {
                // Fails only for metadata that is none, and ours is.
                let _ = complete(status).add_header(response.headers_mut());
            }
            Ok(response)
        })
    }
}
