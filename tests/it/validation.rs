//! Bad input: everything that is wrong, at once, and nothing stored.

use haul::pb;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::server::Server;
use crate::support::spec::{download, download_as, fetch, fetch_as, job, millis};

/// The fields that are refused, by `validate_only` and by a real submission alike.
async fn violations(server: &Server, spec: pb::JobSpec) -> Vec<String> {
    let dry = pb::SubmitJobRequest { job: Some(spec.clone()), validate_only: true, ..Default::default() };
    let dry = server.jobs().submit_job(dry).await.map(drop).unwrap_err();
    let request = pb::SubmitJobRequest { job: Some(spec), ..Default::default() };
    let status = server.jobs().submit_job(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!((dry.code(), dry.message()), (status.code(), status.message()));
    assert_eq!(status.get_details_error_info().unwrap().domain, "haul.v1");
    let request = status.get_details_bad_request().unwrap();
    request.field_violations.into_iter().map(|violation| violation.field).collect()
}

#[tokio::test]
async fn every_violation_is_told_at_once_with_its_path() {
    let server = Server::start().await;
    let negative = prost_types::Duration { seconds: -1, nanos: 0 };
    let retry = pb::RetryPolicy {
        max_attempts: Some(0),
        backoff_multiplier: Some(1e9),
        jitter: Some(1.5),
        initial_backoff: Some(negative),
        ..Default::default()
    };
    let mut spec = job(vec![
        fetch("ftp://example.com/a"),
        fetch(""),
        download_as(pb::DownloadSpec { url: "http://a/".into(), path: "../etc/passwd".into(), ..Default::default() }),
        pb::TaskSpec { key: "k".into(), ..fetch("http://a/") },
        pb::TaskSpec { key: "k".into(), ..fetch("http://a/") },
        download_as(pb::DownloadSpec {
            url: "http://a/".into(),
            checksums: vec!["sha256:xyz".into()],
            ..Default::default()
        }),
        pb::TaskSpec::default(),
        fetch_as(pb::FetchSpec { url: "http://a/".into(), max_response_bytes: Some(0), ..Default::default() }),
    ]);
    spec.timeout = Some(negative);
    spec.directory = "/abs".into();
    spec.defaults = Some(pb::TaskOptions { retry: Some(retry), ..Default::default() });
    let fields = violations(&server, spec).await;
    insta::assert_debug_snapshot!(fields, @r#"
    [
        "job.directory",
        "job.defaults.retry.max_attempts",
        "job.defaults.retry.backoff_multiplier",
        "job.defaults.retry.jitter",
        "job.defaults.retry.initial_backoff",
        "job.timeout",
        "job.tasks[0].fetch.url",
        "job.tasks[1].fetch.url",
        "job.tasks[2].download.path",
        "job.tasks[4].key",
        "job.tasks[5].download.checksums[0]",
        "job.tasks[6]",
        "job.tasks[7].fetch.max_response_bytes",
    ]
    "#);
    let listed = server.jobs().list_jobs(pb::ListJobsRequest::default()).await.unwrap().into_inner();
    assert!(listed.jobs.is_empty());
}

#[tokio::test]
async fn a_call_has_its_limits() {
    let server = Server::start().await;
    let many = (0..10_001).map(|_| fetch("http://a/")).collect();
    assert_eq!(violations(&server, job(many)).await, ["job.tasks"]);
    assert_eq!(violations(&server, job(Vec::new())).await, ["job.tasks"]);
    let huge = (0..2_000).map(|_| {
        fetch_as(pb::FetchSpec { url: "http://a/".into(), body: vec![0; 10_000].into(), ..Default::default() })
    });
    let request = pb::SubmitJobRequest { job: Some(job(huge.collect())), ..Default::default() };
    let status = server.jobs().submit_job(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.get_details_error_info().is_some());
}

#[tokio::test]
async fn validate_only_stores_nothing_and_does_not_use_up_the_id() {
    let server = Server::start().await;
    let spec = pb::JobSpec { title: "dry".into(), ..job(vec![fetch("http://127.0.0.1:2/")]) };
    let request = pb::SubmitJobRequest { request_id: "r".into(), job: Some(spec), validate_only: true };
    let dry = server.jobs().submit_job(request).await.unwrap().into_inner().job.unwrap();
    assert_eq!((dry.title.as_str(), dry.job_id.as_str()), ("dry", ""));
    assert!(server.jobs().list_jobs(pb::ListJobsRequest::default()).await.unwrap().into_inner().jobs.is_empty());
    let other = pb::JobSpec { timeout: Some(millis(100)), ..job(vec![fetch("http://127.0.0.1:2/")]) };
    let request = pb::SubmitJobRequest { request_id: "r".into(), job: Some(other), validate_only: false };
    assert!(server.jobs().submit_job(request).await.is_ok());
}

#[tokio::test]
async fn lists_and_names_are_checked_too() {
    let server = Server::start().await;
    let status =
        server.jobs().get_job(pb::GetJobRequest { job_id: "nonsense".into(), ..Default::default() }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let request = pb::ListJobsRequest { page_size: -1, page_token: "bm9uc2Vuc2U".into(), ..Default::default() };
    let status = server.jobs().list_jobs(request).await.unwrap_err();
    let fields = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(fields.iter().map(|it| it.field.as_str()).collect::<Vec<_>>(), ["page_size", "page_token"]);
    let request = pb::GetTaskRequest { job_id: "x".into(), ..Default::default() };
    assert_eq!(server.jobs().get_task(request).await.unwrap_err().code(), Code::InvalidArgument);
}

async fn accepts(server: &Server, spec: pb::JobSpec) {
    let request = pb::SubmitJobRequest { job: Some(spec), validate_only: true, ..Default::default() };
    server.jobs().submit_job(request).await.unwrap();
}

fn with_path(path: &str) -> pb::TaskSpec {
    download_as(pb::DownloadSpec { url: "http://a/".into(), path: path.into(), ..Default::default() })
}

fn with_http(task: pb::TaskSpec, http: pb::HttpOptions) -> pb::TaskSpec {
    pb::TaskSpec { options: Some(pb::TaskOptions { http: Some(http), ..Default::default() }), ..task }
}

fn header(name: &str, value: &str) -> pb::Header {
    pb::Header { name: name.into(), value: value.into(), sensitive: false }
}

#[tokio::test]
async fn paths_that_cannot_be_are_refused_when_they_are_submitted() {
    let server = Server::start().await;
    let (long, wide) = ("x".repeat(256), "ü".repeat(128));
    let bad = [
        "../x",
        "/etc/x",
        "a//b",
        "a/./b",
        "a/",
        "./a",
        ".",
        "con",
        "sub/NUL.txt",
        "COM1.log",
        "tab\there",
        "line\nbreak",
        "gnp\u{202e}.exe",
        "zero\u{200b}width",
        "a\u{2028}b",
        ".haul-x.part",
        "sub/.haul-y",
        "back\\slash",
        &long,
        &wide,
    ];
    // Not all of them fit into one answer.
    for some in bad.chunks(10) {
        let fields = violations(&server, job(some.iter().map(|path| with_path(path)).collect())).await;
        let expected: Vec<_> = (0..some.len()).map(|at| format!("job.tasks[{at}].download.path")).collect();
        assert_eq!(fields, expected);
    }
    for directory in bad.iter().filter(|path| **path != ".") {
        let spec = pb::JobSpec { directory: (*directory).to_owned(), ..job(vec![fetch("http://a/")]) };
        assert_eq!(violations(&server, spec).await, ["job.directory"], "{directory:?}");
    }
    let good = ["a", "a/b c.txt", "name .", ".hidden", "console", "München/日本.bin", &"x".repeat(255)];
    accepts(&server, job(good.iter().map(|path| with_path(path)).collect())).await;
    accepts(&server, pb::JobSpec { directory: ".".into(), ..job(vec![fetch("http://a/")]) }).await;
}

#[tokio::test]
async fn urls_methods_and_headers_that_cannot_work_are_refused() {
    let server = Server::start().await;
    let bad = [
        "example.com/x",
        "http://a:0/",
        " http://a/",
        "http://a/\n",
        "http://a\tb/",
        "http://a..b/",
        &format!("http://{}/", "x".repeat(64)),
        &format!("http://{}x/", "x.".repeat(127)),
        "http://REDACTED@a/",
        "http://a/?x=1&sig=REDACTED",
        "ftp://a/",
        "http://a b/",
        "http:///a/b",
        "http:/a/b",
        "http:a",
    ];
    let fields = violations(&server, job(bad.iter().map(|url| download(*url)).collect())).await;
    assert_eq!(fields, (0..bad.len()).map(|at| format!("job.tasks[{at}].download.url")).collect::<Vec<_>>());
    accepts(&server, job(["http://[::1]:1/", "https://a_b.example./?q=a b", "http://1.2.3.4"].map(fetch).into())).await;

    let with_method =
        |method: &str| fetch_as(pb::FetchSpec { url: "http://a/".into(), method: method.into(), ..Default::default() });
    let bad = ["CONNECT", "connect", "TRACE", "Track", "get", "Post", "A B", "GET\n"];
    let fields = violations(&server, job(bad.iter().map(|method| with_method(method)).collect())).await;
    assert_eq!(fields, (0..bad.len()).map(|at| format!("job.tasks[{at}].fetch.method")).collect::<Vec<_>>());
    accepts(&server, job(["GET", "PROPFIND", "purge"].map(with_method).into())).await;

    let bad = [
        "Host",
        "expect",
        "Trailer",
        "HTTP2-Settings",
        "If-None-Match",
        "if-range",
        "Content-Length",
        "TE",
        "Connection",
        "Transfer-Encoding",
        "Upgrade",
        "Keep-Alive",
        "a b",
        "",
    ];
    let headers = bad.iter().map(|name| header(name, "x")).collect();
    let http = pb::HttpOptions { headers, ..Default::default() };
    let fields = violations(&server, job(vec![with_http(fetch("http://a/"), http)])).await;
    let path = |at| format!("job.tasks[0].options.http.headers[{at}].name");
    assert_eq!(fields, (0..bad.len()).map(path).collect::<Vec<_>>());

    // A fetch may ask for a part; that of a download is haul's, wherever the header comes from.
    let range = pb::HttpOptions { headers: vec![header("Range", "bytes=0-9")], ..Default::default() };
    let own = vec![with_http(fetch("http://a/"), range.clone()), with_http(download("http://a/"), range.clone())];
    assert_eq!(violations(&server, job(own)).await, ["job.tasks[1].options.http.headers[0].name"]);
    let defaults = Some(pb::TaskOptions { http: Some(range), ..Default::default() });
    let inherited = pb::JobSpec { defaults, ..job(vec![fetch("http://a/"), download("http://a/")]) };
    assert_eq!(violations(&server, inherited).await, ["job.tasks[1].download"]);
}

#[tokio::test]
async fn a_secret_that_was_copied_from_an_answer_is_refused() {
    let server = Server::start().await;
    let redacted = || "REDACTED".to_owned();
    let secret = pb::Header { name: "X-Key".into(), value: redacted(), sensitive: true };
    let http = pb::HttpOptions {
        headers: vec![secret, header("Cookie", "REDACTED"), header("X-Open", "REDACTED")],
        basic_auth: Some(pb::BasicAuth { username: "me".into(), password: redacted() }),
        proxy_url: "http://REDACTED@proxy:1/".into(),
        ..Default::default()
    };
    let token = pb::HttpOptions { bearer_token: redacted(), ..Default::default() };
    let tasks = vec![with_http(fetch("http://a/"), http), with_http(fetch("http://a/"), token)];
    let fields = violations(&server, job(tasks)).await;
    let path = |rest: &str| format!("job.tasks[0].options.http.{rest}");
    let expected = [
        path("proxy_url"),
        path("headers[0].value"),
        path("headers[1].value"),
        path("basic_auth.password"),
        "job.tasks[1].options.http.bearer_token".to_owned(),
    ];
    assert_eq!(fields, expected);
}

fn backoffs(initial: Option<u64>, max: Option<u64>) -> pb::TaskOptions {
    let retry =
        pb::RetryPolicy { initial_backoff: initial.map(millis), max_backoff: max.map(millis), ..Default::default() };
    pb::TaskOptions { retry: Some(retry), ..Default::default() }
}

#[tokio::test]
async fn backoffs_must_fit_once_job_and_task_are_merged() {
    let server = Server::start().await;
    let task = |options| pb::TaskSpec { options: Some(options), ..fetch("http://a/") };
    let tasks = vec![
        task(backoffs(Some(9_000), None)),
        task(backoffs(None, Some(500))),
        task(backoffs(Some(9_000), Some(9_000))),
        fetch("http://a/"),
        task(backoffs(Some(2), Some(1))),
    ];
    let spec = pb::JobSpec { defaults: Some(backoffs(Some(1_000), Some(5_000))), ..job(tasks.clone()) };
    let own = |at: usize, field: &str| format!("job.tasks[{at}].options.retry.{field}");
    let expected = [own(0, "initial_backoff"), own(1, "max_backoff"), own(4, "initial_backoff")];
    assert_eq!(violations(&server, spec).await, expected);
    let spec = pb::JobSpec { defaults: Some(backoffs(Some(2), Some(1))), ..job(vec![fetch("http://a/")]) };
    assert_eq!(violations(&server, spec).await, ["job.defaults.retry.initial_backoff"]);
    // Set alone it raises the default of the longest wait.
    accepts(&server, pb::JobSpec { defaults: Some(backoffs(Some(300_000), None)), ..job(vec![fetch("http://a/")]) })
        .await;

    // What comes later is merged with the same defaults.
    let spec = pb::JobSpec { open: true, defaults: Some(backoffs(Some(1_000), Some(5_000))), ..job(Vec::new()) };
    let job_id = server.submit(spec).await;
    let chunk = pb::AddTasksRequest { job_id, chunk_id: "a".into(), tasks };
    let mut answers = server.jobs().add_tasks(tokio_stream::iter([chunk])).await.unwrap().into_inner();
    let refused = answers.message().await.unwrap_err();
    let fields = refused.get_details_bad_request().unwrap().field_violations;
    assert_eq!(fields[0].field, "tasks[0].options.retry.initial_backoff");
    assert_eq!(fields.len(), 3);
}

#[tokio::test]
async fn tasks_defaults_and_ids_have_their_sizes() {
    let server = Server::start().await;
    let big =
        |bytes: usize| pb::HttpOptions { headers: vec![header("X-Big", &"x".repeat(bytes))], ..Default::default() };
    let tasks = vec![fetch("http://a/"), with_http(fetch("http://a/"), big(4 << 20))];
    assert_eq!(violations(&server, job(tasks)).await, ["job.tasks[1]"]);
    let defaults = Some(pb::TaskOptions { http: Some(big(1 << 20)), ..Default::default() });
    let spec = pb::JobSpec { defaults, ..job(vec![fetch("http://a/")]) };
    assert_eq!(violations(&server, spec).await, ["job.defaults"]);
    let many = pb::HttpOptions { headers: vec![header("X-Big", &"x".repeat(16 << 10)); 15], ..Default::default() };
    accepts(&server, job(vec![with_http(fetch("http://a/"), many)])).await;
    for (http, field) in [
        (big((16 << 10) + 1), "headers[0].value"),
        (
            pb::HttpOptions { headers: vec![header("X-Big", &"x".repeat(16 << 10)); 17], ..Default::default() },
            "headers",
        ),
        (pb::HttpOptions { user_agent: "x".repeat((16 << 10) + 1), ..Default::default() }, "user_agent"),
        (pb::HttpOptions { bearer_token: "x".repeat((16 << 10) + 1), ..Default::default() }, "bearer_token"),
    ] {
        let spec = job(vec![with_http(fetch("http://a/"), http)]);
        assert_eq!(violations(&server, spec).await, [format!("job.tasks[0].options.http.{field}")]);
    }

    let job = Some(job(vec![fetch("http://a/")]));
    let request = pb::SubmitJobRequest { request_id: "x".repeat(129), job, validate_only: true };
    let refused = server.jobs().submit_job(request).await.unwrap_err();
    assert_eq!(refused.get_details_bad_request().unwrap().field_violations[0].field, "request_id");
}

#[tokio::test]
async fn violations_beyond_the_budget_are_counted() {
    let server = Server::start().await;
    let request =
        pb::SubmitJobRequest { job: Some(job((0..10_000).map(|_| fetch("nonsense")).collect())), ..Default::default() };
    let status = server.jobs().submit_job(request).await.unwrap_err();
    let listed = status.get_details_bad_request().unwrap().field_violations;
    let left = 10_000 - listed.len();
    assert!(listed.len() > 10, "{}", listed.len());
    assert!(listed.last().unwrap().description.contains(&format!("and {left} more")), "{listed:?}");
    assert!(status.message().contains("`nonsense` has no scheme"), "{}", status.message());
}

/// What is no URL yet may have secrets in its query all the same.
#[tokio::test]
async fn a_url_without_a_scheme_is_repeated_without_its_query() {
    let server = Server::start().await;
    for url in ["example.com/x?token=hunter2", "example.com/x#token=hunter2", "//example.com/x?token=hunter2"] {
        let request = pb::SubmitJobRequest { job: Some(job(vec![fetch(url)])), ..Default::default() };
        let status = server.jobs().submit_job(request).await.unwrap_err();
        assert!(status.message().contains("`https://example.com/x`"), "{}", status.message());
        assert!(!format!("{status:?}").contains("hunter2"), "{status:?}");
    }
}

/// A spec is sent back whole, so what it is made of is bounded.
#[tokio::test]
async fn pointers_and_parameters_are_short() {
    use pb::pagination::Style;
    let server = Server::start().await;
    let long = "/".to_owned() + &"a".repeat(1_024);
    let (param, size) = (long.clone(), 1);
    for (style, field) in [
        (
            Style::PageNumber(pb::PageNumber {
                param: "p".into(),
                size_param: param.clone(),
                size,
                ..Default::default()
            }),
            "page_number.size_param",
        ),
        (Style::PageNumber(pb::PageNumber { param: param.clone(), ..Default::default() }), "page_number.param"),
        (Style::Offset(pb::Offset { param: "p".into(), limit_param: param.clone(), limit: 1 }), "offset.limit_param"),
        (Style::Cursor(pb::Cursor { param: "p".into(), next_pointer: long.clone() }), "cursor.next_pointer"),
    ] {
        let mut task = fetch("http://a.example/");
        let Some(pb::task_spec::Work::Fetch(fetch)) = &mut task.work else { panic!("it is a fetch") };
        fetch.pagination =
            Some(pb::Pagination { style: Some(style), items_pointer: long.clone(), ..Default::default() });
        let request = pb::SubmitJobRequest { job: Some(job(vec![task])), ..Default::default() };
        let status = server.jobs().submit_job(request).await.unwrap_err();
        let found = status.get_details_bad_request().unwrap().field_violations;
        let mut fields: Vec<_> =
            found.iter().map(|it| it.field.trim_start_matches("job.tasks[0].fetch.pagination.")).collect();
        fields.sort_unstable();
        let mut expected = [field, "items_pointer"];
        expected.sort_unstable();
        assert_eq!(fields, expected);
    }
}

/// What is asked for by HEAD has no body, and one parameter has one value.
#[tokio::test]
async fn fetches_that_cannot_work_are_refused() {
    use pb::pagination::Style;
    let server = Server::start().await;
    let listing = |style| Some(pb::Pagination { style: Some(style), ..Default::default() });
    let head = || pb::FetchSpec { method: "HEAD".into(), ..Default::default() };
    let page = pb::PageNumber { param: "p".into(), size_param: "p".into(), size: 1, ..Default::default() };
    let offset = pb::Offset { param: "p".into(), limit_param: "p".into(), limit: 1 };
    for (spec, field) in [
        (pb::FetchSpec { expect_json: true, ..head() }, "expect_json"),
        (pb::FetchSpec { pagination: listing(Style::LinkHeader(pb::LinkHeader {})), ..head() }, "pagination"),
        (
            pb::FetchSpec { pagination: listing(Style::PageNumber(page)), ..Default::default() },
            "pagination.page_number.size_param",
        ),
        (
            pb::FetchSpec { pagination: listing(Style::Offset(offset)), ..Default::default() },
            "pagination.offset.limit_param",
        ),
    ] {
        let spec = pb::FetchSpec { url: "http://a.example/".into(), ..spec };
        let task = pb::TaskSpec { work: Some(pb::task_spec::Work::Fetch(spec)), ..Default::default() };
        for validate_only in [true, false] {
            let request =
                pb::SubmitJobRequest { job: Some(job(vec![task.clone()])), validate_only, ..Default::default() };
            let status = server.jobs().submit_job(request).await.unwrap_err();
            let found = status.get_details_bad_request().unwrap().field_violations;
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].field, format!("job.tasks[0].fetch.{field}"));
        }
    }
}
