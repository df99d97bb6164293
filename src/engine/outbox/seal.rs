//! The batch as it goes to the store: each row once, the latest, and watchers before callers, starts before what followed them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::engine::effect::Effect;
use crate::engine::outbox::{Outbox, Sealed};
use crate::model::access::AccessRow;
use crate::model::audit::{AuditEntry, Of};
use crate::model::book::Book;
use crate::model::ids::{Fence, JobId, TaskId};
use crate::model::job::Job;
use crate::store::{Batch, Claim, TaskMove};

impl Outbox {
    /// Closes the batch. `row` gives a job as it is now; `in_pieces` says whether a piece of it is in the batch, so that
    /// the effect of that piece publishes it. `book` is who may call as it was decided last.
    pub(crate) fn seal(
        &mut self,
        row: impl Fn(JobId) -> Option<Arc<Job>>,
        in_pieces: impl Fn(JobId) -> bool,
        book: &Arc<Book>,
    ) -> Sealed {
        let number = self.number;
        let Outbox { mut batch, effects, dirty, mut events, ended, .. } =
            std::mem::replace(self, Outbox { number: number + 1, ..Outbox::new() });
        let heads: BTreeMap<_, _> = batch.lane_heads.drain(..).map(|(job, lane, head)| ((job, lane), head)).collect();
        // One entry a lane, the latest: of two for one row it would be left to chance which one stays.
        batch.lane_heads = heads.into_iter().map(|((job, lane), head)| (job, lane, head)).collect();
        let Batch { claims, moves, respecced, .. } = &mut batch;
        keep_last(claims, moves);
        keep_last_of_each(respecced);
        // Watchers learn of a change before its caller does, so that who was answered finds it everywhere.
        let mut all = Vec::with_capacity(dirty.len() + effects.len() + 1);
        let is_other =
            |row: &AccessRow| matches!(row, AccessRow::Principal(_) | AccessRow::Tenant(_) | AccessRow::Required);
        let has_others = batch.access.iter().any(is_other);
        all.extend((!batch.access.is_empty()).then(|| Effect::BookStored(book.clone(), has_others)));
        // A start is there when the end of the same task is published: who is told of both is told of it first.
        let (notices, effects): (Vec<Effect>, Vec<Effect>) =
            effects.into_iter().partition(|effect| matches!(effect, Effect::Notify(..)));
        all.extend(notices);
        for id in dirty {
            let Some(job) = row(id) else { continue };
            if !in_pieces(id) {
                all.push(Effect::Publish(job.clone(), events.remove(&id).unwrap_or_default()));
            }
            batch.jobs.push(job);
        }
        all.extend(effects);
        Sealed { number, batch, effects: all, ended }
    }

    /// Takes out what works on a full disk: deletions and purges, with their effects. `None`: there is none.
    pub(crate) fn seal_removals(&mut self) -> Option<Sealed> {
        if self.batch.deletions.is_empty() && self.batch.purges.is_empty() {
            return None;
        }
        let deletions = std::mem::take(&mut self.batch.deletions);
        let unreadable = std::mem::take(&mut self.batch.unreadable);
        let purges = std::mem::take(&mut self.batch.purges);
        let is_removal = |effect: &Effect| matches!(effect, Effect::Deleted { .. } | Effect::Purged { .. });
        let (removals, rest) = std::mem::take(&mut self.effects).into_iter().partition(is_removal);
        self.effects = rest;
        let is_of_deletion = |entry: &AuditEntry| matches!(entry.of, Of::Deletion(_));
        let (audit, others) = std::mem::take(&mut self.batch.audit).into_iter().partition(is_of_deletion);
        self.batch.audit = others;
        let batch = Batch { deletions, unreadable, purges, audit, ..Batch::default() };
        // The number of no batch: nothing waits for it.
        Some(Sealed { number: 0, batch, effects: removals, ended: Vec::new() })
    }
}

/// Keeps the last of what happened to a task within one batch: an attempt that has ended needs no claim, and of several
/// ends the latest has all. The fence says what came after what.
fn keep_last(claims: &mut Vec<Claim>, moves: &mut Vec<TaskMove>) {
    if moves.is_empty() {
        return;
    }
    let mut last: HashMap<TaskId, Fence> = HashMap::with_capacity(moves.len());
    for change in moves.iter() {
        last.insert(change.id, change.row.task.fence);
    }
    claims.retain(|claim| last.get(&claim.id).is_none_or(|ended| claim.task.fence > *ended));
    if last.len() < moves.len() {
        let mut kept = HashSet::with_capacity(last.len());
        moves.reverse();
        moves.retain(|change| kept.insert(change.id));
        moves.reverse();
    }
}

/// Keeps the last entry of each job.
fn keep_last_of_each(jobs: &mut Vec<Arc<Job>>) {
    if jobs.len() < 2 {
        return;
    }
    let mut kept = HashSet::with_capacity(jobs.len());
    jobs.reverse();
    jobs.retain(|job| kept.insert(job.id));
    jobs.reverse();
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::engine::hub::Notice;
    use crate::model::access::AccessAnswer;
    use crate::model::spec::{FetchSpec, JobSpec, TaskOptions, TaskSpec, Work};
    use crate::model::task::{Task, TaskEvent, TaskState};
    use crate::model::time::Timestamp;
    use crate::store::{StoredTask, TaskRow};

    fn id(index: u32) -> TaskId {
        TaskId { job: JobId(uuid::Uuid::nil()), index }
    }

    /// A page that is read moves a head, and there may be one for each few tasks.
    #[test]
    fn heads_of_lanes_do_not_end_the_wait_of_a_batch() {
        let mut outbox = Outbox::new();
        outbox.head(None);
        outbox.head(Some((id(0).job, 0, 7)));
        assert!(outbox.is_patient() && !outbox.is_empty());
        outbox.head(Some((id(0).job, 0, 9)));
        assert_eq!(outbox.seal(|_| None, |_| false, &Arc::default()).batch.lane_heads, [(id(0).job, 0, 9)]);
    }

    /// Nobody needs the books between: with each change, a copy for each would be kept.
    #[test]
    fn of_all_that_is_put_into_the_book_one_copy_is_kept_and_published_first() {
        let mut outbox = Outbox::new();
        let (mut book, mut waiting) = (Arc::<Book>::default(), Vec::new());
        for _ in 0..3 {
            Arc::make_mut(&mut book).take(&AccessRow::Required);
            outbox.access(vec![AccessRow::Required]);
            let (reply, answer) = oneshot::channel();
            waiting.push(answer);
            outbox.then(Effect::AccessStored(AccessAnswer::Done, reply));
        }
        let before = Arc::as_ptr(&book);
        let sealed = outbox.seal(|_| None, |_| false, &book);
        assert_eq!((Arc::as_ptr(&book), Arc::strong_count(&book)), (before, 2));
        assert_eq!(sealed.batch.access.len(), 3);
        assert!(matches!(&sealed.effects[0], Effect::BookStored(stored, true) if Arc::ptr_eq(stored, &book)));
        assert_eq!(sealed.effects.len(), 4);
        outbox.then(Effect::AccessStored(AccessAnswer::Done, oneshot::channel().0));
        assert_eq!(outbox.seal(|_| None, |_| false, &book).effects.len(), 1, "nothing was put into it");
    }

    #[test]
    fn a_start_is_told_before_what_is_published_of_its_job() {
        let mut outbox = Outbox::new();
        let job = Arc::new(Job::new(id(0).job, JobSpec::default(), 1, Timestamp(1)));
        outbox.changed(job.id);
        let fetch = Work::Fetch(FetchSpec::default());
        let spec = Arc::new(TaskSpec { key: String::new(), work: fetch, options: TaskOptions::default().into() });
        let task = Arc::new(StoredTask { index: 0, lane: 0, spec, row: TaskRow::default() });
        outbox.then(Effect::Notify(job.id, 0, Notice::Started(task)));
        let sealed = outbox.seal(|_| Some(job.clone()), |_| false, &Arc::default());
        assert!(matches!(sealed.effects.as_slice(), [Effect::Notify(..), Effect::Publish(..)]));
    }

    #[test]
    fn of_a_job_that_is_updated_twice_the_last_is_stored() {
        let mut outbox = Outbox::new();
        let titled = |job: u128, title: &str| {
            let spec = JobSpec { title: title.into(), ..JobSpec::default() };
            Arc::new(Job::new(JobId(uuid::Uuid::from_u128(job)), spec, 1, Timestamp(1)))
        };
        for (job, title) in [(1, "first"), (2, "other"), (1, "second"), (1, "last")] {
            outbox.respecced(titled(job, title));
        }
        let stored = outbox.seal(|_| None, |_| false, &Arc::default()).batch.respecced;
        assert_eq!(stored.iter().map(|job| job.spec.title.as_str()).collect::<Vec<_>>(), ["other", "last"]);
    }

    #[test]
    fn the_last_of_each_task_is_kept() {
        let now = Timestamp(1);
        let started = |task: &Task| task.apply(TaskEvent::Started, now).unwrap();
        let given_back = |task: &Task| task.apply(TaskEvent::GivenBack(task.fence), now).unwrap();
        let claim = |index, task: &Task| Claim { id: id(index), task: task.clone(), attempt_start: now };
        let to =
            |index, task: &Task| TaskMove { id: id(index), row: TaskRow { task: task.clone(), ..TaskRow::default() } };
        let first = started(&Task::default());
        let (ended, second) = (given_back(&first), started(&given_back(&first)));
        let ended_again = given_back(&second);
        // 0 began; 1 began and ended; 2 ended and began again; 3 ended, began and ended.
        let mut claims = vec![claim(0, &first), claim(1, &first), claim(2, &second), claim(3, &second)];
        let mut moves = vec![to(1, &ended), to(2, &ended), to(3, &ended), to(3, &ended_again)];
        keep_last(&mut claims, &mut moves);
        let left: Vec<(u32, Fence)> = claims.iter().map(|claim| (claim.id.index, claim.task.fence)).collect();
        assert_eq!(left, [(0, 1), (2, 2)]);
        let left: Vec<(u32, Fence)> = moves.iter().map(|change| (change.id.index, change.row.task.fence)).collect();
        assert_eq!(left.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(left[2].1 >= left[1].1);
        assert!(moves.iter().all(|change| change.row.task.state == TaskState::Pending));
    }
}
