//! Single values of requests, checked: texts, ids, labels, times, rates.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::time::Duration;

use tonic::Status;

use crate::api::status::{Violations, shown};
use crate::model::ids::JobId;
use crate::model::limits::RateLimit;
use crate::model::time::Timestamp;
use crate::pb;

/// The most bytes of a title, a key, a name or a value of a label.
pub(crate) const NAME_BYTES_MAX: usize = 256;
const LABELS_MAX: usize = 64;
/// The most bytes of request ids and chunk ids.
pub(crate) const ID_BYTES_MAX: usize = 128;
/// The longest time that may be asked for: ten years, far within what timers can hold.
const DURATION_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);
/// The most nanoseconds beside the seconds of a duration or a time.
const NANOS_MAX: i32 = 999_999_999;
/// The highest rate that may be asked for; a higher one limits nothing.
const RATE_MAX: f64 = 1e6;

/// The most paths of a mask: more than any message has fields.
const MASK_MAX: usize = 100;

/// Reads what an update is about: each path once, with its place in the mask. The work for a field is done once, however
/// often it is named.
pub(crate) fn mask(mask: Option<prost_types::FieldMask>, v: &mut Violations) -> Vec<(usize, String)> {
    let paths = mask.unwrap_or_default().paths;
    if paths.is_empty() {
        v.add("update_mask", "is empty; name what to change");
    }
    if paths.len() > MASK_MAX {
        v.add("update_mask", format!("names {} paths; at most {MASK_MAX} are accepted", paths.len()));
        return Vec::new();
    }
    let mut seen = HashSet::new();
    paths.into_iter().enumerate().filter(|(_, path)| seen.insert(path.clone())).collect()
}

/// Checks the length of a text.
pub(crate) fn text(text: &str, path: &dyn Display, bytes_max: usize, v: &mut Violations) {
    if text.len() > bytes_max {
        v.add(path, format!("is {} bytes long; at most {bytes_max} are accepted", text.len()));
    }
}

/// Checks labels.
pub(crate) fn labels(labels: &HashMap<String, String>, path: &dyn Display, v: &mut Violations) {
    if labels.len() > LABELS_MAX {
        v.add(path, format!("holds {} labels; at most {LABELS_MAX} are accepted", labels.len()));
    }
    for (key, value) in labels {
        if key.is_empty() {
            v.add(path, "has a label without a name");
        }
        if key.len() > NAME_BYTES_MAX || value.len() > NAME_BYTES_MAX {
            v.add(
                format!("{path}[{}]", shown(key)),
                format!("has a name or value of more than {NAME_BYTES_MAX} bytes"),
            );
        }
    }
}

/// Reads the name of a job.
pub(crate) fn job_id(text: &str, v: &mut Violations) -> JobId {
    text.parse().unwrap_or_else(|_| {
        let what = if text.is_empty() { "is empty; give".to_owned() } else { format!("`{}` is not", shown(text)) };
        v.add("job_id", format!("{what} a job id, which reads like `01890a5d-ac96-774b-bcce-b302099a8057`"));
        JobId(uuid::Uuid::nil())
    })
}

/// Reads the name of a job, where nothing else can be wrong.
pub(crate) fn only_job_id(text: &str) -> Result<JobId, Status> {
    let mut v = Violations::default();
    let id = job_id(text, &mut v);
    v.or(id)
}

/// Reads a length of time that is not negative.
///
/// `Duration::try_from` would carry nanoseconds over into seconds, and so take what no other implementation takes.
pub(crate) fn duration(value: prost_types::Duration, path: &dyn Display, v: &mut Violations) -> Option<Duration> {
    let prost_types::Duration { seconds, nanos } = value;
    let differ = seconds > 0 && nanos < 0 || seconds < 0 && nanos > 0;
    if !(-NANOS_MAX..=NANOS_MAX).contains(&nanos) || differ {
        v.add(
            path,
            format!(
                "is malformed ({seconds} seconds and {nanos} nanoseconds); `nanos` of a duration is at most {NANOS_MAX} \
                 and has the sign of `seconds`"
            ),
        );
        return None;
    }
    if seconds < 0 || nanos < 0 {
        v.add(path, "is negative; a duration here is 0 or more, as in `1.5s`");
        return None;
    }
    let duration = Duration::new(seconds.unsigned_abs(), nanos.unsigned_abs());
    if duration > DURATION_MAX {
        v.add(path, "is longer than ten years");
        return None;
    }
    Some(duration)
}

/// Reads a length of time that is more than 0.
pub(crate) fn positive(value: prost_types::Duration, path: &dyn Display, v: &mut Violations) -> Option<Duration> {
    let duration = duration(value, path, v)?;
    if duration.is_zero() {
        v.add(path, "is 0; leave it unset for the default");
        return None;
    }
    Some(duration)
}

/// Reads a point in time.
pub(crate) fn timestamp(value: prost_types::Timestamp, path: &dyn Display, v: &mut Violations) -> Option<Timestamp> {
    let prost_types::Timestamp { seconds, nanos } = value;
    if !(0..=NANOS_MAX).contains(&nanos) {
        v.add(path, format!("is malformed ({nanos} nanoseconds); `nanos` of a time is from 0 to {NANOS_MAX}"));
        return None;
    }
    let micros = seconds.checked_mul(1_000_000).and_then(|it| it.checked_add(i64::from(nanos) / 1000));
    let time = micros.map(Timestamp).filter(|time| time.0 >= 0 && seconds <= Timestamp::MAX.0 / 1_000_000);
    if time.is_none() {
        v.add(path, "is out of range; a time is from 1970 to 9999, as in `2026-01-31T12:00:00Z`");
    }
    time.map(|time| time.min(Timestamp::MAX))
}

/// Reads a ceiling on rates.
pub(crate) fn rate_limit(limit: pb::RateLimit, path: &dyn Display, v: &mut Violations) -> RateLimit {
    rate(limit.requests_per_second, &format_args!("{path}.requests_per_second"), v);
    RateLimit {
        requests_per_second: limit.requests_per_second,
        burst: limit.burst,
        bytes_per_second: limit.bytes_per_second,
    }
}

/// Checks a rate per second.
pub(crate) fn rate(rate: f64, path: &dyn Display, v: &mut Violations) {
    if !(0.0..=RATE_MAX).contains(&rate) {
        v.add(path, format!("is {rate:?}; a rate is from 0 (no limit) to {RATE_MAX}"));
    }
}

/// Reads a time before which something is to be: times have microseconds, so a part of one counts as the next.
pub(crate) fn before(value: prost_types::Timestamp, path: &dyn Display, v: &mut Violations) -> Option<Timestamp> {
    let read = timestamp(value, path, v)?;
    Some(if value.nanos % 1000 == 0 { read } else { Timestamp(read.0 + 1).min(Timestamp::MAX) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duration_of(seconds: i64, nanos: i32) -> Result<Duration, String> {
        let mut v = Violations::default();
        let read = duration(prost_types::Duration { seconds, nanos }, &"timeout", &mut v);
        v.or(read).map(Option::unwrap).map_err(|status| status.message().to_owned())
    }

    fn timestamp_of(seconds: i64, nanos: i32) -> Result<i64, String> {
        let mut v = Violations::default();
        let read = timestamp(prost_types::Timestamp { seconds, nanos }, &"start_time", &mut v);
        v.or(read).map(|time| time.unwrap().0).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn what_is_before_a_part_of_a_microsecond_is_at_most_that_microsecond() {
        for (nanos, expected) in [(1000, 7_000_001), (1001, 7_000_002), (1999, 7_000_002), (2000, 7_000_002)] {
            let mut v = Violations::default();
            let read = before(prost_types::Timestamp { seconds: 7, nanos }, &"create_time_before", &mut v);
            assert_eq!(read, Some(Timestamp(expected)), "{nanos}");
        }
    }

    #[test]
    fn a_duration_is_read_as_protobuf_defines_it() {
        assert_eq!(duration_of(0, 0), Ok(Duration::ZERO));
        assert_eq!(duration_of(1, 999_999_999), Ok(Duration::new(1, 999_999_999)));
        assert_eq!(duration_of(315_360_000, 0), Ok(DURATION_MAX));
        for (seconds, nanos, what) in [
            (1, -5, "malformed"),
            (-1, 5, "malformed"),
            (0, 1_000_000_000, "malformed"),
            (0, 2_000_000_000, "malformed"),
            (0, i32::MIN, "malformed"),
            (i64::MIN, -1_000_000_000, "malformed"),
            (0, -1, "negative"),
            (-1, 0, "negative"),
            (i64::MIN, i32::MIN / 4, "negative"),
            (315_360_000, 1, "longer than ten years"),
            (i64::MAX, 999_999_999, "longer than ten years"),
        ] {
            let message = duration_of(seconds, nanos).unwrap_err();
            assert!(message.contains(what), "{seconds} s {nanos} ns: {message}");
        }
    }

    #[test]
    fn a_time_is_read_as_protobuf_defines_it() {
        assert_eq!(timestamp_of(0, 0), Ok(0));
        assert_eq!(timestamp_of(1, 999_999_999), Ok(1_999_999));
        assert_eq!(timestamp_of(253_402_300_799, 0), Ok(Timestamp::MAX.0));
        assert_eq!(timestamp_of(253_402_300_799, 999_999_999), Ok(Timestamp::MAX.0));
        for (seconds, nanos, what) in [
            (0, -1, "malformed"),
            (0, 1_000_000_000, "malformed"),
            (-1, 0, "out of range"),
            (253_402_300_800, 0, "out of range"),
            (i64::MAX, 999_999_999, "out of range"),
            (i64::MIN, 0, "out of range"),
        ] {
            let message = timestamp_of(seconds, nanos).unwrap_err();
            assert!(message.contains(what), "{seconds} s {nanos} ns: {message}");
        }
    }
}
