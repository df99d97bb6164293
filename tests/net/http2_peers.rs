//! HTTP/2 peers with limits and tempers of their own.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use h2::Reason;
use h2::server::SendResponse;
use haul::model::failure::FailureReason;
use haul::net::{Permit, Request, Transport};
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::common::{class, client, fetch, get, profile, read};
use crate::support::relay::Relay;
use crate::support::tls::{Authority, Leaf};

type Ask = (http::Request<h2::RecvStream>, SendResponse<Bytes>);

/// A server of HTTP/2 that answers each request with what a test scripts. Who does not offer HTTP/2 gets `one` over
/// HTTP/1.1.
struct Peer {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    authority: Authority,
    _tasks: JoinSet<()>,
}

impl Peer {
    /// `streams_max`: how many requests it allows at once on a connection.
    async fn start<F, A>(streams_max: u32, answer: A) -> Peer
    where
        A: Fn(usize, Ask) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let authority = Authority::new();
        let leaf = Leaf { alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()], ..Leaf::good() };
        let acceptor = TlsAcceptor::from(authority.server(leaf));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, requests) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (opened, asked) = (Arc::clone(&connections), Arc::clone(&requests));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                opened.fetch_add(1, Ordering::SeqCst);
                let (acceptor, answer, asked) = (acceptor.clone(), answer.clone(), Arc::clone(&asked));
                open.spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                        let mut head = [0; 4096];
                        let _ = stream.read(&mut head).await;
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none").await;
                        return;
                    }
                    let mut builder = h2::server::Builder::new();
                    // What it may send is for the windows of its client alone.
                    builder.max_send_buffer_size(64 << 20);
                    let handshake = builder.max_concurrent_streams(streams_max).handshake::<_, Bytes>(stream);
                    let Ok(mut connection) = handshake.await else { return };
                    let mut answers = JoinSet::new();
                    while let Some(Ok(ask)) = connection.accept().await {
                        answers.spawn(answer(asked.fetch_add(1, Ordering::SeqCst), ask));
                    }
                });
            }
        });
        Peer { address, connections, requests, authority, _tasks: tasks }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/", self.address.port())
    }

    fn profile(&self, set: impl FnOnce(&mut haul::net::Profile)) -> Arc<haul::net::Profile> {
        profile(|profile| {
            profile.http.ca_pem = Some(self.authority.pem());
            // A busy machine may take its time over a handshake.
            profile.timeouts.connect = Duration::from_secs(600);
            set(profile);
        })
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Sends 200 with these bytes, as the windows of the client allow.
async fn send(mut respond: SendResponse<Bytes>, body: Bytes) {
    let Ok(mut stream) = respond.send_response(http::Response::new(()), false) else { return };
    let _ = stream.send_data(body, true);
    let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
}

#[tokio::test]
async fn bodies_that_nobody_reads_hold_up_no_others() {
    let large = Bytes::from(vec![7; 24 << 20]);
    let peer = Peer::start(200, move |_, (_, respond)| send(respond, large.clone())).await;
    let (client, profile) = (client(), peer.profile(|_| {}));
    let url = peer.url();
    let mut unread = Vec::new();
    for _ in 0..10 {
        unread.push(client.send(get(&url), &profile).await.unwrap());
    }
    let read = tokio::time::timeout(Duration::from_secs(60), fetch(&client, &url, &profile)).await;
    assert_eq!(read.expect("bodies that are not read hold up no others").unwrap().1.len(), 24 << 20);
    // Those whose path was found to be long, as on a busy machine, take up the windows of others, which go elsewhere.
    assert!(peer.connections() <= 4, "{}", peer.connections());
}

/// What a peer may send ahead is what a path of this length holds at a good speed, as TCP has it for HTTP/1.1.
#[tokio::test]
async fn windows_are_as_wide_as_the_path_is_long() {
    for (round_trip, at_least) in [(Duration::ZERO, 2 << 20), (Duration::from_millis(100), 16 << 20)] {
        let allowed = Arc::<AtomicUsize>::default();
        let seen = Arc::clone(&allowed);
        let peer = Peer::start(100, move |_, (_, mut respond)| {
            let seen = Arc::clone(&seen);
            async move {
                let Ok(mut stream) = respond.send_response(http::Response::new(()), false) else { return };
                stream.reserve_capacity(1 << 30);
                let _ = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
                seen.store(stream.capacity(), Ordering::SeqCst);
                let _ = stream.send_data(Bytes::from_static(b"x"), true);
            }
        })
        .await;
        let relay = Relay::start(peer.address, round_trip).await;
        let url = format!("https://localhost:{}/", relay.address.port());
        assert_eq!(fetch(&client(), &url, &peer.profile(|_| {})).await.unwrap().1, b"x");
        let allowed = allowed.load(Ordering::SeqCst);
        assert!(allowed >= at_least, "{allowed} bytes at {round_trip:?}");
    }
}

#[tokio::test]
async fn a_peer_that_allows_one_stream_gets_several_connections_and_is_waited_for() {
    let peer = Peer::start(1, |_, (_, respond)| async move {
        tokio::time::sleep(Duration::from_millis(150)).await;
        send(respond, Bytes::from_static(b"late")).await;
    })
    .await;
    // Each answer comes within its time; the turn before it does not count.
    let (client, profile) = (client(), peer.profile(|p| p.timeouts.response_headers = Duration::from_secs(1)));
    let url = peer.url();
    let ends = join_all((0..80).map(|_| fetch(&client, &url, &profile))).await;
    for end in ends {
        assert_eq!(end.unwrap().1, b"late");
    }
    // One beyond the eight may be made whose windows are so small that there is room for them.
    assert!((2..=10).contains(&peer.connections()), "{}", peer.connections());
}

#[tokio::test]
async fn a_peer_that_allows_no_stream_is_waited_for_no_longer_than_for_an_answer() {
    let peer = Peer::start(0, |_, (_, respond)| send(respond, Bytes::new())).await;
    let (client, profile) = (client(), peer.profile(|p| p.timeouts.response_headers = Duration::from_secs(2)));
    let url = peer.url();
    // More requests than connections, so that some wait on the same one.
    let ends = join_all((0..20).map(|_| fetch(&client, &url, &profile)));
    let ends = tokio::time::timeout(Duration::from_secs(60), ends).await.expect("none waits for ever");
    for end in ends {
        let failure = end.unwrap_err();
        assert_eq!(class(&failure), (FailureReason::TimeoutHeaders, true), "{failure}");
        assert!(failure.is_unsent);
    }
}

/// An origin counts a request that is given up until it has heard of that, whether the answer has begun or not.
#[tokio::test]
async fn a_request_that_is_given_up_keeps_its_permit_until_its_peer_knows() {
    let (asked, mut is_asked) = tokio::sync::mpsc::unbounded_channel();
    let peer = Peer::start(100, move |nth, (request, mut respond)| {
        let asked = asked.clone();
        async move {
            let begun = if nth == 0 { None } else { respond.send_response(http::Response::new(()), false).ok() };
            asked.send(()).unwrap();
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            drop((request, begun));
        }
    })
    .await;
    let (client, profile) = (client(), peer.profile(|_| {}));
    for is_answered in [false, true] {
        let held = Arc::new(());
        let is_held = Arc::downgrade(&held);
        let request = Request { permit: Permit::new(held), ..get(&peer.url()) };
        let mut sent = client.send(request, &profile);
        if is_answered {
            drop(sent.await.unwrap());
        } else {
            tokio::select! {
                _ = &mut sent => unreachable!("it is not answered"),
                _ = is_asked.recv() => drop(sent),
            }
        }
        assert!(is_held.strong_count() > 0, "answered: {is_answered}");
        while is_held.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A peer that takes the body of a request for longer than an answer may take has not been asked for one yet.
#[tokio::test]
async fn a_body_that_is_on_its_way_is_not_waited_for_as_an_answer() {
    let peer = Peer::start(100, |_, (request, respond)| async move {
        let (mut body, mut count) = (request.into_body(), 0);
        while let Some(Ok(data)) = body.data().await {
            count += data.len();
            tokio::time::sleep(Duration::from_millis(100)).await;
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        send(respond, count.to_string().into()).await;
    })
    .await;
    let (client, profile) = (client(), peer.profile(|p| p.timeouts.response_headers = Duration::from_secs(2)));
    let post = |bytes: usize| Request { method: Method::POST, body: vec![7_u8; bytes].into(), ..get(&peer.url()) };
    let response = client.send(post(640 << 10), &profile).await.unwrap();
    assert_eq!(read(response.body).await.unwrap(), (640 << 10).to_string().into_bytes());
}

/// What a peer has not read of the body of a request when it answers goes to it all the same: it may read on.
#[tokio::test]
async fn an_answer_that_comes_before_the_end_of_the_body_does_not_cut_it() {
    let peer = Peer::start(100, |_, (request, mut respond)| async move {
        let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
        let mut body = request.into_body();
        while let Some(Ok(data)) = body.data().await {
            body.flow_control().release_capacity(data.len()).unwrap();
            stream.send_data(data, false).unwrap();
        }
        let is_whole = body.is_end_stream();
        stream.send_data(if is_whole { "whole" } else { "cut" }.into(), true).unwrap();
    })
    .await;
    let (client, profile) = (client(), peer.profile(|_| {}));
    let body = Bytes::from(vec![b'7'; 1 << 20]);
    let post = Request { method: Method::POST, body: body.clone(), ..get(&peer.url()) };
    let echo = read(client.send(post, &profile).await.unwrap().body).await.unwrap();
    assert!(echo == [&body[..], b"whole"].concat(), "{} bytes came back", echo.len());
}

/// One whose path is gone looks as good as any, until a request has waited there in vain.
#[tokio::test]
async fn a_connection_on_which_nothing_came_any_more_is_passed_over() {
    let peer = Peer::start(100, |_, (_, respond)| send(respond, Bytes::from_static(b"here"))).await;
    let relay = Relay::start(peer.address, Duration::ZERO).await;
    let (client, profile) = (client(), peer.profile(|p| p.timeouts.response_headers = Duration::from_secs(2)));
    let url = format!("https://localhost:{}/", relay.address.port());
    assert_eq!(fetch(&client, &url, &profile).await.unwrap().1, b"here");
    relay.forget();
    let failure = fetch(&client, &url, &profile).await.unwrap_err();
    assert_eq!(class(&failure), (FailureReason::TimeoutHeaders, true), "{failure}");
    assert_eq!(fetch(&client, &url, &profile).await.unwrap().1, b"here");
    assert_eq!(peer.connections(), 2);
}

#[tokio::test]
async fn what_a_peer_refused_is_sent_again_whatever_its_method() {
    let peer = Peer::start(100, |nth, (_, mut respond)| async move {
        match nth {
            0 => respond.send_reset(Reason::REFUSED_STREAM),
            _ => send(respond, Bytes::from_static(b"taken")).await,
        }
    })
    .await;
    let mut post = get(&peer.url());
    post.method = Method::POST;
    post.body = "once".into();
    let client = client();
    let response = client.send(post, &peer.profile(|_| {})).await.unwrap();
    assert_eq!(read(response.body).await.unwrap(), b"taken");
    assert_eq!(peer.requests(), 2);
}

#[tokio::test]
async fn a_peer_that_always_refuses_has_looked_at_nothing() {
    let peer = Peer::start(100, |_, (_, mut respond)| async move { respond.send_reset(Reason::REFUSED_STREAM) }).await;
    let failure = fetch(&client(), &peer.url(), &peer.profile(|_| {})).await.unwrap_err();
    assert!(failure.is_unsent && failure.retryable, "{failure}");
    assert_eq!(failure.reason, FailureReason::Protocol, "the connection is sound");
    let peer = Peer::start(100, |_, (_, mut respond)| async move { respond.send_reset(Reason::INTERNAL_ERROR) }).await;
    let failure = fetch(&client(), &peer.url(), &peer.profile(|_| {})).await.unwrap_err();
    assert!(!failure.is_unsent, "{failure}");
    assert_eq!((class(&failure), peer.requests()), ((FailureReason::Connect, true), 1), "no body was cut short");
}

#[tokio::test]
async fn a_peer_that_wants_http1_gets_it() {
    let peer =
        Peer::start(100, |_, (_, mut respond)| async move { respond.send_reset(Reason::HTTP_1_1_REQUIRED) }).await;
    let (client, profile) = (client(), peer.profile(|_| {}));
    for _ in 0..3 {
        assert_eq!(fetch(&client, &peer.url(), &profile).await.unwrap().1, b"one");
    }
    assert_eq!(peer.requests(), 1, "asked over HTTP/2 once");
}

#[tokio::test]
async fn a_stream_that_is_reset_is_not_whole_whatever_the_reason() {
    for reason in [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR] {
        let peer = Peer::start(100, move |_, (_, mut respond)| async move {
            let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"half"), false).unwrap();
            // The data goes first.
            tokio::time::sleep(Duration::from_millis(20)).await;
            stream.send_reset(reason);
        })
        .await;
        let failure = fetch(&client(), &peer.url(), &peer.profile(|_| {})).await.unwrap_err();
        assert_eq!(class(&failure), (FailureReason::Truncated, true), "{reason:?}");
    }
    let peer = Peer::start(100, |_, (_, mut respond)| async move {
        let head = http::Response::builder().header("content-length", "4").body(()).unwrap();
        let mut stream = respond.send_response(head, false).unwrap();
        stream.send_data(Bytes::from_static(b"full"), false).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream.send_reset(Reason::NO_ERROR);
    })
    .await;
    assert_eq!(fetch(&client(), &peer.url(), &peer.profile(|_| {})).await.unwrap().1, b"full", "by its length it is");
}

/// A gateway whose own origin went away ends the stream in order, and short.
#[tokio::test]
async fn a_stream_that_ends_short_of_its_length_is_truncated() {
    for (sent, is_short) in [(&b"half"[..], true), (b"", true), (b"more than it", false)] {
        let peer = Peer::start(100, move |_, (_, mut respond)| async move {
            let head = http::Response::builder().header("content-length", "8").body(()).unwrap();
            let Ok(mut stream) = respond.send_response(head, false) else { return };
            let _ = stream.send_data(Bytes::from_static(&sent[..sent.len().min(8)]), sent.len() < 8);
            if sent.len() > 8 {
                let _ = stream.send_data(Bytes::from_static(&sent[8..]), true);
            }
            let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
        })
        .await;
        let (client, profile) = (client(), peer.profile(|_| {}));
        let failure = fetch(&client, &peer.url(), &profile).await.unwrap_err();
        let reason = if is_short { FailureReason::Truncated } else { FailureReason::Protocol };
        assert_eq!(class(&failure), (reason, true), "{failure}");
        fetch(&client, &peer.url(), &profile).await.unwrap_err();
        assert_eq!(peer.connections(), 1, "it is sound");
    }
    let peer = Peer::start(100, |_, (_, mut respond)| async move {
        let head = http::Response::builder().header("content-length", "8").body(()).unwrap();
        let _ = respond.send_response(head, true);
    })
    .await;
    let failure = fetch(&client(), &peer.url(), &peer.profile(|_| {})).await.unwrap_err();
    assert_eq!(class(&failure), (FailureReason::Protocol, true), "{failure}");
}

/// Where a gateway cuts each answer, the next one goes on behind what has come.
#[tokio::test]
async fn what_came_of_a_stream_that_ends_short_is_handed_on() {
    let peer = Peer::start(100, |_, (_, mut respond)| async move {
        let head = http::Response::builder().header("content-length", "8").body(()).unwrap();
        let Ok(mut stream) = respond.send_response(head, false) else { return };
        let _ = stream.send_data(Bytes::from_static(b"half"), false);
        let _ = stream.send_data(Bytes::new(), true);
        let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
    })
    .await;
    let (client, profile) = (client(), peer.profile(|_| {}));
    let mut response = client.send(get(&peer.url()), &profile).await.unwrap();
    // So that the end is here as well when it is read.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(response.body.chunk().await.unwrap().unwrap(), "half");
    let failure = response.body.chunk().await.unwrap().unwrap_err();
    assert_eq!(class(&failure), (FailureReason::Truncated, true), "{failure}");
}

/// What one path of a host does to a connection is not the fault of those that share it.
#[tokio::test]
async fn a_stream_that_breaks_its_connection_is_no_end_for_the_others() {
    let peer = Peer::start(100, |nth, (_, mut respond)| async move {
        let Ok(mut stream) = respond.send_response(http::Response::new(()), false) else { return };
        if nth == 0 {
            let _ = stream.send_data(Bytes::from_static(b"half"), false);
        } else {
            // Frames of nothing are taken for an attack at some point.
            for _ in 0..20_000 {
                let _ = stream.send_data(Bytes::new(), false);
            }
        }
        let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
    })
    .await;
    let (client, profile) = (client(), peer.profile(|_| {}));
    let mut innocent = client.send(get(&peer.url()), &profile).await.unwrap();
    assert_eq!(innocent.body.chunk().await.unwrap().unwrap(), "half");
    let broken = fetch(&client, &peer.url(), &profile).await.unwrap_err();
    assert!(broken.retryable, "{broken}");
    let failure = innocent.body.chunk().await.unwrap().unwrap_err();
    assert_eq!(class(&failure), (FailureReason::Truncated, true), "{failure}");
}

#[tokio::test]
async fn lengths_that_contradict_each_other_are_no_length() {
    for (second, is_right) in [("4", true), ("9", false)] {
        let peer = Peer::start(100, move |_, (_, mut respond)| async move {
            let head = http::Response::builder().header("content-length", "4").header("content-length", second);
            let Ok(mut stream) = respond.send_response(head.body(()).unwrap(), false) else { return };
            let _ = stream.send_data(Bytes::from_static(b"full"), true);
            let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
        })
        .await;
        let end = fetch(&client(), &peer.url(), &peer.profile(|_| {})).await;
        if is_right {
            assert_eq!(end.unwrap().1, b"full");
        } else {
            assert_eq!(end.unwrap_err().reason, FailureReason::Protocol);
        }
    }
}

#[tokio::test]
async fn requests_that_ask_for_it_have_connections_of_their_own() {
    let peer = Peer::start(100, |_, (_, respond)| async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        send(respond, Bytes::from_static(b"x")).await;
    })
    .await;
    let (client, profile) = (client(), peer.profile(|_| {}));
    let separate = async || {
        let mut request = get(&peer.url());
        request.separate = true;
        read(client.send(request, &profile).await.unwrap().body).await.unwrap()
    };
    join_all((0..4).map(|_| separate())).await;
    assert_eq!(peer.connections(), 4);
    join_all((0..4).map(|_| separate())).await;
    assert_eq!(peer.connections(), 4, "they are used again");
}

/// A dead node behind a balancer takes connections and says nothing.
#[tokio::test]
async fn a_handshake_that_hangs_holds_up_no_others() {
    let peer = Peer::start(1, |_, (_, respond)| send(respond, Bytes::from_static(b"x"))).await;
    let balancer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", balancer.local_addr().unwrap().port());
    let mut ways = JoinSet::new();
    let node = peer.address;
    ways.spawn(async move {
        let (dead, _) = balancer.accept().await.unwrap();
        let mut open = JoinSet::new();
        loop {
            let (mut stream, _) = balancer.accept().await.unwrap();
            open.spawn(async move {
                let mut node = tokio::net::TcpStream::connect(node).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut node).await;
            });
            let _ = &dead;
        }
    });
    let (client, profile) = (client(), peer.profile(|p| p.timeouts.connect = Duration::from_secs(4)));
    let ends = join_all((0..8).map(|_| fetch(&client, &url, &profile))).await;
    let failed: Vec<_> = ends.iter().filter_map(|end| end.as_ref().err()).collect();
    assert_eq!(failed.len(), 1, "the one that met it: {failed:?}");
}

#[tokio::test]
async fn frames_are_gathered_before_they_are_handed_on() {
    let body = Bytes::from(vec![7; 4 << 20]);
    let peer = Peer::start(100, move |_, (_, respond)| send(respond, body.clone())).await;
    let client = client();
    let mut response = client.send(get(&peer.url()), &peer.profile(|_| {})).await.unwrap();
    let (mut chunks, mut bytes) = (0, 0);
    while let Some(chunk) = response.body.chunk().await {
        // Time for more frames to come, as a write to the disk takes.
        tokio::time::sleep(Duration::from_millis(2)).await;
        bytes += chunk.unwrap().len();
        chunks += 1;
    }
    assert_eq!(bytes, 4 << 20);
    assert!(chunks <= 64, "{chunks} chunks for 256 frames of 16 KiB");
}
