//! What the command line says of values that cannot be: on one line, in words, and by the name that the reader knows.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Output};

use crate::cli::terminal::Terminal;
use crate::support::server::{Server, binary, haul};

fn said(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_value_is_never_a_line_of_its_own_and_is_cut() {
    let (forged, long) = ("x\nhaul: all is well", "x".repeat(10_000));
    for args in [
        &["list", "--state"][..],
        &["list", "--label"],
        &["tasks", "a", "--reason"],
        &["serve", "--check", "--listen"],
        &["serve", "--check", "--shutdown-grace"],
        &["seal"],
        &["wait", "a", "--timeout"],
    ] {
        for value in [forged, long.as_str()] {
            let (code, text) = said(&haul(&[args, &[value]].concat()));
            assert!(code == 2 && text.lines().count() == 1 && text.len() < 800, "{args:?}: {code} {text}");
        }
    }
}

#[test]
fn a_variable_that_is_no_text_is_refused_and_named() {
    for name in ["HAUL_SERVER", "HAUL_TOKEN", "HAUL_TENANT", "HAUL_DENY_NETWORKS"] {
        let args: &[&str] = if name == "HAUL_DENY_NETWORKS" { &["serve", "--check"] } else { &["list"] };
        let output = Command::new(binary()).args(args).env(name, OsStr::from_bytes(b"\xff")).output().unwrap();
        let (code, text) = said(&output);
        assert!(code == 2 && text.contains(&format!("`{name}` is not UTF-8")), "{name}: {code} {text}");
    }
    let output = Command::new(binary()).args(["serve", "--check"]).env("HAUL_ALLOW_PRIVATE_NETWORKS", "").output();
    let (code, text) = said(&output.unwrap());
    assert!(code == 2 && text.contains("`HAUL_ALLOW_PRIVATE_NETWORKS` needs a value"), "{code} {text}");
}

#[test]
fn mistakes_are_told_by_what_was_written() {
    for (args, part) in [
        (&["hosts", "zz"][..], "`haul hosts` does not take `zz`"),
        (&["wait", "a", "--timeout", "-1s"], "`--timeout` is `-1s`, which is not a time"),
        (&["limits", "--bytes-per-second", "99999999999999999999"], "is too large"),
        (&["limits", "--requests-per-second-per-host", "1e400"], "`1e400` is too large"),
        (&["submit", "--label", "a=1", "--label", "a=2", "http://a/"], "the label `a` is given twice"),
        (&["serve", "--check", "--allow-ports", "0"], "`allow_ports` has `0`"),
        (&["--server", "4285", "list"], "a port needs a host before it"),
        (&["--server", "::1:4285", "list"], "stands in brackets"),
    ] {
        let (code, text) = said(&haul(args));
        assert!(code == 2 && text.contains(part), "{args:?}: {code} {text}");
    }
}

#[test]
fn a_settings_file_takes_sizes_and_times_as_flags_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("haul.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(binary());
        command.args(["serve", "--check", "--listen", "127.0.0.1:0", "--config"]).arg(&file).current_dir(dir.path());
        said(&command.output().unwrap())
    };
    let (code, text) =
        check("disk_reserve = '1GiB'\nqueue_bytes = 67108864\nshutdown_grace = 5\nretry_after_max = '1h'");
    assert_eq!(code, 0, "{text}");
    for (wrong, part) in [
        ("max_per_host = 'x'", "`max_per_host` must be a whole number from 0 to 4294967295"),
        ("max_per_host = 99999999999999999999", "`max_per_host` must be a whole number"),
        ("allow_ports = '80,443'", "`allow_ports` must be a list"),
        ("shutdown_grace = true", "`shutdown_grace` must be a time like"),
        ("auth = 'x'", "`auth` is `x`; it must be"),
        ("nope = 1", "there is no setting `nope`"),
    ] {
        let (code, text) = check(wrong);
        assert!(code == 2 && text.contains(part) && !text.contains("u32"), "{wrong}: {code} {text}");
    }
}

#[test]
fn a_fault_in_json_names_its_file_and_what_to_set() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("job.json");
    let refused = |flag: &str, text: &str| {
        std::fs::write(&path, text).unwrap();
        let mut args = vec!["--server", "127.0.0.1:1", "submit", flag, path.to_str().unwrap()];
        if flag == "-i" {
            args.extend(["--format", "json"]);
        }
        let (code, text) = said(&haul(&args));
        assert_eq!(code, 2, "{text}");
        text
    };
    let text = refused("-f", "{\"titel\": 1}");
    assert!(
        text.contains("job.json`: ") && text.contains("`titel` is unknown") && text.contains("(line 1, column "),
        "{text}"
    );
    let text = refused("-i", "{}\n");
    assert!(text.contains("line 1: ") && text.contains("set `fetch` or `download`"), "{text}");
    let text = refused("-i", "{\n");
    assert!(text.contains("it ends within") && !text.contains("EOF") && !text.contains("`?`"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_is_not_there_is_refused_once_by_its_option() {
    let server = Server::start().await;
    let (code, text) = said(&haul(&["--server", &server.address, "submit", "--credential", "nope", "http://a/x"]));
    assert!(code == 2 && text.lines().count() == 1, "{code} {text}");
    assert!(text.contains("`--credential` is `nope`"), "{text}");
}

/// Beside the options there was no room but for a word a line.
#[test]
fn help_fits_a_narrow_screen() {
    for args in [["serve", "-h"], ["limits", "--help"]] {
        let ended = Terminal::run(40, &[], &args);
        // The names of some options with their values are as wide themselves.
        let wide = ended.written.lines().filter(|line| visible(line) > 47).count();
        assert!(wide < 8, "{wide} lines of `{}` are too wide: {}", args.join(" "), ended.written);
    }
}

/// The letters of a line that are seen.
fn visible(line: &str) -> usize {
    let mut parts = line.split('\x1b');
    let first = parts.next().unwrap_or_default().trim_end().chars().count();
    first + parts.map(|part| part.split_once('m').map_or(0, |(_, rest)| rest.trim_end().chars().count())).sum::<usize>()
}
