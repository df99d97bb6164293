//! Lists of other programs become tasks: over HTTP and by the command line, in each format, and once however often they are
//! sent.

use std::io::Write as _;

use haul::pb;

use crate::it::curl::{Answer, curl};
use crate::support::server::{Server, haul};
use crate::support::spec::job;

const ARIA2: &str =
    "# queue\nhttp://a.example/1\thttp://b.example/1\n  out=one.iso\n  dir=isos\n\nhttp://a.example/2\n";
const METALINK: &str = "<?xml version=\"1.0\"?>\n<metalink xmlns=\"urn:ietf:params:xml:ns:metalink\"><file \
                        name=\"x.iso\"><size>7</size><url>http://a.example/x</url></file></metalink>";

async fn open(server: &Server) -> String {
    let id = server.submit(pb::JobSpec { open: true, ..job(Vec::new()) }).await;
    server.jobs().pause_job(pb::PauseJobRequest { job_id: id.clone() }).await.unwrap();
    id
}

fn import(server: &Server, id: &str, kind: &str, list: &[u8]) -> Answer {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(list).unwrap();
    let data = format!("@{}", file.path().display());
    curl(
        server,
        &["--header", &format!("Content-Type: {kind}"), "--data-binary", &data],
        &format!("/v1/jobs/{id}/tasks:import"),
    )
}

async fn tasks(server: &Server, id: &str) -> Vec<pb::Task> {
    let request = pb::ListTasksRequest { job_id: id.to_owned(), include_spec: true, ..Default::default() };
    server.jobs().list_tasks(request).await.unwrap().into_inner().tasks
}

fn download(task: &pb::Task) -> pb::DownloadSpec {
    match task.spec.clone().unwrap().work {
        Some(pb::task_spec::Work::Download(download)) => download,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_format_becomes_tasks_and_the_same_list_twice_is_one() {
    let server = Server::start().await;
    let urls = (0..2_500).map(|at| format!("http://a.example/{at}\r\n")).collect::<Vec<_>>().concat();
    let id = open(&server).await;
    for _ in 0..2 {
        let answer = import(&server, &id, "text/uri-list", format!("\u{feff}# list\n{urls}").as_bytes());
        let counts: Vec<_> = answer.lines().iter().map(|line| line["task_count"].clone()).collect();
        assert_eq!((answer.code, counts), (200, vec![1_000.into(), 1_000.into(), 500.into()]), "{answer:?}");
    }
    let counts = server.job(&id).await.counts.unwrap();
    assert_eq!(counts.total, 2_500, "what was sent again is there once");
    let specs = "{\"key\": \"a\", \"fetch\": {\"url\": \"http://a.example/\"}}\n\n{\"download\": {\"url\": \"http://a.example/\"}}";
    let id = open(&server).await;
    assert_eq!(import(&server, &id, "application/x-ndjson", specs.as_bytes()).lines()[0]["task_count"], 2);
    assert_eq!(tasks(&server, &id).await[0].key, "a");
    let id = open(&server).await;
    assert_eq!(import(&server, &id, "text/x-aria2-input", ARIA2.as_bytes()).lines()[0]["task_count"], 2);
    let first = download(&tasks(&server, &id).await[0]);
    assert_eq!((first.path.as_str(), first.mirrors), ("isos/one.iso", vec!["http://b.example/1".to_owned()]));
    let id = open(&server).await;
    assert_eq!(import(&server, &id, "application/metalink4+xml", METALINK.as_bytes()).lines()[0]["task_count"], 1);
    assert_eq!(download(&tasks(&server, &id).await[0]).expected_bytes, Some(7));
    let id = open(&server).await;
    let long = format!("<metalink>{}</metalink>", "<file><url>http://a.example/x</url></file>".repeat(2_500));
    for _ in 0..2 {
        let answer = import(&server, &id, "application/metalink4+xml", long.as_bytes());
        assert_eq!((answer.code, answer.lines().len()), (200, 3), "{answer:?}");
    }
    assert_eq!(server.job(&id).await.counts.unwrap().total, 2_500, "equal chunks are not the same chunk");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_does_not_read_is_named_and_what_was_before_is_durable() {
    let server = Server::start().await;
    let id = open(&server).await;
    let good = (0..1_000).map(|at| format!("http://a.example/{at}\n")).collect::<Vec<_>>().concat();
    for (kind, list, line) in [
        ("text/uri-list", format!("{good}http://a/ http://b/\n"), "1001"),
        ("text/uri-list", format!("{good}ftp://a.example/\n"), "1001"),
        (
            "application/x-ndjson",
            "{\"fetch\": {\"url\": \"http://a.example/\"}}\n{\"fetch\": {\"uri\": 1}}\n".to_owned(),
            "2",
        ),
        ("text/x-aria2-input", "http://a.example/\n  bt-seed=1\n".to_owned(), "2"),
        ("application/metalink+xml", "<metalink>\n<file name='x'></file></metalink>".to_owned(), "2"),
    ] {
        let answer = import(&server, &id, kind, list.as_bytes());
        let last = answer.lines().pop().unwrap();
        let details = last["error"]["details"].as_array().unwrap();
        let info = details.iter().find(|it| it["reason"].is_string()).unwrap();
        assert_eq!(info["metadata"]["line"], line, "{kind}: {last}");
        let fields = details.iter().find_map(|it| it["field_violations"].as_array()).unwrap();
        let field = fields[0]["field"].as_str().unwrap();
        let where_it_is = format!("{field} {}", fields[0]["description"].as_str().unwrap());
        assert!(where_it_is.contains(line), "{kind}: {last}");
    }
    assert_eq!(server.job(&id).await.counts.unwrap().total, 1_000, "the same thousand twice, and no others");
    assert_eq!(import(&server, &id, "application/json", b"{}").code, 415);
    assert_eq!(import(&server, &id, "text/uri-list", b"\xff\n").fault().0, "INVALID_ARGUMENT");
    assert_eq!(import(&server, "0197aaaa-0000-7000-8000-000000000000", "text/uri-list", b"http://a/\n").code, 404);
    assert_eq!(curl(&server, &[], &format!("/v1/jobs/{id}/tasks:import")).code, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_reads_the_same_formats() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let json = "{\"download\": {\"url\": \"http://a.example/1\", \"path\": \"p\"}}\n";
    for (text, format, count) in [(ARIA2, "auto", 2), (METALINK, "auto", 1), (json, "auto", 1), (ARIA2, "aria2", 2)] {
        let path = dir.path().join("list");
        std::fs::write(&path, text).unwrap();
        let list = ["-i", path.to_str().unwrap(), "--format", format];
        let id = open(&server).await;
        for _ in 0..2 {
            let added = haul(&[&["--server", &server.address, "add", &id][..], &list].concat());
            assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        }
        assert_eq!(tasks(&server, &id).await.len(), count, "{text}");
        let submitted = haul(&[&["--server", &server.address, "submit", "--open"][..], &list].concat());
        assert!(submitted.status.success(), "{}", String::from_utf8_lossy(&submitted.stderr));
        let id = String::from_utf8(submitted.stdout).unwrap();
        assert_eq!(tasks(&server, id.trim()).await.len(), count, "{text}");
    }
    let path = dir.path().join("list");
    std::fs::write(&path, "http://a.example/\n  bt-seed=1\n").unwrap();
    let refused = haul(&["--server", &server.address, "submit", "-i", path.to_str().unwrap(), "--format", "aria2"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && said.contains("line 2") && said.contains("bt-seed"), "{said}");
}
