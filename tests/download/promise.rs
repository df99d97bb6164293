//! A mirror never makes a download fail that would succeed without it: whatever the mirrors do, a task has the file where it has as many
//! attempts as the right source needs alone, whenever it is asked; one that is cut each time has it nearly always. The scripts are made of a seed, fresh each run; `HAUL_SEED=N` plays one
//! again.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use haul::model::checksum::Algorithm;
use haul::model::failure::{Failure, FailureReason};
use haul::model::host::Host;
use haul::model::outcome::{AttemptEnd, Outcome};
use haul::model::retry::{Decision, RetryPolicy, decide};
use haul::model::spec::DownloadSpec;
use haul::model::time::Timestamp;
use haul::net::{Guard, HttpClient, Profile, Request, Response, Transport};
use url::Url;

use super::rig::{Rig, checksum};
use super::support::faults::{Dice, seeds};
use super::support::object::Object;
use super::support::reply::{Cut, Reply};

const SIZE: u64 = 40_000;
/// A right source fails less often.
const FAILURES_MAX: u64 = 6;
/// More attempts are not made, those that do not count included, where all sources have had their tries: that would be endless.
const ROUNDS_MAX: u32 = 200;

/// An answer of a source.
#[derive(Clone, Copy, Debug)]
enum Step {
    Right,
    Wrong,
    Cut(u64),
    CutWrong(u64),
    Status(u16),
    RetryAfter,
    Gone,
}

impl Step {
    fn of_right(dice: &mut Dice) -> Step {
        match dice.below(5) {
            0 => Step::Status(500),
            1 => Step::RetryAfter,
            2 => Step::Gone,
            _ => Step::Cut(dice.below(SIZE)),
        }
    }

    fn of_any(dice: &mut Dice) -> Step {
        match dice.below(9) {
            0 => Step::Right,
            1 | 2 => Step::Wrong,
            3..=5 => Step::CutWrong(dice.below(SIZE)),
            6 => Step::Status(404),
            _ => Step::of_right(dice),
        }
    }
}

/// What the sources do, the right one first.
#[derive(Clone, Debug)]
struct Play {
    right: Vec<Step>,
    /// The right source is cut after so many bytes each time.
    is_cut_at: Option<u64>,
    /// What each of the others does, over and over.
    mirrors: Vec<Vec<Step>>,
    objects: Vec<[Object; 2]>,
    /// Whether the right source is the task's own URL.
    is_first: bool,
}

impl Play {
    fn of(seed: u64) -> Play {
        let mut dice = Dice::new(seed);
        let right = (0..dice.below(FAILURES_MAX)).map(|_| Step::of_right(&mut dice)).collect();
        let mirrors = (0..=dice.below(2)).map(|_| {
            // What takes most turns from others is a wrong source that is cut each time.
            let is_cut = dice.one_in(2);
            let length = if is_cut { 8 } else { 1 + dice.below(4) };
            let step = |dice: &mut Dice| if is_cut { Step::CutWrong(dice.below(SIZE)) } else { Step::of_any(dice) };
            (0..length).map(|_| step(&mut dice)).collect()
        });
        let mirrors: Vec<Vec<Step>> = mirrors.collect();
        let objects = (0..=mirrors.len() as u64).map(|nth| {
            let tagged = |object: Object, dice: &mut Dice, nth| match dice.below(3) {
                0 => object.no_etag().no_last_modified(),
                1 => object.etag(&format!("W/\"{nth}\"")).no_last_modified(),
                _ => object.etag(&format!("\"{nth}\"")),
            };
            let kind = Dice::new(dice.next());
            [Object::new(1, SIZE), Object::new(10 + nth, SIZE)].map(|object| tagged(object, &mut kind.clone(), nth))
        });
        let objects = objects.collect();
        let is_cut_at = dice.one_in(3).then(|| SIZE / 5 + dice.below(SIZE));
        Play { right, is_cut_at, mirrors, objects, is_first: dice.one_in(2) }
    }

    /// How many attempts the right source needs alone, from whatever request on.
    fn needed(&self) -> u32 {
        let steps = self.right.len() as u32 + 1;
        self.is_cut_at.map_or(steps, |at| SIZE.div_ceil(at) as u32)
    }

    /// The answer of source `nth` to its request number `request`.
    fn serve(&self, rig: &Rig, nth: usize) {
        let (steps, [good, bad]) = match nth.checked_sub(1) {
            None if let Some(at) = self.is_cut_at => (vec![Step::Cut(at); 1000], self.objects[0].clone()),
            None => (self.right.clone(), self.objects[0].clone()),
            Some(mirror) => (self.mirrors[mirror].clone(), self.objects[nth].clone()),
        };
        rig.origin.handle(&format!("/{nth}"), move |request| {
            let step = if nth == 0 { steps.get(request.nth) } else { steps.get(request.nth % steps.len()) };
            match step.copied().unwrap_or(Step::Right) {
                Step::Right => good.respond(request),
                Step::Wrong => bad.respond(request),
                Step::Cut(at) => good.respond(request).cut_at(at, Cut::Fin),
                Step::CutWrong(at) => bad.respond(request).cut_at(at, Cut::Fin),
                Step::Status(status) => Reply::status(status),
                Step::RetryAfter => Reply::status(503).header("Retry-After", "1"),
                Step::Gone => Reply::gone(Cut::Reset),
            }
        });
    }

    /// A download from these sources.
    fn spec(&self, rig: &Rig, has_mirrors: bool) -> DownloadSpec {
        let count = if has_mirrors { self.mirrors.len() + 1 } else { 1 };
        (0..count).for_each(|nth| self.serve(rig, nth));
        let mut urls: Vec<String> = (0..count).map(|nth| rig.origin.url(&format!("/{nth}"))).collect();
        if !self.is_first {
            urls.rotate_left(1);
        }
        DownloadSpec {
            url: urls.remove(0),
            mirrors: urls,
            path: "f".into(),
            max_connections: 1,
            checksums: vec![checksum(Algorithm::Sha256, &Object::new(1, SIZE).bytes())],
            ..DownloadSpec::default()
        }
    }
}

/// A network in which a source that names a wait is paused for so long, as the host of each is in a server.
struct Paced {
    client: HttpClient,
    paused: Mutex<HashMap<String, Timestamp>>,
    now: Arc<std::sync::atomic::AtomicI64>,
}

impl Paced {
    fn of(rig: &Rig) -> Paced {
        let client = HttpClient::new(Guard { allow_private: true, ..Guard::default() });
        Paced { client, paused: Mutex::default(), now: rig.now.clone() }
    }

    fn until(&self, url: &Url) -> Option<Timestamp> {
        let now = Timestamp(self.now.load(Ordering::SeqCst));
        self.paused.lock().unwrap().get(url.path()).copied().filter(|until| *until > now)
    }
}

impl Transport for Paced {
    fn send<'a>(&'a self, request: Request, profile: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        let url = request.url.clone();
        if let Some(until) = self.until(&url) {
            let paused_host = Host::of(&url);
            let failure = Failure::retryable(FailureReason::HttpStatus, "paused");
            return Box::pin(std::future::ready(Err(Failure { paused_until: Some(until), paused_host, ..failure })));
        }
        Box::pin(async move {
            let response = self.client.send(request, profile).await?;
            if response.status == 503 && response.headers.contains_key("retry-after") {
                let until = Timestamp(self.now.load(Ordering::SeqCst)).plus(Duration::from_secs(1));
                self.paused.lock().unwrap().insert(url.path().to_owned(), until);
            }
            Ok(response)
        })
    }

    fn is_paused(&self, url: &Url) -> bool {
        self.until(url).is_some()
    }
}

/// Makes attempts as the engine does. Says how many were counted when the file was there; else what became of them.
async fn attempts(rig: &mut Rig, spec: &DownloadSpec, most: u32) -> Result<u32, Vec<String>> {
    rig.retry = RetryPolicy { max_attempts: most, jitter: 0.0, ..RetryPolicy::default() };
    let (network, mut attempt, mut told) = (Paced::of(rig), 1, Vec::new());
    for _ in 0..ROUNDS_MAX {
        rig.is_last = rig.retry.is_last(attempt);
        let failure = match rig.attempt_through(&network, &rig.key, spec).await {
            (AttemptEnd::Done(Outcome::Download(_)), _) => return Ok(attempt),
            (AttemptEnd::Failed(failure), _) => failure,
            (end, report) => panic!("{end:?} {report:?}"),
        };
        let now = rig.now.load(Ordering::SeqCst);
        told.push(format!("{attempt}: {} {:?}", failure.message, failure.paused_until.map(|until| until.0 - now)));
        let due = match failure.paused_until {
            Some(until) => until,
            None => match decide(&rig.retry, attempt, &failure, Timestamp(now), 0.0) {
                Decision::GiveUp => return Err(told),
                Decision::RetryAt(due) => {
                    attempt += 1;
                    due
                }
            },
        };
        rig.now.store(due.0.max(now), Ordering::SeqCst);
    }
    panic!("it goes on for ever: {told:#?}");
}

#[tokio::test]
async fn a_mirror_makes_no_download_fail_that_succeeds_without_it() {
    let (mut cut, mut missed) = (0, 0);
    for seed in seeds(150) {
        let play = Play::of(seed);
        cut += u32::from(play.is_cut_at.is_some());
        let mut alone = Rig::new();
        let spec = play.spec(&alone, false);
        let needed = play.needed();
        if let Err(told) = attempts(&mut alone, &spec, needed).await {
            panic!("HAUL_SEED={seed}: alone not in {needed} attempts: {told:#?} {play:#?}");
        }
        let mut rig = Rig::new();
        let spec = play.spec(&rig, true);
        if let Err(told) = attempts(&mut rig, &spec, needed).await {
            // What it brings in one turn may be lost to a wrong source in each of the next.
            if play.is_cut_at.is_some() {
                missed += 1;
                continue;
            }
            let all = rig.origin.all_requests();
            let asked: Vec<String> = all.iter().map(|it| format!("{} {:?}", it.path, it.header("range"))).collect();
            panic!("HAUL_SEED={seed}: not in {needed} attempts: {told:#?} {play:#?} {asked:#?}");
        }
        assert_eq!(rig.read("job/f"), Object::new(1, SIZE).bytes(), "HAUL_SEED={seed}");
        assert_eq!(rig.listing(), ["job", "job/f"], "HAUL_SEED={seed}");
    }
    assert!(missed <= 1 + cut / 4, "{missed} of {cut} sources that are cut each time");
}
