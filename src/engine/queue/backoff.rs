//! The tasks that back off: the nearest ones in memory, the rest in the store.
//!
//! Every task that backs off and is due before the *horizon* is in memory; what is due later exists in the store only,
//! and is read when it comes near. A read sees what was durable when it began, so the horizon may not pass a task whose
//! row was on its way to the store then, nor one that was left to the store while the read went on.

use std::collections::{BTreeMap, HashSet};

use uuid::Uuid;

use crate::engine::queue::task::{BatchNumber, Waiting};
use crate::model::ids::{JobId, TaskId};
use crate::model::time::Timestamp;
use crate::store::DueTask;

/// Before all that can be.
const FIRST: DueTask = DueTask { due: Timestamp(i64::MIN), id: TaskId { job: JobId(Uuid::nil()), index: 0 } };

/// The tasks that back off.
#[derive(Debug)]
pub(crate) struct Backoffs {
    tasks: BTreeMap<DueTask, Waiting>,
    /// Exclusive; `None`: all are in memory.
    horizon: Option<DueTask>,
    /// The earliest task that was left to the store, by the batch that has its row, as long as that is not durable.
    on_their_way: BTreeMap<BatchNumber, DueTask>,
    reading: Option<DueRead>,
    tasks_max: usize,
    /// The memory that they take, roughly, and what it may be.
    bytes: usize,
    bytes_max: usize,
}

/// A read that is under way.
#[derive(Debug, Default)]
struct DueRead {
    /// The earliest task that it may miss.
    misses_from: Option<DueTask>,
    /// Tasks that memory has held since it began and holds no more.
    left: HashSet<TaskId>,
}

/// What a finished read says of the tasks that it found.
pub(crate) struct Admissible {
    horizon: Option<DueTask>,
    left: HashSet<TaskId>,
}

impl Admissible {
    /// Whether memory takes the task, unless it holds it already.
    pub(crate) fn takes(&self, entry: &DueTask) -> bool {
        self.horizon.is_none_or(|horizon| *entry < horizon) && !self.left.contains(&entry.id)
    }
}

impl Backoffs {
    /// Nothing is in memory, where at most `tasks_max` of about `bytes_max` may be, and the store has not been read yet.
    pub(crate) fn new(tasks_max: usize, bytes_max: usize) -> Backoffs {
        Backoffs {
            tasks: BTreeMap::new(),
            horizon: Some(FIRST),
            on_their_way: BTreeMap::new(),
            reading: None,
            tasks_max,
            bytes: 0,
            bytes_max,
        }
    }

    /// Adds a task, unless it is due beyond the horizon: then the store alone has it. Returns the tasks that memory does not
    /// hold after all, this one or one that is due later.
    pub(crate) fn add(&mut self, entry: DueTask, waiting: Waiting) -> Vec<(DueTask, Waiting)> {
        if self.horizon.is_some_and(|horizon| entry >= horizon) {
            self.leave(entry, waiting.task.batch);
            return vec![(entry, waiting)];
        }
        self.bytes += waiting.task.bytes();
        self.tasks.insert(entry, waiting);
        let mut left = Vec::new();
        // One stays, however large it is: else it would never come to its turn.
        while self.tasks.len() > self.tasks_max || self.bytes > self.bytes_max && self.tasks.len() > 1 {
            let Some((last, waiting)) = self.tasks.pop_last() else { break };
            self.bytes = self.bytes.saturating_sub(waiting.task.bytes());
            // Nearer already, if memory reads anew what it let go of.
            self.horizon = Some(self.horizon.map_or(last, |horizon| horizon.min(last)));
            self.leave(last, waiting.task.batch);
            left.push((last, waiting));
        }
        left
    }

    fn leave(&mut self, entry: DueTask, batch: BatchNumber) {
        if batch > 0 {
            let earliest = self.on_their_way.entry(batch).or_insert(entry);
            *earliest = entry.min(*earliest);
        }
        if let Some(read) = &mut self.reading {
            read.misses_from = Some(read.misses_from.map_or(entry, |earliest| earliest.min(entry)));
        }
    }

    /// Takes a task out.
    pub(crate) fn remove(&mut self, entry: &DueTask) -> Option<Waiting> {
        let waiting = self.tasks.remove(entry)?;
        self.bytes = self.bytes.saturating_sub(waiting.task.bytes());
        Some(waiting)
    }

    /// When the first task is due.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.tasks.first_key_value().map(|(entry, _)| entry.due)
    }

    /// Takes out the first task, if it is due at `now`.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<(DueTask, Waiting)> {
        let entry = self.tasks.first_entry().filter(|entry| entry.key().due <= now)?;
        let (entry, waiting) = entry.remove_entry();
        self.bytes = self.bytes.saturating_sub(waiting.task.bytes());
        Some((entry, waiting))
    }

    /// Begins a read if the store has tasks that memory has room for. Returns the entry after which it begins.
    pub(crate) fn begin_read(&mut self) -> Option<DueTask> {
        let horizon = self.horizon?;
        let misses_from = self.on_their_way.values().min().copied();
        // Mostly all of them are due before the horizon. After `reread` they may be due later than what the store has, and make room
        // for that.
        let is_full = self.tasks.len() > self.tasks_max / 2 || self.bytes > self.bytes_max / 2;
        let has_nearer = self.tasks.first_key_value().is_some_and(|(first, _)| *first < horizon);
        // A read that may miss what comes first cannot move the horizon.
        if self.reading.is_some() || is_full && has_nearer || misses_from.is_some_and(|it| it <= horizon) {
            return None;
        }
        self.reading = Some(DueRead { misses_from, left: HashSet::new() });
        Some(before(horizon))
    }

    /// Moves the horizon by a read that found all tasks up to `last`; `None`: all there are.
    pub(crate) fn end_read(&mut self, last: Option<DueTask>) -> Admissible {
        let read = self.reading.take().unwrap_or_default();
        let reached = last.map(after);
        self.horizon = match (reached, read.misses_from) {
            (Some(reached), Some(misses)) => Some(reached.min(misses)),
            (reached, misses) => reached.or(misses),
        };
        Admissible { horizon: self.horizon, left: read.left }
    }

    /// Begins anew to read what the store has, because memory has let go of tasks that it did not leave there.
    pub(crate) fn reread(&mut self) {
        self.horizon = Some(FIRST);
        if let Some(read) = &mut self.reading {
            read.misses_from = Some(FIRST);
        }
    }

    /// Gives up a read that failed.
    pub(crate) fn fail_read(&mut self) {
        self.reading = None;
    }

    /// Notes that memory no longer holds a task that it held until now.
    pub(crate) fn left(&mut self, id: TaskId) {
        if let Some(read) = &mut self.reading {
            read.left.insert(id);
        }
    }

    /// Notes that a batch is durable.
    pub(crate) fn committed(&mut self, batch: BatchNumber) {
        self.on_their_way = self.on_their_way.split_off(&(batch + 1));
    }

    /// The tasks in memory.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&DueTask, &Waiting)> {
        self.tasks.iter()
    }

    /// One of the tasks in memory.
    pub(crate) fn get(&self, entry: &DueTask) -> Option<&Waiting> {
        self.tasks.get(entry)
    }
}

/// The greatest entry that is surely below `entry`, for a read that begins strictly after it.
fn before(entry: DueTask) -> DueTask {
    DueTask { due: Timestamp(entry.due.0.saturating_sub(1)), id: TaskId { job: JobId(Uuid::max()), index: u32::MAX } }
}

/// The least entry above `entry`.
fn after(entry: DueTask) -> DueTask {
    let TaskId { job, index } = entry.id;
    match index.checked_add(1) {
        Some(index) => DueTask { due: entry.due, id: TaskId { job, index } },
        None => DueTask { due: Timestamp(entry.due.0 + 1), id: TaskId { job: JobId(Uuid::nil()), index: 0 } },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::engine::queue::task::{Queued, Wait};
    use crate::model::spec::{FetchSpec, TaskOptions, TaskSpec, Work};

    fn entry(due: i64, index: u32) -> DueTask {
        DueTask { due: Timestamp(due), id: TaskId { job: JobId(Uuid::nil()), index } }
    }

    fn waiting(entry: DueTask, batch: BatchNumber) -> Waiting {
        let spec = TaskSpec {
            key: String::new(),
            work: Work::Fetch(FetchSpec::default()),
            options: TaskOptions::default().into(),
        };
        let task = Queued {
            index: entry.id.index,
            lane: 0,
            spec: Arc::new(spec),
            row: None,
            cursor: None,
            waited_for: None,
            batch,
        };
        Waiting { task, wait: Wait::Backoff(entry.due) }
    }

    /// A store beside the structure: rows become visible with the commit of their batch; a read shows what was visible when
    /// it began.
    #[derive(Default)]
    struct World {
        durable: BTreeSet<DueTask>,
        batches: BTreeMap<BatchNumber, Vec<DueTask>>,
        fresh: Vec<DueTask>,
        batch: BatchNumber,
        committed: BatchNumber,
        read: Option<Vec<DueTask>>,
        complete: bool,
        everything: BTreeSet<DueTask>,
    }

    /// What is due in an hour keeps nothing out of memory that is due in a second.
    #[test]
    fn what_is_read_again_does_not_wait_for_what_is_due_later() {
        let mut backoffs = Backoffs::new(4, 1 << 20);
        backoffs.begin_read();
        backoffs.end_read(None);
        for index in 0..4 {
            assert!(backoffs.add(entry(3600, index), waiting(entry(3600, index), 0)).is_empty());
        }
        backoffs.reread();
        assert_eq!(backoffs.add(entry(1, 9), waiting(entry(1, 9), 0)).len(), 1, "the store has it");
        assert!(backoffs.begin_read().is_some());
        assert!(backoffs.end_read(None).takes(&entry(1, 9)));
        let left = backoffs.add(entry(1, 9), waiting(entry(1, 9), 0));
        assert_eq!(left.iter().map(|(entry, _)| entry.due.0).collect::<Vec<_>>(), [3600], "the latest makes room");
        assert_eq!(backoffs.begin_read(), None, "something nearer is there");
    }

    #[test]
    fn large_tasks_are_left_to_the_store() {
        let bytes = waiting(entry(0, 0), 0).task.bytes();
        let mut backoffs = Backoffs::new(100, 3 * bytes);
        backoffs.begin_read();
        backoffs.end_read(None);
        let left = |backoffs: &mut Backoffs, due| -> Vec<i64> {
            let left = backoffs.add(entry(due, 0), waiting(entry(due, 0), 1));
            left.into_iter().map(|(entry, _)| entry.due.0).collect()
        };
        for due in [5, 3, 4] {
            assert!(left(&mut backoffs, due).is_empty());
        }
        assert_eq!(left(&mut backoffs, 1), [5], "the latest goes");
        assert_eq!(left(&mut backoffs, 9), [9], "it is beyond what memory holds");
    }

    /// Memory has let go of a task that the store has: it is found by another read, also while one is under way.
    #[test]
    fn what_was_let_go_is_read_again() {
        let mut backoffs = Backoffs::new(100, 1 << 20);
        backoffs.begin_read();
        backoffs.end_read(None);
        assert_eq!(backoffs.begin_read(), None, "all is in memory");
        backoffs.reread();
        assert!(backoffs.begin_read().is_some());
        backoffs.reread();
        backoffs.end_read(None);
        assert!(backoffs.begin_read().is_some(), "what the read found may be older");
        assert!(backoffs.end_read(None).takes(&entry(5, 0)));
        assert_eq!(backoffs.begin_read(), None);
    }

    proptest! {
        /// Whatever happens in whatever order, each task comes out exactly once, and never after a later one that came out
        /// while it was known.
        #[test]
        fn each_task_comes_out_once(
            steps in prop::collection::vec((0u8..6, 0i64..40), 1..300),
            bytes_max in 0usize..12,
        ) {
            let mut backoffs = Backoffs::new(6, bytes_max * waiting(entry(0, 0), 0).task.bytes());
            let mut world = World { batch: 1, ..World::default() };
            let mut out = BTreeSet::new();
            let mut index = 0;
            let drain = 60 * 8;
            for (step, due) in steps.into_iter().chain((0..drain).map(|n| (1 + (n % 5) as u8, 39))) {
                match step {
                    0 => {
                        index += 1;
                        let entry = entry(due, index);
                        world.everything.insert(entry);
                        world.fresh.push(entry);
                        backoffs.add(entry, waiting(entry, world.batch));
                    }
                    1 => {
                        world.batches.insert(world.batch, std::mem::take(&mut world.fresh));
                        world.batch += 1;
                    }
                    2 => {
                        if let Some((batch, rows)) = world.batches.pop_first() {
                            world.durable.extend(rows);
                            world.committed = batch;
                            backoffs.committed(batch);
                        }
                    }
                    3 => {
                        if let Some(after) = backoffs.begin_read() {
                            let found: Vec<DueTask> =
                                world.durable.iter().filter(|it| **it > after).copied().collect();
                            world.complete = found.len() < 3;
                            world.read = Some(found.into_iter().take(3).collect());
                        }
                    }
                    4 => {
                        if let Some(found) = world.read.take() {
                            let next = found.last().copied().filter(|_| !world.complete);
                            let admissible = backoffs.end_read(next);
                            for entry in found {
                                if admissible.takes(&entry) && backoffs.get(&entry).is_none() {
                                    backoffs.add(entry, waiting(entry, 0));
                                }
                            }
                        }
                    }
                    _ => {
                        while let Some((entry, _)) = backoffs.pop_due(Timestamp(due)) {
                            // An attempt starts, and its claim hides the row.
                            prop_assert!(out.insert(entry), "twice: {entry:?}");
                            world.durable.remove(&entry);
                            for rows in world.batches.values_mut().chain([&mut world.fresh]) {
                                rows.retain(|it| *it != entry);
                            }
                            backoffs.left(entry.id);
                        }
                    }
                }
            }
            prop_assert_eq!(out, world.everything);
            prop_assert_eq!(backoffs.bytes, 0);
        }
    }
}
