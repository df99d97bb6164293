//! The whole system: a real server process, nginx as the origin, gRPC between. Run by hand:
//!
//! ```text
//! scripts/bench system worked 5000      one job of N fetches of 1 KiB, bodies kept: tasks a second
//! scripts/bench system submit 20000     N jobs of one task, 32 callers: jobs a second
//! scripts/bench system add 1000000       AddTasks alone, none of them running yet: tasks a second
//! scripts/bench system bulk 1000000     AddTasks, then kill -9 and restart: tasks a second, time to the first, RSS
//! scripts/bench system latency 500      submit to seen done through WatchJob, one at a time: p50, p99
//! scripts/bench system download 1024    one connection, N MiB, beside the peers: CPU seconds a GiB, wall time
//! scripts/bench system segments 512     16 connections, each limited by the origin: share of what they allow together
//! scripts/bench system memory 256       64 downloads of N MiB at once: peak RSS
//! scripts/bench system files 10000      N files of 1 KiB, 64 at once, beside the peers: files a second
//! scripts/bench system names 2000        N downloads of one derived name, beside N of distinct ones: the ratio
//! scripts/bench system dispatch 1000000 the rate with N tasks queued against that with 1,000
//! scripts/bench system beside 200000    a job of 10 tasks beside one of N; other hosts beside a stalled one
//! scripts/bench system watchers 1000    N watchers of one busy job, and N of an idle one: CPU, memory
//! scripts/bench system idle 10000       N connections that say nothing: memory of each
//! scripts/bench system restart 100000   kill -9 with N unfinished jobs, then with a job over N hosts: time, memory
//! scripts/bench system sweeps 1000000   CancelJob, RetryJob, DeleteJob of N tasks, and SubmitJob beside each
//! scripts/bench system synced 20000     WatchJobs over N unfinished jobs: time to `synced`
//! scripts/bench system lists 1000000    pages of ListJobs and ListTasks over N rows
//! scripts/bench system calls 120000      SubmitJob, GetJob, ListTasks and an event beside a job of N tasks: p50, p99
//! scripts/bench system encrypted 1024   one connection over TLS, by HTTP/1.1 and HTTP/2, N MiB, beside curl
//! scripts/bench system durable 4000     N durable files of 1 KiB, beside the disk's own limit
//! scripts/bench system grown 1000000    rates, latencies and pages while N tasks pile up that have ended; draws the plot
//! scripts/bench system machine          how fast the machine is
//! scripts/bench system p1 20000         N fetches worked, beside BullMQ; p2: N submissions, beside BullMQ; p3: N tasks in
//!                                       bulk, beside graphile-worker; p4: latency of N jobs, beside BullMQ
//! ```
//!
//! `scripts/bench all` measures everything that docs/PERFORMANCE.md has a row for.
//!
//! nginx must be installed; peers (curl, wget2, aria2c, axel) are measured as far as they are. Figures are ratios or CPU
//! time; wall times of a shared machine are noise.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]
// A benchmark measures wall time and stops at the first surprise.
#![allow(clippy::disallowed_types, clippy::disallowed_methods, clippy::cast_precision_loss)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use haul::pb;
use haul::pb::job_service_client::JobServiceClient;
use haul::pb::watch_job_response::Event;
use tokio::task::JoinSet;
use tonic::transport::Channel;

#[path = "system/crowds.rs"]
mod crowds;
#[path = "system/loaded.rs"]
mod loaded;
#[path = "system/machine.rs"]
mod machine;
#[path = "system/peers.rs"]
mod peers;
#[path = "system/scale.rs"]
mod scale;
#[path = "system/size.rs"]
mod size;
#[path = "system/transfers.rs"]
mod transfers;

/// Tasks of one chunk.
const CHUNK: usize = 2_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let count = |default| args.get(1).and_then(|text| text.parse().ok()).unwrap_or(default);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        match args.first().map_or("worked", String::as_str) {
            "worked" => worked(count(5_000)).await,
            "submit" => submit(count(20_000)).await,
            "add" => add(count(1_000_000)).await,
            "bulk" => bulk(count(1_000_000)).await,
            "latency" => latency(count(500)).await,
            "download" => transfers::download(count(1_024)).await,
            "segments" => transfers::segments(count(512)).await,
            "memory" => transfers::memory(count(256)).await,
            "files" => transfers::files(count(10_000)).await,
            "durable" => transfers::durable_files(count(4_000)).await,
            "encrypted" => transfers::encrypted(count(1_024)).await,
            "grown" => size::grown(count(1_000_000)).await,
            "machine" => machine::speed(),
            "names" => transfers::names(count(2_000)).await,
            "dispatch" => crowds::dispatch(count(1_000_000)).await,
            "beside" => crowds::beside(count(200_000)).await,
            "watchers" => crowds::watchers(count(1_000)).await,
            "idle" => crowds::idle(count(10_000)).await,
            "restart" => scale::restart(count(100_000)).await,
            "sweeps" => scale::sweeps(count(1_000_000)).await,
            "synced" => scale::watch_jobs(count(20_000)).await,
            "lists" => scale::lists(count(1_000_000)).await,
            "calls" => loaded::calls(count(120_000)).await,
            row @ ("p1" | "p2") => peers::row(row, count(20_000)).await,
            "p3" => peers::row("p3", count(200_000)).await,
            "p4" => peers::row("p4", count(500)).await,
            other => println!("no such measure: {other}"),
        }
    });
}

struct Server {
    child: Child,
    address: String,
    channel: Channel,
}

impl Server {
    async fn start(dir: &Path, flags: &[&str]) -> Server {
        // Another binary than the one just built: to compare with an old one in the same run.
        let binary = std::env::var("HAUL_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_haul").to_owned());
        let mut child = Command::new(binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--allow-private-networks"])
            .arg("--data-dir")
            .arg(dir.join("data"))
            .arg("--download-dir")
            .arg(dir.join("downloads"))
            .args(flags)
            .env("HAUL_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().tcp_nodelay(true);
        Server { child, channel: channel.connect().await.unwrap(), address }
    }

    fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone())
    }

    /// User and system time so far, in seconds.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }

    /// Switches from its threads to others, and page faults, so far.
    fn switches_and_faults(&self) -> (f64, f64) {
        let process = format!("/proc/{}", self.child.id());
        let stat = std::fs::read_to_string(format!("{process}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let mut switches = 0.0;
        for thread in std::fs::read_dir(format!("{process}/task")).unwrap() {
            // A thread may end meanwhile.
            let Ok(status) = std::fs::read_to_string(thread.unwrap().path().join("status")) else { continue };
            let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
            switches += counts.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).sum::<f64>();
        }
        (switches, fields[7].parse().unwrap())
    }

    /// Allocations so far and their bytes, where the server counts them: `cargo build --release --features count-allocations`,
    /// and then `HAUL_BIN=target/release/haul`.
    fn allocations(&self) -> Option<(f64, f64)> {
        let mut stream = std::net::TcpStream::connect(&self.address).unwrap();
        let ask = format!("GET /metrics HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.address);
        stream.write_all(ask.as_bytes()).unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        let value = |name: &str| {
            let line = page.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse::<f64>().ok()
        };
        Some((value("haul_allocations_total")?, value("haul_allocated_bytes_total")?))
    }

    /// Says what a unit of work has cost so far beside time.
    fn say_costs(&self, count: usize, unit: &str) {
        let (switches, faults) = self.switches_and_faults();
        let each = |total: f64| total / count as f64;
        println!("{:.2} switches of threads a {unit}, {:.2} page faults", each(switches), each(faults));
        if let Some((times, bytes)) = self.allocations() {
            println!("{:.1} allocations a {unit}, {:.0} bytes", each(times), each(bytes));
        }
    }

    /// The most memory that it had so far, in MiB.
    fn peak_mib(&self) -> f64 {
        self.status("VmHWM") / 1024.0
    }

    /// The memory that it has, in KiB.
    fn rss_kib(&self) -> f64 {
        self.status("VmRSS")
    }

    fn status(&self, name: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// nginx over a directory, on a port of its own.
struct Origin {
    child: Child,
    url: String,
}

impl Origin {
    fn start(dir: &Path) -> Origin {
        Origin::with(dir, "")
    }

    /// With more directives for its server.
    fn with(dir: &Path, more: &str) -> Origin {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let root = dir.join("www");
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("1k"), vec![b'x'; 1024]).unwrap();
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {};", dir.join(name).display()))
            .collect::<Vec<_>>()
            .concat();
        let conf = format!(
            "worker_processes 1; daemon off; pid {pid}; error_log {log};\nevents {{ worker_connections 4096; }}\n\
             http {{ access_log off; sendfile on; keepalive_requests 100000000; {temp}\n\
             server {{ listen 127.0.0.1:{port} backlog=4096; root {root}; {more} }} }}",
            pid = dir.join("nginx.pid").display(),
            log = dir.join("nginx.log").display(),
            root = root.display()
        );
        let file = dir.join("nginx.conf");
        std::fs::write(&file, conf).unwrap();
        let child = Command::new("nginx").arg("-c").arg(&file).stderr(Stdio::null()).spawn().unwrap();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        Origin { child, url: format!("http://127.0.0.1:{port}") }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

fn fetch(url: &str) -> pb::TaskSpec {
    let spec = pb::FetchSpec { url: url.to_owned(), ..Default::default() };
    pb::TaskSpec { work: Some(pb::task_spec::Work::Fetch(spec)), ..Default::default() }
}

async fn fill(server: &Server, count: usize, url: &str) -> String {
    fill_job(server, pb::JobSpec { open: true, ..Default::default() }, count, url).await
}

async fn fill_job(server: &Server, spec: pb::JobSpec, count: usize, url: &str) -> String {
    let request = pb::SubmitJobRequest { job: Some(spec), ..Default::default() };
    let id = server.jobs().submit_job(request).await.unwrap().into_inner().job.unwrap().job_id;
    let (job_id, url) = (id.clone(), url.to_owned());
    let chunks = (0..count.div_ceil(CHUNK)).map(move |chunk| pb::AddTasksRequest {
        job_id: job_id.clone(),
        chunk_id: chunk.to_string(),
        tasks: (0..CHUNK.min(count - chunk * CHUNK)).map(|_| fetch(&url)).collect(),
    });
    let mut answers = server.jobs().add_tasks(tokio_stream::iter(chunks)).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    server.jobs().seal_job(pb::SealJobRequest { job_id: id.clone() }).await.unwrap();
    id
}

async fn ended(server: &Server, job_id: &str) -> pb::Job {
    let request = pb::WaitJobRequest { job_id: job_id.to_owned(), timeout: None };
    server.jobs().wait_job(request).await.unwrap().into_inner().job.unwrap()
}

async fn worked(count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start(dir.path());
    let server = Server::start(dir.path(), &["--max-per-host", "64"]).await;
    let started = Instant::now();
    let id = fill(&server, count, &format!("{}/1k", origin.url)).await;
    let job = ended(&server, &id).await;
    let seconds = started.elapsed().as_secs_f64();
    assert_eq!(job.counts.unwrap().succeeded as usize, count);
    let bytes = std::fs::metadata(dir.path().join("data/haul.db")).unwrap().len();
    println!(
        "{:.0} bytes of database a task, body included; peak {:.0} MiB",
        bytes as f64 / count as f64,
        server.peak_mib()
    );
    server.say_costs(count, "task");
    println!("{:.0} us of server CPU a task; {:.0} tasks/s", server.cpu() * 1e6 / count as f64, count as f64 / seconds);
}

async fn submit(count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]).await;
    let rate = submit_rate(&server, count).await;
    server.say_costs(count, "job");
    println!("{:.0} us of server CPU a job; {rate:.0} jobs/s", server.cpu() * 1e6 / count as f64);
}

/// Submits `count` jobs that do not run by 32 callers; gives jobs a second.
async fn submit_rate(server: &Server, count: usize) -> f64 {
    let start_time = Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 });
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..32 {
        let mut jobs = server.jobs();
        callers.spawn(async move {
            for _ in 0..count / 32 {
                let job = pb::JobSpec { tasks: vec![fetch("http://127.0.0.1:2/")], start_time, ..Default::default() };
                let request = pb::SubmitJobRequest { job: Some(job), ..Default::default() };
                jobs.submit_job(request).await.unwrap();
            }
        });
    }
    callers.join_all().await;
    count as f64 / started.elapsed().as_secs_f64()
}

async fn add(count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]).await;
    let rate = add_rate(&server, count).await;
    println!("peak {:.0} MiB", server.peak_mib());
    println!("{:.1} us of server CPU a task; {rate:.0} tasks/s", server.cpu() * 1e6 / count as f64);
}

/// Adds `count` tasks that do not run to a job; gives tasks a second.
async fn add_rate(server: &Server, count: usize) -> f64 {
    let start_time = Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 });
    let started = Instant::now();
    let spec = pb::JobSpec { open: true, start_time, ..Default::default() };
    fill_job(server, spec, count, "http://127.0.0.1:2/").await;
    count as f64 / started.elapsed().as_secs_f64()
}

async fn bulk(count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start(dir.path());
    let mut server = Server::start(dir.path(), &["--max-per-host", "64"]).await;
    let started = Instant::now();
    let id = fill(&server, count, &format!("{}/1k", origin.url)).await;
    let filled = started.elapsed().as_secs_f64();
    let (added, peak) = (count as f64 / filled, server.peak_mib());
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let restarted = Instant::now();
    server = Server::start(dir.path(), &["--max-per-host", "64"]).await;
    let succeeded = async || {
        let request = pb::GetJobRequest { job_id: id.clone(), ..Default::default() };
        server.jobs().get_job(request).await.unwrap().into_inner().job.unwrap().counts.unwrap().succeeded
    };
    let before = succeeded().await;
    let mut first = restarted.elapsed();
    while succeeded().await <= before {
        first = restarted.elapsed();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let running = Instant::now();
    let job = ended(&server, &id).await;
    let left = job.counts.unwrap().succeeded - before;
    println!("{:.0} tasks/s worked after the restart", f64::from(left) / running.elapsed().as_secs_f64());
    println!(
        "first end {:.3} s after the start of the process that followed a kill -9; peak {peak:.0} MiB and {:.0} after it; \
         {added:.0} tasks/s added while they ran",
        first.as_secs_f64(),
        server.peak_mib()
    );
}

async fn latency(count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start(dir.path());
    let server = Server::start(dir.path(), &[]).await;
    let (p50, p99) = latencies(&server, count, &format!("{}/1k", origin.url)).await;
    println!("p50 {p50:.2} ms, p99 {p99:.2} ms");
}

/// Submits `count` jobs of one fetch, one at a time, and watches each; gives the median and the 99th percentile in
/// milliseconds.
async fn latencies(server: &Server, count: usize, url: &str) -> (f64, f64) {
    let mut times = Vec::new();
    for _ in 0..count {
        let started = Instant::now();
        let job = pb::JobSpec { tasks: vec![fetch(url)], ..Default::default() };
        let request = pb::SubmitJobRequest { job: Some(job), ..Default::default() };
        let job_id = server.jobs().submit_job(request).await.unwrap().into_inner().job.unwrap().job_id;
        let request = pb::WatchJobRequest { job_id, after_sequence: Some(0), ..Default::default() };
        let mut events = server.jobs().watch_job(request).await.unwrap().into_inner();
        while !matches!(events.message().await.unwrap().unwrap().event, Some(Event::JobEnded(_))) {}
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    (times[count / 2], times[count * 99 / 100])
}
