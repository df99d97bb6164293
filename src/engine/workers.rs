//! Threads for transfers: each runs its attempts on a runtime of its own, so that a connection, its body, its digest and
//! its file stay on one core. (Measured: a multi-threaded runtime costs 35 to 90 % more CPU per byte.)

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::files::beside;
use crate::net::Transport;

/// Transfers leave the processor to what decides and commits, when there is not enough for both: else whoever submits
/// waits behind a thousand bodies: a commit is several hand-offs between two threads, and each waits for a core. (Measured
/// beside a big job on two busy cores: `SubmitJob` takes 9 ms in the median and 55 at the 99th percentile, and with a niceness of
/// 4 24 and 100; the big job loses less than can be told from noise.) Within a service of its own or a container this is about
/// the threads of haul alone.
const TRANSFER_NICENESS: i32 = 15;

/// Turns of tasks after which a transfer thread looks at its sockets and timers. Where an origin sends faster than its bytes
/// are taken, a turn is as long as a turn may be, and the timers of all others there wait for this many of them.
const EVENT_INTERVAL: u32 = 8;

/// What a worker's runtime owns beside its attempts.
pub struct WorkerParts {
    /// How its attempts reach the network.
    pub transport: Arc<dyn Transport>,
    /// Closes what the transport left open.
    pub close: Close,
}

/// Closes what a transport left open.
pub type Close = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// Makes the parts of one worker. Called within its runtime.
pub type MakeParts = Arc<dyn Fn() -> WorkerParts + Send + Sync>;

/// One worker, as its attempts see it.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) runtime: Handle,
    pub(crate) transport: Arc<dyn Transport>,
    /// Whether its thread has ended. Whatever is given to its runtime then is lost.
    has_ended: Arc<AtomicBool>,
}

/// Says that a thread has ended, however it does.
struct Ending(Arc<AtomicBool>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if std::thread::panicking() {
            tracing::error!("a transfer thread has ended; its attempts are lost, and the others take its part");
        }
    }
}

/// All workers.
pub(crate) struct Workers {
    workers: Vec<Worker>,
    next: AtomicUsize,
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
    /// Closes the transport of a worker that has no thread.
    close: Option<Close>,
}

impl Workers {
    /// Starts `count` threads; 0: attempts run on the caller's runtime.
    pub(crate) async fn start(count: usize, make: &MakeParts) -> std::io::Result<Workers> {
        let stop = CancellationToken::new();
        if count == 0 {
            let parts = make();
            let worker = Worker { runtime: Handle::current(), transport: parts.transport, has_ended: Arc::default() };
            return Ok(Workers {
                workers: vec![worker],
                next: AtomicUsize::new(0),
                stop,
                threads: Vec::new(),
                close: Some(parts.close),
            });
        }
        let mut workers = Vec::new();
        let mut threads = Vec::new();
        for number in 0..count {
            let (ready, started) = oneshot::channel();
            let (make, stop) = (make.clone(), stop.clone());
            let name = format!("transfer-{number}");
            let runtime =
                tokio::runtime::Builder::new_current_thread().event_interval(EVENT_INTERVAL).enable_all().build()?;
            threads.push(std::thread::Builder::new().name(name).spawn(move || {
                // On Linux this is of the calling thread alone. Where it may not be, transfers are only less polite.
                if let Err(error) = rustix::process::nice(TRANSFER_NICENESS) {
                    tracing::debug!("transfer threads keep the priority of the process: {error}");
                }
                let has_ended = Arc::<AtomicBool>::default();
                let _ending = Ending(has_ended.clone());
                runtime.block_on(async move {
                    let parts = make();
                    let _ = ready.send(Worker { runtime: Handle::current(), transport: parts.transport, has_ended });
                    stop.cancelled().await;
                    (parts.close)().await;
                });
            })?);
            let worker = started.await.map_err(|_| std::io::Error::other("a transfer thread died at its start"))?;
            workers.push(worker);
        }
        Ok(Workers { workers, next: AtomicUsize::new(0), stop, threads, close: None })
    }

    /// The next one in turn of those that are there.
    pub(crate) fn next(&self) -> Worker {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let nth = |step: usize| &self.workers[first.wrapping_add(step) % self.workers.len()];
        let is_there = |step: &usize| !nth(*step).has_ended.load(Ordering::Relaxed);
        nth((0..self.workers.len()).find(is_there).unwrap_or(0)).clone()
    }

    /// Ends the threads and waits for them. Attempts must have ended.
    pub(crate) async fn shutdown(self) {
        self.stop.cancel();
        drop(self.workers);
        if let Some(close) = self.close {
            close().await;
        }
        let joined = beside(move || {
            for thread in self.threads {
                if thread.join().is_err() {
                    tracing::error!("a transfer thread panicked");
                }
            }
        });
        if joined.await.is_err() {
            tracing::error!("waiting for the transfer threads failed");
        }
    }
}
