//! What happens to tasks one by one: claims, moves, retries.
//!
//! Writes are guarded: what the batch takes for granted is a condition of the statement, and the number of rows changed
//! says whether it held. When it did not, two parts of the server disagree, and going on would end a task twice.

use sqlx::SqliteConnection;

use crate::model::outcome::Attempt;
use crate::model::task::TaskState;
use crate::store::sqlite::errors::guard;
use crate::store::sqlite::insert::Insert;
use crate::store::sqlite::numbers::{Numbers, key};
use crate::store::sqlite::rows::state_text;
use crate::store::{Claim, Retry, StoreError, TaskMove};

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

pub(super) async fn claim(conn: &mut SqliteConnection, numbers: &Numbers, claims: &[Claim]) -> Result<(), StoreError> {
    CLAIMS
        .run(conn, claims, |row, claim| {
            let task = &claim.task;
            row.add(numbers.task(claim.id)?)?.add(i64::from(task.attempts))?.add(i64::from(task.fence))?;
            row.add(i64::from(task.crashes))?.add(task.start_time.map(|time| time.0))?;
            row.add(claim.attempt_start.0).map(drop)
        })
        .await?;
    Ok(())
}

pub(super) async fn apply(
    conn: &mut SqliteConnection,
    numbers: &Numbers,
    moves: &[TaskMove],
) -> Result<(), StoreError> {
    if moves.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = moves.iter().map(|change| numbers.task(change.id)).collect::<Result<_, _>>()?;
    sqlx::query("DELETE FROM claims WHERE id IN (SELECT value FROM json_each(?1))")
        .bind(serde_json::to_string(&ids)?)
        .execute(&mut *conn)
        .await?;
    let changed = STATES
        .run(conn, moves, |row, change| {
            let task = &change.row.task;
            guard(task.state != TaskState::Running, || format!("task `{}` runs without a claim", change.id))?;
            row.add(numbers.task(change.id)?)?.add(task.state as i64)?.add(i64::from(task.attempts))?;
            row.add(i64::from(task.fence))?.add(i64::from(task.crashes))?.add(task.due.map(|time| time.0))?;
            row.add(task.start_time.map(|time| time.0))?.add(task.end_time.map(|time| time.0))?;
            row.add(task.error.as_ref().map(serde_json::to_string).transpose()?)?;
            row.add(change.row.outcome.as_ref().map(serde_json::to_string).transpose()?)?;
            row.add(log_column(&change.row.log)?).map(drop)
        })
        .await?;
    guard(changed == moves.len() as u64, || {
        format!(
            "{} of {} tasks had ended already, or a newer attempt had begun",
            moves.len() as u64 - changed,
            moves.len()
        )
    })
}

fn log_column(log: &[Attempt]) -> Result<Option<String>, StoreError> {
    if log.is_empty() { Ok(None) } else { Ok(Some(serde_json::to_string(log)?)) }
}

/// Failed and cancelled tasks of the job `?1` (its first key) to `?2` (its last), those in `?3` if it is set.
macro_rules! retried {
    () => {
        "s.state IN (5, 6) AND (?3 IS NULL OR s.id IN (SELECT value FROM json_each(?3)))"
    };
}

pub(super) async fn retry(conn: &mut SqliteConnection, numbers: &Numbers, retry: &Retry) -> Result<(), StoreError> {
    let no = numbers.job(retry.job)?;
    let (first, last) = (key(no, 0), key(no, u32::MAX));
    let ids: Option<Vec<i64>> =
        retry.indexes.as_ref().map(|indexes| indexes.iter().map(|index| key(no, *index)).collect());
    let count = ids.as_ref().map(Vec::len);
    let ids = ids.map(|ids| serde_json::to_string(&ids)).transpose()?;
    // What the event of the end told is in the row that is about to change: it moves to the event.
    let archive = concat!(
        "UPDATE events SET payload = (SELECT ",
        state_text!("NULL"),
        " FROM task_states s WHERE s.id = ?1 + events.task) \
         WHERE events.id BETWEEN ?1 AND ?2 AND kind = 1 AND payload IS NULL \
         AND EXISTS (SELECT 1 FROM task_states s WHERE s.id = ?1 + events.task AND ",
        retried!(),
        ")"
    );
    sqlx::query(archive).bind(first).bind(last).bind(ids.as_deref()).execute(&mut *conn).await?;
    let reset = concat!(
        "UPDATE task_states AS s SET state = 1, attempts = 0, crashes = 0, due = NULL, start_time = NULL, \
         end_time = NULL, error = NULL, outcome = NULL WHERE s.id BETWEEN ?1 AND ?2 AND ",
        retried!()
    );
    let done = sqlx::query(reset).bind(first).bind(last).bind(ids.as_deref()).execute(&mut *conn).await?;
    guard(count.is_none_or(|count| done.rows_affected() == count as u64), || {
        format!("only {} of the tasks to be retried had failed or been cancelled", done.rows_affected())
    })?;
    // The promise that nothing before a lane's head is PENDING would be broken.
    let head = retry.indexes.as_ref().map_or(0, |indexes| indexes.iter().copied().min().unwrap_or(u32::MAX));
    sqlx::query("UPDATE lanes SET head = ?3 WHERE id BETWEEN ?1 AND ?2 AND head > ?3")
        .bind(first)
        .bind(last)
        .bind(head)
        .execute(conn)
        .await?;
    Ok(())
}
