//! Seals what an older version left plain, and seals anew what is sealed with an older data key, a piece at a time while the
//! server serves.
//!
//! How far it came is in the same transaction as what it did, so that a cut loses and repeats nothing. Rows that are made
//! meanwhile are sealed with the present key; a table is gone through from its end, since new rows come behind it.

use futures_util::TryStreamExt as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;

use crate::model::bag::Bagged;
use crate::model::ids::TaskIndex;
use crate::model::secret::holds_secret;
use crate::model::spec::{JobSpec, TaskSpec};
use crate::store::sqlite::columns::{job_id, keyed, keyed_blob};
use crate::store::sqlite::credentials;
use crate::store::sqlite::errors::Fault;
use crate::store::sqlite::lines::parse;
use crate::store::sqlite::reader::{Ask, Reader};
use crate::store::sqlite::sealed::{self, Columns, Place};
use crate::store::sqlite::text::Text;
use crate::store::{Sealing, StoreError};
use crate::vault::{Vault, key_of};

/// Rows of one piece: some milliseconds.
const ROWS_MAX: i64 = 500;
/// Bytes of rows after which a piece ends.
const BYTES_MAX: usize = 4 << 20;

/// The tables that are gone through, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    Jobs,
    Credentials,
    Tasks,
    Pages,
    /// The last three have plain rows only.
    Events,
    Requests,
    Chunks,
    /// What was plain is still on free pages and in the log.
    Traces,
}

/// How far it came. Its row in `settings` is there while there is something to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Whether rows, or free pages, may be plain.
    pub(super) plain: bool,
    stage: Stage,
    /// The key of the row that was looked at last, from the end.
    before: (i64, String),
}

impl Progress {
    /// From the first row on.
    fn anew(plain: bool) -> Progress {
        let mut progress = Progress { plain, stage: Stage::Jobs, before: (0, String::new()) };
        progress.to(Stage::Jobs);
        progress
    }

    /// Reads what is noted. Where that is damaged, nobody knows how far it came, and whether anything is plain.
    fn read(text: &Text) -> Progress {
        parse(text, "how far secrets are sealed").unwrap_or_else(|error| {
            tracing::error!("{error}; all of them are looked at again");
            Progress::anew(true)
        })
    }

    fn to(&mut self, stage: Stage) {
        self.stage = stage;
        self.before = (i64::MAX, String::new());
    }

    /// Goes on in the next table.
    fn turn(&mut self) {
        let next = match self.stage {
            Stage::Jobs => Stage::Credentials,
            Stage::Credentials => Stage::Tasks,
            Stage::Tasks => Stage::Pages,
            Stage::Pages if self.plain => Stage::Events,
            Stage::Events => Stage::Requests,
            Stage::Requests => Stage::Chunks,
            Stage::Pages | Stage::Chunks | Stage::Traces => Stage::Traces,
        };
        self.to(next);
    }

    /// Whether all rows are done.
    pub(super) fn is_through(&self) -> bool {
        self.stage == Stage::Traces
    }
}

/// Begins anew: everything is to be sealed with the present key. `plain`: rows may be plain. What was plain before still may be.
pub(super) async fn begin(conn: &mut SqliteConnection, plain: bool) -> Result<(), sqlx::Error> {
    let plain = plain || load(conn).await?.is_some_and(|progress| progress.plain);
    store(conn, &Progress::anew(plain)).await
}

/// Returns how far it came; `None`: there is nothing to do.
pub(super) async fn load(conn: &mut SqliteConnection) -> Result<Option<Progress>, sqlx::Error> {
    let sql = "SELECT value FROM settings WHERE key = 'sealing'";
    let text: Option<Text> = sqlx::query_scalar(sql).fetch_optional(conn).await?;
    Ok(text.as_ref().map(Progress::read))
}

async fn store(conn: &mut SqliteConnection, progress: &Progress) -> Result<(), sqlx::Error> {
    let text = serde_json::to_string(progress).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    sqlx::query("REPLACE INTO settings (key, value) VALUES ('sealing', ?1)").bind(text).execute(conn).await.map(drop)
}

/// Notes that nothing plain is left in the file itself.
pub(super) async fn rewritten(conn: &mut SqliteConnection, mut progress: Progress) -> Result<(), sqlx::Error> {
    progress.plain = false;
    store(conn, &progress).await
}

/// Notes that nothing is left to do.
pub(super) async fn end(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM settings WHERE key = 'sealing'").execute(conn).await.map(drop)
}

/// Goes on with a piece.
pub(super) async fn piece(conn: &mut SqliteConnection, vault: &Vault, progress: &mut Progress) -> Result<(), Fault> {
    let last = match progress.stage {
        Stage::Jobs => jobs(conn, vault, progress).await?,
        Stage::Credentials => {
            credentials::seal_anew(conn, vault).await?;
            None
        }
        Stage::Tasks => tasks(conn, vault, progress).await?,
        Stage::Pages => pages(conn, vault, progress).await?,
        Stage::Events => events(conn, progress).await?,
        Stage::Requests => requests(conn, vault, progress).await?,
        Stage::Chunks => chunks(conn, vault, progress).await?,
        Stage::Traces => return Ok(()),
    };
    match last {
        Some(last) => progress.before = last,
        None => progress.turn(),
    }
    Ok(store(conn, progress).await?)
}

/// Rows of one table that are counted at most.
macro_rules! up_to {
    ($rows:literal) => {
        concat!("SELECT count(*) FROM (SELECT 1 FROM ", $rows, " LIMIT 100000)")
    };
}

/// Says how much is left to do, with the key that seals.
pub(super) async fn left(reader: &Reader) -> Result<Sealing, StoreError> {
    let ask = Ask::new("SELECT value FROM settings WHERE key = 'sealing'");
    let found: Option<(Text,)> = reader.first(ask).await?;
    let mut sealing = Sealing { rows_left: 0, data_key: reader.vault.current() };
    let Some((text,)) = found else { return Ok(sealing) };
    let mut progress = Progress::read(&text);
    while !progress.is_through() {
        let (number, text) = &progress.before;
        let (number, page) = (*number, text.parse::<i64>().unwrap_or(0));
        let ask = match progress.stage {
            Stage::Jobs => Ask::new(up_to!("job_specs WHERE job < ?1")).bind(number),
            Stage::Credentials => Ask::new(up_to!("credentials")),
            Stage::Tasks => Ask::new(up_to!("tasks WHERE id < ?1")).bind(number),
            Stage::Pages => Ask::new(up_to!("pages WHERE (task, page) < (?1, ?2)")).bind(number).bind(page),
            Stage::Events => Ask::new(up_to!("events WHERE id < ?1")).bind(number),
            Stage::Requests => Ask::new(up_to!("requests WHERE job < ?1")).bind(number),
            Stage::Chunks => Ask::new(up_to!("chunks WHERE (job, id) < (?1, ?2)")).bind(number).bind(text.as_str()),
            Stage::Traces => break,
        };
        let (count,): (i64,) = reader.first(ask).await?.unwrap_or_default();
        sealing.rows_left += u64::try_from(count).unwrap_or_default();
        progress.turn();
    }
    // What was plain may still be on free pages and in the log.
    sealing.rows_left = sealing.rows_left.max(1);
    Ok(sealing)
}

/// The key of the last row that was looked at; `None`: there was none.
type Last = Option<(i64, String)>;

/// A key, the id of a job, a spec and a bag.
type SpecRow = (i64, Vec<u8>, Text, Option<Vec<u8>>);

/// Reads rows below `progress` up to the bounds of a piece.
async fn spec_rows(conn: &mut SqliteConnection, sql: &'static str, before: i64) -> Result<Vec<SpecRow>, Fault> {
    let mut rows = sqlx::query_as::<_, SpecRow>(sql).bind(before).bind(ROWS_MAX).fetch(conn);
    let (mut found, mut bytes): (Vec<SpecRow>, usize) = (Vec::new(), 0);
    while bytes < BYTES_MAX
        && let Some(row) = rows.try_next().await?
    {
        bytes += row.2.as_ref().len() + row.3.as_ref().map_or(0, Vec::len);
        found.push(row);
    }
    Ok(found)
}

/// Whether a row is to be written, by its bag: not if that has the present key.
fn is_old(vault: &Vault, bag: Option<&[u8]>) -> bool {
    bag.is_none_or(|bag| key_of(bag) != Ok(vault.current()))
}

/// Returns the new columns of a row; `None` where it stays as it is. A row that cannot be read stays too.
fn again<T: Bagged + Serialize + DeserializeOwned>(
    vault: &Vault,
    place: Place,
    spec: &Text,
    bag: Option<&[u8]>,
) -> Result<Option<Columns>, Fault> {
    if !is_old(vault, bag) {
        return Ok(None);
    }
    let whole = parse::<T>(spec, format_args!("{place:?}")).and_then(|left| sealed::whole(vault, place, left, bag));
    match whole {
        Ok(whole) if bag.is_some() || whole.has_secrets() => sealed::row(vault, place, &whole).map(Some),
        Ok(_) => Ok(None),
        Err(error) => {
            tracing::error!("{error}; it is left as it is");
            Ok(None)
        }
    }
}

async fn jobs(conn: &mut SqliteConnection, vault: &Vault, progress: &Progress) -> Result<Last, Fault> {
    let sql = "SELECT p.job, j.id, p.spec, p.sealed FROM job_specs p CROSS JOIN jobs j ON j.no = p.job \
               WHERE p.job < ?1 ORDER BY p.job DESC LIMIT ?2 + 0";
    let rows = spec_rows(conn, sql, progress.before.0).await?;
    for (no, id, spec, bag) in &rows {
        let place = Place::Job(job_id(id)?);
        if let Some((spec, bag)) = again::<JobSpec>(vault, place, spec, bag.as_deref())? {
            let sql = "UPDATE job_specs SET spec = ?2, sealed = ?3 WHERE job = ?1";
            sqlx::query(sql).bind(no).bind(spec).bind(bag).execute(&mut *conn).await?;
        }
    }
    Ok(rows.last().map(|row| (row.0, String::new())))
}

async fn tasks(conn: &mut SqliteConnection, vault: &Vault, progress: &Progress) -> Result<Last, Fault> {
    let sql = "SELECT t.id, j.id, t.spec, t.sealed FROM tasks t CROSS JOIN jobs j ON j.no = t.id >> 32 \
               WHERE t.id < ?1 ORDER BY t.id DESC LIMIT ?2 + 0";
    let rows = spec_rows(conn, sql, progress.before.0).await?;
    for (id, job, spec, bag) in &rows {
        let place = Place::Task(job_id(job)?, *id as TaskIndex);
        if let Some((spec, bag)) = again::<TaskSpec>(vault, place, spec, bag.as_deref())? {
            let sql = "UPDATE tasks SET spec = ?2, sealed = ?3 WHERE id = ?1";
            sqlx::query(sql).bind(id).bind(spec).bind(bag).execute(&mut *conn).await?;
        }
    }
    Ok(rows.last().map(|row| (row.0, String::new())))
}

/// Task, page, id of the job, next, bag.
type PageRow = (i64, i64, Vec<u8>, Option<Text>, Option<Vec<u8>>);

async fn pages(conn: &mut SqliteConnection, vault: &Vault, progress: &Progress) -> Result<Last, Fault> {
    let sql = "SELECT p.task, p.page, j.id, p.next, p.sealed FROM pages p CROSS JOIN jobs j ON j.no = p.task >> 32 \
               WHERE (p.task, p.page) < (?1, ?2) ORDER BY p.task DESC, p.page DESC LIMIT ?3 + 0";
    let page: i64 = progress.before.1.parse().unwrap_or(0);
    let rows: Vec<PageRow> =
        sqlx::query_as(sql).bind(progress.before.0).bind(page).bind(ROWS_MAX).fetch_all(&mut *conn).await?;
    for (task, page, job, next, bag) in &rows {
        let place = Place::Page(job_id(job)?, *task as TaskIndex, *page as u32);
        if !is_old(vault, bag.as_deref()) {
            continue;
        }
        let next = next.as_ref().map(|next| next.str(format_args!("{place:?}"))).transpose();
        let whole =
            match next.and_then(|next| sealed::whole_next(vault, place, next.map(str::to_owned), bag.as_deref())) {
                Ok(whole) if bag.is_none() && !whole.as_deref().is_some_and(holds_secret) => continue,
                Ok(whole) => whole,
                Err(error) => {
                    tracing::error!("{error}; it is left as it is");
                    continue;
                }
            };
        let (next, bag) = sealed::next(vault, place, whole.as_deref())?;
        let sql = "UPDATE pages SET next = ?3, sealed = ?4 WHERE task = ?1 AND page = ?2";
        sqlx::query(sql).bind(task).bind(page).bind(next).bind(bag).execute(&mut *conn).await?;
    }
    Ok(rows.last().map(|row| (row.0, row.1.to_string())))
}

/// Events do not show the options of tasks any more.
async fn events(conn: &mut SqliteConnection, progress: &Progress) -> Result<Last, Fault> {
    let sql = "SELECT min(id) FROM (SELECT id FROM events WHERE id < ?1 ORDER BY id DESC LIMIT ?2 + 0)";
    let first: Option<i64> =
        sqlx::query_scalar(sql).bind(progress.before.0).bind(ROWS_MAX).fetch_one(&mut *conn).await?;
    let Some(first) = first else { return Ok(None) };
    let sql = "UPDATE events SET snapshot = json_remove(snapshot, '$.spec.defaults') \
               WHERE id >= ?1 AND id < ?2 AND CASE WHEN json_valid(snapshot) THEN snapshot -> '$.spec.defaults' IS NOT NULL END";
    sqlx::query(sql).bind(first).bind(progress.before.0).execute(conn).await?;
    Ok(Some((first, String::new())))
}

/// The digests of an older version could be guessed.
async fn requests(conn: &mut SqliteConnection, vault: &Vault, progress: &Progress) -> Result<Last, Fault> {
    let sql = "SELECT job, digest FROM requests WHERE job < ?1 ORDER BY job DESC LIMIT ?2 + 0";
    let rows: Vec<(i64, Vec<u8>)> =
        sqlx::query_as(sql).bind(progress.before.0).bind(ROWS_MAX).fetch_all(&mut *conn).await?;
    for (job, digest) in &rows {
        if let Some(digest) = keyed_again(vault, digest) {
            let sql = "UPDATE requests SET digest = ?2 WHERE job = ?1";
            sqlx::query(sql).bind(job).bind(digest).execute(&mut *conn).await?;
        }
    }
    Ok(rows.last().map(|row| (row.0, String::new())))
}

async fn chunks(conn: &mut SqliteConnection, vault: &Vault, progress: &Progress) -> Result<Last, Fault> {
    let sql = "SELECT job, id, digest FROM chunks WHERE (job, id) < (?1, ?2) ORDER BY job DESC, id DESC LIMIT ?3 + 0";
    let rows: Vec<(i64, Text, Vec<u8>)> = sqlx::query_as(sql)
        .bind(progress.before.0)
        .bind(progress.before.1.as_str())
        .bind(ROWS_MAX)
        .fetch_all(&mut *conn)
        .await?;
    for (job, id, digest) in &rows {
        if let Some(digest) = keyed_again(vault, digest) {
            let sql = "UPDATE chunks SET digest = ?3 WHERE job = ?1 AND id = ?2";
            let Ok(id) = id.str("chunk") else { continue };
            sqlx::query(sql).bind(job).bind(id).bind(digest).execute(&mut *conn).await?;
        }
    }
    // A name that cannot be read is no place to go on behind.
    let last = rows.iter().rev().find_map(|(job, id, _)| Some((*job, id.str("chunk").ok()?.to_owned())));
    Ok(last.or(rows.last().map(|(job, ..)| (*job, String::new()))))
}

/// The column of a digest that is plain.
fn keyed_again(vault: &Vault, digest: &[u8]) -> Option<Vec<u8>> {
    let plain: [u8; 32] = digest.try_into().ok()?;
    Some(keyed_blob(&keyed(vault, plain)))
}
