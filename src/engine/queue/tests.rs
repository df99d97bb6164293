//! The queue over a small world: a store that shows what was admitted, a few places for tasks that run. No clock, no
//! runtime.

mod times;

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
use crate::model::tenant::{Parties, Party, TenantNo};
use crate::model::time::Timestamp;
use crate::store::{DuePage, DueTask, LaneNumber, LanePage, StoredTask, TaskRow};

/// Tasks that run at once.
const PLACES: usize = 8;
/// The tenant that stores as much as it may.
const FULL: TenantNo = 16;

fn job(number: u128) -> JobId {
    JobId(Uuid::from_u128(number))
}

fn spec() -> Arc<TaskSpec> {
    let work = Work::Fetch(FetchSpec { body: vec![7; 1000], ..FetchSpec::default() });
    Arc::new(TaskSpec { key: String::new(), work, options: TaskOptions::default().into() })
}

fn backing_off(due: i64) -> Task {
    let started = Task::default().apply(TaskEvent::Started, Timestamp(1)).unwrap();
    let error = Failure::retryable(FailureReason::Connect, "later").into_error(1);
    started.apply(TaskEvent::BackedOff(started.fence, error, Timestamp(due)), Timestamp(2)).unwrap()
}

/// An attempt at a task.
fn running(task: &Queued) -> Running {
    let row = TaskRow { task: Task::default().apply(TaskEvent::Started, Timestamp(1)).unwrap(), ..TaskRow::default() };
    Running {
        fence: row.task.fence,
        lane: task.lane,
        spec: task.spec.clone(),
        row,
        attempt_start: Timestamp(1),
        stop: CancellationToken::new(),
        rest: CancellationToken::new(),
        cause: Arc::new(OnceLock::new()),
        cursor: None,
        storage: Arc::default(),
        withdrawn: None,
    }
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
    /// Of this job only the task with this index may start.
    full: Option<(JobId, TaskIndex)>,
    reads_of_full: usize,
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
            full: None,
            reads_of_full: 0,
        }
    }

    /// A job with so many tasks at each of so many hosts of its own.
    fn add(&mut self, id: JobId, priority: i32, hosts: u32, tasks: u32) {
        self.queue.add_job(id, priority, 0, true, None);
        if self.full.is_some_and(|(job, _)| job == id) {
            self.queue.set_party(id, Party { tenant: FULL, principal: 0 });
        }
        for host in 0..hosts {
            self.queue.lane_for(id, &Host::new(&format!("{id}-{host}:80")));
        }
        let lanes: Vec<LaneNumber> = (0..hosts * tasks).map(|index| index % hosts).collect();
        self.queue.admit(id, 0, lanes.iter().map(|lane| (*lane, spec())));
        self.lanes.insert(id, lanes);
    }

    fn start(&mut self, id: JobId, task: &Queued) {
        self.queue.start(TaskId { job: id, index: task.index }, running(task)).unwrap();
        let id = TaskId { job: id, index: task.index };
        self.running.push_back(id);
        self.started.push(id);
    }

    fn page(&self, id: JobId, lane: LaneNumber, from: TaskIndex) -> LanePage {
        let of_lane = self.lanes[&id].iter().enumerate().filter(|(_, of)| **of == lane);
        let tasks = of_lane.map(|(index, _)| index as TaskIndex).filter(|index| *index >= from);
        // Those that have ended are not PENDING any more.
        let open = tasks.filter(|index| !self.started.contains(&TaskId { job: id, index: *index }));
        let stored = |index| StoredTask { index, lane, spec: spec(), row: TaskRow::default() };
        LanePage { tasks: open.map(stored).collect(), next: None, first_unreadable: None }
    }

    /// Starts what may start, reads what is wanted, and ends the task that has run longest.
    fn step(&mut self) {
        while self.running.len() < PLACES {
            let full = self.full;
            let picked = self.queue.pick(|job, host, _, next| match (full, next) {
                (Some((full, whole)), next) if full == job && next.is_none_or(|next| next.index != whole) => {
                    Admission::Behind
                }
                (_, next) => next.map_or(Admission::Empty, |_| Admission::Go(host.clone())),
            });
            let Some((id, task)) = picked else { break };
            self.start(id, &task);
        }
        let reads: Vec<_> = std::iter::from_fn(|| self.queue.next_read()).collect();
        for read in reads {
            self.reads += 1;
            self.reads_of_full += usize::from(self.full.is_some_and(|(job, _)| job == read.job));
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

/// What an origin has said is kept with its task, and counts.
#[test]
fn rows_count_by_what_they_hold() {
    let failure = Failure::retryable(FailureReason::HttpStatus, "x".repeat(1 << 20));
    let report = AttemptReport { url: "y".repeat(8000), ..AttemptReport::default() };
    let (start_time, end_time) = (Timestamp(1), Timestamp(2));
    let attempt = Attempt { number: 1, start_time, end_time, report, error: Some(failure.into_error(1)) };
    let row = TaskRow { log: vec![attempt; 20], ..TaskRow::default() };
    let task =
        Queued { index: 0, lane: 0, spec: spec(), row: Some(Box::new(row)), cursor: None, waited_for: None, batch: 0 };
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

/// A tenant that stores as much as it may looks for what it can still finish, in the store as well, and takes no place of others
/// for that, however soon it looks again.
#[test]
fn who_stores_as_much_as_it_may_takes_no_reads_from_others() {
    let mut alone = World::new(600_000);
    alone.add(job(2), 0, 200, 2);
    let least = alone.steps_until(job(2), 400);

    let mut world = World::new(600_000);
    world.full = Some((job(1), 37));
    world.add(job(2), 0, 200, 2);
    world.add(job(1), 0, 400, 2);
    let mut steps = 0;
    while world.started_of(job(2)) < 400 {
        world.step();
        steps += 1;
        if steps % 10 == 0 {
            world.queue.set_tenant_resting(FULL, false);
        }
        assert!(world.reads_of_full <= steps / 10 + 1);
        assert!(steps <= least + least / 10, "{} of 400 tasks started within {steps} steps", world.started_of(job(2)));
    }
    for _ in 0..1000 {
        if world.started_of(job(1)) > 0 {
            break;
        }
        world.step();
        world.queue.set_tenant_resting(FULL, false);
    }
    assert_eq!(world.started_of(job(1)), 1);
    assert!(world.started.contains(&TaskId { job: job(1), index: 37 }));
}

/// Tasks are counted where they wait, whether memory has read them or not.
#[test]
fn tasks_that_only_the_store_has_are_counted_as_waiting() {
    let mut world = World::new(64 << 20);
    let host = Host::new("a:80");
    world.queue.add_job(job(1), 0, 0, true, None);
    world.queue.restore_lane(job(1), host.clone(), 0, 40);
    world.queue.restore_lane(job(1), Host::new("b:80"), 20, 40);
    world.queue.share_out(job(1), 31);
    let stored = |queue: &Queue| [0, 1].map(|lane| queue.jobs[&job(1)].lanes[lane].stored);
    assert_eq!(stored(&world.queue), [20, 11], "by how far they reach, and no task is lost");
    let blocked = |queue: &mut Queue| {
        let picked = queue.pick(|_, host, _, _| Admission::HostBlocked(host.clone()));
        assert!(picked.is_none());
    };
    blocked(&mut world.queue);
    let waiting = |queue: &Queue| queue.waiting_at(&host, Parties::default());
    assert_eq!(waiting(&world.queue), 20);
    world.queue.check().unwrap();
    // What is added meanwhile is left to the store, too.
    world.queue.admit(job(1), 40, (0..3).map(|_| (0, spec())));
    assert_eq!(waiting(&world.queue), 23);
    world.queue.wake_host(&host, 1);
    assert_eq!(waiting(&world.queue), 0);
    let picked = world.queue.pick(|_, _, _, next| next.map_or(Admission::Empty, |_| Admission::Later));
    assert!(picked.is_none());
    let read = world.queue.next_read().unwrap();
    let tasks = (0..5).map(|index| StoredTask { index, lane: 0, spec: spec(), row: TaskRow::default() });
    world.queue.lane_read(read, Some(LanePage { tasks: tasks.collect(), next: Some(9), first_unreadable: None }));
    blocked(&mut world.queue);
    assert_eq!((waiting(&world.queue), stored(&world.queue)[0]), (23, 18));
    world.queue.set_may_run(job(1), false);
    assert_eq!((waiting(&world.queue), stored(&world.queue)[0]), (23, 23));
    world.queue.share_out(job(1), 4);
    assert_eq!(stored(&world.queue).iter().sum::<u32>(), 4);
    world.queue.check().unwrap();
    world.queue.stop_job(job(1));
    assert_eq!(waiting(&world.queue), 0);
    world.queue.check().unwrap();
}

/// What a lane was counted for and does not have is of the others.
#[test]
fn a_read_corrects_the_shares_of_all_lanes() {
    let mut world = World::new(64 << 20);
    world.queue.add_job(job(1), 0, 0, true, None);
    world.queue.restore_lane(job(1), Host::new("a:80"), 0, 40);
    world.queue.restore_lane(job(1), Host::new("b:80"), 20, 40);
    world.queue.share_out(job(1), 20);
    let waiting = |queue: &Queue| [0, 1].map(|lane| queue.jobs[&job(1)].lanes[lane].waiting());
    assert_eq!(waiting(&world.queue), [13, 7]);
    let weights: Vec<u64> = world.queue.lane_looks(job(1), 9).map(|look| look.weight).collect();
    assert_eq!(weights, [13, 7], "each has what it was counted for, however far it reaches");
    let picked = world.queue.pick(|_, _, _, next| next.map_or(Admission::Empty, |_| Admission::Later));
    assert!(picked.is_none());
    let read = world.queue.next_read().unwrap();
    assert_eq!(read.lane, 0);
    let tasks = (0..3).map(|index| StoredTask { index, lane: 0, spec: spec(), row: TaskRow::default() });
    world.queue.lane_read(read, Some(LanePage { tasks: tasks.collect(), next: None, first_unreadable: None }));
    assert_eq!(waiting(&world.queue), [3, 17]);
    world.queue.check().unwrap();
    let read = world.queue.next_read().unwrap();
    let tasks = (20..38).map(|index| StoredTask { index, lane: 1, spec: spec(), row: TaskRow::default() });
    world.queue.lane_read(read, Some(LanePage { tasks: tasks.collect(), next: Some(38), first_unreadable: None }));
    assert_eq!(waiting(&world.queue), [3, 18], "one more than was known");
    world.queue.check().unwrap();
}

fn paused(until: i64, host: &str) -> Wait {
    Wait::Host { until: Timestamp(until), host: Some(Host::new(host)), message: String::new() }
}

/// After a restart: a task beyond the page of its lane was due, ran and was given back before the lane has read up to it.
#[test]
fn a_task_that_was_given_back_beyond_its_page_comes_once() {
    let mut world = World::new(64 << 20);
    let stored = |index: TaskIndex| StoredTask { index, lane: 0, spec: spec(), row: TaskRow::default() };
    world.queue.add_job(job(1), 0, 0, true, None);
    world.queue.restore_lane(job(1), Host::new("a:80"), 0, 10);
    assert!(world.queue.begin_due_read().is_some());
    let entry = DueTask { due: Timestamp(5), id: TaskId { job: job(1), index: 8 } };
    let waiting = StoredTask { row: TaskRow { task: backing_off(5), ..TaskRow::default() }, ..stored(8) };
    world.queue.due_read(Some(DuePage { tasks: vec![(entry, waiting)], next: None }));
    world.queue.wake_due(Timestamp(6), 0, 100);
    let pick = |world: &mut World| {
        world.queue.pick(|_, host, _, next| next.map_or(Admission::Empty, |_| Admission::Go(host.clone())))
    };
    let (id, task) = pick(&mut world).unwrap();
    assert_eq!(task.index, 8);
    world.start(id, &task);
    let running = world.queue.attempt_ended(TaskId { job: id, index: 8 }, 1).unwrap();
    let given_back = running.row.task.apply(TaskEvent::GivenBack(1), Timestamp(7)).unwrap();
    let row = Some(Box::new(TaskRow { task: given_back, ..TaskRow::default() }));
    // Its host is paused, and the row is durable: the store shows it as PENDING.
    world.queue.wait(id, Queued { row, batch: 1, ..task }, paused(100, "b:80"));
    world.queue.committed(1, &[]);
    world.running.clear();
    let mut came = Vec::new();
    for _ in 0..30 {
        if let Some((id, task)) = pick(&mut world) {
            came.push(task.index);
            world.start(id, &task);
            world.running.clear();
        }
        while let Some(read) = world.queue.next_read() {
            let tasks = (read.from..10).map(stored).collect();
            world.queue.lane_read(read, Some(LanePage { tasks, next: None, first_unreadable: None }));
        }
        world.queue.check().unwrap();
    }
    assert_eq!(came, [0, 1, 2, 3, 4, 5, 6, 7, 9], "the one that waits is not among them");
    world.queue.wake_due(Timestamp(100), 1, 100);
    assert_eq!(pick(&mut world).map(|(_, task)| task.index), Some(8));
}

/// A lane that is read ahead while others are read in their turn.
#[test]
fn a_lane_that_runs_out_asks_in_its_turn() {
    let mut world = World::new(64 << 20);
    world.add(job(1), 0, 0, 0);
    world.queue.restore_lane(job(1), Host::new("a:80"), 0, 40);
    world.queue.bounds.lane_page = 4;
    let stored = |index: TaskIndex| StoredTask { index, lane: 0, spec: spec(), row: TaskRow::default() };
    let pick = |world: &mut World| {
        world.queue.pick(|_, host, _, next| next.map_or(Admission::Empty, |_| Admission::Go(host.clone())))
    };
    assert!(pick(&mut world).is_none());
    let read = world.queue.next_read().unwrap();
    world
        .queue
        .lane_read(read, Some(LanePage { tasks: (0..4).map(stored).collect(), next: Some(4), first_unreadable: None }));
    for index in 0..4 {
        assert_eq!(pick(&mut world).map(|(_, task)| task.index), Some(index));
    }
    assert!(pick(&mut world).is_none());
    assert_eq!(world.queue.wanted.len(), 1, "it is read in its turn, and not behind all that are");
}

/// Attempts that run on while their job is read again count among those that its limits allow.
#[test]
fn what_runs_without_having_been_picked_is_counted() {
    let mut world = World::new(1 << 20);
    world.queue.add_job(job(1), 0, 2, true, None);
    let (lane, _) = world.queue.lane_for(job(1), &Host::new("a:80")).unwrap();
    world.queue.admit(job(1), 1, (0..3).map(|_| (lane, spec())));
    let before = Queued { index: 0, lane, spec: spec(), row: None, cursor: None, waited_for: None, batch: 0 };
    let (id, attempt) = (TaskId { job: job(1), index: 0 }, running(&before));
    let fence = attempt.fence;
    world.queue.start_unpicked(id, attempt).unwrap();
    world.queue.check().unwrap();
    let pick = |world: &mut World| {
        let picked =
            world.queue.pick(|_, host, _, next| next.map_or(Admission::Empty, |_| Admission::Go(host.clone())));
        picked.inspect(|(job, task)| world.start(*job, task)).map(|(_, task)| task.index)
    };
    assert_eq!([pick(&mut world), pick(&mut world)], [Some(1), None], "two at once, of which one runs");
    world.queue.check().unwrap();
    world.queue.attempt_ended(id, fence).unwrap();
    world.queue.leaving(id, 1);
    assert_eq!([pick(&mut world), pick(&mut world)], [Some(2), None]);
    world.queue.check().unwrap();
}
