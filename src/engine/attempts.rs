//! Running attempts: each on a transfer thread, under its token and its deadlines, through a limited transport.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures_util::FutureExt as _;
use tracing::Instrument as _;

use crate::engine::attempt::{Ended, Launch};
use crate::engine::figures;
use crate::engine::runner::Runner;
use crate::engine::running::Attempts;
use crate::engine::work;
use crate::limits::transport::Limited;
use crate::model::credential::echo::echoed;
use crate::model::failure::{Failure, FailureReason};
use crate::model::host::Host;
use crate::model::outcome::AttemptEnd;
use crate::model::spec::Work;
use crate::net::{Credentialed, Profile, Transport};

/// What lines of the log say of an attempt.
fn span(launch: &Launch) -> tracing::Span {
    let host = launch.permit.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|it| it.host().clone());
    tracing::info_span!(
        "attempt",
        job = %launch.id.job,
        task = launch.id.index,
        attempt = launch.fence,
        host = host.as_ref().map_or("", Host::as_str),
    )
}

impl Runner {
    /// Adds an attempt to those that begin with this turn. Its end comes out of `attempts`.
    pub(crate) fn launch(self: &Arc<Self>, attempts: &mut Attempts, launch: Launch) {
        let runner = self.clone();
        attempts.add((launch.id, launch.fence), |transport| async move {
            // Made where there are several threads, and not in the loop.
            let span = span(&launch);
            runner.run(launch, transport).instrument(span).await
        });
    }

    /// Runs an attempt to its end. A panic in it is a failed attempt and harms no other.
    async fn run(self: Arc<Self>, launch: Launch, transport: Arc<dyn Transport>) -> Ended {
        let (id, fence, report) = (launch.id, launch.fence, work::as_before(&launch));
        let attempt = AssertUnwindSafe(Box::pin(self.attempt(&launch, transport))).catch_unwind();
        attempt.await.unwrap_or_else(|_| {
            let message = "the attempt panicked; that is a defect of haul, please report it with the server's log";
            let end = AttemptEnd::Failed(Failure::retryable(FailureReason::Internal, message));
            Ended { id, fence, end, report, body: None }
        })
    }

    async fn attempt(&self, launch: &Launch, transport: Arc<dyn Transport>) -> Ended {
        let transport = match &launch.credential {
            None => transport,
            Some(Ok(in_use)) => Arc::new(Credentialed { inner: transport, source: in_use.clone() }),
            Some(Err(failure)) => {
                let (report, end) = (work::as_before(launch), AttemptEnd::Failed(failure.clone()));
                return Ended { id: launch.id, fence: launch.fence, end, report, body: None };
            }
        };
        let limited = Limited {
            inner: transport,
            hosts: self.hosts.clone(),
            job: launch.rates.clone(),
            tenant: launch.tenant_rates.clone(),
            party: launch.party,
            server_bytes: self.server_bytes.clone(),
            place: Some(launch.place.clone()),
            first: Mutex::new(launch.permit.lock().unwrap_or_else(PoisonError::into_inner).take()),
            has_proxy: launch.options.http.proxy_url.is_some(),
            since: launch.since,
            lost: OnceLock::new(),
            clock: self.clock.clone(),
            retry_after_max: self.retry_after_max,
            metrics: self.metrics.clone(),
            kind: figures::kind(&launch.spec.work),
        };
        let profile = Arc::new(Profile {
            http: launch.options.http.clone(),
            timeouts: launch.options.timeouts,
            tenant: launch.tenant.no,
        });
        // What may be sent again is stopped whenever there is a reason to. Its own token below the launch's: a deadline stops
        // this attempt in the same way as everybody else does.
        let may_repeat = launch.options.retry.may_repeat;
        let stop = if may_repeat { &launch.rest } else { &launch.stop }.child_token();
        let work = work::run(self, launch, &limited, &profile, &stop);
        tokio::pin!(work);
        let deadline = self.deadline(launch);
        let (mut ended, late) = tokio::select! {
            biased;
            ended = &mut work => (ended, None),
            failure = deadline => {
                stop.cancel();
                (work.await, Some(failure))
            }
        };
        let is_echo = |end: &AttemptEnd| matches!(end, AttemptEnd::Failed(failure) if failure.reason == FailureReason::SecretEchoed);
        if let Some(failure) = late.filter(|_| !matches!(ended.end, AttemptEnd::Done(_)) && !is_echo(&ended.end)) {
            ended.end = AttemptEnd::Failed(failure);
        }
        // Whatever an origin said is searched where it came in; this is for what was made of it.
        if let (AttemptEnd::Failed(failure), Some(echo)) = (&mut ended.end, launch.echo())
            && (echo.is_in_any_case(failure.message.as_bytes()) || echo.is_in_any_case(ended.report.url.as_bytes()))
        {
            *failure = echoed();
            ended.report.url.clear();
        }
        if is_echo(&ended.end) && matches!(&launch.spec.work, Work::Fetch(spec) if spec.pagination.is_some()) {
            work::drop_pages(self, launch).await;
            ended.report.held_bytes = 0;
        }
        ended
    }

    /// Resolves when the attempt's or the task's time is over.
    async fn deadline(&self, launch: &Launch) -> Failure {
        let timeouts = &launch.options.timeouts;
        let now = self.clock.now();
        let attempt = timeouts.attempt.map(|limit| (limit, launch.attempt_start.plus(limit).since(now), true));
        let task = timeouts.task.map(|limit| (limit, launch.first_start.plus(limit).since(now), false));
        let first = attempt.into_iter().chain(task).min_by_key(|(_, wait, _)| *wait);
        let Some((limit, wait, is_attempt)) = first else { return std::future::pending().await };
        // Also where the attempt has used up its turn, as one does for which bytes are always there.
        tokio::task::unconstrained(tokio::time::sleep(wait)).await;
        if is_attempt {
            let message = format!(
                "the attempt did not end within its `timeouts.attempt` of {limit:?}; allow more, or see why it is slow"
            );
            Failure::retryable(FailureReason::TimeoutAttempt, message)
        } else {
            let message = format!(
                "the task did not end within its `timeouts.task` of {limit:?}; allow more, or see why it is slow"
            );
            Failure::fatal(FailureReason::TimeoutTask, message)
        }
    }
}
