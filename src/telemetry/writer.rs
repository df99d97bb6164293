//! The writer of the log: a queue that is bounded in bytes, and one thread that empties it to stderr.
//!
//! Whoever logs must never wait: the loop of the engine logs, and a stderr on a full disk, a closed pipe or a pager that
//! nobody scrolls would stop it. What the queue or stderr does not take is lost and counted.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Bytes of lines that may wait for a slow stderr.
const QUEUE_BYTES_MAX: usize = 1 << 20;
/// How long the end of the process waits for a stderr that takes nothing.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The lines that wait to be written.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines lost since the last that was written.
    lost: u64,
    is_writing: bool,
    is_closed: bool,
}

impl Queue {
    /// Makes a queue and the thread that empties it. The thread ends once the queue is closed and empty.
    pub(super) fn start() -> Arc<Queue> {
        let queue = Arc::new(Queue::default());
        let own = queue.clone();
        let thread = std::thread::Builder::new().name("log".to_owned());
        if thread.spawn(move || own.run(&mut io::stderr())).is_err() {
            lock(&queue.state).is_closed = true;
        }
        queue
    }

    /// Takes a line, or counts it as lost. Never waits for the disk.
    fn push(&self, line: Vec<u8>) {
        let mut state = lock(&self.state);
        if state.is_closed || state.bytes + line.len() > QUEUE_BYTES_MAX {
            state.lost += 1;
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        drop(state);
        self.changed.notify_all();
    }

    /// Takes no more lines, and waits a moment until those that are queued are written.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.is_closed = true;
        self.changed.notify_all();
        let is_busy = |state: &mut State| state.is_writing || !state.lines.is_empty();
        // The thread is not joined: a stderr that blocks for ever would keep the process.
        drop(self.changed.wait_timeout_while(state, CLOSE_TIMEOUT, is_busy).unwrap_or_else(PoisonError::into_inner));
    }

    fn run(&self, out: &mut impl Write) {
        while let Some((batch, count)) = self.next_batch() {
            let lost = self.write(out, &batch, count);
            if lost > 0 {
                tracing::warn!(lines = lost, "lines of the log were lost: they could not be written to stderr");
            }
        }
    }

    /// Writes a batch of `count` lines. Returns how many lines were lost before it, to be reported now that stderr takes
    /// lines again.
    fn write(&self, out: &mut impl Write, batch: &[u8], count: u64) -> u64 {
        let is_written = out.write_all(batch).and_then(|()| out.flush()).is_ok();
        let mut state = lock(&self.state);
        state.is_writing = false;
        let lost = if is_written { std::mem::take(&mut state.lost) } else { 0 };
        if !is_written {
            state.lost += count;
        }
        drop(state);
        self.changed.notify_all();
        lost
    }

    /// Waits for lines, and takes all there are. `None`: the queue is closed and empty.
    fn next_batch(&self) -> Option<(Vec<u8>, u64)> {
        let waits = |state: &mut State| state.lines.is_empty() && !state.is_closed;
        let state = lock(&self.state);
        let mut state = self.changed.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
        let count = state.lines.len() as u64;
        state.is_writing = count > 0;
        state.bytes = 0;
        let batch = state.lines.drain(..).collect::<Vec<_>>().concat();
        (count > 0).then_some((batch, count))
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Each critical section leaves the state whole at every step.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the formatter of events a writer that feeds the queue.
#[derive(Debug)]
pub(super) struct LogWriter {
    queue: Arc<Queue>,
    /// Makes the text of others in a line harmless: it must not begin a line of its own, nor move a cursor.
    clean: fn(&str) -> String,
}

impl LogWriter {
    pub(super) fn new(queue: Arc<Queue>, clean: fn(&str) -> String) -> LogWriter {
        LogWriter { queue, clean }
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Event<'a>;

    fn make_writer(&'a self) -> Event<'a> {
        Event(self)
    }
}

/// Takes one event, which the formatter writes in one piece.
pub(super) struct Event<'a>(&'a LogWriter);

impl Write for Event<'_> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(event);
        let clean = (self.0.clean)(line.trim_end_matches('\n'));
        self.0.queue.push((clean + "\n").into_bytes());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stderr that fails `failures` times, then keeps what it is given.
    struct Flaky {
        failures: usize,
        written: Vec<u8>,
    }

    impl Write for Flaky {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.failures > 0 {
                self.failures -= 1;
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            self.written.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_reported_later() {
        let queue = Queue::default();
        let mut out = Flaky { failures: 1, written: Vec::new() };
        let mut step = || {
            let (batch, count) = queue.next_batch().unwrap();
            queue.write(&mut out, &batch, count)
        };
        queue.push(b"one\n".to_vec());
        queue.push(b"two\n".to_vec());
        assert_eq!(step(), 0, "nothing can be reported while nothing can be written");
        queue.push(b"three\n".to_vec());
        assert_eq!(step(), 2);
        queue.push(b"four\n".to_vec());
        assert_eq!(step(), 0, "they are reported once");
        assert_eq!(out.written, b"three\nfour\n");
    }

    #[test]
    fn a_full_queue_loses_lines_and_waits_for_nobody() {
        let queue = Queue::default();
        for _ in 0..3 {
            queue.push(vec![b'x'; QUEUE_BYTES_MAX / 2]);
        }
        assert_eq!(lock(&queue.state).lost, 1);
        lock(&queue.state).is_closed = true;
        let mut out = Flaky { failures: 0, written: Vec::new() };
        queue.run(&mut out);
        assert_eq!((out.written.len(), lock(&queue.state).lost), (QUEUE_BYTES_MAX, 0));
    }

    #[test]
    fn an_event_is_one_clean_line() {
        let queue = Arc::new(Queue::default());
        let writer = LogWriter::new(queue.clone(), |line| line.replace('\n', " "));
        writer.make_writer().write_all(b"a\nforged\n").unwrap();
        assert_eq!(lock(&queue.state).lines.pop_back().unwrap(), b"a forged\n");
    }
}
