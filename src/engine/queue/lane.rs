//! The tasks of one job for one host.
//!
//! Tasks that nothing has happened to lie in the store; a page of them is in memory. Everything in the page has an index
//! below `disk_from`; tasks with `disk_from <= index < disk_to` that can run exist in the store only, unless the job's
//! [`held`](super::JobQueue) names them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::LazyLock;

use crate::engine::queue::task::Queued;
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskIndex};
use crate::store::LaneNumber;

/// A page of a lane to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneRead {
    pub(crate) job: JobId,
    pub(crate) lane: LaneNumber,
    pub(crate) from: TaskIndex,
    /// Returned with the result.
    pub(crate) number: u64,
}

/// The head of a lane that has to be written.
pub(crate) type Head = (JobId, LaneNumber, TaskIndex);

/// Whether a lane is being read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// No read is wanted.
    Idle,
    /// The lane stands in the queue of lanes to be read.
    Wanted,
    /// A read is under way.
    UnderWay(Box<UnderWay>),
}

/// A read of a lane that is under way.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnderWay {
    /// Its number: the result of another read is dropped.
    pub(crate) number: u64,
    /// The index at which it began.
    pub(crate) from: TaskIndex,
    /// The first index that may not have been durable when it began.
    pub(crate) to: TaskIndex,
    /// Tasks from `from` on that memory has held since it began and holds no more: the read may show them as they were
    /// before.
    pub(crate) left: BTreeSet<TaskIndex>,
}

/// The tasks of a lane that memory knows.
#[derive(Debug, Default)]
pub(crate) struct LaneTasks {
    /// Tasks that go before the page: requeued, due again or recovered. By the order in which they came.
    pub(crate) again: BTreeMap<u64, Queued>,
    /// Tasks in order of index.
    pub(crate) page: VecDeque<Queued>,
    /// Tasks that are PENDING and wait for a host or for disk space.
    pub(crate) held_back: BTreeSet<TaskIndex>,
}

impl Deref for Lane {
    type Target = LaneTasks;

    fn deref(&self) -> &LaneTasks {
        static NONE: LazyLock<LaneTasks> = LazyLock::new(LaneTasks::default);
        self.tasks.as_deref().unwrap_or(&NONE)
    }
}

impl DerefMut for Lane {
    fn deref_mut(&mut self) -> &mut LaneTasks {
        self.tasks.get_or_insert_default()
    }
}

/// The tasks of one job for one host.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) host: Host,
    /// `None` where there are none: lanes are many, and most have all their tasks in the store.
    tasks: Option<Box<LaneTasks>>,
    pub(crate) disk_from: TaskIndex,
    pub(crate) disk_to: TaskIndex,
    /// How many tasks the store has that memory does not, as far as is known: after a restart each lane has its share of those
    /// of the job. 0 where there are none.
    pub(crate) stored: u32,
    pub(crate) reading: Reading,
    /// It is read because its turn came, so it goes next once that is done.
    pub(crate) is_next: bool,
    /// The index before which the store takes no task of the lane to be PENDING.
    pub(crate) stored_head: TaskIndex,
    /// The first task that cannot be read, as far as is known, and so stays PENDING; `TaskIndex::MAX`: there is none.
    pub(crate) unreadable_from: TaskIndex,
    /// The number of the load of the page; see `Queue::loaded`.
    pub(crate) load: u64,
}

impl Lane {
    pub(crate) fn new(host: Host) -> Lane {
        Lane {
            host,
            tasks: None,
            disk_from: 0,
            disk_to: 0,
            stored: 0,
            reading: Reading::Idle,
            is_next: false,
            stored_head: 0,
            unreadable_from: TaskIndex::MAX,
            load: 0,
        }
    }

    /// The task that goes next, if it is in memory.
    pub(crate) fn next(&self) -> Option<&Queued> {
        self.again.first_key_value().map(|(_, task)| task).or_else(|| self.page.front())
    }

    /// At most how many tasks the store has that memory does not.
    pub(crate) fn reach(&self) -> u32 {
        self.disk_to.saturating_sub(self.disk_from)
    }

    /// How many of these tasks are counted for the lane.
    pub(crate) fn counted(&self) -> u32 {
        self.stored.min(self.reach())
    }

    /// Whether the store may have tasks that memory does not.
    pub(crate) fn has_more_in_store(&self) -> bool {
        self.disk_from < self.disk_to
    }

    /// Whether the lane can give a task, after a read if need be, when at most `held_back` of its tasks may be held back.
    pub(crate) fn has_work(&self, held_back: usize) -> bool {
        self.held_back.len() < held_back
            && (self.next().is_some() || self.has_more_in_store() && self.reading == Reading::Idle)
    }

    /// Whether the lane gives no task because `now` of its tasks may be held back, fewer than the `most` of other times.
    pub(crate) fn is_barred(&self, now: usize, most: usize) -> bool {
        (now..most).contains(&self.held_back.len())
    }

    /// Gives up the memory of tasks of which there are none.
    pub(crate) fn shrink(&mut self) {
        let tasks = &**self;
        if tasks.again.is_empty() && tasks.page.is_empty() && tasks.held_back.is_empty() {
            self.tasks = None;
        }
    }

    /// The page is empty. A lane that was to be read ahead is read in its turn instead: what is read ahead waits for all that
    /// is read in its turn.
    pub(crate) fn ran_out(&mut self) {
        if self.reading == Reading::Wanted {
            self.reading = Reading::Idle;
        }
    }

    /// Tasks of the lane that wait for their turn in memory.
    pub(crate) fn queued(&self) -> usize {
        self.again.len() + self.page.len()
    }

    /// Tasks of the lane that wait for their turn, in memory or, as far as is known, in the store.
    pub(crate) fn waiting(&self) -> u32 {
        u32::try_from(self.queued()).unwrap_or(u32::MAX).saturating_add(self.stored)
    }

    /// The store has so many tasks more that memory does not.
    pub(crate) fn stores(&mut self, more: usize) {
        self.stored = self.stored.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
    }

    /// Memory has taken in so many tasks that the store had.
    pub(crate) fn takes(&mut self, tasks: usize) {
        self.stored = self.stored.saturating_sub(u32::try_from(tasks).unwrap_or(u32::MAX));
    }

    /// Lowers the stored head to a task that is PENDING again; returns whether that has to be written.
    pub(crate) fn lower_head(&mut self, index: TaskIndex) -> bool {
        let lower = index < self.stored_head;
        self.stored_head = self.stored_head.min(index);
        lower
    }

    /// The index before which no task of the lane is PENDING, running ones left out: the recovery finds those by their
    /// claims.
    pub(crate) fn head(&self) -> TaskIndex {
        let again = self.again.values().map(|task| task.index).min();
        let page = self.page.front().map(|task| task.index);
        let held_back = self.held_back.first().copied();
        let disk = self.disk_from.min(self.unreadable_from);
        again.into_iter().chain(page).chain(held_back).chain([disk]).min().unwrap_or(disk)
    }

    /// The place of a task in the page.
    pub(crate) fn in_page(&self, index: TaskIndex) -> Option<usize> {
        self.page.binary_search_by_key(&index, |task| task.index).ok()
    }

    /// Notes that memory no longer holds a task that it held until now.
    pub(crate) fn left(&mut self, index: TaskIndex) {
        if let Reading::UnderWay(read) = &mut self.reading
            && index >= read.from
        {
            read.left.insert(index);
        }
    }
}
