//! The writing half: one connection, one transaction a batch, one or a few statements for each kind of change.
//!
//! Invariant: when a commit returns an error, the transaction is rolled back, or the writer refuses all further work
//! because nobody can say what became of it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::{Connection, SqliteConnection};

use crate::store::sqlite::lock::DirLock;
use crate::store::sqlite::numbers::Numbers;
use crate::store::sqlite::{events, jobs, pages, purge, states, sweep, tasks};
use crate::store::{Answer, Batch, Committed, StoreError, WriteStore};

/// The one connection that writes. There is one a data directory, which its lock makes sure of.
pub struct SqliteWriter {
    conn: SqliteConnection,
    numbers: Numbers,
    /// Why it cannot be known what is stored, once that is so.
    broken: Option<String>,
    /// Held until the connection is closed.
    lock: Arc<DirLock>,
}

impl SqliteWriter {
    pub(super) fn new(conn: SqliteConnection, numbers: Numbers, lock: Arc<DirLock>) -> Self {
        SqliteWriter { conn, numbers, broken: None, lock }
    }

    async fn commit_batch(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        if let Some(why) = &self.broken {
            return Err(StoreError::Fatal(format!("nothing is written any more, since {why}; restart the server")));
        }
        if batch.is_empty() {
            return Ok(Committed::default());
        }
        self.broken = Some("a commit was abandoned half-way".to_owned());
        // Plain statements, not sqlx's transactions: those lose count when SQLite itself rolls back.
        if let Err(error) = sqlx::query("BEGIN IMMEDIATE").execute(&mut self.conn).await {
            self.broken = None;
            return Err(error.into());
        }
        let applied = apply(&mut self.conn, &mut self.numbers, batch).await;
        let result = match applied {
            Ok(committed) => self.finish().await.map(|()| committed),
            Err(error) => self.roll_back().await.and(Err(error)),
        };
        if result.is_err() {
            self.numbers.forget(batch.new_jobs.iter().map(|new| new.job.id));
        }
        result
    }

    /// COMMIT. When it fails for want of room or of a lock, the transaction is not in the log as `SQLite` reads it, and a
    /// rollback settles that. When it fails otherwise (a sync that failed, say) its last frame may be on disk.
    async fn finish(&mut self) -> Result<(), StoreError> {
        let Err(error) = sqlx::query("COMMIT").execute(&mut self.conn).await else {
            self.broken = None;
            return Ok(());
        };
        let error = StoreError::from(error);
        if let StoreError::Fatal(message) = &error {
            self.broken = Some(format!("a commit failed ({message})"));
            return Err(error);
        }
        self.roll_back().await.and(Err(error))
    }

    /// `SQLite` may have rolled back by itself; then there is nothing to roll back, which is as good.
    async fn roll_back(&mut self) -> Result<(), StoreError> {
        match sqlx::query("ROLLBACK").execute(&mut self.conn).await {
            Err(error) if !error.to_string().contains("no transaction is active") => {
                self.broken = Some(format!("a rollback failed ({error})"));
                Err(StoreError::Fatal(format!("a rollback failed: {error}")))
            }
            _ => {
                self.broken = None;
                Ok(())
            }
        }
    }

    async fn close_files(mut self) {
        // Both only save the next start some work: what was committed is in the log.
        if let Err(error) = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut self.conn).await {
            tracing::warn!(%error, "the last checkpoint of the store failed");
        }
        if let Err(error) = self.conn.close().await {
            tracing::warn!(%error, "the store did not close as it should");
        }
        drop(self.lock);
    }
}

impl WriteStore for SqliteWriter {
    fn commit<'a>(&'a mut self, batch: &'a Batch) -> Answer<'a, Committed> {
        Box::pin(self.commit_batch(batch))
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(self.close_files())
    }
}

/// The changes of a batch in the order of its fields.
async fn apply(conn: &mut SqliteConnection, numbers: &mut Numbers, batch: &Batch) -> Result<Committed, StoreError> {
    let mut committed = Committed::default();
    jobs::insert(conn, numbers, &batch.new_jobs).await?;
    numbers.learn(conn, batch).await?;
    jobs::insert_lanes(conn, numbers, &batch.new_lanes).await?;
    tasks::insert(conn, numbers, &batch.new_tasks).await?;
    jobs::insert_chunks(conn, numbers, &batch.new_chunks).await?;
    pages::drop_of(conn, numbers, &batch.dropped_pages).await?;
    pages::insert(conn, numbers, &batch.pages).await?;
    states::apply(conn, numbers, &batch.moves).await?;
    states::claim(conn, numbers, &batch.claims).await?;
    for retry in &batch.retries {
        states::retry(conn, numbers, retry).await?;
    }
    for sweep in &batch.sweeps {
        committed.swept_to.push(sweep::sweep(conn, numbers, sweep).await?);
    }
    events::insert(conn, numbers, &batch.events).await?;
    jobs::update(conn, numbers, &batch.jobs).await?;
    jobs::update_specs(conn, numbers, &batch.respecced).await?;
    jobs::move_heads(conn, numbers, &batch.lane_heads).await?;
    jobs::mark_deleted(conn, numbers, &batch.deleted).await?;
    for (job, rows_max) in &batch.purges {
        committed.purged.push(purge::purge(conn, numbers, *job, *rows_max).await?);
    }
    if let Some(limits) = &batch.limits {
        jobs::set_limits(conn, limits).await?;
    }
    let gone = batch.purges.iter().zip(&committed.purged).filter(|(_, gone)| **gone).map(|((job, _), _)| *job);
    numbers.forget(gone);
    Ok(committed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limits::Limits;
    use crate::store::Store;
    use crate::store::sqlite::{Durability, SqliteStore};

    fn hosts(count: usize) -> Batch {
        let entry = crate::model::limits::HostLimits { host: "x".repeat(1000), ..Default::default() };
        Batch { limits: Some(Limits { hosts: vec![entry; count], ..Limits::default() }), ..Batch::default() }
    }

    #[tokio::test]
    async fn a_full_disk_is_told_and_the_same_batch_works_when_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
        let pages: i64 = sqlx::query_scalar("PRAGMA page_count").fetch_one(&mut writer.conn).await.unwrap();
        let limit = format!("PRAGMA max_page_count = {}", pages + 10);
        sqlx::query(sqlx::AssertSqlSafe(limit)).execute(&mut writer.conn).await.unwrap();
        let batch = hosts(1000);
        for _ in 0..2 {
            assert!(matches!(writer.commit(&batch).await, Err(StoreError::Full(_))));
            assert_eq!(store.limits().await.unwrap(), None);
        }
        writer.commit(&hosts(1)).await.unwrap();
        sqlx::query("PRAGMA max_page_count = 1000000").execute(&mut writer.conn).await.unwrap();
        writer.commit(&batch).await.unwrap();
        assert_eq!(store.limits().await.unwrap(), batch.limits);
    }

    #[tokio::test]
    async fn a_lock_of_somebody_else_is_waited_for_and_then_told() {
        let dir = tempfile::tempdir().unwrap();
        let (_store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
        sqlx::query("PRAGMA busy_timeout = 20").execute(&mut writer.conn).await.unwrap();
        let url = format!("sqlite://{}/haul.db", dir.path().display());
        let mut other = SqliteConnection::connect(&url).await.unwrap();
        sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
        assert!(matches!(writer.commit(&hosts(1)).await, Err(StoreError::Retry(_))));
        sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
        writer.commit(&hosts(1)).await.unwrap();
    }

    #[tokio::test]
    async fn an_abandoned_commit_stops_the_writer() {
        let dir = tempfile::tempdir().unwrap();
        let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
        let batch = hosts(1);
        assert!(futures_util::poll!(writer.commit(&batch)).is_pending());
        assert!(matches!(writer.commit(&batch).await, Err(StoreError::Fatal(_))));
        assert_eq!(store.limits().await.unwrap(), None);
    }
}
