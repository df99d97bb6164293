//! Writes the file of the log ahead of the commits.
//!
//! A commit that makes the file longer also waits for the file system to note the new length, which on a journaling file system
//! is a commit of its own that waits for everybody else's. Where the file is long enough, only the bytes themselves are
//! waited for. `SQLite` ends its log at the first frame that does not continue it, so zeros behind it say nothing.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::fstatvfs;

/// By how much the file is made longer at once: some milliseconds.
const STEP_BYTES: u64 = 1 << 20;
/// Where less than this is free, the file grows with the commits: what is short is not taken before it is needed.
const FREE_BYTES_MIN: u64 = 256 << 20;
/// Zeros that are written at a time.
const PIECE_BYTES: usize = 1 << 18;

/// The file of a log.
#[derive(Clone, Debug)]
pub(super) struct Ahead {
    path: PathBuf,
    /// What the log becomes no longer than at most times, before it begins anew, in bytes.
    bytes_max: u64,
}

impl Ahead {
    /// The log of a database, which at most times begins anew before it is longer than `bytes_max`.
    pub(super) fn of(database: &Path, bytes_max: u64) -> Ahead {
        let mut path = database.to_owned().into_os_string();
        path.push("-wal");
        Ahead { path: path.into(), bytes_max }
    }

    /// Whether the file is shorter than the log becomes.
    pub(super) fn is_short(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|file| file.len() < self.bytes_max)
    }

    /// Makes the file a step longer if it is shorter than the log becomes. Nobody may write to the log meanwhile. Returns whether
    /// that went well; if not, that costs time only: the file then grows with the commits.
    pub(super) async fn step(&self) -> bool {
        let this = self.clone();
        match tokio::task::spawn_blocking(move || this.extend()).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => tracing::debug!(%error, path = %self.path.display(), "the log grows with its commits"),
            Err(error) => tracing::error!("the log could not be made longer: {error}"),
        }
        false
    }

    fn extend(&self) -> io::Result<()> {
        let length = std::fs::metadata(&self.path)?.len();
        if length >= self.bytes_max {
            return Ok(());
        }
        let file = OpenOptions::new().write(true).open(&self.path)?;
        let disk = fstatvfs(&file)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < FREE_BYTES_MIN {
            return Ok(());
        }
        fill(&file, length, (length + STEP_BYTES).min(self.bytes_max))?;
        file.sync_data()
    }
}

fn fill(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; PIECE_BYTES];
    let mut at = from;
    while at < to {
        let count = (to - at).min(PIECE_BYTES as u64);
        // The piece is no longer than `zeros`.
        file.write_all_at(&zeros[..usize::try_from(count).unwrap_or(PIECE_BYTES)], at)?;
        at += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limits::{HostLimits, LimitsPatch};
    use crate::store::sqlite::{Durability, SqliteStore};
    use crate::store::{Batch, Store as _, WriteStore as _};

    #[test]
    fn a_file_becomes_as_long_as_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("haul.db-wal");
        std::fs::write(&log, b"frames").unwrap();
        let ahead = Ahead::of(&dir.path().join("haul.db"), STEP_BYTES + 10);
        let extend = || {
            ahead.extend().unwrap();
            std::fs::metadata(&log).unwrap().len()
        };
        assert_eq!([extend(), extend(), extend()], [STEP_BYTES + 6, STEP_BYTES + 10, STEP_BYTES + 10]);
        let bytes = std::fs::read(&log).unwrap();
        assert!(bytes.starts_with(b"frames") && bytes[6..].iter().all(|byte| *byte == 0));
    }

    /// It does not say whether it uses `fdatasync`, but whether the flags beside that one are in force.
    #[tokio::test]
    async fn sqlite_is_built_with_the_flags_of_the_repository() {
        let flags = option_env!("LIBSQLITE3_FLAGS").unwrap_or_default();
        assert!(flags.contains("-DHAVE_FDATASYNC=1"), "SQLite was built without `.cargo/config.toml`: `{flags}`");
        let dir = tempfile::tempdir().unwrap();
        let (_store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
        let options = sqlx::query_scalar("PRAGMA compile_options").fetch_all(&mut writer.conn).await;
        let options: Vec<String> = options.unwrap();
        assert!(options.iter().any(|option| option == "DEFAULT_MEMSTATUS=0"), "{options:?}");
    }

    #[tokio::test]
    async fn commits_do_not_make_the_file_longer() {
        let dir = tempfile::tempdir().unwrap();
        let length = || std::fs::metadata(dir.path().join("haul.db-wal")).unwrap().len();
        let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
        let before = length();
        assert!(before > STEP_BYTES && before < 3 * STEP_BYTES, "{before}");
        let mut batch = Batch::default();
        for count in 1..50 {
            let hosts = vec![HostLimits { host: "x".repeat(10), ..HostLimits::default() }; count];
            batch = Batch {
                limits: Some(LimitsPatch { hosts: Some(hosts), ..LimitsPatch::default() }),
                ..Batch::default()
            };
            writer.commit(&batch).await.unwrap();
        }
        assert_eq!(length(), before);
        writer.between_commits().await;
        assert_eq!(length(), before + STEP_BYTES);
        // What stands behind the log says nothing to whoever opens it anew.
        drop((store, writer));
        let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
        assert_eq!(store.limits().await.unwrap(), batch.limits);
        writer.empty_log().await;
        assert_eq!(length(), 0);
        Box::new(writer).close().await;
    }
}
