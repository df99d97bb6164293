//! The queue over a small world: a store that shows what was admitted, a few places for tasks that run. No clock, no
//! runtime.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::engine::bounds::Bounds;
use crate::engine::queue::task::{Queued, Running, Wait};
use crate::engine::queue::{Admission, Queue};
use crate::model::failure::{Failure, FailureReason};
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::outcome::{Attempt, AttemptReport};
use crate::model::spec::{FetchSpec, TaskOptions, TaskSpec, Work};
use crate::model::task::{Task, TaskEvent};
use crate::model::time::Timestamp;
use crate::store::{LaneNumber, LanePage, StoredTask, TaskRow};

/// Tasks that run at once.
const PLACES: usize = 8;

fn job(number: u128) -> JobId {
    JobId(Uuid::from_u128(number))
}

fn spec() -> Arc<TaskSpec> {
    let work = Work::Fetch(FetchSpec { body: vec![7; 1000], ..FetchSpec::default() });
    Arc::new(TaskSpec { key: String::new(), work, options: TaskOptions::default().into() })
}

struct World {
    queue: Queue,
    /// The lane of each task of a job.
    lanes: std::collections::HashMap<JobId, Vec<LaneNumber>>,
    running: std::collections::VecDeque<TaskId>,
    started: Vec<TaskId>,
    reads: usize,
    /// The lanes of this job cannot be read.
    unreadable: Option<JobId>,
}

impl World {
    fn new(queue_bytes: usize) -> World {
        World {
            queue: Queue::new(Bounds { queue_bytes, ..Bounds::default() }),
            lanes: std::collections::HashMap::new(),
            running: std::collections::VecDeque::new(),
            started: Vec::new(),
            reads: 0,
            unreadable: None,
        }
    }

    /// A job with so many tasks at each of so many hosts of its own.
    fn add(&mut self, id: JobId, priority: i32, hosts: u32, tasks: u32) {
        self.queue.add_job(id, priority, 0, true, None);
        for host in 0..hosts {
            self.queue.lane_for(id, &Host::new(&format!("{id}-{host}:80")));
        }
        let lanes: Vec<LaneNumber> = (0..hosts * tasks).map(|index| index % hosts).collect();
        self.queue.admit(id, 0, lanes.iter().map(|lane| (*lane, spec())));
        self.lanes.insert(id, lanes);
    }

    fn start(&mut self, id: JobId, task: &Queued) {
        let row =
            TaskRow { task: Task::default().apply(TaskEvent::Started, Timestamp(1)).unwrap(), ..TaskRow::default() };
        let running = Running {
            fence: row.task.fence,
            lane: task.lane,
            spec: task.spec.clone(),
            row,
            attempt_start: Timestamp(1),
            stop: CancellationToken::new(),
            rest: CancellationToken::new(),
            cause: Arc::new(OnceLock::new()),
            cursor: None,
            runs_to_its_end: false,
            withdrawn: None,
        };
        let id = TaskId { job: id, index: task.index };
        self.queue.start(id, running).unwrap();
        self.running.push_back(id);
        self.started.push(id);
    }

    fn page(&self, id: JobId, lane: LaneNumber, from: TaskIndex) -> LanePage {
        let of_lane = self.lanes[&id].iter().enumerate().filter(|(_, of)| **of == lane);
        let tasks = of_lane.map(|(index, _)| index as TaskIndex).filter(|index| *index >= from);
        // Those that have ended are not PENDING any more.
        let open = tasks.filter(|index| !self.started.contains(&TaskId { job: id, index: *index }));
        let stored = |index| StoredTask { index, lane, spec: spec(), row: TaskRow::default() };
        LanePage { tasks: open.map(stored).collect(), next: None }
    }

    /// Starts what may start, reads what is wanted, and ends the task that has run longest.
    fn step(&mut self) {
        while self.running.len() < PLACES {
            let picked =
                self.queue.pick(|_, host, next| next.map_or(Admission::Empty, |_| Admission::Go(host.clone())));
            let Some((id, task)) = picked else { break };
            self.start(id, &task);
        }
        let reads: Vec<_> = std::iter::from_fn(|| self.queue.next_read()).collect();
        for read in reads {
            self.reads += 1;
            let page = (self.unreadable != Some(read.job)).then(|| self.page(read.job, read.lane, read.from));
            self.queue.lane_read(read, page);
        }
        if let Some(id) = self.running.pop_front() {
            self.queue.attempt_ended(id, 1).unwrap();
        }
        self.queue.check().unwrap();
    }

    fn started_of(&self, id: JobId) -> usize {
        self.started.iter().filter(|started| started.job == id).count()
    }

    /// Takes steps until so many tasks of a job have started; returns how many.
    fn steps_until(&mut self, id: JobId, count: usize) -> usize {
        for steps in 0..500 {
            if self.started_of(id) == count {
                return steps;
            }
            self.step();
        }
        panic!("{} of {count} tasks started", self.started_of(id));
    }
}

/// Whatever a big job has queued, and whether it fits into memory or not.
#[test]
fn a_job_has_its_turn_beside_one_that_fills_the_memory() {
    for priority in [0, 5] {
        let mut world = World::new(600_000);
        world.add(job(1), 0, 1000, 2);
        (0..20).for_each(|_| world.step());
        world.add(job(2), priority, 10, 1);
        let steps = world.steps_until(job(2), 10);
        assert!(steps < 60, "ten tasks took {steps} steps");
    }
}

#[test]
fn what_was_read_runs_before_it_makes_room_for_others() {
    let mut world = World::new(600_000);
    world.add(job(1), 0, 400, 1);
    let steps = world.steps_until(job(1), 400);
    assert!(steps < 450, "400 tasks took {steps} steps");
    assert!(world.reads < 450, "400 tasks took {} reads", world.reads);
}

/// Nothing of a job stays when its tasks have run, whether they were read or not.
#[test]
fn pages_that_are_empty_are_forgotten() {
    let mut world = World::new(64 << 20);
    for number in 0..50 {
        world.add(job(number), 0, 4, 2);
        world.steps_until(job(number), 8);
    }
    assert_eq!(world.queue.loaded.len(), 0);
    assert_eq!(world.queue.jobs.len(), 50, "the jobs are there");
}

#[test]
fn each_task_that_waits_for_disk_space_is_looked_at() {
    let mut world = World::new(64 << 20);
    world.add(job(1), 0, 1, 5);
    for index in 0..5 {
        let (id, task) =
            world.queue.pick(|_, host, next| next.map_or(Admission::Empty, |_| Admission::Go(host.clone()))).unwrap();
        assert_eq!(task.index, index);
        world.queue.wait(id, task, Wait::Disk { folder: String::new(), bytes: 1, message: String::new() });
    }
    let (mut looked_at, mut after) = (Vec::new(), None);
    for _ in 0..3 {
        let look = world.queue.waiting_for_disk(after, 2);
        after = look.last().map(|(id, ..)| *id);
        looked_at.extend(look.iter().map(|(id, ..)| id.index));
    }
    assert_eq!(looked_at, [0, 1, 2, 3, 4, 0]);
    assert_eq!(world.queue.waiting_for_disk(after, 9).len(), 5);
}

/// What an origin has said is kept with its task, and counts.
#[test]
fn rows_count_by_what_they_hold() {
    let failure = Failure::retryable(FailureReason::HttpStatus, "x".repeat(1 << 20));
    let report = AttemptReport { url: "y".repeat(8000), ..AttemptReport::default() };
    let (start_time, end_time) = (Timestamp(1), Timestamp(2));
    let attempt = Attempt { number: 1, start_time, end_time, report, error: Some(failure.into_error(1)) };
    let row = TaskRow { log: vec![attempt; 20], ..TaskRow::default() };
    let task = Queued { index: 0, lane: 0, spec: spec(), row: Some(Box::new(row)), cursor: None, batch: 0 };
    assert!((200_000..400_000).contains(&task.bytes()), "{}", task.bytes());
}

#[test]
fn a_job_that_cannot_be_read_holds_no_other() {
    let mut world = World::new(0);
    world.unreadable = Some(job(1));
    world.add(job(1), 0, 100, 1);
    world.add(job(2), 0, 10, 1);
    let steps = world.steps_until(job(2), 10);
    assert!(steps < 200, "ten tasks took {steps} steps");
    assert_eq!(world.started_of(job(1)), 0);
}
