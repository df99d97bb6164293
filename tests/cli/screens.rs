//! What a person sees on a terminal of 80 and of 40 columns.

use haul::pb;

use crate::cli::terminal::{Terminal, assert_harmless, columns_of};
use crate::support::object::Object;
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{PATIENCE, Server, haul};
use crate::support::spec::{download, fetch, group, job, quick_retry};

/// What an origin or another client may send to mislead whoever looks: it sets the title, clears the screen, reverses the
/// text and hides characters.
const HOSTILE: &str = "\x1b]0;owned\x07\x1b[2Jevil\u{202e}txt\u{200b}\r\u{9b}1m";
const LONG: &str = "debian-13.1.0-amd64-netinst.iso";

/// The text without the spaces that folding may have changed.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect()
}

/// A server with a job of each kind of end, and their ids.
async fn jobs_of_all_kinds(server: &Server, origin: &Origin) -> (String, String) {
    origin.object("/files/*", Object::new(1, 100_000));
    origin.reply("/gone/*", Reply::status(404));
    let named = pb::JobSpec { title: "the nightly mirror of all images".into(), ..job(vec![]) };
    let long = vec![download(origin.url(&format!("/files/{LONG}"))), fetch(origin.url("/files/a"))];
    let good = server.run(pb::JobSpec { tasks: long, ..named }).await.job_id;
    let mut tasks = vec![fetch(origin.url(&format!("/gone/{LONG}?page=1&of=a-rather-long-listing")))];
    tasks[0].key = HOSTILE.into();
    let labels = [("team".to_owned(), HOSTILE.to_owned())].into();
    let bad = server.run(pb::JobSpec { title: HOSTILE.into(), labels, ..job(tasks) }).await.job_id;
    (good, bad)
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_fit_the_screen() {
    let (server, origin) = (Server::start().await, Origin::start());
    let (good, bad) = jobs_of_all_kinds(&server, &origin).await;
    for columns in [80, 40] {
        let run = |args: &[&str]| {
            let ended = Terminal::run(columns, &[], &[&["--server", &server.address][..], args].concat());
            assert!(ended.status.success(), "{args:?}: {}", ended.screen);
            ended.assert_fits();
            assert_harmless(&ended.written);
            ended.screen
        };
        let list = run(&["list"]);
        for (id, state) in [(&good, "succeeded"), (&bad, "failed")] {
            let row = list.lines().find(|row| row.contains(&id[28..])).unwrap_or_else(|| panic!("{id} in\n{list}"));
            assert!(row.contains(state), "{columns}: {list}");
        }
        assert!(list.contains("the"), "{columns}: {list}");

        let tasks = run(&["tasks", &good]);
        assert!(tasks.contains("debian") && tasks.contains("inst.iso"), "the name is kept at {columns}:\n{tasks}");
        let failed = run(&["tasks", &bad]);
        assert!(failed.contains("404"), "{columns}: {failed}");
        assert_eq!(columns_of_heading(&failed, "STATE"), columns_of_word(&failed, "failed"), "{failed}");

        let shown = squeezed(&run(&["show", &bad]));
        assert!(shown.contains(&bad) && shown.contains("answered404"), "{columns}: {shown}");
        for other in [&["hosts"][..], &["info"], &["limits"], &["--help"], &["get", "--help"], &["submit", "--help"]] {
            assert!(!run(other).is_empty());
        }
    }
}

/// Where a heading begins.
fn columns_of_heading(table: &str, heading: &str) -> Vec<usize> {
    table.lines().next().and_then(|row| cells_before(row, heading)).into_iter().collect()
}

/// Where a word begins, in the first row that has it.
fn columns_of_word(table: &str, word: &str) -> Vec<usize> {
    table.lines().find_map(|row| cells_before(row, word)).into_iter().collect()
}

fn cells_before(row: &str, word: &str) -> Option<usize> {
    row.find(word).map(|at| row[..at].chars().count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_says_what_failed_by_kind() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/gone/*", Reply::status(404));
    origin.reply("/odd", Reply::status(418));
    let mut spec = job((0..6).map(|nth| fetch(origin.url(&format!("/gone/{nth}")))).collect());
    spec.tasks.push(fetch(origin.url("/odd")));
    spec.group = Some(group(pb::GroupMode::Collect, 0));
    let id = server.run(spec).await.job_id;
    let kinds = [
        format!(
            "6 tasks at {}: the origin answered 404 Not Found; check the URL (tasks 0, 1, 2, 3, 4, …)",
            origin.address()
        ),
        format!("1 task at {}: the origin answered 418", origin.address()),
    ];
    for columns in [80, 40] {
        for command in ["show", "watch", "wait"] {
            let ended = Terminal::run(columns, &[], &["--server", &server.address, command, &id]);
            ended.assert_fits();
            let shown = squeezed(&ended.screen);
            for kind in &kinds {
                // `show` has a column of names before each line.
                let kind = squeezed(kind);
                assert!(shown.contains(&kind), "{command} at {columns}: {kind} in\n{}", ended.screen);
            }
        }
    }
    let json = haul(&["--server", &server.address, "-o", "json", "show", &id]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let kind = &json["failures"][0];
    assert_eq!((&kind["count"], &kind["http_status"]), (&6.into(), &404.into()), "{json}");
    assert_eq!(kind["sample_task_indexes"], serde_json::json!([0, 1, 2, 3, 4]));
    assert_eq!(json["failures"][1]["reason"], "FAILURE_REASON_HTTP_STATUS");
}

#[test]
fn bars_stay_in_their_columns_and_names_are_kept() {
    let origin = Origin::start();
    let dir = tempfile::tempdir().unwrap();
    for (seed, name) in [LONG, "a.bin", "%E6%97%A5%E6%9C%AC.bin"].into_iter().enumerate() {
        // One byte is always missing, so that all of them are on the screen.
        let object = Object::new(seed as u64, 1_000 * 40_u64.pow(seed as u32 + 1));
        origin.handle(&format!("/{name}"), move |request| {
            let missing = object.size() - 1;
            object.respond(request).stall_at(missing)
        });
    }
    let urls = [LONG, "a.bin", "%E6%97%A5%E6%9C%AC.bin"].map(|name| origin.url(&format!("/{name}")));
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    for columns in [80, 40] {
        let to = dir.path().join(columns.to_string());
        let args = [&["get", "--connections", "1", "-d", to.to_str().unwrap()][..], &urls].concat();
        let terminal = Terminal::start(columns, 24, &[], &args);
        let screen = terminal.until(|screen| screen.contents().matches("99%").count() == 3);
        let shown = screen.contents();
        let places = columns_of(&screen, "%");
        assert!(places.iter().all(|place| *place == places[0]), "{columns}: {places:?}\n{shown}");
        for part in ["debian-", ".iso", "a.bin", "日本.bin", "0 of 3 files"] {
            assert!(shown.contains(part), "{part} at {columns}:\n{shown}");
        }
        assert_eq!(shown.contains('█'), columns == 80, "there is a bar where there is room:\n{shown}");
        terminal.interrupt();
        let ended = terminal.end();
        ended.assert_fits();
        assert_eq!(ended.status.code(), Some(130));
        assert!(!ended.screen.contains('%'), "nothing of the bars stays:\n{}", ended.screen);
        assert!(squeezed(&ended.screen).contains("runthesamecommandagaintoresume"), "{}", ended.screen);
        assert_harmless(&ended.written);
    }
}

#[test]
fn the_sum_is_on_the_screen_however_many_bars_there_are() {
    let origin = Origin::start();
    let dir = tempfile::tempdir().unwrap();
    origin.reply("/*", Reply::hang());
    let urls: Vec<String> = (0..20).map(|nth| origin.url(&format!("/file-{nth}"))).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    for (columns, rows) in [(80, 12), (40, 8)] {
        let args = [&["get", "-j", "20", "-d", dir.path().to_str().unwrap()][..], &urls].concat();
        let terminal = Terminal::start(columns, rows, &[], &args);
        let screen = terminal.until(|screen| screen.contents().contains("more\n0 of 20 files"));
        let shown = screen.contents();
        assert!(shown.trim_end().lines().count() < rows.into(), "{shown}");
        assert!(shown.starts_with("file-0"), "nothing scrolled away:\n{shown}");
        terminal.interrupt();
        let ended = terminal.end();
        ended.assert_fits();
        assert_eq!(ended.status.code(), Some(130));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_what_runs_and_what_waits() {
    let (server, origin) = (Server::start().await, Origin::start());
    let object = Object::new(1, 100_000);
    origin.handle(&format!("/{LONG}"), move |request| object.respond(request).stall_at(50_000));
    origin.reply("/quick", Reply::ok("quick"));
    origin.reply("/busy", Reply::status(503));
    let retry = pb::RetryPolicy {
        initial_backoff: Some(prost_types::Duration { seconds: 300, nanos: 0 }),
        max_backoff: Some(prost_types::Duration { seconds: 300, nanos: 0 }),
        ..quick_retry(5)
    };
    for columns in [80, 40] {
        let mut spec = job(vec![
            download(origin.url(&format!("/{LONG}"))),
            fetch(origin.url("/busy")),
            fetch(origin.url("/quick")),
        ]);
        // What stalls runs for as long as the test looks.
        let timeouts = pb::Timeouts {
            idle: Some(prost_types::Duration::default()),
            low_speed: Some(pb::LowSpeed { bytes_per_second: Some(0), window: None }),
            ..Default::default()
        };
        spec.defaults =
            Some(pb::TaskOptions { retry: Some(retry.clone()), timeouts: Some(timeouts), ..Default::default() });
        let id = server.submit(spec).await;
        let terminal = Terminal::start(columns, 24, &[], &["--server", &server.address, "watch", &id]);
        let screen = terminal.until(|screen| {
            let shown = screen.contents();
            ["50%", "503", "1 of 3 tasks", "task 2 succeeded"].iter().all(|part| shown.contains(part))
        });
        let shown = screen.contents();
        assert!(shown.contains("inst.iso") && shown.contains("/busy"), "{columns}:\n{shown}");
        assert!(haul(&["--server", &server.address, "cancel", &id]).status.success());
        let ended = terminal.end();
        ended.assert_fits();
        assert_eq!(ended.status.code(), Some(1));
        assert!(!ended.screen.contains('%'), "nothing of the bars stays:\n{}", ended.screen);
        assert!(ended.screen.contains("job cancelled"), "{}", ended.screen);
        assert_harmless(&ended.written);
    }
}

/// Sizes of files that have not begun are unknown, so nobody knows how long they take.
#[tokio::test(flavor = "multi_thread")]
async fn no_end_is_estimated_while_files_have_not_begun() {
    let (server, origin) = (Server::start().await, Origin::start());
    let object = Object::new(1, 64 << 20);
    origin.handle("/a", {
        let object = object.clone();
        move |request| object.respond(request).bytes_per_second(1 << 20)
    });
    origin.handle("/b", move |request| object.respond(request).bytes_per_second(1 << 20));
    let group = Some(pb::GroupPolicy { max_concurrency: 1, ..Default::default() });
    let spec = pb::JobSpec { group, ..job(vec![download(origin.url("/a")), download(origin.url("/b"))]) };
    let id = server.submit(spec).await;
    let run = |args: &[&str]| haul(&[&["--server", &server.address][..], args].concat());
    let until = async |pending: u32| {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let job = server.job(&id).await;
            let progress = job.progress.unwrap();
            if job.counts.unwrap().pending == pending && progress.bytes_per_second > 0 && progress.bytes_total > 0 {
                return progress;
            }
            assert!(tokio::time::Instant::now() < deadline, "{job:?}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    assert_eq!(until(1).await.estimated_remaining, None);
    assert!(run(&["update", &id, "--max-concurrency", "2"]).status.success());
    assert!(until(0).await.estimated_remaining.is_some());
    run(&["cancel", &id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn colours_are_for_terminals_of_those_who_want_them() {
    let (server, origin) = (Server::start().await, Origin::start());
    let (good, bad) = jobs_of_all_kinds(&server, &origin).await;
    let list = ["--server", &server.address, "list"];
    let coloured = Terminal::run(80, &[], &list).written;
    assert!(
        coloured.contains("\x1b[32msucceeded\x1b[0m") && coloured.contains("\x1b[31mfailed\x1b[0m"),
        "{coloured:?}"
    );
    for variables in [&[("NO_COLOR", "1")][..], &[("TERM", "dumb")]] {
        let plain = Terminal::run(80, variables, &list).written;
        assert!(plain.contains("succeeded") && !plain.contains('\x1b'), "{variables:?}: {plain:?}");
    }
    // A dumb terminal cannot go back to a line, so nothing is drawn twice.
    origin.object("/f", Object::new(1, 10));
    let dir = tempfile::tempdir().unwrap();
    let got = Terminal::run(80, &[("TERM", "dumb")], &["get", "-d", dir.path().to_str().unwrap(), &origin.url("/f")]);
    assert!(got.status.success() && !got.written.contains('\x1b'), "{:?}", got.written);
    for args in [&["list"][..], &["show", &bad], &["tasks", &bad], &["watch", &good], &["info"]] {
        let piped = haul(&[&["--server", &server.address][..], args].concat());
        let text = String::from_utf8_lossy(&piped.stdout).into_owned() + &String::from_utf8_lossy(&piped.stderr);
        assert!(!text.contains('\x1b'), "{args:?}: {text:?}");
        assert_harmless(&text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_an_origin_reaches_a_terminal_as_it_is() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/evil", Reply::ok(HOSTILE));
    origin.handle("/named", |request| {
        let object = Object::new(1, 100);
        object.respond(request).header("Content-Disposition", "attachment; filename*=UTF-8''%1b%5b2Je%E2%80%AEvil.txt")
    });
    let id = server.run(job(vec![fetch(origin.url("/evil")), download(origin.url("/named"))])).await.job_id;
    let run = |args: &[&str]| Terminal::run(80, &[], &[&["--server", &server.address][..], args].concat());
    for args in [
        &["cat", &id, "0"][..],
        &["watch", &id],
        &["tasks", &id],
        &["show", &id, "-o", "json"],
        &["cat", &id, "0", "-o", "json"],
    ] {
        let ended = run(args);
        assert!(ended.status.success(), "{args:?}: {}", ended.screen);
        assert_harmless(&ended.written);
    }
    assert!(run(&["cat", &id, "0"]).screen.contains("evil"));
    assert!(run(&["cat", &id, "0", "--raw"]).written.contains("\x1b]0;owned\x07"), "who asks for it gets it");
    // What a script passes on is repeated in the error, too.
    for args in [&["list", &format!("--{HOSTILE}")][..], &["list", "--limit", HOSTILE], &[HOSTILE]] {
        let ended = Terminal::run(80, &[], args);
        assert_eq!(ended.status.code(), Some(2), "{args:?}: {}", ended.screen);
        assert!(ended.screen.contains("evil"), "{args:?}: {}", ended.screen);
        assert_harmless(&ended.written);
    }
    let dir = tempfile::tempdir().unwrap();
    let got = Terminal::run(40, &[], &["get", "-d", dir.path().to_str().unwrap(), &origin.url("/named")]);
    got.assert_fits();
    assert!(got.status.success(), "{}", got.screen);
    assert_harmless(&got.written);
}
