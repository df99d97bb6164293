//! The real [`Transport`]: requests over pooled connections that all came through the guard.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Response as HttpResponse;
use hyper::body::Incoming;

use crate::model::failure::{Failure, FailureReason};
use crate::net::body::HttpBody;
use crate::net::connection;
use crate::net::connection::{Connection, Lost};
use crate::net::guard::Guard;
use crate::net::identity::Identities;
use crate::net::pool::{Endpoint, IDLE_TIME, Pool};
use crate::net::tasks::Tasks;
use crate::net::wire::Wire;
use crate::net::{Body, Profile, Request, Response, Transport, connect, tls};

/// A client for one runtime: its connections live on the runtime that first uses them, and end with it.
///
/// Dropping it ends its connections, those in use included; [`HttpClient::close`] also waits for them.
pub struct HttpClient {
    guard: Guard,
    identities: Identities,
    pool: Arc<Pool>,
    tasks: Tasks,
    is_swept: AtomicBool,
}

impl HttpClient {
    /// A client that dials only what `guard` lets through.
    pub fn new(guard: Guard) -> HttpClient {
        HttpClient {
            guard,
            identities: Identities::default(),
            pool: Arc::default(),
            tasks: Tasks::new(),
            is_swept: AtomicBool::new(false),
        }
    }

    /// Ends every connection, and returns when all their tasks have ended. Requests after it fail.
    pub async fn close(&self) {
        self.tasks.close().await;
        self.pool.clear();
    }

    async fn exchange(&self, request: Request, profile: &Arc<Profile>) -> Result<Response, Failure> {
        let identity = self.identities.of(profile)?;
        let endpoint = self.pool.endpoint(&request.url, &identity)?;
        let (connection, answer) = self.answer(&endpoint, &request, profile).await?;
        let remote = Some(connection.remote());
        let (head, incoming) = answer.into_parts();
        let body = HttpBody::new(incoming, connection, endpoint, request.permit, &profile.timeouts);
        Ok(Response {
            status: head.status,
            headers: head.headers,
            url: request.url,
            remote,
            body: Body(Box::new(body)),
        })
    }

    /// Sends on a pooled connection, or on a fresh one. A pooled one may have been closed by its peer just now, which
    /// shows only in use: then, if nothing is lost by it, the request goes once more, on a fresh one.
    async fn answer(
        &self,
        endpoint: &Arc<Endpoint>,
        request: &Request,
        profile: &Profile,
    ) -> Result<(Connection, HttpResponse<Incoming>), Failure> {
        let wait = profile.timeouts.response_headers;
        if let Some(mut connection) = endpoint.checkout().await {
            match head(&mut connection, endpoint, request, wait).await {
                Ok(answer) => return Ok((connection, answer)),
                Err(lost) if !lost.may_resend => return Err(lost.failure),
                Err(_) => {}
            }
        }
        let mut connection = self.connect(endpoint, profile.timeouts.connect).await?;
        match head(&mut connection, endpoint, request, wait).await {
            Ok(answer) => Ok((connection, answer)),
            Err(lost) => Err(lost.failure),
        }
    }

    /// A fresh connection, or an HTTP/2 one that somebody else has just made.
    async fn connect(&self, endpoint: &Arc<Endpoint>, wait: Duration) -> Result<Connection, Failure> {
        let connecting = async {
            if !endpoint.may_be_http2() {
                return self.dial(endpoint).await;
            }
            let turn = endpoint.dialling.acquire().await;
            if let Some(shared) = endpoint.shared() {
                return Ok(shared);
            }
            if !endpoint.may_be_http2() {
                drop(turn);
            }
            self.dial(endpoint).await
        };
        tokio::time::timeout(wait, Box::pin(connecting)).await.unwrap_or_else(|_| {
            let host = endpoint.name();
            let message = format!("no connection to `{host}` within {wait:?} (`timeouts.connect`)");
            Err(Failure::retryable(FailureReason::TimeoutConnect, message))
        })
    }

    async fn dial(&self, endpoint: &Arc<Endpoint>) -> Result<Connection, Failure> {
        let dialled = match endpoint.identity.proxy() {
            Some(proxy) => proxy.connect(&self.guard, &endpoint.host, endpoint.port).await?,
            None => connect::dial(&self.guard, &endpoint.host, endpoint.port).await?,
        };
        let wire = if endpoint.https {
            let config = endpoint.identity.tls()?;
            Wire::tls(tls::handshake(config, dialled.stream, &endpoint.host).await?)
        } else {
            Wire::plain(dialled.stream)
        };
        self.start_sweeper();
        let connection = connection::establish(wire, dialled.remote, &self.tasks, endpoint.name()).await?;
        match &connection {
            Connection::Http1(_) => endpoint.set_http1(),
            Connection::Http2(http2) => endpoint.share(http2),
        }
        Ok(connection)
    }

    /// With the first connection, since only then is the runtime known.
    fn start_sweeper(&self) {
        if !self.is_swept.swap(true, Ordering::Relaxed) {
            self.tasks.spawn(sweep(Arc::downgrade(&self.pool)));
        }
    }
}

impl Transport for HttpClient {
    fn send<'a>(&'a self, request: Request, profile: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        Box::pin(self.exchange(request, profile))
    }
}

async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE_TIME / 4).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.sweep();
    }
}

async fn head(
    connection: &mut Connection,
    endpoint: &Endpoint,
    request: &Request,
    wait: Duration,
) -> Result<HttpResponse<Incoming>, Lost> {
    tokio::time::timeout(wait, connection.send(endpoint, request)).await.unwrap_or_else(|_| {
        let host = endpoint.name();
        let message = format!("`{host}` did not answer within {wait:?} (`timeouts.response_headers`)");
        Err(Lost { failure: Failure::retryable(FailureReason::TimeoutHeaders, message), may_resend: false })
    })
}
