//! Backups and checks of a data directory.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use haul::model::event::EventKind;
use haul::model::job::{Job, JobState};
use haul::model::task::TaskState;
use haul::model::task_filter::TaskChoice;
use haul::model::time::Timestamp;
use haul::store::sqlite::{BackupError, Durability, OpenError, RootKeys, SqliteStore, SqliteWriter, audit, backup};
use haul::store::{Batch, Content, JobFilter, JobPlace, NewPage, Store as _, TaskMove, TaskRow, WriteStore as _};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use super::support::*;

/// A data directory with a job of every kind: one whose body is in a content file, one that was swept and retried, one
/// that runs, one that is being removed.
async fn filled(dir: &Path) -> (Arc<SqliteStore>, SqliteWriter) {
    let (store, mut writer) = SqliteStore::open(dir, Durability::Full).await.unwrap();
    let mut batch = Batch::default();
    for number in 1..=4 {
        let mut new = submission(&job(number, 3), 3);
        new.request = Some((format!("r{number}"), [1; 32]));
        batch.submissions.push(new);
    }
    commit(&mut writer, batch).await;
    let mut done = job(1, 3);
    done.counts.succeeded = 1;
    done.sequence = 1;
    done.state = JobState::Running;
    let task = claim_of(task_id(1, 0), &TaskRow::default().task, 1).task;
    let task = task.apply(succeeded(&task), Timestamp(2)).unwrap();
    let row = TaskRow { task, outcome: Some(Arc::new(fetched("https://a.example/x"))), ..TaskRow::default() };
    let content = Content::File { name: "0".into(), bytes: 5 };
    let page = NewPage { id: task_id(1, 0), page: 0, first_item: 0, items: 0, content, next: None };
    let inline = NewPage { page: 1, content: Content::Inline("more".into()), ..page.clone() };
    commit(
        &mut writer,
        Batch {
            pages: vec![page, inline],
            moves: vec![TaskMove { id: task_id(1, 0), row }],
            events: vec![ended_event(task_id(1, 0), 1)],
            lane_heads: vec![(job_id(1), 0, 1)],
            jobs: vec![Arc::new(done)],
            ..Batch::default()
        },
    )
    .await;
    let (state, error, time) = (TaskState::Pending, error("stop"), Timestamp(3));
    let sweep = haul::store::Sweep {
        job: job_id(2),
        state,
        which: TaskChoice::All,
        from: 0,
        to: None,
        limit: 9,
        error,
        time,
        first_sequence: 1,
    };
    commit(&mut writer, Batch { sweeps: vec![sweep], jobs: vec![Arc::new(job(2, 3))], ..Batch::default() }).await;
    let which = haul::store::Which::These(vec![1]);
    let retry = haul::store::Retry { job: job_id(2), which, limit: 9 };
    let row = store.visit(job_id(2)).await.unwrap().unwrap();
    commit(&mut writer, Batch { retries: vec![retry], jobs: vec![Arc::new(row)], ..Batch::default() }).await;
    let mut runs = job(3, 3);
    runs.counts.running = 1;
    runs.sequence = 1;
    let claims = vec![claim_of(task_id(3, 1), &TaskRow::default().task, 1)];
    let events = vec![job_event(&runs, EventKind::JobChanged)];
    commit(&mut writer, Batch { claims, events, jobs: vec![Arc::new(runs)], ..Batch::default() }).await;
    let ended = Job { state: JobState::Failed, end_time: Some(Timestamp(4)), ..job(4, 3) };
    let purges = vec![(job_id(4), 2)];
    let deletions = vec![job_id(4)];
    commit(&mut writer, Batch { jobs: vec![Arc::new(ended)], deletions, purges, ..Batch::default() }).await;
    let folder = dir.join("content").join(job_id(1).to_string());
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("0-0"), "bytes").unwrap();
    fs::write(folder.join("0-9"), "a page that no row names").unwrap();
    (store, writer)
}

async fn commit(writer: &mut SqliteWriter, batch: Batch) {
    let done = writer.commit(&batch).await.unwrap();
    assert_eq!(done.refused, []);
}

/// Every file below a directory with its bytes, in order of names.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut found, mut folders) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                found.push((entry.path(), fs::read(entry.path()).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_backup_is_a_data_directory() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, to, again) = (parent.path().join("data"), parent.path().join("it's a copy"), parent.path().join("again"));
    let (store, mut writer) = filled(&dir).await;
    let copied = backup(&dir, &to, false).await.unwrap();
    assert_eq!((copied.content_files, copied.missing, copied.is_without_key), (1, Vec::new(), true));
    // What comes later is not in it.
    commit(&mut writer, with_job(&job(9, 1), 1)).await;
    let before = store
        .jobs(&JobFilter { before: Some(JobPlace { id: job_id(9), end: None }), ..JobFilter::default() }, 9)
        .await
        .unwrap();
    Box::new(writer).close().await;
    drop(store);
    // Without a server too.
    backup(&dir, &again, true).await.unwrap();

    let names: Vec<_> = files(&to).into_iter().map(|(path, _)| path.strip_prefix(&to).unwrap().to_owned()).collect();
    let content = Path::new("content").join(job_id(1).to_string()).join("0-0");
    assert_eq!(names, [content.clone(), "haul.db".into()], "no log, no lock, nothing that no row names");
    assert_eq!(mode(&to), 0o700);
    assert_eq!(mode(&to.join("content")), 0o700);
    assert_eq!((mode(&to.join("haul.db")), mode(&to.join(content))), (0o600, 0o600));
    assert_eq!(audit(&to, &RootKeys::default()).await.unwrap(), Vec::<String>::new());
    assert!(matches!(SqliteStore::open(&to, Durability::Full).await, Err(OpenError::Key { .. })), "the key is apart");
    fs::copy(dir.join("haul.key"), to.join("haul.key")).unwrap();
    let (copy, _writer) = SqliteStore::open(&to, Durability::Full).await.unwrap();
    assert_eq!(copy.jobs(&JobFilter::default(), 9).await.unwrap(), before);
    assert_eq!(copy.claims(None).await.unwrap().attempts.len(), 1);
    let (copy, _writer) = SqliteStore::open(&again, Durability::Full).await.unwrap();
    assert!(copy.job(job_id(9)).await.unwrap().is_some());
    let mut left: Vec<_> = fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["again", "data", "it's a copy"], "nothing is left beside it");
}

#[tokio::test]
async fn a_backup_never_touches_what_exists() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let (_store, _writer) = filled(&dir).await;
    let empty = parent.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let link = parent.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    for to in [&empty, &link, &dir] {
        assert!(matches!(backup(&dir, to, false).await, Err(BackupError::Exists { .. })), "{}", to.display());
    }
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);
    let below = parent.path().join("not there/copy");
    assert!(matches!(backup(&dir, &below, false).await, Err(BackupError::Write { .. })));
    let nothing = parent.path().join("nothing");
    fs::create_dir(&nothing).unwrap();
    let error = backup(&nothing, &parent.path().join("copy"), false).await.unwrap_err();
    assert!(matches!(error, BackupError::Open(error) if matches!(*error, OpenError::Missing { .. })));
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 4);
}

/// The files of a deleted job are removed before its rows are: a snapshot may name them still.
#[tokio::test]
async fn a_backup_says_which_files_are_missing() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, to) = (parent.path().join("data"), parent.path().join("copy"));
    let (_store, _writer) = filled(&dir).await;
    let content = Path::new("content").join(job_id(1).to_string()).join("0-0");
    fs::remove_file(dir.join(&content)).unwrap();
    assert_eq!(backup(&dir, &to, false).await.unwrap().missing, [content]);
    assert_eq!(audit(&to, &RootKeys::default()).await.unwrap().len(), 1);
}

/// The files of pages that are not to be kept go before their rows, and the server may be killed in between.
#[tokio::test]
async fn pages_that_are_being_dropped_are_not_missing() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, to) = (parent.path().join("data"), parent.path().join("copy"));
    let (_store, _writer) = filled(&dir).await;
    let folder = PathBuf::from("content").join(job_id(1).to_string());
    fs::write(dir.join(&folder).join("0-dropped"), "").unwrap();
    fs::remove_file(dir.join(&folder).join("0-0")).unwrap();
    let found = audit(&dir, &RootKeys::default()).await.unwrap();
    assert_eq!(found, Vec::<String>::new());
    let copied = backup(&dir, &to, true).await.unwrap();
    assert_eq!(copied.missing, Vec::<PathBuf>::new());
    assert!(to.join(&folder).join("0-dropped").exists(), "a server on the copy knows of it");
    assert_eq!(audit(&to, &RootKeys::default()).await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_check_changes_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let (store, writer) = filled(&dir).await;
    let stored = |dir: &Path| -> Vec<_> {
        // The index of the log is shared memory, in which readers leave marks.
        files(dir).into_iter().filter(|(path, _)| path.extension() != Some("db-shm".as_ref())).collect()
    };
    let before = stored(&dir);
    assert_eq!(audit(&dir, &RootKeys::default()).await.unwrap(), Vec::<String>::new());
    assert!(before == stored(&dir), "beside a server");
    Box::new(writer).close().await;
    drop(store);
    // Without a server, and without the files that SQLite has beside an open database.
    let still = parent.path().join("still");
    fs::create_dir_all(still.join("content")).unwrap();
    let is_at_rest = |path: &Path| !path.display().to_string().contains("haul.db-");
    assert!(files(&dir).iter().any(|(path, _)| path.ends_with("haul.db")));
    for (path, bytes) in files(&dir).into_iter().filter(|(path, _)| is_at_rest(path)) {
        let path = still.join(path.strip_prefix(&dir).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let before = files(&still);
    assert_eq!(audit(&still, &RootKeys::default()).await.unwrap(), Vec::<String>::new());
    let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    assert_eq!(names(&before), names(&files(&still)));
    assert!(before == files(&still));
    assert!(matches!(audit(parent.path(), &RootKeys::default()).await, Err(OpenError::Missing { .. })));
}

#[tokio::test]
async fn a_check_finds_what_is_wrong() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let (store, writer) = filled(&dir).await;
    Box::new(writer).close().await;
    drop(store);
    let whole = fs::read(dir.join("haul.db")).unwrap();
    for (damage, expected) in [
        ("UPDATE jobs SET total = 7 WHERE total = 3 AND state = 2", "another number of tasks"),
        ("DELETE FROM claims", "counts that its tasks do not have"),
        ("UPDATE task_states SET state = 4 WHERE state = 6", "counts that its tasks do not have"),
        ("DELETE FROM events WHERE kind = 2", "a gap in its events"),
        ("INSERT INTO tenant_usage VALUES (77, 1)", "tenant 77 stores another number of bytes"),
        (
            "UPDATE jobs SET moving = json_set(moving, '$.ended_bytes', 9); DELETE FROM tenant_usage",
            "stores another number of bytes",
        ),
        ("UPDATE jobs SET moving = json_remove(moving, '$.sequence')", "another number of them than its sequence"),
        ("UPDATE jobs SET deleted = 2", "neither there nor deleted"),
        ("UPDATE jobs SET end_time = 9 WHERE deleted = 0", "has one and has not ended"),
        ("UPDATE jobs SET state = 6 WHERE deleted = 0", "ended without a time of its end"),
        ("UPDATE jobs SET state = 6, end_time = 9 WHERE deleted = 0", "not all of its tasks have"),
        ("UPDATE task_states SET state = 3, due = NULL", "is never due"),
        ("UPDATE task_states SET end_time = NULL", "without a time of its end"),
        ("UPDATE task_states SET outcome = NULL", "without a result"),
        ("UPDATE events SET kind = 9 WHERE kind = 2", "cannot be shown"),
        ("UPDATE events SET snapshot = NULL WHERE kind = 2", "cannot be shown"),
        ("UPDATE events SET task = NULL WHERE kind = 1", "cannot be shown"),
        ("UPDATE events SET time = 'x'", "cannot be shown"),
        ("DELETE FROM pages WHERE page = 0", "a gap in its pages"),
        ("UPDATE bodies SET data = x'00'", "a body of another size"),
        ("UPDATE requests SET digest = x'00'", "a digest that is none"),
        ("DELETE FROM data_keys WHERE purpose = 2", "data key for purpose 2 is not there"),
        ("UPDATE job_specs SET sealed = x'01000000630000'", "sealed with a key that is not there"),
        ("INSERT INTO audit VALUES (1, 'x', '{}', x'00')", "row 1 of the audit cannot be read"),
        ("INSERT INTO settings VALUES ('sealing', '{')", "setting sealing cannot be read"),
        ("INSERT INTO settings VALUES ('secrets_erased', '{')", "setting secrets_erased cannot be read"),
        ("DELETE FROM job_specs", "no spec"),
        ("DELETE FROM tasks WHERE id IN (SELECT id FROM claims)", "claim"),
        ("DELETE FROM lanes", "has no lane"),
        ("DELETE FROM shared_errors", "an error that is not there"),
        ("UPDATE lanes SET head = 9", "PENDING before the head"),
        ("DELETE FROM bodies", "a body that is not there"),
        ("INSERT INTO bodies (id, data) VALUES (77, x'00')", "belongs to no page"),
        ("INSERT INTO tasks (id, lane, spec) VALUES (99 << 32, 99 << 32, '')", "has no job"),
        ("INSERT INTO requests (job, id, digest) VALUES (99, 'x', x'')", "request of job number 99 has no job"),
        ("UPDATE pages SET bytes = 6 WHERE file IS NOT NULL", "has 5 bytes and not 6"),
        ("UPDATE pages SET page = 8 WHERE file IS NOT NULL", "0-8` cannot be read"),
    ] {
        fs::write(dir.join("haul.db"), &whole).unwrap();
        let url = format!("sqlite://{}", dir.join("haul.db").display());
        let mut conn = SqliteConnection::connect(&url).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(damage.to_owned())).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        let found = audit(&dir, &RootKeys::default()).await.unwrap();
        assert!(found.iter().any(|what| what.contains(expected)), "{damage}: {found:#?}");
    }
    // A page of an index that is not what it was.
    let mut torn = whole.clone();
    let end = torn.len();
    torn[end - 4096..].fill(0x5a);
    fs::write(dir.join("haul.db"), &torn).unwrap();
    let found = audit(&dir, &RootKeys::default()).await;
    assert!(found.is_err() || !found.unwrap().is_empty());
}
