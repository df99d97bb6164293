//! Takes deleted jobs away, a bounded number of rows at a time, so that no batch waits long behind it.

use sqlx::SqliteConnection;

use crate::model::ids::JobId;
use crate::store::StoreError;
use crate::store::sqlite::errors::guard;
use crate::store::sqlite::numbers::{Numbers, key};

/// One statement a table: at most `?3` of its rows with a key from `?1` to `?2`.
const BY_KEY: [&str; 5] = [
    "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE id BETWEEN ?1 AND ?2 LIMIT ?3)",
    "DELETE FROM claims WHERE id IN (SELECT id FROM claims WHERE id BETWEEN ?1 AND ?2 LIMIT ?3)",
    "DELETE FROM task_states WHERE id IN (SELECT id FROM task_states WHERE id BETWEEN ?1 AND ?2 LIMIT ?3)",
    "DELETE FROM tasks WHERE id IN (SELECT id FROM tasks WHERE id BETWEEN ?1 AND ?2 LIMIT ?3)",
    "DELETE FROM lanes WHERE id IN (SELECT id FROM lanes WHERE id BETWEEN ?1 AND ?2 LIMIT ?3)",
];

/// As [`BY_KEY`], with the job's number as `?1`.
const BY_JOB: [&str; 2] = [
    "DELETE FROM task_keys WHERE job = ?1 AND key IN (SELECT key FROM task_keys WHERE job = ?1 LIMIT ?2)",
    "DELETE FROM chunks WHERE job = ?1 AND id IN (SELECT id FROM chunks WHERE job = ?1 LIMIT ?2)",
];

/// The job goes last: while any row of it is left, it is found among the deleted ones.
const LAST: [&str; 4] = [
    "DELETE FROM job_labels WHERE job = ?1",
    "DELETE FROM job_specs WHERE job = ?1",
    "DELETE FROM requests WHERE job = ?1",
    "DELETE FROM jobs WHERE no = ?1",
];

/// Returns whether nothing of the job is left.
pub(super) async fn purge(
    conn: &mut SqliteConnection,
    numbers: &Numbers,
    job: JobId,
    rows_max: u32,
) -> Result<bool, StoreError> {
    // A job that is not there is purged already.
    let Ok(no) = numbers.job(job) else { return Ok(true) };
    let deleted: Option<i64> =
        sqlx::query_scalar("SELECT deleted FROM jobs WHERE no = ?1").bind(no).fetch_optional(&mut *conn).await?;
    let Some(deleted) = deleted else { return Ok(true) };
    guard(deleted == 1, || format!("job `{job}` is to be purged and was not deleted"))?;

    let mut left = u64::from(rows_max);
    left -= pages(conn, no, left).await?;
    for sql in BY_KEY {
        let query = sqlx::query(sql).bind(key(no, 0)).bind(key(no, u32::MAX)).bind(left as i64);
        left -= query.execute(&mut *conn).await?.rows_affected();
    }
    for sql in BY_JOB {
        left -= sqlx::query(sql).bind(no).bind(left as i64).execute(&mut *conn).await?.rows_affected();
    }
    if left == 0 {
        return Ok(false);
    }
    for sql in LAST {
        sqlx::query(sql).bind(no).execute(&mut *conn).await?;
    }
    Ok(true)
}

/// Pages with their bodies; both statements pick the same rows, by the order of the primary key.
async fn pages(conn: &mut SqliteConnection, no: i64, rows_max: u64) -> Result<u64, StoreError> {
    let bodies = "DELETE FROM bodies WHERE id IN \
         (SELECT body FROM (SELECT body FROM pages WHERE task BETWEEN ?1 AND ?2 ORDER BY task, page LIMIT ?3) \
         WHERE body IS NOT NULL)";
    let heads = "DELETE FROM pages WHERE (task, page) IN \
         (SELECT task, page FROM pages WHERE task BETWEEN ?1 AND ?2 ORDER BY task, page LIMIT ?3)";
    let mut gone = 0;
    for sql in [bodies, heads] {
        let query = sqlx::query(sql).bind(key(no, 0)).bind(key(no, u32::MAX)).bind(rows_max as i64);
        gone = query.execute(&mut *conn).await?.rows_affected();
    }
    Ok(gone)
}
