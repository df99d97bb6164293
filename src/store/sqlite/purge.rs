//! Removes deleted jobs, a bounded number of rows at a time, so that no batch waits long behind it.

use sqlx::SqliteConnection;

use crate::model::ids::JobId;
use crate::model::tenant::TenantNo;
use crate::store::sqlite::columns::blob;
use crate::store::sqlite::errors::{Fault, guard};
use crate::store::sqlite::numbers::{Numbers, key};
use crate::store::{PAGE_BYTES_MAX, Purged};

/// One statement a table: at most `?3` of its rows with a key from `?1` to `?2`.
const BY_KEY: [&str; 6] = [
    "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE id BETWEEN ?1 AND ?2 LIMIT ?3 + 0)",
    "DELETE FROM claims WHERE id IN (SELECT id FROM claims WHERE id BETWEEN ?1 AND ?2 LIMIT ?3 + 0)",
    "DELETE FROM task_states WHERE id IN (SELECT id FROM task_states WHERE id BETWEEN ?1 AND ?2 LIMIT ?3 + 0)",
    "DELETE FROM tasks WHERE id IN (SELECT id FROM tasks WHERE id BETWEEN ?1 AND ?2 LIMIT ?3 + 0)",
    "DELETE FROM shared_errors WHERE id IN (SELECT id FROM shared_errors WHERE id BETWEEN ?1 AND ?2 LIMIT ?3 + 0)",
    "DELETE FROM lanes WHERE id IN (SELECT id FROM lanes WHERE id BETWEEN ?1 AND ?2 LIMIT ?3 + 0)",
];

/// As [`BY_KEY`], with the job's number as `?1`.
const BY_JOB: [&str; 2] = [
    "DELETE FROM task_keys WHERE job = ?1 AND key IN (SELECT key FROM task_keys WHERE job = ?1 LIMIT ?2 + 0)",
    "DELETE FROM chunks WHERE job = ?1 AND id IN (SELECT id FROM chunks WHERE job = ?1 LIMIT ?2 + 0)",
];

/// As [`BY_KEY`], of the table whose key has two columns.
const OLD_STATES: &str = "DELETE FROM old_states WHERE (id, upto) IN \
     (SELECT id, upto FROM old_states WHERE id BETWEEN ?1 AND ?2 LIMIT ?3 + 0)";

/// The job is last: while any row of it is left, it is found among the deleted ones.
const LAST: [&str; 3] =
    ["DELETE FROM job_specs WHERE job = ?1", "DELETE FROM requests WHERE job = ?1", "DELETE FROM jobs WHERE no = ?1"];

/// Removes at most `rows_max` rows of a job, beside those that every job has once.
pub(super) async fn purge(
    conn: &mut SqliteConnection,
    numbers: &Numbers,
    job: JobId,
    rows_max: u32,
) -> Result<Purged, Fault> {
    let gone = Purged { is_gone: true, ..Purged::default() };
    // A job that is not there is purged already.
    let Ok(no) = numbers.job(job) else { return Ok(gone) };
    // What is damaged in its row does not keep it here: nothing is freed for a tenant that there cannot be.
    let sql = "SELECT deleted = 1, CAST(tenant AS INTEGER), CAST(stored AS INTEGER) FROM jobs WHERE no = ?1";
    let found: Option<(bool, i64, i64)> = sqlx::query_as(sql).bind(no).fetch_optional(&mut *conn).await?;
    let Some((is_deleted, tenant, stored)) = found else { return Ok(gone) };
    guard(is_deleted, || format!("job `{job}` is to be purged and was not deleted"))?;

    let mut left = u64::from(rows_max);
    let wanted = pages_within(conn, no, left).await?;
    left -= pages(conn, no, wanted.rows).await?;
    if wanted.is_cut {
        return Ok(Purged { rows: rows_max - left as u32, ..Purged::default() });
    }
    for sql in BY_KEY.into_iter().chain([OLD_STATES]) {
        if left == 0 {
            break;
        }
        let query = sqlx::query(sql).bind(key(no, 0)).bind(key(no, u32::MAX)).bind(left as i64);
        left -= query.execute(&mut *conn).await?.rows_affected();
    }
    for sql in BY_JOB {
        left -= sqlx::query(sql).bind(no).bind(left as i64).execute(&mut *conn).await?.rows_affected();
    }
    if left == 0 {
        return Ok(Purged { rows: rows_max, ..Purged::default() });
    }
    sqlx::query("DELETE FROM job_labels WHERE id = ?1").bind(blob(job)).execute(&mut *conn).await?;
    for sql in LAST {
        sqlx::query(sql).bind(no).execute(&mut *conn).await?;
    }
    let freed = TenantNo::try_from(tenant).ok().zip(u64::try_from(stored).ok().filter(|bytes| *bytes > 0));
    Ok(Purged { rows: rows_max - left as u32, is_gone: true, freed })
}

/// How many pages go at once.
struct Wanted {
    rows: u64,
    /// Whether they are fewer than asked for, because of their bytes.
    is_cut: bool,
}

/// Bodies take time by their bytes: each page of the file that they fill is read once. What is noted of these may be damaged, and
/// must not keep the job for ever.
async fn pages_within(conn: &mut SqliteConnection, no: i64, rows_max: u64) -> Result<Wanted, Fault> {
    let sql = "SELECT count(*), count(*) FILTER (WHERE before < ?4) FROM (SELECT sum(stored) OVER (ROWS UNBOUNDED PRECEDING) \
         - stored AS before FROM (SELECT CASE WHEN body IS NULL THEN 0 ELSE min(max(CAST(bytes AS INTEGER), 0), ?4) END AS stored \
         FROM pages \
         WHERE task BETWEEN ?1 AND ?2 ORDER BY task, page LIMIT ?3 + 0))";
    let (all, rows): (i64, i64) = sqlx::query_as(sql)
        .bind(key(no, 0))
        .bind(key(no, u32::MAX))
        .bind(rows_max as i64)
        .bind(PAGE_BYTES_MAX as i64)
        .fetch_one(conn)
        .await?;
    Ok(Wanted { rows: rows as u64, is_cut: rows < all })
}

/// Pages with their bodies; both statements pick the same rows, by the order of the primary key.
async fn pages(conn: &mut SqliteConnection, no: i64, rows_max: u64) -> Result<u64, Fault> {
    let bodies = "DELETE FROM bodies WHERE id IN \
         (SELECT body FROM (SELECT body FROM pages WHERE task BETWEEN ?1 AND ?2 ORDER BY task, page LIMIT ?3 + 0) \
         WHERE body IS NOT NULL)";
    let heads = "DELETE FROM pages WHERE (task, page) IN \
         (SELECT task, page FROM pages WHERE task BETWEEN ?1 AND ?2 ORDER BY task, page LIMIT ?3 + 0)";
    let mut gone = 0;
    for sql in [bodies, heads] {
        let query = sqlx::query(sql).bind(key(no, 0)).bind(key(no, u32::MAX)).bind(rows_max as i64);
        gone = query.execute(&mut *conn).await?.rows_affected();
    }
    Ok(gone)
}
