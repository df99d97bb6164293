//! What the system grants a server: few descriptors, under peers that say nothing and messages that never end; small files; and no core dump.

use std::net::Ipv4Addr;

use bytes::Bytes;
use haul::pb;
use haul::pb::job_service_client::JobServiceClient;
use haul::pb::{FailureReason, JobState, RetryPolicy, TaskOptions};
use rustix::process::{Pid, Resource, Rlimit};
use tokio::net::TcpStream;
use tonic::transport::Channel;

use crate::it::network::{begin, h2_connection};
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{PATIENCE, Server, command, limited, until};
use crate::support::spec::{download, fetch, job};

const DESCRIPTORS: u32 = 256;
const FILE_BYTES: u64 = 8 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn silent_peers_keep_nobody_out_of_a_server_with_few_descriptors() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    server.limit_descriptors(DESCRIPTORS).await;
    origin.reply("/x", Reply::ok("fine"));
    let mut silent = Vec::new();
    for _ in 0..2 * DESCRIPTORS {
        silent.push(TcpStream::connect(&server.address).await.unwrap());
    }
    let good = async {
        let address = format!("http://{}", server.address);
        for _ in 0..20 {
            let channel = Channel::from_shared(address.clone()).unwrap().connect().await.unwrap();
            JobServiceClient::new(channel).list_jobs(pb::ListJobsRequest::default()).await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, good).await.expect("whoever calls is served");
    // There is room for files and for connections to origins.
    let ended = server.run(job((0..40).map(|_| fetch(origin.url("/x"))).collect())).await;
    assert_eq!(ended.state(), JobState::Succeeded, "{ended:?}");
    drop(silent);

    let before = server.peak_memory();
    let (sender, _connection) = h2_connection(&server).await;
    let (mut unended, half) = (Vec::new(), Bytes::from(vec![0; 8 << 20]));
    for _ in 0..50 {
        let (answer, mut body) = begin(&sender, &server, "SubmitJob", 15 << 20).await;
        // What there is no room for is refused at its head.
        let _ = body.send_data(half.clone(), false);
        unended.push((answer, body));
    }
    let list = server.jobs().list_jobs(pb::ListJobsRequest::default()).await;
    list.expect("another connection has a share of its own");
    let more = server.peak_memory() - before;
    assert!(more < 200 << 20, "{more} bytes for messages that never end");
    drop(unended);
    let loud = server.log().lines().filter(|line| line.contains("descriptors")).count();
    assert!(loud < 20, "{}", server.log());
}

/// Silent connections have a part of what the server itself leaves, so that accepting another one never fails.
#[tokio::test(flavor = "multi_thread")]
async fn silent_peers_keep_nobody_out_of_a_server_with_hardly_any_descriptors() {
    let mut server = Server::start().await;
    let most = open_files(server.pid()) + 40;
    server.limit_descriptors(most).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(&server.address).await.unwrap());
    }
    let good = async {
        for _ in 0..20 {
            let channel = Channel::from_shared(format!("http://{}", server.address)).unwrap().connect().await.unwrap();
            JobServiceClient::new(channel).list_jobs(pb::ListJobsRequest::default()).await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, good).await.expect("whoever calls is served");
    assert!(!server.log().contains("cannot be accepted"), "{}", server.log());
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_no_descriptors_for_clients_is_refused_with_words() {
    let server = Server::start().await;
    let most = open_files(server.pid()) + 4;
    let dir = tempfile::tempdir().unwrap();
    let refused = limited(&command(dir.path(), &[]), most).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(refused.stdout.is_empty() && said.contains("`ulimit -n`"), "{said}");
}

/// A crawl: connections to hosts that are done with are kept for a while, and take no descriptors from the next ones.
#[tokio::test(flavor = "multi_thread")]
async fn many_hosts_are_fetched_from_with_few_descriptors() {
    let mut server = Server::start().await;
    let origin = Origin::start_on(Ipv4Addr::UNSPECIFIED);
    server.limit_descriptors(DESCRIPTORS).await;
    origin.reply("/x", Reply::ok("fine"));
    let port = origin.address().port();
    let at = |n: u32| fetch(format!("http://127.1.{}.{}:{port}/x", n / 200, n % 200 + 1));
    let once = RetryPolicy { max_attempts: Some(1), ..RetryPolicy::default() };
    let mut crawl = job((0..3 * DESCRIPTORS).map(at).collect());
    crawl.defaults = Some(TaskOptions { retry: Some(once), ..TaskOptions::default() });
    let ended = server.run(crawl).await;
    assert_eq!(ended.state(), JobState::Succeeded, "{ended:?}");
    assert!(open_files(server.pid()) < DESCRIPTORS / 2, "{}", open_files(server.pid()));
    // Whoever calls now is served, too.
    let address = format!("http://{}", server.address);
    let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
    JobServiceClient::new(channel).list_jobs(pb::ListJobsRequest::default()).await.unwrap();
}

/// Limits beyond what there may be of descriptors leave some to whoever calls, who may be about to take these limits back.
#[tokio::test(flavor = "multi_thread")]
async fn limits_beyond_the_descriptors_keep_nobody_out() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    server.limit_descriptors(DESCRIPTORS).await;
    let many = 1_000_000;
    let limits = pb::Limits { max_concurrent_tasks: many, max_per_host: many, ..Default::default() };
    let paths = ["max_concurrent_tasks", "max_per_host"].map(str::to_owned).into();
    let request = pb::UpdateLimitsRequest { limits: Some(limits), update_mask: Some(prost_types::FieldMask { paths }) };
    server.admin().update_limits(request).await.unwrap();
    origin.reply("/hangs", Reply::hang());
    let id = server.submit(job(vec![fetch(origin.url("/hangs")); 2 * DESCRIPTORS as usize])).await;
    let running = DESCRIPTORS / 8;
    until(async || server.job(&id).await.counts.unwrap().running == running).await;
    until(async || origin.requests("/hangs").len() == running as usize).await;
    let channel = Channel::from_shared(format!("http://{}", server.address)).unwrap().connect().await.unwrap();
    JobServiceClient::new(channel).list_jobs(pb::ListJobsRequest::default()).await.unwrap();
    let counts = server.job(&id).await.counts.unwrap();
    assert_eq!((counts.running, counts.failed, counts.backing_off), (running, 0, 0), "{counts:?}");
    let warned = format!("max_concurrent_tasks is {many}, and {running} tasks run at once");
    assert!(server.log().contains(&warned), "{}", server.log());
}

/// How many descriptors a server has open.
fn open_files(pid: u32) -> u32 {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count().try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_leaves_no_core_dump() {
    let server = Server::start().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    // Soft and hard: nobody raises it again.
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
}

/// As `LimitFSIZE=` of a service. The signal that comes with it is no way to end.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_larger_than_files_may_be_is_a_failure_of_its_task() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    let (pid, most) = (Pid::from_raw(server.pid().try_into().unwrap()), Some(FILE_BYTES));
    rustix::process::prlimit(pid, Resource::Fsize, Rlimit { current: most, maximum: most }).unwrap();
    origin.reply("/large", Reply::ok(vec![7; FILE_BYTES as usize + 1]));
    origin.reply("/small", Reply::ok("fine"));
    let ended = server.run(job(vec![download(origin.url("/large"))])).await;
    let failure = ended.failure.clone().unwrap();
    assert_eq!((ended.state(), failure.reason()), (JobState::Failed, FailureReason::Io), "{failure:?}");
    let ended = server.run(job(vec![download(origin.url("/small"))])).await;
    assert_eq!(ended.state(), JobState::Succeeded, "{ended:?}");
    assert!(server.terminate().success(), "{}", server.log());
}
