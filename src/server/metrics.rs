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

/// How long a scrape waits for the engine's loop. Then it shows what was known before: a server that is stuck must be seen.
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
        // A disk that hangs, or many hosts, must not take a thread that answers calls. They are read while the loop is asked.
        let read = tokio::task::spawn_blocking(move || (this.disk(), this.engine.host_counts()));
        let (waits, own_hosts) = self.asked().await;
        let ((store_bytes, disk_free_bytes, process), hosts) = read.await.unwrap_or_default();
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

    fn disk(&self) -> (Option<[u64; 2]>, [Option<u64>; 2], Option<Process>) {
        let size = |name: &str| std::fs::metadata(self.data_dir.join(name)).map(|file| file.len());
        let store = size("haul.db").ok().map(|database| [database, size("haul.db-wal").unwrap_or(0)]);
        (store, [&self.data_dir, &self.download_dir].map(|path| free(path)), Process::read(self.start_time_seconds))
    }
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
}
