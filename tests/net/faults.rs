//! What each fault of an origin is called, and whether it is worth another attempt.

use std::time::Duration;

use haul::model::failure::FailureReason;
use haul::net::{Profile, Transport};

use crate::common::{class, client, fetch, follow, get, profile, read};
use crate::support::object::Object;
use crate::support::origin::Origin;
use crate::support::reply::{Cut, Reply};

async fn failure_of(reply: Reply, set: impl FnOnce(&mut Profile)) -> (FailureReason, bool) {
    let origin = Origin::start();
    origin.reply("/", reply);
    class(&fetch(&client(), &origin.url("/"), &profile(set)).await.unwrap_err())
}

#[tokio::test]
async fn a_body_that_ends_early_is_truncated() {
    let truncated = (FailureReason::Truncated, true);
    for cut in [Cut::Fin, Cut::Reset] {
        assert_eq!(failure_of(Reply::ok("0123456789").cut_at(4, cut), |_| {}).await, truncated);
        assert_eq!(failure_of(Reply::ok("0123456789").chunked(3).cut_at(4, cut), |_| {}).await, truncated);
    }
    assert_eq!(failure_of(Reply::ok("0123456789").claim_length(11), |_| {}).await, truncated);
    let mid_head = Reply::raw("HTTP/1.1 200 OK\r\nContent-Le");
    assert_eq!(failure_of(mid_head, |_| {}).await, truncated);
    let no_answer = (FailureReason::Connect, true);
    assert_eq!(failure_of(Reply::gone(Cut::Fin), |_| {}).await, no_answer);
    assert_eq!(failure_of(Reply::gone(Cut::Reset), |_| {}).await, no_answer);
}

#[tokio::test]
async fn what_is_not_http_is_a_protocol_failure() {
    let protocol = (FailureReason::Protocol, false);
    for raw in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: minus\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\nContent Length: 9\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: compress, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    ] {
        assert_eq!(failure_of(Reply::raw(raw), |_| {}).await, protocol, "{raw}");
    }
    let large = format!("HTTP/1.1 200 OK\r\nX-Large: {}\r\n\r\n", "x".repeat(1 << 20));
    assert_eq!(failure_of(Reply::raw(large), |_| {}).await, protocol);
    for before in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", "\r\n"] {
        let endless =
            format!("{}HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", before.repeat((3 << 20) / before.len()));
        assert_eq!(failure_of(Reply::raw(endless), |_| {}).await, protocol, "{before}");
        let some = format!("{}HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", before.repeat(9));
        let origin = Origin::start();
        origin.reply("/", Reply::raw(some));
        assert_eq!(fetch(&client(), &origin.url("/"), &profile(|_| {})).await.unwrap().1, b"x", "{before}");
    }
}

#[tokio::test]
async fn one_odd_line_does_not_cost_the_answer() {
    let origin = Origin::start();
    for (index, line) in [
        "Content-Security-Policy: default-src 'self';\r\n\tscript-src 'self';\r\n   frame-src *",
        "PHP Warning: PHP Startup: Unable to load dynamic library 'mcrypt.so' in Unknown on line 0",
        "X Powered By: example",
        "this is a line of text",
        "X-Cache : HIT",
        "X-Owner: Andr\u{e9}",
        "X-Owner: with a NUL \u{0} within",
        "X-Owner: with a bare CR \r within",
        "X-Owner: with a BEL \u{7} within",
        "Transfer-Encoding: identity",
        "Transfer-Encoding:",
    ]
    .into_iter()
    .enumerate()
    {
        let head = format!("HTTP/1.1 200 OK\r\nServer: x\r\n{line}\r\nContent-Length: 3\r\n\r\nabc");
        origin.reply(&format!("/{index}"), Reply::raw(head));
        let end = fetch(&client(), &origin.url(&format!("/{index}")), &profile(|_| {})).await;
        assert_eq!(end.unwrap(), (200, b"abc".to_vec()), "{line}");
    }
    for status in [
        "HTTP/1.1  200 OK",
        "HTTP/1.0   200",
        "http/1.1 200 OK",
        "HTTP/1.1 200OK",
        "HTTP/2.0 200 OK",
        "HTTP/1.1 200 OK\r",
    ] {
        origin.reply("/status", Reply::raw(format!("{status}\r\nContent-Length: 3\r\n\r\nabc")));
        let end = fetch(&client(), &origin.url("/status"), &profile(|_| {})).await;
        assert_eq!(end.unwrap(), (200, b"abc".to_vec()), "{status}, as curl reads it");
    }
    let old = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    origin.reply("/old", Reply::raw(old));
    assert_eq!(fetch(&client(), &origin.url("/old"), &profile(|_| {})).await.unwrap().1, b"abc");
    for (count, name) in [(1_000, "X-Many"), (5_000, "X-Many"), (5_000, "Many")] {
        // What is passed over beyond all others must not be read in another way.
        let odd = "Odd:: y\r\n".repeat(50);
        let many = format!("{}{odd}: 7\r\n", format!("{name}: yes\r\n").repeat(count));
        let head = format!("HTTP/1.1 200 OK\r\n{many}ETag: \"behind them\"\r\nContent-Length: 3\r\n\r\nabc");
        origin.reply("/many", Reply::raw(head));
        let response = follow(&client(), &origin.url("/many"), &profile(|_| {})).await.unwrap();
        assert_eq!(response.headers["etag"], "\"behind them\"");
        assert_eq!(read(response.body).await.unwrap(), b"abc");
    }
}

/// Whatever stands in a long head has its meaning, wherever it stands and however it is cut.
#[tokio::test]
async fn every_line_of_a_long_head_counts() {
    let origin = Origin::start();
    let (many, long) = ("X-Many: yes\r\n".repeat(150), "v".repeat(3_000));
    let cookies = (0..200).map(|nth| format!("Set-Cookie: c{nth}={nth}\r\n")).collect::<Vec<_>>().concat();
    let odd = "X-Odd:: y\r\n".repeat(50);
    let again = "Connection: keep-alive\r\nContent-Length: 3\r\n".repeat(60);
    let head = format!(
        "HTTP/1.1 103 Early\r\n{many}\r\nHTTP/1.1 200 OK\r\n{many}X-Folded: a\r\n b\r\n\tc\r\nno header\r\n{cookies}\
         {odd}Content-Length: 3\r\n: 7\r\n{again}X-Long: {long}\r\n {long}\r\nETag : \"behind them\"\r\n\r\nabc"
    );
    origin.reply("/head", Reply::raw(head));
    // The connection is used again: of one head nothing is left for the next.
    let (client, profile) = (client(), profile(|_| {}));
    for _ in 0..2 {
        let response = follow(&client, &origin.url("/head"), &profile).await.unwrap();
        let headers = &response.headers;
        let all = |name| headers.get_all(name).iter().map(|it| it.to_str().unwrap()).collect::<Vec<_>>();
        let expected: Vec<String> = (0..200).map(|nth| format!("c{nth}={nth}")).collect();
        assert_eq!((all("set-cookie"), all("x-many").len()), (expected.iter().map(String::as_str).collect(), 150));
        assert_eq!(all("x-folded")[0].split_ascii_whitespace().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(all("x-long")[0].split_ascii_whitespace().collect::<Vec<_>>(), [&long, &long]);
        assert_eq!(all("etag"), ["\"behind them\""]);
        assert_eq!(all("x-odd"), [": y"; 50]);
        assert_eq!((all("connection").len(), all("content-length")), (60, vec!["3"; 61]));
        assert_eq!(read(response.body).await.unwrap(), b"abc");
    }
}

/// A head that comes byte by byte is the same head.
#[tokio::test]
async fn a_head_may_be_cut_anywhere() {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let peer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let _ = stream.read(&mut [0; 4096]);
        for byte in b"HTTP/1.0  200 OK\r\nX: a\rb\r\nTransfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc" {
            stream.write_all(&[*byte]).unwrap();
        }
    });
    assert_eq!(fetch(&client(), &url, &profile(|_| {})).await.unwrap(), (200, b"abc".to_vec()));
    peer.join().unwrap();
}

#[tokio::test]
async fn what_stands_beside_chunks_does_not_cost_the_body() {
    let origin = Origin::start();
    let content: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for (index, (extension, end, trailers)) in [
        (";chunk-signature=0123456789abcdef0123456789abcdef".to_owned(), "\r\n", ""),
        (format!(";x=\"{}\"", "y".repeat(20_000)), "\r\n", ""),
        (String::new(), "\n", ""),
        (" ; a = b".to_owned(), "\n", "A: b\n"),
        (String::new(), "\r\n", "A: b\r\n folded\r\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in content.chunks(100) {
            body.extend(format!("{:x}{extension}{end}", chunk.len()).bytes());
            body.extend(chunk);
            body.extend(end.bytes());
            if extension.len() > 10_000 && body.len() > 3 << 20 {
                break;
            }
        }
        let whole = if extension.len() > 10_000 { (body.len() / extension.len()) * 100 } else { content.len() };
        body.extend(format!("0{extension}{end}{trailers}{end}").bytes());
        origin.reply(&format!("/{index}"), Reply::raw(body));
        let end = fetch(&client(), &origin.url(&format!("/{index}")), &profile(|_| {})).await;
        assert!(end.unwrap().1 == content[..whole], "{index}");
    }
}

/// It frames nothing, and the end of the connection says whether it is true.
#[tokio::test]
async fn a_length_of_another_name_does_not_cost_the_answer() {
    let origin = Origin::start();
    origin.reply("/", Reply::raw("HTTP/1.1 200 OK\r\nContent_Length: 3\r\nConnection: close\r\n\r\nabc").then_close());
    assert_eq!(fetch(&client(), &origin.url("/"), &profile(|_| {})).await.unwrap().1, b"abc");
    for status in [200, 201, 203] {
        for body in ["ab", "abcd"] {
            let answer = format!("HTTP/1.1 {status} X\r\nContent_Length: 3\r\nConnection: close\r\n\r\n{body}");
            origin.reply("/cut", Reply::raw(answer).then_close());
            let failure = fetch(&client(), &origin.url("/cut"), &profile(|_| {})).await.unwrap_err();
            assert_eq!(class(&failure), (FailureReason::Truncated, true), "{status} {body} {failure}");
        }
    }
    for lengths in ["2\r\nContent_Length: 3", "99999999999999999999999", "2\r\n 3"] {
        let answer = format!("HTTP/1.1 200 OK\r\nContent_Length: {lengths}\r\nConnection: close\r\n\r\nab");
        origin.reply("/odd", Reply::raw(answer).then_close());
        let failure = fetch(&client(), &origin.url("/odd"), &profile(|_| {})).await.unwrap_err();
        assert_eq!(failure.reason, FailureReason::Protocol, "{lengths:?} {failure}");
    }
}

/// What frames a body is bounded: a peer that sends nothing else must not be listened to for ever.
#[tokio::test]
async fn chunks_that_are_nothing_but_framing_end() {
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n";
    let origin = Origin::start();
    origin.reply("/zeros", Reply::raw([&head[..], &vec![b'0'; 24 << 20]].concat()));
    let patient = profile(|profile| profile.timeouts.idle = Duration::from_secs(600));
    let failure = fetch(&client(), &origin.url("/zeros"), &patient).await.unwrap_err();
    assert_eq!(class(&failure), (FailureReason::Protocol, false), "{failure}");
    let small = b"1\r\nx\r\n".repeat(300_000);
    origin.reply("/small", Reply::raw([&head[..], &small, b"0\r\n\r\n"].concat()));
    let padded = b"0000000000000000000000000000001\r\nx\r\n".repeat(1_000);
    origin.reply("/padded", Reply::raw([&head[..], &padded, b"0\r\n\r\n"].concat()));
    for (path, length) in [("/small", 300_001), ("/padded", 1_001)] {
        let end = fetch(&client(), &origin.url(path), &profile(|_| {})).await;
        assert_eq!(end.unwrap().1.len(), length, "{path}");
    }
}

#[tokio::test]
async fn a_transfer_coding_is_bounded_though_nobody_asked_for_it() {
    use tokio::io::AsyncReadExt;
    let mut packed = Vec::new();
    let zeros = vec![0; 32 << 20];
    async_compression::tokio::bufread::BrotliEncoder::new(&zeros[..]).read_to_end(&mut packed).await.unwrap();
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: br, chunked\r\n\r\n".to_vec();
    let chunk = format!("{:x}\r\n", packed.len()).into_bytes();
    let origin = Origin::start();
    origin.reply("/", Reply::raw([head, chunk, packed, b"\r\n0\r\n\r\n".to_vec()].concat()));
    let failure = fetch(&client(), &origin.url("/"), &profile(|_| {})).await.unwrap_err();
    assert_eq!(class(&failure), (FailureReason::TooLarge, false), "{failure}");
}

#[tokio::test]
async fn a_transfer_coding_is_undone() {
    let origin = Origin::start();
    let packed = {
        use tokio::io::AsyncReadExt;
        let mut packed = Vec::new();
        let mut encoder = async_compression::tokio::bufread::GzipEncoder::new(&b"plain"[..]);
        encoder.read_to_end(&mut packed).await.unwrap();
        packed
    };
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".to_vec();
    let chunk = format!("{:x}\r\n", packed.len()).into_bytes();
    origin.reply("/", Reply::raw([head, chunk, packed, b"\r\n0\r\n\r\n".to_vec()].concat()));
    assert_eq!(fetch(&client(), &origin.url("/"), &profile(|_| {})).await.unwrap().1, b"plain");
}

#[tokio::test]
async fn errors_cost_no_connections() {
    let (origin, client) = (Origin::start(), client());
    origin.reply("/missing", Reply::status(404).body("x".repeat(4_000)));
    for _ in 0..10 {
        let response = follow(&client, &origin.url("/missing"), &profile(|_| {})).await.unwrap();
        assert_eq!(response.status, 404);
        drop(response);
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_connection_is_used_for_as_long_as_its_peer_keeps_it() {
    let (origin, client) = (Origin::start(), client());
    origin.reply("/", Reply::ok("x").header("Keep-Alive", "timeout=1"));
    for _ in 0..2 {
        fetch(&client, &origin.url("/"), &profile(|_| {})).await.unwrap();
    }
    assert_eq!(origin.connections(), 2, "a second is no time to ask again within");
}

/// A server that answers the first request of a connection, and says 408 instead of an answer to the second: its own time
/// for it was over, and the request crossed with that. But it may have taken the request, so one that must not be repeated
/// is not sent again.
#[tokio::test]
async fn a_timeout_of_an_idle_connection_is_not_the_answer_to_a_request_that_may_be_repeated() {
    use std::io::{Read as _, Write as _};
    const FIRST: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx";
    const LATE: &str = "HTTP/1.1 408 Request Time-out\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    for (method, connections) in [(http::Method::GET, 2), (http::Method::POST, 1)] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let peer = std::thread::spawn(move || {
            for answers in [&[FIRST, LATE][..], &[LATE]].into_iter().take(connections) {
                let (mut stream, _) = listener.accept().unwrap();
                for answer in answers {
                    if stream.read(&mut [0; 4096]).unwrap_or(0) > 0 {
                        stream.write_all(answer.as_bytes()).unwrap();
                    }
                }
            }
        });
        let (client, profile) = (client(), profile(|_| {}));
        assert_eq!(fetch(&client, &url, &profile).await.unwrap().0, 200);
        let mut request = get(&url);
        request.method = method;
        // What the last connection says is the answer.
        assert_eq!(client.send(request, &profile).await.unwrap().status, 408);
        drop(client);
        peer.join().unwrap();
    }
}

/// The answer's time begins when the request is out.
#[tokio::test]
async fn a_large_request_may_take_longer_than_its_answer() {
    use std::io::{Read as _, Write as _};
    const BYTES: usize = 48 << 20;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let peer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut all, mut piece) = (0, vec![0; 1 << 20]);
        while all < BYTES {
            let count = stream.read(&mut piece).unwrap();
            assert!(count > 0, "given up after {all} bytes");
            all += count;
            std::thread::sleep(Duration::from_millis((count as u64 * 60) >> 20));
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx").unwrap();
    });
    let patient = profile(|profile| profile.timeouts.response_headers = Duration::from_millis(1500));
    let mut post = get(&url);
    post.method = http::Method::POST;
    post.body = vec![7; BYTES].into();
    assert_eq!(client().send(post, &patient).await.unwrap().status, 200);
    peer.join().unwrap();
}

/// A peer that takes a little of a request again and again does not hold it for ever.
#[tokio::test]
async fn a_request_that_is_taken_too_slowly_is_given_up() {
    use std::io::Read as _;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let peer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut piece = vec![0; 256 << 10];
        while stream.read(&mut piece).is_ok_and(|count| count > 0) {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let impatient = profile(|profile| {
        profile.timeouts.response_headers = Duration::from_millis(500);
        profile.timeouts.low_speed_bytes_per_second = 1 << 40;
        profile.timeouts.low_speed_window = Duration::from_millis(1);
    });
    let mut post = get(&url);
    post.method = http::Method::POST;
    post.body = vec![7; 64 << 20].into();
    let client = client();
    let failure = client.send(post, &impatient).await.unwrap_err();
    // A machine that is busy may take longer than that for the first of it.
    let is_it = matches!(failure.reason, FailureReason::LowSpeed | FailureReason::TimeoutHeaders);
    assert!(is_it && failure.retryable, "{failure}");
    drop(client);
    peer.join().unwrap();
}

#[tokio::test]
async fn bodies_without_a_length_end_with_the_connection() {
    let origin = Origin::start();
    origin.reply("/", Reply::ok("all of it").until_close());
    assert_eq!(fetch(&client(), &origin.url("/"), &profile(|_| {})).await.unwrap().1, b"all of it");
}

#[tokio::test]
async fn each_timeout_has_its_name() {
    let short = Duration::from_millis(80);
    let headers = failure_of(Reply::hang(), |p| p.timeouts.response_headers = short).await;
    assert_eq!(headers, (FailureReason::TimeoutHeaders, true));
    let idle = failure_of(Reply::ok("0123456789").stall_at(4), |p| p.timeouts.idle = short).await;
    assert_eq!(idle, (FailureReason::TimeoutIdle, true));
    let trickle = Reply::ok(vec![7; 10_000]).bytes_per_second(100);
    let slow = failure_of(trickle, |p| {
        p.timeouts.low_speed_bytes_per_second = 1000;
        p.timeouts.low_speed_window = Duration::from_millis(300);
    });
    assert_eq!(slow.await, (FailureReason::LowSpeed, true));
}

#[tokio::test]
async fn connecting_has_its_failures() {
    let client = client();
    let closed = Origin::start().address();
    let refused = fetch(&client, &format!("http://{closed}/"), &profile(|_| {})).await.unwrap_err();
    assert_eq!(class(&refused), (FailureReason::Connect, true), "{refused}");
    let nowhere = fetch(&client, "http://no-such-host.invalid/", &profile(|_| {})).await.unwrap_err();
    assert_eq!(class(&nowhere), (FailureReason::Dns, true), "{nowhere}");
    // A server that takes the connection and never shakes hands.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", silent.local_addr().unwrap());
    let slow = profile(|profile| profile.timeouts.connect = Duration::from_millis(80));
    let failure = fetch(&client, &url, &slow).await.unwrap_err();
    assert_eq!(class(&failure), (FailureReason::TimeoutConnect, true), "{failure}");
}

#[tokio::test]
async fn a_reader_that_slows_itself_down_does_not_blame_the_origin() {
    let origin = Origin::start();
    let object = Object::new(3, 4 << 20);
    origin.object("/", object.clone());
    let strict = profile(|profile| {
        profile.timeouts.idle = Duration::from_millis(200);
        profile.timeouts.low_speed_bytes_per_second = 100 << 20;
        profile.timeouts.low_speed_window = Duration::from_millis(400);
    });
    let client = client();
    let mut response = client.send(get(&origin.url("/")), &strict).await.unwrap();
    response.body.chunk().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(read(response.body).await.is_ok());
}

#[tokio::test]
async fn large_bodies_come_whole() {
    let origin = Origin::start();
    let object = Object::new(9, (8 << 20) + 13);
    origin.object("/", object.clone());
    let chunked = object.clone();
    origin.handle("/chunked", move |request| chunked.respond(request).chunked(70_000));
    let client = client();
    for path in ["/", "/chunked"] {
        let (_, body) = fetch(&client, &origin.url(path), &profile(|_| {})).await.unwrap();
        assert!(body == object.bytes(), "{path}");
    }
}
