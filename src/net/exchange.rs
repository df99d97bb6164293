//! Whole exchanges: a request with what its profile adds, through every redirect, to the answer that counts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header;

use crate::model::failure::Failure;
use crate::model::retry::is_idempotent;
use crate::model::spec::HttpOptions;
use crate::net::course::Course;
use crate::net::redirect::Trail;
use crate::net::session::{Session, Trace};
use crate::net::{Body, BodySource, Profile, Request, Response, Transport, redirect, retry_after};

/// How much of an unwanted body is read so that its connection can be used again, in bytes, and for how long.
const DRAIN_BYTES_MAX: usize = 64 << 10;
const DRAIN_WAIT: Duration = Duration::from_millis(250);
/// The longest wait of an exchange for origins that redirect and ask for time (RFC 9110, section 10.2.3). The task holds
/// its place while it waits, so what takes longer is for its redirects and attempts to ask again.
const REDIRECT_WAIT_MAX: Duration = Duration::from_secs(60);

/// Sends `request` with the headers, credentials and cookies of its task, and follows redirects. Any status that does
/// not redirect is a success here: judging it is the caller's.
///
/// Secrets go to the session's home only: once a redirect has left it, credentials, the client certificate and all
/// headers but those that say what is asked for stay behind for the rest of the exchange, even if it comes back.
///
/// The body of an answer that is neither a success nor wanted by the session is empty: it has been read, or its
/// connection closed, so that dropping the answer costs nothing.
pub async fn exchange(
    transport: &dyn Transport,
    request: Request,
    profile: &Arc<Profile>,
    session: &mut Session,
) -> Result<Response, Failure> {
    let limit = profile.http.max_redirects.unwrap_or(HttpOptions::REDIRECTS_DEFAULT);
    let is_repeatable = is_idempotent(request.method.as_str());
    let mut course = Course::new(request, profile, session)?;
    session.trace = Trace::default();
    let mut patience = REDIRECT_WAIT_MAX;
    loop {
        session.trace = Trace { url: Some(course.url.clone()), redirects: session.trace.redirects, ..Trace::default() };
        let sent = transport.send(course.request(&session.jar), &course.profile).await;
        let response = sent.map_err(|failure| of_hop(failure, session.trace.redirects, is_repeatable))?;
        session.trace.remote = response.remote;
        session.trace.status = response.status.as_u16();
        session.jar.keep(&course.url, &response.headers);
        if response.status.is_success() || session.wants(response.status.as_u16()) {
            return Ok(response);
        }
        let trail = Trail { from: &course.url, method: &course.method, followed: session.trace.redirects, limit };
        let location = response.headers.get(header::LOCATION).map(header::HeaderValue::as_bytes);
        let hop = redirect::decide(response.status, location, &trail)?;
        let Response { body, headers, .. } = response;
        drain(body).await;
        let Some(hop) = hop else {
            return Ok(Response { body: Body(Box::new(Empty)), headers, ..response });
        };
        if let Some(wait) = retry_after::of_redirect(&headers) {
            let wait = wait.min(patience);
            patience -= wait;
            tokio::time::sleep(wait).await;
        }
        course.turn(hop)?;
        session.trace.redirects += 1;
    }
}

/// Returns what the failure of a request says of the whole exchange, of which so many were answered before it: an origin
/// has looked at it then, so it is neither unsent, nor to be made again without counting where that may repeat what was
/// done.
fn of_hop(failure: Failure, answered: u32, is_repeatable: bool) -> Failure {
    if answered == 0 {
        return failure;
    }
    let paused_until = failure.paused_until.filter(|_| is_repeatable);
    Failure { is_unsent: false, paused_until, ..failure }
}

/// Reads what is left of a small body, so that its connection can be used again. Gives up where it is not small or not
/// quick, which closes the connection.
pub async fn drain(body: Body) {
    let _ = tokio::time::timeout(DRAIN_WAIT, discard(body)).await;
}

async fn discard(mut body: Body) {
    let mut left = DRAIN_BYTES_MAX;
    while let Some(Ok(chunk)) = body.chunk().await {
        let Some(less) = left.checked_sub(chunk.len()) else { return };
        left = less;
    }
}

/// The body of an answer whose body nobody wants.
struct Empty;

impl BodySource for Empty {
    fn chunk(&mut self) -> BoxFuture<'_, Option<Result<Bytes, Failure>>> {
        Box::pin(std::future::ready(None))
    }
}
