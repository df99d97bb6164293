//! A right source beside others, at random: whatever the others have, however often the right one is cut, and whenever the hosts are
//! paused, the right file comes in as many attempts as the right source alone takes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use haul::model::checksum::Algorithm;
use haul::model::failure::{Failure, FailureReason};
use haul::model::host::Host;
use haul::model::outcome::{AttemptEnd, Outcome};
use haul::model::retry::{RetryPolicy, backoff};
use haul::model::spec::DownloadSpec;
use haul::model::time::Timestamp;
use haul::net::{Guard, HttpClient, Profile, Request, Response, Transport};
use url::Url;

use super::rig::{Rig, checksum};
use super::support::faults::{Dice, seeds};
use super::support::object::Object;
use super::support::reply::{Cut, Reply};

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

/// So many attempts in a row that do not count are taken for no end.
const WAITS_MAX: usize = 300;
const SECOND: i64 = 1_000_000;

/// What a source does that has not the right file.
#[derive(Clone, Debug)]
enum Fault {
    Gone,
    Broken,
    /// And asks to wait for so many seconds, which pauses its host.
    Busy(u64),
    Refuses,
    /// The answer ends after so many bytes of other content.
    CutWrong(u64),
    /// It ends before the first byte.
    Reset,
    Wrong(u64),
}

/// One source: what it does, and when its host is paused, from and to, in microseconds since the beginning.
#[derive(Clone, Debug)]
struct Player {
    /// `None`: it has the right file, and cuts as many of its answers.
    fault: Option<Fault>,
    pauses: Vec<(i64, i64)>,
}

/// A game of several sources.
#[derive(Debug)]
struct Game {
    size: u64,
    cuts: usize,
    players: Vec<Player>,
}

impl Game {
    fn of(seed: u64) -> Game {
        let mut dice = Dice::new(seed);
        let size = 30_000 + dice.below(60_000);
        let cuts = if dice.one_in(3) { 1 + dice.below(2) as usize } else { 0 };
        let mut players = vec![Player { fault: None, pauses: pauses(&mut dice, 2) }];
        for _ in 0..=dice.below(2) {
            let fault = match dice.below(8) {
                0 => Fault::Gone,
                1 => Fault::Broken,
                2 => Fault::Busy(1 + dice.below(4)),
                3 => Fault::Refuses,
                4 => Fault::Reset,
                // One that comes further each time is gone on with before another one that would begin anew.
                5 if cuts == 0 => Fault::CutWrong(1 + dice.below(size - 1)),
                6 => Fault::Wrong(size / 2 + dice.below(size)),
                _ => Fault::Wrong(size),
            };
            let at = dice.below(players.len() as u64 + 1) as usize;
            players.insert(at, Player { fault: Some(fault), pauses: pauses(&mut dice, 6) });
        }
        Game { size, cuts, players }
    }

    /// How many attempts that count bring the right file, of at most so many, or what became of them.
    async fn attempts(&self, players: &[Player], most: u32) -> Result<u32, String> {
        let mut rig = Rig::new();
        rig.retry = RetryPolicy { max_attempts: most, jitter: 0.0, ..RetryPolicy::default() };
        let right = Object::new(1, self.size);
        let network = Network::of(&rig, players, &right, self.cuts);
        let url = |nth: usize| rig.origin.url(&format!("/{nth}"));
        let spec = DownloadSpec {
            url: url(0),
            mirrors: (1..players.len()).map(url).collect(),
            checksums: vec![checksum(Algorithm::Sha256, &right.bytes())],
            max_connections: 1,
            ..rig.spec("/0")
        };
        let (mut nth, mut told) = (1, Vec::new());
        for _ in 0..WAITS_MAX {
            rig.is_last = nth == most;
            let (end, report) = rig.attempt_through(&network, &rig.key, &spec).await;
            told.push(format!("{nth} at {}: {end:?} {report:?}", network.since_begin()));
            match end {
                AttemptEnd::Done(Outcome::Download(_)) if rig.read("job/f") == right.bytes() => {
                    let asked: Vec<usize> =
                        (0..players.len()).map(|nth| rig.ranges(&format!("/{nth}")).len()).collect();
                    // Its tries while another was waited for, those in attempts that count, and each time once more without a range.
                    let is_too_often = asked.iter().any(|asked| *asked > 4 * most as usize + 2);
                    return if is_too_often { Err(format!("{asked:?}\n{}", told.join("\n"))) } else { Ok(nth) };
                }
                AttemptEnd::Failed(Failure { paused_until: Some(until), .. }) => network.wait_until(until),
                AttemptEnd::Failed(failure) if failure.retryable && nth < most => {
                    network.wait(backoff(&rig.retry, nth, 0.0).max(failure.retry_after.unwrap_or_default()));
                    nth += 1;
                }
                _ => break,
            }
        }
        Err(told.join("\n"))
    }
}

/// When a host is paused: at most so often, and then never again.
fn pauses(dice: &mut Dice, most: u64) -> Vec<(i64, i64)> {
    let mut end = 0;
    let mut pause = |_| {
        let from = if dice.one_in(2) { end } else { end + dice.below(3 * SECOND as u64) as i64 };
        end = from + 1 + dice.below(5 * SECOND as u64) as i64;
        (from, end)
    };
    (0..most).map(&mut pause).collect()
}

/// A network in which hosts are paused at times.
struct Network {
    client: HttpClient,
    players: Vec<Player>,
    begin: i64,
    now: Arc<AtomicI64>,
    /// Until when those are paused that have asked for it.
    asked: Mutex<BTreeMap<usize, i64>>,
}

impl Network {
    fn of(rig: &Rig, players: &[Player], right: &Object, cuts: usize) -> Network {
        for (nth, player) in players.iter().enumerate() {
            let (fault, right) = (player.fault.clone(), right.clone());
            let wrong = move |size| Object::new(9 + nth as u64, size);
            let size = right.size();
            rig.origin.handle(&format!("/{nth}"), move |request| match fault {
                None if request.nth < cuts => right.respond(request).cut_at(size / 4, Cut::Fin),
                None => right.respond(request),
                Some(Fault::Gone | Fault::Refuses) => Reply::status(404),
                Some(Fault::Broken) => Reply::status(500),
                Some(Fault::Busy(seconds)) => Reply::status(503).header("Retry-After", &seconds.to_string()),
                Some(Fault::CutWrong(at)) => wrong(size).respond(request).cut_at(at, Cut::Fin),
                Some(Fault::Reset) => wrong(size).respond(request).cut_at(0, Cut::Reset),
                Some(Fault::Wrong(size)) => wrong(size).respond(request),
            });
        }
        Network {
            client: HttpClient::new(Guard { allow_private: true, ..Guard::default() }),
            players: players.to_vec(),
            begin: rig.now.load(Ordering::SeqCst),
            now: rig.now.clone(),
            asked: Mutex::default(),
        }
    }

    fn since_begin(&self) -> i64 {
        self.now.load(Ordering::SeqCst) - self.begin
    }

    fn wait_until(&self, until: Timestamp) {
        self.now.fetch_max(until.0, Ordering::SeqCst);
    }

    fn wait(&self, wait: Duration) {
        self.now.fetch_add(wait.as_micros() as i64, Ordering::SeqCst);
    }

    fn number(url: &Url) -> usize {
        url.path()[1..].parse().unwrap()
    }

    fn paused_until(&self, nth: usize) -> Option<Timestamp> {
        let now = self.since_begin();
        let own = self.players[nth].pauses.iter().filter(|(from, to)| (*from..*to).contains(&now)).map(|(_, to)| *to);
        let asked = self.asked.lock().unwrap().get(&nth).copied().filter(|until| *until > now);
        own.chain(asked).max().map(|until| Timestamp(self.begin + until))
    }
}

impl Transport for Network {
    fn send<'a>(&'a self, request: Request, profile: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        Box::pin(async move {
            let nth = Network::number(&request.url);
            if let Some(until) = self.paused_until(nth) {
                let paused_host = Some(Host::new(&format!("{nth}:80")));
                let message = format!("`{nth}:80` is paused");
                let failure = Failure::retryable(FailureReason::HttpStatus, message);
                return Err(Failure { paused_until: Some(until), paused_host, ..failure });
            }
            if matches!(self.players[nth].fault, Some(Fault::Refuses)) {
                return Err(Failure::retryable(FailureReason::Connect, "refused"));
            }
            let response = self.client.send(request, profile).await?;
            if let (503, Some(Fault::Busy(seconds))) = (response.status.as_u16(), &self.players[nth].fault) {
                self.asked.lock().unwrap().insert(nth, self.since_begin() + *seconds as i64 * SECOND);
            }
            Ok(response)
        })
    }

    fn is_paused(&self, url: &Url) -> bool {
        self.paused_until(Network::number(url)).is_some()
    }
}

async fn play_paused(seed: u64) -> Result<(), String> {
    let game = Game::of(seed);
    let fail = |told: String| format!("HAUL_SEED={seed}: {game:?}\n{told}");
    let alone: Vec<Player> = game.players.iter().filter(|player| player.fault.is_none()).cloned().collect();
    let needed = game.attempts(&alone, ATTEMPTS_MAX as u32).await.map_err(fail)?;
    game.attempts(&game.players, needed).await.map(drop).map_err(fail)
}

/// Also where it needs the last attempt: a source that is only paused is waited for, whatever becomes of the others.
#[tokio::test]
async fn a_source_that_fails_costs_a_paused_one_no_attempt() {
    let plays = futures_util::stream::iter(seeds(PAIRS)).map(play_paused).buffer_unordered(AT_ONCE);
    let failed: Vec<String> = plays.filter_map(async |end| end.err()).collect().await;
    assert!(failed.is_empty(), "{} of {PAIRS}:\n{}", failed.len(), failed.join("\n\n"));
}
