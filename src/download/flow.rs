//! The running transfer: what its connections share, and how each of them finds its next bytes.
//!
//! All connections are polled by one task, so the lock around the shared state is never waited for. A connection that
//! fails is replaced for as long as others carry the download; the bytes that it did not bring are free for all.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::download::ask::{Carried, Stream, send};
use crate::download::board::{Board, ClaimId};
use crate::download::order::{Limit, Order};
use crate::download::plan::Connections;
use crate::download::resume::{Verdict, ask_for, judge};
use crate::download::{Halt, is_local};
use crate::files::binding::Why;
use crate::files::bound::Bound;
use crate::files::space::Reservation;
use crate::model::failure::{Failure, FailureReason};
use crate::net::{Permit, Session};

/// Failures in a row, without bytes between them, after which a connection is not replaced any more.
const STRIKES_MAX: u32 = 3;
/// The wait before a failed connection is replaced; grows with each strike.
const REPLACE_WAIT: Duration = Duration::from_millis(200);
/// A file of no more bytes is small.
const SMALL_BYTES_MAX: u64 = 64 << 10;
/// With fewer seconds than this to go, no connection is added.
const WORTH_GROWING: Duration = Duration::from_secs(2);

/// What the connections of one transfer share.
pub(super) struct Flow<'a> {
    pub(super) order: &'a Order<'a>,
    pub(super) bound: &'a Bound,
    /// Numbers of sources: that of the first connection, then those that further ones may use.
    pub(super) sources: Vec<usize>,
    pub(super) session: Session,
    pub(super) connections: Connections,
    /// The most bytes that may come, and why not more.
    pub(super) limit: Option<Limit>,
    started: Instant,
    received_before: u64,
    /// The connections have ended.
    pub(super) over: CancellationToken,
    state: Mutex<State>,
    /// Bytes became free, an answer came, or a connection ended.
    freed: Notify,
    /// A checkpoint is due by bytes.
    pub(super) due: Notify,
}

pub(super) struct State {
    pub(super) board: Board,
    /// Room that is set aside for bytes to come.
    pub(super) reservation: Option<Reservation>,
    /// Of a body of unknown length: how many bytes there is room for by now.
    pub(super) room_for: u64,
    pub(super) live: u32,
    /// Answers of which the last byte is here, and whose end is waited for.
    pub(super) ending: u32,
    /// Sources that turned out to have no usable ranges of the version that is downloaded.
    unfit: Vec<bool>,
    /// The last answer that ended brought little of what it was asked for.
    pub(super) is_trickle: bool,
    /// How often bytes became free, an answer came, or a connection ended.
    changes: u64,
    /// Whether the origin has ranges is for the second connection to find out, and the others wait for that.
    is_unclear: bool,
}

/// An answer, with the claim that it is for.
pub(super) type Opened = (Stream, ClaimId);

/// What a flow starts with.
pub(super) struct Setup<'a> {
    pub(super) order: &'a Order<'a>,
    pub(super) bound: &'a Bound,
    pub(super) sources: Vec<usize>,
    pub(super) session: Session,
    pub(super) connections: Connections,
    pub(super) board: Board,
    pub(super) reservation: Option<Reservation>,
}

impl<'a> Flow<'a> {
    pub(super) fn new(setup: Setup<'a>) -> Flow<'a> {
        let Setup { order, bound, sources, session, connections, board, reservation } = setup;
        let room_for = if board.total().is_some() { u64::MAX } else { 0 };
        let unfit = vec![false; sources.len()];
        let is_unclear = connections.is_unclear && sources.len() == 1;
        Flow {
            limit: order.limit(),
            order,
            bound,
            sources,
            session,
            connections,
            started: Instant::now(),
            received_before: order.ctx.meter.received_bytes(),
            over: CancellationToken::new(),
            state: Mutex::new(State {
                board,
                reservation,
                room_for,
                live: 0,
                ending: 0,
                unfit,
                is_trickle: false,
                changes: 0,
                is_unclear,
            }),
            freed: Notify::new(),
            due: Notify::new(),
        }
    }

    /// Whether it is so little, and by one connection from the start, that nothing has to go on beside it.
    pub(super) fn is_small(&self) -> bool {
        let total = self.lock().board.total();
        let is_new = self.bound.with_held(crate::files::ranges::RangeSet::is_empty);
        is_new && self.connections.most == 1 && total.is_some_and(|total| total <= SMALL_BYTES_MAX)
    }

    pub(super) fn is_complete(&self) -> bool {
        let state = self.lock();
        self.bound.with_held(|have| state.board.is_complete(have))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One connection after the other, until there is nothing left to fetch, or it is not worth going on.
    pub(super) async fn worker(&self, index: u32, first: Option<Opened>) -> Result<(), Halt> {
        let end = self.work(index, first).await;
        if index == 1 {
            self.lock().is_unclear = false;
            self.note_change();
        }
        end
    }

    async fn work(&self, index: u32, first: Option<Opened>) -> Result<(), Halt> {
        while index > 1 && self.lock().is_unclear && self.goes_on() {
            self.wait_for_change().await;
        }
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
            let halt = match opened {
                Ok(None) => return Ok(()),
                Ok(Some((stream, id))) => match self.carry(stream, id, &mut strikes).await {
                    Ok(Carried::Enough) => continue,
                    // Counted as what brought nothing, but for the wait: the next piece may be what it is to be.
                    Ok(Carried::Trickle(_)) if strikes + 1 < STRIKES_MAX => {
                        strikes += 1;
                        continue;
                    }
                    Ok(Carried::Trickle(failure)) => return Err(failure.into()),
                    Err(halt) => halt,
                },
                Err(halt) => halt,
            };
            let is_final = match &halt {
                Halt::Failed(failure) => is_local(failure),
                Halt::Stopped | Halt::NoSpace { .. } => true,
            };
            let is_hopeless = self.connections.most == 1 || !self.lock().has_ranges();
            if is_final || is_hopeless || strikes >= STRIKES_MAX {
                return Err(halt);
            }
            strikes += 1;
            tokio::time::sleep(REPLACE_WAIT * strikes).await;
        }
    }

    /// Whether one more connection is worth its cost, where that is left to haul.
    async fn is_needed(&self, index: u32) -> bool {
        if !self.connections.is_adaptive {
            return true;
        }
        tokio::time::sleep(self.order.ctx.settings.grow_after * index).await;
        let meter = self.order.ctx.meter;
        let rate = self.received() as f64 / self.took().as_secs_f64().max(0.001);
        let missing = meter.total().saturating_sub(meter.done());
        missing as f64 > rate * WORTH_GROWING.as_secs_f64()
    }

    /// Bytes that the connections have brought.
    pub(super) fn received(&self) -> u64 {
        self.order.ctx.meter.received_bytes() - self.received_before
    }

    /// How long they have gone on.
    pub(super) fn took(&self) -> Duration {
        self.started.elapsed()
    }

    /// Opens a connection for bytes that are missing; `None` when none are, or none can be had this way.
    ///
    /// A permit counts as a request, so there has to be work for it. It comes before the range: while it is waited for,
    /// others may bring the bytes, and a range that is asked for later would come twice. For the same reason the others are
    /// late only for as long as nothing has changed: not any more where an answer came while the permit was waited for.
    async fn next(&self, index: u32, strikes: u32) -> Result<Option<Opened>, Halt> {
        let mut late_since = None;
        loop {
            if !self.goes_on() {
                return Ok(None);
            }
            if !self.has_work(self.is_late(late_since)) {
                late_since = self.wait_until_late().await;
                continue;
            }
            let source = self.choose((index + strikes) as usize);
            let url = &self.order.sources[self.sources[source]];
            let permit = self.order.ctx.transport.permit(url).await?;
            let Some((id, range)) = self.take(self.is_late(late_since)) else {
                // Others may wait for the host.
                drop(permit);
                late_since = self.wait_until_late().await;
                continue;
            };
            let opened = self.open(source, range, permit).await;
            match opened {
                Ok(stream) if self.lock().board.connect(id) => {
                    self.lock().is_unclear = false;
                    self.note_change();
                    return Ok(Some((stream, id)));
                }
                // Another connection has gone on into these bytes meanwhile.
                Ok(_) => {}
                Err(halt) => {
                    self.lock().board.release(id);
                    self.note_change();
                    return Err(halt);
                }
            }
        }
    }

    /// Whether something is missing that may still come.
    fn goes_on(&self) -> bool {
        let state = self.lock();
        let Some(total) = state.board.total().filter(|_| state.has_ranges()) else { return false };
        self.bound.with_held(|have| have.gaps(total).next().is_some())
    }

    fn has_work(&self, is_late: bool) -> bool {
        let state = self.lock();
        self.bound.with_held(|have| state.board.has_work(have, is_late))
    }

    fn take(&self, is_late: bool) -> Option<(ClaimId, std::ops::Range<u64>)> {
        let mut state = self.lock();
        self.bound.with_held(|have| state.board.take(have, self.connections.most, is_late))
    }

    /// Waits until bytes may have become free, or an answer has come. `true`: neither happened for so long that what a
    /// slow connection was to bring may be fetched by another.
    pub(super) async fn wait_for_change(&self) -> bool {
        tokio::select! {
            () = self.freed.notified() => false,
            () = tokio::time::sleep(self.order.ctx.settings.race_after) => true,
        }
    }

    /// As [`Flow::wait_for_change`]. If it was in vain, says how many changes there had been by then.
    async fn wait_until_late(&self) -> Option<u64> {
        let is_late = self.wait_for_change().await;
        is_late.then(|| self.lock().changes)
    }

    /// Whether nothing has changed since others were found to be late.
    fn is_late(&self, late_since: Option<u64>) -> bool {
        late_since.is_some_and(|changes| self.lock().changes == changes)
    }

    /// Bytes became free, an answer came, or a connection ended.
    pub(super) fn note_change(&self) {
        self.lock().changes += 1;
        self.freed.notify_waiters();
    }

    /// Asks for a range of the version that the file is bound to. A source that cannot bring one is not asked again.
    async fn open(&self, source: usize, range: std::ops::Range<u64>, permit: Permit) -> Result<Stream, Halt> {
        let opened = self.ask(self.sources[source], range, permit).await;
        if let Err(Halt::Failed(failure)) = &opened
            && (!failure.retryable || is_unusable(failure))
        {
            self.lock().unfit[source] = true;
        }
        opened
    }

    /// Marks the source of a connection whose bytes cannot be used.
    pub(super) fn mark_unfit(&self, id: &str) {
        let is_it = |source: &usize| self.order.source_ids[*source] == id;
        if let Some(at) = self.sources.iter().position(is_it) {
            self.lock().unfit[at] = true;
        }
    }

    /// Connections are spread over the sources that are fit, those first whose hosts are not paused just now; after a
    /// failure the next source has its turn.
    fn choose(&self, turn: usize) -> usize {
        let count = self.sources.len();
        let in_turn = |nth: usize| (turn + nth) % count;
        let state = self.lock();
        let mut fit = (0..count).map(in_turn).filter(|source| !state.unfit[*source]);
        let transport = self.order.ctx.transport;
        let is_open = |source: &usize| !transport.is_paused(&self.order.sources[self.sources[*source]]);
        fit.clone().find(is_open).or_else(|| fit.next()).unwrap_or(0)
    }

    async fn ask(&self, source: usize, range: std::ops::Range<u64>, permit: Permit) -> Result<Stream, Halt> {
        let has_digest = self.order.has_digest();
        let held = self.bound.stored();
        let start = range.start;
        let Some(mut ask) = ask_for(&held, &self.order.source_ids[source], range, has_digest) else {
            return Err(no_ranges().into());
        };
        let mut session = self.session.clone();
        let mut permit = Some(permit);
        loop {
            let permit = permit.take().unwrap_or_default();
            let stream = send(self.order, &mut session, source, &ask, None, permit).await?;
            match judge(Some(&held), &ask, &stream.answer, has_digest) {
                Verdict::Join(admitted) if stream.at == start => {
                    self.bound.join(&admitted);
                    return Ok(stream);
                }
                Verdict::Status => return Err(stream.into_failure(self.order.ctx).await.into()),
                verdict => {
                    let status = stream.answer.status;
                    // One that answers with the whole and says nowhere that it has ranges has none, whatever the condition.
                    let may_have_ranges = status != 200 || stream.has_ranges() == Some(true);
                    stream.leave().await;
                    match verdict {
                        Verdict::AskAgain(again) if again.range.is_some() && may_have_ranges => ask = again,
                        Verdict::Refuse(failure) => return Err(failure.into()),
                        Verdict::AskAgain(again) if is_another(status, again.distrust) => {
                            return Err(replaced().into());
                        }
                        Verdict::Begin(_) => return Err(replaced().into()),
                        _ => return Err(no_ranges().into()),
                    }
                }
            }
        }
    }
}

/// Whether an answer after which the whole is to be asked for was of another version: a range that does not join what is
/// held, or a whole that does not.
fn is_another(status: u16, why: Option<Why>) -> bool {
    matches!(why, Some(Why::ContentChanged | Why::TagChanged | Why::Unproven)) || (status == 206 && why.is_none())
}

fn no_ranges() -> Failure {
    Failure::retryable(FailureReason::Protocol, "the origin has no usable ranges")
}

fn replaced() -> Failure {
    let message = "the file was replaced at the origin while it was downloaded";
    Failure::retryable(FailureReason::ContentChanged, message)
}

/// Whether this source can never serve a range of the version that is downloaded. One that has not looked at the request may.
fn is_unusable(failure: &Failure) -> bool {
    matches!(failure.reason, FailureReason::Protocol | FailureReason::ContentChanged) && !failure.is_unsent
}

impl State {
    /// Whether some source may still bring ranges. Else the first answer is all there is.
    pub(super) fn has_ranges(&self) -> bool {
        self.unfit.contains(&false)
    }
}
