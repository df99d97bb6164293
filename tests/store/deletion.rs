//! Jobs that go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use haul::model::event::EventKind;
use haul::model::job::{Job, JobState};
use haul::model::progress::Held;
use haul::model::spec::JobSpec;
use haul::model::task_filter::TaskChoice;
use haul::model::tenant::{DEFAULT_NO, Owner, Party, TenantNo};
use haul::model::time::Timestamp;
use haul::store::{Addition, Batch, Content, JobFilter, NewPage, Purged, Retry, Submission, Submitted, Which};

use super::support::*;

/// An ended job with rows in every table.
async fn ended<B: Backend>(rig: &mut Rig, number: u32) -> Job {
    let mut job = job(number, 4);
    job.spec = Arc::new(JobSpec {
        labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        retention: Some(Duration::from_micros(10)),
        ..JobSpec::default()
    });
    job.state = JobState::Failed;
    job.end_time = Some(Timestamp(100 + i64::from(number)));
    job.counts.total = 4;
    job.counts.pending = 4;
    let mut batch = with_job(&job, 3);
    batch.submissions[0].request = Some((format!("request {number}"), [1; 32]));
    batch.additions.push(Addition { chunk_id: "c".into(), ..addition(number, vec![(0, keyed("k"))]) });
    for page in 0..3 {
        let content = Content::Inline(format!("{number}").into());
        batch.pages.push(NewPage { id: task_id(number, 0), page, first_item: 0, items: 0, content, next: None });
    }
    rig.commit(batch).await;
    rig.end(task_id(number, 0), failed).await;
    rig.commit(Batch {
        events: vec![
            ended_event(task_id(number, 0), 1),
            job_event(&Job { sequence: 2, ..job.clone() }, EventKind::JobEnded),
        ],
        ..Batch::default()
    })
    .await;
    job
}

fn delete(number: u32) -> Batch {
    Batch { deletions: vec![job_id(number)], ..Batch::default() }
}

fn purge(number: u32, rows: u32) -> Batch {
    Batch { purges: vec![(job_id(number), rows)], ..Batch::default() }
}

pub async fn deleted_jobs_are_hidden<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    ended::<B>(&mut rig, 1).await;
    rig.commit(delete(1)).await;
    let (store, id) = (&rig.store, task_id(1, 0));
    assert_eq!(store.job(job_id(1)).await.unwrap(), None);
    assert!(store.jobs(&JobFilter::default(), 9).await.unwrap().items.is_empty());
    assert_eq!(store.task(id).await.unwrap(), None);
    assert_eq!(store.task_by_key(job_id(1), "k").await.unwrap(), None);
    assert!(store.tasks(job_id(1), &[], 0, 9).await.unwrap().items.is_empty());
    assert!(store.events(job_id(1), 0, 9).await.unwrap().items.is_empty());
    assert!(store.page_heads(id, 0, 9).await.unwrap().is_empty());
    assert_eq!(store.page_content(id, 0).await.unwrap(), None);
    assert_eq!(store.chunk(job_id(1), "c").await.unwrap(), None);
    assert!(store.expired_jobs(Timestamp::MAX, 9).await.unwrap().is_empty());
    assert_eq!(store.deleted_jobs(9).await.unwrap(), [job_id(1)]);
    assert_eq!(store.request(Party::default(), "request 1").await.unwrap(), None);
    // The id is free, also while the rows are there.
    let again = Submission { request: Some(("request 1".into(), [9; 32])), ..submission(&job(7, 1), 1) };
    assert_eq!(
        rig.commit(Batch { submissions: vec![again], ..Batch::default() }).await.submissions,
        [Submitted::Stored]
    );
    let rig = rig.restart::<B>(false).await;
    assert_eq!(rig.store.deleted_jobs(9).await.unwrap(), [job_id(1)]);
}

pub async fn purge_takes_bounded_steps<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    ended::<B>(&mut rig, 1).await;
    rig.commit(delete(1)).await;
    let mut steps = 0;
    while rig.commit(purge(1, 2)).await.purges == [Purged { rows: 2, is_gone: false, freed: None }] {
        steps += 1;
        assert_eq!(rig.store.deleted_jobs(9).await.unwrap(), [job_id(1)]);
    }
    // 3 pages, 2 events, 1 state, 4 tasks, 1 lane, 1 key, 1 chunk: 13 rows, 2 at a time.
    assert_eq!(steps, 6);
    assert!(rig.store.deleted_jobs(9).await.unwrap().is_empty());
    assert_eq!(rig.store.request(Party::default(), "request 1").await.unwrap(), None);
    assert_eq!(rig.commit(purge(1, 2)).await.purges, [Purged { rows: 0, is_gone: true, freed: None }], "again is fine");
    // Everything of it is free again.
    ended::<B>(&mut rig, 1).await;
    assert_eq!(rig.store.page_heads(task_id(1, 0), 0, 9).await.unwrap().len(), 3);
}

pub async fn purge_of_a_kept_job_is_refused<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let job = ended::<B>(&mut rig, 1).await;
    rig.refuse(1, purge(1, 100)).await;
    assert_eq!(rig.store.job(job.id).await.unwrap(), Some(job));
}

pub async fn expired_jobs_are_told<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    for number in [2, 1, 3] {
        ended::<B>(&mut rig, number).await;
    }
    rig.job_of(4, 1).await;
    let of_default = |number| (job_id(number), DEFAULT_NO);
    assert_eq!(rig.store.expired_jobs(Timestamp(112), 9).await.unwrap(), [1, 2].map(of_default));
    assert_eq!(rig.store.expired_jobs(Timestamp::MAX, 1).await.unwrap(), [of_default(1)]);
    assert!(rig.store.expired_jobs(Timestamp(110), 9).await.unwrap().is_empty());
}

pub async fn what_tenants_store_is_summed_up<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let owner = |no: u32| Owner { no, name: "t".into() };
    let jobs = [(1, owner(DEFAULT_NO)), (2, owner(16)), (3, owner(16))].map(|(number, tenant)| {
        let made = Job { tenant, ..job(number, 1) };
        (made.clone(), Job { state: JobState::Succeeded, end_time: Some(Timestamp(9)), ended_bytes: 10, ..made })
    });
    for (made, _) in &jobs {
        rig.commit(with_job(made, 1)).await;
    }
    let stored = async |rig: &Rig| -> BTreeMap<TenantNo, u64> {
        let all = rig.store.stored_bytes().await.unwrap();
        all.into_iter().filter(|(_, bytes)| *bytes > 0).collect()
    };
    assert_eq!(stored(&rig).await, BTreeMap::new());
    let held = Held { bytes: 5, total_bytes: 7 };
    let last = jobs.iter().map(|(_, ended)| Job { skipped_bytes: 3, held, ..ended.clone() });
    rig.commit(Batch { jobs: last.map(Arc::new).collect(), ..Batch::default() }).await;
    assert_eq!(stored(&rig).await, BTreeMap::from([(DEFAULT_NO, 12), (16, 24)]));
    rig.commit(delete(2)).await;
    assert_eq!(stored(&rig).await[&16], 24, "its files may be there");
    let purged = rig.commit(purge(2, 1000)).await.purges[0];
    assert_eq!((purged.is_gone, purged.freed), (true, Some((16, 12))));
    assert_eq!(stored(&rig).await, BTreeMap::from([(DEFAULT_NO, 12), (16, 12)]));
}

pub async fn a_purge_leaves_others_alone<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let kept = ended::<B>(&mut rig, 1).await;
    ended::<B>(&mut rig, 2).await;
    let same = Batch { deletions: vec![job_id(2)], purges: vec![(job_id(2), 1000)], ..Batch::default() };
    let done = rig.commit(same).await;
    assert_eq!((done.deletions, done.purges), (vec![true], vec![Purged { rows: 13, is_gone: true, freed: None }]));
    assert_eq!(
        rig.store.jobs(&JobFilter { labels: kept.spec.labels.clone(), ..JobFilter::default() }, 9).await.unwrap().items,
        [kept]
    );
    assert_eq!(rig.store.tasks(job_id(1), &[], 0, 9).await.unwrap().items.len(), 4);
    assert_eq!(rig.store.events(job_id(1), 0, 9).await.unwrap().items.len(), 2);
    assert_eq!(rig.store.page_content(task_id(1, 0), 2).await.unwrap(), Some(Content::Inline("1".into())));
    assert!(rig.store.task_by_key(job_id(1), "k").await.unwrap().is_some());
}

/// A job that cannot be read goes whatever its state is, since nothing of it runs.
pub async fn an_unfinished_job_that_cannot_be_read_is_deleted<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 3).await;
    rig.job_of(2, 3).await;
    let (deletions, unreadable) = (vec![job_id(1), job_id(2)], vec![job_id(1)]);
    let done = rig.commit(Batch { deletions, unreadable, ..Batch::default() }).await;
    assert_eq!(done.deletions, [true, false], "the other one may run");
    assert_eq!(rig.store.deleted_jobs(10).await.unwrap(), [job_id(1)]);
}

pub async fn deletions_are_answered<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    ended::<B>(&mut rig, 1).await;
    rig.job_of(2, 1).await;
    let deletions = vec![job_id(2), job_id(1), job_id(3), job_id(1)];
    let done = rig.commit(Batch { deletions, ..Batch::default() }).await;
    assert_eq!(done.deletions, [false, true, false, false], "running, ended, unknown, deleted already");
    assert_eq!(rig.store.deleted_jobs(9).await.unwrap(), [job_id(1)]);
    assert!(rig.store.job(job_id(2)).await.unwrap().is_some());
}

/// A job that was swept and retried leaves nothing either.
pub async fn a_purge_takes_old_states_too<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let job = ended::<B>(&mut rig, 1).await;
    let sequence = job.sequence.max(2);
    let jobs = || vec![Arc::new(Job { sequence, ..job.clone() })];
    let error = error("stop");
    let (state, time) = (haul::model::task::TaskState::Pending, Timestamp(1));
    let sweep = haul::store::Sweep {
        job: job.id,
        state,
        which: TaskChoice::All,
        from: 0,
        to: None,
        limit: 9,
        error,
        time,
        first_sequence: 3,
    };
    rig.commit(Batch { sweeps: vec![sweep], jobs: jobs(), ..Batch::default() }).await;
    let retry = Retry { job: job.id, which: Which::From(0), limit: 9 };
    let done = rig.commit(Batch { retries: vec![retry], jobs: jobs(), ..Batch::default() }).await;
    assert_eq!((done.retries[0].failed_count(), done.retries[0].cancelled), (1, 3));
    // 3 pages, 5 events, 4 states, 4 tasks, 1 shared error, 1 lane, 4 old states, 1 key, 1 chunk.
    let gone = Batch { deletions: vec![job.id], purges: vec![(job.id, 1000)], ..Batch::default() };
    assert_eq!(rig.commit(gone).await.purges, [Purged { rows: 24, is_gone: true, freed: None }]);
}
