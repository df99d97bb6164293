//! Who changed what: a row for each change, none for what changes nothing, and no row that can be edited unseen.

use haul::pb;
use haul::pb::access_service_client::AccessServiceClient;
use haul::pb::admin_service_client::AdminServiceClient;
use haul::pb::job_service_client::JobServiceClient;
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};
use tonic::Code;

use crate::it::access::{Sent, access, bearer, id_of, jobs, operator, refused, sending, token};
use crate::it::curl::curl;
use crate::it::wire::call;
use crate::support::server::{Server, haul};
use crate::support::spec::job;

async fn events(server: &Server, token: &str, request: pb::ListAuditEventsRequest) -> Vec<pb::AuditEvent> {
    access(server, token).list_audit_events(request).await.unwrap().into_inner().events
}

fn oldest_first() -> pb::ListAuditEventsRequest {
    pb::ListAuditEventsRequest { after_sequence: Some(0), page_size: 1_000, ..Default::default() }
}

/// All events, asked for in small pages, the newest first; and turned round.
async fn all_backwards(server: &Server, auditor: &str) -> Vec<pb::AuditEvent> {
    let mut backwards = Vec::new();
    let mut request = pb::ListAuditEventsRequest { page_size: 3, ..Default::default() };
    loop {
        let page = access(server, auditor).list_audit_events(request.clone()).await.unwrap().into_inner();
        assert!(page.events.len() <= 3);
        backwards.extend(page.events);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            backwards.reverse();
            return backwards;
        }
    }
}

/// What of an event does not differ from run to run.
fn essence(event: &pb::AuditEvent) -> String {
    let kind = event.subject.split('/').next().unwrap_or_default();
    let changed = event.changed.join(",");
    let method = event.method.trim_start_matches("haul.v1.");
    format!("{} {method} {kind} {changed} {}", event.principal, event.code)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn verify(server: &Server, more: &[&str]) -> (Option<i32>, String) {
    let data = server.data();
    let mut args = vec!["audit", "verify", "--data-dir", data.to_str().unwrap()];
    args.extend(more);
    let out = haul(&args);
    (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

async fn edit(server: &Server, text: &str) {
    let url = format!("sqlite://{}", server.data().join("haul.db").display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

fn auditor(server: &Server, operator: &str) -> String {
    token(server, operator, &["look", "--grant", "auditor"])
}

/// Does to a job what can be done, some of it twice.
async fn control(client: &mut JobServiceClient<Sent>, job_id: &str) {
    let id = || job_id.to_owned();
    let update = pb::UpdateJobRequest {
        job_id: id(),
        priority: 3,
        title: "secret".into(),
        update_mask: Some(prost_types::FieldMask { paths: vec!["priority".into(), "title".into()] }),
        ..Default::default()
    };
    client.update_job(update).await.unwrap();
    for _ in 0..2 {
        let cancel = pb::CancelJobRequest { job_id: id(), reason: "private".into() };
        client.cancel_job(cancel).await.unwrap();
    }
    client.retry_job(pb::RetryJobRequest { job_id: id(), task_indexes: Vec::new(), filter: None }).await.unwrap();
    // The task fails at an address that is private, and nobody did that.
    client.wait_job(pb::WaitJobRequest { job_id: id(), timeout: None }).await.unwrap();
    client.delete_job(pb::DeleteJobRequest { job_id: id(), delete_files: false }).await.unwrap();
    refused(
        client.delete_job(pb::DeleteJobRequest { job_id: id(), delete_files: false }).await,
        Code::NotFound,
        "JOB_NOT_FOUND",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_is_audited_once_and_what_changes_nothing_is_not() {
    let mut server = Server::start().await;
    let operator = operator(&server);
    let auditor = auditor(&server, &operator);
    let ci = token(&server, &operator, &["ci", "--grant", "submit"]);
    let mut client = jobs(&server, &ci);
    let submit = |validate_only| pb::SubmitJobRequest {
        request_id: "once".into(),
        job: Some(pb::JobSpec { open: true, title: "private".into(), ..job(Vec::new()) }),
        validate_only,
    };
    client.submit_job(submit(true)).await.unwrap();
    let job_id = client.submit_job(submit(false)).await.unwrap().into_inner().job.unwrap().job_id;
    client.submit_job(submit(false)).await.unwrap();
    for _ in 0..2 {
        client.pause_job(pb::PauseJobRequest { job_id: job_id.clone() }).await.unwrap();
    }
    let chunk = || pb::AddTasksRequest {
        job_id: job_id.clone(),
        chunk_id: "a".into(),
        tasks: vec![crate::support::spec::fetch("http://127.0.0.1:9/secret")],
    };
    for _ in 0..2 {
        let mut answers = client.add_tasks(tokio_stream::iter([chunk()])).await.unwrap().into_inner();
        assert!(answers.message().await.unwrap().is_some());
    }
    control(&mut client, &job_id).await;
    access(&server, &operator).rotate_data_key(pb::RotateDataKeyRequest {}).await.unwrap();
    let revoke = pb::RevokeTokenRequest { token_id: id_of(&ci), with_descendants: false };
    for _ in 0..2 {
        access(&server, &operator).revoke_token(revoke.clone()).await.unwrap();
    }
    // What is acknowledged is there after a kill.
    server.kill();
    server.launch().await;
    let all = events(&server, &auditor, oldest_first()).await;
    insta::assert_snapshot!(all.iter().map(essence).collect::<Vec<_>>().join("\n"));
    assert!(all.iter().zip(1..).all(|(event, sequence)| event.sequence == sequence), "without gaps");
    let text = format!("{all:?}");
    for secret in ["private", "secret", "127.0.0.1:9", &ci[16..40]] {
        assert!(!text.contains(secret), "{secret} is in the audit");
    }
    assert!(all.iter().all(|event| event.address == "127.0.0.1" && event.request_id.len() == 36 && event.count == 1));
    let of_ci = all.iter().find(|event| event.principal == "ci").unwrap();
    assert_eq!((of_ci.token_id.as_str(), of_ci.tenant.as_str()), (id_of(&ci).as_str(), "default"));

    assert_eq!(all_backwards(&server, &auditor).await, all);
    let request = pb::ListAuditEventsRequest { subject: format!("jobs/{job_id}"), ..oldest_first() };
    assert!(events(&server, &auditor, request).await.iter().all(|event| event.principal == "ci"));
    let (code, said) = verify(&server, &[]);
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_look_sees_what_is_theirs() {
    let server = Server::start().await;
    let operator = operator(&server);
    let auditor = auditor(&server, &operator);
    let admin = token(&server, &operator, &["boss", "--grant", "admin"]);
    refused(access(&server, &operator).list_audit_events(oldest_first()).await, Code::PermissionDenied, "MISSING_ROLE");
    token(&server, &admin, &["default/ci", "--grant", "submit"]);
    let all = events(&server, &auditor, oldest_first()).await;
    let of_tenant = events(&server, &admin, oldest_first()).await;
    assert!(!of_tenant.is_empty() && of_tenant.len() < all.len());
    assert!(of_tenant.iter().all(|event| event.tenant == "default"));
    let foreign = pb::ListAuditEventsRequest { tenant: "acme".into(), ..oldest_first() };
    refused(access(&server, &admin).list_audit_events(foreign).await, Code::PermissionDenied, "MISSING_ROLE");
    // By HTTP too, and with the command line.
    let sent = bearer(&auditor);
    let path = "/v1/audit?after_sequence=0&page_size=1";
    let answer = curl(&server, &["-H", &format!("Authorization: {sent}")], path);
    assert!(answer.code == 200 && answer.body.contains("haul.v1.AccessService/CreatePrincipal"), "{answer:?}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &auditor).unwrap();
    let shown = haul(&["--server", &server.address, "--token-file", file.path().to_str().unwrap(), "audit"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.status.success() && text.lines().count() == all.len(), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_calls_are_counted_and_outlive_the_server() {
    let mut server = Server::with(&["--auth-failures-per-minute", "0"]).await;
    let operator = operator(&server);
    let auditor = auditor(&server, &operator);
    let revoked = token(&server, &operator, &["gone", "--grant", "read"]);
    let revoke = pb::RevokeTokenRequest { token_id: id_of(&revoked), with_descendants: false };
    access(&server, &operator).revoke_token(revoke).await.unwrap();
    for _ in 0..3 {
        let list = jobs(&server, &revoked).list_jobs(pb::ListJobsRequest::default()).await;
        refused(list, Code::Unauthenticated, "BAD_CREDENTIALS");
    }
    let strangers = JobServiceClient::new(server.channel.clone()).list_jobs(pb::ListJobsRequest::default()).await;
    refused(strangers, Code::Unauthenticated, "NO_CREDENTIALS");
    let denied = jobs(&server, &auditor).list_jobs(pb::ListJobsRequest::default()).await;
    refused(denied, Code::PermissionDenied, "MISSING_ROLE");
    let wide = pb::CreateTokenRequest { principal: "look".into(), ..Default::default() };
    refused(access(&server, &auditor).create_token(wide).await, Code::PermissionDenied, "ESCALATION");
    call(&server, "haul.v1.JobService/Nothing", b"", &[]).await;
    assert!(server.terminate().success());
    server.launch().await;
    let all = events(&server, &auditor, oldest_first()).await;
    let mut refused: Vec<String> = all
        .iter()
        .filter(|event| event.code != "OK")
        .map(|event| format!("{} {} x{}", essence(event), event.reason, event.count))
        .collect();
    refused.sort();
    insta::assert_snapshot!(refused.join("\n"));
    assert_eq!(verify(&server, &[]).0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_was_answered_has_a_row_and_one_that_saw_nothing_has_none() {
    let mut server = Server::with(&["--audit-reads"]).await;
    let operator = operator(&server);
    let auditor = auditor(&server, &operator);
    let reader = token(&server, &operator, &["own", "--grant", "submit"]);
    let owner = token(&server, &operator, &["other", "--grant", "submit"]);
    let submit =
        pb::SubmitJobRequest { job: Some(pb::JobSpec { open: true, ..job(Vec::new()) }), ..Default::default() };
    let id = jobs(&server, &owner).submit_job(submit).await.unwrap().into_inner().job.unwrap().job_id;
    let look = pb::GetJobRequest { job_id: id, ..Default::default() };
    refused(jobs(&server, &reader).get_job(look.clone()).await, Code::NotFound, "JOB_NOT_FOUND");
    jobs(&server, &owner).get_job(look).await.unwrap();
    jobs(&server, &reader).list_jobs(pb::ListJobsRequest::default()).await.unwrap();
    assert!(server.terminate().success());
    server.launch().await;
    let all = events(&server, &auditor, oldest_first()).await;
    let read = |who: &str, method: &str| {
        all.iter().any(|event| event.principal == who && event.method.ends_with(method) && event.code == "OK")
    };
    assert!(read("other", "GetJob") && read("own", "ListJobs") && !read("own", "GetJob"), "{all:?}");
    let ignored = haul(&["--server", &server.address, "audit", "verify", "--data-dir", "nowhere"]);
    assert_eq!(ignored.status.code(), Some(2), "no server is asked");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &auditor).unwrap();
    let listed =
        haul(&["--server", &server.address, "--token-file", file.path().to_str().unwrap(), "audit", "-n", "0"]);
    assert!(String::from_utf8_lossy(&listed.stdout).lines().count() >= all.len(), "0 is all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_changed_added_or_missing_is_found() {
    let mut server = Server::start().await;
    let operator = operator(&server);
    for name in ["a", "b", "c"] {
        token(&server, &operator, &[name, "--grant", "read"]);
    }
    let auditor = auditor(&server, &operator);
    let last = events(&server, &auditor, oldest_first()).await.pop().unwrap();
    assert!(server.terminate().success());
    let log = server.log();
    let head = log.rsplit_once("the head of the audit is ").unwrap().1.split_whitespace().next().unwrap().to_owned();
    assert!(head.starts_with(&format!("{}:", last.sequence)), "{log}");
    let (code, said) = verify(&server, &["--head", &head]);
    assert!(code == Some(0) && said.contains(&head), "{said}");
    assert_eq!(verify(&server, &["--head", "nonsense"]).0, Some(2));

    edit(&server, "CREATE TABLE kept AS SELECT * FROM audit").await;
    let restore = "DELETE FROM audit; INSERT INTO audit SELECT * FROM kept;";
    for (damage, expected) in [
        ("UPDATE audit SET row = replace(row, '\"op\"', '\"local\"') WHERE seq = 5", "row 5 was changed"),
        ("UPDATE audit SET time = time + 1 WHERE seq = 2", "row 2 was changed"),
        ("DELETE FROM audit WHERE seq IN (3, 4)", "rows 3 to 4 are missing"),
        ("DELETE FROM audit WHERE seq = 1", "rows 1 to 1 are missing"),
        ("INSERT INTO audit SELECT max(seq) + 1, max(time), '{}', x'00' FROM audit", "was not written by this server"),
        (
            "DELETE FROM audit; INSERT INTO settings (key, value) VALUES ('audit_start', '9:00:00')",
            "was not written by this server",
        ),
    ] {
        edit(&server, damage).await;
        let (code, said) = verify(&server, &[]);
        assert_eq!(code, Some(1), "{damage}: {said}");
        assert!(said.contains(expected), "{damage}: {said}");
        edit(&server, &format!("{restore} DELETE FROM settings WHERE key = 'audit_start'")).await;
    }
    // Without a head that was kept, nobody can say that a tail is cut off.
    edit(&server, &format!("DELETE FROM audit WHERE seq = {}", last.sequence)).await;
    assert_eq!(verify(&server, &[]).0, Some(0));
    let (code, said) = verify(&server, &["--head", &head]);
    assert!(code == Some(1) && said.contains("are missing"), "{said}");
    // A slip must not hide it.
    let short = &head[..head.len() - 1];
    for slip in
        [short.to_owned(), format!("{head}0"), format!("{short}x"), format!("{}…", &head[..8]), "2:x".to_owned()]
    {
        let (code, said) = verify(&server, &["--head", &slip]);
        assert!(code == Some(2), "{slip}: {said}");
    }
    edit(&server, restore).await;
    assert_eq!(verify(&server, &["--head", &head]).0, Some(0));
}

/// Rows whose key was given up are told from such as somebody has added or taken away.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_given_up_are_not_broken_ones() {
    let mut server = Server::start().await;
    let change = async |server: &Server, count: u32| {
        let mut admin = AdminServiceClient::new(server.channel.clone());
        for _ in 0..count {
            let limits = Some(pb::Limits { max_per_host: 7, ..Default::default() });
            let update_mask = Some(prost_types::FieldMask { paths: vec!["max_per_host".to_owned()] });
            admin.update_limits(pb::UpdateLimitsRequest { limits, update_mask }).await.unwrap();
        }
    };
    change(&server, 5).await;
    assert!(server.terminate().success());
    let (_, said) = verify(&server, &[]);
    let old_head = said.rsplit_once("head ").unwrap().1.trim().to_owned();
    std::fs::remove_file(server.data().join("haul.key")).unwrap();
    server.flags.push("--forget-sealed".into());
    server.launch().await;
    change(&server, 2).await;
    assert!(server.terminate().success());
    let is_well = |server: &Server| {
        let (code, said) = verify(server, &["--head", &old_head]);
        assert!(code == Some(0) && said.contains("5 earlier rows cannot be verified"), "{said}");
        assert!(said.contains("2 rows of the audit"), "{said}");
    };
    is_well(&server);
    edit(&server, "CREATE TABLE kept AS SELECT * FROM audit; CREATE TABLE note AS SELECT * FROM settings").await;
    let restore = "DELETE FROM audit; INSERT INTO audit SELECT * FROM kept; REPLACE INTO settings SELECT * FROM note";
    for (damage, expected) in [
        ("DELETE FROM audit WHERE seq = 3", "rows 3 to 3 are missing"),
        ("DELETE FROM audit WHERE seq = 5", "rows 5 to 5 are missing"),
        ("DELETE FROM audit WHERE seq = 6", "rows 6 to 6 are missing"),
        ("UPDATE audit SET time = time + 1 WHERE seq = 7", "row 7 was changed"),
        ("INSERT INTO audit VALUES (0, 1, '{}', x'00')", "row 0 was not there when the key was given up"),
        ("UPDATE audit SET chain = x'00' WHERE seq = 5", "row 5 is not the one that the given head names"),
        ("DELETE FROM settings WHERE key = 'audit_start'", "row 1 was changed"),
        (
            "UPDATE settings SET value = replace(value, '5:', '4:') WHERE key = 'audit_start'",
            "was not written by this server",
        ),
        ("UPDATE settings SET value = value || '0' WHERE key = 'audit_start'", "was not written by this server"),
    ] {
        edit(&server, damage).await;
        let (code, said) = verify(&server, &["--head", &old_head]);
        assert_eq!(code, Some(1), "{damage}: {said}");
        assert!(said.contains(expected), "{damage}: {said}");
        edit(&server, restore).await;
    }
    is_well(&server);
    // The oldest may go, as they do with time.
    edit(&server, "DELETE FROM audit WHERE seq < 3").await;
    let (code, said) = verify(&server, &[]);
    assert!(code == Some(0) && said.contains("3 earlier rows cannot be verified"), "{said}");
    // A key that is there gives up nothing.
    server.launch().await;
    change(&server, 1).await;
    assert!(server.terminate().success());
    let (code, said) = verify(&server, &[]);
    assert!(code == Some(0) && said.contains("3 rows of the audit"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_without_a_server_is_audited_as_local() {
    let mut server = Server::start().await;
    assert!(server.terminate().success());
    let data = server.data();
    let made = haul(&[
        "token",
        "create",
        "ops",
        "--grant",
        "operator",
        "--grant",
        "auditor",
        "--offline",
        "--data-dir",
        data.to_str().unwrap(),
    ]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    server.launch().await;
    let token = String::from_utf8(made.stdout).unwrap();
    let all = events(&server, token.trim(), oldest_first()).await;
    let essences: Vec<String> = all.iter().map(essence).collect();
    assert_eq!(
        essences,
        ["local AccessService/CreatePrincipal principals OK", "local AccessService/CreateToken tokens OK"]
    );
    // Nobody else's word for it: the drain of a caller has a row, the signal of its user has none.
    let mut admin = AdminServiceClient::new(sending(&server, token.trim()));
    admin.drain(pb::DrainRequest {}).await.unwrap();
    assert!(server.ended_itself().success());
    server.launch().await;
    let all = events(&server, token.trim(), oldest_first()).await;
    assert_eq!(essence(all.last().unwrap()), "ops AdminService/Drain server OK");
    let who = AccessServiceClient::new(server.channel.clone()).who_am_i(pb::WhoAmIRequest {}).await;
    refused(who, Code::Unauthenticated, "NO_CREDENTIALS");
}
