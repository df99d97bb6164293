//! Which batches may use which room on a full disk: one decision over what a batch does and what is left of the reserve.
//!
//! Deletions make room, so everything is theirs. Whatever else is small has a part of the reserve, once. What adds nothing, the end
//! of a job above all, has another part as often as deletions can do without it. What is large because it adds work waits until there
//! is room beside the reserve, and so does everything but deletions while less is held than they need.

use std::sync::Arc;

use crate::model::audit::Of;
use crate::model::spec::TaskSpec;
use crate::store::{Batch, Content, Hasten, Retry, Which};

/// What a row takes on the disk beside what it holds, in bytes, roughly.
const ROW_BYTES: usize = 256;
/// Rows of the audit that a batch of ends may have.
const AUDIT_ROWS_MAX: usize = 1000;

/// What a batch does to the room on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// It removes, and does nothing else.
    Removes,
    /// It adds nothing, however large it is: there is no more of it than had been begun, and nothing begins while room is short.
    Closes,
    /// It needs a small part of what is lent at most.
    Little,
    /// It needs more, and adds little: mostly it records what has ended or happened.
    Ends,
    /// It needs more, and adds work.
    Much,
}

/// What is left of the reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// All of it.
    All,
    /// A part is lent, and deletions can do without another one.
    Another,
    /// What deletions need.
    Deletions,
    /// Less than that.
    Less,
    /// There never was any.
    NoReserve,
}

/// What more room a batch is given that does not find enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum More {
    /// None.
    Nothing,
    /// The part of the reserve that is lent.
    Part,
    /// All of the reserve, and what a copy of the log makes of it.
    All,
}

/// Decides whether a batch is tried at all, and what more it is given if the disk is full; `None`: what is left is for others.
pub(super) fn room(need: Need, left: Left) -> Option<More> {
    match (need, left) {
        (Need::Removes, _) => Some(More::All),
        (Need::Closes, Left::All | Left::Another) | (Need::Little | Need::Ends, Left::All) => Some(More::Part),
        (Need::Closes | Need::Little | Need::Ends, Left::Another | Left::Deletions | Left::NoReserve)
        | (Need::Much, Left::All | Left::NoReserve) => Some(More::Nothing),
        (Need::Closes | Need::Little | Need::Ends, Left::Less)
        | (Need::Much, Left::Another | Left::Deletions | Left::Less) => None,
    }
}

impl Need {
    /// What a batch needs where so many bytes are lent.
    pub(super) fn of(batch: &Batch, lent: u64) -> Need {
        if only_removes(batch) {
            Need::Removes
        } else if adds_nothing(batch) {
            Need::Closes
        } else if bytes(batch) as u64 <= lent / 2 {
            Need::Little
        } else if added_bytes(batch) as u64 > lent / 2 || batch.audit.len() > AUDIT_ROWS_MAX {
            Need::Much
        } else {
            Need::Ends
        }
    }
}

/// How much of a batch makes more to be done, in bytes, roughly. A little of it beside many ends does not keep them out.
fn added_bytes(batch: &Batch) -> usize {
    let Batch { submissions, additions, retries, hastens, access, .. } = batch;
    submissions.iter().map(|it| ROW_BYTES + it.job.spec.memory_bytes() + task_bytes(&it.tasks)).sum::<usize>()
        + additions.iter().map(|it| task_bytes(&it.tasks)).sum::<usize>()
        + rows_put_back(retries, hastens).saturating_add(access.len()).saturating_mul(ROW_BYTES)
}

fn task_bytes(tasks: &[(u32, Arc<TaskSpec>)]) -> usize {
    tasks.iter().map(|(_, spec)| ROW_BYTES + spec.memory_bytes()).sum()
}

fn rows_put_back(retries: &[Retry], hastens: &[Hasten]) -> usize {
    let put_back = retries.iter().map(|it| match &it.which {
        Which::These(indexes) => indexes.len(),
        Which::From(_) | Which::Fitting(..) => it.limit as usize,
    });
    put_back.chain(hastens.iter().map(|it| it.limit as usize)).fold(0, usize::saturating_add)
}

/// Whether nothing of the batch could come again and again while room is short. Of changes of jobs those alone come then that end
/// work, and few that hold it: the scheduler refuses the others.
fn adds_nothing(batch: &Batch) -> bool {
    let Batch { submissions, additions, retries, hastens, respecced, limits, new_data_key, access, audit, .. } = batch;
    let adds = !(submissions.is_empty() && additions.is_empty() && retries.is_empty() && hastens.is_empty())
        || !(respecced.is_empty() && limits.is_none() && !new_data_key && access.is_empty());
    !adds && audit.iter().all(|entry| matches!(entry.of, Of::Job(_) | Of::Sweep(_) | Of::Deletion(_)))
}

/// Whether the batch has deletions and purges, and beside them nothing but who did that.
fn only_removes(batch: &Batch) -> bool {
    // All fields are named, so that whoever adds one has to say what it does.
    let Batch {
        submissions,
        additions,
        pages,
        dropped_pages,
        moves,
        unreadable_tasks: _,
        claims,
        lane_heads,
        retries,
        sweeps,
        hastens,
        events,
        jobs,
        respecced,
        deletions,
        // It says something of deletions alone, as the one above does of moves.
        unreadable: _,
        purges,
        limits,
        pauses,
        new_data_key,
        access,
        audit,
    } = batch;
    let does_more = !(submissions.is_empty() && additions.is_empty() && pages.is_empty() && dropped_pages.is_empty())
        || !(moves.is_empty() && claims.is_empty() && lane_heads.is_empty() && retries.is_empty())
        || !(sweeps.is_empty() && hastens.is_empty() && events.is_empty() && jobs.is_empty() && respecced.is_empty())
        || !(limits.is_none() && pauses.is_empty() && !new_data_key && access.is_empty())
        || !audit.iter().all(|entry| matches!(entry.of, Of::Deletion(_)));
    let removes = !(deletions.is_empty() && purges.is_empty());
    removes && !does_more
}

/// How much a batch writes, in bytes, roughly.
fn bytes(batch: &Batch) -> usize {
    let Batch { pages, moves, claims, sweeps, events, respecced, .. } = batch;
    let pages = pages.iter().map(|page| match &page.content {
        Content::Inline(body) => ROW_BYTES + body.len(),
        Content::File { .. } => ROW_BYTES,
    });
    let rows = sweeps.iter().map(|it| it.limit as usize).fold(0, usize::saturating_add);
    added_bytes(batch).saturating_add(rows.saturating_mul(ROW_BYTES)).saturating_add(pages.sum::<usize>())
        + moves.iter().map(|it| ROW_BYTES + it.row.memory_bytes()).sum::<usize>()
        + respecced.iter().map(|job| job.spec.memory_bytes()).sum::<usize>()
        + (claims.len()
            + events.len()
            + batch.jobs.len()
            + batch.audit.len()
            + batch.lane_heads.len()
            + batch.pauses.len())
            * ROW_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::access::AccessRow;
    use crate::model::audit::{AuditEntry, AuditRow};
    use crate::model::ids::{JobId, TaskId};
    use crate::model::task_filter::TaskChoice;
    use crate::model::time::Timestamp;
    use crate::store::NewPage;

    #[test]
    fn who_may_use_which_room() {
        use Left::{All, Another, Deletions, Less, NoReserve};
        use Need::{Closes, Ends, Little, Much, Removes};
        let (all, part, nothing) = (Some(More::All), Some(More::Part), Some(More::Nothing));
        let table = [
            //         all is there, a part is lent, as much as deletions need, less, there never was any
            (Removes, [all, all, all, all, all]),
            (Closes, [part, part, nothing, None, nothing]),
            (Little, [part, nothing, nothing, None, nothing]),
            (Ends, [part, nothing, nothing, None, nothing]),
            (Much, [nothing, None, None, None, nothing]),
        ];
        for (need, rooms) in table {
            let decided = [All, Another, Deletions, Less, NoReserve].map(|left| room(need, left));
            assert_eq!(decided, rooms, "{need:?}");
        }
    }

    const LENT: u64 = 8 << 20;
    const JOB: JobId = JobId(uuid::Uuid::nil());

    fn need(fill: impl FnOnce(&mut Batch)) -> Need {
        let mut batch = Batch::default();
        fill(&mut batch);
        Need::of(&batch, LENT)
    }

    fn audit(of: Of) -> AuditEntry {
        AuditEntry { row: AuditRow::default(), of }
    }

    fn retry(which: Which, limit: u32) -> Retry {
        Retry { job: JOB, which, limit }
    }

    fn hasten(limit: u32) -> Hasten {
        Hasten { job: JOB, which: TaskChoice::All, from: 0, to: 9, limit, due: Timestamp(1) }
    }

    #[test]
    fn what_removes_has_deletions_and_purges_alone() {
        assert_eq!(need(|it| it.deletions.push(JOB)), Need::Removes);
        assert_eq!(need(|it| it.purges.push((JOB, u32::MAX))), Need::Removes);
        let deletes = |of| {
            need(|it| {
                it.deletions.push(JOB);
                it.audit.push(audit(of));
            })
        };
        assert_eq!(deletes(Of::Deletion(0)), Need::Removes);
        assert_eq!(deletes(Of::Always), Need::Little, "a row of something else");
        // None of these removes anything.
        assert_eq!(need(|_| {}), Need::Closes);
        assert_eq!(need(|it| it.audit.push(audit(Of::Always))), Need::Little, "somebody was refused");
        assert_eq!(need(|it| it.audit.push(audit(Of::Deletion(0)))), Need::Closes);
        assert_eq!(need(|it| it.audit.push(audit(Of::Job(JOB)))), Need::Closes, "a job was cancelled");
        assert_eq!(need(|it| it.hastens.push(hasten(1))), Need::Little);
        assert_eq!(need(|it| it.dropped_pages.push(TaskId { job: JOB, index: 0 })), Need::Closes);
        assert_eq!(need(|it| it.new_data_key = true), Need::Little);
    }

    #[test]
    fn what_is_large_is_told_by_what_it_writes() {
        assert_eq!(need(|it| it.retries.push(retry(Which::These(vec![1, 2, 3]), u32::MAX))), Need::Little);
        assert_eq!(need(|it| it.retries.push(retry(Which::These((0..20_000).collect()), u32::MAX))), Need::Much);
        assert_eq!(need(|it| it.retries.push(retry(Which::From(0), 4096))), Need::Little);
        assert_eq!(need(|it| it.retries.push(retry(Which::From(0), u32::MAX))), Need::Much);
        assert_eq!(need(|it| it.hastens.push(hasten(20_000))), Need::Much);
        let page = |bytes: usize| {
            let content = Content::Inline(vec![0; bytes].into());
            let id = TaskId { job: JOB, index: 0 };
            need(|it| it.pages.push(NewPage { id, page: 0, first_item: 0, items: 0, content, next: None }))
        };
        assert_eq!((page(3 << 20), page(50 << 20)), (Need::Closes, Need::Closes));
        // What is added beside it is little.
        let beside = |fill: &dyn Fn(&mut Batch)| {
            need(|it| {
                let content = Content::Inline(vec![0; 5 << 20].into());
                let id = TaskId { job: JOB, index: 0 };
                it.pages.push(NewPage { id, page: 0, first_item: 0, items: 0, content, next: None });
                fill(it);
            })
        };
        assert_eq!(beside(&|it| it.access.push(AccessRow::Required)), Need::Ends);
        assert_eq!(beside(&|it| it.hastens.push(hasten(4096))), Need::Ends);
        assert_eq!(beside(&|it| it.retries.push(retry(Which::From(0), 4096))), Need::Ends);
        assert_eq!(beside(&|it| it.retries.push(retry(Which::From(0), u32::MAX))), Need::Much);
        let rows = |count| need(|it| it.audit.extend(std::iter::repeat_with(|| audit(Of::Always)).take(count)));
        assert_eq!((rows(2_000), rows(20_000)), (Need::Little, Need::Much));
    }

    /// The use of a credential is noted by itself, and would keep all that has ended waiting.
    #[test]
    fn a_little_that_is_added_does_not_keep_ends_out() {
        let page = |bytes: usize| {
            let content = Content::Inline(vec![0; bytes].into());
            NewPage { id: TaskId { job: JOB, index: 0 }, page: 0, first_item: 0, items: 0, content, next: None }
        };
        let with = |fill: &dyn Fn(&mut Batch)| {
            need(|it| {
                it.pages.push(page(5 << 20));
                fill(it);
            })
        };
        assert_eq!(with(&|it| it.access.push(AccessRow::Required)), Need::Ends);
        assert_eq!(with(&|it| it.retries.push(retry(Which::From(0), 4096))), Need::Ends);
        assert_eq!(with(&|it| it.hastens.push(hasten(4096))), Need::Ends);
        assert_eq!(with(&|it| it.hastens.push(hasten(20_000))), Need::Much);
        // A piece is made smaller where there is no room for all of it.
        let mut batch =
            Batch { hastens: vec![hasten(4096)], retries: vec![retry(Which::From(0), 4096)], ..Batch::default() };
        assert_eq!(Need::of(&batch, 1 << 20), Need::Much);
        assert!(batch.leave_out_tasks());
        assert_eq!(Need::of(&batch, 1 << 20), Need::Little);
        assert!(batch.hastens[0].limit > 0 && batch.retries[0].limit > 0, "each goes on");
        assert!(!batch.leave_out_tasks(), "nothing is left to leave out");
    }
}
