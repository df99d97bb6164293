//! Jobs, their specs, labels, requests and chunks; lanes and limits with them.

use std::sync::Arc;

use serde::Serialize;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection, SqlitePool};

use crate::model::ids::{JobId, TaskIndex};
use crate::model::job::{Job, JobState};
use crate::model::limits::Limits;
use crate::model::time::Timestamp;
use crate::store::sqlite::errors::guard;
use crate::store::sqlite::insert::Insert;
use crate::store::sqlite::numbers::Numbers;
use crate::store::sqlite::rows::{self, job_no, job_text};
use crate::store::{Chunk, JobFilter, LaneNumber, NewJob, NewLane, StoreError};

static JOBS: Insert = Insert::new("jobs (no, id, state, create_time, end_time, expire_time, moving)", 7, "");
static SPECS: Insert = Insert::new("job_specs (job, spec)", 2, "");
static LABELS: Insert = Insert::new("job_labels (key, value, job)", 3, "");
static REQUESTS: Insert = Insert::new("requests (job, id, digest)", 3, "");
static CHUNKS: Insert = Insert::new("chunks (job, id, first, count, digest)", 5, "");
static LANES: Insert = Insert::new("lanes (id, host, head)", 3, "");

/// An id as its column has it.
pub(super) fn blob(id: JobId) -> Vec<u8> {
    id.0.as_bytes().to_vec()
}

pub(super) async fn insert(
    conn: &mut SqliteConnection,
    numbers: &mut Numbers,
    new_jobs: &[NewJob],
) -> Result<(), StoreError> {
    let mut numbered = Vec::with_capacity(new_jobs.len());
    for new in new_jobs {
        numbered.push((numbers.new_job(new.job.id)?, new));
    }
    JOBS.run(conn, &numbered, |row, (no, NewJob { job, .. })| {
        row.add(*no)?.add(blob(job.id))?.add(job.state as i64)?.add(job.create_time.0)?;
        row.add(job.end_time.map(|time| time.0))?.add(job.expire_time().map(|time| time.0))?;
        row.add(rows::moving(job)?).map(drop)
    })
    .await?;
    SPECS
        .run(conn, &numbered, |row, (no, new)| row.add(*no)?.add(serde_json::to_string(&new.job.spec)?).map(drop))
        .await?;
    let jobs: Vec<(i64, &Job)> = numbered.iter().map(|(no, new)| (*no, &new.job)).collect();
    insert_labels(conn, &jobs).await?;
    let requests: Vec<_> =
        numbered.iter().filter_map(|(no, new)| new.request.as_ref().map(|(id, digest)| (no, id, digest))).collect();
    REQUESTS
        .run(conn, &requests, |row, (no, id, digest)| row.add(**no)?.add(id.as_str())?.add(digest.to_vec()).map(drop))
        .await?;
    Ok(())
}

async fn insert_labels(conn: &mut SqliteConnection, jobs: &[(i64, &Job)]) -> Result<(), StoreError> {
    let labels: Vec<_> =
        jobs.iter().flat_map(|(no, job)| job.spec.labels.iter().map(move |label| (*no, label))).collect();
    LABELS
        .run(conn, &labels, |row, (no, (key, value))| row.add(key.as_str())?.add(value.as_str())?.add(*no).map(drop))
        .await?;
    Ok(())
}

/// What of a job an update writes.
#[derive(Serialize)]
struct JobUpdate(i64, i64, Option<Timestamp>, Option<Timestamp>, String);

pub(super) async fn update(
    conn: &mut SqliteConnection,
    numbers: &Numbers,
    jobs: &[Arc<Job>],
) -> Result<(), StoreError> {
    if jobs.is_empty() {
        return Ok(());
    }
    let mut updates = Vec::with_capacity(jobs.len());
    for job in jobs {
        let no = numbers.job(job.id)?;
        updates.push(JobUpdate(no, job.state as i64, job.end_time, job.expire_time(), rows::moving(job)?));
    }
    let sql = "UPDATE jobs SET state = value ->> 1, end_time = value ->> 2, expire_time = value ->> 3, moving = value ->> 4 \
               FROM json_each(?1) WHERE no = value ->> 0 AND deleted = 0";
    let done = sqlx::query(sql).bind(serde_json::to_string(&updates)?).execute(conn).await?;
    guard(done.rows_affected() == jobs.len() as u64, || "a job of the batch is deleted or named twice".to_owned())
}

pub(super) async fn update_specs(
    conn: &mut SqliteConnection,
    numbers: &Numbers,
    jobs: &[Arc<Job>],
) -> Result<(), StoreError> {
    if jobs.is_empty() {
        return Ok(());
    }
    let mut specs = Vec::with_capacity(jobs.len());
    let mut numbered = Vec::with_capacity(jobs.len());
    for job in jobs {
        let no = numbers.job(job.id)?;
        specs.push((no, serde_json::to_string(&job.spec)?));
        numbered.push((no, &**job));
    }
    let specs = serde_json::to_string(&specs)?;
    sqlx::query("UPDATE job_specs SET spec = value ->> 1 FROM json_each(?1) WHERE job = value ->> 0")
        .bind(specs.as_str())
        .execute(&mut *conn)
        .await?;
    sqlx::query("DELETE FROM job_labels WHERE job IN (SELECT value ->> 0 FROM json_each(?1))")
        .bind(specs.as_str())
        .execute(&mut *conn)
        .await?;
    insert_labels(conn, &numbered).await
}

/// Hides jobs. Their time to be kept is over, so they leave that index too.
pub(super) async fn mark_deleted(
    conn: &mut SqliteConnection,
    numbers: &Numbers,
    jobs: &[JobId],
) -> Result<(), StoreError> {
    if jobs.is_empty() {
        return Ok(());
    }
    let nos: Vec<i64> = jobs.iter().map(|job| numbers.job(*job)).collect::<Result<_, _>>()?;
    sqlx::query("UPDATE jobs SET deleted = 1, expire_time = NULL WHERE no IN (SELECT value FROM json_each(?1))")
        .bind(serde_json::to_string(&nos)?)
        .execute(conn)
        .await?;
    Ok(())
}

pub(super) async fn insert_chunks(
    conn: &mut SqliteConnection,
    numbers: &Numbers,
    chunks: &[(JobId, String, Chunk)],
) -> Result<(), StoreError> {
    CHUNKS
        .run(conn, chunks, |row, (job, id, chunk)| {
            row.add(numbers.job(*job)?)?.add(id.as_str())?.add(i64::from(chunk.first))?;
            row.add(i64::from(chunk.count))?.add(chunk.digest.to_vec()).map(drop)
        })
        .await?;
    Ok(())
}

pub(super) async fn insert_lanes(
    conn: &mut SqliteConnection,
    numbers: &Numbers,
    lanes: &[NewLane],
) -> Result<(), StoreError> {
    LANES
        .run(conn, lanes, |row, lane| {
            row.add(numbers.lane(lane.job, lane.lane)?)?.add(lane.host.as_str())?.add(0_i64).map(drop)
        })
        .await?;
    Ok(())
}

pub(super) async fn move_heads(
    conn: &mut SqliteConnection,
    numbers: &Numbers,
    heads: &[(JobId, LaneNumber, TaskIndex)],
) -> Result<(), StoreError> {
    if heads.is_empty() {
        return Ok(());
    }
    let mut keyed = Vec::with_capacity(heads.len());
    for (job, lane, head) in heads {
        keyed.push((numbers.lane(*job, *lane)?, *head));
    }
    sqlx::query("UPDATE lanes SET head = value ->> 1 FROM json_each(?1) WHERE lanes.id = value ->> 0")
        .bind(serde_json::to_string(&keyed)?)
        .execute(conn)
        .await?;
    Ok(())
}

pub(super) async fn set_limits(conn: &mut SqliteConnection, limits: &Limits) -> Result<(), StoreError> {
    sqlx::query("REPLACE INTO settings (key, value) VALUES ('limits', ?1)")
        .bind(serde_json::to_string(limits)?)
        .execute(conn)
        .await?;
    Ok(())
}

pub(super) async fn limits(pool: &SqlitePool) -> Result<Option<Limits>, StoreError> {
    let text: Option<String> =
        sqlx::query_scalar("SELECT value FROM settings WHERE key = 'limits'").fetch_optional(pool).await?;
    text.map(|text| rows::parse(&text)).transpose()
}

pub(super) async fn job(pool: &SqlitePool, id: JobId) -> Result<Option<Job>, StoreError> {
    let sql = concat!(
        "SELECT ",
        job_text!(),
        " FROM jobs j JOIN job_specs p ON p.job = j.no WHERE j.id = ?1 AND j.deleted = 0"
    );
    let text: Option<String> = sqlx::query_scalar(sql).bind(blob(id)).fetch_optional(pool).await?;
    text.map(|text| rows::parse::<rows::JobLine>(&text)?.into_job()).transpose()
}

/// Only the conditions that are set go into the text, so that `SQLite` sees which index helps.
pub(super) async fn jobs(pool: &SqlitePool, filter: &JobFilter, limit: u32) -> Result<Vec<Job>, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new(concat!(
        "SELECT '[' || coalesce(group_concat(line, ','), '') || ']' FROM (SELECT ",
        job_text!(),
        " AS line FROM jobs j"
    ));
    let unfinished = !filter.states.is_empty() && !filter.states.iter().copied().any(JobState::is_ended);
    if unfinished {
        // Few among many that have ended. Left to itself, SQLite goes through them all in order of id.
        query.push(" INDEXED BY jobs_unfinished");
    }
    query.push(" CROSS JOIN job_specs p ON p.job = j.no WHERE j.deleted = 0");
    if unfinished {
        query.push(" AND j.state <= 4");
    }
    if !filter.states.is_empty() {
        let numbers: Vec<i64> = filter.states.iter().map(|state| *state as i64).collect();
        query
            .push(" AND j.state IN (SELECT value FROM json_each(")
            .push_bind(serde_json::to_string(&numbers)?)
            .push("))");
    }
    for (key, value) in &filter.labels {
        query.push(" AND j.no IN (SELECT job FROM job_labels WHERE key = ").push_bind(key.clone());
        query.push(" AND value = ").push_bind(value.clone()).push(")");
    }
    let times = [
        (" AND j.create_time > ", filter.created_after),
        (" AND j.create_time < ", filter.created_before),
        (" AND j.end_time > ", filter.ended_after),
    ];
    for (condition, time) in times {
        if let Some(time) = time {
            query.push(condition).push_bind(time.0);
        }
    }
    if let Some(before) = filter.before {
        query.push(" AND j.id < ").push_bind(blob(before));
    }
    query.push(" ORDER BY j.id DESC LIMIT ").push_bind(i64::from(limit)).push(")");
    let text: String = query.build_query_scalar().fetch_one(pool).await?;
    rows::parse_jobs(&text)
}

pub(super) async fn request(pool: &SqlitePool, request_id: &str) -> Result<Option<(JobId, [u8; 32])>, StoreError> {
    let sql = "SELECT j.id, r.digest FROM requests r JOIN jobs j ON j.no = r.job WHERE r.id = ?1";
    let found: Option<(Vec<u8>, Vec<u8>)> = sqlx::query_as(sql).bind(request_id).fetch_optional(pool).await?;
    found.map(|(id, digest)| Ok((job_id(&id)?, digest_of(&digest)?))).transpose()
}

pub(super) async fn chunk(pool: &SqlitePool, job: JobId, chunk_id: &str) -> Result<Option<Chunk>, StoreError> {
    let sql = concat!("SELECT first, count, digest FROM chunks WHERE job = ", job_no!(), " AND id = ?2");
    let found: Option<(u32, u32, Vec<u8>)> =
        sqlx::query_as(sql).bind(blob(job)).bind(chunk_id).fetch_optional(pool).await?;
    found.map(|(first, count, digest)| Ok(Chunk { first, count, digest: digest_of(&digest)? })).transpose()
}

/// Ended jobs whose time has passed, those first that waited longest.
pub(super) async fn expired(pool: &SqlitePool, now: Timestamp, limit: u32) -> Result<Vec<JobId>, StoreError> {
    let sql = "SELECT id FROM jobs WHERE expire_time IS NOT NULL AND expire_time <= ?1 AND deleted = 0 \
               ORDER BY expire_time LIMIT ?2";
    let ids: Vec<Vec<u8>> = sqlx::query_scalar(sql).bind(now.0).bind(limit).fetch_all(pool).await?;
    ids.iter().map(|id| job_id(id)).collect()
}

pub(super) async fn deleted(pool: &SqlitePool, limit: u32) -> Result<Vec<JobId>, StoreError> {
    let sql = "SELECT id FROM jobs WHERE deleted = 1 ORDER BY no LIMIT ?1";
    let ids: Vec<Vec<u8>> = sqlx::query_scalar(sql).bind(limit).fetch_all(pool).await?;
    ids.iter().map(|id| job_id(id)).collect()
}

fn job_id(bytes: &[u8]) -> Result<JobId, StoreError> {
    uuid::Uuid::from_slice(bytes).map(JobId).map_err(|error| StoreError::Fatal(format!("a job has a bad id: {error}")))
}

fn digest_of(bytes: &[u8]) -> Result<[u8; 32], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Fatal(format!("a digest has {} bytes", bytes.len())))
}
