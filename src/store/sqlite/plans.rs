//! Reads the plan of every statement that reads: none of them may look through a large table, or sort what an index has
//! in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};
use uuid::Uuid;

use crate::model::access::PrincipalNo;
use crate::model::event::EventKind;
use crate::model::failure::FailureReason;
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId};
use crate::model::job::{Job, JobState};
use crate::model::search::Search;
use crate::model::spec::{FetchSpec, JobSpec, TaskOptions, TaskSpec, Work};
use crate::model::task::TaskState;
use crate::model::task_filter::TaskFilter;
use crate::model::tenant::{Party, TenantNo};
use crate::model::time::Timestamp;
use crate::store::sqlite::{Durability, SqliteStore};
use crate::store::{Batch, DueTask, JobFilter, JobOrder, JobPlace, Store as _, Submission, TaskQuery, WriteStore as _};

/// Statements that sort on purpose, by a piece of their text, with the reason.
const SORTS: &[(&str, &str)] = &[
    ("ORDER BY s.due, j.id, s.id", "only tasks that are due at the same microsecond are sorted"),
    ("INDEXED BY jobs_ended ", "it is asked for a thousand jobs at most, or in the order of the index"),
    ("FROM host_pauses", "they are few, and read once"),
    ("(SELECT DISTINCT unhex(value)", "ten thousand jobs are named at most"),
];

/// Rows that are made on the way, and small or bounded ones.
const SCANNED: &[&str] = &[
    "json_each",
    "CONSTANT ROW",
    "SCAN w",
    "SCAN f",
    "SCAN k",
    "SCAN l",
    "subquery",
    "jobs_deleted",
    "SCAN principals",
    "SCAN tenant_usage",
    "SCAN tokens",
    "SCAN tenants",
    "SCAN credentials",
    "SCAN host_pauses",
];

/// Of which principal and which tenant.
const WHOSE: [(Option<PrincipalNo>, Option<TenantNo>); 6] =
    [(None, None), (None, Some(1)), (None, Some(16)), (Some(0), Some(1)), (Some(16), Some(1)), (Some(16), Some(16))];

/// Lists jobs by each filter in every form.
async fn ask_jobs(store: &SqliteStore, job: JobId) {
    let label = |count: usize| -> BTreeMap<String, String> {
        (0..count).map(|number| (number.to_string(), String::new())).collect()
    };
    let unfinished = vec![JobState::Pending, JobState::Running, JobState::Paused, JobState::Cancelling];
    for states in [vec![], vec![JobState::Failed], JobState::ALL.to_vec(), unfinished] {
        for labels in [label(0), label(1), label(2)] {
            for time in [None, Some(Timestamp(5_000_000))] {
                for before in [None, Some(job)] {
                    for ended_after in [None, Some(Timestamp(0)), Some(Timestamp(1 << 60))] {
                        let (created_after, created_before) = (time, time);
                        for (created_by, tenant) in WHOSE {
                            let (states, labels) = (states.clone(), labels.clone());
                            let before = before.map(|id| JobPlace { id, end: Some(Timestamp(9)) });
                            let filter = JobFilter {
                                states,
                                labels,
                                created_after,
                                created_before,
                                ended_after,
                                tenant,
                                created_by,
                                before,
                                ..JobFilter::default()
                            };
                            store.jobs(&filter, 9).await.unwrap();
                            store.job_ids(&filter, 9).await.unwrap();
                            let (ended_before, search) = (time, Search::new("ab"));
                            let order = if time.is_some() { JobOrder::Ended } else { JobOrder::Created };
                            let ids = if filter.before.is_none() { vec![job] } else { Vec::new() };
                            let filter = JobFilter { ids, ended_before, search, order, ..filter };
                            store.jobs(&filter, 9).await.unwrap();
                        }
                    }
                }
            }
        }
    }
}

/// Asks every question that the store knows, each filter in every form.
async fn ask_all(store: &SqliteStore, id: TaskId) {
    let job = id.job;
    ask_jobs(store, job).await;
    for states in (0..1 << TaskState::ALL.len()).map(|bits| {
        TaskState::ALL
            .into_iter()
            .enumerate()
            .filter(move |(place, _)| bits & (1 << place) != 0)
            .map(|(_, state)| state)
    }) {
        let states: Vec<TaskState> = states.collect();
        store.tasks(job, &states, 3, 9).await.unwrap();
        for host in ["", "a.example", "b.example"] {
            for reasons in [vec![], vec![FailureReason::Dns]] {
                let http_statuses = if host.is_empty() { vec![404] } else { vec![] };
                let filter = TaskFilter { states: states.clone(), reasons, http_statuses, host: host.to_owned() };
                let query = TaskQuery { filter, search: Search::new("x"), from: 3, look_max: 0 };
                store.find_tasks(job, &query, 9).await.unwrap();
            }
        }
        store.download_tasks(job, &states, 3, 9).await.unwrap();
    }
    store.find_tasks(job, &TaskQuery::default(), 9).await.unwrap();
    store.events_before(job, u64::MAX, &[EventKind::JobEnded], 9).await.unwrap();
    store.host_pauses().await.unwrap();
    store.stored_bytes().await.unwrap();
    store.access().await.unwrap();
    store.job(job).await.unwrap();
    store.request(Party::default(), "r").await.unwrap();
    store.task(id).await.unwrap();
    store.task_by_key(job, "k").await.unwrap();
    store.events(job, 3, 9).await.unwrap();
    store.page_heads(id, 0, 9).await.unwrap();
    store.page_of_item(id, 3).await.unwrap();
    store.last_page(id).await.unwrap();
    store.page_content(id, 0).await.unwrap();
    store.recover(None).await.unwrap();
    store.claims(Some(id)).await.unwrap();
    store.lane_page(job, 0, 0, 9, Timestamp(1)).await.unwrap();
    store.due_tasks(Some(DueTask { due: Timestamp(1), id }), 9).await.unwrap();
    store.visit(job).await.unwrap();
    store.lanes(job).await.unwrap();
    store.chunk(job, "c").await.unwrap();
    store.task_states(job, &[1, 2]).await.unwrap();
    store.recount(job).await.unwrap();
    store.expired_jobs(Timestamp(1), 9).await.unwrap();
    store.deleted_jobs(9).await.unwrap();
}

fn ended_job() -> Submission {
    let spec = JobSpec { labels: BTreeMap::from([("0".to_owned(), String::new())]), ..JobSpec::default() };
    let mut job = Job::new(JobId(Uuid::from_u128(0x7000_8000_0000_0000_0001)), spec, 1, Timestamp(5_000_000));
    job.state = JobState::Failed;
    job.end_time = Some(Timestamp(9_000_000));
    let work = Work::Fetch(FetchSpec { url: "https://a.example/".into(), ..FetchSpec::default() });
    let task = Arc::new(TaskSpec { key: String::new(), work, options: TaskOptions::default().into() });
    Submission { job, request: None, lanes: vec![Host::new("a.example:443")], tasks: vec![(0, task)] }
}

/// As many ended jobs as are not sorted any more.
fn many() -> Batch {
    let one = ended_job();
    let submissions = (2..1100).map(|number: u128| {
        let mut other = Submission { lanes: Vec::new(), tasks: Vec::new(), ..one.clone() };
        other.job.id = JobId(Uuid::from_u128(0x7000_8000_0000_0000_0000 + number));
        other
    });
    Batch { submissions: submissions.collect(), ..Batch::default() }
}

#[tokio::test]
async fn no_read_looks_through_a_large_table() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Off).await.unwrap();
    let one = ended_job();
    let id = TaskId { job: one.job.id, index: 0 };
    writer.commit(&Batch { submissions: vec![one], ..Batch::default() }).await.unwrap();
    ask_all(&store, id).await;
    writer.commit(&many()).await.unwrap();
    ask_all(&store, id).await;

    let url = format!("sqlite://{}/haul.db", dir.path().display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    let asked: Vec<String> = [&store.callers, &store.replays, &store.engine, &store.visits]
        .into_iter()
        .flat_map(|reader| reader.asked.lock().unwrap().clone())
        .collect();
    assert!(asked.len() > 100, "{} statements", asked.len());
    let mut wrong = Vec::new();
    for text in asked {
        let plan: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {text}"))).fetch_all(&mut conn).await.unwrap();
        let may_sort = SORTS.iter().any(|(piece, _)| text.contains(piece));
        for (.., step) in plan {
            let scans = step.starts_with("SCAN ") && !SCANNED.iter().any(|small| step.contains(small));
            if scans || step.contains("TEMP B-TREE") && !may_sort {
                wrong.push(format!("{step}\n    in {text}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} steps:\n{}", wrong.len(), wrong.join("\n"));
}

/// What an attempt asks for does not wait behind callers.
#[tokio::test]
async fn attempts_do_not_ask_behind_callers() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _writer) = SqliteStore::open(dir.path(), Durability::Off).await.unwrap();
    store.last_page(TaskId { job: ended_job().job.id, index: 0 }).await.unwrap();
    assert_eq!(store.callers.asked.lock().unwrap().len(), 0);
    assert_eq!(store.engine.asked.lock().unwrap().len(), 1);
}

/// Whoever changes jobs that are not in memory, or reads them for long, holds up no task that is to run.
#[tokio::test]
async fn lanes_are_not_read_behind_visits_or_callers() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Off).await.unwrap();
    let one = ended_job();
    let job = one.job.id;
    writer.commit(&Batch { submissions: vec![one], ..Batch::default() }).await.unwrap();
    let busy = [store.visits.hold_all().await, store.callers.hold_all().await];
    store.lane_page(job, 0, 0, 9, Timestamp(1)).await.unwrap();
    store.due_tasks(None, 9).await.unwrap();
    drop(busy);
    let busy = [store.engine.hold_all().await, store.callers.hold_all().await];
    assert!(store.visit(job).await.unwrap().is_some());
    drop(busy);
    let _busy = [store.engine.hold_all().await, store.visits.hold_all().await];
    assert!(store.job(job).await.unwrap().is_some());
}

/// However many follow jobs from their first event on, everybody else is answered.
#[tokio::test]
async fn nobody_asks_behind_those_who_read_events() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Off).await.unwrap();
    let one = ended_job();
    let job = one.job.id;
    writer.commit(&Batch { submissions: vec![one], ..Batch::default() }).await.unwrap();
    let busy = store.replays.hold_all().await;
    assert!(store.job(job).await.unwrap().is_some());
    drop(busy);
    let _busy = store.callers.hold_all().await;
    store.events(job, 0, 9).await.unwrap();
    store.events_before(job, 9, &[], 9).await.unwrap();
}

#[tokio::test]
async fn the_file_can_return_room() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, _writer) = SqliteStore::open(dir.path(), Durability::Off).await.unwrap();
    let url = format!("sqlite://{}/haul.db", dir.path().display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    let incremental: i64 = sqlx::query_scalar("PRAGMA auto_vacuum").fetch_one(&mut conn).await.unwrap();
    assert_eq!(incremental, 2);
}
