//! Tasks as they are listed and found.

use std::sync::Arc;

use haul::model::host::Host;
use haul::model::ids::TaskIndex;
use haul::model::outcome::{DownloadResult, Outcome};
use haul::model::spec::{DownloadSpec, TaskOptions, TaskSpec, Work};
use haul::model::task::{TaskEvent, TaskState};
use haul::model::time::Timestamp;
use haul::store::{Addition, Batch, LanePage, StoredTask, TaskMove, TaskRow};

use super::support::*;

fn download(index: TaskIndex) -> Arc<TaskSpec> {
    let work = Work::Download(DownloadSpec { url: format!("https://a.example/{index}"), ..DownloadSpec::default() });
    Arc::new(TaskSpec { key: String::new(), work, options: TaskOptions::default().into() })
}

fn indexes(tasks: &[StoredTask]) -> Vec<TaskIndex> {
    tasks.iter().map(|task| task.index).collect()
}

/// Task by task: pending, running, backing off, succeeded, failed, cancelled.
async fn one_of_each<B: Backend>() -> Rig {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 6).await;
    let pending = rig.store.task(task_id(1, 1)).await.unwrap().unwrap().row.task;
    rig.commit(Batch { claims: vec![claim_of(task_id(1, 1), &pending, 100)], ..Batch::default() }).await;
    rig.end(task_id(1, 2), backing_off(900)).await;
    rig.end(task_id(1, 3), succeeded).await;
    rig.end(task_id(1, 4), failed).await;
    rig.end(task_id(1, 5), |_| TaskEvent::Cancelled(error("stop"))).await;
    rig
}

pub async fn stored_task_reads_back<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 2).await;
    let task = rig.store.task(task_id(1, 1)).await.unwrap().unwrap();
    assert_eq!(task, StoredTask { index: 1, lane: 0, spec: spec(1), row: TaskRow::default() });
    assert_eq!(rig.store.task(task_id(1, 2)).await.unwrap(), None);
    assert_eq!(rig.store.task(task_id(2, 0)).await.unwrap(), None);
}

pub async fn keys_find_tasks<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 0).await;
    rig.job_of(2, 0).await;
    let additions =
        vec![addition(1, vec![(0, keyed("a")), (0, spec(1)), (0, keyed("b"))]), addition(2, vec![(0, keyed("b"))])];
    rig.commit(Batch { additions, ..Batch::default() }).await;
    assert_eq!(rig.store.task_by_key(job_id(1), "b").await.unwrap().unwrap().index, 2);
    assert_eq!(rig.store.task_by_key(job_id(2), "a").await.unwrap(), None);
    assert_eq!(rig.store.task_by_key(job_id(1), "").await.unwrap(), None);
}

pub async fn lists_by_state<B: Backend>() {
    use TaskState as S;
    let rig = one_of_each::<B>().await;
    let list = async |states: &[S], from, limit| {
        indexes(&rig.store.tasks(job_id(1), states, from, limit).await.unwrap().items)
    };
    assert_eq!(list(&[], 0, 10).await, [0, 1, 2, 3, 4, 5]);
    assert_eq!(list(&[], 2, 2).await, [2, 3]);
    for (index, state) in (0..).zip(S::ALL) {
        assert_eq!(list(&[state], 0, 10).await, [index], "{state:?}");
        assert!(list(&[state], index + 1, 10).await.is_empty(), "{state:?}");
    }
    assert_eq!(list(&[S::Running, S::Failed], 0, 10).await, [1, 4]);
    assert_eq!(list(&[S::Pending, S::BackingOff], 0, 10).await, [0, 2]);
    assert_eq!(list(&[S::Succeeded, S::Failed, S::Cancelled], 0, 2).await, [3, 4]);
    let all = rig.store.tasks(job_id(1), &[], 0, 10).await.unwrap().items;
    // What is held by a task without a result stands in its last attempt.
    let logged = |task: &StoredTask| task.row.log.len() <= usize::from(task.row.outcome.is_none());
    assert!(all.iter().all(logged), "only the last attempt of those without a result is listed");
    assert_eq!(all.iter().map(|task| task.row.task.state).collect::<Vec<_>>(), S::ALL);
    assert_eq!(all[3].row.outcome, Some(Arc::new(fetched("https://a.example/x"))));
}

/// Two lanes: the tasks from 6 on go to them in turn.
async fn two_lanes<B: Backend>() -> Rig {
    let mut rig = one_of_each::<B>().await;
    let more = addition(1, (6..20).map(|index| (index % 2, spec(index))).collect());
    let more = Addition { new_lanes: vec![(1, Host::new("b.example:80"))], ..more };
    rig.commit(Batch { additions: vec![more], ..Batch::default() }).await;
    rig
}

async fn page(rig: &Rig, lane: u32, from: TaskIndex, limit: u32, now: i64) -> (Vec<TaskIndex>, Option<TaskIndex>) {
    let LanePage { tasks, next, .. } = rig.store.lane_page(job_id(1), lane, from, limit, Timestamp(now)).await.unwrap();
    assert!(tasks.iter().all(|task| task.lane == lane));
    (indexes(&tasks), next)
}

pub async fn lane_page_skips_what_may_not_start<B: Backend>() {
    let mut rig = two_lanes::<B>().await;
    assert_eq!(page(&rig, 0, 0, 3, 0).await, (vec![0, 6, 8], Some(9)));
    assert_eq!(page(&rig, 0, 9, 100, 0).await, (vec![10, 12, 14, 16, 18], None));
    assert_eq!(page(&rig, 0, 9, 5, 0).await, (vec![10, 12, 14, 16, 18], Some(19)));
    assert_eq!(page(&rig, 0, 19, 5, 0).await, (vec![], None));
    assert_eq!(page(&rig, 1, 0, 3, 0).await, (vec![7, 9, 11], Some(12)));
    assert_eq!(page(&rig, 2, 0, 3, 0).await, (vec![], None));
    // Task 2 is due at 900.
    assert_eq!(page(&rig, 0, 0, 3, 899).await.0, [0, 6, 8]);
    assert_eq!(page(&rig, 0, 0, 3, 900).await.0, [0, 2, 6]);
    // One that was put back comes with its log.
    let row = rig.end(task_id(1, 7), |task| TaskEvent::GivenBack(task.fence)).await;
    let back = rig.store.lane_page(job_id(1), 1, 0, 1, Timestamp(0)).await.unwrap().tasks;
    assert_eq!(back[0].row, row);
    assert_eq!(back[0].row.log.len(), 1);
}

/// However far away the next task is, a page looks at a bounded number.
pub async fn lane_page_goes_on_behind_what_has_ended<B: Backend>() {
    const COUNT: u32 = 40_000;
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, COUNT).await;
    for first in (0..COUNT - 1).step_by(10_000) {
        let ended = |index| {
            let task = TaskRow::default().task.apply(TaskEvent::Cancelled(error("x")), Timestamp(1)).unwrap();
            TaskMove { id: task_id(1, index), row: TaskRow { task, ..TaskRow::default() } }
        };
        let moves = (first..(first + 10_000).min(COUNT - 1)).map(ended).collect();
        rig.commit(Batch { moves, ..Batch::default() }).await;
    }
    let (mut from, mut found, mut pages) = (Some(0), Vec::new(), 0);
    while let Some(index) = from {
        let (tasks, next) = page(&rig, 0, index, 9, 0).await;
        assert!(next.is_none_or(|next| next > index));
        found.extend(tasks);
        from = next;
        pages += 1;
    }
    assert_eq!(found, [COUNT - 1]);
    assert!(pages > 1);
    let pending = rig.store.tasks(job_id(1), &[TaskState::Pending], 0, 9).await.unwrap();
    assert_eq!((indexes(&pending.items), pending.has_more), (vec![COUNT - 1], false));
}

/// Pages end after 4 MiB, whatever their tasks carry.
pub async fn pages_end_by_bytes<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 0).await;
    let large = |bytes: usize| fetch(&format!("https://a.example/{}", "x".repeat(bytes)));
    let tasks = [3 << 20, 2 << 20, 5 << 20, 1, 1].map(|bytes| (0, large(bytes))).to_vec();
    rig.commit(Batch { additions: vec![addition(1, tasks)], ..Batch::default() }).await;
    assert_eq!(page(&rig, 0, 0, 9, 0).await, (vec![0, 1], Some(2)));
    assert_eq!(page(&rig, 0, 2, 9, 0).await, (vec![2], Some(3)));
    assert_eq!(page(&rig, 0, 3, 9, 0).await, (vec![3, 4], None));
    for states in [&[][..], &[TaskState::Pending]] {
        let listed = rig.store.tasks(job_id(1), states, 0, 9).await.unwrap();
        assert_eq!((indexes(&listed.items), listed.has_more), (vec![0, 1], true));
        let listed = rig.store.tasks(job_id(1), states, 3, 9).await.unwrap();
        assert_eq!((indexes(&listed.items), listed.has_more), (vec![3, 4], false));
    }
}

pub async fn states_are_told<B: Backend>() {
    let rig = one_of_each::<B>().await;
    let states = rig.store.task_states(job_id(1), &[5, 1, 0, 99]).await.unwrap();
    assert_eq!(states, [(0, TaskState::Pending), (1, TaskState::Running), (5, TaskState::Cancelled)]);
    assert!(rig.store.task_states(job_id(2), &[0]).await.unwrap().is_empty());
}

/// Downloads from 6 on: three that succeeded, one of them skipped, one that failed, one cancelled before it started, one
/// that runs, and one that never moved.
async fn downloads<B: Backend>() -> Rig {
    let mut rig = one_of_each::<B>().await;
    let tasks = (6..13).map(|index| (0, download(index))).collect();
    rig.commit(Batch { additions: vec![addition(1, tasks)], ..Batch::default() }).await;
    let mut moves = Vec::new();
    for index in 6..9 {
        let task = claim_of(task_id(1, index), &TaskRow::default().task, 1).task;
        let path = format!("dir/\"{index}\".bin");
        let result = DownloadResult { path, skipped: index == 7, ..DownloadResult::default() };
        moves.push(TaskMove {
            id: task_id(1, index),
            row: TaskRow {
                task: task.apply(TaskEvent::Succeeded(1), Timestamp(2)).unwrap(),
                log: Vec::new(),
                outcome: Some(Arc::new(Outcome::Download(result))),
            },
        });
    }
    let task = TaskRow::default().task.apply(TaskEvent::Cancelled(error("x")), Timestamp(2)).unwrap();
    moves.push(TaskMove { id: task_id(1, 10), row: TaskRow { task, ..TaskRow::default() } });
    let claims = vec![claim_of(task_id(1, 11), &TaskRow::default().task, 1)];
    rig.commit(Batch { moves, claims, ..Batch::default() }).await;
    rig.end(task_id(1, 9), failed).await;
    rig
}

pub async fn downloads_that_started_are_found<B: Backend>() {
    use TaskState as S;
    let mut rig = downloads::<B>().await;
    let found = async |states: &[S], from, limit| {
        let listed = rig.store.download_tasks(job_id(1), states, from, limit).await.unwrap();
        (indexes(&listed.items), listed.has_more)
    };
    assert_eq!(found(&[S::Failed, S::Cancelled], 0, 9).await, (vec![9], false));
    assert_eq!(found(&[S::Succeeded, S::Running], 0, 9).await, (vec![6, 7, 8, 11], false));
    assert_eq!(found(&S::ALL, 7, 2).await, (vec![7, 8], true));
    assert_eq!(found(&[], 0, 9).await, (vec![], false));
    let task = rig.store.download_tasks(job_id(1), &[S::Failed], 0, 9).await.unwrap().items.remove(0);
    assert_eq!(task.row.log.len(), 1);
    // A job without downloads has none, whatever its tasks came to.
    rig.job_of(2, 2).await;
    rig.end(task_id(2, 0), failed).await;
    assert!(rig.store.download_tasks(job_id(2), &[S::Failed], 0, 9).await.unwrap().items.is_empty());
}
