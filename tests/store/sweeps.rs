//! Many tasks ended at once.

use haul::model::ids::TaskIndex;
use haul::model::task::{TaskEvent, TaskState};
use haul::model::time::Timestamp;
use haul::store::{Batch, Sweep, TaskRow};

use super::support::*;

fn sweep(state: TaskState, from: TaskIndex, count: u32, first_sequence: u64) -> Sweep {
    Sweep { job: job_id(1), state, from, count, error: error("swept"), time: Timestamp(300), first_sequence }
}

fn one(sweep: Sweep) -> Batch {
    Batch { sweeps: vec![sweep], ..Batch::default() }
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
    let tasks = rig.store.tasks(job_id(1), &[TaskState::Cancelled], 0, 99).await.unwrap();
    tasks.iter().map(|task| task.index).collect()
}

pub async fn sweep_of_pending<B: Backend>() {
    let mut rig = mixed::<B>().await;
    let before = rig.store.task(task_id(1, 5)).await.unwrap().unwrap().row;
    let done = rig.commit(one(sweep(TaskState::Pending, 0, 5, 10))).await;
    assert_eq!(done.swept_to, [8]);
    assert_eq!(cancelled(&rig).await, [0, 4, 5, 6, 7]);
    // A row comes to what the machine makes of it.
    let after = rig.store.task(task_id(1, 5)).await.unwrap().unwrap().row;
    let expected = before.task.apply(TaskEvent::Cancelled(error("swept")), Timestamp(300)).unwrap();
    assert_eq!(after, TaskRow { task: expected, ..before });
    let fresh = TaskRow::default().task.apply(TaskEvent::Cancelled(error("swept")), Timestamp(300)).unwrap();
    assert_eq!(rig.store.task(task_id(1, 0)).await.unwrap().unwrap().row.task, fresh);
    let told: Vec<_> = rig.store.events(job_id(1), 0, 99).await.unwrap();
    let told: Vec<_> = told.iter().map(|event| (event.head.sequence, event.head.task.unwrap())).collect();
    assert_eq!(told, [(10, 0), (11, 4), (12, 5), (13, 6), (14, 7)]);
    assert!(rig.store.tasks(job_id(2), &[TaskState::Cancelled], 0, 9).await.unwrap().is_empty());
}

pub async fn sweep_of_backing_off<B: Backend>() {
    let mut rig = mixed::<B>().await;
    let done = rig.commit(one(sweep(TaskState::BackingOff, 0, 1, 1))).await;
    assert_eq!(done.swept_to, [3]);
    let task = rig.store.task(task_id(1, 2)).await.unwrap().unwrap().row.task;
    assert_eq!((task.state, task.due, task.attempts, task.fence), (TaskState::Cancelled, None, 1, 1));
    assert!(rig.store.due_tasks(None, 9).await.unwrap().is_empty());
}

pub async fn sweep_in_steps<B: Backend>() {
    let mut rig = mixed::<B>().await;
    let two = vec![sweep(TaskState::Pending, 0, 2, 1), sweep(TaskState::BackingOff, 0, 1, 3)];
    let done = rig.commit(Batch { sweeps: two, ..Batch::default() }).await;
    assert_eq!(done.swept_to, [5, 3]);
    let done = rig.commit(one(sweep(TaskState::Pending, 5, 3, 4))).await;
    assert_eq!(done.swept_to, [8]);
    assert_eq!(cancelled(&rig).await, [0, 2, 4, 5, 6, 7]);
    assert_eq!(rig.store.events(job_id(1), 0, 99).await.unwrap().len(), 6);
    assert_eq!(rig.commit(one(sweep(TaskState::Pending, 8, 0, 7))).await.swept_to, [8]);
}

pub async fn a_wrong_count_is_refused<B: Backend>() {
    let mut rig = mixed::<B>().await;
    rig.refuse(one(sweep(TaskState::Pending, 0, 6, 1))).await;
    rig.refuse(one(sweep(TaskState::BackingOff, 3, 1, 1))).await;
    rig.refuse(one(sweep(TaskState::Running, 0, 1, 1))).await;
    assert!(cancelled(&rig).await.is_empty());
    assert!(rig.store.events(job_id(1), 0, 99).await.unwrap().is_empty());
    rig.commit(one(sweep(TaskState::Pending, 0, 5, 1))).await;
}
