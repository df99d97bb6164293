//! `haul.v1.JobService`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{BoxStream, Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::api::access::caller::{Caller, Reach};
use crate::api::bodies;
use crate::api::client_options::ClientOptions;
use crate::api::control_jobs::control;
use crate::api::credentials;
use crate::api::filters;
use crate::api::frames;
use crate::api::from_proto;
use crate::api::lookup;
use crate::api::outbound::AnswerRoom;
use crate::api::pages;
use crate::api::spec_to_proto;
use crate::api::status::{Violations, shown};
use crate::api::to_proto;
use crate::api::totals::Totals;
use crate::api::values::{self, ID_BYTES_MAX, NAME_BYTES_MAX, only_job_id};
use crate::api::watch::{Wish, watch_job};
use crate::api::watch_jobs::{WatchJobsOptions, watch_jobs};
use crate::api::watchers::{self, Watchers};
use crate::codec::Encoded;
use crate::engine::command::{Acted, EngineError, JobPatch};
use crate::engine::handle::Engine;
use crate::model::access::LOCAL;
use crate::model::ids::JobId;
use crate::model::job::Job;
use crate::model::task::TaskState;
use crate::model::trace::{TRACEPARENT, TraceParent};
use crate::pb;
use crate::store::Store;

/// The shortest interval between progress messages.
const INTERVAL_MIN: Duration = Duration::from_millis(50);
const INTERVAL_DEFAULT: Duration = Duration::from_millis(500);
const REASON_BYTES_MAX: usize = 1024;
/// How long the answer of `WaitJob` waits for why the tasks of the job wait.
const EXPLANATION_PATIENCE: Duration = Duration::from_secs(2);
/// The most jobs that one watch names.
const WATCHED_MAX: usize = 1_000;

/// Implements [`pb::job_service_server::JobService`].
#[derive(Clone)]
pub struct Jobs {
    engine: Engine,
    store: Arc<dyn Store>,
    closing: CancellationToken,
    watchers: Watchers,
    totals: Arc<Totals>,
    allowed: ClientOptions,
}

impl Jobs {
    /// Makes the service over an engine and its store. `closing` ends all streams; before that, `draining` is cancelled when
    /// the server begins to shut down.
    pub fn new(
        engine: Engine,
        store: Arc<dyn Store>,
        closing: CancellationToken,
        draining: CancellationToken,
        watchers: Watchers,
        allowed: ClientOptions,
    ) -> Jobs {
        let totals = Arc::new(Totals::new(engine.clone(), draining));
        Jobs { engine, store, closing, watchers, totals, allowed }
    }

    /// The numbers of all jobs, which other services show too.
    pub(crate) fn totals(&self) -> Arc<Totals> {
        self.totals.clone()
    }

    async fn message(&self, job: &Job) -> pb::Job {
        lookup::explained_job(&self.engine, job, None).await
    }

    /// Returns the engine as the caller calls it, where it may do that with the job.
    async fn reached(&self, caller: Caller, id: JobId, reach: Reach) -> Result<Engine, Status> {
        caller.reach(&self.engine, id, reach).await?;
        Ok(self.engine.by(caller.actor))
    }
}

fn interval(value: Option<prost_types::Duration>, v: &mut Violations) -> Duration {
    let asked = value.and_then(|it| values::duration(it, &"progress_interval", v));
    asked.unwrap_or(INTERVAL_DEFAULT).max(INTERVAL_MIN)
}

#[tonic::async_trait]
impl pb::job_service_server::JobService for Jobs {
    type AddTasksStream = Pin<Box<dyn Stream<Item = Result<pb::AddTasksResponse, Status>> + Send>>;
    type WatchJobStream = BoxStream<'static, Result<Encoded, Status>>;
    type WatchJobsStream = BoxStream<'static, Result<pb::WatchJobsResponse, Status>>;
    type ControlJobsStream = BoxStream<'static, Result<pb::ControlJobsResponse, Status>>;

    async fn submit_job(
        &self,
        request: Request<pb::SubmitJobRequest>,
    ) -> Result<Response<pb::SubmitJobResponse>, Status> {
        let caller = Caller::of(&request);
        let place = request.metadata().get(TRACEPARENT).and_then(|value| value.to_str().ok());
        let place = place.and_then(TraceParent::parse);
        let request = request.into_inner();
        let mut v = Violations::default();
        values::text(&request.request_id, &"request_id", ID_BYTES_MAX, &mut v);
        if request.job.is_none() {
            v.add("job", "must be set");
        }
        // Of a job that is not there, its lack of tasks is not said.
        let job = request.job.unwrap_or_else(|| pb::JobSpec { open: true, ..pb::JobSpec::default() });
        let (spec, tasks) = from_proto::job(job, &mut v);
        let named = (tasks.specs(), "job.tasks");
        // What is right in itself may not be allowed just now.
        let (mut now, mut is_repeated) = (Violations::default(), false);
        self.allowed.check(&spec.defaults, Some("job.defaults"), named, &mut now);
        credentials::check(&self.engine, &caller.actor, &spec.defaults, Some("job.defaults"), named, &mut now);
        if v.is_empty() && (!now.is_empty() || request.validate_only) {
            let engine = self.engine.by(caller.actor.clone());
            let made = match engine.submitted(&spec, tasks.specs(), &request.request_id).await {
                // What is not allowed is said first.
                Err(EngineError::RequestIdTaken(_)) if !now.is_empty() => None,
                made => made?,
            };
            if let Some(job) = made {
                if !request.validate_only {
                    return Ok(Response::new(pb::SubmitJobResponse { job: Some(lookup::live_job(&job, None)) }));
                }
                // A repetition makes nothing, so that it need not be allowed.
                (now, is_repeated) = (Violations::default(), true);
            }
        }
        v.append(now);
        let (spec, tasks) = v.or((spec, tasks))?;
        if request.validate_only {
            if !is_repeated {
                self.engine.by(caller.actor.clone()).admits(&spec, tasks.specs()).await?;
            }
            let job = Job::new(JobId(uuid::Uuid::nil()), spec, tasks.specs().len() as u32, self.engine.now());
            let mut message = to_proto::job(&job, None, Vec::new());
            caller.actor.scope.name().clone_into(&mut message.tenant);
            // As the job would say it: who needs no token is `local`.
            if caller.actor.principal != LOCAL {
                message.created_by.clone_from(&caller.actor.name);
            }
            message.job_id.clear();
            message.directory.clone_from(&job.spec.directory);
            return Ok(Response::new(pb::SubmitJobResponse { job: Some(message) }));
        }
        let job = self.engine.by(caller.actor).submit(spec, tasks, &request.request_id, place).await?;
        Ok(Response::new(pb::SubmitJobResponse { job: Some(lookup::live_job(&job, None)) }))
    }

    async fn add_tasks(
        &self,
        request: Request<Streaming<pb::AddTasksRequest>>,
    ) -> Result<Response<Self::AddTasksStream>, Status> {
        let caller = Caller::of(&request);
        let (chunks, closing) = (request.into_inner(), self.closing.clone());
        let stream = crate::api::add_tasks::answers(&self.engine, caller, chunks, closing, self.allowed);
        Ok(Response::new(stream.boxed()))
    }

    async fn seal_job(&self, request: Request<pb::SealJobRequest>) -> Result<Response<pb::SealJobResponse>, Status> {
        let caller = Caller::of(&request);
        let id = only_job_id(&request.into_inner().job_id)?;
        let job = self.reached(caller, id, Reach::Feed).await?.seal(id).await?;
        Ok(Response::new(pb::SealJobResponse { job: Some(self.message(&job).await) }))
    }

    async fn get_job(&self, request: Request<pb::GetJobRequest>) -> Result<Response<pb::GetJobResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let id = only_job_id(&request.job_id)?;
        let job = self.reached(caller, id, Reach::Look).await?.job(id).await?;
        let mut message = self.message(&job).await;
        if request.include_spec {
            spec_to_proto::include(self.store.as_ref(), &job, &mut message).await?;
        }
        Ok(Response::new(pb::GetJobResponse { job: Some(message) }))
    }

    async fn list_jobs(&self, request: Request<pb::ListJobsRequest>) -> Result<Response<pb::ListJobsResponse>, Status> {
        let caller = Caller::of(&request);
        pages::list_jobs(&self.engine, self.store.as_ref(), &caller, request.into_inner()).await.map(Response::new)
    }

    async fn list_job_events(
        &self,
        request: Request<pb::ListJobEventsRequest>,
    ) -> Result<Response<pb::ListJobEventsResponse>, Status> {
        let caller = Caller::of(&request);
        pages::list_job_events(&self.engine, self.store.as_ref(), &caller, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn get_task(&self, request: Request<pb::GetTaskRequest>) -> Result<Response<pb::GetTaskResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let (job, task) =
            lookup::task(self.store.as_ref(), &self.engine, &caller, &request.job_id, request.task).await?;
        let mut messages = lookup::live_tasks(&self.engine, job, std::slice::from_ref(&task)).await;
        let mut message = messages.pop().unwrap_or_default();
        message.attempt_log = task.row.log.iter().map(to_proto::attempt).collect();
        if request.include_body {
            bodies::include(&self.engine, self.store.as_ref(), job, &task, &mut message).await?;
        }
        if request.include_spec {
            message.spec = Some(spec_to_proto::task(&task.spec));
        }
        bodies::omit_where_too_long(&mut message);
        Ok(Response::new(pb::GetTaskResponse { task: Some(message) }))
    }

    async fn list_tasks(
        &self,
        request: Request<pb::ListTasksRequest>,
    ) -> Result<Response<pb::ListTasksResponse>, Status> {
        let caller = Caller::of(&request);
        pages::list_tasks(&self.engine, self.store.as_ref(), &caller, request.into_inner()).await.map(Response::new)
    }

    async fn watch_job(&self, request: Request<pb::WatchJobRequest>) -> Result<Response<Self::WatchJobStream>, Status> {
        let caller = Caller::of(&request);
        let wants_compression = frames::wants_compression(request.metadata());
        let request = request.into_inner();
        // Bodies are what is worth it: an event by itself becomes little shorter, and would be compressed for each watcher anew.
        let in_frames = !(wants_compression && request.include_body);
        let mut v = Violations::default();
        let job = values::job_id(&request.job_id, &mut v);
        let interval = interval(request.progress_interval, &mut v);
        let wish = v.or(Wish {
            job,
            after: request.after_sequence,
            interval,
            include_body: request.include_body,
            task_starts: request.task_starts,
            in_frames,
        })?;
        caller.reach(&self.engine, job, Reach::Look).await?;
        let place = self.watchers.place(caller.holder())?;
        let told = watch_job(self.engine.clone(), self.store.clone(), self.closing.clone(), wish).await?;
        if in_frames {
            return Ok(frames::answer(watchers::kept(place, told).into_inner()));
        }
        Ok(watchers::kept(place, told.map(|message| message.map(Encoded::as_it_was))))
    }

    async fn watch_jobs(
        &self,
        request: Request<pb::WatchJobsRequest>,
    ) -> Result<Response<Self::WatchJobsStream>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let mut v = Violations::default();
        values::labels(&request.labels, &"labels", &mut v);
        let ended_after = request.ended_after.and_then(|it| values::timestamp(it, &"ended_after", &mut v));
        let interval = interval(request.progress_interval, &mut v);
        let job_ids = filters::job_ids(&request.job_ids, "job_ids", WATCHED_MAX, &mut v);
        let states = filters::job_states(&request.states, "states", &mut v);
        v.or(())?;
        let wish = WatchJobsOptions {
            labels: request.labels.into_iter().collect(),
            ended_after,
            tenant: caller.only_of(),
            created_by: caller.only_own(),
            interval,
            job_ids,
            states,
            max_jobs: request.max_jobs,
            totals: request.totals.then(|| self.totals.clone()),
        };
        let (engine, store, closing) = (self.engine.clone(), self.store.clone(), self.closing.clone());
        self.watchers.watched(caller.holder(), watch_jobs(engine, store, closing, self.watchers.ids(), wish))
    }

    async fn wait_job(&self, request: Request<pb::WaitJobRequest>) -> Result<Response<pb::WaitJobResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let mut v = Violations::default();
        let id = values::job_id(&request.job_id, &mut v);
        let timeout = request.timeout.and_then(|it| values::duration(it, &"timeout", &mut v));
        v.or(())?;
        caller.reach(&self.engine, id, Reach::Look).await?;
        tokio::select! {
            job = self.engine.wait(id, timeout) => {
                let job = job?;
                // The caller's time is over: on a busy machine it is not to wait for the scheduler as well.
                let message = lookup::explained_job(&self.engine, &job, Some(EXPLANATION_PATIENCE)).await;
                Ok(Response::new(pb::WaitJobResponse { job: Some(message) }))
            }
            () = self.closing.cancelled() => Err(crate::api::status::draining()),
        }
    }

    async fn cancel_job(
        &self,
        request: Request<pb::CancelJobRequest>,
    ) -> Result<Response<pb::CancelJobResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let mut v = Violations::default();
        let id = values::job_id(&request.job_id, &mut v);
        values::text(&request.reason, &"reason", REASON_BYTES_MAX, &mut v);
        v.or(())?;
        let engine = self.reached(caller, id, Reach::Control).await?;
        tokio::select! {
            job = engine.cancel(id, request.reason) => {
                Ok(Response::new(pb::CancelJobResponse { job: Some(lookup::live_job(job?.as_ref(), None)) }))
            }
            // What was asked is durable, or will be asked again; the job ends after the restart.
            () = self.closing.cancelled() => Err(crate::api::status::draining()),
        }
    }

    async fn pause_job(&self, request: Request<pb::PauseJobRequest>) -> Result<Response<pb::PauseJobResponse>, Status> {
        let caller = Caller::of(&request);
        let id = only_job_id(&request.into_inner().job_id)?;
        let job = self.reached(caller, id, Reach::Control).await?.pause(id).await?;
        Ok(Response::new(pb::PauseJobResponse { job: Some(self.message(&job).await) }))
    }

    async fn resume_job(
        &self,
        request: Request<pb::ResumeJobRequest>,
    ) -> Result<Response<pb::ResumeJobResponse>, Status> {
        let caller = Caller::of(&request);
        let id = only_job_id(&request.into_inner().job_id)?;
        let job = self.reached(caller, id, Reach::Control).await?.resume(id).await?;
        Ok(Response::new(pb::ResumeJobResponse { job: Some(self.message(&job).await) }))
    }

    async fn retry_job(&self, request: Request<pb::RetryJobRequest>) -> Result<Response<pb::RetryJobResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let mut v = Violations::default();
        let id = values::job_id(&request.job_id, &mut v);
        let ended = [TaskState::Failed, TaskState::Cancelled];
        let which = filters::task_choice(request.task_indexes, request.filter, &ended, &mut v);
        let which = v.or(which)?;
        let job = self.reached(caller, id, Reach::Control).await?.retry(id, which).await?;
        Ok(Response::new(pb::RetryJobResponse { job: Some(self.message(&job).await) }))
    }

    async fn cancel_tasks(
        &self,
        request: Request<pb::CancelTasksRequest>,
    ) -> Result<Response<pb::CancelTasksResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let mut v = Violations::default();
        let id = values::job_id(&request.job_id, &mut v);
        values::text(&request.reason, &"reason", REASON_BYTES_MAX, &mut v);
        let unfinished = [TaskState::Pending, TaskState::Running, TaskState::BackingOff];
        let which = filters::task_choice(request.task_indexes, request.filter, &unfinished, &mut v);
        let which = v.or(which)?;
        let engine = self.reached(caller, id, Reach::Control).await?;
        tokio::select! {
            acted = engine.cancel_tasks(id, which, request.reason) => {
                let Acted { job, tasks } = acted?;
                Ok(Response::new(pb::CancelTasksResponse { job: Some(self.message(&job).await), tasks }))
            }
            () = self.closing.cancelled() => Err(crate::api::status::draining()),
        }
    }

    async fn retry_now(&self, request: Request<pb::RetryNowRequest>) -> Result<Response<pb::RetryNowResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let mut v = Violations::default();
        let id = values::job_id(&request.job_id, &mut v);
        let which = filters::task_choice(request.task_indexes, request.filter, &[TaskState::BackingOff], &mut v);
        let which = v.or(which)?;
        let Acted { job, tasks } = self.reached(caller, id, Reach::Control).await?.retry_now(id, which).await?;
        Ok(Response::new(pb::RetryNowResponse { job: Some(self.message(&job).await), tasks }))
    }

    async fn control_jobs(
        &self,
        request: Request<pb::ControlJobsRequest>,
    ) -> Result<Response<Self::ControlJobsStream>, Status> {
        let caller = Caller::of(&request);
        let (store, closing) = (self.store.as_ref(), self.closing.clone());
        let (place, room) = (self.watchers.place(caller.holder())?, AnswerRoom::of(request.extensions()));
        let told = control(&self.engine, store, caller, closing, room, request.into_inner()).await?;
        Ok(watchers::kept(place, told))
    }

    async fn update_job(
        &self,
        request: Request<pb::UpdateJobRequest>,
    ) -> Result<Response<pb::UpdateJobResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let mut v = Violations::default();
        let id = values::job_id(&request.job_id, &mut v);
        let patch = patch(request, &mut v);
        let patch = v.or(patch)?;
        let job = self.reached(caller, id, Reach::Control).await?.update(id, patch).await?;
        Ok(Response::new(pb::UpdateJobResponse { job: Some(self.message(&job).await) }))
    }

    async fn delete_job(
        &self,
        request: Request<pb::DeleteJobRequest>,
    ) -> Result<Response<pb::DeleteJobResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let id = only_job_id(&request.job_id)?;
        self.reached(caller, id, Reach::Control).await?.delete(id, request.delete_files).await?;
        Ok(Response::new(pb::DeleteJobResponse {}))
    }
}

fn patch(request: pb::UpdateJobRequest, v: &mut Violations) -> JobPatch {
    let mut patch = JobPatch::default();
    for (index, path) in values::mask(request.update_mask, v) {
        match path.as_str() {
            "priority" => patch.priority = Some(request.priority),
            "group.max_concurrency" => {
                patch.max_concurrency = Some(request.group.unwrap_or_default().max_concurrency);
            }
            "rate_limit" => {
                patch.rate_limit = Some(values::rate_limit(request.rate_limit.unwrap_or_default(), &path, v));
            }
            "labels" => {
                values::labels(&request.labels, &"labels", v);
                patch.labels = Some(request.labels.clone().into_iter().collect());
            }
            "title" => {
                values::text(&request.title, &"title", NAME_BYTES_MAX, v);
                patch.title = Some(request.title.clone());
            }
            _ => v.add(
                format!("update_mask.paths[{index}]"),
                format!(
                    "`{}` cannot be updated; the fields are priority, group.max_concurrency, rate_limit, labels, title",
                    shown(&path)
                ),
            ),
        }
    }
    patch
}
