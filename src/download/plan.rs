//! The second step: room on the disk, a part file of the right version, and how many connections.

use crate::download::Halt;
use crate::download::ask::Stream;
use crate::download::attempt::Attempt;
use crate::download::board::{Board, ClaimId};
use crate::download::probe::{Probed, Start};
use crate::files::part::{Binding, Bound, Part, Stored, Trust};
use crate::files::ranges::RangeSet;
use crate::files::space::Reservation;
use crate::files::version::Version;
use crate::model::failure::{Failure, FailureReason};

/// Below this the file system is not asked to set room aside: it costs more than it saves.
const PREALLOCATE_FROM_BYTES: u64 = 1 << 20;

/// What the transfer works with.
pub(super) struct Planned {
    pub(super) source: usize,
    pub(super) name: String,
    pub(super) bound: Bound,
    pub(super) board: Board,
    /// The answer that the probe brought, and its claim; `None`: nothing is missing.
    pub(super) first: Option<(Stream, ClaimId)>,
    pub(super) connections: Connections,
    pub(super) reservation: Option<Reservation>,
}

/// How many connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connections {
    pub(super) most: u32,
    /// Whether further ones come only when the first ones turn out slow.
    pub(super) is_adaptive: bool,
}

impl Attempt<'_> {
    pub(super) async fn plan(&mut self, probed: Probed) -> Result<Planned, Halt> {
        let Probed { source, start, stream, name, binding } = probed;
        let total = binding.version.total;
        self.check_size(total)?;
        if let Some(total) = total {
            self.ctx.meter.set_total(total);
        }
        let trust = self.trust_in(source);
        let part = match self.part.take() {
            Some(part) => part,
            None => Part::create(self.ctx.root, &self.target.folder, self.ctx.part_key)?,
        };
        let bound = match start {
            Start::Begin => part.restart(binding).await?,
            Start::Continue(_) | Start::Discard(_) | Start::Complete => self.resume(part, &binding, trust)?,
        };
        let held = match start {
            // One body from the start: what it can pass over is what it meets first.
            Start::Discard(to) => RangeSet::from_start(to),
            _ => bound.held(),
        };
        self.ctx.meter.set_done(held.bytes());
        let missing = total.map_or(0, |total| total - held.bytes().min(total));
        let reservation = match self.set_room_aside(&bound, total, missing) {
            Ok(reservation) => reservation,
            Err(halt) => return Err(self.put_back(bound, halt).await),
        };
        let mut board = Board::new(total, held, self.ctx.settings.segment_bytes_min);
        let connections = stream.as_ref().map_or(Connections { most: 1, is_adaptive: false }, |stream| {
            self.connections(stream, &bound.binding().version, missing)
        });
        let first = stream.map(|stream| {
            let at = match start {
                Start::Discard(at) | Start::Continue(at) => at,
                Start::Begin | Start::Complete => 0,
            };
            (stream, board.claim_at(at))
        });
        Ok(Planned { source, name, bound, board, first, connections, reservation })
    }

    /// Refuses a size that is not wanted before anything is transferred.
    pub(super) fn check_size(&self, total: Option<u64>) -> Result<(), Failure> {
        let Some(total) = total else { return Ok(()) };
        if let Some(most) = self.spec.max_bytes.filter(|most| total > *most) {
            let message = format!("the file has {total} bytes and `max_bytes` is {most}");
            return Err(Failure::fatal(FailureReason::TooLarge, message));
        }
        if let Some(expected) = self.spec.expected_bytes.filter(|expected| total != *expected) {
            let message = format!("the file has {total} bytes and not the {expected} of `expected_bytes`");
            return Err(Failure::fatal(FailureReason::SizeMismatch, message));
        }
        Ok(())
    }

    fn resume(&mut self, part: Part, binding: &Binding, trust: Trust) -> Result<Bound, Failure> {
        let bound = part.resume(&binding.version, trust).or_else(Part::resume_complete);
        match bound {
            Ok(mut bound) => {
                if let Some(total) = binding.version.total {
                    bound.set_total(total);
                }
                // Who serves it now: a redirect may lead elsewhere than it did for the bytes that are held.
                bound.served_from(&binding.url, &binding.final_url);
                Ok(bound)
            }
            Err(part) => {
                self.part = Some(part);
                let message = "what is held is of another version than what the origin sent";
                Err(Failure::retryable(FailureReason::ContentChanged, message))
            }
        }
    }

    /// Room for all that is missing. Where the file system sets it aside for us, our own count is not needed.
    fn set_room_aside(&self, bound: &Bound, total: Option<u64>, missing: u64) -> Result<Option<Reservation>, Halt> {
        if missing == 0 {
            return Ok(None);
        }
        let reserved = self.ctx.root.reserve(bound.folder(), missing);
        let reservation = reserved.map_err(|error| Halt::NoSpace {
            needed_bytes: error.needed_bytes,
            message: format!("there is no room for the file: {error}"),
        })?;
        match total {
            Some(total) if total >= PREALLOCATE_FROM_BYTES && bound.preallocate(total)? => Ok(None),
            _ => Ok(Some(reservation)),
        }
    }

    /// Keeps what was held before, or removes the part if that is nothing; gives the reason back.
    async fn put_back(&mut self, bound: Bound, halt: Halt) -> Halt {
        let held = bound.held();
        let part = bound.unbind(held.clone());
        if held.is_empty() {
            // The reason why the attempt ends is the one to tell.
            let _ = part.discard().await;
        } else {
            self.part = Some(part);
        }
        match halt {
            Halt::Failed(failure) if failure.reason == FailureReason::DiskFull => {
                let needed_bytes = self.ctx.meter.total().saturating_sub(held.bytes());
                Halt::NoSpace { needed_bytes, message: failure.message }
            }
            other => other,
        }
    }

    /// Several connections need ranges, and a validator that shows that all of them bring the same version.
    fn connections(&self, stream: &Stream, version: &Version, missing: u64) -> Connections {
        let one = Connections { most: 1, is_adaptive: false };
        let settings = self.ctx.settings;
        let has_ranges = stream.has_ranges();
        let can_be_checked = version.is_provable() || self.trust().has_digest();
        if version.total.is_none() || !can_be_checked || has_ranges == Some(false) {
            return one;
        }
        let by_size = u32::try_from(missing / settings.segment_bytes_min.max(1)).unwrap_or(u32::MAX).max(1);
        match self.spec.max_connections {
            0 if has_ranges == Some(true) && missing >= settings.segmented_from_bytes => {
                Connections { most: settings.connections_auto.clamp(1, by_size), is_adaptive: true }
            }
            0 => one,
            // Without `Accept-Ranges` it is worth trying when it was asked for.
            most => Connections { most: most.min(by_size), is_adaptive: false },
        }
    }
}

/// What answers for further ranges are compared with.
pub(super) fn expectation(bound: &Bound) -> Stored {
    Stored { binding: bound.binding().clone(), ranges: bound.held() }
}
