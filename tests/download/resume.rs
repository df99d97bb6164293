//! Each row of the resume decision table, on the wire.

use std::time::Duration;

use haul::model::checksum::Algorithm;
use haul::model::failure::FailureReason;
use haul::model::outcome::{AttemptEnd, ResumeKind};
use haul::model::spec::DownloadSpec;

use super::rig::{CUT, Rig, checksum, held};
use super::support::object::Object;
use super::support::reply::{Cut, Reply};

const SIZE: u64 = 300_000;

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

/// Some servers make the length of an answer known only by its end, and that of a range by its `Content-Range`.
#[tokio::test]
async fn a_digest_vouches_also_where_the_first_answer_had_no_length() {
    let object = Object::new(1, SIZE).no_etag().no_last_modified();
    let rig = Rig::new();
    let cut = object.clone();
    rig.origin.handle("/f", move |request| cut.respond(request).chunked(10_000).cut_at(CUT, Cut::Fin));
    let spec = DownloadSpec { checksums: vec![checksum(Algorithm::Sha256, &object.bytes())], ..rig.spec("/f") };
    for _ in 0..2 {
        rig.failed(&spec).await;
    }
    rig.origin.object("/f", object.clone());
    let (result, report) = rig.done(&spec).await;
    assert_eq!(rig.read("job/f"), object.bytes());
    assert_eq!(result.checksums, spec.checksums);
    assert_eq!(report.resume_kind, ResumeKind::Continued);
    assert_eq!(rig.ranges("/f"), ["-", "bytes=100000-", "bytes=200000-"]);
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

/// Puts another file in the place of the part. The old one is kept for as long as the result, so that its number is not used again.
fn replace_part(part: &std::path::Path, bytes: &[u8]) -> std::fs::File {
    let old = std::fs::File::open(part).unwrap();
    std::fs::remove_file(part).unwrap();
    std::fs::write(part, bytes).unwrap();
    old
}

/// Of what another file holds nothing proves that it is what came, but a digest of the whole.
#[tokio::test]
async fn a_part_that_somebody_has_replaced_is_not_taken_for_ours() {
    let (object, other) = (Object::new(1, SIZE), Object::new(9, SIZE));
    for (has_digest, is_same) in [(false, false), (false, true), (true, false), (true, true)] {
        for is_number_used_again in [false, true] {
            let (rig, mut spec) = held(&object).await;
            if has_digest {
                spec.checksums = vec![checksum(Algorithm::Sha256, &object.bytes())];
            }
            let bytes = if is_same { object.slice(0..CUT) } else { other.slice(0..CUT) };
            let old = replace_part(&rig.path("job/.haul-0-1.part"), &bytes);
            if is_number_used_again {
                drop(old);
                replace_part(&rig.path("job/.haul-0-1.part"), &bytes);
            }
            let (_, report) = rig.done(&spec).await;
            assert_eq!(rig.read("job/f"), object.bytes(), "{has_digest} {is_same}");
            let goes_on = report.resume_kind == ResumeKind::Continued;
            assert_eq!(goes_on, has_digest && is_same, "{has_digest} {is_same}: {report:?}");
            assert_eq!(rig.listing(), ["job", "job/f"]);
        }
    }
}

/// What is hashed is what gets the name.
#[tokio::test]
async fn a_part_that_somebody_replaces_while_it_is_open_does_not_become_the_file() {
    let object = Object::new(1, SIZE);
    for has_digest in [false, true] {
        let (rig, mut spec) = held(&object).await;
        if has_digest {
            spec.checksums = vec![checksum(Algorithm::Sha256, &object.bytes())];
        }
        let (served, part) = (object.clone(), rig.path("job/.haul-0-1.part"));
        rig.origin.handle("/f", move |request| {
            if request.nth == 1 {
                replace_part(&part, &vec![7; SIZE as usize]);
            }
            served.respond(request)
        });
        let (failure, _) = rig.failed(&spec).await;
        assert_eq!((failure.reason, failure.retryable), (FailureReason::Io, true), "{failure}");
        assert!(failure.message.contains("somebody has put another file in the place of"), "{failure}");
        assert!(!rig.path("job/f").exists());
        rig.done(&spec).await;
        assert_eq!(rig.read("job/f"), object.bytes());
        assert_eq!(rig.listing(), ["job", "job/f"]);
    }
}

/// A part that somebody has replaced by another name of a file of theirs is not written to.
#[tokio::test]
async fn a_file_that_somebody_has_linked_in_the_place_of_a_part_is_not_touched() {
    let object = Object::new(1, SIZE);
    let (rig, mut spec) = held(&object).await;
    spec.checksums = vec![checksum(Algorithm::Sha256, &object.bytes())];
    let (part, theirs) = (rig.path("job/.haul-0-1.part"), rig.path("theirs"));
    std::fs::write(&theirs, vec![7; SIZE as usize]).unwrap();
    std::fs::remove_file(&part).unwrap();
    std::fs::hard_link(&theirs, &part).unwrap();
    rig.done(&spec).await;
    assert_eq!(rig.read("job/f"), object.bytes());
    assert_eq!(rig.read("theirs"), vec![7; SIZE as usize]);
}
