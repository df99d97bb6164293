//! Where a request ends, and which protocol a connection speaks: whatever can be read in two ways is read in none.

use std::io::{Read as _, Write as _};

use crate::it::network::raw;
use crate::support::server::Server;

/// A request that would be answered, if it were one.
fn hidden(server: &Server) -> String {
    format!("GET /healthz HTTP/1.1\r\nhost: {}\r\n\r\n", server.address)
}

fn answers(text: &str) -> usize {
    text.matches("HTTP/1.1 ").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_second_request_is_found_within_a_first() {
    let server = Server::start().await;
    let hidden = hidden(&server);
    let post = format!("POST /v1/jobs HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n", server.address);
    for (lines, body) in [
        // Two lengths.
        ("content-length: 4\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
        ("transfer-encoding: chunked\r\ncontent-length: 4\r\n", "0\r\n\r\n"),
        ("content-length: 2\r\ncontent-length: 40\r\n", "{}"),
        ("content-length: 2, 40\r\n", "{}"),
        // Lengths and encodings that some would read.
        ("content-length: +2\r\n", "{}"),
        ("content-length: 0x2\r\n", "{}"),
        ("transfer-encoding : chunked\r\ncontent-length: 2\r\n", "{}"),
        ("transfer-encoding: xchunked\r\n", "0\r\n\r\n"),
        ("transfer-encoding: chunked, identity\r\n", "0\r\n\r\n"),
        ("transfer-encoding: \x0bchunked\r\ncontent-length: 5\r\n", "0\r\n\r\n"),
        ("x: a\r\n content-length: 50\r\ncontent-length: 2\r\n", "{}"),
        // Chunks that are none.
        ("transfer-encoding: chunked\r\n", "-1\r\n{}\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "0x2\r\n{}\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "2\r\n{}xx0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "2;\nxx\r\n{}\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "fffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
    ] {
        let answer = raw(&server, format!("{post}{lines}\r\n{body}{hidden}").as_bytes()).await;
        assert!(answers(&answer) == 1 && answer.starts_with("HTTP/1.1 400"), "{lines:?} {body:?}: {answer}");
    }
    let old = format!("{post}transfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}").replacen("HTTP/1.1", "HTTP/1.0", 1);
    let answer = raw(&server, old.as_bytes()).await;
    assert!(!answer.contains(" 200 "), "{answer}");
    let plain = hidden.replacen("\r\n\r\n", "\r\nconnection: close\r\n\r\n", 1);
    for host in ["evil.example", server.address.as_str()] {
        let twice = plain.replacen("\r\n", &format!("\r\nhost: {host}\r\n"), 1);
        let answer = raw(&server, twice.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 421") && answer.contains("more than one `Host` line"), "{answer}");
    }
    assert!(raw(&server, plain.as_bytes()).await.starts_with("HTTP/1.1 200"), "it would have been answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_speaks_the_protocol_that_it_began_with() {
    let server = Server::start().await;
    let hidden = hidden(&server);
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    // HTTP/2 does not begin behind a request of HTTP/1.1, asked for or not.
    let upgrade = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n";
    for asked in [hidden.clone(), hidden.replacen("\r\n\r\n", &format!("\r\n{upgrade}\r\n"), 1)] {
        let answer = raw(&server, format!("{asked}{preface}{hidden}").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answers(&answer) == 1, "{asked}{answer}");
        assert!(!answer.contains("\0\0\0\x04\x01"), "no settings are acknowledged: {answer}");
    }
    // And a request of HTTP/1.1 is none within HTTP/2.
    let answer = raw(&server, format!("{preface}{hidden}").as_bytes()).await;
    assert_eq!(answers(&answer), 0, "{answer}");
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A client whose deadlines are over before the server has looked at its calls loses these calls, and not its connection.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_given_up_at_once_leave_the_connection_to_others() {
    const CALLS: u32 = 200;
    let server = Server::start().await;
    let mut head = vec![0x83, 0x86];
    for (name, value) in [
        (&[0x04][..], "/haul.v1.AccessService/WhoAmI"),
        (&[0x01][..], server.address.as_str()),
        (&[0x0f, 0x10][..], "application/grpc"),
    ] {
        head.extend(name);
        head.push(value.len() as u8);
        head.extend(value.as_bytes());
    }
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(4, 0, 0, &[]));
    for stream in (0..CALLS).map(|nth| 2 * nth + 1) {
        sent.extend(frame(1, 4, stream, &head));
        sent.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    sent.extend(frame(6, 0, 0, b"answered"));
    let address = server.address.clone();
    let kinds = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        stream.write_all(&sent).unwrap();
        let mut kinds = Vec::new();
        let mut head = [0; 9];
        while !kinds.contains(&(6, 1)) && !kinds.contains(&(7, 0)) && stream.read_exact(&mut head).is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            stream.read_exact(&mut vec![0; length as usize]).unwrap();
            kinds.push((head[3], head[4]));
        }
        kinds
    });
    let kinds = kinds.await.unwrap();
    assert!(kinds.contains(&(6, 1)) && !kinds.contains(&(7, 0)), "no GOAWAY: {kinds:?}");
}
