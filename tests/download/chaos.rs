//! Faults composed at random, attempt after attempt: the right bytes or a typed failure, never a wrong file.

use std::time::Duration;

use futures_util::StreamExt as _;
use haul::download::Settings;
use haul::files::part::{Part, PartKey};
use haul::model::checksum::Algorithm;
use haul::model::failure::FailureReason;
use haul::model::outcome::{AttemptEnd, Outcome};
use haul::model::spec::DownloadSpec;

use super::rig::{Rig, checksum};
use super::support::faults::{Dice, Script};

const ATTEMPTS_MAX: usize = 20;

#[tokio::test]
async fn one_seed_after_the_other() {
    let plays = (0..300).map(play);
    // A few at once: most of their time they wait for what does not come.
    futures_util::stream::iter(plays).buffer_unordered(4).collect::<Vec<()>>().await;
}

async fn play(seed: u64) {
    let mut dice = Dice::new(seed ^ 0xd1ce);
    let script = Script::new(seed, 20_000 + dice.below(200_000));
    let mut rig = Rig::new();
    let profile = std::sync::Arc::make_mut(&mut rig.profile);
    profile.timeouts.response_headers = Duration::from_millis(300);
    profile.timeouts.idle = Duration::from_millis(200);
    rig.settings = Settings { checkpoint_interval: Duration::from_millis(10), ..rig.settings.clone() };
    let served = script.clone();
    rig.origin.handle("/f", move |request| served.respond(request));
    let has_digest = dice.one_in(3);
    rig.origin.object("/mirror", script.mirrored());
    let spec = DownloadSpec {
        mirrors: if dice.one_in(4) { vec![rig.origin.url("/mirror")] } else { Vec::new() },
        max_connections: 1 + dice.below(4) as u32,
        checksums: has_digest.then(|| checksum(Algorithm::Crc32c, &script.last().bytes())).into_iter().collect(),
        ..rig.spec("/f")
    };
    let mut told = Vec::new();
    for attempt in 0..ATTEMPTS_MAX {
        // Now and then one of the first is dropped where it is, as by a crash of the process.
        let life =
            if attempt < 6 && dice.one_in(3) { Duration::from_millis(dice.below(60)) } else { Duration::from_secs(60) };
        let Ok((end, report)) = tokio::time::timeout(life, rig.attempt(&spec)).await else {
            at_rest(&rig).await;
            continue;
        };
        told.push(format!("{end:?} {report:?}"));
        match end {
            AttemptEnd::Done(Outcome::Download(result)) => {
                let got = rig.read("job/f");
                assert_eq!(result.bytes, got.len() as u64, "seed {seed}");
                let is_right = |object: &super::support::object::Object| object.bytes() == got;
                let right = if has_digest { is_right(script.last()) } else { script.versions.iter().any(is_right) };
                assert!(right, "seed {seed}: a wrong file; {report:?} {script:?}");
                assert_eq!(rig.listing(), ["job", "job/f"], "seed {seed}");
                return;
            }
            AttemptEnd::Failed(failure) => {
                let is_expected = failure.retryable || failure.reason == FailureReason::ChecksumMismatch;
                assert!(is_expected, "seed {seed}: {failure:?} {report:?}");
                assert!(!rig.path("job/f").exists(), "seed {seed}: a file of a failed download");
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    panic!("seed {seed} does not end: {script:?}\n{}", told.join("\n"));
}

/// What a dropped attempt had begun on another thread goes on, as it does not after a crash: it holds the part's lock.
async fn at_rest(rig: &Rig) {
    while Part::find(&rig.root, "job", PartKey { name: &rig.key, is_shared: false }).is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
