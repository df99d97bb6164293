//! Tasks that wait for a time: for the end of a pause, of their own time, or for room on the disk.

use std::time::Duration;

use super::{World, backing_off, job, paused, spec};
use crate::engine::queue::Admission;
use crate::engine::queue::task::{Queued, Wait};
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::outcome::ShortOf;
use crate::model::task::Task;
use crate::model::time::Timestamp;
use crate::store::{DuePage, TaskRow};

#[test]
fn each_task_that_waits_for_disk_space_is_looked_at() {
    let mut world = World::new(64 << 20);
    world.add(job(1), 0, 1, 5);
    for index in 0..5 {
        let (id, task) = world
            .queue
            .pick(|_, host, _, next| next.map_or(Admission::Empty, |_| Admission::Go(host.clone())))
            .unwrap();
        assert_eq!(task.index, index);
        world.queue.wait(
            id,
            task,
            Wait::Disk { of: ShortOf::Disk, folder: String::new(), bytes: 1, message: String::new() },
        );
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

/// Tasks that back off, many more than memory holds, and their job is cancelled: others back off as before.
#[test]
fn waits_of_a_cancelled_job_leave_nothing_behind() {
    let mut world = World::new(64 << 20);
    let max = world.queue.bounds.backoffs;
    assert!(world.queue.begin_due_read().is_some());
    world.queue.due_read(Some(DuePage::default()));
    let back_off = |world: &mut World, id: JobId, index: TaskIndex, due: i64| {
        let row = Some(Box::new(TaskRow { task: backing_off(due), ..TaskRow::default() }));
        let task = Queued { index, lane: 0, spec: spec(), row, cursor: None, waited_for: None, batch: 1 };
        world.queue.wait(id, task, Wait::Backoff(Timestamp(due)));
    };
    world.queue.add_job(job(1), 0, 0, true, None);
    world.queue.restore_lane(job(1), Host::new("a:80"), 0, 0);
    (0..max as TaskIndex + 500).for_each(|index| back_off(&mut world, job(1), index, 1_000 + i64::from(index)));
    world.queue.committed(1, &[]);
    world.queue.stop_job(job(1));
    world.queue.check().unwrap();
    assert_eq!(world.queue.bytes, 0, "nothing of it is in memory");

    world.queue.add_job(job(2), 0, 0, true, None);
    world.queue.restore_lane(job(2), Host::new("b:80"), 0, 0);
    back_off(&mut world, job(2), 0, 500);
    assert_eq!(world.queue.next_due(), Some(Timestamp(500)), "it is in memory, and woken");
    world.queue.wake_due(Timestamp(500), 1, 100);
    assert_eq!(world.queue.jobs[&job(2)].lanes[0].queued(), 1);
    assert!(world.queue.begin_due_read().is_some(), "and the store is read again");
}

/// However many waits are over at once, the loop has others to do with between them.
#[test]
fn waits_that_are_over_at_once_end_a_few_at_a_time() {
    let mut world = World::new(64 << 20);
    assert!(world.queue.begin_due_read().is_some());
    world.queue.due_read(Some(DuePage::default()));
    world.queue.add_job(job(1), 0, 0, true, None);
    world.queue.lane_for(job(1), &Host::new("a:80"));
    for index in 0..20 {
        let backs_off = index < 10;
        let row = backs_off.then(|| Box::new(TaskRow { task: backing_off(5), ..TaskRow::default() }));
        let task = Queued { index, lane: 0, spec: spec(), row, cursor: None, waited_for: None, batch: 0 };
        let wait = if backs_off { Wait::Backoff(Timestamp(5)) } else { paused(5, "b:80") };
        world.queue.wait(job(1), task, wait);
    }
    for woken in [8, 16, 20] {
        assert_eq!(world.queue.next_due(), Some(Timestamp(5)));
        world.queue.wake_due(Timestamp(6), 0, 4);
        assert_eq!(world.queue.jobs[&job(1)].lanes[0].queued(), woken);
        world.queue.check().unwrap();
    }
    assert_eq!(world.queue.next_due(), None);
    let woken = world.queue.jobs[&job(1)].lanes[0].again.values();
    let waited_for = woken.filter_map(|task| task.waited_for.as_ref()).filter(|host| host.as_str() == "b:80");
    assert_eq!(waited_for.count(), 10, "it is known where they go on");
}

/// Most of those whose time is over may have to stay for now.
#[test]
fn times_that_are_over_at_once_are_looked_at_a_few_at_a_time() {
    let mut world = World::new(64 << 20);
    world.queue.add_job(job(1), 0, 0, true, Some(Duration::from_micros(10)));
    world.queue.lane_for(job(1), &Host::new("a:80"));
    for index in 0..5000 {
        let task = Task { start_time: Some(Timestamp(5)), ..Task::default() };
        let row = Some(Box::new(TaskRow { task, ..TaskRow::default() }));
        let task = Queued { index, lane: 0, spec: spec(), row, cursor: None, waited_for: None, batch: 0 };
        world.queue.wait(job(1), task, paused(900, "b:80"));
    }
    for overdue in [4096, 5000] {
        assert_eq!(world.queue.next_late(), Some(Timestamp(15)));
        assert!(world.queue.take_late(Timestamp(20), 9, |_| true).is_empty());
        assert_eq!(world.queue.overdue.len(), overdue);
    }
    assert_eq!(world.queue.next_late(), None);
}

/// The times of tasks that have ended are over with them, however many hosts their job has.
#[test]
fn tasks_that_have_ended_leave_no_time_to_look_after() {
    let mut world = World::new(64 << 20);
    world.queue.add_job(job(1), 0, 0, true, Some(Duration::from_secs(40)));
    for host in 0..2_000 {
        world.queue.lane_for(job(1), &Host::new(&format!("h{host}:80")));
        let row = Some(Box::new(TaskRow { task: backing_off(9), ..TaskRow::default() }));
        let task = Queued { index: host, lane: host, spec: spec(), row, cursor: None, waited_for: None, batch: 0 };
        world.queue.put_first(job(1), task, false);
    }
    assert_eq!(world.queue.deadlines.len(), 2_000);
    for _ in 0..2_000 {
        let (id, task) = world
            .queue
            .pick(|_, host, _, next| next.map_or(Admission::Empty, |_| Admission::Go(host.clone())))
            .unwrap();
        world.start(id, &task);
        world.queue.attempt_ended(TaskId { job: id, index: task.index }, 1).unwrap();
    }
    assert_eq!(world.queue.deadlines.len(), 0);
    assert!(world.queue.take_late(Timestamp(i64::MAX), usize::MAX, |_| false).is_empty());
}

/// While a piece of a job is at the store only that knows which of its tasks have ended.
#[test]
fn the_time_of_a_task_is_looked_at_when_something_may_happen_to_its_job() {
    let mut world = World::new(64 << 20);
    world.queue.add_job(job(1), 0, 0, true, Some(Duration::from_micros(10)));
    world.queue.lane_for(job(1), &Host::new("a:80"));
    for index in 0..3 {
        let task = Task { start_time: Some(Timestamp(5)), ..Task::default() };
        let row = Some(Box::new(TaskRow { task, ..TaskRow::default() }));
        let task = Queued { index, lane: 0, spec: spec(), row, cursor: None, waited_for: None, batch: 0 };
        world.queue.wait(job(1), task, paused(900, "b:80"));
    }
    assert_eq!(world.queue.next_late(), Some(Timestamp(15)));
    assert!(world.queue.take_late(Timestamp(20), 9, |_| true).is_empty());
    assert_eq!(world.queue.next_late(), None, "it is not looked at again and again");
    assert_eq!(world.queue.next_due(), Some(Timestamp(900)));
    world.queue.check().unwrap();
    world.queue.forget(TaskId { job: job(1), index: 1 });
    world.queue.wake(vec![TaskId { job: job(1), index: 2 }], 0);
    world.queue.check().unwrap();
    world.queue.look_at_overdue(job(1));
    world.queue.check().unwrap();
    for index in [0, 2] {
        let late = world.queue.take_late(Timestamp(20), 1, |_| false);
        assert_eq!(late.iter().map(|(_, task)| task.index).collect::<Vec<_>>(), [index]);
    }
    world.queue.check().unwrap();
    assert_eq!(world.queue.waiting_for_pause(&Host::new("b:80")), []);
}

/// Of a task that was left to the store the rest is read when its time is over, however long its lane is not.
#[test]
fn the_time_of_a_task_that_was_left_to_the_store_is_looked_at_too() {
    let mut world = World::new(0);
    world.queue.add_job(job(1), 0, 0, true, Some(Duration::from_micros(10)));
    world.queue.lane_for(job(1), &Host::new("a:80"));
    let id = |index| TaskId { job: job(1), index };
    for index in 0..4 {
        let task = Task { start_time: Some(Timestamp(5)), ..Task::default() };
        let row = Some(Box::new(TaskRow { task, ..TaskRow::default() }));
        let task = Queued { index, lane: 0, spec: spec(), row, cursor: None, waited_for: None, batch: 1 };
        world.queue.wait(job(1), task, paused(900, "b:80"));
    }
    world.queue.committed(1, &[]);
    assert!(world.queue.take_late(Timestamp(20), 9, |_| false).is_empty(), "of none is all in memory");
    assert_eq!((world.queue.next_late(), world.queue.late_left.len()), (None, 4));
    world.queue.check().unwrap();
    assert_eq!(world.queue.next_late_left(), Some((id(0), true)));
    world.queue.wake(vec![id(0), id(1)], 1);
    assert!(!world.queue.take_left(id(0)) && !world.queue.look_at_late(id(0)), "its lane has it again");
    let rest = [(); 3].map(|()| world.queue.next_late_left());
    assert_eq!(rest, [Some((id(1), false)), Some((id(2), true)), Some((id(3), true))]);
    assert_eq!(world.queue.next_late_left(), None);
    assert!(world.queue.take_left(id(2)));
    assert!(!world.queue.take_left(id(2)));
    assert!(world.queue.look_at_late(id(3)));
    assert_eq!(world.queue.next_late_left(), Some((id(3), true)));
    // The other one could not be read.
    world.queue.look_at_overdue(job(1));
    world.queue.check().unwrap();
    assert!(world.queue.take_late(Timestamp(20), 9, |_| false).is_empty());
    assert_eq!(world.queue.next_late_left(), Some((id(3), true)));
    world.queue.check().unwrap();
}

/// Whoever ends one pause says nothing about the others.
#[test]
fn what_waits_for_a_host_is_known_by_it() {
    let mut world = World::new(64 << 20);
    world.queue.add_job(job(1), 0, 0, true, None);
    world.queue.lane_for(job(1), &Host::new("a:80"));
    for (index, host) in [(0, "b:80"), (1, "c:80"), (2, "b:80")] {
        let task = Queued { index, lane: 0, spec: spec(), row: None, cursor: None, waited_for: None, batch: 0 };
        world.queue.wait(job(1), task, paused(900, host));
    }
    let crowded = Wait::Host { until: Timestamp(900), host: None, message: String::new() };
    let task = Queued { index: 3, lane: 0, spec: spec(), row: None, cursor: None, waited_for: None, batch: 0 };
    world.queue.wait(job(1), task, crowded);
    let of = |host: &str| world.queue.waiting_for_pause(&Host::new(host)).iter().map(|id| id.index).collect::<Vec<_>>();
    assert_eq!((of("b:80"), of("c:80"), of("a:80")), (vec![0, 2], vec![1], vec![]));
}

/// Large tasks that wait for a host, of many lanes: beyond a quarter of the memory only their waits are kept, and they come
/// again, each once, when those are over.
#[test]
fn what_is_held_back_is_bounded_in_bytes() {
    let mut world = World::new(80_000);
    world.add(job(1), 0, 4, 100);
    let mut batch = 0;
    let mut next = |world: &mut World, until: i64| -> Option<TaskIndex> {
        for _ in 0..200 {
            if let Some((id, task)) =
                world.queue.pick(|_, host, _, next| next.map_or(Admission::Empty, |_| Admission::Go(host.clone())))
            {
                world.queue.rotation.ended(id);
                let index = task.index;
                batch += 1;
                if until == 0 {
                    world.started.push(TaskId { job: id, index });
                } else {
                    world.queue.wait(id, Queued { batch, ..task }, paused(until, "b:80"));
                }
                world.queue.check().unwrap();
                world.queue.committed(batch, &[]);
                world.queue.check().unwrap();
                return Some(index);
            }
            for read in std::iter::from_fn(|| world.queue.next_read()).collect::<Vec<_>>() {
                let page = world.page(read.job, read.lane, read.from);
                world.queue.lane_read(read, Some(page));
            }
        }
        None
    };
    let mut held_back = Vec::new();
    while let Some(index) = next(&mut world, 9) {
        held_back.push(index);
        let one = spec().memory_bytes() + 1_000;
        assert!(world.queue.held_back_bytes < 20_000 + one, "{} bytes", world.queue.held_back_bytes);
    }
    assert!(held_back.len() > 40, "only {} are held back", held_back.len());
    world.queue.wake_due(Timestamp(9), 1 << 20, usize::MAX);
    world.queue.check().unwrap();
    assert_eq!(world.queue.held_back_bytes, 0);
    let mut came: Vec<_> = std::iter::from_fn(|| next(&mut world, 0)).collect();
    came.sort_unstable();
    let is_each_once = came.windows(2).all(|two| two[0] < two[1]);
    assert!(is_each_once && held_back.iter().all(|index| came.contains(index)), "{came:?}");
    assert!(world.queue.barred.is_empty());
}
