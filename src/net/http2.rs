//! One HTTP/2 connection, shared by many requests.
//!
//! Each request has a stream. What its peer may send ahead of us is bounded for each stream by its window, and for the
//! connection by one that is wide enough for all of them: a body that is read slowly holds up its own stream and no
//! other.

use std::future::Future as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::model::failure::Failure;
use crate::model::spec::Timeouts;
use crate::net::http2_driver::{Driver, UNKNOWN_STREAMS_MAX, first_window};
use crate::net::http2_state::{Lease, State, Windows};
use crate::net::lost::{Fate, Lost};
use crate::net::patience;
use crate::net::target::Target;
use crate::net::tasks::Tasks;
use crate::net::uptake::Uptake;
use crate::net::wire::Wire;
use crate::net::{Permit, Request, classify, message};

/// Requests at once on one connection: most peers allow 100 to 256, and more would share one TCP stream thinly.
const STREAMS_MAX: usize = 100;
/// The window of a connection: the largest there is. It is more than its streams can fill, since the windows of all streams
/// together are bounded (see [`Windows`]) and each has little beyond that.
const CONNECTION_WINDOW_BYTES: u32 = i32::MAX as u32;
/// The largest frames that are asked for. Peers send 16 KiB otherwise, and each frame costs.
const FRAME_BYTES_MAX: u32 = 256 << 10;
/// What small frames that nobody has read may cost on a connection, at 256 bytes each less their content: windows count
/// only content, and a peer that sends it byte by byte would fill the memory with frames.
const SMALL_FRAMES_BUDGET: usize = 16 << 20;
/// What is handed over of a request's body before the peer has taken what was before it: so much may take as long on its way
/// as an answer may.
const UPLOAD_BYTES_MAX: usize = 64 << 10;
/// The head of one answer, in bytes as HTTP/2 counts them.
const HEAD_BYTES_MAX: u32 = 512 << 10;

/// A connection as one holder has it: the pool, or a request.
pub(super) struct Http2 {
    sender: SendRequest<Bytes>,
    state: Arc<State>,
    driver: Arc<Mutex<Driver>>,
    tasks: Arc<Tasks>,
    /// Held for what its end does. `None`: the holder is the pool.
    lease: Option<Lease>,
    /// Of the request that is in flight.
    permit: Permit,
    pub(super) remote: SocketAddr,
}

impl Http2 {
    /// Starts a connection over `wire`, for the pool to hold. The task that drives it is owned by `tasks`.
    pub(super) async fn establish(
        wire: Wire,
        remote: SocketAddr,
        tasks: &Arc<Tasks>,
        windows: &Arc<Windows>,
        host: &str,
    ) -> Result<Http2, Failure> {
        let (received, mover, window) = (wire.received(), wire.mover(), windows.most(first_window(wire.round_trip())));
        let shaken = h2::client::Builder::new()
            .initial_window_size(window)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_max_send_streams(UNKNOWN_STREAMS_MAX)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_header_list_size(HEAD_BYTES_MAX)
            .data_frame_budget(SMALL_FRAMES_BUDGET)
            .max_send_buffer_size(UPLOAD_BYTES_MAX)
            .enable_push(false)
            .handshake(wire)
            .await;
        let (sender, connection) = shaken.map_err(|error| classify::stream(host, &error))?;
        let state = Arc::new(State::new(windows, window, Arc::clone(&received)));
        let driver = Driver::start(connection, Arc::clone(&state), received, window, mover, tasks);
        Ok(Http2 { sender, state, driver, tasks: Arc::clone(tasks), lease: None, permit: Permit::default(), remote })
    }

    /// A share for one request. A connection that nobody else uses goes to the runtime of the caller.
    pub(super) fn share(&self, is_separate: bool) -> Http2 {
        if self.load() == 0 {
            Driver::settle_here(&self.driver, &self.tasks);
        }
        Http2 {
            sender: self.sender.clone(),
            state: Arc::clone(&self.state),
            driver: Arc::clone(&self.driver),
            tasks: Arc::clone(&self.tasks),
            lease: Some(Lease::new(&self.state, is_separate)),
            permit: Permit::default(),
            remote: self.remote,
        }
    }

    /// Returns whether it is moved by the runtime of the caller.
    pub(super) fn is_here(&self) -> bool {
        self.state.home() == Some(Handle::current().id())
    }

    /// Takes the permit of the request out, whose answer has been read to its end.
    pub(super) fn free(&mut self) -> Permit {
        std::mem::take(&mut self.permit)
    }

    /// Requests on it.
    pub(super) fn load(&self) -> usize {
        self.state.load()
    }

    /// Returns whether a request is on it that asked not to share it.
    pub(super) fn is_separate(&self) -> bool {
        self.state.is_separate()
    }

    /// Returns whether it takes no more requests: it has ended, or its peer has said that it is about to.
    pub(super) fn is_closed(&self) -> bool {
        // A handle of its own waits for nothing, so this asks for errors alone.
        let mut cx = Context::from_waker(Waker::noop());
        matches!(self.sender.clone().poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// Returns whether there is a window for one more stream on it: what all peers may send ahead is bounded.
    pub(super) fn has_window(&self) -> bool {
        self.state.has_window()
    }

    /// Returns whether it may be dead: a request has waited for its answer in vain, and nothing at all has come since.
    pub(super) fn is_doubtful(&self) -> bool {
        self.state.is_doubtful()
    }

    /// Returns whether one more request would begin at once. Until the peer has said how many it allows, one is
    /// certain.
    pub(super) fn has_room(&self) -> bool {
        let most = if self.is_settled() { self.sender.current_max_send_streams().min(STREAMS_MAX) } else { 1 };
        self.load() < most
    }

    /// Returns whether the peer has said how many streams it allows.
    pub(super) fn is_settled(&self) -> bool {
        self.state.is_settled.is_cancelled()
    }

    /// Cancelled once [`Http2::is_settled`].
    pub(super) fn settled(&self) -> CancellationToken {
        self.state.is_settled.clone()
    }

    /// Sends a request and waits for the head of its answer: at most as long as its timeout says without a piece of the
    /// request going out, and as long as its body goes out fast enough.
    ///
    /// Where the peer allows no more streams, the request waits for one to end first, and that is not the answer's
    /// time: the streams before it have timeouts of their own.
    pub(super) async fn send(
        &mut self,
        target: &Target,
        request: &Request,
        timeouts: &Timeouts,
    ) -> Result<http::Response<RecvStream>, Lost> {
        let wait = timeouts.response_headers;
        let head = message::http2(target, request).map_err(|failure| Lost { failure, fate: Fate::Over })?;
        let host = target.name();
        let unsent = |error: &h2::Error| Lost { failure: classify::stream(host, error), fate: Fate::Unsent };
        let is_empty = request.body.is_empty();
        let (answer, stream) = self.sender.send_request(head, is_empty).map_err(|error| unsent(&error))?;
        self.permit = request.permit.clone();
        self.opened(host, wait).await?;
        let mut uptake = Uptake::new(timeouts);
        let (mut answer, mut upload) = (std::pin::pin!(answer), Upload { stream, rest: request.body.clone() });
        loop {
            let received = self.state.received();
            let next = std::future::poll_fn(|cx| match answer.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending => upload.poll_piece(cx).map(|()| None),
            });
            match patience::within(wait, next).await {
                // The peer takes its body, and has more to come before it can answer.
                Ok(None) => {
                    let taken = request.body.len() - upload.rest.len();
                    if !upload.rest.is_empty() {
                        let judged = uptake.judge(host, taken as u64);
                        judged.map_err(|failure| Lost { failure, fate: Fate::Over })?;
                    }
                }
                Ok(Some(answer)) => {
                    upload.finish();
                    if answer.as_ref().is_err_and(|error| error.is_remote() || error.is_io()) {
                        // The peer has ended it.
                        drop(self.free());
                    }
                    return answer.map_err(|error| lost(host, &error));
                }
                Err(_) => {
                    self.state.waited_in_vain(received);
                    return Err(Lost { failure: classify::no_answer(host, wait), fate: Fate::Over });
                }
            }
        }
    }

    /// Waits until the peer has room for the stream. A peer that has none although it serves no other one does not
    /// answer.
    async fn opened(&mut self, host: &str, wait: Duration) -> Result<(), Lost> {
        loop {
            let opened = std::future::poll_fn(|cx| self.sender.poll_ready(cx));
            match patience::within(wait, opened).await {
                Ok(Ok(())) => {
                    self.lease.as_mut().map(Lease::opened);
                    return Ok(());
                }
                Ok(Err(error)) => return Err(lost(host, &error)),
                Err(_) if self.state.has_open() => {}
                Err(_) => return Err(Lost { failure: classify::no_answer(host, wait), fate: Fate::Unsent }),
            }
        }
    }
}

/// A request that is given up before the end of its answer is reset, of which the peer has to hear.
impl Drop for Http2 {
    fn drop(&mut self) {
        self.free().release_later(&self.tasks);
    }
}

/// The body of a request on its way, piece by piece as the peer takes it, so that it shows when it takes no more.
struct Upload {
    stream: SendStream<Bytes>,
    /// What is not on its way yet.
    rest: Bytes,
}

impl Upload {
    /// Sends one more piece. Pending, without anybody being woken, once there is none: then only the answer is to come.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.rest.is_empty() {
            return Poll::Pending;
        }
        self.stream.reserve_capacity(self.rest.len().min(UPLOAD_BYTES_MAX));
        while self.stream.capacity() == 0 {
            // What became of a stream that takes no more, its answer says.
            let Some(Ok(_)) = ready!(self.stream.poll_capacity(cx)) else {
                self.rest = Bytes::new();
                return Poll::Pending;
            };
        }
        let piece = self.rest.split_to(self.stream.capacity().min(self.rest.len()));
        // As above.
        let _ = self.stream.send_data(piece, self.rest.is_empty());
        Poll::Ready(())
    }

    /// Leaves what is left to the connection: a peer may answer before it has read all of it.
    fn finish(mut self) {
        if !self.rest.is_empty() {
            let _ = self.stream.send_data(self.rest, true);
        }
    }
}

/// Returns what an error says of a request that was not answered.
fn lost(host: &str, error: &h2::Error) -> Lost {
    let fate = match error.reason() {
        Some(Reason::HTTP_1_1_REQUIRED) => Fate::NeedsHttp1,
        _ if classify::is_refused(error) => Fate::Unsent,
        // The connection's own end, for what another request on it brought.
        _ if error.is_io() || (error.is_go_away() && error.is_library()) => Fate::Unanswered,
        _ => Fate::Over,
    };
    Lost { failure: classify::stream(host, error), fate }
}
