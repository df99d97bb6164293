//! What a request asks: its message, made when the services ask for it.
//!
//! A client over gRPC is judged by the head of its call, and its message is read after that. A body of JSON is read at the
//! same moment, so a stranger makes the server neither keep nor parse anything: the body of the call within the process is a
//! future that nobody awaits before it is known who calls.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::once;
use http::request::Parts;
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message as _;
use prost_reflect::ReflectMessage as _;
use tonic::body::Body;

use crate::rest::answer::Refusal;
use crate::rest::bind;
use crate::rest::body::{self, BodyBounds};
use crate::rest::call::framed;
use crate::rest::routes::{self, Route};

/// A request of which nothing but the head was read.
pub(crate) struct UnreadRequest {
    pub(crate) route: Arc<Route>,
    /// The values of the variables of its path.
    pub(crate) values: Vec<String>,
    pub(crate) head: Parts,
    pub(crate) body: Body,
    pub(crate) bounds: BodyBounds,
}

/// The outcome of reading the message, kept for the caller of the method.
#[derive(Debug, Default)]
pub(crate) struct ReadOutcome {
    /// Why there is none. It says more than the status of the call, which is gRPC's.
    pub(crate) refusal: Option<Refusal>,
    /// The number of the event or item after which the client goes on.
    pub(crate) after: Option<u64>,
}

/// Where the outcome will be.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedOutcome(Arc<Mutex<ReadOutcome>>);

impl SharedOutcome {
    /// Takes what is known by now.
    pub(crate) fn take(&self) -> ReadOutcome {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, outcome: ReadOutcome) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = outcome;
    }
}

/// Returns the body of the call, which is made of the request when it is asked for.
pub(crate) fn lazy_body(request: UnreadRequest) -> (Body, SharedOutcome) {
    let outcome = SharedOutcome::default();
    let out = outcome.clone();
    let message = once(async move {
        match request.message().await {
            Ok((message, after)) => {
                out.set(ReadOutcome { refusal: None, after });
                Ok(Frame::data(message))
            }
            Err(refusal) => {
                let status = refusal.status().clone();
                out.set(ReadOutcome { refusal: Some(refusal), after: None });
                Err(status)
            }
        }
    });
    (Body::new(StreamBody::new(message)), outcome)
}

impl UnreadRequest {
    /// Reads the body and returns the message as gRPC sends it, with the number after which the client goes on. The room
    /// of the body is held until the message stands.
    async fn message(self) -> Result<(bytes::Bytes, Option<u64>), Refusal> {
        let UnreadRequest { route, values, head, body, bounds } = self;
        let mut sent = body::Sent::default();
        if route.body != routes::Body::None {
            sent = body::read(&head.headers, body, &head.extensions, bounds).await?;
        }
        let query = head.uri.query().unwrap_or_default();
        let message = bind::message(&route, &values, query, &head.headers, &sent.bytes)?;
        let after = bind::going_on(&message.descriptor()).filter(|field| message.has_field(field));
        let after = after.and_then(|field| message.get_field(&field).as_u64());
        Ok((framed(&message.encode_to_vec()), after))
    }
}
