//! Tasks as they were submitted, and reads of tasks with all that came of them.

use serde::Deserialize;
use sqlx::{SqliteConnection, SqlitePool};

use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::task::TaskState;
use crate::store::sqlite::insert::Insert;
use crate::store::sqlite::jobs::blob;
use crate::store::sqlite::numbers::Numbers;
use crate::store::sqlite::rows::{self, array_of, job_no, state_or_null, state_text, task_text};
use crate::store::{LaneNumber, NewTask, StoreError, StoredTask};

static TASKS: Insert = Insert::new("tasks (id, lane, spec)", 3, "");
static KEYS: Insert = Insert::new("task_keys (job, key, task)", 3, "");

pub(super) async fn insert(
    conn: &mut SqliteConnection,
    numbers: &Numbers,
    tasks: &[NewTask],
) -> Result<(), StoreError> {
    TASKS
        .run(conn, tasks, |row, task| {
            let spec = serde_json::to_string(&task.spec)?;
            row.add(numbers.task(task.id)?)?.add(numbers.lane(task.id.job, task.lane)?)?.add(spec).map(drop)
        })
        .await?;
    let keyed: Vec<&NewTask> = tasks.iter().filter(|task| !task.spec.key.is_empty()).collect();
    KEYS.run(conn, &keyed, |row, task| {
        row.add(numbers.job(task.id.job)?)?.add(task.spec.key.as_str())?.add(numbers.task(task.id)?).map(drop)
    })
    .await?;
    Ok(())
}

pub(super) async fn taken_keys(pool: &SqlitePool, job: JobId, keys: &[String]) -> Result<Vec<String>, StoreError> {
    let sql = concat!(
        "SELECT json_group_array(value) FROM (SELECT DISTINCT value FROM json_each(?2) WHERE EXISTS \
         (SELECT 1 FROM task_keys k WHERE k.job = ",
        job_no!(),
        " AND k.key = value))"
    );
    let text: String =
        sqlx::query_scalar(sql).bind(blob(job)).bind(serde_json::to_string(keys)?).fetch_one(pool).await?;
    rows::parse(&text)
}

/// The tables that make up a task, all found by one key.
macro_rules! parts {
    () => {
        " FROM tasks t LEFT JOIN task_states s ON s.id = t.id LEFT JOIN claims c ON c.id = t.id "
    };
}

pub(super) async fn task(pool: &SqlitePool, id: TaskId) -> Result<Option<StoredTask>, StoreError> {
    let sql = concat!("SELECT ", task_text!("s.log"), parts!(), "WHERE t.id = (", job_no!(), " << 32) | ?2");
    let text: Option<String> = sqlx::query_scalar(sql).bind(blob(id.job)).bind(id.index).fetch_optional(pool).await?;
    one(text.as_deref())
}

pub(super) async fn by_key(pool: &SqlitePool, job: JobId, key: &str) -> Result<Option<StoredTask>, StoreError> {
    let sql = concat!(
        "SELECT ",
        task_text!("s.log"),
        parts!(),
        "WHERE t.id = (SELECT k.task FROM task_keys k WHERE k.job = ",
        job_no!(),
        " AND k.key = ?2)"
    );
    let text: Option<String> = sqlx::query_scalar(sql).bind(blob(job)).bind(key).fetch_optional(pool).await?;
    one(text.as_deref())
}

fn one(text: Option<&str>) -> Result<Option<StoredTask>, StoreError> {
    text.map(|text| rows::parse::<rows::TaskLine>(text)?.into_task()).transpose()
}

/// The keys of a job's tasks from index `?2` on, of the table `$t`.
macro_rules! from_index {
    ($t:literal) => {
        concat!($t, ".id >= ((", job_no!(), " << 32) | ?2) AND ", $t, ".id <= ((", job_no!(), " << 32) | 4294967295)")
    };
}

/// Where a listing finds its tasks: without PENDING ones, those that never moved need not be looked at.
fn listing(states: &[TaskState]) -> &'static str {
    const ALL: &str = array_of!(
        "SELECT ",
        task_text!("NULL"),
        " AS line",
        parts!(),
        "WHERE ",
        from_index!("t"),
        " ORDER BY t.id LIMIT ?3"
    );
    const SOME: &str = array_of!(
        "SELECT ",
        task_text!("NULL"),
        " AS line",
        parts!(),
        "WHERE ",
        from_index!("t"),
        " AND CASE WHEN c.id IS NULL THEN coalesce(s.state, 1) ELSE 2 END IN (SELECT value FROM json_each(?4)) \
         ORDER BY t.id LIMIT ?3"
    );
    const RUNNING: &str = array_of!(
        "SELECT ",
        task_text!("NULL"),
        " AS line FROM claims c CROSS JOIN tasks t ON t.id = c.id LEFT JOIN task_states s ON s.id = c.id WHERE ",
        from_index!("c"),
        " ORDER BY c.id LIMIT ?3"
    );
    const MOVED: &str = array_of!(
        "SELECT ",
        task_text!("NULL"),
        " AS line FROM task_states s CROSS JOIN tasks t ON t.id = s.id LEFT JOIN claims c ON c.id = s.id WHERE ",
        from_index!("s"),
        " AND c.id IS NULL AND s.state IN (SELECT value FROM json_each(?4)) ORDER BY s.id LIMIT ?3"
    );
    match states {
        [] => ALL,
        [TaskState::Running] => RUNNING,
        _ if states.iter().any(|state| matches!(state, TaskState::Pending | TaskState::Running)) => SOME,
        _ => MOVED,
    }
}

pub(super) async fn list(
    pool: &SqlitePool,
    job: JobId,
    states: &[TaskState],
    from: TaskIndex,
    limit: u32,
) -> Result<Vec<StoredTask>, StoreError> {
    let numbers: Vec<i64> = states.iter().map(|state| *state as i64).collect();
    let text: String = sqlx::query_scalar(listing(states))
        .bind(blob(job))
        .bind(from)
        .bind(limit)
        .bind(serde_json::to_string(&numbers)?)
        .fetch_one(pool)
        .await?;
    rows::parse_tasks(&text)
}

/// PENDING tasks of a lane. Quick wherever in the lane `from` is: both conditions are ranges of one index.
pub(super) async fn lane_page(
    pool: &SqlitePool,
    job: JobId,
    lane: LaneNumber,
    from: TaskIndex,
    limit: u32,
) -> Result<Vec<StoredTask>, StoreError> {
    let sql = array_of!(
        "SELECT ",
        task_text!("s.log"),
        " AS line FROM tasks t INDEXED BY tasks_lane LEFT JOIN task_states s ON s.id = t.id \
         LEFT JOIN claims c ON c.id = t.id WHERE t.lane = ((",
        job_no!(),
        " << 32) | ?3) AND ",
        from_index!("t"),
        " AND c.id IS NULL AND coalesce(s.state, 1) = 1 ORDER BY t.id LIMIT ?4"
    );
    let text: String =
        sqlx::query_scalar(sql).bind(blob(job)).bind(from).bind(lane).bind(limit).fetch_one(pool).await?;
    rows::parse_tasks(&text)
}

/// A task's index and the number of its state.
#[derive(Deserialize)]
struct StateOf(TaskIndex, i64);

pub(super) async fn states(
    pool: &SqlitePool,
    job: JobId,
    indexes: &[TaskIndex],
) -> Result<Vec<(TaskIndex, TaskState)>, StoreError> {
    let sql = array_of!(
        "SELECT '[' || (t.id & 4294967295) || ',' || CASE WHEN c.id IS NULL THEN coalesce(s.state, 1) ELSE 2 END || ']' \
         AS line",
        parts!(),
        "WHERE t.id IN (SELECT (",
        job_no!(),
        " << 32) | value FROM json_each(?2)) ORDER BY t.id"
    );
    let text: String =
        sqlx::query_scalar(sql).bind(blob(job)).bind(serde_json::to_string(indexes)?).fetch_one(pool).await?;
    let found: Vec<StateOf> = rows::parse(&text)?;
    let state = |number| {
        TaskState::from_number(number)
            .ok_or_else(|| StoreError::Fatal(format!("a task has the unknown state {number}")))
    };
    found.into_iter().map(|StateOf(index, number)| Ok((index, state(number)?))).collect()
}

pub(super) async fn download_paths(
    pool: &SqlitePool,
    job: JobId,
    from: TaskIndex,
    limit: u32,
) -> Result<Vec<(TaskIndex, String)>, StoreError> {
    let sql = array_of!(
        "SELECT json_array(s.id & 4294967295, s.outcome ->> '$.download.path') AS line FROM task_states s WHERE ",
        from_index!("s"),
        " AND s.state = 4 AND s.outcome ->> '$.download.path' IS NOT NULL ORDER BY s.id LIMIT ?3"
    );
    let text: String = sqlx::query_scalar(sql).bind(blob(job)).bind(from).bind(limit).fetch_one(pool).await?;
    rows::parse(&text)
}
