//! Whether a peer takes the body of a request fast enough: as slow as it may be to send one, it may be to take one.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::failure::{Failure, FailureReason};
use crate::model::spec::Timeouts;

/// What a peer has taken in the current window.
pub(super) struct Uptake {
    bytes_per_second: u64,
    window: Duration,
    since: Instant,
    /// Bytes that it had taken then.
    before: u64,
}

impl Uptake {
    pub(super) fn new(timeouts: &Timeouts) -> Uptake {
        let window = timeouts.low_speed_window;
        let bytes_per_second = if window.is_zero() { 0 } else { timeouts.low_speed_bytes_per_second };
        Uptake { bytes_per_second, window, since: Instant::now(), before: 0 }
    }

    /// Judges a window once it has passed, at the end of which the peer has taken so many bytes in all, and not the last.
    pub(super) fn judge(&mut self, host: &str, taken: u64) -> Result<(), Failure> {
        let passed = self.since.elapsed();
        if self.bytes_per_second == 0 || passed < self.window {
            return Ok(());
        }
        let bytes = taken.saturating_sub(self.before);
        if (bytes as f64) < self.bytes_per_second as f64 * passed.as_secs_f64() {
            let Uptake { bytes_per_second, window, .. } = self;
            let message = format!(
                "`{host}` took fewer than {bytes_per_second} bytes per second of the request over {window:?} \
                 (`timeouts.low_speed`)"
            );
            return Err(Failure::retryable(FailureReason::LowSpeed, message));
        }
        (self.since, self.before) = (Instant::now(), taken);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_window_needs_its_bytes() {
        let timeouts = Timeouts {
            low_speed_bytes_per_second: 100,
            low_speed_window: Duration::from_secs(10),
            ..Timeouts::default()
        };
        let mut uptake = Uptake::new(&timeouts);
        assert!(uptake.judge("a", 1).is_ok());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(uptake.judge("a", 1_000).is_ok());
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(uptake.judge("a", 1_001).is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(uptake.judge("a", 1_999).unwrap_err().reason, FailureReason::LowSpeed);
        let mut endless = Uptake::new(&Timeouts { low_speed_bytes_per_second: 0, ..timeouts });
        tokio::time::advance(Duration::from_secs(100)).await;
        assert!(endless.judge("a", 1).is_ok());
    }
}
