//! How one connection carries its answer into the file: chunk by chunk, from the socket through the gate.

use std::time::Duration;

use bytes::Bytes;
use tokio::task::unconstrained;

use crate::download::Halt;
use crate::download::ask::{Carried, Stream};
use crate::download::board::{ClaimId, Reach};
use crate::download::flow::Flow;
use crate::download::plan::{no_space, tenant_full};
use crate::download::resume::can_go_on;
use crate::files::space::NoSpace;
use crate::model::failure::{Failure, FailureReason};
use crate::model::storage::Full;

/// A body of unknown length asks for room in steps of this.
pub(super) const ROOM_STEP: u64 = 512 << 10;

/// An answer that holds fewer of the bytes that it was asked for is a trickle.
const PIECE_BYTES_MIN: u64 = 4 << 10;

/// How long the end of a body is waited for whose last byte is here: whoever never says it, and sends no more, has sent it all.
const END_WAIT: Duration = Duration::from_secs(1);

impl Flow<'_> {
    /// Carries an answer into the file, and counts itself among the connections meanwhile.
    pub(super) async fn carry(&self, mut stream: Stream, id: ClaimId, strikes: &mut u32) -> Result<Carried, Halt> {
        self.count_live(1);
        let before = stream.at;
        // A body that does not say how long it is ends where the file does, or one of the two is wrong.
        stream.end = stream.end.min(self.lock().board.total().unwrap_or(u64::MAX)).max(before);
        let end = self.drain(&mut stream, id).await;
        self.count_live(-1);
        let is_unfinished = {
            let mut state = self.lock();
            let is_unfinished = self.bound.with_held(|have| state.board.is_unfinished(id, have));
            state.board.release(id);
            is_unfinished
        };
        let trickle = (end.is_ok() && is_unfinished).then(|| self.trickle(&stream, before)).flatten();
        self.lock().is_trickle = trickle.is_some();
        if stream.at > before && trickle.is_none() {
            *strikes = 0;
        }
        let is_other = |failure: &Failure| failure.reason == FailureReason::ContentChanged;
        if stream.goes_on || matches!(&end, Err(Halt::Failed(failure)) if is_other(failure)) {
            self.mark_unfit(&stream.answer.seen.source);
        }
        self.note_change();
        end.map(|()| trickle.map_or(Carried::Enough, Carried::Trickle))
    }

    /// Whether an answer that held fewer bytes than it was asked for brought so few, or so slowly, that a file of such
    /// pieces would never come: each has the time that its head may take, so no timeout of a body sees it.
    fn trickle(&self, stream: &Stream, from: u64) -> Option<Failure> {
        let came = stream.at - from;
        let low = self.order.ctx.profile.timeouts.low_speed_bytes_per_second as f64;
        let took = stream.head_wait + stream.body.0.origin_wait();
        let is_slow = (came as f64) < took.as_secs_f64() * low;
        (came < PIECE_BYTES_MIN || is_slow).then(|| {
            let message = format!("the origin sends {came} bytes where it is asked for more, answer after answer");
            Failure::retryable(FailureReason::LowSpeed, message)
        })
    }

    fn count_live(&self, change: i32) {
        let mut state = self.lock();
        state.live = state.live.saturating_add_signed(change);
        self.bound.note_connections(state.live);
        self.order.ctx.meter.set_connections(state.live);
    }

    async fn drain(&self, stream: &mut Stream, id: ClaimId) -> Result<(), Halt> {
        loop {
            if stream.at == stream.end {
                return self.finished(stream).await;
            }
            let Some(chunk) = stream.body.chunk().await else { return self.ended(stream) };
            if !self.put(stream, id, chunk?).await? {
                return Ok(());
            }
        }
    }

    /// All came that the head names. The end of the body is read, if it comes soon, so that the connection can be used
    /// again; where the head does not say how long the body is, it has to be there.
    async fn finished(&self, stream: &mut Stream) -> Result<(), Halt> {
        if stream.has_length {
            self.lock().ending += 1;
            let end = tokio::time::timeout(END_WAIT, stream.body.chunk()).await;
            self.lock().ending -= 1;
            // By HTTP/2 it may go on behind the length that it names. Whatever else goes wrong behind the last byte means nothing.
            return match end {
                Ok(Some(Err(failure))) if failure.reason == FailureReason::Protocol => Err(self.beyond_its_end(stream)),
                _ => Ok(()),
            };
        }
        match stream.body.chunk().await {
            None => Ok(()),
            Some(Ok(_)) => Err(self.beyond_its_end(stream)),
            Some(Err(failure)) => Err(failure.into()),
        }
    }

    /// The body has more bytes than its `Content-Range` names, or than the file has: nobody knows which of the two is true.
    fn beyond_its_end(&self, stream: &mut Stream) -> Halt {
        self.bound.contradict();
        stream.goes_on = true;
        let message = format!("the body continues after byte {}, where it should end", stream.end);
        Failure::retryable(FailureReason::Protocol, message).into()
    }

    /// Puts a chunk where it belongs. `false`: nothing more of this body is of use.
    async fn put(&self, stream: &mut Stream, id: ClaimId, chunk: Bytes) -> Result<bool, Halt> {
        let meter = self.order.ctx.meter;
        meter.received(chunk.len() as u64);
        let mut rest = chunk;
        while !rest.is_empty() && stream.at < stream.end {
            let Some(reach) = self.reach(id, stream.at, stream.end).await else { break };
            let most = reach.min(stream.end).saturating_sub(stream.at);
            if most == 0 {
                break;
            }
            let piece = rest.split_to(rest.len().min(usize::try_from(most).unwrap_or(usize::MAX)));
            let end = stream.at + piece.len() as u64;
            self.check_limit(end)?;
            self.make_room(piece.len() as u64)?;
            self.bound.put(stream.at, &piece).await?;
            stream.at = end;
            self.lock().board.moved(id, end);
        }
        if stream.at == stream.end && !rest.is_empty() {
            return Err(self.beyond_its_end(stream));
        }
        meter.set_done(self.bound.with_held(crate::files::ranges::RangeSet::bytes));
        if self.bound.unsaved_bytes() >= self.order.ctx.settings.checkpoint_bytes {
            self.due.notify_one();
        }
        // What was not taken leaves a gap, and the next chunk would be put into it.
        Ok(rest.is_empty() && (stream.at == stream.end || self.is_of_use(stream, id)))
    }

    /// How far the connection may go. Where that depends on an answer to another one, it waits for that: going on would
    /// bring bytes twice, and ending would lose a connection that may be the only one to bring them. It does not wait
    /// long.
    async fn reach(&self, id: ClaimId, at: u64, body_end: u64) -> Option<u64> {
        let mut takes_over = false;
        loop {
            let reach = {
                let mut state = self.lock();
                self.bound.with_held(|have| state.board.reach(id, at, body_end, takes_over, have))
            };
            match reach {
                Reach::To(end) => return Some(end),
                Reach::Done => return None,
                Reach::Unclear => takes_over = self.wait_for_change().await,
            }
        }
    }

    fn is_of_use(&self, stream: &Stream, id: ClaimId) -> bool {
        let state = self.lock();
        self.bound.with_held(|have| state.board.is_of_use(id, stream.end, have))
    }

    fn check_limit(&self, end: u64) -> Result<(), Failure> {
        match &self.limit {
            Some((most, failure)) if end > *most => Err(failure.clone()),
            _ => Ok(()),
        }
    }

    /// Room for more bytes of a body of unknown length.
    fn make_room(&self, bytes: u64) -> Result<(), Halt> {
        let held = self.bound.with_held(crate::files::ranges::RangeSet::bytes);
        let mut state = self.lock();
        // Of a file whose size is known the tenant has room for all.
        if state.board.total().is_none()
            && let Err(full) = self.order.ctx.storage.at_least(held + bytes)
        {
            drop(state);
            return Err(self.tenant_full(held, full));
        }
        if held + bytes <= state.room_for {
            return Ok(());
        }
        // What was set aside before is on the disk by now.
        state.reservation = None;
        let step = bytes.max(ROOM_STEP);
        let reserved = self.order.ctx.root.reserve(self.bound.folder(), step);
        if let Ok(reservation) = reserved {
            state.reservation = Some(reservation);
            state.room_for = held + step;
            return Ok(());
        }
        drop(state);
        reserved.map(drop).map_err(|error| self.out_of_room(held, &error))
    }

    /// Gives back the room that it will not take soon; from then on it asks for room as it grows.
    fn hold_no_more_than_soon(&self) {
        let (settings, took) = (self.order.ctx.settings, self.took());
        let mut state = self.lock();
        let Some(total) = state.board.total().filter(|_| state.room_for == u64::MAX && took >= settings.room_after)
        else {
            return;
        };
        let held = self.bound.with_held(crate::files::ranges::RangeSet::bytes);
        let rate = self.received() as f64 / took.as_secs_f64();
        let soon = (rate * settings.room_time.as_secs_f64()).max(settings.room_bytes_min as f64) as u64;
        if total.saturating_sub(held) <= soon {
            return;
        }
        state.reservation = None;
        self.bound.give_room_back();
        // It has just been given up. Where somebody else was quicker, it is asked for as it is needed.
        state.reservation = self.order.ctx.root.reserve(self.bound.folder(), soon).ok();
        state.room_for = if state.reservation.is_some() { held + soon } else { held };
    }

    /// Nobody knows how much is to come. What it has is dropped, and it waits for a good deal more than that, where it could
    /// not be gone on with, where it alone has filled more than half of what the file system could hold at all, and where
    /// another one waits there with what it has.
    fn out_of_room(&self, held: u64, error: &NoSpace) -> Halt {
        let is_of_use = can_go_on(&self.bound.stored(), self.order.has_digest());
        if let Some(total) = self.lock().board.total() {
            // One part alone may wait there with what it has: several would wait for each other.
            let keeps = is_of_use && self.bound.may_wait();
            if !keeps {
                self.bound.give_up();
            }
            let needed_bytes = if keeps { total.saturating_sub(held) } else { total };
            return no_space(self.order, &NoSpace { needed_bytes, ..*error }, total, "the rest of the file");
        }
        let what = format!("the file, of which {held} bytes have arrived and whose length is unknown,");
        let more = (held / 4).max(2 * ROOM_STEP);
        if is_of_use && held <= error.most_bytes / 2 && self.bound.may_wait() {
            return no_space(self.order, &NoSpace { needed_bytes: more, ..*error }, 0, &what);
        }
        self.bound.give_up();
        let needed = NoSpace { needed_bytes: held + more, ..*error };
        no_space(self.order, &needed, held + more, &what)
    }

    /// As [`Flow::out_of_room`], where the tenant may not store more.
    fn tenant_full(&self, held: u64, full: Full) -> Halt {
        let what = format!("the file, of which {held} bytes have arrived and whose length is unknown,");
        let is_of_use = can_go_on(&self.bound.stored(), self.order.has_digest());
        // What it needs at least decides whether it could ever be kept; it waits for a good deal more, so that its origin is not
        // asked for each piece that becomes free.
        let whole = held.saturating_add(full.needed_bytes);
        let more = (held / 4).max((2 * ROOM_STEP).min(full.most_bytes / 16)).max(full.needed_bytes);
        let most = full.most_bytes.max(whole);
        let needed_bytes = more.min(most - held);
        if is_of_use && held <= full.most_bytes / 2 && self.bound.may_wait_for_tenant() {
            return tenant_full(self.order, Full { needed_bytes, ..full }, whole, &what);
        }
        self.bound.give_up();
        tenant_full(self.order, Full { needed_bytes: held.saturating_add(more).min(most), ..full }, whole, &what)
    }

    /// The body is over. For one of unknown length that is the end of the file; else it must have been as long as it said, also
    /// where its `Content-Range` says so and nobody knows how large the file is.
    fn ended(&self, stream: &Stream) -> Result<(), Halt> {
        let mut state = self.lock();
        if state.board.total().is_none() && stream.end == u64::MAX {
            self.bound.end_at(stream.at)?;
            state.board.finish(stream.at);
            return Ok(());
        }
        if stream.at >= stream.end {
            return Ok(());
        }
        let message = format!("the body ended at byte {} and not at {}", stream.at, stream.end);
        Err(Failure::retryable(FailureReason::Truncated, message).into())
    }

    /// Makes checkpoints by bytes and time, also where the connections use up every turn of their task because bytes are
    /// always there. Returns only when one fails such that nothing may go on.
    pub(super) async fn checkpoints(&self) -> Failure {
        let interval = self.order.ctx.settings.checkpoint_interval;
        // The first one comes sooner: progress that is kept is what tells a download that crashes cut from one that causes them.
        let mut wait = interval / 4;
        loop {
            tokio::select! {
                () = unconstrained(tokio::time::sleep(std::mem::replace(&mut wait, interval))) => {}
                () = self.due.notified() => {}
            }
            self.hold_no_more_than_soon();
            if self.bound.unsaved_bytes() == 0 || !self.order.ctx.is_known() {
                continue;
            }
            if let Err(failure) = self.bound.checkpoint().await {
                return failure;
            }
            let mut state = self.lock();
            let total = state.board.total();
            if let (Some(reservation), Some(total)) = (&mut state.reservation, total) {
                reservation.shrink_to(total.saturating_sub(self.bound.saved_bytes()));
            }
        }
    }
}
