//! The bytes below HTTP: a socket, or TLS over one, or TLS through a proxy that speaks it too; with a count of what came
//! in.

use std::collections::VecDeque;
use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::net::framing::Watch;
use crate::telemetry::metrics::Level;

/// What leads to an origin, or to the proxy before it.
pub(super) enum Link {
    /// A socket.
    Tcp(TcpStream),
    /// TLS to a proxy.
    Tls(Box<TlsStream<TcpStream>>),
}

/// What HTTP runs over.
pub(super) struct Wire {
    kind: Kind,
    received: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    framing: Arc<Watch>,
    /// The beginning of a line of a head, until its end has come.
    held: Vec<u8>,
    /// What is handed on instead of bytes that have come, and did not fit.
    ready: VecDeque<u8>,
    round_trip: Duration,
    move_asked: Arc<AtomicBool>,
    look_asked: Arc<AtomicBool>,
    _open: Option<Open>,
}

/// Counts a connection for as long as it is there.
struct Open(Arc<Level>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.down();
    }
}

/// Asks a wire to move to the runtime that uses it next.
#[derive(Clone)]
pub(super) struct Mover(Arc<AtomicBool>);

impl Mover {
    /// The next use of the wire registers its socket with the runtime of whoever uses it. Otherwise, each time that
    /// something comes, one runtime would have to wake the other.
    pub(super) fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Has a wire on which nothing is due look for what its runtime does not know of yet.
#[derive(Clone)]
pub(super) struct Looker(Arc<AtomicBool>);

impl Looker {
    /// While `read` reads from the wire, the system is asked first, and the read fails if it has anything: what came is known
    /// to a runtime only once it has looked at all its sockets.
    ///
    /// Over TLS, what is there may be a message of TLS that nobody need fear. Whether it is an answer could be told only once it
    /// was read, and it need not have come whole. What was opened before is plaintext, which the read itself finds.
    pub(super) fn look_while(&self, read: impl FnOnce()) {
        self.0.store(true, Ordering::Relaxed);
        read();
        self.0.store(false, Ordering::Relaxed);
    }
}

enum Kind {
    Plain(Link),
    Tls(Box<TlsStream<Link>>),
}

impl Wire {
    pub(super) fn plain(link: Link) -> Wire {
        Wire::new(Kind::Plain(link), Duration::ZERO)
    }

    /// TLS whose handshake took `round_trip`.
    pub(super) fn tls(stream: TlsStream<Link>, round_trip: Duration) -> Wire {
        Wire::new(Kind::Tls(Box::new(stream)), round_trip)
    }

    fn new(kind: Kind, round_trip: Duration) -> Wire {
        let (received, sent, framing, held, ready, move_asked, look_asked) = Default::default();
        Wire { kind, received, sent, framing, held, ready, round_trip, move_asked, look_asked, _open: None }
    }

    /// The same, which is counted in `open` until its end.
    pub(super) fn counted(self, open: &Arc<Level>) -> Wire {
        open.up();
        Wire { _open: Some(Open(Arc::clone(open))), ..self }
    }

    /// What asks it to move to another runtime.
    pub(super) fn mover(&self) -> Mover {
        Mover(Arc::clone(&self.move_asked))
    }

    /// What makes it look for bytes that have just come.
    pub(super) fn looker(&self) -> Looker {
        Looker(Arc::clone(&self.look_asked))
    }

    /// The bare socket below it.
    fn socket(&mut self) -> &mut TcpStream {
        let link = match &mut self.kind {
            Kind::Plain(link) => link,
            Kind::Tls(stream) => stream.get_mut().0,
        };
        match link {
            Link::Tcp(stream) => stream,
            Link::Tls(stream) => stream.get_mut().0,
        }
    }

    /// Whether the system has bytes that were not read, or the end of them. One that does not wait.
    fn has_unread(&mut self) -> bool {
        let peeked = SockRef::from(&*self.socket()).peek(&mut [MaybeUninit::uninit()]);
        !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Moves to the runtime of the caller, if that was asked for.
    fn moved(&mut self) -> io::Result<&mut Kind> {
        if self.move_asked.swap(false, Ordering::Relaxed) {
            let socket = self.socket();
            let copy = std::net::TcpStream::from(socket.as_fd().try_clone_to_owned()?);
            *socket = TcpStream::from_std(copy)?;
        }
        Ok(&mut self.kind)
    }

    /// What looks at the heads of HTTP/1.1 answers.
    pub(super) fn framing(&self) -> Arc<Watch> {
        Arc::clone(&self.framing)
    }

    /// Returns how long a message and its answer take, or somewhat more; zero where nobody has asked anything yet.
    pub(super) fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// Returns whether the two ends agreed on HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        match &self.kind {
            Kind::Plain(_) => false,
            Kind::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    /// Counts bytes of the peer, above TLS: whether any of an answer came decides whether its request may be sent again.
    pub(super) fn received(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.received)
    }

    /// Counts bytes that went out.
    pub(super) fn sent(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sent)
    }

    fn count_sent(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &written {
            self.sent.fetch_add(*count as u64, Ordering::Relaxed);
        }
        written
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ready.is_empty() {
            let count = self.ready.read(buf.initialize_unfilled())?;
            buf.advance(count);
            return Poll::Ready(Ok(()));
        }
        if self.look_asked.load(Ordering::Relaxed) && self.has_unread() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "nobody has asked for this")));
        }
        loop {
            let before = buf.filled().len();
            let held = self.held.len();
            if held > 0 && buf.remaining() <= held {
                // Never of a reader with a buffer of any size: handed on as it came.
                let count = buf.remaining();
                buf.put_slice(&self.held[..count]);
                self.held.drain(..count);
                return Poll::Ready(Ok(()));
            }
            buf.put_slice(&self.held);
            let poll = match self.moved()? {
                Kind::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
                Kind::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            };
            if !matches!(poll, Poll::Ready(Ok(()))) {
                buf.set_filled(before);
                return poll;
            }
            let came = buf.filled().len() - before - held;
            self.held.clear();
            if came == 0 {
                // The end: what was held back has no more behind it.
                return Poll::Ready(Ok(()));
            }
            self.received.fetch_add(came as u64, Ordering::Relaxed);
            let seen = self.framing.see(&mut buf.filled_mut()[before..], came);
            if self.framing.is_endless() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the head does not end")));
            }
            let end = buf.filled().len() - seen.held;
            self.held.extend_from_slice(&buf.filled()[end..]);
            buf.set_filled(end);
            if let Some((at, instead)) = seen.instead {
                buf.set_filled(before + at);
                let (now, later) = instead.split_at(instead.len().min(buf.remaining()));
                buf.put_slice(now);
                self.ready.extend(later);
            }
            let end = buf.filled().len();
            if end > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncRead for Link {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Link::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Link::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl Wire {
    fn stream(&mut self) -> io::Result<Pin<&mut (dyn AsyncWrite + Unpin)>> {
        Ok(match self.moved()? {
            Kind::Plain(link) => link.stream(),
            Kind::Tls(stream) => Pin::new(&mut **stream),
        })
    }
}

impl Link {
    fn stream(&mut self) -> Pin<&mut (dyn AsyncWrite + Unpin)> {
        match self {
            Link::Tcp(stream) => Pin::new(stream),
            Link::Tls(stream) => Pin::new(&mut **stream),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.stream()?.poll_write(cx, buf);
        self.count_sent(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream()?.poll_write_vectored(cx, bufs);
        self.count_sent(written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.kind {
            Kind::Plain(link) => link.is_write_vectored(),
            Kind::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().stream().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().stream().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Link::Tcp(stream) => stream.is_write_vectored(),
            Link::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream().poll_shutdown(cx)
    }
}
