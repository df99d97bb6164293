//! One HTTP/1.1 connection.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::runtime::{Handle, Id};

use crate::model::failure::Failure;
use crate::model::spec::Timeouts;
use crate::net::framing::Watch;
use crate::net::lost::{Fate, Lost};
use crate::net::message::Form;
use crate::net::patience;
use crate::net::target::Target;
use crate::net::tasks::Tasks;
use crate::net::uptake::Uptake;
use crate::net::wire::{Looker, Mover, Wire};
use crate::net::{Permit, Request, classify, keep_alive, message};

/// Read buffers grow up to this: below 256 KiB large bodies cost much more CPU, above 1 MiB they fall out of the
/// processor's cache.
const BUFFER_BYTES_MAX: usize = 512 << 10;

/// A connection that carries one request at a time.
///
/// It is a value and not a task: whoever has it moves its bytes, and an unused one costs nothing and may go to any
/// runtime.
pub(super) struct Http1 {
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` once the connection has ended.
    driver: Option<Box<http1::Connection<TokioIo<Wire>, Full<Bytes>>>>,
    received: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    /// How much had been received when the last head was whole.
    received_before: u64,
    framing: Arc<Watch>,
    mover: Mover,
    looker: Looker,
    /// The runtime that its socket is registered with.
    home: Id,
    form: Form,
    pub(super) remote: SocketAddr,
    /// How long it may be idle before its peer is to be taken for gone.
    pub(super) idle_max: Duration,
    /// Of the request that is in flight.
    permit: Permit,
    tasks: Arc<Tasks>,
}

impl Http1 {
    /// Starts a connection over `wire`. `tasks` owns what has to go on once a connection was closed.
    ///
    /// One odd line in the head of an answer does not cost the answer: folded lines are read as one (RFC 9112, section
    /// 5.2), and lines that are not headers are passed over, as browsers and curl do.
    pub(super) async fn establish(
        wire: Wire,
        remote: SocketAddr,
        form: Form,
        tasks: &Arc<Tasks>,
        host: &str,
    ) -> Result<Http1, Failure> {
        let (received, sent, framing) = (wire.received(), wire.sent(), wire.framing());
        let (mover, looker) = (wire.mover(), wire.looker());
        let shaken = http1::Builder::new()
            .max_buf_size(BUFFER_BYTES_MAX)
            .allow_obsolete_multiline_headers_in_responses(true)
            .allow_spaces_after_header_name_in_responses(true)
            .ignore_invalid_headers_in_responses(true)
            .handshake(TokioIo::new(wire))
            .await;
        let (sender, driver) = shaken.map_err(|error| classify::answer(host, &error, false))?;
        Ok(Http1 {
            sender,
            driver: Some(Box::new(driver)),
            received,
            sent,
            received_before: 0,
            framing,
            mover,
            looker,
            home: Handle::current().id(),
            form,
            remote,
            idle_max: keep_alive::IDLE_TIME,
            permit: Permit::default(),
            tasks: Arc::clone(tasks),
        })
    }

    /// Moves bytes both ways. An error of the connection reaches the request that it hit.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && Pin::new(&mut **driver).poll(cx).is_ready()
        {
            self.driver = None;
        }
    }

    /// Returns whether it can take a request now. What came since it was last used is looked at, so that one which its
    /// peer has closed is noticed.
    pub(super) fn is_ready(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Returns whether it can take a request at this moment: as [`Http1::is_ready`], and nothing has come that its runtime does
    /// not know of yet. What came without a request would be taken for the answer to the next one.
    ///
    /// What comes once that was written cannot be told from its answer.
    pub(super) fn is_silent(&mut self) -> bool {
        let looker = self.looker.clone();
        looker.look_while(|| self.drive(&mut Context::from_waker(Waker::noop())));
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Returns the runtime that it was last used on.
    pub(super) fn home(&self) -> Id {
        self.home
    }

    /// Goes to the runtime of the caller.
    pub(super) fn settle_here(&mut self) {
        let here = Handle::current().id();
        if self.home != here {
            self.home = here;
            self.mover.ask();
        }
    }

    /// Returns how many bytes came behind the last head, at least.
    pub(super) fn body_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed) - self.received_before
    }

    /// Takes the permit of the request out, whose response has been read to its end.
    pub(super) fn free(&mut self) -> Permit {
        std::mem::take(&mut self.permit)
    }

    /// Sends a request and waits for the head of its answer: at most as long as its timeout says without a byte of the
    /// request going out, and as long as its body goes out fast enough.
    pub(super) async fn send(
        &mut self,
        target: &Target,
        request: &Request,
        timeouts: &Timeouts,
    ) -> Result<http::Response<Incoming>, Lost> {
        let wait = timeouts.response_headers;
        let message =
            message::http1(target, &self.form, request).map_err(|failure| Lost { failure, fate: Fate::Over })?;
        self.permit = request.permit.clone();
        self.framing.begin();
        let before = self.received.load(Ordering::Relaxed);
        let (host, body_bytes) = (target.name(), request.body.len() as u64);
        let (sent_before, mut uptake) = (self.sent.load(Ordering::Relaxed), Uptake::new(timeouts));
        let answer = {
            let mut asked = std::pin::pin!(self.sender.try_send_request(message));
            let driver = &mut self.driver;
            let mut answer = std::future::poll_fn(|cx| {
                // Moved first: the answer comes by it, and so does the news that it has ended.
                if let Some(connection) = driver
                    && Pin::new(&mut **connection).poll(cx).is_ready()
                {
                    *driver = None;
                }
                asked.as_mut().poll(cx)
            });
            loop {
                let sent = self.sent.load(Ordering::Relaxed);
                if let Ok(answer) = patience::within(wait, &mut answer).await {
                    break Ok(answer);
                }
                let now = self.sent.load(Ordering::Relaxed);
                if now == sent || body_bytes == 0 {
                    break Err(classify::no_answer(host, wait));
                }
                // A large body takes its time on its way.
                let taken = now - sent_before;
                if taken < body_bytes
                    && let Err(failure) = uptake.judge(host, taken)
                {
                    break Err(failure);
                }
            }
        };
        let answer = answer.map_err(|failure| Lost { failure, fate: Fate::Over })?;
        let mut answer = answer.map_err(|mut error| {
            if self.framing.is_endless() {
                return Lost { failure: classify::large_head(host), fate: Fate::Over };
            }
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
        if self.framing.is_broken() || self.framing.is_misled(answer.headers()) {
            return Err(Lost { failure: classify::broken_framing(host), fate: Fate::Over });
        }
        self.framing.take_aside().join(answer.headers_mut());
        self.form.judge(&answer).map_err(|failure| Lost { failure, fate: Fate::Over })?;
        self.received_before = self.received.load(Ordering::Relaxed);
        self.idle_max = keep_alive::idle_max(answer.headers(), self.framing.is_http10());
        Ok(answer)
    }
}

impl Drop for Http1 {
    fn drop(&mut self) {
        let is_closed_by_us = self.driver.take().is_some();
        let permit = std::mem::take(&mut self.permit);
        if is_closed_by_us {
            permit.release_later(&self.tasks);
        }
    }
}
