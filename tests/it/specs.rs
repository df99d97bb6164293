//! What was submitted comes back: all of it, without its secrets, and only where it is asked for.

use haul::pb;
use tonic_types::StatusExt as _;

use crate::support::server::Server;
use crate::support::spec::{fetch, job, millis};

fn options() -> pb::TaskOptions {
    let header = |name: &str, value: &str, sensitive| pb::Header { name: name.into(), value: value.into(), sensitive };
    pb::TaskOptions {
        retry: Some(pb::RetryPolicy {
            max_attempts: Some(3),
            initial_backoff: Some(millis(10)),
            max_backoff: Some(millis(20)),
            backoff_multiplier: Some(1.5),
            jitter: Some(0.0),
            retry_statuses: vec![418],
        }),
        timeouts: Some(pb::Timeouts {
            connect: Some(millis(1_000)),
            response_headers: Some(millis(2_000)),
            idle: Some(millis(0)),
            low_speed: Some(pb::LowSpeed { bytes_per_second: Some(0), window: Some(millis(500)) }),
            attempt: Some(millis(3_000)),
            task: Some(millis(4_000)),
        }),
        http: Some(pb::HttpOptions {
            headers: vec![
                header("X-Open", "seen", false),
                header("X-Key", "SESAME", true),
                header("Cookie", "SESAME", false),
            ],
            basic_auth: Some(pb::BasicAuth { username: "me".into(), password: "SESAME".into() }),
            max_redirects: Some(0),
            proxy_url: "socks5h://me:SESAME@127.0.0.1:2".into(),
            user_agent: "test/1".into(),
            insecure_skip_verify: Some(true),
            ..Default::default()
        }),
    }
}

fn everything() -> pb::JobSpec {
    let options = options();
    let pagination = pb::Pagination {
        style: Some(pb::pagination::Style::Cursor(pb::Cursor { param: "c".into(), next_pointer: "/next".into() })),
        items_pointer: "/items".into(),
        max_pages: 7,
        max_items: 8,
    };
    let fetched = pb::FetchSpec {
        url: "http://me:SESAME@127.0.0.1:2/?page=1&api_key=SESAME".into(),
        method: "POST".into(),
        body: "a=b".into(),
        max_response_bytes: Some(1_000),
        accept_statuses: vec![pb::StatusRange { first: 200, last: 204 }],
        expect_json: true,
        pagination: Some(pagination),
    };
    let sum = format!("sha256:{}", "ab".repeat(32));
    let downloaded = pb::DownloadSpec {
        url: "http://127.0.0.1:2/a".into(),
        mirrors: vec!["http://127.0.0.1:2/b?X-Amz-Signature=SESAME&x=1".into()],
        path: "a/b.bin".into(),
        on_conflict: pb::OnConflict::Skip.into(),
        checksums: vec![sum],
        digests: vec!["blake3".into()],
        expected_bytes: Some(5),
        max_bytes: Some(6),
        max_connections: 2,
        disable_resume: true,
    };
    let token = pb::HttpOptions { bearer_token: "SESAME".into(), ..Default::default() };
    pb::JobSpec {
        title: "all of it".into(),
        labels: [("team".to_owned(), "red".to_owned())].into(),
        tasks: vec![
            pb::TaskSpec {
                key: "f".into(),
                work: Some(pb::task_spec::Work::Fetch(fetched)),
                options: Some(options.clone()),
            },
            pb::TaskSpec {
                key: "d".into(),
                work: Some(pb::task_spec::Work::Download(downloaded)),
                options: Some(pb::TaskOptions { http: Some(token), ..Default::default() }),
            },
        ],
        open: true,
        group: Some(pb::GroupPolicy { mode: pb::GroupMode::Collect.into(), max_failures: 1, max_concurrency: 2 }),
        defaults: Some(options),
        timeout: Some(millis(60_000)),
        start_time: Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 }),
        priority: -3,
        rate_limit: Some(pb::RateLimit { requests_per_second: 2.5, burst: 3, bytes_per_second: 4 }),
        directory: "there".into(),
        retention: Some(millis(1_000)),
    }
}

/// A job as it must come back: each secret replaced.
fn redacted(spec: &pb::JobSpec) -> pb::JobSpec {
    let hide = |options: &mut pb::TaskOptions| {
        let Some(http) = &mut options.http else { return };
        for header in http.headers.iter_mut().filter(|header| header.value == "SESAME") {
            header.value = "REDACTED".into();
        }
        if let Some(auth) = &mut http.basic_auth {
            auth.password = "REDACTED".into();
        }
        http.bearer_token = http.bearer_token.replace("SESAME", "REDACTED");
        http.proxy_url = http.proxy_url.replace("me:SESAME", "REDACTED");
    };
    let mut spec = spec.clone();
    spec.defaults.iter_mut().for_each(hide);
    for task in &mut spec.tasks {
        task.options.iter_mut().for_each(hide);
        match task.work.as_mut().unwrap() {
            pb::task_spec::Work::Fetch(it) => {
                it.url = it.url.replace("me:SESAME", "REDACTED").replace("SESAME", "REDACTED");
            }
            pb::task_spec::Work::Download(it) => it.mirrors[0] = it.mirrors[0].replace("SESAME", "REDACTED"),
        }
    }
    spec
}

async fn with_spec(server: &Server, job_id: &str) -> pb::Job {
    let request = pb::GetJobRequest { job_id: job_id.to_owned(), include_spec: true };
    server.jobs().get_job(request).await.unwrap().into_inner().job.unwrap()
}

#[tokio::test]
async fn a_spec_comes_back_as_it_was_given_without_its_secrets() {
    let mut server = Server::start().await;
    let spec = everything();
    let id = server.submit(spec.clone()).await;
    let expected = redacted(&spec);
    assert_eq!(with_spec(&server, &id).await.spec.unwrap(), expected);
    assert_eq!(server.job(&id).await.spec, None, "only where it is asked for");
    assert_eq!(server.task(&id, 0).await.spec, None);
    server.restart().await;
    assert_eq!(with_spec(&server, &id).await.spec.unwrap(), expected);
    for (index, expected) in expected.tasks.iter().enumerate() {
        let task = Some(pb::get_task_request::Task::TaskIndex(index as u32));
        let request = pb::GetTaskRequest { job_id: id.clone(), task, include_spec: true, include_body: false };
        let task = server.jobs().get_task(request).await.unwrap().into_inner().task.unwrap();
        assert_eq!(task.spec.as_ref(), Some(expected));
        let seen = format!("{task:?}");
        assert!(!seen.contains("SESAME"), "{seen}");
    }

    // A copy of an answer is refused where its secrets are missing, and nowhere else.
    let request = pb::SubmitJobRequest { job: Some(expected), ..Default::default() };
    let refused = server.jobs().submit_job(request).await.unwrap_err();
    let fields = refused.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<_> = fields.iter().map(|it| it.field.as_str()).collect();
    let of = |path: &str, field: &str| format!("{path}.{field}");
    let of_options = |path: &str| {
        ["proxy_url", "headers[1].value", "headers[2].value", "basic_auth.password"].map(|it| of(path, it))
    };
    let mut all = of_options("job.defaults.http").to_vec();
    all.extend(of_options("job.tasks[0].options.http"));
    all.push("job.tasks[0].fetch.url".into());
    all.push("job.tasks[1].options.http.bearer_token".into());
    all.push("job.tasks[1].download.mirrors[0]".into());
    assert_eq!(fields, all);
}

#[tokio::test]
async fn tasks_come_with_their_job_while_they_are_few() {
    let server = Server::start().await;
    let later = Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 });
    let spec = |tasks| pb::JobSpec { open: true, start_time: later, ..job(tasks) };
    let id = server.submit(spec((0..999).map(|at| fetch(format!("http://127.0.0.1:2/{at}"))).collect())).await;
    let add = async |count: usize, name: &str| {
        let tasks = (0..count).map(|_| fetch("http://127.0.0.1:2/more")).collect();
        let chunk = pb::AddTasksRequest { job_id: id.clone(), chunk_id: name.into(), tasks };
        let mut answers = server.jobs().add_tasks(futures_util::stream::iter([chunk])).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap();
    };
    add(1, "a").await;
    let job = with_spec(&server, &id).await;
    assert_eq!((job.spec.unwrap().tasks.len(), job.spec_tasks_omitted), (1_000, false), "those of AddTasks too");
    add(1, "b").await;
    let job = with_spec(&server, &id).await;
    assert_eq!((job.spec.unwrap().tasks.len(), job.spec_tasks_omitted), (0, true));
    let request = pb::ListTasksRequest { job_id: id.clone(), page_size: 2, include_spec: true, ..Default::default() };
    let tasks = server.jobs().list_tasks(request).await.unwrap().into_inner().tasks;
    assert_eq!(tasks[1].spec, Some(fetch("http://127.0.0.1:2/1")));

    let wide = format!("http://127.0.0.1:2/{}", "x".repeat(8_000));
    let id = server.submit(spec((0..140).map(|_| fetch(wide.clone())).collect())).await;
    let job = with_spec(&server, &id).await;
    assert_eq!((job.spec.unwrap().tasks.len(), job.spec_tasks_omitted), (0, true), "more than 1 MiB");
}
