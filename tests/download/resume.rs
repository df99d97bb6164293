//! Each row of the resume decision table, on the wire.

use std::time::Duration;

use haul::model::checksum::Algorithm;
use haul::model::failure::FailureReason;
use haul::model::outcome::{AttemptEnd, ResumeKind};
use haul::model::spec::DownloadSpec;

use super::rig::{Rig, checksum};
use super::support::object::Object;
use super::support::reply::{Cut, Reply};

const SIZE: u64 = 300_000;
const CUT: u64 = 100_000;

/// A rig that holds the first bytes of `object`, which the origin serves whole from then on.
async fn held(object: &Object) -> (Rig, DownloadSpec) {
    let rig = Rig::new();
    let cut = object.clone();
    rig.origin.handle("/f", move |request| cut.respond(request).cut_at(CUT, Cut::Fin));
    let spec = rig.spec("/f");
    let (failure, _) = rig.failed(&spec).await;
    assert_eq!((failure.reason, failure.retryable), (FailureReason::Truncated, true), "{failure}");
    rig.origin.object("/f", object.clone());
    (rig, spec)
}

#[tokio::test]
async fn goes_on_where_it_was() {
    let object = Object::new(1, SIZE);
    let (rig, spec) = held(&object).await;
    let (result, report) = rig.done(&spec).await;
    assert_eq!(rig.read("job/f"), object.bytes());
    assert_eq!(report.resume, format!("continued at {CUT}"));
    assert_eq!(report.resume_kind, ResumeKind::Continued);
    assert_eq!((report.resumed_from, report.bytes), (CUT, SIZE - CUT));
    assert_eq!(result.resumed_bytes, CUT);
    let request = rig.origin.requests("/f").pop().unwrap();
    assert_eq!(request.header("range"), Some("bytes=100000-"));
    assert_eq!(request.header("if-range"), Some("\"1-493e0\""));
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    assert_eq!(rig.listing(), ["job", "job/f"]);
}

#[tokio::test]
async fn a_new_version_starts_over() {
    for other in [Object::new(2, SIZE), Object::new(2, SIZE + 5), Object::new(2, CUT / 2)] {
        let (rig, spec) = held(&Object::new(1, SIZE)).await;
        rig.origin.object("/f", other.clone());
        let (result, report) = rig.done(&spec).await;
        assert_eq!(rig.read("job/f"), other.bytes());
        assert_eq!(report.resume, "restarted: content changed");
        assert_eq!(report.resume_kind, ResumeKind::ContentChanged);
        assert_eq!((report.resumed_from, result.resumed_bytes), (0, 0));
    }
}

/// A backup by links has the same file under another name.
#[tokio::test]
async fn a_copy_by_a_link_is_not_emptied_by_a_new_version() {
    let (old, new) = (Object::new(1, SIZE), Object::new(2, SIZE));
    let (rig, spec) = held(&old).await;
    let copy = rig.place.path().join("copy");
    std::fs::hard_link(rig.path("job/.haul-0-1.part"), &copy).unwrap();
    rig.origin.object("/f", new.clone());
    rig.done(&spec).await;
    assert_eq!(rig.read("job/f"), new.bytes());
    assert_eq!(std::fs::read(&copy).unwrap(), old.slice(0..CUT));
    assert_eq!(rig.listing(), ["job", "job/f"]);
}

#[tokio::test]
async fn weak_validators_start_over_unless_a_digest_vouches() {
    // The bytes change and the tag does not: that is what a weak one may do.
    for tag in ["W/\"a\"", "unquoted"] {
        let weak = |seed| Object::new(seed, SIZE).etag(tag).no_last_modified();
        let (rig, spec) = held(&weak(1)).await;
        rig.origin.object("/f", weak(2));
        let (_, report) = rig.done(&spec).await;
        assert_eq!(rig.read("job/f"), weak(2).bytes());
        assert_eq!(report.resume, "restarted: nothing proves that the content is the same");
        assert_eq!(report.resume_kind, ResumeKind::Unproven);
        assert_eq!(rig.ranges("/f"), ["-", "-"], "no range is asked for that could not be used");

        let (rig, mut spec) = held(&weak(1)).await;
        rig.origin.object("/f", weak(1));
        spec.checksums = vec![checksum(Algorithm::Sha256, &weak(1).bytes())];
        assert_eq!(rig.done(&spec).await.0.resumed_bytes, CUT);
    }
}

#[tokio::test]
async fn without_validators_nothing_is_continued_unless_a_digest_vouches() {
    let object = Object::new(1, SIZE).no_etag().no_last_modified();
    let (rig, spec) = held(&object).await;
    let (_, report) = rig.done(&spec).await;
    assert_eq!(rig.read("job/f"), object.bytes());
    assert_eq!(report.resume, "restarted: nothing proves that the content is the same");

    let (rig, mut spec) = held(&object).await;
    spec.checksums = vec![checksum(Algorithm::Sha256, &object.bytes())];
    let (result, report) = rig.done(&spec).await;
    assert_eq!(report.resume, "continued at 100000");
    assert_eq!(result.checksums, spec.checksums);

    // The digest says in the end that it was another version: then all comes again.
    let (rig, mut spec) = held(&object).await;
    let other = Object::new(2, SIZE).no_etag().no_last_modified();
    rig.origin.object("/f", other.clone());
    spec.checksums = vec![checksum(Algorithm::Sha256, &other.bytes())];
    let (_, report) = rig.done(&spec).await;
    assert_eq!(report.resume, "restarted: the checksum did not match");
    assert_eq!(report.resume_kind, ResumeKind::ChecksumMismatch);
    assert_eq!(rig.read("job/f"), other.bytes());
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

/// A process was killed after it had finished a file of this key, before it could remove the checkpoint; the file is gone,
/// and the key begins anew.
#[tokio::test]
async fn a_checkpoint_without_its_part_claims_nothing_of_the_next() {
    let object = Object::new(1, SIZE);
    let mut rig = Rig::new();
    rig.settings.checkpoint_interval = Duration::from_secs(3600);
    let meta = r#"{"binding":{"version":{"etag":"\"1-493e0\"","total":300000}},"ranges":[[0,300000]]}"#;
    std::fs::create_dir(rig.path("job")).unwrap();
    std::fs::write(rig.path("job/.haul-0-1.meta"), meta).unwrap();
    let served = object.clone();
    rig.origin.handle("/f", move |request| served.respond(request).stall_at(CUT));
    let spec = rig.spec("/f");
    // Killed in its midst.
    tokio::select! {
        _ = rig.attempt(&spec) => panic!("it stalls"),
        () = async { while rig.meter.received_bytes() < CUT { tokio::task::yield_now().await } } => {}
    }
    assert_eq!(rig.listing(), ["job"], "neither the claim nor the bytes, which nothing has claimed yet");
    rig.origin.object("/f", object.clone());
    rig.done(&spec).await;
    assert_eq!((rig.listing(), rig.read("job/f")), (vec!["job".to_owned(), "job/f".to_owned()], object.bytes()));
}

#[tokio::test]
async fn a_range_that_cannot_be_satisfied() {
    // The size was not known: all bytes came, and then the connection was cut before the end of the chunked body.
    let object = Object::new(1, CUT);
    let rig = Rig::new();
    let chunked = object.clone();
    rig.origin.handle("/f", move |request| chunked.respond(request).chunked(1000).cut_at(CUT, Cut::Fin));
    let spec = rig.spec("/f");
    assert_eq!(rig.failed(&spec).await.0.reason, FailureReason::Truncated);
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
        std::fs::copy(rig.path("job").join(name), again.path("job").join(name)).unwrap();
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
    let rig = Rig::new();
    let chunked = object.clone();
    rig.origin.handle("/f", move |request| chunked.respond(request).chunked(1000).cut_at(CUT, Cut::Fin));
    let spec = rig.spec("/f");
    assert_eq!(rig.failed(&spec).await.0.reason, FailureReason::Truncated);
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
        let rig = Rig::new();
        let chunked = object.clone();
        rig.origin.handle("/f", move |request| chunked.respond(request).chunked(1000).cut_at(CUT, Cut::Fin));
        let spec = rig.spec("/f");
        assert_eq!(rig.failed(&spec).await.0.reason, FailureReason::Truncated);
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
async fn an_error_page_is_not_content() {
    let object = Object::new(1, SIZE);
    let (rig, spec) = held(&object).await;
    rig.origin.reply("/f", Reply::ok("<html>log in</html>").header("Content-Type", "text/html"));
    assert_eq!(rig.failed(&spec).await.0.reason, FailureReason::BadContent);
    rig.origin.reply("/f", Reply::status(503).body("busy").header("Retry-After", "7"));
    let (failure, _) = rig.failed(&spec).await;
    assert_eq!((failure.http_status, failure.retry_after), (503, Some(Duration::from_secs(7))));
    rig.origin.object("/f", object.clone());
    let (_, report) = rig.done(&spec).await;
    assert_eq!(report.resume, "continued at 100000", "what was held is still held");
    assert_eq!(rig.read("job/f"), object.bytes());
}

#[tokio::test]
async fn what_is_kept_of_an_answer_is_bounded() {
    let rig = Rig::new();
    let name = format!("attachment; filename={}.bin", "x".repeat(200_000));
    rig.origin.handle("/f", move |request| {
        let reply = Object::new(1, SIZE).respond(request).cut_at(CUT, Cut::Fin);
        reply.header("Content-Disposition", &name)
    });
    rig.failed(&rig.spec("/f")).await;
    assert!(std::fs::metadata(rig.path("job/.haul-0-1.meta")).unwrap().len() < 2000);
}

/// Whoever wrote a checkpoint, an older version or somebody else, no name in it leads out of the directory.
#[tokio::test]
async fn a_name_out_of_a_checkpoint_is_made_fit_for_use() {
    let object = Object::new(1, SIZE);
    let (rig, spec) = held(&object).await;
    let meta = rig.path("job/.haul-0-1.meta");
    let mut claim: serde_json::Value = serde_json::from_slice(&std::fs::read(&meta).unwrap()).unwrap();
    claim["binding"]["suggested_name"] = "../../x".into();
    std::fs::write(&meta, claim.to_string()).unwrap();
    let (result, _) = rig.done(&DownloadSpec { path: String::new(), ..spec }).await;
    assert_eq!((result.path.as_str(), result.resumed_bytes), ("job/x", CUT));
}

#[tokio::test]
async fn an_expired_redirect_is_resolved_anew() {
    let object = Object::new(1, SIZE);
    let rig = Rig::new();
    rig.origin.handle("/f", |request| Reply::redirect(302, &format!("/kept?signature={}", request.nth)));
    let served = object.clone();
    rig.origin.handle("/kept", move |request| match request.param("signature").as_deref() {
        Some("0") if request.nth == 0 => served.respond(request).cut_at(CUT, Cut::Reset),
        Some("0") => Reply::status(403),
        _ => served.respond(request),
    });
    let spec = rig.spec("/f");
    rig.failed(&spec).await;
    let (result, report) = rig.done(&spec).await;
    assert_eq!(rig.read("job/f"), object.bytes());
    assert!(result.final_url.contains("signature="), "{}", result.final_url);
    assert_eq!(report.resume, "continued at 100000");
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

/// A tag that is made of time and size is the same for two builds of one size.
#[tokio::test]
async fn a_redirect_to_another_file_starts_over() {
    let rig = Rig::new();
    let (old, new) = (Object::new(1, SIZE), Object::new(2, SIZE).validators_of(&Object::new(1, SIZE)));
    rig.origin.handle("/latest", |request| Reply::redirect(302, if request.nth == 0 { "/v1" } else { "/v2" }));
    rig.origin.handle("/v1", move |request| old.respond(request).cut_at(CUT, Cut::Fin));
    rig.origin.object("/v2", new.clone());
    rig.failed(&rig.spec("/latest")).await;
    let (result, report) = rig.done(&rig.spec("/latest")).await;
    assert_eq!((result.resumed_bytes, rig.read("job/f")), (0, new.bytes()), "{report:?}");
}

/// A process was killed between a commit and its being recorded, or before the commit.
#[tokio::test]
async fn what_a_kill_kept_from_being_told_is_told_by_the_next_attempt() {
    let object = Object::new(1, SIZE);
    let (rig, spec) = held(&object).await;
    let meta = rig.path("job/.haul-0-1.meta");
    let mut claim: serde_json::Value = serde_json::from_slice(&std::fs::read(&meta).unwrap()).unwrap();
    claim["ranges"] = serde_json::json!([[0, SIZE]]);
    std::fs::write(&meta, claim.to_string()).unwrap();
    std::fs::write(rig.path("job/.haul-0-1.part"), object.bytes()).unwrap();
    for _ in 0..2 {
        let (result, report) = rig.done(&spec).await;
        assert_eq!((result.connections, report.http_status), (1, 200));
        assert!(rig.read("job/f") == object.bytes() && result.created.is_some());
    }
    assert_eq!(rig.origin.requests("/f").len(), 1);
}

/// Runs of one URL share their part, and each may name a checksum or not.
#[tokio::test]
async fn a_whole_that_only_a_digest_vouched_for_is_not_taken_without_one() {
    let object = Object::new(1, SIZE);
    let (rig, spec) = held(&object).await;
    // As a run with a checksum leaves it that was stopped before it had read its file back.
    let meta = rig.path("job/.haul-0-1.meta");
    let mut claim: serde_json::Value = serde_json::from_slice(&std::fs::read(&meta).unwrap()).unwrap();
    claim["binding"]["is_pieced"] = true.into();
    claim["ranges"] = serde_json::json!([[0, SIZE]]);
    std::fs::write(&meta, claim.to_string()).unwrap();
    let part = [object.slice(0..CUT), Object::new(2, SIZE).slice(CUT..SIZE)].concat();
    std::fs::write(rig.path("job/.haul-0-1.part"), part).unwrap();
    let (result, report) = rig.done(&spec).await;
    assert!(rig.read("job/f") == object.bytes() && result.resumed_bytes == 0, "{report:?}");
}

#[tokio::test]
async fn stops_at_a_checkpoint_even_in_a_stall() {
    let object = Object::new(1, SIZE);
    let rig = Rig::new();
    let stalled = object.clone();
    rig.origin.handle("/f", move |request| stalled.respond(request).stall_at(CUT));
    let spec = rig.spec("/f");
    let stop = rig.stop.clone();
    let (end, ()) = tokio::join!(rig.attempt(&spec), async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        stop.cancel();
    });
    // And not failed for the stall, which comes later.
    assert!(matches!(end.0, AttemptEnd::Stopped), "{end:?}");
    rig.origin.object("/f", object.clone());
    let mut rig = rig;
    rig.stop = tokio_util::sync::CancellationToken::new();
    let (_, report) = rig.done(&spec).await;
    assert_eq!(report.resume, "continued at 100000");
    assert_eq!(rig.read("job/f"), object.bytes());
}

#[tokio::test]
async fn a_stall_is_a_failure() {
    let rig = Rig::new();
    let object = Object::new(1, SIZE);
    rig.origin.handle("/f", move |request| object.respond(request).stall_at(CUT));
    assert_eq!(rig.failed(&rig.spec("/f")).await.0.reason, FailureReason::TimeoutIdle);
}

#[tokio::test]
async fn resume_can_be_switched_off() {
    let object = Object::new(1, SIZE);
    let (rig, mut spec) = held(&object).await;
    spec.disable_resume = true;
    let (_, report) = rig.done(&spec).await;
    assert_eq!(report.resume, "restarted: resuming is switched off");
    assert_eq!(report.resume_kind, ResumeKind::Disabled);
    assert_eq!(rig.read("job/f"), object.bytes());
}

#[tokio::test]
async fn encoded_content_is_decoded_and_never_continued() {
    let rig = Rig::new();
    let packed = gzip_of(b"hello hello hello hello hello");
    rig.origin.reply("/f", Reply::ok(packed.clone()).header("Content-Encoding", "gzip").header("ETag", "\"a\""));
    rig.done(&rig.spec("/f")).await;
    assert_eq!(rig.read("job/f"), b"hello hello hello hello hello");
    // What is an archive stays one, whatever the server calls it.
    rig.origin.reply("/f.tar.gz", Reply::ok(packed.clone()).header("Content-Encoding", "gzip"));
    rig.done(&DownloadSpec { path: "f.tar.gz".into(), ..rig.spec("/f.tar.gz") }).await;
    assert_eq!(rig.read("job/f.tar.gz"), packed);
}

/// A gzip member with one stored block.
fn gzip_of(bytes: &[u8]) -> Vec<u8> {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    let length = bytes.len() as u16;
    let mut all = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    all.extend(length.to_le_bytes());
    all.extend((!length).to_le_bytes());
    all.extend(bytes);
    all.extend((!crc).to_le_bytes());
    all.extend(u32::from(length).to_le_bytes());
    all
}
