//! The last steps: look at the bytes, and give them their name.

use crate::download::Halt;
use crate::download::attempt::Attempt;
use crate::download::resume::Why;
use crate::download::transfer::Transferred;
use crate::files::part::Bound;
use crate::files::ranges::RangeSet;
use crate::model::checksum::Checksum;
use crate::model::failure::{Failure, FailureReason};
use crate::model::outcome::DownloadResult;

/// The bytes are the right ones. Only this can be committed, and only [`Attempt::verify`] makes it.
pub(super) struct Verified {
    bound: Bound,
    name: String,
    total: u64,
    checksums: Vec<Checksum>,
    resumed_bytes: u64,
    connections: u32,
}

impl Attempt<'_> {
    /// Checks sizes and digests. Bytes of a wrong digest are dropped: nobody can tell which of them are wrong.
    pub(super) async fn verify(&mut self, transferred: Transferred) -> Result<Verified, Halt> {
        let Transferred { bound, name, total, hasher, hashed, resumed_bytes, connections } = transferred;
        if let Err(failure) = self.check_size(Some(total)) {
            bound.unbind(RangeSet::default()).discard().await?;
            return Err(failure.into());
        }
        let hasher = if hasher.is_idle() || hashed == total {
            hasher
        } else {
            match bound.hash(hasher, hashed, total, self.ctx.stop).await {
                Ok(hasher) => hasher,
                Err(failure) => {
                    let halt = self.stopped_or(failure);
                    let saved = bound.held();
                    self.keep(bound, RangeSet::from_start(total), saved, &halt).await;
                    return Err(halt);
                }
            }
        };
        let checksums = hasher.finish();
        if let Some(wanted) = self.spec.checksums.iter().find(|wanted| !checksums.contains(wanted)) {
            let failure = mismatch(wanted, &checksums);
            bound.unbind(RangeSet::default()).discard().await?;
            self.dropped = Some(Why::ChecksumMismatch);
            return Err(failure.into());
        }
        Ok(Verified { bound, name, total, checksums, resumed_bytes, connections })
    }

    /// Gives the file its name.
    pub(super) async fn commit(&mut self, verified: Verified) -> Result<DownloadResult, Halt> {
        let Verified { bound, name, total, checksums, resumed_bytes, connections } = verified;
        let taken = self.taken();
        let binding = bound.binding().clone();
        let path = bound.commit(&name, total, taken, self.ctx.durability).await?;
        self.ctx.meter.set_done(total);
        Ok(DownloadResult {
            path,
            bytes: total,
            checksums,
            final_url: binding.final_url,
            content_type: binding.content_type,
            etag: binding.version.etag,
            last_modified: binding.version.last_modified,
            resumed_bytes,
            connections,
            skipped: false,
        })
    }
}

fn mismatch(wanted: &Checksum, got: &[Checksum]) -> Failure {
    let got = got.iter().find(|checksum| checksum.algorithm == wanted.algorithm);
    let got = got.map(ToString::to_string).unwrap_or_default();
    Failure::fatal(
        FailureReason::ChecksumMismatch,
        format!("the file has `{got}` and not `{wanted}`; check the checksum, or the source"),
    )
}
