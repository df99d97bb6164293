//! What went wrong in a job: where its failure happened, and how many tasks failed how.

use haul::pb;
use haul::pb::watch_job_response::Event;

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, until};
use crate::support::spec::{download, fetch, group, job, millis, once, with_timeouts};

fn kinds(failures: &[pb::FailureCount]) -> Vec<(u32, &str, u32, &[u32])> {
    failures.iter().map(|it| (it.http_status, it.host.as_str(), it.count, it.sample_task_indexes.as_slice())).collect()
}

#[tokio::test]
async fn a_job_says_where_and_how_often_it_failed() {
    let (mut server, one, other) = (Server::start().await, Origin::start(), Origin::start());
    one.reply("/ok", Reply::ok("fine"));
    one.reply("/gone", Reply::status(404));
    other.reply("/gone", Reply::status(404));
    other.reply("/broken", Reply::status(500));
    let mut tasks: Vec<_> = (0..8).map(|_| fetch(one.url("/gone?token=SESAME"))).collect();
    tasks.insert(0, fetch(one.url("/ok")));
    tasks.extend([fetch(other.url("/gone")), fetch(other.url("/broken")), fetch(other.url("/broken"))]);
    let group = Some(group(pb::GroupMode::Collect, 0));
    // One after the other, so that the first failure is that of the lowest index.
    let group = group.map(|it| pb::GroupPolicy { max_concurrency: 1, ..it });
    let spec = pb::JobSpec { group, defaults: Some(once()), ..job(tasks) };
    let ended = server.run(spec).await;
    let id = ended.job_id.clone();

    let failure = ended.failure.clone().unwrap();
    let index = failure.task_index.unwrap();
    let own = server.task(&id, index).await;
    assert_eq!(own.error.as_ref().unwrap().message, failure.message);
    assert_eq!(
        (own.error.as_ref().unwrap().task_index, own.error.unwrap().url.as_str()),
        (None, ""),
        "within its task"
    );
    assert_eq!(failure.url, own.url);
    let events = server.events(&id, 0).await;
    let first = events.iter().find_map(|event| match event.event.as_ref()? {
        Event::TaskEnded(task) if task.state() == pb::TaskState::Failed => Some(task.task_index),
        _ => None,
    });
    assert_eq!(Some(index), first, "the first failure in the order of the events");

    let (here, there) = (one.address().to_string(), other.address().to_string());
    let expected: [(u32, &str, u32, &[u32]); 3] =
        [(404, &here, 8, &[1, 2, 3, 4, 5]), (500, &there, 2, &[10, 11]), (404, &there, 1, &[9])];
    assert_eq!(kinds(&ended.failures), expected);
    assert_eq!(ended.failures.iter().map(|it| it.count).sum::<u32>(), ended.counts.unwrap().failed);
    assert!(ended.failures.iter().all(|it| it.reason() == pb::FailureReason::HttpStatus));
    assert!(ended.failures[0].sample_message.contains("404"), "{ended:?}");
    assert!(!format!("{ended:?}").contains("SESAME"), "{ended:?}");
    let Some(Event::JobEnded(last)) = events.last().unwrap().event.clone() else { panic!("{events:?}") };
    assert_eq!((last.failures, last.failure), (ended.failures.clone(), ended.failure));
    let listed = server.jobs().list_jobs(pb::ListJobsRequest::default()).await.unwrap().into_inner().jobs;
    assert_eq!(listed[0].failures, ended.failures[..1], "lists have the largest kind");
    server.restart().await;
    assert_eq!(server.job(&id).await.failures, ended.failures);

    // What runs again is no failure any more; what stays is.
    other.reply("/broken", Reply::ok("fine"));
    one.reply("/gone", Reply::ok("fine"));
    let request = pb::RetryJobRequest { job_id: id.clone(), task_indexes: vec![1, 2, 10, 11], filter: None };
    server.jobs().retry_job(request).await.unwrap();
    let ended = server.ended(&id).await;
    let expected: [(u32, &str, u32, &[u32]); 2] = [(404, &here, 6, &[3, 4, 5]), (404, &there, 1, &[9])];
    assert_eq!(kinds(&ended.failures), expected);
    assert_eq!(ended.counts.unwrap().failed, 7);
    assert!(ended.failure.unwrap().task_index.is_some());
    other.reply("/gone", Reply::ok("fine"));
    let request = pb::RetryJobRequest { job_id: id.clone(), task_indexes: Vec::new(), filter: None };
    server.jobs().retry_job(request).await.unwrap();
    let ended = server.ended(&id).await;
    assert_eq!((ended.state(), ended.failures, ended.failure), (pb::JobState::Succeeded, Vec::new(), None));
    // In each event: while tasks are put back as well, which is when `RetryJob` has begun.
    let told = server.events(&id, 0).await.into_iter().filter_map(|event| match event.event? {
        Event::JobChanged(job) | Event::JobEnded(job) => Some(job),
        _ => None,
    });
    let told: Vec<pb::Job> = told.collect();
    assert!(told.iter().filter(|job| job.state() == pb::JobState::Pending).count() >= 2, "{told:?}");
    for job in told {
        let (sum, counts) = (job.failures.iter().map(|it| it.count).sum::<u32>(), job.counts.unwrap());
        assert_eq!(sum, counts.failed, "{:?} {counts:?} {:?}", job.state(), job.failures);
    }
}

/// Kinds go with the tasks that are put back, and those of the others stay, whatever ends the retry in its midst.
#[tokio::test]
async fn a_job_says_how_its_tasks_failed_while_some_are_put_back() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.reply("/gone", Reply::status(404));
    origin.reply("/broken", Reply::status(500));
    // More than one commit puts back.
    let tasks = (0..4_200).map(|index| fetch(origin.url(if index % 3 == 0 { "/broken" } else { "/gone" })));
    let group = Some(group(pb::GroupMode::Collect, 0));
    let spec = pb::JobSpec { group, defaults: Some(once()), ..job(tasks.collect()) };
    let id = server.run(spec).await.job_id;
    let adds_up = async |server: &Server| {
        let job = server.job(&id).await;
        let (sum, counts) = (job.failures.iter().map(|it| it.count).sum::<u32>(), job.counts.unwrap());
        assert_eq!(sum, counts.failed, "{:?} {counts:?} {:?}", job.state(), job.failures);
        counts
    };
    assert_eq!(adds_up(&server).await.failed, 4_200);
    origin.reply("/gone", Reply::hang());
    origin.reply("/broken", Reply::hang());
    let mut jobs = server.jobs();
    let request = pb::RetryJobRequest { job_id: id.clone(), ..Default::default() };
    let mut retry = tokio::task::JoinSet::from_iter([async move { drop(jobs.retry_job(request).await) }]);
    until(|| async { adds_up(&server).await.failed < 4_200 }).await;
    server.kill();
    retry.join_next().await.unwrap().unwrap();
    server.launch().await;
    adds_up(&server).await;
    let request = pb::CancelJobRequest { job_id: id.clone(), ..Default::default() };
    server.jobs().cancel_job(request).await.unwrap();
    let ended = server.ended(&id).await;
    assert_eq!(ended.state(), pb::JobState::Cancelled);
    let left = adds_up(&server).await;
    assert_eq!(left.failed + left.cancelled, 4_200, "{left:?}");
}

/// Bytes that are always there use up every turn of the attempt that reads them.
#[tokio::test]
async fn a_flood_does_not_outlast_the_time_of_its_attempt() {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/f", listener.local_addr().unwrap());
    let flood = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunks = b"1\r\nx\r\n".repeat(10_000);
        while stream.write_all(&chunks).is_ok() {}
    });
    let server = Server::start().await;
    let timeouts = pb::Timeouts { attempt: Some(millis(300)), ..Default::default() };
    let ended = server.run(pb::JobSpec { defaults: Some(with_timeouts(timeouts)), ..job(vec![download(url)]) }).await;
    assert_eq!(ended.failure.unwrap().reason(), pb::FailureReason::TimeoutAttempt);
    flood.join().unwrap();
}
