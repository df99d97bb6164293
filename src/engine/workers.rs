//! Threads for transfers: each runs its attempts on a runtime of its own, so that a connection, its body, its digest and
//! its file stay on one core. (Measured: a multi-threaded runtime costs 35 to 90 % more CPU per byte.)

use std::sync::Arc;
use std::thread::JoinHandle;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

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

/// What a worker is given to do. It says by itself what came of it.
pub(crate) type Errand = BoxFuture<'static, ()>;

/// The way to one worker. A worker ends with the last way to it, and with it whatever it was given.
pub(crate) struct Worker {
    errands: mpsc::UnboundedSender<Vec<Errand>>,
    pub(crate) transport: Arc<dyn Transport>,
}

impl Worker {
    /// Gives it several errands for one wake-up of its thread. One that has ended drops them.
    pub(crate) fn give(&self, errands: Vec<Errand>) {
        let _ = self.errands.send(errands);
    }

    /// Whether its thread has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.errands.is_closed()
    }
}

/// All workers, to be waited for.
pub(crate) struct Workers {
    threads: Vec<JoinHandle<()>>,
    /// A worker that has no thread, and what closes its transport.
    here: Option<(JoinSet<()>, Close)>,
}

impl Workers {
    /// Starts `count` threads; 0: attempts run on the caller's runtime.
    pub(crate) async fn start(count: usize, make: &MakeParts) -> std::io::Result<(Workers, Vec<Worker>)> {
        if count == 0 {
            let parts = make();
            let (errands, given) = mpsc::unbounded_channel();
            let mut here = JoinSet::new();
            here.spawn(serve(given));
            let workers = Workers { threads: Vec::new(), here: Some((here, parts.close)) };
            return Ok((workers, vec![Worker { errands, transport: parts.transport }]));
        }
        let mut workers = Vec::new();
        let mut threads = Vec::new();
        for number in 0..count {
            let (ready, started) = oneshot::channel();
            let make = make.clone();
            let name = format!("transfer-{number}");
            let runtime =
                tokio::runtime::Builder::new_current_thread().event_interval(EVENT_INTERVAL).enable_all().build()?;
            threads.push(std::thread::Builder::new().name(name).spawn(move || {
                // On Linux this is of the calling thread alone. Where it may not be, transfers are only less polite.
                if let Err(error) = rustix::process::nice(TRANSFER_NICENESS) {
                    tracing::debug!("transfer threads keep the priority of the process: {error}");
                }
                let _ending = Ending;
                runtime.block_on(async move {
                    let parts = make();
                    let (errands, given) = mpsc::unbounded_channel();
                    let _ = ready.send(Worker { errands, transport: parts.transport });
                    serve(given).await;
                    (parts.close)().await;
                });
            })?);
            let worker = started.await.map_err(|_| std::io::Error::other("a transfer thread died at its start"))?;
            workers.push(worker);
        }
        Ok((Workers { threads, here: None }, workers))
    }

    /// Waits for the ends of the threads. All ways to them must be gone.
    pub(crate) async fn shutdown(self) {
        if let Some((mut here, close)) = self.here {
            if let Some(Err(error)) = here.join_next().await {
                tracing::error!("what ran the attempts has failed: {error}");
            }
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

/// Runs errands until nobody can give more, and drops those that have not ended then.
async fn serve(mut given: mpsc::UnboundedReceiver<Vec<Errand>>) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            errands = given.recv() => match errands {
                Some(errands) => errands.into_iter().for_each(|errand| drop(running.spawn(errand))),
                None => break,
            },
            // Errands catch their panics, and one that is dropped says so itself.
            Some(_) = running.join_next() => {}
        }
    }
    running.shutdown().await;
}

/// Says that a thread has ended by a panic.
struct Ending;

impl Drop for Ending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a transfer thread has ended; its attempts are lost, and the others take its part");
        }
    }
}
