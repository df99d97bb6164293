//! Durable events, and what a replay tells after a retry.

use std::sync::Arc;

use haul::model::event::EventKind;
use haul::model::task::TaskState;
use haul::store::{Batch, Retry, StoredEvent, Which};

use super::support::*;

async fn events(rig: &Rig, after: u64, limit: u32) -> Vec<StoredEvent> {
    rig.store.events(job_id(1), after, limit).await.unwrap().items
}

pub async fn events_in_order<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 1).await;
    let mut other = rig.job_of(2, 1).await;
    other.sequence = 1;
    rig.commit(Batch { events: vec![job_event(&other, EventKind::JobChanged)], ..Batch::default() }).await;
    let mut job = job(1, 1);
    for sequence in 1..=5 {
        job.sequence = sequence;
        let kind = if sequence == 5 { EventKind::JobEnded } else { EventKind::JobChanged };
        rig.commit(Batch { events: vec![job_event(&job, kind)], ..Batch::default() }).await;
    }
    let sequences = |events: &[StoredEvent]| events.iter().map(|event| event.head.sequence).collect::<Vec<_>>();
    assert_eq!(sequences(&events(&rig, 0, 9).await), [1, 2, 3, 4, 5]);
    assert_eq!(sequences(&events(&rig, 2, 2).await), [3, 4]);
    assert!(events(&rig, 5, 9).await.is_empty());
    assert!(events(&rig, u64::MAX, 9).await.is_empty());
    let last = events(&rig, 4, 9).await.remove(0);
    assert_eq!((last.head.kind, last.task), (EventKind::JobEnded, None));
    assert_eq!(last.snapshot.as_deref(), Some(&job));
    // A number is given once.
    rig.refuse(1, Batch { events: vec![job_event(&job, EventKind::JobChanged)], ..Batch::default() }).await;
}

pub async fn an_end_is_told_by_its_row<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 2).await;
    let row = rig.end(task_id(1, 1), succeeded).await;
    rig.commit(Batch { events: vec![ended_event(task_id(1, 1), 1)], ..Batch::default() }).await;
    let told = events(&rig, 0, 9).await.remove(0);
    assert_eq!((told.head, told.snapshot), (ended_event(task_id(1, 1), 1).head, None));
    let task = told.task.unwrap();
    assert_eq!((task.index, &task.spec), (1, &spec(1)));
    assert_eq!((&task.row.task, &task.row.outcome), (&row.task, &row.outcome));
}

pub async fn an_end_before_a_retry_is_told_as_it_was<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 2).await;
    let first = rig.end(task_id(1, 0), failed).await;
    rig.end(task_id(1, 1), succeeded).await;
    let ends = vec![ended_event(task_id(1, 0), 1), ended_event(task_id(1, 1), 2)];
    rig.commit(Batch { events: ends, ..Batch::default() }).await;
    let retry = || Batch {
        retries: vec![Retry { job: job_id(1), which: Which::From(0), limit: 9 }],
        jobs: vec![Arc::new(job(1, 2))],
        ..Batch::default()
    };
    rig.commit(retry()).await;
    let told = events(&rig, 0, 9).await;
    assert_eq!(told[0].task.as_ref().unwrap().row.task, first.task);
    assert_eq!(told[1].task.as_ref().unwrap().row.task.state, TaskState::Succeeded);

    let second = rig.end(task_id(1, 0), failed).await;
    rig.commit(Batch { events: vec![ended_event(task_id(1, 0), 3)], ..Batch::default() }).await;
    rig.commit(retry()).await;
    let third = rig.end(task_id(1, 0), succeeded).await;
    rig.commit(Batch { events: vec![ended_event(task_id(1, 0), 4)], ..Batch::default() }).await;
    let told = events(&rig, 0, 9).await;
    let task = |place: usize| &told[place].task.as_ref().unwrap().row.task;
    assert_eq!((task(0), task(2), task(3)), (&first.task, &second.task, &third.task));
}
