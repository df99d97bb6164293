//! Where work belongs in a trace (W3C Trace Context), and the ids of the spans of jobs and attempts.
//!
//! Ids are made of what the work is and not by chance, so that they are the same after a restart.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::model::ids::{Fence, JobId, TaskId};

/// The header that has it, of calls and of requests to origins.
pub const TRACEPARENT: &str = "traceparent";

/// A place in a trace: what continues there is a child of the span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceParent {
    /// The trace; never 0.
    pub trace: u128,
    /// The span; never 0.
    pub span: u64,
    /// Whether whoever began the trace records it.
    pub is_sampled: bool,
}

impl TraceParent {
    /// Reads the value of a `traceparent`. What is not valid is as if there were none (W3C Trace Context, 4.3).
    pub fn parse(text: &str) -> Option<TraceParent> {
        /// Hexadecimal digits in lower case; `from_str_radix` takes signs and capitals, too.
        fn is_hex(text: &str) -> bool {
            text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        }
        let mut parts = text.splitn(5, '-');
        let [version, trace, span, flags] = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
        let lengths = [version.len(), trace.len(), span.len(), flags.len()];
        // Later versions may say more behind the flags, and this one says nothing there.
        let is_known = version != "ff" && (version != "00" || parts.next().is_none());
        if !is_known || lengths != [2, 32, 16, 2] || ![version, trace, span, flags].into_iter().all(is_hex) {
            return None;
        }
        let (trace, span) = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(span, 16).ok()?);
        let is_sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        (trace != 0 && span != 0).then_some(TraceParent { trace, span, is_sampled })
    }

    /// The place of a job: below where its caller stood, or at the beginning of a trace of its own, which has the digits of
    /// its id. `is_sampled` decides there.
    pub fn of_job(job: JobId, caller: Option<TraceParent>, is_sampled: bool) -> TraceParent {
        TraceParent {
            trace: caller.map_or(job.0.as_u128(), |caller| caller.trace),
            span: digest(&[b"job", job.0.as_bytes()]),
            is_sampled: caller.map_or(is_sampled, |caller| caller.is_sampled),
        }
    }

    /// The place of an attempt at a task of the job whose place this is.
    #[must_use]
    pub fn of_attempt(self, task: TaskId, fence: Fence) -> TraceParent {
        let parts: [&[u8]; 4] = [b"attempt", task.job.0.as_bytes(), &task.index.to_be_bytes(), &fence.to_be_bytes()];
        TraceParent { span: digest(&parts), ..self }
    }
}

/// The first bytes of a hash over the parts, which all have a length of their own; never 0, which is no id.
fn digest(parts: &[&[u8]]) -> u64 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let first: [u8; 8] = hash.finalize().first_chunk().copied().unwrap_or([1; 8]);
    u64::from_be_bytes(first).max(1)
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.is_sampled))
    }
}

impl From<TraceParent> for String {
    fn from(place: TraceParent) -> String {
        place.to_string()
    }
}

impl TryFrom<String> for TraceParent {
    type Error = String;

    fn try_from(text: String) -> Result<TraceParent, String> {
        TraceParent::parse(&text).ok_or_else(|| format!("`{}` is not a traceparent", text.escape_debug()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_is_not_valid_is_none() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let place = TraceParent::parse(good).unwrap();
        assert_eq!((place.span, place.is_sampled), (0xb7ad_6b71_6920_3331, true));
        assert_eq!(place.to_string(), good);
        assert!(
            TraceParent::parse(&good.replace("00-", "cc-").replace("-01", "-01-more")).is_some(),
            "a later version"
        );
        assert!(!TraceParent::parse(&good.replace("-01", "-02")).unwrap().is_sampled);
        for bad in [
            "",
            "00",
            &good[..54],
            &format!("{good}-more"),
            &good.replace("00-", "ff-"),
            &good.to_uppercase(),
            &good.replace("0af7", "+af7"),
            &good.replace("b7ad6b7169203331", "0000000000000000"),
            &good.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn ids_are_the_same_each_time_and_differ_by_what_they_name() {
        let job = JobId(Uuid::from_u128(7));
        let own = TraceParent::of_job(job, None, true);
        assert_eq!((own.trace, own.is_sampled), (7, true));
        let caller = TraceParent { trace: 9, span: 3, is_sampled: false };
        let called = TraceParent::of_job(job, Some(caller), true);
        assert_eq!((called.trace, called.is_sampled, called.span), (9, false, own.span));
        let attempt = |index, fence| own.of_attempt(TaskId { job, index }, fence).span;
        assert_eq!(attempt(1, 2), attempt(1, 2));
        let all = [own.span, attempt(1, 2), attempt(2, 1), attempt(1, 1)];
        assert!(all.iter().enumerate().all(|(at, id)| !all[..at].contains(id)), "{all:?}");
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_is_written_again(text in "\\PC{0,60}", trace in 1u128.., span in 1u64.., is_sampled: bool) {
            TraceParent::parse(&text);
            let place = TraceParent { trace, span, is_sampled };
            prop_assert_eq!(TraceParent::parse(&place.to_string()), Some(place));
        }
    }
}
