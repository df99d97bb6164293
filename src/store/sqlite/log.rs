//! Copies the log back into the database beside the commits.
//!
//! To copy it is to write thousands of pages and to sync the database, tens of milliseconds on a good disk. On the
//! connection that writes, every commit would wait for that. So a connection of its own copies most of the log, and what was
//! committed meanwhile once more, until little is left: that the one that writes copies, after which the log begins anew.
//!
//! The automatic copy of the connection that writes remains, for a log that grows faster than it is copied: that one has a
//! bound which the reserve counts on.

use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::store::sqlite::ahead::Ahead;

/// Bytes of a page of the database.
pub(super) const PAGE_BYTES: u64 = 4096;
/// How often the length of the log is looked at while there are commits.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// How long the log is left to the commits after a copy has failed, for want of room perhaps.
const FAILED_REST: Duration = Duration::from_secs(10);
/// Pages that the connection that writes copies while commits wait, where the log has room for another copy beside them: 1 MiB.
const REST_MAX: i64 = 256;
/// Returns the length of the log and how much of it is copied, and does nothing.
const LENGTH: &str = "PRAGMA wal_checkpoint(NOOP)";
/// Copies what can be copied without waiting for anybody.
const COPY: &str = "PRAGMA wal_checkpoint(PASSIVE)";

/// Bytes of a log of so many pages: each has a head of its own, and so has the log.
fn log_bytes(pages: i64) -> u64 {
    const HEAD_BYTES: u64 = 32;
    const PAGE_HEAD_BYTES: u64 = 24;
    HEAD_BYTES + u64::try_from(pages).unwrap_or(0).saturating_mul(PAGE_BYTES + PAGE_HEAD_BYTES)
}

/// Whether another connection is in the way, pages in the log, pages of it that are copied.
type Copied = (i64, i64, i64);

/// Copies the log of one database.
pub(super) struct LogCopier {
    options: SqliteConnectOptions,
    /// Pages of the log from which on it is copied.
    pages: i64,
    /// Made when it is needed first.
    conn: Option<SqliteConnection>,
    /// The copy that is under way, at most one. It gives the connection back if that is still good.
    under_way: JoinSet<Option<SqliteConnection>>,
    next_look: Instant,
    /// `None`: commits are not waited for, or the length of the file costs them nothing.
    ahead: Option<Ahead>,
    /// When it is made longer again, after that has failed.
    next_step: Instant,
    /// Pages of the log that were not copied when the last copy began.
    left_before: i64,
    /// The most pages that were left to the connection that writes.
    #[cfg(test)]
    most_left: i64,
}

impl LogCopier {
    /// Copies the log from so many pages on, half of its bound, over a connection with these options.
    pub(super) fn new(options: SqliteConnectOptions, pages: u64) -> LogCopier {
        let pages = i64::try_from(pages).unwrap_or(i64::MAX);
        LogCopier {
            options,
            pages,
            conn: None,
            under_way: JoinSet::new(),
            next_look: Instant::now(),
            ahead: None,
            next_step: Instant::now(),
            left_before: 0,
            #[cfg(test)]
            most_left: 0,
        }
    }

    /// Has the file of the log written ahead of the commits from now on.
    pub(super) async fn write_ahead(&mut self, writer: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        self.ahead = Some(Ahead::of(self.options.get_filename(), log_bytes(self.pages)));
        self.step_ahead(writer).await
    }

    async fn step_ahead(&mut self, writer: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let now = Instant::now();
        let Some(ahead) = self.ahead.as_ref().filter(|ahead| now >= self.next_step && ahead.is_short()) else {
            return Ok(());
        };
        // Whoever else writes to the database adds to the log, and what they commit must not be overwritten. While somebody does,
        // it is as well to wait.
        if sqlx::query("BEGIN IMMEDIATE").execute(&mut *writer).await.is_err() {
            self.next_step = now + FAILED_REST;
            return Ok(());
        }
        if !ahead.step().await {
            self.next_step = now + FAILED_REST;
        }
        sqlx::query("ROLLBACK").execute(&mut *writer).await.map(drop)
    }

    /// To be called between commits with the connection that writes. Begins a copy where the log has become long, and
    /// finishes one that is through.
    pub(super) async fn look(&mut self, writer: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        if let Some(through) = self.under_way.try_join_next() {
            return self.copy_rest(through.ok().flatten(), writer).await;
        }
        let now = Instant::now();
        if now < self.next_look {
            return Ok(());
        }
        self.next_look = now + LOOK_PERIOD;
        self.step_ahead(writer).await?;
        let (_, length, copied): Copied = sqlx::query_as(LENGTH).fetch_one(&mut *writer).await?;
        if !self.under_way.is_empty() {
            // No commit can copy the log beside this copy, so the log would outgrow its bound: commits wait for it.
            if length >= self.bound()
                && let Some(through) = self.under_way.join_next().await
            {
                return self.copy_rest(through.ok().flatten(), writer).await;
            }
            return Ok(());
        }
        if length - copied < self.pages {
            return Ok(());
        }
        self.begin(length - copied).await
    }

    /// Begins to copy what the log has now, of which so many pages are not copied yet.
    async fn begin(&mut self, left: i64) -> Result<(), sqlx::Error> {
        self.left_before = left;
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
    async fn copy_rest(
        &mut self,
        conn: Option<SqliteConnection>,
        writer: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
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
        // Another copy pays while each leaves half of what the one before it left. Commits may outrun the copies, and what a reader
        // holds is not copied any further.
        let left = length - copied;
        if left > REST_MAX && length < self.bound() && left <= self.left_before / 2 {
            return self.begin(left).await;
        }
        #[cfg(test)]
        {
            self.most_left = self.most_left.max(length - copied);
        }
        let _: Copied = sqlx::query_as(COPY).fetch_one(writer).await?;
        Ok(())
    }

    /// Leaves the log to the commits for a while.
    pub(super) fn rest(&mut self) {
        self.next_look = Instant::now() + FAILED_REST;
    }

    /// The pages of the log after which a commit copies it.
    pub(super) fn bound(&self) -> i64 {
        2 * self.pages
    }

    /// Waits for the copy that is under way: while there is one, nobody else can copy.
    pub(super) async fn finish(&mut self) {
        while let Some(through) = self.under_way.join_next().await {
            self.conn = through.ok().flatten();
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

    /// Callers wait for what the connection that writes copies, however much was committed during the copies before.
    #[tokio::test]
    async fn little_is_left_to_the_connection_that_writes() {
        let dir = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new()
            .filename(dir.path().join("x.db"))
            .create_if_missing(true)
            .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
            .pragma("wal_autocheckpoint", "0");
        let mut writer = options.connect().await.unwrap();
        sqlx::query("CREATE TABLE t (b BLOB)").execute(&mut writer).await.unwrap();
        let mut log = LogCopier::new(options, 4 * MEANWHILE as u64);
        write(&mut writer, 5 * MEANWHILE).await;
        // As if they came while it copies: it does not copy beyond what somebody reads.
        let mut reader = log.options.connect().await.unwrap();
        sqlx::query("BEGIN").execute(&mut reader).await.unwrap();
        let _: i64 = sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(&mut reader).await.unwrap();
        write(&mut writer, MEANWHILE).await;
        log.look(&mut writer).await.unwrap();
        let through = log.under_way.join_next().await.unwrap().unwrap();
        reader.close().await.unwrap();
        log.under_way.spawn(std::future::ready(through));
        while !log.under_way.is_empty() {
            tokio::task::yield_now().await;
            log.look(&mut writer).await.unwrap();
        }
        let (_, length, copied): Copied = sqlx::query_as(LENGTH).fetch_one(&mut writer).await.unwrap();
        assert_eq!(length, copied);
        assert!(log.most_left <= REST_MAX, "{} pages", log.most_left);
        log.close().await;
    }
}
