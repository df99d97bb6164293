//! The tour of the README, run as it stands there with other ports.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The commands that build and install: the program under test stands in their place.
const BUILDS: [&str; 2] = ["cargo install", "scripts/tools"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The shell blocks of a section, in order.
fn shell_of(section: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let text = text.split(&format!("\n## {section}\n")).nth(1).unwrap().split("\n## ").next().unwrap().to_owned();
    let parts = text.split("\n```");
    parts.filter_map(|part| part.strip_prefix("sh\n")).map(str::to_owned).collect()
}

/// A line of the tour as a script runs it.
fn line_of_script(line: &str, server: u16, origin: u16) -> String {
    if BUILDS.iter().any(|build| line.starts_with(build)) {
        return String::new();
    }
    let line = line
        .replace(":4285", &format!(":{server}"))
        .replace(":8000", &format!(":{origin}"))
        .replace("http.server 8000", &format!("http.server {origin}"))
        .replace("/tmp", "tmp");
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        // There is no person to look and to leave.
        ["haul", "top", ..] => "haul top --once".to_owned(),
        ["curl", "-N", ..] => format!("timeout 2 {} || true", line.split(" # ").next().unwrap_or_default()),
        // Whoever types is slower than both of them start.
        ["python3", "-m", "http.server", ..] => format!(
            "{line}\nuntil curl -sf http://127.0.0.1:{origin}/ >tmp/index && curl -sf http://127.0.0.1:{server}/readyz; \
             do sleep 0.1; done"
        ),
        _ => line,
    }
}

#[test]
fn the_tour_of_the_readme_does_what_it_says() {
    let tools = root().join(".tools");
    if !tools.join("grpcurl").exists() {
        eprintln!("SKIPPED: there is no grpcurl: run scripts/tools");
        return;
    }
    let (server, origin) = (free_port(), free_port());
    let script: Vec<String> = shell_of("Five minutes")
        .iter()
        .flat_map(|block| block.lines())
        .map(|line| line_of_script(line, server, origin))
        .collect();
    let html = format!("curl -s -H 'Accept: text/html' http://127.0.0.1:{server}/");
    // Whatever fails, nothing that it started stays.
    let ends = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT";
    let script = format!("{ends}\n{}\n{html}\nhaul drain\nkill %2\nwait", script.join("\n"));
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("tmp")).unwrap();
    std::os::unix::fs::symlink(root().join("docs"), dir.path().join("docs")).unwrap();
    let haul = Path::new(env!("CARGO_BIN_EXE_haul")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let run = Command::new("bash")
        .args(["-euc", &script])
        .current_dir(dir.path())
        .env("PATH", format!("{}:{}:{path}", haul.display(), tools.display()))
        .env("HAUL_LISTEN", format!("127.0.0.1:{server}"))
        .env("HAUL_SERVER", format!("127.0.0.1:{server}"))
        .env("HAUL_LOG", "warn")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{script}\n{said}");
    for part in [
        "job succeeded: 1 of 1 task",
        "# Errors",
        "ERRORS.md (",
        "message JobSpec {",
        "\"jobId\"",
        "\"job_id\":",
        "\"next_page_token\":",
        "<!doctype html>",
        "the server is shutting down",
    ] {
        assert!(said.to_lowercase().contains(&part.to_lowercase()), "`{part}` is not in\n{said}");
    }
    // What it leaves is where it was told to leave it, and what git ignores.
    let ignored = std::fs::read_to_string(root().join(".gitignore")).unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_known =
            ["docs", "tmp"].contains(&name.as_str()) || ignored.lines().any(|line| line.trim_matches('/') == name);
        assert!(is_known, "the tour leaves `{name}`");
    }
}

/// What a first visitor copies.
#[test]
fn the_readme_has_one_command_to_run_and_one_to_test() {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    for command in ["cargo run --release -- serve", "scripts/test"] {
        assert!(text.contains(&format!("```sh\n{command}\n```")), "{command}");
    }
}
