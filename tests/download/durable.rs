//! What is forced to the device, when, and what becomes of a file where that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use haul::files::disk::Faults;
use haul::files::{Durability, Root};
use haul::model::checksum::Algorithm;
use haul::model::failure::{Failure, FailureReason};
use haul::model::outcome::AttemptEnd;
use haul::model::spec::{DownloadSpec, OnConflict};
use haul::net::{Guard, HttpClient, Profile, Request, Response, Transport};

use super::rig::{Rig, checksum};
use super::support::object::Object;

const SIZE: u64 = 100_000;

/// The names that were forced to the device, and how many of the first calls fail.
#[derive(Debug, Default)]
struct Names(std::sync::Mutex<(Vec<String>, usize)>);

impl Faults for Names {
    fn write(&self, _at: u64, _length: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn empty(&self) {}

    fn sync_names(&self, folder: &str) -> std::io::Result<()> {
        let mut seen = self.0.lock().unwrap();
        seen.0.push(folder.to_owned());
        let fails = seen.1 > 0;
        seen.1 = seen.1.saturating_sub(1);
        if fails { Err(std::io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }
}

#[tokio::test]
async fn a_file_is_done_once_its_name_is_on_the_device() {
    let names = Arc::new(Names::default());
    let mut rig = Rig::new();
    rig.root = Arc::new(Root::open(&rig.path("")).unwrap().with_faults(names.clone()));
    rig.origin.object("/f", Object::new(1, SIZE));
    let seen = || std::mem::take(&mut names.0.lock().unwrap().0);
    names.0.lock().unwrap().1 = 1;
    assert_eq!(rig.failed(&rig.spec("/f")).await.0.reason, FailureReason::Io);
    assert_eq!((seen(), rig.listing()), (vec!["job".to_owned()], vec!["job".to_owned(), "job/f".to_owned()]));
    // The next attempt finds the file, which is not there for sure yet.
    rig.done(&rig.spec("/f")).await;
    assert_eq!((seen(), rig.origin.requests("/f").len()), (vec!["job".to_owned(), String::new()], 1));
    // The directory's own name is on the device, until somebody removes it.
    rig.key = "0-2".into();
    rig.done(&DownloadSpec { path: "g".into(), ..rig.spec("/f") }).await;
    assert_eq!(seen(), ["job"]);
    std::fs::remove_dir_all(rig.path("job")).unwrap();
    rig.key = "0-3".into();
    rig.done(&DownloadSpec { path: "h".into(), ..rig.spec("/f") }).await;
    assert_eq!(seen(), ["job", ""]);
}

/// Whoever has made a file that is kept may have done so just now.
#[tokio::test]
async fn a_file_that_is_there_already_is_on_the_device_before_it_is_kept() {
    let names = Arc::new(Names::default());
    let mut rig = Rig::new();
    rig.root = Arc::new(Root::open(&rig.path("")).unwrap().with_faults(names.clone()));
    let object = Object::new(1, SIZE);
    rig.origin.object("/f", object.clone());
    std::fs::create_dir(rig.path("job")).unwrap();
    std::fs::write(rig.path("job/f"), object.bytes()).unwrap();
    let made = std::fs::metadata(rig.path("job/f")).unwrap();
    rig.now.store(std::os::unix::fs::MetadataExt::ctime(&made) * 1_000_000, Ordering::SeqCst);
    let checksums = vec![checksum(Algorithm::Sha256, &object.bytes())];
    let spec = DownloadSpec { checksums, on_conflict: Some(OnConflict::Skip), ..rig.spec("/f") };
    let seen = || std::mem::take(&mut names.0.lock().unwrap().0);
    assert!(rig.done(&spec).await.0.skipped);
    assert_eq!(seen(), ["job", ""]);
    // The system has written it by itself.
    rig.now.fetch_add(61_000_000, Ordering::SeqCst);
    assert!(rig.done(&spec).await.0.skipped);
    assert_eq!(seen(), [""; 0]);
}

/// Calls that force something to the device, of which the first for all files fails, and that for one file by its number.
#[derive(Debug)]
struct Calls {
    root: std::path::PathBuf,
    log: std::sync::Mutex<Vec<&'static str>>,
    fails: usize,
}

impl Calls {
    fn note(&self, call: &'static str) -> usize {
        let mut log = self.log.lock().unwrap();
        log.push(call);
        log.iter().filter(|it| **it == call).count()
    }

    fn names(&self) -> usize {
        std::fs::read_dir(self.root.join("job")).unwrap().count()
    }
}

impl Faults for Calls {
    fn write(&self, _at: u64, _length: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> std::io::Result<()> {
        if self.note("file") == self.fails { Err(std::io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }

    fn sync_all(&self) -> std::io::Result<()> {
        let nth = self.note("all");
        assert!(nth > 1 || self.names() == 0, "a file has its name before its bytes are on the device");
        if nth == 1 { Err(std::io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }

    fn empty(&self) {}

    fn sync_names(&self, folder: &str) -> std::io::Result<()> {
        self.note(if folder.is_empty() { "root" } else { "names" });
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_made_durable_together_are_right_or_not_there() {
    const FILES: u64 = 40;
    let mut rig = Rig::new();
    let calls = Calls { root: rig.path(""), log: std::sync::Mutex::default(), fails: 7 };
    let calls = Arc::new(calls);
    let root = Root::open(&rig.path("")).unwrap().with_faults(calls.clone()).with_files_together();
    rig.root = Arc::new(root);
    let objects: Vec<Object> = (0..FILES).map(|nth| Object::new(nth, 1000 + nth)).collect();
    for (nth, object) in objects.iter().enumerate() {
        rig.origin.object(&format!("/{nth}"), object.clone());
    }
    let specs: Vec<_> =
        (0..FILES).map(|nth| DownloadSpec { path: format!("f{nth}"), ..rig.spec(&format!("/{nth}")) }).collect();
    let keys: Vec<String> = (0..FILES).map(|nth| format!("0-{nth}")).collect();
    let attempts = specs.iter().zip(&keys).map(|(spec, key)| rig.attempt_through(&rig.client, key, spec));
    let ends = futures_util::future::join_all(attempts).await;
    let mut failed = 0;
    for (nth, (end, _)) in ends.iter().enumerate() {
        let path = rig.path(&format!("job/f{nth}"));
        match end {
            AttemptEnd::Done(_) => assert!(std::fs::read(path).unwrap() == objects[nth].bytes(), "{nth}"),
            AttemptEnd::Failed(failure) => {
                assert_eq!((failure.reason, failure.retryable), (FailureReason::Io, true));
                assert!(!path.exists(), "{nth}");
                failed += 1;
            }
            end => panic!("{end:?}"),
        }
    }
    assert_eq!(failed, 1, "that whose bytes could not be forced to the device, and no other");
    let log = calls.log.lock().unwrap();
    let count = |call: &str| log.iter().filter(|it| **it == call).count() as u64;
    assert_eq!(count("file"), FILES);
    assert_eq!(rig.listing().len() as u64, FILES, "nothing else is left");
    let (all, names) = (count("all"), count("names"));
    assert!(all >= 1 && names >= 1, "files are forced to the device in rounds, and then their directory: {log:?}");
}

/// Counts how often an attempt says that it only waits for its disk.
struct Settled {
    inner: HttpClient,
    count: AtomicUsize,
}

impl Transport for Settled {
    fn send<'a>(&'a self, request: Request, profile: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        self.inner.send(request, profile)
    }

    fn settle(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn the_place_is_given_away_while_a_small_file_is_forced_to_the_device() {
    for (durability, size, count) in
        [(Durability::Full, SIZE, 1), (Durability::None, SIZE, 0), (Durability::Full, (1 << 20) + 1, 0)]
    {
        let mut rig = Rig::new();
        rig.durability = durability;
        rig.origin.object("/f", Object::new(1, size));
        let settled = Settled {
            inner: HttpClient::new(Guard { allow_private: true, ..Guard::default() }),
            count: AtomicUsize::new(0),
        };
        let (end, _) = rig.attempt_through(&settled, "0-1", &rig.spec("/f")).await;
        assert!(matches!(end, AttemptEnd::Done(_)), "{end:?}");
        assert_eq!(settled.count.load(Ordering::Relaxed), count, "{durability:?} {size}");
    }
}

/// A disk whose first sync fails, as the kernel reports a write that it could not make: once.
#[derive(Debug, Default)]
struct FirstSyncFails(AtomicBool);

impl Faults for FirstSyncFails {
    fn write(&self, _: u64, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> std::io::Result<()> {
        let is_first = !self.0.swap(true, Ordering::SeqCst);
        if is_first { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn empty(&self) {}
}

#[tokio::test]
async fn nothing_is_claimed_of_what_could_not_be_synced() {
    let mut rig = Rig::new();
    let root = Root::open(&rig.path("")).unwrap().with_faults(Arc::<FirstSyncFails>::default());
    rig.root = Arc::new(root);
    rig.settings.checkpoint_interval = Duration::from_millis(10);
    let object = Object::new(1, SIZE);
    let slow = object.clone();
    rig.origin.handle("/f", move |request| slow.respond(request).bytes_per_second(200_000));
    let (failure, _) = rig.failed(&rig.spec("/f")).await;
    // The file system has room for it, so that nothing would tell when to go on.
    assert_eq!((failure.reason, failure.retryable), (FailureReason::DiskFull, true), "{failure}");
    assert_eq!(rig.listing(), [""; 0], "no byte of it is believed");
    rig.origin.object("/f", object.clone());
    let (result, _) = rig.done(&rig.spec("/f")).await;
    assert_eq!((result.resumed_bytes, rig.read("job/f")), (0, object.bytes()));
}

/// As [`FirstSyncFails`], once it is let go.
#[derive(Debug, Default)]
struct UnheardSyncFails {
    first: FirstSyncFails,
    is_begun: AtomicBool,
    is_let_go: AtomicBool,
}

impl Faults for UnheardSyncFails {
    fn write(&self, _: u64, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> std::io::Result<()> {
        self.is_begun.store(true, Ordering::SeqCst);
        while !self.is_let_go.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.first.sync()
    }

    fn empty(&self) {}
}

/// A checkpoint that nobody waits for any more takes the error that the kernel reports once.
#[tokio::test]
async fn an_error_that_nobody_heard_is_not_forgotten() {
    use haul::files::bound::Bound;
    use haul::files::commit::Taken;
    use haul::files::part::{Part, PartKey};
    let rig = Rig::new();
    let key = PartKey { name: "0-1", is_shared: false };
    for is_commit in [true, false] {
        let faults = Arc::<UnheardSyncFails>::default();
        let root = Arc::new(Root::open(&rig.path("")).unwrap().with_faults(faults.clone()));
        let part = Part::create(&root, "job", key).unwrap();
        let bound = Bound::restart(part, haul::files::binding::Binding::default(), []).await.unwrap();
        bound.put(0, &"abc".into()).await.unwrap();
        let unheard = bound.checkpoint();
        assert!(futures_util::FutureExt::now_or_never(unheard).is_none(), "begun, and let go of");
        while !faults.is_begun.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        faults.is_let_go.store(true, Ordering::SeqCst);
        if is_commit {
            let end = bound.commit("f", 3, Taken::Refuse, Durability::Full, true).await;
            assert_eq!(end.unwrap_err().reason, FailureReason::Io);
        } else {
            assert!(bound.close().await.is_none(), "no byte of it is believed");
        }
        Part::at_rest(&root, "job", key).await;
        assert!(!rig.path("job/f").exists());
    }
}
