//! An attempt as a whole: the sources in turn, and the steps for each.

use std::collections::BTreeSet;

use crate::download::existing::{drop_part, settled};
use crate::download::held::{Anew, Held, OpenEnd};
use crate::download::order::Order;
use crate::download::probe::{Log, Probe, Start, probe};
use crate::download::turns::{Facts, Turns};
use crate::download::{DownloadContext, Halt, finish, is_local, plan, transfer};
use crate::files::binding::Why;
use crate::files::part::Part;
use crate::files::ranges::RangeSet;
use crate::model::failure::{Failure, FailureReason};
use crate::model::outcome::{AttemptReport, DownloadResult, ShortOf};
use crate::model::secret::redacted_text;
use crate::model::spec::DownloadSpec;
use crate::model::time::Timestamp;

/// Makes one attempt. What it holds at its end, if that is not a file, is checkpointed.
pub(super) async fn run(
    ctx: &DownloadContext<'_>,
    spec: &DownloadSpec,
) -> (Result<DownloadResult, Halt>, AttemptReport) {
    let before = ctx.meter.received_bytes();
    // What earlier attempts have left is there until it has been looked for.
    let left_bytes = ctx.storage.bytes();
    let (end, mut report) = match Order::of(ctx, spec) {
        Ok(order) => {
            let (log, held) = (Log::of(&order), Held::default());
            let turns = Turns::new(&facts(&order, &held));
            let mut attempt = Attempt { log, order, held, turns, may_mix: true, has_looked: false };
            // It is large, and so would be whatever awaits this.
            let end = Box::pin(attempt.run()).await;
            let url = attempt.log.url(&attempt.order);
            let mut report = AttemptReport { url, ..attempt.log.report };
            if let Some(stored) = attempt.held.stored() {
                report.held_bytes = stored.ranges.bytes();
                report.total_bytes = stored.binding.version.total.unwrap_or(0);
            } else if !attempt.has_looked {
                report.held_bytes = left_bytes;
            }
            (end, report)
        }
        Err(failure) => {
            let url = redacted_text(&spec.url);
            (Err(failure.into()), AttemptReport { url, held_bytes: left_bytes, ..AttemptReport::default() })
        }
    };
    report.bytes = ctx.meter.received_bytes() - before;
    (end, report)
}

struct Attempt<'a> {
    order: Order<'a>,
    log: Log,
    held: Held,
    turns: Turns,
    /// Whether sources may bring one file together. Not any more once such a file was wrong: one of them has other content
    /// than it should, and a source that is right must not be spoilt by it.
    may_mix: bool,
    /// Whether what earlier attempts left was looked for.
    has_looked: bool,
}

impl Attempt<'_> {
    async fn run(&mut self) -> Result<DownloadResult, Halt> {
        let order = &self.order;
        if let Some(name) = &order.target.name
            && let Some(settled) = settled(order, name).await?
        {
            self.log.report.http_status = settled.http_status;
            return self.settle(settled.file).await;
        }
        if order.has_history() {
            Part::at_rest(order.ctx.root, &order.target.folder, order.part_key()).await;
            let part = Part::find(order.ctx.root, &order.target.folder, order.part_key())?;
            self.held.set_part(part);
            self.has_looked = true;
            if order.spec.disable_resume {
                self.held.drop_part(Why::ResumeDisabled).await?;
            }
        }
        self.has_looked = true;
        self.turns = Turns::new(&facts(&self.order, &self.held));
        let mut end = self.try_sources().await;
        if let Err(Halt::Failed(failure)) = &mut end {
            self.leave_remarks(failure).await;
        }
        match end {
            // A file that is not wanted is not kept in part either.
            Err(Halt::Failed(failure)) if !failure.retryable && is_unwanted(&failure) => {
                self.held.drop_part(Why::ContentChanged).await?;
                Err(failure.into())
            }
            Err(Halt::Failed(failure)) if failure.reason == FailureReason::DiskFull && failure.retryable => {
                Err(self.disk_full(failure).await)
            }
            end => end,
        }
    }

    /// A source that fails is left for the next one, within the attempt. Where the bytes turned out to be wrong and were
    /// dropped, the source has a second try ([`Turns::was_wrong`]).
    /// Where they came from several sources, each of these is asked once more by itself.
    async fn try_sources(&mut self) -> Result<DownloadResult, Halt> {
        let mut failures: Vec<Failure> = Vec::new();
        let mut tried = BTreeSet::new();
        let held_before = self.held.stored().map_or(0, |stored| stored.ranges.bytes());
        while let Some(source) = self.next_source() {
            tried.insert(source);
            let received = self.order.ctx.meter.received_bytes();
            let may_not = self.turns.must_not_begin(source, &facts(&self.order, &self.held));
            self.held.anew = if may_not { Anew::Forbidden } else { Anew::Allowed };
            let failure = match self.serve(source).await {
                Err(Halt::Failed(failure)) if !is_local(&failure) => failure,
                end => return end,
            };
            if std::mem::take(&mut self.held.anew) == Anew::WasLeft {
                // It is not asked for the rest again: in vain, and each time twice.
                self.held.keep_apart(&self.order.source_ids[source]).await;
                self.turns.come_back_later(source);
                continue;
            }
            let were_wrong = std::mem::take(&mut self.held.were_wrong);
            self.may_mix &= !(were_wrong && self.held.was_pieced);
            if !were_wrong {
                let has_brought = self.order.ctx.meter.received_bytes() > received;
                self.turns.failed(source, &failure, has_brought, held_before, &facts(&self.order, &self.held));
            }
            if let Some(undone) = self.held.undone.take() {
                // Not for ever: whoever joined does not join again.
                let at = |source: &String| self.order.source_ids.iter().position(|id| id == source);
                self.turns.ask_alone(at(&undone.first), undone.joined.iter().filter_map(at));
            } else if were_wrong {
                self.turns.was_wrong(source, self.held.was_pieced);
            }
            failures.push(failure);
        }
        Err(telling(failures, tried.len(), (self.order.ctx.now)()).into())
    }

    fn next_source(&mut self) -> Option<usize> {
        let Attempt { order, held, turns, .. } = self;
        turns.next(&facts(order, held), |source| order.ctx.transport.is_paused(&order.sources[source]))
    }

    /// Leaves what is known of sources for the attempt that follows, and nothing where none does. In the last attempt a pause that is
    /// to be waited for has decided, whatever else was wrong, if it will be known what was.
    async fn leave_remarks(&mut self, failure: &mut Failure) {
        let (order, held) = (&self.order, &mut self.held);
        let pause = self.turns.pause().filter(|_| order.ctx.is_last && self.turns.waits_for_host(&facts(order, held)));
        let is_paused = pause.is_some() || failure.paused_until.is_some();
        let follows = failure.retryable && (!order.ctx.is_last || is_paused);
        if !follows {
            return held.forget_empty().await;
        }
        // Also where others are in the way of a request: they may be so for ever.
        let pauses = if is_paused { held.pauses.saturating_add(1) } else { 0 };
        let is_known = held.remember(order, pauses).await;
        // A single source that was wrong and is paused would fetch the wrong file once more after each pause.
        if let Some(pause) = pause.filter(|_| is_known && order.sources.len() > 1) {
            *failure = pause.clone();
        }
    }

    /// The steps, each of which consumes the one before. Where an answer does not say how large the file is, and brought all that
    /// it was to bring, the same source is asked for what is behind that, or whether there is anything.
    async fn serve(&mut self, source: usize) -> Result<DownloadResult, Halt> {
        let mut before: Option<(AttemptReport, u64)> = None;
        let mut is_little = false;
        loop {
            let (order, held) = (&self.order, &mut self.held);
            let probed = match probe(order, source, held, &mut self.log).await? {
                Probe::Settled(result) => return self.settle(result).await,
                Probe::Answered(probed) => probed,
            };
            // What began anew goes on with nothing of what was there before.
            let goes_on_with = before.as_ref().filter(|_| matches!(probed.start, Start::Held(_)));
            let resumed_before = goes_on_with.map(|(_, bytes)| *bytes);
            if let Some((report, _)) = goes_on_with {
                self.log.note_course_of(report);
            }
            let planned = plan::plan(order, probed, held).await?;
            let resumed_bytes = planned.bound.with_held(RangeSet::bytes);
            let (ids, doubts) = (&order.source_ids, &held.doubts);
            let may_join = |other: &usize| doubts.may_join(&ids[source]) && doubts.may_join(&ids[*other]);
            let left = self.turns.left().iter().copied();
            let helpers: Vec<usize> = left.filter(|it| self.may_mix && may_join(it)).collect();
            let end = transfer::transfer(order, planned, &helpers, held, &self.log.session).await;
            // The last piece of a file may be small, so that one piece alone tells nothing of those to come.
            let open_end = std::mem::take(&mut held.open_end);
            let was_little = std::mem::replace(&mut is_little, open_end == OpenEnd::Little);
            let goes_on = match open_end {
                OpenEnd::No => false,
                OpenEnd::Little => !was_little,
                OpenEnd::Enough => true,
            };
            if end.is_err() && goes_on && held.stored().is_some() {
                before.get_or_insert_with(|| (self.log.report.clone(), resumed_bytes));
                continue;
            }
            let mut transferred = end?;
            if let Some(resumed_bytes) = resumed_before {
                transferred.resumed_bytes = resumed_bytes;
            }
            let verified = finish::verify(order, transferred, held).await?;
            let committed = finish::commit(order, verified).await;
            if committed.is_err() {
                // A part that has its name stays where it is.
                held.set_part(Part::find(order.ctx.root, &order.target.folder, order.part_key()).ok().flatten());
            }
            return committed;
        }
    }

    /// A file is there already: what an earlier attempt left of it is removed.
    async fn settle(&mut self, mut result: DownloadResult) -> Result<DownloadResult, Halt> {
        drop_part(&self.order, self.held.take_part()).await?;
        if result.final_url.is_empty() {
            result.final_url = self.log.url(&self.order);
        }
        Ok(result)
    }

    /// The disk was full in the middle: the task waits for room and goes on with what is held. Where the file system says
    /// that it has the room, and refused all the same, nobody could tell when the wait is over: that is a failure, which
    /// counts. Where another download waits there with what it holds, this one gives up its part, as two would wait for each
    /// other.
    async fn disk_full(&mut self, failure: Failure) -> Halt {
        let meter = self.order.ctx.meter;
        let folder = self.order.target.folder.clone();
        let needed_bytes = meter.total().saturating_sub(meter.done()).max(transfer::ROOM_STEP);
        if self.order.ctx.root.has_room(&folder, needed_bytes) {
            let message = format!(
                "{}; its file system has room, so a quota or its number of files may be used up",
                failure.message
            );
            return Failure { message, ..failure }.into();
        }
        let (mut needed_bytes, mut message) = (needed_bytes, failure.message);
        if let Some(part) = self.held.take_part_that_may_not_wait() {
            // That there is no room is the reason to report, and not that a file stays.
            let _ = part.discard().await;
            needed_bytes = meter.total().max(meter.done() + transfer::ROOM_STEP);
            message = format!(
                "{message}; another download waits with what it holds, so this one has given up its part and needs \
                 {needed_bytes} bytes"
            );
        }
        Halt::NoSpace { of: ShortOf::Disk, folder, needed_bytes, message }
    }
}

/// What decides whose turn it is.
fn facts<'a>(order: &'a Order<'_>, held: &'a Held) -> Facts<'a> {
    Facts {
        ids: &order.source_ids,
        stored: held.stored(),
        doubts: &held.doubts,
        pauses: held.pauses,
        has_digest: order.has_digest(),
        is_last: order.ctx.is_last,
    }
}

/// Whether a failure says that the file has another size than it may have, or what must not be in it.
fn is_unwanted(failure: &Failure) -> bool {
    use FailureReason as R;
    matches!(failure.reason, R::TooLarge | R::SizeMismatch | R::SecretEchoed)
}

/// Returns the failure that decides among those of all sources: one that another attempt may resolve, the first of those that ask
/// for the shortest wait, else the first. That a host is paused decides only where no other source has failed so: such an attempt
/// does not count, and another follows when the pause is over. Beside a file that was wrong it counts: such a file would be fetched
/// once more with each pause. Wrong bytes explain more than what else went wrong, but do not decide whether another attempt follows.
/// `count`: how many sources that were, of which some may have been tried twice.
fn telling(mut failures: Vec<Failure>, count: usize, now: Timestamp) -> Failure {
    let mismatch = failures.iter().rposition(|failure| failure.reason == FailureReason::ChecksumMismatch);
    let counts = |failure: &Failure| failure.retryable && failure.paused_until.is_none();
    let soonest = (0..failures.len()).filter(|at| counts(&failures[*at])).min_by_key(|at| failures[*at].retry_after);
    let again = soonest.or_else(|| failures.iter().position(|failure| failure.retryable));
    let at = again.or(mismatch).unwrap_or(0);
    if failures.is_empty() {
        return Failure::fatal(FailureReason::Internal, "there was no source to download from");
    }
    let told = mismatch.map(|at| failures[at].clone());
    let mut failure = failures.swap_remove(at);
    if let Some(told) = told {
        let pause = failure.paused_until.take().map(|until| until.since(now));
        let retry_after = failure.retry_after.max(pause);
        let Failure { reason, message, http_status, .. } = told;
        failure = Failure { reason, message, http_status, retry_after, ..failure };
    }
    if count > 1 && failure.reason != FailureReason::ChecksumMismatch {
        failure.message = format!("{} ({count} sources failed)", failure.message);
    }
    failure
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_explains_is_told_and_what_may_pass_is_tried_again() {
        let cut = || Failure::retryable(FailureReason::Truncated, "cut");
        let wrong = || Failure::fatal(FailureReason::ChecksumMismatch, "wrong");
        let gone = || Failure::fatal(FailureReason::HttpStatus, "gone");
        let of = |failures: Vec<Failure>| {
            let told = telling(failures, 2, Timestamp(0));
            (told.message, told.retryable)
        };
        assert_eq!(of(vec![cut(), wrong()]), ("wrong".to_owned(), true));
        assert_eq!(of(vec![wrong(), cut()]), ("wrong".to_owned(), true));
        assert_eq!(of(vec![gone(), wrong()]), ("wrong".to_owned(), false));
        assert_eq!(of(vec![gone(), cut()]), ("cut (2 sources failed)".to_owned(), true));
        let busy = || Failure { retry_after: Some(Duration::from_secs(300)), ..cut() };
        let soon = || Failure::retryable(FailureReason::Truncated, "soon");
        for failures in [vec![busy(), soon()], vec![soon(), busy()]] {
            assert!(of(failures).0.starts_with("soon"), "nobody waits for a source where another has no wish");
        }
    }

    /// An attempt that does not count is made again whenever the pause is over, however long others keep the host busy.
    #[test]
    fn an_attempt_that_brought_a_wrong_file_counts_although_the_other_host_is_paused() {
        let wrong = Failure::fatal(FailureReason::ChecksumMismatch, "wrong");
        let gone = Failure::fatal(FailureReason::HttpStatus, "gone");
        let paused =
            Failure { paused_until: Some(Timestamp(9_000_000)), ..Failure::retryable(FailureReason::HttpStatus, "") };
        let told = telling(vec![wrong, paused.clone()], 2, Timestamp(2_000_000));
        assert_eq!((told.reason, told.retryable, told.paused_until), (FailureReason::ChecksumMismatch, true, None));
        assert_eq!(told.retry_after, Some(Duration::from_secs(7)), "it waits for the host all the same");
        assert_eq!(telling(vec![gone, paused.clone()], 2, Timestamp(0)).paused_until, paused.paused_until);
    }
}
