//! Many tasks ended at once.

use std::sync::Arc;

use haul::model::ids::TaskIndex;
use haul::model::task::{TaskEvent, TaskState};
use haul::model::task_filter::TaskChoice;
use haul::model::time::Timestamp;
use haul::store::{Batch, DuePage, Sweep, Swept, TaskRow};

use super::support::*;

fn sweep(state: TaskState, from: TaskIndex, limit: u32, first_sequence: u64) -> Sweep {
    Sweep {
        job: job_id(1),
        state,
        which: TaskChoice::All,
        from,
        to: None,
        limit,
        error: error("swept"),
        time: Timestamp(300),
        first_sequence,
    }
}

/// With the row of the job as it is before the sweep.
async fn one(rig: &Rig, sweep: Sweep) -> Batch {
    let mut row = rig.store.visit(job_id(1)).await.unwrap().unwrap();
    row.sequence = sweep.first_sequence - 1;
    Batch { sweeps: vec![sweep], jobs: vec![Arc::new(row)], ..Batch::default() }
}

/// Tasks 1 (running), 2 (backing off), 3 (ended), 5 (put back); the rest never moved.
async fn mixed<B: Backend>() -> Rig {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 8).await;
    rig.job_of(2, 8).await;
    let claim = claim_of(task_id(1, 1), &TaskRow::default().task, 100);
    rig.commit(Batch { claims: vec![claim], ..Batch::default() }).await;
    rig.end(task_id(1, 2), backing_off(900)).await;
    rig.end(task_id(1, 3), succeeded).await;
    rig.end(task_id(1, 5), |task| TaskEvent::GivenBack(task.fence)).await;
    rig
}

async fn cancelled(rig: &Rig) -> Vec<TaskIndex> {
    let tasks = rig.store.tasks(job_id(1), &[TaskState::Cancelled], 0, 99).await.unwrap().items;
    tasks.iter().map(|task| task.index).collect()
}

pub async fn sweep_of_pending<B: Backend>() {
    let mut rig = mixed::<B>().await;
    let before = rig.store.task(task_id(1, 5)).await.unwrap().unwrap().row;
    let batch = one(&rig, sweep(TaskState::Pending, 0, 9, 10)).await;
    let done = rig.commit(batch).await;
    assert_eq!(done.sweeps, [Swept { count: 5, indexes: Vec::new(), next: None }]);
    assert_eq!(cancelled(&rig).await, [0, 4, 5, 6, 7]);
    // A row comes to what the machine makes of it.
    let after = rig.store.task(task_id(1, 5)).await.unwrap().unwrap().row;
    let expected = before.task.apply(TaskEvent::Cancelled(error("swept")), Timestamp(300)).unwrap();
    assert_eq!(after, TaskRow { task: expected, ..before });
    let fresh = TaskRow::default().task.apply(TaskEvent::Cancelled(error("swept")), Timestamp(300)).unwrap();
    assert_eq!(rig.store.task(task_id(1, 0)).await.unwrap().unwrap().row.task, fresh);
    let told: Vec<_> = rig.store.events(job_id(1), 0, 99).await.unwrap().items;
    assert_eq!(told[0].task.as_ref().unwrap().row.task, fresh);
    let told: Vec<_> = told.iter().map(|event| (event.head.sequence, event.head.task.unwrap())).collect();
    assert_eq!(told, [(10, 0), (11, 4), (12, 5), (13, 6), (14, 7)]);
    assert!(rig.store.tasks(job_id(2), &[TaskState::Cancelled], 0, 9).await.unwrap().items.is_empty());
    let job = rig.store.visit(job_id(1)).await.unwrap().unwrap();
    assert_eq!((job.sequence, job.counts.cancelled), (14, 5));
}

pub async fn sweep_of_backing_off<B: Backend>() {
    let mut rig = mixed::<B>().await;
    let batch = one(&rig, sweep(TaskState::BackingOff, 0, 9, 1)).await;
    let done = rig.commit(batch).await;
    assert_eq!(done.sweeps, [Swept { count: 1, indexes: Vec::new(), next: None }]);
    let task = rig.store.task(task_id(1, 2)).await.unwrap().unwrap().row.task;
    assert_eq!((task.state, task.due, task.attempts, task.fence), (TaskState::Cancelled, None, 1, 1));
    assert_eq!(rig.store.due_tasks(None, 9).await.unwrap(), DuePage::default());
}

/// Pieces end at their limit, and a sweep that finds fewer than it may is an answer like any other.
pub async fn sweep_in_pieces<B: Backend>() {
    let mut rig = mixed::<B>().await;
    let (mut from, mut sequence, mut counts) = (Some(0), 1, Vec::new());
    while let Some(index) = from {
        let batch = one(&rig, sweep(TaskState::Pending, index, 2, sequence)).await;
        let done = rig.commit(batch).await.sweeps.remove(0);
        counts.push(done.count);
        sequence += u64::from(done.count);
        from = done.next;
    }
    assert_eq!(counts, [2, 2, 1]);
    assert_eq!(cancelled(&rig).await, [0, 4, 5, 6, 7]);
    assert_eq!(rig.store.events(job_id(1), 0, 99).await.unwrap().items.len(), 5);
    let batch = one(&rig, sweep(TaskState::Pending, 0, 9, 6)).await;
    assert_eq!(rig.commit(batch).await.sweeps, [Swept { count: 0, indexes: Vec::new(), next: None }]);
}

/// What ends after the sweep was decided and before it is committed is not swept, and is no contradiction.
pub async fn sweep_in_the_batch_of_an_end<B: Backend>() {
    let mut rig = mixed::<B>().await;
    let back = rig.store.task(task_id(1, 1)).await.unwrap().unwrap().row;
    let task = back.task.apply(TaskEvent::GivenBack(back.task.fence), Timestamp(200)).unwrap();
    let given_back = haul::store::TaskMove { id: task_id(1, 1), row: TaskRow { task, ..back } };
    rig.commit(Batch { lane_heads: vec![(job_id(1), 0, 2)], ..Batch::default() }).await;
    let mut batch = one(&rig, sweep(TaskState::Pending, 0, 9, 1)).await;
    batch.moves.push(given_back);
    batch.lane_heads.push((job_id(1), 0, 1));
    assert_eq!(rig.commit(batch).await.sweeps[0].count, 5, "from the head that the batch lowers");
    assert_eq!(cancelled(&rig).await, [1, 4, 5, 6, 7]);
}

/// Errors that many tasks share are told to each of them, also after another one came.
pub async fn shared_errors_are_told_apart<B: Backend>() {
    let mut rig = mixed::<B>().await;
    for (from, message, sequence) in [(0, "one", 1), (5, "two", 2), (6, "one", 3)] {
        let one_task = Sweep { error: error(message), ..sweep(TaskState::Pending, from, 1, sequence) };
        let batch = one(&rig, one_task).await;
        assert_eq!(rig.commit(batch).await.sweeps[0].count, 1);
    }
    for (index, message) in [(0, "one"), (5, "two"), (6, "one")] {
        let task = rig.store.task(task_id(1, index)).await.unwrap().unwrap().row.task;
        assert_eq!(task.error, Some(error(message)), "task {index}");
    }
}

pub async fn a_sweep_of_what_runs_is_refused<B: Backend>() {
    let mut rig = mixed::<B>().await;
    let batch = one(&rig, sweep(TaskState::Running, 0, 1, 1)).await;
    rig.refuse(1, batch).await;
    let batch = one(&rig, sweep(TaskState::Pending, 0, 9, (1 << 32) - 3)).await;
    rig.refuse(1, batch).await;
    rig.refuse(1, Batch { sweeps: vec![sweep(TaskState::Pending, 0, 9, 1)], ..Batch::default() }).await;
    assert!(cancelled(&rig).await.is_empty());
    assert!(rig.store.events(job_id(1), 0, 99).await.unwrap().items.is_empty());
}
