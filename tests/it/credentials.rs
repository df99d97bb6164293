//! Credentials: where they go, who may use them, what comes back, and that nobody reads them.

use haul::pb;
use haul::pb::access_service_client::AccessServiceClient;
use haul::pb::credential_value::Kind;
use haul::pb::{FailureReason, JobState};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::it::access::{access, jobs, operator, refused, token};
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, haul};
use crate::support::spec::{download_as, fetch, fetch_as, group, job, once};

const SECRET: &str = "SESAME-0123456789";

#[allow(clippy::unnecessary_wraps)] // As the fields of messages are.
fn bearer(text: &str) -> Option<pb::CredentialValue> {
    Some(pb::CredentialValue { kind: Some(Kind::BearerToken(text.into())) })
}

/// A credential for this origin, over http.
fn bound(name: &str, origin: &Origin) -> pb::Credential {
    let host = format!("{}:{}", "127.0.0.1", origin.address().port());
    pb::Credential { name: name.into(), hosts: vec![host], allow_http: true, ..Default::default() }
}

fn put(credential: pb::Credential, value: Option<pb::CredentialValue>) -> pb::PutCredentialRequest {
    pb::PutCredentialRequest { credential: Some(credential), value, ..Default::default() }
}

#[allow(clippy::unnecessary_wraps)] // As the fields of messages are.
fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
    Some(prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
}

async fn set(server: &Server, credential: pb::Credential, value: Option<pb::CredentialValue>) -> pb::Credential {
    let mut client = AccessServiceClient::new(server.channel.clone());
    client.put_credential(put(credential, value)).await.unwrap().into_inner().credential.unwrap()
}

/// A task that names a credential.
fn using(name: &str, mut task: pb::TaskSpec) -> pb::TaskSpec {
    let http = pb::HttpOptions { credential: name.into(), ..Default::default() };
    task.options = Some(pb::TaskOptions { http: Some(http), ..once() });
    task
}

fn collect(tasks: Vec<pb::TaskSpec>) -> pb::JobSpec {
    pb::JobSpec { group: Some(group(pb::GroupMode::Collect, 9)), ..job(tasks) }
}

fn violations(status: &Status) -> Vec<(String, String)> {
    let found = status.get_details_bad_request().map(|it| it.field_violations).unwrap_or_default();
    found.into_iter().map(|it| (it.field, it.description)).collect()
}

fn authorization(origin: &Origin, path: &str) -> Vec<Option<String>> {
    origin.requests(path).iter().map(|request| request.header("authorization").map(str::to_owned)).collect()
}

async fn server() -> Server {
    Server::with(&["--allow-private-networks"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_with_the_requests_that_it_is_bound_to_and_with_no_other() {
    let (server, origin, other) = (server().await, Origin::start(), Origin::start());
    let mut credential = bound("api", &origin);
    credential.path_prefixes = vec!["/v1".into()];
    set(&server, credential, bearer(SECRET)).await;
    origin.reply("/v1/plain", Reply::ok("fine"));
    origin.reply("/v1/away", Reply::redirect(302, &other.url("/caught")));
    origin.reply("/v1/out", Reply::redirect(302, "/v2"));
    origin.reply("/v1/within", Reply::redirect(307, "/v1/plain"));
    origin.reply("/v1/back", Reply::redirect(302, &other.url("/back")));
    other.reply("/back", Reply::redirect(302, &origin.url("/v1/again")));
    for path in ["/v2", "/v1/again"] {
        origin.reply(path, Reply::ok("fine"));
    }
    other.reply("/caught", Reply::ok("fine"));
    let tasks = ["/v1/plain", "/v1/away", "/v1/out", "/v1/within", "/v1/back"];
    let ended = server.run(collect(tasks.map(|path| using("api", fetch(origin.url(path)))).to_vec())).await;
    assert_eq!(ended.state(), JobState::Succeeded, "{ended:?}");
    let sent = Some(format!("Bearer {SECRET}"));
    assert_eq!(authorization(&origin, "/v1/plain"), [sent.clone(), sent.clone()]);
    assert_eq!(authorization(&origin, "/v1/again"), std::slice::from_ref(&sent), "each hop is judged anew");
    assert_eq!(authorization(&origin, "/v2"), [None]);
    assert_eq!((authorization(&other, "/caught"), authorization(&other, "/back")), (vec![None], vec![None]));

    // A mirror gets nothing, and what the credential is for does not show the secret.
    origin.reply("/v1/file", Reply::status(404));
    other.reply("/file", Reply::ok("the file"));
    let spec =
        pb::DownloadSpec { url: origin.url("/v1/file"), mirrors: vec![other.url("/file")], ..Default::default() };
    let ended = server.run(job(vec![using("api", download_as(spec))])).await;
    assert_eq!(ended.state(), JobState::Succeeded, "{ended:?}");
    assert_eq!((authorization(&origin, "/v1/file"), authorization(&other, "/file")), (vec![sent], vec![None]));
    let mut client = AccessServiceClient::new(server.channel.clone());
    let shown = client.get_credential(pb::GetCredentialRequest { name: "api".into() }).await.unwrap().into_inner();
    let listed = client.list_credentials(pb::ListCredentialsRequest::default()).await.unwrap().into_inner();
    assert!(!format!("{shown:?} {listed:?}").contains("SESAME"));
    assert_eq!(listed.credentials, [shown.credential.clone().unwrap()]);
    assert!(shown.credential.unwrap().last_use_time.is_some());
    let used =
        client.list_audit_events(pb::ListAuditEventsRequest { method: "credential-use".into(), ..Default::default() });
    let used = used.await.unwrap().into_inner().events;
    assert_eq!(used.len(), 2, "once for each job: {used:?}");
    assert_eq!((used[0].subject.as_str(), used[0].principal.as_str()), ("credentials/default/api", "local"));
    assert_eq!(used[0].changed, [format!("jobs/{}", ended.job_id)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_is_sent_and_nothing_of_it_is_shown() {
    let (server, origin) = (server().await, Origin::start());
    origin.reply("/x", Reply::ok("fine"));
    let header = pb::Header { name: "X-Api-Key".into(), value: SECRET.into(), sensitive: false };
    let basic = pb::BasicAuth { username: "me".into(), password: SECRET.into() };
    let query = pb::QueryParameter { name: "key".into(), value: "SESAME &?/%".into() };
    for (name, kind) in
        [("basic", Kind::BasicAuth(basic)), ("header", Kind::Header(header)), ("query", Kind::QueryParameter(query))]
    {
        let made = set(&server, bound(name, &origin), Some(pb::CredentialValue { kind: Some(kind) })).await;
        assert_eq!(made.kind, name.to_uppercase());
    }
    let names = ["basic", "header", "query"];
    let ended = server.run(job(names.map(|name| using(name, fetch(origin.url("/x?a=1")))).to_vec())).await;
    assert_eq!(ended.state(), JobState::Succeeded, "{ended:?}");
    let requests = origin.requests("/x");
    let with = |is: &dyn Fn(&crate::support::origin::Request) -> bool| requests.iter().filter(|it| is(it)).count();
    assert_eq!(with(&|it| it.header("authorization") == Some("Basic bWU6U0VTQU1FLTAxMjM0NTY3ODk=")), 1);
    assert_eq!(with(&|it| it.header("x-api-key") == Some(SECRET)), 1);
    assert_eq!(
        with(&|it| it.param("key").as_deref() == Some("SESAME &?/%") && it.param("a").as_deref() == Some("1")),
        1
    );
    let tasks = server.tasks(&ended.job_id).await;
    let events = server.events(&ended.job_id, 0).await;
    assert!(!format!("{tasks:?} {events:?}").contains("SESAME"));
    assert!(!server.log().contains("SESAME"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_when_it_is_submitted() {
    let (server, origin) = (server().await, Origin::start());
    let mut credential = bound("api", &origin);
    credential.path_prefixes = vec!["/v1".into()];
    let header = pb::Header { name: "X-Key".into(), value: SECRET.into(), sensitive: true };
    set(&server, credential, Some(pb::CredentialValue { kind: Some(Kind::Header(header)) })).await;
    let good = origin.url("/v1/x");
    let with = |set: &dyn Fn(&mut pb::HttpOptions)| {
        let mut task = using("api", fetch(&*good));
        set(task.options.as_mut().unwrap().http.as_mut().unwrap());
        task
    };
    let named = |name: &str| pb::Header { name: name.into(), value: "v".into(), sensitive: false };
    let post = pb::FetchSpec { url: good.clone(), method: "POST".into(), ..Default::default() };
    for (task, field) in vec![
        (using("api", fetch(origin.url("/v2"))), "credential"),
        (using("api", fetch(origin.url("/v1/..%2fadmin"))), "credential"),
        (using("api", fetch(good.replace("127.0.0.1", "localhost"))), "credential"),
        (using("api", fetch(good.replace("://", "://me@"))), "credential"),
        (using("api", fetch_as(post)), "credential"),
        (using("none", fetch(&*good)), "credential"),
        (with(&|http| http.proxy_url = "http://127.0.0.1:1".into()), "proxy_url"),
        (with(&|http| http.insecure_skip_verify = Some(true)), "insecure_skip_verify"),
        (with(&|http| http.bearer_token = "t".into()), "bearer_token"),
        (with(&|http| http.basic_auth = Some(pb::BasicAuth::default())), "basic_auth"),
        (with(&|http| http.headers = vec![named("authorization")]), "headers[0].name"),
        (with(&|http| http.headers = vec![named("a"), named("Cookie")]), "headers[1].name"),
        (with(&|http| http.headers = vec![named("Proxy-Authorization")]), "headers[0].name"),
        (with(&|http| http.headers = vec![named("x-KEY")]), "headers[0].name"),
        (with(&|http| http.headers = vec![named("X-HTTP-Method-Override")]), "headers[0].name"),
        (with(&|http| http.headers = vec![named("x-original-url")]), "headers[0].name"),
        (with(&|http| http.headers = vec![named("X-Forwarded-Host")]), "headers[0].name"),
        (with(&|http| http.headers = vec![named("Forwarded")]), "headers[0].name"),
        (with(&|http| http.headers = vec![named("X_Key")]), "headers[0].name"),
        (with(&|http| http.headers = vec![named("X_Original_URL")]), "headers[0].name"),
        (with(&|http| http.headers = vec![named("x-http_method_override")]), "headers[0].name"),
        (with(&|http| http.headers = vec![named("Proxy_Authorization")]), "headers[0].name"),
        (with(&|http| http.headers = vec![named("X-Envoy-Original-Path")]), "headers[0].name"),
        (with(&|http| http.headers = vec![named("Content_Length")]), "headers[0].name"),
        (with(&|http| http.headers = vec![named("If_Match")]), "headers[0].name"),
    ] {
        for validate_only in [true, false] {
            let request =
                pb::SubmitJobRequest { job: Some(job(vec![task.clone()])), validate_only, ..Default::default() };
            let status = server.jobs().submit_job(request).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            let expected = format!("job.tasks[0].options.http.{field}");
            assert!(violations(&status).iter().any(|(at, _)| *at == expected), "{field}: {status:?}");
            assert!(!format!("{status:?}").contains("SESAME"));
        }
    }
    // One that would be taken, and is only judged, uses nothing.
    let judged = job(vec![using("api", fetch(&*good))]);
    let request = pb::SubmitJobRequest { job: Some(judged), validate_only: true, ..Default::default() };
    let answer = server.jobs().submit_job(request).await.unwrap().into_inner();
    assert!(answer.job.as_ref().unwrap().job_id.is_empty() && !format!("{answer:?}").contains("SESAME"));
    let mut client = AccessServiceClient::new(server.channel.clone());
    let shown = client.get_credential(pb::GetCredentialRequest { name: "api".into() }).await.unwrap().into_inner();
    assert_eq!(shown.credential.unwrap().last_use_time, None);
    assert_eq!(origin.all_requests().len(), 0);
    // Those of the job are for its tasks.
    let mut spec = job(vec![fetch(origin.url("/v2"))]);
    spec.defaults.as_mut().unwrap().http = Some(pb::HttpOptions { credential: "api".into(), ..Default::default() });
    let request = pb::SubmitJobRequest { job: Some(spec.clone()), ..Default::default() };
    let status = server.jobs().submit_job(request).await.unwrap_err();
    assert_eq!(violations(&status)[0].0, "job.tasks[0].options.http.credential");
    spec.tasks = vec![fetch(&*good)];
    origin.reply("/v1/x", Reply::ok("fine"));
    assert_eq!(server.run(spec).await.state(), JobState::Succeeded);
    assert_eq!(origin.requests("/v1/x")[0].header("x-key"), Some(SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_holds_the_secret_is_not_kept() {
    let (server, origin) = (server().await, Origin::start());
    let basic = pb::BasicAuth { username: "me".into(), password: "SESAME/+0123456789".into() };
    set(&server, bound("api", &origin), Some(pb::CredentialValue { kind: Some(Kind::BasicAuth(basic)) })).await;
    let filler = "x".repeat(200_000);
    let echo = |request: &crate::support::origin::Request| request.header("authorization").unwrap().to_owned();
    origin.handle("/raw", |_| Reply::ok("you are SESAME/+0123456789"));
    origin.handle("/base64", move |request| Reply::json(format!("{{\"you sent\":\"{}\"}}", echo(request))));
    origin.handle("/percent", |_| Reply::ok("?p=SESAME%2f%2B0123456789"));
    origin.handle("/escaped", |_| Reply::json("[\"SESAME\\/+0123456789\"]"));
    origin.handle("/header", move |request| Reply::ok("fine").header("X-Echo", &echo(request)));
    origin.handle("/location", |_| Reply::redirect(302, "/next?SESAME%2F%2B0123456789"));
    origin.handle("/cookie", |_| Reply::ok("fine").header("Set-Cookie", "a=SESAME/+0123456789"));
    let (long, cut) = (format!("{filler}SESAME/+0123456789"), "SESAME/+0123456789 is cut".to_owned());
    origin.handle("/long", move |_| Reply::ok(long.clone()));
    origin.handle("/chunks", move |_| Reply::ok(cut.clone()).chunked(3));
    origin.handle("/status", |_| Reply::status(500).header("X-Debug", "SESAME/+0123456789"));
    let paths =
        ["/raw", "/base64", "/percent", "/escaped", "/header", "/location", "/cookie", "/long", "/chunks", "/status"];
    for is_download in [false, true] {
        let task = |path: &str| {
            let url = origin.url(path);
            let download = pb::DownloadSpec { url: url.clone(), path: path[1..].into(), ..Default::default() };
            using("api", if is_download { download_as(download) } else { fetch(url) })
        };
        let ended = server.run(collect(paths.iter().map(|path| task(path)).collect())).await;
        for (task, path) in server.tasks(&ended.job_id).await.iter().zip(paths) {
            let error = task.error.clone().unwrap_or_else(|| panic!("{path}: {task:?}"));
            assert_eq!(error.reason(), FailureReason::SecretEchoed, "{path}: {error:?}");
            assert_eq!(task.attempts, 1, "{path}");
            assert!(!format!("{task:?}").contains("SESAME"), "{path}");
        }
        assert!(!format!("{:?}", server.events(&ended.job_id, 0).await).contains("SESAME"));
    }
    assert_eq!(server.files(), Vec::<String>::new(), "no file, and no part");
    assert!(origin.requests("/next").is_empty(), "it is not followed");
    assert!(!server.log().contains("SESAME"));
    // Who says so takes it all.
    let mut credential = bound("api", &origin);
    credential.skip_echo_scan = true;
    set(&server, credential, bearer(SECRET)).await;
    assert_eq!(server.run(job(vec![using("api", fetch(origin.url("/raw")))])).await.state(), JobState::Succeeded);
}

/// haul itself writes names of headers, and some of what it tells in messages, in lower case.
#[tokio::test(flavor = "multi_thread")]
async fn an_echo_that_haul_writes_in_lower_case_is_found() {
    let (server, origin) = (server().await, Origin::start());
    set(&server, bound("api", &origin), bearer(SECRET)).await;
    origin.handle("/name", |_| Reply::ok("fine").header(SECRET, "x"));
    origin.handle("/coding", |_| Reply::ok("fine").header("Transfer-Encoding", SECRET));
    for path in ["/name", "/coding"] {
        let ended = server.run(job(vec![using("api", fetch(origin.url(path)))])).await;
        let tasks = server.tasks(&ended.job_id).await;
        let shown = format!("{tasks:?} {:?}", server.events(&ended.job_id, 0).await).to_ascii_lowercase();
        assert!(!shown.contains(&SECRET.to_ascii_lowercase()), "{path}: {shown}");
        assert_eq!(tasks[0].error.as_ref().unwrap().reason(), FailureReason::SecretEchoed, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_before_an_echo_are_not_kept_and_neither_are_halves() {
    let (server, origin) = (server().await, Origin::start());
    set(&server, bound("api", &origin), bearer(SECRET)).await;
    origin.handle("/list", |request| match request.param("p").as_deref() {
        None => Reply::json("[1]").header("Link", "</list?p=2>; rel=next"),
        _ => Reply::json(format!("[\"{SECRET}\"]")),
    });
    let pagination =
        pb::Pagination { style: Some(pb::pagination::Style::LinkHeader(pb::LinkHeader {})), ..Default::default() };
    let listing = pb::FetchSpec { url: origin.url("/list"), pagination: Some(pagination), ..Default::default() };
    // A file in segments, with the secret over the border of two.
    let mut bytes = vec![b'.'; 4 << 20];
    let at = (2 << 20) - 8;
    bytes[at..at + SECRET.len()].copy_from_slice(SECRET.as_bytes());
    origin.handle("/file", move |request| {
        let range = request.header("range").and_then(|it| it.strip_prefix("bytes="));
        let (first, last) = range.and_then(|it| it.split_once('-')).unwrap_or(("0", ""));
        let first: usize = first.parse().unwrap();
        let last = last.parse().map_or(bytes.len() - 1, |last: usize| last.min(bytes.len() - 1));
        let content = format!("bytes {first}-{last}/{}", bytes.len());
        let reply = Reply::status(if range.is_some() { 206 } else { 200 }).body(bytes[first..=last].to_vec());
        let reply = reply.header("ETag", "\"v\"").header("Accept-Ranges", "bytes");
        if range.is_some() { reply.header("Content-Range", &content) } else { reply }
    });
    let file =
        pb::DownloadSpec { url: origin.url("/file"), path: "file".into(), max_connections: 4, ..Default::default() };
    let ended = server.run(collect(vec![using("api", fetch_as(listing)), using("api", download_as(file))])).await;
    for task in server.tasks(&ended.job_id).await {
        assert_eq!(task.error.unwrap().reason(), FailureReason::SecretEchoed);
    }
    assert_eq!(server.files(), Vec::<String>::new());
    let task = Some(pb::stream_items_request::Task::TaskIndex(0));
    let request = pb::StreamItemsRequest { job_id: ended.job_id.clone(), task, ..Default::default() };
    if let Ok(stream) = server.contents().stream_items(request).await {
        let first = stream.into_inner().message().await;
        assert!(!matches!(first, Ok(Some(_))), "the page before is not kept either: {first:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_found_anew_at_each_attempt() {
    let (server, origin) = (server().await, Origin::start());
    set(&server, bound("api", &origin), bearer(SECRET)).await;
    origin.handle("/x", |request| match request.header("authorization") {
        Some("Bearer SESAME-new-0123456789") => Reply::ok("fine"),
        _ => Reply::status(403),
    });
    let ended = server.run(job(vec![using("api", fetch(origin.url("/x")))])).await;
    assert_eq!(ended.state(), JobState::Failed);
    let mut client = AccessServiceClient::new(server.channel.clone());
    let rotate = pb::PutCredentialRequest {
        credential: Some(pb::Credential { name: "api".into(), ..Default::default() }),
        value: bearer("SESAME-new-0123456789"),
        update_mask: mask(&["value"]),
        ..Default::default()
    };
    client.put_credential(rotate).await.unwrap();
    let retry = pb::RetryJobRequest { job_id: ended.job_id.clone(), ..Default::default() };
    server.jobs().retry_job(retry.clone()).await.unwrap();
    assert_eq!(server.ended(&ended.job_id).await.state(), JobState::Succeeded, "it needs no other submission");

    let failed = server.run(job(vec![using("api", fetch(origin.url("/missing")))])).await;
    client.delete_credential(pb::DeleteCredentialRequest { name: "api".into(), ..Default::default() }).await.unwrap();
    let retry = pb::RetryJobRequest { job_id: failed.job_id.clone(), ..Default::default() };
    server.jobs().retry_job(retry).await.unwrap();
    let failed = server.ended(&failed.job_id).await;
    assert_eq!(failed.failure.unwrap().reason(), FailureReason::Credential);
    assert_eq!(origin.requests("/missing").len(), 1, "nothing was sent without it");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_in_use_is_not_deleted_by_mistake() {
    let (mut server, origin) = (server().await, Origin::start());
    set(&server, bound("api", &origin), bearer(SECRET)).await;
    let open = pb::JobSpec { open: true, ..job(Vec::new()) };
    let id = server.submit(open).await;
    let chunk = pb::AddTasksRequest {
        job_id: id.clone(),
        chunk_id: "1".into(),
        tasks: vec![using("api", fetch(origin.url("/x")))],
    };
    origin.reply("/x", Reply::hang());
    let answers = server.jobs().add_tasks(tokio_stream::iter([chunk])).await.unwrap().into_inner();
    let mut answers = answers;
    answers.message().await.unwrap().unwrap();
    let delete = |force| pb::DeleteCredentialRequest { name: "api".into(), force, ..Default::default() };
    let mut client = AccessServiceClient::new(server.channel.clone());
    refused(client.delete_credential(delete(false)).await, Code::FailedPrecondition, "CREDENTIAL_IN_USE");
    server.restart().await;
    let mut client = AccessServiceClient::new(server.channel.clone());
    refused(client.delete_credential(delete(false)).await, Code::FailedPrecondition, "CREDENTIAL_IN_USE");
    client.delete_credential(delete(true)).await.unwrap();
    refused(client.delete_credential(delete(true)).await, Code::NotFound, "CREDENTIAL_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn widening_needs_the_value_and_changes_are_of_a_version() {
    let (server, origin) = (server().await, Origin::start());
    let made = set(&server, bound("api", &origin), bearer(SECRET)).await;
    let mut client = AccessServiceClient::new(server.channel.clone());
    let change = |credential: pb::Credential, value: Option<pb::CredentialValue>, paths: &[&str]| {
        let request = pb::PutCredentialRequest { update_mask: mask(paths), ..put(credential, value) };
        let mut client = client.clone();
        async move { client.put_credential(request).await }
    };
    let named = || pb::Credential { name: "api".into(), ..Default::default() };
    let other = pb::Credential { hosts: vec!["evil.example".into()], ..named() };
    refused(change(other.clone(), None, &["hosts"]).await, Code::FailedPrecondition, "VALUE_REQUIRED");
    refused(change(other.clone(), bearer(SECRET), &["hosts"]).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    refused(change(other.clone(), None, &[]).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    refused(change(other.clone(), None, &["name"]).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    let narrow = pb::Credential { path_prefixes: vec!["/v1/".into()], etag: made.etag.clone(), ..named() };
    let narrowed = change(narrow.clone(), None, &["path_prefixes"]).await.unwrap().into_inner().credential.unwrap();
    assert_eq!((narrowed.path_prefixes, narrowed.version), (vec!["/v1".to_owned()], 2));
    refused(change(narrow, None, &["path_prefixes"]).await, Code::Aborted, "STALE_ETAG");
    let missing = pb::Credential { name: "none".into(), ..Default::default() };
    refused(change(missing, bearer(SECRET), &["value"]).await, Code::NotFound, "CREDENTIAL_NOT_FOUND");
    let once = pb::PutCredentialRequest { request_id: "r".into(), ..put(bound("b", &origin), bearer(SECRET)) };
    let first = client.put_credential(once.clone()).await.unwrap().into_inner();
    assert_eq!(client.put_credential(once.clone()).await.unwrap().into_inner(), first);
    let else_ = pb::PutCredentialRequest { value: bearer("another one"), ..once };
    refused(client.put_credential(else_).await, Code::AlreadyExists, "REQUEST_ID_TAKEN");
    let short = put(bound("c", &origin), bearer("short"));
    refused(client.put_credential(short).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    refused(client.put_credential(put(bound("c", &origin), None)).await, Code::InvalidArgument, "INVALID_ARGUMENT");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_for_whom_it_says_and_its_admin_need_not_submit() {
    let (server, origin) = (server().await, Origin::start());
    let op = operator(&server);
    let admin = token(&server, &op, &["boss", "--grant", "admin"]);
    let one = token(&server, &op, &["one", "--grant", "submit"]);
    let two = token(&server, &op, &["two", "--grant", "submit"]);
    origin.reply("/x", Reply::ok("fine"));
    let mine = pb::Credential { users: vec!["one".into()], ..bound("mine", &origin) };
    access(&server, &admin).put_credential(put(mine, bearer(SECRET))).await.unwrap();
    refused(
        access(&server, &op).get_credential(pb::GetCredentialRequest { name: "mine".into() }).await,
        Code::PermissionDenied,
        "MISSING_ROLE",
    );
    let submit = |token: &str, name: &str| {
        let mut client = jobs(&server, token);
        let spec = job(vec![using(name, fetch(origin.url("/x")))]);
        async move { client.submit_job(pb::SubmitJobRequest { job: Some(spec), ..Default::default() }).await }
    };
    let others = submit(&two, "mine").await.unwrap_err();
    let nobodys = submit(&two, "gone").await.unwrap_err();
    let text = |status: &Status| format!("{:?}", violations(status)).replace("gone", "mine");
    assert_eq!(text(&others), text(&nobodys), "one text for not there and not for this user");
    let made = submit(&one, "mine").await.unwrap().into_inner().job.unwrap();
    let wait = pb::WaitJobRequest { job_id: made.job_id.clone(), ..Default::default() };
    let ended = jobs(&server, &one).wait_job(wait).await.unwrap().into_inner().job.unwrap();
    assert_eq!(ended.state(), JobState::Succeeded, "{ended:?}");
    // Who made the job may not submit any more: what is tried again has no credential.
    let made = {
        origin.reply("/y", Reply::status(404));
        let spec = job(vec![using("mine", fetch(origin.url("/y")))]);
        let request = pb::SubmitJobRequest { job: Some(spec), ..Default::default() };
        jobs(&server, &one).submit_job(request).await.unwrap().into_inner().job.unwrap()
    };
    let wait = pb::WaitJobRequest { job_id: made.job_id.clone(), ..Default::default() };
    jobs(&server, &one).wait_job(wait.clone()).await.unwrap();
    let boss = token(&server, &op, &["control", "--grant", "control"]);
    let fewer = pb::UpdatePrincipalRequest {
        principal: Some(pb::Principal { name: "one".into(), ..Default::default() }),
        update_mask: mask(&["grants"]),
    };
    access(&server, &op).update_principal(fewer).await.unwrap();
    jobs(&server, &boss)
        .retry_job(pb::RetryJobRequest { job_id: made.job_id.clone(), ..Default::default() })
        .await
        .unwrap();
    let ended = jobs(&server, &boss).wait_job(wait).await.unwrap().into_inner().job.unwrap();
    assert_eq!(ended.failure.unwrap().reason(), FailureReason::Credential);
    assert_eq!(origin.requests("/y").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_sets_shows_and_deletes_it() {
    let (server, origin) = (server().await, Origin::start());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let file = file.to_str().unwrap();
    let host = format!("127.0.0.1:{}", origin.address().port());
    let run = |args: &[&str]| {
        let output = haul(&[&["--server", &server.address], args].concat());
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert!(!text.contains("SESAME"), "{text}");
        (output.status.code().unwrap(), text)
    };
    let (code, text) =
        run(&["credential", "set", "api", "--host", &host, "--path", "/v1", "--allow-http", "--bearer-from", file]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("bearer") && text.contains("/v1") && text.contains("every submitter"), "{text}");
    let (code, text) = run(&["credential", "set", "api", "--path", "/v1/x", "--expires-in", "90d"]);
    assert!(code == 0 && text.contains("/v1/x"), "{text}");
    let (code, text) = run(&["credential", "set", "api", "--host", "evil.example"]);
    assert!(code == 1 && text.contains("value"), "{text}");
    assert_eq!(run(&["credential", "set", "api"]).0, 2);
    assert!(run(&["credential", "list"]).1.contains("api"));
    origin.reply("/v1/x", Reply::ok("fine"));
    let (code, text) = run(&["submit", "--watch", "--fetch", "--credential", "api", &origin.url("/v1/x")]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(authorization(&origin, "/v1/x"), [Some(format!("Bearer {SECRET}"))]);
    let (code, text) = run(&["credential", "delete", "api"]);
    assert!(code == 0 && text.contains("is deleted"), "{text}");
    assert_eq!(run(&["credential", "show", "api"]).0, 1);
}

/// What is durable is answered again, whatever would be said of it by now: its answer may have been lost.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_is_answered_again_when_its_credential_is_gone() {
    let (server, origin) = (server().await, Origin::start());
    set(&server, bound("api", &origin), bearer(SECRET)).await;
    origin.reply("/a", Reply::ok("a"));
    let task = || using("api", fetch(origin.url("/a")));
    let open = || pb::JobSpec { open: true, ..job(vec![task()]) };
    let submit = |request_id: &str| pb::SubmitJobRequest {
        request_id: request_id.into(),
        job: Some(open()),
        ..Default::default()
    };
    let job_id = async |request_id: &str| {
        server.jobs().submit_job(submit(request_id)).await.map(|it| it.into_inner().job.unwrap().job_id)
    };
    let first = job_id("r").await.unwrap();
    let add = async |chunk_id: &str| {
        let chunk = pb::AddTasksRequest { job_id: first.clone(), chunk_id: chunk_id.into(), tasks: vec![task()] };
        let mut answers = server.jobs().add_tasks(futures_util::stream::iter([chunk])).await.unwrap().into_inner();
        answers.message().await.map(Option::unwrap)
    };
    let added = add("c").await.unwrap();
    let mut client = AccessServiceClient::new(server.channel.clone());
    let delete = pb::DeleteCredentialRequest { name: "api".into(), force: true, ..Default::default() };
    client.delete_credential(delete).await.unwrap();
    assert_eq!(job_id("r").await.unwrap(), first);
    assert_eq!(add("c").await.unwrap(), added);
    refused(job_id("other").await, Code::InvalidArgument, "INVALID_ARGUMENT");
    refused(add("other").await, Code::InvalidArgument, "INVALID_ARGUMENT");
    let changed = pb::SubmitJobRequest { job: Some(pb::JobSpec { title: "x".into(), ..open() }), ..submit("r") };
    refused(server.jobs().submit_job(changed).await, Code::InvalidArgument, "INVALID_ARGUMENT");
}
