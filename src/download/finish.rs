//! The last steps: look at the bytes, and give them their name.

use crate::download::Halt;
use crate::download::held::Held;
use crate::download::order::Order;
use crate::download::transfer::Transferred;
use crate::files::Durability;
use crate::files::binding::Why;
use crate::files::bound::Bound;
use crate::model::checksum::Checksum;
use crate::model::failure::{Failure, FailureReason};
use crate::model::outcome::DownloadResult;

/// A file of no more bytes leaves its task's place to others while it is forced to the device: that takes as long for a small
/// file, and each takes less the more of them wait for it together. What waits so is bounded by their number.
const SETTLES_BYTES_MAX: u64 = 1 << 20;

/// The bytes are the right ones. Only this can be committed, and only [`verify`] makes it.
pub(super) struct Verified {
    bound: Bound,
    name: String,
    total: u64,
    checksums: Vec<Checksum>,
    resumed_bytes: u64,
}

/// Checks sizes and digests. Of bytes of a wrong digest nothing is kept but what one source had
/// brought before others joined it: nobody can tell which of the others are wrong.
pub(super) async fn verify(order: &Order<'_>, transferred: Transferred, held: &mut Held) -> Result<Verified, Halt> {
    let Transferred { bound, name, total, resumed_bytes } = transferred;
    if let Err(failure) = order.check_size(total) {
        bound.discard().await?;
        return Err(failure.into());
    }
    let checksums = match bound.digests(total, order.ctx.stop).await {
        Ok(checksums) => checksums,
        Err(failure) => {
            held.keep(order.ctx, bound).await;
            return Err(order.ctx.stopped_or(failure));
        }
    };
    let mut wanted = order.spec.checksums.iter().chain(&bound.binding().announced);
    if let Some(wanted) = wanted.find(|wanted| !checksums.contains(wanted)) {
        let failure = mismatch(wanted, order.spec.checksums.contains(wanted), &checksums);
        held.drop_wrong(order.ctx, bound, Why::ChecksumMismatch).await?;
        return Err(failure.into());
    }
    Ok(Verified { bound, name, total, checksums, resumed_bytes })
}

/// Gives the file its name.
pub(super) async fn commit(order: &Order<'_>, verified: Verified) -> Result<DownloadResult, Halt> {
    let Verified { bound, name, total, checksums, resumed_bytes } = verified;
    if order.ctx.durability == Durability::Full && total <= SETTLES_BYTES_MAX {
        order.ctx.transport.settle();
    }
    let committed = bound.commit(&name, total, order.taken(), order.ctx.durability, !order.ctx.part_is_shared).await?;
    order.ctx.meter.set_done(total);
    let record = committed.record;
    Ok(DownloadResult {
        path: committed.path,
        bytes: total,
        checksums,
        final_url: record.url,
        content_type: record.content_type,
        etag: record.etag,
        last_modified: record.last_modified,
        resumed_bytes,
        connections: record.connections,
        skipped: false,
        created: Some(committed.created),
    })
}

fn mismatch(wanted: &Checksum, is_named: bool, got: &[Checksum]) -> Failure {
    let got = got.iter().find(|checksum| checksum.algorithm == wanted.algorithm);
    let got = got.map(ToString::to_string).unwrap_or_default();
    let message = if is_named {
        format!("the file has `{got}` and not `{wanted}`; check the checksum, or the source")
    } else {
        format!("the file has `{got}` and the origin announced `{wanted}`; one of the two is damaged at the source")
    };
    Failure::fatal(FailureReason::ChecksumMismatch, message)
}
