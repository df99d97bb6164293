//! Who may call what: every method and route by every role, whose jobs are whose, and what a token shows.

use haul::pb;
use haul::pb::access_service_client::AccessServiceClient;
use haul::pb::job_service_client::JobServiceClient;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::it::curl;
use crate::it::wire::{Answer, call, call_web};
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, haul};
use crate::support::spec::{fetch, job};

const ROLES: [&str; 7] = ["submit", "read", "control", "admin", "operator", "auditor", "monitor"];

/// Makes a token by the command line, with the token of an operator where one is needed already.
pub(crate) fn token(server: &Server, operator: &str, args: &[&str]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), operator).unwrap();
    let mut all = vec!["--server", &server.address];
    if !operator.is_empty() {
        all.extend(["--token-file", file.path().to_str().unwrap()]);
    }
    all.extend(["token", "create"]);
    all.extend(args);
    let made = haul(&all);
    assert!(made.status.success(), "{args:?}: {}", String::from_utf8_lossy(&made.stderr));
    let text = String::from_utf8(made.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "the token and nothing else");
    text.trim().to_owned()
}

pub(crate) fn operator(server: &Server) -> String {
    token(server, "", &["op", "--grant", "operator"])
}

pub(crate) fn id_of(token: &str) -> String {
    token[5..15].to_owned()
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

pub(crate) type Sent =
    InterceptedService<Channel, Box<dyn FnMut(Request<()>) -> Result<Request<()>, Status> + Send + Sync>>;

pub(crate) fn sending(server: &Server, token: &str) -> Sent {
    let value: MetadataValue<Ascii> = bearer(token).parse().unwrap();
    InterceptedService::new(
        server.channel.clone(),
        Box::new(move |mut request: Request<()>| {
            request.metadata_mut().insert("authorization", value.clone());
            Ok(request)
        }),
    )
}

pub(crate) fn jobs(server: &Server, token: &str) -> JobServiceClient<Sent> {
    JobServiceClient::new(sending(server, token))
}

pub(crate) fn access(server: &Server, token: &str) -> AccessServiceClient<Sent> {
    AccessServiceClient::new(sending(server, token))
}

#[track_caller]
pub(crate) fn reason(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    (status.code(), info.reason)
}

#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, expected: &str) {
    assert_eq!(reason(&answer.unwrap_err()), (code, expected.to_owned()));
}

/// Every method that is served, as the descriptors have them, with whether it streams answers.
fn methods() -> Vec<(String, bool)> {
    let sets: [&[u8]; 4] = [
        pb::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut methods = Vec::new();
    for file in sets.into_iter().flat_map(|bytes| FileDescriptorSet::decode(bytes).unwrap().file) {
        for service in &file.service {
            let path = format!("{}.{}", file.package(), service.name());
            let one =
                |it: &prost_types::MethodDescriptorProto| (format!("{path}/{}", it.name()), it.server_streaming());
            methods.extend(service.method.iter().map(one));
        }
    }
    methods.sort();
    methods
}

/// Whether a call came past the judgement of who makes it, whatever it found behind it.
fn passed(answer: &Answer) -> bool {
    let Some(status) = Status::from_header_map(&answer.trailers) else { return true };
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    !matches!(status.code(), Code::Unauthenticated) && reason != "MISSING_ROLE"
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_judged_for_strangers_and_for_each_role() {
    let server = Server::with(&["--auth-failures-per-minute", "0"]).await;
    let operator = operator(&server);
    let mut tokens = Vec::new();
    for role in ROLES {
        let name = format!("only-{role}");
        tokens.push((role, token(&server, &operator, &[&name, "--grant", role])));
    }
    let wrong = format!("{}{}", &operator[..16], &tokens[0].1[16..]);
    let mut table = String::new();
    for (method, streams) in methods() {
        // Streams that would go on are ended by their deadline.
        let timeout = ("grpc-timeout", if streams { "200m" } else { "20S" });
        let is_open = method == "grpc.health.v1.Health/Check";
        for (headers, expected) in [
            (vec![timeout], "NO_CREDENTIALS"),
            (vec![timeout, ("authorization", &*bearer(&wrong))], "BAD_CREDENTIALS"),
            (vec![timeout, ("authorization", "Basic YTpi")], "BAD_CREDENTIALS"),
        ] {
            for answer in [call(&server, &method, b"", &headers).await, call_web(&server, &method, b"", &headers).await]
            {
                if is_open {
                    assert!(passed(&answer), "{method} {headers:?}");
                } else {
                    let found = reason(&answer.status());
                    assert_eq!(found, (Code::Unauthenticated, expected.to_owned()), "{method} {headers:?}");
                }
                assert!(answer.head.contains_key("haul-request-id"), "{method}");
            }
        }
        let mut may = Vec::new();
        for (role, token) in &tokens {
            if *role == "operator" && method.ends_with("/Drain") {
                may.push(*role);
                continue;
            }
            let sent = bearer(token);
            let headers = [timeout, ("authorization", &*sent)];
            let answer = call(&server, &method, b"", &headers).await;
            let by_web =
                if streams { passed(&answer) } else { passed(&call_web(&server, &method, b"", &headers).await) };
            assert_eq!(passed(&answer), by_web, "{method} {role}");
            if passed(&answer) {
                may.push(*role);
            }
        }
        let may = if may.len() == ROLES.len() { "everybody".to_owned() } else { may.join(" ") };
        table.push_str(&format!("{method}: {may}\n"));
    }
    insta::assert_snapshot!(table);
    let unknown = call(&server, "haul.v1.JobService/Nothing", b"", &[]).await.status();
    assert_eq!(reason(&unknown), (Code::Unauthenticated, "NO_CREDENTIALS".to_owned()));
    let sent = bearer(&operator);
    let known = call(&server, "haul.v1.JobService/Nothing", b"", &[("authorization", &sent)]).await.status();
    assert_eq!(known.code(), Code::Unimplemented);
    let drained = call(&server, "haul.v1.AdminService/Drain", b"", &[("authorization", &sent)]).await;
    assert!(passed(&drained));
}

/// HTTP and JSON call the methods, so that they pass the same rows: without a token nothing is done.
#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_judged_for_strangers_and_for_each_role() {
    let server = Server::with(&["--auth-failures-per-minute", "0"]).await;
    let operator = operator(&server);
    let reader = token(&server, &operator, &["reader", "--grant", "read"]);
    let routes: serde_json::Value = serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap();
    let mut count = 0;
    for (path, methods) in routes["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let path = path.split('{').enumerate().map(|(at, part)| match part.split_once('}') {
                Some((_, rest)) if at > 0 => format!("1{rest}"),
                _ => part.to_owned(),
            });
            let path: String = path.collect();
            let method = method.to_uppercase();
            let content = &operation["requestBody"]["content"];
            let body: &[&str] = if content["application/json"].is_object() {
                &["--json", "{}"]
            } else if content.is_object() {
                &["-H", "Content-Type: text/uri-list", "--data", "http://a.example/"]
            } else {
                &[]
            };
            let args =
                |more: &[&str]| [&["-X", &method], body, more].concat().iter().map(|it| (*it).to_owned()).collect();
            let send = |more: &[&str]| {
                let args: Vec<String> = args(more);
                crate::it::curl::curl(&server, &args.iter().map(String::as_str).collect::<Vec<_>>(), &path)
            };
            let stranger = send(&[]);
            assert_eq!((stranger.code, stranger.fault().0.as_str()), (401, "NO_CREDENTIALS"), "{method} {path}");
            let wrong = send(&["-H", "Authorization: Bearer haul_x"]);
            assert_eq!((wrong.code, wrong.fault().0.as_str()), (401, "BAD_CREDENTIALS"), "{method} {path}");
            if operation["tags"][0] == "AdminService" && method != "GET" {
                let denied = send(&["-H", &format!("Authorization: {}", bearer(&reader))]);
                assert_eq!((denied.code, denied.fault().0.as_str()), (403, "MISSING_ROLE"), "{method} {path}");
            }
            count += 1;
        }
    }
    assert!(count > 30, "{count}");
    assert_eq!(crate::it::curl::curl(&server, &[], "/healthz").code, 200, "probes have no token");
    let mine = crate::it::curl::curl(&server, &["-H", &format!("Authorization: {}", bearer(&reader))], "/v1/whoami");
    assert_eq!((mine.code, mine.json()["principal"].as_str().unwrap()), (200, "reader"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_submits_has_its_own_jobs_and_knows_of_no_other() {
    let server = Server::start().await;
    let of_local = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    let operator = operator(&server);
    let make = |name: &str, role: &str| token(&server, &operator, &[name, "--grant", role]);
    let (one, other, reader) = (make("one", "submit"), make("other", "submit"), make("reader", "read"));
    let submit = async |token: &str| {
        let job = Some(pb::JobSpec { open: true, ..job(Vec::new()) });
        let request = pb::SubmitJobRequest { request_id: "same".into(), job, validate_only: false };
        jobs(&server, token).submit_job(request).await.unwrap().into_inner().job.unwrap()
    };
    let (mine, theirs) = (submit(&one).await, submit(&other).await);
    assert_ne!(mine.job_id, theirs.job_id, "a request id is one's own");
    assert_eq!(submit(&one).await.job_id, mine.job_id);
    assert_eq!((mine.created_by.as_str(), theirs.created_by.as_str()), ("one", "other"));
    let list = async |token: &str, created_by: &str| {
        let request = pb::ListJobsRequest { created_by: created_by.to_owned(), ..Default::default() };
        let list = jobs(&server, token).list_jobs(request).await.unwrap().into_inner().jobs;
        let mut ids: Vec<String> = list.into_iter().map(|job| job.job_id).collect();
        ids.sort();
        ids
    };
    let sorted = |ids: &[&String]| {
        let mut ids: Vec<String> = ids.iter().map(|id| (*id).clone()).collect();
        ids.sort();
        ids
    };
    assert_eq!(list(&one, "").await, [&*mine.job_id]);
    assert!(list(&one, "other").await.is_empty());
    assert_eq!(list(&reader, "").await, sorted(&[&of_local, &mine.job_id, &theirs.job_id]));
    assert_eq!(list(&reader, "other").await, [&*theirs.job_id]);
    assert_eq!(list(&reader, "local").await, [&*of_local]);
    assert!(list(&reader, "nobody").await.is_empty());

    let mut watch = jobs(&server, &one).watch_jobs(pb::WatchJobsRequest::default()).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while let Some(pb::WatchJobsResponse { event: Some(pb::watch_jobs_response::Event::Job(job)) }) =
        watch.message().await.unwrap()
    {
        seen.push(job.job_id);
    }
    assert_eq!(seen, [&*mine.job_id]);

    // Another's job answers as one that never was.
    let never = "01890a5d-ac96-774b-bcce-b302099a8057";
    for id in [&theirs.job_id, &of_local] {
        let get = |job_id: &str| pb::GetJobRequest { job_id: job_id.to_owned(), ..Default::default() };
        let theirs = jobs(&server, &one).get_job(get(id)).await.unwrap_err();
        let none = jobs(&server, &one).get_job(get(never)).await.unwrap_err();
        assert_eq!(reason(&theirs), (Code::NotFound, "JOB_NOT_FOUND".to_owned()));
        assert_eq!(theirs.message().replace(id, ""), none.message().replace(never, ""));
        let seal = jobs(&server, &one).seal_job(pb::SealJobRequest { job_id: id.clone() }).await;
        refused(seal, Code::NotFound, "JOB_NOT_FOUND");
        let cancel = pb::CancelJobRequest { job_id: id.clone(), ..Default::default() };
        refused(jobs(&server, &one).cancel_job(cancel).await, Code::NotFound, "JOB_NOT_FOUND");
        let watch = pb::WatchJobRequest { job_id: id.clone(), ..Default::default() };
        refused(jobs(&server, &one).watch_job(watch).await, Code::NotFound, "JOB_NOT_FOUND");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_roles_reach_the_jobs_of_others_as_far_as_they_go() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("a"));
    let operator = operator(&server);
    let make = |name: &str, role: &str| token(&server, &operator, &[name, "--grant", role]);
    let (one, other) = (make("one", "submit"), make("other", "submit"));
    let (reader, control) = (make("reader", "read"), make("control", "control"));
    let submit = async |token: &str| {
        let job = Some(pb::JobSpec { open: true, ..job(Vec::new()) });
        let request = pb::SubmitJobRequest { job, ..Default::default() };
        jobs(&server, token).submit_job(request).await.unwrap().into_inner().job.unwrap()
    };
    let (mine, theirs) = (submit(&one).await, submit(&other).await);
    // Who may look is told what is missing.
    let cancel = || pb::CancelJobRequest { job_id: theirs.job_id.clone(), ..Default::default() };
    refused(jobs(&server, &reader).cancel_job(cancel()).await, Code::PermissionDenied, "MISSING_ROLE");
    assert!(jobs(&server, &control).cancel_job(cancel()).await.is_ok());
    let chunk = |id: &str| pb::AddTasksRequest {
        job_id: id.to_owned(),
        chunk_id: "a".into(),
        tasks: vec![fetch(origin.url("/a"))],
    };
    let add = async |token: &str, id: &str| {
        let chunks = tokio_stream::iter([chunk(id)]);
        jobs(&server, token).add_tasks(chunks).await?.into_inner().message().await
    };
    refused(add(&other, &mine.job_id).await, Code::NotFound, "JOB_NOT_FOUND");
    assert!(add(&one, &mine.job_id).await.unwrap().is_some());
    let sealed = jobs(&server, &one).seal_job(pb::SealJobRequest { job_id: mine.job_id.clone() }).await;
    assert!(sealed.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_text_of_a_token_is_nowhere_but_where_it_was_asked_for() {
    let mut server = Server::start().await;
    let operator = operator(&server);
    let second = token(&server, &operator, &["second", "--grant", "submit", "--title", "for nobody"]);
    let sent = bearer(&operator);
    let damaged = format!("Bearer {}", &operator[..64]);
    let mut said = String::new();
    for header in [&*sent, &*damaged] {
        for method in ["haul.v1.AccessService/ListTokens", "haul.v1.JobService/GetJob", "haul.v1.JobService/None"] {
            let answer = call(&server, method, b"", &[("authorization", header)]).await;
            said += &format!("{answer:?}");
            for (_, message) in &answer.messages {
                said += &String::from_utf8_lossy(message);
            }
        }
    }
    let by_url = call(&server, &format!("haul.v1.JobService/ListJobs?token={second}"), b"", &[]).await.status();
    assert_eq!(reason(&by_url), (Code::Unauthenticated, "NO_CREDENTIALS".to_owned()));
    said += &format!("{by_url:?}");
    server.kill();
    server.launch().await;
    assert!(server.terminate().success());
    said += &server.log();
    for entry in std::fs::read_dir(server.data()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            said += &String::from_utf8_lossy(&std::fs::read(path).unwrap());
        }
    }
    for token in [&operator, &second] {
        assert!(said.contains(&id_of(token)), "the id is no secret");
        assert!(!said.contains(&token[16..40]), "its secret is somewhere");
    }
}

/// What one message holds has a bound before there is memory for it, whatever the number of its bytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_empty_tasks_takes_no_memory() {
    let server = Server::start().await;
    let before = server.peak_memory();
    for (method, message) in [
        ("haul.v1.JobService/AddTasks", b"\x1a\x00".repeat(8_000_000)),
        ("haul.v1.JobService/SubmitJob", {
            // A job, and the length of what it holds.
            let job = b"\x1a\x00".repeat(1 << 20);
            [&b"\x12\x80\x80\x80\x01"[..], &job].concat()
        }),
    ] {
        let status = call(&server, method, &message, &[]).await.status();
        assert_eq!(reason(&status), (Code::InvalidArgument, "INVALID_ARGUMENT".to_owned()), "{method}");
        assert!(status.message().contains("10000 tasks"), "{status:?}");
        let field = status.get_details_bad_request().unwrap().field_violations[0].field.clone();
        assert!(["job.tasks", "tasks"].contains(&field.as_str()), "{field}");
    }
    let body = format!("{{\"tasks\":[{}]}}", vec!["{}"; 3_000_000].join(","));
    let answer = plain(&server, "POST", "/v1/jobs", &body);
    assert!(answer.code == 400 && answer.body.contains("more than 10000 entries"), "{answer:?}");
    let grown = server.peak_memory() - before;
    assert!(grown < 200 << 20, "{} MiB more than before", grown >> 20);
}

/// Sends a request of plain HTTP without a token.
fn plain(server: &Server, method: &str, path: &str, body: &str) -> curl::Answer {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    curl::raw(server, (head + body).as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_names_its_request_and_errors_name_it_too() {
    let server = Server::start().await;
    let op = operator(&server);
    for path in ["/v1/jobs", "/v1/nothing", "/healthz", "/v1/openapi.json"] {
        let answer = plain(&server, "GET", path, "");
        let id = answer.header("haul-request-id").unwrap_or_else(|| panic!("{path}: {answer:?}"));
        assert_eq!(answer.body.contains(id), answer.code != 200, "{path}: {answer:?}");
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge, (answer.code == 401).then_some("Bearer realm=\"haul\""), "{path}");
    }
    let refused =
        jobs(&server, &op).get_job(pb::GetJobRequest { job_id: "x".into(), ..Default::default() }).await.unwrap_err();
    let name = refused.metadata().get("haul-request-id").unwrap().to_str().unwrap().to_owned();
    assert_eq!(refused.get_details_error_info().unwrap().metadata["haul-request-id"], name);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_learns_which_names_its_principals_have() {
    let server = Server::start().await;
    let op = operator(&server);
    let boss = token(&server, &op, &["default/boss", "--grant", "admin"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &boss).unwrap();
    let create = |name: &str| {
        let place = ["--server", &server.address, "--token-file", file.path().to_str().unwrap()];
        haul(&[&place[..], &["token", "create", name, "--grant", "submit"]].concat())
    };
    let refused = create("ci");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("`operator`") && said.contains("default/ci"), "{said}");
    assert!(create("default/ci").status.success());
}
