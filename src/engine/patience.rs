//! Reads that the work depends on, and how often they are tried.

use std::time::Duration;

use crate::store::{Answer, StoreError};

/// The longest wait between tries.
const RETRY_MAX: Duration = Duration::from_secs(5);

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
