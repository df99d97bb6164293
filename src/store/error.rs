//! What a caller of the store has to tell apart when something did not work.

/// Why the store did not do what it was asked to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full. The batch was certainly not applied; the same batch may be tried again when there is room.
    #[error("{0}")]
    Full(String),
    /// The store was busy. The batch was certainly not applied, or nothing was read; the same call may be tried again.
    #[error("the store cannot do this at the moment: {0}")]
    Retry(String),
    /// A read met a row that does not parse. Only that call fails; the message names the row.
    #[error("a stored row cannot be read: {0}")]
    Unreadable(String),
    /// The batch may or may not have been applied, or the file is damaged. Only a restart, which reads what is really
    /// there, can tell.
    #[error("the store failed: {0}")]
    Fatal(String),
}
