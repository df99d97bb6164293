//! Watchers that do not read: each costs little, and calls beside them are answered.

use haul::pb;
use haul::pb::watch_job_response::Event;
use tonic::transport::Channel;

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{PATIENCE, Server, until};
use crate::support::spec::{fetch, fetch_as, job, millis};

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_never_read_take_little_memory_and_no_connection() {
    const TASKS: usize = 20;
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let large = |_| {
        fetch_as(pb::FetchSpec {
            url: origin.url("/a"),
            method: "POST".into(),
            body: vec![b'x'; 20_000].into(),
            ..Default::default()
        })
    };
    let ended = server.run(job((0..TASKS).map(large).collect())).await;
    let before = server.peak_mib();
    let mut open = Vec::new();
    for _ in 0..10 {
        let channel = Channel::from_shared(format!("http://{}", server.address)).unwrap().connect().await.unwrap();
        for _ in 0..10 {
            let request =
                pb::WatchJobRequest { job_id: ended.job_id.clone(), after_sequence: Some(0), ..Default::default() };
            let mut client = pb::job_service_client::JobServiceClient::new(channel.clone());
            open.push(client.watch_job(request).await.unwrap().into_inner());
        }
    }
    let mut client = server.jobs();
    for _ in 0..50 {
        let request = pb::GetJobRequest { job_id: ended.job_id.clone(), ..Default::default() };
        let job = tokio::time::timeout(PATIENCE, client.get_job(request)).await.unwrap().unwrap();
        assert_eq!(job.into_inner().job.unwrap().sequence, ended.sequence);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let grown = server.peak_mib() - before;
    assert!(grown < 150, "{} watchers take {grown} MiB", open.len());
    // Who reads after all misses nothing.
    let mut last = open.pop().unwrap();
    drop(open);
    let mut told = 0;
    while let Some(message) = tokio::time::timeout(PATIENCE, last.message()).await.unwrap().unwrap() {
        if matches!(message.event, Some(Event::TaskEnded(_))) {
            told += 1;
        }
    }
    assert_eq!(told, TASKS);
}

/// A stream whose client has no room for its first messages does not wait for the store meanwhile, whose few connections
/// it would keep from everybody else.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_reads_keep_nothing_from_others() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let ended = server.run(job((0..5).map(|_| fetch(origin.url("/a"))).collect())).await;
    let channel = Channel::from_shared(format!("http://{}", server.address)).unwrap();
    let channel = channel.initial_stream_window_size(1).connect().await.unwrap();
    let mut client = pb::job_service_client::JobServiceClient::new(channel.clone());
    let (mut of_one, mut of_all) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let (job_id, after_sequence) = (ended.job_id.clone(), Some(0));
        let request = pb::WatchJobRequest { job_id, after_sequence, include_body: true, ..Default::default() };
        of_one.push(client.watch_job(request).await.unwrap().into_inner());
        let request = pb::WatchJobsRequest { ended_after: ended.create_time, totals: true, ..Default::default() };
        of_all.push(client.watch_jobs(request).await.unwrap().into_inner());
    }
    let mut other = server.jobs();
    for _ in 0..20 {
        let request = pb::GetJobRequest { job_id: ended.job_id.clone(), ..Default::default() };
        let job = tokio::time::timeout(PATIENCE, other.get_job(request)).await.unwrap().unwrap();
        assert_eq!(job.into_inner().job.unwrap().sequence, ended.sequence);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    // All of them go on where somebody reads after all.
    for mut stream in of_one {
        let mut told = 0;
        while let Some(message) = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap() {
            told += u32::from(matches!(message.event, Some(Event::TaskEnded(_))));
        }
        assert_eq!(told, 5);
    }
}

/// Why tasks wait is told with the progress, by reason.
#[tokio::test]
async fn progress_says_why_tasks_wait() {
    let (server, origin) = (Server::with(&["--allow-private-networks", "--max-per-host", "2"]).await, Origin::start());
    origin.reply("/stall", Reply::hang());
    let id = server.submit(job((0..10).map(|_| fetch(origin.url("/stall"))).collect())).await;
    until(async || origin.requests("/stall").len() == 2).await;
    let request = pb::WatchJobRequest { job_id: id.clone(), progress_interval: Some(millis(50)), ..Default::default() };
    let mut stream = server.jobs().watch_job(request).await.unwrap().into_inner();
    let mut next = async |wanted: pb::WaitReason| loop {
        let message = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
        let Some(Event::Progress(progress)) = message.event else { continue };
        let tasks = progress.waiting.iter().find(|it| it.waiting.as_ref().is_some_and(|it| it.reason() == wanted));
        if let Some(tasks) = tasks {
            return tasks.tasks;
        }
    };
    assert_eq!(next(pb::WaitReason::HostLimit).await, 8);
    server.jobs().pause_job(pb::PauseJobRequest { job_id: id }).await.unwrap();
    assert!(next(pb::WaitReason::JobPaused).await >= 8);
}
