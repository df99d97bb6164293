//! Fingerprints by which what has come before is known again.

/// A fingerprint in the making: FNV-1a, 64 bits. It is small, and the same in every version of haul, since cursors outlive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u64);

impl Default for Mark {
    fn default() -> Self {
        Mark(0xcbf2_9ce4_8422_2325)
    }
}

impl Mark {
    /// The fingerprint of what was added and then of `bytes`.
    pub(super) fn and(self, bytes: &[u8]) -> Mark {
        Mark(bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
    }

    /// The fingerprint as it is kept.
    pub(super) fn value(self) -> u64 {
        self.0
    }
}

/// The fingerprint of `bytes`.
pub(super) fn fingerprint(bytes: &[u8]) -> u64 {
    Mark::default().and(bytes).value()
}
