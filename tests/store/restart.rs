//! What another process finds.

use std::sync::Arc;

use haul::model::event::EventKind;
use haul::model::host::Host;
use haul::model::job::{JobEvent, JobState};
use haul::model::task::TaskState;
use haul::model::time::Timestamp;
use haul::store::{Batch, NewLane, TaskRow};

use super::support::*;

pub async fn everything_is_there_again<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let mut job = rig.job_of(1, 3).await;
    let row = rig.end(task_id(1, 2), failed).await;
    job.sequence = 1;
    let changed = job_event(&job, EventKind::JobChanged);
    rig.commit(Batch { events: vec![changed], jobs: vec![Arc::new(job.clone())], ..Batch::default() }).await;
    let node_id = rig.store.node_id();
    assert!(!node_id.is_empty());
    for gently in [true, false] {
        rig = rig.restart::<B>(gently).await;
        assert_eq!(rig.store.node_id(), node_id);
        assert_eq!(rig.store.job(job.id).await.unwrap().as_ref(), Some(&job));
        assert_eq!(rig.store.task(task_id(1, 2)).await.unwrap().unwrap().row, row);
        assert_eq!(rig.store.events(job.id, 0, 9).await.unwrap().len(), 1);
    }
    // Numbers go on where they were.
    rig.job_of(2, 1).await;
    assert_eq!(rig.store.tasks(job_id(1), &[], 0, 9).await.unwrap().len(), 3);
    assert_eq!(rig.store.tasks(job_id(2), &[], 0, 9).await.unwrap().len(), 1);
}

pub async fn recovery_tells_what_was_cut<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let first = rig.job_of(1, 4).await;
    let second = rig.job_of(2, 4).await;
    let before = rig.end(task_id(2, 3), backing_off(500)).await;
    let claims =
        vec![claim_of(task_id(1, 0), &TaskRow::default().task, 600), claim_of(task_id(2, 3), &before.task, 601)];
    let lane = NewLane { job: job_id(2), lane: 1, host: Host::new("[::1]:80") };
    rig.commit(Batch { claims, new_lanes: vec![lane], ..Batch::default() }).await;
    rig = rig.restart::<B>(false).await;
    let found = rig.store.recover().await.unwrap();
    assert_eq!(found.jobs, [first, second]);
    let a = Host::new("a.example:443");
    assert_eq!(
        found.lanes,
        [(job_id(1), 0, a.clone(), 0), (job_id(2), 0, a.clone(), 0), (job_id(2), 1, Host::new("[::1]:80"), 0)]
    );
    assert_eq!(
        found.claims,
        [(task_id(1, 0), Timestamp(600), TaskRow::default()), (task_id(2, 3), Timestamp(601), before)]
    );
    assert_eq!(rig.store.lanes(job_id(2)).await.unwrap(), [(0, a, 0), (1, Host::new("[::1]:80"), 0)]);
}

pub async fn ended_jobs_are_not_recovered<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let mut job = rig.job_of(1, 1).await;
    job.counts.moved(TaskState::Pending, TaskState::Succeeded, 1);
    job.apply(JobEvent::Settled(true), Timestamp(9)).unwrap();
    assert_eq!(job.state, JobState::Succeeded);
    rig.commit(Batch { jobs: vec![Arc::new(job.clone())], ..Batch::default() }).await;
    let found = rig.store.recover().await.unwrap();
    assert!(found.jobs.is_empty() && found.lanes.is_empty() && found.claims.is_empty());
    // Back to life by a retry.
    job.apply(JobEvent::Retried(0, 0), Timestamp(10)).unwrap();
    rig.commit(Batch { jobs: vec![Arc::new(job.clone())], ..Batch::default() }).await;
    assert_eq!(rig.store.recover().await.unwrap().jobs, [job]);
}

pub async fn a_writer_that_died_lost_nothing<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    for number in 1..=20 {
        rig.job_of(number, 1).await;
        if number % 5 == 0 {
            rig = rig.restart::<B>(false).await;
        }
    }
    assert_eq!(rig.store.recover().await.unwrap().jobs.len(), 20);
}

pub async fn heads_are_kept<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 5).await;
    rig.commit(Batch { lane_heads: vec![(job_id(1), 0, 3)], ..Batch::default() }).await;
    rig = rig.restart::<B>(true).await;
    assert_eq!(rig.store.recover().await.unwrap().lanes, [(job_id(1), 0, Host::new("a.example:443"), 3)]);
}
