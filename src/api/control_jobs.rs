//! `ControlJobs`: one thing is done to all jobs that match.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::stream::{Stream, unfold};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::api::access::caller::{Caller, Reach};
use crate::api::filters;
use crate::api::outbound::AnswerRoom;
use crate::api::status::{Violations, draining, internal, shown};
use crate::api::values;
use crate::engine::command::EngineError;
use crate::engine::handle::Engine;
use crate::listen::budget::Hold;
use crate::model::audit::AuditRow;
use crate::model::ids::JobId;
use crate::model::job::JobState;
use crate::model::task_filter::TaskChoice;
use crate::pb;
use crate::store::{JobFilter, Store};

/// The most jobs that are acted on at once: so many are committed together.
const AT_ONCE: usize = 64;
/// How often a message says how far the call is.
const INTERVAL: Duration = Duration::from_secs(1);
/// The most failures that all messages together list.
const FAILURES_MAX: usize = 1_000;
/// Jobs whose names are read at once.
const NAMES_MAX: u32 = 10_000;
/// The most bytes of the reason of a cancellation.
const REASON_BYTES_MAX: usize = 1024;
/// The most bytes of the message of a failure.
const MESSAGE_BYTES_MAX: usize = 256;

/// What is done to each job.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Pause,
    Resume,
    Cancel(String),
    Retry,
    Delete { with_files: bool },
}

impl Action {
    /// The states of jobs on which it can act.
    fn states(&self) -> &'static [JobState] {
        use JobState as S;
        match self {
            Action::Pause => &[S::Pending, S::Running],
            Action::Resume => &[S::Paused],
            Action::Cancel(_) => &[S::Pending, S::Running, S::Paused, S::Cancelling],
            Action::Retry => &[S::Failed, S::Cancelled],
            Action::Delete { .. } => &[S::Succeeded, S::Failed, S::Cancelled],
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Action::Pause => "pause",
            Action::Resume => "resume",
            Action::Cancel(_) => "cancel",
            Action::Retry => "retry",
            Action::Delete { .. } => "delete",
        }
    }
}

/// Reads what is done.
fn action(request: &pb::ControlJobsRequest, v: &mut Violations) -> Action {
    values::text(&request.reason, &"reason", REASON_BYTES_MAX, v);
    let action = match pb::JobAction::try_from(request.action) {
        Ok(pb::JobAction::Pause) => Action::Pause,
        Ok(pb::JobAction::Resume) => Action::Resume,
        Ok(pb::JobAction::Cancel) => Action::Cancel(request.reason.clone()),
        Ok(pb::JobAction::Retry) => Action::Retry,
        Ok(pb::JobAction::Delete) => Action::Delete { with_files: request.delete_files },
        Ok(pb::JobAction::Unspecified) | Err(_) => {
            v.add("action", "must be one of JOB_ACTION_PAUSE, JOB_ACTION_RESUME, JOB_ACTION_CANCEL, JOB_ACTION_RETRY and JOB_ACTION_DELETE");
            return Action::Pause;
        }
    };
    if !request.reason.is_empty() && !matches!(action, Action::Cancel(_)) {
        v.add("reason", "applies only to JOB_ACTION_CANCEL");
    }
    if request.delete_files && !matches!(action, Action::Delete { .. }) {
        v.add("delete_files", "applies only to JOB_ACTION_DELETE");
    }
    action
}

/// Reads which jobs are meant, and limits them to those in `states`. `None`: there can be none.
fn filter(filter: Option<pb::JobFilter>, states: &[JobState], v: &mut Violations) -> Option<JobFilter> {
    let filter = filter.unwrap_or_default();
    if filter == pb::JobFilter::default() {
        v.add("filter", "has no condition; name all states to mean all jobs");
        return None;
    }
    values::labels(&filter.labels, &"filter.labels", v);
    let created_after = filter.create_time_after.and_then(|it| values::timestamp(it, &"filter.create_time_after", v));
    let created_before = filter.create_time_before.and_then(|it| values::before(it, &"filter.create_time_before", v));
    let ended_after = filter.end_time_after.and_then(|it| values::timestamp(it, &"filter.end_time_after", v));
    let ended_before = filter.end_time_before.and_then(|it| values::before(it, &"filter.end_time_before", v));
    let named = filters::job_states(&filter.states, "filter.states", v);
    let states: Vec<JobState> =
        states.iter().copied().filter(|state| named.is_empty() || named.contains(state)).collect();
    let wish = JobFilter {
        ids: filters::job_ids(&filter.job_ids, "filter.job_ids", filters::IDS_MAX, v),
        states,
        labels: filter.labels.into_iter().collect(),
        created_after,
        created_before,
        ended_after,
        ended_before,
        search: filters::search(&filter.search, "filter.search", v),
        ..JobFilter::default()
    };
    Some(wish).filter(|wish| !wish.states.is_empty())
}

/// A call under way.
struct Control {
    engine: Engine,
    caller: Caller,
    closing: CancellationToken,
    action: Action,
    left: VecDeque<JobId>,
    /// The room of what is left: a client that does not read keeps it.
    _room: Option<Hold>,
    /// Tasks of their own, which end with the call: a call that is not polled, since its client does not read, would hold
    /// what they wait for.
    under_way: JoinSet<(JobId, Result<(), Status>)>,
    matched: u32,
    done: u32,
    failed: u32,
    told: usize,
    fresh: Vec<pb::JobFailure>,
    next: Instant,
    /// The first message is sent at once.
    is_begun: bool,
    is_over: bool,
}

/// Finds the jobs and begins. Nothing is done before the stream is read.
pub(crate) async fn control(
    engine: &Engine,
    store: &dyn Store,
    caller: Caller,
    closing: CancellationToken,
    room: Option<AnswerRoom>,
    request: pb::ControlJobsRequest,
) -> Result<impl Stream<Item = Result<pb::ControlJobsResponse, Status>> + Send + 'static, Status> {
    let mut v = Violations::default();
    let action = action(&request, &mut v);
    let wish = filter(request.filter, action.states(), &mut v);
    v.or(())?;
    let mut left = VecDeque::new();
    let mut held = None;
    if let Some(wish) = wish {
        let mut wish = JobFilter { tenant: caller.only_of(), created_by: caller.only_own(), ..wish };
        loop {
            let page = store.job_ids(&wish, NAMES_MAX).await?;
            left.extend(page.items);
            drop(held.take());
            held = room.as_ref().map(|room| room.hold((left.len() * size_of::<JobId>()) as u64)).transpose()?;
            wish.before = page.next;
            if wish.before.is_none() {
                break;
            }
        }
    }
    let matched = u32::try_from(left.len()).unwrap_or(u32::MAX);
    let engine = engine.by(caller.actor.clone());
    if request.validate_only {
        (left, held) = (VecDeque::new(), None);
    } else if matched > 0 {
        note(&engine, &caller, &action).await?;
    }
    let control = Control {
        engine,
        caller,
        closing,
        action,
        left,
        _room: held,
        under_way: JoinSet::new(),
        matched,
        done: 0,
        failed: 0,
        told: 0,
        fresh: Vec::new(),
        next: Instant::now() + INTERVAL,
        is_begun: false,
        is_over: false,
    };
    Ok(unfold(control, |mut control| async move {
        if control.is_over {
            return None;
        }
        let message = control.next().await;
        control.is_over |= message.is_err();
        Some((message, control))
    }))
}

/// Notes in the audit who does this to jobs; what becomes of each job has a row of its own.
async fn note(engine: &Engine, caller: &Caller, action: &Action) -> Result<(), Status> {
    let (method, subject) = ("JobService/ControlJobs", "jobs".to_owned());
    let row = AuditRow::done(&caller.actor, method, subject, caller.actor.scope.name(), engine.now());
    let row = AuditRow { changed: vec![action.name().to_owned()], ..row };
    match engine.audit(vec![row]).await {
        // What makes room must be possible on a full disk, and each deletion is judged by itself.
        Err(EngineError::StoreFull(_) | EngineError::StoreBusy(_)) if matches!(action, Action::Delete { .. }) => Ok(()),
        noted => Ok(noted?),
    }
}

impl Control {
    async fn next(&mut self) -> Result<pb::ControlJobsResponse, Status> {
        if !std::mem::replace(&mut self.is_begun, true) {
            self.is_over = self.left.is_empty();
            return Ok(self.message());
        }
        loop {
            while self.under_way.len() < AT_ONCE
                && let Some(id) = self.left.pop_front()
            {
                self.under_way.spawn(act(self.engine.clone(), self.caller.clone(), self.action.clone(), id));
            }
            tokio::select! {
                () = self.closing.cancelled() => return Err(draining()),
                () = sleep_until(self.next) => {
                    self.next = Instant::now() + INTERVAL;
                    return Ok(self.message());
                }
                acted = self.under_way.join_next() => {
                    let Some(acted) = acted else {
                        self.is_over = true;
                        return Ok(self.message());
                    };
                    let (id, result) = acted.map_err(|error| internal(error.to_string()))?;
                    self.acted(id, result)?;
                }
            }
        }
    }

    fn acted(&mut self, id: JobId, result: Result<(), Status>) -> Result<(), Status> {
        let Err(status) = result else {
            self.done += 1;
            return Ok(());
        };
        let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        if reason == "SERVER_DRAINING" {
            return Err(status);
        }
        self.failed += 1;
        if self.told < FAILURES_MAX {
            self.told += 1;
            let message = status.message();
            let message = message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)].to_owned();
            self.fresh.push(pb::JobFailure { job_id: id.to_string(), reason: shown(&reason), message });
        }
        Ok(())
    }

    fn message(&mut self) -> pb::ControlJobsResponse {
        let failed = std::mem::take(&mut self.fresh);
        pb::ControlJobsResponse { matched: self.matched, done: self.done, failed_count: self.failed, failed }
    }
}

/// Does it to one job, as the method of that name does.
async fn act(engine: Engine, caller: Caller, action: Action, id: JobId) -> (JobId, Result<(), Status>) {
    let result = async {
        caller.reach(&engine, id, Reach::Control).await?;
        match action {
            Action::Pause => drop(engine.pause(id).await?),
            Action::Resume => drop(engine.resume(id).await?),
            Action::Cancel(reason) => drop(engine.cancel(id, reason).await?),
            Action::Retry => drop(engine.retry(id, TaskChoice::All).await?),
            Action::Delete { with_files } => engine.delete(id, with_files).await?,
        }
        Ok(())
    };
    (id, result.await)
}
