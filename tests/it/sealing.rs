//! Secrets at rest: looked for in every file of the data directory, at every moment of a job's life.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use haul::model::secret::Secret;
use haul::pb;
use haul::pb::JobState;
use haul::store::Store as _;
use haul::store::sqlite::{Durability, SqliteStore};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, command, haul, refusal};
use crate::support::spec::{download_as, fetch, fetch_as, group, job, once};
use crate::support::tls::Authority;

/// Every file of the data directory that has these bytes.
fn places(dir: &Path, bytes: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if std::fs::read(entry.path())
                .is_ok_and(|file| file.windows(bytes.len()).any(|it| it == bytes.as_bytes()))
            {
                found.push(entry.path());
            }
        }
    }
    found
}

fn nowhere(server: &Server, when: &str) {
    // The body is kept in base64, and a key without the breaks of its lines is one too.
    for bytes in ["SESAME", "U0VTQU1F"] {
        assert_eq!(places(&server.data(), bytes), Vec::<PathBuf>::new(), "{when}: `{bytes}`");
    }
}

/// A secret of each kind in each place that a client has for one.
pub(super) fn with_secrets(origin: &Origin) -> pb::JobSpec {
    let header = |name: &str| pb::Header { name: name.into(), value: "SESAME1".into(), sensitive: false };
    let (client_certificate_pem, client_key_pem) = Authority::new().client();
    let http = |set: &dyn Fn(&mut pb::HttpOptions)| {
        let mut http = pb::HttpOptions::default();
        set(&mut http);
        Some(pb::TaskOptions { http: Some(http), ..once() })
    };
    let mut tasks = vec![
        fetch_as(pb::FetchSpec {
            url: origin.url("/post?token=SESAME2"),
            method: "POST".into(),
            body: "SESAME3".into(),
            ..Default::default()
        }),
        fetch(origin.url("/a").replace("://", "://me:SESAME4@")),
        download_as(pb::DownloadSpec {
            url: "http://127.0.0.1:1/d?sig=SESAME5".into(),
            mirrors: vec![origin.url("/d?api_key=SESAME6")],
            ..Default::default()
        }),
        fetch(origin.url("/fails")),
        fetch(origin.url("/proxied")),
        fetch_as(pb::FetchSpec {
            url: origin.url("/list?token=SESAME2"),
            pagination: Some(pb::Pagination {
                style: Some(pb::pagination::Style::LinkHeader(pb::LinkHeader {})),
                items_pointer: "/items".into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
    ];
    tasks[1].options = http(&|http| http.headers = vec![header("X-Api-Key"), header("Cookie")]);
    tasks[2].options = http(&|http| {
        http.client_certificate_pem.clone_from(&client_certificate_pem);
        http.client_key_pem.clone_from(&client_key_pem);
        http.basic_auth = Some(pb::BasicAuth { username: "me".into(), password: "SESAME7".into() });
    });
    tasks[3].options = http(&|http| http.bearer_token = "SESAME8".into());
    tasks[4].options = http(&|http| http.proxy_url = "http://me:SESAME9@127.0.0.1:1".into());
    let mut spec = job(tasks);
    let defaults = spec.defaults.as_mut().unwrap();
    defaults.http = Some(pb::HttpOptions { headers: vec![header("X-Of-The-Job")], ..Default::default() });
    pb::JobSpec { group: Some(group(pb::GroupMode::Collect, 9)), ..spec }
}

pub(super) fn play(origin: &Origin) {
    for path in ["/post", "/a", "/d"] {
        origin.reply(path, Reply::ok("fine"));
    }
    origin.reply("/fails", Reply::status(500));
    let url = origin.url("/list");
    origin.handle("/list", move |request| {
        let reply = Reply::json(format!("{{\"items\":[1,{}]}}", request.nth));
        // Only the secret leads on.
        match (request.param("token").as_deref(), request.param("page")) {
            (Some("SESAME2"), None) => reply.header("Link", &format!("<{url}?token=SESAME2&page=2>; rel=next")),
            _ => reply,
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_on_the_disk_at_any_moment() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    play(&origin);
    let later = (std::time::UNIX_EPOCH + Duration::from_secs(1 << 33)).into();
    let waiting = pb::JobSpec { start_time: Some(later), ..with_secrets(&origin) };
    server.submit(waiting).await;
    nowhere(&server, "submitted");
    let request =
        pb::SubmitJobRequest { job: Some(with_secrets(&origin)), request_id: "r".into(), ..Default::default() };
    let id = server.jobs().submit_job(request.clone()).await.unwrap().into_inner().job.unwrap().job_id;
    let ended = server.ended(&id).await;
    let states: Vec<_> = server.tasks(&id).await.iter().map(pb::Task::state).collect();
    assert_eq!((ended.state(), ended.counts.unwrap().succeeded), (JobState::Succeeded, 4), "{states:?}");
    nowhere(&server, "ended");
    let labels = [("a".to_owned(), "b".to_owned())].into();
    let update_mask = Some(prost_types::FieldMask { paths: vec!["labels".into()] });
    server
        .jobs()
        .update_job(pb::UpdateJobRequest { job_id: id.clone(), labels, update_mask, ..Default::default() })
        .await
        .unwrap();
    server.events(&id, 0).await;
    nowhere(&server, "updated and watched");
    server.restart().await;
    nowhere(&server, "after a crash");
    let again = server.jobs().submit_job(request).await.unwrap().into_inner().job.unwrap();
    assert_eq!(again.job_id, id, "the request is known by its digest");
    let retry = pb::RetryJobRequest { job_id: id.clone(), ..Default::default() };
    server.jobs().retry_job(retry).await.unwrap();
    server.ended(&id).await;
    let retried = origin.requests("/fails");
    let sent: Vec<_> = retried.iter().map(|it| it.header("authorization").map(str::to_owned)).collect();
    assert_eq!(sent, vec![Some("Bearer SESAME8".to_owned()); 2], "what was sealed is sent after a restart");
    server.jobs().delete_job(pb::DeleteJobRequest { job_id: id, ..Default::default() }).await.unwrap();
    nowhere(&server, "deleted");
    server.terminate();
    nowhere(&server, "stopped");
}

async fn sql(server: &Server, text: &str) {
    let url = format!("sqlite://{}", server.data().join("haul.db").display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

/// Killed again and again, a server seals a database of an older version to its end, and loses no secret.
#[tokio::test(flavor = "multi_thread")]
async fn sealing_survives_crashes() {
    const TASKS: u32 = 4_000;
    let mut server = Server::start().await;
    let later = (std::time::UNIX_EPOCH + Duration::from_secs(1 << 33)).into();
    let tasks = (0..TASKS).map(|index| fetch(format!("http://127.0.0.1:1/{index}"))).collect();
    let id = server.submit(pb::JobSpec { start_time: Some(later), ..job(tasks) }).await;
    server.terminate();
    let secret = r#"json('{"headers":[{"name":"x-key","value":"SESAME"}]}')"#;
    let old = format!(
        "UPDATE tasks SET spec = json_set(spec, '$.options.http', {secret}); \
         ALTER TABLE tasks DROP COLUMN sealed; ALTER TABLE job_specs DROP COLUMN sealed; \
         ALTER TABLE pages DROP COLUMN sealed; DROP TABLE data_keys; \
         DELETE FROM _sqlx_migrations WHERE description = 'sealing'"
    );
    sql(&server, &old).await;
    std::fs::remove_file(server.data().join("haul.key")).unwrap();
    assert!(!places(&server.data(), "SESAME").is_empty());
    let is_done = |server: &Server| server.log().contains("all secrets in the database are sealed");
    for nth in 0_u64.. {
        server.launch().await;
        // Wherever a kill finds it.
        tokio::time::sleep(Duration::from_millis(150 + 130 * nth)).await;
        if is_done(&server) {
            break;
        }
        server.kill();
    }
    assert_eq!(places(&server.data(), "SESAME"), Vec::<PathBuf>::new());
    assert_eq!(server.job(&id).await.counts.unwrap().pending, TASKS);
    server.terminate();
    let (store, _writer) = SqliteStore::open(&server.data(), Durability::Full).await.unwrap();
    let job = haul::model::ids::JobId(id.parse().unwrap());
    let mut seen = 0;
    loop {
        let page = store.tasks(job, &[], seen, 1_000).await.unwrap();
        for task in &page.items {
            assert_eq!(task.spec.options.http.headers[0].value, Secret::new("SESAME"));
            assert_eq!(task.spec.work.url(), format!("http://127.0.0.1:1/{}", task.index));
        }
        seen += page.items.len() as u32;
        if !page.has_more {
            break;
        }
    }
    assert_eq!(seen, TASKS);
}

/// Killed again and again while everything is sealed with a new data key, a server comes to its end and loses no secret.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_data_key_survives_crashes() {
    const TASKS: u32 = 4_000;
    let mut server = Server::start().await;
    let later = (std::time::UNIX_EPOCH + Duration::from_secs(1 << 33)).into();
    let task = |index| {
        let http = pb::HttpOptions { bearer_token: format!("SESAME{index}"), ..Default::default() };
        let options = Some(pb::TaskOptions { http: Some(http), ..Default::default() });
        pb::TaskSpec { options, ..fetch(format!("http://127.0.0.1:1/{index}")) }
    };
    let id = server.submit(pb::JobSpec { start_time: Some(later), ..job((0..TASKS).map(task).collect()) }).await;
    let rotate = async |server: &Server| {
        let mut access = pb::access_service_client::AccessServiceClient::new(server.channel.clone());
        let number = access.rotate_data_key(pb::RotateDataKeyRequest {}).await.unwrap().into_inner().data_key_id;
        number.parse::<u32>().unwrap()
    };
    let first = rotate(&server).await;
    // Wherever a kill finds it; and a key that is replaced before everything is sealed with it.
    for nth in 0..4_u64 {
        tokio::time::sleep(Duration::from_millis(40 * nth)).await;
        server.kill();
        assert_eq!(places(&server.data(), "SESAME"), Vec::<PathBuf>::new(), "kill {nth}");
        server.launch().await;
    }
    let last = rotate(&server).await;
    assert!(last > first, "{first} {last}");
    let keys = async |server: &Server| {
        let url = format!("sqlite://{}?mode=ro", server.data().join("haul.db").display());
        let mut conn = SqliteConnection::connect(&url).await.unwrap();
        let sql = "SELECT (SELECT count(*) FROM tasks WHERE hex(substr(sealed, 2, 4)) <> printf('%08X', ?1)) \
                   + (SELECT count(*) FROM data_keys WHERE purpose = 1 AND id <> ?1)";
        sqlx::query_scalar::<_, i64>(sql).bind(last).fetch_one(&mut conn).await.unwrap()
    };
    // The server says itself that nothing is left, and not before.
    let left = async |server: &Server| {
        let request = pb::GetServerInfoRequest::default();
        let access = server.admin().get_server_info(request).await.unwrap().into_inner().access.unwrap();
        assert_eq!(access.data_key_id, last.to_string());
        access.sealing_rows_left
    };
    crate::support::server::until(async || left(&server).await == 0).await;
    assert_eq!(keys(&server).await, 0);
    server.terminate();
    assert_eq!(places(&server.data(), "SESAME"), Vec::<PathBuf>::new());
    let (store, _writer) = SqliteStore::open(&server.data(), Durability::Full).await.unwrap();
    let job = haul::model::ids::JobId(id.parse().unwrap());
    let mut seen = 0;
    while seen < TASKS {
        let page = store.tasks(job, &[], seen, 1_000).await.unwrap();
        assert!(!page.items.is_empty());
        for task in &page.items {
            assert_eq!(task.spec.options.http.bearer_token, Some(Secret::new(format!("SESAME{}", task.index))));
        }
        seen += page.items.len() as u32;
    }
}

/// The key is lost: what needs its secrets fails, everything else goes on, and the audit says from where it can be trusted.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_key_is_lost_opens_without_its_secrets() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    play(&origin);
    origin.reply("/open", Reply::ok("fine"));
    let secret = with_secrets(&origin);
    let plain = pb::TaskSpec { options: Some(once()), ..fetch(origin.url("/open")) };
    let tasks = secret.tasks[..5].iter().cloned().chain([plain]).collect();
    let group_of_all = Some(group(pb::GroupMode::Collect, 99));
    let waits = server.submit(pb::JobSpec { open: true, group: group_of_all, ..job(Vec::new()) }).await;
    server.jobs().pause_job(pb::PauseJobRequest { job_id: waits.clone() }).await.unwrap();
    let chunk = pb::AddTasksRequest { job_id: waits.clone(), chunk_id: "1".into(), tasks };
    let mut answers = server.jobs().add_tasks(tokio_stream::iter([chunk])).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    server.jobs().seal_job(pb::SealJobRequest { job_id: waits.clone() }).await.unwrap();
    let ended = server.run(pb::JobSpec { group: Some(group(pb::GroupMode::Collect, 99)), ..secret }).await.job_id;
    let asked = origin.all_requests().len();
    let mut access = pb::access_service_client::AccessServiceClient::new(server.channel.clone());
    let credential = pb::PutCredentialRequest {
        credential: Some(pb::Credential { name: "api".into(), hosts: vec!["a.example".into()], ..Default::default() }),
        value: Some(pb::CredentialValue {
            kind: Some(pb::credential_value::Kind::BearerToken("SESAME-0123456789".into())),
        }),
        ..Default::default()
    };
    access.put_credential(credential.clone()).await.unwrap();
    server.terminate();
    std::fs::remove_file(server.data().join("haul.key")).unwrap();
    server.flags.push("--forget-sealed".into());
    server.launch().await;
    assert!(server.log().contains("were given up"), "{}", server.log());
    server.jobs().resume_job(pb::ResumeJobRequest { job_id: waits.clone() }).await.unwrap();
    server.ended(&waits).await;
    for (index, task) in server.tasks(&waits).await.iter().enumerate() {
        let reason = task.error.as_ref().map(pb::TaskError::reason);
        assert_eq!(reason, (index < 5).then_some(pb::FailureReason::Credential), "{index}: {task:?}");
    }
    let later = origin.all_requests().split_off(asked);
    assert!(later.iter().all(|it| it.path == "/open"), "{later:?}");
    let retry = pb::RetryJobRequest { job_id: ended.clone(), ..Default::default() };
    crate::it::access::refused(
        server.jobs().retry_job(retry).await,
        tonic::Code::FailedPrecondition,
        "SECRETS_EXPIRED",
    );
    server.jobs().delete_job(pb::DeleteJobRequest { job_id: ended, ..Default::default() }).await.unwrap();
    let mut access = pb::access_service_client::AccessServiceClient::new(server.channel.clone());
    access.put_credential(credential).await.unwrap();
    server.flags.pop();
    server.terminate();
    // The key that was made then is all that is needed from now on.
    server.launch().await;
    let secret = server.run(with_secrets(&origin)).await;
    assert!(secret.counts.unwrap().succeeded > 0);
    server.terminate();
    let data = server.data();
    let verified = haul(&["audit", "verify", "--data-dir", data.to_str().unwrap()]);
    let said = String::from_utf8(verified.stdout).unwrap();
    assert!(verified.status.success() && said.contains("cannot be verified"), "{said}");
}

fn flags(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn wait_to_serve(mut command: Command) {
    use std::io::{BufRead as _, BufReader};
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.starts_with("listening on"), "{line}");
}

#[test]
fn a_start_without_its_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (key, data) = (dir.path().join("root.key"), dir.path().join("data"));
    let own = data.join("haul.key");
    wait_to_serve(command(dir.path(), &[]));
    let shown =
        |(code, said): (i32, String)| format!("{code}: {}", said.replace(&dir.path().display().to_string(), "DIR"));
    let mut said = Vec::new();
    let digits = std::fs::read_to_string(&own).unwrap();
    std::fs::remove_file(&own).unwrap();
    said.push(shown(refusal(command(dir.path(), &[]))));
    assert!(!own.exists(), "a key is made at the first start alone");
    std::fs::write(&own, "0".repeat(64)).unwrap();
    said.push(shown(refusal(command(dir.path(), &[]))));
    std::fs::write(&own, "no key").unwrap();
    said.push(shown(refusal(command(dir.path(), &[]))));
    std::fs::write(&own, digits).unwrap();

    let from_file = format!("file:{}", key.display());
    said.push(shown(refusal(command(dir.path(), &flags(&["--data-key", &from_file])))));
    std::fs::write(&key, "1".repeat(64)).unwrap();
    said.push(shown(refusal(command(dir.path(), &flags(&["--data-key", &from_file])))));
    said.push(shown(refusal(command(dir.path(), &flags(&["--data-key", &"1".repeat(64)])))));
    said.push(shown(refusal(command(dir.path(), &flags(&["--data-key", "env:HAUL_TEST_NO_KEY"])))));
    insta::assert_snapshot!(said.join(""));
    // Another root key takes over at one start, and the old one is not needed any more.
    let previous = format!("file:{}", own.display());
    wait_to_serve(command(dir.path(), &flags(&["--data-key", &from_file, "--data-key-previous", &previous])));
    std::fs::remove_file(&own).unwrap();
    wait_to_serve(command(dir.path(), &flags(&["--data-key", &from_file])));
    let mut from_env = command(dir.path(), &flags(&["--data-key", "env:HAUL_TEST_KEY"]));
    from_env.env("HAUL_TEST_KEY", format!("{}\n", "1".repeat(64)));
    wait_to_serve(from_env);
}
