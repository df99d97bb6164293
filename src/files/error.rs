//! I/O errors as failures, and work for the blocking pool.

use std::io;

use crate::files::beside::beside;
use crate::model::failure::{Failure, FailureReason};

/// Returns the failure of doing `action` (`write`, `sync`, …) to `path`.
pub(super) fn failure(action: &str, path: &str, error: &io::Error) -> Failure {
    use io::ErrorKind as Kind;
    let message = format!("could not {action} `{path}`: {error}");
    match error.kind() {
        Kind::StorageFull | Kind::QuotaExceeded => Failure::retryable(FailureReason::DiskFull, message),
        _ if is_escape(error) => Failure::fatal(
            FailureReason::ForbiddenPath,
            format!("`{path}` leads out of the download root or over a symbolic link; choose another path"),
        ),
        Kind::FileTooLarge => Failure::fatal(
            FailureReason::Io,
            format!("{message}; its file system, or a limit of this process (`ulimit -f`), allows no longer file"),
        ),
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem | Kind::NotADirectory | Kind::IsADirectory => {
            Failure::fatal(FailureReason::Io, message)
        }
        _ => Failure::retryable(FailureReason::Io, message),
    }
}

/// cap-std refuses a path that leaves its directory with an error that never came from the kernel; `O_NOFOLLOW` answers
/// a symbolic link with `ELOOP`.
fn is_escape(error: &io::Error) -> bool {
    let refused = error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none();
    refused || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

/// Runs work that waits for the device on the blocking pool.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    beside(work).await.unwrap_or_else(|error| Err(interrupted(&error)))
}

/// The failure of work that panicked, or whose thread was not there any more.
pub(super) fn interrupted(error: &dyn std::error::Error) -> Failure {
    Failure::retryable(FailureReason::Internal, format!("a file operation was interrupted: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_file_sizes_is_told_and_not_tried_again() {
        let failure = failure("write", "f", &rustix::io::Errno::FBIG.into());
        assert_eq!((failure.reason, failure.retryable), (FailureReason::Io, false));
        assert!(failure.message.contains("`ulimit -f`"), "{failure}");
    }
}
