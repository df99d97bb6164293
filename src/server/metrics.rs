//! What a scrape reads: the figures that somebody has anyway. Nothing here asks the store.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::to_proto;
use crate::engine::explanation::Waits;
use crate::engine::figures::NamedHost;
use crate::engine::handle::Engine;
use crate::net::HttpClient;
use crate::telemetry::metrics::page::{Gauges, HostGauges, page};
use crate::telemetry::metrics::{LabelValues, Metrics};
use crate::telemetry::process::Process;
use crate::web::Readiness;
use crate::web::metrics::Scrape;

/// How long a scrape waits for the engine's loop, and for a disk. Then it shows what was known before, and nothing of that disk: a
/// server that is stuck must be seen.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the sizes of kept responses are added up; longer where that takes long.
const SIZES_INTERVAL: Duration = Duration::from_secs(60);
/// The share of the time that goes into it, at most: one part in so many.
const SIZES_SHARE: u32 = 20;
/// Before it is known.
const UNKNOWN: u64 = u64::MAX;

/// Gathers the values of labels: reasons as the contract names them, and the methods of haul in these descriptors.
pub(super) fn label_values(hosts: Vec<String>, descriptors: &[&[u8]]) -> LabelValues {
    let sets = descriptors.iter().filter_map(|bytes| FileDescriptorSet::decode(*bytes).ok());
    let files = sets.flat_map(|set| set.file).filter(|file| file.package() == "haul.v1");
    let methods = files.flat_map(|file| file.service).flat_map(|service| {
        let name = service.name().to_owned();
        service.method.into_iter().map(move |method| format!("{name}/{}", method.name()))
    });
    LabelValues {
        failure_reasons: to_proto::failure_reason_labels(),
        wait_reasons: to_proto::wait_reason_labels(),
        methods: methods.collect(),
        hosts,
    }
}

/// Whoever knows something that is read at a scrape.
#[derive(Clone)]
pub(super) struct Figures(Arc<Sources>);

struct Sources {
    engine: Engine,
    client: Arc<HttpClient>,
    metrics: Arc<Metrics>,
    readiness: watch::Receiver<Readiness>,
    recovery: Duration,
    /// When the process started, in seconds since the epoch.
    start_time_seconds: f64,
    data_dir: PathBuf,
    download_dir: PathBuf,
    content_bytes: AtomicU64,
    /// What the engine said last.
    last: Mutex<(Waits, Vec<NamedHost>)>,
    /// The looks at the disks of the data and of the downloads.
    looks: [Looks; 2],
}

/// Looks at something that may hang, one at a time: each holds a thread for as long as it hangs, and scrapes go on coming.
#[derive(Clone, Default)]
struct Looks(Arc<tokio::sync::Mutex<()>>);

impl Looks {
    /// Looks; `None`: it, or the look before it, takes longer than this.
    async fn look<T: Send + 'static>(
        &self,
        patience: Duration,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let looking = async {
            let turn = self.0.clone().lock_owned().await;
            let looked = tokio::task::spawn_blocking(move || {
                let found = look();
                drop(turn);
                found
            });
            looked.await.ok()
        };
        tokio::time::timeout(patience, looking).await.ok()?
    }
}

impl Figures {
    pub(super) fn new(
        [data_dir, download_dir]: [PathBuf; 2],
        engine: Engine,
        client: Arc<HttpClient>,
        metrics: Arc<Metrics>,
        readiness: watch::Receiver<Readiness>,
        recovery: Duration,
    ) -> Figures {
        let start_time_seconds = engine.now().0 as f64 / 1e6 - recovery.as_secs_f64();
        Figures(Arc::new(Sources {
            engine,
            client,
            metrics,
            readiness,
            recovery,
            start_time_seconds,
            data_dir,
            download_dir,
            content_bytes: AtomicU64::new(UNKNOWN),
            last: Mutex::default(),
            looks: Default::default(),
        }))
    }

    /// Returns what writes the page.
    pub(super) fn scrape(self) -> Scrape {
        Arc::new(move |form| {
            let sources = self.0.clone();
            Box::pin(async move {
                let gauges = sources.clone().gauges().await;
                page(&sources.metrics, gauges, form)
            })
        })
    }

    /// Adds up the sizes of kept responses from time to time, until `closing`.
    pub(super) async fn follow_sizes(self, closing: CancellationToken) {
        let content = self.0.data_dir.join("content");
        loop {
            let (content, begun) = (content.clone(), Instant::now());
            let sum = tokio::task::spawn_blocking(move || size_below(&content));
            let bytes = tokio::select! {
                sum = sum => sum.unwrap_or(UNKNOWN),
                () = closing.cancelled() => return,
            };
            self.0.content_bytes.store(bytes, Ordering::Relaxed);
            tokio::select! {
                () = tokio::time::sleep(SIZES_INTERVAL.max(begun.elapsed() * SIZES_SHARE)) => {}
                () = closing.cancelled() => return,
            }
        }
    }
}

impl Sources {
    async fn gauges(self: Arc<Self>) -> Gauges {
        let this = self.clone();
        // Many hosts must not take a thread that answers calls. They are counted while the loop is asked.
        let read =
            tokio::task::spawn_blocking(move || (Process::read(this.start_time_seconds), this.engine.host_counts()));
        let ((waits, own_hosts), (store_bytes, disk_free_bytes)) = tokio::join!(self.asked(), self.disks());
        let (process, hosts) = read.await.unwrap_or_default();
        let work = self.engine.hub().open_work();
        let content_bytes = self.content_bytes.load(Ordering::Relaxed);
        let own =
            |host: &NamedHost| HostGauges { running: host.running, waiting: host.waiting, is_paused: host.is_paused };
        Gauges {
            version: env!("CARGO_PKG_VERSION"),
            is_draining: *self.readiness.borrow() == Readiness::Draining,
            recovery_seconds: self.recovery.as_secs_f64(),
            jobs: work.jobs,
            tasks: work.tasks,
            waiting_tasks: waits.0.to_vec(),
            connections: self.client.connections(),
            hosts,
            store_bytes,
            content_bytes: (content_bytes != UNKNOWN).then_some(content_bytes),
            commands_waiting: self.engine.commands_waiting() as u64,
            disk_free_bytes,
            own_hosts: own_hosts.iter().map(own).collect(),
            process,
        }
    }

    /// Asks the engine's loop. Without an answer it is as it was.
    async fn asked(&self) -> (Waits, Vec<NamedHost>) {
        let has_hosts = self.metrics.hosts().next().is_some();
        let own_hosts = async {
            // Each question waits for a turn of the loop.
            if has_hosts { self.engine.named_hosts(self.metrics.hosts()).await } else { Ok(Vec::new()) }
        };
        let asked = async { tokio::try_join!(self.engine.waits(), own_hosts) };
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(Ok(answer)) = answer {
            *last = answer;
        }
        last.clone()
    }

    /// Looks at the disks: the sizes of the database and its log, and what is free. Nothing of one that does not answer.
    async fn disks(&self) -> (Option<[u64; 2]>, [Option<u64>; 2]) {
        let ([data, downloads], data_dir, download_dir) =
            (&self.looks, self.data_dir.clone(), self.download_dir.clone());
        let at_data = data.look(PATIENCE, move || (store_bytes(&data_dir), free(&data_dir)));
        let at_downloads = downloads.look(PATIENCE, move || free(&download_dir));
        let (at_data, at_downloads) = tokio::join!(at_data, at_downloads);
        let (store, free_data) = at_data.unwrap_or_default();
        (store, [free_data, at_downloads.flatten()])
    }
}

/// Returns the bytes of the database and of its log.
fn store_bytes(data_dir: &Path) -> Option<[u64; 2]> {
    let size = |name: &str| std::fs::metadata(data_dir.join(name)).map(|file| file.len());
    Some([size("haul.db").ok()?, size("haul.db-wal").unwrap_or(0)])
}

fn free(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Returns the bytes of all files below a folder. What goes away meanwhile is passed over.
fn size_below(folder: &Path) -> u64 {
    let mut folders = vec![folder.to_owned()];
    let mut bytes = 0u64;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => bytes = bytes.saturating_add(entry.metadata().map_or(0, |it| it.len())),
                _ => {}
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_the_words_of_the_contract() {
        let words = label_values(Vec::new(), &crate::server::services::DESCRIPTORS);
        assert_eq!((words.failure_reasons.len(), words.wait_reasons.len()), (30, 12));
        assert!(words.failure_reasons.iter().any(|it| it == "timeout_connect"), "{words:?}");
        assert!(words.wait_reasons.iter().any(|it| it == "backing_off"), "{words:?}");
        assert!(words.methods.iter().any(|it| it == "JobService/WatchJobs"), "{words:?}");
        assert!(words.methods.iter().all(|it| !it.contains("Reflection")), "{words:?}");
    }

    #[tokio::test]
    async fn a_disk_that_hangs_holds_up_one_look_and_no_scrape() {
        let (looks, soon) = (Looks::default(), Duration::from_millis(5));
        let (answer, hangs) = std::sync::mpsc::channel::<()>();
        let begun = Arc::new(AtomicU64::new(0));
        let counted = begun.clone();
        let first = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            hangs.recv().is_ok()
        };
        assert_eq!(looks.look(soon, first).await, None);
        for _ in 0..3 {
            let counted = begun.clone();
            assert_eq!(looks.look(soon, move || counted.fetch_add(1, Ordering::Relaxed)).await, None);
        }
        answer.send(()).unwrap();
        let found = looks.look(Duration::from_mins(1), || 7).await;
        assert_eq!((found, begun.load(Ordering::Relaxed)), (Some(7), 1), "one look hung, and no other began");
    }
}
