//! haul beside the job queues that people use for the same work, in turn, in one run: medians of five rounds and their
//! ratio. `scripts/bench setup` installs the peers.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Origin, Server};

const ROUNDS: usize = 5;

/// One row of the table: haul and its peers do the same work, in turn.
pub(crate) async fn row(name: &str, count: usize) {
    match name {
        "p1" => worked(count).await,
        "p2" => submit(count).await,
        "p3" => add(count).await,
        "p4" => latency(count).await,
        other => println!("no such row: {other}"),
    }
}

async fn worked(count: usize) {
    let (mut haul, mut cpu, mut bullmq) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let dir = tempfile::tempdir().unwrap();
        let origin = Origin::start(dir.path());
        let url = format!("{}/1k", origin.url);
        let server = Server::start(dir.path(), &["--max-per-host", "64"]).await;
        let started = Instant::now();
        let id = super::fill(&server, count, &url).await;
        let job = super::ended(&server, &id).await;
        haul.push(count as f64 / started.elapsed().as_secs_f64());
        assert_eq!(job.counts.unwrap().succeeded as usize, count);
        cpu.push(server.cpu() * 1e6 / count as f64);
        if round == ROUNDS {
            server.say_costs(count, "task");
        }
        drop(server);
        let redis = Redis::start(dir.path(), "always");
        bullmq.push(redis.bullmq("worked", count, &url)["rate"].as_f64().unwrap());
    }
    let (haul, bullmq) = (median(haul), median(bullmq));
    println!(
        "{haul:.0} fetches/s of 1 KiB worked, {:.0} us of server CPU each: {:.2} x BullMQ with fsync on each write ({bullmq:.0})",
        median(cpu),
        haul / bullmq
    );
}

async fn submit(count: usize) {
    let (mut haul, mut cpu, mut each_write, mut each_second) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path(), &[]).await;
        haul.push(super::submit_rate(&server, count).await);
        cpu.push(server.cpu() * 1e6 / count as f64);
        drop(server);
        for (fsync, rates) in [("always", &mut each_write), ("everysec", &mut each_second)] {
            let redis = Redis::start(dir.path(), fsync);
            rates.push(redis.bullmq("submit", count, "")["rate"].as_f64().unwrap());
        }
    }
    let (haul, each_write, each_second) = (median(haul), median(each_write), median(each_second));
    println!(
        "{haul:.0} jobs/s by 32 callers, {:.0} us of server CPU each: {:.2} x BullMQ with fsync on each write ({each_write:.0}), \
         {:.2} x each second ({each_second:.0})",
        median(cpu),
        haul / each_write,
        haul / each_second
    );
}

async fn add(count: usize) {
    let (mut haul, mut graphile) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path(), &[]).await;
        haul.push(super::add_rate(&server, count).await);
        drop(server);
        let postgres = Postgres::start(dir.path());
        let peer = node("graphile.mjs", &[count.to_string(), postgres.url()]);
        graphile.push(peer["rate"].as_f64().unwrap());
    }
    let (haul, graphile) = (median(haul), median(graphile));
    println!("{haul:.0} tasks/s in bulk: {:.2} x graphile-worker ({graphile:.0})", haul / graphile);
}

async fn latency(count: usize) {
    let (mut haul, mut each_write, mut each_second) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let dir = tempfile::tempdir().unwrap();
        let origin = Origin::start(dir.path());
        let url = format!("{}/1k", origin.url);
        let server = Server::start(dir.path(), &[]).await;
        haul.push(super::latencies(&server, count, &url).await);
        drop(server);
        for (fsync, times) in [("always", &mut each_write), ("everysec", &mut each_second)] {
            let redis = Redis::start(dir.path(), fsync);
            let peer = redis.bullmq("latency", count, &url);
            times.push((peer["p50"].as_f64().unwrap(), peer["p99"].as_f64().unwrap()));
        }
    }
    let of = |times: Vec<(f64, f64)>| {
        let (p50, p99) = times.into_iter().unzip();
        (median(p50), median(p99))
    };
    let (haul, each_write, each_second) = (of(haul), of(each_write), of(each_second));
    println!(
        "p50 {:.2}, p99 {:.2} ms: {:.2} of BullMQ with fsync on each write ({:.2}, {:.2}); each second {:.2}, {:.2}",
        haul.0,
        haul.1,
        haul.0 / each_write.0,
        each_write.0,
        each_write.1,
        each_second.0,
        each_second.1
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs a script of `benches/peers` with the packages that `scripts/bench setup` installed; gives what it printed.
fn node(script: &str, args: &[String]) -> serde_json::Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let peers = root.join(".tools/peers");
    assert!(peers.join("node_modules").exists(), "the peers are missing: run scripts/bench setup");
    // A module finds its packages beside itself.
    std::fs::copy(root.join("benches/peers").join(script), peers.join(script)).unwrap();
    let output = Command::new("node").arg(peers.join(script)).args(args).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{script} failed");
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(text.trim().lines().last().unwrap()).unwrap()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn wait_for(port: u16) {
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A Redis server of its own, whose log of writes is synced as `fsync` says.
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    fn start(dir: &Path, fsync: &str) -> Redis {
        let port = free_port();
        let data = dir.join(format!("redis-{port}"));
        std::fs::create_dir_all(&data).unwrap();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", fsync])
            .arg("--dir")
            .arg(&data)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_for(port);
        Redis { child, port }
    }

    fn bullmq(&self, measure: &str, count: usize, url: &str) -> serde_json::Value {
        node("bullmq.mjs", &[measure.into(), count.to_string(), self.port.to_string(), url.into()])
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `PostgreSQL` server of its own, with its defaults: each commit is synced.
struct Postgres {
    child: Child,
    port: u16,
}

impl Postgres {
    fn start(dir: &Path) -> Postgres {
        let port = free_port();
        let data = dir.join("postgres");
        std::fs::create_dir_all(&data).unwrap();
        // PostgreSQL does not run as root; its package brings a user for it, who must reach the directory.
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let chown = Command::new("chown").arg("postgres").arg(&data).status().unwrap();
        assert!(chown.success(), "PostgreSQL is missing, or this is not root: see scripts/bench setup");
        let run = |program: &str| {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(postgres_programs().join(program)).arg("-D").arg(&data);
            command.current_dir("/").stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let made = run("initdb").args(["--auth", "trust", "--username", "postgres"]).status().unwrap();
        assert!(made.success(), "initdb failed");
        let child = run("postgres")
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            .spawn()
            .unwrap();
        wait_for(port);
        // It listens before it takes connections.
        std::thread::sleep(Duration::from_secs(1));
        Postgres { child, port }
    }

    fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = Command::new("pkill").args(["-INT", "-P", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

/// Where Debian's package has the programs of the newest `PostgreSQL`.
fn postgres_programs() -> PathBuf {
    let mut versions: Vec<PathBuf> =
        std::fs::read_dir("/usr/lib/postgresql").unwrap().map(|entry| entry.unwrap().path()).collect();
    versions.sort();
    versions.pop().unwrap().join("bin")
}
