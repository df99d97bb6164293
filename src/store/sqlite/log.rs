//! Copies the log back into the database beside the commits.
//!
//! To copy it is to write thousands of pages and to sync the database, tens of milliseconds on a good disk. On the
//! connection that writes, every commit would wait for that. So a connection of its own copies most of the log, and what was
//! committed meanwhile once more, until little is left: that the one that writes copies, after which the log begins anew.
//!
//! Where commits follow one another they write about as much during a copy as it copies. So there is a last one, during which
//! what can wait is kept out of the commits ([`LogCopier::is_at_its_end`]): less is left to the connection that writes then.
//!
//! That the log is copied to its end does not mean that it begins anew: the next commit must find no reader that began before.
//! So the connection that writes waits a moment for those (`RESTART`), and tries again soon where one of them stays longer.
//!
//! The automatic copy of the connection that writes remains, for a log that grows faster than it is copied: that one has a
//! bound which the reserve counts on.

use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, SqliteConnection};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::store::sqlite::ahead;
use crate::store::sqlite::schema::WRITER_BUSY_TIMEOUT;

/// Bytes of a page of the database.
pub(super) const PAGE_BYTES: u64 = 4096;
/// How many copies the bound of the log is for. The fewer pages one copies, the shorter is its sync, which commits meanwhile wait
/// for as well.
const COPIES: i64 = 8;
/// How often the length of the log is looked at while there are commits.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// How soon the log is looked at again that readers kept from beginning anew: twice as long each time.
const RESTART_PERIOD: Duration = Duration::from_millis(10);
/// The longest such time.
const RESTART_PERIOD_MAX: Duration = Duration::from_secs(1);
/// How long commits wait for readers, so that the log begins anew. Few reads take longer.
const READERS_PATIENCE: Duration = Duration::from_millis(8);
/// How long the log is left to the commits after a copy has failed, for want of room perhaps.
const FAILED_REST: Duration = Duration::from_secs(10);
/// Pages that the connection that writes copies while commits wait, where the log has room for another copy beside them.
const REST_MAX: i64 = 32;
/// Pages of which the copy is the last one beside the commits: 1 MiB. Where the copies do not catch up it may be of more.
const LAST_MAX: i64 = 256;
/// Returns the length of the log and how much of it is copied, and does nothing.
const LENGTH: &str = "PRAGMA wal_checkpoint(NOOP)";
/// Copies all of it, and has it begin anew with the next commit.
const RESTART: &str = "PRAGMA wal_checkpoint(RESTART)";
/// Copies what can be copied without waiting for anybody.
const COPY: &str = "PRAGMA wal_checkpoint(PASSIVE)";

/// Bytes of a log of so many pages: each has a head of its own, and so has the log.
fn log_bytes(pages: i64) -> u64 {
    const HEAD_BYTES: u64 = 32;
    const PAGE_HEAD_BYTES: u64 = 24;
    HEAD_BYTES + u64::try_from(pages).unwrap_or(0).saturating_mul(PAGE_BYTES + PAGE_HEAD_BYTES)
}

/// Whether another connection is in the way, pages in the log, pages of it that are copied.
pub(super) type Copied = (i64, i64, i64);

/// Copies the log over the connection that writes, and waits so long at most for whoever is in the way.
pub(super) async fn copy(
    writer: &mut SqliteConnection,
    pragma: &'static str,
    patience: Duration,
) -> Result<Copied, sqlx::Error> {
    set_patience(writer, patience).await?;
    let copied = sqlx::query_as(pragma).fetch_one(&mut *writer).await;
    set_patience(writer, WRITER_BUSY_TIMEOUT).await?;
    copied
}

pub(super) async fn set_patience(writer: &mut SqliteConnection, patience: Duration) -> Result<(), sqlx::Error> {
    let pragma = AssertSqlSafe(format!("PRAGMA busy_timeout = {}", patience.as_millis()));
    sqlx::query(pragma).execute(writer).await.map(drop)
}

/// What a copy leaves: its connection, if that is still good.
struct Through(Option<SqliteConnection>);

/// Copies the log of one database.
pub(super) struct LogCopier {
    options: SqliteConnectOptions,
    /// Pages of the log after which a commit copies it.
    bound: i64,
    /// Pages of the log from which on it is copied.
    pages: i64,
    /// Made when it is needed first.
    conn: Option<SqliteConnection>,
    /// The copy that is under way, at most one. It gives the connection back if that is still good.
    under_way: JoinSet<Option<SqliteConnection>>,
    /// What came of it, once that is known and until it is taken.
    through: Option<Through>,
    /// Whether it is the last one before the log begins anew.
    is_last: bool,
    next_look: Instant,
    /// Pages of the log that were not copied when the last copy began.
    left_before: i64,
    /// Pages that the log had then.
    upto: i64,
    /// How often it was kept from beginning anew.
    tries: u32,
    /// The most pages that were left to the connection that writes.
    #[cfg(test)]
    most_left: i64,
}

impl LogCopier {
    /// Copies a log from a part of its bound on, that of so many pages, over a connection with these options.
    pub(super) fn new(options: SqliteConnectOptions, bound: u64) -> LogCopier {
        let bound = i64::try_from(bound).unwrap_or(i64::MAX);
        LogCopier {
            options,
            bound,
            pages: bound / COPIES,
            conn: None,
            under_way: JoinSet::new(),
            through: None,
            is_last: false,
            next_look: Instant::now(),
            left_before: 0,
            upto: 0,
            tries: 0,
            #[cfg(test)]
            most_left: 0,
        }
    }

    /// Makes the file of the log as long as the log is when it is copied.
    pub(super) async fn write_ahead(&self, writer: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        // Whoever else writes to the database adds to the log, and what they commit must not be overwritten. While somebody does,
        // the file grows with the commits.
        if sqlx::query("BEGIN IMMEDIATE").execute(&mut *writer).await.is_err() {
            return Ok(());
        }
        ahead::write_ahead(self.options.get_filename(), log_bytes(self.pages)).await;
        sqlx::query("ROLLBACK").execute(&mut *writer).await.map(drop)
    }

    /// To be called between commits with the connection that writes. Begins a copy where the log has become long, and
    /// finishes one that is through.
    pub(super) async fn look(&mut self, writer: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        if let Some(through) = self.try_next() {
            return self.copy_rest(through, writer).await;
        }
        let now = Instant::now();
        if now < self.next_look {
            return Ok(());
        }
        self.next_look = now + LOOK_PERIOD;
        let (_, length, copied): Copied = sqlx::query_as(LENGTH).fetch_one(&mut *writer).await?;
        if !self.under_way.is_empty() {
            // No commit can copy the log beside this copy, so the log would outgrow its bound: commits wait for it.
            if length >= self.bound
                && let Some(through) = self.next().await
            {
                return self.copy_rest(through, writer).await;
            }
            return Ok(());
        }
        if length < self.pages {
            self.tries = 0;
            return Ok(());
        }
        // A log of which all was copied, and that goes on all the same, had a reader in its way. A commit would copy as much again.
        let left = length - copied;
        if left <= LAST_MAX { self.begin_anew(left, writer).await } else { self.begin(length, left, false).await }
    }

    /// Whether the copy is under way after which the log begins anew.
    pub(super) fn is_at_its_end(&self) -> bool {
        self.is_last && (self.through.is_some() || !self.under_way.is_empty())
    }

    /// Waits until the copy that is under way is through, for ever if there is none. The next look takes it.
    pub(super) async fn through(&mut self) {
        if self.through.is_none() {
            self.through = self.next().await;
        }
        if self.through.is_none() {
            std::future::pending::<()>().await;
        }
    }

    fn try_next(&mut self) -> Option<Through> {
        let next = || self.under_way.try_join_next().map(|through| Through(through.ok().flatten()));
        self.through.take().or_else(next)
    }

    async fn next(&mut self) -> Option<Through> {
        match self.through.take() {
            None => self.under_way.join_next().await.map(|through| Through(through.ok().flatten())),
            through => through,
        }
    }

    /// Begins to copy the log that has so many pages now, of which so many are not copied yet.
    async fn begin(&mut self, length: i64, left: i64, is_last: bool) -> Result<(), sqlx::Error> {
        (self.upto, self.left_before) = (length, left);
        self.is_last = is_last;
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => self.options.connect().await?,
        };
        self.under_way.spawn(async move {
            match sqlx::query_as::<_, Copied>(COPY).fetch_one(&mut conn).await {
                Ok(_) => Some(conn),
                Err(error) => {
                    tracing::warn!(%error, "the log of the store could not be copied beside the commits");
                    None
                }
            }
        });
        Ok(())
    }

    /// Copies what was committed during a copy that is through, on the connection that writes if that is little or the log is
    /// long by now; `None`: it has failed.
    async fn copy_rest(&mut self, Through(conn): Through, writer: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        if conn.is_none() {
            self.rest();
            return Ok(());
        }
        self.conn = conn;
        let (_, length, copied): Copied = sqlx::query_as(LENGTH).fetch_one(&mut *writer).await?;
        if copied == 0 && length < self.pages {
            // It has begun anew already.
            return Ok(());
        }
        // Where a copy leaves more than half of what the one before it left, commits are about as quick, and the next one is the last.
        let left = length - copied;
        if left > REST_MAX && length < self.bound && !self.is_last {
            let is_last = left <= LAST_MAX || left > self.left_before / 2 && left <= self.pages;
            return self.begin(length, left, is_last).await;
        }
        if left > LAST_MAX && length < self.bound {
            // Commits have outrun it, or a reader holds the log.
            if copied < self.upto {
                self.wait_for_readers();
            }
            return Ok(());
        }
        self.begin_anew(left, writer).await
    }

    /// Copies the rest of so many pages while nothing is committed.
    async fn begin_anew(&mut self, left: i64, writer: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        #[cfg(test)]
        {
            self.most_left = self.most_left.max(left);
        }
        let (is_busy, ..) = copy(writer, RESTART, READERS_PATIENCE).await?;
        tracing::trace!(left, is_busy, "the log of the store is copied");
        if is_busy == 0 {
            self.tries = 0;
            self.next_look = Instant::now() + LOOK_PERIOD;
        } else {
            self.wait_for_readers();
        }
        Ok(())
    }

    fn wait_for_readers(&mut self) {
        let wait = RESTART_PERIOD.saturating_mul(1 << self.tries.min(16)).min(RESTART_PERIOD_MAX);
        self.next_look = Instant::now() + wait;
        self.tries += 1;
    }

    /// Leaves the log to the commits for a while.
    pub(super) fn rest(&mut self) {
        self.next_look = Instant::now() + FAILED_REST;
    }

    /// The pages of the log after which a commit copies it.
    pub(super) fn bound(&self) -> i64 {
        self.bound
    }

    /// Waits for the copy that is under way: while there is one, nobody else can copy.
    pub(super) async fn finish(&mut self) {
        while let Some(Through(conn)) = self.next().await {
            self.conn = conn;
        }
    }

    /// Ends the connection.
    pub(super) async fn close(mut self) {
        self.finish().await;
        if let Some(conn) = self.conn
            && let Err(error) = conn.close().await
        {
            tracing::warn!(%error, "a connection of the store did not close as it should");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages that are written while a copy is under way.
    const MEANWHILE: i64 = 400;

    async fn write(conn: &mut SqliteConnection, pages: i64) {
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) \
                   INSERT INTO t SELECT randomblob(4000) FROM n";
        sqlx::query(sql).bind(pages).execute(conn).await.unwrap();
    }

    /// An empty table in a database whose commits do not copy its log, and what copies that from an eighth of `bound` pages on.
    async fn empty(dir: &std::path::Path, bound: i64) -> (SqliteConnection, LogCopier) {
        let options = SqliteConnectOptions::new()
            .filename(dir.join("x.db"))
            .create_if_missing(true)
            .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
            .pragma("wal_autocheckpoint", "0");
        let mut writer = options.connect().await.unwrap();
        sqlx::query("CREATE TABLE t (b BLOB)").execute(&mut writer).await.unwrap();
        (writer, LogCopier::new(options, bound as u64))
    }

    /// Somebody who reads the database as it is now.
    async fn reader(log: &LogCopier) -> SqliteConnection {
        let mut reader = log.options.connect().await.unwrap();
        sqlx::query("BEGIN").execute(&mut reader).await.unwrap();
        let _: i64 = sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(&mut reader).await.unwrap();
        reader
    }

    /// A reader that is there while the log was copied to its end, and over the next commit, keeps it from beginning anew.
    #[tokio::test]
    async fn a_log_that_a_reader_kept_from_beginning_anew_is_copied_again_soon() {
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, mut log) = empty(dir.path(), COPIES * MEANWHILE).await;
        write(&mut writer, MEANWHILE).await;
        let reader = reader(&log).await;
        while log.tries == 0 {
            log.look(&mut writer).await.unwrap();
            tokio::task::yield_now().await;
        }
        write(&mut writer, 10).await;
        let (_, length, _): Copied = sqlx::query_as(LENGTH).fetch_one(&mut writer).await.unwrap();
        assert!(length > MEANWHILE, "it goes on");
        reader.close().await.unwrap();
        while log.tries > 0 {
            log.look(&mut writer).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        write(&mut writer, 10).await;
        let (_, length, _): Copied = sqlx::query_as(LENGTH).fetch_one(&mut writer).await.unwrap();
        assert!(length < MEANWHILE, "{length} pages: it has not begun anew");
        log.close().await;
    }

    /// Callers wait for what the connection that writes copies, however much was committed during the copies before.
    #[tokio::test]
    async fn little_is_left_to_the_connection_that_writes() {
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, mut log) = empty(dir.path(), 4 * COPIES * MEANWHILE).await;
        write(&mut writer, 5 * MEANWHILE).await;
        // As if they came while it copies: it does not copy beyond what somebody reads.
        let reader = reader(&log).await;
        write(&mut writer, MEANWHILE).await;
        log.look(&mut writer).await.unwrap();
        let through = log.under_way.join_next().await.unwrap().unwrap();
        reader.close().await.unwrap();
        log.under_way.spawn(std::future::ready(through));
        while log.through.is_some() || !log.under_way.is_empty() {
            tokio::task::yield_now().await;
            log.look(&mut writer).await.unwrap();
        }
        let (_, length, copied): Copied = sqlx::query_as(LENGTH).fetch_one(&mut writer).await.unwrap();
        assert_eq!(length, copied);
        assert!(log.most_left <= REST_MAX, "{} pages", log.most_left);
        log.close().await;
    }
}
