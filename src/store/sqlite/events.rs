//! Durable events.
//!
//! The end of a task is told by its row, so its event is a few bytes; only when a retry changes the row does the event
//! get a copy of what it told.

use std::sync::Arc;

use serde::Deserialize;
use sqlx::{SqliteConnection, SqlitePool};

use crate::model::event::{EventHead, EventKind};
use crate::model::ids::{JobId, TaskIndex};
use crate::model::job::Job;
use crate::model::spec::TaskSpec;
use crate::model::time::Timestamp;
use crate::store::sqlite::insert::Insert;
use crate::store::sqlite::jobs::blob;
use crate::store::sqlite::numbers::{Numbers, key};
use crate::store::sqlite::rows::{self, StateLine, array_of, job_no, state_or_null, state_text};
use crate::store::sqlite::sweep::sequence;
use crate::store::{NewEvent, StoreError, StoredEvent, StoredTask};

static EVENTS: Insert = Insert::new("events (id, kind, time, task, payload)", 5, "");

pub(super) async fn insert(
    conn: &mut SqliteConnection,
    numbers: &Numbers,
    events: &[NewEvent],
) -> Result<(), StoreError> {
    EVENTS
        .run(conn, events, |row, event| {
            let head = event.head;
            row.add(key(numbers.job(event.job)?, sequence(head.sequence)?))?.add(head.kind as i64)?;
            row.add(head.time.0)?.add(head.task.map(i64::from))?;
            row.add(event.snapshot.as_deref().map(serde_json::to_string).transpose()?).map(drop)
        })
        .await?;
    Ok(())
}

/// Sequence, kind, time, task, snapshot, spec of the task, row of the task.
#[derive(Deserialize)]
struct EventLine(u64, i64, Timestamp, Option<TaskIndex>, Option<Arc<Job>>, Option<Arc<TaskSpec>>, Option<StateLine>);

impl EventLine {
    fn into_event(self) -> Result<StoredEvent, StoreError> {
        let EventLine(sequence, kind, time, task, snapshot, spec, row) = self;
        let kind = EventKind::from_number(kind)
            .ok_or_else(|| StoreError::Fatal(format!("an event has the unknown kind {kind}")))?;
        let ended = match (kind, task, spec, row) {
            (EventKind::TaskEnded, Some(index), Some(spec), Some(row)) => {
                Some(Arc::new(StoredTask { index, spec, row: row.into_row()? }))
            }
            (EventKind::TaskEnded, ..) => {
                return Err(StoreError::Fatal(format!("event {sequence} tells of a task that is not there")));
            }
            _ => None,
        };
        Ok(StoredEvent { head: EventHead { sequence, time, kind, task }, snapshot, task: ended })
    }
}

pub(super) async fn after(
    pool: &SqlitePool,
    job: JobId,
    after: u64,
    limit: u32,
) -> Result<Vec<StoredEvent>, StoreError> {
    let sql = array_of!(
        "SELECT '[' || (e.id & 4294967295) || ',' || e.kind || ',' || e.time || ',' || coalesce(e.task, 'null') || ',' || \
         CASE WHEN e.kind = 1 THEN 'null' ELSE coalesce(e.payload, 'null') END || ',' || coalesce(t.spec, 'null') || ',' || \
         CASE WHEN e.kind <> 1 THEN 'null' WHEN e.payload IS NOT NULL THEN e.payload ELSE ",
        state_or_null!("NULL"),
        " END || ']' AS line FROM events e LEFT JOIN tasks t ON t.id = (e.id >> 32 << 32) + e.task \
         LEFT JOIN task_states s ON s.id = t.id WHERE e.id > ((",
        job_no!(),
        " << 32) | ?2) AND e.id <= ((",
        job_no!(),
        " << 32) | 4294967295) ORDER BY e.id LIMIT ?3"
    );
    let after = i64::try_from(after).unwrap_or(i64::MAX).min(i64::from(u32::MAX));
    let text: String = sqlx::query_scalar(sql).bind(blob(job)).bind(after).bind(limit).fetch_one(pool).await?;
    rows::parse::<Vec<EventLine>>(&text)?.into_iter().map(EventLine::into_event).collect()
}
