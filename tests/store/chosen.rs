//! Some of a job's tasks ended, hastened or put back, as they are named or as they fit.

use std::sync::Arc;

use haul::model::failure::{Failure, FailureReason};
use haul::model::ids::TaskIndex;
use haul::model::task::{TaskEvent, TaskState};
use haul::model::task_filter::{TaskChoice, TaskFilter};
use haul::model::time::Timestamp;
use haul::store::{Batch, Hasten, Hastened, Retried, Retry, Sweep, Swept, Which};

use super::support::*;

fn by_status(http_status: u16) -> TaskFilter {
    TaskFilter { http_statuses: vec![http_status], ..TaskFilter::default() }
}

fn answered(http_status: u16) -> haul::model::failure::TaskError {
    Failure { http_status, ..Failure::retryable(FailureReason::HttpStatus, "no") }.into_error(1)
}

/// Tasks 1, 4 and 7 back off by 503, task 2 by 429, task 5 runs; 0, 3 and 6 are fresh.
async fn waiting<B: Backend>() -> Rig {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 8).await;
    for (index, status) in [(1, 503), (2, 429), (4, 503), (7, 503)] {
        rig.end(task_id(1, index), |it| TaskEvent::BackedOff(it.fence, answered(status), Timestamp(900))).await;
    }
    let fresh = rig.store.task(task_id(1, 5)).await.unwrap().unwrap().row.task;
    rig.commit(Batch { claims: vec![claim_of(task_id(1, 5), &fresh, 100)], ..Batch::default() }).await;
    rig
}

async fn sweep(rig: &mut Rig, state: TaskState, which: TaskChoice, from: TaskIndex, limit: u32) -> Swept {
    let mut row = rig.store.visit(job_id(1)).await.unwrap().unwrap();
    let first_sequence = row.sequence + 1;
    row.counts = rig.store.recount(job_id(1)).await.unwrap();
    let (error, time) = (error("not these"), Timestamp(300));
    let sweep = Sweep { job: job_id(1), state, which, from, to: None, limit, error, time, first_sequence };
    let batch = Batch { sweeps: vec![sweep], jobs: vec![Arc::new(row)], ..Batch::default() };
    rig.commit(batch).await.sweeps.remove(0)
}

pub async fn tasks_that_are_named_end<B: Backend>() {
    let mut rig = waiting::<B>().await;
    let these = TaskChoice::These(vec![1, 3, 5, 6, 99]);
    let swept = sweep(&mut rig, TaskState::Pending, these.clone(), 0, 9).await;
    assert_eq!(swept, Swept { count: 2, indexes: vec![3, 6], next: None });
    let swept = sweep(&mut rig, TaskState::BackingOff, these, 0, 9).await;
    assert_eq!(swept, Swept { count: 1, indexes: vec![1], next: None });
    assert_eq!(states(&rig).await, "PCBCBRCB");
    let told = rig.store.events(job_id(1), 0, 9).await.unwrap().items;
    let told: Vec<_> = told.iter().map(|event| (event.head.sequence, event.head.task.unwrap())).collect();
    assert_eq!(told, [(1, 3), (2, 6), (3, 1)]);
    let one = sweep(&mut rig, TaskState::BackingOff, TaskChoice::These(vec![2, 4, 7]), 0, 2).await;
    assert_eq!(one, Swept { count: 2, indexes: vec![2, 4], next: Some(5) });
}

pub async fn tasks_that_fit_end<B: Backend>() {
    let mut rig = waiting::<B>().await;
    let fitting = TaskChoice::Fitting(by_status(503));
    let swept = sweep(&mut rig, TaskState::Pending, fitting.clone(), 0, 9).await;
    assert_eq!((swept.count, swept.next), (0, None), "what has not failed has no status");
    let swept = sweep(&mut rig, TaskState::BackingOff, fitting.clone(), 0, 2).await;
    assert_eq!(swept, Swept { count: 2, indexes: vec![1, 4], next: Some(5) });
    let swept = sweep(&mut rig, TaskState::BackingOff, fitting, 5, 2).await;
    assert_eq!(swept, Swept { count: 1, indexes: vec![7], next: None });
    assert_eq!(states(&rig).await, "PCBPCRPC");
    let elsewhere = TaskFilter { host: "b.example".into(), ..TaskFilter::default() };
    let swept = sweep(&mut rig, TaskState::Pending, TaskChoice::Fitting(elsewhere), 0, 9).await;
    assert_eq!(swept.count, 0);
    let here = TaskFilter { host: "a.example:443".into(), ..TaskFilter::default() };
    let swept = sweep(&mut rig, TaskState::Pending, TaskChoice::Fitting(here), 0, 9).await;
    assert_eq!(swept.indexes, [0, 3, 6]);
}

/// Tasks that were added since are none of those that were meant.
pub async fn nothing_beyond_the_last_one_is_touched<B: Backend>() {
    let mut rig = waiting::<B>().await;
    let to = |which, state, from, to| Sweep {
        job: job_id(1),
        state,
        which,
        from,
        to: Some(to),
        limit: 9,
        error: error("not these"),
        time: Timestamp(300),
        first_sequence: 1,
    };
    let mut row = rig.store.visit(job_id(1)).await.unwrap().unwrap();
    for (sweep, expected) in [
        (to(TaskChoice::All, TaskState::Pending, 0, 0), 0),
        (to(TaskChoice::Fitting(TaskFilter::default()), TaskState::Pending, 0, 6), 2),
        (to(TaskChoice::Fitting(TaskFilter::default()), TaskState::BackingOff, 4, 7), 1),
        (to(TaskChoice::These(vec![2, 7]), TaskState::BackingOff, 0, 7), 1),
    ] {
        row.counts = rig.store.recount(job_id(1)).await.unwrap();
        let sweep = Sweep { first_sequence: row.sequence + 1, ..sweep };
        let batch = Batch { sweeps: vec![sweep], jobs: vec![Arc::new(row.clone())], ..Batch::default() };
        let swept = rig.commit(batch).await.sweeps.remove(0);
        assert_eq!((swept.count, swept.next), (expected, None));
        row.sequence += u64::from(expected);
    }
    assert_eq!(states(&rig).await, "CBCCCRPB");
    let hasten = Hasten { job: job_id(1), which: TaskChoice::All, from: 0, to: 7, limit: 9, due: Timestamp(400) };
    let done = rig.commit(Batch { hastens: vec![hasten], ..Batch::default() }).await.hastened.remove(0);
    assert_eq!(done, Hastened { tasks: vec![(1, 0)], next: None });
}

async fn states(rig: &Rig) -> String {
    let letter = |state| match state {
        TaskState::Pending => 'P',
        TaskState::Running => 'R',
        TaskState::BackingOff => 'B',
        TaskState::Succeeded => 'S',
        TaskState::Failed => 'F',
        TaskState::Cancelled => 'C',
    };
    let all: Vec<TaskIndex> = (0..8).collect();
    rig.store.task_states(job_id(1), &all).await.unwrap().into_iter().map(|(_, state)| letter(state)).collect()
}

pub async fn tasks_are_due_at_once<B: Backend>() {
    let mut rig = waiting::<B>().await;
    let hasten = |which, from, limit| {
        let hasten = Hasten { job: job_id(1), which, from, to: u32::MAX, limit, due: Timestamp(400) };
        Batch { hastens: vec![hasten], ..Batch::default() }
    };
    let fitting = || TaskChoice::Fitting(by_status(503));
    let done = rig.commit(hasten(fitting(), 0, 2)).await.hastened.remove(0);
    assert_eq!(done, Hastened { tasks: vec![(1, 0), (4, 0)], next: Some(5) });
    let due = async |rig: &Rig| {
        let page = rig.store.due_tasks(None, 99).await.unwrap();
        page.tasks.iter().map(|(entry, _)| (entry.id.index, entry.due.0)).collect::<Vec<_>>()
    };
    assert_eq!(due(&rig).await, [(1, 400), (4, 400), (2, 900), (7, 900)]);
    let done = rig.commit(hasten(TaskChoice::These(vec![0, 2, 5, 77]), 0, 9)).await.hastened.remove(0);
    assert_eq!(done, Hastened { tasks: vec![(2, 0)], next: None }, "what does not back off is passed over");
    let later = Hasten { job: job_id(1), which: TaskChoice::All, from: 0, to: u32::MAX, limit: 9, due: Timestamp(500) };
    let done = rig.commit(Batch { hastens: vec![later], ..Batch::default() }).await.hastened.remove(0);
    assert_eq!(done.tasks.len(), 4);
    assert_eq!(due(&rig).await, [(1, 400), (2, 400), (4, 400), (7, 500)], "none is due later than before");
    assert_eq!(states(&rig).await, "PBBPBRPB");
    assert_eq!(rig.commit(hasten(TaskChoice::All, 8, 9)).await.hastened, [Hastened::default()]);
}

pub async fn retry_of_what_fits<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let mut job = rig.job_of(1, 8).await;
    for (index, status) in [(1, 503), (2, 404), (4, 503), (6, 503)] {
        rig.end(task_id(1, index), |it| TaskEvent::Failed(it.fence, answered(status))).await;
    }
    let stopped = Failure::fatal(FailureReason::Cancelled, "stop").into_error(0);
    rig.end(task_id(1, 7), |_| TaskEvent::Cancelled(stopped)).await;
    job.counts = rig.store.recount(job_id(1)).await.unwrap();
    let retry = |job: &haul::model::job::Job, from, limit, filter| {
        let which = Which::Fitting(from, filter);
        let retry = Retry { job: job.id, which, limit };
        Batch { retries: vec![retry], jobs: vec![Arc::new(job.clone())], ..Batch::default() }
    };
    let done = rig.commit(retry(&job, 0, 2, by_status(503))).await.retries.remove(0);
    assert_eq!(
        done,
        Retried { failed: alike(FailureReason::HttpStatus, 503, &[1, 4]), cancelled: 0, first: Some(1), next: Some(5) }
    );
    job.counts = rig.store.recount(job_id(1)).await.unwrap();
    assert_eq!(rig.store.visit(job_id(1)).await.unwrap().unwrap().retrying, Some(5));
    let done = rig.commit(retry(&job, 5, 2, by_status(503))).await.retries.remove(0);
    assert_eq!(
        done,
        Retried { failed: alike(FailureReason::HttpStatus, 503, &[6]), cancelled: 0, first: Some(6), next: None }
    );
    assert_eq!(states(&rig).await, "PPFPPPPC");
    job.counts = rig.store.recount(job_id(1)).await.unwrap();
    let cancelled = TaskFilter { states: vec![TaskState::Cancelled], ..TaskFilter::default() };
    let done = rig.commit(retry(&job, 0, 9, cancelled)).await.retries.remove(0);
    assert_eq!(done, Retried { failed: Vec::new(), cancelled: 1, first: Some(7), next: None });
    job.counts = rig.store.recount(job_id(1)).await.unwrap();
    let done = rig.commit(retry(&job, 0, 9, by_status(500))).await.retries.remove(0);
    assert_eq!(done, Retried::default(), "nothing fits");
}

/// What is still to be put back is known after a restart.
pub async fn a_retry_keeps_what_it_is_about<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let mut job = rig.job_of(1, 1).await;
    job.retrying = Some(0);
    job.retry_filter = Some(Box::new(TaskFilter { host: "a.example".into(), ..by_status(503) }));
    rig.commit(Batch { jobs: vec![Arc::new(job.clone())], ..Batch::default() }).await;
    let rig = rig.restart::<B>(false).await;
    let found = rig.store.visit(job_id(1)).await.unwrap().unwrap();
    assert_eq!((found.retrying, &found.retry_filter), (job.retrying, &job.retry_filter));
}
