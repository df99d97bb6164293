//! What a server refuses to start over, and that it leaves it as it was.

use std::process::Stdio;

use crate::support::server::{Server, command, haul, refusal};

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

#[test]
fn wrong_usage_is_told_with_exit_code_2() {
    for args in [&["serve", "--nonsense"][..], &["serve", "--listen", "here"], &["serve", "--max-per-host", "0"]] {
        let output = haul(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
