//! Sources beside one that is wrong: what is known of a source outlives the attempt in which it was found out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use haul::model::checksum::Algorithm;
use haul::model::failure::{Failure, FailureReason};
use haul::model::host::Host;
use haul::model::outcome::{AttemptEnd, AttemptReport, Outcome};
use haul::model::spec::DownloadSpec;
use haul::model::storage::{Storage, StorageHold};
use haul::model::time::Timestamp;
use haul::net::{Guard, HttpClient, Profile, Request, Response, Transport};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::rig::{Rig, checksum};
use super::support::faults::{Dice, seeds};
use super::support::object::Object;
use super::support::reply::{Cut, Pause, Reply};

const SIZE: u64 = 300_000;

/// A download of the first of these that has so many wrong mirrors. The first cuts each of its answers.
fn cut_beside_wrong_ones(rig: &Rig, right: &Object, cut: u64, wrong: &[Object]) -> DownloadSpec {
    let cutting = right.clone();
    rig.origin.handle("/f", move |request| cutting.respond(request).cut_at(cut, Cut::Fin));
    let mut spec = rig.spec("/f");
    for (nth, wrong) in wrong.iter().enumerate() {
        rig.origin.object(&format!("/m{nth}"), wrong.clone());
        spec.mirrors.push(rig.origin.url(&format!("/m{nth}")));
    }
    spec.max_connections = 1;
    spec.checksums = vec![checksum(Algorithm::Sha256, &right.bytes())];
    spec
}

/// How many attempts bring the file.
async fn attempts(rig: &Rig, spec: &DownloadSpec, most: usize) -> usize {
    let mut told = Vec::new();
    for nth in 1..=most {
        match rig.attempt(spec).await {
            (AttemptEnd::Done(Outcome::Download(_)), _) => return nth,
            (AttemptEnd::Failed(failure), _) if failure.retryable => told.push(failure.message),
            (end, report) => panic!("{end:?} {report:?}"),
        }
    }
    panic!("not after {most} attempts: {told:#?}");
}

#[tokio::test]
async fn a_wrong_mirror_does_not_undo_the_right_source() {
    let (rig, right) = (Rig::new(), Object::new(1, SIZE));
    let spec = cut_beside_wrong_ones(&rig, &right, 60_000, &[Object::new(9, SIZE)]);
    let (failure, report) = rig.failed(&spec).await;
    assert_eq!((failure.reason, failure.retryable), (FailureReason::ChecksumMismatch, true), "{failure}");
    assert_eq!(report.held_bytes, 120_000, "what came before the join, and what came alone behind it");
    assert!(attempts(&rig, &spec, 4).await <= 4);
    assert_eq!(rig.read("job/f"), right.bytes());
    assert_eq!(rig.ranges("/m0"), ["bytes=60000-"], "it is not asked again");
    assert_eq!(rig.listing(), ["job", "job/f"]);
}

#[tokio::test]
async fn a_right_mirror_of_a_wrong_source_is_asked_for_all() {
    let (rig, right, wrong) = (Rig::new(), Object::new(1, SIZE), Object::new(9, SIZE));
    rig.origin.object("/m", right.clone());
    rig.origin.handle("/f", move |request| match request.nth {
        0 => wrong.respond(request).cut_at(200_000, Cut::Fin),
        _ => wrong.respond(request),
    });
    let mut spec = rig.spec("/f");
    spec.mirrors = vec![rig.origin.url("/m")];
    spec.max_connections = 1;
    spec.checksums = vec![checksum(Algorithm::Sha256, &right.bytes())];
    let (result, _) = rig.done(&spec).await;
    assert!(result.final_url.ends_with("/m"));
    assert_eq!(rig.read("job/f"), right.bytes());
    assert_eq!(rig.ranges("/m"), ["bytes=200000-", "-"], "joined, and then alone");
    assert_eq!(rig.ranges("/f"), ["-", "bytes=200000-"], "what it had brought was kept");
}

/// Whatever wrong mirrors have, they cost no attempt, and each is asked a bounded number of times.
#[tokio::test]
async fn wrong_mirrors_cost_no_attempts() {
    for seed in seeds(12) {
        let mut dice = Dice::new(seed);
        let (size, right) = (100_000 + dice.below(200_000), Object::new(1, 300_000));
        let right = if dice.one_in(2) { Object::new(1, size) } else { right };
        let cut = 20_000 + dice.below(60_000);
        let wrong: Vec<Object> = (0..=dice.below(3))
            .map(|nth| {
                let wrong = Object::new(10 + nth, right.size());
                let wrong = if dice.one_in(3) { wrong.no_etag() } else { wrong };
                if dice.one_in(3) { wrong.no_ranges() } else { wrong }
            })
            .collect();
        let alone = Rig::new();
        let needed = attempts(&alone, &cut_beside_wrong_ones(&alone, &right, cut, &[]), 100).await;
        let rig = Rig::new();
        let spec = cut_beside_wrong_ones(&rig, &right, cut, &wrong);
        let took = attempts(&rig, &spec, 100).await;
        assert!(took <= needed, "HAUL_SEED={seed}: {took} attempts where {needed} are enough");
        assert_eq!(rig.read("job/f"), right.bytes(), "HAUL_SEED={seed}");
        for nth in 0..wrong.len() {
            let asked = rig.ranges(&format!("/m{nth}"));
            assert!(asked.len() <= 3, "HAUL_SEED={seed}: {asked:?}");
        }
    }
}

/// A source that never goes on with what it has brought keeps nobody from being asked: neither where it says so, nor where each of
/// its answers is of another version.
#[tokio::test]
async fn a_source_that_never_comes_further_keeps_no_mirror_away() {
    for (has_versions, has_checksum) in [(false, false), (true, false), (false, true), (true, true)] {
        let (rig, right) = (Rig::new(), Object::new(1, SIZE));
        rig.origin.handle("/f", move |request| {
            let object = if has_versions {
                Object::new(2 + request.nth as u64, SIZE)
            } else {
                Object::new(2, SIZE).no_etag().no_last_modified().no_ranges()
            };
            object.respond(request).cut_at(100_000, Cut::Fin)
        });
        rig.origin.object("/m", right.clone());
        let mut spec = rig.spec("/f");
        spec.mirrors = vec![rig.origin.url("/m")];
        spec.max_connections = 1;
        if has_checksum {
            spec.checksums = vec![checksum(Algorithm::Sha256, &right.bytes())];
        }
        assert!(attempts(&rig, &spec, 3).await <= 2);
        assert_eq!(rig.read("job/f"), right.bytes());
    }
}

/// A download of `right` whose own source is wrong once, and whose mirror has the right bytes, cuts its first answer, and answers
/// so from then on.
fn wrong_once(rig: &Rig, right: &Object, then: Reply) -> DownloadSpec {
    let (wrong, good, cut) = (Object::new(9, SIZE), right.clone(), right.clone());
    rig.origin.handle("/f", move |request| match request.nth {
        0 => wrong.respond(request),
        _ => good.respond(request),
    });
    rig.origin.handle("/m", move |request| match request.nth {
        0 => cut.respond(request).cut_at(60_000, Cut::Fin),
        _ => then.clone(),
    });
    let mut spec = rig.spec("/f");
    spec.mirrors = vec![rig.origin.url("/m")];
    spec.max_connections = 1;
    spec.checksums = vec![checksum(Algorithm::Sha256, &right.bytes())];
    spec
}

#[tokio::test]
async fn a_source_that_was_wrong_once_is_asked_where_the_other_is_gone() {
    let (rig, right) = (Rig::new(), Object::new(1, SIZE));
    let spec = wrong_once(&rig, &right, Reply::status(404));
    let (failure, report) = rig.failed(&spec).await;
    assert_eq!((failure.retryable, report.held_bytes), (true, 60_000), "{failure}");
    let (result, _) = rig.done(&spec).await;
    assert!(result.final_url.ends_with("/f"));
    assert_eq!(rig.read("job/f"), right.bytes());
    assert_eq!(rig.ranges("/m"), ["-", "bytes=60000-"]);
}

#[tokio::test]
async fn a_source_that_was_wrong_once_is_asked_in_the_last_attempt() {
    let (mut rig, right) = (Rig::new(), Object::new(1, SIZE));
    let spec = wrong_once(&rig, &right, Reply::status(503).header("Retry-After", "1"));
    rig.failed(&spec).await;
    let (failure, report) = rig.failed(&spec).await;
    assert_eq!((failure.retryable, report.held_bytes), (true, 60_000), "{failure}");
    assert_eq!(rig.ranges("/f"), ["-"], "it would drop what may be gone on with");
    rig.is_last = true;
    let (result, _) = rig.done(&spec).await;
    assert!(result.final_url.ends_with("/f"));
    assert_eq!(rig.read("job/f"), right.bytes());
}

/// A download of `right` whose own source has other bytes in its first answer alone, beside a mirror.
fn wrong_at_first(rig: &Rig, right: &Object, mirror: String) -> DownloadSpec {
    let (wrong, good) = (Object::new(9, SIZE), right.clone());
    rig.origin
        .handle("/f", move |request| if request.nth == 0 { wrong.respond(request) } else { good.respond(request) });
    let mut spec = rig.spec("/f");
    spec.mirrors = vec![mirror];
    spec.checksums = vec![checksum(Algorithm::Sha256, &right.bytes())];
    spec
}

#[tokio::test]
async fn a_source_that_was_wrong_once_is_asked_again_where_nobody_else_is_left() {
    let right = Object::new(1, SIZE);
    for is_last in [false, true] {
        let mut rig = Rig::new();
        rig.is_last = is_last;
        let mirror = if is_last { "http://127.0.0.1:2/f".to_owned() } else { rig.origin.url("/gone") };
        let spec = wrong_at_first(&rig, &right, mirror);
        rig.done(&spec).await;
        assert_eq!(rig.read("job/f"), right.bytes());
        assert_eq!(rig.ranges("/f"), ["-", "-"]);
    }
}

/// A source that is always wrong says nothing of one that was wrong once, whichever is asked first and however many there are.
#[tokio::test]
async fn a_source_that_was_wrong_once_is_asked_again_beside_others_that_are_always_wrong() {
    let right = Object::new(1, SIZE);
    for (is_first, connections) in [(true, 1), (false, 1), (true, 4), (false, 4)] {
        let rig = Rig::new();
        let wrong = ["/m0", "/m1"].map(|path| {
            rig.origin.object(path, Object::new(8, SIZE));
            rig.origin.url(path)
        });
        let mut spec = wrong_at_first(&rig, &right, wrong[0].clone());
        spec.mirrors.push(wrong[1].clone());
        if !is_first {
            let own = std::mem::replace(&mut spec.url, wrong[0].clone());
            spec.mirrors[0] = own;
        }
        spec.max_connections = connections;
        rig.done(&spec).await;
        assert_eq!(rig.read("job/f"), right.bytes());
        let asked = ["/m0", "/m1"].map(|path| rig.ranges(path).iter().filter(|range| *range == "-").count());
        assert!(asked.iter().all(|count| *count <= 2), "{asked:?}");
    }
    let rig = Rig::new();
    for (path, seed) in [("/f", 7), ("/m", 8)] {
        rig.origin.object(path, Object::new(seed, SIZE));
    }
    let spec = DownloadSpec {
        mirrors: vec![rig.origin.url("/m")],
        checksums: vec![checksum(Algorithm::Sha256, &right.bytes())],
        max_connections: 1,
        ..rig.spec("/f")
    };
    let (failure, _) = rig.failed(&spec).await;
    assert_eq!((failure.reason, failure.retryable), (FailureReason::ChecksumMismatch, false));
    assert_eq!((rig.ranges("/f").len(), rig.ranges("/m").len()), (2, 2), "each was wrong twice");
    assert_eq!(rig.listing(), Vec::<String>::new());
}

/// That a mirror has another length than the file shows only in its answer.
#[tokio::test]
async fn a_mirror_of_another_length_does_not_undo_the_right_source() {
    for (size, cut) in [(SIZE / 2, 60_000), (SIZE * 2, 60_000), (SIZE / 2, 200_000)] {
        let (rig, right) = (Rig::new(), Object::new(1, SIZE));
        let spec = cut_beside_wrong_ones(&rig, &right, cut, &[Object::new(9, size)]);
        let (failure, report) = rig.failed(&spec).await;
        assert_eq!((failure.reason, failure.retryable), (FailureReason::Truncated, true), "{failure}");
        assert_eq!(report.held_bytes, cut);
        let needed = SIZE.div_ceil(cut) as usize - 1;
        assert_eq!(attempts(&rig, &spec, needed).await, needed);
        assert_eq!(rig.read("job/f"), right.bytes());
        assert_eq!(rig.ranges("/m0").len(), 2, "for the rest and for the whole, and not again");
    }
}

/// A network in which the first source, once it was asked, cannot be reached while it is away.
struct Away {
    client: HttpClient,
    was_asked: AtomicBool,
    is_away: Arc<AtomicBool>,
    /// What becomes of a request then; `None`: it is sent.
    failure: Option<Failure>,
}

impl Away {
    fn failure(&self, url: &Url) -> Option<Failure> {
        let is_away =
            url.path() == "/f" && self.is_away.load(Ordering::SeqCst) && self.was_asked.load(Ordering::SeqCst);
        self.failure.clone().filter(|_| is_away)
    }
}

impl Transport for Away {
    fn send<'a>(&'a self, request: Request, profile: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        if let Some(failure) = self.failure(&request.url) {
            return Box::pin(std::future::ready(Err(failure)));
        }
        self.was_asked.fetch_or(request.url.path() == "/f", Ordering::SeqCst);
        self.client.send(request, profile)
    }

    fn is_paused(&self, url: &Url) -> bool {
        self.failure(url).is_some_and(|failure| failure.paused_until.is_some())
    }
}

/// A first source that brings 60,000 bytes and is away from then on, until it is told to be back, and a mirror of other content.
fn going_away(rig: &Rig, first: &Object, mirror: Object, failure: Option<Failure>) -> (Away, DownloadSpec) {
    let is_away = Arc::new(AtomicBool::new(true));
    let (object, away) = (first.clone(), is_away.clone());
    rig.origin.handle("/f", move |request| match request.nth {
        0 => object.respond(request).cut_at(60_000, Cut::Fin),
        _ if away.load(Ordering::SeqCst) => Reply::status(503).header("Retry-After", "1"),
        _ => object.respond(request),
    });
    rig.origin.object("/m", mirror);
    let mut spec = rig.spec("/f");
    spec.mirrors = vec![rig.origin.url("/m")];
    spec.max_connections = 1;
    let network = Away {
        client: HttpClient::new(Guard { allow_private: true, ..Guard::default() }),
        was_asked: AtomicBool::new(false),
        is_away,
        failure,
    };
    (network, spec)
}

fn paused() -> Failure {
    Failure { paused_until: Some(Timestamp(1)), ..Failure::retryable(FailureReason::HttpStatus, "paused") }
}

fn host_paused() -> Failure {
    Failure { paused_host: Host::of(&Url::parse("http://paused/").unwrap()), ..paused() }
}

/// An attempt of which what came before the join is left.
async fn keeps_the_first(rig: &Rig, network: &Away, spec: &DownloadSpec) {
    match rig.attempt_through(network, &rig.key, spec).await {
        (AttemptEnd::Failed(failure), report) => {
            assert_eq!((failure.retryable, report.held_bytes), (true, 60_000), "{failure}");
        }
        (end, report) => panic!("{end:?} {report:?}"),
    }
}

#[tokio::test]
async fn a_wrong_mirror_does_not_undo_a_right_source_that_is_away() {
    let refused = || Failure::retryable(FailureReason::Connect, "refused");
    for failure in [None, Some(refused()), Some(paused())] {
        let (mut rig, right) = (Rig::new(), Object::new(1, SIZE));
        let (network, mut spec) = going_away(&rig, &right, Object::new(9, SIZE), failure.clone());
        spec.checksums = vec![checksum(Algorithm::Sha256, &right.bytes())];
        keeps_the_first(&rig, &network, &spec).await;
        keeps_the_first(&rig, &network, &spec).await;
        // One that only finds its host paused does not count, so that another follows.
        rig.is_last = network.is_paused(&Url::parse(&spec.url).unwrap());
        keeps_the_first(&rig, &network, &spec).await;
        network.is_away.store(false, Ordering::SeqCst);
        let (end, report) = rig.attempt_through(&network, &rig.key, &spec).await;
        assert!(matches!(end, AttemptEnd::Done(_)), "{end:?} {report:?}");
        assert_eq!(report.resumed_from, 60_000, "{failure:?}");
        assert_eq!(rig.read("job/f"), right.bytes());
        assert_eq!(rig.ranges("/m"), ["bytes=60000-"], "{failure:?}");
    }
}

#[tokio::test]
async fn a_right_mirror_of_a_source_that_stays_away_is_asked_for_all_in_the_last_attempt() {
    let (mut rig, right) = (Rig::new(), Object::new(1, SIZE));
    let (network, mut spec) = going_away(&rig, &Object::new(9, SIZE), right.clone(), None);
    spec.checksums = vec![checksum(Algorithm::Sha256, &right.bytes())];
    keeps_the_first(&rig, &network, &spec).await;
    rig.is_last = true;
    let (end, report) = rig.attempt_through(&network, &rig.key, &spec).await;
    assert!(matches!(end, AttemptEnd::Done(_)), "{end:?} {report:?}");
    assert_eq!(rig.read("job/f"), right.bytes());
    assert_eq!(rig.ranges("/m"), ["bytes=60000-", "-"], "joined, and then alone");
}

/// What is held is kept where its host can be waited for, which costs no attempt, and given up where others keep it paused.
#[tokio::test]
async fn what_a_paused_host_has_brought_is_kept_from_a_mirror_that_would_begin_anew() {
    // A pause without a host is that others are in the way of a request, for as long as they like.
    let cases = [(false, true), (true, true), (false, false), (true, false)];
    for (failure, (has_digest, comes_back)) in [host_paused(), paused()].iter().flat_map(|it| cases.map(|of| (it, of)))
    {
        let (mut rig, right) = (Rig::new(), Object::new(1, SIZE));
        // Without a digest nothing joins; with one, the mirror has a length of its own.
        let mirror = if has_digest { Object::new(2, SIZE / 2) } else { Object::new(2, SIZE) };
        let (network, mut spec) = going_away(&rig, &right, mirror, Some(failure.clone()));
        if has_digest {
            spec.checksums = vec![checksum(Algorithm::Sha256, &right.bytes())];
        }
        keeps_the_first(&rig, &network, &spec).await;
        rig.is_last = true;
        let pauses = if comes_back { 3 } else { 8 };
        for _ in 0..pauses {
            keeps_the_first(&rig, &network, &spec).await;
        }
        let asked = rig.ranges("/m");
        assert!(asked.iter().all(|range| range != "-") || asked.len() == 2, "{asked:?}");
        if comes_back {
            network.is_away.store(false, Ordering::SeqCst);
            let (end, report) = rig.attempt_through(&network, &rig.key, &spec).await;
            assert!(matches!(end, AttemptEnd::Done(_)), "{end:?} {report:?}");
            assert_eq!(report.resumed_from, 60_000);
            assert_eq!(rig.read("job/f"), right.bytes());
        } else {
            rig.attempt_through(&network, &rig.key, &spec).await;
            assert_eq!(rig.ranges("/m").get(asked.len()).map(String::as_str), Some("-"), "it is asked for all");
        }
    }
}

/// A single source that was wrong, and is paused before its second try, counts: else the wrong file came once more with each pause.
#[tokio::test]
async fn a_wrong_source_without_another_does_not_wait_in_the_last_attempt() {
    let (mut rig, right) = (Rig::new(), Object::new(1, SIZE));
    let (network, mut spec) = going_away(&rig, &right, Object::new(9, SIZE), Some(host_paused()));
    rig.origin.object("/f", Object::new(9, SIZE));
    spec.mirrors.clear();
    spec.checksums = vec![checksum(Algorithm::Sha256, &right.bytes())];
    rig.is_last = true;
    let (end, report) = rig.attempt_through(&network, &rig.key, &spec).await;
    let AttemptEnd::Failed(failure) = end else { panic!("{end:?} {report:?}") };
    assert_eq!((failure.reason, failure.paused_until), (FailureReason::ChecksumMismatch, None), "{failure:?}");
    assert_eq!(rig.ranges("/f"), ["-"]);
}

/// In the last attempt too: a wrong file is fetched once more after so many pauses, and what is known of its source goes with the file.
#[tokio::test]
async fn a_wrong_source_does_not_end_the_wait_for_a_paused_host() {
    for comes_back in [true, false] {
        let (mut rig, right) = (Rig::new(), Object::new(1, SIZE));
        let (network, mut spec) = going_away(&rig, &right, Object::new(9, SIZE), Some(host_paused()));
        network.was_asked.store(true, Ordering::SeqCst);
        rig.origin.object("/f", right.clone());
        std::mem::swap(&mut spec.url, &mut spec.mirrors[0]);
        spec.checksums = vec![checksum(Algorithm::Sha256, &right.bytes())];
        rig.is_last = true;
        for _ in 0..if comes_back { 3 } else { 8 } {
            waits(&rig, &network, &spec).await;
        }
        assert_eq!(rig.ranges("/m"), ["-"], "not once more with each pause");
        for _ in 0..if comes_back { 0 } else { 3 } {
            waits(&rig, &network, &spec).await;
            assert_eq!(
                rig.ranges("/m"),
                ["-", "-"],
                "others may keep the host paused for ever, and it has both its tries"
            );
        }
        let asked = rig.ranges("/m").len();
        network.is_away.store(false, Ordering::SeqCst);
        let (end, report) = rig.attempt_through(&network, &rig.key, &spec).await;
        assert!(matches!(end, AttemptEnd::Done(_)), "{end:?} {report:?}");
        assert_eq!((rig.read("job/f"), rig.ranges("/m").len()), (right.bytes(), asked));
        assert_eq!(rig.listing(), ["job", "job/f"]);
    }
}

/// An attempt that does not count.
async fn waits(rig: &Rig, network: &Away, spec: &DownloadSpec) -> (Failure, AttemptReport) {
    match rig.attempt_through(network, &rig.key, spec).await {
        (AttemptEnd::Failed(failure), report) if failure.paused_until.is_some() => (failure, report),
        (end, report) => panic!("{end:?} {report:?}"),
    }
}

/// A right source that is away, with nothing of it held, beside a mirror that answers so.
fn away_beside(rig: &Rig, right: &Object, mirror: Reply) -> (Away, DownloadSpec) {
    let (network, mut spec) = going_away(rig, right, Object::new(9, SIZE), Some(host_paused()));
    network.was_asked.store(true, Ordering::SeqCst);
    rig.origin.object("/f", right.clone());
    rig.origin.handle("/m", move |_| mirror.clone());
    spec.checksums = vec![checksum(Algorithm::Sha256, &right.bytes())];
    (network, spec)
}

/// However few attempts are left, a mirror that fails does not end the wait for a right source, and is not asked with each pause.
#[tokio::test]
async fn a_broken_mirror_does_not_end_the_wait_for_a_paused_host() {
    for (status, tries) in [(500, 2), (404, 1)] {
        let (mut rig, right) = (Rig::new(), Object::new(1, SIZE));
        let (network, spec) = away_beside(&rig, &right, Reply::status(status));
        rig.is_last = true;
        rig.retry.max_attempts = 2;
        let (failure, report) = waits(&rig, &network, &spec).await;
        assert!(failure.message.starts_with("paused; another source failed: "), "{failure}");
        assert!(report.url.ends_with("/m"), "{report:?}");
        for _ in 0..3 {
            waits(&rig, &network, &spec).await;
        }
        assert_eq!(rig.ranges("/m").len(), 1, "its backoff is not over");
        for _ in 0..20 {
            rig.now.fetch_add(60_000_000, Ordering::SeqCst);
            waits(&rig, &network, &spec).await;
        }
        assert_eq!(rig.ranges("/m").len(), tries, "as often as a task of it alone would");
        network.is_away.store(false, Ordering::SeqCst);
        rig.attempt_through(&network, &rig.key, &spec).await;
        assert_eq!((rig.read("job/f"), rig.ranges("/m").len()), (right.bytes(), tries));
        assert_eq!(rig.listing(), ["job", "job/f"]);
    }
}

/// The wait ends with the backoff of a mirror, if that comes first.
#[tokio::test]
async fn a_mirror_that_recovers_is_not_kept_waiting_by_a_host_that_is_paused_for_long() {
    let (rig, right) = (Rig::new(), Object::new(1, SIZE));
    let begin = rig.now.load(Ordering::SeqCst);
    let pause = Failure { paused_until: Some(Timestamp(begin + 3_600_000_000)), ..host_paused() };
    let (network, mut spec) = going_away(&rig, &Object::new(9, SIZE), right.clone(), Some(pause));
    network.was_asked.store(true, Ordering::SeqCst);
    let good = right.clone();
    rig.origin.handle("/m", move |request| if request.nth == 0 { Reply::status(500) } else { good.respond(request) });
    spec.checksums = vec![checksum(Algorithm::Sha256, &right.bytes())];
    let (failure, _) = waits(&rig, &network, &spec).await;
    let until = failure.paused_until.unwrap();
    assert_eq!(until, Timestamp(begin + 1_000_000), "the first backoff");
    rig.now.store(until.0, Ordering::SeqCst);
    rig.attempt_through(&network, &rig.key, &spec).await;
    assert_eq!(rig.read("job/f"), right.bytes());
}

/// The number of waits cannot be kept where nothing can be written. Then none is without bound.
#[tokio::test]
async fn a_wait_that_cannot_be_noted_keeps_nobody_away_and_counts() {
    // What is held of a source that is paused stays, since what cannot be written now may be written later, but for the last attempt.
    let (mut rig, right) = (Rig::new(), Object::new(1, SIZE));
    let (network, spec) = going_away(&rig, &Object::new(9, SIZE), right.clone(), Some(host_paused()));
    keeps_the_first(&rig, &network, &spec).await;
    std::fs::create_dir(rig.path("job/.haul-0-1.meta-tmp")).unwrap();
    let (end, report) = rig.attempt_through(&network, &rig.key, &spec).await;
    let AttemptEnd::Failed(failure) = end else { panic!("{end:?} {report:?}") };
    assert_eq!((failure.retryable, failure.paused_until), (true, None), "{failure}");
    assert!(report.held_bytes > 0, "{report:?}");
    rig.is_last = true;
    let (end, report) = rig.attempt_through(&network, &rig.key, &spec).await;
    assert!(matches!(end, AttemptEnd::Done(_)), "{end:?} {report:?}");
    assert_eq!(rig.read("job/f"), right.bytes());
    // Where a mirror has failed, the attempt counts. It tells of who was asked.
    let mut rig = Rig::new();
    let (network, spec) = away_beside(&rig, &right, Reply::status(500));
    std::fs::create_dir_all(rig.path("job/.haul-0-1.meta-tmp")).unwrap();
    rig.is_last = true;
    let (end, report) = rig.attempt_through(&network, &rig.key, &spec).await;
    let AttemptEnd::Failed(failure) = end else { panic!("{end:?} {report:?}") };
    assert_eq!((failure.http_status, failure.paused_until), (500, None), "{failure}");
    assert!(failure.message.contains("(the host of 1 other source is paused until "), "{failure}");
    assert!(report.url.ends_with("/m") && report.http_status == 500, "{report:?}");
}

/// What is known of a source outlives an attempt that finds no room, or is stopped, before a byte of the next source has come.
#[tokio::test]
async fn a_wrong_source_is_known_after_an_attempt_that_was_broken_off() {
    for is_stopped in [false, true] {
        let (mut rig, right) = (Rig::new(), Object::new(1, SIZE));
        rig.origin.object("/f", Object::new(9, SIZE / 2));
        let (good, stop) = (right.clone(), rig.stop.clone());
        rig.origin.handle("/m", move |request| {
            let reply = good.respond(request);
            if !is_stopped || request.nth > 0 {
                return reply;
            }
            stop.cancel();
            reply.pause_at(0, Pause::Forever)
        });
        let storage = Arc::new(Storage::default());
        if !is_stopped {
            storage.set_most(Some(SIZE + 1000));
            storage.moves(0, SIZE / 3);
            rig.storage = StorageHold::of(storage.clone(), 0);
        }
        let mut spec = rig.spec("/f");
        spec.mirrors = vec![rig.origin.url("/m")];
        spec.max_connections = 1;
        spec.checksums = vec![checksum(Algorithm::Sha256, &right.bytes())];
        let (end, report) = rig.attempt(&spec).await;
        assert_eq!(matches!(end, AttemptEnd::Stopped), is_stopped, "{end:?} {report:?}");
        assert_eq!(matches!(end, AttemptEnd::NoSpace { .. }), !is_stopped, "{end:?} {report:?}");
        (rig.stop, rig.storage) = (CancellationToken::new(), StorageHold::default());
        let (result, _) = rig.done(&spec).await;
        assert!(result.final_url.ends_with("/m"));
        assert_eq!((rig.read("job/f"), rig.ranges("/f")), (right.bytes(), vec!["-".to_owned()]));
    }
}

/// Of a run that a person broke off nothing stays that holds no byte.
#[tokio::test]
async fn a_run_that_is_broken_off_leaves_no_empty_part() {
    let (mut rig, right) = (Rig::new(), Object::new(1, SIZE));
    rig.part_is_shared = true;
    rig.origin.object("/f", Object::new(9, SIZE / 2));
    let stop = rig.stop.clone();
    rig.origin.handle("/m", move |_| {
        stop.cancel();
        Reply::hang()
    });
    let mut spec = rig.spec("/f");
    spec.mirrors = vec![rig.origin.url("/m")];
    spec.max_connections = 1;
    spec.checksums = vec![checksum(Algorithm::Sha256, &right.bytes())];
    let (end, report) = rig.attempt(&spec).await;
    assert!(matches!(end, AttemptEnd::Stopped), "{end:?} {report:?}");
    assert!(rig.listing().iter().all(|name| name == "job"), "{:?}", rig.listing());
}

/// A run that a person ends while a source is owed a turn leaves that it is. The next one asks all sources, also where its first attempt
/// is its last.
#[tokio::test]
async fn a_run_that_is_asked_for_anew_gives_no_turns_of_the_one_before() {
    let (mut rig, right) = (Rig::new(), Object::new(1, SIZE));
    rig.retry.max_attempts = 1;
    (rig.is_first, rig.is_last) = (true, true);
    let spec = cut_beside_wrong_ones(&rig, &right, 60_000, &[Object::new(9, SIZE)]);
    let (failure, _) = rig.failed(&spec).await;
    assert!(failure.paused_until.is_some(), "a turn is owed to the first: {failure}");
    // It is ended, and asked for anew.
    rig.origin.reply("/f", Reply::status(404));
    rig.origin.object("/m0", right.clone());
    let (result, _) = rig.done(&spec).await;
    assert!(result.final_url.ends_with("/m0"), "{result:?}");
    assert_eq!(rig.read("job/f"), right.bytes());
}
