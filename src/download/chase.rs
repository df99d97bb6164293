//! Digests of what did not come in order: hashed behind the connections, on another thread, while they go on.
//!
//! One connection from the start needs none of this, its bytes are hashed as they pass. What was held before, and what
//! several connections bring, is read back from the page cache, so that little is left to do after the last byte. The
//! state of the digests is not kept with checkpoints: reading back what is held costs little (docs/PERFORMANCE.md) and
//! checks what is on the disk.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::download::flow::Flow;
use crate::files::digest::Hasher;
use crate::model::failure::Failure;

/// How often is looked for bytes to hash.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Fewer are left for later.
const BYTES_MIN: u64 = 8 << 20;
/// More are not hashed in one go: the end of a transfer waits for it.
const BYTES_MAX: u64 = 32 << 20;

impl Flow<'_> {
    /// Hashes what lies complete behind the connections until they have ended. `Some`: it could not be read.
    pub(super) async fn chase(&self) -> Option<Failure> {
        // The pieces are short: they are waited for and not cut.
        let uncut = CancellationToken::new();
        loop {
            tokio::select! {
                biased;
                () = self.over.cancelled() => return None,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            while let Some((hasher, from, to)) = self.behind() {
                match self.bound.hash(hasher, from, to, &uncut).await {
                    Ok(hasher) => self.take_back(hasher, to),
                    Err(failure) => return Some(failure),
                }
                if self.over.is_cancelled() {
                    return None;
                }
            }
        }
    }

    /// Takes the digests away, if there is enough to hash.
    fn behind(&self) -> Option<(Hasher, u64, u64)> {
        let mut state = self.lock();
        let (from, complete) = (state.hashed, state.board.have().prefix());
        if complete < from + BYTES_MIN || state.hasher.as_ref().is_none_or(Hasher::is_idle) {
            return None;
        }
        Some((state.hasher.take()?, from, complete.min(from + BYTES_MAX)))
    }

    fn take_back(&self, hasher: Hasher, hashed: u64) {
        let mut state = self.lock();
        state.hasher = Some(hasher);
        state.hashed = hashed;
    }
}
