//! What earlier attempts and sources left, while no step has it.

use crate::files::binding::{Stored, Why};
use crate::files::bound::Bound;
use crate::files::part::Part;
use crate::model::failure::Failure;

/// What is held between two sources, and what became of what was.
#[derive(Default)]
pub(super) struct Held {
    part: Option<Part>,
    /// Why what was held is gone, until the report says so.
    pub(super) dropped: Option<Why>,
    /// The last bytes were dropped because they were wrong.
    pub(super) were_wrong: bool,
    /// The bytes that were held last did not all come from one source and in this attempt.
    pub(super) was_pieced: bool,
}

impl Held {
    pub(super) fn set_part(&mut self, part: Option<Part>) {
        self.part = part;
    }

    pub(super) fn take_part(&mut self) -> Option<Part> {
        self.part.take()
    }

    /// What the part claims; `None` when there is none, or it holds nothing.
    pub(super) fn stored(&self) -> Option<&Stored> {
        self.part.as_ref()?.stored()
    }

    /// Removes what is held, and remembers why.
    pub(super) async fn drop_part(&mut self, why: Why) -> Result<(), Failure> {
        let Some(part) = self.part.take() else { return Ok(()) };
        self.dropped = part.stored().map(|_| why);
        part.discard().await
    }

    /// Removes bytes that turned out to be wrong: nobody can tell which of them are.
    pub(super) async fn drop_wrong(&mut self, bound: Bound, why: Why) -> Result<(), Failure> {
        self.dropped = Some(why);
        self.were_wrong = true;
        bound.discard().await
    }
}
