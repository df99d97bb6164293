//! The shell examples of the guides, run as they stand there against a server and an origin that plays the APIs they name.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::origin::{Origin, Request};
use crate::support::reply::Reply;
use crate::support::server::Server;

/// A fenced block of a page.
struct Block {
    language: String,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn blocks(page: &str) -> Vec<Block> {
    let text = std::fs::read_to_string(root().join("docs/guide").join(page)).unwrap();
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push(Block { language: language.to_owned(), text: text.join("\n") });
        }
    }
    blocks
}

/// Runs the shell blocks of a page in order, each in a shell of its own. With each line of a `text` block behind one a line of
/// its output must begin.
fn run(page: &str, server: &Server, origin: &Origin) {
    let dir = tempfile::tempdir().unwrap();
    let haul = Path::new(env!("CARGO_BIN_EXE_haul")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut output: Option<String> = None;
    let mut count = 0;
    for block in blocks(page) {
        match block.language.as_str() {
            "sh" => {
                let script = block.text.replace("https://example.com", &origin.url(""));
                let script = script.replace("https://api.example.com", &origin.url(""));
                let run = Command::new("bash")
                    .args(["-euo", "pipefail", "-c", &script])
                    .current_dir(dir.path())
                    .env("PATH", format!("{}:{}:{path}", haul.display(), root().join(".tools").display()))
                    .env("HAUL_SERVER", &server.address)
                    .env("DATA_DIR", server.data())
                    .env("HAUL_LOG", "warn")
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
                assert!(run.status.success(), "{page}: {script}\n{said}");
                output = Some(said);
                count += 1;
            }
            "text" => {
                let said = output.take().unwrap_or_else(|| panic!("{page}: no command says\n{}", block.text));
                for line in block.text.lines() {
                    assert!(
                        said.lines().any(|own| own.trim().starts_with(line.trim())),
                        "{page}: `{line}` is not in\n{said}"
                    );
                }
            }
            // Programs and settings of other systems.
            "python" | "ini" | "toml" => output = None,
            other => panic!("{page}: blocks of `{other}` are not run; run them, or write them in another form"),
        }
    }
    assert!(count > 0, "{page} has no example");
}

const ITEMS: u64 = 5;

/// A page of at most two items from `start` on, as `wrap` writes it, and where the next one begins.
fn page_of(start: u64) -> (String, Option<u64>) {
    let end = ITEMS.min(start + 2);
    let items: Vec<String> = (start..end).map(|nth| format!("{{\"id\":{}}}", nth + 1)).collect();
    (format!("[{}]", items.join(",")), (end < ITEMS).then_some(end))
}

fn number(request: &Request, name: &str) -> Option<u64> {
    request.param(name)?.parse().ok()
}

/// The APIs of the page on listings.
fn play_listings(origin: &Origin) {
    let url = origin.url("");
    origin.handle("/repos/haul/issues", move |request| {
        let (items, next) = page_of(number(request, "page").unwrap_or(0));
        let reply = Reply::json(items);
        let Some(next) = next.filter(|_| request.param("state").as_deref() == Some("all")) else { return reply };
        reply.header("Link", &format!("<{url}/repos/haul/issues?state=all&page={next}>; rel=\"next\""))
    });
    origin.handle("/articles/", |request| {
        let (items, next) = page_of(number(request, "page").unwrap_or(0));
        let next = next.map_or("null".to_owned(), |next| format!("\"?page={next}\""));
        Reply::json(format!("{{\"results\":{items},\"next\":{next}}}"))
    });
    origin.handle("/conversations.history", |request| {
        let (items, next) = page_of(number(request, "cursor").unwrap_or(0));
        let next = next.map(|next| next.to_string()).unwrap_or_default();
        Reply::json(format!("{{\"messages\":{items},\"response_metadata\":{{\"next_cursor\":\"{next}\"}}}}"))
    });
    origin.handle("/products", |request| match (number(request, "page"), number(request, "per_page")) {
        (Some(page @ 1..), Some(2)) => Reply::json(format!("{{\"data\":{}}}", page_of(((page - 1) * 2).min(ITEMS)).0)),
        _ => Reply::status(400),
    });
    origin.handle("/records", |request| match (number(request, "skip"), number(request, "take")) {
        (Some(skip), Some(2)) => Reply::json(format!("{{\"value\":{}}}", page_of(skip.min(ITEMS)).0)),
        _ => Reply::status(400),
    });
}

async fn stage() -> (Server, Origin) {
    let (server, origin) = (Server::start().await, Origin::start());
    for path in ["/a", "/b"] {
        origin.reply(path, Reply::ok("alpha"));
    }
    for path in ["/image.iso", "/mirror/image.iso"] {
        origin.reply(path, Reply::ok(vec![0; 100_000]).header("ETag", "\"1\""));
    }
    origin.reply("/slow.iso", Reply::ok(vec![0; 100_000]).stall_at(1_000));
    (server, origin)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recipes_for_listings_work() {
    let (server, origin) = stage().await;
    play_listings(&origin);
    run("pagination.md", &server, &origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_groups_work() {
    let (server, origin) = stage().await;
    run("groups.md", &server, &origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_resuming_work() {
    let (server, origin) = stage().await;
    run("resume.md", &server, &origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_watching_work() {
    let (server, origin) = stage().await;
    run("watching.md", &server, &origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_operations_work() {
    let (server, origin) = stage().await;
    run("operations.md", &server, &origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_network_work() {
    let (server, origin) = stage().await;
    run("network.md", &server, &origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_secrets_work() {
    let (server, origin) = stage().await;
    run("secrets.md", &server, &origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_credentials_work() {
    let (server, origin) = stage().await;
    run("credentials.md", &server, &origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_http_work() {
    let (server, origin) = stage().await;
    run("http.md", &server, &origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_dashboard_work() {
    let (server, origin) = stage().await;
    run("dashboard.md", &server, &origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_access_work() {
    let (server, origin) = stage().await;
    run("access.md", &server, &origin);
}

/// The pages whose examples other tests run: programs by `tests/clients.rs`, and help, which has none.
const OTHER_PAGES: [&str; 2] = ["clients.md", "cli.md"];

#[test]
fn every_guide_is_run_and_listed() {
    let source = std::fs::read_to_string(root().join("tests/cli/guides.rs")).unwrap();
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    for entry in std::fs::read_dir(root().join("docs/guide")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(readme.contains(&format!("(docs/guide/{name})")), "list `{name}` in the README");
        let is_run = source.contains(&format!("run(\"{name}\""));
        assert!(is_run || OTHER_PAGES.contains(&name.as_str()), "run the examples of `{name}`");
    }
}
