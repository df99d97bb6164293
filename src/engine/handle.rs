//! What the faces call. Every change goes to the scheduler and is durable when the call returns.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use url::Url;
use uuid::Uuid;

use crate::engine::attempts::Runner;
use crate::engine::event::{Command, Control, EngineError, JobPatch, Reply, Revival, Tasks};
use crate::engine::hub::Hub;
use crate::engine::waiting::Explanation;
use crate::fetch::json;
use crate::limits::hosts::HostView;
use crate::model::failure::Failure;
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::job::{Job, WrongState};
use crate::model::limits::Limits;
use crate::model::outcome::DownloadResult;
use crate::model::spec::{JobSpec, TaskSpec};
use crate::model::task::TaskState;
use crate::model::time::Timestamp;
use crate::store::{Chunk, StoreError, StoredEvent};

/// What is read of a finished download.
pub use crate::files::root::Finished;

/// The engine, as others see it. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    commands: mpsc::Sender<Command>,
    runner: Arc<Runner>,
    hub: Arc<Hub>,
    requests: Arc<Reservations<String>>,
    jobs: Arc<Reservations<JobId>>,
}

impl From<StoreError> for EngineError {
    fn from(error: StoreError) -> Self {
        EngineError::Store(error.to_string())
    }
}

impl Engine {
    pub(crate) fn new(commands: mpsc::Sender<Command>, runner: Arc<Runner>, hub: Arc<Hub>) -> Engine {
        Engine { commands, runner, hub, requests: Arc::default(), jobs: Arc::default() }
    }

    /// What watchers follow.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// The time, as the engine stamps it.
    pub fn now(&self) -> Timestamp {
        self.runner.clock.now()
    }

    /// Stores a job with its tasks. With the same `request_id` and the same job it answers the first one again, also when
    /// both come at once.
    pub async fn submit(&self, spec: JobSpec, tasks: Vec<TaskSpec>, request_id: &str) -> Result<Arc<Job>, EngineError> {
        let mut request = None;
        let mut _turn = None;
        if !request_id.is_empty() {
            let digest = digest(&(&spec, &tasks));
            _turn = Some(self.requests.turn(request_id.to_owned()).await);
            if let Some((job, first)) = self.runner.store.request(request_id).await? {
                if first != digest {
                    return Err(EngineError::RequestIdTaken(request_id.to_owned()));
                }
                return self.job(job).await;
            }
            request = Some((request_id.to_owned(), digest));
        }
        let tasks = with_hosts(tasks);
        let count = TaskIndex::try_from(tasks.specs.len()).map_err(|_| EngineError::TooManyTasks)?;
        let job = Job::new(JobId(Uuid::now_v7()), spec, count, self.now());
        self.ask(|reply| Command::Submit { job, request, tasks, reply }).await
    }

    /// Adds a chunk of tasks to an open job. The same chunk again is answered again.
    pub async fn add_tasks(&self, job: JobId, chunk_id: &str, tasks: Vec<TaskSpec>) -> Result<Chunk, EngineError> {
        let digest = digest(&tasks);
        let _turn = self.jobs.turn(job).await;
        if let Some(chunk) = self.runner.store.chunk(job, chunk_id).await? {
            if chunk.digest != digest {
                return Err(EngineError::ChunkIdTaken(chunk_id.to_owned()));
            }
            return Ok(chunk);
        }
        if self.hub.feed(job).is_none() {
            self.job(job).await?;
            return Err(EngineError::Sealed(job));
        }
        self.refuse_taken_keys(job, &tasks).await?;
        let tasks = with_hosts(tasks);
        self.ask(|reply| Command::AddTasks { job, chunk_id: chunk_id.to_owned(), digest, tasks, reply }).await
    }

    async fn refuse_taken_keys(&self, job: JobId, tasks: &[TaskSpec]) -> Result<(), EngineError> {
        let keys: Vec<String> = tasks.iter().filter(|task| !task.key.is_empty()).map(|task| task.key.clone()).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let taken = self.runner.store.taken_keys(job, &keys).await?;
        if taken.is_empty() {
            return Ok(());
        }
        let places = tasks.iter().enumerate().filter(|(_, task)| taken.contains(&task.key));
        Err(EngineError::KeysTaken(places.map(|(place, task)| (place, task.key.clone())).collect()))
    }

    /// No more tasks will come. A job that is sealed, or has ended, is answered as it is.
    pub async fn seal(&self, job: JobId) -> Result<Arc<Job>, EngineError> {
        let _turn = self.jobs.turn(job).await;
        match self.control(job, Control::Seal).await? {
            Some(job) => Ok(job),
            None => self.job(job).await,
        }
    }

    /// Lets no new attempt of the job start, and gives back those that run.
    pub async fn pause(&self, job: JobId) -> Result<Arc<Job>, EngineError> {
        self.live_only(job, Control::Pause, "paused").await
    }

    /// Goes on.
    pub async fn resume(&self, job: JobId) -> Result<Arc<Job>, EngineError> {
        self.live_only(job, Control::Resume, "resumed").await
    }

    async fn live_only(&self, job: JobId, what: Control, event: &'static str) -> Result<Arc<Job>, EngineError> {
        match self.control(job, what).await? {
            Some(job) => Ok(job),
            None => Err(WrongState { state: self.ended(job).await?.state, event }.into()),
        }
    }

    /// Stops the job's tasks and returns when it has ended. A job that has ended is answered as it is.
    pub async fn cancel(&self, job: JobId, reason: String) -> Result<Arc<Job>, EngineError> {
        self.control(job, Control::Cancel(reason)).await?;
        self.ended(job).await
    }

    /// Runs failed and cancelled tasks of an ended job again; `None`: all of them.
    pub async fn retry(&self, id: JobId, indexes: Option<Vec<TaskIndex>>) -> Result<Arc<Job>, EngineError> {
        let _turn = self.jobs.turn(id).await;
        let job = self.job(id).await?;
        if !job.state.is_ended() || self.hub.feed(id).is_some() {
            return Err(WrongState { state: job.state, event: "retried" }.into());
        }
        let counts = match &indexes {
            None => (job.counts.failed, job.counts.cancelled),
            Some(indexes) => self.retryable(id, indexes).await?,
        };
        if counts == (0, 0) {
            return Ok(job);
        }
        self.runner.parts.bring_back(id, &job.directory()).await;
        let lanes = self.runner.store.lanes(id).await?;
        let revival = Box::new(Revival { job: Job::clone(&job), lanes, indexes, counts });
        self.ask(|reply| Command::Retry { revival, reply }).await
    }

    async fn retryable(&self, job: JobId, indexes: &[TaskIndex]) -> Result<(u32, u32), EngineError> {
        let states: HashMap<_, _> = self.runner.store.task_states(job, indexes).await?.into_iter().collect();
        let (mut failed, mut cancelled) = (0, 0);
        for index in indexes {
            match states.get(index) {
                Some(TaskState::Failed) => failed += 1,
                Some(TaskState::Cancelled) => cancelled += 1,
                Some(_) => return Err(EngineError::NotRetryable(*index)),
                None => return Err(EngineError::NoTask(job, *index)),
            }
        }
        Ok((failed, cancelled))
    }

    /// Changes a job, at once.
    pub async fn update(&self, id: JobId, patch: JobPatch) -> Result<Arc<Job>, EngineError> {
        let _turn = self.jobs.turn(id).await;
        loop {
            let job = self.job(id).await?;
            let ended = job.state.is_ended().then(|| Box::new(Job::clone(&job)));
            let patch = patch.clone();
            if let Some(job) = self.ask(|reply| Command::Update { job: id, ended, patch, reply }).await? {
                return Ok(job);
            }
            // It ended in between: its end is being committed.
            self.ended(id).await?;
        }
    }

    /// Deletes an ended job, and the files of its downloads if asked to.
    pub async fn delete(&self, id: JobId, delete_files: bool) -> Result<(), EngineError> {
        let _turn = self.jobs.turn(id).await;
        let job = self.job(id).await?;
        if !job.state.is_ended() {
            return Err(WrongState { state: job.state, event: "deleted" }.into());
        }
        if delete_files {
            self.runner.parts.delete_created(id).await?;
        }
        self.ask(|reply| Command::Delete { job: id, reply }).await
    }

    /// The limits in force.
    pub fn limits(&self) -> Arc<Limits> {
        self.runner.hosts.limits()
    }

    /// Changes the limits, for good.
    pub async fn set_limits(&self, limits: Limits) -> Result<(), EngineError> {
        self.ask(|reply| Command::SetLimits { limits, reply }).await
    }

    /// At most `limit` of the hosts that the engine knows, by name, after `after`; each with how many tasks wait there.
    pub async fn hosts(&self, after: Option<&Host>, limit: usize) -> Result<Vec<(HostView, u32)>, EngineError> {
        let views = self.runner.hosts.views_after(after, limit);
        let hosts = views.iter().map(|view| view.host.clone()).collect();
        let (reply, waiting) = oneshot::channel();
        self.send(Command::WaitingAt { hosts, reply }).await?;
        let waiting = waiting.await.map_err(|_| EngineError::Draining)?;
        Ok(views.into_iter().zip(waiting).collect())
    }

    /// Why tasks of a job for these hosts do not run; without hosts: why any of it does not.
    pub async fn explain(&self, job: JobId, hosts: Vec<Host>) -> Result<Explanation, EngineError> {
        let (reply, explanation) = oneshot::channel();
        self.send(Command::Explain { job, hosts, reply }).await?;
        explanation.await.map_err(|_| EngineError::Draining)
    }

    /// Opens the file of a finished download for reading. `None`: it is not there, or it is another one by now.
    pub async fn open_download(&self, download: &DownloadResult) -> Result<Option<Finished>, Failure> {
        self.runner.root.open_finished(&download.path, download.bytes, download.created).await
    }

    /// Bytes of a body that is too long for the database.
    pub async fn read_content(&self, id: TaskId, page: u32, offset: u64, length: usize) -> Result<Bytes, Failure> {
        let bytes = self.runner.content.read(id, page, offset, length).await?;
        Ok(bytes.unwrap_or_default())
    }

    /// The items of a page, each as it was sent.
    pub fn items(&self, page: &[u8], pointer: &str) -> Result<Vec<String>, Failure> {
        Ok(json::items(page, pointer)?.into_iter().map(|item| item.get().to_owned()).collect())
    }

    /// Begins the end of the process: no new attempt starts, those that run are given back.
    pub async fn drain(&self) {
        // A scheduler that is gone has drained.
        let _ = self.commands.send(Command::Drain).await;
    }

    /// The job as it was committed last.
    pub async fn job(&self, id: JobId) -> Result<Arc<Job>, EngineError> {
        if let Some(feed) = self.hub.feed(id) {
            return Ok(feed.job());
        }
        self.runner.store.job(id).await?.map(Arc::new).ok_or(EngineError::NoJob(id))
    }

    /// Durable events after `after`, from memory or from the store.
    pub async fn events(&self, id: JobId, after: u64, limit: u32) -> Result<Vec<Arc<StoredEvent>>, EngineError> {
        if let Some(events) = self.hub.feed(id).and_then(|feed| feed.events_after(after, limit as usize)) {
            return Ok(events);
        }
        Ok(self.runner.store.events(id, after, limit).await?.into_iter().map(Arc::new).collect())
    }

    /// Waits until the job has ended and nothing of it is in memory.
    pub async fn ended(&self, id: JobId) -> Result<Arc<Job>, EngineError> {
        while let Some(feed) = self.hub.feed(id) {
            let mut version = feed.subscribe();
            let job = feed.job();
            if job.state.is_ended() {
                return Ok(job);
            }
            drop(feed);
            if version.changed().await.is_err() {
                break;
            }
        }
        let job = self.job(id).await?;
        if job.state.is_ended() { Ok(job) } else { Err(EngineError::Draining) }
    }

    /// As [`Engine::ended`], but at most for `timeout`; then the job as it is.
    pub async fn wait(&self, id: JobId, timeout: Option<Duration>) -> Result<Arc<Job>, EngineError> {
        let Some(timeout) = timeout else { return self.ended(id).await };
        match tokio::time::timeout(timeout, self.ended(id)).await {
            Ok(job) => job,
            Err(_) => self.job(id).await,
        }
    }

    async fn control(&self, job: JobId, what: Control) -> Result<Option<Arc<Job>>, EngineError> {
        self.ask(|reply| Command::Control { job, what, reply }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.map_err(|_| EngineError::Draining)?
    }

    /// The queue of commands is bounded: who asks too much waits here.
    async fn send(&self, command: Command) -> Result<(), EngineError> {
        self.commands.send(command).await.map_err(|_| EngineError::Draining)
    }
}

fn with_hosts(specs: Vec<TaskSpec>) -> Tasks {
    // Validated at the edge; a URL that is none would fail in its attempt, in the lane of no host.
    let host_of = |task: &TaskSpec| Url::parse(task.work.url()).ok().and_then(|url| Host::of(&url));
    let hosts = specs.iter().map(|task| host_of(task).unwrap_or_else(|| Host::new(":0"))).collect();
    Tasks { specs: specs.into_iter().map(Arc::new).collect(), hosts }
}

fn digest(value: &impl serde::Serialize) -> [u8; 32] {
    // Plain data with string keys: it cannot fail to be written.
    Sha256::digest(serde_json::to_vec(value).unwrap_or_default()).into()
}

/// One at a time for each key: what has to read before it writes.
#[derive(Debug)]
struct Reservations<K>(Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>);

impl<K> Default for Reservations<K> {
    fn default() -> Self {
        Reservations(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash> Reservations<K> {
    async fn turn(&self, key: K) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if turns.len() > 1024 {
                turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            }
            turns.entry(key).or_default().clone()
        };
        turn.lock_owned().await
    }
}
