//! What an attempt leaves for the next one beside bytes: what is known of its sources, and of the waits for them. It is kept with
//! the part, if need be with one without any byte, and outlives attempts and restarts as that does.

use serde::{Deserialize, Serialize};

use crate::files::doubts::{Doubts, SOURCES_MAX};
use crate::model::failure::is_default;
use crate::model::time::Timestamp;

/// What is known of sources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Remarks {
    /// What speaks against them.
    #[serde(skip_serializing_if = "Doubts::is_empty")]
    pub doubts: Doubts,
    /// How many attempts in a row did not count, since the end of a host's pause is waited for.
    #[serde(skip_serializing_if = "is_default")]
    pub pauses: u32,
    /// Sources that failed in attempts that did not count.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<Failed>,
    /// Turns that sources are owed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    owed: Vec<Owed>,
    /// The attempts that count are over, and those to come are for what is owed.
    #[serde(skip_serializing_if = "is_default")]
    pub gives_what_is_owed: bool,
}

/// How many turns a source has missed, by what recognises it in what is kept on the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owed {
    source: String,
    turns: u32,
}

/// How a source failed, by what recognises it in what is kept on the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Failed {
    source: String,
    /// So often. `u32::MAX`: for good.
    times: u32,
    /// Before this time it is not asked again, while another one is waited for.
    until: Timestamp,
}

impl Remarks {
    /// Whether there is nothing to be kept.
    pub fn is_empty(&self) -> bool {
        *self == Remarks::default()
    }

    /// How often a source failed in attempts that did not count; `u32::MAX`: for good.
    pub fn failures(&self, source: &str) -> u32 {
        self.failure(source).map_or(0, |failed| failed.times)
    }

    /// Before which time a source is not asked again while another one is waited for.
    pub fn rests_until(&self, source: &str) -> Option<Timestamp> {
        self.failure(source).map(|failed| failed.until)
    }

    /// A source has failed for good.
    pub fn note_gone(&mut self, source: &str) {
        self.put(source, u32::MAX, Timestamp::MAX);
    }

    /// A source has failed, and is worth asking again at that time.
    pub fn note_failure(&mut self, source: &str, until: Timestamp) {
        self.put(source, self.failures(source).saturating_add(1), until);
    }

    /// How many turns a source is owed.
    pub fn owed(&self, source: &str) -> u32 {
        self.owed.iter().find(|owed| owed.source == source).map_or(0, |owed| owed.turns)
    }

    /// A source is owed so many turns more, and never more than `most`.
    pub fn owe(&mut self, source: &str, turns: u32, most: u32) {
        self.set_owed(source, self.owed(source).saturating_add(turns).min(most));
    }

    /// A source has had one of the turns that it was owed.
    pub fn note_turn(&mut self, source: &str) {
        self.set_owed(source, self.owed(source).saturating_sub(1));
    }

    /// A source is owed nothing any more.
    pub fn owe_nothing(&mut self, source: &str) {
        self.set_owed(source, 0);
    }

    /// An attempt counts. Those are few, so that a source may fail between two of them as often as before the first; but for one
    /// that has failed for good.
    pub fn note_count(&mut self) {
        self.pauses = 0;
        self.failed.retain(|failed| failed.times == u32::MAX);
    }

    /// No attempt follows, and one that somebody asks for later begins with fresh tries.
    pub fn forget_failures(&mut self) {
        self.pauses = 0;
        self.failed.clear();
        self.owed.clear();
        self.gives_what_is_owed = false;
    }

    fn failure(&self, source: &str) -> Option<&Failed> {
        self.failed.iter().find(|failed| failed.source == source)
    }

    fn set_owed(&mut self, source: &str, turns: u32) {
        self.owed.retain(|owed| owed.source != source);
        if turns > 0 && self.owed.len() < SOURCES_MAX {
            self.owed.push(Owed { source: source.to_owned(), turns });
        }
    }

    fn put(&mut self, source: &str, times: u32, until: Timestamp) {
        self.failed.retain(|failed| failed.source != source);
        if self.failed.len() >= SOURCES_MAX {
            self.failed.remove(0);
        }
        self.failed.push(Failed { source: source.to_owned(), times, until });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_source_and_bounded() {
        let mut remarks = Remarks::default();
        remarks.note_failure("a", Timestamp(1));
        remarks.note_failure("b", Timestamp(2));
        remarks.note_failure("a", Timestamp(3));
        remarks.note_gone("c");
        assert_eq!(["a", "b", "c", "d"].map(|it| remarks.failures(it)), [2, 1, u32::MAX, 0]);
        assert_eq!((remarks.rests_until("a"), remarks.rests_until("d")), (Some(Timestamp(3)), None));
        let text = serde_json::to_string(&remarks).unwrap();
        assert_eq!(serde_json::from_str::<Remarks>(&text).unwrap(), remarks);
        remarks.note_count();
        assert_eq!(["a", "b", "c", "d"].map(|it| remarks.failures(it)), [0, 0, u32::MAX, 0]);
        (0..1000).for_each(|nth| remarks.note_failure(&nth.to_string(), Timestamp(nth)));
        assert_eq!((remarks.failed.len(), remarks.failures("999")), (SOURCES_MAX, 1));
        remarks.forget_failures();
        assert!(remarks.is_empty());
    }

    #[test]
    fn what_is_owed_is_bounded_and_outlives_a_restart() {
        let mut remarks = Remarks::default();
        (0..9).for_each(|_| remarks.owe("a", 1, 5));
        remarks.owe("b", 2, 5);
        remarks.note_turn("b");
        remarks.owe("c", 5, 5);
        remarks.owe_nothing("c");
        assert_eq!(["a", "b", "c"].map(|it| remarks.owed(it)), [5, 1, 0]);
        let text = serde_json::to_string(&remarks).unwrap();
        assert_eq!(serde_json::from_str::<Remarks>(&text).unwrap(), remarks);
        remarks.note_count();
        assert_eq!(remarks.owed("a"), 5);
        (0..1000).for_each(|nth| remarks.owe(&nth.to_string(), 1, 5));
        assert_eq!(remarks.owed.len(), SOURCES_MAX);
        remarks.forget_failures();
        assert!(remarks.is_empty());
    }
}
