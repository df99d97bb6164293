//! The second step: room on the disk, a part file of the right version, and how many connections.

use std::sync::Arc;

use crate::download::Halt;
use crate::download::ask::Stream;
use crate::download::board::{Board, ClaimId};
use crate::download::held::Held;
use crate::download::order::Order;
use crate::download::probe::{Probed, Start};
use crate::files::bound::Bound;
use crate::files::part::Part;
use crate::files::ranges::RangeSet;
use crate::files::space::{NoSpace, Reservation};
use crate::files::version::Version;
use crate::model::credential::echo::EchoScan;
use crate::model::failure::{Failure, FailureReason};
use crate::model::outcome::ShortOf;
use crate::model::storage::Full;

/// Below this the file system is not asked to set room aside: it costs more than it saves.
const PREALLOCATE_FROM_BYTES: u64 = 1 << 20;
/// The file system sets no more aside. What is only counted can be given back whatever the connections are doing.
const PREALLOCATE_BYTES_MAX: u64 = 1 << 30;

/// What the transfer works with.
pub(super) struct Planned {
    pub(super) source: usize,
    pub(super) name: String,
    pub(super) bound: Bound,
    pub(super) board: Board,
    /// The answer to the probe, and its claim; `None`: nothing is missing.
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
    /// Whether the origin has ranges is not known.
    pub(super) is_unclear: bool,
}

/// Plans the transfer of what the probe found.
pub(super) async fn plan(order: &Order<'_>, probed: Probed, held: &mut Held) -> Result<Planned, Halt> {
    let Probed { source, name, start, stream } = probed;
    let total = start.binding().version.total;
    if let Some(total) = total {
        order.check_size(total)?;
        order.ctx.meter.set_total(total);
    }
    let bound = bind(order, start, held).await?;
    let held_bytes = bound.with_held(RangeSet::bytes);
    order.ctx.meter.set_done(held_bytes);
    let missing = total.map_or(0, |total| total - held_bytes.min(total));
    let reservation = match set_room_aside(order, &bound, total, missing).await {
        Ok(reservation) => reservation,
        Err(halt) => {
            let halt = wait_with(&bound, halt, total.unwrap_or(0));
            held.keep(order.ctx, bound).await;
            return Err(halt);
        }
    };
    let mut board = Board::new(total, order.ctx.settings.segment_bytes_min);
    let connections = match &stream {
        Some(stream) => connections(order, stream, &bound, missing),
        None => Connections { most: 1, is_adaptive: false, is_unclear: false },
    };
    let first = stream.map(|stream| {
        let is_range = stream.at > 0 || stream.answer.status == 206;
        let id = bound.with_held(|have| board.claim_for(stream.at..stream.end, is_range, have));
        (stream, id)
    });
    Ok(Planned { source, name, bound, board, first, connections, reservation })
}

async fn bind(order: &Order<'_>, start: Start, held: &mut Held) -> Result<Bound, Failure> {
    let mut part = held.take_part();
    // What begins anew is not begun in a file that somebody has linked, such as a backup: its copy would be emptied.
    if matches!(start, Start::Fresh(_))
        && let Some(linked) = part.take_if(|part| part.is_linked())
    {
        linked.discard().await?;
    }
    let part = if let Some(part) = part {
        part
    } else {
        if order.has_history() {
            Part::at_rest(order.ctx.root, &order.target.folder, order.part_key()).await;
        }
        let part = Part::create(order.ctx.root, &order.target.folder, order.part_key())?;
        if order.has_history() || start.binding().version.total.is_none_or(|total| total >= PREALLOCATE_FROM_BYTES) {
            part.drop_foreign_checkpoint()?;
        }
        part
    };
    let bound = match start {
        Start::Fresh(binding) => Bound::restart(part, *binding, order.algorithms()).await?,
        Start::Held(admitted) => Bound::resume(part, *admitted, order.algorithms()),
    };
    bound.set_remarks(held.remarks.clone());
    // What two answers bring in halves is whole in the file.
    if let Some(echo) = order.ctx.echo {
        bound.look_for(EchoScan::new(Arc::clone(echo)));
    }
    Ok(bound)
}

/// Room for all that is missing and that the part does not have already. Where the file system sets it aside itself, no
/// count of it is needed. Of a body of unknown length nothing is missing yet: it asks for room as it grows.
async fn set_room_aside(
    order: &Order<'_>,
    bound: &Bound,
    total: Option<u64>,
    missing: u64,
) -> Result<Option<Reservation>, Halt> {
    let Some(total) = total.filter(|_| missing > 0) else { return Ok(None) };
    // Small files are never set room aside for, and a look would cost as much as their bytes.
    let spare = if total < PREALLOCATE_FROM_BYTES { 0 } else { bound.spare_bytes() };
    let needed = missing.saturating_sub(spare);
    order.ctx.storage.at_least(total).map_err(|full| tenant_full(order, full, total, "the file"))?;
    let reserved = order.ctx.root.reserve(bound.folder(), needed);
    let mut reservation = reserved.map_err(|error| no_space(order, &error, total, "the file"))?;
    if total < PREALLOCATE_FROM_BYTES {
        return Ok(Some(reservation));
    }
    let ahead = total.min(PREALLOCATE_BYTES_MAX);
    match bound.preallocate(ahead).await {
        Ok(true) => {
            reservation.shrink_to(total - ahead);
            Ok(Some(reservation).filter(|_| total > ahead))
        }
        Ok(false) => Ok(Some(reservation)),
        Err(failure) => Err(failure.into()),
    }
}

/// Returns what a file of `total` bytes that finds no room waits for, where a part of it may be held. One part alone may wait with
/// what it has: several would wait for the room that the others hold. Any other gives it up, and needs all of its room then.
fn wait_with(bound: &Bound, halt: Halt, total: u64) -> Halt {
    let Halt::NoSpace { of, folder, needed_bytes, message } = halt else { return halt };
    let may_wait = match of {
        _ if bound.with_held(RangeSet::is_empty) => true,
        ShortOf::Disk => bound.may_wait(),
        ShortOf::Tenant => bound.may_wait_for_tenant(),
    };
    if may_wait {
        return Halt::NoSpace { of, folder, needed_bytes, message };
    }
    bound.give_up();
    let message = format!(
        "{message}; another download waits with what it holds, so this one has given up its part and needs {total} bytes"
    );
    Halt::NoSpace { of, folder, needed_bytes: total, message }
}

/// Returns what a lack of space means: waiting for it, or a failure where `whole` bytes could never fit.
pub(super) fn no_space(order: &Order<'_>, error: &NoSpace, whole: u64, what: &str) -> Halt {
    if whole > error.most_bytes {
        let message = format!(
            "{what} needs {whole} bytes, and its file system could hold at most {} beside the reserve of {} \
             (`disk_reserve`); use a larger one",
            error.most_bytes, error.reserve_bytes
        );
        return Failure::fatal(FailureReason::DiskFull, message).into();
    }
    Halt::NoSpace {
        of: ShortOf::Disk,
        folder: order.target.folder.clone(),
        needed_bytes: error.needed_bytes,
        message: format!("there is no room for {what}: {error}"),
    }
}

/// As [`no_space`], where it is the tenant that may not store so much.
pub(super) fn tenant_full(order: &Order<'_>, full: Full, whole: u64, what: &str) -> Halt {
    if whole > full.most_bytes {
        let message = format!(
            "{what} needs {whole} bytes, and the tenant may store at most {} (`stored_bytes`); ask for a larger quota",
            full.most_bytes
        );
        return Failure::fatal(FailureReason::DiskFull, message).into();
    }
    Halt::NoSpace {
        of: ShortOf::Tenant,
        folder: order.target.folder.clone(),
        needed_bytes: full.needed_bytes,
        message: format!("there is no room for {what}: {full}"),
    }
}

/// Several connections need ranges, and something that shows that all of them bring the same version.
fn connections(order: &Order<'_>, stream: &Stream, bound: &Bound, missing: u64) -> Connections {
    let one = Connections { most: 1, is_adaptive: false, is_unclear: false };
    let settings = order.ctx.settings;
    let has_ranges = stream.has_ranges();
    let binding = bound.binding();
    let is_vouched_for = order.has_digest() || !binding.announced.is_empty();
    let can_be_checked = has_validator(&binding.version, bound.is_pieced()) || is_vouched_for;
    if binding.version.total.is_none() || !can_be_checked || has_ranges == Some(false) {
        return one;
    }
    let by_size = u32::try_from(missing / settings.segment_bytes_min.max(1)).unwrap_or(u32::MAX).max(1);
    match order.spec.max_connections {
        0 if has_ranges == Some(true) && missing >= settings.segmented_from_bytes => {
            Connections { most: settings.connections_auto.clamp(1, by_size), is_adaptive: true, is_unclear: false }
        }
        0 => one,
        // Without `Accept-Ranges` it is worth trying when it was asked for.
        most => Connections { most: most.min(by_size), is_adaptive: false, is_unclear: has_ranges.is_none() },
    }
}

fn has_validator(version: &Version, is_pieced: bool) -> bool {
    !is_pieced && !version.strong_validator().is_empty()
}
