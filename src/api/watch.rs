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
use crate::api::looks::{between_looks, next_look};
use crate::api::lookup::live_job;
use crate::api::shown;
use crate::api::status::{draining, no_job, out_of_range};
use crate::api::to_proto;
use crate::codec::Encoded;
use crate::engine::feed::{Feed, KeptWaits};
use crate::engine::handle::Engine;
use crate::engine::hub::Notice;
use crate::engine::notices::NoticeListener;
use crate::engine::published::{Batch, Published, Shown, bytes_of};
use crate::engine::version::Follower;
use crate::model::event::EventKind;
use crate::model::ids::JobId;
use crate::model::job::Job;
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
/// The most bytes of events that are put together. A watcher that does not read keeps twice as many, and a thousand of them on
/// one connection have to find room there.
const BATCH_BYTES_MAX: usize = 48 << 10;
/// The least time between two looks for why tasks wait.
const WAITS_PERIOD: Duration = Duration::from_secs(1);
/// How long a watcher waits for what another one looks up of that.
const WAITS_COMING: Duration = Duration::from_millis(20);
/// How old the progress may be that was written for another watcher.
const SHOWN_AGE: Duration = Duration::from_millis(25);

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

#[allow(clippy::struct_excessive_bools)] // Each is a state of its own.
struct Watcher {
    engine: Engine,
    store: Arc<dyn Store>,
    closing: CancellationToken,
    wish: Wish,
    job: Arc<Job>,
    feed: Option<Arc<Feed>>,
    /// How many jobs had come back into memory before it looked for that feed ([`crate::engine::hub::Hub::returned`]).
    returned: u64,
    version: Option<Follower>,
    notices: Option<NoticeListener>,
    /// The last durable event that was sent.
    sent: u64,
    queue: VecDeque<Arc<Published>>,
    last_look: Instant,
    /// When it looks at what was published since, if that is some time after the one before.
    look_at: Option<Instant>,
    /// Whether it has been told all that its last look found.
    has_all: bool,
    /// The last event that was sent before that look.
    looked_from: u64,
    /// How long before its last look it began or looked; `None`: it has not looked yet.
    looked_before: Option<Duration>,
    /// How many events are read next: about as many as may wait.
    page: u32,
    snapshot_due: bool,
    next_progress: Instant,
    /// Whether its progress is late already, since somebody else looks up why the tasks of the job wait.
    has_waited: bool,
    /// Whether the last message was progress.
    told_progress: bool,
    /// How far the job was and why its tasks waited, as that was sent last.
    last_progress: Option<(Bytes, Bytes)>,
    /// The job whose failures were sent last.
    told_job: Arc<Job>,
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
    let (returned, feed, ended) = loop {
        let returned = engine.hub().returned();
        let feed = engine.hub().feed(wish.job);
        if feed.is_some() {
            break (returned, feed, None);
        }
        // A job that is durable may get its feed only now.
        if let Some(ended) = engine.quiet_job(wish.job).await? {
            break (returned, None, Some(ended));
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
        look_at: None,
        has_all: false,
        looked_from: wish.after.unwrap_or(job.sequence),
        looked_before: None,
        page: EVENTS_FIRST,
        snapshot_due: true,
        next_progress: Instant::now() + wish.interval,
        has_waited: false,
        told_progress: false,
        last_progress: None,
        told_job: job.clone(),
        last_message: Instant::now(),
        over: false,
        engine,
        store,
        closing,
        wish,
        job,
        feed,
        returned,
        version,
    };
    Ok(unfold(watcher, |mut watcher| async move {
        let message = watcher.next().await?;
        Some((message, watcher))
    }))
}

/// Returns the message of an event that all watchers are told, written by whoever is told it first.
fn written(job: JobId, published: &Published) -> Result<Bytes, Status> {
    if let Some(bytes) = published.written.get() {
        return Ok(bytes.clone());
    }
    let event = &*published.event;
    let message = events::watched(
        event,
        match event.head.kind {
            EventKind::TaskEnded => Event::TaskEnded(events::task(job, event)?),
            EventKind::JobChanged => Event::JobChanged(events::job(event)?),
            EventKind::JobEnded => Event::JobEnded(events::job(event)?),
        },
    );
    let _ = published.written.set(message.bytes().clone());
    Ok(message.bytes().clone())
}

/// Frames the events of a job that follow `after`, and puts them together, as many as fit. The caller has seen version `seen` of it.
fn put_together(job: JobId, after: u64, feed: &Feed, seen: u64) -> Option<Batch> {
    let events = feed.events_after(after, BATCH_MAX)?;
    let (mut frames, mut upto, mut taken) = (BytesMut::new(), after, 0);
    for published in &events {
        // What follows the end of a job is looked up for each watcher.
        if published.event.head.kind == EventKind::JobEnded {
            break;
        }
        let message = written(job, published).ok()?;
        if frames.len() + framed_len(&message) > BATCH_BYTES_MAX {
            break;
        }
        put_framed(&message, &mut frames);
        (upto, taken) = (published.event.head.sequence, taken + 1);
    }
    let is_all = taken == events.len() && taken < BATCH_MAX;
    (taken > 0).then(|| Batch { after, upto, all_of: is_all.then_some(seen), bytes: frames.freeze() })
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
            // A busy job always has events to tell, so its progress comes between them; but never twice in a row before them,
            // however slowly the client reads. Where there will be a look it waits for that, so that both leave together.
            let was_progress = std::mem::replace(&mut self.told_progress, false);
            if !was_progress
                && self.look_at.is_none()
                && self.next_progress <= Instant::now()
                && let Some(progress) = self.progress().await
            {
                self.told_progress = true;
                return Ok(Some(Told::One(progress)));
            }
            // Between two looks nothing is read, so that those who look together stay equally far, and are sent the same bytes.
            if !self.has_all {
                if let Some(frames) = self.batch() {
                    return Ok(Some(Told::Several(frames)));
                }
                let event = self.next_event().await?;
                // Noted before the event was published, so it is there by now.
                if let Some(notice) = self.notices.as_mut().and_then(|notices| notices.take(self.sent)) {
                    if let Some(event) = event {
                        self.queue.push_front(event);
                    }
                    return Ok(self.notice(Some(notice)).map(Told::One));
                }
                if let Some(event) = event {
                    return self.durable(&event).await.map(|message| Some(Told::One(message)));
                }
                self.has_all = true;
            }
            // What it is to look at is in the feed that it follows.
            if self.look_at.is_none() && self.follow_anew() {
                continue;
            }
            if self.feed.is_none() {
                flush().await;
                // One that is retried gets its feed a moment after that is durable.
                if self.engine.quiet_job(self.wish.job).await?.is_some() {
                    return Ok(None);
                }
                self.has_all = false;
                continue;
            }
            if let Some(message) = self.wait().await? {
                return Ok(Some(Told::One(message)));
            }
        }
    }

    /// Follows the feed that the job has now, if it is another one or none: a job that ends leaves memory, and the store has the
    /// rest; one that is retried gets a new feed, and nothing is published in the old one any more.
    fn follow_anew(&mut self) -> bool {
        let returned = self.engine.hub().returned();
        let feed = self.engine.hub().feed(self.wish.job);
        if feed.as_ref().map(Arc::as_ptr) == self.feed.as_ref().map(Arc::as_ptr) {
            return false;
        }
        self.version = feed.as_ref().map(|feed| feed.subscribe());
        self.notices = feed.as_ref().filter(|_| self.wish.task_starts).map(|feed| feed.notices());
        (self.feed, self.returned) = (feed, returned);
        self.look();
        true
    }

    /// Returns the next events, framed and put together for all watchers who are as far as this one. `None`: there are none, the
    /// next one is long, or this watcher is told something else than the others.
    fn batch(&mut self) -> Option<Bytes> {
        if !self.wish.in_frames || self.wish.include_body || self.notices.is_some() || !self.queue.is_empty() {
            return None;
        }
        let (feed, version) = (self.feed.as_ref()?, self.version.as_mut()?);
        let batch = feed.batch_after(self.sent).or_else(|| {
            let batch = put_together(self.wish.job, self.sent, feed, version.seen())?;
            self.engine.hub().keep_batch(feed, batch.clone());
            Some(batch)
        })?;
        self.sent = batch.upto;
        if let Some(seen) = batch.all_of {
            // What was published since whoever put this together looked is a reason for another look.
            version.see_as(seen);
            self.has_all = true;
        }
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
            // What the store has may take long to read, and nobody waits for it.
            if self.closing.is_cancelled() {
                return Err(draining());
            }
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

    /// The job as it is now. One that ends leaves memory in the turn that publishes its end, and whoever waits for that would wait for
    /// a read of the store as well: it is still as its feed had it where no job has come back since.
    async fn job_now(&self) -> Result<Arc<Job>, Status> {
        let hub = self.engine.hub();
        if hub.feed(self.wish.job).is_none()
            && let Some(feed) = self.feed.as_ref().filter(|_| hub.returned() == self.returned)
        {
            return Ok(feed.job());
        }
        flush().await;
        Ok(self.engine.job(self.wish.job).await?)
    }

    async fn durable(&mut self, published: &Published) -> Result<Encoded, Status> {
        let event = &*published.event;
        self.sent = event.head.sequence;
        if event.head.kind == EventKind::JobEnded {
            // A retried job has an end for each run; only the last one closes the stream.
            let job = self.job_now().await?;
            self.over = job.state.is_ended() && job.sequence <= event.head.sequence;
        }
        if let Some(task) = event.task.as_ref().filter(|_| self.wish.include_body) {
            let mut message = events::task(self.wish.job, event)?;
            let store = self.store.as_ref();
            flush().await;
            bodies::include(&self.engine, store, self.wish.job, task, &mut message).await?;
            return Ok(events::watched(event, Event::TaskEnded(message)));
        }
        written(self.wish.job, published).map(Encoded::as_it_was)
    }

    /// Waits for the next message: a notice or a heartbeat. `None`: durable events may have come, or progress is due.
    async fn wait(&mut self) -> Result<Option<Encoded>, Status> {
        // Whose last look found something finds something by the next one, too, most likely: it is not woken in between.
        if self.look_at.is_none() && self.sent > self.looked_from {
            self.look_at = self.later_look();
        }
        let heartbeat = self.last_message + HEARTBEAT;
        let next = self.look_at.unwrap_or(self.next_progress.min(heartbeat));
        let Some(version) = &mut self.version else { return Ok(None) };
        let (notices, sent) = (&mut self.notices, self.sent);
        let notice = async {
            match notices {
                Some(notices) => notices.next(sent).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.closing.cancelled() => Err(draining()),
            // It grows also when the job leaves memory, and is not over while the feed is held.
            _ = version.changed(), if self.look_at.is_none() => {
                self.look_at = self.later_look();
                if self.look_at.is_none() {
                    self.look();
                }
                Ok(None)
            }
            () = tokio::time::sleep_until(next) => {
                if self.look_at.is_some() {
                    self.look();
                } else if heartbeat <= Instant::now() {
                    return Ok(Some(self.wrap(self.sent, Event::Heartbeat(pb::Heartbeat {}))));
                }
                Ok(None)
            }
            notice = notice => Ok(self.notice(notice)),
        }
    }

    /// Returns when this watcher looks at what was published, if it looked a moment ago and many watch: what else is published
    /// until then is told together with it.
    fn later_look(&self) -> Option<Instant> {
        let feed = self.feed.as_ref()?;
        let found = self.sent.saturating_sub(self.looked_from);
        let found = self.looked_before.map(|of| (found, of));
        let apart = between_looks(feed.watchers(), self.wish.interval, found)?;
        let since = feed.watched_since().unwrap_or(self.last_look);
        Some(next_look(since, self.last_look, apart))
    }

    /// Notes that what was published until now is read next, and is no reason for another look.
    fn look(&mut self) {
        let now = Instant::now();
        self.looked_before = Some(now.saturating_duration_since(self.last_look));
        (self.look_at, self.has_all, self.looked_from, self.last_look) = (None, false, self.sent, now);
        if let Some(version) = &mut self.version {
            version.see();
        }
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

    /// Returns the newest progress if it differs from what was sent last. Watchers whose progress is due at the same time are told
    /// what the first of them wrote.
    async fn progress(&mut self) -> Option<Encoded> {
        self.next_progress = Instant::now() + self.wish.interval;
        let feed = self.feed.clone()?;
        let waits = match feed.waits(WAITS_PERIOD) {
            KeptWaits::Written(waits) => waits,
            // This one looks it up by itself only where that was not kept then.
            KeptWaits::Coming if !std::mem::replace(&mut self.has_waited, true) => {
                self.next_progress = Instant::now() + WAITS_COMING;
                return None;
            }
            KeptWaits::Old | KeptWaits::Coming => {
                flush().await;
                let written = shown::written_waits(&self.engine, &feed, WAITS_PERIOD).await;
                self.engine.hub().keep_waits(&feed, written.clone());
                written
            }
        };
        self.has_waited = false;
        // Never less than what this watcher was told.
        let is_new = |kept: &Shown| kept.at.elapsed() <= SHOWN_AGE && kept.job.sequence >= self.sent;
        let shown = feed.shown().filter(is_new).unwrap_or_else(|| {
            let written = shown::written_now(&feed);
            self.engine.hub().keep_shown(&feed, written.clone());
            written
        });
        let told = (shown.bytes, waits);
        let have_failed = self.told_job.failures != shown.job.failures;
        if self.last_progress.as_ref() == Some(&told) && !have_failed {
            return None;
        }
        let failures = if have_failed { shown::written_failures(&shown.job) } else { Bytes::new() };
        let message = shown::message(self.sent, self.engine.now(), &[&told.0, &told.1, &failures]);
        (self.last_progress, self.told_job) = (Some(told), shown.job);
        Some(message)
    }

    fn wrap(&self, sequence: u64, event: Event) -> Encoded {
        let time = Some(to_proto::timestamp(self.engine.now()));
        Encoded::of(&pb::WatchJobResponse { sequence, time, event: Some(event) })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::engine::hub::Hub;
    use crate::model::event::EventHead;
    use crate::model::spec::JobSpec;
    use crate::model::time::Timestamp;
    use crate::store::StoredEvent;

    #[test]
    fn those_who_look_together_are_sent_the_same_bytes() {
        let id = JobId(uuid::Uuid::from_u128(1));
        let spec = JobSpec { title: "x".repeat(1_000), ..JobSpec::default() };
        let job = |sequence| Arc::new(Job { sequence, ..Job::new(id, spec.clone(), 1, Timestamp(1)) });
        let event = |sequence| {
            let head = EventHead { sequence, time: Timestamp(1), kind: EventKind::JobChanged, task: None };
            Arc::new(StoredEvent { head, snapshot: Some(job(sequence)), task: None })
        };
        let hub = Hub::new(100);
        hub.open(job(0));
        let feed = hub.feed(id).unwrap();
        let (mut first, mut second) = (feed.subscribe(), feed.subscribe());
        hub.publish(job(2), vec![event(1), event(2)]);
        first.see();
        let made = put_together(id, 0, &feed, first.seen()).unwrap();
        hub.keep_batch(&feed, made.clone());
        assert_eq!((made.upto, made.all_of), (2, Some(first.seen())));
        // Who comes a moment later is not further than those who looked with it, and looks again for what came since.
        hub.publish(job(3), vec![event(3)]);
        second.see();
        let found = feed.batch_after(0).unwrap();
        assert_eq!((found.upto, found.bytes.as_ptr()), (2, made.bytes.as_ptr()));
        second.see_as(found.all_of.unwrap());
        assert_eq!(second.changed().now_or_never(), Some(Ok(())));
        // One event alone is shared, too.
        let next = put_together(id, 2, &feed, second.seen()).unwrap();
        assert_eq!((next.upto, next.all_of), (3, Some(second.seen())));
        assert!(put_together(id, 3, &feed, second.seen()).is_none());
        hub.publish(job(103), (4..=103).map(event).collect());
        let full = put_together(id, 3, &feed, second.seen()).unwrap();
        assert!(full.bytes.len() <= BATCH_BYTES_MAX && full.upto < 103 && full.all_of.is_none());
    }
}
