//! Callers of this machine: until there is a token, by the socket of the data directory, and by sockets for others.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use haul::pb;
use haul::pb::access_service_client::AccessServiceClient;
use tonic::Code;

use crate::it::access::{access, bearer, id_of, operator, reason, refused, token};
use crate::it::wire::call;
use crate::support::server::{PATIENCE, Server, haul, until};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_token_ends_what_needed_none_and_a_restart_changes_nothing() {
    let mut server = Server::start().await;
    let who = AccessServiceClient::new(server.channel.clone()).who_am_i(pb::WhoAmIRequest {}).await.unwrap();
    let who = who.into_inner();
    assert_eq!((who.principal.as_str(), who.method.as_str()), ("local", "LOOPBACK"));
    let mut watch = server.jobs().watch_jobs(pb::WatchJobsRequest::default()).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    let mut health = tonic_health::pb::health_client::HealthClient::new(server.channel.clone());
    let request = tonic_health::pb::HealthCheckRequest::default();
    let mut healths = health.watch(request.clone()).await.unwrap().into_inner();
    assert!(healths.message().await.unwrap().is_some());

    let operator = operator(&server);
    let ended = tokio::time::timeout(PATIENCE, watch.message()).await.expect("the stream ends");
    refused(ended, Code::Unauthenticated, "NO_CREDENTIALS");
    let ended = tokio::time::timeout(PATIENCE, healths.message()).await.expect("the stream ends");
    refused(ended, Code::Unauthenticated, "NO_CREDENTIALS");
    refused(server.jobs().list_jobs(pb::ListJobsRequest::default()).await, Code::Unauthenticated, "NO_CREDENTIALS");
    assert!(health.check(request).await.is_ok(), "probes have no token");
    let who = access(&server, &operator).who_am_i(pb::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!((who.principal.as_str(), who.method.as_str(), who.token_id), ("op", "TOKEN", id_of(&operator)));
    assert!(who.expire_time.is_some());

    server.kill();
    server.launch().await;
    refused(server.jobs().list_jobs(pb::ListJobsRequest::default()).await, Code::Unauthenticated, "NO_CREDENTIALS");
    let request = pb::RevokeTokenRequest { token_id: id_of(&operator), with_descendants: false };
    refused(access(&server, &operator).revoke_token(request).await, Code::FailedPrecondition, "LAST_OPERATOR");
    let second = token(&server, &operator, &["second", "--grant", "operator"]);
    let request = pb::RevokeTokenRequest { token_id: id_of(&operator), with_descendants: false };
    assert_eq!(access(&server, &second).revoke_token(request).await.unwrap().into_inner().revoked, 1);
    let call = access(&server, &operator).who_am_i(pb::WhoAmIRequest {}).await;
    refused(call, Code::Unauthenticated, "BAD_CREDENTIALS");

    // Without a server its user makes another one.
    assert!(server.terminate().success());
    let data = server.data();
    let data = data.to_str().unwrap();
    let made = haul(&["token", "create", "third", "--grant", "monitor", "--offline", "--data-dir", data]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    server.launch().await;
    let third = String::from_utf8(made.stdout).unwrap();
    assert!(access(&server, third.trim()).who_am_i(pb::WhoAmIRequest {}).await.is_ok());
    let busy = haul(&["token", "create", "fourth", "--grant", "monitor", "--offline", "--data-dir", data]);
    assert_eq!(busy.status.code(), Some(1), "a server uses it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_on_this_machine_does_not_make_the_world_local() {
    let server = Server::start().await;
    for header in ["x-forwarded-for", "forwarded", "via", "x-real-ip"] {
        let status = call(&server, "haul.v1.JobService/ListJobs", b"", &[(header, "192.0.2.1")]).await.status();
        assert_eq!(reason(&status), (Code::Unauthenticated, "PROXIED_WITHOUT_AUTH".to_owned()));
    }
    let operator = operator(&server);
    let sent = bearer(&operator);
    let headers = [("authorization", &*sent), ("via", "1.1 a"), ("host", "evil.example")];
    let answer = call(&server, "haul.v1.AdminService/GetServerInfo", b"", &headers[..2]).await;
    assert_eq!(answer.status().code(), Code::Ok);
    let info: pb::GetServerInfoResponse = answer.message(0);
    assert_eq!(info.access.unwrap().auth, "required");
    let tenants = [("authorization", &*sent), ("haul-tenant", "acme")];
    let status = call(&server, "haul.v1.AdminService/GetServerInfo", b"", &tenants).await.status();
    assert_eq!(reason(&status), (Code::PermissionDenied, "TENANT_NOT_ALLOWED".to_owned()));
    let twice = [("authorization", &*sent), ("authorization", &*sent)];
    let status = call(&server, "haul.v1.AdminService/GetServerInfo", b"", &twice).await.status();
    assert_eq!(reason(&status), (Code::Unauthenticated, "BAD_CREDENTIALS".to_owned()));
}

/// As one in front of the socket, which runs as the server's user or as root, would.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_the_servers_own_user_does_not_make_the_world_that_user() {
    let server = Server::with(&["--auth", "required"]).await;
    let answer = |header: &str| {
        let mut stream = UnixStream::connect(server.data().join("haul.sock")).unwrap();
        write!(stream, "GET /v1/jobs HTTP/1.1\r\nhost: localhost\r\n{header}connection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(answer("").starts_with("HTTP/1.1 200"), "{}", answer(""));
    for header in ["x-forwarded-for: 192.0.2.1", "forwarded: for=192.0.2.1", "via: 1.1 a", "x-real-ip: 192.0.2.1"] {
        let answer = answer(&format!("{header}\r\n"));
        assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("PROXIED_WITHOUT_AUTH"), "{header}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_own_user_is_never_locked_out() {
    let mut server = Server::start().await;
    let operator = operator(&server);
    let socket = server.data().join("haul.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let by_socket = format!("unix:{}", socket.display());
    let said = |args: &[&str]| {
        let out = haul(args);
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
    };
    let (code, text) = said(&["--server", &server.address, "list"]);
    assert!(code == Some(1) && text.contains("unix:DATA_DIR/haul.sock"), "{text}");
    let (code, text) = said(&["--server", &by_socket, "whoami"]);
    assert!(code == Some(0) && text.contains("local") && text.contains("socket"), "{text}");
    // Certificates that the environment names for a server with TLS are not meant for a socket.
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_haul"))
        .args(["--server", &by_socket, "whoami"])
        .envs([("HAUL_CA", "none.pem"), ("HAUL_CERT", "none.pem"), ("HAUL_CERT_KEY", "none.key")])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    // Who has no operator's token any more makes another one.
    assert_eq!(said(&["--server", &by_socket, "token", "revoke", &id_of(&operator)]).0, Some(0));
    let (code, text) = said(&["--server", &by_socket, "token", "create", "op", "--grant", "operator"]);
    assert_eq!(code, Some(0), "{text}");
    let token = text.lines().find(|line| line.starts_with("haul_")).unwrap();
    assert!(access(&server, token).who_am_i(pb::WhoAmIRequest {}).await.is_ok());
    // HTTP goes there too, under any name: no page reaches a socket.
    let http = std::process::Command::new("curl")
        .args(["--silent", "--unix-socket", socket.to_str().unwrap(), "http://any.example/v1/whoami"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&http.stdout).contains("\"SOCKET\""), "{http:?}");
    assert!(server.terminate().success());
    assert!(!socket.exists(), "it is removed at the end");
    // What a killed server left is no hindrance.
    server.launch().await;
    server.kill();
    assert!(socket.exists());
    server.launch().await;
    assert_eq!(said(&["--server", &by_socket, "whoami"]).0, Some(0));
    for bad in ["unix:", "unix:/nowhere/haul.sock"] {
        assert_ne!(said(&["--server", bad, "whoami"]).0, Some(0), "{bad}");
    }
}

/// A path that no socket can have is a warning, and the server does without.
#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_can_have_no_socket_is_served_all_the_same() {
    let dir = tempfile::Builder::new().prefix(&"d".repeat(120)).tempdir().unwrap();
    let server = Server::over(dir, &[]).await;
    assert!(!server.data().join("haul.sock").exists());
    // The log arrives by a pipe of its own.
    until(|| async { server.log().contains("cannot listen on") }).await;
}

/// Clients of Unix sockets are known as users of this machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_for_others_is_listened_on_and_its_user_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("haul.sock");
    let place = format!("unix:{}", path.display());
    let server =
        Server::with(&["--allow-private-networks", "--listen", &place, "--socket-mode", "0660", "--auth", "required"])
            .await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    // The tests run as the server's own user, who may do everything by any socket.
    let who = haul(&["--server", &place, "whoami"]);
    let said = String::from_utf8_lossy(&who.stdout).into_owned();
    assert!(who.status.success() && said.contains("local") && said.contains("socket"), "{said}");
    assert!(!haul(&["--server", &server.address, "whoami"]).status.success(), "by the address nobody is known");
    let second = tempfile::tempdir().unwrap();
    let mut again = crate::support::server::command(second.path(), &["--listen".to_owned(), place.clone()]);
    again.env_remove("HAUL_LISTEN");
    let (code, refusal) = crate::support::server::refusal(again);
    assert!(code == 1 && refusal.contains("another program listens there"), "{refusal}");
    drop(server);
}
