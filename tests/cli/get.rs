//! `haul get`: no server, resumes, skips, says how it ended.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::object::Object;
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::haul;

fn files(dir: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn gets_files_and_skips_them_when_run_again() {
    let origin = Origin::start();
    let dir = tempfile::tempdir().unwrap();
    origin.object("/a.bin", Object::new(1, 100_000));
    origin.object("/b.bin", Object::new(2, 2_000));
    let list = dir.path().join("list");
    std::fs::write(&list, format!("# two files\n{}\n\n{} # the second\n", origin.url("/a.bin"), origin.url("/b.bin")))
        .unwrap();
    let to = dir.path().join("to");
    let args = ["get", "-d", to.to_str().unwrap(), "-i", list.to_str().unwrap(), "-j", "2"];
    let output = haul(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(files(&to), ["a.bin", "b.bin"]);
    assert_eq!(std::fs::read(to.join("a.bin")).unwrap(), Object::new(1, 100_000).bytes());
    let moved = origin.body_bytes();
    let output = haul(&args);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("was there already"));
    assert_eq!(origin.body_bytes(), moved, "nothing came over the network again");
}

#[test]
fn proxies_of_the_environment_are_ignored() {
    let origin = Origin::start();
    let dir = tempfile::tempdir().unwrap();
    origin.object("/a.bin", Object::new(1, 1_000));
    let mut command = Command::new(env!("CARGO_BIN_EXE_haul"));
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        // Nobody listens there.
        command.env(name, "http://127.0.0.1:9");
    }
    let output = command.args(["get", &origin.url("/a.bin"), "-d"]).arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(files(dir.path()), ["a.bin"]);
}

#[test]
fn an_interrupted_run_goes_on() {
    let origin = Origin::start();
    let dir = tempfile::tempdir().unwrap();
    let object = Object::new(3, 4_000_000);
    let served = object.clone();
    origin.handle("/f", move |request| match request.nth {
        0 => served.respond(request).bytes_per_second(1_000_000),
        _ => served.respond(request),
    });
    let to = dir.path().to_str().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_haul"))
        .args(["get", "-d", to, &origin.url("/f")])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while origin.body_bytes() < 1_000_000 {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
    assert!(!dir.path().join("f").exists());

    let output = haul(&["get", "-d", to, &origin.url("/f")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("of it from before"), "{said}");
    assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), object.bytes());
    assert_eq!(files(dir.path()), ["f"]);
}

#[test]
fn exit_codes_tell() {
    let origin = Origin::start();
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().to_str().unwrap();
    origin.object("/f", Object::new(1, 1000));
    origin.reply("/missing", Reply::status(404));
    let wrong = format!("sha256:{}", "0".repeat(64));
    assert_eq!(haul(&["get", "-d", to, "--checksum", &wrong, &origin.url("/f")]).status.code(), Some(1));
    assert!(files(dir.path()).is_empty());
    assert_eq!(haul(&["get", "-d", to, &origin.url("/f"), &origin.url("/missing")]).status.code(), Some(1));
    assert_eq!(files(dir.path()), ["f"]);
    let served = haul(&["--server", "127.0.0.1:1", "get", "-d", to, &origin.url("/f")]);
    assert_eq!(served.status.code(), Some(2), "a server that would be ignored is refused");
    for args in [
        &["get"][..],
        &["get", "ftp://a/"],
        &["get", "--checksum", &wrong, "http://a/", "http://b/"],
        &["get", "-i", "/nowhere"],
    ] {
        assert_eq!(haul(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn files_that_are_called_alike_do_not_replace_each_other() {
    let origin = Origin::start();
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().to_str().unwrap();
    origin.object("/a/f.bin", Object::new(1, 10_000));
    origin.object("/b/f.bin", Object::new(2, 20_000));
    let (a, b) = (origin.url("/a/f.bin"), origin.url("/b/f.bin"));
    for _ in 0..2 {
        let output = haul(&["get", "-d", to, &a, &b, &a]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(files(dir.path()), ["f (1).bin", "f.bin"]);
        assert_eq!(std::fs::read(dir.path().join("f.bin")).unwrap(), Object::new(1, 10_000).bytes());
        assert_eq!(std::fs::read(dir.path().join("f (1).bin")).unwrap(), Object::new(2, 20_000).bytes());
    }
}

#[test]
fn files_that_origins_call_alike_do_not_replace_each_other() {
    let origin = Origin::start();
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().to_str().unwrap();
    for seed in [1, 2] {
        origin.handle(&format!("/{seed}"), move |request| {
            Object::new(seed, 10_000).respond(request).header("Content-Disposition", "attachment; filename=same.bin")
        });
    }
    for _ in 0..2 {
        let output = haul(&["get", "-d", to, &origin.url("/1"), &origin.url("/2")]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(files(dir.path()), ["same (1).bin", "same.bin"]);
        // Whoever came first has the name.
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        let mut both = [read("same.bin"), read("same (1).bin")];
        both.sort();
        let mut expected = [Object::new(1, 10_000).bytes(), Object::new(2, 10_000).bytes()];
        expected.sort();
        assert!(both == expected);
    }
    assert!(origin.body_bytes() <= 40_000, "the second run asked and was told that nothing had changed");
}

#[test]
fn what_it_keeps_for_itself_is_private_and_goes_with_it() {
    let origin = Origin::start();
    let (dir, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    origin.reply("/f", Reply::hang());
    let child = Command::new(env!("CARGO_BIN_EXE_haul"))
        .args(["get", "-d", dir.path().to_str().unwrap(), &origin.url("/f")])
        .env("TMPDIR", scratch.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while origin.in_flight() == 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let made = std::fs::read_dir(scratch.path()).unwrap().next().unwrap().unwrap();
    assert_eq!(made.metadata().unwrap().permissions().mode() & 0o077, 0, "its URLs may hold passwords");
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
    assert!(files(scratch.path()).is_empty());
}
