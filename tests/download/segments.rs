//! Several connections for one file.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use haul::download::Settings;
use haul::model::checksum::Algorithm;
use haul::model::failure::{Failure, FailureReason};
use haul::model::outcome::AttemptEnd;
use haul::model::spec::DownloadSpec;
use haul::net::{Body, BodySource, Permit, Profile, Request, Response, Transport};
use http::{HeaderMap, StatusCode};
use url::Url;

use super::rig::{Rig, checksum};
use super::support::object::Object;
use super::support::origin::Origin;
use super::support::reply::{Cut, Reply};

const SIZE: u64 = 400_000;

#[tokio::test]
async fn share_the_work() {
    let object = Object::new(1, SIZE);
    let rig = Rig::new();
    rig.origin.object("/f", object.clone());
    rig.origin.limit_connections(400_000);
    let mut spec = rig.spec("/f");
    spec.max_connections = 8;
    spec.checksums = vec![checksum(Algorithm::Sha256, &object.bytes())];
    let (result, report) = rig.done(&spec).await;
    assert_eq!(rig.read("job/f"), object.bytes());
    assert_eq!(result.connections, 8);
    assert!(report.bytes < SIZE * 2, "{report:?}");
    let requests = rig.origin.requests("/f");
    assert!(requests.len() >= 8, "one for each connection");
    assert!(requests[1..].iter().all(|request| request.header("if-range") == Some("\"1-61a80\"")));
}

#[tokio::test]
async fn a_slow_one_does_not_hold_the_file() {
    let object = Object::new(1, SIZE);
    let mut rig = Rig::new();
    // The attempt waits for ever for one that stalls: only the others can end it.
    std::sync::Arc::make_mut(&mut rig.profile).timeouts.idle = Duration::ZERO;
    let slow = object.clone();
    rig.origin.handle("/f", move |request| {
        let reply = slow.respond(request).bytes_per_second(400_000);
        if request.nth == 2 { reply.stall_at(2_000) } else { reply }
    });
    let mut spec = rig.spec("/f");
    spec.max_connections = 4;
    rig.done(&spec).await;
    assert_eq!(rig.read("job/f"), object.bytes());
}

#[tokio::test]
async fn failed_ones_are_replaced() {
    let object = Object::new(1, SIZE);
    let rig = Rig::new();
    let flaky = object.clone();
    rig.origin.handle("/f", move |request| {
        let reply = flaky.respond(request).bytes_per_second(400_000);
        match request.nth {
            1 => reply.cut_at(10_000, Cut::Reset),
            2 => Reply::status(503),
            3 => reply.stall_at(5_000),
            _ => reply,
        }
    });
    let mut spec = rig.spec("/f");
    spec.max_connections = 4;
    rig.done(&spec).await;
    assert_eq!(rig.read("job/f"), object.bytes());
    let whole = rig.ranges("/f").iter().filter(|range| *range == "-").count();
    assert_eq!(whole, 1, "nothing was started over");
}

#[tokio::test]
async fn fall_back_to_one_where_ranges_fail() {
    let object = Object::new(1, SIZE);
    for lie in 0..3 {
        let rig = Rig::new();
        let object = object.clone();
        let served = object.clone();
        rig.origin.handle("/f", move |request| {
            let whole = served.clone().no_ranges().respond(request).bytes_per_second(1_000_000);
            match (request.header("range"), lie) {
                (None, _) | (_, 0) => whole,
                (_, 1) => Reply::status(206).body(served.slice(0..1000)),
                _ => Reply::ok("<html>").header("Content-Type", "text/html"),
            }
        });
        let mut spec = rig.spec("/f");
        spec.max_connections = 4;
        if lie == 2 {
            rig.origin.limit_connections(1_000_000);
        }
        let (result, _) = rig.done(&spec).await;
        assert_eq!(rig.read("job/f"), object.bytes());
        assert_eq!(result.connections, 1);
    }
}

#[tokio::test]
async fn are_all_of_one_version() {
    // The object changes once the first connection runs: nothing of the new version may get in.
    let rig = Rig::new();
    let (old, new) = (Object::new(1, SIZE), Object::new(2, SIZE));
    let (first, later) = (old.clone(), new.clone());
    rig.origin.handle("/f", move |request| {
        let reply = if request.nth == 0 { first.respond(request) } else { later.respond(request) };
        reply.bytes_per_second(2_000_000)
    });
    let mut spec = rig.spec("/f");
    spec.max_connections = 4;
    rig.done(&spec).await;
    assert_eq!(rig.read("job/f"), old.bytes());

    // Cut short, the attempt fails, and the next one has the new version whole.
    let rig = Rig::new();
    let (first, later) = (old.clone(), new.clone());
    rig.origin.handle("/f", move |request| {
        if request.nth == 0 { first.respond(request).cut_at(50_000, Cut::Fin) } else { later.respond(request) }
    });
    let mut spec = rig.spec("/f");
    spec.max_connections = 4;
    let (failure, _) = rig.failed(&spec).await;
    assert!(failure.retryable, "{failure}");
    let (_, report) = rig.done(&spec).await;
    assert_eq!(rig.read("job/f"), new.bytes());
    assert_eq!(report.resume, "restarted: content changed");
}

#[tokio::test]
async fn resume_with_gaps() {
    let object = Object::new(1, SIZE);
    let rig = Rig::new();
    let broken = object.clone();
    rig.origin.handle("/f", move |request| {
        let reply = broken.respond(request).bytes_per_second(1_000_000);
        if request.nth < 4 { reply.cut_at(30_000, Cut::Reset) } else { Reply::status(500) }
    });
    let mut spec = rig.spec("/f");
    spec.max_connections = 4;
    assert!(rig.failed(&spec).await.0.retryable);
    rig.origin.object("/f", object.clone());
    rig.origin.limit_connections(1_000_000);
    let (result, report) = rig.done(&spec).await;
    assert_eq!(rig.read("job/f"), object.bytes());
    assert!(result.resumed_bytes > 30_000, "{result:?}");
    // What was held is not asked for again; what a connection had in flight when its range was split may come twice.
    assert!(report.bytes < SIZE - result.resumed_bytes / 2, "{report:?} {result:?}");

    // The same, with an origin that ignores ranges now.
    let rig = Rig::new();
    let broken = object.clone();
    rig.origin.handle("/f", move |request| {
        let reply = broken.respond(request).bytes_per_second(1_000_000);
        if request.nth < 4 { reply.cut_at(30_000, Cut::Reset) } else { Reply::status(500) }
    });
    let spec = haul::model::spec::DownloadSpec { max_connections: 4, ..rig.spec("/f") };
    rig.failed(&spec).await;
    rig.origin.object("/f", object.clone().no_ranges());
    rig.done(&spec).await;
    assert_eq!(rig.read("job/f"), object.bytes());
}

#[tokio::test]
async fn come_by_themselves_for_what_is_large_and_slow() {
    let object = Object::new(1, 4_000_000);
    let mut rig = Rig::new();
    rig.settings =
        Settings { segmented_from_bytes: 1_000_000, grow_after: Duration::from_millis(50), ..rig.settings.clone() };
    rig.origin.object("/f", object.clone());
    let (result, _) = rig.done(&rig.spec("/f")).await;
    assert_eq!(result.connections, 1, "fast enough alone");
    rig.origin.limit_connections(1_000_000);
    let (result, _) = rig.done(&haul::model::spec::DownloadSpec { path: "g".into(), ..rig.spec("/f") }).await;
    assert!(result.connections > 1);
    assert_eq!(rig.read("job/g"), object.bytes());
}

#[tokio::test]
async fn come_from_mirrors_where_a_digest_vouches() {
    let object = Object::new(1, SIZE);
    let rig = Rig::new();
    let mirror = Origin::start();
    rig.origin.object("/f", object.clone());
    rig.origin.limit_connections(400_000);
    mirror.object("/m", object.clone());
    mirror.limit_connections(400_000);
    let mut spec = rig.spec("/f");
    spec.mirrors = vec![mirror.url("/m")];
    spec.max_connections = 4;
    // Equal validators of another server prove nothing, so that it is not even asked.
    rig.done(&spec).await;
    assert_eq!(rig.read("job/f"), object.bytes());
    assert!(mirror.requests("/m").is_empty());

    // One of another size brings nothing, and is asked once.
    spec.checksums = vec![checksum(Algorithm::Sha1, &object.bytes())];
    mirror.object("/m", Object::new(2, SIZE + 1));
    spec.path = "g".into();
    let asked = mirror.requests("/m").len();
    rig.done(&spec).await;
    assert_eq!(rig.read("job/g"), object.bytes());
    assert!(mirror.requests("/m").len() <= asked + 4, "at most once by each connection");

    // One with validators of its own brings bytes where a digest will be checked, and its own validators are not lied to.
    let modified = "Mon, 02 Jan 2023 10:00:00 GMT";
    mirror.object("/m", object.clone().etag("\"of the mirror\"").last_modified(modified));
    let (before, asked) = (mirror.body_bytes(), mirror.requests("/m").len());
    spec.path = "h".into();
    rig.done(&spec).await;
    assert_eq!(rig.read("job/h"), object.bytes());
    assert!(mirror.body_bytes() > before + 10_000);
    assert!(mirror.requests("/m")[asked..].iter().all(|request| request.header("if-range").is_none()));
}

#[tokio::test]
async fn a_mirror_goes_on_where_the_first_source_broke_off() {
    let object = Object::new(1, SIZE);
    let elsewhere = object.clone().etag("\"of the mirror\"").last_modified("Mon, 02 Jan 2023 10:00:00 GMT");
    for has_digest in [true, false] {
        let rig = Rig::new();
        let broken = object.clone();
        rig.origin.handle("/f", move |request| match request.nth {
            0 => broken.respond(request).cut_at(200_000, Cut::Fin),
            _ => Reply::status(503),
        });
        rig.origin.object("/m", elsewhere.clone());
        let mut spec = rig.spec("/f");
        spec.mirrors = vec![rig.origin.url("/m")];
        spec.max_connections = 1;
        if has_digest {
            spec.checksums = vec![checksum(Algorithm::Sha256, &object.bytes())];
        }
        if !has_digest {
            // What it brought is kept for it, until it has nothing more to bring.
            rig.failed(&spec).await;
        }
        let (result, report) = rig.done(&spec).await;
        assert_eq!(rig.read("job/f"), object.bytes());
        assert!(result.final_url.ends_with("/m"));
        // Without a digest nothing says that the two are of one version.
        let resumed = if has_digest { 200_000 } else { 0 };
        assert_eq!((result.resumed_bytes, report.resumed_from), (resumed, resumed));
    }

    // What two sources made together and is wrong is fetched once more from the start, where the first may not come back.
    let mut rig = Rig::new();
    rig.is_last = true;
    let wrong = Object::new(9, SIZE);
    rig.origin.handle("/f", move |request| match request.nth {
        0 => wrong.respond(request).cut_at(200_000, Cut::Fin),
        _ => Reply::status(503),
    });
    rig.origin.object("/m", elsewhere);
    let mut spec = rig.spec("/f");
    spec.mirrors = vec![rig.origin.url("/m")];
    spec.max_connections = 1;
    spec.checksums = vec![checksum(Algorithm::Sha256, &object.bytes())];
    let (result, report) = rig.done(&spec).await;
    assert_eq!(rig.read("job/f"), object.bytes());
    assert_eq!((result.resumed_bytes, report.resume.as_str()), (0, "restarted: the checksum did not match"));
}

#[tokio::test]
async fn digests_of_what_comes_out_of_order() {
    // Large enough to be hashed behind the connections, and not only at the end.
    let object = Object::new(5, 40 << 20);
    let mut rig = Rig::new();
    rig.settings.segment_bytes_min = 1 << 20;
    rig.origin.object("/f", object.clone());
    rig.origin.limit_connections(60_000_000);
    let mut spec = rig.spec("/f");
    spec.max_connections = 4;
    spec.checksums = vec![checksum(Algorithm::Sha256, &object.bytes())];
    spec.digests = vec![Algorithm::Blake3];
    let (result, _) = rig.done(&spec).await;
    assert_eq!(result.checksums, [Algorithm::Sha256, Algorithm::Blake3].map(|of| checksum(of, &object.bytes())));
    assert_eq!(rig.read("job/f"), object.bytes());
}

/// Each source cuts its answers short, and without a digest none can go on with what another brought.
#[tokio::test]
async fn what_a_source_brought_is_not_dropped_for_another() {
    const SIZE: u64 = 100_000;
    let rig = Rig::new();
    let object = Object::new(1, SIZE);
    for (path, most) in [("/f", 30_000), ("/m", 1_000)] {
        let object = object.clone();
        rig.origin.handle(path, move |request| object.respond(request).cut_at(most, Cut::Fin));
    }
    let spec = DownloadSpec { mirrors: vec![rig.origin.url("/m")], ..rig.spec("/f") };
    for _ in 0..3 {
        rig.failed(&spec).await;
    }
    let (result, _) = rig.done(&spec).await;
    assert_eq!((result.resumed_bytes, rig.read("job/f")), (90_000, object.bytes()));
    assert!(rig.origin.requests("/m").is_empty());
}

#[tokio::test]
async fn a_derived_name_is_that_of_the_url_whoever_serves() {
    let rig = Rig::new();
    rig.origin.reply("/file.iso", Reply::status(503));
    rig.origin.object("/get/7", Object::new(1, 1000));
    let spec = DownloadSpec { path: String::new(), mirrors: vec![rig.origin.url("/get/7")], ..rig.spec("/file.iso") };
    assert_eq!(rig.done(&spec).await.0.path, "job/file.iso");
}

#[tokio::test]
async fn bad_mirrors_are_left_for_the_next() {
    let object = Object::new(1, SIZE);
    let rig = Rig::new();
    rig.origin.reply("/gone", Reply::status(404));
    rig.origin.object("/wrong", Object::new(3, SIZE));
    rig.origin.object("/short", Object::new(1, SIZE - 1));
    rig.origin.object("/good", object.clone());
    let dead = "http://127.0.0.1:2/f".to_owned();
    let mut spec = rig.spec("/gone");
    spec.mirrors = vec![dead, rig.origin.url("/short"), rig.origin.url("/wrong"), rig.origin.url("/good")];
    spec.expected_bytes = Some(SIZE);
    spec.checksums = vec![checksum(Algorithm::Blake3, &object.bytes())];
    let (result, _) = rig.done(&spec).await;
    assert_eq!(rig.read("job/f"), object.bytes());
    assert!(result.final_url.ends_with("/good"));

    spec.mirrors.pop();
    spec.path = "g".into();
    let (failure, _) = rig.failed(&spec).await;
    assert!(failure.retryable, "the dead one may come back: {failure}");
    spec.mirrors = vec![rig.origin.url("/wrong")];
    assert_eq!(rig.failed(&spec).await.0.reason, FailureReason::ChecksumMismatch);
    assert_eq!(rig.listing(), ["job", "job/f"]);
}

const PIECE: u64 = 15_000;

/// A network over which the first answer stalls after its first bytes, the second one is a long time coming, and so is the third
/// permit, which is there a moment after the second answer. Then all the bytes come.
#[derive(Default)]
struct Slow {
    asked: Mutex<Vec<String>>,
    permits: AtomicUsize,
}

struct Chunks(Vec<(u64, Bytes)>);

impl BodySource for Chunks {
    fn chunk(&mut self) -> BoxFuture<'_, Option<Result<Bytes, Failure>>> {
        Box::pin(async move {
            let (wait, bytes) = self.0.pop()?;
            tokio::time::sleep(Duration::from_millis(wait)).await;
            Some(Ok(bytes))
        })
    }
}

impl Transport for Slow {
    fn send<'a>(&'a self, request: Request, _: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        Box::pin(async move {
            let range = request.headers.get("range").map_or("-", |range| range.to_str().unwrap()).to_owned();
            let nth = {
                let mut asked = self.asked.lock().unwrap();
                asked.push(range.clone());
                asked.len() - 1
            };
            let first: u64 =
                range.strip_prefix("bytes=").map_or(0, |it| it.split('-').next().unwrap().parse().unwrap());
            let bytes = Bytes::from(Object::new(1, 3 * PIECE).slice(first..3 * PIECE));
            let mut head = Response {
                status: StatusCode::OK,
                headers: HeaderMap::new(),
                url: request.url.clone(),
                remote: None,
                body: Body(Box::new(Chunks(vec![(1200, bytes.slice(1000..)), (0, bytes.slice(..1000))]))),
            };
            let mut put = |name: &'static str, value: String| head.headers.insert(name, value.parse().unwrap());
            put("etag", "\"x\"".to_owned());
            put("accept-ranges", "bytes".to_owned());
            put("content-length", bytes.len().to_string());
            if nth > 0 {
                put("content-range", format!("bytes {first}-{}/{}", 3 * PIECE - 1, 3 * PIECE));
                head.status = StatusCode::PARTIAL_CONTENT;
                head.body = Body(Box::new(Chunks(vec![(200, bytes)])));
                tokio::time::sleep(Duration::from_millis(1000)).await;
            }
            Ok(head)
        })
    }

    fn permit<'a>(&'a self, _: &'a Url) -> BoxFuture<'a, Result<Permit, Failure>> {
        Box::pin(async move {
            let wait = [10, 20, 580, 10][self.permits.fetch_add(1, Ordering::SeqCst).min(3)];
            tokio::time::sleep(Duration::from_millis(wait)).await;
            Ok(Permit::default())
        })
    }
}

/// Others that were late when a permit was asked for have answered by the time it is there.
#[tokio::test(start_paused = true)]
async fn what_came_while_a_permit_was_waited_for_is_not_asked_for_again() {
    let mut rig = Rig::new();
    rig.settings.segment_bytes_min = PIECE;
    rig.settings.race_after = Duration::from_millis(500);
    let mut spec = rig.spec("/f");
    spec.max_connections = 3;
    let network = Slow::default();
    let (end, report) = rig.attempt_through(&network, &rig.key, &spec).await;
    assert!(matches!(end, AttemptEnd::Done(_)), "{end:?} {report:?}");
    assert_eq!(rig.read("job/f"), Object::new(1, 3 * PIECE).bytes());
    assert!(network.permits.load(Ordering::SeqCst) >= 3, "one was waited for");
    assert_eq!(*network.asked.lock().unwrap(), ["-", "bytes=30000-"]);
}

/// Whether an origin has ranges that does not say so is found out by one connection, and not by each of them twice.
#[tokio::test]
async fn an_origin_without_ranges_is_asked_for_one_range_at_most() {
    for has_tag in [true, false] {
        let (rig, object) = (Rig::new(), Object::new(1, 3_000_000).no_ranges());
        let object = if has_tag { object } else { object.no_etag().no_last_modified() };
        let served = object.clone();
        rig.origin.handle("/f", move |request| served.respond(request).bytes_per_second(20_000_000));
        let spec = DownloadSpec {
            max_connections: 4,
            checksums: vec![checksum(Algorithm::Sha256, &object.bytes())],
            ..rig.spec("/f")
        };
        rig.done(&spec).await;
        assert_eq!(rig.read("job/f"), object.bytes());
        let asked = rig.ranges("/f");
        assert!(asked.len() <= 2, "{asked:?}");
    }
}

/// A network over which the head of the second range never comes. The third request races that, has its head, and stalls until it is
/// cut. The first answer comes to those bytes meanwhile.
#[derive(Default)]
struct Overtaken(Mutex<Vec<String>>);

/// Chunks, each of which comes so many milliseconds after the one before it; then the end of the connection.
struct Cuts(std::collections::VecDeque<(u64, Bytes)>);

impl BodySource for Cuts {
    fn chunk(&mut self) -> BoxFuture<'_, Option<Result<Bytes, Failure>>> {
        Box::pin(async move {
            let (wait, bytes) = self.0.pop_front().unwrap_or_default();
            tokio::time::sleep(Duration::from_millis(wait)).await;
            let cut = Failure::retryable(FailureReason::Truncated, "scripted");
            Some(if bytes.is_empty() { Err(cut) } else { Ok(bytes) })
        })
    }
}

impl Transport for Overtaken {
    fn send<'a>(&'a self, request: Request, _: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        Box::pin(async move {
            let asked = request.headers.get("range").map_or("-", |range| range.to_str().unwrap()).to_owned();
            let nth = {
                let mut all = self.0.lock().unwrap();
                all.push(asked.clone());
                all.len() - 1
            };
            let range = asked.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
            let number = |text: &str| text.parse::<u64>().ok();
            let (first, end) = range.map_or((0, 3 * PIECE), |(first, last)| {
                (number(first).unwrap(), number(last).map_or(3 * PIECE, |last| last + 1))
            });
            let (object, wait) = (Object::new(1, 3 * PIECE), if nth == 2 { 100_000 } else { 0 });
            let bytes = |range: std::ops::Range<u64>| Bytes::from(object.slice(range));
            let chunks = match nth {
                0 => vec![
                    (10, bytes(0..1_000)),
                    (690, bytes(1_000..20_000)),
                    (2_300, bytes(20_000..30_000)),
                    (60_000, bytes(30_000..3 * PIECE)),
                ],
                3 => vec![(2_680, Bytes::new())],
                _ => vec![(10, bytes(first..end))],
            };
            let mut headers = HeaderMap::new();
            let mut put = |name: &'static str, value: String| headers.insert(name, value.parse().unwrap());
            put("etag", "\"x\"".to_owned());
            put("accept-ranges", "bytes".to_owned());
            put("content-length", (end - first).to_string());
            if nth > 0 {
                put("content-range", format!("bytes {first}-{}/{}", end - 1, 3 * PIECE));
            }
            let status = if nth == 0 { StatusCode::OK } else { StatusCode::PARTIAL_CONTENT };
            tokio::time::sleep(Duration::from_millis(wait)).await;
            Ok(Response { status, headers, url: request.url, remote: None, body: Body(Box::new(Cuts(chunks.into()))) })
        })
    }
}

/// Bytes that a connection has left to another one are not made up for by those behind them.
#[tokio::test(start_paused = true)]
async fn a_connection_that_has_left_bytes_to_another_puts_none_in_their_place() {
    let mut rig = Rig::new();
    rig.settings.segment_bytes_min = PIECE;
    rig.settings.race_after = Duration::from_millis(500);
    let spec = DownloadSpec { max_connections: 3, ..rig.spec("/f") };
    let network = Overtaken::default();
    let (end, report) = rig.attempt_through(&network, &rig.key, &spec).await;
    assert!(matches!(end, AttemptEnd::Done(_)), "{end:?} {report:?}");
    let asked = network.0.lock().unwrap().clone();
    assert_eq!(asked[..4], ["-", "bytes=30000-", "bytes=15000-29999", "bytes=15000-29999"]);
    assert!(rig.read("job/f") == Object::new(1, 3 * PIECE).bytes(), "{asked:?}");
}
