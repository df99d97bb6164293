//! Checks a data directory, beside a running server or without one, and changes nothing.
//!
//! All questions about rows are asked within one transaction, so that they are about one state of the database.

use std::collections::BTreeMap;
use std::path::Path;

use sqlx::{Connection as _, SqliteConnection};

use crate::model::ids::JobId;
use crate::store::sqlite::beside::{has_log, has_tables, remove_log};
use crate::store::sqlite::columns::job_id;
use crate::store::sqlite::contents::{CONTENTS, ContentRow, content_path, dropping_path, is_named};
use crate::store::sqlite::keys::{KEY_FILE, Keyring, RootKeys};
use crate::store::sqlite::legible::illegible;
use crate::store::sqlite::open_error::OpenError;
use crate::store::sqlite::rules::RULES;
use crate::store::sqlite::schema;
use crate::store::sqlite::text::Text;

/// Findings of one kind that are listed.
const LISTED_MAX: usize = 20;

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
    for row in named {
        if let Some(what) = content(dir, &row)
            && is_named(conn, &row).await?
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
fn content(dir: &Path, (id, task, page, bytes): &ContentRow) -> Option<String> {
    let job = match job_id(id) {
        Ok(job) => job,
        Err(error) => return Some(error.to_string()),
    };
    let path = content_path(job, *task, *page);
    match std::fs::metadata(dir.join(&path)) {
        Ok(file) if file.len() == *bytes as u64 => None,
        Ok(file) => Some(format!("content file `{}` has {} bytes and not {bytes}", path.display(), file.len())),
        // The end of the server may have come before the rows went.
        Err(_) if dir.join(dropping_path(job, *task)).exists() => None,
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
