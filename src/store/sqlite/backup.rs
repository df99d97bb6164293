//! Copies a data directory as it was at one moment, whether or not a server writes to it meanwhile.
//!
//! The database says what belongs to it: first a snapshot of it is taken, then the content files that the snapshot names
//! are copied. The copy is made beside its place and appears there whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use crate::store::sqlite::beside::has_tables;
use crate::store::sqlite::columns::job_id;
use crate::store::sqlite::contents::{CONTENTS, ContentRow, content_path, dropping_path, is_kept, is_named};
use crate::store::sqlite::keys::KEY_FILE;
use crate::store::sqlite::open_error::OpenError;
use crate::store::sqlite::schema;

/// Why there is no backup. Nothing is left at its place, unless the disk refuses to say that it is durable.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what each is, the fields what they name.
pub enum BackupError {
    #[error("`{}` exists already; choose a name that is free", path.display())]
    Exists { path: PathBuf },
    #[error(transparent)]
    Open(#[from] Box<OpenError>),
    #[error("the backup cannot be written to `{}`: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
    #[error("the database cannot be copied: {0}")]
    Snapshot(String),
}

/// What was copied.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct BackedUp {
    /// How many content files.
    pub content_files: u64,
    /// Content files that the database names and that are not there.
    pub missing: Vec<PathBuf>,
    /// Whether the root key lies in the data directory and was not copied.
    pub is_without_key: bool,
}

/// Makes the new directory `to` a copy of the data directory `from` as it was at one moment after the call. It never
/// touches a `to` that exists. `with_key`: the root key is copied too, if it lies in the data directory.
pub async fn backup(from: &Path, to: &Path, with_key: bool) -> Result<BackedUp, BackupError> {
    let to = std::path::absolute(to).map_err(|error| BackupError::Write { path: to.to_owned(), error })?;
    let write = |error| BackupError::Write { path: to.clone(), error };
    if fs::symlink_metadata(&to).is_ok() {
        return Err(BackupError::Exists { path: to });
    }
    let database = from.join("haul.db");
    if !database.exists() {
        return Err(Box::new(OpenError::Missing { path: database }).into());
    }
    let sql = |error: sqlx::Error| BackupError::Snapshot(error.to_string());
    let mut live = schema::reading(&database).await.map_err(Box::new)?;
    if !has_tables(&mut live, &["jobs"]).await.map_err(sql)? {
        return Err(Box::new(OpenError::Empty { path: database }).into());
    }
    let unfinished = Unfinished::beside(&to).map_err(write)?;
    let snapshot = unfinished.0.join("haul.db");
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&snapshot).map_err(write)?;

    let quoted = snapshot.display().to_string().replace('\'', "''");
    sqlx::query(AssertSqlSafe(format!("VACUUM INTO '{quoted}'"))).execute(&mut live).await.map_err(sql)?;
    let mut copy = schema::open_private(&snapshot).await.map_err(sql)?;
    let mut copied = copy_contents(from, &unfinished.0, &mut copy, &mut live).await?;
    let key = from.join(KEY_FILE);
    if with_key && key.exists() {
        copy_file(&key, &unfinished.0.join(KEY_FILE)).map_err(write)?;
    }
    copied.is_without_key = !with_key && key.exists();
    copy.close().await.map_err(sql)?;
    // It read only; there is nothing to lose.
    let _ = live.close().await;

    File::open(&snapshot).and_then(|file| file.sync_all()).map_err(write)?;
    unfinished.publish(&to).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => BackupError::Exists { path: to.clone() },
        _ => BackupError::Write { path: to.clone(), error },
    })?;
    Ok(copied)
}

/// Copies what the snapshot names. A job that was deleted since has lost its files: it is deleted in the copy too. So has a task
/// whose pages are dropped, which the copy notes.
async fn copy_contents(
    from: &Path,
    to: &Path,
    copy: &mut SqliteConnection,
    live: &mut SqliteConnection,
) -> Result<BackedUp, BackupError> {
    let sql = |error: sqlx::Error| BackupError::Snapshot(error.to_string());
    let mut done = BackedUp::default();
    let rows: Vec<ContentRow> = sqlx::query_as(CONTENTS).fetch_all(&mut *copy).await.map_err(sql)?;
    let mut folder = PathBuf::new();
    for row in rows {
        let (id, task, page, _) = &row;
        let job = job_id(id).map_err(|error| BackupError::Snapshot(error.to_string()))?;
        let path = content_path(job, *task, *page);
        let target = to.join(&path);
        let write = |error| BackupError::Write { path: target.clone(), error };
        if path.parent() != Some(&folder) {
            folder = path.parent().unwrap_or(Path::new("")).to_owned();
            DirBuilder::new().recursive(true).mode(0o700).create(to.join(&folder)).map_err(write)?;
        }
        match copy_file(&from.join(&path), &target) {
            Ok(()) => done.content_files += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let dropping = dropping_path(job, *task);
                if !is_kept(live, id).await.map_err(sql)? {
                    delete(copy, id).await.map_err(sql)?;
                } else if from.join(&dropping).exists() || !is_named(live, &row).await.map_err(sql)? {
                    // A server on the copy ends the task as the one here does, or did.
                    private(&to.join(dropping)).and_then(|file| file.sync_all()).map_err(write)?;
                } else {
                    done.missing.push(path);
                }
            }
            Err(error) => return Err(write(error)),
        }
    }
    Ok(done)
}

/// Deletes a job in the copy, as a deletion does: a request that is repeated makes a new one.
async fn delete(copy: &mut SqliteConnection, id: &[u8]) -> Result<(), sqlx::Error> {
    for sql in [
        "DELETE FROM requests WHERE job = (SELECT no FROM jobs WHERE id = ?1)",
        "UPDATE jobs SET deleted = 1, expire_time = NULL WHERE id = ?1",
    ] {
        sqlx::query(sql).bind(id).execute(&mut *copy).await?;
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut source, &mut target)?;
    target.sync_all()
}

/// Makes an empty file, unless it is there: each page of a task may ask for it.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// A directory that goes with everything in it, unless it is published.
struct Unfinished(PathBuf);

impl Unfinished {
    fn beside(to: &Path) -> io::Result<Unfinished> {
        let name = to.file_name().ok_or(io::ErrorKind::InvalidInput)?.display().to_string();
        let place = to.with_file_name(format!(".{name}.{:08x}", rand::random::<u32>()));
        DirBuilder::new().mode(0o700).create(&place)?;
        Ok(Unfinished(place))
    }

    /// Gives the directory its name, after everything in it is on the disk.
    fn publish(self, to: &Path) -> io::Result<()> {
        let mut folders = vec![self.0.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                }
            }
            File::open(&folder)?.sync_all()?;
        }
        renameat_with(CWD, &self.0, CWD, to, RenameFlags::NOREPLACE)?;
        File::open(to.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Once published it is not there any more. What cannot be removed is named by a dot and harms nothing.
        let _ = fs::remove_dir_all(&self.0);
    }
}
