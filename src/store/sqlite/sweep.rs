//! Ends many waiting tasks at once, as when a job is cancelled.

use sqlx::SqliteConnection;

use crate::model::event::EventKind;
use crate::model::ids::TaskIndex;
use crate::model::task::TaskState;
use crate::store::sqlite::errors::guard;
use crate::store::sqlite::numbers::{Numbers, key};
use crate::store::{StoreError, Sweep};

/// PENDING: nothing came of it, or it was put back, and no attempt runs.
const PENDING: &str = "SELECT count(*), max(id), json_group_array(id) FROM (SELECT t.id FROM tasks t \
     LEFT JOIN task_states s ON s.id = t.id LEFT JOIN claims c ON c.id = t.id \
     WHERE t.id BETWEEN ?1 AND ?2 AND c.id IS NULL AND coalesce(s.state, 1) = 1 ORDER BY t.id LIMIT ?3)";

const BACKING_OFF: &str = "SELECT count(*), max(id), json_group_array(id) FROM (SELECT s.id FROM task_states s \
     WHERE s.id BETWEEN ?1 AND ?2 AND s.state = 3 AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.id = s.id) \
     ORDER BY s.id LIMIT ?3)";

/// As `Task::apply` with `Cancelled` has it: attempts, fence, first start and log stay.
const END: &str = "INSERT INTO task_states (id, state, attempts, fence, crashes, end_time, error) \
     SELECT value, 6, 0, 0, 0, ?2, ?3 FROM json_each(?1) WHERE true ON CONFLICT (id) DO UPDATE SET \
     state = excluded.state, crashes = 0, due = NULL, end_time = excluded.end_time, error = excluded.error";

const TELL: &str = "INSERT INTO events (id, kind, time, task) \
     SELECT ?2 + key, ?3, ?4, value & 4294967295 FROM json_each(?1)";

/// Returns the index after the last task that ended.
pub(super) async fn sweep(
    conn: &mut SqliteConnection,
    numbers: &Numbers,
    sweep: &Sweep,
) -> Result<TaskIndex, StoreError> {
    let no = numbers.job(sweep.job)?;
    let find = match sweep.state {
        TaskState::Pending => PENDING,
        TaskState::BackingOff => BACKING_OFF,
        state => return Err(StoreError::Fatal(format!("tasks in {state:?} cannot be swept"))),
    };
    let (count, last, ids): (i64, Option<i64>, String) = sqlx::query_as(find)
        .bind(key(no, sweep.from))
        .bind(key(no, u32::MAX))
        .bind(sweep.count)
        .fetch_one(&mut *conn)
        .await?;
    guard(count == i64::from(sweep.count), || {
        format!("{count} tasks of job `{}` are {:?}, not {} as it was counted", sweep.job, sweep.state, sweep.count)
    })?;
    let Some(last) = last else { return Ok(sweep.from) };
    sqlx::query(END)
        .bind(ids.as_str())
        .bind(sweep.time.0)
        .bind(serde_json::to_string(&sweep.error)?)
        .execute(&mut *conn)
        .await?;
    sqlx::query(TELL)
        .bind(ids)
        .bind(key(no, sequence(sweep.first_sequence)?))
        .bind(EventKind::TaskEnded as i64)
        .bind(sweep.time.0)
        .execute(conn)
        .await?;
    Ok((last & i64::from(u32::MAX)) as TaskIndex + 1)
}

/// Sequences share a key with the job's number, 32 bits each.
pub(super) fn sequence(number: u64) -> Result<u32, StoreError> {
    u32::try_from(number).map_err(|_| StoreError::Fatal(format!("a job cannot have an event number {number}")))
}
