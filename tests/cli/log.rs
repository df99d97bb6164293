//! The log of the server: what it says, in which form, and that nothing depends on whether it can be written.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::support::server::{command, haul, refusal};

/// Waits until a server that starts says that it serves.
fn wait_until_it_serves(child: &mut Child) {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("listening on "), "{line}");
}

/// Starts a server with its log going to `stderr`, and waits until it serves.
fn serve(dir: &Path, flags: &[&str], stderr: Stdio) -> Child {
    let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
    let mut child = command(dir, &flags).stderr(stderr).spawn().unwrap();
    wait_until_it_serves(&mut child);
    child
}

fn terminate(child: &mut Child) -> ExitStatus {
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    child.wait().unwrap()
}

/// What a server logs from its start to its end.
fn log_of(flags: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut child = serve(dir.path(), flags, Stdio::piped());
    let stderr = child.stderr.take().unwrap();
    assert!(terminate(&mut child).success());
    let log = std::io::read_to_string(stderr).unwrap();
    assert!(log.contains(dir.path().to_str().unwrap()), "the directories are named: {log}");
    log
}

#[test]
fn a_start_says_what_runs_where() {
    let log = log_of(&[]);
    let start = log.lines().find(|line| line.contains("haul serves")).unwrap();
    for part in [env!("CARGO_PKG_VERSION"), "127.0.0.1:", "/data", "/downloads", "jobs=0", "cut_attempts=0"] {
        assert!(start.contains(part), "{part}: {start}");
    }
    assert!(log.contains("SIGTERM"), "{log}");
    assert!(!log.contains('\x1b'), "there are no colours outside a terminal: {log:?}");
    assert!(!log.contains("WARN"), "{log}");
}

#[test]
fn json_lines_are_objects() {
    let log = log_of(&["--log-format", "json"]);
    let events: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let start = events.iter().find(|event| event["message"] == "haul serves").unwrap();
    assert_eq!(start["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(start["level"], "INFO");
    assert!(start["timestamp"].as_str().unwrap().ends_with('Z'), "{start}");
}

#[test]
fn an_operator_is_warned() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_haul"))
        .args(["serve", "--listen", "0.0.0.0:0", "--insecure-listen", "open"])
        .args(["--allow-private-networks", "--file-durability", "none", "--metrics-listen", "0.0.0.0:0"])
        .env("HAUL_DATA_DIR", dir.path().join("data"))
        .env("HAUL_DOWNLOAD_DIR", dir.path().join("downloads"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until_it_serves(&mut child);
    let stderr = child.stderr.take().unwrap();
    assert!(terminate(&mut child).success());
    let log = std::io::read_to_string(stderr).unwrap();
    let warned = log.lines().filter(|line| line.contains("WARN")).collect::<Vec<_>>().join("\n");
    for part in ["--insecure-listen open", "--allow-private-networks", "--file-durability none", "can read the metrics"]
    {
        assert!(warned.contains(part), "{part}: {log}");
    }
}

#[test]
fn a_wrong_filter_or_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (name, value) in [("HAUL_LOG", "inof"), ("HAUL_LOG", "haul=loud"), ("HAUL_LOG_FORMAT", "xml")] {
        let mut command = command(dir.path(), &[]);
        command.env(name, value);
        let (code, said) = refusal(command);
        assert_eq!(code, 2, "{name}={value}: {said}");
        assert!(said.contains(value) || said.contains("HAUL_LOG"), "{said}");
    }
    let got = Command::new(env!("CARGO_BIN_EXE_haul"))
        .args(["get", "http://127.0.0.1:1/"])
        .env("HAUL_LOG", "nonsense")
        .output()
        .unwrap();
    assert_eq!(got.status.code(), Some(2));
    assert!(haul(&["serve", "--help"]).status.success());
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut child = serve(&dir.path().join("full"), &[], full.into());
    assert!(terminate(&mut child).success(), "a full disk below the log");

    let mut child = serve(&dir.path().join("closed"), &[], Stdio::piped());
    drop(child.stderr.take());
    assert!(terminate(&mut child).success(), "a closed pipe");

    // Nobody reads this pipe: with so many lines it is full at once, and whoever waited for it would never end.
    let mut chatty = command(&dir.path().join("stuck"), &[]);
    let mut child = chatty.env("HAUL_LOG", "trace").spawn().unwrap();
    wait_until_it_serves(&mut child);
    assert!(terminate(&mut child).success(), "a pipe that nobody reads");
}
