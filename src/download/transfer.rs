//! The third step: the bytes.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::download::flow::{Flow, Opened, Setup};
use crate::download::held::{Held, OpenEnd};
use crate::download::order::Order;
use crate::download::plan::Planned;
use crate::download::{Halt, is_local};
use crate::files::binding::Why;
use crate::files::bound::Bound;
use crate::files::ranges::RangeSet;
use crate::model::failure::{Failure, FailureReason};
use crate::net::Session;

pub(super) use crate::download::carry::ROOM_STEP;

/// How often to look for bytes that did not come in order, to hash them behind the connections. One connection from the
/// start needs none of this: its bytes are hashed as they pass.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Fewer are left for later.
const BEHIND_BYTES_MIN: u64 = 8 << 20;
/// More are not hashed in one go: the end of a transfer waits for it.
const BEHIND_BYTES_MAX: u64 = 32 << 20;

/// All bytes are in the part file; nobody has looked at them yet.
pub(super) struct Transferred {
    pub(super) bound: Bound,
    pub(super) name: String,
    pub(super) total: u64,
    /// Held from earlier attempts.
    pub(super) resumed_bytes: u64,
}

/// Fetches what is missing. What is held when that fails is checkpointed. `others`: sources that were not tried yet.
pub(super) async fn transfer(
    order: &Order<'_>,
    planned: Planned,
    others: &[usize],
    held: &mut Held,
    session: &Session,
) -> Result<Transferred, Halt> {
    let Planned { source, name, mut bound, board, first, connections, reservation } = planned;
    let resumed_bytes = bound.with_held(RangeSet::bytes);
    let Some(first) = first else {
        held.was_pieced = true;
        let total = board.total().unwrap_or(resumed_bytes);
        return Ok(Transferred { bound, name, total, resumed_bytes });
    };
    let has_digest = order.has_digest() || !bound.binding().announced.is_empty();
    // Bytes of two sources are joined only where a digest of the whole will be checked.
    let others = others.iter().filter(|_| has_digest).copied();
    let flow = Flow::new(Setup {
        order,
        bound: &bound,
        sources: std::iter::once(source).chain(others).collect(),
        session: session.clone(),
        connections,
        board,
        reservation,
    });
    let end = drive(&flow, first, has_digest).await;
    let (is_complete, is_sized) = (flow.is_complete(), flow.lock().board.total().is_some());
    let is_trickle = flow.lock().is_trickle;
    drop(flow);
    order.ctx.meter.set_connections(0);
    held.was_pieced = resumed_bytes > 0 || bound.is_pieced();
    match end {
        // Other connections may have brought the rest before this one was heard.
        Ok(()) if is_complete && bound.is_contradicted() && !has_digest => {
            held.drop_wrong(order.ctx, bound, Why::ContentChanged).await?;
            let message =
                "two answers of the origin contradicted each other, and there is no digest to tell which is right";
            Err(Failure::retryable(FailureReason::ContentChanged, message).into())
        }
        Ok(()) if is_complete => {
            let total = bound.with_held(RangeSet::end);
            bound.set_total(total);
            order.ctx.meter.set_total(total);
            Ok(Transferred { bound, name, total, resumed_bytes })
        }
        end => {
            held.open_end = match end {
                Ok(()) if !is_sized && is_trickle => OpenEnd::Little,
                Ok(()) if !is_sized => OpenEnd::Enough,
                _ => OpenEnd::No,
            };
            let halt = end.err().unwrap_or_else(|| nobody().into());
            if bound.is_contradicted() {
                held.drop_wrong(order.ctx, bound, Why::ContentChanged).await?;
            } else {
                held.keep(order.ctx, bound).await;
            }
            Err(halt)
        }
    }
}

/// Runs the connections, and what hashes behind them.
async fn drive(flow: &Flow<'_>, first: Opened, has_digest: bool) -> Result<(), Halt> {
    if flow.is_small() {
        return alone(flow, first, has_digest).await;
    }
    let mut behind = pin!(hash_behind(flow));
    let (end, unread) = tokio::select! {
        biased;
        end = connect(flow, first, has_digest) => {
            flow.over.cancel();
            // What another thread hashes is waited for: it has the digests.
            (end, behind.await)
        }
        unread = &mut behind => (Ok(()), unread),
    };
    match unread {
        Err(failure) => Err(failure.into()),
        Ok(()) => end,
    }
}

/// Hashes what lies complete behind the connections until they have ended: what was held before, and what several
/// connections bring, is read back from the page cache on another thread, so that little is left to do after the last
/// byte.
async fn hash_behind(flow: &Flow<'_>) -> Result<(), Failure> {
    loop {
        tokio::select! {
            biased;
            () = flow.over.cancelled() => return Ok(()),
            () = tokio::task::unconstrained(tokio::time::sleep(LOOK_INTERVAL)) => {}
        }
        while flow.bound.digest_behind(BEHIND_BYTES_MIN, BEHIND_BYTES_MAX).await? {
            if flow.over.is_cancelled() {
                return Ok(());
            }
        }
    }
}

/// Runs the one connection of a small file. Its bytes are hashed as they come, and no checkpoint of so few is worth its cost.
async fn alone(flow: &Flow<'_>, first: Opened, has_digest: bool) -> Result<(), Halt> {
    let end = tokio::select! {
        biased;
        () = flow.order.ctx.stop.cancelled() => return Err(Halt::Stopped),
        end = flow.worker(0, Some(first)) => end,
    };
    match end {
        Err(Halt::Failed(failure)) if is_local(&failure) || (flow.bound.is_contradicted() && !has_digest) => {
            Err(failure.into())
        }
        Ok(()) | Err(Halt::Failed(_)) if flow.is_complete() => Ok(()),
        Ok(()) => Err(nobody().into()),
        Err(halt) => Err(halt),
    }
}

fn nobody() -> Failure {
    Failure::retryable(FailureReason::Truncated, "no connection brought the rest of the file")
}

/// Runs the connections until all bytes are there, nobody can bring more, or the attempt is stopped. Where the size is not
/// known, all that an answer said that it holds may have come, and there may be more.
async fn connect(flow: &Flow<'_>, first: Opened, has_digest: bool) -> Result<(), Halt> {
    let mut workers = FuturesUnordered::new();
    workers.push(flow.worker(0, Some(first)));
    for index in 1..flow.connections.most {
        workers.push(flow.worker(index, None));
    }
    let mut checkpoints = pin!(flow.checkpoints());
    let mut failure = None;
    loop {
        let end = tokio::select! {
            biased;
            () = flow.order.ctx.stop.cancelled() => return Err(Halt::Stopped),
            end = workers.next() => end,
            failure = &mut checkpoints => return Err(failure.into()),
        };
        match end {
            Some(Err(Halt::Failed(other))) if !is_local(&other) => {
                // Without a digest nobody can tell which of the two versions is in the file.
                if flow.bound.is_contradicted() && !has_digest {
                    return Err(other.into());
                }
                failure = Some(worse(failure, other));
            }
            Some(Err(halt)) => return Err(halt),
            Some(Ok(())) => {}
            None => return failure.map_or(Ok(()), |failure| Err(failure.into())),
        }
        if flow.is_complete() && flow.lock().ending == 0 {
            return Ok(());
        }
    }
}

/// Returns the failure of several connections that decides: one that another attempt may resolve. That a host is paused
/// comes last, since such an attempt does not count, and this one has done more than to find that out.
fn worse(before: Option<Failure>, now: Failure) -> Failure {
    let rank = |failure: &Failure| (failure.retryable && failure.paused_until.is_none(), failure.retryable);
    match before {
        Some(before) if rank(&before) >= rank(&now) => before,
        _ => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Timestamp;

    #[test]
    fn what_counts_goes_before_a_pause() {
        let fatal = || Failure::fatal(FailureReason::Protocol, "fatal");
        let again = |text: &str| Failure::retryable(FailureReason::Truncated, text);
        let paused = || Failure { paused_until: Some(Timestamp(1)), ..again("paused") };
        let of = |failures: Vec<Failure>| {
            failures.into_iter().fold(None, |before, now| Some(worse(before, now))).unwrap().message
        };
        assert_eq!(of(vec![paused(), fatal()]), "paused");
        assert_eq!(of(vec![fatal(), paused()]), "paused");
        assert_eq!(of(vec![paused(), again("cut")]), "cut");
        assert_eq!(of(vec![again("cut"), paused(), again("later")]), "cut");
    }
}
