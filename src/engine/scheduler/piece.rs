//! Long work on jobs that goes on piece by piece: plain values.

use std::collections::{HashSet, VecDeque};

use crate::model::ids::JobId;

/// Long work on one job that is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Piece {
    /// Waiting tasks are ended.
    Sweep(JobId),
    /// Failed and cancelled tasks are put back.
    Retry(JobId),
    /// The rows of a deleted job are removed.
    Purge(JobId),
}

/// Work that is to go on, in the order in which it came, each piece once.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    order: VecDeque<Piece>,
    there: HashSet<Piece>,
}

impl Pieces {
    /// Adds a piece, unless it is there.
    pub(crate) fn add(&mut self, piece: Piece) {
        if self.there.insert(piece) {
            self.order.push_back(piece);
        }
    }

    /// Takes out the first piece.
    pub(crate) fn next(&mut self) -> Option<Piece> {
        let piece = self.order.pop_front()?;
        self.there.remove(&piece);
        Some(piece)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}
