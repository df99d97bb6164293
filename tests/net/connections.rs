//! The pool, and what the guard does to it.

use std::time::Duration;

use futures_util::future::join_all;
use haul::model::failure::FailureReason;
use haul::net::{Guard, HttpClient, Transport};
use http::Method;

use crate::common::{class, client, fetch, get, one_thread_each, profile, read, with_http};
use crate::support::origin::Origin;
use crate::support::reply::{Cut, Reply};
use crate::support::tls::{Authority, Leaf};

#[tokio::test]
async fn one_connection_serves_one_request_after_another() {
    let (origin, client, profile) = (Origin::start(), client(), profile(|_| {}));
    origin.reply("/", Reply::ok("hello"));
    origin.reply("/chunked", Reply::ok("hello").chunked(2));
    origin.reply("/empty", Reply::status(204));
    for path in ["/", "/chunked", "/empty", "/", "/missing", "/"] {
        fetch(&client, &origin.url(path), &profile).await.unwrap();
    }
    assert_eq!(origin.connections(), 1);
    let url = origin.url("/");
    let many = join_all((0..8).map(|_| fetch(&client, &url, &profile))).await;
    assert!(many.into_iter().all(|end| end.unwrap() == (200, b"hello".to_vec())));
    assert!(origin.connections() <= 8);
    client.close().await;
    assert!(fetch(&client, &origin.url("/"), &profile).await.is_err(), "a closed client stays closed");
}

#[tokio::test]
async fn closing_ends_every_connection() {
    let (origin, client, profile) = (Origin::start(), client(), profile(|_| {}));
    origin.reply("/", Reply::ok("hello"));
    origin.reply("/stuck", Reply::ok("hello").stall_at(2));
    fetch(&client, &origin.url("/"), &profile).await.unwrap();
    let stuck = client.send(get(&origin.url("/stuck")), &profile).await.unwrap();
    client.close().await;
    drop(stuck);
    let closed = async {
        while origin.open_connections() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), closed).await.is_ok(), "a connection stays open");
}

#[test]
fn threads_share_what_is_unused() {
    let origin_runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _entered = origin_runtime.enter();
    let (origin, client, profile) = (Origin::start(), client(), profile(|_| {}));
    let body = vec![7; 3 << 20];
    origin.reply("/", Reply::ok(body.clone()));
    one_thread_each(4, |runtime| {
        for _ in 0..2 {
            let end = runtime.block_on(fetch(&client, &origin.url("/"), &profile)).unwrap();
            assert!(end == (200, body.clone()));
        }
    });
    assert_eq!((origin.requests("/").len(), origin.connections()), (8, 1));
}

#[tokio::test]
async fn a_body_that_is_let_go_closes_its_connection() {
    let (origin, client, profile) = (Origin::start(), client(), profile(|_| {}));
    origin.reply("/", Reply::ok(vec![7; 8 << 20]).bytes_per_second(1 << 20));
    let response = client.send(get(&origin.url("/")), &profile).await.unwrap();
    assert_eq!(origin.in_flight(), 1);
    drop(response);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((origin.in_flight(), origin.open_connections()), (0, 0));
}

#[tokio::test]
async fn a_stale_connection_is_replaced_without_a_word() {
    let (origin, client, profile) = (Origin::start(), client(), profile(|_| {}));
    // The origin takes the second request of a connection and drops it: the worst moment to go away.
    origin.handle("/*", |request| match request.nth {
        1 => Reply::gone(Cut::Reset),
        _ => Reply::ok("hello"),
    });
    for _ in 0..2 {
        assert_eq!(fetch(&client, &origin.url("/get"), &profile).await.unwrap().0, 200);
    }
    assert_eq!((origin.requests("/get").len(), origin.connections()), (3, 2));

    let post = || {
        let mut post = get(&origin.url("/post"));
        post.method = Method::POST;
        post.body = "once".into();
        post
    };
    let first = client.send(post(), &profile).await.unwrap();
    read(first.body).await.unwrap();
    let failure = client.send(post(), &profile).await.unwrap_err();
    assert_eq!(class(&failure), (FailureReason::Connect, true), "a POST that may have arrived is not sent again");
    assert_eq!(origin.requests("/post").len(), 2);
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_not_used() {
    let (origin, client, profile) = (Origin::start(), client(), profile(|_| {}));
    origin.reply("/", Reply::ok("hello").then_close());
    for _ in 0..3 {
        assert_eq!(fetch(&client, &origin.url("/"), &profile).await.unwrap().0, 200);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(origin.requests("/").len(), 3, "none was sent twice");
}

/// Nobody has asked for it, so it is not the answer to what is asked next, also where the runtime has not heard of it yet.
#[tokio::test]
async fn what_came_unasked_is_no_answer() {
    let authority = Authority::new();
    for _ in 0..4 {
        unasked(None).await;
        unasked(Some(&authority)).await;
    }
}

async fn unasked(authority: Option<&Authority>) {
    trait Both: std::io::Read + std::io::Write {}
    impl<T: std::io::Read + std::io::Write> Both for T {}
    const RIGHT: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright";
    const UNASKED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong";
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let scheme = if authority.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}/", listener.local_addr().unwrap());
    let config = authority.map(|authority| authority.server(Leaf::good()));
    let ((say, said), (sent, came)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
    let peer = std::thread::spawn(move || {
        for nth in 0..2 {
            let (socket, _) = listener.accept().unwrap();
            // Else it would hold back what it has written, until what it wrote before is acknowledged.
            socket.set_nodelay(true).unwrap();
            let mut stream: Box<dyn Both> = match &config {
                Some(config) => {
                    let session = rustls::ServerConnection::new(config.clone()).unwrap();
                    Box::new(rustls::StreamOwned::new(session, socket))
                }
                None => Box::new(socket),
            };
            while stream.read(&mut [0; 4096]).unwrap_or(0) > 0 {
                stream.write_all(RIGHT).unwrap();
                if nth == 0 && said.recv().is_ok() {
                    stream.write_all(UNASKED).unwrap();
                    sent.send(()).unwrap();
                }
            }
        }
    });
    let (client, profile) = (client(), with_http(|http| http.ca_pem = authority.map(Authority::pem)));
    assert_eq!(fetch(&client, &url, &profile).await.unwrap().1, b"right");
    // Nothing is waited for, so that the runtime does not look at its sockets.
    say.send(()).unwrap();
    came.recv().unwrap();
    assert_eq!(fetch(&client, &url, &profile).await.unwrap().1, b"right");
    drop((client, say));
    peer.join().unwrap();
}

#[tokio::test]
async fn the_guard_stands_before_names_and_literals() {
    let origin = Origin::start();
    origin.reply("/", Reply::ok("secret"));
    let client = HttpClient::new(Guard::default());
    let port = origin.address().port();
    for host in ["127.0.0.1", "localhost", "0x7f.1", "[::ffff:127.0.0.1]", "0.0.0.0", "127.0.0.1."] {
        let failure = fetch(&client, &format!("http://{host}:{port}/"), &profile(|_| {})).await.unwrap_err();
        assert_eq!(class(&failure), (FailureReason::ForbiddenAddress, false), "{host}: {failure}");
    }
    let network = HttpClient::new(Guard { allow_networks: vec!["127.0.0.0/8".parse().unwrap()], ..Guard::default() });
    assert_eq!(fetch(&network, &origin.url("/"), &profile(|_| {})).await.unwrap().0, 200);
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn what_goes_over_the_wire() {
    let (origin, client, profile) = (Origin::start(), client(), profile(|_| {}));
    origin.reply("/a%20b", Reply::ok(""));
    let mut request = get(&origin.url("/a b?q=ü|x#part"));
    request.method = Method::PUT;
    request.headers.insert("x-one", "1".parse().unwrap());
    request.body = "body".into();
    let response = client.send(request, &profile).await.unwrap();
    assert_eq!(response.remote, Some(origin.address()));
    let seen = &origin.all_requests()[0];
    assert_eq!(seen.target, "/a%20b?q=%C3%BC|x");
    assert_eq!((seen.method.as_str(), &seen.body[..]), ("PUT", &b"body"[..]));
    assert_eq!(seen.header("host"), Some(origin.address().to_string().as_str()));
    assert_eq!((seen.header("x-one"), seen.header("content-length")), (Some("1"), Some("4")));
}
