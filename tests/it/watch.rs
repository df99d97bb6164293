//! Watching: a snapshot, every durable event once and in order, conflated progress.

use std::time::Duration;

use haul::pb;
use haul::pb::watch_job_response::Event;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{PATIENCE, Server, is_durable};
use crate::support::spec::{fetch, group, job, millis, quick_retry};

fn kind(event: &pb::WatchJobResponse) -> &'static str {
    match event.event.as_ref().unwrap() {
        Event::Snapshot(_) => "snapshot",
        Event::TaskEnded(_) => "task_ended",
        Event::JobChanged(_) => "job_changed",
        Event::JobEnded(_) => "job_ended",
        Event::Progress(_) => "progress",
        Event::TaskStarted(_) => "task_started",
        Event::TaskBackingOff(_) => "task_backing_off",
        Event::Heartbeat(_) => "heartbeat",
    }
}

#[tokio::test]
async fn live_and_replay_are_the_same_list() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a").delay(Duration::from_millis(30)));
    let id = server.submit(job((0..20).map(|_| fetch(origin.url("/a"))).collect())).await;
    let request = pb::WatchJobRequest { job_id: id.clone(), after_sequence: Some(0), ..Default::default() };
    let mut stream = server.jobs().watch_job(request).await.unwrap().into_inner();
    let mut live = Vec::new();
    while let Some(event) = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap() {
        live.push(event);
    }
    assert_eq!(kind(&live[0]), "snapshot");
    assert_eq!(kind(live.last().unwrap()), "job_ended");
    let durable: Vec<_> = live.into_iter().filter(is_durable).collect();
    assert_eq!(durable.iter().map(|it| it.sequence).collect::<Vec<_>>(), (1..=22).collect::<Vec<_>>());
    assert_eq!(durable.iter().filter(|it| kind(it) == "task_ended").count(), 20);

    let replayed = server.events(&id, 0).await;
    assert_eq!(replayed, durable);
    assert_eq!(server.events(&id, 15).await, durable[15..]);
}

#[tokio::test]
async fn an_ended_job_says_so_and_closes() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let ended = server.run(job(vec![fetch(origin.url("/a"))])).await;
    for after_sequence in [None, Some(ended.sequence)] {
        let request = pb::WatchJobRequest { job_id: ended.job_id.clone(), after_sequence, ..Default::default() };
        let mut stream = server.jobs().watch_job(request).await.unwrap().into_inner();
        assert_eq!(kind(&stream.message().await.unwrap().unwrap()), "snapshot");
        assert!(stream.message().await.unwrap().is_none());
    }
    let ahead = Some(ended.sequence + 1);
    let request = pb::WatchJobRequest { job_id: ended.job_id, after_sequence: ahead, ..Default::default() };
    assert_eq!(server.jobs().watch_job(request).await.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test]
async fn progress_starts_and_backoffs_are_told_on_the_way() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.handle("/a", |request| match request.nth {
        0 => Reply::status(503),
        _ => {
            Reply::ok(vec![7; 100_000]).pause_at(50_000, crate::support::reply::Pause::For(Duration::from_millis(600)))
        }
    });
    let id = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    let request = pb::WatchJobRequest {
        job_id: id.clone(),
        task_starts: true,
        include_body: true,
        progress_interval: Some(millis(50)),
        ..Default::default()
    };
    let mut stream = server.jobs().watch_job(request).await.unwrap().into_inner();
    // The watcher is there before anything happens.
    assert_eq!(kind(&stream.message().await.unwrap().unwrap()), "snapshot");
    let tasks = vec![fetch(origin.url("/a"))];
    let chunk = pb::AddTasksRequest { job_id: id.clone(), chunk_id: "a".into(), tasks };
    let mut answers = server.jobs().add_tasks(futures_util::stream::iter([chunk])).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().task_count, 1);
    server.jobs().seal_job(pb::SealJobRequest { job_id: id }).await.unwrap();
    let mut kinds = Vec::new();
    let mut half_way = false;
    while let Some(message) = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap() {
        kinds.push(kind(&message));
        match message.event.unwrap() {
            Event::Progress(progress) => {
                half_way |= progress.progress.is_some_and(|it| (40_000..90_000).contains(&it.bytes_done));
            }
            Event::TaskEnded(task) => {
                let Some(pb::task::Result::FetchResult(result)) = task.result else { panic!() };
                assert_eq!((result.body_bytes, result.body_omitted), (100_000, false));
                assert!(result.body == vec![7; 100_000], "{} bytes of body", result.body.len());
            }
            _ => {}
        }
    }
    assert!(half_way, "{kinds:?}");
    for expected in ["task_started", "task_backing_off", "task_ended", "job_ended"] {
        assert!(kinds.contains(&expected), "{expected} in {kinds:?}");
    }
}

/// Most of these end within the commit that has their start.
#[tokio::test]
async fn a_task_is_told_to_start_before_it_is_told_to_end() {
    const TASKS: u32 = 500;
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let id = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    let request = pb::WatchJobRequest { job_id: id.clone(), task_starts: true, ..Default::default() };
    let mut stream = server.jobs().watch_job(request).await.unwrap().into_inner();
    assert_eq!(kind(&stream.message().await.unwrap().unwrap()), "snapshot");
    let tasks = (0..TASKS).map(|_| fetch(origin.url("/a"))).collect();
    let chunk = pb::AddTasksRequest { job_id: id.clone(), chunk_id: "a".into(), tasks };
    server.jobs().add_tasks(tokio_stream::iter([chunk])).await.unwrap().into_inner().message().await.unwrap();
    server.jobs().seal_job(pb::SealJobRequest { job_id: id }).await.unwrap();
    let (mut started, mut ended) = (std::collections::HashSet::new(), std::collections::HashSet::new());
    while let Some(message) = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap() {
        match message.event.unwrap() {
            Event::TaskStarted(task) => {
                assert!(!ended.contains(&task.task_index), "task {} has ended and starts", task.task_index);
                started.insert(task.task_index);
            }
            Event::TaskEnded(task) => drop(ended.insert(task.task_index)),
            _ => {}
        }
    }
    assert_eq!(ended.len(), TASKS as usize);
    assert!(!started.is_empty() && started.is_subset(&ended));
}

#[tokio::test]
async fn a_wait_is_listed_or_announced_whenever_the_watch_begins() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/busy", Reply::status(503));
    // Longer than the test is patient, so that the second wait cannot stand for a first one that was missed.
    let long = Some(prost_types::Duration { seconds: 300, nanos: 0 });
    let retry = pb::RetryPolicy { initial_backoff: long, max_backoff: long, ..quick_retry(5) };
    for _ in 0..20 {
        let defaults = Some(pb::TaskOptions { retry: Some(retry.clone()), ..Default::default() });
        let job_id = server.submit(pb::JobSpec { defaults, ..job(vec![fetch(origin.url("/busy"))]) }).await;
        let request = pb::WatchJobRequest { job_id: job_id.clone(), task_starts: true, ..Default::default() };
        let mut stream = server.jobs().watch_job(request).await.unwrap().into_inner();
        assert_eq!(kind(&stream.message().await.unwrap().unwrap()), "snapshot");
        let request = pb::ListTasksRequest {
            job_id: job_id.clone(),
            states: vec![pb::TaskState::BackingOff.into()],
            ..Default::default()
        };
        let listed = server.jobs().list_tasks(request).await.unwrap().into_inner().tasks;
        let is_announced = async {
            while let Some(message) = stream.message().await.unwrap() {
                if let Some(Event::TaskBackingOff(task)) = message.event {
                    let waiting = task.waiting.expect("a task that waits says why");
                    assert_eq!((waiting.reason(), waiting.until), (pb::WaitReason::BackingOff, task.next_attempt_time));
                    return true;
                }
            }
            false
        };
        assert!(!listed.is_empty() || tokio::time::timeout(PATIENCE, is_announced).await.unwrap());
        server.jobs().cancel_job(pb::CancelJobRequest { job_id, reason: String::new() }).await.unwrap();
    }
}

#[tokio::test]
async fn a_list_of_jobs_stays_true() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    origin.reply("/hang", Reply::hang());
    let labels: std::collections::HashMap<_, _> = [("team".to_owned(), "red".to_owned())].into();
    let spec = |path| pb::JobSpec { labels: labels.clone(), ..job(vec![fetch(origin.url(path))]) };
    let early = server.run(spec("/a")).await;
    let late = server.run(spec("/a")).await;
    let running = server.submit(spec("/hang")).await;
    server.submit(job(vec![fetch(origin.url("/hang"))])).await;
    let watch = async |ended_after| {
        let request = pb::WatchJobsRequest {
            labels: labels.clone(),
            progress_interval: Some(millis(50)),
            ended_after,
            ..Default::default()
        };
        let mut stream = server.jobs().watch_jobs(request).await.unwrap().into_inner();
        let mut listed = Vec::new();
        loop {
            match stream.message().await.unwrap().unwrap().event.unwrap() {
                pb::watch_jobs_response::Event::Job(job) => listed.push(job.job_id),
                pb::watch_jobs_response::Event::Synced(_) => return (listed, stream),
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(watch(early.end_time).await.0, [running.clone(), late.job_id], "and not what ended before");
    let (listed, mut stream) = watch(None).await;
    assert_eq!(listed, [running], "only what has not ended");
    server.submit(job(vec![fetch(origin.url("/a"))])).await;
    let second = server.submit(spec("/a")).await;
    let seen_to_end = async {
        loop {
            if let pb::watch_jobs_response::Event::Job(job) = stream.message().await.unwrap().unwrap().event.unwrap() {
                assert_eq!(job.labels, labels);
                if job.job_id == second && job.state() == pb::JobState::Succeeded {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, seen_to_end).await.unwrap();
}

/// A job of 601 tasks that have failed, of which the first has been retried, and a watch of it of which nobody has read more than the
/// beginning.
async fn unread_and_retried(server: &Server, origin: &Origin) -> (String, tonic::Streaming<pb::WatchJobResponse>) {
    let group = Some(group(pb::GroupMode::Collect, 0));
    let id = server.submit(pb::JobSpec { open: true, group, ..job(Vec::new()) }).await;
    let request = pb::WatchJobRequest { job_id: id.clone(), after_sequence: Some(0), ..Default::default() };
    let mut stream = server.jobs().watch_job(request).await.unwrap().into_inner();
    assert_eq!(kind(&stream.message().await.unwrap().unwrap()), "snapshot");
    // More than fits into what is sent ahead.
    let long = "x".repeat(7000);
    let mut tasks = vec![fetch(origin.url("/a"))];
    tasks.extend((0..600).map(|nth| fetch(format!("{}?{nth}={long}", origin.url("/gone")))));
    let chunk = pb::AddTasksRequest { job_id: id.clone(), chunk_id: "a".into(), tasks };
    let mut answers = server.jobs().add_tasks(futures_util::stream::iter([chunk])).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().task_count, 601);
    server.jobs().seal_job(pb::SealJobRequest { job_id: id.clone() }).await.unwrap();
    let ended = server.ended(&id).await;
    assert_eq!((ended.state(), ended.counts.unwrap().failed), (pb::JobState::Failed, 601));
    let retry = pb::RetryJobRequest { job_id: id.clone(), task_indexes: vec![0], filter: None };
    server.jobs().retry_job(retry).await.unwrap();
    (id, stream)
}

/// Whoever reads slowly is still at the first run of a job when the second one begins.
#[tokio::test]
async fn a_slow_watcher_is_told_of_a_retry() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.handle("/a", |request| if request.nth == 0 { Reply::status(404) } else { Reply::hang() });
    let (id, mut stream) = unread_and_retried(&server, &origin).await;
    let mut kinds = Vec::new();
    let told = async {
        while kinds.last() != Some(&"job_changed") || !kinds.contains(&"job_ended") {
            let event = stream.message().await.unwrap().unwrap();
            kinds.extend(is_durable(&event).then(|| kind(&event)));
        }
    };
    // Before the retried task ends by itself.
    tokio::time::timeout(PATIENCE, told).await.unwrap();
    assert_eq!(kinds.iter().filter(|kind| **kind == "task_ended").count(), 601);
    server.jobs().cancel_job(pb::CancelJobRequest { job_id: id, ..Default::default() }).await.unwrap();
    while kinds.iter().filter(|kind| **kind == "job_ended").count() < 2 {
        let event = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
        kinds.push(kind(&event));
    }
    assert!(stream.message().await.unwrap().is_none());
}

/// Nobody takes the end of the first run for the last one, although the job has ended again and left memory meanwhile.
#[tokio::test]
async fn a_slow_watcher_is_told_of_a_whole_second_run() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.handle("/a", |request| if request.nth == 0 { Reply::status(404) } else { Reply::ok("a") });
    let (id, mut stream) = unread_and_retried(&server, &origin).await;
    assert_eq!(server.ended(&id).await.counts.unwrap().succeeded, 1);
    let mut ends = Vec::new();
    let told = async {
        while let Some(event) = stream.message().await.unwrap() {
            if let Some(Event::JobEnded(job)) = event.event {
                ends.push(job.counts.unwrap().succeeded);
            }
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
    assert_eq!(ends, [0, 1]);
}

/// Where many watch, events are put together for all of them. Each watcher is told each event once and in order, whether it
/// wants compression, bodies or nothing of that, and one that comes late as well.
#[tokio::test(flavor = "multi_thread")]
async fn many_watchers_are_told_each_event_once_and_in_order() {
    const TASKS: u64 = 300;
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let spec = pb::JobSpec { open: true, ..Default::default() };
    let id = server.submit(spec).await;
    let watch = |body: bool| pb::WatchJobRequest {
        job_id: id.clone(),
        after_sequence: Some(0),
        include_body: body,
        ..Default::default()
    };
    let mut watchers = JoinSet::new();
    for nth in 0..40 {
        let client = match nth % 4 {
            0 => server.jobs().accept_compressed(tonic::codec::CompressionEncoding::Gzip),
            _ => server.jobs(),
        };
        let mut stream = client.clone().watch_job(watch(nth % 4 == 1)).await.unwrap().into_inner();
        watchers.spawn(async move {
            let mut told = Vec::new();
            while let Some(event) = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap() {
                if let Some(Event::TaskEnded(task)) = &event.event {
                    let Some(pb::task::Result::FetchResult(fetched)) = &task.result else { panic!("{task:?}") };
                    assert_eq!(fetched.body.is_empty(), nth % 4 != 1);
                }
                told.extend(is_durable(&event).then_some(event.sequence));
            }
            told
        });
    }
    let tasks = (0..TASKS).map(|_| fetch(origin.url("/a"))).collect();
    let chunk = pb::AddTasksRequest { job_id: id.clone(), chunk_id: "a".into(), tasks };
    server.jobs().add_tasks(tokio_stream::iter([chunk])).await.unwrap().into_inner().message().await.unwrap();
    server.jobs().seal_job(pb::SealJobRequest { job_id: id.clone() }).await.unwrap();
    let last = server.ended(&id).await.sequence;
    assert!(last > TASKS);
    for told in watchers.join_all().await {
        assert_eq!(told, (1..=last).collect::<Vec<_>>());
    }
    let late: Vec<u64> = server.events(&id, 7).await.iter().map(|event| event.sequence).collect();
    assert_eq!(late, (8..=last).collect::<Vec<_>>());
}

/// Where many watch, something is published whenever a watcher has read what was published before. It is told how far the job
/// is all the same, and what starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_of_a_busy_job_beside_many_is_told_its_progress() {
    const TASKS: usize = 2_000;
    let flags = ["--allow-private-networks", "--max-per-host", "16"];
    let (server, origin) = (Server::with(&flags).await, Origin::start());
    origin.reply("/a", Reply::ok("a").delay(Duration::from_millis(10)));
    let id = server.submit(pb::JobSpec { open: true, ..Default::default() }).await;
    let mut others = Vec::new();
    for _ in 0..4 {
        // These have no room for a message, so that they cost nothing.
        let channel = Channel::from_shared(format!("http://{}", server.address)).unwrap();
        let channel = channel.initial_stream_window_size(1).connect().await.unwrap();
        let mut client = pb::job_service_client::JobServiceClient::new(channel);
        for _ in 0..100 {
            let request = pb::WatchJobRequest { job_id: id.clone(), ..Default::default() };
            others.push(client.watch_job(request).await.unwrap().into_inner());
        }
    }
    let request = pb::WatchJobRequest {
        job_id: id.clone(),
        progress_interval: Some(millis(50)),
        task_starts: true,
        ..Default::default()
    };
    let mut stream = server.jobs().watch_job(request).await.unwrap().into_inner();
    let tasks = (0..TASKS).map(|_| fetch(origin.url("/a"))).collect();
    let chunk = pb::AddTasksRequest { job_id: id.clone(), chunk_id: "a".into(), tasks };
    server.jobs().add_tasks(tokio_stream::iter([chunk])).await.unwrap().into_inner().message().await.unwrap();
    let (mut ended, mut starts, mut last) = (0, 0, 0);
    let mut progress = Vec::new();
    while ended < TASKS {
        let message = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
        assert!(message.sequence >= last, "{} after {last}", message.sequence);
        last = message.sequence;
        match kind(&message) {
            "task_ended" => ended += 1,
            "task_started" => starts += 1,
            "progress" if ended > 0 => progress.push(message.sequence),
            _ => {}
        }
    }
    assert!(progress.len() >= 3, "{progress:?} of {last}");
    assert!(starts >= TASKS / 4, "{starts} starts");
}

/// A stream that still reads what happened long ago ends when its server does, as all others.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_ends_with_its_server() {
    let (server, origin) = (Server::start().await, Origin::start());
    // More than fits into what is sent ahead.
    let long = "x".repeat(7000);
    let ended =
        server.run(job((0..200).map(|nth| fetch(format!("{}?{nth}={long}", origin.url("/gone")))).collect())).await;
    let open = server.submit(pb::JobSpec { open: true, ..Default::default() }).await;
    let channel = Channel::from_shared(format!("http://{}", server.address)).unwrap();
    let channel = channel.initial_stream_window_size(65_535).connect().await.unwrap();
    let mut client = pb::job_service_client::JobServiceClient::new(channel);
    let mut streams = Vec::new();
    for job_id in [open, ended.job_id] {
        let request = pb::WatchJobRequest { job_id, after_sequence: Some(0), ..Default::default() };
        let mut stream = client.watch_job(request).await.unwrap().into_inner();
        assert_eq!(kind(&stream.message().await.unwrap().unwrap()), "snapshot");
        streams.push(stream);
    }
    server.ask_to_end();
    for mut stream in streams {
        let status = loop {
            match tokio::time::timeout(PATIENCE, stream.message()).await.unwrap() {
                Ok(message) => assert!(message.is_some(), "told all of it, as if the server went on"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
}
