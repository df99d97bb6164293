//! Secrets of every kind in every place where a client can put one, looked for in everything that the server keeps, says and
//! counts, at every moment of their lives.

use std::path::{Path, PathBuf};
use std::process::Command;

use haul::pb;
use haul::pb::access_service_client::AccessServiceClient;
use haul::pb::credential_value::Kind;
use serde_json::json;

use crate::it::curl::curl;
use crate::it::sealing::{play, with_secrets};
use crate::support::collector::Collector;
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, binary, haul, until};
use crate::support::spec::{fetch, group, job, once};
use crate::support::tls::Authority;

/// What all planted secrets begin with, and its form within base64 at each of the three places there.
const MARKS: [&str; 4] = ["SESAME", "U0VTQU1F", "NFU0FNR", "TRVNBTU"];

/// Every file below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found
}

fn holds(bytes: &[u8], what: &str) -> bool {
    memchr::memmem::find(bytes, what.as_bytes()).is_some()
}

/// Where a source is noted beside a file.
fn source(path: &Path) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let length = rustix::fs::getxattr(path, "user.haul.source", &mut bytes[..]).unwrap_or(0);
    bytes.truncate(length);
    bytes
}

/// What is planted, and where it must not be.
struct Search {
    marks: Vec<String>,
    audit_log: PathBuf,
    collector: Collector,
}

impl Search {
    fn folders(&self, folders: &[PathBuf], when: &str) {
        for path in folders.iter().flat_map(|folder| files(folder)) {
            let (bytes, source) = (std::fs::read(&path).unwrap_or_default(), source(&path));
            for mark in &self.marks {
                let is_there = holds(&bytes, mark) || holds(&source, mark) || path.to_string_lossy().contains(mark);
                assert!(!is_there, "{when}: `{mark}` in {}", path.display());
            }
        }
    }

    /// Fails where a secret stands in a file, in the name of one, beside one, or in a log.
    fn files(&self, server: &Server, when: &str) {
        self.folders(&[server.data(), server.downloads()], when);
        let audit = std::fs::read_to_string(&self.audit_log).unwrap_or_default();
        for log in [server.log(), audit] {
            for mark in &self.marks {
                let line = log.lines().find(|line| line.contains(mark));
                assert!(!holds(log.as_bytes(), mark), "{when}: `{mark}` in the log: {line:?}");
            }
        }
    }

    fn text(&self, text: &str, what: &str) {
        for mark in &self.marks {
            let at = text.find(mark.as_str());
            let around = at.map(|at| text[at.saturating_sub(200)..].chars().take(300).collect::<String>());
            assert!(around.is_none(), "{what}: {around:?}");
        }
    }

    /// Fails where a secret stands in anything that can be asked for, by either face, or printed.
    async fn answers(&self, server: &Server, job_ids: &[String], when: &str) {
        let mut paths: Vec<String> =
            ["server", "limits", "hosts", "jobs", "audit", "credentials", "tokens", "principals", "tenants", "whoami"]
                .iter()
                .map(|path| format!("/v1/{path}"))
                .collect();
        paths.push("/metrics".into());
        for id in job_ids {
            paths.extend(["", "/tasks?page_size=100", "/events:list"].map(|rest| format!("/v1/jobs/{id}{rest}")));
            // A watch of a job that has ended comes to its end, in lines and in events.
            for kind in ["application/x-ndjson", "text/event-stream"] {
                let accept = format!("accept: {kind}");
                let watched = curl(server, &["--header", &accept], &format!("/v1/jobs/{id}/events?after_sequence=0"));
                assert_eq!(watched.code, 200, "{watched:?}");
                self.text(&format!("{watched:?}"), &format!("{when}: {kind}"));
            }
            for task in 0..server.tasks(id).await.len() {
                let all = "include_spec=true&include_body=true&include_attempts=true";
                paths.push(format!("/v1/jobs/{id}/tasks/{task}?{all}"));
            }
        }
        for path in paths {
            let answer = curl(server, &[], &path);
            self.text(&format!("{answer:?}"), &format!("{when}: {path}"));
        }
        for id in job_ids {
            self.text(&format!("{:?} {:?}", server.job(id).await, server.tasks(id).await), when);
            self.text(&format!("{:?}", server.events(id, 0).await), &format!("{when}: events"));
        }
        self.text(&format!("{:?}", self.collector.got.spans.lock().unwrap()), &format!("{when}: spans"));
        let commands = job_ids.first().into_iter().flat_map(|id| {
            let of_job = ["show", "tasks", "watch"].map(|command| vec![command, id.as_str()]);
            of_job.into_iter().chain(["list", "audit", "hosts"].map(|command| vec![command]))
        });
        for command in commands {
            let done = Command::new(binary()).args(["--server", &server.address]).args(&command).output().unwrap();
            self.text(&String::from_utf8_lossy(&done.stdout), &format!("{when}: {command:?}"));
            self.text(&String::from_utf8_lossy(&done.stderr), &format!("{when}: {command:?}"));
        }
    }
}

/// Sets a credential of each kind, and returns a job that uses those that do without TLS.
async fn put_credentials(server: &Server, origin: &Origin, certificate: pb::ClientCertificate) -> pb::JobSpec {
    let secret = || "SESAME-0123456789".to_owned();
    let kinds = [
        ("bearer", Kind::BearerToken(secret())),
        ("basic", Kind::BasicAuth(pb::BasicAuth { username: "me".into(), password: secret() })),
        ("header", Kind::Header(pb::Header { name: "x-key".into(), value: secret(), sensitive: false })),
        ("query", Kind::QueryParameter(pb::QueryParameter { name: "k".into(), value: secret() })),
        ("certificate", Kind::ClientCertificate(certificate)),
    ];
    let mut tasks = Vec::new();
    for (name, kind) in kinds {
        let hosts = vec![format!("127.0.0.1:{}", origin.address().port())];
        let credential = pb::Credential { name: name.into(), hosts, allow_http: true, ..Default::default() };
        let request = pb::PutCredentialRequest {
            credential: Some(credential),
            value: Some(pb::CredentialValue { kind: Some(kind) }),
            ..Default::default()
        };
        AccessServiceClient::new(server.channel.clone()).put_credential(request).await.unwrap();
        let http = pb::HttpOptions { credential: name.into(), ..Default::default() };
        let options = Some(pb::TaskOptions { http: Some(http), ..once() });
        let of = |path: &str| pb::TaskSpec { options: options.clone(), ..fetch(origin.url(path)) };
        tasks.extend(
            (name != "certificate").then(|| [of("/file"), of("/fails"), of("/leads-back")]).into_iter().flatten(),
        );
    }
    pb::JobSpec { group: Some(group(pb::GroupMode::Collect, 99)), ..job(tasks) }
}

/// What is refused says which field is wrong, and not what stands in it.
async fn refused_requests(server: &Server, origin: &Origin) -> Vec<String> {
    let mut said = Vec::new();
    let task =
        |http: serde_json::Value, url: &str| json!({"tasks": [{"fetch": {"url": url}, "options": {"http": http}}]});
    let url = origin.url("/a");
    for spec in [
        task(json!({"bearer_token": "SESAME\nX"}), &url),
        task(json!({"basic_auth": {"username": "a:b", "password": "SESAME"}}), &url),
        task(json!({"headers": [{"name": "authorization", "value": "SESAME\u{1}"}]}), &url),
        task(json!({"headers": [{"name": "host", "value": "SESAME"}]}), &url),
        task(json!({"proxy_url": "gopher://me:SESAME@127.0.0.1:1"}), &url),
        task(json!({"proxy_url": "SESAME"}), &url),
        task(json!({"client_key_pem": "SESAME"}), &url),
        task(json!({"credential": "none", "bearer_token": "SESAME"}), &url),
        task(json!({}), "ftp://me:SESAME@a/x?token=SESAME"),
        task(json!({}), "http://me:SESAME@/x?token=SESAME"),
        task(json!({}), "http://a b/x?token=SESAME"),
    ] {
        let answer = curl(server, &["--json", &spec.to_string()], "/v1/jobs");
        assert_eq!(answer.code, 400, "{spec}");
        said.push(format!("{answer:?}"));
        let checked = curl(server, &["--json", &spec.to_string()], "/v1/jobs?validate_only=true");
        said.push(format!("{checked:?}"));
    }
    for (headers, path) in [
        (["--header", "authorization: Bearer SESAME"], "/v1/jobs"),
        (["--header", "authorization: Basic U0VTQU1F"], "/v1/jobs"),
        (["--header", "cookie: __Host-haul=SESAME"], "/v1/jobs"),
        (["--header", "accept: */*"], "/v1/jobs?access_token=SESAME"),
        (["--header", "idempotency-key: \"SESAME"], "/v1/jobs"),
    ] {
        said.push(format!("{:?}", curl(server, &headers, path)));
    }
    let mut access = AccessServiceClient::new(server.channel.clone());
    let short = pb::CredentialValue { kind: Some(pb::credential_value::Kind::BearerToken("SESAME".into())) };
    let request = pb::PutCredentialRequest {
        credential: Some(pb::Credential { name: "c".into(), hosts: vec!["a.example".into()], ..Default::default() }),
        value: Some(short),
        ..Default::default()
    };
    said.push(format!("{:?}", access.put_credential(request).await.unwrap_err()));
    // Where a path of the request itself is told, it is the client's own.
    said.retain(|text| !text.contains("access_token"));
    said
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines)] // One place after another.
async fn no_secret_stands_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let audit_log = dir.path().join("audit.jsonl");
    let flags = ["--allow-private-networks", "--audit-reads", "--audit-log", audit_log.to_str().unwrap()];
    let collector = Collector::start().await;
    let variables = vec![
        ("HAUL_LOG", "haul=trace,h2=debug,hyper=trace,tonic=trace,tower=trace,info".to_owned()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.clone()),
    ];
    let mut server = Server::within(tempfile::tempdir().unwrap(), &flags, variables).await;
    let (origin, elsewhere) = (Origin::start(), Origin::start());
    play(&origin);
    // A redirect that has the secret in it, to another origin.
    origin.reply("/leads", Reply::redirect(302, &elsewhere.url("/there?token=SESAME10")));
    origin.reply("/leads-back", Reply::redirect(307, "/fails?token=SESAME11"));
    elsewhere.reply("/there", Reply::ok("fine"));
    origin.reply("/file", Reply::ok("a file"));

    let spec = with_secrets(&origin);
    let key = spec.tasks[2].options.as_ref().unwrap().http.as_ref().unwrap().client_key_pem.clone();
    let (certificate_pem, key_of_credential) = Authority::new().client();
    let keys = [&key, &key_of_credential].map(|key| key.lines().nth(1).unwrap().to_owned());
    let search = Search { marks: MARKS.iter().map(ToString::to_string).chain(keys).collect(), audit_log, collector };
    let certificate = pb::ClientCertificate { certificate_pem, key_pem: key_of_credential };
    let named = put_credentials(&server, &origin, certificate).await;
    search.files(&server, "credentials");

    // What goes with a call beside its message, too.
    let mut call = tonic::Request::new(pb::SubmitJobRequest { job: Some(spec.clone()), ..Default::default() });
    for (name, value) in [("x-api-key", "SESAME18"), ("cookie", "__Host-haul=SESAME19"), ("traceparent", "SESAME20")] {
        call.metadata_mut().insert(name, value.parse().unwrap());
    }
    let by_grpc = server.jobs().submit_job(call).await.unwrap().into_inner().job.unwrap().job_id;
    let by_name = server.submit(named).await;
    // The same by chunks, and open until everything is there.
    let open = server.submit(pb::JobSpec { open: true, tasks: Vec::new(), ..spec.clone() }).await;
    let chunk = pb::AddTasksRequest { job_id: open.clone(), chunk_id: "1".into(), tasks: spec.tasks.clone() };
    let mut answers = server.jobs().add_tasks(tokio_stream::iter([chunk])).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    let list = format!(
        "{}\n{}\n{}\n",
        origin.url("/leads?sig=SESAME12"),
        origin.url("/leads-back?password=SESAME13"),
        origin.url("/file?page=1;X-Amz-Signature=SESAME14#access_token=SESAME14")
    );
    let import = ["--header", "content-type: text/uri-list", "--data-binary", &list];
    let imported = curl(&server, &import, &format!("/v1/jobs/{open}/tasks:import"));
    assert_eq!(imported.code, 200, "{imported:?}");
    search.text(&format!("{imported:?}"), "import");
    let by_json = json!({"tasks": [
        {"fetch": {"url": origin.url("/a?api_key=SESAME15"), "method": "POST", "body": "U0VTQU1F"},
         "options": {"http": {"headers": [{"name": "x-api-key", "value": "SESAME16"}]}}},
        {"download": {"url": origin.url("/file?client_secret=SESAME17"), "path": "named"}}]});
    let submitted = curl(&server, &["--json", &by_json.to_string()], "/v1/jobs");
    search.text(&format!("{submitted:?}"), "submitted");
    let by_json = submitted.json()["job"]["job_id"].as_str().unwrap().to_owned();
    for said in refused_requests(&server, &origin).await {
        search.text(&said, "refused");
    }
    search.files(&server, "submitted");
    server.jobs().seal_job(pb::SealJobRequest { job_id: open.clone() }).await.unwrap();
    let ids = [by_grpc, open, by_json, by_name];
    for id in &ids {
        let ended = server.ended(id).await;
        assert!(ended.counts.unwrap().succeeded > 0, "{ended:?}");
    }
    assert!(!elsewhere.requests("/there").is_empty() && !origin.requests("/fails").is_empty());
    assert!(server.files().iter().any(|it| it.ends_with("/named")), "{:?}", server.files());
    search.files(&server, "ended");
    search.answers(&server, &ids, "ended").await;

    assert!(search.collector.got.spans.lock().unwrap().iter().any(|span| span.name == "attempt"));
    // A copy has neither secrets in the clear nor the key that opens them.
    let copy = dir.path().join("copy");
    let copied = haul(&["backup", "--data-dir", server.data().to_str().unwrap(), copy.to_str().unwrap()]);
    assert!(copied.status.success() && !copy.join("haul.key").exists(), "{copied:?}");
    search.folders(&[copy], "copied");
    search.text(&format!("{copied:?}"), "copied");

    let mut access = AccessServiceClient::new(server.channel.clone());
    access.rotate_data_key(pb::RotateDataKeyRequest {}).await.unwrap();
    until(async || server.log().contains("sealed with its present key")).await;
    search.files(&server, "sealed anew");
    let retry = |id: &str| pb::RetryJobRequest { job_id: id.to_owned(), ..Default::default() };
    server.jobs().retry_job(retry(&ids[0])).await.unwrap();
    server.kill();
    search.files(&server, "killed");
    server.launch().await;
    server.ended(&ids[0]).await;
    search.files(&server, "tried again");
    search.answers(&server, &ids, "tried again").await;
    for id in &ids {
        server.jobs().delete_job(pb::DeleteJobRequest { job_id: id.clone(), ..Default::default() }).await.unwrap();
    }
    search.files(&server, "deleted");
    search.answers(&server, &[], "deleted").await;
    server.terminate();
    search.files(&server, "stopped");
}
