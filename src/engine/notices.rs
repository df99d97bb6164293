//! What watchers of starts are told that is not durable: one list for all who listen at a job, bounded in bytes, in which
//! each has only its place. Whoever reads too slowly misses the oldest.
//!
//! Each notice says which durable event came before it, so that it is told between that one and the next: a task that ends as
//! soon as it has started is told in this order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::version::{Follower, Version};
use crate::store::StoredTask;

/// Notices that a listener may be behind before it misses some.
const NOTICES_MAX: usize = 256;
/// Memory that they may take, in bytes, roughly. The last one stays, however large it is.
const BYTES_MAX: usize = 1 << 20;

/// Something about a running task that is not durable.
#[derive(Clone, Debug)]
pub enum Notice {
    /// An attempt started.
    Started(Arc<StoredTask>),
    /// A task waits for its next attempt.
    BackingOff(Arc<StoredTask>),
}

impl Notice {
    fn bytes(&self) -> usize {
        let (Notice::Started(task) | Notice::BackingOff(task)) = self;
        size_of::<StoredTask>() + task.spec.memory_bytes() + task.row.memory_bytes()
    }
}

/// The notices of one job.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    list: Arc<Mutex<List>>,
    /// Changes with each notice.
    last: Version,
}

#[derive(Debug, Default)]
struct List {
    /// Each with the number of the durable event before it.
    notices: VecDeque<(u64, Notice)>,
    bytes: usize,
    /// The number of the first one that is kept.
    first: u64,
}

/// Somebody who is told of starts.
#[derive(Debug)]
pub struct NoticeListener {
    list: Arc<Mutex<List>>,
    last: Follower,
    /// The number of the next notice that it is told.
    place: u64,
}

impl Notices {
    /// Tells whoever listens, once event `after` of the job is told.
    pub(crate) fn send(&self, after: u64, notice: Notice) {
        let mut list = lock(&self.list);
        if !self.has_listeners() {
            return list.clear();
        }
        list.bytes += notice.bytes();
        list.notices.push_back((after, notice));
        while list.notices.len() > NOTICES_MAX || list.bytes > BYTES_MAX && list.notices.len() > 1 {
            let Some((_, oldest)) = list.notices.pop_front() else { break };
            list.bytes = list.bytes.saturating_sub(oldest.bytes());
            list.first += 1;
        }
        drop(list);
        self.last.grow();
    }

    /// The memory of those that are kept, in bytes, roughly.
    pub(crate) fn bytes(&self) -> usize {
        lock(&self.list).bytes
    }

    /// Drops those that are kept: whoever has not read them misses them.
    pub(crate) fn forget(&self) {
        lock(&self.list).clear();
    }

    /// Whether anybody listens.
    pub(crate) fn has_listeners(&self) -> bool {
        self.last.followers() > 0
    }

    /// Listens from now on.
    pub(crate) fn listen(&self) -> NoticeListener {
        // Under the lock: a notice comes before this listener, or is in the list for it.
        let list = lock(&self.list);
        NoticeListener { list: self.list.clone(), last: self.last.follow(), place: list.next() }
    }
}

impl List {
    /// The number of the next notice.
    fn next(&self) -> u64 {
        self.first + self.notices.len() as u64
    }

    fn clear(&mut self) {
        *self = List { first: self.next(), ..List::default() };
    }
}

impl NoticeListener {
    /// Waits for the next notice, for somebody who was told event `told` last; `None`: there will be no more. Dropping the future
    /// loses nothing.
    pub async fn next(&mut self, told: u64) -> Option<Notice> {
        loop {
            if let Some(notice) = self.take(told) {
                return Some(notice);
            }
            if self.last.changed().await.is_err() {
                return self.take(told);
            }
        }
    }

    /// Returns the next notice, if there is one and the event before it is not after `told`.
    pub fn take(&mut self, told: u64) -> Option<Notice> {
        let list = lock(&self.list);
        self.place = self.place.max(list.first);
        let (after, notice) = list.notices.get((self.place - list.first) as usize)?;
        let notice = (*after <= told).then(|| notice.clone())?;
        self.place += 1;
        Some(notice)
    }
}

fn lock(list: &Mutex<List>) -> MutexGuard<'_, List> {
    // Each critical section leaves the data whole at every step.
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::model::spec::{FetchSpec, TaskOptions, TaskSpec, Work};
    use crate::store::TaskRow;

    fn notice(index: u32, bytes: usize) -> Notice {
        let work = Work::Fetch(FetchSpec { body: vec![0; bytes], ..FetchSpec::default() });
        let spec = TaskSpec { key: String::new(), work, options: TaskOptions::default().into() }.into();
        Notice::Started(Arc::new(StoredTask { index, lane: 0, spec, row: TaskRow::default() }))
    }

    fn heard(listener: &mut NoticeListener) -> Vec<u32> {
        std::iter::from_fn(|| listener.next(u64::MAX).now_or_never().flatten())
            .map(|(Notice::Started(task) | Notice::BackingOff(task))| task.index)
            .collect()
    }

    #[test]
    fn each_listener_hears_what_comes_after_it() {
        let notices = Notices::default();
        notices.send(0, notice(0, 0));
        let mut first = notices.listen();
        notices.send(0, notice(1, 0));
        let mut second = notices.listen();
        notices.send(0, notice(2, 0));
        assert_eq!((heard(&mut first), heard(&mut second)), (vec![1, 2], vec![2]));
        assert!(heard(&mut first).is_empty());
        drop(notices);
        assert!(first.next(0).now_or_never().unwrap().is_none(), "there will be no more");
    }

    #[test]
    fn a_notice_comes_after_the_event_before_it() {
        let notices = Notices::default();
        let mut listener = notices.listen();
        for (after, index) in [(3, 0), (5, 1)] {
            notices.send(after, notice(index, 0));
        }
        let mut told =
            |event| listener.take(event).map(|(Notice::Started(task) | Notice::BackingOff(task))| task.index);
        assert_eq!([told(2), told(3), told(3), told(4), told(6), told(6)], [None, Some(0), None, None, Some(1), None]);
    }

    #[test]
    fn who_is_slow_costs_a_bounded_number_of_bytes_and_misses_the_oldest() {
        let notices = Notices::default();
        let mut listener = notices.listen();
        (0..1000).for_each(|index| notices.send(0, notice(index, 0)));
        assert_eq!(heard(&mut listener), (1000 - NOTICES_MAX as u32..1000).collect::<Vec<_>>());
        (0..20).for_each(|index| notices.send(0, notice(index, 300_000)));
        assert!(lock(&notices.list).bytes <= BYTES_MAX);
        assert_eq!(heard(&mut listener), [17, 18, 19]);
        notices.send(0, notice(7, 9 << 20));
        assert_eq!(heard(&mut listener), [7], "the last one stays");
        drop(listener);
        notices.send(0, notice(8, 0));
        assert!(lock(&notices.list).notices.is_empty(), "nobody listens");
    }
}
