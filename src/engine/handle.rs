//! What the faces call. Every change goes to the scheduler and is durable when the call returns.
//!
//! A call holds nothing that others wait for: the scheduler and the store decide what two calls at once come to, so a
//! caller that gives up changes nothing but what it hears.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::engine::admission;
use crate::engine::attempt::KeepPages;
use crate::engine::command::{Acted, Admitted, Command, Control, EngineError, JobCommand, JobPatch, Reply};
use crate::engine::explained::Explained;
use crate::engine::explanation::{Explanation, Waits};
use crate::engine::figures::NamedHost;
use crate::engine::hub::Hub;
use crate::engine::new_tasks::NewTasks;
use crate::engine::runner::Runner;
use crate::engine::writer::Condition;
use crate::fetch::json;
use crate::model::access::{AccessAnswer, AccessChange, Actor};
use crate::model::audit::AuditRow;
use crate::model::book::Book;
use crate::model::failure::{Failure, FailureReason};
use crate::model::host::Host;
use crate::model::ids::{Fence, JobId, TaskId, TaskIndex};
use crate::model::job::Job;
use crate::model::limits::{Limits, LimitsPatch};
use crate::model::outcome::DownloadResult;
use crate::model::quotas::Usage;
use crate::model::spec::{JobSpec, TaskSpec};
use crate::model::task_filter::TaskChoice;
use crate::model::tenant::{Parties, Party, TenantNo};
use crate::model::time::Timestamp;
use crate::model::trace::TraceParent;
use crate::store::{Chunk, LaneNumber, NewPage, StoreError, StoredEvent};

/// What is read of a finished download.
pub use crate::files::root::Finished;
/// What is shown of a host.
pub use crate::limits::views::HostView;

/// Memory of commands that wait for the scheduler or for their job, in KiB. A caller beyond waits before it sends.
const ROOM_KIB: usize = 64 << 10;
/// Memory of what callers hold that wait for that room, in KiB. A caller beyond is refused: it would hold its tasks for as
/// long as the disk is slow, and callers are many.
const WAITING_KIB: usize = 64 << 10;
/// Memory of a command beside what it carries, in bytes.
const COMMAND_BYTES: usize = 1 << 10;
/// Memory of a row of the audit, in bytes, roughly.
const AUDIT_ROW_BYTES: usize = 512;
/// How long a job that is durable may have no feed before the server is taken to be gone.
const FEED_PATIENCE: Duration = Duration::from_secs(5);
/// The time between two looks for it.
const FEED_PAUSE: Duration = Duration::from_millis(10);
/// After so many looks it is looked why there is none.
const FEED_LOOKS: u32 = 10;
/// Deletions that wait for the scheduler or for their job. They have room of their own, since they make some.
const DELETIONS_MAX: usize = 4096;

/// The engine, as others see it. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    commands: mpsc::Sender<Admitted<Command>>,
    room: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    deletions: Arc<Semaphore>,
    runner: Arc<Runner>,
    hub: Arc<Hub>,
    condition: watch::Receiver<Condition>,
    books: watch::Receiver<Arc<Book>>,
    explained: Arc<Explained>,
    /// Who asks.
    by: Arc<Actor>,
}

impl From<StoreError> for EngineError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unreadable(_) => EngineError::Unreadable(error.to_string()),
            error => EngineError::Store(error.to_string()),
        }
    }
}

impl Engine {
    pub(crate) fn new(
        commands: mpsc::Sender<Admitted<Command>>,
        runner: Arc<Runner>,
        hub: Arc<Hub>,
        condition: watch::Receiver<Condition>,
        books: watch::Receiver<Arc<Book>>,
    ) -> Engine {
        let [room, waiting] = [ROOM_KIB, WAITING_KIB].map(|kib| Arc::new(Semaphore::new(kib)));
        let deletions = Arc::new(Semaphore::new(DELETIONS_MAX));
        let by = Arc::new(Actor::local());
        Engine { commands, room, waiting, deletions, runner, hub, condition, books, explained: Arc::default(), by }
    }

    /// Returns this engine as somebody calls it: what it changes is theirs. Without this it is the server's own user who
    /// calls.
    #[must_use]
    pub fn by(&self, actor: Arc<Actor>) -> Engine {
        Engine { by: actor, ..self.clone() }
    }

    /// Who may call, as it changes.
    pub fn books(&self) -> watch::Receiver<Arc<Book>> {
        self.books.clone()
    }

    /// Changes who may call. It is in force when this returns.
    pub async fn change_access(&self, change: AccessChange) -> Result<AccessAnswer, EngineError> {
        self.ask(0, |reply| Command::Access { change, reply }).await
    }

    /// Stores rows of the audit that belong to no change. They are durable when this returns.
    pub async fn audit(&self, rows: Vec<AuditRow>) -> Result<(), EngineError> {
        self.ask(rows.len() * AUDIT_ROW_BYTES, |reply| Command::Audit { rows, reply }).await
    }

    /// The feeds that watchers follow.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Whether changes can be committed, as it changes.
    pub fn condition(&self) -> watch::Receiver<Condition> {
        self.condition.clone()
    }

    /// The time, as the engine stamps it.
    pub fn now(&self) -> Timestamp {
        self.runner.clock.now()
    }

    /// Stores a job with its tasks. With the same `request_id` and the same job it answers the first one again, also when
    /// both come at once.
    /// It belongs where its caller stands in a trace; who only repeats a request changes nothing of that.
    pub async fn submit(
        &self,
        spec: JobSpec,
        tasks: impl Into<NewTasks>,
        request_id: &str,
        caller: Option<TraceParent>,
    ) -> Result<Arc<Job>, EngineError> {
        let tasks = tasks.into();
        let digest = || self.digest(&(&spec, tasks.specs()));
        let request = (!request_id.is_empty()).then(|| (request_id.to_owned(), digest()));
        let bytes = spec.memory_bytes() + bytes_of(tasks.specs());
        let tasks = tasks.into();
        let spec = Box::new(spec);
        self.ask(bytes, |reply| Command::Submit { spec, request, tasks, caller, reply }).await
    }

    /// Returns the job that this request made, where it did before: it is answered again, whatever is asked of jobs by now. A
    /// request id that was used for another job is refused.
    pub async fn submitted(
        &self,
        spec: &JobSpec,
        tasks: &[TaskSpec],
        request_id: &str,
    ) -> Result<Option<Arc<Job>>, EngineError> {
        let Some(tenant) = self.by.scope.no().filter(|_| !request_id.is_empty()) else { return Ok(None) };
        let known = self.runner.store.request(Party { tenant, principal: self.by.principal }, request_id).await?;
        let Some((id, digest)) = known else { return Ok(None) };
        if digest != self.digest(&(spec, tasks)) {
            return Err(EngineError::RequestIdTaken(request_id.to_owned()));
        }
        match self.job(id).await {
            Ok(job) => Ok(Some(job)),
            Err(EngineError::NoJob(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Judges whether the caller's tenant may have such a job, as its submission would be judged now. What comes and goes within
    /// seconds, as how many tasks are added in one, is not looked at.
    ///
    /// # Errors
    ///
    /// It is suspended, or asks for more than one of its quotas allows.
    pub async fn admits(&self, spec: &JobSpec, tasks: &[TaskSpec]) -> Result<(), EngineError> {
        let Some(no) = self.by.scope.no() else { return Ok(()) };
        let Some(tenant) = self.books().borrow().tenant_numbered(no).cloned() else { return Ok(()) };
        let is = self.usage(vec![no]).await?.pop().unwrap_or_default();
        let more = Usage { unfinished_jobs: 1, queued_tasks: tasks.len() as u64, ..Usage::default() };
        admission::amount(&tenant, is, more)?;
        admission::times(&tenant, spec, tasks.iter().map(|task| task.options.timeouts.attempt))
    }

    /// Returns the chunk of this name, where it was stored with these tasks.
    pub async fn added(&self, job: JobId, chunk_id: &str, tasks: &[TaskSpec]) -> Result<Option<Chunk>, EngineError> {
        let known = self.runner.store.chunk(job, chunk_id).await?;
        Ok(known.filter(|chunk| chunk.digest == self.digest(&tasks)))
    }

    /// Adds a chunk of tasks to an open job. The same chunk again is answered again.
    pub async fn add_tasks(
        &self,
        job: JobId,
        chunk_id: &str,
        tasks: impl Into<NewTasks>,
    ) -> Result<Chunk, EngineError> {
        let tasks = tasks.into();
        let (digest, bytes) = (self.digest(&tasks.specs()), bytes_of(tasks.specs()));
        let (chunk_id, tasks) = (chunk_id.to_owned(), tasks.into());
        self.ask(bytes, |reply| Command::Job(job, JobCommand::AddTasks { chunk_id, digest, tasks, reply })).await
    }

    /// The digest of a request, by which a repetition is told from another request.
    fn digest(&self, value: &impl serde::Serialize) -> [u8; 32] {
        // Plain data with string keys: it cannot fail to be written.
        self.runner.store.keyed(Sha256::digest(serde_json::to_vec(value).unwrap_or_default()).into())
    }

    /// Notes that no more tasks will come. A job that is sealed, or has ended, is answered as it is.
    pub async fn seal(&self, job: JobId) -> Result<Arc<Job>, EngineError> {
        self.control(job, Control::Seal).await
    }

    /// Lets no new attempt of the job start, and stops those that run at a checkpoint.
    pub async fn pause(&self, job: JobId) -> Result<Arc<Job>, EngineError> {
        self.control(job, Control::Pause).await
    }

    /// Lets attempts of a paused job start again.
    pub async fn resume(&self, job: JobId) -> Result<Arc<Job>, EngineError> {
        self.control(job, Control::Resume).await
    }

    /// Begins to end the job's tasks, and returns when that is durable. A job that has ended is answered as it is.
    pub async fn begin_cancel(&self, job: JobId, reason: String) -> Result<Arc<Job>, EngineError> {
        self.control(job, Control::Cancel(reason)).await
    }

    /// Ends the job's tasks and returns when the job has ended. A job that has ended is answered as it is.
    pub async fn cancel(&self, job: JobId, reason: String) -> Result<Arc<Job>, EngineError> {
        self.begin_cancel(job, reason).await?;
        self.ended(job).await
    }

    /// Runs failed and cancelled tasks of an ended job again. Of a list each must be one.
    pub async fn retry(&self, job: JobId, which: TaskChoice) -> Result<Arc<Job>, EngineError> {
        self.ask(which.memory_bytes(), |reply| Command::Job(job, JobCommand::Retry { which, reply })).await
    }

    /// Ends tasks of a job that goes on, and returns when they have ended: those that wait, and those that run. What it
    /// cannot act on is passed over.
    pub async fn cancel_tasks(&self, job: JobId, which: TaskChoice, reason: String) -> Result<Acted, EngineError> {
        let bytes = which.memory_bytes() + reason.len();
        self.ask(bytes, |reply| Command::Job(job, JobCommand::CancelTasks { which, to: None, reason, reply })).await
    }

    /// Makes tasks due that back off. What it cannot act on is passed over.
    pub async fn retry_now(&self, job: JobId, which: TaskChoice) -> Result<Acted, EngineError> {
        self.ask(which.memory_bytes(), |reply| Command::Job(job, JobCommand::RetryNow { which, to: None, reply })).await
    }

    /// Changes a job, at once.
    pub async fn update(&self, job: JobId, patch: JobPatch) -> Result<Arc<Job>, EngineError> {
        let bytes = patch.memory_bytes();
        self.ask(bytes, |reply| Command::Job(job, JobCommand::Update { patch, reply })).await
    }

    /// Deletes an ended job, and the files of its downloads if asked to.
    pub async fn delete(&self, job: JobId, with_files: bool) -> Result<(), EngineError> {
        let place = self.deletions.clone().acquire_owned().await.map_err(|_| EngineError::Draining)?;
        let (reply, answer) = oneshot::channel();
        let command = Command::Job(job, JobCommand::Delete { with_files, reply });
        self.send(Some(place), command).await?;
        answer.await.map_err(|_| EngineError::Draining)?
    }

    /// The limits in force.
    pub fn limits(&self) -> Arc<Limits> {
        self.runner.hosts.limits()
    }

    /// Changes limits, for good. Returns the limits with every change that was made so far.
    pub async fn set_limits(&self, patch: LimitsPatch) -> Result<Limits, EngineError> {
        self.ask(patch.memory_bytes(), |reply| Command::SetLimits { patch, reply }).await
    }

    /// Seals secrets with another data key from now on. What is stored is sealed anew in the background. Returns the number of
    /// the key.
    pub async fn new_data_key(&self) -> Result<u32, EngineError> {
        self.ask(0, |reply| Command::NewDataKey { reply }).await
    }

    /// At most `limit` of the hosts that the engine knows, by name, after `after`; each with how many tasks wait there.
    /// With `own` only those that are asked for these parties, with what is done for them.
    pub async fn hosts(
        &self,
        own: Option<Parties>,
        after: Option<&Host>,
        limit: usize,
    ) -> Result<Vec<(HostView, u32)>, EngineError> {
        let views = match own {
            Some(whose) => self.runner.hosts.own_views_after(whose, after, limit),
            None => self.runner.hosts.views_after(after, limit),
        };
        let whose = own.unwrap_or_default();
        let hosts = views.iter().map(|view| view.host.clone()).collect();
        let (reply, waiting) = oneshot::channel();
        self.send(None, Command::WaitingAt { hosts, whose, reply }).await?;
        let waiting = waiting.await.map_err(|_| EngineError::Draining)?;
        Ok(views.into_iter().zip(waiting).collect())
    }

    /// One of the hosts that the engine knows.
    pub async fn host(&self, host: &Host) -> Result<(HostView, u32), EngineError> {
        let view = self.runner.hosts.view(host).ok_or_else(|| EngineError::NoHost(host.clone()))?;
        let (reply, waiting) = oneshot::channel();
        self.send(None, Command::WaitingAt { hosts: vec![host.clone()], whose: Parties::default(), reply }).await?;
        let waiting = waiting.await.map_err(|_| EngineError::Draining)?;
        Ok((view, waiting.first().copied().unwrap_or(0)))
    }

    /// Ends the pause of a host, if there is one.
    pub async fn resume_host(&self, host: Host) -> Result<(), EngineError> {
        self.ask(host.as_str().len(), |reply| Command::ResumeHost { host, reply }).await
    }

    /// How many tasks wait for what. Where there are many jobs, as it was a moment ago.
    pub async fn waits(&self) -> Result<Waits, EngineError> {
        let (reply, waits) = oneshot::channel();
        self.send(None, Command::Waits { reply }).await?;
        waits.await.map_err(|_| EngineError::Draining)
    }

    /// What tenants have, in their order.
    pub async fn usage(&self, tenants: Vec<TenantNo>) -> Result<Vec<Usage>, EngineError> {
        let (reply, usage) = oneshot::channel();
        self.send(None, Command::Usage { tenants, reply }).await?;
        usage.await.map_err(|_| EngineError::Draining)
    }

    /// How many bytes of response bodies come for a tenant in a second, of late.
    pub fn bytes_per_second(&self, tenant: TenantNo) -> u64 {
        self.runner.hosts.bytes_per_second(tenant)
    }

    /// How many commands wait for the scheduler.
    pub fn commands_waiting(&self) -> usize {
        self.commands.max_capacity() - self.commands.capacity()
    }

    /// How many hosts have work or a pause: those that are fine, and paused ones.
    pub fn host_counts(&self) -> [u64; 2] {
        self.runner.hosts.counts()
    }

    /// Looks at hosts by their names, with a port or with every port.
    pub async fn named_hosts(&self, names: impl Iterator<Item = &str>) -> Result<Vec<NamedHost>, EngineError> {
        let named: Vec<_> = names.map(|name| self.runner.hosts.named(name)).collect();
        let hosts = named.iter().flatten().map(|(host, ..)| host.clone()).collect();
        let (reply, waiting) = oneshot::channel();
        self.send(None, Command::WaitingAt { hosts, whose: Parties::default(), reply }).await?;
        let mut waiting = waiting.await.map_err(|_| EngineError::Draining)?.into_iter();
        let sum = |hosts: Vec<(Host, u32, bool)>| NamedHost {
            running: hosts.iter().map(|(_, running, _)| u64::from(*running)).sum(),
            waiting: waiting.by_ref().take(hosts.len()).map(u64::from).sum(),
            is_paused: hosts.iter().any(|(.., is_paused)| *is_paused),
        };
        Ok(named.into_iter().map(sum).collect())
    }

    /// Explains why `tasks` of a job do not run, each named by its index and lane; without tasks, why the job does not.
    pub async fn explain(&self, job: JobId, tasks: Vec<(TaskIndex, LaneNumber)>) -> Result<Explanation, EngineError> {
        let (reply, explanation) = oneshot::channel();
        self.send(None, Command::Explain { job, tasks, reply }).await?;
        explanation.await.map_err(|_| EngineError::Draining)
    }

    /// Explains why a job does not run, as that was found at most `age` ago. The scheduler is asked, which may be busy: it has the
    /// time of `patience`, or any time.
    pub async fn explain_job(
        &self,
        job: &Job,
        age: Duration,
        patience: Option<Duration>,
    ) -> Result<Arc<Explanation>, EngineError> {
        let asked = self.explained.of((job.id, job.state), age, self.explain(job.id, Vec::new()));
        let Some(patience) = patience else { return asked.await };
        tokio::time::timeout(patience, asked).await.unwrap_or(Err(EngineError::Overloaded))
    }

    /// Opens the file of a finished download of a job for reading. `None`: it is not there, or it is another one by now.
    pub async fn open_download(&self, job: &Job, download: &DownloadResult) -> Result<Option<Finished>, Failure> {
        let root = self.runner.roots.of(&job.tenant)?;
        root.open_finished(&download.path, download.bytes, download.created).await
    }

    /// Reads bytes of a body that is too long for the database.
    pub async fn read_content(&self, id: TaskId, page: u32, offset: u64, length: usize) -> Result<Bytes, Failure> {
        let bytes = self.runner.content.read(id, page, offset, length).await?;
        Ok(bytes.unwrap_or_default())
    }

    /// Where the items of a page are in it. No page has 4 GiB.
    pub fn items(&self, page: &[u8], pointer: &str) -> Result<Vec<Range<u32>>, Failure> {
        let place = |item: &str| {
            let from = (item.as_ptr() as usize).saturating_sub(page.as_ptr() as usize) as u32;
            from..from + item.len() as u32
        };
        Ok(json::items(page, pointer)?.into_iter().map(|item| place(item.get())).collect())
    }

    /// Begins the end of the process: no new attempt starts, and tasks that run are requeued.
    pub async fn drain(&self) {
        // A scheduler that is gone has drained.
        let _ = self.send(None, Command::Drain).await;
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
            return Ok(events.iter().map(|published| published.event.clone()).collect());
        }
        Ok(self.runner.store.events(id, after, limit).await?.items.into_iter().map(Arc::new).collect())
    }

    /// Waits until the job's end has been committed.
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
        match self.quiet_job(id).await? {
            Some(job) => Ok(job),
            None => Box::pin(self.ended(id)).await,
        }
    }

    /// A job that has ended, of which there is no feed. `None`: there is one by now. A job that is durable gets its feed a
    /// moment later.
    pub async fn quiet_job(&self, id: JobId) -> Result<Option<Arc<Job>>, EngineError> {
        let deadline = tokio::time::Instant::now() + FEED_PATIENCE;
        let mut looks = 0;
        loop {
            let job = self.runner.store.job(id).await?.map(Arc::new).ok_or(EngineError::NoJob(id))?;
            if job.state.is_ended() {
                return Ok(Some(job));
            }
            if self.hub.feed(id).is_some() {
                return Ok(None);
            }
            if self.commands.is_closed() || tokio::time::Instant::now() >= deadline {
                return Err(EngineError::Draining);
            }
            looks += 1;
            if looks == FEED_LOOKS {
                // One whose lanes cannot be read is left out of memory: it has no feed, now or later.
                self.runner.store.lanes(id).await?;
            }
            tokio::time::sleep(FEED_PAUSE).await;
        }
    }

    /// Waits as [`Engine::ended`] does, but at most for `timeout`; then answers the job as it is.
    pub async fn wait(&self, id: JobId, timeout: Option<Duration>) -> Result<Arc<Job>, EngineError> {
        let Some(timeout) = timeout else { return self.ended(id).await };
        match tokio::time::timeout(timeout, self.ended(id)).await {
            Ok(job) => job,
            Err(_) => self.job(id).await,
        }
    }

    async fn control(&self, job: JobId, what: Control) -> Result<Arc<Job>, EngineError> {
        let bytes = if let Control::Cancel(why) = &what { why.len() } else { 0 };
        self.ask(bytes, |reply| Command::Job(job, JobCommand::Control { what, reply })).await
    }

    /// Sends a command that carries so many bytes once there is room for it, and waits for the answer. Callers wait for room
    /// in the order in which they came, as long as what they hold meanwhile is within a bound of its own.
    async fn ask<T>(&self, bytes: usize, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, EngineError> {
        let kib = (bytes + COMMAND_BYTES).div_ceil(1024).min(ROOM_KIB) as u32;
        let room = if let Ok(room) = self.room.clone().try_acquire_many_owned(kib) {
            room
        } else {
            let _waiting = self.waiting.try_acquire_many(kib).map_err(|_| EngineError::Overloaded)?;
            self.room.clone().acquire_many_owned(kib).await.map_err(|_| EngineError::Draining)?
        };
        let (reply, answer) = oneshot::channel();
        self.send(Some(room), command(reply)).await?;
        answer.await.map_err(|_| EngineError::Draining)?
    }

    async fn send(&self, room: Option<OwnedSemaphorePermit>, command: Command) -> Result<(), EngineError> {
        let by = self.by.clone();
        self.commands.send(Admitted { command, by, room }).await.map_err(|_| EngineError::Draining)
    }
}

/// Sends pages to the scheduler. The sender is weak, so that the engine ends when its callers are gone.
pub(crate) struct PageCommands(pub(crate) mpsc::WeakSender<Admitted<Command>>);

impl KeepPages for PageCommands {
    fn keep(&self, id: TaskId, fence: Fence, page: NewPage) -> BoxFuture<'_, Result<(), Failure>> {
        let lost = || Failure::retryable(FailureReason::Internal, "the server is shutting down");
        async move {
            let (reply, kept) = oneshot::channel();
            let commands = self.0.upgrade().ok_or_else(lost)?;
            let command = Command::Page { id, fence, page, reply };
            let by = Arc::new(Actor::local());
            commands.send(Admitted { command, by, room: None }).await.map_err(|_| lost())?;
            drop(commands);
            kept.await.map_err(|_| lost())?
        }
        .boxed()
    }
}

fn bytes_of(tasks: &[TaskSpec]) -> usize {
    tasks.iter().map(TaskSpec::memory_bytes).sum()
}
