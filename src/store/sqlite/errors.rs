//! What an error of `SQLite` means for a batch or a read.

use crate::store::StoreError;

/// Primary result codes (<https://sqlite.org/rescode.html>).
const BUSY: i64 = 5;
const LOCKED: i64 = 6;
const FULL: i64 = 13;

/// The primary result code; extended codes carry it in their lowest byte.
fn primary_code(error: &sqlx::Error) -> Option<i64> {
    let code: i64 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// A statement that fails before COMMIT changes nothing, since the transaction is rolled back. What may help then:
/// room, waiting, or nothing.
impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match (primary_code(&error), &error) {
            (Some(FULL), _) => StoreError::Full(error.to_string()),
            (Some(BUSY | LOCKED), _) | (_, sqlx::Error::PoolTimedOut) => StoreError::Retry(error.to_string()),
            _ => StoreError::Fatal(error.to_string()),
        }
    }
}

/// JSON that we wrote and cannot read (or the reverse) means that the data is not what it must be.
impl From<serde_json::Error> for StoreError {
    fn from(error: serde_json::Error) -> Self {
        StoreError::Fatal(format!("a row does not read as it was written: {error}"))
    }
}

/// A guard that did not hold: the batch contradicts what is stored.
pub(super) fn guard(holds: bool, what: impl FnOnce() -> String) -> Result<(), StoreError> {
    if holds { Ok(()) } else { Err(StoreError::Fatal(what())) }
}
