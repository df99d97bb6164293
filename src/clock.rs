//! Wall-clock stamps. Waiting is tokio's; this only says what time it is.

use std::time::{Duration, UNIX_EPOCH};

use tokio::time::Instant;

use crate::model::time::Timestamp;

/// Where stamps come from.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The system's wall clock.
    System,
    /// A wall clock that starts at a given time and goes with tokio's time, which tests pause and turn by hand.
    Paced {
        /// The time when it started.
        base: Timestamp,
        /// When it started.
        start: Instant,
    },
}

impl Clock {
    /// A clock that goes with tokio's time, from `base` on.
    pub fn paced(base: Timestamp) -> Clock {
        Clock::Paced { base, start: Instant::now() }
    }

    /// The time now.
    #[allow(clippy::disallowed_methods)] // This is the place that the others are sent to.
    pub fn now(&self) -> Timestamp {
        match self {
            Clock::System => {
                let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
                Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
            }
            Clock::Paced { base, start } => base.plus(start.elapsed()),
        }
    }
}
