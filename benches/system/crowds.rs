//! What much of something does to the rest: queued tasks, a big job beside a small one, a stalled host, watchers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use haul::pb;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;
use tower::Service as _;

use super::Origin;
use super::Server;
use super::ended;
use super::fetch;
use super::fill;
use super::fill_job;

async fn submit(server: &Server, job: pb::JobSpec) -> String {
    let request = pb::SubmitJobRequest { job: Some(job), ..Default::default() };
    server.jobs().submit_job(request).await.unwrap().into_inner().job.unwrap().job_id
}

async fn succeeded(server: &Server, job_id: &str) -> u32 {
    let request = pb::GetJobRequest { job_id: job_id.to_owned(), ..Default::default() };
    server.jobs().get_job(request).await.unwrap().into_inner().job.unwrap().counts.unwrap().succeeded
}

/// How fast tasks end while so many more are queued.
pub(crate) async fn dispatch(count: usize) {
    const SECONDS: u64 = 10;
    let mut rates = Vec::new();
    for queued in [1_000, count] {
        let dir = tempfile::tempdir().unwrap();
        let origin = Origin::start(dir.path());
        let server = Server::start(dir.path(), &["--max-per-host", "64"]).await;
        let url = format!("{}/1k", origin.url);
        // Paused, so that all of it is queued before it begins.
        let id = submit(&server, pb::JobSpec { open: true, ..Default::default() }).await;
        server.jobs().pause_job(pb::PauseJobRequest { job_id: id.clone() }).await.unwrap();
        let id = if queued > 1_000 { grow(&server, id, queued, &url).await } else { id };
        server.jobs().resume_job(pb::ResumeJobRequest { job_id: id.clone() }).await.unwrap();
        let (started, cpu) = (Instant::now(), server.cpu());
        let done = if queued > 1_000 {
            let before = succeeded(&server, &id).await;
            tokio::time::sleep(Duration::from_secs(SECONDS)).await;
            f64::from(succeeded(&server, &id).await - before)
        } else {
            // A thousand are gone at once: as many jobs of a thousand as the time takes, two at a time.
            let mut done = 0;
            let mut jobs = JoinSet::new();
            for _ in 0..2 {
                let mut client = server.jobs();
                let url = url.clone();
                jobs.spawn(async move {
                    let mut done = 0;
                    while started.elapsed() < Duration::from_secs(SECONDS) {
                        let job =
                            pb::JobSpec { tasks: (0..1_000).map(|_| fetch(&url)).collect(), ..Default::default() };
                        let request = pb::SubmitJobRequest { job: Some(job), ..Default::default() };
                        let job = client.submit_job(request).await.unwrap().into_inner().job.unwrap();
                        let request = pb::WaitJobRequest { job_id: job.job_id, timeout: None };
                        client.wait_job(request).await.unwrap();
                        done += 1_000;
                    }
                    done
                });
            }
            while let Some(count) = jobs.join_next().await {
                done += count.unwrap();
            }
            f64::from(done)
        };
        let rate = done / started.elapsed().as_secs_f64();
        let cpu = (server.cpu() - cpu) * 1e6 / done;
        println!(
            "{queued} queued: {rate:.0} tasks/s, {cpu:.0} us of server CPU each, peak {:.0} MiB",
            server.peak_mib()
        );
        rates.push(rate);
    }
    println!("{:.2} of the rate with 1,000 queued", rates[1] / rates[0]);
}

async fn grow(server: &Server, id: String, count: usize, url: &str) -> String {
    let (job_id, url) = (id.clone(), url.to_owned());
    let chunks = (0..count / crate::CHUNK).map(move |chunk| pb::AddTasksRequest {
        job_id: job_id.clone(),
        chunk_id: chunk.to_string(),
        tasks: (0..crate::CHUNK).map(|_| fetch(&url)).collect(),
    });
    let mut answers = server.jobs().add_tasks(tokio_stream::iter(chunks)).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    id
}

/// A small job beside a big one, and good hosts beside one that answers nothing. Under the default limits: with more
/// requests to a host at once, the big job takes all of a small machine, and the small one waits for the processor.
pub(crate) async fn beside(count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start(dir.path());
    let server = Server::start(dir.path(), &[]).await;
    let url = format!("{}/1k", origin.url);
    let small = async || {
        let started = Instant::now();
        let job = pb::JobSpec { tasks: (0..10).map(|_| fetch(&url)).collect(), ..Default::default() };
        let id = submit(&server, job).await;
        ended(&server, &id).await;
        started.elapsed().as_secs_f64() * 1e3
    };
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let mut alone = Vec::new();
    for _ in 0..50 {
        alone.push(small().await);
    }
    let mut big = fill(&server, count, &url).await;
    let mut crowded = Vec::new();
    while crowded.len() < 50 {
        let time = small().await;
        if succeeded(&server, &big).await as usize == count {
            // It ended first, so this was not, or not wholly, beside it: another one follows.
            big = fill(&server, count, &url).await;
        } else {
            crowded.push(time);
        }
    }
    let (alone, crowded) = (median(alone), median(crowded));
    println!("a job of 10 tasks: {alone:.2} ms alone, {crowded:.2} ms beside {count} tasks: {:.2} x", crowded / alone);
    server.jobs().cancel_job(pb::CancelJobRequest { job_id: big, reason: String::new() }).await.unwrap();

    let worked = async || {
        let started = Instant::now();
        let id = fill(&server, 20_000, &url).await;
        ended(&server, &id).await;
        20_000.0 / started.elapsed().as_secs_f64()
    };
    let before = worked().await.max(worked().await);
    // A listener that accepts and says nothing.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stalled = format!("http://{}/", deaf.local_addr().unwrap());
    let stalled = fill_job(&server, pb::JobSpec { open: true, ..Default::default() }, 10_000, &stalled).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = worked().await.max(worked().await);
    println!("other hosts beside a stalled one: {after:.0} of {before:.0} tasks/s");
    server.jobs().cancel_job(pb::CancelJobRequest { job_id: stalled, reason: String::new() }).await.unwrap();
    println!("{:.2} x the time alone; {:.2} of the rate", crowded / alone, after / before);
}

/// What watching costs the server.
pub(crate) async fn watchers(count: usize) {
    const SECONDS: u64 = 10;
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start(dir.path());
    let server = Server::start(dir.path(), &["--max-per-host", "64"]).await;
    let url = format!("{}/1k", origin.url);
    // A busy job of 1,000 events a second.
    let rate_limit = Some(pb::RateLimit { requests_per_second: 1_000.0, burst: 1, bytes_per_second: 0 });
    let spec = pb::JobSpec { open: true, rate_limit, ..Default::default() };
    let busy = fill_job(&server, spec, 1_000 * SECONDS as usize * 4, &url).await;
    let measure = async || {
        let cpu = server.cpu();
        tokio::time::sleep(Duration::from_secs(SECONDS)).await;
        (server.cpu() - cpu) * 100.0 / SECONDS as f64
    };
    let alone = measure().await;
    let idle = submit(&server, pb::JobSpec { open: true, ..Default::default() }).await;
    let before = server.rss_kib();
    let mut readers = JoinSet::new();
    let seen = Arc::new(AtomicU64::new(0));
    for _ in 0..count {
        readers.spawn(watch(&server, idle.clone(), seen.clone()).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let each = (server.rss_kib() - before) / count as f64;
    readers.shutdown().await;
    for _ in 0..count {
        readers.spawn(watch(&server, busy.clone(), seen.clone()).await);
    }
    let before = seen.load(Ordering::Relaxed);
    let watched = measure().await;
    let each_second = (seen.load(Ordering::Relaxed) - before) as f64 / SECONDS as f64 / count as f64;
    // On a busy machine fewer tasks end, and so fewer messages are sent: the cost of one says more there than a share of a core.
    let each_message = (watched - alone) * 1e4 / (each_second * count as f64);
    println!("{each_second:.0} messages a second for each watcher; {each_message:.3} us of server CPU each");
    println!(
        "busy job alone {alone:.0} % of a core, with {count} watchers {watched:.0} %; an idle watcher {each:.1} KiB"
    );
    println!("{:.1} % of a core for {count} watchers; {each:.1} KiB an idle one", watched - alone);
}

/// What connections of HTTP/2 take that say nothing after their first bytes.
pub(crate) async fn idle(count: usize) {
    let dir = tempfile::tempdir().unwrap();
    // The server raises its own limit, and this process has as many of them.
    let most = haul::listen::descriptors::raise().map_or(count, |limit| limit as usize / 2);
    let count = count.min(most);
    let places = (count + 100).to_string();
    let server = Server::start(dir.path(), &["--max-connections", &places]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = server.rss_kib();
    let mut silent = Vec::new();
    for _ in 0..count {
        let mut stream = tokio::net::TcpStream::connect(&server.address).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        silent.push(stream);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("{:.1} KiB a connection, {count} of them", (server.rss_kib() - before) / count as f64);
}

/// Follows a job to its end and counts the messages. They are not read beyond their lengths: what is measured is the server, and
/// a client that makes something of a million messages a second would take the processor from it.
async fn watch(server: &Server, job_id: String, count: Arc<AtomicU64>) -> impl Future<Output = ()> + Send + 'static {
    let message = pb::WatchJobRequest { job_id, ..Default::default() }.encode_to_vec();
    let mut framed = vec![0];
    framed.extend((message.len() as u32).to_be_bytes());
    framed.extend(message);
    let request = http::Request::post("http://haul/haul.v1.JobService/WatchJob")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(Full::new(Bytes::from(framed)).map_err(|never| match never {})))
        .unwrap();
    let mut channel = server.channel.clone();
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
    let mut body = channel.call(request).await.unwrap().into_body();
    async move {
        let mut lengths = Lengths::default();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.unwrap().into_data() else { break };
            count.fetch_add(lengths.take(&data), Ordering::Relaxed);
        }
    }
}

/// Finds where messages end in the bytes of a stream.
#[derive(Default)]
struct Lengths {
    /// What has come of the five bytes before a message.
    head: Vec<u8>,
    /// How many bytes of a message are still to come.
    left: usize,
}

impl Lengths {
    /// Takes the next bytes; gives how many messages ended within.
    fn take(&mut self, mut data: &[u8]) -> u64 {
        let mut ended = 0;
        while !data.is_empty() {
            if self.left == 0 {
                let (head, rest) = data.split_at(data.len().min(5 - self.head.len()));
                self.head.extend(head);
                data = rest;
                let Some(length) = self.head.get(1..5) else { continue };
                self.left = u32::from_be_bytes(length.try_into().unwrap()) as usize;
                self.head.clear();
            }
            let taken = data.len().min(self.left);
            self.left -= taken;
            data = &data[taken..];
            ended += u64::from(self.left == 0);
        }
        ended
    }
}
