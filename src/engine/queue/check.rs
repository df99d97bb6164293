//! The invariants of the queue, checked from scratch. Slow: simulations and tests call it after each step.

use std::collections::{BTreeMap, HashSet};

use crate::engine::queue::Queue;
use crate::engine::queue::lane::Lane;
use crate::engine::queue::task::{Held, HeldBack, Kept, LEFT_BYTES, Queued};
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::task::TaskState;
use crate::store::LaneNumber;

impl Queue {
    /// Compares every index with what it is derived from. The error names the first contradiction.
    #[allow(clippy::too_many_lines)] // A list of what holds, over one walk through all jobs.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut bytes = 0;
        let mut deadlines = BTreeMap::new();
        let (mut left, mut left_count) = (BTreeMap::new(), 0);
        let mut seen = Seen::default();
        let mut pages = HashSet::new();
        for (job, queue) in &self.jobs {
            let mut count = |task: &Queued| {
                bytes += task.bytes();
                if let Some(when) = task.deadline(queue.task_timeout) {
                    deadlines.insert((when, TaskId { job: *job, index: task.index }), task.lane);
                }
            };
            for (number, lane) in queue.lanes.iter().enumerate() {
                ensure(lane.stored == 0 || lane.has_more_in_store(), || {
                    format!(
                        "the store has nothing more of lane {number} of {job}, and {} tasks are counted",
                        lane.stored
                    )
                })?;
                ensure(queue.may_run || lane.page.is_empty(), || {
                    format!("{job} may not run and has a page in memory")
                })?;
                if !lane.page.is_empty() {
                    pages.insert((*job, number as u32, lane.load));
                }
                let mut last: Option<TaskIndex> = None;
                for task in &lane.page {
                    count(task);
                    seen.add(*job, task.index)?;
                    ensure(last < Some(task.index), || format!("the page of {job} lane {number} is not in order"))?;
                    ensure(task.index < lane.disk_from, || format!("{job}/{} is in memory and beyond", task.index))?;
                    ensure(!queue.held.contains_key(&task.index), || format!("{job}/{} is held too", task.index))?;
                    last = Some(task.index);
                }
                for (place, task) in &lane.again {
                    count(task);
                    seen.add(*job, task.index)?;
                    let held = Held::Again(number as u32, *place);
                    ensure(queue.held.get(&task.index) == Some(&held), || format!("{job}/{} is not held", task.index))?;
                }
                let pending = lane.again.values().chain(&lane.page).filter(|task| is_pending(task));
                let head = pending.map(|task| task.index).chain(lane.held_back.first().copied()).min();
                ensure(head.is_none_or(|head| head >= lane.stored_head), || {
                    format!("lane {number} of {job} has {head:?} PENDING before its stored head {}", lane.stored_head)
                })?;
            }
            for (index, held) in &queue.held {
                let id = TaskId { job: *job, index: *index };
                let there = match held {
                    Held::Again(lane, place) => {
                        queue.lanes.get(*lane as usize).is_some_and(|lane| lane.again.contains_key(place))
                    }
                    Held::Backoff(entry) => self.backoffs.get(entry).inspect(|it| count(&it.task)).is_some(),
                    Held::Host(..) | Held::Disk(_) => match self.held_back(id, *held) {
                        Some(HeldBack { kept: Kept::Whole(task), .. }) => {
                            count(task);
                            true
                        }
                        Some(HeldBack { kept: Kept::Left { lane, deadline }, .. }) => {
                            left.extend(deadline.map(|when| ((when, id), *lane)));
                            left_count += 1;
                            true
                        }
                        None => false,
                    },
                    Held::Running => self.running.contains_key(&id),
                    Held::Leaving(_) => true,
                };
                ensure(there, || format!("{id} is not where it is held: {held:?}"))?;
            }
        }
        let loaded = self.loaded.iter().map(|(load, (job, lane))| (*job, *lane, *load)).collect::<HashSet<_>>();
        ensure(loaded == pages, || format!("pages are in memory of {pages:?}, and noted of {loaded:?}"))?;
        deadlines.extend(left);
        bytes += left_count * LEFT_BYTES;
        self.check_sources()?;
        let held_back = self.waiting_for_hosts.values().chain(self.waiting_for_disk.values());
        let held_back: usize = held_back.map(HeldBack::bytes).sum();
        ensure(held_back == self.held_back_bytes, || {
            format!("{held_back} bytes are held back, and {} are counted", self.held_back_bytes)
        })?;
        let lanes: usize = self.jobs.values().map(|queue| queue.lanes.len()).sum();
        ensure(lanes == self.lanes, || format!("there are {lanes} lanes, and {} are counted", self.lanes))?;
        let waiting = |job: JobId, lane: LaneNumber| {
            self.jobs.get(&job).and_then(|queue| queue.lanes.get(lane as usize)).map_or(0, Lane::waiting)
        };
        self.rotation.check(waiting)?;
        for job in self.jobs.keys() {
            let (runs, counted) = (self.running_of(*job).count(), self.rotation.running_of_job(*job));
            ensure(runs == counted as usize, || {
                format!("{runs} tasks of {job} run, and the rotation counts {counted}")
            })?;
        }
        ensure(bytes == self.bytes, || format!("{bytes} bytes wait, and {} are counted", self.bytes))?;
        let mut noted = self.deadlines.clone();
        noted.extend(self.overdue.iter().map(|((job, when, index), lane)| {
            let id = TaskId { job: *job, index: *index };
            ((*when, id), *lane)
        }));
        let is_once = noted.len() == self.deadlines.len() + self.overdue.len();
        ensure(is_once && deadlines == noted, || "the deadlines are not those of the waiting tasks".to_owned())
    }

    fn check_sources(&self) -> Result<(), String> {
        let held = |id: &TaskId| self.jobs.get(&id.job).and_then(|queue| queue.held.get(&id.index)).copied();
        for id in self.running.keys() {
            ensure(held(id) == Some(Held::Running), || format!("{id} runs and is held as {:?}", held(id)))?;
        }
        for (entry, _) in self.backoffs.iter() {
            let it = held(&entry.id);
            ensure(it == Some(Held::Backoff(*entry)), || format!("{} backs off and is held as {it:?}", entry.id))?;
        }
        for entry in self.waiting_for_hosts.keys() {
            let it = held(&entry.id);
            let waits = matches!(it, Some(Held::Host(_, due)) if due == *entry);
            ensure(waits, || format!("{} waits for a host and is held as {it:?}", entry.id))?;
        }
        for id in self.waiting_for_disk.keys() {
            ensure(matches!(held(id), Some(Held::Disk(_))), || format!("{id} waits for space and is not held so"))?;
        }
        Ok(())
    }
}

fn is_pending(task: &Queued) -> bool {
    task.row.as_ref().is_none_or(|row| row.task.state == TaskState::Pending)
}

#[derive(Default)]
struct Seen(HashSet<TaskId>);

impl Seen {
    fn add(&mut self, job: JobId, index: TaskIndex) -> Result<(), String> {
        let id = TaskId { job, index };
        ensure(self.0.insert(id), || format!("{id} is in two places"))
    }
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
