//! One request, and what is kept of its response.

use std::sync::Arc;
use std::time::Duration;

use async_compression::tokio::bufread::GzipEncoder;
use haul::fetch::FetchedBody;
use haul::model::failure::FailureReason;
use haul::model::outcome::AttemptEnd;
use haul::model::secret::Secret;
use haul::model::spec::{FetchSpec, HeaderSpec};
use haul::net::Profile;
use tokio::io::AsyncReadExt;

use crate::bench::{Bench, result, spec};
use crate::support::object::Object;
use crate::support::origin::Origin;
use crate::support::reply::{Cut, Reply};

async fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    GzipEncoder::new(plain).read_to_end(&mut encoded).await.unwrap();
    encoded
}

#[tokio::test]
async fn a_response_is_kept_with_all_its_parts() {
    let (origin, bench) = (Origin::start(), Bench::new());
    origin.reply("/old", Reply::redirect(302, "/new"));
    let reply = Reply::status(201).body("made").header("Content-Type", "text/x").header("Set-Cookie", "secret=1");
    origin.reply("/new", reply.header("X-Two", "a").header("X-Two", "b"));
    let fetched = bench.run(&spec(origin.url("/old").replace("://", "://me:hunter2@"))).await;
    let kept = result(&fetched);
    assert_eq!((kept.http_status, kept.body_bytes, kept.content_type.as_str()), (201, 4, "text/x"));
    assert_eq!(kept.final_url, origin.url("/new").replace("://", "://REDACTED@"));
    let header =
        |name: &str| kept.headers.iter().filter(|(own, _)| own == name).map(|(_, value)| &**value).collect::<Vec<_>>();
    assert_eq!((header("x-two"), header("set-cookie")), (vec!["a", "b"], vec!["REDACTED"]));
    assert_eq!(fetched.body, Some(FetchedBody::Inline("made".into())));
    assert_eq!((fetched.report.http_status, fetched.report.bytes), (201, 4));
    assert_eq!(fetched.report.remote_address, origin.address().to_string());
    assert_eq!((bench.meter.received_bytes(), bench.meter.total()), (4, 4));
    let text = format!("{fetched:?}");
    assert!(!text.contains("hunter2") && !text.contains("secret=1"), "{text}");
}

#[tokio::test]
async fn what_is_kept_of_a_head_is_bounded() {
    let (origin, bench) = (Origin::start(), Bench::new());
    let mut reply = Reply::ok("x").header("Content-Type", &"t".repeat(100_000));
    for index in 0..20 {
        reply = reply.header(&format!("X-{index}"), &"v".repeat(10_000));
    }
    origin.reply("/", reply.header("X-Last", "kept"));
    let fetched = bench.run(&spec(origin.url("/"))).await;
    let kept = result(&fetched);
    let bytes: usize = kept.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!((50_000..=64 << 10).contains(&bytes), "{bytes}");
    assert!(kept.headers.iter().any(|(name, _)| name == "x-last"));
    assert!(kept.content_type.len() <= 1024);
    let long = format!("/{}", "y".repeat(100_000));
    origin.reply("/far", Reply::redirect(302, &long));
    let failure = bench.failure(&spec(origin.url("/far"))).await;
    assert!(failure.message.len() < 500 && failure.reason == FailureReason::Protocol, "{failure}");
}

#[tokio::test]
async fn any_method_goes_out_with_its_body() {
    let (origin, bench) = (Origin::start(), Bench::new());
    origin.handle("/", |request| match request.method.as_str() {
        "HEAD" => Reply::ok(vec![0; 5 << 20]),
        "DELETE" => Reply::status(204),
        _ => Reply::ok(request.body.clone()),
    });
    let ask = |method: &str| FetchSpec { method: method.into(), body: b"payload".into(), ..spec(origin.url("/")) };
    for (method, expected) in
        [("POST", "payload"), ("PATCH", "payload"), ("BREW", "payload"), ("HEAD", ""), ("DELETE", "")]
    {
        let fetched = bench.run(&ask(method)).await;
        assert!(matches!(fetched.end, AttemptEnd::Done(_)), "{method}: {:?}", fetched.end);
        assert_eq!(fetched.body, Some(FetchedBody::Inline(expected.into())), "{method}");
    }
}

#[tokio::test]
async fn statuses_are_accepted_as_the_task_says() {
    let (origin, bench) = (Origin::start(), Bench::new());
    origin.reply("/missing", Reply::status(404).body("not here"));
    origin.reply("/moved", Reply::redirect(302, "/missing"));
    origin.reply("/busy", Reply::status(503).header("Retry-After", "7"));
    assert_eq!(bench.reason(&spec(origin.url("/missing"))).await, (FailureReason::HttpStatus, false));
    let busy = bench.failure(&spec(origin.url("/busy"))).await;
    assert_eq!((busy.http_status, busy.retryable, busy.retry_after), (503, true, Some(Duration::from_secs(7))));
    let accepting =
        |path: &str, first, last| FetchSpec { accept_statuses: vec![(first, last)], ..spec(origin.url(path)) };
    assert_eq!(result(&bench.run(&accepting("/missing", 400, 404)).await).http_status, 404);
    assert_eq!(result(&bench.run(&accepting("/moved", 300, 399)).await).http_status, 302);
    let failed = bench.run(&spec(origin.url("/moved"))).await;
    assert_eq!((failed.report.url, failed.report.http_status), (origin.url("/missing"), 404));
    assert_eq!(origin.connections(), 1, "answers that fail do not cost their connection");
}

#[tokio::test]
async fn chunks_say_how_long_a_body_is_whatever_its_head_says() {
    let (origin, bench) = (Origin::start(), Bench::new());
    let chunks = "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    origin.reply("/", Reply::raw(format!("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n{chunks}")));
    assert_eq!(result(&bench.run(&spec(origin.url("/"))).await).body_bytes, 3);
}

#[tokio::test]
async fn no_header_brings_a_secret_of_the_url_back() {
    let (origin, bench) = (Origin::start(), Bench::new());
    let next = "<https://me:pw1@h/list?a=1&access_token=pw2&page=2>; rel=\"next\", </x?private_token=pw3>; rel=last";
    let reply = Reply::ok("[]").header("Link", next).header("Content-Location", "/list?x-amz-signature=pw4&b=2#c");
    origin.reply("/", reply.header("Refresh", "5; url=/list?access_token=pw5"));
    let fetched = bench.run(&spec(origin.url("/"))).await;
    let text = format!("{:?}", result(&fetched).headers);
    assert!(!text.contains("pw") && text.contains("page=2") && text.contains("b=2#c"), "{text}");
}

#[tokio::test]
async fn a_part_is_not_taken_for_the_whole() {
    let (origin, mut bench) = (Origin::start(), Bench::new());
    let part = |status: u16, range: &str| Reply::status(status).body("01234").header("Content-Range", range);
    origin.reply("/part", part(206, "bytes 0-4/10"));
    origin.reply("/unsized", part(206, "bytes 0-4/*"));
    origin.reply("/slice", part(200, "bytes 5-9/10"));
    origin.reply("/whole", part(206, "bytes 0-4/5"));
    origin.reply("/items", part(206, "items 0-4/10"));
    origin.reply("/unit-less", part(206, "0-4/10"));
    origin.reply("/label", part(200, "bytes 0-99/100"));
    origin.reply("/chunks", part(200, "bytes 5-9/10").chunked(2));
    origin.reply("/more", part(206, "bytes 0-3/4").chunked(2));
    origin.reply("/unnamed", Reply::status(206).body("01234"));
    origin.reply("/nonsense", part(206, "bytes 9-0/10"));
    origin
        .reply("/several", Reply::status(206).body("01234").header("Content-Type", "multipart/byteranges; boundary=b"));
    for path in ["/part", "/unsized", "/slice", "/chunks", "/more", "/unnamed", "/nonsense", "/several"] {
        assert_eq!(bench.reason(&spec(origin.url(path))).await, (FailureReason::Protocol, true), "{path}");
    }
    let posted = FetchSpec { method: "POST".into(), ..spec(origin.url("/part")) };
    assert_eq!(bench.reason(&posted).await, (FailureReason::Protocol, true));
    for (path, reply) in
        [("/cut-200", part(200, "bytes 0-99/100").chunked(2)), ("/cut-206", part(206, "bytes 0-99/100").until_close())]
    {
        origin.reply(path, reply);
        assert_eq!(bench.reason(&spec(origin.url(path))).await, (FailureReason::Truncated, true), "{path}");
    }
    for path in ["/whole", "/items", "/unit-less", "/label"] {
        assert_eq!(result(&bench.run(&spec(origin.url(path))).await).body_bytes, 5, "{path}");
    }
    let accepting = FetchSpec { accept_statuses: vec![(206, 206)], ..spec(origin.url("/part")) };
    assert_eq!(result(&bench.run(&accepting).await).http_status, 206);
    let mut profile = Profile::default();
    profile.http.headers.push(HeaderSpec { name: "range".into(), value: Secret::new("bytes=0-4"), sensitive: false });
    bench.profile = Arc::new(profile);
    assert_eq!(result(&bench.run(&spec(origin.url("/part"))).await).body_bytes, 5, "it was asked for");
}

#[tokio::test]
async fn encodings_are_undone_and_bombs_stopped() {
    let (origin, bench) = (Origin::start(), Bench::new());
    let plain = Object::new(1, 50_000).bytes();
    origin.reply("/", Reply::ok(gzip(&plain).await).header("Content-Encoding", "gzip"));
    let fetched = bench.run(&spec(origin.url("/"))).await;
    assert_eq!(fetched.body, Some(FetchedBody::Inline(plain.into())));
    assert_eq!(origin.all_requests()[0].header("accept-encoding"), Some("gzip, br, zstd, deflate"));

    let bomb = gzip(&vec![0; 64 << 20]).await;
    assert!(bomb.len() < 100_000);
    origin.reply("/bomb", Reply::ok(bomb).header("Content-Encoding", "gzip"));
    assert_eq!(bench.reason(&spec(origin.url("/bomb"))).await, (FailureReason::TooLarge, false));
    assert_eq!(Arc::strong_count(&bench.sink.open_spools), 1, "what was spooled of it is gone");
}

#[tokio::test]
async fn large_bodies_are_spooled_and_larger_ones_refused() {
    let (origin, bench) = (Origin::start(), Bench::new());
    let object = Object::new(2, 300_000);
    origin.object("/", object.clone());
    let fetched = bench.run(&spec(origin.url("/"))).await;
    assert_eq!(fetched.body, Some(FetchedBody::Spooled { name: "spooled".into(), bytes: 300_000 }));
    assert!(bench.sink.spooled.lock().unwrap()[0] == object.bytes());
    let at_limit = |bytes| FetchSpec { max_response_bytes: Some(bytes), ..spec(origin.url("/")) };
    assert!(matches!(bench.run(&at_limit(300_000)).await.end, AttemptEnd::Done(_)));
    assert_eq!(bench.reason(&at_limit(299_999)).await.0, FailureReason::TooLarge);
    let chunked = object.clone();
    origin.handle("/", move |request| chunked.respond(request).chunked(1000));
    assert_eq!(bench.reason(&at_limit(299_999)).await.0, FailureReason::TooLarge);
    origin.handle("/", move |request| object.respond(request).cut_at(200_000, Cut::Fin));
    assert_eq!(bench.reason(&at_limit(300_000)).await, (FailureReason::Truncated, true));
    assert_eq!((Arc::strong_count(&bench.sink.open_spools), bench.sink.spooled.lock().unwrap().len()), (1, 2));
}

#[tokio::test]
async fn json_is_checked_where_it_is_expected() {
    let (origin, bench) = (Origin::start(), Bench::new());
    origin.reply("/good", Reply::json(r#"{"a": 1.0}"#));
    origin.reply("/bad", Reply::json("{\"a\": 1,\n<html>"));
    let json = |path: &str| FetchSpec { expect_json: true, ..spec(origin.url(path)) };
    assert_eq!(bench.run(&json("/good")).await.body, Some(FetchedBody::Inline(r#"{"a": 1.0}"#.into())));
    let failure = bench.failure(&json("/bad")).await;
    assert_eq!((failure.reason, failure.retryable), (FailureReason::BadContent, false));
    assert!(failure.message.contains("line 2 column 1"), "{failure}");
}

#[tokio::test]
async fn what_the_client_sets_goes_before() {
    let (origin, mut bench) = (Origin::start(), Bench::new());
    origin.reply("/", Reply::ok(""));
    let header = |name: &str, value| HeaderSpec { name: name.into(), value: Secret::new(value), sensitive: false };
    let mut profile = Profile::default();
    profile.http.headers = vec![header("Accept-Encoding", "identity"), header("accept", "text/csv")];
    profile.http.user_agent = Some("mine/1".into());
    bench.profile = Arc::new(profile);
    bench.run(&spec(origin.url("/"))).await;
    let seen = &origin.all_requests()[0];
    let all = |name: &str| seen.headers.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name)).count();
    assert_eq!((seen.header("accept-encoding"), all("accept-encoding")), (Some("identity"), 1));
    assert_eq!((seen.header("accept"), seen.header("user-agent")), (Some("text/csv"), Some("mine/1")));
}

#[tokio::test]
async fn a_stop_ends_it_at_once_wherever_it_is() {
    let (origin, bench) = (Origin::start(), Bench::new());
    origin.reply("/head", Reply::hang());
    origin.reply("/body", Reply::ok("0123456789").stall_at(5));
    for path in ["/head", "/body"] {
        let bench = Bench { stop: bench.stop.child_token(), ..Bench::new() };
        let stop = bench.stop.clone();
        let spec = spec(origin.url(path));
        let stopping = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            stop.cancel();
        };
        let (fetched, ()) = tokio::join!(bench.run(&spec), stopping);
        assert!(matches!(fetched.end, AttemptEnd::Stopped), "{path}");
        assert_eq!(fetched.report.url, origin.url(path));
    }
}

#[tokio::test]
async fn json_is_utf_8() {
    let (origin, bench) = (Origin::start(), Bench::new());
    origin.reply("/latin1", Reply::ok(&b"[\"caf\xe9\"]"[..]));
    let spec = FetchSpec { expect_json: true, ..spec(origin.url("/latin1")) };
    assert_eq!(bench.reason(&spec).await, (FailureReason::BadContent, false));
}

#[tokio::test]
async fn an_unknown_coding_is_a_label() {
    let (origin, bench) = (Origin::start(), Bench::new());
    origin.reply("/", Reply::ok("as it came").header("Content-Encoding", "aws-chunked"));
    let fetched = bench.run(&spec(origin.url("/"))).await;
    assert_eq!(fetched.body, Some(FetchedBody::Inline("as it came".into())));
}

#[tokio::test]
async fn a_success_that_is_to_be_tried_again_is_not_kept() {
    let (origin, mut bench) = (Origin::start(), Bench::new());
    origin.reply("/", Reply::status(202).body("being made").header("Retry-After", "3"));
    assert!(matches!(bench.run(&spec(origin.url("/"))).await.end, AttemptEnd::Done(_)));
    bench.retry_statuses = vec![202];
    let failure = bench.failure(&spec(origin.url("/"))).await;
    assert_eq!((failure.http_status, failure.retry_after), (202, Some(Duration::from_secs(3))));
    let by_name = FetchSpec { accept_statuses: vec![(200, 202)], ..spec(origin.url("/")) };
    assert!(matches!(bench.run(&by_name).await.end, AttemptEnd::Done(_)));
}
