//! What earlier attempts and sources left, while no step has it.

use std::time::Duration;

use crate::download::DownloadContext;
use crate::files::binding::{Stored, Why};
use crate::files::bound::Bound;
use crate::files::part::Part;
use crate::model::failure::Failure;

/// How long the end of an attempt waits for the store to know of its beginning.
const STORED_WAIT: Duration = Duration::from_secs(1);

/// Whether all came that the last answer said that it holds, and nobody has said whether there is more.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum OpenEnd {
    #[default]
    No,
    /// And that was little, for the time that it took.
    Little,
    Enough,
}

/// What is held between two sources, and what became of what was.
#[derive(Default)]
pub(super) struct Held {
    part: Option<Part>,
    /// Why what was held is gone, until the report says so.
    pub(super) dropped: Option<Why>,
    /// The last bytes were dropped because they were wrong.
    pub(super) were_wrong: bool,
    pub(super) open_end: OpenEnd,
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

    /// Stops adding to a part and keeps what it holds, unless nobody would find it after a kill: the store does not know of the
    /// attempt yet, which it does within milliseconds while its disk has room and its lock is free.
    pub(super) async fn keep(&mut self, ctx: &DownloadContext<'_>, bound: Bound) {
        let will_be_found = ctx.is_known()
            || bound.is_named()
            || tokio::time::timeout(STORED_WAIT, ctx.stored.cancelled()).await.is_ok();
        if !will_be_found {
            bound.give_up();
        }
        self.part = bound.close().await;
    }

    /// What the part claims; `None` when there is none, or it holds nothing.
    pub(super) fn stored(&self) -> Option<&Stored> {
        self.part.as_ref()?.stored()
    }

    /// Takes note of what the last answer does to the number of refusals in a row.
    pub(super) async fn set_refusals(&mut self, refusals: u32) {
        if let Some(part) = &mut self.part {
            part.set_refusals(refusals).await;
        }
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
