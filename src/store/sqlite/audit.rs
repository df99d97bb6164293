//! Checks a data directory, beside a running server or without one, and changes nothing.
//!
//! All questions about rows are asked within one transaction, so that they are about one state of the database.

use std::collections::BTreeMap;
use std::path::Path;

use sqlx::{Connection as _, SqliteConnection};

use crate::model::ids::JobId;
use crate::store::sqlite::beside::{has_log, has_tables, remove_log};
use crate::store::sqlite::columns::job_id;
use crate::store::sqlite::contents::{CONTENTS, ContentRow, content_path, is_kept};
use crate::store::sqlite::keys::{KEY_FILE, Keyring, RootKeys};
use crate::store::sqlite::legible::illegible;
use crate::store::sqlite::open_error::OpenError;
use crate::store::sqlite::schema;
use crate::store::sqlite::text::Text;

/// Findings of one kind that are listed.
const LISTED_MAX: usize = 20;

/// What is wrong when the query returns a row: how to say it, and the query. Its one column is a text that names a row.
/// Jobs that are being removed are left out, since parts of them are gone.
#[rustfmt::skip]
const RULES: &[(&str, &str)] = &[
    ("has another number of tasks than its total says",
     "SELECT 'job ' || lower(hex(j.id)) FROM jobs j LEFT JOIN (SELECT id >> 32 AS no, count(*) AS n FROM tasks GROUP BY 1) t \
      ON t.no = j.no WHERE j.deleted = 0 AND j.total <> coalesce(t.n, 0)"),
    ("has counts that its tasks do not have",
     "WITH moved AS (SELECT s.id >> 32 AS no, sum(s.state = 3 AND c.id IS NULL) AS backing_off, sum(s.state = 4) AS succeeded, \
      sum(s.state = 5) AS failed, sum(s.state = 6) AS cancelled FROM task_states s LEFT JOIN claims c ON c.id = s.id GROUP BY 1), \
      running AS (SELECT id >> 32 AS no, count(*) AS n FROM claims GROUP BY 1) \
      SELECT 'job ' || lower(hex(j.id)) FROM jobs j LEFT JOIN moved m ON m.no = j.no LEFT JOIN running r ON r.no = j.no \
      WHERE j.deleted = 0 AND CASE WHEN json_valid(j.moving) THEN (coalesce(j.moving ->> '$.counts.running', 0), coalesce(j.moving ->> '$.counts.backing_off', 0), \
      coalesce(j.moving ->> '$.counts.succeeded', 0), coalesce(j.moving ->> '$.counts.failed', 0), \
      coalesce(j.moving ->> '$.counts.cancelled', 0)) <> (coalesce(r.n, 0), coalesce(m.backing_off, 0), \
      coalesce(m.succeeded, 0), coalesce(m.failed, 0), coalesce(m.cancelled, 0)) END"),
    ("has a gap in its events, or another number of them than its sequence says",
     "SELECT 'job ' || lower(hex(j.id)) FROM jobs j LEFT JOIN (SELECT id >> 32 AS no, count(*) AS n, \
      max(id & 4294967295) AS last FROM events GROUP BY 1) e ON e.no = j.no WHERE j.deleted = 0 \
      AND CASE WHEN json_valid(j.moving) THEN coalesce(e.n, 0) <> j.moving ->> '$.sequence' \
      OR coalesce(e.last, 0) <> j.moving ->> '$.sequence' END"),
    ("stores another number of bytes than its jobs",
     "SELECT 'tenant ' || tenant FROM (SELECT tenant, stored FROM tenant_usage UNION ALL SELECT tenant, -sum(stored) FROM jobs \
      GROUP BY tenant) GROUP BY tenant HAVING sum(stored) <> 0"),
    ("has no spec",
     "SELECT 'job ' || lower(hex(id)) FROM jobs WHERE no NOT IN (SELECT job FROM job_specs)"),
    ("has ended, and tasks of it run",
     "SELECT 'job ' || lower(hex(j.id)) FROM jobs j WHERE j.state > 4 AND EXISTS \
      (SELECT 1 FROM claims c WHERE c.id BETWEEN (j.no << 32) AND ((j.no << 32) | 4294967295))"),
    ("has no job", "SELECT 'spec ' || job FROM job_specs WHERE job NOT IN (SELECT no FROM jobs)"),
    ("has no job", "SELECT 'label ' || key || '=' || value FROM job_labels WHERE id NOT IN (SELECT id FROM jobs)"),
    ("has no job", "SELECT 'request of job number ' || job FROM requests WHERE job NOT IN (SELECT no FROM jobs)"),
    ("has no job", "SELECT 'chunk of job number ' || job FROM chunks WHERE job NOT IN (SELECT no FROM jobs)"),
    ("has no job", "SELECT 'shared error ' || id FROM shared_errors WHERE id >> 32 NOT IN (SELECT no FROM jobs)"),
    ("has no job", "SELECT 'lane ' || id FROM lanes WHERE id >> 32 NOT IN (SELECT no FROM jobs)"),
    ("has no job", "SELECT 'task ' || id FROM tasks WHERE id >> 32 NOT IN (SELECT no FROM jobs)"),
    ("has no job", "SELECT 'event ' || id FROM events WHERE id >> 32 NOT IN (SELECT no FROM jobs)"),
    ("has no job", "SELECT 'page of task ' || task FROM pages WHERE task >> 32 NOT IN (SELECT no FROM jobs)"),
    ("has no lane",
     "SELECT 'task ' || t.id FROM tasks t CROSS JOIN jobs j ON j.no = t.id >> 32 \
      WHERE j.deleted = 0 AND t.lane NOT IN (SELECT id FROM lanes)"),
    ("has no task", "SELECT 'claim ' || id FROM claims WHERE id NOT IN (SELECT id FROM tasks)"),
    ("has no task", "SELECT 'state ' || id FROM task_states WHERE id NOT IN (SELECT id FROM tasks)"),
    ("has no task",
     "SELECT 'old state ' || o.id FROM old_states o CROSS JOIN jobs j ON j.no = o.id >> 32 \
      WHERE j.deleted = 0 AND o.id NOT IN (SELECT id FROM tasks)"),
    ("has no task",
     "SELECT 'key of job number ' || k.job FROM task_keys k CROSS JOIN jobs j ON j.no = k.job \
      WHERE j.deleted = 0 AND k.task NOT IN (SELECT id FROM tasks)"),
    ("has no task",
     "SELECT 'event ' || e.id FROM events e WHERE e.kind = 1 AND (e.id >> 32 << 32) + e.task NOT IN (SELECT id FROM tasks)"),
    ("has no task", "SELECT 'page of task ' || task FROM pages WHERE task NOT IN (SELECT id FROM tasks)"),
    ("has an error that is not there",
     "SELECT 'state ' || s.id FROM task_states s WHERE typeof(s.error) = 'integer' \
      AND (s.id >> 32 << 32) + s.error NOT IN (SELECT id FROM shared_errors)"),
    ("is PENDING before the head of its lane",
     "SELECT 'task ' || t.id FROM lanes l CROSS JOIN tasks t INDEXED BY tasks_lane ON t.lane = l.id \
      AND t.id < (l.id >> 32 << 32) + l.head CROSS JOIN jobs j ON j.no = l.id >> 32 \
      LEFT JOIN task_states s ON s.id = t.id LEFT JOIN claims c ON c.id = t.id \
      WHERE j.deleted = 0 AND c.id IS NULL AND (s.id IS NULL OR s.state = 1)"),
    ("has a body that is not there",
     "SELECT 'page of task ' || task FROM pages WHERE body IS NOT NULL AND body NOT IN (SELECT id FROM bodies)"),
    ("belongs to no page",
     "SELECT 'body ' || id FROM bodies WHERE id NOT IN (SELECT body FROM pages WHERE body IS NOT NULL)"),
];

/// Returns what is wrong with the data directory `dir`, in sentences. `roots`: where its root key is.
pub async fn audit(dir: &Path, roots: &RootKeys) -> Result<Vec<String>, OpenError> {
    let database = dir.join("haul.db");
    if !database.exists() {
        return Err(OpenError::Missing { path: database });
    }
    let had_log = has_log(dir);
    let mut conn = schema::reading(&database).await?;
    let found = findings(&mut conn, dir, roots).await;
    // It read only; there is nothing to lose.
    let _ = conn.close().await;
    if !had_log {
        remove_log(dir);
    }
    found
}

/// Returns whether there is a root key to check: a place of it is named, or it lies in the data directory.
pub fn has_key(dir: &Path, roots: &RootKeys) -> bool {
    *roots != RootKeys::Beside || dir.join(KEY_FILE).exists()
}

async fn findings(conn: &mut SqliteConnection, dir: &Path, roots: &RootKeys) -> Result<Vec<String>, OpenError> {
    let path = || dir.join("haul.db");
    let failed = |error| OpenError::Sqlite { path: path(), error };
    if !has_tables(conn, &["jobs"]).await.map_err(failed)? {
        return Err(OpenError::Empty { path: path() });
    }
    let has_keys = has_tables(conn, &["data_keys"]).await.map_err(failed)?;
    // A backup has no key of its own, and nothing is wrong with it for that.
    let keys =
        if has_key(dir, roots) { Keyring::check(has_keys.then_some(&mut *conn), dir, roots).await } else { Ok(()) };
    sqlx::query("BEGIN").execute(&mut *conn).await.map_err(failed)?;
    let found = questions(conn, dir).await;
    let mut found = found.map_err(|error| OpenError::Unread { path: path(), error })?;
    found.extend(keys.err().map(|error| error.to_string()));
    Ok(found)
}

async fn questions(conn: &mut SqliteConnection, dir: &Path) -> Result<Vec<String>, sqlx::Error> {
    let mut found = Vec::new();
    let verdicts: Vec<Text> = sqlx::query_scalar("PRAGMA integrity_check(20)").fetch_all(&mut *conn).await?;
    found.extend(
        verdicts
            .iter()
            .map(Text::shown)
            .filter(|verdict| verdict != "ok")
            .map(|what| format!("the file is damaged: {}", what.lines().collect::<Vec<_>>().join("; "))),
    );
    let vacuum: i64 = sqlx::query_scalar("PRAGMA auto_vacuum").fetch_one(&mut *conn).await?;
    if vacuum != 2 {
        found.push("the file does not return room: its auto_vacuum is not INCREMENTAL".to_owned());
    }
    let jobs: Vec<(i64, Vec<u8>)> = sqlx::query_as("SELECT no, id FROM jobs").fetch_all(&mut *conn).await?;
    let jobs = jobs.into_iter().filter_map(|(no, id)| Some((no, job_id(&id).ok()?))).collect();
    for (what, query) in RULES {
        let rows: Vec<Text> = sqlx::query_scalar(*query).fetch_all(&mut *conn).await?;
        list(&mut found, rows.iter().map(|row| format!("{} {what}", named(&row.shown(), &jobs))));
    }
    let named: Vec<ContentRow> = sqlx::query_as(CONTENTS).fetch_all(&mut *conn).await?;
    sqlx::query("COMMIT").execute(&mut *conn).await?;
    // A row says of itself whether it can be read. To read them all may take minutes, in which a server beside could not shorten its
    // log if all of them were to be of one moment.
    found.extend(illegible(&mut *conn).await?);
    let mut wrong = Vec::new();
    for (id, task, page, bytes) in named {
        let what = match job_id(&id) {
            Ok(job) => content(dir, &content_path(job, task, page), bytes),
            Err(error) => Some(error.to_string()),
        };
        if let Some(what) = what
            && is_kept(conn, &id).await?
        {
            wrong.push(what);
        }
    }
    list(&mut found, wrong.into_iter());
    Ok(found)
}

/// Returns the name of a row as people have it: a task is `JOB/INDEX` instead of the number of its row.
fn named(row: &str, jobs: &BTreeMap<i64, JobId>) -> String {
    let Some((kind, number)) = row.rsplit_once(' ') else { return row.to_owned() };
    let kind = match kind {
        "task" | "page of task" => kind.to_owned(),
        "claim" | "state" | "old state" => format!("{kind} of task"),
        _ => return row.to_owned(),
    };
    let Ok(number) = number.parse::<i64>() else { return row.to_owned() };
    let (job, index) = (number >> 32, number & i64::from(u32::MAX));
    match jobs.get(&job) {
        Some(id) => format!("{kind} {id}/{index}"),
        None => format!("{kind} {index} of job number {job}"),
    }
}

/// What is wrong with a content file.
fn content(dir: &Path, path: &Path, bytes: i64) -> Option<String> {
    match std::fs::metadata(dir.join(path)) {
        Ok(file) if file.len() == bytes as u64 => None,
        Ok(file) => Some(format!("content file `{}` has {} bytes and not {bytes}", path.display(), file.len())),
        Err(error) => Some(format!("content file `{}` cannot be read: {error}", path.display())),
    }
}

fn list(found: &mut Vec<String>, more: impl Iterator<Item = String>) {
    let more: Vec<String> = more.collect();
    let rest = more.len().saturating_sub(LISTED_MAX);
    found.extend(more.into_iter().take(LISTED_MAX));
    if rest > 0 {
        found.push(format!("and {rest} more of that kind"));
    }
}
