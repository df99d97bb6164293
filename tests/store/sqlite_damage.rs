//! Damage in any text of any table: whoever reads rows of which one is damaged has all others, and `haul check` names it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use haul::model::audit::{AuditEntry, AuditFilter, AuditRow, Of};
use haul::model::event::EventKind;
use haul::model::ids::JobId;
use haul::model::job::{Job, JobState};
use haul::model::search::Search;
use haul::model::spec::JobSpec;
use haul::model::task::{Task, TaskState};
use haul::model::task_filter::{TaskChoice, TaskFilter};
use haul::model::tenant::{DEFAULT_NO, Party};
use haul::model::time::Timestamp;
use haul::store::sqlite::{RootKeys, audit};
use haul::store::{
    Addition, AuditPlace, Batch, Content, JobFilter, NewPage, Store, StoreError, Sweep, TaskQuery, Which,
};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use super::support::*;

/// What a text becomes: no UTF-8, JSON that ends within, and nothing.
const DAMAGES: [&str; 3] = [
    "CAST(CAST(substr({}, 1, length({}) / 2) AS BLOB) || x'ff' || CAST(substr({}, length({}) / 2 + 2) AS BLOB) AS TEXT)",
    "substr({}, 1, length({}) / 2)",
    "''",
];

/// Texts that are no JSON, so that only what is no UTF-8 is seen. A label may be cut, and so may a key.
const PLAIN: &[&str] = &[
    "chunks.id",
    "credentials.name",
    "host_pauses.host",
    "host_pauses.reason",
    "job_labels.key",
    "job_labels.value",
    "lanes.host",
    "pages.file",
    "pages.next",
    "requests.id",
    "settings.key",
    "settings.value",
    "task_keys.key",
    "tokens.id",
];

/// What is read whole and once, at a start, and refuses it: to leave a row out would let somebody in, or lose what was set.
const NEEDED: &[&str] = &["credentials", "principals", "settings", "tenants", "tokens"];

pub(super) async fn connect(rig: &Rig) -> SqliteConnection {
    SqliteConnection::connect(&format!("sqlite://{}", rig.dir().join("haul.db").display())).await.unwrap()
}

/// Rows in every table, of an ended job (1), and of one that runs (2) and one that waits (3).
pub(super) async fn full() -> Rig {
    let mut rig = Rig::new::<Sqlite>().await;
    let labels = BTreeMap::from([("label".to_owned(), "value".to_owned())]);
    let mut ended = job(1, 5);
    ended.spec = Arc::new(JobSpec { title: "the first".into(), labels, ..JobSpec::default() });
    let mut batch = with_job(&ended, 4);
    batch.submissions[0].request = Some(("request".into(), [1; 32]));
    batch.submissions.extend([submission(&job(2, 6), 6), submission(&job(3, 2), 2)]);
    batch.additions.push(Addition { chunk_id: "chunk".into(), ..addition(1, vec![(0, keyed("the key"))]) });
    let content = |page: u32| match page {
        0 => Content::Inline("x".into()),
        _ => Content::File { name: "the file".into(), bytes: 1 },
    };
    batch.pages.extend((0..2).map(|page| NewPage {
        id: task_id(1, 0),
        page,
        first_item: 0,
        items: 0,
        content: content(page),
        next: Some("https://a.example/next".into()),
    }));
    batch.audit.push(AuditEntry { row: AuditRow { method: "method".into(), ..AuditRow::default() }, of: Of::Always });
    rig.commit(batch).await;
    for index in 0..2 {
        rig.end(task_id(1, index), succeeded).await;
        rig.end(task_id(2, index), backing_off(50)).await;
    }
    rig.end(task_id(1, 2), failed).await;
    rig.commit(Batch { claims: vec![claim_of(task_id(2, 2), &Task::default(), 100)], ..Batch::default() }).await;
    let sweep = Sweep {
        job: job_id(1),
        state: TaskState::Pending,
        which: TaskChoice::All,
        from: 3,
        to: None,
        error: error("cancelled"),
        first_sequence: 1,
        time: Timestamp(300),
        limit: 10,
    };
    rig.commit(Batch {
        sweeps: vec![sweep],
        jobs: vec![Arc::new(ended.clone())],
        events: vec![job_event(&Job { sequence: 9, ..ended.clone() }, EventKind::JobChanged)],
        ..Batch::default()
    })
    .await;
    let mut done = ended.clone();
    (done.state, done.end_time) = (JobState::Failed, Some(Timestamp(400)));
    rig.commit(Batch { jobs: vec![Arc::new(done)], ..Batch::default() }).await;
    let mut conn = connect(&rig).await;
    sqlx::raw_sql(
        "INSERT INTO host_pauses VALUES (1, 'a.example:443', 1, 1, 2, 0, 'it was asked to'); \
         INSERT INTO principals VALUES (90, '{\"name\":\"some one\"}'); \
         INSERT INTO tenants VALUES (90, '{\"name\":\"some one\"}'); \
         INSERT INTO tokens VALUES ('token', x'00', '{\"id\":\"token\"}'); \
         INSERT INTO credentials VALUES (1, 'credential', x'00'); \
         INSERT INTO settings VALUES ('limits', '{\"global\":{}}'); \
         INSERT INTO old_states SELECT id, 0, state, attempts, fence, crashes, due, start_time, end_time, error, \
         (SELECT max(outcome) FROM task_states) FROM task_states WHERE state = 5",
    )
    .execute(&mut conn)
    .await
    .unwrap();
    conn.close().await.unwrap();
    rig
}

/// Every column that may hold text.
async fn columns(rig: &Rig) -> Vec<(String, String)> {
    let sql = "SELECT m.name, p.name FROM sqlite_schema m, pragma_table_info(m.name) p WHERE m.type = 'table' \
               AND m.name NOT LIKE '\\_sqlx%' ESCAPE '\\' AND m.name NOT LIKE 'sqlite%' AND p.type IN ('TEXT', '') ORDER BY 1, 2";
    sqlx::query_as(sql).fetch_all(&mut connect(rig).await).await.unwrap()
}

/// Damages the last text of a column. Returns whether there was one.
async fn damage(rig: &Rig, table: &str, column: &str, how: &str) -> bool {
    let mut conn = connect(rig).await;
    let key: String = sqlx::query_scalar("SELECT group_concat(name, ',') FROM pragma_table_info(?1) WHERE pk > 0")
        .bind(table)
        .fetch_one(&mut conn)
        .await
        .unwrap();
    let sql = format!(
        "UPDATE {table} SET {column} = {} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE typeof({column}) = 'text' \
         AND length({column}) > 4 AND {column} NOT IN ('node_id', 'sealing') ORDER BY {key} DESC LIMIT 1)",
        how.replace("{}", column)
    );
    let done = sqlx::query(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap().rows_affected();
    conn.close().await.unwrap();
    done == 1
}

/// A read of many rows gives those that can be read; one that is needed whole may be refused, and nothing is to be tried again.
fn judge<T>(wrong: &mut Vec<String>, read: Result<T, StoreError>, may_fail: bool) -> Option<T> {
    match read {
        Ok(read) => Some(read),
        Err(StoreError::Unreadable(_)) if may_fail => None,
        Err(error) => {
            wrong.push(format!("{} is {error:?}", std::any::type_name::<T>()));
            None
        }
    }
}

/// Makes every read where a row of the table may be damaged. Returns how many jobs and tasks there are to be seen, and what went wrong.
pub(super) async fn read_all(store: &dyn Store, table: &str) -> ((usize, usize), Vec<String>) {
    let mut wrong = Vec::new();
    let bad = &mut wrong;
    let is_of = |tables: &[&str]| tables.contains(&table);
    let jobs = judge(bad, store.jobs(&JobFilter::default(), 100).await, false).map_or(0, |it| it.items.len());
    let search = JobFilter { search: Search::new("first"), ..JobFilter::default() };
    judge(bad, store.jobs(&search, 100).await, false);
    judge(bad, store.job_ids(&JobFilter::default(), 100).await, false);
    let unfinished = judge(bad, store.recover(None).await, false).map_or(0, |it| it.jobs().len());
    judge(bad, store.claims(None).await, false);
    let mut tasks = judge(bad, store.due_tasks(None, 100).await, false).map_or(0, |it| it.tasks.len());
    for number in 1..=3 {
        let id: JobId = job_id(number);
        judge(bad, store.job(id).await, is_of(&["jobs", "job_specs"]));
        judge(bad, store.lanes(id).await, is_of(&["lanes"]));
        tasks += judge(bad, store.tasks(id, &[], 0, 100).await, false).map_or(0, |it| it.items.len());
        tasks += judge(bad, store.tasks(id, &[TaskState::Failed], 0, 100).await, false).map_or(0, |it| it.items.len());
        let filter = TaskFilter { http_statuses: vec![503], host: "a.example".into(), ..TaskFilter::default() };
        let query = TaskQuery { filter, ..TaskQuery::default() };
        judge(bad, store.find_tasks(id, &query, 100).await, false);
        tasks += judge(bad, store.lane_page(id, 0, 0, 100, Timestamp(0)).await, false).map_or(0, |it| it.tasks.len());
        judge(bad, store.download_tasks(id, &TaskState::ALL, 0, 100).await, false);
        judge(bad, store.events(id, 0, 100).await, false);
        judge(bad, store.events_before(id, 1000, &[], 100).await, false);
        judge(bad, store.recount(id).await, false);
        judge(bad, store.chunk(id, "chunk").await, false);
        judge(bad, store.page_heads(task_id(number, 0), 0, 100).await, is_of(&["pages"]));
        judge(bad, store.page_content(task_id(number, 0), 1).await, is_of(&["pages"]));
        judge(bad, store.task_by_key(id, "the key").await, is_of(&["tasks", "task_states", "shared_errors"]));
    }
    judge(bad, store.host_pauses().await, false);
    judge(bad, store.stored_bytes().await, false);
    judge(bad, store.audit(&AuditFilter::default(), AuditPlace::After(0), 100).await, false);
    judge(bad, store.request(Party { tenant: DEFAULT_NO, principal: 0 }, "request").await, false);
    judge(bad, store.limits().await, is_of(NEEDED));
    judge(bad, store.sealing().await, is_of(NEEDED));
    judge(bad, store.access().await, true);
    ((jobs + unfinished, tasks), wrong)
}

#[tokio::test]
async fn damage_in_a_text_fails_no_read_of_others_and_is_found() {
    let whole = full().await;
    let (all, wrong) = read_all(&*whole.store, "nothing").await;
    assert_eq!(wrong, Vec::<String>::new());
    let before: BTreeSet<String> = audit(whole.dir(), &RootKeys::default()).await.unwrap().into_iter().collect();
    for (table, column) in columns(&whole).await {
        let what = format!("{table}.{column}");
        for how in DAMAGES {
            let mut rig = full().await;
            assert!(damage(&rig, &table, &column, how).await, "the test has a row with `{what}`");
            let ((jobs, tasks), wrong) = read_all(&*rig.store, &table).await;
            assert_eq!(wrong, Vec::<String>::new(), "{what}");
            assert!(jobs + 2 >= all.0 && tasks + 10 >= all.1, "{what}: {jobs} and {tasks} of {all:?}");
            let found = audit(rig.dir(), &RootKeys::default()).await.unwrap();
            let is_found = found.iter().any(|it| !before.contains(it) && it.contains("cannot be read"));
            assert!(is_found || PLAIN.contains(&what.as_str()) && !how.contains("ff"), "{what} {how}: {found:?}");
            // What is written beside it is written.
            let retry = haul::store::Retry { job: job_id(1), which: Which::From(0), limit: 10 };
            rig.try_commit(Batch { retries: vec![retry], jobs: vec![Arc::new(job(1, 5))], ..Batch::default() })
                .await
                .unwrap();
            rig.job_of(7, 1).await;
        }
    }
}

/// Whoever finds a mark without a bag would send the mark.
#[tokio::test]
async fn a_row_whose_bag_is_gone_cannot_be_read() {
    use haul::model::secret::Secret;
    use haul::model::spec::{HeaderSpec, HttpOptions, TaskOptions, TaskSpec};
    for gone in ["NULL", "x''"] {
        let mut rig = Rig::new::<Sqlite>().await;
        let header = HeaderSpec { name: "x-key".into(), value: Secret::new("SESAME"), sensitive: false };
        let http = HttpOptions { headers: vec![header], ..HttpOptions::default() };
        let options = TaskOptions { http, ..TaskOptions::default() };
        let mut of_job = job(1, 1);
        of_job.spec = Arc::new(JobSpec { defaults: options.clone().into(), ..JobSpec::default() });
        rig.commit(with_job(&of_job, 1)).await;
        rig.job_of(2, 1).await;
        let sealed = Arc::new(TaskSpec { options: options.into(), ..(*spec(0)).clone() });
        rig.commit(Batch { additions: vec![addition(2, vec![(0, sealed)])], ..Batch::default() }).await;
        assert!(rig.store.task(task_id(2, 1)).await.is_ok() && rig.store.job(job_id(1)).await.is_ok());
        let mut conn = connect(&rig).await;
        let sql = format!("UPDATE tasks SET sealed = {gone}; UPDATE job_specs SET sealed = {gone}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
        let (task, job) = (rig.store.task(task_id(2, 1)).await, rig.store.job(job_id(1)).await);
        assert!(matches!(task, Err(StoreError::Unreadable(_))), "{task:?}");
        assert!(matches!(job, Err(StoreError::Unreadable(_))), "{job:?}");
        assert_eq!(rig.store.lane_page(job_id(2), 0, 0, 10, Timestamp(0)).await.unwrap().tasks.len(), 1);
        assert_eq!(rig.store.task(task_id(2, 0)).await.unwrap().unwrap().index, 0, "without secrets there is none");
        let found = audit(rig.dir(), &RootKeys::default()).await.unwrap();
        assert_eq!(found.iter().filter(|it| it.contains("its bag does not have")).count(), 2, "{found:?}");
    }
}
