//! What a restart reads: unfinished jobs, their lanes, and the attempts that were cut. Queued tasks are not among it.

use serde::Deserialize;
use sqlx::SqlitePool;

use crate::model::host::Host;
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::time::Timestamp;
use crate::store::sqlite::jobs::blob;
use crate::store::sqlite::rows::{self, StateLine, array_of, job_no, job_text, state_or_null, state_text};
use crate::store::{DueTask, LaneNumber, Recovered, StoreError, TaskRow};

/// Job, index, start of the attempt, row from before.
#[derive(Deserialize)]
struct ClaimLine(JobId, TaskIndex, Timestamp, Option<StateLine>);

impl ClaimLine {
    fn into_claim(self) -> Result<(TaskId, Timestamp, TaskRow), StoreError> {
        let ClaimLine(job, index, start, row) = self;
        Ok((TaskId { job, index }, start, row.map(StateLine::into_row).transpose()?.unwrap_or_default()))
    }
}

/// Each part by one text. They are three reads, which is fine: nothing is written while the server starts.
pub(super) async fn recover(pool: &SqlitePool) -> Result<Recovered, StoreError> {
    let jobs = array_of!(
        "SELECT ",
        job_text!(),
        " AS line FROM jobs j CROSS JOIN job_specs p ON p.job = j.no WHERE j.state <= 4 AND j.deleted = 0 ORDER BY j.no"
    );
    let lanes = array_of!(
        "SELECT json_array(hex(j.id), l.id & 4294967295, l.host, l.head) AS line FROM jobs j \
         CROSS JOIN lanes l ON l.id BETWEEN (j.no << 32) AND ((j.no << 32) | 4294967295) \
         WHERE j.state <= 4 AND j.deleted = 0 ORDER BY j.no, l.id"
    );
    let claims = array_of!(
        "SELECT '[\"' || hex(j.id) || '\",' || (c.id & 4294967295) || ',' || c.attempt_start || ',' || ",
        state_or_null!("s.log"),
        " || ']' AS line FROM claims c CROSS JOIN jobs j ON j.no = c.id >> 32 LEFT JOIN task_states s ON s.id = c.id \
         ORDER BY c.id"
    );
    let jobs: String = sqlx::query_scalar(jobs).fetch_one(pool).await?;
    let lanes: String = sqlx::query_scalar(lanes).fetch_one(pool).await?;
    let claims: String = sqlx::query_scalar(claims).fetch_one(pool).await?;
    Ok(Recovered {
        jobs: rows::parse_jobs(&jobs)?,
        lanes: rows::parse(&lanes)?,
        claims: rows::parse::<Vec<ClaimLine>>(&claims)?
            .into_iter()
            .map(ClaimLine::into_claim)
            .collect::<Result<_, _>>()?,
    })
}

pub(super) async fn lanes(pool: &SqlitePool, job: JobId) -> Result<Vec<(LaneNumber, Host, TaskIndex)>, StoreError> {
    let sql = array_of!(
        "SELECT json_array(id & 4294967295, host, head) AS line FROM lanes WHERE id BETWEEN (",
        job_no!(),
        " << 32) AND ((",
        job_no!(),
        " << 32) | 4294967295) ORDER BY id"
    );
    let text: String = sqlx::query_scalar(sql).bind(blob(job)).fetch_one(pool).await?;
    rows::parse(&text)
}

/// Tasks of equal due time are told apart by their ids, so that a page can end among them.
pub(super) async fn due(pool: &SqlitePool, after: Option<DueTask>, limit: u32) -> Result<Vec<DueTask>, StoreError> {
    let sql = array_of!(
        "SELECT json_array(s.due, hex(j.id), s.id & 4294967295) AS line FROM task_states s \
         CROSS JOIN jobs j ON j.no = s.id >> 32 \
         WHERE s.due IS NOT NULL AND s.due >= ?1 AND (s.due, j.id, s.id & 4294967295) > (?1, ?2, ?3) \
         AND s.state = 3 AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.id = s.id) \
         ORDER BY s.due, j.id, s.id LIMIT ?4"
    );
    let (time, job, index) = match after {
        Some(DueTask { due, id }) => (due.0, blob(id.job), i64::from(id.index)),
        None => (i64::MIN, Vec::new(), -1),
    };
    let text: String = sqlx::query_scalar(sql).bind(time).bind(job).bind(index).bind(limit).fetch_one(pool).await?;
    let found: Vec<(Timestamp, JobId, TaskIndex)> = rows::parse(&text)?;
    Ok(found.into_iter().map(|(due, job, index)| DueTask { due, id: TaskId { job, index } }).collect())
}
