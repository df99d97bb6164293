//! Chunks of tasks that are added to open jobs.

use std::collections::HashSet;

use sqlx::SqliteConnection;

use crate::model::ids::{JobId, TaskIndex};
use crate::model::spec::Work;
use crate::store::sqlite::columns::{blob, digest_of, keyed_blob};
use crate::store::sqlite::errors::{Fault, guard};
use crate::store::sqlite::jobs;
use crate::store::sqlite::numbers::Numbers;
use crate::store::sqlite::reader::{Ask, Reader};
use crate::store::sqlite::rows::job_no;
use crate::store::sqlite::script::Script;
use crate::store::sqlite::tasks::{self, NewTask};
use crate::store::{Added, Addition, Chunk, StoreError};
use crate::vault::Vault;

/// First, count, digest.
type ChunkRow = (u32, u32, Vec<u8>);

fn chunk_of(vault: &Vault, (first, count, digest): ChunkRow) -> Result<Chunk, StoreError> {
    Ok(Chunk { first, count, digest: digest_of(vault, &digest)? })
}

/// Adds a chunk, unless it is known or its keys are taken.
pub(super) async fn add(
    script: &mut Script<'_>,
    numbers: &mut Numbers,
    vault: &Vault,
    addition: &Addition,
) -> Result<Added, Fault> {
    let no = numbers.job(addition.job)?;
    let conn = script.conn().await?;
    jobs::insert_lanes(conn, no, &addition.new_lanes).await?;
    if let Some(chunk) = known(conn, vault, no, addition).await? {
        return Ok(Added::Known(chunk));
    }
    let taken = taken_keys(conn, no, addition).await?;
    if !taken.is_empty() {
        return Ok(Added::KeysTaken(taken));
    }
    let first = take_indexes(conn, no, addition).await?;
    numbers.set_total(addition.job, i64::from(first) + addition.tasks.len() as i64);
    let job = addition.job;
    let new: Vec<NewTask<'_>> = (first..)
        .zip(&addition.tasks)
        .map(|(index, (lane, spec))| NewTask { no, job, index, lane: *lane, spec })
        .collect();
    tasks::insert(script, vault, &new).await?;
    if !addition.chunk_id.is_empty() {
        sqlx::query("INSERT INTO chunks (job, id, first, count, digest) VALUES (?1, ?2, ?3, ?4, ?5)")
            .bind(no)
            .bind(addition.chunk_id.as_str())
            .bind(first)
            .bind(addition.tasks.len() as i64)
            .bind(keyed_blob(&addition.digest))
            .execute(script.conn().await?)
            .await?;
    }
    Ok(Added::Stored { first })
}

async fn known(
    conn: &mut SqliteConnection,
    vault: &Vault,
    no: i64,
    addition: &Addition,
) -> Result<Option<Chunk>, Fault> {
    if addition.chunk_id.is_empty() {
        return Ok(None);
    }
    let sql = "SELECT first, count, digest FROM chunks WHERE job = ?1 AND id = ?2";
    let found: Option<ChunkRow> =
        sqlx::query_as(sql).bind(no).bind(addition.chunk_id.as_str()).fetch_optional(conn).await?;
    Ok(found.map(|row| chunk_of(vault, row)).transpose()?)
}

/// The places of tasks whose keys belong to other tasks, of the job or of the chunk itself.
async fn taken_keys(conn: &mut SqliteConnection, no: i64, addition: &Addition) -> Result<Vec<u32>, Fault> {
    let keyed: Vec<(u32, &str)> = (0..)
        .zip(&addition.tasks)
        .filter_map(|(place, (_, spec))| (!spec.key.is_empty()).then_some((place, spec.key.as_str())))
        .collect();
    if keyed.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<&str> = keyed.iter().map(|(_, key)| *key).collect();
    let sql = "SELECT e.key FROM json_each(?2) e WHERE EXISTS \
               (SELECT 1 FROM task_keys k WHERE k.job = ?1 AND k.key = e.value)";
    let stored: HashSet<u32> = sqlx::query_scalar(sql)
        .bind(no)
        .bind(serde_json::to_string(&keys)?)
        .fetch_all(conn)
        .await?
        .into_iter()
        .collect();
    let mut seen = HashSet::new();
    let mut taken = Vec::new();
    for (nth, (place, key)) in (0..).zip(&keyed) {
        if !seen.insert(*key) || stored.contains(&nth) {
            taken.push(*place);
        }
    }
    Ok(taken)
}

/// Raises the total of the job. Returns what it was.
async fn take_indexes(conn: &mut SqliteConnection, no: i64, addition: &Addition) -> Result<TaskIndex, Fault> {
    let count = addition.tasks.len() as i64;
    let downloads = addition.tasks.iter().any(|(_, spec)| matches!(spec.work, Work::Download(_)));
    let sql = "UPDATE jobs SET total = total + ?2, downloads = max(downloads, ?3) WHERE no = ?1 AND deleted = 0 \
               RETURNING total";
    let total: Option<i64> = sqlx::query_scalar(sql).bind(no).bind(count).bind(downloads).fetch_optional(conn).await?;
    let total = total.ok_or_else(|| Fault::Refused(format!("job `{}` is deleted", addition.job)))?;
    guard(total < i64::from(u32::MAX), || {
        format!("job `{}` has as many tasks as a job can have; submit a new one", addition.job)
    })?;
    Ok((total - count) as TaskIndex)
}

pub(super) async fn chunk(reader: &Reader, job: JobId, chunk_id: &str) -> Result<Option<Chunk>, StoreError> {
    let sql = concat!("SELECT first, count, digest FROM chunks WHERE job = ", job_no!(), " AND id = ?2");
    let found: Option<ChunkRow> = reader.first(Ask::new(sql).bind(blob(job)).bind(chunk_id)).await?;
    found.map(|row| chunk_of(&reader.vault, row)).transpose()
}
