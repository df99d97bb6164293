//! Room on the disk: waited for, given back, and not held for what does not come.

use std::sync::Arc;
use std::time::Duration;

use haul::model::failure::FailureReason;
use haul::model::outcome::AttemptEnd;
use haul::model::spec::DownloadSpec;
use haul::model::storage::{Storage, StorageHold};
use haul::net::Profile;
use tokio_util::sync::CancellationToken;

use super::rig::Rig;
use super::support::disk::SmallDisk;
use super::support::object::Object;
use super::support::reply::{Cut, Pause};

#[tokio::test]
async fn a_full_disk_is_waited_for() {
    let place = tempfile::tempdir().unwrap();
    let mount = place.path().to_owned();
    let Some(_disk) = SmallDisk::mount(&mount, "2m") else { return };
    let rig = Rig::at(tempfile::tempdir_in(&mount).unwrap());
    // Known to be too large: nothing is transferred.
    rig.origin.object("/big", Object::new(1, 1_800_000));
    std::fs::write(mount.join("ballast"), vec![1; 1 << 20]).unwrap();
    let (end, report) = rig.attempt(&rig.spec("/big")).await;
    let is_it = |folder: &str, bytes: u64| folder == "job" && bytes == 1_800_000;
    assert!(
        matches!(&end, AttemptEnd::NoSpace { folder, needed_bytes, .. } if is_it(folder, *needed_bytes)),
        "{end:?}"
    );
    assert!(report.bytes < 1 << 20);
    assert!(!rig.root.has_room("job", 1_800_000) && rig.root.has_room("job", 100_000));
    std::fs::remove_file(mount.join("ballast")).unwrap();
    assert!(rig.root.has_room("job/not/there", 1_800_000), "known without asking the origin");
    // What could never fit is not waited for.
    rig.origin.object("/huge", Object::new(1, 2 << 20));
    let (failure, _) = rig.failed(&rig.spec("/huge")).await;
    assert_eq!((failure.reason, failure.retryable), (FailureReason::DiskFull, false), "{failure}");
    // Fills up in the middle: kept, and continued once there is room.
    let object = Object::new(1, 1_500_000);
    let chunked = object.clone();
    rig.origin.handle("/f", move |request| {
        if request.header("range").is_some() {
            chunked.respond(request)
        } else {
            chunked.respond(request).chunked(9999)
        }
    });
    std::fs::write(mount.join("ballast"), vec![1; 1 << 20]).unwrap();
    let (end, _) = rig.attempt(&rig.spec("/f")).await;
    assert!(matches!(end, AttemptEnd::NoSpace { .. }), "{end:?}");
    assert!(!rig.path("job/f").exists());
    std::fs::remove_file(mount.join("ballast")).unwrap();
    rig.done(&rig.spec("/f")).await;
    assert_eq!(rig.read("job/f"), object.bytes());
}

/// Nobody could tell when it is over, and the origin would be asked again and again.
#[tokio::test]
async fn a_disk_that_refuses_although_it_has_room_is_a_failure_and_not_waited_for() {
    let place = tempfile::tempdir().unwrap();
    let mount = place.path().to_owned();
    let Some(_disk) = SmallDisk::mount(&mount, "8m,nr_inodes=6") else { return };
    let rig = Rig::at(tempfile::tempdir_in(&mount).unwrap());
    std::fs::create_dir_all(rig.path("job")).unwrap();
    let mut names = 0..;
    while std::fs::write(mount.join(format!("file {}", names.next().unwrap())), b"").is_ok() {}
    for (path, size) in [("/small", 1000), ("/large", 2 << 20)] {
        rig.origin.object(path, Object::new(1, size));
        let (failure, _) = rig.failed(&rig.spec(path)).await;
        assert_eq!((failure.reason, failure.retryable), (FailureReason::DiskFull, true), "{failure}");
        assert!(failure.message.contains("number of files"), "{failure}");
    }
}

#[tokio::test]
async fn a_body_without_end_stops_at_the_reserve_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let mount = place.path().to_owned();
    let Some(_disk) = SmallDisk::mount(&mount, "8m") else { return };
    let rig = Rig::at(tempfile::tempdir_in(&mount).unwrap());
    rig.origin.handle("/f", |request| Object::new(1, 1 << 30).no_ranges().respond(request).chunked(60_000));
    let (failure, report) = rig.failed(&rig.spec("/f")).await;
    assert_eq!((failure.reason, failure.retryable), (FailureReason::DiskFull, false), "{failure}");
    assert!(report.bytes > 6 << 20, "{report:?}");
    assert_eq!(rig.listing(), [""; 0]);
    assert!(rig.root.has_room("", 7 << 20), "what it took is free again");

    // Beside others it waits for more than it could have.
    std::fs::write(mount.join("ballast"), vec![1; 4 << 20]).unwrap();
    assert!(!rig.root.has_room("", 4 << 20));
    rig.origin.handle("/g", |request| Object::new(1, 1 << 30).no_ranges().respond(request).chunked(60_000));
    let (end, _) = rig.attempt(&rig.spec("/g")).await;
    let AttemptEnd::NoSpace { needed_bytes, folder, .. } = end else { panic!("{end:?}") };
    assert!(!rig.root.has_room(&folder, needed_bytes), "it is not tried again at once");
}

/// Work that was begun and is not waited for has the file open, for as long as a busy machine takes.
#[tokio::test]
async fn what_is_removed_takes_no_room_while_it_is_open() {
    let place = tempfile::tempdir().unwrap();
    let mount = place.path().to_owned();
    let Some(_disk) = SmallDisk::mount(&mount, "8m") else { return };
    let mut rig = Rig::at(tempfile::tempdir_in(&mount).unwrap());
    rig.settings.checkpoint_bytes = 1 << 20;
    let opened = CancellationToken::new();
    let until = opened.clone();
    rig.origin.handle("/f", move |request| {
        let endless = Object::new(1, 1 << 30).no_ranges().respond(request).chunked(60_000);
        endless.pause_at(2 << 20, Pause::Until(until.clone()))
    });
    let part = async {
        loop {
            match std::fs::File::open(rig.path("job/.haul-0-1.part")) {
                Ok(part) => break part,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let part = async {
        let part = part.await;
        opened.cancel();
        part
    };
    let spec = rig.spec("/f");
    let ((failure, _), part) = tokio::join!(rig.failed(&spec), part);
    assert_eq!((failure.reason, failure.retryable), (FailureReason::DiskFull, false), "{failure}");
    assert!(rig.root.has_room("", 7 << 20), "what it took is free again");
    drop(part);
}

#[tokio::test]
async fn what_a_part_has_taken_is_not_asked_for_again() {
    let place = tempfile::tempdir().unwrap();
    let mount = place.path().to_owned();
    let Some(_disk) = SmallDisk::mount(&mount, "8m") else { return };
    let rig = Rig::at(tempfile::tempdir_in(&mount).unwrap());
    let object = Object::new(1, 6 << 20);
    let cut = object.clone();
    rig.origin.handle("/f", move |request| {
        let reply = cut.respond(request);
        if request.nth == 0 { reply.cut_at(1 << 20, Cut::Fin) } else { reply }
    });
    let (failure, _) = rig.failed(&rig.spec("/f")).await;
    assert_eq!(failure.reason, FailureReason::Truncated);
    assert!(rig.root.has_room("", 6 << 20), "what it does not use is for others meanwhile");
    // As a process that is killed leaves it.
    let part = std::fs::File::options().write(true).open(rig.path("job/.haul-0-1.part")).unwrap();
    rustix::fs::fallocate(&part, rustix::fs::FallocateFlags::KEEP_SIZE, 0, 6 << 20).unwrap();
    assert!(!rig.root.has_room("", 2 << 20));
    let (result, _) = rig.done(&rig.spec("/f")).await;
    assert_eq!((result.resumed_bytes > 0, rig.read("job/f") == object.bytes()), (true, true));
    drop(part);
    // The same before a byte of it was claimed.
    std::fs::remove_file(rig.path("job/f")).unwrap();
    let part = std::fs::File::create(rig.path("job/.haul-0-1.part")).unwrap();
    rustix::fs::fallocate(&part, rustix::fs::FallocateFlags::KEEP_SIZE, 0, 6 << 20).unwrap();
    rig.done(&rig.spec("/f")).await;
    assert_eq!(rig.read("job/f"), object.bytes());
}

/// An origin may announce any size, and send it as slowly as it likes.
#[tokio::test]
async fn room_that_was_announced_and_is_not_taken_is_for_others() {
    let place = tempfile::tempdir().unwrap();
    let mount = place.path().to_owned();
    let Some(_disk) = SmallDisk::mount(&mount, "32m") else { return };
    let mut rig = Rig::at(tempfile::tempdir_in(&mount).unwrap());
    rig.profile = Arc::new(Profile::default());
    rig.settings.room_after = Duration::from_millis(200);
    rig.settings.room_time = Duration::from_secs(1);
    rig.settings.room_bytes_min = 1 << 20;
    let (object, more) = (Object::new(1, 24 << 20), CancellationToken::new());
    let (served, until) = (object.clone(), more.clone());
    rig.origin.handle("/f", move |request| {
        let slow = served.respond(request).pause_at(1 << 20, Pause::For(Duration::from_secs(1)));
        slow.pause_at(2 << 20, Pause::Until(until.clone()))
    });
    let spec = rig.spec("/f");
    let others = async {
        while rig.meter.received_bytes() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!rig.root.has_room("", 16 << 20), "it is for the file");
        while !rig.root.has_room("", 16 << 20) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Somebody takes it, and the file waits for the rest.
        std::fs::write(mount.join("ballast"), vec![1; 16 << 20]).unwrap();
        more.cancel();
    };
    let ((end, _), ()) = tokio::join!(rig.attempt(&spec), others);
    let AttemptEnd::NoSpace { needed_bytes, .. } = end else { panic!("{end:?}") };
    assert!(!rig.root.has_room("", needed_bytes) && rig.meter.done() > 2 << 20, "{needed_bytes}");
    std::fs::remove_file(mount.join("ballast")).unwrap();
    let (result, _) = rig.done(&spec).await;
    assert!(result.resumed_bytes > 2 << 20 && rig.read("job/f") == object.bytes());
}

/// Two bodies of unknown length that fit one by one and not together.
#[tokio::test]
async fn downloads_do_not_wait_for_the_room_that_each_other_hold() {
    let place = tempfile::tempdir().unwrap();
    let mount = place.path().to_owned();
    let Some(_disk) = SmallDisk::mount(&mount, "16m") else { return };
    for has_validators in [false, true] {
        let (mut one, mut two) =
            (Rig::at(tempfile::tempdir_in(&mount).unwrap()), Rig::at(tempfile::tempdir_in(&mount).unwrap()));
        two.root = std::sync::Arc::clone(&one.root);
        (one.key, two.key) = ("0-1".into(), "0-2".into());
        let object = Object::new(1, 12 << 20);
        for rig in [&one, &two] {
            let served = if has_validators { object.clone() } else { object.clone().no_etag().no_last_modified() };
            rig.origin.handle("/f", move |request| match request.header("range") {
                Some(_) => served.respond(request),
                None => served.respond(request).chunked(60_000).bytes_per_second(20 << 20),
            });
        }
        let spec = |rig: &Rig, name: &str| DownloadSpec { path: name.into(), ..rig.spec("/f") };
        let (specs, mut came) = ([spec(&one, "f1"), spec(&two, "f2")], 0);
        let ends = futures_util::future::join(one.attempt(&specs[0]), two.attempt(&specs[1])).await;
        for (rig, spec, (end, _)) in [(&one, &specs[0], ends.0), (&two, &specs[1], ends.1)] {
            let is_there = match end {
                AttemptEnd::Done(_) => true,
                // As the engine has it: once there is room.
                AttemptEnd::NoSpace { folder, needed_bytes, .. } if rig.root.has_room(&folder, needed_bytes) => {
                    matches!(rig.attempt(spec).await.0, AttemptEnd::Done(_))
                }
                AttemptEnd::NoSpace { .. } => false,
                other => panic!("{other:?}"),
            };
            came += usize::from(is_there);
        }
        assert_eq!(came, 1, "one fits, and the other waits for somebody to make room; validators: {has_validators}");
        std::fs::remove_dir_all(one.path("")).unwrap();
    }
}

/// What an attempt leaves counts for its tenant, also where it ended before it looked at what earlier ones had left.
#[tokio::test]
async fn what_earlier_attempts_left_counts_until_it_is_gone() {
    let mut rig = Rig::new();
    let object = Object::new(1, 1_000_000);
    let cut = object.clone();
    rig.origin.handle("/f", move |request| {
        let reply = cut.respond(request);
        if request.nth == 0 { reply.cut_at(400_000, Cut::Fin) } else { reply }
    });
    let spec = rig.spec("/f");
    let (_, report) = rig.failed(&spec).await;
    assert!(report.held_bytes > 100_000, "{report:?}");
    let held = |bytes| StorageHold::of(Arc::default(), bytes);
    rig.storage = held(report.held_bytes);
    std::fs::write(rig.path("job/f"), "of somebody else").unwrap();
    let (failure, again) = rig.failed(&spec).await;
    assert_eq!(failure.reason, FailureReason::FileExists);
    assert_eq!(again.held_bytes, report.held_bytes, "it is there still");
    std::fs::remove_file(rig.path("job/f")).unwrap();
    // The name is taken while the rest comes: the whole of it is there, without a name.
    let (rest, place) = (object.clone(), rig.path("job/f"));
    rig.origin.handle("/f", move |request| {
        std::fs::write(&place, "of somebody else").unwrap();
        rest.respond(request)
    });
    rig.storage = held(report.held_bytes);
    let (failure, last) = rig.failed(&spec).await;
    assert_eq!(failure.reason, FailureReason::FileExists);
    assert!(last.held_bytes >= report.held_bytes, "{last:?}");
    std::fs::remove_file(rig.path("job/f")).unwrap();
    rig.storage = held(last.held_bytes);
    rig.origin.object("/f", object.clone());
    let (result, _) = rig.done(&spec).await;
    assert!(result.resumed_bytes > 0 && rig.read("job/f") == object.bytes());
}

/// Two downloads that were interrupted, and of which neither fits beside what the other holds.
#[tokio::test]
async fn a_part_gives_way_where_another_one_could_go_on_with_its_room() {
    let storage = Arc::new(Storage::default());
    let (mut one, mut two) = (Rig::new(), Rig::new());
    two.root = Arc::clone(&one.root);
    (one.key, two.key) = ("0-1".into(), "0-2".into());
    let object = Object::new(1, 600_000);
    let mut held = Vec::new();
    for (rig, name) in [(&mut one, "f1"), (&mut two, "f2")] {
        let cut = object.clone();
        rig.origin.handle("/f", move |request| {
            let reply = cut.respond(request);
            if request.nth == 0 { reply.cut_at(400_000, Cut::Fin) } else { reply }
        });
        let spec = DownloadSpec { path: name.into(), ..rig.spec("/f") };
        let (failure, report) = rig.failed(&spec).await;
        assert_eq!(failure.reason, FailureReason::Truncated);
        held.push((spec, report.held_bytes));
    }
    let of_others = 150_000;
    storage.set_most(Some(1_000_000));
    storage.moves(0, of_others + held[1].1);
    one.storage = StorageHold::of(storage.clone(), held[0].1);
    let (end, report) = one.attempt(&held[0].0).await;
    assert!(matches!(end, AttemptEnd::NoSpace { .. }), "{end:?}");
    assert_eq!(report.held_bytes, held[0].1, "the first one waits with what it has");
    one.storage = StorageHold::default();
    storage.moves(held[1].1, held[0].1);
    two.storage = StorageHold::of(storage.clone(), held[1].1);
    let (end, report) = two.attempt(&held[1].0).await;
    let AttemptEnd::NoSpace { needed_bytes, .. } = end else { panic!("{end:?}") };
    assert_eq!((report.held_bytes, needed_bytes), (0, 600_000), "which the other one can go on with");
    two.storage = StorageHold::default();
    storage.moves(held[0].1, 0);
    one.storage = StorageHold::of(storage, held[0].1);
    let (result, _) = one.done(&held[0].0).await;
    assert!(result.resumed_bytes > 0 && one.read("job/f1") == object.bytes());
}
