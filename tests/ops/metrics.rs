//! `/metrics` of a real server.

use std::collections::BTreeSet;
use std::process::Command;

use haul::pb;

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{PATIENCE, Server, haul, until};
use crate::support::spec::{download, fetch, job};

/// Gets a path of a server, and gives the status with the body.
pub(crate) fn get(address: &str, path: &str, headers: &[&str]) -> (u16, String) {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", &PATIENCE.as_secs().to_string(), "-w", "\n%{http_code}"]);
    for header in headers {
        curl.args(["-H", header]);
    }
    let done = curl.arg(format!("http://{address}{path}")).output().unwrap();
    assert!(done.status.success(), "{path}: {}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout).unwrap();
    let (body, code) = text.rsplit_once('\n').unwrap();
    (code.parse().unwrap(), body.to_owned())
}

/// What Prometheus says that it takes.
const PROMETHEUS: &str = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";

pub(crate) fn scrape(address: &str) -> String {
    let (code, page) = get(address, "/metrics", &[]);
    assert_eq!(code, 200, "{page}");
    page
}

/// The value of a series, written as in the page.
pub(crate) fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("there is no `{series}` in\n{page}")).parse().unwrap()
}

/// The names and labels of all values.
fn series(page: &str) -> BTreeSet<String> {
    let values = page.lines().filter(|line| !line.starts_with('#'));
    values.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

/// Runs a job of each kind, with a failure, a retry and a body.
pub(crate) async fn work(server: &Server, origin: &Origin) {
    origin.reply("/a", Reply::ok("alpha"));
    origin.reply("/missing", Reply::status(404));
    let spec = pb::JobSpec {
        group: Some(pb::GroupPolicy { mode: pb::GroupMode::Collect.into(), ..Default::default() }),
        ..job(vec![fetch(origin.url("/a")), download(origin.url("/a")), fetch(origin.url("/missing"))])
    };
    server.run(spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_counted() {
    let (server, origin) = (Server::start().await, Origin::start());
    let before = scrape(&server.address);
    for series in [
        "haul_jobs_ended_total{state=\"failed\"}",
        "haul_attempt_failures_total{reason=\"checksum_mismatch\"}",
        "haul_waiting_tasks{reason=\"disk_space\"}",
        "haul_connects_total{result=\"dns\"}",
    ] {
        assert!(value(&before, series).abs() < 0.5, "it is there from the start, at 0");
    }
    work(&server, &origin).await;
    origin.reply("/hang", Reply::hang());
    let open = server.submit(job(vec![fetch(origin.url("/hang"))])).await;
    until(async || !origin.requests("/hang").is_empty()).await;
    until(async || value(&scrape(&server.address), "haul_tasks{state=\"running\"}") > 0.5).await;
    let page = scrape(&server.address);
    for (series, expected) in [
        ("haul_jobs_ended_total{state=\"succeeded\"}", 0.0),
        ("haul_jobs_ended_total{state=\"failed\"}", 1.0),
        ("haul_tasks_ended_total{kind=\"fetch\",state=\"succeeded\"}", 1.0),
        ("haul_tasks_ended_total{kind=\"download\",state=\"succeeded\"}", 1.0),
        ("haul_tasks_ended_total{kind=\"fetch\",state=\"failed\"}", 1.0),
        ("haul_attempts_total{kind=\"fetch\",outcome=\"succeeded\"}", 1.0),
        ("haul_attempt_failures_total{reason=\"http_status\"}", 1.0),
        ("haul_attempt_duration_seconds_count{kind=\"download\"}", 1.0),
        ("haul_received_bytes_total{kind=\"download\"}", 5.0),
        ("haul_http_responses_total{class=\"4xx\"}", 1.0),
        ("haul_jobs{state=\"running\"}", 1.0),
        ("haul_jobs{state=\"pending\"}", 0.0),
        ("haul_tasks{state=\"running\"}", 1.0),
        ("haul_hosts{state=\"ok\"}", 1.0),
        ("haul_connections{state=\"active\"}", 1.0),
        ("haul_queue_wait_seconds_count", 4.0),
        ("haul_draining", 0.0),
        ("haul_watchers{kind=\"job\"}", 0.0),
        ("haul_calls_total{method=\"JobService/SubmitJob\",code=\"OK\"}", 2.0),
    ] {
        assert!((value(&page, series) - expected).abs() < 0.5, "{series} is not {expected} in\n{page}");
    }
    for series in ["haul_commit_duration_seconds_count", "haul_store_bytes{file=\"database\"}", "process_open_fds"] {
        assert!(value(&page, series) > 0.5, "{series}");
    }
    let request = pb::CancelJobRequest { job_id: open, ..Default::default() };
    server.jobs().cancel_job(request).await.unwrap();
    until(async || value(&scrape(&server.address), "haul_jobs{state=\"running\"}") < 0.5).await;
    let page = scrape(&server.address);
    assert!((value(&page, "haul_jobs_ended_total{state=\"cancelled\"}") - 1.0).abs() < 0.5);
    assert!((value(&page, "haul_tasks_ended_total{kind=\"fetch\",state=\"cancelled\"}") - 1.0).abs() < 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_counted_by_what_they_wait_for_and_nothing_grows_with_them() {
    let origin = Origin::start();
    let host = origin.url("/").trim_start_matches("http://").trim_end_matches('/').to_owned();
    let flags = ["--allow-private-networks", "--max-per-host", "2", "--metrics-hosts", &host];
    let server = Server::with(&flags).await;
    origin.reply("/hang", Reply::hang());
    let host_limit = "haul_waiting_tasks{reason=\"host_limit\"}";
    server.submit(job((0..5_000).map(|_| fetch(origin.url("/hang"))).collect())).await;
    until(async || value(&scrape(&server.address), host_limit) > 4_997.5).await;
    let paused = server.submit(pb::JobSpec { title: "p".into(), ..job(vec![fetch(origin.url("/hang"))]) }).await;
    server.jobs().pause_job(pb::PauseJobRequest { job_id: paused.clone() }).await.unwrap();
    until(async || value(&scrape(&server.address), "haul_waiting_tasks{reason=\"job_paused\"}") > 0.5).await;
    let before = scrape(&server.address);
    assert!((value(&before, &format!("haul_host_running{{host=\"{host}\"}}")) - 2.0).abs() < 0.5, "{before}");
    assert!(value(&before, &format!("haul_host_waiting{{host=\"{host}\"}}")) > 100.0, "{before}");
    for chunk in 0..10 {
        let tasks = (0..200).map(|host| fetch(format!("http://127.0.{chunk}.{host}:8080/{chunk}")));
        server.submit(pb::JobSpec { title: chunk.to_string(), ..job(tasks.collect()) }).await;
    }
    let page = scrape(&server.address);
    let grown: Vec<_> = series(&page).difference(&series(&before)).cloned().collect();
    assert!(grown.is_empty(), "{grown:?}");
    for text in [paused.as_str(), "/hang", "127.0.1.", "http://"] {
        assert!(!page.contains(text), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_comes_in_both_forms_packed_and_only_to_be_looked_at() {
    let server = Server::start().await;
    let (_, open) = get(&server.address, "/metrics", &[PROMETHEUS]);
    assert!(open.trim_end().ends_with("# EOF"), "{open}");
    let classic = scrape(&server.address);
    assert!(classic.contains("# TYPE haul_attempts_total counter") && !classic.contains("# EOF"));
    let curl = |args: &[&str]| {
        let url = format!("http://{}/metrics", server.address);
        let done = Command::new("curl").args(["-s", "-i", "--max-time", "60"]).args(args).arg(url).output().unwrap();
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    let packed = curl(&["--compressed"]);
    assert!(packed.contains("content-encoding: gzip") && packed.contains("haul_build_info"), "{packed}");
    assert!(packed.contains("content-type: text/plain; version=0.0.4"), "{packed}");
    let head = curl(&["-I"]);
    assert!(head.starts_with("HTTP/1.1 200") && !head.contains("haul_build_info"), "{head}");
    let posted = curl(&["-X", "POST"]);
    assert!(posted.starts_with("HTTP/1.1 405") && posted.contains("allow: GET, HEAD"), "{posted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_tokens_are_needed_it_is_for_monitors() {
    let server = Server::start().await;
    let token = |operator: &str, args: &[&str]| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), operator).unwrap();
        let mut all = vec!["--server", &server.address];
        if !operator.is_empty() {
            all.extend(["--token-file", file.path().to_str().unwrap()]);
        }
        all.extend(["token", "create"]);
        all.extend(args);
        let made = haul(&all);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    };
    let operator = token("", &["op", "--grant", "operator"]);
    let monitor = token(&operator, &["prometheus", "--grant", "monitor"]);
    let reader = token(&operator, &["r", "--grant", "read"]);
    let with = |token: &str| get(&server.address, "/metrics", &[&format!("Authorization: Bearer {token}")]);
    let (code, body) = get(&server.address, "/metrics", &[]);
    assert_eq!(code, 401, "{body}");
    assert!(body.contains("NO_CREDENTIALS"), "{body}");
    assert_eq!(with(&reader).0, 403);
    assert_eq!(with(&monitor).0, 200);
    assert_eq!(with(&operator).0, 200);
    assert_eq!(get(&server.address, "/healthz", &[]).0, 200, "probes need none");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_may_have_an_address_of_its_own() {
    let server = Server::with(&["--allow-private-networks", "--metrics-listen", "127.0.0.1:0"]).await;
    let log = server.log();
    let line = log.lines().find(|line| line.contains("metrics are served")).unwrap();
    let address = line.split("address=").nth(1).unwrap().split_whitespace().next().unwrap();
    assert!((value(&scrape(address), "haul_draining")).abs() < 0.5);
    assert_eq!(get(address, "/readyz", &[]).0, 200);
    assert_eq!(get(address, "/v1/jobs", &[]).0, 404, "and nothing else");
    assert_eq!(get(&server.address, "/metrics", &[]).0, 404);
    assert_eq!(get(&server.address, "/v1/jobs", &[]).0, 200);
    let made = haul(&["--server", &server.address, "token", "create", "op", "--grant", "operator"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!(get(&server.address, "/v1/jobs", &[]).0, 401);
    assert_eq!(get(address, "/metrics", &[]).0, 200, "users of this machine need no token for them");
    assert_eq!(
        get(address, "/metrics", &["X-Forwarded-For: 192.0.2.1"]).0,
        401,
        "and who comes through a proxy is not one"
    );
}

/// Counters begin anew and gauges are right in the first scrape.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_the_first_scrape_is_right() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    work(&server, &origin).await;
    origin.reply("/hang", Reply::hang());
    let tasks = (0..20).map(|_| fetch(origin.url("/hang"))).collect();
    server.submit(pb::JobSpec { title: "held".into(), ..job(tasks) }).await;
    until(async || !origin.requests("/hang").is_empty()).await;
    server.restart().await;
    let page = scrape(&server.address);
    let open =
        ["pending", "running", "backing_off"].map(|state| value(&page, &format!("haul_tasks{{state=\"{state}\"}}")));
    assert!((open.iter().sum::<f64>() - 20.0).abs() < 0.5, "{open:?}");
    assert!(value(&page, "haul_attempts_total{kind=\"download\",outcome=\"succeeded\"}").abs() < 0.5);
    assert!(value(&page, "haul_recovery_duration_seconds") > 0.0);
}
