//! What must not be kept or sent: pages before an echo, also where a kill cuts their removal, and tasks without their secrets.

use haul::pb;
use haul::pb::access_service_client::AccessServiceClient;
use haul::pb::credential_value::Kind;
use haul::pb::{FailureReason, JobState};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, until};
use crate::support::spec::{download, fetch, fetch_as, group, job, once};

const SECRET: &str = "SESAME-0123456789";

async fn with_credential(origin: &Origin) -> Server {
    with_secret(origin, SECRET).await
}

async fn with_secret(origin: &Origin, secret: &str) -> Server {
    let server = Server::with(&["--allow-private-networks", "--secret-retention", "1ms"]).await;
    let credential = pb::Credential {
        name: "api".into(),
        hosts: vec![format!("127.0.0.1:{}", origin.address().port())],
        allow_http: true,
        ..Default::default()
    };
    let value = Some(pb::CredentialValue { kind: Some(Kind::BearerToken(secret.into())) });
    let request = pb::PutCredentialRequest { credential: Some(credential), value, ..Default::default() };
    AccessServiceClient::new(server.channel.clone()).put_credential(request).await.unwrap();
    server
}

/// A listing by `Link` that uses the credential.
fn listing(url: String) -> pb::TaskSpec {
    let pagination =
        pb::Pagination { style: Some(pb::pagination::Style::LinkHeader(pb::LinkHeader {})), ..Default::default() };
    let task = fetch_as(pb::FetchSpec { url, pagination: Some(pagination), ..Default::default() });
    let http = pb::HttpOptions { credential: "api".into(), ..Default::default() };
    pb::TaskSpec { options: Some(pb::TaskOptions { http: Some(http), ..once() }), ..task }
}

/// Two pages that are long enough for files of their own, each leading on.
fn long_pages(origin: &Origin) {
    origin.handle("/list", |request| {
        let page = request.param("p").and_then(|it| it.parse().ok()).unwrap_or(1);
        let reply = Reply::json(format!("[\"{}\"]", "x".repeat(600_000 + page)));
        match page {
            1 | 2 => reply.header("Link", &format!("</list?p={}>; rel=next", page + 1)),
            _ => Reply::json(format!("[\"{SECRET}\"]")),
        }
    });
}

/// The bodies of a job that are in files.
fn bodies(server: &Server, job_id: &str) -> Vec<String> {
    let folder = server.data().join("content").join(job_id);
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.ends_with("-dropped"));
    names.sort();
    names
}

async fn sql(server: &Server, text: &str) {
    let url = format!("sqlite://{}", server.data().join("haul.db").display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

/// How many rows there are of a table, and of those that fit, beside a running server.
pub(super) async fn count(server: &Server, rows: &str) -> i64 {
    let url = format!("sqlite://{}?mode=ro", server.data().join("haul.db").display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {rows}"))).fetch_one(&mut conn).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_pages_before_an_echo_are_gone_with_it() {
    let origin = Origin::start();
    let server = with_credential(&origin).await;
    long_pages(&origin);
    origin.reply("/hangs", Reply::hang());
    // The job goes on, so nothing of it is deleted yet.
    let tasks =
        vec![listing(origin.url("/list")), pb::TaskSpec { options: Some(once()), ..fetch(origin.url("/hangs")) }];
    let spec = pb::JobSpec { group: Some(group(pb::GroupMode::Collect, 9)), ..job(tasks) };
    let id = server.submit(spec).await;
    until(async || server.task(&id, 0).await.error.is_some()).await;
    let task = server.task(&id, 0).await;
    assert_eq!(task.error.unwrap().reason(), FailureReason::SecretEchoed);
    assert_eq!(origin.requests("/list").len(), 3);
    assert_eq!(bodies(&server, &id), Vec::<String>::new());
    // Tried again it begins anew, and what it keeps then stays.
    server.jobs().cancel_job(pb::CancelJobRequest { job_id: id.clone(), ..Default::default() }).await.unwrap();
    server.ended(&id).await;
    origin.handle("/list", |request| match request.param("p") {
        None => Reply::json(format!("[\"{}\"]", "x".repeat(600_000))).header("Link", "</list?p=2>; rel=next"),
        Some(_) => Reply::json("[2]"),
    });
    origin.reply("/hangs", Reply::ok("fine"));
    server.jobs().retry_job(pb::RetryJobRequest { job_id: id.clone(), ..Default::default() }).await.unwrap();
    assert_eq!(server.ended(&id).await.state(), JobState::Succeeded);
    assert_eq!(bodies(&server, &id), ["0-0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_pages_are_removed_keeps_none_of_them() {
    let origin = Origin::start();
    let mut server = with_credential(&origin).await;
    long_pages(&origin);
    let long = "x".repeat(600_000);
    origin.handle("/list", move |request| match request.param("p") {
        None => Reply::json(format!("[\"{long}\"]")).header("Link", "</list?p=2>; rel=next"),
        Some(_) => Reply::hang(),
    });
    let id = server.submit(job(vec![listing(origin.url("/list"))])).await;
    until(async || origin.requests("/list").len() == 2).await;
    server.kill();
    assert_eq!(bodies(&server, &id), ["0-0"]);
    // As a kill leaves it that comes after the files went and before the end of the attempt is stored.
    let folder = server.data().join("content").join(&id);
    std::fs::write(folder.join("0-dropped"), "").unwrap();
    std::fs::remove_file(folder.join("0-0")).unwrap();
    server.launch().await;
    let ended = server.ended(&id).await;
    assert_eq!(ended.failure.unwrap().reason(), FailureReason::SecretEchoed);
    assert_eq!(origin.requests("/list").len(), 2, "nothing is asked for again");
    let task = Some(pb::stream_items_request::Task::TaskIndex(0));
    let request = pb::StreamItemsRequest { job_id: id.clone(), task, ..Default::default() };
    if let Ok(stream) = server.contents().stream_items(request).await {
        let first = stream.into_inner().message().await;
        assert!(!matches!(first, Ok(Some(_))), "{first:?}");
    }
    // Its pages are gone from the database too, so it may begin anew.
    origin.reply("/list", Reply::json("[1]"));
    server.jobs().retry_job(pb::RetryJobRequest { job_id: id.clone(), ..Default::default() }).await.unwrap();
    assert_eq!(server.ended(&id).await.state(), JobState::Succeeded);
}

/// An older version erased secrets of jobs that were tried again meanwhile, and then forgot that it had.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_without_the_secrets_that_were_erased() {
    let origin = Origin::start();
    let mut server = with_credential(&origin).await;
    origin.reply("/x", Reply::status(404));
    let with = |http: pb::HttpOptions, url: String| {
        let options = pb::TaskOptions { http: Some(http), ..once() };
        pb::TaskSpec { options: Some(options), ..fetch(url) }
    };
    let header = pb::Header { name: "x-key".into(), value: "SESAME".into(), sensitive: true };
    let kinds = [
        with(pb::HttpOptions { bearer_token: "SESAME".into(), ..Default::default() }, origin.url("/x")),
        with(pb::HttpOptions { headers: vec![header], ..Default::default() }, origin.url("/x")),
        with(pb::HttpOptions::default(), origin.url("/x?token=SESAME")),
        with(pb::HttpOptions::default(), origin.url("/x").replace("://", "://me:SESAME@")),
    ];
    let mut ids = Vec::new();
    for task in kinds {
        ids.push(server.run(job(vec![task])).await.job_id);
    }
    // And one whose secret is the job's.
    let mut spec = job(vec![pb::TaskSpec { options: Some(once()), ..fetch(origin.url("/x")) }]);
    let http = pb::HttpOptions { bearer_token: "SESAME".into(), ..Default::default() };
    spec.defaults.as_mut().unwrap().http = Some(http);
    let of_job = server.run(spec).await.job_id;
    server.restart().await;
    until(async || count(&server, "jobs WHERE moving ->> '$.secrets_gone'").await == 5).await;
    server.terminate();
    sql(&server, "UPDATE jobs SET moving = json_remove(moving, '$.secrets_gone')").await;
    let asked = origin.all_requests().len();
    server.launch().await;
    let retry = |id: &str| pb::RetryJobRequest { job_id: id.to_owned(), ..Default::default() };
    for id in ids {
        server.jobs().retry_job(retry(&id)).await.unwrap();
        let ended = server.ended(&id).await;
        assert_eq!(ended.failure.unwrap().reason(), FailureReason::Credential);
    }
    let refused = server.jobs().retry_job(retry(&of_job)).await;
    crate::it::access::refused(refused, tonic::Code::FailedPrecondition, "SECRETS_EXPIRED");
    assert_eq!(origin.all_requests().len(), asked, "nothing was sent");
}

/// What an origin sends does not hold the secret as it stands, and what haul makes of it does: a name that it decodes, a URL that it
/// normalises.
#[tokio::test(flavor = "multi_thread")]
async fn what_haul_makes_of_an_answer_is_searched_too() {
    use base64::Engine as _;
    const SLASHED: &str = "SESAME/0123456789";
    let with = |task: pb::TaskSpec| {
        let http = pb::HttpOptions { credential: "api".into(), ..Default::default() };
        pb::TaskSpec { options: Some(pb::TaskOptions { http: Some(http), ..once() }), ..task }
    };
    let origin = Origin::start();
    let word = base64::engine::general_purpose::STANDARD.encode(SECRET);
    let named = format!("attachment; filename=\"=?utf-8?B?{word}?=\"");
    origin.reply("/name", Reply::ok("fine").header("content-disposition", &named));
    origin.reply("/leads", Reply::status(302).header("location", "/x/SESAME/./0123456789"));
    origin.reply("/x/SESAME/0123456789", Reply::ok("fine"));
    origin.reply("/list", Reply::json("[1]").header("link", "</x/SESAME\\0123456789>; rel=next"));
    let leads = origin.url("/leads");
    let tasks = vec![with(download(leads.clone())), with(fetch(leads)), listing(origin.url("/list"))];
    for (secret, tasks) in [(SECRET, vec![with(download(origin.url("/name")))]), (SLASHED, tasks)] {
        let server = with_secret(&origin, secret).await;
        let count = tasks.len() as u32;
        let id = server.submit(pb::JobSpec { group: Some(group(pb::GroupMode::Collect, 9)), ..job(tasks) }).await;
        server.ended(&id).await;
        for index in 0..count {
            let task = server.task(&id, index).await;
            let reason = task.error.as_ref().map(pb::TaskError::reason);
            assert_eq!(reason, Some(FailureReason::SecretEchoed), "{index}: {task:?}");
            assert!(!format!("{task:?}").contains(secret), "{task:?}");
        }
    }
}
