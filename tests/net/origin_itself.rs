//! What the tests lean on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::object::Object;
use crate::support::origin::Origin;
use crate::support::reply::{Cut, Reply};

fn ask(origin: &Origin, request: &str) -> (String, std::io::Result<()>) {
    let mut stream = TcpStream::connect(origin.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer).map(drop);
    (String::from_utf8_lossy(&answer).into_owned(), end)
}

#[test]
fn serves_ranges_and_conditions() {
    let origin = Origin::start();
    let object = Object::new(1, 100).etag("\"v1\"");
    origin.object("/o", object.clone());
    let head = |headers: &str| {
        let request = format!("GET /o?x=1 HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        ask(&origin, &request).0.lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(head(""), "HTTP/1.1 200 Scripted");
    assert_eq!(head("Range: bytes=10-19\r\n"), "HTTP/1.1 206 Scripted");
    assert_eq!(head("Range: bytes=100-\r\n"), "HTTP/1.1 416 Scripted");
    assert_eq!(head("Range: bytes=0-1\r\nIf-Range: \"v1\"\r\n"), "HTTP/1.1 206 Scripted");
    assert_eq!(head("Range: bytes=0-1\r\nIf-Range: \"v0\"\r\n"), "HTTP/1.1 200 Scripted");
    assert_eq!(head("If-None-Match: \"v1\"\r\n"), "HTTP/1.1 304 Scripted");
    assert_eq!(head("If-Match: \"v0\"\r\n"), "HTTP/1.1 412 Scripted");
    assert_eq!(object.slice(3..50), object.bytes()[3..50]);
    let seen = origin.requests("/o");
    assert_eq!((seen.len(), seen[6].nth, seen[0].param("x").as_deref()), (7, 6, Some("1")));
}

#[test]
fn cuts_as_it_is_told() {
    let origin = Origin::start();
    origin.reply("/fin", Reply::ok("0123456789").cut_at(4, Cut::Fin));
    origin.reply("/rst", Reply::ok("0123456789").cut_at(4, Cut::Reset).delay(Duration::from_millis(20)));
    origin.reply("/gone", Reply::gone(Cut::Fin));
    let (answer, end) = ask(&origin, "GET /fin HTTP/1.1\r\n\r\n");
    assert!(answer.ends_with("\r\n\r\n0123") && end.is_ok(), "{answer}");
    assert!(ask(&origin, "GET /rst HTTP/1.1\r\n\r\n").1.is_err());
    assert_eq!(ask(&origin, "GET /gone HTTP/1.1\r\n\r\n").0, "");
}
