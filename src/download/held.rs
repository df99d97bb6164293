//! What earlier attempts and sources left, while no step has it.

use std::time::Duration;

use crate::download::DownloadContext;
use crate::download::order::Order;
use crate::files::binding::{Stored, Why};
use crate::files::bound::Bound;
use crate::files::part::Part;
use crate::files::ranges::RangeSet;
use crate::files::remarks::Remarks;
use crate::model::failure::Failure;

/// How long the end of an attempt waits for the store to know of its beginning: one that is stopped; and one that is not, for as
/// many bytes and at most.
const STORED_WAIT: Duration = Duration::from_secs(1);
const STORED_WAIT_BYTES: u64 = 16 << 20;
const STORED_WAIT_MAX: Duration = Duration::from_mins(10);

/// Whether all came that the last answer said that it holds, and nobody has said whether there is more.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum OpenEnd {
    #[default]
    No,
    /// And that was little, for the time that it took.
    Little,
    Enough,
}

/// Whether a source may begin anew, which drops what is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Anew {
    #[default]
    Allowed,
    Forbidden,
    /// It would have, so its answer was left.
    WasLeft,
}

/// What is held between two sources, and what became of what was.
#[derive(Default)]
pub(super) struct Held {
    part: Option<Part>,
    /// Why what was held is gone, until the report says so.
    pub(super) dropped: Option<Why>,
    /// The last bytes were dropped because they were wrong.
    pub(super) were_wrong: bool,
    /// What becomes of what is held where the source that is asked now has something else.
    pub(super) anew: Anew,
    pub(super) open_end: OpenEnd,
    /// What is known of sources, also from earlier attempts.
    pub(super) remarks: Remarks,
    /// Sources whose bytes joined those of another, which were wrong together, since that was last asked.
    pub(super) undone: Option<Undone>,
    /// The bytes that were held last did not all come from one source and in this attempt.
    pub(super) was_pieced: bool,
}

/// A join that was undone, by what recognises sources.
pub(super) struct Undone {
    /// Whose bytes the others joined.
    pub(super) first: String,
    pub(super) joined: Vec<String>,
}

impl Held {
    pub(super) fn set_part(&mut self, part: Option<Part>) {
        if let Some(part) = &part {
            self.remarks = part.remarks();
        }
        self.part = part;
    }

    /// Notes what is known of sources for the attempt that follows, with what is held or in a part without any byte. `false`:
    /// it will not be known.
    pub(super) async fn remember(&mut self, order: &Order<'_>) -> bool {
        let ctx = order.ctx;
        // Of a single source there is nothing to decide.
        if order.sources.len() < 2 || (self.remarks.is_empty() && self.part.is_none()) {
            return true;
        }
        if self.part.is_none() {
            if !becomes_known(ctx, STORED_WAIT).await {
                return false;
            }
            self.part = Part::create(ctx.root, &order.target.folder, order.part_key()).ok();
        }
        match &mut self.part {
            Some(part) => part.set_remarks(&self.remarks).await,
            None => false,
        }
    }

    /// Notes that a source has something else than what is held, which it is not to join.
    pub(super) async fn keep_apart(&mut self, source: &str) {
        self.remarks.doubts.keep_apart(source);
        if let Some(part) = &mut self.part {
            part.set_remarks(&self.remarks).await;
        }
    }

    /// No attempt follows: a part without any byte is removed, and one with bytes is gone on with by fresh tries, if somebody
    /// asks for it.
    pub(super) async fn forget(&mut self) {
        if let Some(part) = self.part.take_if(|part| part.stored().is_none()) {
            // The reason why the attempt ends is the one to report, and not that an empty file stays.
            let _ = part.discard().await;
        }
        self.remarks.forget_failures();
        if let Some(part) = &mut self.part {
            part.set_remarks(&self.remarks).await;
        }
    }

    /// Another source begins anew, which drops what is held. Whose it was is owed all of its turns, unless it has had them.
    pub(super) fn note_loss(&mut self, source: &str, order: &Order<'_>) {
        let Some(stored) = self.stored() else { return };
        let joined = stored.before.iter().flat_map(|before| before.joined.iter().chain([&before.binding.source]));
        let lost: Vec<String> = joined.chain([&stored.binding.source]).filter(|it| *it != source).cloned().collect();
        let (most, is_last, remarks) = (order.ctx.retry.max_attempts, order.ctx.is_last, &mut self.remarks);
        for id in lost {
            if !remarks.doubts.is_wrong(&id) && (!is_last || remarks.owed(&id) > 0) {
                remarks.owe(&id, most, most);
            }
        }
    }

    pub(super) fn has_no_part(&self) -> bool {
        self.part.is_none()
    }

    pub(super) fn take_part(&mut self) -> Option<Part> {
        self.part.take()
    }

    /// Takes out a part that may not be kept while its download waits for room on its file system.
    pub(super) fn take_part_that_may_not_wait(&mut self) -> Option<Part> {
        // One without bytes takes no room, and no place from those that do.
        self.part.take_if(|part| part.stored().is_some() && !part.may_wait())
    }

    /// Stops adding to a part and keeps what it holds, unless nobody would find it after a kill: the store does not know of the
    /// attempt yet, which it does within milliseconds while its disk has room and its lock is free.
    pub(super) async fn keep(&mut self, ctx: &DownloadContext<'_>, bound: Bound) {
        let wait = stored_wait(bound.with_held(RangeSet::bytes));
        if !(bound.is_named() || becomes_known(ctx, wait).await) {
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

    /// Gives up bytes of which some turned out to be wrong: nobody can tell which. What a source had brought before others joined
    /// it is kept, as it may be right.
    pub(super) async fn drop_wrong(
        &mut self,
        ctx: &DownloadContext<'_>,
        mut bound: Bound,
        why: Why,
    ) -> Result<(), Failure> {
        self.dropped = Some(why);
        self.were_wrong = true;
        let joined = bound.stored().before.map(|before| before.joined);
        let left = bound.go_back(why == Why::ChecksumMismatch);
        self.remarks = left.remarks;
        self.undone = joined.map(|joined| Undone { first: left.binding.source, joined });
        if left.ranges.is_empty() {
            return bound.discard().await;
        }
        self.keep(ctx, bound).await;
        Ok(())
    }
}

/// How long to wait for the store before so many bytes are given up: the longer they took to come, the longer.
fn stored_wait(bytes: u64) -> Duration {
    (STORED_WAIT + Duration::from_secs(bytes / STORED_WAIT_BYTES)).min(STORED_WAIT_MAX)
}

/// Waits until the store knows of the attempt. Somebody who has stopped it waits for its end.
async fn becomes_known(ctx: &DownloadContext<'_>, wait: Duration) -> bool {
    let patience = async {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = ctx.stop.cancelled() => tokio::time::sleep(STORED_WAIT.min(wait)).await,
        }
    };
    ctx.is_known()
        || tokio::select! {
            biased;
            () = ctx.stored.cancelled() => true,
            () = patience => false,
        }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::files::Root;
    use crate::files::part::PartKey;

    #[test]
    fn what_took_long_to_come_is_not_given_up_at_once() {
        let seconds = [0, 1 << 20, 160 << 20, 100 << 30].map(|bytes| stored_wait(bytes).as_secs());
        assert_eq!(seconds, [1, 1, 11, 600]);
    }

    /// Its download waits for room as any other does, and takes no place from one that has to keep its bytes.
    #[tokio::test]
    async fn a_part_without_bytes_takes_nobody_the_place_to_wait() {
        let place = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(place.path()).unwrap());
        let create = |name| Part::create(&root, "", PartKey { name, is_shared: false }).unwrap();
        let (mut empty, other) = (create("0-1"), create("0-2"));
        let mut remarks = Remarks::default();
        remarks.doubts.note_wrong("a");
        assert!(empty.set_remarks(&remarks).await);
        let mut held = Held::default();
        held.set_part(Some(empty));
        assert!(held.take_part_that_may_not_wait().is_none() && held.part.is_some());
        assert!(other.may_wait());
    }
}
