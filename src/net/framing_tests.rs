//! Odd heads, cut everywhere.

use proptest::prelude::*;

use super::*;

/// What is handed on of a head that comes in pieces of this size.
fn seen(watch: &Watch, head: &[u8], size: usize) -> Vec<u8> {
    let (mut all, mut held) = (Vec::new(), Vec::new());
    watch.begin();
    for piece in head.chunks(size) {
        let mut bytes = [&held[..], piece].concat();
        let seen = watch.see(&mut bytes, piece.len());
        held = bytes.split_off(bytes.len() - seen.held);
        if let Some((at, instead)) = seen.instead {
            bytes.truncate(at);
            bytes.extend(instead);
        }
        all.extend(bytes);
    }
    assert!(held.is_empty(), "a head ends with its last line");
    all
}

fn is_broken(head: &str) -> bool {
    let watch = Watch::default();
    seen(&watch, head.as_bytes(), 3);
    watch.is_broken()
}

#[test]
#[allow(clippy::too_many_lines)] // One odd head after another.
fn what_is_odd_is_put_right_wherever_it_is_cut() {
    let long = "x".repeat(LINE_BYTES_MAX);
    for (head, right) in [
        ("HTTP/1.0 200 OK\r\nX: a\0b\rc\x07\r\n\r\n".to_owned(), "HTTP/1.1 200 OK\r\nX: a b c \r\n\r\n".to_owned()),
        ("HTTP/1.1 200 OK\nX: a\r\rb\n\n".into(), "HTTP/1.1 200 OK\nX: a  b\n\n".into()),
        ("HTTP/1.0   200\r\n\r\n".into(), "HTTP/1.1 200  \r\n\r\n".into()),
        ("HTTP/2.0 200 OK\r\n\r\n".into(), "HTTP/1.1 200 OK\r\n\r\n".into()),
        (
            "HTTP/1.1 200 OK\r\r\nX: y\r\r\r\n\r\r\nbody\r\r\n".into(),
            "HTTP/1.1 200 OK \r\nX: y  \r\n\r\nbody\r\r\n".into(),
        ),
        (
            "HTTP/1.1 103 E\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 200 OK\r\n\r\n3;a\n".into(),
            "HTTP/1.1 103 E\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 200 OK\r\n\r\n3;a\n".into(),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\ntransfer-encoding : x, Chunked\r\n\r\n3;a\nabc\n0;\n\nX".into(),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\ntransfer-encoding : x, Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nX"
                .into(),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n , gzip\r\n\r\n3;a\n".into(),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n , gzip\r\n\r\n3;a\n".into(),
        ),
        ("HTTP/1.2 200 OK\r\n\r\n".into(), "HTTP/1.1 200 OK\r\n\r\n".into()),
        ("http/1.1  404 Not\r\n\r\n".into(), "HTTP/1.1 404 Not \r\n\r\n".into()),
        ("HTTP/1.1 200OK\r\n\r\n".into(), "HTTP/1.1 200 K\r\n\r\n".into()),
        ("HTTP/1.1 2000\r\n\r\n".into(), "HTTP/1.1 2000\r\n\r\n".into()),
        ("ICY 200 OK\r\n\r\n".into(), "ICY 200 OK\r\n\r\n".into()),
        (
            "HTTP/1.1  103 Early\r\n\r\nHTTP/1.0  200 OK\r\n\r\n".into(),
            "HTTP/1.1 103 Early \r\n\r\nHTTP/1.1 200 OK \r\n\r\n".into(),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding : identity\r\n\r\n".into(),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding   identity\r\n\r\n".into(),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding:identity,, Identity\r\nTransfer-Encoding:,\r\n\r\n".into(),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding identity,, Identity\r\nTransfer-Encoding ,\r\n\r\n".into(),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity, chunked\r\n\r\n".into(),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity, chunked\r\n\r\n".into(),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked ,\t,\r\n\r\n3;a\nabc\n0;\n\nX".into(),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked    \r\n\r\n3\r\nabc\r\n0\r\n\r\nX".into(),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip,\r\n chunked\r\n\r\n".into(),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip,\r\n chunked\r\n\r\n".into(),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: \r\nX: 1\r\n\r\n".into(),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding  \r\nX: 1\r\n\r\n".into(),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\n\r\n".into(),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\n\r\n".into(),
        ),
        (
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: {long}\r\n\r\n3;a\nabc\n0;\n\nX"),
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: {long}\r\n\r\n3\r\nabc\r\n0\r\n\r\nX"
            ),
        ),
        // A piece of 276 bytes ends before its first CR.
        (
            format!("HTTP/1.1 200 OK\r\nX: {long}\r\r\n\r\n"),
            format!("HTTP/1.1 200 OK\r\nX: {long} \r\n\r\n"),
        ),
        (
            format!("HTTP/1.1 200 OK\r\nX: {long}\r{long}\r\n\r\n"),
            format!("HTTP/1.1 200 OK\r\nX: {long} {long}\r\n\r\n"),
        ),
    ] {
        for size in [1, 2, 3, 7, 50, 276, 1000] {
            let got = seen(&Watch::default(), head.as_bytes(), size);
            assert_eq!(String::from_utf8_lossy(&got), right, "{head:?} by {size}");
        }
    }
}

#[test]
fn a_line_that_was_meant_to_frame_the_body_must_do_so() {
    for good in [
        "Content-Length: 3",
        "content-length :3",
        "X-Content-Length 3",
        "PHP Warning: Content-Length",
        "Transfer-Encoding:\r\n chunked",
        "X: 1\r\n Content-Length 3",
        "Content_Length: 3",
        "Content-Length: 3\r",
    ] {
        assert!(!is_broken(&format!("HTTP/1.1 200 OK\r\n{good}\r\n\r\nContent Length: 3\r\n")), "{good}");
    }
    for bad in [
        "Content Length: 3",
        "Content-Length 3",
        "Content_Length: x",
        "Content-Length\u{0}: 3",
        "Content-Length: 3\u{0}",
        "Transfer-Encoding\u{b}: chunked",
        "TransferEncoding: chunked",
        "Transfer-Encoding: identity\r\n , chunked",
        "Transfer-Encoding: identity\r\n \r\n\t, chunked",
    ] {
        assert!(is_broken(&format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\nX: y\r\n{bad}\r\n\r\n")), "{bad}");
    }
}

#[test]
fn codings_whose_list_does_not_end_are_broken() {
    let nothing = "identity, ".repeat(50);
    assert!(is_broken(&format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {nothing}chunked\r\n\r\n")));
}

#[test]
fn a_first_line_that_is_a_fold_of_nothing_frames_nothing() {
    assert!(is_broken("HTTP/1.1 200 OK\r\n Content-Length: 10\r\n\r\n"));
    assert!(!is_broken("HTTP/1.1 200 OK\r\n X: 10\r\nContent-Length: 10\r\n\r\n"));
}

proptest! {
    #[test]
    fn never_panics_and_keeps_every_byte(head in proptest::collection::vec(any::<u8>(), 0..600), size in 1usize..400) {
        let watch = Watch::default();
        watch.begin();
        let (mut held, mut handed_on) = (Vec::new(), 0);
        for piece in head.chunks(size) {
            let mut bytes = [&held[..], piece].concat();
            let seen = watch.see(&mut bytes, piece.len());
            if let Some((at, _)) = seen.instead {
                // It is over, and what follows is rewritten, which is for the tests of chunks.
                prop_assert!(at < bytes.len() && seen.held == 0);
                return Ok(());
            }
            let kept = bytes.len() - seen.held;
            held = bytes.split_off(kept);
            handed_on += kept;
            prop_assert!(held.len() <= LINE_BYTES_MAX);
        }
        prop_assert_eq!(handed_on + held.len(), head.len());
    }

    #[test]
    fn what_follows_a_head_stays_as_it_is(body in proptest::collection::vec(any::<u8>(), 0..50), size in 1usize..60) {
        let head = b"HTTP/1.0 200 OK\r\nX: a\0b\rc\x07\r\n\r\n";
        let got = seen(&Watch::default(), &[&head[..], &body].concat(), size);
        prop_assert_eq!(&got[..head.len()], b"HTTP/1.1 200 OK\r\nX: a b c \r\n\r\n");
        prop_assert_eq!(&got[head.len()..], &body[..]);
    }
}
