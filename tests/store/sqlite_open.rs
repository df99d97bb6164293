//! What the data directory of `SQLite` is refused for, each time without a change to the database.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use haul::model::job::Job;
use haul::model::spec::JobSpec;
use haul::model::tenant::Owner;
use haul::model::time::Timestamp;
use haul::store::sqlite::{Durability, OpenError, RootKeys, SqliteStore};
use haul::store::{Batch, JobFilter, Store as _, Submission, Submitted, WriteStore as _};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use super::support::{job, job_id, submission, with_job};

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

/// What was committed last is in the log alone. A start that commits something would also copy it, before any task runs.
#[tokio::test]
async fn a_start_after_a_crash_changes_nothing() {
    let (dir, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
    for number in 1..=20 {
        let submissions = (0..100).map(|nth| submission(&job(number * 1000 + nth, 3), 3)).collect();
        writer.commit(&Batch { submissions, ..Batch::default() }).await.unwrap();
    }
    for file in ["haul.db", "haul.db-wal", "haul.key"] {
        fs::copy(dir.path().join(file), crashed.path().join(file)).unwrap();
    }
    let bytes = |file: &str| fs::read(crashed.path().join(file)).unwrap();
    let (database, log) = (bytes("haul.db"), bytes("haul.db-wal"));
    let (store, _writer) = SqliteStore::open(crashed.path(), Durability::Full).await.unwrap();
    assert!(bytes("haul.db") == database, "the log was copied");
    let after = bytes("haul.db-wal");
    assert!(after.starts_with(&log), "the log began anew");
    assert!(after[log.len()..].iter().all(|&byte| byte == 0), "something was committed");
    assert!(store.job(job_id(20_099)).await.unwrap().is_some());
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

/// What a version without tenants would have left.
const WITHOUT_TENANTS: &str = "\
    DROP INDEX jobs_creator_ended; DROP INDEX jobs_tenant_ended; \
    DROP TRIGGER jobs_stored; DROP TRIGGER jobs_removed; DROP TABLE tenant_usage; ALTER TABLE jobs DROP COLUMN stored; \
    DROP TABLE host_pauses; DROP TABLE credentials; DROP INDEX jobs_tenant; ALTER TABLE jobs DROP COLUMN tenant; DROP TABLE tenants; \
    CREATE TABLE old_labels (key TEXT NOT NULL, value TEXT NOT NULL, id BLOB NOT NULL, \
    PRIMARY KEY (key, value, id)) WITHOUT ROWID; \
    INSERT INTO old_labels SELECT key, value, id FROM job_labels; \
    DROP TABLE job_labels; ALTER TABLE old_labels RENAME TO job_labels; \
    CREATE INDEX job_labels_id ON job_labels (id); \
    CREATE TABLE old_requests (job INTEGER PRIMARY KEY, id TEXT NOT NULL, principal INTEGER NOT NULL DEFAULT 0, \
    digest BLOB NOT NULL, UNIQUE (id, principal)); \
    INSERT INTO old_requests SELECT job, id, principal, digest FROM requests; \
    DROP TABLE requests; ALTER TABLE old_requests RENAME TO requests; \
    DELETE FROM _sqlx_migrations WHERE version >= 5";

#[tokio::test]
async fn what_there_was_before_tenants_is_of_the_one_that_always_exists() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
    let labels = || [("team".to_owned(), "red".to_owned())].into();
    let spec = Arc::new(JobSpec { labels: labels(), ..JobSpec::default() });
    let request = Some(("r".to_owned(), store.keyed([5; 32])));
    let first = Submission { request, ..submission(&Job { spec, ..job(1, 1) }, 1) };
    let batch = Batch { submissions: vec![first.clone(), submission(&job(2, 1), 1)], ..Batch::default() };
    writer.commit(&batch).await.unwrap();
    Box::new(writer).close().await;
    drop(store);
    alter(dir.path(), WITHOUT_TENANTS).await;

    let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
    assert_eq!(store.job(job_id(1)).await.unwrap().unwrap().tenant, Owner::default());
    let of = |tenant, labels| JobFilter { tenant: Some(tenant), labels, ..JobFilter::default() };
    let ids = async |filter: JobFilter| store.job_ids(&filter, 9).await.unwrap().items;
    assert_eq!(ids(of(1, labels())).await, [job_id(1)]);
    assert_eq!(ids(of(1, BTreeMap::new())).await, [job_id(2), job_id(1)]);
    assert!(ids(of(16, BTreeMap::new())).await.is_empty());
    // A request that is repeated is known still, and another tenant may use its name.
    let mut theirs = Submission { request: first.request.clone(), ..submission(&job(4, 1), 1) };
    theirs.job.tenant = Owner { no: 16, name: "a".into() };
    let again = Submission { request: first.request.clone(), ..submission(&job(3, 1), 1) };
    let batch = Batch { submissions: vec![again, theirs], ..Batch::default() };
    let known = Submitted::Known { job: job_id(1), digest: store.keyed([5; 32]) };
    assert_eq!(writer.commit(&batch).await.unwrap().submissions, [known, Submitted::Stored]);
    assert!(store.access().await.unwrap().has_one_tenant());
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

/// A first start that is cut, or finds the disk full, must not keep all others from starting.
#[tokio::test]
async fn a_key_file_without_a_key_is_written_anew() {
    let key = |dir: &Path| fs::read_to_string(dir.join("haul.key")).unwrap();
    for left in ["", " \n", "\0\0\0\0"] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("haul.key"), left).unwrap();
        // As a start leaves it that is cut while it writes.
        fs::write(dir.path().join("haul.key.new"), "0123").unwrap();
        closed_store(dir.path()).await;
        let made = key(dir.path());
        assert_eq!(made.trim_end().len(), 64, "{left:?}");
        assert_eq!(fs::metadata(dir.path().join("haul.key")).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!dir.path().join("haul.key.new").exists());
        closed_store(dir.path()).await;
        assert_eq!(key(dir.path()), made);
        // What is sealed by now needs the key that was there, unless it is given up.
        fs::write(dir.path().join("haul.key"), left).unwrap();
        assert!(matches!(refused(dir.path()).await, OpenError::Key { .. }));
        let forget = RootKeys::Forgetting(Box::new(RootKeys::Beside));
        let (_, writer) = SqliteStore::open_with(dir.path(), Durability::Full, &forget).await.unwrap();
        Box::new(writer).close().await;
        closed_store(dir.path()).await;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("haul.key"), "a key that somebody has mistyped").unwrap();
    assert!(matches!(refused(dir.path()).await, OpenError::Key { .. }));
    assert_eq!(key(dir.path()), "a key that somebody has mistyped");
}
