//! `haul serve --check`: what a start would come to, beside a server and without one.

use std::path::Path;

use crate::support::server::{Server, haul, until_now};

/// The exit code of a check with these flags, and what is said.
fn check(dir: &Path, flags: &[&str]) -> (i32, String) {
    let (data, downloads) = (dir.join("data"), dir.join("downloads"));
    let mut args = vec!["serve", "--check", "--listen", "127.0.0.1:0"];
    for (flag, path) in [("--data-dir", &data), ("--download-dir", &downloads)] {
        if !flags.contains(&flag) {
            args.extend([flag, path.to_str().unwrap()]);
        }
    }
    args.extend(flags);
    let output = haul(&args);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

#[test]
fn what_could_not_start_is_refused_and_nothing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "no key").unwrap();
    let (file, key) = (file.to_str().unwrap(), format!("file:{}", file.display()));
    let long = format!("unix:{}/{}", dir.path().display(), "x".repeat(150));
    let taken = format!("unix:{file}");
    for (flags, part) in [
        (&["--data-dir", "/proc/x"][..], "the data directory `/proc/x` cannot be written to"),
        (&["--data-dir", file], "choose another `--data-dir`"),
        (&["--download-dir", "/proc/x"], "could not open the download directory `/proc/x`"),
        (&["--download-dir", file], "choose another directory"),
        (&["--data-key", "file:/nowhere"], "the root key in the file `/nowhere` cannot be read"),
        (&["--data-key", &key], "cannot be read"),
        (&["--listen", &long], "that of a socket has at most 107"),
        (&["--listen", &taken], "what is there is not a socket"),
        (&["--listen", "unix:/nowhere/haul.sock"], "cannot listen on `unix:/nowhere/haul.sock`"),
    ] {
        let (code, said) = check(dir.path(), flags);
        assert!(code == 2 && said.contains(part), "{flags:?}: {code} {said}");
    }
    let (code, said) = check(dir.path(), &[]);
    assert_eq!(code, 0, "{said}");
    let there: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(there, ["file"], "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_in_use_and_a_wrong_key_are_found() {
    let mut server = Server::start().await;
    let (data, outside) = (server.data(), tempfile::tempdir().unwrap());
    let outside = outside.path();
    let place = ["--data-dir", data.to_str().unwrap()];
    let (code, said) = check(outside, &place);
    assert!(code == 2 && said.contains(&format!("is in use by another haul process (pid {})", server.pid())), "{said}");
    assert!(said.contains("every user of this machine may do everything"), "all else is said first: {said}");
    assert!(server.terminate().success());

    let before = files(&data);
    let (code, said) = check(outside, &place);
    assert_eq!(code, 0, "{said}");
    assert_eq!(files(&data), before, "nothing was made");
    let other = outside.join("other.key");
    std::fs::write(&other, "00".repeat(32)).unwrap();
    let other = format!("file:{}", other.display());
    let (code, said) = check(outside, &[&place[..], &["--data-key", &other]].concat());
    assert!(code == 2 && said.contains("is not the one of the database"), "{said}");
    let (code, said) = check(outside, &[&place[..], &["--data-key", &other, "--forget-sealed"]].concat());
    assert_eq!(code, 0, "its secrets are given up: {said}");
    std::fs::remove_file(data.join("haul.key")).unwrap();
    let (code, said) = check(outside, &place);
    assert!(code == 2 && said.contains("haul.key` cannot be read"), "{said}");
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// To open it would wait for a reader.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_without_a_reader_for_the_audit_does_not_hold_up_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("audit");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    let server = Server::with(&["--audit-log", pipe.to_str().unwrap()]).await;
    until_now(|| server.log().contains("haul serves"));
}
