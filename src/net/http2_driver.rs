//! What goes on beside the requests of an HTTP/2 connection: its frames are moved, its windows grow with what its path
//! can hold, and its peer is asked whether it still lives.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::Connection;
use h2::{Ping, PingPong};
use tokio::runtime::{Handle, Id};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::net::http2_state::State;
use crate::net::lock;
use crate::net::tasks::Tasks;
use crate::net::wire::{Mover, Wire};

/// What a peer may send of one body before we read it, to begin with, at least and at most, as far as the windows of all
/// bodies allow.
const FIRST_WINDOW_BYTES_MIN: u32 = 2 << 20;
const FIRST_WINDOW_BYTES_MAX: u32 = 20 << 20;
/// The most that a window grows to. The peer hears that there is room again when half of its window was read, so that a body is
/// held up by nothing while half of the window is what its path holds: of one that is 100 ms long, 240 MiB/s.
const STREAM_WINDOW_BYTES_MAX: u32 = 48 << 20;
/// The speed that the first window is enough for, in bytes per second.
const FIRST_SPEED: f64 = 200e6;
/// How many streams are taken to be allowed until the peer has said how many. No peer says this.
pub(super) const UNKNOWN_STREAMS_MAX: usize = 1_000_003;
/// A connection in use whose peer is silent is looked at this often: at the second look its peer is asked whether it
/// lives, and at the fourth it is taken for dead. Many requests depend on it.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
const ASK_AFTER_LOOKS: u32 = 2;
const DEAD_AFTER_LOOKS: u32 = 4;
/// How long after a measurement that changed nothing the path is measured again, at first and at most: peers take many
/// pings for an attack.
const MEASURE_INTERVAL: Duration = Duration::from_millis(100);
const MEASURE_INTERVAL_MAX: Duration = Duration::from_secs(10);

/// The window of each stream to begin with: what is on its way at a good speed, for a path of this length.
pub(super) fn first_window(round_trip: Duration) -> u32 {
    let wanted = (round_trip.as_secs_f64() * FIRST_SPEED) as u32;
    wanted.clamp(FIRST_WINDOW_BYTES_MIN, FIRST_WINDOW_BYTES_MAX)
}

/// What moves a connection: a task of the runtime that it was last used on, and of another one once it has gone there.
pub(super) struct Driver {
    /// `None` once the connection has ended.
    engine: Option<Engine>,
    state: Arc<State>,
    mover: Mover,
    home: Id,
    /// Cancelled when the connection has gone to another runtime.
    gone: CancellationToken,
}

struct Engine {
    connection: Connection<Wire, Bytes>,
    watch: Option<Watch>,
}

impl Driver {
    /// Starts to move `connection`. `window`: that of each stream, to begin with.
    pub(super) fn start(
        mut connection: Connection<Wire, Bytes>,
        state: Arc<State>,
        received: Arc<AtomicU64>,
        window: u32,
        mover: Mover,
        tasks: &Arc<Tasks>,
    ) -> Arc<Mutex<Driver>> {
        let watch = connection.ping_pong().map(|ping_pong| Watch::new(ping_pong, received, window));
        let (engine, gone) = (Some(Engine { connection, watch }), CancellationToken::new());
        let home = Handle::current().id();
        state.set_home(home);
        let driver = Driver { engine, state, mover, home, gone: gone.clone() };
        let driver = Arc::new(Mutex::new(driver));
        tasks.spawn(drive(Arc::clone(&driver), gone));
        driver
    }

    /// Goes on in the runtime of the caller.
    pub(super) fn settle_here(this: &Arc<Mutex<Driver>>, tasks: &Arc<Tasks>) {
        let here = Handle::current().id();
        let mut driver = lock(this);
        if driver.home == here || driver.engine.is_none() {
            return;
        }
        driver.home = here;
        driver.state.set_home(here);
        driver.mover.ask();
        if let Some(Engine { watch: Some(watch), .. }) = &mut driver.engine {
            // A timer belongs to the runtime that it was made in.
            watch.looks = look_interval();
        }
        let gone = CancellationToken::new();
        // While the lock is held, so that the task before does not move the connection any more.
        std::mem::replace(&mut driver.gone, gone.clone()).cancel();
        drop(driver);
        tasks.spawn(drive(Arc::clone(this), gone));
    }

    /// Moves what there is to move. Ready once the connection has ended.
    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(Engine { connection, watch }) = &mut self.engine else { return Poll::Ready(()) };
        let end = Pin::new(&mut *connection).poll(cx);
        if connection.max_concurrent_send_streams() != UNKNOWN_STREAMS_MAX {
            self.state.is_settled.cancel();
        }
        // Its error, if any, reaches the requests that it hit.
        let is_dead = watch.as_mut().is_some_and(|watch| watch.poll_is_dead(self.state.load() > 0, cx));
        if end.is_ready() || is_dead {
            self.engine = None;
            self.state.is_settled.cancel();
            return Poll::Ready(());
        }
        if let Some(watch) = watch
            && let Some(window) = watch.poll_window(cx)
            && self.state.may_grow(window)
            && connection.set_initial_window_size(window).is_ok()
        {
            watch.window = window;
            // The setting has to go out.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// Moves a connection until it has ended or is `gone` to another runtime.
async fn drive(driver: Arc<Mutex<Driver>>, gone: CancellationToken) {
    let moving = std::future::poll_fn(|cx| {
        let mut driver = lock(&driver);
        if gone.is_cancelled() { Poll::Ready(()) } else { driver.poll_drive(cx) }
    });
    tokio::select! {
        biased;
        () = gone.cancelled() => {}
        () = moving => {}
    }
}

fn look_interval() -> Interval {
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

/// Pings, and what they tell.
struct Watch {
    ping_pong: PingPong,
    received: Arc<AtomicU64>,
    /// Of each stream.
    window: u32,
    /// When the ping that is under way was sent, and how much had been received then.
    under_way: Option<u64>,
    /// How much had been received when the last measurement ended.
    measured: u64,
    next: Instant,
    interval: Duration,
    looks: Interval,
    seen: u64,
    quiet_looks: u32,
}

impl Watch {
    fn new(ping_pong: PingPong, received: Arc<AtomicU64>, window: u32) -> Watch {
        Watch {
            ping_pong,
            received,
            window,
            under_way: None,
            measured: 0,
            next: Instant::now(),
            interval: MEASURE_INTERVAL,
            looks: look_interval(),
            seen: 0,
            quiet_looks: 0,
        }
    }

    /// Returns whether the peer has been silent for too long although requests wait for it.
    fn poll_is_dead(&mut self, is_in_use: bool, cx: &mut Context<'_>) -> bool {
        while self.looks.poll_tick(cx).is_ready() {
            let received = self.received.load(Ordering::Relaxed);
            self.quiet_looks = if is_in_use && received == self.seen { self.quiet_looks + 1 } else { 0 };
            self.seen = received;
            if self.quiet_looks >= DEAD_AFTER_LOOKS {
                return true;
            }
            if self.quiet_looks == ASK_AFTER_LOOKS {
                self.ping(received);
            }
        }
        false
    }

    /// Measures how much comes within the time that a ping takes: what the path holds. Returns the window that streams
    /// should have, where that is more than they do.
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Option<u32> {
        let received = self.received.load(Ordering::Relaxed);
        if let Some(before) = self.under_way {
            let Poll::Ready(Ok(_)) = self.ping_pong.poll_pong(cx) else { return None };
            self.under_way = None;
            self.measured = received;
            let is_filled = received - before >= u64::from(self.window / 3) * 2;
            if is_filled && self.window < STREAM_WINDOW_BYTES_MAX {
                self.interval = MEASURE_INTERVAL;
                return Some((self.window * 2).min(STREAM_WINDOW_BYTES_MAX));
            }
            self.next = Instant::now() + self.interval;
            self.interval = (self.interval * 4).min(MEASURE_INTERVAL_MAX);
        }
        // Where little comes, nothing is held up by a window.
        let is_busy = received - self.measured >= u64::from(self.window / 4);
        if is_busy && self.window < STREAM_WINDOW_BYTES_MAX && Instant::now() >= self.next {
            self.ping(received);
            // Registers for the answer.
            let _ = self.ping_pong.poll_pong(cx);
        }
        None
    }

    fn ping(&mut self, received: u64) {
        if self.under_way.is_none() && self.ping_pong.send_ping(Ping::opaque()).is_ok() {
            self.under_way = Some(received);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_window_is_what_the_path_holds() {
        let window = |millis| first_window(Duration::from_millis(millis));
        assert_eq!([0, 1, 25, 100, 10_000].map(window), [2 << 20, 2 << 20, 5_000_000, 20_000_000, 20 << 20]);
    }
}
