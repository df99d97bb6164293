//! Writes the file of the log ahead of the commits.
//!
//! A commit that makes the file longer also waits for the file system to note the new length, which on a journaling file system
//! is a commit of its own that waits for everybody else's. Where the file is long enough, only the bytes themselves are
//! waited for. `SQLite` ends its log at the first frame that does not continue it, so zeros behind it say nothing.
//!
//! It is written when the store is opened and not between commits: a piece of 1 MiB took three milliseconds there, for which the next
//! commit waited. A log that becomes longer than it was made has a file that grows with its commits, once.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::fstatvfs;

/// Where less than this is free, the file grows with the commits: what is short is not taken before it is needed.
const FREE_BYTES_MIN: u64 = 256 << 20;
/// Zeros that are written at a time.
const PIECE_BYTES: usize = 1 << 18;

/// Makes the file of the log of a database so long if it is shorter. Nobody may write to the log meanwhile. Where that fails it costs
/// time only: the file then grows with the commits.
pub(super) async fn write_ahead(database: &Path, bytes: u64) {
    let mut path = database.to_owned().into_os_string();
    path.push("-wal");
    let path = PathBuf::from(path);
    let of = path.clone();
    match tokio::task::spawn_blocking(move || extend(&of, bytes)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, path = %path.display(), "the log grows with its commits"),
        Err(error) => tracing::error!("the log could not be made longer: {error}"),
    }
}

fn extend(path: &Path, bytes: u64) -> io::Result<()> {
    let length = std::fs::metadata(path)?.len();
    if length >= bytes {
        return Ok(());
    }
    let file = OpenOptions::new().write(true).open(path)?;
    let disk = fstatvfs(&file)?;
    if disk.f_bavail.saturating_mul(disk.f_frsize) < FREE_BYTES_MIN {
        return Ok(());
    }
    fill(&file, length, bytes)?;
    file.sync_data()
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
        let bytes = PIECE_BYTES as u64 + 10;
        let extend = |to| {
            extend(&log, to).unwrap();
            std::fs::metadata(&log).unwrap().len()
        };
        assert_eq!([extend(bytes), extend(bytes), extend(6)], [bytes; 3]);
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
        // On a small disk it is made for a shorter log.
        assert!((1 << 20..6 << 20).contains(&before), "{before}");
        let mut batch = Batch::default();
        for count in 1..50 {
            let hosts = vec![HostLimits { host: "x".repeat(10), ..HostLimits::default() }; count];
            batch = Batch {
                limits: Some(LimitsPatch { hosts: Some(hosts), ..LimitsPatch::default() }),
                ..Batch::default()
            };
            writer.commit(&batch).await.unwrap();
        }
        // The look at it that is due makes it no longer either.
        writer.between_commits().await;
        assert_eq!(length(), before);
        // What stands behind the log says nothing to whoever opens it anew.
        drop((store, writer));
        let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
        assert_eq!(store.limits().await.unwrap(), batch.limits);
        writer.empty_log().await;
        assert_eq!(length(), 0);
        Box::new(writer).close().await;
    }
}
