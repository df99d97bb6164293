//! `haul get`: no server, resumes, skips, says how it ended.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use crate::support::disk::SmallDisk;
use crate::support::object::Object;
use crate::support::origin::Origin;
use crate::support::reply::{Cut, Reply};
use crate::support::server::{haul, until_now};

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
    assert!(String::from_utf8_lossy(&output.stderr).contains("complete already"));
    assert_eq!(origin.body_bytes(), moved, "nothing came over the network again");
}

#[test]
fn files_whose_urls_end_alike_are_complete_in_any_order() {
    let origin = Origin::start();
    let dir = tempfile::tempdir_in(".").unwrap();
    let paths = ["/a/n", "/b/n", "/c/n"];
    for (seed, path) in paths.iter().enumerate() {
        origin.object(path, Object::new(seed as u64, 2_000));
    }
    let get = |order: &[usize]| {
        let urls = order.iter().map(|at| origin.url(paths[*at]));
        let args: Vec<String> =
            ["get", "-d", dir.path().to_str().unwrap()].map(str::to_owned).into_iter().chain(urls).collect();
        let output = haul(&args.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    get(&[0, 1]);
    get(&[2, 1, 0]);
    let moved = origin.body_bytes();
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        get(&order);
    }
    assert_eq!(files(dir.path()), ["n", "n (1)", "n (2)"]);
    assert_eq!(origin.body_bytes(), moved, "nothing came over the network again");
}

#[test]
fn proxies_of_the_environment_are_obeyed_as_curl_does() {
    let origin = Origin::start();
    let dir = tempfile::tempdir().unwrap();
    origin.object("/a.bin", Object::new(1, 1_000));
    // Nobody listens there.
    let dead = "http://127.0.0.1:2";
    let get = |variables: &[(&str, &str)], flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_haul"));
        for name in
            ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"]
        {
            command.env_remove(name);
        }
        command.envs(variables.iter().copied()).args(["get", &origin.url("/a.bin"), "--retries", "0"]);
        if !flags.contains(&"-d") {
            command.arg("-d").arg(dir.path());
        }
        command.args(flags).output().unwrap().status.success()
    };
    assert!(!get(&[("http_proxy", dead)], &[]));
    assert!(!get(&[("ALL_PROXY", dead)], &[]));
    assert!(!get(&[], &["--proxy", dead]));
    assert!(files(dir.path()).iter().all(|name| name.starts_with(".haul-")), "nothing came past the proxy");
    assert!(get(&[("http_proxy", dead), ("NO_PROXY", "127.0.0.1")], &[]));
    assert!(get(&[("HTTP_PROXY", dead)], &[]), "a header of CGI scripts");
    assert!(get(&[("http_proxy", dead)], &["--proxy", ""]), "the flag is stronger");
    assert_eq!(files(dir.path()), ["a.bin"]);
    // The ports of proxies are the user's own choice, as those of URLs are.
    let through_smtp = |variables: &[(&str, &str)], flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_haul"));
        command.args(["get", &origin.url("/a.bin"), "--retries", "0", "-d"]).arg(dir.path().join("smtp")).args(flags);
        let output = command.env_remove("no_proxy").env_remove("NO_PROXY").envs(variables.iter().copied()).output();
        String::from_utf8_lossy(&output.unwrap().stderr).into_owned()
    };
    let smtp = "http://127.0.0.1:25";
    for said in [through_smtp(&[("http_proxy", smtp)], &[]), through_smtp(&[], &["--proxy", smtp])] {
        assert!(said.contains("cannot reach the proxy"), "{said}");
    }
    // A redirect is a request of its own.
    let (elsewhere, second) = (Origin::start_on([127, 0, 0, 2]), tempfile::tempdir().unwrap());
    elsewhere.object("/b.bin", Object::new(2, 1_000));
    origin.reply("/a.bin", Reply::redirect(302, &elsewhere.url("/b.bin")));
    let there = second.path().to_str().unwrap();
    assert!(!get(&[("http_proxy", dead), ("NO_PROXY", "127.0.0.1")], &["-d", there]), "only the first goes directly");
    assert!(get(&[("http_proxy", dead), ("NO_PROXY", "127.0.0.0/8")], &["-d", there]));
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
    until_now(|| origin.body_bytes() >= 1_000_000);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&output.stderr).contains("run the same command again to resume"));
    assert!(!dir.path().join("f").exists());

    let output = haul(&["get", "-d", to, &origin.url("/f")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("resumed at"), "{said}");
    assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), object.bytes());
    assert_eq!(files(dir.path()), ["f"]);
}

/// The end of a terminal is the usual end of a long download.
#[test]
fn a_run_ends_with_its_terminal_unless_it_is_to_outlive_it() {
    let origin = Origin::start();
    let object = Object::new(3, 2_000_000);
    let served = object.clone();
    origin.handle("/f", move |request| served.respond(request).bytes_per_second(1_000_000));
    for (through, code) in [(&["env"][..], 129), (&["nohup"], 0)] {
        let (to, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let before = origin.body_bytes();
        let child = Command::new(through[0])
            .args([env!("CARGO_BIN_EXE_haul"), "get", "-d", to.path().to_str().unwrap(), &origin.url("/f")])
            .env("TMPDIR", scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        until_now(|| origin.body_bytes() >= before + 500_000);
        assert!(Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(to.path().join("f").exists(), code == 0);
        assert_eq!(files(scratch.path()), [""; 0], "nothing is left of it elsewhere");
    }
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
fn what_no_run_could_go_on_with_is_not_left() {
    let (origin, dir) = (Origin::start(), tempfile::tempdir().unwrap());
    let object = Object::new(1, 100_000);
    let bare = object.clone().no_etag().no_last_modified();
    origin.handle("/bare", move |request| bare.respond(request).cut_at(50_000, Cut::Fin));
    origin.handle("/tagged", move |request| object.respond(request).cut_at(50_000, Cut::Fin));
    for path in ["/bare", "/tagged"] {
        let dir = dir.path().join(&path[1..]);
        let run = Command::new(env!("CARGO_BIN_EXE_haul"))
            .args(["get", &origin.url(path), "--retries", "0", "-d"])
            .arg(&dir)
            .output()
            .unwrap();
        assert_eq!(run.status.code(), Some(1));
        let parts = files(&dir).len();
        assert_eq!(parts, if path == "/bare" { 0 } else { 2 }, "{path}: {:?}", files(&dir));
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
    until_now(|| origin.in_flight() > 0);
    let made = std::fs::read_dir(scratch.path()).unwrap().next().unwrap().unwrap();
    assert_eq!(made.metadata().unwrap().permissions().mode() & 0o077, 0, "its URLs may hold passwords");
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(143));
    assert!(files(scratch.path()).is_empty());
}

#[test]
fn files_of_others_are_never_replaced() {
    let origin = Origin::start();
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().to_str().unwrap();
    origin.object("/x.bin", Object::new(1, 1_000));
    origin.handle("/named", |request| {
        Object::new(2, 1_000).respond(request).header("Content-Disposition", "attachment; filename=Makefile")
    });
    for name in ["x.bin", "Makefile", "given.bin"] {
        std::fs::write(dir.path().join(name), "mine").unwrap();
    }
    for (args, made) in [
        (vec![origin.url("/x.bin")], "x (1).bin"),
        (vec![origin.url("/named")], "Makefile (1)"),
        (vec![origin.url("/x.bin"), "-O".into(), "given.bin".into()], "given (1).bin"),
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        // The second run finds what the first one made.
        for _ in 0..2 {
            let output = haul(&[&["get", "-d", to][..], &args].concat());
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(dir.path().join(made).exists(), "{made}: {:?}", files(dir.path()));
        }
    }
    for name in ["x.bin", "Makefile", "given.bin"] {
        assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), b"mine", "{name}");
    }
    assert_eq!(files(dir.path()).len(), 6);
}

#[test]
fn requests_are_what_the_flags_say() {
    let origin = Origin::start();
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().to_str().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "t0ken\n").unwrap();
    origin.handle("/basic", |request| match request.header("authorization") {
        Some("Basic bWU6cHc=") if request.header("x-team") == Some("red") => Reply::ok("basic"),
        _ => Reply::status(401),
    });
    origin.handle("/bearer", |request| match request.header("authorization") {
        Some("Bearer t0ken") => Reply::ok("bearer"),
        _ => Reply::status(401),
    });
    let basic =
        haul(&["get", "-d", to, &origin.url("/basic"), "--user", "me:pw", "--header", "X-Team: red", "-O", "b"]);
    assert!(basic.status.success(), "{}", String::from_utf8_lossy(&basic.stderr));
    let bearer = haul(&["get", "-d", to, &origin.url("/bearer"), "--bearer-from", token.to_str().unwrap(), "-O", "c"]);
    assert!(bearer.status.success(), "{}", String::from_utf8_lossy(&bearer.stderr));
    assert_eq!(std::fs::read(dir.path().join("b")).unwrap(), b"basic");
    assert_eq!(std::fs::read(dir.path().join("c")).unwrap(), b"bearer");
    for flags in [&["--header", "Range: bytes=0-"][..], &["--user", "me"], &["--header", "x"], &["--proxy", "nonsense"]]
    {
        assert_eq!(haul(&[&["get", "-d", to, "http://a/"][..], flags].concat()).status.code(), Some(2), "{flags:?}");
    }
}

#[test]
fn waits_and_ends_are_said_where_there_is_no_screen() {
    let origin = Origin::start();
    let dir = tempfile::tempdir().unwrap();
    origin.handle("/f", |request| if request.nth == 0 { Reply::status(503) } else { Reply::ok("f") });
    origin.reply("/gone", Reply::status(404));
    let mut child = Command::new(env!("CARGO_BIN_EXE_haul"))
        .args(["get", "-d", dir.path().to_str().unwrap(), "-i", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let list = format!("\u{feff}{}\r\n{}\r\n", origin.url("/f"), origin.url("/gone"));
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), list.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["f: attempt 2 of 5 in ", "503", "f (1 B)", "failed: http", "1 of 2 files, 1 failed; 1 B in "] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains('\x1b'), "{said:?}");
}

#[test]
fn a_wait_for_room_is_said() {
    let (origin, dir) = (Origin::start(), tempfile::tempdir().unwrap());
    let Some(_disk) = SmallDisk::mount(dir.path(), "4m") else { return };
    std::fs::write(dir.path().join("fill"), vec![0; 2 << 20]).unwrap();
    origin.object("/f", Object::new(1, 3 << 20));
    let mut child = Command::new(env!("CARGO_BIN_EXE_haul"))
        .args(["get", "-d", dir.path().to_str().unwrap(), &origin.url("/f")])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = lines.find_map(|line| line.ok().filter(|line| line.contains("waiting: there is no room for the file")));
    assert!(said.is_some());
    assert_eq!(origin.requests("/f").len(), 1);
    std::fs::remove_file(dir.path().join("fill")).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), Object::new(1, 3 << 20).bytes());
}
