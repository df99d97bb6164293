//! What is kept for the watchers of one job: its last events, and what was made of them for all who are told the same. Plain data,
//! bounded in bytes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::engine::notices::Notices;
use crate::engine::published::{Batch, Published, Shown, bytes_of};
use crate::engine::version::Version;
use crate::store::StoredEvent;

/// Events that are kept.
const RING_MAX: usize = 512;
/// Memory that they may take, in bytes, roughly.
const RING_BYTES_MAX: usize = 1 << 20;
/// The most bytes of pieces that were put together and are kept.
const BATCH_BYTES_KEPT: usize = 256 << 10;
/// The most such pieces.
const BATCHES_KEPT: usize = 32;
/// The most bytes of events, and of notices, that stay with a job that has ended, as long as somebody holds its feed.
const ENDED_BYTES_MAX: usize = 64 << 10;

/// What there is for the watchers of a job.
#[derive(Debug)]
pub(crate) struct Watched {
    /// When the first of them came. Their looks are in step with it.
    pub(crate) since: Instant,
    pub(crate) version: Version,
    /// Changes with it, and with each page of a listing.
    pub(crate) pages: Version,
    ring: VecDeque<Arc<Published>>,
    ring_bytes: usize,
    /// What was put together last, the newest at the end. Watchers who look at the same time are as far as each other, and find
    /// what the first of them made.
    batches: VecDeque<Batch>,
    batch_bytes: usize,
    /// How far the job is, as it was written last.
    shown: Option<Shown>,
    waits: Waits,
    /// Made with the first watcher of starts.
    pub(crate) notices: Option<Notices>,
}

/// What is kept of why the tasks of a job wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptWaits {
    /// This, as it was written last.
    Written(Bytes),
    /// Nothing that is new enough: the caller is to look it up.
    Old,
    /// Nothing yet: somebody else looks it up.
    Coming,
}

/// Why the tasks of the job wait.
#[derive(Debug, Default)]
struct Waits {
    /// As it was written last.
    written: Option<Bytes>,
    /// When somebody began to look that up anew.
    begun: Option<Instant>,
}

impl Default for Watched {
    fn default() -> Watched {
        Watched {
            since: Instant::now(),
            version: Version::default(),
            pages: Version::default(),
            ring: VecDeque::new(),
            ring_bytes: 0,
            batches: VecDeque::new(),
            batch_bytes: 0,
            shown: None,
            waits: Waits::default(),
            notices: None,
        }
    }
}

impl Watched {
    /// Whether anybody watches.
    pub(crate) fn has_watchers(&self) -> bool {
        self.version.followers() > 0
            || self.pages.followers() > 0
            || self.notices.as_ref().is_some_and(Notices::has_listeners)
    }

    /// Wakes whoever follows the job.
    pub(crate) fn grow(&self) {
        self.version.grow();
        self.pages.grow();
    }

    /// The memory of what is kept, in bytes, roughly.
    pub(crate) fn bytes(&self) -> usize {
        let shown = self.shown.as_ref().map_or(0, |shown| shown.bytes.len());
        let notices = self.notices.as_ref().map_or(0, Notices::bytes);
        self.ring_bytes + self.batch_bytes + shown + notices + self.waits.written.as_ref().map_or(0, Bytes::len)
    }

    /// Takes in events of a job that had event `before` and has event `last` now. Unless they are all in between, none are kept, and
    /// watchers read from the store.
    pub(crate) fn add(&mut self, events: Vec<Arc<StoredEvent>>, before: u64, last: u64) {
        let continues = events.first().is_none_or(|event| event.head.sequence == before + 1)
            && events.last().map_or(before, |event| event.head.sequence) == last;
        if !continues {
            return self.forget_events();
        }
        self.ring_bytes += events.iter().map(|event| bytes_of(event)).sum::<usize>();
        self.ring.extend(events.into_iter().map(Published::new));
        while self.ring.len() > RING_MAX || self.ring_bytes > RING_BYTES_MAX {
            let Some(oldest) = self.ring.pop_front() else { break };
            self.ring_bytes = self.ring_bytes.saturating_sub(bytes_of(&oldest.event));
        }
    }

    /// The events after `after`, in order; `None` when these do not reach back that far.
    pub(crate) fn events_after(&self, after: u64, limit: usize) -> Option<Vec<Arc<Published>>> {
        let first = self.ring.front()?.event.head.sequence;
        let skip = usize::try_from((after + 1).checked_sub(first)?).unwrap_or(usize::MAX);
        Some(self.ring.iter().skip(skip).take(limit).cloned().collect())
    }

    /// What was put together lately and follows event `after`.
    pub(crate) fn batch_after(&self, after: u64) -> Option<Batch> {
        self.batches.iter().rfind(|batch| batch.after == after).cloned()
    }

    /// Keeps what was put together for the other watchers, if there are any.
    pub(crate) fn keep_batch(&mut self, batch: Batch) {
        if self.version.followers() < 2 {
            return;
        }
        self.batch_bytes += batch.bytes.len();
        self.batches.push_back(batch);
        while self.batch_bytes > BATCH_BYTES_KEPT || self.batches.len() > BATCHES_KEPT {
            let Some(oldest) = self.batches.pop_front() else { break };
            self.batch_bytes -= oldest.bytes.len();
        }
    }

    /// How far the job is, as it was written last.
    pub(crate) fn shown(&self) -> Option<&Shown> {
        self.shown.as_ref()
    }

    /// Keeps how far the job is.
    pub(crate) fn keep_shown(&mut self, shown: Shown) {
        if self.shown.as_ref().is_none_or(|kept| kept.at < shown.at) {
            self.shown = Some(shown);
        }
    }

    /// Why the tasks of the job wait, as it was written last. Who begins to look that up and gives up keeps nobody from it for longer
    /// than `period`.
    pub(crate) fn waits(&mut self, period: Duration) -> KeptWaits {
        if self.waits.begun.is_none_or(|at| at.elapsed() >= period) {
            self.waits.begun = Some(Instant::now());
            return KeptWaits::Old;
        }
        self.waits.written.clone().map_or(KeptWaits::Coming, KeptWaits::Written)
    }

    /// Keeps why the tasks of the job wait.
    pub(crate) fn keep_waits(&mut self, written: Bytes) {
        self.waits.written = Some(written);
    }

    /// Drops all that is kept: watchers read events from the store, miss notices, and write the rest anew.
    pub(crate) fn forget(&mut self) {
        self.forget_events();
        self.forget_notices(0);
        (self.shown, self.waits) = (None, Waits::default());
    }

    /// Drops what nobody needs of a job that has ended, and its events and notices where these are many: who holds the feed may
    /// hold it for long, and reads events from the store.
    pub(crate) fn forget_long_past(&mut self) {
        if self.ring_bytes > ENDED_BYTES_MAX {
            self.forget_events();
        }
        self.forget_notices(ENDED_BYTES_MAX);
        (self.batches, self.batch_bytes) = (VecDeque::new(), 0);
        (self.shown, self.waits) = (None, Waits::default());
    }

    fn forget_notices(&self, most: usize) {
        if let Some(notices) = self.notices.as_ref().filter(|notices| notices.bytes() > most) {
            notices.forget();
        }
    }

    fn forget_events(&mut self) {
        (self.ring, self.ring_bytes) = (VecDeque::new(), 0);
        (self.batches, self.batch_bytes) = (VecDeque::new(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_together_is_kept_for_others_within_its_bound() {
        let mut watched = Watched::default();
        let piece =
            |after| Batch { after, upto: after + 1, all_of: None, bytes: vec![0_u8; BATCH_BYTES_KEPT / 3].into() };
        let _first = watched.version.follow();
        watched.keep_batch(piece(0));
        assert!(watched.batch_after(0).is_none() && watched.bytes() == 0, "there is nobody else");
        let _second = watched.version.follow();
        (0..9).for_each(|after| watched.keep_batch(piece(after)));
        let kept: Vec<u64> = (0..9).filter(|after| watched.batch_after(*after).is_some()).collect();
        assert_eq!((kept, watched.bytes()), (vec![6, 7, 8], 3 * (BATCH_BYTES_KEPT / 3)));
        watched.keep_waits(vec![0; 100].into());
        assert!(watched.bytes() > BATCH_BYTES_KEPT);
        watched.forget_long_past();
        assert_eq!(watched.bytes(), 0);
    }

    /// Whoever asks before the first answer is there is not told that nothing waits, and does not look it up a second time.
    #[tokio::test(start_paused = true)]
    async fn why_tasks_wait_is_looked_up_by_one_at_a_time() {
        const PERIOD: Duration = Duration::from_secs(1);
        let mut watched = Watched::default();
        let ask = |watched: &mut Watched| [watched.waits(PERIOD), watched.waits(PERIOD), watched.waits(PERIOD)];
        assert_eq!(ask(&mut watched), [KeptWaits::Old, KeptWaits::Coming, KeptWaits::Coming]);
        tokio::time::advance(PERIOD).await;
        assert_eq!(ask(&mut watched), [KeptWaits::Old, KeptWaits::Coming, KeptWaits::Coming], "the first one gave up");
        let written = KeptWaits::Written(Bytes::from_static(b"first"));
        watched.keep_waits(Bytes::from_static(b"first"));
        assert_eq!(watched.waits(PERIOD), written);
        tokio::time::advance(PERIOD).await;
        assert_eq!(ask(&mut watched), [KeptWaits::Old, written.clone(), written]);
        watched.forget();
        assert_eq!(
            ask(&mut watched),
            [KeptWaits::Old, KeptWaits::Coming, KeptWaits::Coming],
            "it was too much for all"
        );
    }
}
