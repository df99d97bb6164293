//! Points in time as plain numbers.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Microseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The latest time that haul deals with: the end of the year 9999, as in `google.protobuf.Timestamp`.
    pub const MAX: Timestamp = Timestamp(253_402_300_799_000_000);

    /// This time and `wait` more, at most [`Timestamp::MAX`].
    #[must_use]
    pub fn plus(self, wait: Duration) -> Timestamp {
        let micros = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX);
        Timestamp(self.0.saturating_add(micros)).min(Self::MAX)
    }

    /// `12:03:07 UTC`, with the day before it when that is a day or more from `now`.
    pub fn time_of_day(self, now: Timestamp) -> String {
        let micros = u64::try_from(self.min(Self::MAX).0).unwrap_or(0);
        // `Thu, 26 Nov 2026 12:03:07 GMT`
        let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_micros(micros));
        let from = if self.since(now) < Duration::from_secs(24 * 3600) { 17 } else { 5 };
        format!("{} UTC", date.get(from..25).unwrap_or_default())
    }

    /// How long from `earlier` to this time; zero when it is not earlier.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}
