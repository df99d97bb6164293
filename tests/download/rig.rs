//! An origin, a download root, and attempts as the engine makes them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use haul::download::{DownloadContext, Settings, folder, run};
use haul::files::part::{Part, PartKey};
use haul::files::{Durability, Root};
use haul::model::failure::{Failure, FailureReason};
use haul::model::outcome::{AttemptEnd, AttemptReport, DownloadResult, Outcome};
use haul::model::progress::Meter;
use haul::model::retry::RetryPolicy;
use haul::model::spec::DownloadSpec;
use haul::model::storage::StorageHold;
use haul::model::time::Timestamp;
use haul::net::{Guard, HttpClient, Profile, Transport};
use tokio_util::sync::CancellationToken;

use super::support::object::Object;
use super::support::origin::Origin;
use super::support::reply::Cut;

#[allow(clippy::struct_excessive_bools)] // Each is a fact of its own.
pub struct Rig {
    pub origin: Origin,
    pub place: tempfile::TempDir,
    pub root: Arc<Root>,
    pub client: HttpClient,
    pub profile: Arc<Profile>,
    pub settings: Settings,
    pub durability: Durability,
    pub key: String,
    pub has_history: bool,
    pub is_first: bool,
    pub is_last: bool,
    pub retry: RetryPolicy,
    /// Microseconds since the epoch.
    pub now: Arc<AtomicI64>,
    /// As runs of `haul get` have it, which share the keys of their parts.
    pub part_is_shared: bool,
    pub stop: CancellationToken,
    pub meter: Meter,
    /// What an attempt holds of what its tenant may store.
    pub storage: StorageHold,
}

impl Rig {
    pub fn new() -> Rig {
        Rig::at(tempfile::tempdir().unwrap())
    }

    pub fn at(place: tempfile::TempDir) -> Rig {
        let mut profile = Profile::default();
        profile.timeouts.idle = Duration::from_millis(400);
        profile.timeouts.response_headers = Duration::from_secs(2);
        let settings = Settings {
            segment_bytes_min: 4 << 10,
            race_after: Duration::from_millis(50),
            checkpoint_interval: Duration::from_millis(50),
            ..Settings::default()
        };
        Rig {
            origin: Origin::start(),
            root: Arc::new(Root::open(&place.path().join("root")).unwrap()),
            place,
            client: HttpClient::new(Guard { allow_private: true, ..Guard::default() }),
            profile: Arc::new(profile),
            settings,
            durability: Durability::Full,
            key: "0-1".into(),
            has_history: true,
            is_first: false,
            is_last: false,
            retry: RetryPolicy::default(),
            now: Arc::new(AtomicI64::new(1_800_000_000_000_000)),
            part_is_shared: false,
            stop: CancellationToken::new(),
            meter: Meter::default(),
            storage: StorageHold::default(),
        }
    }

    pub fn spec(&self, path: &str) -> DownloadSpec {
        DownloadSpec { url: self.origin.url(path), path: "f".into(), ..DownloadSpec::default() }
    }

    pub async fn attempt(&self, spec: &DownloadSpec) -> (AttemptEnd, AttemptReport) {
        self.attempt_through(&self.client, &self.key, spec).await
    }

    /// An attempt of the task `key` over another transport.
    pub async fn attempt_through(
        &self,
        transport: &dyn Transport,
        key: &str,
        spec: &DownloadSpec,
    ) -> (AttemptEnd, AttemptReport) {
        let now = || Timestamp(self.now.load(Ordering::SeqCst));
        let stored = CancellationToken::new();
        stored.cancel();
        let ctx = DownloadContext {
            transport,
            profile: &self.profile,
            echo: None,
            root: &self.root,
            directory: "job",
            part_key: key,
            part_is_shared: self.part_is_shared,
            has_history: self.has_history,
            is_first: self.is_first,
            is_last: self.is_last,
            retry: &self.retry,
            storage: &self.storage,
            meter: &self.meter,
            stop: &self.stop,
            stored: &stored,
            durability: self.durability,
            settings: &self.settings,
            retry_after_max: Duration::from_secs(3600),
            now: &now,
        };
        tokio::time::timeout(Duration::from_secs(120), run(&ctx, spec)).await.expect("the attempt hangs")
    }

    /// One attempt that must succeed.
    pub async fn done(&self, spec: &DownloadSpec) -> (DownloadResult, AttemptReport) {
        match self.attempt(spec).await {
            (AttemptEnd::Done(Outcome::Download(result)), report) => (result, report),
            (end, report) => panic!("{end:?} {report:?}"),
        }
    }

    /// One attempt that must fail.
    pub async fn failed(&self, spec: &DownloadSpec) -> (Failure, AttemptReport) {
        match self.attempt(spec).await {
            (AttemptEnd::Failed(failure), report) => (failure, report),
            (end, report) => panic!("{end:?} {report:?}"),
        }
    }

    /// Removes what attempts have left.
    pub async fn discard(&self, spec: &DownloadSpec) {
        let folder = folder("job", spec).unwrap();
        if let Some(part) = Part::find(&self.root, &folder, PartKey { name: &self.key, is_shared: false }).unwrap() {
            part.discard().await.unwrap();
        }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.place.path().join("root").join(path)
    }

    pub fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.path(path)).unwrap()
    }

    /// Every file and directory below the root.
    pub fn listing(&self) -> Vec<String> {
        fn walk(place: &std::path::Path, prefix: &str, all: &mut Vec<String>) {
            for entry in std::fs::read_dir(place).unwrap() {
                let entry = entry.unwrap();
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                if entry.file_type().unwrap().is_dir() {
                    walk(&entry.path(), &format!("{name}/"), all);
                }
                all.push(name);
            }
        }
        let mut all = Vec::new();
        walk(&self.path(""), "", &mut all);
        all.sort();
        all
    }

    /// The `Range` headers that the origin saw.
    pub fn ranges(&self, path: &str) -> Vec<String> {
        let requests = self.origin.requests(path);
        requests.iter().map(|request| request.header("range").unwrap_or("-").to_owned()).collect()
    }
}

pub fn checksum(algorithm: haul::model::checksum::Algorithm, bytes: &[u8]) -> haul::model::checksum::Checksum {
    let mut hasher = haul::files::digest::Hasher::new([algorithm]);
    hasher.update(bytes);
    hasher.finish().remove(0)
}

/// How much is held of what [`held`] downloads.
pub const CUT: u64 = 100_000;

/// A rig that holds the first bytes of `object`, which the origin serves whole from then on.
pub async fn held(object: &Object) -> (Rig, DownloadSpec) {
    let rig = Rig::new();
    let cut = object.clone();
    rig.origin.handle("/f", move |request| cut.respond(request).cut_at(CUT, Cut::Fin));
    let spec = rig.spec("/f");
    let (failure, _) = rig.failed(&spec).await;
    assert_eq!((failure.reason, failure.retryable), (FailureReason::Truncated, true), "{failure}");
    rig.origin.object("/f", object.clone());
    (rig, spec)
}
