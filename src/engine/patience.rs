//! Reads that the work depends on, and how often they are tried.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;

use crate::store::{Answer, StoreError};

/// The longest wait between tries.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// As [`patiently`], for somebody who waits for the answer: a row that cannot be read stays as it is, so that is said at once.
pub(crate) async fn promptly<'a, T>(read: impl Fn() -> Answer<'a, T>) -> Result<T, StoreError> {
    match read().await {
        Err(StoreError::Retry(_) | StoreError::Full(_)) => patiently(read).await,
        done => done,
    }
}

/// Reads, and tries again for a while what fails.
pub(crate) async fn patiently<'a, T>(read: impl Fn() -> Answer<'a, T>) -> Result<T, StoreError> {
    let mut wait = Duration::from_millis(20);
    loop {
        match read().await {
            Err(error @ (StoreError::Retry(_) | StoreError::Full(_) | StoreError::Unreadable(_))) => {
                if wait >= RETRY_MAX {
                    return Err(error);
                }
                tracing::warn!("a read is tried again: {error}");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY_MAX);
            }
            done => return done,
        }
    }
}

/// What a read comes to. One that panics has failed, and harms nothing else.
pub(crate) async fn caught<T>(read: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let panicked = |_| {
        let message = "a read panicked; that is a defect of haul, please report it with the server's log";
        Err(StoreError::Unreadable(message.to_owned()))
    };
    AssertUnwindSafe(read).catch_unwind().await.unwrap_or_else(panicked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_read_that_panics_has_failed() {
        let read = async {
            assert!(tokio::task::try_id().is_some(), "it panics, since a test is no task");
            Ok(1)
        };
        assert!(matches!(caught(read).await, Err(StoreError::Unreadable(_))));
        assert!(matches!(caught(async { Ok(7) }).await, Ok(7)));
    }
}
