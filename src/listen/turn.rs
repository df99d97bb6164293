//! What a connection writes in one turn leaves in as few pieces as fit.
//!
//! HTTP/2 writes each frame by itself: the answers of thirty calls are thirty writes, and a stream of long messages is a write
//! for each 16 KiB of it. Each is a system call and a packet. Here what is written is kept while the connection is polled, and
//! sent when it has nothing more to do, or as soon as there is a lot of it. Where many calls are open, the other tasks that are
//! ready have their turn before that: one commit answers many calls, and the runtime polls the connection as soon as the first of
//! them has its answer. Nothing waits for a timer, or longer than that.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::listen::unread::Answering;

/// The most that is kept.
const KEPT_BYTES: usize = 64 << 10;

/// From so many open calls on, several may have their answers at once.
const CROWD: usize = 16;

/// The room that is made first. The allocator has pieces of up to a KiB at hand, so that a connection which says little leaves no
/// hole behind in the memory of those that come after it.
const FEW_BYTES: usize = 1_000;
/// The room that is made where that does not do.
const MORE_BYTES: usize = 8 << 10;

thread_local! {
    /// Room for all that is kept, between two turns with long messages. It would be made anew for each of them, and be made larger,
    /// and what is there be copied, with each of their frames.
    static ROOM: Cell<BytesMut> = Cell::default();
}

/// A stream whose writes are kept until the end of a turn of [`Turns::drive`]. Flushing it does nothing, since HTTP/2 flushes
/// after each frame.
#[derive(Debug)]
pub(super) struct Kept<T>(Arc<Mutex<State<T>>>);

/// The other hold of such a stream, by which what it keeps is sent.
#[derive(Debug)]
pub(super) struct Turns<T>(Arc<Mutex<State<T>>>);

#[derive(Debug)]
struct State<T> {
    stream: T,
    kept: BytesMut,
    /// Whether this turn has waited for other tasks that were ready.
    has_waited: bool,
}

/// Wraps a stream.
pub(super) fn kept<T>(stream: T) -> (Kept<T>, Turns<T>) {
    let state = Arc::new(Mutex::new(State { stream, kept: BytesMut::new(), has_waited: false }));
    (Kept(state.clone()), Turns(state))
}

fn lock<T>(state: &Mutex<State<T>>) -> MutexGuard<'_, State<T>> {
    // A panic in a stream leaves at worst bytes that are sent, or not, on a connection that ends.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> State<T> {
    /// Whether what is kept is sent only when the tasks that are ready have had their turn. None waits twice.
    fn waits_for_others(&mut self) -> bool {
        let waits = !self.has_waited && !self.kept.is_empty() && self.kept.len() < KEPT_BYTES;
        self.has_waited = waits;
        waits
    }

    /// Makes room for so many bytes more.
    fn make_room(&mut self, more: usize) {
        if self.kept.try_reclaim(more) {
            return;
        }
        if self.kept.len() + more > MORE_BYTES {
            let mut room = ROOM.take();
            room.reserve(KEPT_BYTES);
            room.extend_from_slice(&self.kept);
            self.kept = room;
        } else {
            let room = if self.kept.is_empty() { FEW_BYTES } else { MORE_BYTES };
            self.kept.reserve(room.max(more));
        }
    }

    /// Keeps no room, now that all is sent: connections are many, and most of them are silent.
    fn give_room_back(&mut self) {
        let mut room = std::mem::take(&mut self.kept);
        // After a write that failed there are still bytes in it, which are not another connection's.
        room.clear();
        if room.try_reclaim(KEPT_BYTES) {
            ROOM.set(room);
        }
    }
}

impl<T: AsyncWrite + Unpin> State<T> {
    /// Sends all that is kept.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.kept.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.kept))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.kept.advance(sent);
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Keeps as much of these as there is room for, which is made where there is none.
    fn poll_keep(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.kept.len() >= KEPT_BYTES {
            ready!(self.poll_sent(cx))?;
        }
        let all: usize = pieces.iter().map(|piece| piece.len()).sum();
        if self.kept.is_empty() && all >= KEPT_BYTES {
            // There is enough of it as it is.
            return Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        }
        let before = self.kept.len();
        self.make_room(all.min(KEPT_BYTES - before));
        for piece in pieces {
            let room = KEPT_BYTES - self.kept.len();
            self.kept.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        Poll::Ready(Ok(self.kept.len() - before))
    }
}

impl<T: AsyncWrite + Unpin> Turns<T> {
    /// Polls whoever writes to the stream, until that has ended, and sends what is kept after each turn. `unsent` is told
    /// whether that waits for the client.
    pub(super) async fn drive<E: From<io::Error>>(
        &self,
        mut writer: Pin<&mut impl Future<Output = Result<(), E>>>,
        unsent: &Answering,
    ) -> Result<(), E> {
        poll_fn(|cx| {
            let polled = writer.as_mut().poll(cx);
            let mut state = lock(&self.0);
            if polled.is_pending() && unsent.calls() >= CROWD && state.waits_for_others() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let before = state.kept.len();
            let sent = state.poll_sent(cx);
            if sent.is_ready() {
                state.give_room_back();
            }
            // The writer knows nothing of what is kept here, and would wait for nobody.
            if sent.is_pending() != unsent.waits() || state.kept.len() < before && sent.is_pending() {
                unsent.set_waits(sent.is_pending());
            }
            match sent {
                // Whoever writes learns of it only when it writes again.
                Poll::Ready(Err(error)) if polled.is_pending() => Poll::Ready(Err(error.into())),
                // Who has ended has shut the stream down before, which sent all.
                _ => polled,
            }
        })
        .await
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Kept<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).stream).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Kept<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_keep(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_keep(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        ready!(state.poll_sent(cx))?;
        Pin::new(&mut state.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::JoinSet;

    use super::*;
    use crate::listen::unread::Unread;

    /// Notes how long each write is, and writes to another stream.
    #[derive(Debug)]
    struct Noting<T>(T, Arc<Mutex<Vec<usize>>>);

    impl<T: AsyncRead + Unpin> AsyncRead for Noting<T> {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, to)
        }
    }

    impl<T: AsyncWrite + Unpin> AsyncWrite for Noting<T> {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let written = ready!(Pin::new(&mut self.0).poll_write(cx, bytes))?;
            self.1.lock().unwrap().push(written);
            Poll::Ready(Ok(written))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn what_is_written_in_a_turn_leaves_at_its_end_in_one_piece() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let writes = Arc::new(Mutex::new(Vec::new()));
        let unsent = Unread::new().silent();
        let (mut stream, turns) = kept(Noting(near, writes.clone()));
        let mut answered = [0; 2];
        let mut writer = Box::pin(async move {
            for byte in 0..30 {
                stream.write_all(&[byte; 100]).await?;
                stream.flush().await?;
            }
            stream.read_exact(&mut answered).await?;
            stream.write_all(b"end").await?;
            stream.shutdown().await
        });
        assert!(turns.drive(writer.as_mut(), &unsent).now_or_never().is_none(), "it waits for an answer");
        assert_eq!(*writes.lock().unwrap(), [3_000]);
        assert_eq!(lock(&turns.0).kept.capacity(), 0, "who is silent keeps nothing");
        far.write_all(b"ok").await.unwrap();
        turns.drive(writer.as_mut(), &unsent).await.unwrap();
        assert_eq!(*writes.lock().unwrap(), [3_000, 3]);
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.unwrap();
        assert!(all[..3_000].is_sorted() && all.ends_with(b"end"));
    }

    /// Returns what is written for ten answers of so many bytes.
    async fn written_for(answer_bytes: usize) -> Vec<usize> {
        let (near, _far) = tokio::io::duplex(1 << 20);
        let writes = Arc::new(Mutex::new(Vec::new()));
        let (mut stream, turns) = kept(Noting(near, writes.clone()));
        let unread = Unread::new();
        let _calls = vec![unread.clone(); CROWD];
        let (answers, mut answered) = tokio::sync::mpsc::unbounded_channel::<u8>();
        let (mut connection, mut calls) = (JoinSet::new(), JoinSet::new());
        connection.spawn(async move {
            let mut writer = Box::pin(async move {
                while let Some(byte) = answered.recv().await {
                    stream.write_all(&vec![byte; answer_bytes]).await?;
                }
                stream.shutdown().await
            });
            turns.drive(writer.as_mut(), &unread.silent()).await
        });
        calls.spawn(async move {
            let mut answering = JoinSet::new();
            for byte in 0..10 {
                let answers = answers.clone();
                answering.spawn(async move { answers.send(byte) });
            }
            answering
        });
        let mut answering = calls.join_next().await.unwrap().unwrap();
        while let Some(answered) = answering.join_next().await {
            answered.unwrap().unwrap();
        }
        connection.join_next().await.unwrap().unwrap().unwrap();
        writes.lock().unwrap().clone()
    }

    /// A runtime polls what was woken last first.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_several_tasks_cause_leaves_together() {
        assert_eq!(written_for(100).await, [1_000]);
        let whole = 400_000 / KEPT_BYTES;
        let expected = [vec![KEPT_BYTES; whole], vec![400_000 - whole * KEPT_BYTES]].concat();
        assert_eq!(written_for(40_000).await, expected, "long ones as well");
    }

    #[test]
    fn what_is_little_takes_little_room() {
        let (near, _far) = tokio::io::duplex(1_000);
        let (_stream, turns) = kept(near);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for (bytes, room) in [(50, 1 << 10), (50, 1 << 10), (5_000, 16 << 10)] {
            let piece = vec![1; bytes];
            let kept = lock(&turns.0).poll_keep(&mut cx, &[IoSlice::new(&piece)]);
            assert!(matches!(kept, Poll::Ready(Ok(count)) if count == bytes));
            assert!(lock(&turns.0).kept.capacity() <= room);
        }
    }

    #[tokio::test]
    async fn a_long_turn_keeps_its_room_until_it_ends() {
        let (near, _far) = tokio::io::duplex(1 << 20);
        let unsent = Unread::new().silent();
        let (mut stream, turns) = kept(near);
        let state = turns.0.clone();
        let mut writer = Box::pin(async move {
            for _ in 0..80 {
                stream.write_all(&[7; 1_000]).await?;
            }
            // The first of it has been sent.
            assert!((1..KEPT_BYTES).contains(&lock(&state).kept.len()));
            assert!(lock(&state).kept.capacity() > KEPT_BYTES / 2);
            std::future::pending::<io::Result<()>>().await
        });
        assert!(turns.drive(writer.as_mut(), &unsent).now_or_never().is_none());
        assert_eq!(lock(&turns.0).kept.capacity(), 0, "who is silent keeps nothing");
    }

    #[tokio::test]
    async fn no_more_is_kept_than_the_bound_and_all_arrives_in_order() {
        // Less fits into the pipe than is kept, so that the writer waits for the reader again and again.
        let (near, mut far) = tokio::io::duplex(1_000);
        let unsent = Unread::new().silent();
        let (mut stream, turns) = kept(near);
        let sent: Vec<u8> = (0..400_000_u32).map(|number| (number / 7) as u8).collect();
        let expected = sent.clone();
        let mut writer = Box::pin(async move {
            for piece in sent.chunks(3_001) {
                stream.write_all(piece).await?;
            }
            // A piece that is long enough by itself is not copied.
            stream.write_all(&sent).await?;
            stream.shutdown().await
        });
        assert!(turns.drive(writer.as_mut(), &unsent).now_or_never().is_none());
        assert_eq!(lock(&turns.0).kept.len(), KEPT_BYTES - 1_000);
        assert!(unsent.waits(), "what is kept waits for the reader");
        let mut all = Vec::new();
        let (driven, read) = tokio::join!(turns.drive(writer.as_mut(), &unsent), far.read_to_end(&mut all));
        driven.unwrap();
        assert!(!unsent.waits());
        assert_eq!(read.unwrap(), 2 * expected.len());
        assert!(all[..expected.len()] == expected && all[expected.len()..] == expected);
    }

    #[tokio::test]
    async fn a_stream_that_fails_ends_whoever_writes() {
        let (near, far) = tokio::io::duplex(1_000);
        drop(far);
        let unsent = Unread::new().silent();
        let (mut stream, turns) = kept(near);
        let mut writer = Box::pin(async move {
            stream.write_all(b"lost").await?;
            std::future::pending::<io::Result<()>>().await
        });
        let ended = turns.drive(writer.as_mut(), &unsent).now_or_never().unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
