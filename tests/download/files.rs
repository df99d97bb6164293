//! Names, conflicts, sizes, checksums, and what is left on the disk.

use std::time::Duration;

use haul::files::{Durability, Root};
use haul::model::checksum::Algorithm;
use haul::model::failure::FailureReason;
use haul::model::outcome::AttemptEnd;
use haul::model::spec::{DownloadSpec, OnConflict};
use tokio_util::sync::CancellationToken;

use super::rig::{Rig, checksum};
use super::support::object::Object;
use super::support::reply::{Cut, Pause, Reply};

const SIZE: u64 = 100_000;

#[tokio::test]
async fn names_come_from_the_origin_or_the_url() {
    let rig = Rig::new();
    let hostile = Reply::ok("x").header("Content-Disposition", "attachment; filename=\"../../../etc/cron.d/x\"");
    rig.origin.reply("/a", hostile);
    rig.origin.reply("/dir/na%20me.txt", Reply::ok("y"));
    rig.origin.reply("/", Reply::ok("z"));
    let several = Reply::ok("x").header("Content-Disposition", "inline");
    let several = several.header("Content-Disposition", "attachment; filename=first.txt");
    rig.origin.reply("/several", several.header("Content-Disposition", "attachment; filename*=UTF-8''second.txt"));
    let derived = |path: &str| DownloadSpec { path: String::new(), ..rig.spec(path) };
    assert_eq!(rig.done(&derived("/a")).await.0.path, "job/x");
    assert_eq!(rig.done(&derived("/dir/na%20me.txt")).await.0.path, "job/na me.txt");
    assert_eq!(rig.done(&derived("/")).await.0.path, "job/download");
    assert_eq!(rig.done(&derived("/several")).await.0.path, "job/first.txt", "the first header that names a file");
    for path in ["../x", "/x", "a/../../x", "a\0b", "nul", &"x".repeat(300)] {
        let failure = rig.failed(&DownloadSpec { path: path.into(), ..rig.spec("/a") }).await.0;
        assert_eq!((failure.reason, failure.retryable), (FailureReason::ForbiddenPath, false), "{path}");
    }
    std::os::unix::fs::symlink("/tmp", rig.path("job/link")).unwrap();
    let failure = rig.failed(&DownloadSpec { path: "link/x".into(), ..rig.spec("/a") }).await.0;
    assert_eq!(failure.reason, FailureReason::ForbiddenPath);
    assert_eq!(rig.origin.requests("/a").len(), 1, "refused before anything is asked");
}

#[tokio::test]
async fn every_conflict_policy() {
    let mut rig = Rig::new();
    rig.origin.object("/f", Object::new(1, SIZE));
    let with = |policy| DownloadSpec { on_conflict: Some(policy), ..rig.spec("/f") };
    let (fail, rename, overwrite) = (with(OnConflict::Fail), with(OnConflict::Rename), with(OnConflict::Overwrite));
    std::fs::create_dir(rig.path("job")).unwrap();
    std::fs::write(rig.path("job/f"), "mine").unwrap();

    let (failure, _) = rig.failed(&fail).await;
    assert_eq!(failure.reason, FailureReason::FileExists);
    assert!(rig.origin.requests("/f").is_empty(), "found out before the transfer");
    assert_eq!(rig.done(&rename).await.0.path, "job/f (1)");
    // The same task again, after a crash between the commit and its being recorded: it finds its file.
    assert_eq!(rig.done(&rename).await.0.path, "job/f (1)");
    rig.key = "0-2".into();
    assert_eq!(rig.done(&rename).await.0.path, "job/f (2)");
    assert_eq!(rig.read("job/f"), b"mine");
    assert_eq!(rig.done(&overwrite).await.0.path, "job/f");
    assert_eq!(rig.read("job/f"), Object::new(1, SIZE).bytes());
    std::fs::create_dir(rig.path("job/d")).unwrap();
    let failure = rig.failed(&DownloadSpec { path: "d".into(), ..overwrite }).await.0;
    assert_eq!(failure.reason, FailureReason::FileExists);
}

#[tokio::test]
async fn a_name_that_is_taken_meanwhile_is_not_replaced() {
    let rig = Rig::new();
    let place = rig.path("job/f");
    rig.origin.handle("/f", move |request| {
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(&place, "mine").unwrap();
        Object::new(1, SIZE).respond(request)
    });
    assert_eq!(rig.failed(&rig.spec("/f")).await.0.reason, FailureReason::FileExists);
    assert_eq!(rig.read("job/f"), b"mine");
    rig.discard(&rig.spec("/f")).await;
    assert_eq!(rig.listing(), ["job", "job/f"]);
}

#[tokio::test]
async fn skip_keeps_what_is_verifiably_the_same() {
    let mut rig = Rig::new();
    rig.part_is_shared = true;
    rig.origin.object("/f", Object::new(1, SIZE));
    let spec = DownloadSpec { on_conflict: Some(OnConflict::Skip), path: String::new(), ..rig.spec("/f") };
    assert!(!rig.done(&spec).await.0.skipped);
    let (result, report) = rig.done(&spec).await;
    assert!(result.skipped);
    assert_eq!((report.http_status, report.bytes, result.bytes), (304, 0, SIZE));
    assert_eq!(result.path, "job/f");

    // Changed at the origin: replaced.
    rig.origin.object("/f", Object::new(2, SIZE));
    assert!(!rig.done(&spec).await.0.skipped);
    assert_eq!(rig.read("job/f"), Object::new(2, SIZE).bytes());
    // Changed here: it is not the file that was downloaded any more, and stays.
    std::fs::write(rig.path("job/f"), "edited").unwrap();
    let (result, _) = rig.done(&spec).await;
    assert_eq!((result.skipped, result.path.as_str()), (false, "job/f (1)"));
    assert_eq!(rig.read("job/f"), b"edited");
    std::fs::remove_file(rig.path("job/f")).unwrap();
    std::fs::rename(rig.path("job/f (1)"), rig.path("job/f")).unwrap();
    // An origin without conditions.
    rig.origin.reply("/f", Reply::ok("abc").header("ETag", "\"x\""));
    assert!(!rig.done(&spec).await.0.skipped);
    assert!(rig.done(&spec).await.0.skipped);

    // A checksum asks nobody.
    let asked = rig.origin.all_requests().len();
    let sha = checksum(Algorithm::Sha256, b"abc");
    let checked = DownloadSpec { checksums: vec![sha.clone()], path: "f".into(), ..spec.clone() };
    let (result, _) = rig.done(&checked).await;
    assert!(result.skipped);
    assert_eq!(result.checksums, [sha]);
    assert_eq!(rig.origin.all_requests().len(), asked);
    std::fs::write(rig.path("job/f"), "abd").unwrap();
    let (result, _) = rig.done(&checked).await;
    assert_eq!((result.skipped, result.path.as_str()), (false, "job/f (1)"));
    assert_eq!(rig.read("job/f"), b"abd", "somebody else's by now");
}

/// RFC 9110, section 8.8.2.2: what was sent a moment after it had changed may have changed once more within the same second.
#[tokio::test]
async fn skip_takes_no_date_for_a_proof_that_was_young_when_the_file_came() {
    let mut rig = Rig::new();
    rig.part_is_shared = true;
    let spec = DownloadSpec { on_conflict: Some(OnConflict::Skip), path: String::new(), ..rig.spec("/f") };
    for (made, is_kept) in [("Tue, 01 Sep 2026 10:00:01 GMT", false), ("Tue, 01 Sep 2026 10:01:00 GMT", true)] {
        for seed in [1, 2] {
            let object = Object::new(seed, SIZE).no_etag().last_modified("Tue, 01 Sep 2026 10:00:00 GMT");
            rig.origin.handle("/f", move |request| object.respond(request).header("Date", made));
            let skips = seed == 2 && is_kept;
            assert_eq!(rig.done(&spec).await.0.skipped, skips, "{made}, {seed}");
            assert_eq!(rig.read("job/f"), Object::new(if skips { 1 } else { seed }, SIZE).bytes());
        }
    }
    assert_eq!(rig.listing(), ["job", "job/f"]);
}

#[tokio::test]
async fn skip_does_not_replace_what_came_from_elsewhere() {
    let mut rig = Rig::new();
    rig.part_is_shared = true;
    for (path, seed) in [("/a", 1), ("/b", 2)] {
        rig.origin.handle(path, move |request| {
            Object::new(seed, SIZE).respond(request).header("Content-Disposition", "attachment; filename=same.bin")
        });
    }
    let sync = |path: &str| DownloadSpec { on_conflict: Some(OnConflict::Skip), path: String::new(), ..rig.spec(path) };
    assert_eq!(rig.done(&sync("/a")).await.0.path, "job/same.bin");
    assert_eq!(rig.done(&sync("/b")).await.0.path, "job/same (1).bin");
    // Again: each finds its own.
    for (path, name) in [("/a", "job/same.bin"), ("/b", "job/same (1).bin")] {
        let (result, _) = rig.done(&sync(path)).await;
        assert!(result.skipped);
        assert_eq!(result.path, name);
    }
    rig.origin.handle("/b", |request| {
        Object::new(3, SIZE).respond(request).header("Content-Disposition", "attachment; filename=same.bin")
    });
    assert_eq!(rig.done(&sync("/b")).await.0.path, "job/same (1).bin");
    assert_eq!(rig.read("job/same.bin"), Object::new(1, SIZE).bytes());
    assert_eq!(rig.read("job/same (1).bin"), Object::new(3, SIZE).bytes());
    // With a checksum the digest decides.
    let checked = |path: &str, seed| DownloadSpec {
        checksums: vec![checksum(Algorithm::Md5, &Object::new(seed, SIZE).bytes())],
        ..sync(path)
    };
    rig.origin.object("/same.bin", Object::new(3, SIZE));
    assert!(rig.done(&checked("/same.bin", 1)).await.0.skipped, "it is what is wanted, wherever it came from");
    assert_eq!(rig.done(&checked("/same.bin", 3)).await.0.path, "job/same (2).bin");
}

/// Validators of two hosts say nothing of each other, and a file of the task's own is not somebody else's.
#[tokio::test]
async fn skip_asks_nobody_about_the_validators_of_others() {
    let mut rig = Rig::new();
    let (old, new) = (Object::new(1, SIZE).no_etag(), Object::new(2, SIZE).no_etag());
    rig.origin.reply("/f", Reply::status(404));
    rig.origin.object("/mirror", old.clone());
    let mut spec = DownloadSpec { on_conflict: Some(OnConflict::Skip), ..rig.spec("/f") };
    spec.mirrors = vec![rig.origin.url("/mirror")];
    rig.done(&spec).await;
    assert_eq!(rig.read("job/f"), old.bytes());
    // The same attempt again, as after a crash before its end was known: the file is its own.
    let (again, _) =
        rig.done(&DownloadSpec { url: rig.origin.url("/mirror"), mirrors: Vec::new(), ..spec.clone() }).await;
    assert!(!again.skipped && again.created.is_some(), "{again:?}");
    rig.key = "0-2".into();
    rig.origin.object("/f", new.clone().validators_of(&old));
    let (result, _) = rig.done(&spec).await;
    assert!(!result.skipped, "{result:?}");
    assert_eq!(rig.read(&result.path), new.bytes());
}

/// Mirrors of one file have equal validators, and each run may be sent to another one.
#[tokio::test]
async fn skip_asks_again_where_another_place_says_that_nothing_changed() {
    let mut rig = Rig::new();
    rig.part_is_shared = true;
    let object = Object::new(1, SIZE);
    rig.origin.handle("/f", |request| Reply::redirect(302, if request.nth == 0 { "/m1/f" } else { "/m2/f" }));
    rig.origin.object("/m1/f", object.clone());
    rig.origin.object("/m2/f", object.clone());
    let spec = DownloadSpec { on_conflict: Some(OnConflict::Skip), ..rig.spec("/f") };
    rig.done(&spec).await;
    let (result, report) = rig.done(&spec).await;
    assert_eq!((result.skipped, result.path.as_str(), report.http_status), (false, "job/f", 200));
    let conditions = rig.origin.requests("/m2/f");
    let conditions: Vec<bool> = conditions.iter().map(|it| it.header("if-none-match").is_some()).collect();
    assert_eq!(conditions, [true, false]);
    assert!(rig.done(&spec).await.0.skipped, "it is of that place now");
}

#[tokio::test]
async fn sizes_are_kept_to() {
    let rig = Rig::new();
    let object = Object::new(1, SIZE);
    rig.origin.object("/known", object.clone());
    let chunked = object.clone();
    rig.origin.handle("/unknown", move |request| chunked.clone().no_ranges().respond(request).chunked(5000));
    for path in ["/known", "/unknown"] {
        let spec = rig.spec(path);
        let too_large = DownloadSpec { max_bytes: Some(SIZE - 1), ..spec.clone() };
        assert_eq!(rig.failed(&too_large).await.0.reason, FailureReason::TooLarge, "{path}");
        rig.discard(&too_large).await;
        for wrong in [SIZE - 1, SIZE + 1] {
            let spec = DownloadSpec { expected_bytes: Some(wrong), ..spec.clone() };
            let (failure, _) = rig.failed(&spec).await;
            assert_eq!((failure.reason, failure.retryable), (FailureReason::SizeMismatch, false), "{path} {wrong}");
            rig.discard(&spec).await;
        }
        assert_eq!(rig.listing(), [""; 0]);
        let name = path[1..].to_owned();
        let right = DownloadSpec { expected_bytes: Some(SIZE), max_bytes: Some(SIZE), path: name.clone(), ..spec };
        let (result, _) = rig.done(&right).await;
        assert_eq!((result.bytes, rig.meter.total()), (SIZE, SIZE));
        assert_eq!(rig.read(&format!("job/{name}")), object.bytes());
        std::fs::remove_dir_all(rig.path("job")).unwrap();
    }
}

#[tokio::test]
async fn every_digest() {
    let rig = Rig::new();
    let object = Object::new(1, SIZE);
    rig.origin.object("/f", object.clone());
    let bytes = object.bytes();
    let checksums: Vec<_> = Algorithm::ALL.into_iter().map(|algorithm| checksum(algorithm, &bytes)).collect();
    let spec = DownloadSpec { checksums: checksums[..3].to_vec(), digests: Algorithm::ALL.to_vec(), ..rig.spec("/f") };
    assert_eq!(rig.done(&spec).await.0.checksums, checksums);
}

#[tokio::test]
async fn a_file_of_another_digest_is_tried_once_more_and_leaves_nothing() {
    let rig = Rig::new();
    rig.origin.object("/f", Object::new(1, SIZE));
    let wrong =
        DownloadSpec { checksums: vec![checksum(Algorithm::Md5, b"other")], path: "new/g".into(), ..rig.spec("/f") };
    let (failure, report) = rig.failed(&wrong).await;
    assert_eq!((failure.reason, failure.retryable), (FailureReason::ChecksumMismatch, false));
    assert_eq!(report.resume, "restarted: the checksum did not match");
    assert_eq!(rig.origin.requests("/f").len(), 2, "tried once more from the start");
    assert_eq!(rig.listing(), [""; 0], "nothing is left, not even the directories");
}

#[tokio::test]
async fn nothing_is_left_of_what_never_began() {
    let rig = Rig::new();
    rig.origin.reply("/f", Reply::status(404).body("<html>no</html>"));
    let (failure, report) = rig.failed(&rig.spec("/f")).await;
    assert_eq!((failure.reason, failure.http_status), (FailureReason::HttpStatus, 404));
    assert_eq!(report.http_status, 404);
    rig.origin.handle("/f", |request| Object::new(1, SIZE).respond(request).cut_at(0, Cut::Reset));
    rig.failed(&rig.spec("/f")).await;
    assert_eq!(rig.listing(), [""; 0]);
}

/// A file has no name before it is complete, or has a checkpoint: a process that is killed leaves nothing.
#[tokio::test]
async fn a_small_file_has_one_name_and_that_when_it_is_complete() {
    let mut rig = Rig::new();
    rig.durability = Durability::None;
    let more = CancellationToken::new();
    let (object, until) = (Object::new(1, 50_000), more.clone());
    let served = object.clone();
    rig.origin.handle("/slow", move |request| served.respond(request).pause_at(20_000, Pause::Until(until.clone())));
    rig.origin.handle("/cut", |request| Object::new(2, 50_000).respond(request).cut_at(0, Cut::Reset));
    let (slow, cut) = (rig.spec("/slow"), DownloadSpec { path: "g".into(), ..rig.spec("/cut") });
    let meanwhile = async {
        while rig.meter.received_bytes() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(rig.listing(), ["job"]);
        // Whoever removes an empty directory does not remove it under that file.
        let end = rig.attempt_through(&rig.client, "0-2", &cut).await.0;
        assert!(matches!(end, AttemptEnd::Failed(_)), "{end:?}");
        assert_eq!(rig.listing(), ["job"]);
        more.cancel();
    };
    let (end, ()) = tokio::join!(rig.attempt(&slow), meanwhile);
    assert!(matches!(end.0, AttemptEnd::Done(_)), "{end:?}");
    assert_eq!((rig.listing(), rig.read("job/f")), (vec!["job".to_owned(), "job/f".to_owned()], object.bytes()));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(rig.path("job/f")).unwrap().permissions());
    std::fs::write(rig.path("job/other"), "").unwrap();
    let usual = std::fs::metadata(rig.path("job/other")).unwrap().permissions();
    assert_eq!(mode, std::os::unix::fs::PermissionsExt::mode(&usual));
}

/// Nothing to be seen is in it, so somebody may remove it.
#[tokio::test]
async fn a_directory_that_is_removed_meanwhile_is_made_again() {
    let rig = Rig::new();
    let more = CancellationToken::new();
    let (object, until) = (Object::new(1, SIZE), more.clone());
    let served = object.clone();
    rig.origin.handle("/f", move |request| served.respond(request).pause_at(20_000, Pause::Until(until.clone())));
    let meanwhile = async {
        while rig.meter.received_bytes() == 0 {
            tokio::task::yield_now().await;
        }
        std::fs::remove_dir_all(rig.path("job")).unwrap();
        more.cancel();
    };
    let spec = rig.spec("/f");
    let (end, ()) = tokio::join!(rig.attempt(&spec), meanwhile);
    assert!(matches!(end.0, AttemptEnd::Done(_)), "{end:?}");
    assert_eq!(rig.read("job/f"), object.bytes());
}

/// A kill may come before the start of an attempt is stored that has finished its file.
#[tokio::test]
async fn a_file_of_the_task_itself_is_in_nobodys_way() {
    let mut rig = Rig::new();
    rig.has_history = false;
    rig.origin.object("/f", Object::new(1, SIZE));
    for spec in [rig.spec("/f"), DownloadSpec { path: String::new(), ..rig.spec("/f") }] {
        for _ in 0..2 {
            let (result, _) = rig.done(&spec).await;
            assert_eq!((result.path.as_str(), result.created.is_some()), ("job/f", true));
        }
        assert_eq!(rig.listing(), ["job", "job/f"]);
    }
    rig.key = "0-2".into();
    assert_eq!(rig.failed(&rig.spec("/f")).await.0.reason, FailureReason::FileExists);
}

#[tokio::test]
async fn discarding_leaves_nothing() {
    let rig = Rig::new();
    rig.origin.handle("/f", |request| Object::new(1, SIZE).respond(request).cut_at(5000, Cut::Fin));
    let spec = DownloadSpec { path: "a/b/f".into(), ..rig.spec("/f") };
    rig.failed(&spec).await;
    assert_eq!(rig.listing().len(), 5, "{:?}", rig.listing());
    rig.discard(&spec).await;
    rig.discard(&spec).await;
    assert_eq!(rig.listing(), [""; 0]);
}

#[tokio::test]
async fn an_empty_file_is_a_file() {
    let rig = Rig::new();
    rig.origin.reply("/f", Reply::ok(""));
    rig.origin.reply("/g", Reply::ok("").chunked(10));
    assert_eq!(rig.done(&rig.spec("/f")).await.0.bytes, 0);
    assert_eq!(rig.read("job/f"), b"");
    rig.done(&DownloadSpec { path: "g".into(), ..rig.spec("/g") }).await;
    assert_eq!(rig.read("job/g"), b"");
}

#[tokio::test]
async fn two_attempts_never_share_a_part() {
    let rig = Rig::new();
    rig.origin.handle("/f", |request| Object::new(1, SIZE).respond(request).bytes_per_second(200_000));
    let spec = rig.spec("/f");
    let (first, second) = tokio::join!(rig.attempt(&spec), async {
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        rig.attempt(&spec).await
    });
    assert!(matches!(first.0, AttemptEnd::Done(_)), "{first:?}");
    assert!(matches!(&second.0, AttemptEnd::Failed(failure) if failure.reason == FailureReason::Io), "{second:?}");
    assert_eq!(rig.read("job/f"), Object::new(1, SIZE).bytes());
}

#[tokio::test]
async fn the_server_limits_what_the_task_does_not() {
    let mut rig = Rig::new();
    rig.settings.max_bytes = Some(SIZE - 1);
    rig.origin.object("/f", Object::new(1, SIZE));
    rig.origin.handle("/g", |request| Object::new(1, SIZE).no_ranges().respond(request).chunked(5000));
    for path in ["/f", "/g"] {
        let spec = DownloadSpec { path: path[1..].into(), ..rig.spec(path) };
        assert_eq!(rig.failed(&spec).await.0.reason, FailureReason::TooLarge, "{path}");
        rig.discard(&spec).await;
        let own = DownloadSpec { max_bytes: Some(SIZE), ..spec };
        assert_eq!(rig.done(&own).await.0.bytes, SIZE);
    }
}

#[tokio::test]
async fn a_body_that_was_made_to_fill_the_disk_is_refused() {
    use tokio::io::AsyncReadExt as _;
    let rig = Rig::new();
    let zeros = vec![0; 8 << 20];
    let mut packed = Vec::new();
    async_compression::tokio::bufread::ZstdEncoder::new(&zeros[..]).read_to_end(&mut packed).await.unwrap();
    assert!(packed.len() * 1000 < zeros.len(), "{}", packed.len());
    rig.origin.reply("/f", Reply::ok(packed).header("Content-Encoding", "zstd"));
    let (failure, _) = rig.failed(&rig.spec("/f")).await;
    assert_eq!((failure.reason, failure.retryable), (FailureReason::TooLarge, false), "{failure}");
}

#[tokio::test]
async fn digests_that_the_origin_announces_are_checked() {
    let rig = Rig::new();
    let object = Object::new(1, SIZE);
    let announce = |bytes: &[u8]| {
        use base64::Engine as _;
        let digest = checksum(Algorithm::Sha256, bytes).digest;
        format!("sha-256=:{}:", base64::engine::general_purpose::STANDARD.encode(digest))
    };
    let (right, wrong) = (announce(&object.bytes()), announce(b"other"));
    let served = object.clone();
    rig.origin.handle("/f", move |request| served.respond(request).header("Repr-Digest", &right));
    assert_eq!(rig.done(&rig.spec("/f")).await.0.checksums, [checksum(Algorithm::Sha256, &object.bytes())]);
    rig.origin.handle("/g", move |request| object.respond(request).header("Repr-Digest", &wrong));
    let (failure, _) = rig.failed(&DownloadSpec { path: "g".into(), ..rig.spec("/g") }).await;
    assert_eq!(failure.reason, FailureReason::ChecksumMismatch, "{failure}");
    assert_eq!(rig.listing(), ["job", "job/f"]);
}

#[tokio::test]
async fn what_somebody_else_made_is_neither_replaced_nor_taken_for_the_same() {
    let rig = Rig::new();
    let object = Object::new(1, SIZE);
    // It answers `If-Modified-Since` as RFC 9110 says: not newer than that.
    let served = object.clone();
    rig.origin.handle("/f", move |request| match request.header("if-modified-since") {
        Some(_) => Reply::status(304),
        None => served.respond(request),
    });
    std::fs::create_dir(rig.path("job")).unwrap();
    std::fs::write(rig.path("job/f"), &object.bytes()[..500]).unwrap();
    let date = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_767_225_600);
    std::fs::File::options().write(true).open(rig.path("job/f")).unwrap().set_modified(date).unwrap();
    for path in ["", "f"] {
        let spec = DownloadSpec { on_conflict: Some(OnConflict::Skip), path: path.into(), ..rig.spec("/f") };
        let (result, _) = rig.done(&spec).await;
        assert_eq!(result.path, "job/f (1)");
    }
    assert_eq!(rig.read("job/f"), &object.bytes()[..500]);
    assert_eq!(rig.read("job/f (1)"), object.bytes());
}

/// In a directory to which others may write, anybody can leave a file, a part or a record that says what haul's own would.
#[tokio::test]
async fn what_a_stranger_has_left_is_not_believed() {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    // Where files have attributes.
    let mut rig = Rig::at(tempfile::tempdir_in(".").unwrap());
    rig.part_is_shared = true;
    let object = Object::new(1, SIZE);
    rig.origin.object("/f", object.clone());
    let spec = DownloadSpec { on_conflict: Some(OnConflict::Skip), ..rig.spec("/f") };
    rig.done(&spec).await;
    let (file, part, meta) = (rig.path("job/f"), rig.path("job/.haul-0-1.part"), rig.path("job/.haul-0-1.meta"));
    if chown(&file, Some(65_534), None).is_err() {
        // Only the system's administrator can give a file to somebody else.
        return;
    }
    let job = rig.path("job");
    let others_may = |mode| std::fs::set_permissions(&job, std::fs::Permissions::from_mode(mode)).unwrap();
    others_may(0o755);
    let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
    let rewritten = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&rewritten, b"theirs", 0).unwrap();
    rewritten.set_modified(modified).unwrap();
    let kept = rig.done(&spec).await.0;
    assert!(kept.skipped, "nobody but its owner, and who owns the file, may write there");
    others_may(0o777);
    rig.root = std::sync::Arc::new(Root::open(&rig.path("")).unwrap());
    let came = rig.done(&spec).await.0;
    assert_eq!((came.path.as_str(), came.skipped), ("job/f (1)", false));
    assert_eq!(rig.read("job/f (1)"), object.bytes());
    assert!(rig.read("job/f").starts_with(b"theirs"));

    let cut = object.clone();
    rig.origin.handle("/g", move |request| cut.respond(request).cut_at(50_000, Cut::Fin));
    let spec = DownloadSpec { path: "g".into(), ..rig.spec("/g") };
    rig.failed(&spec).await;
    chown(&part, Some(65_534), None).unwrap();
    let failure = rig.failed(&spec).await.0;
    assert_eq!((failure.reason, failure.retryable), (FailureReason::Io, false), "{failure}");
    assert!(part.exists(), "it may be one that they want");
    chown(&part, Some(0), None).unwrap();
    chown(&meta, Some(65_534), None).unwrap();
    rig.origin.object("/g", object.clone());
    let (result, _) = rig.done(&spec).await;
    assert_eq!((result.resumed_bytes, rig.read("job/g")), (0, object.bytes()));
}

/// RFC 9110, section 13.1.2: it is compared weakly, and what agrees weakly may be other bytes.
#[tokio::test]
async fn skip_takes_no_weak_tag_for_a_proof() {
    let mut rig = Rig::new();
    rig.part_is_shared = true;
    let spec = DownloadSpec { on_conflict: Some(OnConflict::Skip), path: String::new(), ..rig.spec("/f") };
    for (tag, seed) in [("W/\"a\"", 1), ("W/\"a\"", 2), ("unquoted", 3), ("unquoted", 4)] {
        let object = Object::new(seed, SIZE).etag(tag).no_last_modified();
        rig.origin.handle("/f", move |request| match request.header("if-none-match") {
            Some(sent) if sent == tag => Reply::status(304),
            _ => object.respond(request),
        });
        assert!(!rig.done(&spec).await.0.skipped, "{tag}, {seed}");
        assert_eq!(rig.read("job/f"), Object::new(seed, SIZE).bytes());
    }
}
