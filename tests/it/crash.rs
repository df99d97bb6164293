//! What is acknowledged survives; what has ended does not run again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use haul::pb;
use haul::pb::JobState;
use haul::pb::watch_job_response::Event;
use sqlx::Connection as _;

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, is_durable, until};
use crate::support::spec::{fetch, fetch_as, job};

/// Kills the server again and again under a job; a watcher reconnects with the last sequence that it has.
#[tokio::test]
async fn a_watcher_misses_nothing_and_sees_nothing_twice_over_kills() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.handle("/a", |_| Reply::ok("a").delay(Duration::from_millis(10)));
    let count = 400;
    let id = server.submit(job((0..count).map(|_| fetch(origin.url("/a"))).collect())).await;
    let mut sequence = 0;
    let mut ends: HashMap<u32, u32> = HashMap::new();
    let mut lives = 0;
    'lives: loop {
        let request = pb::WatchJobRequest { job_id: id.clone(), after_sequence: Some(sequence), ..Default::default() };
        let mut stream = server.jobs().watch_job(request).await.unwrap().into_inner();
        let until = sequence + 60;
        while let Some(message) = stream.message().await.unwrap() {
            if !is_durable(&message) {
                continue;
            }
            sequence += 1;
            assert_eq!(message.sequence, sequence, "one step after another");
            match message.event.unwrap() {
                Event::TaskEnded(task) => *ends.entry(task.task_index).or_default() += 1,
                Event::JobEnded(job) => {
                    assert_eq!(job.state(), JobState::Succeeded);
                    break 'lives;
                }
                _ => {}
            }
            if sequence >= until && lives < 5 {
                break;
            }
        }
        lives += 1;
        server.restart().await;
    }
    assert!(lives >= 4);
    assert_eq!(ends.len(), count);
    assert!(ends.values().all(|ends| *ends == 1), "each task ended once");
    let tasks = server.tasks(&id).await;
    assert_eq!(tasks.len(), count);
    assert!(tasks.iter().all(|task| task.attempts == 1), "a cut attempt does not count");
}

#[tokio::test]
async fn acknowledged_jobs_are_there_after_a_kill() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a").delay(Duration::from_millis(50)));
    let mut ids = Vec::new();
    // Two kills: a third in a row under the same attempt would be held against its task.
    for _ in 0..2 {
        let calls = (0..50).map(|_| server.submit(job(vec![fetch(origin.url("/a"))])));
        ids.extend(futures_util::future::join_all(calls).await);
        server.restart().await;
    }
    for id in &ids {
        assert_eq!(server.ended(id).await.state(), JobState::Succeeded);
    }
}

#[tokio::test]
async fn a_task_that_is_cut_by_three_crashes_is_held_to_be_the_cause() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("never").stall_at(2));
    let id = server.submit(job(vec![fetch(origin.url("/a"))])).await;
    for life in 1..=3 {
        until(async || origin.requests("/a").len() >= life).await;
        // The claim of the attempt is on its way to the disk while the request is on its way to the origin.
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.restart().await;
    }
    let ended = server.ended(&id).await;
    assert_eq!(ended.state(), JobState::Failed);
    assert_eq!(ended.failure.unwrap().reason(), pb::FailureReason::Internal);
}

/// A request that kills the server each time, and others that are in flight then. After two such ends nobody knows which of them it is.
#[tokio::test]
async fn what_ran_beside_the_cause_of_crashes_is_told_from_it() {
    let flags = ["--allow-private-networks", "--max-per-host", "64"];
    let (mut server, origin) = (Server::with(&flags).await, Origin::start());
    let lives = Arc::new(AtomicUsize::new(0));
    let life = lives.clone();
    origin.handle("/beside", move |_| match life.load(Ordering::SeqCst) {
        ..2 => Reply::hang(),
        // All that ran at once would still run when the server is killed.
        2 => Reply::ok("at last").delay(Duration::from_secs(1)),
        _ => Reply::ok("at last"),
    });
    origin.reply("/deadly", Reply::hang());
    origin.reply("/new", Reply::ok("new"));
    let tasks = (0..21).map(|nth| fetch(origin.url(if nth == 2 { "/deadly" } else { "/beside" }))).collect();
    let group = Some(crate::support::spec::group(pb::GroupMode::Collect, 0));
    let id = server.submit(pb::JobSpec { group, ..job(tasks) }).await;
    for deaths in 0..3 {
        if deaths < 2 {
            until(async || origin.requests("/beside").len() == 20 * (deaths + 1)).await;
        } else {
            // What is under no suspicion does not wait.
            let new = server.run(job((0..20).map(|_| fetch(origin.url("/new"))).collect())).await;
            assert_eq!(new.state(), JobState::Succeeded);
        }
        until(async || origin.requests("/deadly").len() == deaths + 1).await;
        // The claims of the attempts are on their way to the disk while the requests are on their way to the origin.
        tokio::time::sleep(Duration::from_millis(100)).await;
        lives.fetch_add(1, Ordering::SeqCst);
        server.restart().await;
    }
    let ended = server.ended(&id).await;
    let counts = ended.counts.unwrap();
    assert_eq!((counts.failed, counts.succeeded), (1, 20), "{:?}", ended.failures);
    let failure = ended.failure.unwrap();
    assert_eq!((failure.reason(), failure.task_index), (pb::FailureReason::Internal, Some(2)));
    assert_eq!(origin.requests("/deadly").len(), 3);
}

/// Three ends of the server cut the attempts of a task, but it ended once more between them while the task waited for its host.
#[tokio::test]
async fn crashes_that_are_not_in_a_row_are_not_held_against_a_task() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("never").stall_at(2));
    origin.reply("/busy", Reply::status(429).header("retry-after", "3"));
    let id = server.submit(job(vec![fetch(origin.url("/a"))])).await;
    for life in 1..=2 {
        until(async || origin.requests("/a").len() >= life).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        if life == 2 {
            let busy = server.submit(job(vec![fetch(origin.url("/busy"))])).await;
            until(async || server.task(&busy, 0).await.error.is_some()).await;
        }
        server.restart().await;
    }
    assert_eq!(server.task(&id, 0).await.state(), pb::TaskState::Pending, "its host is paused");
    server.restart().await;
    for life in 3..=4 {
        until(async || origin.requests("/a").len() >= life).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        if life == 3 {
            server.restart().await;
        }
    }
    assert_eq!(server.task(&id, 0).await.state(), pb::TaskState::Running);
}

/// What a listing has stored of its pages shows that the task is not what ends the server.
#[tokio::test]
async fn a_listing_that_goes_on_is_not_held_to_be_the_cause_of_crashes() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    let answered = Arc::new(AtomicUsize::new(0));
    let limit = answered.clone();
    origin.handle("/list", move |request| {
        let page: usize = request.param("page").unwrap().parse().unwrap();
        match page {
            5.. => Reply::json("[]"),
            page if page > limit.load(Ordering::SeqCst) => Reply::hang(),
            page => Reply::json(format!("[{page}]")),
        }
    });
    let style = pb::pagination::Style::PageNumber(pb::PageNumber { param: "page".into(), ..Default::default() });
    let pagination = Some(pb::Pagination { style: Some(style), ..Default::default() });
    let spec = pb::FetchSpec { url: origin.url("/list"), pagination, ..Default::default() };
    let id = server.submit(job(vec![fetch_as(spec)])).await;
    for life in 0..4 {
        // A page is durable before the next one is asked for.
        let next = (life + 1).to_string();
        while !origin.requests("/list").iter().any(|it| it.param("page").as_deref() == Some(&next)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        answered.store(life + 1, Ordering::SeqCst);
        server.restart().await;
    }
    answered.store(usize::MAX, Ordering::SeqCst);
    assert_eq!(server.ended(&id).await.state(), JobState::Succeeded);
    assert_eq!(server.task(&id, 0).await.attempts, 1);
}

/// A call that outlives the grace hides neither that the store failed nor why.
#[tokio::test]
async fn a_failed_store_is_told_by_the_exit_code_whatever_calls_are_left() {
    let flags = ["--allow-private-networks", "--shutdown-grace", "1s"];
    let (mut server, origin) = (Server::with(&flags).await, Origin::start());
    origin.reply("/big", Reply::ok(vec![b'x'; 900_000]));
    let ended = server.run(job(vec![fetch(origin.url("/big"))])).await;
    let task = Some(pb::read_content_request::Task::TaskIndex(0));
    let request = pb::ReadContentRequest { job_id: ended.job_id, task, ..Default::default() };
    // It is not read, and more than its window is left.
    let _stalled = server.contents().read_content(request).await.unwrap();
    let url = format!("sqlite://{}/haul.db", server.data().display());
    let mut other = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("DROP TABLE tasks").execute(&mut other).await.unwrap();
    let request = pb::SubmitJobRequest { job: Some(job(vec![fetch(origin.url("/big"))])), ..Default::default() };
    assert!(server.jobs().submit_job(request).await.is_err());
    let server = tokio::task::spawn_blocking(move || (server.ended_itself(), server));
    let (status, server) = server.await.unwrap();
    assert_eq!(status.code(), Some(1), "{}", server.log());
    assert!(server.log().contains("no such table"), "{}", server.log());
}

#[tokio::test]
async fn a_drain_gives_attempts_back_and_ends_streams() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.handle("/a", |request| if request.nth == 0 { Reply::hang() } else { Reply::ok("a") });
    let id = server.submit(job(vec![fetch(origin.url("/a"))])).await;
    let request = pb::WatchJobRequest { job_id: id.clone(), ..Default::default() };
    let mut stream = server.jobs().watch_job(request).await.unwrap().into_inner();
    until(async || !origin.requests("/a").is_empty()).await;
    let mut watched = tokio::task::JoinSet::new();
    watched.spawn(async move {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                other => return other,
            }
        }
    });
    let server = tokio::task::spawn_blocking(move || {
        assert!(server.terminate().success());
        server
    });
    let mut server = server.await.unwrap();
    let end = watched.join_next().await.unwrap().unwrap().unwrap_err();
    assert_eq!(end.code(), tonic::Code::Unavailable, "{end:?}");
    server.launch().await;
    assert_eq!(server.ended(&id).await.state(), JobState::Succeeded);
    assert_eq!(server.task(&id, 0).await.attempts, 1);
}

/// A job is retried, and the server killed right after: what was put back runs.
#[tokio::test]
async fn a_retry_survives_a_kill() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    for round in 0..8 {
        let path = format!("/flaky{round}");
        origin.handle(&path, |request| if request.nth < 2 { Reply::status(404) } else { Reply::ok("at last") });
        origin.reply("/good", Reply::ok("good"));
        let mut tasks: Vec<_> = (0..4).map(|_| fetch(origin.url("/good"))).collect();
        tasks.extend((0..2).map(|_| fetch(origin.url(&path))));
        let collect = Some(crate::support::spec::group(pb::GroupMode::Collect, 0));
        let failed = server.run(pb::JobSpec { group: collect, ..job(tasks) }).await;
        assert_eq!(failed.counts.unwrap().failed, 2);
        let request = pb::RetryJobRequest { job_id: failed.job_id.clone(), task_indexes: Vec::new(), filter: None };
        if round % 4 >= 2 {
            // The process that retries is not the one that ran it.
            server.restart().await;
        }
        server.jobs().retry_job(request).await.unwrap();
        if round % 2 == 1 {
            server.jobs().pause_job(pb::PauseJobRequest { job_id: failed.job_id.clone() }).await.ok();
        }
        server.restart().await;
        server.jobs().resume_job(pb::ResumeJobRequest { job_id: failed.job_id.clone() }).await.ok();
        assert_eq!(server.ended(&failed.job_id).await.state(), JobState::Succeeded);
    }
}

/// Damage in one row, of bytes that are no UTF-8 or JSON that ends within, is about that row: the server starts and says which it
/// leaves out, what stands beside it goes on, and a job that cannot be read answers at once and can be deleted.
#[tokio::test]
async fn a_row_that_cannot_be_read_holds_nothing_else() {
    for how in ["CAST(CAST(substr({}, 1, 9) AS BLOB) || x'ff' AS TEXT)", "substr({}, 1, 9)"] {
        let (mut server, origin) = (Server::start().await, Origin::start());
        origin.reply("/a", Reply::ok("a"));
        let mut jobs = Vec::new();
        for _ in 0..3 {
            let id = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
            server.jobs().pause_job(pb::PauseJobRequest { job_id: id.clone() }).await.unwrap();
            let tasks = (0..5).map(|_| fetch(origin.url("/a"))).collect();
            let chunk = pb::AddTasksRequest { job_id: id.clone(), chunk_id: "c".into(), tasks };
            let mut answers = server.jobs().add_tasks(tokio_stream::once(chunk)).await.unwrap().into_inner();
            answers.message().await.unwrap().unwrap();
            jobs.push(id);
        }
        assert!(server.terminate().success());
        let url = format!("sqlite://{}", server.data().join("haul.db").display());
        let mut conn = sqlx::SqliteConnection::connect(&url).await.unwrap();
        let (spec, host) = (how.replace("{}", "spec"), how.replace("{}", "host"));
        for sql in [
            format!("UPDATE job_specs SET spec = {spec} WHERE job = (SELECT min(job) FROM job_specs)"),
            format!("UPDATE tasks SET spec = {spec} WHERE id = (SELECT max(id) - 2 FROM tasks)"),
            format!(
                "UPDATE lanes SET host = {host} WHERE id >> 32 = (SELECT min(job) + 1 FROM job_specs) AND {}",
                how.contains("ff")
            ),
        ] {
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
        }
        conn.close().await.unwrap();
        let data = server.data().display().to_string();
        let checked = crate::support::server::haul(&["check", "--data-dir", &data]);
        let told = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert_eq!(checked.status.code(), Some(1), "{told}");
        for name in [format!("job {} cannot be read", jobs[0]), format!("task 2 of job {} cannot be read", jobs[2])] {
            assert!(told.contains(&name), "{told}");
        }
        server.launch().await;
        assert!(server.log().contains(&jobs[0]), "{}", server.log());
        let all = server.jobs().list_jobs(pb::ListJobsRequest::default()).await.unwrap().into_inner().jobs;
        assert!(all.iter().any(|it| it.job_id == jobs[2]) && all.iter().all(|it| it.job_id != jobs[0]));
        server.jobs().resume_job(pb::ResumeJobRequest { job_id: jobs[2].clone() }).await.unwrap();
        until(async || server.job(&jobs[2]).await.counts.unwrap().succeeded == 4).await;
        let unreadable = if how.contains("ff") { &jobs[..2] } else { &jobs[..1] };
        for id in unreadable {
            let request = pb::CancelJobRequest { job_id: id.clone(), ..Default::default() };
            let refused = server.jobs().cancel_job(request).await.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::Internal, "{refused:?}");
            if *id == jobs[0] {
                let get = pb::GetJobRequest { job_id: id.clone(), ..Default::default() };
                let refused = server.jobs().get_job(get).await.unwrap_err();
                assert_eq!(refused.code(), tonic::Code::Internal, "{refused:?}");
            }
            server.jobs().delete_job(pb::DeleteJobRequest { job_id: id.clone(), ..Default::default() }).await.unwrap();
            let get = pb::GetJobRequest { job_id: id.clone(), ..Default::default() };
            let gone = server.jobs().get_job(get).await.unwrap_err();
            assert_eq!(gone.code(), tonic::Code::NotFound, "{gone:?}");
        }
        let cancel = pb::CancelJobRequest { job_id: jobs[2].clone(), ..Default::default() };
        server.jobs().cancel_job(cancel).await.unwrap();
        server.ended(&jobs[2]).await;
        let delete = pb::DeleteJobRequest { job_id: jobs[2].clone(), ..Default::default() };
        server.jobs().delete_job(delete).await.unwrap();
    }
}

/// Damages the rows of tasks that ran when the server was killed: of one its spec, of others what is known of their attempts, which
/// their ends replace. Nobody can go on with them, so they fail, and their jobs end.
#[tokio::test]
async fn a_running_task_that_cannot_be_read_any_more_fails() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.reply("/good", Reply::ok("good"));
    let damages = ["tasks SET spec = substr(spec, 1, 9)", "task_states SET log = '['", "task_states SET state = 77"];
    let mut jobs = Vec::new();
    for nth in 0..damages.len() {
        let path = format!("/bad{nth}");
        origin.handle(&path, |request| match request.nth {
            0 => Reply::status(503),
            1 => Reply::hang(),
            _ => Reply::ok("at last"),
        });
        let tasks = vec![fetch(origin.url("/good")), fetch(origin.url(&path))];
        let group = Some(crate::support::spec::group(pb::GroupMode::Collect, 0));
        jobs.push(server.submit(pb::JobSpec { group, ..job(tasks) }).await);
        until(async || origin.requests(&path).len() == 2).await;
        until(async || server.job(&jobs[nth]).await.counts.unwrap().succeeded == 1).await;
    }
    // The claims of the attempts are on their way to the disk.
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.kill();
    let url = format!("sqlite://{}", server.data().join("haul.db").display());
    let mut conn = sqlx::SqliteConnection::connect(&url).await.unwrap();
    for (nth, damage) in damages.into_iter().enumerate() {
        let sql = format!("UPDATE {damage} WHERE id = (SELECT id FROM claims ORDER BY id LIMIT 1 OFFSET {nth})");
        assert_eq!(sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await.unwrap().rows_affected(), 1);
    }
    conn.close().await.unwrap();
    server.launch().await;
    for (nth, id) in jobs.iter().enumerate() {
        let ended = server.ended(id).await;
        let counts = ended.counts.unwrap();
        assert_eq!((ended.state(), counts.succeeded, counts.failed), (JobState::Failed, 1, 1), "{nth}");
        let failure = ended.failure.unwrap();
        assert_eq!((failure.reason(), failure.task_index), (pb::FailureReason::Internal, Some(1)), "{nth}");
        let retry = pb::RetryJobRequest { job_id: id.clone(), ..Default::default() };
        server.jobs().retry_job(retry).await.unwrap();
        if nth == 0 {
            // Its spec is lost for good, and it waits as any other that cannot be read.
            server.jobs().cancel_job(pb::CancelJobRequest { job_id: id.clone(), ..Default::default() }).await.unwrap();
        }
        let state = if nth == 0 { JobState::Cancelled } else { JobState::Succeeded };
        let ended = server.ended(id).await;
        assert_eq!((ended.state(), ended.failures.len()), (state, 0), "{nth}");
        let told: Vec<u64> = server.events(id, 0).await.iter().map(|event| event.sequence).collect();
        assert!(nth == 0 || told == (1..=ended.sequence).collect::<Vec<_>>(), "{nth}: {told:?}");
        server.jobs().delete_job(pb::DeleteJobRequest { job_id: id.clone(), ..Default::default() }).await.unwrap();
    }
    assert!(server.terminate().success());
    let checked = crate::support::server::haul(&["check", "--data-dir", &server.data().display().to_string()]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}
