//! Faults of origins, mirrors, the disk and other people composed at random, attempt after attempt: the right bytes or a
//! typed failure, never a wrong file.
//!
//! Seeds are fresh each run, and stand in every panic; `HAUL_SEED=N` plays one again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use haul::download::Settings;
use haul::files::Root;
use haul::files::disk::Faults;
use haul::files::part::{Part, PartKey};
use haul::model::checksum::Algorithm;
use haul::model::failure::FailureReason;
use haul::model::outcome::{AttemptEnd, Outcome};
use haul::model::spec::{DownloadSpec, OnConflict};

use super::rig::{Rig, checksum};
use super::support::faults::{Dice, Script, seeds};
use super::support::object::Object;

const PLAYS: u64 = 300;
const ATTEMPTS_MAX: usize = 30;
const FOREIGN: &[u8] = b"somebody else's";

#[tokio::test]
async fn one_seed_after_the_other() {
    let plays = seeds(PLAYS).into_iter().map(play);
    // A few at once: most of their time they wait for what does not come.
    futures_util::stream::iter(plays).buffer_unordered(4).collect::<Vec<()>>().await;
}

/// A disk that cannot sync, now and then, for a while.
#[derive(Debug)]
struct Syncs {
    dice: Mutex<Dice>,
    /// How many more fail at most.
    failures: AtomicU64,
}

impl Faults for Syncs {
    fn write(&self, _: u64, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> std::io::Result<()> {
        let mut dice = self.dice.lock().unwrap();
        let may_fail = self.failures.load(Ordering::SeqCst) > 0;
        if !may_fail || !dice.one_in(2) {
            return Ok(());
        }
        self.failures.fetch_sub(1, Ordering::SeqCst);
        Err(if dice.one_in(2) { std::io::ErrorKind::StorageFull.into() } else { std::io::Error::from_raw_os_error(5) })
    }

    fn empty(&self) {}
}

/// Somebody else who makes a file of the name that the download is to have.
struct Foreign {
    /// Before which attempt.
    attempt: usize,
    on_conflict: OnConflict,
}

/// All that one seed makes.
struct Play {
    seed: u64,
    script: Script,
    mirror: Option<Object>,
    has_digest: bool,
    foreign: Option<Foreign>,
    rig: Rig,
    spec: DownloadSpec,
}

fn set_up(seed: u64, dice: &mut Dice) -> Play {
    let script = Script::new(seed, 20_000 + dice.below(200_000));
    let mut rig = Rig::new();
    let profile = Arc::make_mut(&mut rig.profile);
    profile.timeouts.response_headers = Duration::from_millis(300);
    profile.timeouts.idle = Duration::from_millis(200);
    rig.settings = Settings { checkpoint_interval: Duration::from_millis(10), ..rig.settings.clone() };
    if dice.one_in(4) {
        let failures = AtomicU64::new(1 + dice.below(4));
        let syncs = Syncs { dice: Mutex::new(Dice::new(dice.next())), failures };
        rig.root = Arc::new(Root::open(&rig.path("")).unwrap().with_faults(Arc::new(syncs)));
    }
    let served = script.clone();
    rig.origin.handle("/f", move |request| served.respond(request));
    let has_digest = dice.one_in(3);
    let mirror = dice.one_in(3).then(|| script.mirrored(dice));
    if let Some(mirror) = &mirror {
        rig.origin.object("/mirror", mirror.clone());
    }
    let foreign = dice.one_in(5).then(|| Foreign {
        attempt: dice.below(2) as usize,
        on_conflict: if dice.one_in(2) { OnConflict::Fail } else { OnConflict::Rename },
    });
    let spec = DownloadSpec {
        mirrors: mirror.iter().map(|_| rig.origin.url("/mirror")).collect(),
        max_connections: 1 + dice.below(4) as u32,
        checksums: has_digest.then(|| checksum(Algorithm::Crc32c, &script.last().bytes())).into_iter().collect(),
        on_conflict: foreign.as_ref().map(|foreign| foreign.on_conflict),
        ..rig.spec("/f")
    };
    Play { seed, script, mirror, has_digest, foreign, rig, spec }
}

async fn play(seed: u64) {
    let mut dice = Dice::new(seed ^ 0xd1ce);
    let play = set_up(seed, &mut dice);
    let rig = &play.rig;
    let mut told = Vec::new();
    for attempt in 0..ATTEMPTS_MAX {
        let is_taken = play.foreign.as_ref().is_some_and(|foreign| attempt >= foreign.attempt);
        if is_taken {
            std::fs::create_dir_all(rig.path("job")).unwrap();
            std::fs::write(rig.path("job/f"), FOREIGN).unwrap();
        }
        // Now and then one of the first is dropped where it is, as by a crash of the process.
        let life =
            if attempt < 6 && dice.one_in(3) { Duration::from_millis(dice.below(60)) } else { Duration::from_secs(60) };
        let Ok((end, report)) = tokio::time::timeout(life, rig.attempt(&play.spec)).await else {
            at_rest(rig).await;
            if rig.listing() == ["job", "job/f"] && !is_taken {
                // It was over but for its last word, and the next attempt would find its name taken.
                assert!(play.is_right(&rig.read("job/f")), "seed {seed}: {:?}", play.script);
                return;
            }
            continue;
        };
        told.push(format!("{end:?} {report:?}"));
        if play.is_over(&end, is_taken) {
            return;
        }
    }
    panic!("seed {seed} does not end: {:?}\n{}", play.script, told.join("\n"));
}

impl Play {
    /// Judges how an attempt ended. Returns whether none follows.
    fn is_over(&self, end: &AttemptEnd, is_taken: bool) -> bool {
        let Play { seed, rig, .. } = self;
        if is_taken {
            assert_eq!(rig.read("job/f"), FOREIGN, "seed {seed}: it was not ours; {end:?}");
        }
        match end {
            AttemptEnd::Done(Outcome::Download(result)) => {
                assert_eq!(result.path == "job/f (1)", is_taken, "seed {seed}: {result:?}");
                let got = rig.read(&result.path);
                assert_eq!(result.bytes, got.len() as u64, "seed {seed}");
                assert!(self.is_right(&got), "seed {seed}: a wrong file; {result:?} {:?}", self.script);
                let all = if is_taken { &["job", "job/f", "job/f (1)"][..] } else { &["job", "job/f"] };
                assert_eq!(rig.listing(), all, "seed {seed}");
                true
            }
            AttemptEnd::Failed(failure) if failure.reason == FailureReason::FileExists => {
                assert!(is_taken && self.spec.on_conflict == Some(OnConflict::Fail), "seed {seed}: {failure:?}");
                true
            }
            AttemptEnd::Failed(failure) => {
                let is_expected = failure.retryable || failure.reason == FailureReason::ChecksumMismatch;
                assert!(is_expected, "seed {seed}: {failure:?}");
                assert!(is_taken || !rig.path("job/f").exists(), "seed {seed}: a file of a failed download");
                false
            }
            AttemptEnd::NoSpace { .. } => false,
            other => panic!("seed {seed}: {other:?}"),
        }
    }

    /// Whether these are the bytes of one version: of the one that the digest is of, where there is a digest.
    fn is_right(&self, got: &[u8]) -> bool {
        let mut versions = self.script.versions.iter().chain(&self.mirror);
        if self.has_digest { self.script.last().bytes() == got } else { versions.any(|object| object.bytes() == got) }
    }
}

/// What a dropped attempt had begun on another thread goes on, as it does not after a crash: it holds the part's lock.
async fn at_rest(rig: &Rig) {
    while Part::find(&rig.root, "job", PartKey { name: &rig.key, is_shared: false }).is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
