//! What happens to tasks one by one: claims and moves.
//!
//! Writes are guarded: what the batch takes for granted is a condition of the statement, and the number of rows changed
//! says whether it held. When it did not, two parts of the server disagree, and going on would end a task twice.

use crate::model::ids::TaskId;
use crate::model::outcome::Attempt;
use crate::model::task::TaskState;
use crate::store::sqlite::errors::{Fault, guard};
use crate::store::sqlite::insert::{Insert, Values};
use crate::store::sqlite::numbers::Numbers;
use crate::store::sqlite::script::{Refusal, Script};
use crate::store::{Claim, TaskMove};

/// A second claim of a task violates the primary key.
static CLAIMS: Insert = Insert::new("claims (id, attempts, fence, crashes, start_time, attempt_start)", 6, "");

/// A row of a task that has ended stays as it is, and a fence never goes back.
static STATES: Insert = Insert::new(
    "task_states (id, state, attempts, fence, crashes, due, start_time, end_time, error, outcome, log)",
    11,
    "ON CONFLICT (id) DO UPDATE SET state = excluded.state, attempts = excluded.attempts, fence = excluded.fence, \
     crashes = excluded.crashes, due = excluded.due, start_time = excluded.start_time, end_time = excluded.end_time, \
     error = excluded.error, outcome = excluded.outcome, log = excluded.log \
     WHERE task_states.state <= 3 AND excluded.fence >= task_states.fence",
);

pub(super) async fn claim(script: &mut Script<'_>, numbers: &Numbers, claims: &[Claim]) -> Result<(), Fault> {
    let bind = |row: &mut Values, claim: &Claim| {
        let task = &claim.task;
        row.add(numbers.task(claim.id)?)?.add(i64::from(task.attempts))?.add(i64::from(task.fence))?;
        row.add(i64::from(task.crashes))?.add(task.start_time.map(|time| time.0))?;
        row.add(claim.attempt_start.0).map(drop)
    };
    script.insert(&CLAIMS, claims, bind, None).await
}

/// Removes rows that cannot be read, before others are written in their place.
pub(super) fn forget(script: &mut Script<'_>, numbers: &Numbers, tasks: &[TaskId]) -> Result<(), Fault> {
    if tasks.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = tasks.iter().map(|id| numbers.task(*id)).collect::<Result<_, _>>()?;
    let sql = "DELETE FROM task_states WHERE id IN (SELECT value FROM json_each(?))";
    script.statement(sql, serde_json::to_string(&ids)?)
}

pub(super) async fn apply(script: &mut Script<'_>, numbers: &Numbers, moves: &[TaskMove]) -> Result<(), Fault> {
    if moves.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = moves.iter().map(|change| numbers.task(change.id)).collect::<Result<_, _>>()?;
    let sql = "DELETE FROM claims WHERE id IN (SELECT value FROM json_each(?))";
    script.statement(sql, serde_json::to_string(&ids)?)?;
    let bind = |row: &mut Values, change: &TaskMove| {
        let task = &change.row.task;
        guard(task.state != TaskState::Running, || format!("task `{}` runs without a claim", change.id))?;
        row.add(numbers.task(change.id)?)?.add(task.state as i64)?.add(i64::from(task.attempts))?;
        row.add(i64::from(task.fence))?.add(i64::from(task.crashes))?.add(task.due.map(|time| time.0))?;
        row.add(task.start_time.map(|time| time.0))?.add(task.end_time.map(|time| time.0))?;
        row.add(task.error.as_ref().map(serde_json::to_string).transpose()?)?;
        row.add(change.row.outcome.as_ref().map(serde_json::to_string).transpose()?)?;
        row.add(log_column(&change.row.log)?).map(drop)
    };
    let count = moves.len();
    let refusal: Refusal =
        Box::new(move || format!("one of {count} tasks had ended already, or a newer attempt had begun"));
    script.insert(&STATES, moves, bind, Some(refusal)).await
}

fn log_column(log: &[Attempt]) -> Result<Option<String>, Fault> {
    if log.is_empty() { Ok(None) } else { Ok(Some(serde_json::to_string(log)?)) }
}
