//! What the cases share: a backend over a directory, and short ways to write a batch.

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

use haul::model::event::{EventHead, EventKind};
use haul::model::failure::{FailureReason, TaskError};
use haul::model::failures::Alike;
use haul::model::host::Host;
use haul::model::ids::{JobId, TaskId, TaskIndex};
use haul::model::job::Job;
use haul::model::outcome::{Attempt, AttemptReport, FetchResult, Outcome};
use haul::model::spec::{FetchSpec, JobSpec, TaskOptions, TaskSpec, Work};
use haul::model::task::{Task, TaskEvent};
use haul::model::time::Timestamp;
use haul::store::sqlite::{Durability, SqliteStore};
use haul::store::{
    Addition, Batch, Claim, Committed, NewEvent, Store, StoreError, Submission, TaskMove, TaskRow, WriteStore,
};
use tempfile::TempDir;
use uuid::Uuid;

use crate::memory::MemoryStore;

/// A store under test.
pub trait Backend: Send + 'static {
    /// Opens what is at `dir`, as a restart does.
    fn open(dir: &Path) -> impl Future<Output = (Arc<dyn Store>, Box<dyn WriteStore>)> + Send;
}

pub struct Sqlite;

impl Backend for Sqlite {
    async fn open(dir: &Path) -> (Arc<dyn Store>, Box<dyn WriteStore>) {
        let (store, writer) = SqliteStore::open(dir, Durability::Full).await.unwrap();
        (store, Box::new(writer))
    }
}

/// The store of simulations. What is at a directory is kept under its name.
pub struct Memory;

impl Backend for Memory {
    async fn open(dir: &Path) -> (Arc<dyn Store>, Box<dyn WriteStore>) {
        static ALL: LazyLock<Mutex<HashMap<PathBuf, MemoryStore>>> = LazyLock::new(Mutex::default);
        let store = ALL.lock().unwrap().entry(dir.to_owned()).or_default().clone();
        let writer = Box::new(store.writer());
        (Arc::new(store), writer)
    }
}

/// A store with what keeps it alive.
pub struct Rig {
    pub store: Arc<dyn Store>,
    writer: Option<Box<dyn WriteStore>>,
    dir: TempDir,
}

impl Rig {
    pub async fn new<B: Backend>() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let (store, writer) = B::open(dir.path()).await;
        Rig { store, writer: Some(writer), dir }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub async fn try_commit(&mut self, batch: Batch) -> Result<Committed, StoreError> {
        self.writer.as_mut().unwrap().commit(&batch).await
    }

    /// Commits a batch of which nothing is refused.
    pub async fn commit(&mut self, batch: Batch) -> Committed {
        let committed = self.try_commit(batch).await.unwrap();
        assert_eq!(committed.refused, []);
        committed
    }

    /// Commits a batch of which the items of the job `number` are refused, and nothing else.
    pub async fn refuse(&mut self, number: u32, batch: Batch) -> Committed {
        let committed = self.try_commit(batch).await.unwrap();
        let refused: Vec<JobId> = committed.refused.iter().map(|(job, _)| *job).collect();
        assert_eq!(refused, [job_id(number)], "{committed:?}");
        committed
    }

    /// A new process over the same data; `gently`: after a close, otherwise as after a kill.
    pub async fn restart<B: Backend>(self, gently: bool) -> Rig {
        let Rig { store, mut writer, dir } = self;
        if gently {
            writer.take().unwrap().close().await;
        }
        drop((store, writer));
        let (store, writer) = B::open(dir.path()).await;
        Rig { store, writer: Some(writer), dir }
    }

    /// A job of so many tasks in one lane, stored.
    pub async fn job_of(&mut self, number: u32, tasks: u32) -> Job {
        let job = job(number, tasks);
        self.commit(with_job(&job, tasks)).await;
        job
    }

    /// Runs a task to its end.
    pub async fn end(&mut self, id: TaskId, end: impl FnOnce(&Task) -> TaskEvent) -> TaskRow {
        let before = self.store.task(id).await.unwrap().unwrap().row;
        let claim = claim_of(id, &before.task, 100);
        self.commit(Batch { claims: vec![claim.clone()], ..Batch::default() }).await;
        let event = end(&claim.task);
        let outcome = matches!(event, TaskEvent::Succeeded(_)).then(|| Arc::new(fetched("https://a.example/x")));
        let task = claim.task.apply(event, Timestamp(200)).unwrap();
        let mut log = before.log;
        log.push(attempt(claim.task.fence, task.error.clone()));
        let row = TaskRow { task, log, outcome };
        self.commit(Batch { moves: vec![TaskMove { id, row: row.clone() }], ..Batch::default() }).await;
        row
    }
}

pub fn job_id(number: u32) -> JobId {
    // The time in it is 0, as the times of creation nearly are.
    JobId(Uuid::from_u128(0x7000_8000_0000_0000_0000 + u128::from(number)))
}

pub fn task_id(number: u32, index: TaskIndex) -> TaskId {
    TaskId { job: job_id(number), index }
}

pub fn job(number: u32, tasks: u32) -> Job {
    let spec = JobSpec { title: format!("job {number}"), ..JobSpec::default() };
    Job::new(job_id(number), spec, tasks, Timestamp(i64::from(number)))
}

pub fn fetch(url: &str) -> Arc<TaskSpec> {
    let work = Work::Fetch(FetchSpec { url: url.to_owned(), ..FetchSpec::default() });
    Arc::new(TaskSpec { key: String::new(), work, options: TaskOptions::default().into() })
}

/// The spec of the task with this index, in every job.
pub fn spec(index: TaskIndex) -> Arc<TaskSpec> {
    fetch(&format!("https://a.example/\"{index}\" ü"))
}

pub fn keyed(key: &str) -> Arc<TaskSpec> {
    Arc::new(TaskSpec { key: key.to_owned(), ..(*fetch("https://a.example/")).clone() })
}

/// A job of so many tasks in one lane.
pub fn submission(job: &Job, tasks: u32) -> Submission {
    let tasks = (0..tasks).map(|index| (0, spec(index))).collect();
    Submission { job: job.clone(), request: None, lanes: vec![Host::new("a.example:443")], tasks }
}

pub fn with_job(job: &Job, tasks: u32) -> Batch {
    Batch { submissions: vec![submission(job, tasks)], ..Batch::default() }
}

/// Adds tasks without a chunk id.
pub fn addition(number: u32, tasks: Vec<(u32, Arc<TaskSpec>)>) -> Addition {
    Addition { job: job_id(number), chunk_id: String::new(), digest: [0; 32], new_lanes: Vec::new(), tasks }
}

pub fn claim_of(id: TaskId, before: &Task, time: i64) -> Claim {
    let task = before.apply(TaskEvent::Started, Timestamp(time)).unwrap();
    Claim { id, task, attempt_start: Timestamp(time) }
}

pub fn error(message: &str) -> TaskError {
    TaskError {
        reason: FailureReason::Connect,
        message: message.to_owned(),
        http_status: 503,
        retryable: true,
        attempt: 1,
        task_index: None,
        url: String::new(),
    }
}

/// Tasks that failed as an [`attempt`] at them did, for this reason and with this status.
pub fn alike(reason: FailureReason, http_status: u16, tasks: &[TaskIndex]) -> Vec<Alike> {
    vec![Alike { reason: Some(reason), http_status, host: "a.example:443".to_owned(), tasks: tasks.to_vec() }]
}

pub fn attempt(number: u32, error: Option<TaskError>) -> Attempt {
    let report = AttemptReport { url: "https://a.example/'x'".into(), bytes: 7, ..AttemptReport::default() };
    Attempt { number, start_time: Timestamp(100), end_time: Timestamp(200), report, error }
}

pub fn fetched(url: &str) -> Outcome {
    Outcome::Fetch(FetchResult { http_status: 200, final_url: url.to_owned(), ..FetchResult::default() })
}

pub fn ended_event(id: TaskId, sequence: u64) -> NewEvent {
    let head = EventHead { sequence, time: Timestamp(200), kind: EventKind::TaskEnded, task: Some(id.index) };
    NewEvent { job: id.job, head, snapshot: None }
}

pub fn job_event(job: &Job, kind: EventKind) -> NewEvent {
    let head = EventHead { sequence: job.sequence, time: job.update_time, kind, task: None };
    NewEvent { job: job.id, head, snapshot: Some(Arc::new(job.clone())) }
}

/// The fence of the attempt, for the events that name it.
pub fn failed(task: &Task) -> TaskEvent {
    TaskEvent::Failed(task.fence, error("no answer"))
}

pub fn succeeded(task: &Task) -> TaskEvent {
    TaskEvent::Succeeded(task.fence)
}

pub fn backing_off(due: i64) -> impl FnOnce(&Task) -> TaskEvent {
    move |task| TaskEvent::BackedOff(task.fence, error("later"), Timestamp(due))
}
