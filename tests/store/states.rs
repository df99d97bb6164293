//! Claims, moves, due times and retries, and what guards them.

use std::sync::Arc;

use haul::model::counts::Counts;
use haul::model::failure::{FailureReason, TaskError};
use haul::model::ids::{TaskId, TaskIndex};
use haul::model::task::{TaskEvent, TaskState};
use haul::model::time::Timestamp;
use haul::store::{Batch, DuePage, DueTask, Retried, Retry, TaskMove, TaskRow, Which};

use super::support::*;

async fn row(rig: &Rig, id: TaskId) -> TaskRow {
    rig.store.task(id).await.unwrap().unwrap().row
}

fn retry(which: Which, limit: u32, failed: u32, cancelled: u32) -> Batch {
    let mut row = job(1, 9);
    row.counts.failed = failed;
    row.counts.cancelled = cancelled;
    for task in 0..failed {
        row.failures.note(task, &error("no answer"), "a.example:443");
    }
    Batch { retries: vec![Retry { job: job_id(1), which, limit }], jobs: vec![Arc::new(row)], ..Batch::default() }
}

async fn due_ids(rig: &Rig, after: Option<DueTask>, limit: u32) -> Vec<DueTask> {
    rig.store.due_tasks(after, limit).await.unwrap().tasks.iter().map(|(due, _)| *due).collect()
}

async fn waiting(rig: &Rig) -> Vec<TaskIndex> {
    let page = rig.store.lane_page(job_id(1), 0, 0, 99, Timestamp(0)).await.unwrap();
    page.tasks.iter().map(|task| task.index).collect()
}

pub async fn a_claim_is_running<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 2).await;
    let claim = claim_of(task_id(1, 1), &TaskRow::default().task, 100);
    rig.commit(Batch { claims: vec![claim.clone()], ..Batch::default() }).await;
    assert_eq!(row(&rig, task_id(1, 1)).await, TaskRow { task: claim.task, ..TaskRow::default() });
    assert_eq!(row(&rig, task_id(1, 0)).await, TaskRow::default());
}

pub async fn a_move_ends_the_claim<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 2).await;
    let kept = rig.end(task_id(1, 0), succeeded).await;
    assert_eq!(kept.task.state, TaskState::Succeeded);
    assert_eq!(row(&rig, task_id(1, 0)).await, kept);
    // Start and end in one batch, as of something quick: there never was a claim.
    let claim = claim_of(task_id(1, 1), &TaskRow::default().task, 100);
    let task = claim.task.apply(TaskEvent::Succeeded(1), Timestamp(101)).unwrap();
    let kept = TaskRow { task, outcome: Some(Arc::new(fetched("x"))), log: Vec::new() };
    let moves = vec![TaskMove { id: task_id(1, 1), row: kept.clone() }];
    rig.commit(Batch { moves, ..Batch::default() }).await;
    assert_eq!(row(&rig, task_id(1, 1)).await, kept);
    assert!(rig.store.claims(None).await.unwrap().attempts.is_empty());
}

pub async fn ended_and_claimed_again_in_one_batch<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 1).await;
    let id = task_id(1, 0);
    let first = claim_of(id, &TaskRow::default().task, 100);
    rig.commit(Batch { claims: vec![first.clone()], ..Batch::default() }).await;
    let ended = first.task.apply(TaskEvent::GivenBack(first.task.fence), Timestamp(101)).unwrap();
    let second = claim_of(id, &ended, 102);
    let moves = vec![TaskMove { id, row: TaskRow { task: ended, ..TaskRow::default() } }];
    rig.commit(Batch { moves, claims: vec![second.clone()], ..Batch::default() }).await;
    assert_eq!(row(&rig, id).await.task, second.task);
    assert_eq!(rig.store.claims(None).await.unwrap().attempts.len(), 1);
}

pub async fn backing_off_and_claimed_again<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 1).await;
    let before = rig.end(task_id(1, 0), backing_off(900)).await;
    let claim = claim_of(task_id(1, 0), &before.task, 901);
    rig.commit(Batch { claims: vec![claim.clone()], ..Batch::default() }).await;
    let now = row(&rig, task_id(1, 0)).await;
    assert_eq!(now.task, claim.task, "the last error included");
    assert_eq!(now.log, before.log);
    assert_eq!(now.task.error, Some(error("later")));
    assert_eq!(rig.store.due_tasks(None, 9).await.unwrap(), DuePage::default());
}

pub async fn two_claims_are_refused<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 1).await;
    let claim = claim_of(task_id(1, 0), &TaskRow::default().task, 100);
    rig.commit(Batch { claims: vec![claim.clone()], ..Batch::default() }).await;
    rig.refuse(1, Batch { claims: vec![claim], ..Batch::default() }).await;
}

pub async fn an_end_is_final<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 2).await;
    let kept = rig.end(task_id(1, 0), succeeded).await;
    let mut late = kept.clone();
    late.task.state = TaskState::Failed;
    late.task.fence += 1;
    let other = TaskMove { id: task_id(1, 1), row: TaskRow { log: vec![attempt(1, None)], ..TaskRow::default() } };
    rig.refuse(1, Batch { moves: vec![other, TaskMove { id: task_id(1, 0), row: late }], ..Batch::default() }).await;
    assert_eq!(row(&rig, task_id(1, 0)).await, kept);
    assert_eq!(row(&rig, task_id(1, 1)).await, TaskRow::default(), "all of the batch or nothing");
}

pub async fn an_older_attempt_changes_nothing<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 1).await;
    rig.end(task_id(1, 0), backing_off(900)).await;
    let kept = rig.end(task_id(1, 0), |task| TaskEvent::GivenBack(task.fence)).await;
    let mut late = kept.clone();
    late.task.fence -= 1;
    rig.refuse(1, Batch { moves: vec![TaskMove { id: task_id(1, 0), row: late }], ..Batch::default() }).await;
    assert_eq!(row(&rig, task_id(1, 0)).await, kept);
}

pub async fn a_move_cannot_be_running<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 1).await;
    let task = claim_of(task_id(1, 0), &TaskRow::default().task, 1).task;
    let row = TaskRow { task, ..TaskRow::default() };
    rig.refuse(1, Batch { moves: vec![TaskMove { id: task_id(1, 0), row }], ..Batch::default() }).await;
}

pub async fn due_tasks_in_order<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    // The younger id is stored first: order is by id, not by insertion.
    rig.job_of(2, 3).await;
    rig.job_of(1, 3).await;
    for (job, index, due) in [(2, 0, 50), (2, 2, 40), (1, 1, 50), (1, 0, 50), (2, 1, 60)] {
        rig.end(task_id(job, index), backing_off(due)).await;
    }
    let due = |due, job, index| DueTask { due: Timestamp(due), id: task_id(job, index) };
    let all = [due(40, 2, 2), due(50, 1, 0), due(50, 1, 1), due(50, 2, 0), due(60, 2, 1)];
    assert_eq!(due_ids(&rig, None, 9).await, all);
    let first = rig.store.due_tasks(None, 5).await.unwrap();
    assert_eq!(first.tasks[0].1.index, 2);
    assert_eq!(first.tasks[0].1.row, row(&rig, task_id(2, 2)).await);
    assert_eq!(first.next, Some(all[4]));
    assert_eq!(rig.store.due_tasks(None, 6).await.unwrap().next, None);
    for place in 0..all.len() {
        let rest = due_ids(&rig, Some(all[place]), 2).await;
        assert_eq!(rest, all[place + 1..].iter().copied().take(2).collect::<Vec<_>>());
    }
    rig.end(task_id(2, 2), succeeded).await;
    assert_eq!(due_ids(&rig, None, 9).await, all[1..]);
}

pub async fn retry_puts_back<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 4).await;
    let good = rig.end(task_id(1, 0), succeeded).await;
    let bad = rig.end(task_id(1, 1), failed).await;
    rig.end(task_id(1, 3), |_| TaskEvent::Cancelled(error("stop"))).await;
    rig.commit(Batch { lane_heads: vec![(job_id(1), 0, 4)], ..Batch::default() }).await;
    let done = rig.commit(retry(Which::From(0), 9, 1, 1)).await;
    assert_eq!(
        done.retries,
        [Retried { failed: alike(FailureReason::Connect, 503, &[1]), cancelled: 1, first: Some(1), next: None }]
    );
    assert_eq!(row(&rig, task_id(1, 0)).await, good);
    let back = row(&rig, task_id(1, 1)).await;
    assert_eq!(back.task, bad.task.apply(TaskEvent::Retried, Timestamp(1)).unwrap());
    assert_eq!((back.task.fence, back.log, back.outcome), (1, bad.log, None));
    assert_eq!(waiting(&rig).await, [1, 2, 3]);
    assert_eq!(rig.store.lanes(job_id(1)).await.unwrap()[0].1, 1, "a restart must find them");
    // It goes on from there.
    assert_eq!(rig.end(task_id(1, 1), succeeded).await.task.fence, 2);
    // Nothing is left to put back.
    assert_eq!(rig.commit(retry(Which::From(0), 9, 0, 0)).await.retries, [Retried::default()]);
}

/// The row of the job follows what each piece found, in the same transaction.
pub async fn retry_in_pieces<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 9).await;
    for index in [1, 2, 4, 5, 7] {
        rig.end(task_id(1, index), failed).await;
    }
    rig.end(task_id(1, 8), |_| TaskEvent::Cancelled(error("stop"))).await;
    rig.commit(Batch { lane_heads: vec![(job_id(1), 0, 9)], ..Batch::default() }).await;
    let mut from = 0;
    let mut found = Vec::new();
    let mut left = (5, 1);
    loop {
        let done = rig.commit(retry(Which::From(from), 4, left.0, left.1)).await.retries.remove(0);
        found.push((done.failed_count(), done.cancelled, done.first));
        left = (left.0 - done.failed_count(), left.1 - done.cancelled);
        let job = rig.store.visit(job_id(1)).await.unwrap().unwrap();
        assert_eq!((job.counts.failed, job.counts.cancelled, job.retrying), (left.0, left.1, done.next));
        assert_eq!(job.failures.total(), job.counts.failed, "kinds follow as counts do");
        let Some(next) = done.next else { break };
        from = next;
    }
    assert_eq!(found, [(4, 0, Some(1)), (1, 1, Some(7))]);
    assert_eq!(rig.store.lanes(job_id(1)).await.unwrap()[0].1, 1);
    let pending = rig.store.tasks(job_id(1), &[TaskState::Pending], 1, 99).await.unwrap().items;
    assert_eq!(pending.iter().map(|task| task.index).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8]);
}

pub async fn retry_of_some<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 4).await;
    for index in 0..4 {
        rig.end(task_id(1, index), failed).await;
    }
    rig.commit(Batch { lane_heads: vec![(job_id(1), 0, 4)], ..Batch::default() }).await;
    let done = rig.commit(retry(Which::These(vec![3, 1, 3]), 1, 4, 0)).await;
    assert_eq!(
        done.retries,
        [Retried { failed: alike(FailureReason::Connect, 503, &[1, 3]), cancelled: 0, first: Some(1), next: None }]
    );
    let states = rig.store.task_states(job_id(1), &[0, 1, 2, 3]).await.unwrap();
    let waiting: Vec<_> = states.iter().filter(|(_, state)| *state == TaskState::Pending).map(|(i, _)| *i).collect();
    assert_eq!(waiting, [1, 3]);
    assert_eq!(rig.store.lanes(job_id(1)).await.unwrap()[0].1, 1);
}

/// Where a task failed is where its last attempt ended, and else its own host.
pub async fn retry_tells_how_tasks_failed<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 6).await;
    let mut ends = vec![(1, 503, "https://user@b.example:8443?x=/y"), (2, 404, "https://[::1]/a/b"), (3, 404, "")];
    ends.extend([(4, 404, "https://[::1]"), (5, 503, "https://b.example:8443/")]);
    for (index, http_status, url) in ends {
        let before = row(&rig, task_id(1, index)).await.task;
        let claim = claim_of(task_id(1, index), &before, 100);
        rig.commit(Batch { claims: vec![claim.clone()], ..Batch::default() }).await;
        let why = TaskError { http_status, ..error("no") };
        let task = claim.task.apply(TaskEvent::Failed(claim.task.fence, why.clone()), Timestamp(200)).unwrap();
        let mut last = attempt(2, Some(why));
        last.report.url = url.to_owned();
        let change = TaskRow { task, log: vec![attempt(1, None), last], outcome: None };
        rig.commit(Batch { moves: vec![TaskMove { id: task_id(1, index), row: change }], ..Batch::default() }).await;
    }
    let mut done = rig.commit(retry(Which::From(0), 9, 5, 0)).await.retries.remove(0);
    let mut found: Vec<_> = done.failed.drain(..).map(|it| (it.http_status, it.host, it.tasks)).collect();
    // URLs that differ before the path are told apart.
    found.sort();
    let mut merged: Vec<(u16, String, Vec<TaskIndex>)> = Vec::new();
    for (http_status, host, tasks) in found {
        match merged.last_mut().filter(|last| (last.0, &last.1) == (http_status, &host)) {
            Some(last) => last.2.extend(tasks),
            None => merged.push((http_status, host, tasks)),
        }
    }
    for it in &mut merged {
        it.2.sort_unstable();
    }
    let expected: [(u16, &str, &[TaskIndex]); 3] =
        [(404, "[::1]:443", &[2, 4]), (404, "a.example:443", &[3]), (503, "b.example:8443", &[1, 5])];
    let merged: Vec<_> =
        merged.iter().map(|(status, host, tasks)| (*status, host.as_str(), tasks.as_slice())).collect();
    assert_eq!(merged, expected);
}

pub async fn retry_of_what_has_not_failed_is_refused<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 2).await;
    let kept = rig.end(task_id(1, 0), failed).await;
    rig.refuse(1, retry(Which::These(vec![0, 1]), 9, 1, 0)).await;
    rig.refuse(1, retry(Which::These(vec![0, 5]), 9, 1, 0)).await;
    assert_eq!(row(&rig, task_id(1, 0)).await, kept);
    // Without the row of the job its counts would be wrong.
    rig.refuse(1, Batch { jobs: Vec::new(), ..retry(Which::From(0), 9, 1, 0) }).await;
    assert_eq!(row(&rig, task_id(1, 0)).await, kept);
}

pub async fn tasks_are_counted_by_their_rows<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 9).await;
    rig.end(task_id(1, 0), succeeded).await;
    rig.end(task_id(1, 1), failed).await;
    rig.end(task_id(1, 2), |_| TaskEvent::Cancelled(error("stop"))).await;
    for index in [3, 4] {
        rig.end(task_id(1, index), backing_off(900)).await;
    }
    rig.end(task_id(1, 5), |task| TaskEvent::GivenBack(task.fence)).await;
    let claims = [4, 6].map(|index| (index, TaskRow::default().task));
    let claims = claims.map(|(index, task)| claim_of(task_id(1, index), &task, 950)).to_vec();
    rig.commit(Batch { claims, ..Batch::default() }).await;
    let found = rig.store.recount(job_id(1)).await.unwrap();
    let states = [found.pending, found.running, found.backing_off, found.succeeded, found.failed, found.cancelled];
    assert_eq!((found.total, states), (9, [3, 2, 1, 1, 1, 1]));
    assert_eq!(rig.store.recount(job_id(2)).await.unwrap(), Counts::default());
}
