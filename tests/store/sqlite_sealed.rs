//! Secrets in the database: sealed in their rows, sealed anew with another key, and sealed after the fact.

use std::path::Path;
use std::sync::Arc;

use haul::model::event::EventKind;
use haul::model::job::{Job, JobState};
use haul::model::secret::Secret;
use haul::model::spec::{FetchSpec, HttpOptions, JobSpec, TaskOptions, TaskSpec, Work};
use haul::model::task::{Task, TaskEvent};
use haul::model::time::Timestamp;
use haul::store::sqlite::{Durability, SqliteStore, SqliteWriter};
use haul::store::{
    Batch, Content, NewPage, Retention, Store as _, StoreError, Submission, Submitted, TaskMove, TaskRow, Upkeep,
    WriteStore as _,
};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use super::support::*;

/// The time at which the store is kept up.
const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

const NEXT: &str = r#"{"next":{"url":"https://a.example/?token=SESAME"}}"#;

fn with_secret() -> TaskOptions {
    let http = HttpOptions { bearer_token: Some(Secret::new("SESAME")), ..HttpOptions::default() };
    TaskOptions { http, ..TaskOptions::default() }
}

/// A job with a secret in every table that has any.
fn secret_job(number: u32) -> Job {
    let spec = JobSpec { title: format!("job {number}"), defaults: with_secret().into(), ..JobSpec::default() };
    Job { spec: Arc::new(spec), ..job(number, 3) }
}

fn secret_task() -> Arc<TaskSpec> {
    Arc::new(TaskSpec { options: with_secret().into(), ..(*fetch("https://me:SESAME@a.example/")).clone() })
}

fn secret_submission(number: u32) -> Submission {
    let mut new = submission(&secret_job(number), 3);
    new.request = Some((format!("r{number}"), [7; 32]));
    new.tasks[1].1 = secret_task();
    new
}

async fn fill(writer: &mut SqliteWriter, store: &SqliteStore) {
    let submissions = vec![secret_submission(1), secret_submission(2)];
    commit(writer, Batch { submissions, ..Batch::default() }).await;
    let content = Content::Inline("x".into());
    let page = NewPage { id: task_id(1, 1), page: 0, first_item: 0, items: 1, content, next: Some(NEXT.to_owned()) };
    let mut changed = secret_job(1);
    changed.sequence = 1;
    let events = vec![job_event(&changed, EventKind::JobChanged)];
    commit(writer, Batch { pages: vec![page], events, jobs: vec![Arc::new(changed)], ..Batch::default() }).await;
    expect_whole(store).await;
}

async fn commit(writer: &mut SqliteWriter, batch: Batch) {
    assert_eq!(writer.commit(&batch).await.unwrap().refused, []);
}

/// Everything reads as it was written, but for the events.
async fn expect_whole(store: &SqliteStore) {
    for number in [1, 2] {
        assert_eq!(store.job(job_id(number)).await.unwrap().unwrap().spec, secret_job(number).spec);
        let tasks = store.tasks(job_id(number), &[], 0, 9).await.unwrap().items;
        assert_eq!(tasks.iter().map(|task| task.spec.clone()).collect::<Vec<_>>(), [spec(0), secret_task(), spec(2)]);
    }
    assert_eq!(store.last_page(task_id(1, 1)).await.unwrap().unwrap().next.as_deref(), Some(NEXT));
    let events = store.events(job_id(1), 0, 9).await.unwrap().items;
    let shown = events[0].snapshot.as_ref().unwrap();
    assert_eq!((shown.spec.title.as_str(), &*shown.spec.defaults), ("job 1", &TaskOptions::default()));
}

/// Whether a file of the directory has these bytes.
fn is_on_disk(dir: &Path, bytes: impl AsRef<[u8]>) -> bool {
    let bytes = bytes.as_ref();
    std::fs::read_dir(dir).unwrap().any(|entry| {
        let file = std::fs::read(entry.unwrap().path()).unwrap();
        file.windows(bytes.len()).any(|window| window == bytes)
    })
}

async fn sql(dir: &Path, text: &str) {
    let url = format!("sqlite://{}", dir.join("haul.db").display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

async fn ask<T>(dir: &Path, text: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite> + Send + Unpin,
{
    let url = format!("sqlite://{}", dir.join("haul.db").display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(text.to_owned())).fetch_one(&mut conn).await.unwrap()
}

async fn keep_up(writer: &mut SqliteWriter) -> usize {
    let mut pieces = 0;
    while writer.upkeep(NOW).await.unwrap() == Upkeep::More {
        pieces += 1;
        assert!(pieces < 100, "it comes to no end");
    }
    pieces
}

#[tokio::test]
async fn no_secret_is_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
    fill(&mut writer, &store).await;
    let respecced = Arc::new(secret_job(2));
    commit(&mut writer, Batch { jobs: vec![respecced.clone()], respecced: vec![respecced], ..Batch::default() }).await;
    expect_whole(&store).await;
    assert!(!is_on_disk(dir.path(), "SESAME"));
    assert_eq!(keep_up(&mut writer).await, 0, "a new database has nothing to seal");
    Box::new(writer).close().await;
    drop(store);
    assert!(!is_on_disk(dir.path(), "SESAME"));
    let (store, _writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
    expect_whole(&store).await;
}

#[tokio::test]
async fn a_bag_that_is_moved_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
    fill(&mut writer, &store).await;
    sql(
        dir.path(),
        "UPDATE job_specs SET (spec, sealed) = (SELECT spec, sealed FROM job_specs WHERE job = 1) WHERE job = 2",
    )
    .await;
    assert!(store.job(job_id(1)).await.unwrap().is_some());
    assert!(matches!(store.job(job_id(2)).await, Err(StoreError::Unreadable(_))));
    sql(
        dir.path(),
        "UPDATE tasks SET sealed = (SELECT sealed FROM tasks WHERE id = (1 << 32) + 1) WHERE sealed IS NOT NULL",
    )
    .await;
    assert!(store.task(task_id(1, 1)).await.unwrap().is_some());
    let error = store.task(task_id(2, 1)).await.unwrap_err().to_string();
    assert!(error.contains("damaged, or belong to another row") && !error.contains("SESAME"), "{error}");
    assert!(store.task(task_id(2, 0)).await.unwrap().is_some(), "the others are fine");
    // Who recovers goes on without what does not open.
    assert_eq!(store.recover(None).await.unwrap().jobs().len(), 1);
}

/// What no event tells is not opened for it, however many there are and however long it is.
#[tokio::test]
async fn an_event_is_told_without_what_it_does_not_tell() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Off).await.unwrap();
    let mut new = secret_submission(1);
    let long = FetchSpec { url: "https://a.example/".into(), body: vec![b'x'; 100_000], ..FetchSpec::default() };
    new.tasks[0].1 = Arc::new(TaskSpec { work: Work::Fetch(long), ..(*fetch("https://a.example/")).clone() });
    commit(&mut writer, Batch { submissions: vec![new], ..Batch::default() }).await;
    let (row, ids) = (Task::default(), [task_id(1, 0), task_id(1, 1)]);
    let row =
        TaskRow { task: row.apply(TaskEvent::Cancelled(error("no")), Timestamp(5)).unwrap(), ..TaskRow::default() };
    let moves = ids.map(|id| TaskMove { id, row: row.clone() }).into();
    let events = vec![ended_event(ids[0], 1), ended_event(ids[1], 2)];
    commit(&mut writer, Batch { moves, events, ..Batch::default() }).await;
    sql(dir.path(), "UPDATE tasks SET sealed = x'00' WHERE id = 1 << 32").await;
    let told = store.events(job_id(1), 0, 9).await.unwrap().items;
    let urls: Vec<&str> = told.iter().map(|event| event.task.as_ref().unwrap().spec.work.url()).collect();
    assert_eq!(urls, ["https://a.example/", "https://me:SESAME@a.example/"]);
    let before = store.events_before(job_id(1), 9, &[], 9).await.unwrap().items;
    assert_eq!(before.len(), 2);
    let readable = store.tasks(job_id(1), &[], 0, 9).await.unwrap().items;
    assert!(!readable.is_empty() && readable.iter().all(|task| task.index != 0), "a task is not read without its bag");
}

#[tokio::test]
async fn another_data_key_seals_everything_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
    fill(&mut writer, &store).await;
    let before: Vec<u8> = ask(dir.path(), "SELECT sealed FROM tasks WHERE sealed IS NOT NULL").await;
    let done = writer.commit(&Batch { new_data_key: true, ..Batch::default() }).await.unwrap();
    assert_eq!(done.data_key, Some(3));
    expect_whole(&store).await;
    // What comes now is sealed with the new key already.
    commit(&mut writer, Batch { submissions: vec![secret_submission(3)], ..Batch::default() }).await;
    assert_eq!(writer.upkeep(NOW).await.unwrap(), Upkeep::More);
    // A cut in between loses nothing.
    drop((writer, store));
    let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
    expect_whole(&store).await;
    assert!(keep_up(&mut writer).await > 0);
    expect_whole(&store).await;
    let others = "SELECT (SELECT count(*) FROM tasks WHERE substr(sealed, 2, 4) <> x'00000003') \
         + (SELECT count(*) FROM job_specs WHERE substr(sealed, 2, 4) <> x'00000003') \
         + (SELECT count(*) FROM pages WHERE substr(sealed, 2, 4) <> x'00000003')";
    assert_eq!(ask::<i64>(dir.path(), others).await, 0);
    assert_eq!(ask::<i64>(dir.path(), "SELECT count(*) FROM data_keys").await, 2, "the old one is gone");
    assert!(!is_on_disk(dir.path(), &before));
    drop((writer, store));
    let (store, _writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
    expect_whole(&store).await;
}

/// Makes of a database what an older version would have left: plain, with digests that anybody can compute.
async fn make_old(dir: &Path) {
    let secret = r#"json('{"bearer_token":"SESAME"}')"#;
    sql(
        dir,
        &format!(
            "UPDATE job_specs SET spec = json_set(spec, '$.defaults.http', {secret}); \
             UPDATE tasks SET spec = json_set(spec, '$.options.http', {secret}, '$.work.fetch.url', \
             'https://me:SESAME@a.example/') WHERE sealed IS NOT NULL; \
             UPDATE events SET snapshot = json_set(snapshot, '$.spec.defaults', json('{{\"http\":{{\"bearer_token\":\"SESAME\"}}}}')); \
             UPDATE pages SET next = '{NEXT}'; UPDATE requests SET digest = unhex('{}'); \
             ALTER TABLE tasks DROP COLUMN sealed; ALTER TABLE job_specs DROP COLUMN sealed; \
             ALTER TABLE pages DROP COLUMN sealed; DROP TABLE data_keys; DELETE FROM settings WHERE key = 'sealing'; \
             DELETE FROM _sqlx_migrations WHERE description = 'sealing'",
            "05".repeat(32)
        ),
    )
    .await;
    std::fs::remove_file(dir.join("haul.key")).unwrap();
}

#[tokio::test]
async fn an_older_database_is_sealed_while_it_serves() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
    fill(&mut writer, &store).await;
    Box::new(writer).close().await;
    drop(store);
    make_old(dir.path()).await;
    assert!(is_on_disk(dir.path(), "SESAME"));

    let (mut store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
    let request = |store: &SqliteStore, number: u32| Submission {
        request: Some((format!("r{number}"), store.keyed([5; 32]))),
        ..submission(&job(10 + number, 1), 1)
    };
    let mut pieces = 0;
    loop {
        // The same request again is known, before its digest is keyed and after it.
        let again = Batch { submissions: vec![request(&store, 1)], ..Batch::default() };
        let known = writer.commit(&again).await.unwrap().submissions;
        assert_eq!(known, [Submitted::Known { job: job_id(1), digest: store.keyed([5; 32]) }]);
        for number in [1, 2] {
            assert_eq!(store.job(job_id(number)).await.unwrap().unwrap().spec, secret_job(number).spec);
            assert_eq!(store.task(task_id(number, 1)).await.unwrap().unwrap().spec, secret_task());
        }
        // Killed after each piece.
        let has_more = writer.upkeep(NOW).await.unwrap() == Upkeep::More;
        drop((writer, store));
        (store, writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
        if !has_more {
            break;
        }
        pieces += 1;
        assert!(pieces < 100, "it comes to no end");
    }
    assert!(pieces > 5);
    expect_whole(&store).await;
    assert!(!is_on_disk(dir.path(), "SESAME"));
    assert!(!is_on_disk(dir.path(), [5; 32]), "a digest that can be guessed");
    assert_eq!(keep_up(&mut writer).await, 0);
}

#[tokio::test]
async fn whoever_read_a_job_before_its_secrets_went_changes_nothing_of_that() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
    fill(&mut writer, &store).await;
    let before = Job { state: JobState::Failed, end_time: Some(Timestamp(1)), ..secret_job(1) };
    commit(&mut writer, Batch { jobs: vec![Arc::new(before.clone())], ..Batch::default() }).await;
    writer.retain(Retention { secrets: Some(std::time::Duration::ZERO), ..Retention::default() });
    keep_up(&mut writer).await;
    assert!(store.job(job_id(1)).await.unwrap().unwrap().secrets_gone);
    let retried = Job { state: JobState::Running, end_time: None, ..before.clone() };
    let refused = writer.commit(&Batch { jobs: vec![Arc::new(retried)], ..Batch::default() }).await.unwrap().refused;
    assert_eq!(refused.len(), 1, "it would run without its secrets");
    let before = Arc::new(before);
    commit(&mut writer, Batch { jobs: vec![before.clone()], respecced: vec![before], ..Batch::default() }).await;
    let row = store.job(job_id(1)).await.unwrap().unwrap();
    assert!(row.secrets_gone);
    assert_eq!(row.spec.defaults.http.bearer_token, Some(Secret::new("REDACTED")));
}

/// What the machine's clock says is set by whoever likes to.
#[tokio::test]
async fn secrets_are_kept_by_the_time_of_those_who_ended_the_jobs() {
    const HOUR: i64 = 3_600_000_000;
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
    fill(&mut writer, &store).await;
    let end = |number, hour: i64| {
        let job = Job { state: JobState::Failed, end_time: Some(Timestamp(hour * HOUR)), ..secret_job(number) };
        Batch { jobs: vec![Arc::new(job)], ..Batch::default() }
    };
    let is_gone = async |number| store.job(job_id(number)).await.unwrap().unwrap().secrets_gone;
    writer.retain(Retention { secrets: Some(std::time::Duration::from_secs(3_600)), ..Retention::default() });
    keep_up(&mut writer).await;
    commit(&mut writer, end(1, 10)).await;
    while writer.upkeep(Timestamp(11 * HOUR - 1)).await.unwrap() == Upkeep::More {}
    assert!(!is_gone(1).await, "the hour is not over");
    while writer.upkeep(Timestamp(11 * HOUR)).await.unwrap() == Upkeep::More {}
    assert!(is_gone(1).await);
    // The clock was ahead until then.
    commit(&mut writer, end(2, 5)).await;
    while writer.upkeep(Timestamp(6 * HOUR)).await.unwrap() == Upkeep::More {}
    assert!(is_gone(2).await);
}

/// A backup beside the server, say. Nothing can be committed while the writer waits for it to end.
#[tokio::test]
async fn whoever_reads_for_long_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
    fill(&mut writer, &store).await;
    let url = format!("sqlite://{}", dir.path().join("haul.db").display());
    let mut reader = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("BEGIN").execute(&mut reader).await.unwrap();
    let _: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs").fetch_one(&mut reader).await.unwrap();
    writer.commit(&Batch { new_data_key: true, ..Batch::default() }).await.unwrap();
    keep_up(&mut writer).await;
    let started = tokio::time::Instant::now();
    for _ in 0..3 {
        assert_eq!(writer.upkeep(NOW).await.unwrap(), Upkeep::Later);
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(2), "{:?}", started.elapsed());
    sqlx::query("ROLLBACK").execute(&mut reader).await.unwrap();
    assert_eq!(writer.upkeep(NOW).await.unwrap(), Upkeep::Done);
}

#[tokio::test]
async fn page_tokens_are_signed_with_a_key_of_the_store() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, writer) = SqliteStore::open(one.path(), Durability::Full).await.unwrap();
    let token = store.page_tokens().from_task(b"job", 4);
    drop((store, writer));
    let (store, _writer) = SqliteStore::open(one.path(), Durability::Full).await.unwrap();
    assert_eq!(store.page_tokens().read_task(b"job", &token), Ok(4), "after a restart");
    let (store, _writer) = SqliteStore::open(other.path(), Durability::Full).await.unwrap();
    assert!(store.page_tokens().read_task(b"job", &token).is_err());
    // As version 1 made it, for who knows the name of the node.
    assert!(store.page_tokens().read_task(b"job=1", "AQIAABJnnXYmcS8JMDg").is_err());
}

/// How far it came is a row as any other: damage in it must not keep secrets for ever.
#[tokio::test]
async fn upkeep_whose_note_is_damaged_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
    fill(&mut writer, &store).await;
    let ended = Job { state: JobState::Failed, end_time: Some(Timestamp(10)), ..secret_job(1) };
    commit(&mut writer, Batch { jobs: vec![Arc::new(ended)], ..Batch::default() }).await;
    commit(&mut writer, Batch { new_data_key: true, ..Batch::default() }).await;
    keep_up(&mut writer).await;
    for note in ["sealing", "secrets_erased"] {
        sql(dir.path(), &format!("REPLACE INTO settings (key, value) VALUES ('{note}', '{{\"plain\":f')")).await;
    }
    assert!(store.sealing().await.unwrap().rows_left > 0);
    writer.retain(Retention { secrets: Some(std::time::Duration::from_secs(1)), ..Retention::default() });
    // First all is sealed, then what has been kept long enough is erased.
    keep_up(&mut writer).await;
    keep_up(&mut writer).await;
    assert_eq!(store.sealing().await.unwrap().rows_left, 0);
    assert!(store.job(job_id(1)).await.unwrap().unwrap().secrets_gone);
}
