//! Every interleaving of sources, cuts, races, stalls, ignored ranges, corrupt bytes, new versions and disk faults: the file
//! is one single version and has the digest that is told, or the task fails with a typed reason. No offset is written twice.
//!
//! The transport is scripted and time is paused, so that a play takes no time and the order of events comes from the seed.
//! Seeds are fresh each run; `HAUL_SEED=N` plays one again.

use std::collections::VecDeque;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use haul::download::{DownloadContext, Settings, run};
use haul::files::disk::Faults;
use haul::files::ranges::RangeSet;
use haul::files::{Durability, Root};
use haul::model::checksum::{Algorithm, Checksum};
use haul::model::failure::{Failure, FailureReason};
use haul::model::outcome::{AttemptEnd, Outcome};
use haul::model::progress::Meter;
use haul::model::retry::RetryPolicy;
use haul::model::spec::DownloadSpec;
use haul::model::storage::StorageHold;
use haul::model::time::Timestamp;
use haul::net::{Body, BodySource, Profile, Request, Response, Transport};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio_util::sync::CancellationToken;

use super::rig::checksum;
use super::support::faults::Dice;

const PLAYS: u64 = 400;
const ATTEMPTS_MAX: usize = 40;
const OLD: &str = "Tue, 01 Sep 2020 10:00:00 GMT";
const OTHER: &str = "Wed, 02 Sep 2020 10:00:00 GMT";
const NOW: &str = "Tue, 01 Sep 2026 10:00:00 GMT";

#[tokio::test(start_paused = true)]
async fn one_version_or_a_typed_reason() {
    if let Some(seed) = std::env::var("HAUL_SEED").ok().and_then(|text| text.parse().ok()) {
        play(seed).await;
        return;
    }
    let (mut came, mut resumed, mut joined) = (0, 0, 0);
    for _ in 0..PLAYS {
        let seed = rand::random();
        let played = AssertUnwindSafe(play(seed)).catch_unwind().await;
        let Ok(end) = played else { panic!("with HAUL_SEED={seed}") };
        came += usize::from(end.came);
        resumed += usize::from(end.resumed);
        joined += usize::from(end.connections > 1);
    }
    // Else the plays would not be about what they are for.
    let plays = PLAYS as usize;
    assert!(came > plays / 2 && resumed > plays / 20 && joined > plays / 20, "{came} {resumed} {joined} of {PLAYS}");
}

/// How a play ended.
#[derive(Debug, Default)]
struct End {
    came: bool,
    resumed: bool,
    connections: u32,
}

/// What an origin says of the versions of its content.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Validators {
    Strong,
    /// The same for all versions, each of which has a path of its own that it redirects to.
    StrongByPath,
    /// Stays when the content changes.
    Weak,
    Date,
    /// As young as the answer, so that it proves nothing.
    YoungDate,
    None,
}

/// One source: its versions, and from which of its requests on each is served.
#[derive(Debug)]
struct Source {
    versions: Vec<(usize, Bytes)>,
    validators: Validators,
    has_ranges: bool,
    /// Sends some bytes wrong, now and then.
    is_corrupt: bool,
    /// Announces the digest of what it serves.
    announces: bool,
    asked: AtomicUsize,
}

#[derive(Debug)]
struct World {
    sources: Vec<Source>,
    dice: Mutex<Dice>,
    /// From this request on all faults are over, so that every play ends.
    calm_from: usize,
    asked: AtomicUsize,
}

/// A body in pieces, each with the time before it.
fn chunks_of(mut body: Bytes, dice: &mut Dice, is_calm: bool) -> VecDeque<(Duration, Result<Bytes, Failure>)> {
    let slow = if is_calm { 0 } else { dice.below(4) * 30 };
    // Some have a head long before their first byte.
    let mut begins = if !is_calm && dice.one_in(4) { dice.below(1500) } else { 0 };
    let mut chunks = VecDeque::new();
    while !body.is_empty() {
        let chunk = body.split_to(body.len().min(1 + dice.below(20_000) as usize));
        let wait = std::mem::take(&mut begins) + dice.below(slow + 1);
        chunks.push_back((Duration::from_millis(wait), Ok(chunk)));
    }
    chunks
}

impl World {
    fn dice<T>(&self, roll: impl FnOnce(&mut Dice) -> T) -> T {
        roll(&mut self.dice.lock().unwrap())
    }

    fn answer(&self, request: &Request) -> Result<(Duration, Response), Failure> {
        let source = &self.sources[request.url.path()[1..].parse::<usize>().unwrap()];
        let nth = source.asked.fetch_add(1, Ordering::SeqCst);
        let is_calm = self.asked.fetch_add(1, Ordering::SeqCst) >= self.calm_from;
        let (version, content) = source
            .versions
            .iter()
            .enumerate()
            .rev()
            .find(|(_, (from, _))| *from <= nth)
            .map(|(at, it)| (at, &it.1))
            .unwrap();
        let mut dice = Dice::new(self.dice(Dice::next));
        let fault = if is_calm { 99 } else { dice.below(20) };
        if fault == 0 {
            return Err(Failure::retryable(FailureReason::Connect, "scripted"));
        }
        if fault == 1 {
            return Ok((Duration::ZERO, response(request, 503, HeaderMap::new(), VecDeque::new())));
        }
        let mut headers = source.headers(version, content);
        let asked = range_of(request, source, version).filter(|_| source.has_ranges && fault != 2);
        let size = content.len() as u64;
        let (status, range) = match asked {
            Some((first, _)) if first >= size || fault == 3 => {
                // Bare, as some origins have it, and as if nothing were missing, as others do.
                let mut bare = HeaderMap::new();
                match dice.below(3) {
                    0 => {}
                    1 => put(&mut bare, "content-range", &format!("bytes */{first}")),
                    _ => put(&mut bare, "content-range", &format!("bytes */{size}")),
                }
                return Ok((Duration::ZERO, response(request, 416, bare, VecDeque::new())));
            }
            Some((first, last)) => {
                let first = if fault == 4 { first.saturating_sub(dice.below(5000)) } else { first };
                let end = (last + 1).min(size);
                put(&mut headers, "content-range", &format!("bytes {first}-{}/{size}", end - 1));
                (if fault == 5 { 200 } else { 206 }, first..end)
            }
            None => (200, 0..size),
        };
        if fault == 6 {
            put(&mut headers, "transfer-encoding", "chunked");
        } else {
            put(&mut headers, "content-length", &(range.end - range.start).to_string());
        }
        let mut body = content[range.start as usize..range.end as usize].to_vec();
        if source.is_corrupt && !is_calm && dice.one_in(2) && !body.is_empty() {
            let at = dice.below(body.len() as u64) as usize;
            let end = (at + 1 + dice.below(2000) as usize).min(body.len());
            body[at..end].iter_mut().for_each(|byte| *byte ^= 0xff);
        }
        let cut = if !is_calm && dice.one_in(3) { Some(dice.below(body.len() as u64 + 1) as usize) } else { None };
        let sent = Bytes::from(body).slice(..cut.unwrap_or((range.end - range.start) as usize));
        let mut chunks = chunks_of(sent, &mut dice, is_calm);
        if cut.is_some() {
            let stall = Duration::from_millis(dice.below(3) * 400);
            chunks.push_back((stall, Err(Failure::retryable(FailureReason::Truncated, "scripted"))));
        }
        let wait = Duration::from_millis(if is_calm { 0 } else { dice.below(4) * dice.below(400) });
        let mut response = response(request, status, headers, chunks);
        if source.validators == Validators::StrongByPath {
            let place = format!("{}/{version}", request.url.path());
            response.url.set_path(&place);
        }
        Ok((wait, response))
    }
}

impl Source {
    fn headers(&self, version: usize, content: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        put(&mut headers, "date", NOW);
        put(&mut headers, "content-type", "application/octet-stream");
        if self.has_ranges {
            put(&mut headers, "accept-ranges", "bytes");
        }
        match self.validators {
            Validators::Strong => put(&mut headers, "etag", &format!("\"{version}\"")),
            Validators::StrongByPath => put(&mut headers, "etag", "\"same\""),
            Validators::Weak => put(&mut headers, "etag", "W/\"same\""),
            Validators::Date => put(&mut headers, "last-modified", date_of(version)),
            Validators::YoungDate => put(&mut headers, "last-modified", NOW),
            Validators::None => {}
        }
        if self.announces {
            let digest = checksum(Algorithm::Sha256, content).digest;
            let text = base64::engine::general_purpose::STANDARD.encode(digest);
            put(&mut headers, "repr-digest", &format!("sha-256=:{text}:"));
        }
        headers
    }
}

fn date_of(version: usize) -> &'static str {
    if version == 0 { OLD } else { OTHER }
}

/// The range that is asked for, if its condition holds.
fn range_of(request: &Request, source: &Source, version: usize) -> Option<(u64, u64)> {
    let text = |name: &str| request.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    if let Some(condition) = text("if-range") {
        let own = match source.validators {
            Validators::Strong => format!("\"{version}\""),
            Validators::StrongByPath => "\"same\"".to_owned(),
            Validators::Date => date_of(version).to_owned(),
            _ => String::new(),
        };
        if own != condition {
            return None;
        }
    }
    let range = text("range")?;
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().unwrap_or(u64::MAX - 1)))
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
}

fn response(request: &Request, status: u16, headers: HeaderMap, chunks: VecDeque<Chunk>) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    let body = Body(Box::new(Scripted(chunks)));
    Response { status, headers, url: request.url.clone(), remote: None, body }
}

type Chunk = (Duration, Result<Bytes, Failure>);

struct Scripted(VecDeque<Chunk>);

impl BodySource for Scripted {
    fn chunk(&mut self) -> BoxFuture<'_, Option<Result<Bytes, Failure>>> {
        Box::pin(async move {
            let (wait, _) = self.0.front()?;
            tokio::time::sleep(*wait).await;
            self.0.pop_front().map(|(_, chunk)| chunk)
        })
    }
}

impl Transport for World {
    fn send<'a>(&'a self, request: Request, _: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        Box::pin(async move {
            let (wait, response) = self.answer(&request)?;
            tokio::time::sleep(wait).await;
            Ok(response)
        })
    }
}

/// A disk that fails now and then, and that nobody may write twice.
#[derive(Debug)]
struct Disk {
    place: PathBuf,
    written: Mutex<RangeSet>,
    dice: Mutex<Dice>,
    /// Chances, one in so many; 0: never.
    fails: AtomicUsize,
}

impl Disk {
    fn may_fail(&self) -> io::Result<()> {
        let mut dice = self.dice.lock().unwrap();
        let chance = self.fails.load(Ordering::SeqCst) as u64;
        if chance == 0 || !dice.one_in(chance) {
            return Ok(());
        }
        Err(if dice.one_in(2) { io::ErrorKind::StorageFull.into() } else { io::Error::from_raw_os_error(5) })
    }
}

impl Faults for Disk {
    fn write(&self, at: u64, length: usize) -> io::Result<()> {
        self.may_fail()?;
        let new = self.written.lock().unwrap().add(at..at + length as u64);
        assert_eq!(new, length as u64, "bytes from {at} on are written twice");
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        // What is not on the device is not believed any more, and may come again.
        self.may_fail().inspect_err(|_| *self.written.lock().unwrap() = claimed(&self.place))
    }

    fn empty(&self) {
        *self.written.lock().unwrap() = RangeSet::default();
    }

    fn left(&self, ranges: &RangeSet) {
        *self.written.lock().unwrap() = ranges.clone();
    }
}

fn content(dice: &mut Dice, size: u64) -> Bytes {
    (0..size).map(|_| dice.next() as u8).collect::<Vec<u8>>().into()
}

fn world(dice: &mut Dice, has_digest: bool) -> World {
    let size = 10_000 + dice.below(150_000);
    let first = content(dice, size);
    let new_size = if dice.one_in(2) { size } else { 5_000 + dice.below(150_000) };
    let mut versions = vec![(0, first)];
    if dice.one_in(2) {
        versions.push((1 + dice.below(5) as usize, content(dice, new_size)));
    }
    let last = versions[versions.len() - 1].1.clone();
    let kinds = [
        Validators::Strong,
        Validators::StrongByPath,
        Validators::Weak,
        Validators::Date,
        Validators::YoungDate,
        Validators::None,
    ];
    let mut sources = Vec::new();
    for nth in 0..=dice.below(3) {
        // A mirror has the last version, or other content under the same validators.
        let versions = match nth {
            0 => versions.clone(),
            _ if dice.one_in(2) => vec![(0, last.clone())],
            _ => vec![(0, content(dice, last.len() as u64))],
        };
        sources.push(Source {
            versions,
            validators: kinds[dice.below(6) as usize],
            has_ranges: !dice.one_in(4),
            // Without a digest nobody can tell.
            is_corrupt: has_digest && dice.one_in(3),
            announces: dice.one_in(5),
            asked: AtomicUsize::new(0),
        });
    }
    let calm_from = 4 + dice.below(20) as usize;
    World { sources, dice: Mutex::new(Dice::new(dice.next())), calm_from, asked: AtomicUsize::new(0) }
}

fn place() -> tempfile::TempDir {
    // In memory where that can be: hundreds of plays, each with many syncs.
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

async fn play(seed: u64) -> End {
    let mut dice = Dice::new(seed);
    let has_digest = dice.one_in(2);
    let world = world(&mut dice, has_digest);
    let place = place();
    let disk = Arc::new(Disk {
        place: place.path().to_owned(),
        written: Mutex::default(),
        dice: Mutex::new(Dice::new(dice.next())),
        fails: AtomicUsize::new(if dice.one_in(3) { 10 + dice.below(40) as usize } else { 0 }),
    });
    let root = Root::open(place.path()).unwrap().with_faults(disk.clone());
    let root = Arc::new(if dice.one_in(3) { root.with_named_parts() } else { root });
    let wanted = world.sources[0].versions.last().unwrap().1.clone();
    let url = |nth: usize| format!("http://h{nth}/{nth}");
    let spec = DownloadSpec {
        url: url(0),
        mirrors: (1..world.sources.len()).map(url).collect(),
        path: "f".into(),
        checksums: if has_digest { vec![checksum(Algorithm::Sha256, &wanted)] } else { Vec::new() },
        digests: vec![Algorithm::Blake3],
        max_connections: 1 + dice.below(4) as u32,
        ..DownloadSpec::default()
    };
    let settings = Settings {
        segment_bytes_min: 1 + dice.below(20_000),
        race_after: Duration::from_millis(1 + dice.below(200)),
        checkpoint_interval: Duration::from_millis(1 + dice.below(50)),
        checkpoint_bytes: 1 + dice.below(100_000),
        ..Settings::default()
    };
    let mut told = Vec::new();
    for attempt in 0..ATTEMPTS_MAX {
        if attempt > 20 {
            disk.fails.store(0, Ordering::SeqCst);
        }
        *disk.written.lock().unwrap() = claimed(place.path());
        let end = attempt_once(&world, &root, &spec, &settings).await;
        told.push(format!("{end:?}"));
        match end {
            AttemptEnd::Done(Outcome::Download(result)) => {
                let got = std::fs::read(place.path().join("job/f")).unwrap();
                let is_whole = world.sources.iter().flat_map(|source| &source.versions).any(|(_, it)| *it == got);
                let is_right = if has_digest { wanted == got } else { is_whole };
                assert!(is_right, "seed {seed}: a file of no version: {}", told.join("\n"));
                let is_of_file = |checksum: &Checksum| *checksum == super::rig::checksum(checksum.algorithm, &got);
                assert!(result.checksums.iter().all(is_of_file), "seed {seed}: a digest of other bytes");
                assert_eq!(std::fs::read_dir(place.path().join("job")).unwrap().count(), 1, "seed {seed}");
                return End { came: true, resumed: result.resumed_bytes > 0, connections: result.connections };
            }
            AttemptEnd::Failed(failure) => {
                assert!(!place.path().join("job/f").exists(), "seed {seed}: a file of a failed attempt");
                assert_ne!(failure.reason, FailureReason::Internal, "seed {seed}: {failure}");
            }
            AttemptEnd::NoSpace { .. } => {}
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    // Content that no source has any more, or a digest that a mirror contradicts, cannot be had.
    let can_end = !has_digest && world.sources.iter().all(|source| !source.announces);
    assert!(!can_end, "seed {seed} does not end: {}", told.join("\n"));
    End::default()
}

async fn attempt_once(world: &World, root: &Arc<Root>, spec: &DownloadSpec, settings: &Settings) -> AttemptEnd {
    let now = || Timestamp(1_800_000_000_000_000);
    let (profile, meter, stop) = (Arc::new(Profile::default()), Meter::default(), CancellationToken::new());
    let stored = CancellationToken::new();
    stored.cancel();
    let ctx = DownloadContext {
        transport: world,
        profile: &profile,
        echo: None,
        root,
        directory: "job",
        part_key: "k",
        part_is_shared: false,
        has_history: true,
        is_first: false,
        is_last: false,
        retry: &RetryPolicy::default(),
        storage: &StorageHold::default(),
        meter: &meter,
        stop: &stop,
        stored: &stored,
        durability: Durability::None,
        settings,
        retry_after_max: Duration::from_secs(1),
        now: &now,
    };
    tokio::time::timeout(Duration::from_secs(600), run(&ctx, spec)).await.expect("the attempt hangs").0
}

/// What the checkpoint claims, which nothing may be written over.
fn claimed(place: &Path) -> RangeSet {
    let text = std::fs::read(place.join("job/.haul-k.meta")).unwrap_or_default();
    let stored: Option<haul::files::binding::Stored> = serde_json::from_slice(&text).ok();
    stored.map(|stored| stored.ranges).unwrap_or_default()
}
