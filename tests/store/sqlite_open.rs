//! What the data directory of `SQLite` is refused for, each time without a change to the database.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use haul::model::time::Timestamp;
use haul::store::sqlite::{Durability, OpenError, SqliteStore};
use haul::store::{Store as _, WriteStore as _};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use super::support::{job, job_id, with_job};

async fn refused(dir: &Path) -> OpenError {
    match SqliteStore::open(dir, Durability::Full).await {
        Ok(_) => panic!("it opened"),
        Err(error) => error,
    }
}

/// Opens, is refused, and finds the database as it was. The message, with the directory's name taken out.
async fn refused_untouched(dir: &Path) -> String {
    let database = dir.join("haul.db");
    let before = fs::read(&database).unwrap();
    let message = refused(dir).await.to_string();
    assert!(before == fs::read(&database).unwrap(), "the database was changed");
    message.replace(&dir.display().to_string(), "DIR")
}

async fn closed_store(dir: &Path) {
    let (_, writer) = SqliteStore::open(dir, Durability::Full).await.unwrap();
    Box::new(writer).close().await;
}

async fn alter(dir: &Path, sql: &str) {
    let url = format!("sqlite://{}?mode=rwc", dir.join("haul.db").display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

#[tokio::test]
async fn only_the_owner_reads_it() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("deep/data");
    let (_store, _writer) = SqliteStore::open(&dir, Durability::Full).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for file in ["haul.db", "haul.db-wal", "haul.lock"] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
}

#[tokio::test]
async fn a_directory_in_use_names_its_user() {
    let dir = tempfile::tempdir().unwrap();
    let (store, writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
    let OpenError::InUse { pid, .. } = refused(dir.path()).await else { panic!() };
    assert_eq!(pid, Some(std::process::id()));
    Box::new(writer).close().await;
    refused(dir.path()).await; // Somebody may still read.
    drop(store);
    closed_store(dir.path()).await;
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    closed_store(dir.path()).await;
    alter(
        dir.path(),
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'later', 1, x'00', 0)",
    )
    .await;
    insta::assert_snapshot!(refused_untouched(dir.path()).await);
}

#[tokio::test]
async fn somebody_elses_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    alter(dir.path(), "CREATE TABLE jobs (id INTEGER PRIMARY KEY)").await;
    insta::assert_snapshot!(refused_untouched(dir.path()).await);
}

#[tokio::test]
async fn what_is_no_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("haul.db"), "just some text that is long enough to be looked at").unwrap();
    insta::assert_snapshot!(refused_untouched(dir.path()).await);
}

#[tokio::test]
async fn a_damaged_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    closed_store(dir.path()).await;
    let database = dir.path().join("haul.db");
    let whole = fs::read(&database).unwrap();
    // A page of a table, the schema's own page, and an end that is missing.
    let mut middle = whole.clone();
    middle[8192..12288].fill(0x5a);
    let mut first = whole.clone();
    first[100..2000].fill(0x5a);
    for damaged in [middle, first, whole[..whole.len() / 2].to_vec()] {
        fs::write(&database, damaged).unwrap();
        let message = refused_untouched(dir.path()).await;
        assert!(message.starts_with("the database `DIR/haul.db` is damaged ("), "{message}");
    }
    fs::write(&database, whole).unwrap();
    closed_store(dir.path()).await;
}

#[tokio::test]
async fn an_empty_file_is_a_first_start() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("haul.db"), "").unwrap();
    closed_store(dir.path()).await;
}

/// A pipe is opened only when somebody writes to it, and a start must not wait for that.
#[tokio::test]
async fn what_is_no_file_is_refused() {
    for name in ["haul.db", "haul.db-wal", "haul.key", "haul.lock"] {
        let dir = tempfile::tempdir().unwrap();
        closed_store(dir.path()).await;
        let path = dir.path().join(name);
        let _ = fs::remove_file(&path);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        assert!(matches!(refused(dir.path()).await, OpenError::Special { path: found } if found == path), "{name}");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(refused(dir.path()).await, OpenError::Special { .. }), "{name}");
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    for dir in [file.clone(), file.join("below")] {
        assert!(matches!(refused(&dir).await, OpenError::Unwritable { .. }));
    }
    // Rights do not bind the superuser.
    let dir = parent.path().join("read-only");
    fs::DirBuilder::new().mode(0o500).create(&dir).unwrap();
    if fs::write(dir.join("probe"), "").is_err() {
        assert!(matches!(refused(&dir).await, OpenError::Unwritable { .. }));
    }
}

/// A row that this version cannot read.
#[tokio::test]
async fn a_task_that_cannot_be_read_holds_none_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Off).await.unwrap();
    writer.commit(&with_job(&job(1, 3), 3)).await.unwrap();
    alter(dir.path(), "UPDATE tasks SET spec = '{\"work\":7}' WHERE id & 4294967295 = 1").await;
    let page = store.lane_page(job_id(1), 0, 0, 9, Timestamp(1)).await.unwrap();
    assert_eq!(page.tasks.iter().map(|task| task.index).collect::<Vec<_>>(), [0, 2]);
}
