//! The running transfer: what its connections share, and what each of them does.
//!
//! All connections are polled by one task, so the lock around the shared state is never waited for. A connection that
//! fails is replaced for as long as others carry the download; the bytes that it did not bring are free for all.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::download::ask::{Stream, send};
use crate::download::board::{Board, ClaimId};
use crate::download::plan::Connections;
use crate::download::resume::{Ask, Verdict, conditional, decide};
use crate::download::{DownloadContext, Halt, is_local};
use crate::files::digest::Hasher;
use crate::files::part::{Bound, Stored, Trust};
use crate::files::ranges::RangeSet;
use crate::files::space::Reservation;
use crate::files::version::Sameness;
use crate::model::failure::{Failure, FailureReason};
use crate::net::Session;

/// Failures in a row, without bytes between them, after which a connection is not replaced any more.
const STRIKES_MAX: u32 = 3;
/// The wait before a failed connection is replaced; grows with each strike.
const REPLACE_WAIT: Duration = Duration::from_millis(200);
/// With fewer seconds than this to go, no connection is added.
const WORTH_GROWING: Duration = Duration::from_secs(2);

/// What the connections of one transfer share.
pub(super) struct Flow<'a> {
    pub(super) ctx: &'a DownloadContext<'a>,
    pub(super) bound: &'a Bound,
    /// The source of the first connection, then those that further ones may use.
    pub(super) sources: Vec<Url>,
    pub(super) session: Session,
    pub(super) connections: Connections,
    /// What answers for further ranges are compared with.
    pub(super) expectation: Stored,
    pub(super) trust: Trust,
    /// The most bytes that may come, and why not more.
    pub(super) limit: Option<(u64, Failure)>,
    started: Instant,
    received_before: u64,
    /// The connections have ended.
    pub(super) over: CancellationToken,
    state: Mutex<State>,
    /// Bytes became free, or a connection ended.
    freed: Notify,
    /// A checkpoint is due by bytes.
    due: Notify,
}

pub(super) struct State {
    pub(super) board: Board,
    /// `None` while another thread uses it.
    pub(super) hasher: Option<Hasher>,
    /// The digests cover the bytes up to here.
    pub(super) hashed: u64,
    /// Bytes since the last checkpoint.
    unsaved: u64,
    /// What the last checkpoint claims.
    saved: RangeSet,
    reservation: Option<Reservation>,
    live: u32,
    peak: u32,
    /// Sources that turned out to have no usable ranges of the version that is downloaded.
    unfit: Vec<bool>,
}

/// An answer, with the claim that it is for.
pub(super) type Opened = (Stream, ClaimId);

/// What is left of a transfer.
pub(super) struct Remains {
    pub(super) board: Board,
    pub(super) hasher: Option<Hasher>,
    pub(super) hashed: u64,
    pub(super) saved: RangeSet,
    pub(super) peak: u32,
}

/// What a flow starts with.
pub(super) struct Setup<'a> {
    pub(super) ctx: &'a DownloadContext<'a>,
    pub(super) bound: &'a Bound,
    pub(super) sources: Vec<Url>,
    pub(super) session: Session,
    pub(super) connections: Connections,
    pub(super) expectation: Stored,
    pub(super) trust: Trust,
    pub(super) limit: Option<(u64, Failure)>,
    pub(super) board: Board,
    pub(super) hasher: Hasher,
    pub(super) reservation: Option<Reservation>,
}

impl<'a> Flow<'a> {
    pub(super) fn new(setup: Setup<'a>) -> Flow<'a> {
        let state = State {
            saved: setup.board.have().clone(),
            board: setup.board,
            hasher: Some(setup.hasher),
            hashed: 0,
            unsaved: 0,
            reservation: setup.reservation,
            live: 0,
            peak: 0,
            unfit: vec![false; setup.sources.len()],
        };
        Flow {
            ctx: setup.ctx,
            bound: setup.bound,
            sources: setup.sources,
            session: setup.session,
            connections: setup.connections,
            expectation: setup.expectation,
            trust: setup.trust,
            limit: setup.limit,
            started: Instant::now(),
            received_before: setup.ctx.meter.received_bytes(),
            over: CancellationToken::new(),
            state: Mutex::new(state),
            freed: Notify::new(),
            due: Notify::new(),
        }
    }

    pub(super) fn into_remains(self) -> Remains {
        self.ctx.meter.set_connections(0);
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let State { board, hasher, hashed, saved, peak, .. } = state;
        Remains { board, hasher, hashed, saved, peak }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.lock().board.is_complete()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One connection after the other, until there is nothing left to fetch, or it is not worth going on.
    pub(super) async fn worker(&self, index: u32, first: Option<Opened>) -> Result<(), Failure> {
        if first.is_none() && !self.is_needed(index).await {
            return Ok(());
        }
        let mut open = first;
        let mut strikes = 0;
        loop {
            let opened = match open.take() {
                Some(opened) => Ok(Some(opened)),
                None => self.next(index, strikes).await,
            };
            let failure = match opened {
                Ok(None) => return Ok(()),
                Ok(Some((stream, id))) => match self.carry(stream, id, &mut strikes).await {
                    Ok(()) => continue,
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            let is_hopeless = self.connections.most == 1 || !self.lock().has_ranges();
            if is_local(&failure) || is_hopeless || strikes >= STRIKES_MAX {
                return Err(failure);
            }
            strikes += 1;
            tokio::time::sleep(REPLACE_WAIT * strikes).await;
        }
    }

    /// Whether one more connection is worth its cost, where that is left to us.
    async fn is_needed(&self, index: u32) -> bool {
        if !self.connections.is_adaptive {
            return true;
        }
        tokio::time::sleep(self.ctx.settings.grow_after * index).await;
        let meter = self.ctx.meter;
        let received = meter.received_bytes() - self.received_before;
        let rate = received as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        let missing = meter.total().saturating_sub(meter.done());
        missing as f64 > rate * WORTH_GROWING.as_secs_f64()
    }

    /// Opens a connection for bytes that are missing; `None` when none are, or none can be had this way.
    async fn next(&self, index: u32, strikes: u32) -> Result<Option<Opened>, Failure> {
        loop {
            let taken = {
                let mut state = self.lock();
                if state.board.is_complete() || state.board.total().is_none() || !state.has_ranges() {
                    return Ok(None);
                }
                state.board.take()
            };
            let taken = match taken {
                Some(taken) => taken,
                None => match self.wait_for_work().await {
                    Some(taken) => taken,
                    None => continue,
                },
            };
            let id = taken.0;
            let opened = self.open(index + strikes, taken.1).await;
            let mut state = self.lock();
            match opened {
                Ok(stream) if state.board.connect(id) => return Ok(Some((stream, id))),
                // Another connection has gone on into these bytes meanwhile.
                Ok(_) => {}
                Err(failure) => {
                    state.board.release(id);
                    self.freed.notify_waiters();
                    return Err(failure);
                }
            }
        }
    }

    /// Waits until bytes become free. When none do for a while, the rest of a slow connection is fetched again.
    async fn wait_for_work(&self) -> Option<(ClaimId, std::ops::Range<u64>)> {
        tokio::select! {
            () = self.freed.notified() => None,
            () = tokio::time::sleep(self.ctx.settings.race_after) => {
                let mut state = self.lock();
                state.board.take().or_else(|| state.board.race())
            }
        }
    }

    /// Asks for a range of the version that the file is bound to. A source that cannot bring one is not asked again.
    async fn open(&self, turn: u32, range: std::ops::Range<u64>) -> Result<Stream, Failure> {
        let source = self.choose(turn as usize);
        let opened = self.ask(source, range).await;
        if let Err(failure) = &opened
            && (!failure.retryable || is_unusable(failure))
        {
            self.lock().unfit[source] = true;
        }
        opened
    }

    /// Connections are spread over the sources that are fit, those first whose hosts are not left alone just now; after
    /// a failure the next source has its turn.
    fn choose(&self, turn: usize) -> usize {
        let count = self.sources.len();
        let in_turn = |nth: usize| (turn + nth) % count;
        let state = self.lock();
        let mut fit = (0..count).map(in_turn).filter(|source| !state.unfit[*source]);
        let is_open = |source: &usize| !self.ctx.transport.is_paused(&self.sources[*source]);
        fit.clone().find(is_open).or_else(|| fit.next()).unwrap_or(0)
    }

    async fn ask(&self, source: usize, range: std::ops::Range<u64>) -> Result<Stream, Failure> {
        let held = &self.expectation.binding.version;
        // The first source is the one that the file is bound to.
        let trust = if source > 0 && self.trust.has_digest() { Trust::DigestAcross } else { self.trust };
        let mut ask = Ask { range: Some(range), ..conditional(held, trust) };
        let mut session = self.session.clone();
        loop {
            let stream = match send(self.ctx, &mut session, &self.sources[source], &ask, None).await {
                Ok(stream) => stream,
                Err(Halt::Failed(failure)) => return Err(failure),
                // The transfer is stopped as a whole; what is said here is not heard.
                Err(_) => return Err(Failure::fatal(FailureReason::Cancelled, "stopped")),
            };
            match decide(Some(&self.expectation), &ask, &stream.answer, trust) {
                Verdict::Continue { .. } => {
                    if held.compare(&stream.answer.version) != Sameness::Same {
                        self.bound.note_pieced();
                    }
                    return Ok(stream);
                }
                Verdict::AskAgain(again) if again.range.is_some() => ask = again,
                Verdict::Status => return Err(stream.failure(self.ctx)),
                Verdict::Refuse(failure) => return Err(failure),
                Verdict::AskAgain(Ask { distrust: Some(_), .. }) | Verdict::Discard { .. } | Verdict::Complete => {
                    return Err(Failure::retryable(FailureReason::Protocol, "the origin has no usable ranges"));
                }
                Verdict::AskAgain(_) | Verdict::Begin(_) => {
                    let message = "the file was replaced at the origin while it was downloaded";
                    return Err(Failure::retryable(FailureReason::ContentChanged, message));
                }
            }
        }
    }

    /// Carries an answer into the file, and counts itself among the connections meanwhile.
    async fn carry(&self, mut stream: Stream, id: ClaimId, strikes: &mut u32) -> Result<(), Failure> {
        self.count_live(1);
        let before = stream.at;
        let end = self.drain(&mut stream, id).await;
        self.count_live(-1);
        self.lock().board.release(id);
        if stream.at > before {
            *strikes = 0;
        }
        self.freed.notify_waiters();
        end
    }

    fn count_live(&self, change: i32) {
        let mut state = self.lock();
        state.live = state.live.saturating_add_signed(change);
        state.peak = state.peak.max(state.live);
        self.ctx.meter.set_connections(state.live);
    }

    /// The hot path: chunk by chunk from the socket to the file.
    async fn drain(&self, stream: &mut Stream, id: ClaimId) -> Result<(), Failure> {
        loop {
            if stream.at == stream.end {
                // All came. The end of the body is read, if it is there, so that the connection can be used again.
                let _ = stream.body.chunk().now_or_never();
                return Ok(());
            }
            let Some(chunk) = stream.body.chunk().await else { return self.ended(stream, id) };
            if !self.put(stream, id, &chunk?)? {
                return Ok(());
            }
        }
    }

    /// Writes a chunk where it belongs. `false`: nothing more of this body is of use.
    fn put(&self, stream: &mut Stream, id: ClaimId, chunk: &[u8]) -> Result<bool, Failure> {
        self.ctx.meter.received(chunk.len() as u64);
        let mut rest = chunk;
        let mut state = self.lock();
        while !rest.is_empty() && stream.at < stream.end {
            let (mut next, mut room) = state.board.room(id);
            if room == 0 && state.board.extend(id, stream.end) {
                (next, room) = state.board.room(id);
            }
            if room == 0 {
                break;
            }
            let most = rest.len().min(usize::try_from(stream.end - stream.at).unwrap_or(usize::MAX));
            let (piece, writes) = if stream.at < next {
                // Held already: an origin that ignores ranges sends it again.
                (most.min((next - stream.at) as usize), false)
            } else {
                (most.min(usize::try_from(room).unwrap_or(usize::MAX)), true)
            };
            let (now, later) = rest.split_at(piece);
            if writes {
                self.check_limit(stream.at + piece as u64)?;
                self.bound.write(stream.at, now)?;
                let new = state.board.advance(id, piece as u64);
                state.unsaved += new;
            }
            state.hash(stream.at, now);
            stream.at += piece as u64;
            rest = later;
        }
        let have = state.board.have().bytes();
        self.ctx.meter.set_done(have);
        if state.unsaved >= self.ctx.settings.checkpoint_bytes {
            self.due.notify_one();
        }
        let is_of_use = state.board.room(id).1 > 0 || state.board.extend(id, stream.end);
        Ok(is_of_use || stream.at == stream.end)
    }

    fn check_limit(&self, end: u64) -> Result<(), Failure> {
        match &self.limit {
            Some((most, failure)) if end > *most => Err(failure.clone()),
            _ => Ok(()),
        }
    }

    /// The body is over. For one of unknown length that is the end of the file; else it must have brought what it said.
    fn ended(&self, stream: &Stream, id: ClaimId) -> Result<(), Failure> {
        let mut state = self.lock();
        if state.board.total().is_none() {
            let (next, _) = state.board.room(id);
            if stream.at >= next {
                state.board.finish(stream.at);
                return Ok(());
            }
        }
        if stream.at >= stream.end {
            return Ok(());
        }
        let message = format!("the body ended at byte {} and not at {}", stream.at, stream.end);
        Err(Failure::retryable(FailureReason::Truncated, message))
    }

    /// Makes checkpoints by bytes and time. Returns only when one fails such that nothing may go on.
    pub(super) async fn checkpoints(&self) -> Failure {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.ctx.settings.checkpoint_interval) => {}
                () = self.due.notified() => {}
            }
            let ranges = {
                let mut state = self.lock();
                if state.unsaved == 0 {
                    continue;
                }
                state.unsaved = 0;
                state.board.have().clone()
            };
            match self.bound.checkpoint(ranges.clone()).await {
                Ok(()) => self.lock().note_saved(ranges),
                // The bytes have their room; it is the checkpoint that has none. The old one stands.
                Err(failure) if failure.reason == FailureReason::DiskFull => {}
                Err(failure) => return failure,
            }
        }
    }
}

/// Whether an origin can not bring a part of the version that is downloaded, now or later.
fn is_unusable(failure: &Failure) -> bool {
    matches!(failure.reason, FailureReason::Protocol | FailureReason::ContentChanged)
}

impl State {
    /// Digests are computed as long as bytes come in order; for the rest see `chase`.
    fn hash(&mut self, at: u64, bytes: &[u8]) {
        if let Some(hasher) = &mut self.hasher
            && at == self.hashed
            && !hasher.is_idle()
        {
            hasher.update(bytes);
            self.hashed += bytes.len() as u64;
        }
    }

    /// Whether some source may still bring ranges. Else the first answer is all there is.
    fn has_ranges(&self) -> bool {
        self.unfit.contains(&false)
    }

    fn note_saved(&mut self, ranges: RangeSet) {
        if let (Some(reservation), Some(total)) = (&mut self.reservation, self.board.total()) {
            reservation.shrink_to(total.saturating_sub(ranges.bytes()));
        }
        self.saved = ranges;
    }
}
