//! What the system grants the process: how many descriptors, and how many of them connections may take; and who may look into
//! its memory.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The most connections where nothing is said.
const CONNECTIONS_DEFAULT_MAX: u64 = 4_096;
/// The most files that are open for who reads them.
const FILES_READ_MAX: u64 = 8_192;

/// With fewer descriptors than this, fewer tasks run at once than the limits allow by default, and there is room for few clients.
const ENOUGH: u64 = 512;
/// The fewest that a server needs beside those that it has open when it starts: some connections, what tasks open, and further
/// readers of the store.
const LEFT_MIN: u64 = 32;
/// How many of what is left connections leave to tasks and to the server's own user, where half of it is more: each of the 64
/// tasks that run at once by default takes up to three, and up to 256 more have their file open while it is forced to the device.
const RESERVE: u64 = 192 + 256;

/// Returns what the operator should know of so many descriptors, if they are few.
pub fn objection(descriptors: Option<u64>) -> Option<String> {
    let count = descriptors.filter(|count| *count < ENOUGH)?;
    Some(format!(
        "there may be {count} open files and connections, which are too few: there is room for few clients and few tasks at \
         once; allow at least {ENOUGH} (`ulimit -n`, `LimitNOFILE=`)"
    ))
}

/// A server would have no descriptors for connections and tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there may be {limit} open files and connections, and the server itself has {used} open, which leaves too few for clients and \
     tasks; allow at least {ENOUGH} (`ulimit -n`, `LimitNOFILE=`)"
)]
pub struct TooFew {
    limit: u64,
    used: u64,
}

/// Returns how many connections there is room for in a process that may have `limit` descriptors and has `used` open before the
/// first connection.
///
/// # Errors
///
/// There is no room for any.
pub fn room(limit: Option<u64>, used: u64) -> Result<u64, TooFew> {
    let Some(limit) = limit else { return Ok(u64::MAX) };
    let left = limit.saturating_sub(used);
    if left < LEFT_MIN { Err(TooFew { limit, used }) } else { Ok(left - RESERVE.min(left / 2)) }
}

/// Returns how many descriptors are open; none where the system does not tell.
pub fn used() -> u64 {
    // Reading the directory takes one itself.
    std::fs::read_dir("/dev/fd").map_or(0, |entries| entries.count().saturating_sub(1) as u64)
}

/// Raises the soft limit on descriptors to the hard one, and returns it; `None` if it is unlimited.
pub fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    // A system may have a lower bound of its own; then the soft limit stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    self::limit()
}

/// Returns how many descriptors there may be; `None`: there is no limit.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Lets nobody but the system's administrator have a picture of the memory of the process, in which there are keys and tokens:
/// it dumps no core, and no other process of its user looks into it.
///
/// # Errors
///
/// The system refuses that.
pub fn close_memory() -> io::Result<()> {
    // Programs that are given cores do not ask for this limit, and the other setting is of Linux alone.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Returns how many connections there may be beside `descriptors`.
///
/// Half of the descriptors by default; at most three quarters, since transfers and files need some whatever is asked for.
pub fn connections(asked: Option<u64>, descriptors: Option<u64>) -> u64 {
    let most = descriptors.map_or(u64::MAX, |count| count / 4 * 3);
    let default = descriptors.map_or(u64::MAX, |count| count / 2).min(CONNECTIONS_DEFAULT_MAX);
    asked.unwrap_or(default).min(most).max(1)
}

/// Returns how many attempts may run at once: each takes up to three descriptors, a connection, a file and a directory, of the half
/// that connections of clients leave.
pub fn attempts(descriptors: Option<u64>) -> u32 {
    descriptors.map_or(u32::MAX, |count| u32::try_from(count / 8).unwrap_or(u32::MAX)).max(1)
}

/// Returns how many files may be open for who reads them: an eighth of the descriptors, since connections take half of them and
/// transfers need the rest.
pub fn files_read(descriptors: Option<u64>) -> u64 {
    descriptors.map_or(FILES_READ_MAX, |count| count / 8).clamp(1, FILES_READ_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_keep_a_quarter_of_the_descriptors() {
        assert_eq!(connections(None, Some(1_024)), 512);
        assert_eq!(connections(None, Some(1 << 20)), 4_096);
        assert_eq!(connections(None, None), 4_096);
        assert_eq!(connections(Some(100_000), Some(1_024)), 768);
        assert_eq!(connections(Some(100_000), None), 100_000);
        assert_eq!(connections(None, Some(1)), 1);
        assert!(objection(Some(511)).is_some_and(|it| it.contains("511")));
        assert_eq!([Some(512), None].map(objection), [None, None]);
        assert_eq!([Some(1_024), Some(1 << 20), None, Some(1)].map(files_read), [128, 8_192, 8_192, 1]);
        assert_eq!([Some(1_024), Some(256), None, Some(1)].map(attempts), [128, 32, u32::MAX, 1]);
    }

    #[test]
    fn a_server_without_descriptors_for_clients_is_refused() {
        assert_eq!(room(None, 40), Ok(u64::MAX));
        assert_eq!([1_024, 256, 128, 80, 72].map(|limit| room(Some(limit), 40)), [536, 108, 44, 20, 16].map(Ok));
        let refused = room(Some(71), 40).unwrap_err().to_string();
        assert!(refused.contains("71") && refused.contains("40") && refused.contains("`ulimit -n`"), "{refused}");
        assert!(room(Some(20), 40).is_err());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(used() > 3, "the standard streams and this file");
        drop(file);
    }
}
