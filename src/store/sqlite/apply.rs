//! Applies a batch within a transaction: at once, or, when something of it contradicts the store, job by job.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use sqlx::SqliteConnection;

use crate::model::event::EventKind;
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::job::Job;
use crate::store::sqlite::errors::{Fault, guard};
use crate::store::sqlite::numbers::Numbers;
use crate::store::sqlite::script::Script;
use crate::store::sqlite::{access, additions, events, jobs, pages, pauses, pieces, purge, states};
use crate::store::{
    Added, Addition, Batch, Claim, Committed, Hasten, Hastened, LaneNumber, NewEvent, NewPage, Purged, Retried, Retry,
    Submission, Submitted, Sweep, Swept, TaskMove,
};
use crate::vault::Vault;

/// Applies the changes of a batch in the order of its fields. The last of them may still wait in the script. After a fault the
/// transaction must be rolled back.
pub(super) async fn apply(
    script: &mut Script<'_>,
    numbers: &mut Numbers,
    vault: &Vault,
    batch: &Batch,
) -> Result<Committed, Fault> {
    let mut committed = Committed {
        submissions: jobs::submit(script, numbers, vault, &batch.submissions).await?,
        ..Committed::default()
    };
    if !batch.submissions.is_empty() && !batch.only_submits() {
        // Texts of what is submitted and of what happens to tasks are few, and of both together there are many.
        script.send().await?;
    }
    numbers.learn(script, batch).await?;
    for addition in &batch.additions {
        committed.additions.push(additions::add(script, numbers, vault, addition).await?);
        script.send().await?;
    }
    let Batch { pages, moves, claims, events, .. } = batch;
    script.expect(pages.len().max(moves.len()).max(claims.len()).max(events.len()));
    pages::insert(script, numbers, vault, pages).await?;
    pages::drop_all(script, numbers, &batch.dropped_pages).await?;
    states::forget(script, numbers, &batch.unreadable_tasks)?;
    states::apply(script, numbers, &batch.moves).await?;
    states::claim(script, numbers, &batch.claims).await?;
    pages::note_progress(script, numbers, &batch.pages)?;
    jobs::move_heads(script, numbers, &batch.lane_heads)?;
    for retry in &batch.retries {
        let upto = last_end(batch, retry.job)?;
        committed.retries.push(pieces::retry(script.conn().await?, numbers, retry, upto).await?);
    }
    for sweep in &batch.sweeps {
        committed.sweeps.push(pieces::sweep(script.conn().await?, numbers, sweep).await?);
    }
    for hasten in &batch.hastens {
        committed.hastened.push(pieces::hasten(script.conn().await?, numbers, hasten).await?);
    }
    events::insert(script, numbers, &batch.events).await?;
    if batch.retries.is_empty() && batch.sweeps.is_empty() {
        jobs::update(script, numbers, &batch.jobs)?;
    } else {
        jobs::update(script, numbers, &adjusted(batch, &committed)?)?;
    }
    jobs::update_specs(script, numbers, vault, &batch.respecced).await?;
    committed.deletions = jobs::delete(script, numbers, &batch.deletions, &batch.unreadable).await?;
    for (job, rows_max) in &batch.purges {
        let purged = purge::purge(script.conn().await?, numbers, *job, *rows_max).await?;
        if purged.is_gone {
            numbers.forget([*job]);
        }
        committed.purges.push(purged);
    }
    if let Some(limits) = &batch.limits {
        jobs::set_limits(script.conn().await?, limits).await?;
    }
    if !batch.pauses.is_empty() {
        pauses::write(script.conn().await?, &batch.pauses).await?;
    }
    if !batch.access.is_empty() {
        access::write(script.conn().await?, vault, &batch.access).await?;
    }
    Ok(committed)
}

/// The sequence number of the last end of a task that the batch has an event for. The end came before the retry.
fn last_end(batch: &Batch, job: JobId) -> Result<u32, Fault> {
    let ends = batch.events.iter().filter(|event| event.job == job && event.head.kind == EventKind::TaskEnded);
    events::place(ends.map(|event| event.head.sequence).max().unwrap_or(0))
}

/// The rows of jobs with what retries and sweeps of this batch found.
fn adjusted(batch: &Batch, committed: &Committed) -> Result<Vec<Arc<Job>>, Fault> {
    let mut jobs = batch.jobs.clone();
    let row = |id: JobId| {
        let found = jobs.iter().position(|job| job.id == id);
        guard(found.is_some(), || format!("job `{id}` is swept or retried without its row"))?;
        Ok::<_, Fault>(found.unwrap_or_default())
    };
    let mut places = Vec::new();
    for job in batch.retries.iter().map(|retry| retry.job).chain(batch.sweeps.iter().map(|sweep| sweep.job)) {
        places.push(row(job)?);
    }
    let (retried, swept) = places.split_at(batch.retries.len());
    for (place, found) in retried.iter().zip(&committed.retries) {
        Arc::make_mut(&mut jobs[*place]).put_back(&found.failed, found.cancelled, found.next);
    }
    for ((place, found), sweep) in swept.iter().zip(&committed.sweeps).zip(&batch.sweeps) {
        Arc::make_mut(&mut jobs[*place]).swept(sweep.state, found.count);
    }
    Ok(jobs)
}

/// Applies the batch job by job, each within a savepoint, so that a contradiction excludes the items of that job alone.
pub(super) async fn apply_apart(
    conn: &mut SqliteConnection,
    numbers: &mut Numbers,
    vault: &Vault,
    batch: &Batch,
) -> Result<Committed, Fault> {
    let mut answers = Answers::default();
    for (job, part) in split(batch) {
        sqlx::query("SAVEPOINT part").execute(&mut *conn).await?;
        match apply_part(conn, numbers, vault, &part).await {
            Ok(committed) => answers.add(job, committed),
            Err(Fault::Refused(why)) => {
                sqlx::query("ROLLBACK TO part").execute(&mut *conn).await?;
                numbers.forget([job]);
                answers.refused.push((job, why));
            }
            Err(fault) => return Err(fault),
        }
        sqlx::query("RELEASE part").execute(&mut *conn).await?;
    }
    let rest = Batch {
        limits: batch.limits.clone(),
        pauses: batch.pauses.clone(),
        access: batch.access.clone(),
        ..Batch::default()
    };
    apply_part(conn, numbers, vault, &rest).await?;
    Ok(answers.in_order_of(batch))
}

async fn apply_part(
    conn: &mut SqliteConnection,
    numbers: &mut Numbers,
    vault: &Vault,
    part: &Batch,
) -> Result<Committed, Fault> {
    let mut script = Script::new(conn);
    let committed = apply(&mut script, numbers, vault, part).await?;
    script.send().await?;
    Ok(committed)
}

/// The items of each job as a batch of its own, jobs in the order in which the batch names them first.
fn split(batch: &Batch) -> Vec<(JobId, Batch)> {
    let mut parts: Vec<(JobId, Batch)> = Vec::new();
    let mut places: HashMap<JobId, usize> = HashMap::new();
    macro_rules! split {
        ($($field:ident by $job:expr;)+) => {
            $(for item in &batch.$field {
                let job: JobId = $job(item);
                let place = *places.entry(job).or_insert_with(|| {
                    parts.push((job, Batch::default()));
                    parts.len() - 1
                });
                parts[place].1.$field.push(item.clone());
            })+
        };
    }
    split! {
        submissions by |new: &Submission| new.job.id;
        additions by |addition: &Addition| addition.job;
        pages by |page: &NewPage| page.id.job;
        dropped_pages by |id: &TaskId| id.job;
        moves by |change: &TaskMove| change.id.job;
        unreadable_tasks by |id: &TaskId| id.job;
        claims by |claim: &Claim| claim.id.job;
        lane_heads by |head: &(JobId, LaneNumber, TaskIndex)| head.0;
        retries by |retry: &Retry| retry.job;
        sweeps by |sweep: &Sweep| sweep.job;
        hastens by |hasten: &Hasten| hasten.job;
        events by |event: &NewEvent| event.job;
        jobs by |job: &Arc<Job>| job.id;
        respecced by |job: &Arc<Job>| job.id;
        deletions by |job: &JobId| *job;
        unreadable by |job: &JobId| *job;
        purges by |purge: &(JobId, u32)| purge.0;
    }
    parts
}

/// The answers to the parts of a batch.
#[derive(Default)]
struct Answers {
    submissions: HashMap<JobId, VecDeque<Submitted>>,
    additions: HashMap<JobId, VecDeque<Added>>,
    retries: HashMap<JobId, VecDeque<Retried>>,
    sweeps: HashMap<JobId, VecDeque<Swept>>,
    hastened: HashMap<JobId, VecDeque<Hastened>>,
    deletions: HashMap<JobId, VecDeque<bool>>,
    purges: HashMap<JobId, VecDeque<Purged>>,
    refused: Vec<(JobId, String)>,
}

impl Answers {
    fn add(&mut self, job: JobId, part: Committed) {
        self.submissions.insert(job, part.submissions.into());
        self.additions.insert(job, part.additions.into());
        self.retries.insert(job, part.retries.into());
        self.sweeps.insert(job, part.sweeps.into());
        self.hastened.insert(job, part.hastened.into());
        self.deletions.insert(job, part.deletions.into());
        self.purges.insert(job, part.purges.into());
    }

    /// One answer per item of the batch, in its order; the default for what was refused.
    fn in_order_of(mut self, batch: &Batch) -> Committed {
        Committed {
            submissions: in_order(batch.submissions.iter().map(|new| new.job.id), &mut self.submissions),
            additions: in_order(batch.additions.iter().map(|addition| addition.job), &mut self.additions),
            retries: in_order(batch.retries.iter().map(|retry| retry.job), &mut self.retries),
            sweeps: in_order(batch.sweeps.iter().map(|sweep| sweep.job), &mut self.sweeps),
            hastened: in_order(batch.hastens.iter().map(|hasten| hasten.job), &mut self.hastened),
            deletions: in_order(batch.deletions.iter().copied(), &mut self.deletions),
            purges: in_order(batch.purges.iter().map(|(job, _)| *job), &mut self.purges),
            refused: self.refused,
            data_key: None,
            left_out: None,
        }
    }
}

fn in_order<T: Default>(jobs: impl Iterator<Item = JobId>, answers: &mut HashMap<JobId, VecDeque<T>>) -> Vec<T> {
    jobs.map(|job| answers.get_mut(&job).and_then(VecDeque::pop_front).unwrap_or_default()).collect()
}
