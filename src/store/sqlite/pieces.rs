//! What happens to many tasks of a job at once, in pieces: sweeps that end them, and retries that put them back.
//!
//! The keys of a piece are gathered in a temporary table, which lies in memory; they do not leave `SQLite`.

use std::collections::HashSet;
use std::ops::Range;

use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::model::event::EventKind;
use crate::model::failure::TaskError;
use crate::model::failures::Alike;
use crate::model::ids::{JobId, TaskIndex};
use crate::model::task::TaskState;
use crate::model::task_filter::{TaskChoice, TaskFilter};
use crate::store::listing::host_of;
use crate::store::sqlite::conditions::{self, ERROR};
use crate::store::sqlite::errors::{Fault, guard};
use crate::store::sqlite::events::place;
use crate::store::sqlite::lines;
use crate::store::sqlite::numbers::{Numbers, key};
use crate::store::sqlite::rows::json_value;
use crate::store::sqlite::text::Text;
use crate::store::sqlite::values::{Value, Values};
use crate::store::{Hasten, Hastened, Retried, Retry, Sweep, Swept, Which};

/// How many tasks one sweep looks at, those that are in another state included: about 30 ms.
const SWEEP_LOOK_MAX: i64 = 65_536;
/// How many tasks of a state one piece looks at, where not all of them fit: as long.
const FIT_LOOK_MAX: u32 = 16_384;

/// Made once for the connection. `n` counts from 1.
pub(super) const PIECE: &str = "CREATE TEMP TABLE piece (n INTEGER PRIMARY KEY, id INTEGER NOT NULL)";

/// PENDING: nothing happened to it, or it was put back, and no attempt runs.
const PENDING: &str = "c.id IS NULL AND (s.id IS NULL OR s.state = 1)";
const BACKING_OFF: &str = "c.id IS NULL AND s.state = 3";

/// The ranges of some states in the index from `?1` to `?2`, merged. Those of tasks that run are left out.
fn ranges(states: &[TaskState]) -> String {
    let arm = |state: &TaskState, begun: u8| {
        let unclaimed =
            if state.is_ended() { "" } else { " AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.id = s.id)" };
        format!(
            "SELECT s.id AS id FROM task_states s INDEXED BY task_states_state WHERE s.state = {} \
             AND (s.fence > 0) = {begun} AND s.id BETWEEN ?1 AND ?2{unclaimed}",
            *state as i64
        )
    };
    let arms: Vec<String> = states.iter().flat_map(|state| [arm(state, 0), arm(state, 1)]).collect();
    arms.join(" UNION ALL ") + " ORDER BY id"
}

/// The tables that make up a task `t`.
const OF_TASK: &str = "LEFT JOIN task_states s ON s.id = t.id LEFT JOIN claims c ON c.id = t.id";

/// A search for the tasks of a piece: a text with the first and the last key, a limit, and what else it needs.
struct Find {
    text: String,
    values: Values,
}

impl Find {
    fn new(indexes: &Range<i64>, no: i64, limit: u32) -> Find {
        let mut values = Values::default();
        values.add(Value::Number(key(no, 0) + indexes.start));
        values.add(Value::Number(key(no, 0) + indexes.end - 1));
        values.add(Value::Number(limit.into()));
        Find { text: "INSERT INTO temp.piece (id) ".to_owned(), values }
    }

    /// Tasks that nothing happened to, and those that were put back.
    fn pending(mut self, no: i64, which: &TaskChoice) -> Result<Find, Fault> {
        match which {
            TaskChoice::These(indexes) => return self.these(no, indexes, PENDING),
            TaskChoice::Fitting(filter) if !filter.host.is_empty() => {
                let at = conditions::of_host(&filter.host, &no.to_string(), &mut self.values);
                self.text += &format!(
                    "SELECT t.id FROM tasks t {OF_TASK} WHERE t.id BETWEEN ?1 AND ?2 AND {PENDING}{at} ORDER BY t.id LIMIT ?3 + 0"
                );
                return Ok(self);
            }
            TaskChoice::Fitting(_) | TaskChoice::All => {}
        }
        self.text += &format!(
            "SELECT t.id FROM tasks t {OF_TASK} WHERE t.id BETWEEN ?1 AND ?2 AND {PENDING} ORDER BY t.id LIMIT ?3 + 0"
        );
        Ok(self)
    }

    /// Tasks of a list for which `holds` does.
    fn these(mut self, no: i64, indexes: &[TaskIndex], holds: &str) -> Result<Find, Fault> {
        let base = self.values.add(Value::Number(key(no, 0)));
        let indexes = self.values.add(Value::Text(serde_json::to_string(indexes)?));
        self.text += &format!(
            "SELECT t.id FROM (SELECT DISTINCT {base} + value AS id FROM json_each({indexes})) w \
             CROSS JOIN tasks t ON t.id = w.id {OF_TASK} WHERE t.id BETWEEN ?1 AND ?2 AND {holds} ORDER BY t.id LIMIT ?3 + 0"
        );
        Ok(self)
    }

    /// Tasks in some states.
    fn in_states(mut self, no: i64, states: &[TaskState], filter: Option<&TaskFilter>) -> Find {
        let ranges = ranges(states);
        let Some(filter) = filter else {
            self.text += &format!("{ranges} LIMIT ?3 + 0");
            return self;
        };
        let mut fits = conditions::of_failure(filter);
        if !filter.host.is_empty() {
            fits += &conditions::of_host(&filter.host, &no.to_string(), &mut self.values);
        }
        self.text += &format!(
            "SELECT s.id FROM ({ranges}) p CROSS JOIN task_states s ON s.id = p.id CROSS JOIN tasks t ON t.id = p.id \
             LEFT JOIN claims c ON c.id = p.id WHERE true{fits} LIMIT ?3 + 0"
        );
        self
    }
}

/// Where a piece ends that looks at a bounded number of tasks in some states: behind the last of them, or at `end`.
async fn window(
    conn: &mut SqliteConnection,
    no: i64,
    indexes: &Range<i64>,
    states: &[TaskState],
) -> Result<i64, Fault> {
    let text = format!("SELECT count(*), coalesce(max(id), 0) FROM ({} LIMIT {FIT_LOOK_MAX})", ranges(states));
    let (count, last): (u32, i64) = sqlx::query_as(AssertSqlSafe(text))
        .bind(key(no, 0) + indexes.start)
        .bind(key(no, 0) + indexes.end - 1)
        .fetch_one(conn)
        .await?;
    Ok(if count < FIT_LOOK_MAX { indexes.end } else { last - key(no, 0) + 1 })
}

/// As `Task::apply` with `Cancelled` has it: attempts, fence, first start and log stay.
const END: &str = "INSERT INTO task_states (id, state, attempts, fence, crashes, end_time, error) \
     SELECT id, 6, 0, 0, 0, ?1, ?2 FROM temp.piece WHERE true ORDER BY n ON CONFLICT (id) DO UPDATE SET \
     state = excluded.state, crashes = 0, due = NULL, end_time = excluded.end_time, error = excluded.error";

const TELL: &str = "INSERT INTO events (id, kind, time, task) \
     SELECT ?1 + n - 1, ?2, ?3, id & 4294967295 FROM temp.piece ORDER BY n";

/// Gathers a piece of the tasks that wait. Returns it, and up to which index it was looked for.
async fn waiting(
    conn: &mut SqliteConnection,
    no: i64,
    state: TaskState,
    which: &TaskChoice,
    indexes: Range<i64>,
    limit: u32,
) -> Result<(Piece, i64), Fault> {
    let Range { start, end } = indexes;
    if !which.has_state(state) || start >= end {
        return Ok((Piece { count: 0, first: 0, end }, end));
    }
    let last = match (state, which) {
        (_, TaskChoice::These(_)) => end,
        (TaskState::Pending, _) => (start + SWEEP_LOOK_MAX).min(end),
        (_, TaskChoice::Fitting(_)) => window(conn, no, &(start..end), &[state]).await?,
        _ => end,
    };
    let find = Find::new(&(start..last), no, limit);
    let find = match (state, which) {
        (TaskState::Pending, which) => find.pending(no, which)?,
        (TaskState::BackingOff, TaskChoice::These(indexes)) => find.these(no, indexes, BACKING_OFF)?,
        (TaskState::BackingOff, TaskChoice::All) => find.in_states(no, &[state], None),
        (TaskState::BackingOff, TaskChoice::Fitting(filter)) => find.in_states(no, &[state], Some(filter)),
        (state, _) => return Err(Fault::Refused(format!("tasks in {state} do not wait"))),
    };
    Ok((gather(conn, find).await?, last))
}

/// Ends a piece of the waiting tasks of a job.
pub(super) async fn sweep(conn: &mut SqliteConnection, numbers: &Numbers, sweep: &Sweep) -> Result<Swept, Fault> {
    let no = numbers.job(sweep.job)?;
    let total = numbers.total(sweep.job)?;
    let end = sweep.to.map_or(total, |to| total.min(to.into()));
    // Lanes may be many, so their heads are asked for at the beginning only.
    let is_begin = sweep.state == TaskState::Pending && sweep.from == 0;
    let first = if is_begin { lowest_head(conn, no).await? } else { i64::from(sweep.from) };
    let (piece, last) = waiting(conn, no, sweep.state, &sweep.which, first..end, sweep.limit).await?;
    let mut indexes = Vec::new();
    if piece.count > 0 {
        let last_sequence = sweep.first_sequence + u64::from(piece.count) - 1;
        place(last_sequence)?;
        let error = share(conn, no, &sweep.error).await?;
        sqlx::query(END).bind(sweep.time.0).bind(error).execute(&mut *conn).await?;
        sqlx::query(TELL)
            .bind(key(no, place(sweep.first_sequence)?))
            .bind(EventKind::TaskEnded as i64)
            .bind(sweep.time.0)
            .execute(&mut *conn)
            .await?;
        if sweep.which != TaskChoice::All {
            let sql = "SELECT id & 4294967295 FROM temp.piece ORDER BY n";
            indexes = sqlx::query_scalar(sql).fetch_all(&mut *conn).await?;
        }
        clear(conn).await?;
    }
    // A piece that is not full has seen all that it was to look at.
    let next = if piece.count < sweep.limit { last } else { piece.end };
    Ok(Swept { count: piece.count, indexes, next: (next < end).then_some(next as TaskIndex) })
}

/// Makes a piece of the tasks due that back off.
pub(super) async fn hasten(conn: &mut SqliteConnection, numbers: &Numbers, hasten: &Hasten) -> Result<Hastened, Fault> {
    let no = numbers.job(hasten.job)?;
    let end = numbers.total(hasten.job)?.min(hasten.to.into());
    let indexes = i64::from(hasten.from)..end;
    let (piece, last) = waiting(conn, no, TaskState::BackingOff, &hasten.which, indexes, hasten.limit).await?;
    let mut tasks = Vec::new();
    if piece.count > 0 {
        let sql = "UPDATE task_states SET due = ?1 WHERE id IN (SELECT id FROM temp.piece) AND due > ?1";
        sqlx::query(sql).bind(hasten.due.0).execute(&mut *conn).await?;
        let sql = "SELECT t.id & 4294967295, t.lane & 4294967295 FROM temp.piece p CROSS JOIN tasks t ON t.id = p.id \
                   ORDER BY p.n";
        tasks = sqlx::query_as(sql).fetch_all(&mut *conn).await?;
        clear(conn).await?;
    }
    let next = if piece.count < hasten.limit { last } else { piece.end };
    Ok(Hastened { tasks, next: (next < end).then_some(next as TaskIndex) })
}

/// No task of the job before this index is PENDING. A job without lanes has no tasks.
async fn lowest_head(conn: &mut SqliteConnection, no: i64) -> Result<i64, Fault> {
    let sql = "SELECT CAST(coalesce(min(head), 0) AS INTEGER) FROM lanes WHERE id BETWEEN ?1 AND ?2";
    Ok(sqlx::query_scalar(sql).bind(key(no, 0)).bind(key(no, u32::MAX)).fetch_one(conn).await?)
}

/// The place of an error among those that tasks of the job share.
async fn share(conn: &mut SqliteConnection, no: i64, error: &TaskError) -> Result<i64, Fault> {
    let text = serde_json::to_string(error)?;
    // The pieces of one call follow each other. Calls may be many, and each may have its own reason, so only the last few
    // are looked at.
    let sql = "SELECT max(id) FILTER (WHERE error = ?3), max(id) FROM \
               (SELECT id, error FROM shared_errors WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT 8)";
    let (same, last): (Option<i64>, Option<i64>) =
        sqlx::query_as(sql).bind(key(no, 0)).bind(key(no, u32::MAX)).bind(text.as_str()).fetch_one(&mut *conn).await?;
    let id = same.or(last.map(|last| last + 1)).unwrap_or(key(no, 0));
    if same.is_none() {
        sqlx::query("INSERT INTO shared_errors (id, error) VALUES (?1, ?2)").bind(id).bind(text).execute(conn).await?;
    }
    Ok(id - key(no, 0))
}

/// The old rows of the piece, for the events that show them.
const KEEP_OLD: &str = "INSERT INTO old_states \
     (id, upto, state, attempts, fence, crashes, due, start_time, end_time, error, outcome) \
     SELECT s.id, ?1, s.state, s.attempts, s.fence, s.crashes, s.due, s.start_time, s.end_time, s.error, s.outcome \
     FROM temp.piece p CROSS JOIN task_states s ON s.id = p.id ORDER BY p.n";

/// As `Task::apply` with `Retried` has it.
const PUT_BACK: &str = "UPDATE task_states SET state = 1, attempts = 0, crashes = 0, due = NULL, start_time = NULL, \
     end_time = NULL, error = NULL, outcome = NULL WHERE id IN (SELECT id FROM temp.piece)";

/// The promise that nothing before a lane's head is PENDING would be broken.
const LOWER_HEADS: &str = "UPDATE lanes SET head = m.first FROM (SELECT t.lane AS lane, min(t.id) & 4294967295 AS first \
     FROM temp.piece p CROSS JOIN tasks t ON t.id = p.id GROUP BY t.lane) m WHERE lanes.id = m.lane AND head > m.first";

/// Puts a piece of the failed and cancelled tasks of a job back. Events up to the sequence number `upto` show the old rows.
pub(super) async fn retry(
    conn: &mut SqliteConnection,
    numbers: &Numbers,
    retry: &Retry,
    upto: u32,
) -> Result<Retried, Fault> {
    let no = numbers.job(retry.job)?;
    let end = numbers.total(retry.job)?;
    let (piece, last) = match &retry.which {
        Which::From(index) => ended_badly(conn, no, i64::from(*index)..end, None, retry.limit).await?,
        Which::Fitting(index, filter) => {
            ended_badly(conn, no, i64::from(*index)..end, Some(filter), retry.limit).await?
        }
        Which::These(indexes) => (gather_these(conn, no, retry.job, indexes).await?, end),
    };
    let is_full = !matches!(retry.which, Which::These(_)) && piece.count == retry.limit;
    let next = if is_full { piece.end } else { last };
    let next = (next < end).then_some(next as TaskIndex);
    if piece.count == 0 {
        return Ok(Retried { next: next.filter(|_| retry.limit > 0), ..Retried::default() });
    }
    let failed = failed_alike(conn).await?;
    sqlx::query(KEEP_OLD).bind(last_event(conn, no).await?.max(upto)).execute(&mut *conn).await?;
    sqlx::query(PUT_BACK).execute(&mut *conn).await?;
    sqlx::query(LOWER_HEADS).execute(&mut *conn).await?;
    clear(conn).await?;
    let retried = Retried { failed, cancelled: 0, first: Some(piece.first as TaskIndex), next };
    Ok(Retried { cancelled: piece.count - retried.failed_count(), ..retried })
}

/// Returns the tasks of the piece that failed, by how they did: as [`failed_host`](crate::store::StoredTask::failed_host) has it, at the host of the last
/// attempt's URL, or else at the task's own, which is that of its lane.
async fn failed_alike(conn: &mut SqliteConnection) -> Result<Vec<Alike>, Fault> {
    // Up to its path a URL says what its host is. URLs are many, and hosts are few.
    let sql = format!(
        "SELECT CAST(coalesce({}, '') AS TEXT), min(max(CAST(coalesce({}, 0) AS INTEGER), 0), 65535), \
         substr(url, 1, 8 + instr(substr(url, 9) || '/', '/')), json_group_array(id & 4294967295) FROM ( \
         SELECT s.id AS id, {ERROR} AS error, coalesce(nullif({}, ''), \
         (SELECT 'https://' || h.host FROM tasks t CROSS JOIN lanes h ON h.id = t.lane WHERE t.id = s.id), '') AS url \
         FROM temp.piece p CROSS JOIN task_states s ON s.id = p.id WHERE s.state = 5 ORDER BY p.n) GROUP BY 1, 2, 3",
        json_value!("error", "$.reason"),
        json_value!("error", "$.http_status"),
        json_value!("s.log", "$[#-1].url")
    );
    let found: Vec<(Text, u16, Text, Text)> = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(conn).await?;
    let alike = found.into_iter().map(|(reason, http_status, origin, tasks)| -> Result<Alike, Fault> {
        Ok(Alike {
            reason: serde_json::from_value(reason.shown().into()).ok(),
            http_status,
            host: host_of(&origin.shown()),
            tasks: lines::parse(&tasks, "tasks that failed alike")?,
        })
    });
    alike.collect()
}

/// Gathers a piece of the tasks that failed or were cancelled. Returns it, and up to which index it was looked for.
async fn ended_badly(
    conn: &mut SqliteConnection,
    no: i64,
    indexes: Range<i64>,
    filter: Option<&TaskFilter>,
    limit: u32,
) -> Result<(Piece, i64), Fault> {
    let states: Vec<TaskState> = [TaskState::Failed, TaskState::Cancelled]
        .into_iter()
        .filter(|state| filter.is_none_or(|filter| filter.has_state(*state)))
        .collect();
    if indexes.is_empty() || states.is_empty() {
        return Ok((Piece { count: 0, first: 0, end: indexes.end }, indexes.end));
    }
    let last = if filter.is_some() { window(conn, no, &indexes, &states).await? } else { indexes.end };
    let find = Find::new(&(indexes.start..last), no, limit).in_states(no, &states, filter);
    Ok((gather(conn, find).await?, last))
}

/// The number of the last event of a job; 0 without events.
async fn last_event(conn: &mut SqliteConnection, no: i64) -> Result<u32, Fault> {
    let sql = "SELECT coalesce(max(id) & 4294967295, 0) FROM events WHERE id BETWEEN ?1 AND ?2";
    Ok(sqlx::query_scalar(sql).bind(key(no, 0)).bind(key(no, u32::MAX)).fetch_one(conn).await?)
}

/// What `temp.piece` holds: how many tasks, the first index, and the index after the last one.
struct Piece {
    count: u32,
    first: i64,
    end: i64,
}

async fn gather(conn: &mut SqliteConnection, Find { text, values }: Find) -> Result<Piece, Fault> {
    values.run(text, conn).await?;
    piece(conn).await
}

async fn gather_these(conn: &mut SqliteConnection, no: i64, job: JobId, indexes: &[TaskIndex]) -> Result<Piece, Fault> {
    let sql = "INSERT INTO temp.piece (id) SELECT s.id FROM (SELECT DISTINCT ?1 + value AS id FROM json_each(?2)) w \
               CROSS JOIN task_states s ON s.id = w.id WHERE s.state IN (5, 6) ORDER BY s.id";
    sqlx::query(sql).bind(key(no, 0)).bind(serde_json::to_string(indexes)?).execute(&mut *conn).await?;
    let piece = piece(conn).await?;
    let wanted = indexes.iter().collect::<HashSet<_>>().len();
    guard(piece.count as usize == wanted, || {
        format!("only {} of the {wanted} tasks of job `{job}` to be retried are FAILED or CANCELLED", piece.count)
    })?;
    Ok(piece)
}

async fn piece(conn: &mut SqliteConnection) -> Result<Piece, Fault> {
    let sql =
        "SELECT count(*), coalesce(min(id) & 4294967295, 0), coalesce((max(id) & 4294967295) + 1, 0) FROM temp.piece";
    let (count, first, end): (u32, i64, i64) = sqlx::query_as(sql).fetch_one(conn).await?;
    Ok(Piece { count, first, end })
}

async fn clear(conn: &mut SqliteConnection) -> Result<(), Fault> {
    sqlx::query("DELETE FROM temp.piece").execute(conn).await?;
    Ok(())
}
