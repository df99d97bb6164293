//! A list of any length, cut into the chunks that `AddTasks` takes.
//!
//! The id of a chunk is a digest of all that the list has from its beginning to the end of the chunk. So the same list,
//! sent again after a cut, has the same ids, and the server stores each of its chunks once. A digest of the chunk alone
//! would drop a chunk that the list really has twice.

use sha2::{Digest as _, Sha256};

use crate::cli::lists::{Entry, ListError};
use crate::pb;

/// The most tasks of a chunk, which the server commits at once.
const CHUNK_TASKS: usize = 1000;
/// The most bytes of its URLs, so that a list of long ones stays below what a message may hold.
const CHUNK_BYTES: usize = 1 << 20;

/// What the tasks of a list do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A response is kept.
    Fetch,
    /// A file is downloaded.
    #[default]
    Download,
}

impl Kind {
    /// A task of this kind.
    pub(crate) fn task(self, url: &str) -> pb::TaskSpec {
        let url = url.to_owned();
        let work = match self {
            Kind::Fetch => pb::task_spec::Work::Fetch(pb::FetchSpec { url, ..Default::default() }),
            Kind::Download => pb::task_spec::Work::Download(pb::DownloadSpec { url, ..Default::default() }),
        };
        pb::TaskSpec { work: Some(work), ..Default::default() }
    }
}

/// A chunk of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Makes its storing idempotent.
    pub(crate) id: String,
    /// Its URLs.
    pub(crate) entries: Vec<Entry>,
}

/// The chunks of a list, in order.
pub(crate) struct Chunks<L> {
    list: L,
    digest: Sha256,
    is_over: bool,
}

impl<L: Iterator<Item = Result<Entry, ListError>>> Chunks<L> {
    pub(crate) fn new(kind: Kind, list: L) -> Chunks<L> {
        let label: &[u8] = match kind {
            Kind::Fetch => b"fetch\n",
            Kind::Download => b"download\n",
        };
        Chunks { list, digest: Sha256::new_with_prefix(label), is_over: false }
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
                    bytes += entry.text.len();
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
        for Entry { text, .. } in &entries {
            self.digest.update(text.as_bytes());
            self.digest.update(b"\n");
        }
        let digest: [u8; 32] = self.digest.clone().finalize().into();
        // Half of the digest is enough to tell chunks apart.
        let id = format!("{:032x}", u128::from_be_bytes(std::array::from_fn(|at| digest[at])));
        Some(Ok(Chunk { id, entries }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::urls;

    fn entries(count: usize, line: impl Fn(usize) -> String) -> Vec<Result<Entry, ListError>> {
        let entry = |nth: usize| Entry { line: nth as u64 + 1, url: urls::read(&line(nth)).unwrap(), text: line(nth) };
        (0..count).map(|nth| Ok(entry(nth))).collect()
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
