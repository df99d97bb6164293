//! Ranges as origins answer them: ignored, refused, of other bytes, of a file whose size nobody says.

use haul::model::checksum::Algorithm;
use haul::model::failure::FailureReason;
use haul::model::outcome::{AttemptEnd, ResumeKind};
use haul::model::spec::DownloadSpec;

use super::rig::{CUT, Rig, checksum, held};
use super::support::object::Object;
use super::support::reply::{Cut, Reply};

const SIZE: u64 = 300_000;

/// As [`held`], where nobody has said how long the file is.
async fn held_of_unknown_size(object: &Object) -> (Rig, DownloadSpec) {
    let rig = Rig::new();
    let chunked = object.clone();
    rig.origin.handle("/f", move |request| chunked.respond(request).chunked(1000).cut_at(CUT, Cut::Fin));
    let spec = rig.spec("/f");
    assert_eq!(rig.failed(&spec).await.0.reason, FailureReason::Truncated);
    (rig, spec)
}

#[tokio::test]
async fn ignored_ranges_are_passed_over() {
    let object = Object::new(1, SIZE);
    let (rig, spec) = held(&object).await;
    rig.origin.object("/f", object.clone().no_ranges());
    let (_, report) = rig.done(&spec).await;
    assert_eq!(rig.read("job/f"), object.bytes());
    assert!(report.resume.starts_with("continued at 100000: the origin ignores ranges"), "{}", report.resume);
    assert_eq!(report.resume_kind, ResumeKind::ReceivedAgain);
    let conditions: Vec<bool> =
        rig.origin.requests("/f").iter().map(|request| request.header("if-range").is_some()).collect();
    assert_eq!(conditions, [false, true, false], "once more without the condition");
}

#[tokio::test]
async fn lies_about_ranges_are_not_written() {
    let object = Object::new(1, SIZE);
    let lie = |content_range: Option<&'static str>| {
        let object = object.clone();
        move |request: &super::support::origin::Request| {
            if request.header("range").is_none() {
                return object.respond(request);
            }
            let reply = Reply::status(206).body(object.slice(0..SIZE - CUT)).header("ETag", "\"1-493e0\"");
            match content_range {
                Some(range) => reply.header("Content-Range", range),
                None => reply,
            }
        }
    };
    for (content_range, why) in [
        (Some("bytes 0-199999/300000"), "restarted: the origin sent another range than it was asked for"),
        (Some("bytes 100000-299999/300001"), "restarted: content changed"),
        (None, "restarted: the origin sent a range without saying which"),
        (Some("nonsense"), "restarted: the origin sent a range without saying which"),
    ] {
        let (rig, spec) = held(&object).await;
        rig.origin.handle("/f", lie(content_range));
        let (end, report) = rig.attempt(&spec).await;
        assert!(matches!(end, AttemptEnd::Done(_)), "{end:?}");
        assert_eq!(rig.read("job/f"), object.bytes());
        if content_range != Some("bytes 100000-299999/300001") {
            assert_eq!(report.resume, why);
        }
    }
}

#[tokio::test]
async fn an_answer_that_contradicts_itself_is_no_file() {
    use FailureReason as R;
    let rig = Rig::new();
    let chunked = "14\r\n0123456789abcdefghij\r\n0\r\n\r\n";
    let plain = "0123456789abcdefghij";
    for (status, lines, body, reason) in [
        ("206 Partial Content", "Content-Range: bytes 0-9/10\r\nContent-Length: 20", plain, R::Protocol),
        ("206 Partial Content", "Content-Range: bytes 0-29/30\r\nContent-Length: 20", plain, R::Protocol),
        ("206 Partial Content", "Content-Range: bytes 0-9/10\r\nTransfer-Encoding: chunked", chunked, R::Protocol),
        ("206 Partial Content", "Content-Range: bytes 0-9/10\r\nConnection: close", plain, R::Protocol),
        ("200 OK", "Content-Range: bytes 0-9/10\r\nTransfer-Encoding: chunked", chunked, R::Protocol),
        ("200 OK", "Content-Range: bytes 0-29/30\r\nTransfer-Encoding: chunked", chunked, R::Truncated),
        ("200 OK", "Content-Range: bytes 0-29/*\r\nConnection: close", plain, R::Truncated),
    ] {
        let answer = format!("HTTP/1.1 {status}\r\n{lines}\r\n\r\n{body}");
        rig.origin.reply("/f", Reply::raw(answer).then_close());
        let (failure, _) = rig.failed(&rig.spec("/f")).await;
        assert_eq!((failure.reason, failure.retryable), (reason, true), "{status} {lines}: {failure}");
        rig.discard(&rig.spec("/f")).await;
        assert_eq!(rig.listing(), [""; 0], "{status} {lines}");
    }
}

/// Bytes that go on behind the end of a range are of another file, or the range is: nothing of it is kept.
#[tokio::test]
async fn a_range_that_goes_on_spoils_what_is_held_and_no_other_file() {
    let object = Object::new(1, SIZE);
    let (rig, spec) = held(&object).await;
    let served = object.clone();
    rig.origin.handle("/f", move |request| {
        let reply = served.respond(request);
        match request.header("range") {
            Some(_) => reply.body(served.slice(CUT - 7..SIZE)).chunked(1000),
            None => reply,
        }
    });
    let (end, _) = rig.attempt(&spec).await;
    assert!(matches!(end, AttemptEnd::Done(_)), "{end:?}");
    assert_eq!(rig.read("job/f"), object.bytes(), "from the start, without ranges");
}

#[tokio::test]
async fn a_slice_that_is_sent_as_200_announces_nothing_of_the_whole() {
    use base64::Engine as _;
    let object = Object::new(1, SIZE);
    let (rig, spec) = held(&object).await;
    let served = object.clone();
    rig.origin.handle("/f", move |request| {
        let (slice, range) = (served.slice(CUT..SIZE), format!("bytes {CUT}-{}/{SIZE}", SIZE - 1));
        let digest = checksum(Algorithm::Md5, &slice).digest;
        let digest = base64::engine::general_purpose::STANDARD.encode(digest);
        let reply = if request.header("range").is_some() { Reply::ok(slice) } else { Reply::status(500) };
        reply.header("Content-Range", &range).header("Content-MD5", &digest).header("ETag", "\"1-493e0\"")
    });
    assert_eq!(rig.done(&spec).await.1.resume_kind, ResumeKind::Continued);
    assert_eq!(rig.read("job/f"), object.bytes());
}

/// A disk image begins with zeros, so that a slice of it begins as the whole does.
#[tokio::test]
async fn a_slice_as_200_that_begins_as_the_file_does_is_not_taken_for_the_whole() {
    const ZEROS: usize = 64 << 10;
    let rig = Rig::new();
    let image = [vec![0; ZEROS], Object::new(1, SIZE).bytes()].concat();
    let reply = |body: &[u8]| Reply::ok(body.to_vec()).header("ETag", "\"v1\"");
    // Without a length, and cut within the zeros.
    rig.origin.reply("/f", reply(&image).chunked(1000).cut_at(10_000, Cut::Fin));
    let spec = rig.spec("/f");
    assert_eq!(rig.failed(&spec).await.0.reason, FailureReason::Truncated);
    let served = image.clone();
    rig.origin.handle("/f", move |request| {
        let range = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        reply(&served[range.map_or(0, |first| first.parse().unwrap())..])
    });
    rig.done(&spec).await;
    assert!(rig.read("job/f") == image, "the file is another");
}

#[tokio::test]
async fn a_range_that_cannot_be_satisfied() {
    // The size was not known: all bytes came, and then the connection was cut before the end of the chunked body.
    let object = Object::new(1, CUT);
    let (rig, spec) = held_of_unknown_size(&object).await;
    rig.origin.object("/f", object.clone());
    let (_, report) = rig.done(&spec).await;
    assert_eq!(report.resume, "continued at 100000: nothing was missing");
    assert_eq!(report.resume_kind, ResumeKind::Complete);
    assert_eq!(report.http_status, 206, "that there is a last byte, and none behind it, is confirmed");
    assert_eq!(rig.read("job/f"), object.bytes());
}

/// As old servers, and those who wrote their own, spell it.
#[tokio::test]
async fn a_range_is_read_however_it_is_spelt() {
    for spelling in ["bytes=F-L/T", "bytes: F-L/T", "bytes F - L / T", "F-L/T", "bytes F-L"] {
        let object = Object::new(1, SIZE);
        let (rig, spec) = held(&object).await;
        let (served, value) =
            (object.clone(), spelling.replace('F', "100000").replace('L', "299999").replace('T', "300000"));
        rig.origin.handle("/f", move |_| {
            let reply = Reply::status(206).body(served.slice(CUT..SIZE)).header("ETag", "\"1-493e0\"");
            reply.header("Content-Range", &value)
        });
        let (_, report) = rig.done(&spec).await;
        assert_eq!(report.resume, format!("continued at {CUT}"), "{spelling}");
        assert_eq!(rig.read("job/f"), object.bytes(), "{spelling}");
    }
}

/// What guards an origin may forbid ranges and nothing else, and the part must not keep the file from coming.
#[tokio::test]
async fn a_range_that_is_refused_does_not_cost_the_file() {
    for status in [204, 304, 403, 405] {
        let object = Object::new(1, SIZE);
        let (rig, spec) = held(&object).await;
        let served = object.clone();
        rig.origin.handle("/f", move |request| {
            if request.header("range").is_some() { Reply::status(status) } else { served.respond(request) }
        });
        let (_, report) = rig.done(&spec).await;
        assert_eq!(report.resume_kind, ResumeKind::UnusableAnswer, "{status}");
        assert_eq!(rig.read("job/f"), object.bytes(), "{status}");
    }
    let object = Object::new(1, SIZE);
    let (rig, spec) = held(&object).await;
    rig.origin.reply("/f", Reply::status(403));
    assert_eq!(rig.failed(&spec).await.0.http_status, 403);
    rig.origin.object("/f", object.clone());
    assert_eq!(rig.done(&spec).await.1.resume, "continued at 100000", "what was held is still held");
}

/// What an origin in trouble answers, and one that has trouble with ranges alone, for ever.
#[tokio::test]
async fn an_error_for_each_range_does_not_keep_the_file_from_coming() {
    let object = Object::new(1, SIZE);
    let (rig, spec) = held(&object).await;
    let served = object.clone();
    rig.origin.handle("/f", move |request| {
        if request.header("range").is_some() { Reply::status(500) } else { served.respond(request) }
    });
    assert_eq!(rig.failed(&spec).await.0.http_status, 500);
    // Nothing but the part itself knows of the first time.
    let again = Rig::new();
    std::fs::create_dir_all(again.path("job")).unwrap();
    for name in [".haul-0-1.part", ".haul-0-1.meta"] {
        std::fs::rename(rig.path("job").join(name), again.path("job").join(name)).unwrap();
    }
    let (result, report) = again.done(&spec).await;
    assert_eq!(report.resume, "continued at 100000: the origin sends no usable range, so what is before came again");
    assert_eq!((report.resume_kind, result.resumed_bytes), (ResumeKind::ReceivedAgain, CUT));
    assert_eq!(again.read("job/f"), object.bytes());
    assert_eq!(rig.ranges("/f"), ["-", "bytes=100000-", "bytes=100000-", "-"]);
    // Of one that was in other trouble the rest is asked for, and what is held stays.
    let (rig, spec) = held(&object).await;
    rig.origin.reply("/f", Reply::status(503));
    for _ in 0..5 {
        assert_eq!(rig.failed(&spec).await.0.http_status, 503);
    }
    rig.origin.object("/f", object.clone());
    assert_eq!(rig.done(&spec).await.1.resume, "continued at 100000");
    let whole = rig.ranges("/f")[1..].iter().filter(|range| *range == "-").count();
    assert_eq!(whole, 2, "every other time");
}

#[tokio::test]
async fn a_success_that_nobody_knows_is_one() {
    let rig = Rig::new();
    rig.origin.reply("/f", Reply::status(299).body("all"));
    rig.done(&rig.spec("/f")).await;
    assert_eq!(rig.read("job/f"), b"all");
}

/// The last byte of an answer of unknown size may be the last of the file, or not: the attempt asks.
#[tokio::test]
async fn a_range_of_a_file_of_unknown_size_is_gone_on_with_at_once() {
    let object = Object::new(1, SIZE);
    let (rig, spec) = held_of_unknown_size(&object).await;
    let served = object.clone();
    rig.origin.handle("/f", move |request| {
        let from =
            request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let from: u64 = from.unwrap_or_default();
        if from >= SIZE {
            return Reply::status(416)
                .header("Content-Range", &format!("bytes */{SIZE}"))
                .header("ETag", "\"1-493e0\"");
        }
        let end = (from + CUT).min(SIZE);
        let total = if from + 1 == SIZE { SIZE.to_string() } else { "*".to_owned() };
        let reply = Reply::status(206).body(served.slice(from..end)).header("ETag", "\"1-493e0\"");
        reply.header("Content-Range", &format!("bytes {from}-{}/{total}", end - 1))
    });
    let (result, report) = rig.done(&spec).await;
    assert_eq!(rig.read("job/f"), object.bytes());
    assert_eq!((report.resumed_from, result.resumed_bytes), (CUT, CUT));
    assert_eq!(report.resume, "continued at 100000");
}

/// An origin that gives a little now and then does not hold an attempt for ever.
#[tokio::test]
async fn a_file_of_unknown_size_that_trickles_is_given_up() {
    let object = Object::new(1, SIZE);
    let (mut rig, spec) = held(&object).await;
    std::fs::remove_file(rig.path("job/.haul-0-1.meta")).unwrap();
    let chunked = object.clone();
    rig.origin.handle("/f", move |request| chunked.respond(request).chunked(1000).cut_at(CUT, Cut::Fin));
    assert_eq!(rig.failed(&spec).await.0.reason, FailureReason::Truncated);
    let (served, piece) = (object.clone(), 20_000);
    rig.origin.handle("/f", move |request| {
        let from =
            request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let from: u64 = from.unwrap_or_default();
        let reply = Reply::status(206).body(served.slice(from..from + piece)).header("ETag", "\"1-493e0\"");
        reply.header("Content-Range", &format!("bytes {from}-{}/*", from + piece - 1))
    });
    // More than any loopback has.
    let mut profile = haul::net::Profile::clone(&rig.profile);
    profile.timeouts.low_speed_bytes_per_second = 1 << 50;
    rig.profile = profile.into();
    let (failure, report) = rig.failed(&spec).await;
    assert!(failure.retryable, "{failure}");
    assert_eq!((report.resumed_from, report.held_bytes), (CUT, CUT + 2 * piece));
}

/// The range says where it ends, and its body ends before that: nobody has said that the file does.
#[tokio::test]
async fn a_range_of_a_file_of_unknown_size_that_is_cut_ends_no_file() {
    let object = Object::new(1, SIZE);
    for form in ["bytes {range}/*", "bytes {range}"] {
        let (rig, spec) = held_of_unknown_size(&object).await;
        let value = form.replace("{range}", &format!("{CUT}-{}", 2 * CUT - 1));
        let half =
            Reply::status(206).body(object.slice(CUT..CUT + CUT / 2)).chunked(1000).header("ETag", "\"1-493e0\"");
        rig.origin.reply("/f", half.header("Content-Range", &value));
        let (failure, _) = rig.failed(&spec).await;
        assert_eq!(failure.reason, FailureReason::Truncated, "{form}");
        rig.origin.object("/f", object.clone());
        rig.done(&spec).await;
        assert_eq!(rig.read("job/f"), object.bytes(), "{form}");
    }
}

#[tokio::test]
async fn a_shorter_whole_under_the_same_tag_is_another_version() {
    let rig = Rig::new();
    let object = Object::new(1, SIZE);
    let short = Object::new(1, 30_000).validators_of(&object).no_ranges();
    rig.origin.handle("/f", move |request| match request.nth {
        0 => object.respond(request).chunked(9999).cut_at(CUT, Cut::Fin),
        _ => short.respond(request),
    });
    rig.failed(&rig.spec("/f")).await;
    let (result, report) = rig.done(&rig.spec("/f")).await;
    // It could be a range that does not say so, until the whole was asked for.
    let how = "restarted: the origin sent another range than it was asked for";
    assert_eq!((result.bytes, report.resume.as_str()), (30_000, how));
}

#[tokio::test]
async fn a_file_in_pieces_of_a_byte_is_no_file() {
    let rig = Rig::new();
    let object = Object::new(1, SIZE).etag("\"x\"");
    rig.origin.handle("/f", move |request| match request.header("range") {
        None => object.respond(request).cut_at(CUT, Cut::Fin),
        Some(range) => {
            let first: u64 = range["bytes=".len()..].split('-').next().unwrap().parse().unwrap();
            let one = object.slice(first..first + 1);
            let named = format!("bytes {first}-{first}/{SIZE}");
            Reply::status(206).header("ETag", "\"x\"").header("Content-Range", &named).body(one)
        }
    });
    rig.failed(&rig.spec("/f")).await;
    let (failure, _) = rig.failed(&rig.spec("/f")).await;
    assert_eq!((failure.reason, failure.retryable), (FailureReason::LowSpeed, true), "{failure}");
}
