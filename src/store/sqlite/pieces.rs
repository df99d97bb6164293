//! What happens to many tasks of a job at once, in pieces: sweeps that end them, and retries that put them back.
//!
//! The keys of a piece are gathered in a temporary table, which lies in memory; they do not leave `SQLite`.

use std::collections::HashSet;
use std::ops::Range;

use sqlx::SqliteConnection;

use crate::model::event::EventKind;
use crate::model::failure::TaskError;
use crate::model::ids::{JobId, TaskIndex};
use crate::model::task::TaskState;
use crate::store::sqlite::errors::{Fault, guard};
use crate::store::sqlite::events::place;
use crate::store::sqlite::numbers::{Numbers, key};
use crate::store::{Retried, Retry, Sweep, Swept, Which};

/// How many tasks one sweep looks at, those that are in another state included: about 30 ms.
const SWEEP_LOOK_MAX: i64 = 65_536;

/// Made once for the connection. `n` counts from 1.
pub(super) const PIECE: &str = "CREATE TEMP TABLE piece (n INTEGER PRIMARY KEY, id INTEGER NOT NULL)";

/// PENDING: nothing happened to it, or it was put back, and no attempt runs.
const PENDING: &str = "INSERT INTO temp.piece (id) SELECT t.id FROM tasks t LEFT JOIN task_states s ON s.id = t.id \
     LEFT JOIN claims c ON c.id = t.id WHERE t.id BETWEEN ?1 AND ?2 AND c.id IS NULL \
     AND (s.id IS NULL OR s.state = 1) ORDER BY t.id LIMIT ?3 + 0";

/// The ranges of one state in the index, merged. `$more` is a condition over `s`.
macro_rules! in_states {
    ([$($state:literal),+], $more:literal) => {
        concat!("INSERT INTO temp.piece (id) ", in_states!(@arms $more, $($state),+), " ORDER BY id LIMIT ?3 + 0")
    };
    (@arms $more:literal, $state:literal, $($rest:literal),+) => {
        concat!(in_states!(@arms $more, $state), " UNION ALL ", in_states!(@arms $more, $($rest),+))
    };
    (@arms $more:literal, $state:literal) => {
        concat!(in_states!(@arm $more, $state, "0"), " UNION ALL ", in_states!(@arm $more, $state, "1"))
    };
    (@arm $more:literal, $state:literal, $begun:literal) => {
        concat!(
            "SELECT s.id AS id FROM task_states s INDEXED BY task_states_state WHERE s.state = ", $state,
            " AND (s.fence > 0) = ", $begun, " AND s.id BETWEEN ?1 AND ?2", $more
        )
    };
}

const BACKING_OFF: &str = in_states!(["3"], " AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.id = s.id)");

const ENDED_BADLY: &str = in_states!(["5", "6"], "");

/// As `Task::apply` with `Cancelled` has it: attempts, fence, first start and log stay.
const END: &str = "INSERT INTO task_states (id, state, attempts, fence, crashes, end_time, error) \
     SELECT id, 6, 0, 0, 0, ?1, ?2 FROM temp.piece WHERE true ORDER BY n ON CONFLICT (id) DO UPDATE SET \
     state = excluded.state, crashes = 0, due = NULL, end_time = excluded.end_time, error = excluded.error";

const TELL: &str = "INSERT INTO events (id, kind, time, task) \
     SELECT ?1 + n - 1, ?2, ?3, id & 4294967295 FROM temp.piece ORDER BY n";

/// Ends a piece of the waiting tasks of a job.
pub(super) async fn sweep(conn: &mut SqliteConnection, numbers: &Numbers, sweep: &Sweep) -> Result<Swept, Fault> {
    let no = numbers.job(sweep.job)?;
    let end = numbers.total(sweep.job)?;
    let (find, first, last) = match sweep.state {
        TaskState::Pending => {
            // Lanes may be many, so their heads are asked for at the beginning only.
            let first = if sweep.from == 0 { lowest_head(conn, no).await? } else { i64::from(sweep.from) };
            (PENDING, first, (first + SWEEP_LOOK_MAX).min(end))
        }
        TaskState::BackingOff => (BACKING_OFF, i64::from(sweep.from), end),
        state => return Err(Fault::Refused(format!("tasks in {state:?} cannot be swept"))),
    };
    let piece = gather(conn, find, no, first..last, sweep.limit).await?;
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
        clear(conn).await?;
    }
    // A piece that is not full has seen all that it was to look at.
    let next = if piece.count < sweep.limit { last } else { piece.end };
    Ok(Swept { count: piece.count, next: (next < end).then_some(next as TaskIndex) })
}

/// No task of the job before this index is PENDING. A job without lanes has no tasks.
async fn lowest_head(conn: &mut SqliteConnection, no: i64) -> Result<i64, Fault> {
    let sql = "SELECT coalesce(min(head), 0) FROM lanes WHERE id BETWEEN ?1 AND ?2";
    Ok(sqlx::query_scalar(sql).bind(key(no, 0)).bind(key(no, u32::MAX)).fetch_one(conn).await?)
}

/// The place of an error among those that tasks of the job share.
async fn share(conn: &mut SqliteConnection, no: i64, error: &TaskError) -> Result<i64, Fault> {
    let text = serde_json::to_string(error)?;
    // A job has few: one for each stop.
    let sql = "SELECT max(id) FILTER (WHERE error = ?3), max(id) FROM shared_errors WHERE id BETWEEN ?1 AND ?2";
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
    let piece = match &retry.which {
        Which::From(index) => {
            gather(conn, ENDED_BADLY, no, i64::from(*index)..numbers.total(retry.job)?, retry.limit).await?
        }
        Which::These(indexes) => gather_these(conn, no, retry.job, indexes).await?,
    };
    if piece.count == 0 {
        return Ok(Retried::default());
    }
    let sql = "SELECT count(*) FROM temp.piece p CROSS JOIN task_states s ON s.id = p.id WHERE s.state = 5";
    let failed: u32 = sqlx::query_scalar(sql).fetch_one(&mut *conn).await?;
    sqlx::query(KEEP_OLD).bind(last_event(conn, no).await?.max(upto)).execute(&mut *conn).await?;
    sqlx::query(PUT_BACK).execute(&mut *conn).await?;
    sqlx::query(LOWER_HEADS).execute(&mut *conn).await?;
    clear(conn).await?;
    let is_full = matches!(retry.which, Which::From(_)) && piece.count == retry.limit;
    Ok(Retried {
        failed,
        cancelled: piece.count - failed,
        first: Some(piece.first as TaskIndex),
        next: (is_full && piece.end < numbers.total(retry.job)?).then_some(piece.end as TaskIndex),
    })
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

async fn gather(
    conn: &mut SqliteConnection,
    find: &'static str,
    no: i64,
    indexes: Range<i64>,
    limit: u32,
) -> Result<Piece, Fault> {
    if indexes.is_empty() {
        return Ok(Piece { count: 0, first: 0, end: indexes.end });
    }
    sqlx::query(find)
        .bind(key(no, 0) + indexes.start)
        .bind(key(no, 0) + indexes.end - 1)
        .bind(limit)
        .execute(&mut *conn)
        .await?;
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
