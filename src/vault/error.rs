//! What can be wrong with a bag.

/// Why a bag was not sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// Nothing that this version seals looks like it.
    #[error("its secrets are in a form that this version does not know")]
    Unknown,
    /// The data key is not among those that were read at the start.
    #[error("its secrets are sealed with the data key {0}, which is not there any more")]
    NoKey(u32),
    /// The bytes were changed, or sealed for another place.
    #[error("its sealed secrets are damaged, or belong to another row")]
    Damaged,
}
