//! A right source beside a wrong one, at random: whatever the wrong one has, and however often the right one is cut, the
//! right file comes in as many attempts as the right source alone takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt as _;
use haul::model::checksum::Algorithm;
use haul::model::outcome::{AttemptEnd, Outcome};
use haul::model::spec::DownloadSpec;

use super::rig::{Rig, checksum};
use super::support::faults::{Dice, seeds};
use super::support::object::Object;
use super::support::reply::Cut;

const PAIRS: u64 = 64;
/// So many are played at once: mostly they wait.
const AT_ONCE: usize = 8;
const ATTEMPTS_MAX: usize = 8;

/// What a pair is made of.
#[derive(Debug)]
struct Pair {
    right: Object,
    wrong: Object,
    /// After so many bytes the answers of the right source are cut in the first attempts; later they are whole.
    cuts: Vec<u64>,
    is_wrong_first: bool,
    connections: u32,
}

impl Pair {
    fn of(seed: u64) -> Pair {
        let mut dice = Dice::new(seed);
        let size = 60_000 + dice.below(200_000);
        let has_ranges = dice.one_in(2);
        // One with ranges never has all at once and comes further each time; one without has to come through in the end.
        let cuts = if has_ranges {
            (0..ATTEMPTS_MAX).map(|_| size / 7 + 1 + dice.below(size / 4)).collect()
        } else {
            (0..=dice.below(5)).map(|_| dice.below(size)).collect()
        };
        let right = Object::new(1, size);
        let right = if dice.one_in(4) { right.no_etag() } else { right };
        let wrong_size = match dice.below(4) {
            0 => size - 1 - dice.below(size / 2),
            1 => size + 1 + dice.below(size),
            _ => size,
        };
        let wrong = Object::new(9, wrong_size);
        let wrong = match dice.below(4) {
            0 => wrong.validators_of(&right),
            1 => wrong.no_etag().no_last_modified(),
            _ => wrong,
        };
        Pair {
            wrong: if dice.one_in(3) { wrong.no_ranges() } else { wrong },
            cuts,
            is_wrong_first: dice.one_in(2),
            connections: [1, 1, 2, 4][dice.below(4) as usize],
            right: if has_ranges { right } else { right.no_ranges() },
        }
    }

    /// A download of the right source, beside the wrong one or alone. `attempt`: which it is, from 0.
    fn spec(&self, rig: &Rig, is_alone: bool, attempt: &Arc<AtomicUsize>) -> DownloadSpec {
        let (right, cuts, attempt) = (self.right.clone(), self.cuts.clone(), attempt.clone());
        rig.origin.handle("/right", move |request| {
            let reply = right.respond(request);
            match cuts.get(attempt.load(Ordering::SeqCst)) {
                Some(at) => reply.cut_at(*at, Cut::Fin),
                None => reply,
            }
        });
        rig.origin.object("/wrong", self.wrong.clone());
        let mut sources = vec![rig.origin.url("/right")];
        if !is_alone {
            sources.insert(usize::from(!self.is_wrong_first), rig.origin.url("/wrong"));
        }
        DownloadSpec {
            url: sources.remove(0),
            mirrors: sources,
            checksums: vec![checksum(Algorithm::Sha256, &self.right.bytes())],
            max_connections: self.connections,
            ..rig.spec("/right")
        }
    }

    /// How many of at most so many attempts bring the right file, or what they end with.
    async fn attempts(&self, is_alone: bool, most: usize) -> Result<usize, String> {
        let mut rig = Rig::new();
        let attempt = Arc::default();
        let spec = self.spec(&rig, is_alone, &attempt);
        let mut told = Vec::new();
        for nth in 1..=most {
            rig.is_last = nth == most;
            attempt.store(nth - 1, Ordering::SeqCst);
            let (end, report) = rig.attempt(&spec).await;
            told.push(format!("{end:?} {report:?}"));
            match end {
                AttemptEnd::Done(Outcome::Download(_)) if rig.read("job/f") == self.right.bytes() => return Ok(nth),
                AttemptEnd::Failed(failure) if failure.retryable => {}
                _ => break,
            }
        }
        let asked = [rig.ranges("/right"), rig.ranges("/wrong")];
        Err(format!("{asked:?}\n{}", told.join("\n")))
    }
}

async fn play(seed: u64) -> Result<(), String> {
    let pair = Pair::of(seed);
    let fail = |told: String| format!("HAUL_SEED={seed}: {pair:?}\n{told}");
    let alone = pair.attempts(true, ATTEMPTS_MAX).await.map_err(fail)?;
    pair.attempts(false, alone).await.map(drop).map_err(fail)
}

#[tokio::test]
async fn a_wrong_source_costs_the_right_one_no_attempt() {
    let plays = futures_util::stream::iter(seeds(PAIRS)).map(play).buffer_unordered(AT_ONCE);
    let failed: Vec<String> = plays.filter_map(async |end| end.err()).collect().await;
    assert!(failed.is_empty(), "{} of {PAIRS}:\n{}", failed.len(), failed.join("\n\n"));
}
