//! `WatchJob`: durable events once and in order, the rest conflated.
//!
//! A stream is a generator without a task of its own: each message is made when the client's window has room for it, from
//! memory or, when the watcher is further behind, from the store. So a slow watcher costs the memory of one message, and of
//! the few that it is to be sent next.
//!
//! What a busy job costs is its events times its watchers. So an event is written once for all of them, and where many watch,
//! each is told of several events at a time: one packet and one wake-up for all of them. Several events are framed and put
//! together once, too, and all watchers that are equally far are sent the same bytes (`api::frames`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{Stream, unfold};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::api::bodies;
use crate::api::events;
use crate::api::flush::flush;
use crate::api::frames::{framed_len, put_framed};
use crate::api::lookup::{live_job, waits};
use crate::api::status::{draining, no_job, out_of_range};
use crate::api::to_proto;
use crate::codec::Encoded;
use crate::engine::handle::Engine;
use crate::engine::hub::{Feed, Notice};
use crate::engine::notices::NoticeListener;
use crate::engine::published::{Batch, Published, bytes_of};
use crate::engine::version::Follower;
use crate::model::event::EventKind;
use crate::model::failures::Failures;
use crate::model::ids::JobId;
use crate::model::job::Job;
use crate::model::told;
use crate::pb;
use crate::pb::watch_job_response::Event;
use crate::store::Store;

/// The longest time without a message; then a heartbeat is sent.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The most events that are read at once.
const EVENTS_MAX: u32 = 256;
/// How many are read first. Of long ones few fit, and what does not fit was read for nothing.
const EVENTS_FIRST: u32 = 8;
/// The memory of events that wait for the client, in bytes, roughly; the first one waits however large it is.
const QUEUE_BYTES_MAX: usize = 32 << 10;
/// The most events that are put together.
const BATCH_MAX: usize = 512;
/// The most bytes of events that are put together. A watcher that does not read keeps so many.
const BATCH_BYTES_MAX: usize = 32 << 10;
/// The least time between two looks for why tasks wait.
const WAITS_PERIOD: Duration = Duration::from_secs(1);
/// The most running tasks in a progress message.
const ACTIVE_MAX: usize = 100;

/// The least time between two looks of a watcher at what is published, for each watcher of the job: ten thousand looks a
/// second at one job, however many watch it.
const LOOK_EACH: Duration = Duration::from_micros(100);
/// The longest such time.
const LOOK_MAX: Duration = Duration::from_millis(100);
/// Below this the timer would cost more than the looks.
const LOOK_MIN: Duration = Duration::from_millis(2);
/// Groups in which the watchers of a job look. Those of a group are woken together and sent the same bytes.
const LOOK_GROUPS: u32 = 8;

/// What a watcher asks for.
pub(crate) struct Wish {
    pub(crate) job: JobId,
    pub(crate) after: Option<u64>,
    pub(crate) interval: Duration,
    pub(crate) include_body: bool,
    pub(crate) task_starts: bool,
    /// Whether messages are framed here.
    pub(crate) in_frames: bool,
}

/// What is sent in one piece.
enum Told {
    One(Encoded),
    /// Several messages, framed.
    Several(Bytes),
}

struct Watcher {
    engine: Engine,
    store: Arc<dyn Store>,
    closing: CancellationToken,
    wish: Wish,
    job: Arc<Job>,
    feed: Option<Arc<Feed>>,
    version: Option<Follower>,
    notices: Option<NoticeListener>,
    /// The last durable event that was sent.
    sent: u64,
    queue: VecDeque<Arc<Published>>,
    last_look: Instant,
    /// How many events are read next: about as many as may wait.
    page: u32,
    snapshot_due: bool,
    next_progress: Instant,
    last_progress: Option<pb::JobProgress>,
    /// Why tasks wait, as it was looked up last, and when that may be done again.
    waiting: Vec<pb::WaitingTasks>,
    next_waits: Instant,
    last_failures: Failures,
    last_message: Instant,
    over: bool,
}

/// Returns the messages of one watch: each as it is encoded, or one or several as they are framed, as `wish` says.
pub(crate) async fn watch_job(
    engine: Engine,
    store: Arc<dyn Store>,
    closing: CancellationToken,
    wish: Wish,
) -> Result<impl Stream<Item = Result<Bytes, Status>> + Send + 'static, Status> {
    // The feed first: if there is none the job has ended, and then the store has all of it.
    let (feed, ended) = loop {
        let feed = engine.hub().feed(wish.job);
        if feed.is_some() {
            break (feed, None);
        }
        // A job that is durable may get its feed only now.
        if let Some(ended) = engine.quiet_job(wish.job).await? {
            break (None, Some(ended));
        }
    };
    let version = feed.as_ref().map(|feed| feed.subscribe());
    let job = match (&feed, ended) {
        (Some(feed), _) => feed.job(),
        (None, ended) => ended.ok_or_else(|| no_job(wish.job))?,
    };
    if let Some(after) = wish.after.filter(|after| *after > job.sequence) {
        let last = job.sequence;
        return Err(out_of_range(
            "SEQUENCE_AHEAD",
            format!("`after_sequence` is {after}, but the job's last event is {last}; begin again without it"),
        ));
    }
    let watcher = Watcher {
        notices: feed.as_ref().filter(|_| wish.task_starts).map(|feed| feed.notices()),
        sent: wish.after.unwrap_or(job.sequence),
        queue: VecDeque::new(),
        last_look: Instant::now(),
        page: EVENTS_FIRST,
        snapshot_due: true,
        next_progress: Instant::now() + wish.interval,
        last_progress: None,
        waiting: Vec::new(),
        next_waits: Instant::now(),
        last_failures: job.failures.clone(),
        last_message: Instant::now(),
        over: false,
        engine,
        store,
        closing,
        wish,
        job,
        feed,
        version,
    };
    Ok(unfold(watcher, |mut watcher| async move {
        let message = watcher.next().await?;
        Some((message, watcher))
    }))
}

/// Returns when a watcher looks again that looked at `last`, where looks are `apart`: in step with all who have watched the job
/// since `since`, and not later than `apart` from then.
fn next_look(since: Instant, last: Instant, apart: Duration) -> Instant {
    let (next, step) = (last + apart, apart / LOOK_GROUPS);
    let beyond = next.saturating_duration_since(since).as_nanos() % step.as_nanos().max(1);
    next - Duration::from_nanos(u64::try_from(beyond).unwrap_or(0))
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        if self.over {
            return None;
        }
        let message = self.message().await;
        self.last_message = Instant::now();
        match message {
            Ok(None) => None,
            Ok(Some(Told::Several(frames))) => Some(Ok(frames)),
            Ok(Some(Told::One(message))) if self.wish.in_frames => {
                let mut frame = BytesMut::with_capacity(framed_len(message.bytes()));
                put_framed(message.bytes(), &mut frame);
                Some(Ok(frame.freeze()))
            }
            Ok(Some(Told::One(message))) => Some(Ok(message.bytes().clone())),
            Err(status) => {
                self.over = true;
                Some(Err(status))
            }
        }
    }

    async fn message(&mut self) -> Result<Option<Told>, Status> {
        if std::mem::take(&mut self.snapshot_due) {
            let snapshot = live_job(&self.job, self.feed.as_ref());
            // A watcher that did not ask for earlier events gets nothing after the end.
            self.over = self.job.state.is_ended() && self.sent >= self.job.sequence;
            return Ok(Some(Told::One(self.wrap(self.job.sequence, Event::Snapshot(snapshot)))));
        }
        loop {
            if let Some(frames) = self.batch() {
                return Ok(Some(Told::Several(frames)));
            }
            if let Some(event) = self.next_event().await? {
                return self.durable(&event).await.map(|message| Some(Told::One(message)));
            }
            if self.feed.is_none() && !self.follow_anew() {
                flush().await;
                // One that is retried gets its feed a moment after that is durable.
                if self.engine.quiet_job(self.wish.job).await?.is_some() {
                    return Ok(None);
                }
                continue;
            }
            if let Some(message) = self.wait().await? {
                return Ok(Some(Told::One(message)));
            }
        }
    }

    /// Follows the feed that the job has now, if it is another one: a job that ends and is retried gets a new one, and
    /// nothing is published in the old one any more.
    fn follow_anew(&mut self) -> bool {
        let Some(feed) = self.engine.hub().feed(self.wish.job) else { return false };
        if self.feed.as_ref().is_some_and(|own| Arc::ptr_eq(own, &feed)) {
            return false;
        }
        self.version = Some(feed.subscribe());
        self.notices = self.wish.task_starts.then(|| feed.notices());
        self.feed = Some(feed);
        true
    }

    /// Returns the next events, framed and put together for all watchers who are as far as this one. `None`: there are fewer
    /// than two, or this watcher is told something else than the others.
    fn batch(&mut self) -> Option<Bytes> {
        if !self.wish.in_frames || self.wish.include_body || !self.queue.is_empty() {
            return None;
        }
        let feed = self.feed.as_ref()?;
        if let Some(batch) = feed.batch_after(self.sent) {
            self.sent = batch.upto;
            return Some(batch.bytes);
        }
        let events = feed.events_after(self.sent, BATCH_MAX)?;
        let (mut frames, mut upto) = (BytesMut::new(), self.sent);
        for published in &events {
            // What follows the end of a job is looked up for each watcher.
            if published.event.head.kind == EventKind::JobEnded {
                break;
            }
            let message = self.written(published).ok()?;
            if upto > self.sent && frames.len() + framed_len(&message) > BATCH_BYTES_MAX {
                break;
            }
            put_framed(&message, &mut frames);
            upto = published.event.head.sequence;
        }
        if upto < self.sent + 2 {
            return None;
        }
        let batch = Batch { after: self.sent, upto, bytes: frames.freeze() };
        self.sent = upto;
        feed.keep_batch(batch.clone());
        Some(batch.bytes)
    }

    async fn next_event(&mut self) -> Result<Option<Arc<Published>>, Status> {
        if let Some(event) = self.queue.pop_front() {
            return Ok(Some(event));
        }
        let from_memory = self.feed.as_ref().and_then(|feed| feed.events_after(self.sent, self.page as usize));
        let events = if let Some(events) = from_memory {
            events
        } else {
            flush().await;
            let events = self.store.events(self.wish.job, self.sent, self.page).await?;
            events.items.into_iter().map(|event| Published::new(Arc::new(event))).collect()
        };
        let all = events.len();
        let mut bytes = 0;
        // What does not fit is read again when it is its turn.
        self.queue.extend(events.into_iter().take_while(|event| {
            let is_first = bytes == 0;
            bytes += bytes_of(&event.event);
            is_first || bytes <= QUEUE_BYTES_MAX
        }));
        self.page = match self.queue.len() {
            kept if kept < all => kept as u32,
            // A look that found nothing says nothing of how long events are.
            _ if all == 0 => self.page,
            _ if 2 * bytes <= QUEUE_BYTES_MAX => (2 * self.page).min(EVENTS_MAX),
            _ => self.page,
        };
        Ok(self.queue.pop_front())
    }

    async fn durable(&mut self, published: &Published) -> Result<Encoded, Status> {
        let event = &*published.event;
        self.sent = event.head.sequence;
        if event.head.kind == EventKind::JobEnded {
            // A retried job has an end for each run; only the last one closes the stream.
            flush().await;
            let job = self.engine.job(self.wish.job).await?;
            self.over = job.state.is_ended() && job.sequence <= event.head.sequence;
        }
        if let Some(task) = event.task.as_ref().filter(|_| self.wish.include_body) {
            let mut message = events::task(self.wish.job, event)?;
            let store = self.store.as_ref();
            flush().await;
            bodies::include(&self.engine, store, self.wish.job, task, &mut message).await?;
            return Ok(events::watched(event, Event::TaskEnded(message)));
        }
        self.written(published).map(Encoded::as_it_was)
    }

    /// Returns the message of an event that all watchers are told, written by whoever is told it first.
    fn written(&self, published: &Published) -> Result<Bytes, Status> {
        if let Some(bytes) = published.written.get() {
            return Ok(bytes.clone());
        }
        let event = &*published.event;
        let message = events::watched(
            event,
            match event.head.kind {
                EventKind::TaskEnded => Event::TaskEnded(events::task(self.wish.job, event)?),
                EventKind::JobChanged => Event::JobChanged(events::job(event)?),
                EventKind::JobEnded => Event::JobEnded(events::job(event)?),
            },
        );
        let _ = published.written.set(message.bytes().clone());
        Ok(message.bytes().clone())
    }

    /// Waits for the next message: a notice, progress, or a heartbeat. `None`: durable events may have come.
    async fn wait(&mut self) -> Result<Option<Encoded>, Status> {
        if self.engine.hub().feed(self.wish.job).is_none() {
            // The job has left memory, perhaps before this watch could be told so: the store has the rest.
            self.feed = None;
            return Ok(None);
        }
        if self.follow_anew() {
            return Ok(None);
        }
        let heartbeat = self.last_message + HEARTBEAT;
        let Some(version) = &mut self.version else { return Ok(None) };
        let notices = &mut self.notices;
        let notice = async {
            match notices {
                Some(notices) => notices.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.closing.cancelled() => Err(draining()),
            changed = version.changed() => {
                if changed.is_err() {
                    // The job has left memory: the store has the rest.
                    self.feed = None;
                }
                self.gather().await;
                Ok(None)
            }
            notice = notice => Ok(self.notice(notice)),
            () = tokio::time::sleep_until(self.next_progress) => Ok(self.progress().await),
            () = tokio::time::sleep_until(heartbeat) => Ok(Some(self.wrap(self.sent, Event::Heartbeat(pb::Heartbeat {})))),
        }
    }

    /// Waits for what else is published, if there was a look a moment ago and many watch.
    async fn gather(&mut self) {
        let watchers = self.feed.as_ref().map_or(0, |feed| feed.watchers());
        let apart = LOOK_EACH.saturating_mul(u32::try_from(watchers).unwrap_or(u32::MAX)).min(LOOK_MAX);
        if apart >= LOOK_MIN {
            let since = self.feed.as_ref().and_then(|feed| feed.watched_since()).unwrap_or(self.last_look);
            tokio::time::sleep_until(next_look(since, self.last_look, apart)).await;
        }
        self.last_look = Instant::now();
    }

    /// A watcher that is too slow misses starts, which are conflated as progress is.
    fn notice(&mut self, notice: Option<Notice>) -> Option<Encoded> {
        let id = self.wish.job.to_string();
        match notice {
            Some(Notice::Started(task)) => Some(self.wrap(self.sent, Event::TaskStarted(to_proto::task(&id, &task)))),
            Some(Notice::BackingOff(task)) => {
                let waiting = Some(to_proto::backing_off(task.row.task.due));
                let mut task = pb::Task { waiting, ..to_proto::task(&id, &task) };
                if let Some(feed) = &self.feed {
                    to_proto::tell(feed.job().state, &mut task);
                    if task.state() == pb::TaskState::Pending {
                        task.waiting = Some(to_proto::job_paused());
                    }
                }
                Some(self.wrap(self.sent, Event::TaskBackingOff(task)))
            }
            None => {
                self.notices = None;
                None
            }
        }
    }

    /// Returns the newest progress if it differs from what was sent last.
    async fn progress(&mut self) -> Option<Encoded> {
        self.next_progress = Instant::now() + self.wish.interval;
        let feed = self.feed.clone()?;
        if self.next_waits <= Instant::now() {
            self.next_waits = Instant::now() + WAITS_PERIOD;
            flush().await;
            self.waiting = waits(&self.engine, &feed.job(), WAITS_PERIOD).await;
            // That of a rate moves on with each request, and says nothing new.
            let moves = |wait: &pb::Waiting| wait.reason() == pb::WaitReason::RateLimit;
            self.waiting.iter_mut().filter_map(|tasks| tasks.waiting.as_mut()).filter(|it| moves(it)).for_each(|it| {
                it.until = None;
            });
        }
        let id = self.wish.job.to_string();
        let active =
            feed.active(ACTIVE_MAX).iter().map(|(index, active)| to_proto::active(&id, *index, active)).collect();
        let job = feed.job();
        let mut progress = pb::JobProgress {
            counts: Some(to_proto::counts(&told::counts(job.state, job.counts))),
            progress: Some(to_proto::job_progress(&feed.progress(), &job.counts)),
            active,
            waiting: self.waiting.clone(),
            failures: Vec::new(),
        };
        if self.last_progress.as_ref() == Some(&progress) && self.last_failures == job.failures {
            return None;
        }
        self.last_progress = Some(progress.clone());
        if self.last_failures != job.failures {
            progress.failures = to_proto::failures(&job.failures);
            self.last_failures = job.failures.clone();
        }
        Some(self.wrap(self.sent, Event::Progress(progress)))
    }

    fn wrap(&self, sequence: u64, event: Event) -> Encoded {
        let time = Some(to_proto::timestamp(self.engine.now()));
        Encoded::of(&pb::WatchJobResponse { sequence, time, event: Some(event) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_look_in_step() {
        let since = Instant::now();
        let at = |micros| since + Duration::from_micros(micros);
        let apart = Duration::from_millis(100);
        let next: Vec<Instant> = [0, 400, 12_499, 12_500].map(|last| next_look(since, at(last), apart)).into();
        assert_eq!(next, [100_000, 100_000, 100_000, 112_500].map(at));
        assert_eq!(next_look(at(900_000), at(0), apart), at(100_000), "a feed that is newer than the last look");
    }
}
