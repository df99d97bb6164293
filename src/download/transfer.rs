//! The third step: the bytes.

use std::pin::pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::download::attempt::Attempt;
use crate::download::flow::{Flow, Opened, Remains, Setup};
use crate::download::plan::{Planned, expectation};
use crate::download::{Halt, is_local};
use crate::files::digest::Hasher;
use crate::files::part::Bound;
use crate::files::ranges::RangeSet;
use crate::model::failure::{Failure, FailureReason};

/// All bytes are in the part file; nobody has looked at them yet.
pub(super) struct Transferred {
    pub(super) bound: Bound,
    pub(super) name: String,
    pub(super) total: u64,
    pub(super) hasher: Hasher,
    /// The digests cover the bytes up to here.
    pub(super) hashed: u64,
    /// Held from earlier attempts.
    pub(super) resumed_bytes: u64,
    /// The most connections at once.
    pub(super) connections: u32,
}

impl Attempt<'_> {
    /// Fetches what is missing. What is held when that fails is checkpointed.
    pub(super) async fn transfer(&mut self, planned: Planned) -> Result<Transferred, Halt> {
        let Planned { source, name, mut bound, board, first, connections, reservation } = planned;
        let resumed_bytes = bound.held().bytes();
        let Some(first) = first else {
            self.was_pieced = true;
            let total = board.total().unwrap_or(resumed_bytes);
            let hasher = self.hasher();
            return Ok(Transferred { bound, name, total, hasher, hashed: 0, resumed_bytes, connections: 0 });
        };
        let sources = [source].iter().chain(&self.left).map(|source| self.sources[*source].clone()).collect();
        let flow = Flow::new(Setup {
            ctx: self.ctx,
            bound: &bound,
            sources,
            session: self.session.clone(),
            connections,
            expectation: expectation(&bound),
            trust: self.trust(),
            limit: self.limit(),
            board,
            hasher: self.hasher(),
            reservation,
        });
        let end = drive(&flow, first).await;
        let Remains { board, hasher, hashed, saved, peak } = flow.into_remains();
        self.was_pieced = resumed_bytes > 0 || bound.is_pieced();
        match (end, hasher) {
            (Ok(()), Some(hasher)) => {
                let total = board.have().end();
                bound.set_total(total);
                self.ctx.meter.set_total(total);
                Ok(Transferred { bound, name, total, hasher, hashed, resumed_bytes, connections: peak })
            }
            (end, _) => {
                let lost = || Failure::retryable(FailureReason::Internal, "the digests were lost").into();
                let halt = end.err().unwrap_or_else(lost);
                self.keep(bound, board.have().clone(), saved, &halt).await;
                Err(halt)
            }
        }
    }

    /// The most bytes that a body of unknown length may have.
    fn limit(&self) -> Option<(u64, Failure)> {
        match (self.spec.expected_bytes, self.spec.max_bytes) {
            (Some(expected), most) if most.is_none_or(|most| expected <= most) => {
                let message = format!("the file has more than the {expected} bytes of `expected_bytes`");
                Some((expected, Failure::fatal(FailureReason::SizeMismatch, message)))
            }
            (_, Some(most)) => {
                let message = format!("the file has more than the {most} bytes of `max_bytes`");
                Some((most, Failure::fatal(FailureReason::TooLarge, message)))
            }
            _ => None,
        }
    }

    /// Makes the last checkpoint. `saved`: what the one before claims.
    pub(super) async fn keep(&mut self, bound: Bound, have: RangeSet, saved: RangeSet, halt: &Halt) {
        if have.is_empty() {
            // What was never there needs no trace; a failure to remove it is no news beside that of the attempt.
            let _ = bound.unbind(have).discard().await;
            return;
        }
        // After an I/O error the device may have lost bytes that were written: only the old claims hold.
        let is_doubtful = matches!(halt, Halt::Failed(failure) if failure.reason == FailureReason::Io);
        let kept = if !is_doubtful && bound.checkpoint(have.clone()).await.is_ok() { have } else { saved };
        self.part = Some(bound.unbind(kept));
    }
}

/// Runs the connections, and what hashes behind them.
async fn drive(flow: &Flow<'_>, first: Opened) -> Result<(), Halt> {
    let mut chase = pin!(flow.chase());
    let (end, lost) = tokio::select! {
        biased;
        end = connect(flow, first) => {
            flow.over.cancel();
            // What another thread hashes is waited for: it has the digests.
            (end, chase.await)
        }
        lost = &mut chase => (Ok(()), lost),
    };
    match lost {
        Some(failure) => Err(failure.into()),
        None => end,
    }
}

/// Runs the connections until all bytes are there, nobody can bring more, or the attempt is stopped.
async fn connect(flow: &Flow<'_>, first: Opened) -> Result<(), Halt> {
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
            () = flow.ctx.stop.cancelled() => return Err(Halt::Stopped),
            end = workers.next() => end,
            failure = &mut checkpoints => return Err(failure.into()),
        };
        match end {
            Some(Err(local)) if is_local(&local) => return Err(local.into()),
            _ if flow.is_complete() => return Ok(()),
            Some(Ok(())) => {}
            Some(Err(other)) => failure = Some(worse(failure, other)),
            None => {
                let nobody =
                    || Failure::retryable(FailureReason::Truncated, "no connection brought the rest of the file");
                return Err(failure.unwrap_or_else(nobody).into());
            }
        }
    }
}

/// Of the failures of several connections the one that another attempt may mend.
fn worse(before: Option<Failure>, now: Failure) -> Failure {
    match before {
        Some(before) if before.retryable || !now.retryable => before,
        _ => now,
    }
}
