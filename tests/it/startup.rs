//! What a server refuses to start over, and that it leaves it as it was.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, command, haul, refusal, until_now};
use crate::support::spec::{fetch, job};

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_in_use_is_refused() {
    let server = Server::start().await;
    let dir = server.data().parent().unwrap().to_owned();
    let (code, said) = refusal(command(&dir, &[]));
    assert_eq!(code, 1);
    assert!(said.contains("in use by another haul process") && said.contains(&server.pid().to_string()), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    let file = dir.path().join("data/haul.db");
    let junk = b"this is no database, but somebody may want it back".repeat(100);
    std::fs::write(&file, &junk).unwrap();
    let (code, said) = refusal(command(dir.path(), &[]));
    assert_eq!(code, 1);
    assert!(said.contains("haul.db"), "{said}");
    assert_eq!(std::fs::read(&file).unwrap(), junk);
}

/// While the directory was open to all, another user has put a database or a key there, whose tokens and secrets that user knows.
#[test]
fn files_of_another_user_in_the_data_directory_are_refused() {
    // Only root gives files to others, as where the tests run for every change.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for name in ["haul.db", "haul.key"] {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o777)).unwrap();
        let file = data.join(name);
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::chown(&file, Some(65_534), None).unwrap();
        let (code, said) = refusal(command(dir.path(), &[]));
        assert_eq!(code, 1, "{name}");
        assert!(said.contains(&format!("data/{name}` belongs to another user (uid 65534)")), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_refused() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut again = std::process::Command::new(env!("CARGO_BIN_EXE_haul"));
    again
        .args(["serve", "--listen", &server.address, "--data-dir"])
        .arg(dir.path().join("d"))
        .arg("--download-dir")
        .arg(dir.path().join("f"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let (code, said) = refusal(again);
    assert_eq!(code, 1);
    assert!(said.contains("cannot listen") && said.contains(&server.address), "{said}");
}

/// Whatever the umask, and whoever made the directory.
#[tokio::test]
async fn what_the_server_keeps_is_for_its_user_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o777)).unwrap();
    let (mut server, origin) = (Server::over(dir, &["--allow-private-networks"]).await, Origin::start());
    origin.reply("/long", Reply::ok("x".repeat(200_000)));
    server.run(job(vec![fetch(origin.url("/long"))])).await;
    // The key as well, where somebody has opened it since.
    let key = data.join("haul.key");
    let open = || std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o666)).unwrap();
    open();
    assert!(server.terminate().success());
    server.launch().await;
    let (mut places, mut bodies) = (vec![data], 0);
    while let Some(place) = places.pop() {
        let mode = std::fs::metadata(&place).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} {mode:o}", place.display());
        if place.is_dir() {
            places.extend(std::fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()));
        } else if place.components().any(|part| part.as_os_str() == "content") {
            bodies += 1;
        }
    }
    assert_eq!(bodies, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_key_that_everybody_may_read_and_too_few_descriptors_are_spoken_of() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("root.key");
    std::fs::write(&key, "1".repeat(64)).unwrap();
    let flag = format!("file:{}", key.display());
    let mode = |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o640);
    let mut server = Server::over(dir, &["--data-key", &flag]).await;
    let is_said = |server: &Server, what: &str| server.log().contains(what);
    // What a start has to say comes before this.
    until_now(|| is_said(&server, "haul serves"));
    assert!(!is_said(&server, "open to every user of this machine") && !is_said(&server, "which are too few"));
    mode(0o644);
    server.limit_descriptors(100).await;
    until_now(|| is_said(&server, "open to every user of this machine (mode 644)"));
    until_now(|| is_said(&server, "which are too few"));
}

/// Only root may give a directory away.
#[test]
fn a_token_that_is_made_in_a_directory_of_somebody_else_is_spoken_of() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let make =
        || haul(&["token", "create", "op", "--grant", "read", "--offline", "--data-dir", data.to_str().unwrap()]);
    if std::os::unix::fs::chown(&data, Some(65_534), None).is_err() {
        return;
    }
    let made = make();
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(made.status.success() && said.contains("belongs to the user with the number 65534"), "{said}");
    std::os::unix::fs::chown(&data, Some(0), None).unwrap();
    assert!(!String::from_utf8_lossy(&make().stderr).contains("belongs to"));
}

#[test]
fn wrong_usage_is_told_with_exit_code_2() {
    for args in [&["serve", "--nonsense"][..], &["serve", "--listen", "here"], &["serve", "--max-per-host", "0"]] {
        let output = haul(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn a_check_says_what_a_start_would_expose_and_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let check = |flags: &[&str]| {
        let place = ["serve", "--check", "--data-dir", data.to_str().unwrap()];
        let output = haul(&[&place[..], flags].concat());
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let (code, said) = check(&[]);
    assert!(code == Some(0) && said.contains("every user of this machine may do everything"), "{said}");
    let (code, said) = check(&["--listen", "0.0.0.0:0"]);
    assert!(code == Some(2) && said.contains("--tls-cert"), "{said}");
    let plaintext = ["--listen", "0.0.0.0:0", "--insecure-listen", "plaintext"];
    let (code, said) = check(&plaintext);
    assert!(code == Some(2) && said.contains("nobody could sign in"), "{said}");
    assert!(!data.exists(), "nothing was made");
    let made =
        haul(&["token", "create", "op", "--grant", "operator", "--offline", "--data-dir", data.to_str().unwrap()]);
    assert!(made.status.success());
    let (code, said) = check(&plaintext);
    assert!(code == Some(0) && said.contains("callers authenticate") && said.contains("can read tokens"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_are_told_to_whom_the_operator_says() {
    let closed = Server::with(&["--health", "authenticated", "--reflection", "off", "--auth", "required"]).await;
    let code = |path: &str| crate::it::curl::curl(&closed, &[], path).code;
    assert_eq!((code("/healthz"), code("/readyz")), (401, 401));
    let method = "grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let asked = |server| crate::it::wire::call(server, method, &[], &[]);
    assert_eq!(asked(&closed).await.status().code(), tonic::Code::Unauthenticated);
    let open = Server::with(&["--reflection", "open", "--auth", "required"]).await;
    assert_eq!(crate::it::curl::curl(&open, &[], "/healthz").code, 200);
    assert_ne!(asked(&open).await.status().code(), tonic::Code::Unauthenticated);
    let off = Server::with(&["--reflection", "off"]).await;
    assert_eq!(asked(&off).await.status().code(), tonic::Code::Unimplemented);
}

#[tokio::test]
async fn a_start_says_what_it_took_in() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.reply("/hang", Reply::hang());
    server.submit(job(vec![fetch(origin.url("/hang"))])).await;
    server.submit(haul::pb::JobSpec { open: true, ..Default::default() }).await;
    until_now(|| origin.in_flight() == 1);
    server.restart().await;
    // Where it listens may be read before what it logs.
    until_now(|| server.log().matches("haul serves").count() == 2);
    let log = server.log();
    let start = log.lines().rfind(|line| line.contains("haul serves")).unwrap();
    assert!(start.contains("jobs=2") && start.contains("cut_attempts=1"), "{log}");
}

#[tokio::test]
async fn a_check_refuses_the_filter_of_the_log_that_a_start_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let mut check = command(dir.path(), &["--check".to_owned()]);
    check.env("HAUL_LOG", "[");
    let (code, said) = refusal(check);
    assert!(code == 2 && said.contains("HAUL_LOG"), "{said}");
}

#[tokio::test]
async fn a_start_names_the_log_of_the_audit_that_it_cannot_write() {
    let server = Server::with(&["--audit-log", "/nowhere/audit.jsonl", "--disk-reserve", "1MiB"]).await;
    until_now(|| server.log().contains("`/nowhere/audit.jsonl` cannot be written"));
}

#[test]
fn a_size_that_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (code, said) = refusal(command(dir.path(), &["--disk-reserve", "much"].map(str::to_owned)));
    assert!(code == 2 && said.contains("`much` is not a size; write it like"), "{said}");
}
