//! Jobs, requests, chunks, limits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use haul::model::access::{AccessChange, Actor, LIFETIME_MAX_DEFAULT, NewToken};
use haul::model::book::Book;
use haul::model::event::EventKind;
use haul::model::host::Host;
use haul::model::ids::JobId;
use haul::model::job::{Creator, Job, JobEvent, JobState, Stop};
use haul::model::limits::{HostLimits, LimitsPatch};
use haul::model::pause::{HostPause, PauseCause, PauseKey};
use haul::model::progress::Held;
use haul::model::quotas::{Quota, Quotas};
use haul::model::spec::JobSpec;
use haul::model::task::TaskState;
use haul::model::tenant::{Owner, Party, TenantPatch};
use haul::model::time::Timestamp;
use haul::model::token::TokenHash;
use haul::store::{Added, Addition, Batch, Chunk, JobFilter, Submission, Submitted, TaskRow};

use super::support::*;

fn submitted(job: &Job) -> Batch {
    let tasks = job.counts.total;
    Batch { submissions: vec![submission(job, tasks)], ..Batch::default() }
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
    rig.store.jobs(&filter, limit).await.unwrap().items.iter().map(|job| job.id).collect()
}

pub async fn stored_job_reads_back<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let job = Job::new(job_id(1), full_spec(), 3, Timestamp(5));
    rig.commit(submitted(&job.clone())).await;
    assert_eq!(rig.store.job(job.id).await.unwrap(), Some(job));
    assert_eq!(rig.store.job(job_id(2)).await.unwrap(), None);
}

pub async fn moving_part_is_updated<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let mut job = rig.job_of(1, 2).await;
    let other = rig.job_of(2, 2).await;
    job.apply(JobEvent::Started, Timestamp(10)).unwrap();
    job.stop = Some(Stop::Cancelled("why not".into()));
    job.failure = Some(Box::new(error("it")));
    job.sequence = 7;
    job.ended_bytes = 1 << 40;
    job.held = Held { bytes: 1 << 39, total_bytes: 1 << 41 };
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
    rig.commit(submitted(&job.clone())).await;
    let labels = BTreeMap::from([("team".to_owned(), "y".to_owned())]);
    job.spec = Arc::new(JobSpec { labels: labels.clone(), priority: 9, ..full_spec() });
    let changed = Arc::new(job.clone());
    rig.commit(Batch { jobs: vec![changed.clone()], respecced: vec![changed], ..Batch::default() }).await;
    assert_eq!(rig.store.job(job.id).await.unwrap(), Some(job.clone()));
    assert_eq!(ids(&rig, JobFilter { labels, ..JobFilter::default() }, 9).await, [job.id]);
    let old = BTreeMap::from([("team".to_owned(), "x".to_owned())]);
    assert_eq!(ids(&rig, JobFilter { labels: old, ..JobFilter::default() }, 9).await, []);

    // Twice in one batch: the last one stays.
    let named = |env: &str| {
        let labels = BTreeMap::from([("team".to_owned(), "y".to_owned()), ("env".to_owned(), env.to_owned())]);
        let spec = Arc::new(JobSpec { labels, ..full_spec() });
        Arc::new(Job { spec, ..job.clone() })
    };
    let respecced = vec![named("one"), named("two")];
    rig.commit(Batch { jobs: vec![respecced[1].clone()], respecced, ..Batch::default() }).await;
    for (env, found) in [("one", vec![]), ("two", vec![job.id]), ("prod", vec![])] {
        let labels = BTreeMap::from([("env".to_owned(), env.to_owned())]);
        assert_eq!(ids(&rig, JobFilter { labels, ..JobFilter::default() }, 9).await, found, "{env}");
    }
}

pub async fn lists_newest_first<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    for number in 1..=5 {
        rig.commit(submitted(&job(number, 1))).await;
    }
    assert_eq!(ids(&rig, JobFilter::default(), 2).await, [job_id(5), job_id(4)]);
    let rest = JobFilter { before: Some(haul::store::JobPlace { id: job_id(4), end: None }), ..JobFilter::default() };
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
        rig.commit(submitted(&job)).await;
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
        rig.commit(submitted(&job)).await;
    }
    let between =
        JobFilter { created_after: Some(Timestamp(1)), created_before: Some(Timestamp(4)), ..JobFilter::default() };
    assert_eq!(ids(&rig, between, 9).await, [job_id(3), job_id(2)]);
    let ended = JobFilter { ended_after: Some(Timestamp(103)), ..JobFilter::default() };
    assert_eq!(ids(&rig, ended, 9).await, [job_id(4)]);
}

fn requested(number: u32, request: &str, digest: u8) -> Submission {
    Submission { request: Some((request.to_owned(), [digest; 32])), ..submission(&job(number, 1), 1) }
}

pub async fn a_request_is_stored_once<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.commit(Batch { submissions: vec![requested(1, "req '1'", 7)], ..Batch::default() }).await;
    assert_eq!(rig.store.request(Party::default(), "req '1'").await.unwrap(), Some((job_id(1), [7; 32])));
    assert_eq!(rig.store.request(Party::default(), "other").await.unwrap(), None);
    // Again, with another digest, beside others and twice in one batch.
    let submissions = vec![
        requested(2, "new", 1),
        requested(3, "req '1'", 8),
        submission(&job(4, 1), 1),
        requested(5, "new", 2),
        requested(6, "newer", 3),
    ];
    let done = rig.commit(Batch { submissions, ..Batch::default() }).await;
    let known = |number, digest| Submitted::Known { job: job_id(number), digest: [digest; 32] };
    let stored = || Submitted::Stored;
    assert_eq!(done.submissions, [stored(), known(1, 7), stored(), known(2, 1), stored()]);
    assert_eq!(ids(&rig, JobFilter::default(), 9).await, [6, 4, 2, 1].map(job_id));
    for number in [2, 4, 6] {
        assert_eq!(rig.store.tasks(job_id(number), &[], 0, 9).await.unwrap().items.len(), 1, "job {number}");
    }
    assert_eq!(rig.store.request(Party::default(), "new").await.unwrap(), Some((job_id(2), [1; 32])));
    // Of a job that is known, nothing can be changed.
    rig.refuse(3, Batch { jobs: vec![Arc::new(job(3, 1))], ..Batch::default() }).await;
}

/// The first of two equal requests is refused for another reason: the second one is not known then.
pub async fn a_request_of_a_refused_job_is_free<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 1).await;
    let submissions = vec![requested(1, "r", 1), requested(2, "r", 2)];
    let done = rig.refuse(1, Batch { submissions, ..Batch::default() }).await;
    assert_eq!(done.submissions[1], Submitted::Stored);
    assert_eq!(rig.store.request(Party::default(), "r").await.unwrap(), Some((job_id(2), [2; 32])));
}

/// Request ids are each principal's own, and so are lists.
pub async fn jobs_have_creators<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let by = |number: u32, no: u64| {
        let mut new = requested(number, "r", number as u8);
        new.job.creator = Creator { no, name: if no == 0 { String::new() } else { format!("p{no}") } };
        new
    };
    let submissions = vec![by(1, 0), by(2, 16), by(3, 17), by(4, 16)];
    let done = rig.commit(Batch { submissions, ..Batch::default() }).await;
    let known = Submitted::Known { job: job_id(2), digest: [2; 32] };
    assert_eq!(done.submissions, [Submitted::Stored, Submitted::Stored, Submitted::Stored, known]);
    assert_eq!(rig.store.request(Party::default(), "r").await.unwrap(), Some((job_id(1), [1; 32])));
    let of = |no| JobFilter { created_by: Some(no), ..JobFilter::default() };
    for (no, job) in [(0, 1), (16, 2), (17, 3)] {
        assert_eq!(ids(&rig, of(no), 9).await, [job_id(job)], "{no}");
        let filter = JobFilter { states: vec![JobState::Pending], ..of(no) };
        assert_eq!(ids(&rig, filter, 9).await, [job_id(job)], "{no}");
    }
    assert!(ids(&rig, of(18), 9).await.is_empty());
    let job = rig.store.job(job_id(2)).await.unwrap().unwrap();
    assert_eq!(job.creator, Creator { no: 16, name: "p16".into() });
}

pub async fn tenants_have_their_own_jobs_labels_and_requests<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let of = |number: u32, no: u32| {
        let mut new = requested(number, "r", number as u8);
        if no > 1 {
            new.job.tenant = Owner { no, name: format!("t{no}").into() };
        }
        let labels = [("team".to_owned(), "red".to_owned())].into();
        new.job.spec = Arc::new(JobSpec { labels, ..JobSpec::clone(&new.job.spec) });
        new
    };
    let submissions = vec![of(1, 1), of(2, 16), of(3, 17), of(4, 16), of(5, 1)];
    let done = rig.commit(Batch { submissions, ..Batch::default() }).await;
    let known = |number| Submitted::Known { job: job_id(number), digest: [number as u8; 32] };
    assert_eq!(done.submissions, [Submitted::Stored, Submitted::Stored, Submitted::Stored, known(2), known(1)]);
    for _ in 0..2 {
        let red = || [("team".to_owned(), "red".to_owned())].into();
        for (tenant, expected) in [(Some(1), vec![1]), (Some(16), vec![2]), (Some(17), vec![3]), (Some(18), vec![])] {
            let expected: Vec<JobId> = expected.into_iter().map(job_id).collect();
            let all = JobFilter { tenant, ..JobFilter::default() };
            let page = rig.store.job_ids(&all, 9).await.unwrap();
            assert_eq!((page.items, page.examined as usize), (expected.clone(), expected.len()), "{tenant:?}");
            for filter in [
                JobFilter { labels: red(), ..all.clone() },
                JobFilter { states: vec![JobState::Pending], ..all.clone() },
                JobFilter { states: vec![JobState::Pending, JobState::Failed], ..all.clone() },
                JobFilter { ids: (1..=5).map(job_id).collect(), ..all.clone() },
                JobFilter { created_by: Some(0), ..all.clone() },
            ] {
                assert_eq!(ids(&rig, filter.clone(), 9).await, expected, "{filter:?}");
            }
        }
        let all = JobFilter { labels: red(), ..JobFilter::default() };
        assert_eq!(ids(&rig, all, 9).await, [job_id(3), job_id(2), job_id(1)]);
        let job = rig.store.job(job_id(2)).await.unwrap().unwrap();
        assert_eq!(job.tenant, Owner { no: 16, name: "t16".into() });
        assert_eq!(rig.store.job(job_id(1)).await.unwrap().unwrap().tenant, Owner::default());
        rig = rig.restart::<B>(false).await;
    }
}

pub async fn who_may_call_is_kept<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    assert!(!rig.store.access().await.unwrap().is_required);
    let mut book = Book::default();
    for change in [
        AccessChange::CreatePrincipal {
            name: "ci".into(),
            title: "a \"title\"".into(),
            grants: vec!["submit".parse().unwrap()],
            identities: Vec::new(),
            disabled: false,
            default_tenant: String::new(),
            request_id: "r".into(),
        },
        AccessChange::CreateToken(NewToken {
            id: "t".into(),
            hash: TokenHash([7; 32]),
            principal: "ci".into(),
            title: String::new(),
            grants: Vec::new(),
            lifetime: None,
            lifetime_max: LIFETIME_MAX_DEFAULT,
            never_expires: false,
            request_id: String::new(),
        }),
        AccessChange::Used(vec![("t".into(), Timestamp(60_000_000), "192.0.2.1".into())]),
        AccessChange::DeletePrincipal { name: "ci".into(), etag: String::new() },
        AccessChange::CreateTenant {
            name: "a".into(),
            patch: Box::new(TenantPatch {
                title: Some("\"A\"".into()),
                weight: Some(3),
                quotas: Quotas { running_tasks: Some(0), requests_per_second: Some(0.5), ..Quotas::default() },
                named: vec![Quota::RunningTasks, Quota::RequestsPerSecond],
                ..TenantPatch::default()
            }),
            request_id: "r".into(),
        },
        AccessChange::DeleteTenant { name: "a".into(), etag: String::new() },
    ] {
        let applied = book.apply(&change, &Actor::local(), Timestamp(5)).unwrap();
        book = applied.book;
        rig.commit(Batch { access: applied.rows, ..Batch::default() }).await;
        rig = rig.restart::<B>(false).await;
        let kept = rig.store.access().await.unwrap();
        assert_eq!(kept.is_required, book.is_required);
        assert_eq!(format!("{kept:?}"), format!("{book:?}"), "{change:?}");
        let hash = kept.token("t").map(|token| token.hash);
        assert!(hash.is_none_or(|hash| hash.is(&TokenHash([7; 32]))));
    }
    assert!(book.is_required && book.principal("ci").is_none() && book.name_of(16) == "ci");
}

pub async fn a_chunk_is_stored_once<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 2).await;
    rig.job_of(2, 0).await;
    let chunk = |id: &str, digest: u8, count: u32| Addition {
        chunk_id: id.to_owned(),
        digest: [digest; 32],
        ..addition(1, (0..count).map(|index| (0, spec(index))).collect())
    };
    let additions = vec![chunk("c", 1, 3), chunk("c", 2, 1), chunk("", 0, 1), chunk("", 0, 1), chunk("d", 3, 1)];
    let done = rig.commit(Batch { additions, ..Batch::default() }).await;
    let first = Chunk { first: 2, count: 3, digest: [1; 32] };
    let stored = |first| Added::Stored { first };
    assert_eq!(done.additions, [stored(2), Added::Known(first.clone()), stored(5), stored(6), stored(7)]);
    rig = rig.restart::<B>(false).await;
    let done = rig.commit(Batch { additions: vec![chunk("c", 1, 3)], ..Batch::default() }).await;
    assert_eq!(done.additions, [Added::Known(first.clone())]);
    assert_eq!(rig.store.chunk(job_id(1), "c").await.unwrap(), Some(first));
    assert_eq!(rig.store.chunk(job_id(1), "e").await.unwrap(), None);
    assert_eq!(rig.store.chunk(job_id(2), "c").await.unwrap(), None);
    let counts = rig.store.job(job_id(1)).await.unwrap().unwrap().counts;
    assert_eq!((counts.total, counts.pending), (8, 8));
    assert_eq!(rig.store.tasks(job_id(1), &[], 0, 99).await.unwrap().items.len(), 8);
}

/// Lanes are stored whatever the answer is, since the engine has numbered them.
pub async fn taken_keys_are_answered<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 0).await;
    rig.job_of(2, 0).await;
    let keys = |number, keys: &[&str]| addition(number, keys.iter().map(|key| (0, keyed(key))).collect());
    let mut with_lane = keys(1, &["x", "a'\"", "", "b", "b"]);
    with_lane.new_lanes.push((1, Host::new("b.example:80")));
    let additions = vec![keys(1, &["a'\"", "b"]), with_lane, keys(2, &["b"]), keys(1, &["x"]), keys(1, &["y", "x"])];
    let done = rig.commit(Batch { additions, ..Batch::default() }).await;
    let stored = |first| Added::Stored { first };
    let taken = |places: &[u32]| Added::KeysTaken(places.to_vec());
    assert_eq!(done.additions, [stored(0), taken(&[1, 3, 4]), stored(0), stored(2), taken(&[1])]);
    assert_eq!(rig.store.task_by_key(job_id(1), "x").await.unwrap().unwrap().index, 2);
    assert_eq!(rig.store.task_by_key(job_id(1), "y").await.unwrap(), None);
    assert_eq!(rig.store.lanes(job_id(1)).await.unwrap().len(), 2);
}

/// Total and pending are the store's: what a row of the engine says of them is not written.
pub async fn total_and_pending_are_derived<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let mut job = rig.job_of(1, 3).await;
    job.counts.total = 77;
    job.counts.pending = 66;
    job.counts.running = 1;
    let batch = Batch {
        additions: vec![addition(1, vec![(0, spec(3))])],
        jobs: vec![Arc::new(job.clone())],
        ..Batch::default()
    };
    rig.commit(batch).await;
    let counts = rig.store.visit(job.id).await.unwrap().unwrap().counts;
    assert_eq!((counts.total, counts.pending, counts.running), (4, 3, 1));
    // More tasks in states than there are is a fault somewhere, and no reason to fail.
    job.counts.succeeded = 9;
    rig.commit(Batch { jobs: vec![Arc::new(job.clone())], ..Batch::default() }).await;
    assert_eq!(rig.store.visit(job.id).await.unwrap().unwrap().counts.pending, 0);
}

pub async fn limits_are_kept<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    assert_eq!(rig.store.limits().await.unwrap(), None);
    let hosts = vec![HostLimits { host: "a".into(), requests_per_second: 0.5, ..HostLimits::default() }];
    // What a change does not name stays as it was, or is nobody's.
    let mut limits = LimitsPatch { hosts: Some(hosts), ..LimitsPatch::default() };
    rig.commit(Batch { limits: Some(limits.clone()), ..Batch::default() }).await;
    for max_per_host in [Some(3), Some(4)] {
        assert_eq!(rig.store.limits().await.unwrap(), Some(limits.clone()));
        let change = LimitsPatch { max_per_host, ..LimitsPatch::default() };
        rig.commit(Batch { limits: Some(change), ..Batch::default() }).await;
        limits.max_per_host = max_per_host;
    }
    limits.hosts = Some(Vec::new());
    let change = LimitsPatch { hosts: Some(Vec::new()), ..LimitsPatch::default() };
    rig.commit(Batch { limits: Some(change), ..Batch::default() }).await;
    assert_eq!(rig.store.limits().await.unwrap(), Some(limits));
}

pub async fn pauses_are_kept<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    assert_eq!(rig.store.host_pauses().await.unwrap(), []);
    let key = |tenant, host: &str, cause| PauseKey { tenant, host: Host::new(host), cause };
    let pause = |time, until, failures, reason: &str| HostPause {
        time: Timestamp(time),
        until: Timestamp(until),
        failures,
        reason: reason.to_owned(),
    };
    let asked = (key(1, "a.example:443", PauseCause::Asked), pause(20, 900, 0, "answered 429"));
    let failing = (key(1, "a.example:443", PauseCause::Failures), pause(10, 500, 8, "refused"));
    let other = (key(16, "a.example:443", PauseCause::Asked), pause(30, 800, 0, ""));
    let begun = [&asked, &failing, &other].map(|(key, pause)| (key.clone(), Some(pause.clone())));
    rig.commit(Batch { pauses: begun.to_vec(), ..Batch::default() }).await;
    assert_eq!(rig.store.host_pauses().await.unwrap(), [failing.clone(), asked.clone(), other.clone()]);
    rig = rig.restart::<B>(false).await;
    assert_eq!(rig.store.host_pauses().await.unwrap(), [failing, asked.clone(), other.clone()]);
    // In the order in which it happened; beside a job that is refused as well.
    let later = (asked.0.clone(), pause(40, 950, 0, "answered 503"));
    let changes = vec![
        (other.0.clone(), None),
        (asked.0.clone(), None),
        (later.0.clone(), Some(later.1.clone())),
        (key(1, "a.example:443", PauseCause::Failures), None),
        (key(1, "never.example:80", PauseCause::Asked), None),
    ];
    rig.refuse(1, Batch { pauses: changes, jobs: vec![Arc::new(job(1, 1))], ..Batch::default() }).await;
    assert_eq!(rig.store.host_pauses().await.unwrap(), [later]);
}

pub async fn an_unknown_job_is_refused<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.refuse(1, Batch { jobs: vec![Arc::new(job(1, 1))], ..Batch::default() }).await;
    rig.refuse(1, Batch { additions: vec![addition(1, vec![(0, spec(0))])], ..Batch::default() }).await;
}

/// What contradicts the store excludes the items of its job; those of others are committed, and answers keep their order.
pub async fn a_refused_job_leaves_the_others<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 1).await;
    rig.job_of(2, 1).await;
    let claim = |number, index| claim_of(task_id(number, index), &TaskRow::default().task, 100);
    let mut batch = Batch {
        submissions: vec![submission(&job(3, 1), 1), submission(&job(1, 1), 1), submission(&job(4, 2), 2)],
        additions: vec![
            addition(2, vec![(0, spec(1))]),
            addition(9, vec![(0, spec(0))]),
            addition(2, vec![(0, spec(2))]),
        ],
        claims: vec![claim(2, 0), claim(1, 0), claim(9, 0)],
        limits: Some(LimitsPatch { max_per_host: Some(3), ..LimitsPatch::default() }),
        ..Batch::default()
    };
    batch.events.push(job_event(&Job { sequence: 1, ..job(1, 1) }, EventKind::JobChanged));
    let done = rig.try_commit(batch).await.unwrap();
    let refused: Vec<JobId> = done.refused.iter().map(|(job, _)| *job).collect();
    assert_eq!(refused, [job_id(1), job_id(9)], "{done:?}");
    assert!(done.refused[1].1.contains(&job_id(9).to_string()), "{done:?}");
    let added: Vec<_> = [0, 2].map(|place| done.additions[place].clone()).into();
    assert_eq!(added, [Added::Stored { first: 1 }, Added::Stored { first: 2 }]);
    assert_eq!(done.additions.len(), 3);
    assert_eq!(done.submissions.len(), 3);
    assert_eq!(ids(&rig, JobFilter::default(), 9).await, [4, 3, 2, 1].map(job_id));
    let state = async |number| rig.store.task(task_id(number, 0)).await.unwrap().unwrap().row.task.state;
    assert_eq!(state(2).await, TaskState::Running);
    assert_eq!(state(1).await, TaskState::Pending, "nothing of a refused job stays");
    assert!(rig.store.events(job_id(1), 0, 9).await.unwrap().items.is_empty());
    assert_eq!(rig.store.limits().await.unwrap().unwrap().max_per_host, Some(3));
    // The writer remembers nothing of what was refused, and goes on.
    rig.refuse(9, Batch { claims: vec![claim(9, 0)], ..Batch::default() }).await;
    rig.job_of(9, 1).await;
    rig.commit(Batch { claims: vec![claim(9, 0)], ..Batch::default() }).await;
}

pub async fn a_task_that_is_not_there_is_refused<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 1).await;
    let claim = claim_of(task_id(1, 1), &TaskRow::default().task, 100);
    rig.refuse(1, Batch { claims: vec![claim.clone()], ..Batch::default() }).await;
    // Not even one of a chunk that is refused along with it.
    let additions = vec![addition(1, vec![(0, spec(1))])];
    rig.commit(Batch { additions, claims: vec![claim.clone()], ..Batch::default() }).await;
    rig.refuse(1, Batch { additions: vec![addition(1, vec![(0, spec(2))])], claims: vec![claim], ..Batch::default() })
        .await;
    let claim = claim_of(task_id(1, 2), &TaskRow::default().task, 100);
    rig.refuse(1, Batch { claims: vec![claim], ..Batch::default() }).await;
    assert_eq!(rig.store.recount(job_id(1)).await.unwrap().total, 2);
}

pub async fn events_run_out_for_one_job_alone<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 1).await;
    rig.job_of(2, 1).await;
    let event = |number, sequence| job_event(&Job { sequence, ..job(number, 1) }, EventKind::JobChanged);
    rig.refuse(1, Batch { events: vec![event(1, 1 << 32), event(2, 1)], ..Batch::default() }).await;
    assert_eq!(rig.store.events(job_id(2), 0, 9).await.unwrap().items.len(), 1);
}

/// More than one statement holds, and numbers of rows that fill none.
pub async fn many_in_one_batch<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    let mut batch = Batch::default();
    for number in 1..=70 {
        batch.submissions.push(submission(&job(number, 5), 5));
    }
    rig.commit(batch).await;
    assert_eq!(rig.store.jobs(&JobFilter::default(), 100).await.unwrap().items.len(), 70);
    for number in 1..=70 {
        let tasks = rig.store.tasks(job_id(number), &[], 0, 10).await.unwrap().items;
        assert_eq!(tasks.len(), 5);
        assert_eq!(tasks[4].spec, spec(4));
    }
}
