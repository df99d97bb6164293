//! The API as HTTP and JSON: `google.api.http` annotations of the contract say which path is which method.
//!
//! Nothing here knows a method: a request becomes a message by the descriptors, is called as a client over gRPC calls it,
//! and its answer is written by the descriptors again. So each check, limit and right is passed once, and a new method
//! costs an annotation. The body is read where a client over gRPC would have sent its message ([`lazy_body`]): once it is known
//! who calls. Only contents, whose answers are bytes, are written by hand.

pub(crate) mod accept;
pub(crate) mod answer;
mod bind;
mod body;
mod call;
mod content;
mod import;
pub(crate) mod json;
mod lazy_body;
mod openapi;
mod ranges;
mod routes;
mod session;
mod shapes;
mod stream;
mod template;
mod writer;

use std::sync::Arc;

use http::header::ALLOW;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use prost::Message as _;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use tonic::body::Body;

use crate::api::access::BrowserSessions;
use crate::api::outbound::{PlainErrors, Shared};
use crate::api::request_id::RequestId;
use crate::api::status::{Violations, internal};
use crate::pb;
use crate::rest::answer::{Refusal, whole};
use crate::rest::call::Caller;
use crate::rest::lazy_body::UnreadRequest;
use crate::rest::routes::{Found, Route};
use crate::rest::stream::Form;

pub use crate::rest::body::BodyBounds;
pub use crate::rest::call::Services;

/// Where the description of the API is.
const DESCRIPTION: &str = "/v1/openapi.json";
/// What it takes.
const DESCRIPTION_METHODS: &str = "GET, HEAD, OPTIONS";

/// How errors are written over plain HTTP.
pub const ERRORS: PlainErrors =
    PlainErrors { refused: |status| Refusal::from(status).into_response(), last_words: stream::last_words };

/// The API as HTTP and JSON.
#[derive(Clone, Debug)]
pub struct Rest {
    services: Services,
    routes: Arc<[Arc<Route>]>,
    bounds: BodyBounds,
    sessions: BrowserSessions,
}

impl Rest {
    /// Makes the face of these services, with these sessions of browsers.
    pub fn new(services: Services, bounds: BodyBounds, sessions: BrowserSessions) -> Rest {
        Rest { services, routes: routes::routes(json::pool()).into(), bounds, sessions }
    }

    /// Answers a request.
    pub async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let id = RequestId::of(&request);
        self.answered(request).await.unwrap_or_else(|refusal| refusal.of(&id).into_response())
    }

    async fn answered(&self, request: Request<Body>) -> Result<Response<Body>, Refusal> {
        if request.uri().path() == session::PATH {
            return session::answer(&self.sessions, &request);
        }
        if let Some(job_id) = import::job_of(request.uri().path()) {
            return import::answer(self, job_id, request).await;
        }
        let (head, body) = request.into_parts();
        if head.uri.path() == DESCRIPTION {
            return match head.method {
                Method::GET | Method::HEAD => {
                    let mut response = whole(StatusCode::OK, "application/json", openapi::DOCUMENT.as_str().into());
                    response.extensions_mut().insert(Shared);
                    Ok(response)
                }
                Method::OPTIONS => Ok(methods_of(DESCRIPTION_METHODS)),
                _ => Err(Refusal::no_method(head.method.as_str(), DESCRIPTION, DESCRIPTION_METHODS.to_owned())),
            };
        }
        let (route, values) = match routes::find(&self.routes, &head.method, head.uri.path()) {
            Found::Route(route, values) => (route, values),
            Found::OtherMethods(methods) if head.method == Method::OPTIONS => return Ok(methods_of(&methods)),
            Found::OtherMethods(methods) => {
                return Err(Refusal::no_method(head.method.as_str(), head.uri.path(), methods));
            }
            Found::Nothing => return Err(Refusal::no_route(head.uri.path())),
        };
        let caller = Caller::new(&head);
        if route.rpc.name() == "ReadContent" {
            let message = bind::message(&route, &values, head.uri.query().unwrap_or_default(), &head.headers, b"")?;
            return self.content(&caller, &route.rpc, &message, &head.headers, head.method == Method::HEAD).await;
        }
        let form = Form::of(&route.rpc, &head.headers)?;
        let unread = UnreadRequest { route: route.clone(), values, head, body, bounds: self.bounds };
        let (message, outcome) = lazy_body::lazy_body(unread);
        let answered = caller.last_call(&self.services, &route.rpc, message).await;
        let outcome = outcome.take();
        if let Some(refusal) = outcome.refusal {
            return Err(refusal);
        }
        let messages = answered?;
        if let Some(form) = form {
            return stream::answer(messages, route.rpc.output(), form, outcome.after).await;
        }
        let mut line = json::write(&route.rpc.output(), &messages.only().await?)?;
        line.push(b'\n');
        Ok(whole(StatusCode::OK, "application/json", line.into()))
    }

    async fn content(
        &self,
        caller: &Caller,
        rpc: &MethodDescriptor,
        message: &DynamicMessage,
        headers: &HeaderMap,
        is_head: bool,
    ) -> Result<Response<Body>, Refusal> {
        for field in ["offset", "length"] {
            if message.has_field_by_name(field) {
                return Err(Violations::one(field, "is not a parameter here; use the header `Range`").into());
            }
        }
        let wish = pb::ReadContentRequest::decode(message.encode_to_vec().as_slice());
        let wish = wish.map_err(|_| internal("the request for a content cannot be read"))?;
        let get_task = self.routes.iter().find(|route| route.rpc.name() == "GetTask");
        let get_task = get_task.ok_or_else(|| internal("the contract has no GetTask"))?;
        content::answer(caller, &self.services, [&get_task.rpc, rpc], wish, headers, is_head).await
    }
}

fn methods_of(methods: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if let Ok(methods) = HeaderValue::from_str(methods) {
        response.headers_mut().insert(ALLOW, methods);
    }
    response
}
