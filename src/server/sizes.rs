//! How much room the server has and takes, looked at from time to time: a file system that hangs holds nobody who asks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::admin::Sizes;
use crate::server::EngineSettings;

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_secs(30);

/// Where the server keeps things.
#[derive(Clone, Debug)]
pub(super) struct Directories {
    data: PathBuf,
    downloads: PathBuf,
}

impl Directories {
    /// Looks for the first time.
    pub(super) async fn look_at(settings: &EngineSettings) -> (Directories, watch::Sender<Sizes>) {
        let directories = Directories { data: settings.data_dir.clone(), downloads: settings.download_dir.clone() };
        let sizes = watch::Sender::new(directories.look().await);
        (directories, sizes)
    }

    /// Looks at it now. What cannot be seen counts as 0.
    async fn look(&self) -> Sizes {
        let Directories { data, downloads } = self.clone();
        let look = move || Sizes { disk_free: free(&data), download_free: free(&downloads), store: database(&data) };
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    }

    /// Looks at it again and again, until `closing`.
    pub(super) async fn keep(self, sizes: watch::Sender<Sizes>, closing: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = closing.cancelled() => return,
            }
            tokio::select! {
                seen = self.look() => drop(sizes.send_replace(seen)),
                () = closing.cancelled() => return,
            }
        }
    }
}

/// The bytes that are free for whoever has no privileges.
fn free(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(0, |seen| seen.f_bavail.saturating_mul(seen.f_frsize))
}

/// The bytes of the database with its log.
fn database(data: &Path) -> u64 {
    let size = |name: &str| fs::metadata(data.join(name)).map_or(0, |file| file.len());
    size("haul.db").saturating_add(size("haul.db-wal"))
}
