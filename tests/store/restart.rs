//! What another process finds.

use std::sync::Arc;

use haul::model::event::EventKind;
use haul::model::host::Host;
use haul::model::job::{Job, JobEvent, JobState, Kept};
use haul::model::outcome::Attempt;
use haul::model::spec::JobSpec;
use haul::model::task::TaskState;
use haul::model::time::Timestamp;
use haul::store::{Addition, Batch, Claim, CutAttempt, JobFilter, PAGE_BYTES_MAX, StoredTask, Submission, TaskRow};

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
        assert_eq!(rig.store.events(job.id, 0, 9).await.unwrap().items.len(), 1);
    }
    // Numbers go on where they were.
    rig.job_of(2, 1).await;
    assert_eq!(rig.store.tasks(job_id(1), &[], 0, 9).await.unwrap().items.len(), 3);
    assert_eq!(rig.store.tasks(job_id(2), &[], 0, 9).await.unwrap().items.len(), 1);
}

pub async fn recovery_tells_what_was_cut<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let first = rig.job_of(1, 4).await;
    let second = rig.job_of(2, 4).await;
    let before = rig.end(task_id(2, 3), backing_off(500)).await;
    let claims =
        vec![claim_of(task_id(1, 0), &TaskRow::default().task, 600), claim_of(task_id(2, 3), &before.task, 601)];
    let lane = Addition { new_lanes: vec![(1, Host::new("[::1]:80"))], ..addition(2, Vec::new()) };
    rig.commit(Batch { claims: claims.clone(), additions: vec![lane], ..Batch::default() }).await;
    rig = rig.restart::<B>(false).await;
    let found = rig.store.recover(None).await.unwrap();
    let (a, b) = (Host::new("a.example:443"), Host::new("[::1]:80"));
    let lanes = vec![(a.clone(), 0), (b, 0)];
    assert_eq!(found.next, None);
    assert_eq!(found.jobs(), [(first.clone(), vec![(a, 0)]), (second, lanes.clone())]);
    assert_eq!(rig.store.recover(Some(first.id)).await.unwrap().jobs().len(), 1);
    assert_eq!(rig.store.recover(Some(job_id(2))).await.unwrap().jobs(), []);
    let cut = |claim: &Claim, log: &[Attempt]| {
        let row = TaskRow { task: claim.task.clone(), log: log.to_vec(), outcome: None };
        let index = claim.id.index;
        let task = StoredTask { index, lane: 0, spec: spec(index), row };
        CutAttempt { id: claim.id, attempt_start: claim.attempt_start, task }
    };
    let cuts = [cut(&claims[0], &[]), cut(&claims[1], &before.log)];
    assert_eq!(rig.store.claims(None).await.unwrap().attempts, cuts);
    assert_eq!(rig.store.claims(Some(task_id(1, 0))).await.unwrap().attempts, cuts[1..]);
    assert_eq!(rig.store.claims(Some(task_id(2, 3))).await.unwrap().attempts, []);
    assert_eq!(rig.store.lanes(job_id(2)).await.unwrap(), lanes);
}

/// However the bytes of its lanes count. A part is cut by them, and the next one begins where it was.
pub async fn every_job_is_recovered<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let lanes: Vec<Host> = (0..4000).map(|host| Host::new(&format!("host-{host:016}.example:443"))).collect();
    for number in 1..=40 {
        let job = job(number, 1);
        let submission = Submission { lanes: lanes.clone(), ..submission(&job, 1) };
        rig.commit(Batch { submissions: vec![submission], ..Batch::default() }).await;
    }
    let (mut found, mut after) = (0, None);
    loop {
        let part = rig.store.recover(after).await.unwrap();
        after = part.next;
        let jobs = part.jobs();
        assert!(jobs.iter().all(|(_, lanes)| lanes.len() == 4000));
        found += jobs.len();
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, 40);
}

pub async fn ended_jobs_are_not_recovered<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let mut job = rig.job_of(1, 1).await;
    assert!(job.counts.try_move(TaskState::Pending, TaskState::Succeeded, 1));
    job.apply(JobEvent::Settled(true), Timestamp(9)).unwrap();
    assert_eq!(job.state, JobState::Succeeded);
    rig.commit(Batch { jobs: vec![Arc::new(job.clone())], ..Batch::default() }).await;
    let none = rig.store.recover(None).await.unwrap();
    assert_eq!((none.next, none.jobs()), (None, vec![]));
    // Back to life by a retry.
    job.apply(JobEvent::Retried(Kept::default()), Timestamp(10)).unwrap();
    rig.commit(Batch { jobs: vec![Arc::new(job.clone())], ..Batch::default() }).await;
    assert_eq!(rig.store.recover(None).await.unwrap().jobs()[0].0, job);
}

pub async fn a_writer_that_died_lost_nothing<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    for number in 1..=20 {
        rig.job_of(number, 1).await;
        if number % 5 == 0 {
            rig = rig.restart::<B>(false).await;
        }
    }
    assert_eq!(rig.store.recover(None).await.unwrap().jobs().len(), 20);
}

pub async fn heads_are_kept<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 5).await;
    rig.commit(Batch { lane_heads: vec![(job_id(1), 0, 3)], ..Batch::default() }).await;
    rig = rig.restart::<B>(true).await;
    assert_eq!(rig.store.recover(None).await.unwrap().jobs()[0].1, [(Host::new("a.example:443"), 3)]);
}

/// A part ends after 4 MiB, and what is too large for one comes alone.
pub async fn recovery_comes_in_parts<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let large = |number, bytes: usize| {
        let spec = JobSpec { title: "x".repeat(bytes), ..JobSpec::default() };
        Job::new(job_id(number), spec, 1, Timestamp(1))
    };
    let sizes = [1 << 20, 3 << 20, 2 << 20, 5 << 20, 1, 1];
    for (number, bytes) in (1..).zip(sizes) {
        rig.commit(with_job(&large(number, bytes), 1)).await;
    }
    let (mut after, mut parts) = (None, Vec::new());
    loop {
        let part = rig.store.recover(after).await.unwrap();
        after = part.next;
        parts.push(part.jobs().iter().map(|(job, _)| job.spec.title.len()).collect::<Vec<_>>());
        if after.is_none() {
            break;
        }
    }
    assert_eq!(parts, [vec![1 << 20, 3 << 20], vec![2 << 20, 5 << 20], vec![1, 1]]);
    // Listings end in the same way, and say that there is more.
    let page = rig.store.jobs(&JobFilter::default(), 9).await.unwrap();
    assert!(page.next.is_some());
    assert!(page.items.iter().map(|job| job.spec.title.len()).sum::<usize>() > PAGE_BYTES_MAX);
    assert_eq!(page.items.len(), 3);
}
