//! What is looked for among jobs, tasks and events: what fits comes once and in order, however small the looks are.

use std::sync::Arc;

use haul::model::event::EventKind;
use haul::model::failure::{Failure, FailureReason, TaskError};
use haul::model::host::Host;
use haul::model::ids::{JobId, TaskIndex};
use haul::model::job::{Job, JobState};
use haul::model::search::Search;
use haul::model::spec::{FetchSpec, TaskSpec, Work};
use haul::model::task::{TaskEvent, TaskState};
use haul::model::task_filter::TaskFilter;
use haul::model::time::Timestamp;
use haul::store::{Batch, JobFilter, JobOrder, Submission, TaskQuery};

use super::support::*;

/// All jobs that fit, by pages of every size that look at few rows.
async fn jobs(rig: &Rig, filter: &JobFilter) -> Vec<JobId> {
    let mut all: Option<Vec<JobId>> = None;
    for (limit, look_max) in [(100, 0), (1, 1), (2, 3), (3, 2)] {
        let mut filter = JobFilter { look_max, ..filter.clone() };
        let (mut found, mut names) = (Vec::new(), Vec::new());
        loop {
            let page = rig.store.jobs(&filter, limit).await.unwrap();
            assert!(page.items.len() <= limit as usize && (look_max == 0 || page.examined <= look_max), "{page:?}");
            assert!(page.examined >= page.items.len() as u32);
            assert_eq!(rig.store.job_ids(&filter, limit).await.unwrap().next, page.next);
            names.extend(rig.store.job_ids(&filter, limit).await.unwrap().items);
            found.extend(page.items.iter().map(|job| job.id));
            filter.before = page.next;
            if filter.before.is_none() {
                break;
            }
        }
        assert_eq!(names, found, "names and jobs");
        let all = all.get_or_insert_with(|| found.clone());
        assert_eq!(&found, all, "{limit} a page, {look_max} a look");
    }
    all.unwrap()
}

fn numbers(ids: &[JobId]) -> Vec<u32> {
    ids.iter().map(|id| id.0.as_u128() as u32).collect()
}

async fn ended<B: Backend>() -> Rig {
    let mut rig = Rig::new::<B>().await;
    for (number, title, team, end) in [
        (1, "Nightly Mirror", "red", Some(50)),
        (2, "weights at 50%", "blue", Some(30)),
        (3, "docs", "mirrors", None),
        (4, "", "red", Some(30)),
        (5, "a_b", "", Some(70)),
        (6, "axb", "green", None),
    ] {
        let mut job = job(number, 0);
        let spec = Arc::make_mut(&mut job.spec);
        title.clone_into(&mut spec.title);
        spec.labels = [("team".to_owned(), team.to_owned())].into();
        rig.commit(with_job(&job, 0)).await;
        if let Some(end) = end {
            job.state = if number == 5 { JobState::Failed } else { JobState::Succeeded };
            job.end_time = Some(Timestamp(end));
            rig.commit(Batch { jobs: vec![Arc::new(job)], ..Batch::default() }).await;
        }
    }
    rig
}

pub async fn jobs_are_found_by_a_text<B: Backend>() {
    let rig = ended::<B>().await;
    let found =
        async |text: &str| numbers(&jobs(&rig, &JobFilter { search: Search::new(text), ..JobFilter::default() }).await);
    assert_eq!(found("").await, [6, 5, 4, 3, 2, 1]);
    assert_eq!(found("MIRROR").await, [3, 1], "a title and the value of a label");
    assert_eq!(found("50%").await, [2]);
    assert_eq!(found("%").await, [2]);
    assert_eq!(found("a_b").await, [5], "no sign has a meaning");
    assert!(found("team").await.is_empty(), "the key of a label is not looked at");
    let id = job_id(4).to_string();
    assert_eq!(found(&id).await, [4]);
    assert_eq!(found(&id.to_uppercase()).await, [4]);
    assert_eq!(found(&id[..20]).await, [6, 5, 4, 3, 2, 1], "the beginning of an id");
    assert!(found(&id[1..]).await.is_empty(), "and no other part of it");
    let search = Search::new("r");
    let both = JobFilter { search, states: vec![JobState::Succeeded], ..JobFilter::default() };
    assert_eq!(numbers(&jobs(&rig, &both).await), [4, 1], "all conditions hold together");
}

pub async fn jobs_are_found_by_their_end<B: Backend>() {
    let rig = ended::<B>().await;
    let by_end = JobFilter { order: JobOrder::Ended, ..JobFilter::default() };
    assert_eq!(numbers(&jobs(&rig, &by_end).await), [5, 1, 4, 2], "the last first, ended ones alone");
    let at = |time| Some(Timestamp(time));
    let between = |after, before| JobFilter { ended_after: after, ended_before: before, ..by_end.clone() };
    assert_eq!(numbers(&jobs(&rig, &between(at(30), None)).await), [5, 1], "not at it");
    assert_eq!(numbers(&jobs(&rig, &between(None, at(70))).await), [1, 4, 2]);
    assert_eq!(numbers(&jobs(&rig, &between(at(29), at(31))).await), [4, 2]);
    let failed = JobFilter { states: vec![JobState::Failed, JobState::Pending], ..by_end.clone() };
    assert_eq!(numbers(&jobs(&rig, &failed).await), [5]);
    let red = JobFilter { labels: [("team".to_owned(), "red".to_owned())].into(), ..by_end.clone() };
    assert_eq!(numbers(&jobs(&rig, &red).await), [1, 4]);
    let created = JobFilter { order: JobOrder::Created, ..between(at(29), at(60)) };
    assert_eq!(numbers(&jobs(&rig, &created).await), [4, 2, 1], "in the order of their creation");
}

pub async fn jobs_are_found_by_name<B: Backend>() {
    let rig = ended::<B>().await;
    let named = JobFilter { ids: vec![job_id(2), job_id(5), job_id(99), job_id(3), job_id(2)], ..JobFilter::default() };
    assert_eq!(numbers(&jobs(&rig, &named).await), [5, 3, 2]);
    let ended = JobFilter { states: vec![JobState::Succeeded, JobState::Failed], ..named };
    assert_eq!(numbers(&jobs(&rig, &ended).await), [5, 2]);
}

fn failure(reason: FailureReason, http_status: u16) -> TaskError {
    Failure { http_status, ..Failure::retryable(reason, "no") }.into_error(1)
}

fn task(key: &str, url: &str) -> Arc<TaskSpec> {
    let work = Work::Fetch(FetchSpec { url: url.to_owned(), ..FetchSpec::default() });
    Arc::new(TaskSpec { key: key.to_owned(), work, ..(*spec(0)).clone() })
}

/// Three hosts; tasks pending, running, backing off, succeeded, failed twice, cancelled by a sweep.
async fn mixed<B: Backend>() -> Rig {
    let mut rig = Rig::new::<B>().await;
    let job = Job::new(job_id(1), haul::model::spec::JobSpec::default(), 10, Timestamp(1));
    let urls = [
        (0, "first", "https://a.example/Files/0?token=SESAME"),
        (1, "", "https://me:pw@b.example/files/1"),
        (0, "", "https://a.example/files/2"),
        (1, "", "https://b.example/a b/3"),
        (2, "k4", "https://a.example:8443/files/4"),
        (0, "", "https://a.example/files/5"),
        (0, "", "https://a.example/files/6"),
        (1, "", "https://b.example/files/7"),
        (0, "", "https://a.example/files/8"),
        (2, "", "https://a.example:8443/files/9"),
    ];
    let lanes = ["a.example:443", "b.example:443", "a.example:8443"].map(Host::new).to_vec();
    let tasks = urls.iter().map(|(lane, key, url)| (*lane, task(key, url))).collect();
    rig.commit(Batch { submissions: vec![Submission { job, request: None, lanes, tasks }], ..Batch::default() }).await;
    let fresh = rig.store.task(task_id(1, 1)).await.unwrap().unwrap().row.task;
    rig.commit(Batch { claims: vec![claim_of(task_id(1, 1), &fresh, 100)], ..Batch::default() }).await;
    let backs_off = |task: &haul::model::task::Task| {
        TaskEvent::BackedOff(task.fence, failure(FailureReason::HttpStatus, 503), Timestamp(900))
    };
    rig.end(task_id(1, 2), backs_off).await;
    rig.end(task_id(1, 7), backs_off).await;
    // Its attempt runs again: what it shows is not its failure any more.
    let before = rig.store.task(task_id(1, 7)).await.unwrap().unwrap().row.task;
    rig.commit(Batch { claims: vec![claim_of(task_id(1, 7), &before, 300)], ..Batch::default() }).await;
    rig.end(task_id(1, 3), succeeded).await;
    rig.end(task_id(1, 4), |it| TaskEvent::Failed(it.fence, failure(FailureReason::HttpStatus, 404))).await;
    rig.end(task_id(1, 5), |it| TaskEvent::Failed(it.fence, failure(FailureReason::Tls, 0))).await;
    rig.end(task_id(1, 6), |_| TaskEvent::Cancelled(failure(FailureReason::Cancelled, 0))).await;
    rig
}

async fn tasks(rig: &Rig, query: &TaskQuery) -> Vec<TaskIndex> {
    let mut all: Option<Vec<TaskIndex>> = None;
    for (limit, look_max) in [(100, 0), (1, 1), (2, 3), (3, 2)] {
        let mut query = TaskQuery { look_max, ..query.clone() };
        let mut found = Vec::new();
        loop {
            let page = rig.store.find_tasks(job_id(1), &query, limit).await.unwrap();
            assert!(page.items.len() <= limit as usize && (look_max == 0 || page.examined <= look_max), "{page:?}");
            assert!(page.examined >= page.items.len() as u32);
            for task in &page.items {
                let mut whole = rig.store.task(task_id(1, task.index)).await.unwrap().unwrap();
                whole.row.log.drain(..whole.row.log.len().saturating_sub(usize::from(whole.row.outcome.is_none())));
                assert_eq!(*task, whole);
            }
            found.extend(page.items.iter().map(|task| task.index));
            match page.next {
                Some(next) => query.from = next,
                None => break,
            }
        }
        let all = all.get_or_insert_with(|| found.clone());
        assert_eq!(&found, all, "{limit} a page, {look_max} a look");
    }
    all.unwrap()
}

pub async fn tasks_are_found_by_all_conditions<B: Backend>() {
    use TaskState as S;
    let rig = mixed::<B>().await;
    let of = |filter: TaskFilter| TaskQuery { filter, ..TaskQuery::default() };
    let by_states = |states: &[S]| of(TaskFilter { states: states.to_vec(), ..TaskFilter::default() });
    assert_eq!(tasks(&rig, &TaskQuery::default()).await, (0..10).collect::<Vec<_>>());
    for (states, found) in [
        (&[S::Pending][..], &[0, 8, 9][..]),
        (&[S::Running], &[1, 7]),
        (&[S::BackingOff], &[2]),
        (&[S::Pending, S::BackingOff, S::Succeeded], &[0, 2, 3, 8, 9]),
        (&[S::Failed, S::Cancelled], &[4, 5, 6]),
        (&S::ALL, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ] {
        assert_eq!(tasks(&rig, &by_states(states)).await, found, "{states:?}");
    }
    let host = |host: &str| TaskFilter { host: host.to_owned(), ..TaskFilter::default() };
    assert_eq!(tasks(&rig, &of(host("a.example:443"))).await, [0, 2, 5, 6, 8]);
    assert_eq!(tasks(&rig, &of(host("a.example"))).await, [0, 2, 4, 5, 6, 8, 9]);
    assert!(tasks(&rig, &of(host("a.exa"))).await.is_empty());
    assert!(tasks(&rig, &of(host("a%"))).await.is_empty());
    let failed = |reasons: &[FailureReason], http_statuses: &[u16]| TaskFilter {
        reasons: reasons.to_vec(),
        http_statuses: http_statuses.to_vec(),
        ..TaskFilter::default()
    };
    let http = [FailureReason::HttpStatus];
    assert_eq!(tasks(&rig, &of(failed(&http, &[]))).await, [2, 4]);
    assert_eq!(tasks(&rig, &of(failed(&[], &[503]))).await, [2], "one that is tried again does not count");
    assert_eq!(tasks(&rig, &of(failed(&[FailureReason::Tls, FailureReason::Cancelled], &[]))).await, [5, 6]);
    assert!(tasks(&rig, &of(failed(&[FailureReason::Tls], &[404]))).await.is_empty());
    let both = TaskFilter { states: vec![S::Failed], host: "a.example".into(), ..failed(&http, &[404, 500]) };
    assert_eq!(tasks(&rig, &of(both)).await, [4]);
    let from = TaskQuery { from: 4, ..by_states(&[S::Pending, S::Failed]) };
    assert_eq!(tasks(&rig, &from).await, [4, 5, 8, 9]);
    let contrary = TaskFilter { states: vec![S::Succeeded], ..failed(&http, &[]) };
    assert!(tasks(&rig, &of(contrary)).await.is_empty());
}

pub async fn tasks_are_found_by_what_people_see<B: Backend>() {
    let rig = mixed::<B>().await;
    let found = async |text: &str| tasks(&rig, &TaskQuery { search: Search::new(text), ..TaskQuery::default() }).await;
    assert_eq!(found("FILES/").await, [0, 1, 2, 4, 5, 6, 7, 8, 9]);
    assert_eq!(found("8443").await, [4, 9]);
    assert_eq!(found("k4").await, [4], "a key");
    assert_eq!(found("a%20b").await, [3], "as answers show it");
    assert!(found("a b").await.is_empty());
    assert!(found("sesame").await.is_empty(), "no secret can be guessed");
    assert!(found("me:pw").await.is_empty());
    assert_eq!(found("token=redacted").await, [0]);
    let filter = TaskFilter { states: vec![TaskState::Failed], ..TaskFilter::default() };
    let both = TaskQuery { filter, search: Search::new("files/4"), ..TaskQuery::default() };
    assert_eq!(tasks(&rig, &both).await, [4]);
    assert!(rig.store.find_tasks(job_id(9), &both, 9).await.unwrap().items.is_empty(), "there is no such job");
}

pub async fn events_come_from_the_last_on<B: Backend>() {
    let mut rig = Rig::new::<B>().await;
    rig.job_of(1, 3).await;
    let mut job = job(1, 3);
    for sequence in 1..=7 {
        job.sequence = sequence;
        let event = match sequence {
            2 | 4 | 5 => {
                let index = [0, 1, 2][[2, 4, 5].iter().position(|it| *it == sequence).unwrap()];
                rig.end(task_id(1, index), succeeded).await;
                ended_event(task_id(1, index), sequence)
            }
            7 => job_event(&job, EventKind::JobEnded),
            _ => job_event(&job, EventKind::JobChanged),
        };
        rig.commit(Batch { events: vec![event], ..Batch::default() }).await;
    }
    let list = async |kinds: &[EventKind], limit| {
        let (mut before, mut all) = (u64::MAX, Vec::new());
        loop {
            let page = rig.store.events_before(job_id(1), before, kinds, limit).await.unwrap();
            assert!(page.items.len() <= limit as usize);
            all.extend(page.items.iter().map(|event| event.head.sequence));
            match page.next {
                Some(next) => before = next,
                None => return all,
            }
        }
    };
    for limit in [1, 2, 99] {
        assert_eq!(list(&[], limit).await, [7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(list(&[EventKind::TaskEnded], limit).await, [5, 4, 2]);
        assert_eq!(list(&[EventKind::JobEnded, EventKind::JobChanged], limit).await, [7, 6, 3, 1]);
    }
    let page = rig.store.events_before(job_id(1), 5, &[EventKind::TaskEnded], 1).await.unwrap();
    assert_eq!(page.items[0].task.as_ref().unwrap().index, 1);
    assert!(rig.store.events_before(job_id(2), u64::MAX, &[], 9).await.unwrap().items.is_empty());
}
