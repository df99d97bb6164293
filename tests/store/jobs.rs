//! Jobs, requests, chunks, limits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use haul::model::ids::JobId;
use haul::model::job::{Job, JobEvent, JobState, Stop};
use haul::model::limits::{HostLimits, Limits};
use haul::model::spec::JobSpec;
use haul::model::time::Timestamp;
use haul::store::{Batch, Chunk, JobFilter, NewJob};

use super::support::*;

fn submitted(job: Job) -> Batch {
    Batch { new_jobs: vec![NewJob { job, request: None }], ..Batch::default() }
}

fn full_spec() -> JobSpec {
    JobSpec {
        title: "a \"title\" with \\ and \u{0} and 日本".into(),
        labels: BTreeMap::from([("team".into(), "x".into()), ("env".into(), "prod".into())]),
        open: true,
        timeout: Some(Duration::from_millis(1500)),
        priority: -3,
        retention: Some(Duration::from_secs(10)),
        ..JobSpec::default()
    }
}

async fn ids(rig: &Rig, filter: JobFilter, limit: u32) -> Vec<JobId> {
    rig.store.jobs(&filter, limit).await.unwrap().iter().map(|job| job.id).collect()
}

pub async fn stored_job_reads_back<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let job = Job::new(job_id(1), full_spec(), 3, Timestamp(5));
    rig.commit(submitted(job.clone())).await;
    assert_eq!(rig.store.job(job.id).await.unwrap(), Some(job));
    assert_eq!(rig.store.job(job_id(2)).await.unwrap(), None);
}

pub async fn moving_part_is_updated<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let mut job = rig.job_of(1, 2).await;
    let other = rig.job_of(2, 2).await;
    job.apply(JobEvent::Started, Timestamp(10)).unwrap();
    job.stop = Some(Stop::Cancelled("why not".into()));
    job.failure = Some(error("it"));
    job.sequence = 7;
    job.ended_bytes = 1 << 40;
    rig.commit(Batch { jobs: vec![Arc::new(job.clone())], ..Batch::default() }).await;
    assert_eq!(rig.store.job(job.id).await.unwrap(), Some(job.clone()));
    assert_eq!(rig.store.job(other.id).await.unwrap(), Some(other));

    job.counts.pending = 0;
    job.counts.cancelled = 2;
    job.apply(JobEvent::Settled(false), Timestamp(20)).unwrap();
    rig.commit(Batch { jobs: vec![Arc::new(job.clone())], ..Batch::default() }).await;
    assert_eq!(rig.store.job(job.id).await.unwrap(), Some(job));
}

pub async fn spec_is_updated<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let mut job = Job::new(job_id(1), full_spec(), 1, Timestamp(5));
    rig.commit(submitted(job.clone())).await;
    let labels = BTreeMap::from([("team".to_owned(), "y".to_owned())]);
    job.spec = Arc::new(JobSpec { labels: labels.clone(), priority: 9, ..full_spec() });
    let changed = Arc::new(job.clone());
    rig.commit(Batch { jobs: vec![changed.clone()], respecced: vec![changed], ..Batch::default() }).await;
    assert_eq!(rig.store.job(job.id).await.unwrap(), Some(job.clone()));
    assert_eq!(ids(&rig, JobFilter { labels, ..JobFilter::default() }, 9).await, [job.id]);
    let old = BTreeMap::from([("team".to_owned(), "x".to_owned())]);
    assert_eq!(ids(&rig, JobFilter { labels: old, ..JobFilter::default() }, 9).await, []);
}

pub async fn lists_newest_first<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    for number in 1..=5 {
        rig.commit(submitted(job(number, 1))).await;
    }
    assert_eq!(ids(&rig, JobFilter::default(), 2).await, [job_id(5), job_id(4)]);
    let rest = JobFilter { before: Some(job_id(4)), ..JobFilter::default() };
    assert_eq!(ids(&rig, rest, 9).await, [job_id(3), job_id(2), job_id(1)]);
    assert_eq!(ids(&rig, JobFilter::default(), 0).await, []);
}

pub async fn lists_by_state_and_label<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    for number in 0..8 {
        let labels = BTreeMap::from([
            ("parity".to_owned(), (number % 2).to_string()),
            ("half".to_owned(), (number / 4).to_string()),
        ]);
        let mut job = Job::new(job_id(number), JobSpec { labels, ..JobSpec::default() }, 1, Timestamp(1));
        if number % 3 == 0 {
            job.state = JobState::Succeeded;
            job.end_time = Some(Timestamp(9));
        }
        rig.commit(submitted(job)).await;
    }
    let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let filter = |states: &[JobState], pairs: &[(&str, &str)]| JobFilter {
        states: states.to_vec(),
        labels: labels(pairs),
        ..JobFilter::default()
    };
    let numbers = |numbers: &[u32]| numbers.iter().map(|number| job_id(*number)).collect::<Vec<_>>();
    assert_eq!(ids(&rig, filter(&[JobState::Succeeded], &[]), 9).await, numbers(&[6, 3, 0]));
    assert_eq!(ids(&rig, filter(&[JobState::Pending, JobState::Running], &[]), 9).await, numbers(&[7, 5, 4, 2, 1]));
    assert_eq!(ids(&rig, filter(&[], &[("parity", "1"), ("half", "1")]), 9).await, numbers(&[7, 5]));
    assert_eq!(ids(&rig, filter(&[JobState::Succeeded], &[("parity", "0")]), 9).await, numbers(&[6, 0]));
    assert_eq!(ids(&rig, filter(&[], &[("parity", "2")]), 9).await, []);
}

pub async fn lists_by_time<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    for number in 1..=4 {
        let mut job = job(number, 1);
        job.end_time = (number > 2).then_some(Timestamp(100 + i64::from(number)));
        rig.commit(submitted(job)).await;
    }
    let between =
        JobFilter { created_after: Some(Timestamp(1)), created_before: Some(Timestamp(4)), ..JobFilter::default() };
    assert_eq!(ids(&rig, between, 9).await, [job_id(3), job_id(2)]);
    let ended = JobFilter { ended_after: Some(Timestamp(103)), ..JobFilter::default() };
    assert_eq!(ids(&rig, ended, 9).await, [job_id(4)]);
}

pub async fn request_is_found<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let new = NewJob { job: job(1, 1), request: Some(("req '1'".into(), [7; 32])) };
    rig.commit(Batch { new_jobs: vec![new], ..Batch::default() }).await;
    assert_eq!(rig.store.request("req '1'").await.unwrap(), Some((job_id(1), [7; 32])));
    assert_eq!(rig.store.request("other").await.unwrap(), None);
    let again = NewJob { job: job(2, 1), request: Some(("req '1'".into(), [8; 32])) };
    rig.refuse(Batch { new_jobs: vec![again], ..Batch::default() }).await;
    assert_eq!(rig.store.job(job_id(2)).await.unwrap(), None);
}

pub async fn chunk_is_found<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let job = rig.job_of(1, 0).await;
    let chunk = Chunk { first: 10, count: 3, digest: [1; 32] };
    rig.commit(Batch { new_chunks: vec![(job.id, "c".into(), chunk.clone())], ..Batch::default() }).await;
    assert_eq!(rig.store.chunk(job.id, "c").await.unwrap(), Some(chunk));
    assert_eq!(rig.store.chunk(job.id, "d").await.unwrap(), None);
    assert_eq!(rig.store.chunk(job_id(2), "c").await.unwrap(), None);
}

pub async fn limits_are_kept<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    assert_eq!(rig.store.limits().await.unwrap(), None);
    let hosts = vec![HostLimits { host: "a".into(), requests_per_second: 0.5, ..HostLimits::default() }];
    for max_per_host in [3, 4] {
        let limits = Limits { max_per_host, hosts: hosts.clone(), ..Limits::default() };
        rig.commit(Batch { limits: Some(limits.clone()), ..Batch::default() }).await;
        assert_eq!(rig.store.limits().await.unwrap(), Some(limits));
    }
}

pub async fn an_unknown_job_is_refused<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.refuse(Batch { jobs: vec![Arc::new(job(1, 1))], ..Batch::default() }).await;
    rig.refuse(Batch { new_tasks: vec![new_task(1, 0)], ..Batch::default() }).await;
}

pub async fn nothing_of_a_failed_batch_stays<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let mut batch = with_job(&job(1, 1), 1);
    batch.new_tasks.push(new_task(2, 0));
    rig.refuse(batch).await;
    assert_eq!(rig.store.job(job_id(1)).await.unwrap(), None);
    assert_eq!(rig.store.task(task_id(1, 0)).await.unwrap(), None);
    // The writer did not remember the job that failed, and goes on.
    rig.refuse(Batch { new_tasks: vec![new_task(1, 0)], ..Batch::default() }).await;
    rig.job_of(1, 1).await;
    assert!(rig.store.task(task_id(1, 0)).await.unwrap().is_some());
}

/// More than one statement holds, and numbers of rows that fill none.
pub async fn many_in_one_batch<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let mut batch = Batch::default();
    for number in 1..=70 {
        let one = with_job(&job(number, 5), 5);
        batch.new_jobs.extend(one.new_jobs);
        batch.new_lanes.extend(one.new_lanes);
        batch.new_tasks.extend(one.new_tasks);
    }
    rig.commit(batch).await;
    assert_eq!(rig.store.jobs(&JobFilter::default(), 100).await.unwrap().len(), 70);
    for number in 1..=70 {
        let tasks = rig.store.tasks(job_id(number), &[], 0, 10).await.unwrap();
        assert_eq!(tasks.len(), 5);
        assert_eq!(tasks[4].spec, new_task(number, 4).spec);
    }
}
