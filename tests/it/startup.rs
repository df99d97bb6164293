//! What a server refuses to start over, and that it leaves it as it was.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, command, haul, refusal};
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
    let (server, origin) = (Server::over(dir, &["--allow-private-networks"]).await, Origin::start());
    origin.reply("/long", Reply::ok("x".repeat(200_000)));
    server.run(job(vec![fetch(origin.url("/long"))])).await;
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

#[test]
fn wrong_usage_is_told_with_exit_code_2() {
    for args in [&["serve", "--nonsense"][..], &["serve", "--listen", "here"], &["serve", "--max-per-host", "0"]] {
        let output = haul(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
