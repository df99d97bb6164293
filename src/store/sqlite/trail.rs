//! The audit: rows in a chain, each in the transaction of what it tells of.
//!
//! The digest of a row is keyed and goes over the one before, so whoever edits the file without the key breaks the chain. What
//! old rows leave when they are removed is the digest before the first that stays, keyed too.

use sqlx::SqliteConnection;

use crate::model::audit::{AuditFilter, AuditRecord, AuditRow};
use crate::model::time::Timestamp;
use crate::store::sqlite::errors::Fault;
use crate::store::sqlite::insert::Insert;
use crate::store::sqlite::reader::{Ask, Reader};
use crate::store::sqlite::rows;
use crate::store::{AuditPage, AuditPlace, StoreError};
use crate::vault::Vault;

/// What a row is kept for: 365 days.
const KEPT_MICROS: i64 = 365 * 86_400_000_000;
/// The most rows: about 1 GiB.
const ROWS_MAX: u64 = 3_000_000;
/// How often old rows are looked for, in rows, and how many go at once.
const PRUNED_EVERY: u64 = 256;
const PRUNED_AT_ONCE: u64 = 1024;
/// Rows that one page looks at.
const LOOK_MAX: u32 = 10_000;
const READ_AT_ONCE: u32 = 500;
/// The digest before the first row of all.
const BEFORE_ALL: [u8; 32] = [0; 32];

static ROWS: Insert = Insert::new("audit (seq, time, row, chain)", 4, "");

/// A row as its columns have it.
pub(super) type Columns = (i64, i64, String, Vec<u8>);

/// The digest of a row.
pub(super) fn link(vault: &Vault, before: &[u8], sequence: i64, time: i64, row: &str) -> [u8; 32] {
    vault.keyed("audit", &[before, &sequence.to_be_bytes(), &time.to_be_bytes(), row.as_bytes()])
}

/// The digest over what stands before the first row.
pub(super) fn start_link(vault: &Vault, sequence: i64, before: &[u8]) -> [u8; 32] {
    vault.keyed("audit start", &[&sequence.to_be_bytes(), before])
}

/// The last row of the chain: its number and its digest.
pub(super) type Last = (i64, Vec<u8>);

/// Adds rows behind `last`, which is read where it is not known. Returns the last one then.
pub(super) async fn write<'a>(
    conn: &mut SqliteConnection,
    vault: &Vault,
    last: Option<Last>,
    new: impl Iterator<Item = &'a AuditRow> + Send,
) -> Result<Option<Last>, Fault> {
    let mut new = new.peekable();
    if new.peek().is_none() {
        return Ok(last);
    }
    let (first, mut before) = match last {
        Some(last) => last,
        None => read_last(conn).await?,
    };
    let (mut linked, mut sequence, mut now) = (Vec::new(), first, 0);
    for row in new {
        sequence += 1;
        now = row.time.0;
        let text = serde_json::to_string(row)?;
        before = link(vault, &before, sequence, now, &text).to_vec();
        linked.push((sequence, now, text, before.clone()));
    }
    ROWS.run(conn, &linked, |values, (sequence, time, text, chain)| {
        values.add(*sequence)?.add(*time)?.add(text.as_str())?.add(chain.clone()).map(drop)
    })
    .await?;
    if first as u64 / PRUNED_EVERY != sequence as u64 / PRUNED_EVERY {
        prune(conn, vault, now - KEPT_MICROS, sequence - ROWS_MAX as i64).await?;
    }
    Ok(Some((sequence, before)))
}

async fn read_last(conn: &mut SqliteConnection) -> Result<Last, Fault> {
    let sql = "SELECT seq, chain FROM audit ORDER BY seq DESC LIMIT 1";
    Ok(match sqlx::query_as(sql).fetch_optional(&mut *conn).await? {
        Some(last) => last,
        None => start(conn).await?.map_or((0, BEFORE_ALL.to_vec()), |(sequence, before, _)| (sequence, before)),
    })
}

/// Removes the oldest rows, where they are older than `time` or up to `sequence`.
async fn prune(conn: &mut SqliteConnection, vault: &Vault, time: i64, sequence: i64) -> Result<(), Fault> {
    let sql = "SELECT seq, chain FROM (SELECT seq, time, chain FROM audit ORDER BY seq LIMIT ?1 + 0) \
               WHERE time < ?2 OR seq <= ?3 ORDER BY seq DESC LIMIT 1";
    let found: Option<(i64, Vec<u8>)> =
        sqlx::query_as(sql).bind(PRUNED_AT_ONCE as i64).bind(time).bind(sequence).fetch_optional(&mut *conn).await?;
    let Some((last, chain)) = found else { return Ok(()) };
    sqlx::query("DELETE FROM audit WHERE seq <= ?1").bind(last).execute(&mut *conn).await?;
    let text = format!("{last}:{}:{}", hex(&chain), hex(&start_link(vault, last, &chain)));
    let sql = "REPLACE INTO settings (key, value) VALUES ('audit_start', ?1)";
    sqlx::query(sql).bind(text).execute(&mut *conn).await?;
    Ok(())
}

/// Returns what stands before the first row, where older ones were removed: the last number, its digest, and the digest
/// over both.
pub(super) async fn start(conn: &mut SqliteConnection) -> Result<Option<(i64, Vec<u8>, Vec<u8>)>, sqlx::Error> {
    let text: Option<String> =
        sqlx::query_scalar("SELECT value FROM settings WHERE key = 'audit_start'").fetch_optional(&mut *conn).await?;
    Ok(text.and_then(|text| {
        let mut parts = text.split(':');
        Some((parts.next()?.parse().ok()?, unhex(parts.next()?)?, unhex(parts.next()?)?))
    }))
}

pub(super) async fn list(
    reader: &Reader,
    filter: &AuditFilter,
    mut place: AuditPlace,
    limit: u32,
) -> Result<AuditPage, StoreError> {
    let mut page = AuditPage::default();
    let mut looked = 0;
    while looked < LOOK_MAX {
        let ask = match place {
            AuditPlace::After(sequence) => {
                let sql = "SELECT seq, time, row, chain FROM audit WHERE seq > ?1 ORDER BY seq LIMIT ?2 + 0";
                Ask::new(sql).bind(sequence.min(i64::MAX as u64) as i64)
            }
            AuditPlace::Before(sequence) => {
                let sql = "SELECT seq, time, row, chain FROM audit WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2 + 0";
                Ask::new(sql).bind(sequence.min(i64::MAX as u64) as i64)
            }
        };
        let rows: Vec<Columns> = reader.all(ask.bind(READ_AT_ONCE)).await?;
        let is_last = rows.len() < READ_AT_ONCE as usize;
        looked += READ_AT_ONCE;
        for columns in rows {
            let record = record(columns)?;
            if page.records.len() == limit as usize {
                page.next = Some(place);
                return Ok(page);
            }
            place = match place {
                AuditPlace::After(_) => AuditPlace::After(record.sequence),
                AuditPlace::Before(_) => AuditPlace::Before(record.sequence),
            };
            if filter.fits(&record.row) {
                page.records.push(record);
            }
        }
        if is_last {
            return Ok(page);
        }
    }
    page.next = Some(place);
    Ok(page)
}

fn record((sequence, time, row, chain): Columns) -> Result<AuditRecord, StoreError> {
    let row = AuditRow { time: Timestamp(time), ..rows::parse(&row, "row of the audit")? };
    Ok(AuditRecord { sequence: sequence as u64, row, chain })
}

pub(super) async fn head(reader: &Reader) -> Result<Option<String>, StoreError> {
    let ask = Ask::new("SELECT seq, chain FROM audit ORDER BY seq DESC LIMIT 1");
    let found: Option<(i64, Vec<u8>)> = reader.first(ask).await?;
    Ok(found.map(|(sequence, chain)| format!("{sequence}:{}", hex(&chain))))
}

/// Writes bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // A text takes whatever is written.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Reads hexadecimal digits.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}
