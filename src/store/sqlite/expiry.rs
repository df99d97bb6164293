//! Erases the secrets of jobs that ended long ago, a piece at a time while the server serves.
//!
//! What stays reads `REDACTED` in their places, and the job says that they are gone. Plain headers and bodies stay as long as
//! the job. How far it came is in `settings`, in the transaction of what it did: jobs are gone through by their ends, and one
//! that is tried again ends anew behind that place.

use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;

use crate::model::bag::{Bagged, erase};
use crate::model::ids::TaskIndex;
use crate::model::spec::{JobSpec, TaskSpec};
use crate::model::time::Timestamp;
use crate::store::StoreError;
use crate::store::sqlite::columns::job_id;
use crate::store::sqlite::errors::Fault;
use crate::store::sqlite::lines::parse;
use crate::store::sqlite::sealed::{self, Place};
use crate::store::sqlite::text::Text;
use crate::vault::Vault;

/// Jobs and tasks that one piece looks at: some milliseconds.
const ROWS_MAX: i64 = 500;
/// Bytes of specs and bags after which a piece ends.
const BYTES_MAX: usize = 4 << 20;

/// How far it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// The end of the job that was looked at last, and its number.
    end: i64,
    no: i64,
    /// The key of the task of it to go on behind; `None`: it is done.
    task: Option<i64>,
}

/// Goes on with a piece, at `now`. Returns whether there is more to look at now. `kept` is in microseconds.
pub(super) async fn piece(
    conn: &mut SqliteConnection,
    vault: &Vault,
    Timestamp(now): Timestamp,
    kept: i64,
) -> Result<bool, Fault> {
    let mut progress = load(conn).await?;
    let before = progress;
    if progress.end > now {
        // The clock of an earlier run was ahead, and jobs end before that place.
        progress = Progress::default();
    }
    let mut left = ROWS_MAX;
    while left > 0 {
        if let Some(after) = progress.task {
            if !is_at_its_end(conn, &progress).await? {
                progress.task = None;
                left -= 1;
                continue;
            }
            let (looked, last) = tasks(conn, vault, progress.no, after, left).await?;
            left -= looked.max(1);
            progress.task = last;
            continue;
        }
        // Of two that ended at once the one with the greater number comes later.
        let sql = "SELECT no, end_time FROM jobs WHERE end_time >= ?1 AND end_time <= ?2 AND (end_time, no) > (?1, ?3) \
                   AND deleted = 0 ORDER BY end_time, no LIMIT 1";
        let next: Option<(i64, i64)> = sqlx::query_as(sql)
            .bind(progress.end)
            .bind(now.saturating_sub(kept))
            .bind(progress.no)
            .fetch_optional(&mut *conn)
            .await?;
        let Some((no, end)) = next else { break };
        progress = Progress { end, no, task: Some((no << 32) - 1) };
        job(conn, vault, no).await?;
        left -= 1;
    }
    if progress != before {
        let sql = "REPLACE INTO settings (key, value) VALUES ('secrets_erased', ?1)";
        sqlx::query(sql).bind(serde_json::to_string(&progress)?).execute(&mut *conn).await?;
    }
    Ok(left <= 0)
}

async fn load(conn: &mut SqliteConnection) -> Result<Progress, Fault> {
    let sql = "SELECT value FROM settings WHERE key = 'secrets_erased'";
    let text: Option<Text> = sqlx::query_scalar(sql).fetch_optional(conn).await?;
    // Where that is damaged, all are looked at again: what is erased stays as it is.
    let read = |text: Text| parse::<Progress>(text, "how far secrets are erased");
    let told = |error: &StoreError| tracing::error!("{error}; it begins anew");
    Ok(text.and_then(|text| read(text).inspect_err(told).ok()).unwrap_or_default())
}

/// Erases what stands in the job itself.
async fn job(conn: &mut SqliteConnection, vault: &Vault, no: i64) -> Result<(), Fault> {
    let sql = "SELECT j.id, p.spec, p.sealed FROM job_specs p JOIN jobs j ON j.no = p.job WHERE p.job = ?1 \
               AND p.sealed IS NOT NULL";
    let row: Option<(Vec<u8>, Text, Vec<u8>)> = sqlx::query_as(sql).bind(no).fetch_optional(&mut *conn).await?;
    if let Some((id, spec, bag)) = row
        && let Some((spec, bag)) = without_secrets::<JobSpec>(vault, Place::Job(job_id(&id)?), &spec, &bag)?
    {
        let sql = "UPDATE job_specs SET spec = ?2, sealed = ?3 WHERE job = ?1";
        sqlx::query(sql).bind(no).bind(spec).bind(bag).execute(&mut *conn).await?;
        say(conn, no).await?;
    }
    Ok(())
}

/// Returns whether a job still stands at the end that it was found by. One that is tried again meanwhile needs its secrets,
/// and is found again by its next end.
async fn is_at_its_end(conn: &mut SqliteConnection, progress: &Progress) -> Result<bool, Fault> {
    let sql = "SELECT EXISTS (SELECT 1 FROM jobs WHERE no = ?1 AND end_time = ?2 AND deleted = 0)";
    Ok(sqlx::query_scalar(sql).bind(progress.no).bind(progress.end).fetch_one(conn).await?)
}

/// A task's key, its job, its spec and the bag of it, if there is one.
type TaskRow = (i64, Vec<u8>, Text, Option<Vec<u8>>);

/// Erases what stands in tasks of a job behind the key `after`, and where their listings go on. Returns at how many it
/// looked, and the key to go on behind. A bag may hold a body, so a piece is bounded in bytes, too.
async fn tasks(
    conn: &mut SqliteConnection,
    vault: &Vault,
    no: i64,
    after: i64,
    limit: i64,
) -> Result<(i64, Option<i64>), Fault> {
    let sql = "SELECT t.id, j.id, CASE WHEN t.sealed IS NULL THEN '' ELSE t.spec END, t.sealed FROM tasks t \
               CROSS JOIN jobs j ON j.no = t.id >> 32 WHERE t.id > ?1 AND t.id <= ?2 ORDER BY t.id LIMIT ?3 + 0";
    let end = (no << 32) | i64::from(u32::MAX);
    let mut found = sqlx::query_as::<_, TaskRow>(sql).bind(after).bind(end).bind(limit).fetch(&mut *conn);
    let (mut rows, mut looked, mut bytes, mut last) = (Vec::new(), 0, 0, after);
    while let Some(row) = found.try_next().await? {
        looked += 1;
        last = row.0;
        bytes += row.2.as_ref().len() + row.3.as_ref().map_or(0, Vec::len);
        if row.3.is_some() {
            rows.push(row);
        }
        if bytes >= BYTES_MAX {
            looked = limit;
            break;
        }
    }
    drop(found);
    let mut is_erased = false;
    for (id, job, spec, bag) in rows {
        let Some(bag) = bag else { continue };
        let place = Place::Task(job_id(&job)?, id as TaskIndex);
        if let Some((spec, bag)) = without_secrets::<TaskSpec>(vault, place, &spec, &bag)? {
            let sql = "UPDATE tasks SET spec = ?2, sealed = ?3 WHERE id = ?1";
            sqlx::query(sql).bind(id).bind(spec).bind(bag).execute(&mut *conn).await?;
            is_erased = true;
        }
    }
    if is_erased {
        say(conn, no).await?;
    }
    // A listing of an ended job goes on by a retry alone, and one whose place is gone then fails.
    let is_more = looked >= limit;
    let sql = "UPDATE pages SET next = NULL, sealed = NULL WHERE task > ?1 AND task <= ?2 AND sealed IS NOT NULL";
    sqlx::query(sql).bind(after).bind(if is_more { last } else { end }).execute(conn).await?;
    Ok((looked, is_more.then_some(last)))
}

/// Notes with the job that its secrets are gone.
pub(super) async fn say(conn: &mut SqliteConnection, no: i64) -> Result<(), sqlx::Error> {
    // A job that cannot be read is not told of, and cannot be tried again.
    let sql = "UPDATE jobs SET moving = json_set(moving, '$.secrets_gone', json('true')) WHERE no = ?1 AND json_valid(moving)";
    sqlx::query(sql).bind(no).execute(conn).await?;
    Ok(())
}

/// Returns the new columns of a row; `None` where it has no secrets. A row that cannot be read stays as it is.
fn without_secrets<T: Bagged + Serialize + serde::de::DeserializeOwned>(
    vault: &Vault,
    place: Place,
    spec: &Text,
    bag: &[u8],
) -> Result<Option<sealed::Columns>, Fault> {
    let whole =
        parse::<T>(spec, format_args!("{place:?}")).and_then(|left| sealed::whole(vault, place, left, Some(bag)));
    match whole {
        Ok(mut whole) => Ok(if erase(&mut whole) { Some(sealed::row(vault, place, &whole)?) } else { None }),
        Err(error) => {
            tracing::error!("{error}; it is left as it is");
            Ok(None)
        }
    }
}
