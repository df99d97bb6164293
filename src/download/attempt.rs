//! An attempt as a whole: the sources in turn, and the steps for each.

use crate::download::ending::{Failed, counted, note_failures, waiting};
use crate::download::existing::{drop_part, settled};
use crate::download::held::{Anew, Held, OpenEnd};
use crate::download::order::Order;
use crate::download::probe::{Log, Probe, Start, probe};
use crate::download::turns::{Facts, PAUSES_MAX, Turns};
use crate::download::{DownloadContext, Halt, finish, is_local, plan, transfer};
use crate::files::binding::Why;
use crate::files::part::Part;
use crate::files::ranges::RangeSet;
use crate::model::failure::{Failure, FailureReason};
use crate::model::outcome::{AttemptReport, DownloadResult, ShortOf};
use crate::model::retry::backoff;
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
            let looked_at = (order.ctx.now)();
            let mut attempt = Attempt { log, order, held, turns, may_mix: true, has_looked: false, looked_at };
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
    /// When was looked last which source may be asked.
    looked_at: Timestamp,
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
            if order.ctx.is_first {
                // Of a run that was ended from outside, which had no time to forget it.
                self.held.remarks.forget_failures();
            }
            self.has_looked = true;
            if order.spec.disable_resume {
                self.held.drop_part(Why::ResumeDisabled).await?;
            }
        }
        self.has_looked = true;
        self.turns = Turns::new(&facts(&self.order, &self.held));
        let end = match self.try_sources().await {
            // A file that is not wanted is not kept in part either.
            Err(Halt::Failed(failure)) if !failure.retryable && is_unwanted(&failure) => {
                self.held.drop_part(Why::ContentChanged).await?;
                return Err(failure.into());
            }
            Err(Halt::Failed(failure)) if failure.reason == FailureReason::DiskFull && failure.retryable => {
                Err(self.disk_full(failure).await)
            }
            end => end,
        };
        self.leave_remarks(&end).await;
        end
    }

    /// Asks the sources until one has brought the file or none is left to be asked. While one is only paused that may bring it, the
    /// attempt does not count, whatever became of the others, and the wait for the end of its pause is noted.
    async fn try_sources(&mut self) -> Result<DownloadResult, Halt> {
        let mut failures = Vec::new();
        loop {
            if let Some(end) = self.ask_in_turn(&mut failures).await {
                return end;
            }
            if !self.turns.awaits(&facts(&self.order, &self.held)) {
                break;
            }
            let keeps_back = self.held.remarks.pauses < PAUSES_MAX;
            // Before the note, after which sources of one name may have had their tries.
            let awaited: Vec<usize> = self.turns.awaited(&facts(&self.order, &self.held)).collect();
            let is_noted = self.note_wait(&failures).await;
            // Where nobody was asked or kept from it, nothing needs a bound.
            if is_noted || !(keeps_back || self.turns.has_asked()) {
                return Err(self.waiting(failures, &awaited));
            }
            if !keeps_back || (self.held.stored().is_some() && !self.order.ctx.is_last) {
                // The attempt counts, and what is held stays: whoever was asked now might have something else.
                break;
            }
            // The number of waits cannot be kept: so that they do not go on for ever, nobody waits.
            self.held.remarks.pauses = PAUSES_MAX;
        }
        let Some(counted) = counted(failures, self.order.ctx.retry, (self.order.ctx.now)()) else {
            return Err(nobody());
        };
        let counted = self.unless_owed(counted).await;
        Err(self.told(counted))
    }

    /// The attempt counts, unless no other follows and a source is owed a turn. Then it waits as the next attempt at that source alone
    /// would.
    async fn unless_owed(&mut self, counted: Failed) -> Failed {
        let (order, held) = (&self.order, &mut self.held);
        let is_retried = order.ctx.may_follow(&counted.failure);
        let (before, mut remarks) = (held.remarks.clone(), held.remarks.clone());
        let facts = facts(order, held);
        let next = self.turns.settle(&facts, !is_retried, is_retried && !order.ctx.is_last, &mut remarks);
        let (now, tries_max) = (facts.now, facts.tries_max);
        held.remarks = remarks;
        let Some((source, owed)) = next else { return counted };
        if !held.remember(order).await {
            held.remarks = before;
            return counted;
        }
        let wait = backoff(order.ctx.retry, tries_max.saturating_sub(owed).saturating_add(1), 0.0);
        let asked_for = counted.failure.retry_after.filter(|_| counted.source == source);
        let until = now.plus(wait.max(asked_for.unwrap_or_default()));
        let message = format!("{}; a source is left that has not had all of its tries", counted.failure.message);
        Failed {
            failure: Failure { retryable: true, paused_until: Some(until), message, ..counted.failure },
            ..counted
        }
    }

    /// Asks those that need not wait, which adds what becomes of them to `failures`. A source that fails is left for the next one, within
    /// the attempt. Where the bytes turned out to be wrong and were dropped, the source has a second try ([`Turns::was_wrong`]).
    /// Where they came from several sources, each of these is asked once more by itself. `None`: none has brought the file.
    async fn ask_in_turn(&mut self, failures: &mut Vec<Failed>) -> Option<Result<DownloadResult, Halt>> {
        let held_before = self.held.stored().map_or(0, |stored| stored.ranges.bytes());
        while let Some(source) = self.next_source() {
            let received = self.order.ctx.meter.received_bytes();
            let may_not = self.turns.must_not_begin(source, &facts(&self.order, &self.held));
            self.held.anew = if may_not { Anew::Forbidden } else { Anew::Allowed };
            self.log.begin(&self.order.sources[source]);
            // It is large, and so would be whatever awaits this.
            let failure = match Box::pin(self.serve(source)).await {
                Err(Halt::Failed(failure)) if !is_local(&failure) => failure,
                end => return Some(end),
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
                let most = self.order.ctx.retry.max_attempts;
                for lost in undone.joined.iter().chain([&undone.first]) {
                    self.held.remarks.owe(lost, most, most);
                }
                // Not for ever: whoever joined does not join again.
                let at = |source: &String| self.order.source_ids.iter().position(|id| id == source);
                self.turns.ask_alone(at(&undone.first), undone.joined.iter().filter_map(at));
            } else if were_wrong {
                self.turns.was_wrong(source, self.held.was_pieced);
            }
            failures.push(Failed { source, failure, exchanged: self.log.exchanged() });
        }
        None
    }

    fn next_source(&mut self) -> Option<usize> {
        let Attempt { order, held, turns, looked_at, .. } = self;
        let facts = facts(order, held);
        *looked_at = facts.now;
        turns.next(&facts, |source| order.ctx.transport.is_paused(&order.sources[source]))
    }

    /// Notes a wait for the end of a pause, and who has failed. `false`: it will not be known.
    async fn note_wait(&mut self, failures: &[Failed]) -> bool {
        let (order, held) = (&self.order, &mut self.held);
        let before = held.remarks.clone();
        held.remarks.pauses = before.pauses.saturating_add(1);
        note_failures(&mut held.remarks, failures, &order.source_ids, order.ctx.retry, (order.ctx.now)());
        let is_noted = held.remember(order).await;
        if !is_noted {
            held.remarks = before;
        }
        is_noted
    }

    /// The attempt waits for the end of a pause, or to ask another source again, if that comes first.
    fn waiting(&mut self, failures: Vec<Failed>, awaited: &[usize]) -> Halt {
        // What has come to its end since that look was not asked, and ends the wait at once.
        let facts = Facts { now: self.looked_at, ..facts(&self.order, &self.held) };
        let waiting = waiting(failures, awaited, facts.backoffs());
        waiting.map_or_else(nobody, |waiting| self.told(waiting))
    }

    /// The failure that is told. The report names whom it is of.
    fn told(&mut self, told: Failed) -> Halt {
        self.log.tell(told.exchanged);
        told.failure.into()
    }

    /// Leaves what is known of sources for the attempt that follows, and nothing where none does.
    async fn leave_remarks(&mut self, end: &Result<DownloadResult, Halt>) {
        let (order, held) = (&self.order, &mut self.held);
        match end {
            Ok(_) => {}
            // It was noted before it was decided.
            Err(Halt::Failed(failure)) if failure.paused_until.is_some() => {}
            Err(Halt::Failed(failure)) if order.ctx.is_last || !order.ctx.may_follow(failure) => held.forget().await,
            Err(Halt::Failed(_)) => {
                held.remarks.note_count();
                held.remember(order).await;
            }
            // Of a run that a person broke off, no file without bytes stays beside theirs.
            Err(Halt::Stopped) if order.ctx.part_is_shared && held.has_no_part() => {}
            Err(Halt::Stopped | Halt::NoSpace { .. }) => {
                held.remember(order).await;
            }
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
            let (ids, doubts) = (&order.source_ids, &held.remarks.doubts);
            let may_join = |other: &usize| doubts.may_join(&ids[source]) && doubts.may_join(&ids[*other]);
            let facts = facts(order, held);
            let helpers: Vec<usize> = self.turns.left(&facts).filter(|it| self.may_mix && may_join(it)).collect();
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
        remarks: &held.remarks,
        has_digest: order.has_digest(),
        is_last: order.ctx.is_last,
        tries_max: order.ctx.retry.max_attempts,
        now: (order.ctx.now)(),
    }
}

fn nobody() -> Halt {
    Failure::fatal(FailureReason::Internal, "there was no source to download from").into()
}

/// Whether a failure says that the file has another size than it may have, or what must not be in it.
fn is_unwanted(failure: &Failure) -> bool {
    use FailureReason as R;
    matches!(failure.reason, R::TooLarge | R::SizeMismatch | R::SecretEchoed)
}
