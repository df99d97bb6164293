//! One HTTP/1.1 connection.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use crate::model::failure::Failure;
use crate::net::framing::Watch;
use crate::net::lost::{Fate, Lost};
use crate::net::message::Form;
use crate::net::target::Target;
use crate::net::tasks::Tasks;
use crate::net::wire::Wire;
use crate::net::{Permit, Request, classify, keep_alive, lock, message};

/// Read buffers grow up to this: below 256 KiB large bodies cost much more CPU, above 1 MiB they fall out of the
/// processor's cache.
const BUFFER_BYTES_MAX: usize = 512 << 10;
/// Headers of one answer: as many as curl takes. Their bytes are bounded by the read buffer.
const HEADERS_MAX: usize = 5_000;

/// How long a close takes to reach the peer, about: until then it counts the request that was broken off.
const CLOSE_TRAVEL: Duration = Duration::from_millis(250);

/// A connection that carries one request at a time.
pub(super) struct Http1 {
    sender: http1::SendRequest<Full<Bytes>>,
    received: Arc<AtomicU64>,
    framing: Arc<Watch>,
    form: Form,
    pub(super) remote: SocketAddr,
    /// How long it may be idle before its peer is to be taken for gone.
    pub(super) idle_max: Duration,
    /// Of the request that is in flight; shared with the task that drives the connection and knows when it is closed.
    permit: Arc<Mutex<Permit>>,
}

impl Http1 {
    /// Starts a connection over `wire`. The task that drives it is owned by `tasks`.
    ///
    /// One odd line in the head of an answer does not cost the answer: folded lines are read as one (RFC 9112, section
    /// 5.2), and lines that are not headers are passed over, as browsers and curl do.
    pub(super) async fn establish(
        wire: Wire,
        remote: SocketAddr,
        form: Form,
        tasks: &Tasks,
        host: &str,
    ) -> Result<Http1, Failure> {
        let (received, framing) = (wire.received(), wire.framing());
        let shaken = http1::Builder::new()
            .max_buf_size(BUFFER_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .allow_obsolete_multiline_headers_in_responses(true)
            .allow_spaces_after_header_name_in_responses(true)
            .ignore_invalid_headers_in_responses(true)
            .handshake(TokioIo::new(wire))
            .await;
        let (sender, driver) = shaken.map_err(|error| classify::answer(host, &error, false))?;
        let permit = Arc::new(Mutex::new(Permit::default()));
        let held = Arc::clone(&permit);
        tasks.spawn(async move {
            // Its error, if any, reaches the request that it hit.
            let is_closed_by_us = driver.await.is_ok();
            let permit = std::mem::take(&mut *lock(&held));
            if is_closed_by_us && !permit.is_empty() {
                tokio::time::sleep(CLOSE_TRAVEL).await;
            }
            drop(permit);
        });
        Ok(Http1 { sender, received, framing, form, remote, idle_max: keep_alive::IDLE_TIME, permit })
    }

    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Waits until it can take a request; `false` when it never will.
    pub(super) async fn ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Gives the permit of the request back, whose response has been read to its end.
    pub(super) fn free(&self) {
        drop(std::mem::take(&mut *lock(&self.permit)));
    }

    /// Sends a request and waits, at most for `wait`, for the head of its answer.
    pub(super) async fn send(
        &mut self,
        target: &Target,
        request: &Request,
        wait: Duration,
    ) -> Result<http::Response<Incoming>, Lost> {
        let message =
            message::http1(target, &self.form, request).map_err(|failure| Lost { failure, fate: Fate::Over })?;
        *lock(&self.permit) = request.permit.clone();
        self.framing.begin();
        let before = self.received.load(Ordering::Relaxed);
        let host = target.name();
        let answer = tokio::time::timeout(wait, self.sender.try_send_request(message));
        let Ok(answer) = answer.await else {
            return Err(Lost { failure: classify::no_answer(host, wait), fate: Fate::Over });
        };
        let answer = answer.map_err(|mut error| {
            let is_unsent = error.take_message().is_some();
            let is_answered = self.received.load(Ordering::Relaxed) != before;
            let failure = classify::answer(host, error.error(), is_answered);
            let fate = match (is_unsent, is_answered) {
                (true, _) => Fate::Unsent,
                (false, true) => Fate::Over,
                (false, false) => Fate::Unanswered,
            };
            Lost { failure, fate }
        })?;
        if self.framing.is_broken() {
            return Err(Lost { failure: classify::broken_framing(host), fate: Fate::Over });
        }
        self.form.judge(&answer).map_err(|failure| Lost { failure, fate: Fate::Over })?;
        self.idle_max = keep_alive::idle_max(answer.headers());
        Ok(answer)
    }
}
