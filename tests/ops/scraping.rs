//! Debian's Prometheus scrapes a server as `deploy/prometheus/haul.scrape.yml` says.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tokio::time::Instant;

use crate::ops::metrics::work;
use crate::ops::tools::{read, root, tool};
use crate::support::origin::Origin;
use crate::support::server::{PATIENCE, Server};

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks Prometheus. `None`: it does not answer yet.
fn ask(address: &str, path: &str, query: &str) -> Option<Value> {
    let url = format!("http://{address}{path}");
    let done = Command::new("curl").args(["-sfG", "--data-urlencode", query, &url]).output().unwrap();
    done.status.success().then(|| serde_json::from_slice(&done.stdout).unwrap())
}

/// Waits for the one value of an expression.
fn value(address: &str, expression: &str, is_right: impl Fn(f64) -> bool) {
    let begun = Instant::now();
    let mut last = None;
    while begun.elapsed() < PATIENCE {
        last = ask(address, "/api/v1/query", &format!("query={expression}"));
        let found = last.as_ref().and_then(|it| it["data"]["result"][0]["value"][1].as_str()?.parse::<f64>().ok());
        if found.is_some_and(&is_right) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    panic!("{expression}: {last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_scrapes_the_server() {
    let Some(prometheus) = tool("prometheus", "HAUL_PROMETHEUS") else { return };
    let (server, origin) = (Server::start().await, Origin::start());
    work(&server, &origin).await;
    let dir = tempfile::tempdir().unwrap();
    let config = read("deploy/prometheus/haul.scrape.yml").replace("127.0.0.1:4285", &server.address);
    let rules = root().join("deploy/prometheus/haul.rules.yml");
    let config = config.replace("haul.rules.yml", rules.to_str().unwrap());
    assert!(config.contains(&server.address) && config.contains(rules.to_str().unwrap()), "{config}");
    let often = "global: {scrape_interval: 1s, evaluation_interval: 1s}\n";
    std::fs::write(dir.path().join("prometheus.yml"), format!("{often}{config}")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let child = Command::new(prometheus)
        .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .args(["--web.console.libraries=/nonexistent", "--web.console.templates=/nonexistent"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _running = Running(child);
    value(&address, "up{job=\"haul\"}", |up| up > 0.5);
    value(&address, "sum(haul_tasks_ended_total)", |ended| ended > 0.0);
    value(&address, "haul_build_info", |it| it > 0.5);
    // The rules are loaded, and what is well raises none of them.
    let rules = ask(&address, "/api/v1/rules", "type=alert").unwrap();
    let rules = rules["data"]["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    assert!(rules.clone().count() > 5);
    let firing: Vec<&Value> = rules.filter(|rule| rule["state"] == "firing").collect();
    assert!(firing.is_empty(), "{firing:?}");
}
