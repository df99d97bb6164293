//! A connection of either version of HTTP, and one request on it.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Response;
use http_body::Body as _;

use crate::model::failure::Failure;
use crate::model::spec::Timeouts;
use crate::net::http1::Http1;
use crate::net::http2::Http2;
use crate::net::http2_state::Windows;
use crate::net::incoming::Incoming;
use crate::net::lost::{Fate, Lost};
use crate::net::message::Form;
use crate::net::target::Target;
use crate::net::tasks::Tasks;
use crate::net::wire::Wire;
use crate::net::{Request, classify, range};

/// A connection as one request has it.
pub(super) enum Connection {
    /// For this request alone.
    Http1(Http1),
    /// Shared.
    Http2(Http2),
}

impl Connection {
    /// Starts HTTP over `wire`, in the version that both ends agreed on.
    pub(super) async fn establish(
        wire: Wire,
        remote: SocketAddr,
        form: Form,
        tasks: &Arc<Tasks>,
        windows: &Arc<Windows>,
        host: &str,
    ) -> Result<Connection, Failure> {
        if wire.is_http2() {
            return Http2::establish(wire, remote, tasks, windows, host).await.map(Connection::Http2);
        }
        Http1::establish(wire, remote, form, tasks, host).await.map(Connection::Http1)
    }

    /// The address at its other end.
    pub(super) fn remote(&self) -> SocketAddr {
        match self {
            Connection::Http1(http1) => http1.remote,
            Connection::Http2(http2) => http2.remote,
        }
    }

    /// Sends a request and waits for the head of its answer, at most as long as its timeout says.
    pub(super) async fn send(
        &mut self,
        target: &Target,
        request: &Request,
        timeouts: &Timeouts,
    ) -> Result<Response<Incoming>, Lost> {
        match self {
            Connection::Http1(http1) => {
                let (head, body) = http1.send(target, request, timeouts).await?.into_parts();
                // An answer to HEAD is at its end already, as one without a body is.
                let due = match range::misspelt_length(&head.headers) {
                    Ok(length) => length.filter(|_| !body.is_end_stream()),
                    Err(()) => return Err(Lost { failure: classify::broken_framing(target.name()), fate: Fate::Over }),
                };
                Ok(Response::from_parts(head, Incoming::http1(body, due)))
            }
            Connection::Http2(http2) => {
                let (head, stream) = http2.send(target, request, timeouts).await?.into_parts();
                let length = range::content_length(&head.headers);
                if range::has_broken_length(&head.headers) {
                    return Err(Lost { failure: classify::broken_framing(target.name()), fate: Fate::Over });
                }
                Ok(Response::from_parts(head, Incoming::http2(stream, length)))
            }
        }
    }
}
