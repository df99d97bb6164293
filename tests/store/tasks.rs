//! Tasks as they are listed and found.

use std::sync::Arc;

use haul::model::host::Host;
use haul::model::ids::TaskIndex;
use haul::model::outcome::{DownloadResult, Outcome};
use haul::model::spec::TaskSpec;
use haul::model::task::{TaskEvent, TaskState};
use haul::model::time::Timestamp;
use haul::store::{Batch, NewLane, NewTask, StoredTask, TaskMove, TaskRow};

use super::support::*;

fn keyed(number: u32, index: TaskIndex, key: &str) -> NewTask {
    let spec = TaskSpec { key: key.to_owned(), ..(*fetch("https://a.example/")).clone() };
    NewTask { id: task_id(number, index), lane: 0, spec: Arc::new(spec) }
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
    assert_eq!(task, StoredTask { index: 1, spec: new_task(1, 1).spec, row: TaskRow::default() });
    assert_eq!(rig.store.task(task_id(1, 2)).await.unwrap(), None);
    assert_eq!(rig.store.task(task_id(2, 0)).await.unwrap(), None);
}

pub async fn keys_find_tasks<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 0).await;
    rig.job_of(2, 0).await;
    let new_tasks = vec![keyed(1, 0, "a"), new_task(1, 1), keyed(1, 2, "b"), keyed(2, 0, "b")];
    rig.commit(Batch { new_tasks, ..Batch::default() }).await;
    assert_eq!(rig.store.task_by_key(job_id(1), "b").await.unwrap().unwrap().index, 2);
    assert_eq!(rig.store.task_by_key(job_id(2), "a").await.unwrap(), None);
    assert_eq!(rig.store.task_by_key(job_id(1), "").await.unwrap(), None);
}

pub async fn taken_keys_are_told<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 0).await;
    rig.commit(Batch { new_tasks: vec![keyed(1, 0, "a'\""), keyed(1, 1, "b")], ..Batch::default() }).await;
    let keys: Vec<String> = ["c", "a'\"", "b", "b"].map(str::to_owned).to_vec();
    let mut taken = rig.store.taken_keys(job_id(1), &keys).await.unwrap();
    taken.sort();
    assert_eq!(taken, ["a'\"", "b"]);
    assert!(rig.store.taken_keys(job_id(2), &keys).await.unwrap().is_empty());
}

pub async fn a_taken_key_is_refused<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 0).await;
    rig.commit(Batch { new_tasks: vec![keyed(1, 0, "a")], ..Batch::default() }).await;
    rig.refuse(Batch { new_tasks: vec![keyed(1, 1, "a")], ..Batch::default() }).await;
    assert_eq!(rig.store.task(task_id(1, 1)).await.unwrap(), None);
}

pub async fn lists_by_state<B: Backend>() {
    use TaskState as S;
    let rig = one_of_each::<B>().await;
    let list =
        async |states: &[S], from, limit| indexes(&rig.store.tasks(job_id(1), states, from, limit).await.unwrap());
    assert_eq!(list(&[], 0, 10).await, [0, 1, 2, 3, 4, 5]);
    assert_eq!(list(&[], 2, 2).await, [2, 3]);
    for (index, state) in (0..).zip(S::ALL) {
        assert_eq!(list(&[state], 0, 10).await, [index], "{state:?}");
        assert!(list(&[state], index + 1, 10).await.is_empty(), "{state:?}");
    }
    assert_eq!(list(&[S::Running, S::Failed], 0, 10).await, [1, 4]);
    assert_eq!(list(&[S::Pending, S::BackingOff], 0, 10).await, [0, 2]);
    assert_eq!(list(&[S::Succeeded, S::Failed, S::Cancelled], 0, 2).await, [3, 4]);
    let all = rig.store.tasks(job_id(1), &[], 0, 10).await.unwrap();
    assert!(all.iter().all(|task| task.row.log.is_empty()), "logs are left out of listings");
    assert_eq!(all.iter().map(|task| task.row.task.state).collect::<Vec<_>>(), S::ALL);
    assert_eq!(all[3].row.outcome, Some(fetched("https://a.example/x")));
}

pub async fn lane_page_skips_what_is_not_waiting<B: Backend>() {
    let mut rig = one_of_each::<B>().await;
    let more = (6..20).map(|index| NewTask { lane: index % 2, ..new_task(1, index) }).collect();
    let lane = NewLane { job: job_id(1), lane: 1, host: Host::new("b.example:80") };
    rig.commit(Batch { new_lanes: vec![lane], new_tasks: more, ..Batch::default() }).await;
    let page = async |lane, from, limit| indexes(&rig.store.lane_page(job_id(1), lane, from, limit).await.unwrap());
    assert_eq!(page(0, 0, 3).await, [0, 6, 8]);
    assert_eq!(page(0, 9, 100).await, [10, 12, 14, 16, 18]);
    assert_eq!(page(1, 0, 3).await, [7, 9, 11]);
    assert!(page(2, 0, 3).await.is_empty());
    // One that was put back comes with its log.
    let row = rig.end(task_id(1, 7), |task| TaskEvent::GivenBack(task.fence)).await;
    let back = rig.store.lane_page(job_id(1), 1, 0, 1).await.unwrap();
    assert_eq!(back[0].row, row);
    assert_eq!(back[0].row.log.len(), 1);
}

pub async fn states_are_told<B: Backend>() {
    let rig = one_of_each::<B>().await;
    let states = rig.store.task_states(job_id(1), &[5, 1, 0, 99]).await.unwrap();
    assert_eq!(states, [(0, TaskState::Pending), (1, TaskState::Running), (5, TaskState::Cancelled)]);
    assert!(rig.store.task_states(job_id(2), &[0]).await.unwrap().is_empty());
}

pub async fn download_paths_are_told<B: Backend>() {
    let mut rig = one_of_each::<B>().await;
    let new_tasks = (6..9).map(|index| new_task(1, index)).collect();
    rig.commit(Batch { new_tasks, ..Batch::default() }).await;
    let mut moves = Vec::new();
    for index in 6..9 {
        let task = claim_of(task_id(1, index), &TaskRow::default().task, 1).task;
        let path = format!("dir/\"{index}\".bin");
        moves.push(TaskMove {
            id: task_id(1, index),
            row: TaskRow {
                task: task.apply(TaskEvent::Succeeded(1), Timestamp(2)).unwrap(),
                log: Vec::new(),
                outcome: Some(Outcome::Download(DownloadResult { path, ..DownloadResult::default() })),
            },
        });
    }
    rig.commit(Batch { moves, ..Batch::default() }).await;
    let paths = rig.store.download_paths(job_id(1), 7, 9).await.unwrap();
    assert_eq!(paths, [(7, "dir/\"7\".bin".to_owned()), (8, "dir/\"8\".bin".to_owned())]);
    assert_eq!(rig.store.download_paths(job_id(1), 0, 1).await.unwrap().len(), 1);
}
