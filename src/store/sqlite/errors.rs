//! What an error of `SQLite` means for a batch or a read.

use rustix::process::{Resource, getrlimit};

use crate::store::StoreError;

/// Primary result codes (<https://sqlite.org/rescode.html>).
const ERROR: i64 = 1;
const BUSY: i64 = 5;
const LOCKED: i64 = 6;
const OUT_OF_MEMORY: i64 = 7;
const IO_ERROR: i64 = 10;
const CORRUPT: i64 = 11;
const FULL: i64 = 13;
const SCHEMA: i64 = 17;
const CANNOT_OPEN: i64 = 14;
const TOO_BIG: i64 = 18;
const CONSTRAINT: i64 = 19;
const NO_DATABASE: i64 = 26;
/// Extended code: the index of the log could not grow, for want of room.
const IO_ERROR_SHM_SIZE: i64 = IO_ERROR | (19 << 8);
/// Extended code: a write failed. `SQLite` tells a full disk apart, but not a quota that is used up.
const IO_ERROR_WRITE: i64 = IO_ERROR | (3 << 8);
/// Extended code: a write found no room on some file systems, where others report [`FULL`].
const IO_ERROR_NO_MEMORY: i64 = IO_ERROR | (12 << 8);

/// What clients are told for want of room, in place of the words of `SQLite`.
pub(super) const NO_ROOM: &str = "the data directory's disk is full";
/// What clients are told while another process holds the lock.
const LOCKED_BY_OTHERS: &str = "the database is locked";

/// Why a part of a batch was not applied.
#[derive(Debug)]
pub(super) enum Fault {
    /// It contradicts what is stored: only the job that it is about is excluded.
    Refused(String),
    /// A write failed, and it has to be found out whether there was room for it.
    NotWritten(String),
    /// The store as a whole could not do it.
    Store(StoreError),
}

impl Fault {
    /// The error for a statement that is about no job in particular.
    pub(super) fn of_all(self) -> StoreError {
        match self {
            Fault::Refused(why) | Fault::NotWritten(why) => StoreError::Fatal(why),
            Fault::Store(error) => error,
        }
    }
}

/// The extended result code; the primary one is its lowest byte.
fn code(error: &sqlx::Error) -> Option<i64> {
    error.as_database_error()?.code()?.parse().ok()
}

/// What is said of an error: `SQLite` does not tell apart why a write failed.
pub(super) fn told(error: &sqlx::Error) -> String {
    let is_write = code(error) == Some(IO_ERROR_WRITE);
    let most = getrlimit(Resource::Fsize).current.filter(|_| is_write);
    with_cause(error.to_string(), most)
}

/// Names the limit of file sizes, if there is one, as what a write may have failed for.
fn with_cause(text: String, most: Option<u64>) -> String {
    match most {
        Some(most) => format!(
            "{text}; a file of this process may have at most {most} bytes (`ulimit -f`, `LimitFSIZE=`), and the database \
             or its log needs more, perhaps: raise that limit"
        ),
        None => text,
    }
}

/// Whether `SQLite` may have failed for want of room. A read needs some, too: the index of the log is a file.
pub(super) fn is_want_of_room(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| {
        matches!(code, IO_ERROR_SHM_SIZE | IO_ERROR_WRITE | IO_ERROR_NO_MEMORY) || code & 0xff == FULL
    })
}

/// Whether an error may be one that a statement has raised by itself.
pub(super) fn is_refusal(error: &sqlx::Error) -> bool {
    code(error) == Some(ERROR)
}

/// Whether a file of the database could not be opened: it may be another user's, and says nothing of damage.
pub(super) fn is_want_of_rights(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code & 0xff == CANNOT_OPEN)
}

/// A statement that fails before COMMIT changes nothing, since the transaction is rolled back. What may help is room,
/// waiting, leaving out what contradicts, or nothing.
impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        let text = error.to_string();
        let Some(code) = code(&error) else {
            // A value of another kind than its column is for: a row is damaged, and that is about whose row it is.
            let is_of_row = matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_));
            return if is_of_row { Fault::Refused(text) } else { Fault::Store(StoreError::Fatal(text)) };
        };
        match (code, code & 0xff) {
            (IO_ERROR_SHM_SIZE, _) | (_, FULL) => Fault::Store(StoreError::Full(NO_ROOM.to_owned())),
            (_, BUSY | LOCKED) => Fault::Store(StoreError::Retry(LOCKED_BY_OTHERS.to_owned())),
            (IO_ERROR_NO_MEMORY, _) | (_, OUT_OF_MEMORY | SCHEMA) => Fault::Store(StoreError::Retry(text)),
            (IO_ERROR_WRITE, _) => Fault::NotWritten(told(&error)),
            (_, CONSTRAINT | TOO_BIG) => Fault::Refused(text),
            _ => Fault::Store(StoreError::Fatal(text)),
        }
    }
}

/// A value of ours that cannot be written as JSON.
impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Fault::Refused(format!("it cannot be written as JSON: {error}"))
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unreadable(what) => Fault::Refused(what),
            error => Fault::Store(error),
        }
    }
}

/// A read changes nothing, so all but damage may be gone when it is tried again.
impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let text = error.to_string();
        match (code(&error).map(|code| code & 0xff), &error) {
            (Some(CORRUPT | NO_DATABASE), _) => StoreError::Fatal(text),
            (Some(TOO_BIG), _) | (None, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) => {
                StoreError::Unreadable(text)
            }
            _ => StoreError::Retry(text),
        }
    }
}

/// Returns [`Fault::Refused`] when a condition of the batch does not hold.
pub(super) fn guard(holds: bool, what: impl FnOnce() -> String) -> Result<(), Fault> {
    if holds { Ok(()) } else { Err(Fault::Refused(what())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_failed_names_the_limit_of_file_sizes() {
        assert_eq!(with_cause("disk I/O error".into(), None), "disk I/O error");
        let told = with_cause("disk I/O error".into(), Some(4096));
        assert!(told.contains("4096 bytes (`ulimit -f`"), "{told}");
    }
}
