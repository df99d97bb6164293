//! What must hold against those who try: damaged tokens, cuts between a change and its record, secrets that have had their
//! time, and bounds of one principal.

use std::io::{BufRead as _, BufReader};

use haul::pb;
use haul::pb::access_service_client::AccessServiceClient;
use haul::pb::credential_value::Kind;
use haul::pb::{FailureReason, JobState};
use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::it::access::{bearer, jobs, operator, refused, token};
use crate::it::echoes::count;
use crate::it::wire::call;
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, haul, until};
use crate::support::spec::{fetch, job, once};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_cut_or_changed_anywhere_is_nobodys() {
    let server = Server::with(&["--auth-failures-per-minute", "0"]).await;
    let operator = operator(&server);
    let good = token(&server, &operator, &["ci", "--grant", "read"]);
    let other = token(&server, &operator, &["cd", "--grant", "read"]);
    let mut bad: Vec<String> = (1..good.len()).map(|at| good[..at].to_owned()).collect();
    for at in 5..good.len() {
        let mut letters = good.clone().into_bytes();
        letters[at] = if letters[at] == b'a' { b'b' } else { b'a' };
        bad.push(String::from_utf8(letters).unwrap());
    }
    // The right id with the secret of another; both after each other; with more behind.
    bad.push(format!("{}{}", &good[..16], &other[16..]));
    bad.extend([format!("{good}{other}"), format!("{good}="), format!("{good} x")]);
    let method = "haul.v1.AccessService/WhoAmI";
    for text in bad {
        let answer = call(&server, method, b"", &[("authorization", &bearer(&text))]).await;
        let status = answer.status();
        let info = status.get_details_error_info().unwrap();
        assert_eq!((status.code(), info.reason.as_str()), (Code::Unauthenticated, "BAD_CREDENTIALS"), "{text}");
        assert!(!status.message().contains(&text[..text.len().min(12)]) || text.len() < 12, "{text}");
    }
    let (one, two) = (bearer(&good), bearer(&other));
    for headers in [vec![("authorization", &*one), ("authorization", &*two)], vec![("authorization", "")]] {
        assert_eq!(call(&server, method, b"", &headers).await.status().code(), Code::Unauthenticated);
    }
    let in_url = format!("{method}?access_token={good}");
    assert_eq!(call(&server, &in_url, b"", &[]).await.status().code(), Code::Unauthenticated);
    let answer = call(&server, method, b"", &[("authorization", &format!("bEARER {good}"))]).await;
    assert_eq!(answer.status().code(), Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_kill_cuts_is_done_and_audited_or_neither() {
    let mut server = Server::start().await;
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let calls = (0..20).map(|number| {
            let mut client = server.jobs();
            let request_id = format!("{round}-{number}");
            let spec = pb::JobSpec { open: true, ..job(Vec::new()) };
            async move {
                let request = pb::SubmitJobRequest { request_id, job: Some(spec), ..Default::default() };
                client.submit_job(request).await.ok().and_then(|it| it.into_inner().job).map(|it| it.job_id)
            }
        });
        let mut calls: JoinSet<Option<String>> = calls.collect();
        // Some are answered, and some are on their way.
        acknowledged.extend(calls.join_next().await.unwrap().unwrap());
        server.kill();
        acknowledged.extend(calls.join_all().await.into_iter().flatten());
        server.launch().await;
    }
    let mut stored: Vec<String> = Vec::new();
    let mut request = pb::ListJobsRequest { page_size: 1_000, ..Default::default() };
    loop {
        let page = server.jobs().list_jobs(request.clone()).await.unwrap().into_inner();
        stored.extend(page.jobs.into_iter().map(|it| it.job_id));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let filter = pb::ListAuditEventsRequest {
        page_size: 1_000,
        method: "haul.v1.JobService/SubmitJob".into(),
        ..Default::default()
    };
    let events = AccessServiceClient::new(server.channel.clone()).list_audit_events(filter).await.unwrap().into_inner();
    let mut audited: Vec<String> =
        events.events.iter().map(|it| it.subject.trim_start_matches("jobs/").to_owned()).collect();
    stored.sort();
    audited.sort();
    assert_eq!(stored, audited);
    for id in acknowledged {
        assert!(stored.binary_search(&id).is_ok(), "{id} was acknowledged");
    }
    let data = server.data();
    let verified = haul(&["audit", "verify", "--data-dir", data.to_str().unwrap()]);
    assert!(verified.status.success(), "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_ended_jobs_have_their_time() {
    let mut server = Server::with(&["--allow-private-networks", "--secret-retention", "1ms"]).await;
    let origin = Origin::start();
    origin.reply("/x", Reply::status(404));
    let mut secret = fetch(origin.url("/x?token=SESAME1"));
    let header = |name: &str| pb::Header { name: name.into(), value: "SESAME2".into(), sensitive: name == "x-secret" };
    let http = pb::HttpOptions { headers: vec![header("x-plain"), header("x-secret")], ..Default::default() };
    secret.options = Some(pb::TaskOptions { http: Some(http), ..once() });
    let (with, without) = (server.run(job(vec![secret])).await, server.run(job(vec![fetch(origin.url("/x"))])).await);
    assert_eq!((with.state(), without.state()), (JobState::Failed, JobState::Failed));
    server.restart().await;
    let retry = |id: &str| pb::RetryJobRequest { job_id: id.to_owned(), ..Default::default() };
    // Whoever tried it again meanwhile would put its end off.
    until(async || count(&server, "jobs WHERE moving ->> '$.secrets_gone'").await == 1).await;
    refused(server.jobs().retry_job(retry(&with.job_id)).await, Code::FailedPrecondition, "SECRETS_EXPIRED");
    server.jobs().retry_job(retry(&without.job_id)).await.unwrap();
    let request = pb::GetTaskRequest {
        job_id: with.job_id.clone(),
        task: Some(pb::get_task_request::Task::TaskIndex(0)),
        include_spec: true,
        ..Default::default()
    };
    let task = server.jobs().get_task(request).await.unwrap().into_inner().task.unwrap();
    let headers = task.spec.unwrap().options.unwrap().http.unwrap().headers;
    assert_eq!(headers[0].value, "SESAME2", "what is not marked stays with the job");
    assert_eq!(headers[1].value, "REDACTED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_whose_place_was_erased_fails_once() {
    let mut server = Server::with(&["--allow-private-networks", "--secret-retention", "1ms"]).await;
    let origin = Origin::start();
    let next = origin.url("/list?page_token=SESAME");
    origin.handle("/list", move |request| match request.param("page_token") {
        None => Reply::json(format!("{{\"items\": [1], \"next\": \"{next}\"}}")),
        Some(_) => Reply::status(404),
    });
    let style = pb::pagination::Style::NextUrl(pb::NextUrl { next_pointer: "/next".into() });
    let pagination = pb::Pagination { style: Some(style), items_pointer: "/items".into(), ..Default::default() };
    let spec = pb::FetchSpec { url: origin.url("/list"), pagination: Some(pagination), ..Default::default() };
    let task =
        pb::TaskSpec { work: Some(pb::task_spec::Work::Fetch(spec)), options: Some(once()), ..Default::default() };
    let id = server.run(job(vec![task])).await.job_id;
    server.restart().await;
    let retry = async |id: &str| {
        let answer = server.jobs().retry_job(pb::RetryJobRequest { job_id: id.to_owned(), ..Default::default() }).await;
        answer.map(|_| ())
    };
    until(async || count(&server, "pages WHERE sealed IS NOT NULL").await == 0).await;
    retry(&id).await.unwrap();
    let failure = server.ended(&id).await.failure.unwrap();
    assert_eq!(failure.reason(), FailureReason::Credential, "{failure:?}");
    let firsts = origin.requests("/list").iter().filter(|it| it.param("page_token").is_none()).count();
    assert_eq!(firsts, 1, "its first page is kept, and not asked for again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_principal_has_so_many_calls_open_over_all_its_connections() {
    let server = Server::with(&["--max-streams-per-connection", "2"]).await;
    let operator = operator(&server);
    let reader = token(&server, &operator, &["reader", "--grant", "read"]);
    let open = async || jobs(&server, &reader).watch_jobs(pb::WatchJobsRequest::default()).await;
    let (first, _second) = (open().await.unwrap(), open().await.unwrap());
    let list = async || jobs(&server, &reader).list_jobs(pb::ListJobsRequest::default()).await;
    // A third stream on the same connection waits for its turn there; another connection does not have one either.
    let other = haul_list(&server, &reader);
    assert!(!other.status.success());
    assert!(String::from_utf8_lossy(&other.stderr).contains("calls open"), "{other:?}");
    drop(first);
    until(async || haul_list(&server, &reader).status.success()).await;
    assert!(list().await.is_ok());
}

fn haul_list(server: &Server, token: &str) -> std::process::Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), token).unwrap();
    haul(&["--server", &server.address, "--token-file", file.path().to_str().unwrap(), "list"])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_is_written_as_lines_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    let server = Server::with(&["--audit-log", file.to_str().unwrap()]).await;
    let id = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    let line = format!("\"subject\":\"jobs/{id}\"");
    until(async || std::fs::read_to_string(&file).is_ok_and(|text| text.contains(&line))).await;
    let text = std::fs::read_to_string(&file).unwrap();
    for line in text.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(event["sequence"].is_string() && event["chain"].is_string(), "{line}");
    }
}

/// The lines are best effort: where they cannot be written, calls go on, the log says so, and later lines are written again.
#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_where_the_lines_of_the_audit_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("missing");
    let file = folder.join("audit.jsonl");
    let server = Server::with(&["--audit-log", file.to_str().unwrap()]).await;
    let submit = async || server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    let first = submit().await;
    until(async || server.log().contains("are not in its log")).await;
    std::fs::create_dir(&folder).unwrap();
    let second = submit().await;
    let text = || std::fs::read_to_string(&file).unwrap_or_default();
    until(async || text().contains(&second)).await;
    assert!(!text().contains(&first), "what was left out is in the database alone");
    let events = AccessServiceClient::new(server.channel.clone());
    let events = events.clone().list_audit_events(pb::ListAuditEventsRequest::default()).await.unwrap().into_inner();
    for id in [first, second] {
        assert!(events.events.iter().any(|it| it.subject == format!("jobs/{id}")), "{events:?}");
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_that_nobody_reads_does_not_hold_up_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("audit");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    let mut server = Server::with(&["--audit-log", pipe.to_str().unwrap()]).await;
    server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    // The lines of what has happened wait for a reader, who may come late, and those of the end do not.
    let read = std::thread::spawn({
        let pipe = pipe.clone();
        move || BufReader::new(std::fs::File::open(pipe).unwrap()).lines().next()
    });
    let line = tokio::task::spawn_blocking(move || read.join().unwrap()).await.unwrap().unwrap().unwrap();
    assert!(line.contains("\"sequence\""), "{line}");
    server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    assert!(server.terminate().success());
    assert!(server.log().contains("are not in its log"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_keeps_to_himself_is_refused_with_its_field() {
    let flags = ["--allow-client-proxy=false", "--allow-insecure-skip-verify=false"];
    let server = Server::with(&flags).await;
    for (http, field) in [
        (pb::HttpOptions { proxy_url: "http://127.0.0.1:1".into(), ..Default::default() }, "proxy_url"),
        (pb::HttpOptions { insecure_skip_verify: Some(true), ..Default::default() }, "insecure_skip_verify"),
    ] {
        let mut task = fetch("http://127.0.0.1:1/");
        task.options = Some(pb::TaskOptions { http: Some(http.clone()), ..Default::default() });
        let request = pb::SubmitJobRequest { job: Some(job(vec![task])), ..Default::default() };
        let status = server.jobs().submit_job(request).await.unwrap_err();
        let violation = &status.get_details_bad_request().unwrap().field_violations[0];
        assert_eq!(violation.field, format!("job.tasks[0].options.http.{field}"));
        let mut spec = job(vec![fetch("http://127.0.0.1:1/")]);
        spec.defaults.as_mut().unwrap().http = Some(http);
        let request = pb::SubmitJobRequest { job: Some(spec), ..Default::default() };
        let status = server.jobs().submit_job(request).await.unwrap_err();
        let violation = &status.get_details_bad_request().unwrap().field_violations[0];
        assert_eq!(violation.field, format!("job.defaults.http.{field}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_tasks_ask_goes_through_the_operators_proxy() {
    let origin = Origin::start();
    origin.handle("/x", |_| Reply::ok("from the proxy"));
    let proxy = origin.url("");
    let server = Server::with(&["--egress-proxy", &proxy]).await;
    let ended = server.run(job(vec![fetch("http://192.0.2.1/x"), fetch("http://example.com/x")])).await;
    // 192.0.2.1 is for documentation, which the guard still refuses.
    let tasks = server.tasks(&ended.job_id).await;
    assert_eq!(tasks[0].error.clone().unwrap().reason(), FailureReason::ForbiddenAddress);
    let asked: Vec<_> = origin.all_requests().iter().map(|it| it.target.clone()).collect();
    assert!(asked.is_empty() || asked == ["http://example.com/x"], "{asked:?}");
    let local = server.run(job(vec![fetch("http://localhost/x")])).await;
    assert_eq!(local.failure.unwrap().reason(), FailureReason::ForbiddenAddress);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_of_a_credential_is_nowhere() {
    let mut server = Server::with(&["--allow-private-networks"]).await;
    let origin = Origin::start();
    for path in ["/ok", "/away"] {
        origin.reply(path, Reply::ok("fine"));
    }
    origin.reply("/fails", Reply::status(500));
    origin.reply("/redirects", Reply::redirect(302, "/away"));
    let secret = "SESAME-0123456789";
    let kinds = [
        ("bearer", Kind::BearerToken(secret.into())),
        ("basic", Kind::BasicAuth(pb::BasicAuth { username: "me".into(), password: secret.into() })),
        ("header", Kind::Header(pb::Header { name: "x-key".into(), value: secret.into(), sensitive: false })),
        ("query", Kind::QueryParameter(pb::QueryParameter { name: "k".into(), value: secret.into() })),
    ];
    let host = format!("127.0.0.1:{}", origin.address().port());
    let mut access = AccessServiceClient::new(server.channel.clone());
    for (name, kind) in kinds.clone() {
        let credential =
            pb::Credential { name: name.into(), hosts: vec![host.clone()], allow_http: true, ..Default::default() };
        let value = Some(pb::CredentialValue { kind: Some(kind) });
        let request = pb::PutCredentialRequest { credential: Some(credential), value, ..Default::default() };
        access.put_credential(request).await.unwrap();
    }
    let base64 = "U0VTQU1F";
    let nowhere = |server: &Server, when: &str| {
        for text in ["SESAME", base64] {
            for dir in [server.data(), server.downloads()] {
                for file in files(&dir) {
                    let bytes = std::fs::read(&file).unwrap_or_default();
                    assert!(!bytes.windows(text.len()).any(|it| it == text.as_bytes()), "{when}: {}", file.display());
                }
            }
            assert!(!server.log().contains(text), "{when}: the log");
        }
    };
    nowhere(&server, "set");
    let mut tasks = Vec::new();
    for (name, _) in &kinds {
        for path in ["/ok", "/fails", "/redirects"] {
            let mut task = fetch(origin.url(path));
            let http = pb::HttpOptions { credential: (*name).into(), ..Default::default() };
            task.options = Some(pb::TaskOptions { http: Some(http), ..once() });
            tasks.push(task);
        }
    }
    let group = Some(crate::support::spec::group(pb::GroupMode::Collect, 99));
    let ended = server.run(pb::JobSpec { group, ..job(tasks) }).await;
    assert_eq!(ended.counts.unwrap().succeeded, 8);
    nowhere(&server, "run");
    access.rotate_data_key(pb::RotateDataKeyRequest {}).await.unwrap();
    until(async || server.log().contains("sealed with its present key")).await;
    nowhere(&server, "rotated");
    let said = format!(
        "{:?} {:?} {:?}",
        server.tasks(&ended.job_id).await,
        server.events(&ended.job_id, 0).await,
        access.list_credentials(pb::ListCredentialsRequest::default()).await.unwrap()
    );
    assert!(!said.contains("SESAME") && !said.contains(base64), "{said}");
    server.restart().await;
    server.jobs().retry_job(pb::RetryJobRequest { job_id: ended.job_id.clone(), ..Default::default() }).await.unwrap();
    server.ended(&ended.job_id).await;
    let sent: Vec<_> =
        origin.requests("/fails").iter().filter_map(|it| it.header("x-key").map(str::to_owned)).collect();
    assert_eq!(sent, [secret, secret], "it opens after a rotation and a crash");
    nowhere(&server, "after a crash");
    server.jobs().delete_job(pb::DeleteJobRequest { job_id: ended.job_id, ..Default::default() }).await.unwrap();
    server.terminate();
    nowhere(&server, "stopped");
}

fn files(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() { found.extend(files(&entry.path())) } else { found.push(entry.path()) }
    }
    found
}
