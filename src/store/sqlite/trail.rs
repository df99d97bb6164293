//! The audit: rows in a chain, each in the transaction of what it tells of.
//!
//! The digest of a row is keyed and goes over the one before, so whoever edits the file without the key breaks the chain. What
//! old rows leave when they are removed is the digest before the first that stays, keyed too.

use std::time::Duration;

use sqlx::SqliteConnection;

use crate::model::audit::{AuditFilter, AuditRecord, AuditRow};
use crate::model::time::Timestamp;
use crate::store::sqlite::errors::Fault;
use crate::store::sqlite::insert::{Insert, Values};
use crate::store::sqlite::lines::{self, opened};
use crate::store::sqlite::reader::{Ask, Reader};
use crate::store::sqlite::script::Script;
use crate::store::sqlite::text::Text;
use crate::store::{AuditPage, AuditPlace, StoreError};
use crate::vault::Vault;

/// What a row takes beside its text, in bytes, roughly: its number, its time, its digest and the heads of its columns.
const ROW_BYTES: u64 = 64;
/// How often old rows are looked for, in rows, and how many go at once.
const PRUNED_EVERY: u64 = 256;
const PRUNED_AT_ONCE: u64 = 1024;
/// Rows that one page looks at.
const LOOK_MAX: u32 = 10_000;
const READ_AT_ONCE: u32 = 500;
/// The digest before the first row of all.
const BEFORE_ALL: [u8; 32] = [0; 32];

static ROWS: Insert = Insert::new("audit (seq, time, row, chain)", 4, "");

/// A row as its columns have it. A time is none where it is no number any more.
pub(super) type Columns = (i64, Option<i64>, Text, Vec<u8>);

/// The [`Columns`] of a row, whatever damage has made of its values: one row ends no read of others.
macro_rules! columns {
    () => {
        "seq, CASE typeof(time) WHEN 'integer' THEN time END, row, CAST(chain AS BLOB)"
    };
}
pub(super) use columns;

/// The digest of a row.
pub(super) fn link(vault: &Vault, before: &[u8], sequence: i64, time: i64, row: impl AsRef<[u8]>) -> [u8; 32] {
    vault.keyed("audit", &[before, &sequence.to_be_bytes(), &time.to_be_bytes(), row.as_ref()])
}

/// What became of the rows before the first one that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Earlier {
    /// They were old, and removed: none is there.
    Removed,
    /// Their key was given up. Those from this number on were there then, and have been removed from the front since.
    GivenUp(i64),
    /// An older version has not said.
    Unsaid,
}

/// What is noted of the rows before the first one that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// The number of the last of them, and its digest.
    pub(super) sequence: i64,
    pub(super) before: Vec<u8>,
    pub(super) earlier: Earlier,
    proof: Vec<u8>,
}

impl Start {
    fn new(vault: &Vault, sequence: i64, before: &[u8], earlier: Earlier) -> Start {
        let mut start = Start { sequence, before: before.to_vec(), earlier, proof: Vec::new() };
        start.proof = start.link(vault).to_vec();
        start
    }

    /// Returns whether this server has noted it, with the key that the rows behind it have.
    pub(super) fn is_own(&self, vault: &Vault) -> bool {
        self.proof == self.link(vault)
    }

    /// The digest over it.
    fn link(&self, vault: &Vault) -> [u8; 32] {
        let sequence = self.sequence.to_be_bytes();
        match self.earlier {
            Earlier::Unsaid => vault.keyed("audit start", &[&sequence, &self.before]),
            Earlier::Removed => vault.keyed("audit start behind removed", &[&sequence, &self.before]),
            Earlier::GivenUp(first) => {
                vault.keyed("audit start behind given up", &[&sequence, &self.before, &first.to_be_bytes()])
            }
        }
    }

    fn text(&self) -> String {
        let Start { sequence, before, proof, earlier } = self;
        let earlier = match earlier {
            Earlier::Unsaid => String::new(),
            Earlier::Removed => ":removed".to_owned(),
            Earlier::GivenUp(first) => format!(":{first}"),
        };
        format!("{sequence}:{}:{}{earlier}", hex(before), hex(proof))
    }

    fn read(text: &str) -> Option<Start> {
        let mut parts = text.split(':');
        let (sequence, before, proof) = (parts.next()?.parse().ok()?, unhex(parts.next()?)?, unhex(parts.next()?)?);
        let earlier = match parts.next() {
            None => Earlier::Unsaid,
            Some("removed") => Earlier::Removed,
            Some(first) => Earlier::GivenUp(first.parse().ok()?),
        };
        Some(Start { sequence, before, earlier, proof })
    }
}

/// The digest over what is noted of the bytes of all rows.
fn bytes_link(vault: &Vault, sequence: i64, bytes: u64) -> [u8; 32] {
    vault.keyed("audit bytes", &[&sequence.to_be_bytes(), &bytes.to_be_bytes()])
}

/// The last row of the chain.
pub(super) struct Last {
    sequence: i64,
    digest: Vec<u8>,
    /// What all rows take.
    bytes: u64,
}

/// How long rows are kept, and how much they may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub(super) time: Duration,
    pub(super) bytes: u64,
}

impl Kept {
    /// The time of the oldest row that is kept at `now`.
    fn since(self, now: i64) -> i64 {
        now.saturating_sub(i64::try_from(self.time.as_micros()).unwrap_or(i64::MAX))
    }
}

/// Adds rows behind `last`, which is read where it is not known. Returns the last one then.
pub(super) async fn write<'a>(
    script: &mut Script<'_>,
    vault: &Vault,
    last: Option<Last>,
    new: impl Iterator<Item = &'a AuditRow> + Send,
    kept: Kept,
) -> Result<Option<Last>, Fault> {
    let mut new = new.peekable();
    if new.peek().is_none() {
        return Ok(last);
    }
    let Last { sequence: first, digest: mut before, mut bytes } = match last {
        Some(last) => last,
        None => read_last(script.conn().await?, vault).await?,
    };
    let (mut linked, mut sequence, mut now) = (Vec::new(), first, 0);
    for row in new {
        sequence += 1;
        now = row.time.0;
        let text = serde_json::to_string(row)?;
        before = link(vault, &before, sequence, now, &text).to_vec();
        bytes += text.len() as u64 + ROW_BYTES;
        linked.push((sequence, now, text, before.clone()));
    }
    let bind = |row: &mut Values, (sequence, time, text, chain): &(i64, i64, String, Vec<u8>)| {
        row.add(*sequence)?.add(*time)?.add(text.as_str())?.add(chain.clone()).map(drop)
    };
    script.insert(&ROWS, &linked, bind, None).await?;
    let is_over = bytes > kept.bytes;
    if is_over || first as u64 / PRUNED_EVERY != sequence as u64 / PRUNED_EVERY {
        // More than are added, however many those are.
        let limit = PRUNED_AT_ONCE.max(2 * linked.len() as u64);
        // Somewhat more, so that not every row has one removed.
        let surplus = if is_over { bytes.saturating_sub(kept.bytes - kept.bytes / 64) } else { 0 };
        let conn = script.conn().await?;
        bytes -= prune(conn, vault, (now, kept), surplus, limit as i64).await?.min(bytes);
        note_bytes(conn, vault, sequence, bytes).await?;
    }
    Ok(Some(Last { sequence, digest: before, bytes }))
}

/// Notes what all rows take, up to the last one.
async fn note_bytes(conn: &mut SqliteConnection, vault: &Vault, sequence: i64, bytes: u64) -> Result<(), sqlx::Error> {
    let text = format!("{sequence}:{bytes}:{}", hex(&bytes_link(vault, sequence, bytes)));
    let sql = "REPLACE INTO settings (key, value) VALUES ('audit_bytes', ?1)";
    sqlx::query(sql).bind(text).execute(conn).await.map(drop)
}

/// Which of the first `?1` rows go that are older than `?2`: those before the first one that is of the time from then to now, `?3`. A
/// later one was written while the clock was ahead, and holds none behind it for years, unless `?1` of them stand first. An old one
/// behind rows of that time was written while the clock was behind, and takes none of them along.
macro_rules! is_old {
    () => {
        "time < ?2 AND seq < coalesce((SELECT min(k.seq) FROM (SELECT seq, time FROM audit ORDER BY seq LIMIT ?1 + 0) k \
         WHERE k.time BETWEEN ?2 AND ?3), 9223372036854775807)"
    };
}

/// Whether there are rows that need not be kept any longer at `now`.
pub(super) async fn has_old(conn: &mut SqliteConnection, now: i64, kept: Kept) -> Result<bool, sqlx::Error> {
    let sql = concat!(
        "SELECT EXISTS (SELECT 1 FROM (SELECT seq, time FROM audit ORDER BY seq LIMIT ?1 + 0) WHERE ",
        is_old!(),
        ")"
    );
    sqlx::query_scalar(sql).bind(PRUNED_AT_ONCE as i64).bind(kept.since(now)).bind(now).fetch_one(conn).await
}

/// Removes some of these rows, where `last` is the last one of all, which is read where it is not known. Returns that one, and
/// whether any were removed.
pub(super) async fn remove_old(
    conn: &mut SqliteConnection,
    vault: &Vault,
    last: Option<Last>,
    now: i64,
    kept: Kept,
) -> Result<(Last, bool), Fault> {
    let mut last = match last {
        Some(last) => last,
        None => read_last(conn, vault).await?,
    };
    let removed = prune(conn, vault, (now, kept), 0, PRUNED_AT_ONCE as i64).await?;
    last.bytes -= removed.min(last.bytes);
    note_bytes(conn, vault, last.sequence, last.bytes).await?;
    Ok((last, removed > 0))
}

async fn read_last(conn: &mut SqliteConnection, vault: &Vault) -> Result<Last, Fault> {
    // A digest that is damaged breaks the chain, which whoever verifies it finds, and ends nothing.
    let sql = "SELECT seq, CAST(chain AS BLOB) FROM audit ORDER BY seq DESC LIMIT 1";
    let (sequence, digest) = match sqlx::query_as(sql).fetch_optional(&mut *conn).await? {
        Some(last) => last,
        None => start(conn).await?.map_or((0, BEFORE_ALL.to_vec()), |start| (start.sequence, start.before)),
    };
    Ok(Last { sequence, digest, bytes: read_bytes(conn, vault).await? })
}

/// What all rows take: what was noted when rows were last removed, and those since. Whoever edits the note must not have
/// the server remove rows for it, so it is keyed.
async fn read_bytes(conn: &mut SqliteConnection, vault: &Vault) -> Result<u64, Fault> {
    let sql = "SELECT value FROM settings WHERE key = 'audit_bytes'";
    let noted: Option<Text> = sqlx::query_scalar(sql).fetch_optional(&mut *conn).await?;
    let noted = noted.and_then(|text| {
        let mut parts = text.str("bytes of the audit").ok()?.split(':');
        let (sequence, bytes) = (parts.next()?.parse::<i64>().ok()?, parts.next()?.parse::<u64>().ok()?);
        (unhex(parts.next()?)? == bytes_link(vault, sequence, bytes).as_slice()).then_some((sequence, bytes))
    });
    // An older version has noted nothing, or what is noted is not this server's: all rows are measured, once.
    let (sequence, bytes) = noted.unwrap_or_default();
    let sql = "SELECT coalesce(sum(octet_length(row) + ?2), 0) FROM audit WHERE seq > ?1";
    let since: i64 = sqlx::query_scalar(sql).bind(sequence).bind(ROW_BYTES as i64).fetch_one(conn).await?;
    Ok(bytes + u64::try_from(since).unwrap_or_default())
}

/// A row that is removed last, its digest, and the bytes of all that are.
type Pruned = (i64, Vec<u8>, i64);

/// Removes the oldest rows, where they need not be kept any longer at `now` or are among the first `surplus` bytes. Returns what they
/// took.
async fn prune(
    conn: &mut SqliteConnection,
    vault: &Vault,
    (now, kept): (i64, Kept),
    surplus: u64,
    limit: i64,
) -> Result<u64, Fault> {
    // Mostly none is: then their times are all that is looked at.
    if surplus == 0 && !has_old(conn, now, kept).await? {
        return Ok(0);
    }
    let sql = concat!(
        "SELECT seq, CAST(chain AS BLOB), upto FROM (SELECT seq, time, chain, own, sum(own) OVER (ORDER BY seq) AS upto FROM \
         (SELECT seq, time, chain, octet_length(row) + ?5 AS own FROM audit ORDER BY seq LIMIT ?1 + 0)) WHERE ",
        is_old!(),
        " OR upto - own < ?4 ORDER BY seq DESC LIMIT 1"
    );
    let found: Option<Pruned> = sqlx::query_as(sql)
        .bind(limit)
        .bind(kept.since(now))
        .bind(now)
        .bind(i64::try_from(surplus).unwrap_or(i64::MAX))
        .bind(ROW_BYTES as i64)
        .fetch_optional(&mut *conn)
        .await?;
    let Some((last, chain, bytes)) = found else { return Ok(0) };
    if !is_whole(conn, vault, last, &chain).await? {
        tracing::error!("row {last} of the audit was changed, so none is removed; `haul audit verify` says more");
        return Ok(0);
    }
    sqlx::query("DELETE FROM audit WHERE seq <= ?1").bind(last).execute(&mut *conn).await?;
    // Rows under a key that was given up may be left, and the chain begins behind them.
    if start(conn).await?.is_none_or(|start| start.sequence < last) {
        note_start(conn, &Start::new(vault, last, &chain, Earlier::Removed)).await?;
    }
    Ok(u64::try_from(bytes).unwrap_or_default())
}

/// Goes on behind the last row with another key: what stands up to there cannot be verified any more.
pub(super) async fn begin_anew(conn: &mut SqliteConnection, vault: &Vault) -> Result<(), sqlx::Error> {
    let sql = "SELECT seq, CAST(chain AS BLOB), (SELECT min(seq) FROM audit) FROM audit ORDER BY seq DESC LIMIT 1";
    let last: Option<(i64, Vec<u8>, i64)> = sqlx::query_as(sql).fetch_optional(&mut *conn).await?;
    let start = if let Some((sequence, chain, first)) = last {
        Some(Start::new(vault, sequence, &chain, Earlier::GivenUp(first)))
    } else {
        // None is left to be given up.
        let there = start(conn).await?;
        there.map(|start| Start::new(vault, start.sequence, &start.before, Earlier::Removed))
    };
    match start {
        Some(start) => note_start(conn, &start).await,
        None => Ok(()),
    }
}

/// Notes which row stands before the first one that counts.
async fn note_start(conn: &mut SqliteConnection, start: &Start) -> Result<(), sqlx::Error> {
    let sql = "REPLACE INTO settings (key, value) VALUES ('audit_start', ?1)";
    sqlx::query(sql).bind(start.text()).execute(conn).await.map(drop)
}

/// Returns whether a row is as it was written, its time too: what is removed leaves a digest that vouches for it.
async fn is_whole(conn: &mut SqliteConnection, vault: &Vault, sequence: i64, chain: &[u8]) -> Result<bool, Fault> {
    let before = match start(conn).await? {
        // Nobody can say, since its key was given up; and where rows were removed, none is that this server has written.
        Some(start) if sequence <= start.sequence => return Ok(start.earlier != Earlier::Removed),
        Some(start) if sequence == start.sequence + 1 => Some(start.before),
        None if sequence == 1 => Some(BEFORE_ALL.to_vec()),
        _ => {
            let sql = "SELECT CAST(chain AS BLOB) FROM audit WHERE seq = ?1";
            sqlx::query_scalar(sql).bind(sequence - 1).fetch_optional(&mut *conn).await?
        }
    };
    let sql = "SELECT CAST(time AS INTEGER), row FROM audit WHERE seq = ?1";
    let row: Option<(i64, Text)> = sqlx::query_as(sql).bind(sequence).fetch_optional(conn).await?;
    Ok(before
        .zip(row)
        .is_some_and(|(before, (time, row))| link(vault, &before, sequence, time, &row).as_slice() == chain))
}

/// Returns what is noted of the rows before the first one that counts; `None`: all count.
pub(super) async fn start(conn: &mut SqliteConnection) -> Result<Option<Start>, sqlx::Error> {
    let text: Option<Text> =
        sqlx::query_scalar("SELECT value FROM settings WHERE key = 'audit_start'").fetch_optional(&mut *conn).await?;
    Ok(text.and_then(|text| Start::read(text.str("start of the audit").ok()?)))
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
                let sql = concat!("SELECT ", columns!(), " FROM audit WHERE seq > ?1 ORDER BY seq LIMIT ?2 + 0");
                Ask::new(sql).bind(sequence.min(i64::MAX as u64) as i64)
            }
            AuditPlace::Before(sequence) => {
                let sql = concat!("SELECT ", columns!(), " FROM audit WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2 + 0");
                Ask::new(sql).bind(sequence.min(i64::MAX as u64) as i64)
            }
        };
        let rows: Vec<Columns> = reader.all(ask.bind(READ_AT_ONCE)).await?;
        let is_last = rows.len() < READ_AT_ONCE as usize;
        looked += READ_AT_ONCE;
        for columns in rows {
            if page.records.len() == limit as usize {
                page.next = Some(place);
                return Ok(page);
            }
            let sequence = columns.0 as u64;
            place = match place {
                AuditPlace::After(_) => AuditPlace::After(sequence),
                AuditPlace::Before(_) => AuditPlace::Before(sequence),
            };
            page.records.extend(opened(std::iter::once(record(columns))).into_iter().filter(|it| filter.fits(&it.row)));
        }
        if is_last {
            return Ok(page);
        }
    }
    page.next = Some(place);
    Ok(page)
}

fn record((sequence, time, row, chain): Columns) -> Result<AuditRecord, StoreError> {
    let time = time.ok_or_else(|| StoreError::Unreadable(format!("row {sequence} of the audit has no time")))?;
    let row = AuditRow { time: Timestamp(time), ..lines::parse(&row, format_args!("row {sequence} of the audit"))? };
    Ok(AuditRecord { sequence: sequence as u64, row, chain })
}

pub(super) async fn head(reader: &Reader) -> Result<Option<String>, StoreError> {
    let ask = Ask::new("SELECT seq, CAST(chain AS BLOB) FROM audit ORDER BY seq DESC LIMIT 1");
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

/// Reads hexadecimal digits, and nothing else: `from_str_radix` alone takes a sign, too.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}
