//! What is known of sources since bytes of theirs were in a file whose digest did not match.

use serde::{Deserialize, Serialize};

/// More sources are not remembered: a task has fewer.
pub(super) const SOURCES_MAX: usize = 32;

/// Sources that something speaks against, by what recognises them in what is kept on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Doubts {
    /// Their bytes do not join those of others any more, nor the other way round. They may be right by themselves.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    apart: Vec<String>,
    /// All that they had was wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    wrong: Vec<String>,
    /// And once more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    wrong_again: Vec<String>,
}

impl Doubts {
    /// Whether nothing speaks against any source.
    pub fn is_empty(&self) -> bool {
        self.apart.is_empty() && self.wrong.is_empty()
    }

    /// Whether the bytes of this source may be in one file with those of others.
    pub fn may_join(&self, source: &str) -> bool {
        !self.apart.iter().chain(&self.wrong).any(|it| it == source)
    }

    /// Whether a file that came from this source alone was wrong.
    pub fn is_wrong(&self, source: &str) -> bool {
        self.wrong.iter().any(|it| it == source)
    }

    /// Whether that happened more than once.
    pub fn is_wrong_again(&self, source: &str) -> bool {
        self.wrong_again.iter().any(|it| it == source)
    }

    /// Bytes of this source joined those of others, and what came of it was wrong.
    pub fn keep_apart(&mut self, source: &str) {
        note(&mut self.apart, source);
    }

    /// A file that came from this source alone was wrong.
    pub fn note_wrong(&mut self, source: &str) {
        note(if self.is_wrong(source) { &mut self.wrong_again } else { &mut self.wrong }, source);
    }
}

fn note(sources: &mut Vec<String>, source: &str) {
    if sources.iter().any(|it| it == source) {
        return;
    }
    if sources.len() >= SOURCES_MAX {
        sources.remove(0);
    }
    sources.push(source.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_bounded_and_says_who() {
        let mut doubts = Doubts::default();
        doubts.keep_apart("a");
        doubts.note_wrong("b");
        let of = |doubts: &Doubts, source| (doubts.may_join(source), doubts.is_wrong(source));
        assert_eq!(["a", "b", "c"].map(|it| of(&doubts, it)), [(false, false), (false, true), (true, false)]);
        assert!(!doubts.is_wrong_again("b"));
        doubts.note_wrong("b");
        assert!(doubts.is_wrong_again("b"));
        (0..1000).for_each(|nth| doubts.keep_apart(&nth.to_string()));
        (0..1000).for_each(|_| doubts.keep_apart("same"));
        assert_eq!((doubts.apart.len(), doubts.may_join("999"), doubts.is_wrong("b")), (SOURCES_MAX, false, true));
    }
}
