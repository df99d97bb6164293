//! A list of any length, cut into the chunks that `AddTasks` takes.
//!
//! Their ids are those of [`ChunkIds`], so a list that was cut can be sent again.

use crate::cli::lists::{Entry, ListError};
use crate::imports::{CHUNK_BYTES, CHUNK_TASKS, ChunkIds, Kind};
use crate::model::import::Format;

/// A chunk of a list.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chunk {
    /// Makes its storing idempotent.
    pub(crate) id: String,
    /// Its URLs.
    pub(crate) entries: Vec<Entry>,
}

/// The chunks of a list, in order.
pub(crate) struct Chunks<L> {
    list: L,
    ids: ChunkIds,
    is_over: bool,
}

impl<L: Iterator<Item = Result<Entry, ListError>>> Chunks<L> {
    pub(crate) fn new(kind: Kind, list: L) -> Chunks<L> {
        // An entry that says more than its URL is named by all that it says, so the format of the list adds nothing.
        Chunks { list, ids: ChunkIds::new(kind, Format::Urls), is_over: false }
    }
}

impl<L: Iterator<Item = Result<Entry, ListError>>> Iterator for Chunks<L> {
    /// A chunk, or all that is wrong with its lines: nothing of it must be sent then, since its id would be another once
    /// the lines are corrected.
    type Item = Result<Chunk, Vec<String>>;

    fn next(&mut self) -> Option<Result<Chunk, Vec<String>>> {
        let (mut entries, mut bytes, mut wrong) = (Vec::new(), 0, Vec::new());
        while !self.is_over && entries.len() + wrong.len() < CHUNK_TASKS && bytes < CHUNK_BYTES {
            match self.list.next() {
                None => self.is_over = true,
                Some(Ok(entry)) => {
                    bytes += entry.bytes().len();
                    entries.push(entry);
                }
                Some(Err(ListError::Line(message))) => wrong.push(message),
                Some(Err(ListError::End(message))) => {
                    wrong.push(message);
                    self.is_over = true;
                }
            }
        }
        if !wrong.is_empty() {
            self.is_over = true;
            return Some(Err(wrong));
        }
        if entries.is_empty() {
            return None;
        }
        for entry in &entries {
            self.ids.take(&entry.bytes());
            self.ids.take(b"\n");
        }
        let id = self.ids.id();
        Some(Ok(Chunk { id, entries }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(count: usize, line: impl Fn(usize) -> String) -> Vec<Result<Entry, ListError>> {
        (0..count).map(|nth| Ok(Entry::typed(&line(nth)).unwrap())).collect()
    }

    fn ids(kind: Kind, list: Vec<Result<Entry, ListError>>) -> Vec<String> {
        Chunks::new(kind, list.into_iter()).map(|chunk| chunk.unwrap().id).collect()
    }

    #[test]
    fn the_same_list_has_the_same_ids_and_no_chunk_is_taken_for_another() {
        let numbered = |nth: usize| format!("http://a/{nth}");
        let first = ids(Kind::Download, entries(2500, numbered));
        assert_eq!(first.len(), 3);
        assert_eq!(ids(Kind::Download, entries(2500, numbered)), first);
        assert_ne!(ids(Kind::Fetch, entries(2500, numbered))[0], first[0]);
        let longer = ids(Kind::Download, entries(2600, numbered));
        assert!(longer[..2] == first[..2] && longer[2] != first[2]);
        let repeated = ids(Kind::Download, entries(2000, |_| "http://a/".to_owned()));
        assert_ne!(repeated[0], repeated[1], "a thousand lines that come twice are two chunks");
    }

    #[test]
    fn a_chunk_with_a_bad_line_ends_the_list() {
        let mut list = entries(1500, |nth| format!("http://a/{nth}"));
        list[1100] = Err(ListError::Line("line 1101: bad".to_owned()));
        list[1400] = Err(ListError::Line("line 1401: bad".to_owned()));
        let mut chunks = Chunks::new(Kind::Download, list.into_iter());
        assert_eq!(chunks.next().unwrap().unwrap().entries.len(), 1000);
        assert_eq!(chunks.next().unwrap().unwrap_err().len(), 2);
        assert!(chunks.next().is_none());
    }
}
