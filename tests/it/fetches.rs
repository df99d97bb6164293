//! Fetches through a server: long bodies, listings, private addresses, secrets.

use haul::pb;
use haul::pb::{FailureReason, JobState};

use crate::support::origin::Origin;
use crate::support::reply::{Cut, Reply};
use crate::support::server::{Server, until};
use crate::support::spec::{fetch, fetch_as, job, millis, once};

async fn read(server: &Server, job_id: &str) -> Vec<u8> {
    let request = pb::ReadContentRequest {
        job_id: job_id.to_owned(),
        task: Some(pb::read_content_request::Task::TaskIndex(0)),
        ..Default::default()
    };
    let mut stream = server.contents().read_content(request).await.unwrap().into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.message().await.unwrap() {
        bytes.extend_from_slice(&chunk.data);
    }
    bytes
}

async fn items(server: &Server, job_id: &str, after_item: Option<u64>) -> Vec<(u64, u32, String)> {
    let task = Some(pb::stream_items_request::Task::TaskIndex(0));
    let request = pb::StreamItemsRequest { job_id: job_id.to_owned(), task, after_item };
    let mut stream = server.contents().stream_items(request).await.unwrap().into_inner();
    let mut items = Vec::new();
    while let Some(item) = stream.message().await.unwrap() {
        items.push((item.item_index, item.page, item.json));
    }
    items
}

#[tokio::test]
async fn long_bodies_are_kept_beside_the_database_and_go_with_the_job() {
    let (server, origin) = (Server::start().await, Origin::start());
    let body: Vec<u8> = (0..700_000u32).map(|byte| (byte % 251) as u8).collect();
    origin.reply("/long", Reply::ok(body.clone()));
    origin.reply("/empty", Reply::ok(""));
    let ended = server.run(job(vec![fetch(origin.url("/long"))])).await;
    assert_eq!(ended.state(), JobState::Succeeded);
    assert_eq!(read(&server, &ended.job_id).await, body);
    let content = server.data().join("content").join(&ended.job_id);
    assert!(content.exists());
    let request = pb::DeleteJobRequest { job_id: ended.job_id, delete_files: false };
    server.jobs().delete_job(request).await.unwrap();
    let deadline = tokio::time::Instant::now() + crate::support::server::PATIENCE;
    while content.exists() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let empty = server.run(job(vec![fetch(origin.url("/empty"))])).await;
    assert!(read(&server, &empty.job_id).await.is_empty());
}

/// Ten pages of ten items; the server is killed while the fifth is on its way.
#[tokio::test]
async fn a_listing_goes_on_after_a_kill_at_the_page_after_the_last_durable_one() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.handle("/list", |request| {
        let page: u64 = request.param("page").unwrap().parse().unwrap();
        if page == 5 && request.nth == 4 {
            return Reply::hang();
        }
        let items: Vec<String> = (0..10).map(|item| format!("{{\"n\": {}}}", page * 10 + item)).collect();
        let items = if page > 10 { String::new() } else { items.join(",") };
        Reply::json(format!("{{\"items\": [{items}]}}"))
    });
    let pagination = pb::Pagination {
        style: Some(pb::pagination::Style::PageNumber(pb::PageNumber {
            param: "page".into(),
            first: 1,
            ..Default::default()
        })),
        items_pointer: "/items".into(),
        ..Default::default()
    };
    let spec = pb::FetchSpec { url: origin.url("/list"), pagination: Some(pagination), ..Default::default() };
    let id = server.submit(job(vec![fetch_as(spec)])).await;
    until(async || origin.requests("/list").len() >= 5).await;
    server.restart().await;
    let followed = items(&server, &id, None).await;
    assert_eq!(server.ended(&id).await.state(), JobState::Succeeded);
    assert_eq!(followed.len(), 100);
    for (place, (index, page, json)) in followed.iter().enumerate() {
        assert_eq!((*index, *page), (place as u64, place as u32 / 10));
        assert_eq!(*json, format!("{{\"n\": {}}}", place + 10));
    }
    assert_eq!(items(&server, &id, Some(94)).await, followed[95..]);
    let pages: Vec<String> = origin.requests("/list").iter().map(|it| it.param("page").unwrap()).collect();
    assert_eq!(pages, ["1", "2", "3", "4", "5", "5", "6", "7", "8", "9", "10", "11"]);
    let task = server.task(&id, 0).await;
    let Some(pb::task::Result::FetchResult(result)) = task.result else { panic!("{task:?}") };
    assert_eq!(result.items, 100);
}

#[tokio::test]
async fn a_listing_of_a_million_items_is_streamed_in_little_memory() {
    const PAGES: u64 = 500;
    const ITEMS: u64 = 2_000;
    let (server, origin) = (Server::start().await, Origin::start());
    origin.handle("/list", |request| {
        let page: u64 = request.param("page").unwrap().parse().unwrap();
        let range = if page < PAGES { page * ITEMS..(page + 1) * ITEMS } else { 0..0 };
        Reply::json(format!("[{}]", range.map(|item| item.to_string()).collect::<Vec<_>>().join(",")))
    });
    let style = pb::pagination::Style::PageNumber(pb::PageNumber { param: "page".into(), ..Default::default() });
    let pagination = Some(pb::Pagination { style: Some(style), ..Default::default() });
    let id = server
        .submit(job(vec![fetch_as(pb::FetchSpec { url: origin.url("/list"), pagination, ..Default::default() })]))
        .await;
    // Followed while the pages arrive, by somebody who is slower than they are.
    let task = Some(pb::stream_items_request::Task::TaskIndex(0));
    let request = pb::StreamItemsRequest { job_id: id.clone(), task, after_item: None };
    let mut stream = server.contents().stream_items(request).await.unwrap().into_inner();
    let mut next = 0;
    while let Some(item) = stream.message().await.unwrap() {
        assert_eq!((item.item_index, item.json), (next, next.to_string()));
        next += 1;
    }
    assert_eq!(next, PAGES * ITEMS);
    assert_eq!(server.ended(&id).await.state(), JobState::Succeeded);
    let peak = server.peak_mib();
    assert!(peak < 100, "{peak} MiB");
}

/// Bodies up to 2 MiB come with their task, wherever they are kept; of a larger one, and of a listing, the answer says
/// that they are left out.
#[tokio::test]
async fn bodies_come_with_their_tasks_or_are_said_to_be_left_out() {
    let (server, origin) = (Server::start().await, Origin::start());
    let sizes = [0, 65_536, 65_537, 2 << 20, (2 << 20) + 1];
    for size in sizes {
        origin.reply(&format!("/{size}"), Reply::ok(vec![b'x'; size]));
    }
    origin.reply("/list", Reply::json("[1, 2]"));
    let fetched = |path: &str, pagination| {
        let max_response_bytes = Some(4 << 20);
        fetch_as(pb::FetchSpec { url: origin.url(path), max_response_bytes, pagination, ..Default::default() })
    };
    let style = pb::pagination::Style::LinkHeader(pb::LinkHeader {});
    let listing = pb::Pagination { style: Some(style), ..Default::default() };
    let mut tasks: Vec<_> = sizes.iter().map(|size| fetched(&format!("/{size}"), None)).collect();
    tasks.push(fetched("/list", Some(listing)));
    let ended = server.run(job(tasks)).await;
    assert_eq!(ended.state(), JobState::Succeeded, "{:?}", ended.failure);
    let check = |task: pb::Task| {
        let Some(pb::task::Result::FetchResult(result)) = task.result else { panic!("{task:?}") };
        let index = task.task_index as usize;
        let omitted = index >= 4;
        assert_eq!(
            (result.body_omitted, result.body.len()),
            (omitted, if omitted { 0 } else { sizes[index] }),
            "{index}"
        );
        assert_eq!(result.body_bytes, sizes.get(index).map_or(6, |size| *size as u64));
    };
    for index in 0..6 {
        check(server.task(&ended.job_id, index).await);
    }
    let request = pb::WatchJobRequest {
        job_id: ended.job_id.clone(),
        after_sequence: Some(0),
        include_body: true,
        ..Default::default()
    };
    let mut jobs = pb::job_service_client::JobServiceClient::new(server.channel.clone());
    let mut stream = jobs.watch_job(request).await.unwrap().into_inner();
    let mut seen = 0;
    while let Some(message) = stream.message().await.unwrap() {
        if let Some(pb::watch_job_response::Event::TaskEnded(task)) = message.event {
            check(task);
            seen += 1;
        }
    }
    assert_eq!(seen, 6);
    let listed = server.tasks(&ended.job_id).await;
    assert_eq!(listed.len(), 6);
    for task in listed {
        let Some(pb::task::Result::FetchResult(result)) = task.result else { panic!("{task:?}") };
        assert!(result.body.is_empty() && !result.body_omitted, "only where it is asked for");
    }
}

#[tokio::test]
async fn private_addresses_are_refused_unless_allowed_redirects_included() {
    let server = Server::with(&[]).await;
    let origin = Origin::start();
    origin.reply("/a", Reply::ok("a"));
    let ended = server.run(job(vec![fetch(origin.url("/a"))])).await;
    assert_eq!(ended.failure.unwrap().reason(), FailureReason::ForbiddenAddress);
    assert_eq!(server.task(&ended.job_id, 0).await.attempts, 1, "at once, without a retry");
    assert!(origin.all_requests().is_empty());

    let server = Server::with(&["--allow-networks", "127.0.0.1"]).await;
    origin.reply("/away", Reply::redirect(302, &origin.url("/a").replace("127.0.0.1", "127.0.0.2")));
    let ended = server.run(job(vec![fetch(origin.url("/away"))])).await;
    assert_eq!(ended.failure.unwrap().reason(), FailureReason::ForbiddenAddress);
}

#[tokio::test]
async fn planted_secrets_are_nowhere_to_be_read() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.handle("/a", |request| {
        let sent = request.header("authorization").unwrap_or_default().to_owned();
        assert!(!sent.is_empty());
        if request.nth == 0 { Reply::status(500) } else { Reply::ok("a").header("Set-Cookie", "id=SESAME5") }
    });
    let secret = pb::Header { name: "X-Key".into(), value: "SESAME1".into(), sensitive: true };
    let http = pb::HttpOptions {
        headers: vec![secret, pb::Header { name: "Cookie".into(), value: "c=SESAME2".into(), sensitive: false }],
        bearer_token: "SESAME3".into(),
        ..Default::default()
    };
    let with_user = origin.url("/a").replace("http://", "http://me:SESAME4@");
    let mut tasks = vec![fetch(origin.url("/a")), fetch(with_user), fetch("http://me:SESAME4@127.0.0.1:1/")];
    tasks[0].options = Some(pb::TaskOptions { http: Some(http), ..Default::default() });
    tasks[2].options = Some(once());
    let spec = pb::JobSpec { group: Some(crate::support::spec::group(pb::GroupMode::Collect, 1)), ..job(tasks) };
    let ended = server.run(spec).await;
    assert_eq!(ended.state(), JobState::Succeeded);
    let mut seen = format!("{ended:?}");
    for index in 0..3 {
        seen += &format!("{:?}", server.task(&ended.job_id, index).await);
    }
    seen += &format!("{:?}", server.tasks(&ended.job_id).await);
    seen += &format!("{:?}", server.events(&ended.job_id, 0).await);
    seen += &format!("{:?}", server.admin().list_hosts(pb::ListHostsRequest::default()).await.unwrap());
    server.terminate();
    seen += &server.log();
    assert!(!seen.contains("SESAME"), "{seen}");
    assert!(seen.contains("REDACTED"));
}

#[tokio::test]
async fn a_post_that_may_have_arrived_is_not_sent_again() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/*", Reply::gone(Cut::Reset));
    let gone = Origin::start().address();
    let job = |task| pb::JobSpec { tasks: vec![task], ..Default::default() };
    let post = |url: String| {
        let mut task = fetch_as(pb::FetchSpec { url, method: "POST".into(), ..Default::default() });
        let (initial_backoff, max_backoff) = (Some(millis(10)), Some(millis(50)));
        let retry = pb::RetryPolicy { initial_backoff, max_backoff, ..Default::default() };
        task.options = Some(pb::TaskOptions { retry: Some(retry), ..Default::default() });
        task
    };
    let ended = server.run(job(post(origin.url("/order")))).await;
    assert_eq!((ended.state(), origin.requests("/order").len()), (JobState::Failed, 1));

    let mut keyed = post(origin.url("/keyed"));
    let key = pb::Header { name: "Idempotency-Key".into(), value: "7".into(), sensitive: false };
    keyed.options.as_mut().unwrap().http = Some(pb::HttpOptions { headers: vec![key], ..Default::default() });
    server.run(job(keyed)).await;
    assert_eq!(origin.requests("/keyed").len(), 5);

    // What was never sent is tried as often as anything else.
    let ended = server.run(job(post(format!("http://{gone}/")))).await;
    assert_eq!(ended.failure.unwrap().attempt, 5);
}

#[tokio::test]
async fn a_post_that_was_answered_is_not_sent_again_for_where_it_led() {
    let (server, origin, paused) = (Server::start().await, Origin::start(), Origin::start_on([127, 0, 0, 3]));
    let gone = Origin::start().address();
    let post = |url: String| {
        let mut task = fetch_as(pb::FetchSpec { url, method: "POST".into(), ..Default::default() });
        let (initial_backoff, max_backoff) = (Some(millis(10)), Some(millis(50)));
        let retry = pb::RetryPolicy { initial_backoff, max_backoff, ..Default::default() };
        task.options = Some(pb::TaskOptions { retry: Some(retry), ..Default::default() });
        pb::JobSpec { tasks: vec![task], ..Default::default() }
    };
    // To where nobody listens.
    for status in [303, 307] {
        let path = format!("/{status}");
        origin.reply(&path, Reply::redirect(status, &format!("http://{gone}/")));
        let ended = server.run(post(origin.url(&path))).await;
        assert_eq!((ended.state(), origin.requests(&path).len()), (JobState::Failed, 1), "{status}");
    }
    // To a host that asks for time.
    paused.reply("/", Reply::status(503).header("Retry-After", "3600"));
    server.run(pb::JobSpec { defaults: Some(once()), ..job(vec![fetch(paused.url("/"))]) }).await;
    origin.reply("/paused", Reply::redirect(303, &paused.url("/")));
    let ended = server.run(post(origin.url("/paused"))).await;
    assert_eq!((ended.state(), origin.requests("/paused").len()), (JobState::Failed, 1));
}
