//! The writing half: one connection, one transaction for each batch.
//!
//! Invariant: when a commit returns an error, the transaction is rolled back, or the writer refuses all further work
//! because nobody can say what became of it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::model::spec::TaskSpec;
use crate::store::sqlite::apply::{apply, apply_apart};
use crate::store::sqlite::errors::Fault;
use crate::store::sqlite::expiry;
use crate::store::sqlite::insert::run;
use crate::store::sqlite::keys::{self, Keyring};
use crate::store::sqlite::lock::DirLock;
use crate::store::sqlite::log::LogCopier;
use crate::store::sqlite::numbers::Numbers;
use crate::store::sqlite::reserve::Reserve;
use crate::store::sqlite::trail;
use crate::store::sqlite::upkeep::{self, Progress};
use crate::store::{Answer, Batch, Committed, Content, Retention, StoreError, Upkeep, WriteStore};

/// How long `SQLite` waits for a lock. Only a foreign process (a backup, a person's shell) ever holds one.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Pages that are returned to the file system at once: 8 MiB, more than a batch of purges frees.
const VACUUM: &str = "PRAGMA incremental_vacuum(2048)";
/// The number in [`VACUUM`].
const VACUUM_PAGES: i64 = 2048;
/// The largest database that is rewritten when its secrets were plain, in bytes: that takes about a second, in which nothing
/// is committed. Of a larger one only the free pages are returned.
const REWRITTEN_BYTES_MAX: i64 = 64 << 20;
/// What a row takes on the disk beside what it holds, in bytes, roughly.
const ROW_BYTES: usize = 256;
const CHECKPOINT: &str = "PRAGMA wal_checkpoint(TRUNCATE)";

/// The one connection that writes. There is one a data directory, which its lock makes sure of.
pub struct SqliteWriter {
    conn: SqliteConnection,
    numbers: Numbers,
    keyring: Keyring,
    log: LogCopier,
    /// Whether the commits do not copy the log, since the store is short of room.
    leaves_log: bool,
    /// None for a scratch store.
    reserve: Option<Reserve>,
    /// The last row of the audit, once it is known.
    last_audited: Option<trail::Last>,
    retention: Retention,
    /// Why it cannot be known what is stored, once that is so.
    broken: Option<String>,
    /// Held until the connection is closed.
    lock: Arc<DirLock>,
}

impl SqliteWriter {
    pub(super) fn new(
        conn: SqliteConnection,
        numbers: Numbers,
        keyring: Keyring,
        log: LogCopier,
        reserve: Option<Reserve>,
        lock: Arc<DirLock>,
    ) -> Self {
        SqliteWriter {
            conn,
            numbers,
            keyring,
            log,
            leaves_log: false,
            reserve,
            last_audited: None,
            retention: Retention::default(),
            broken: None,
            lock,
        }
    }

    /// Keeps what is not for ever as long as this says.
    pub fn retain(&mut self, retention: Retention) {
        self.retention = retention;
    }

    /// Erases a piece of the secrets that have been kept long enough.
    async fn erase_piece(&mut self) -> Result<Upkeep, StoreError> {
        let Some(kept) = self.retention.secrets else { return Ok(Upkeep::Done) };
        let kept = i64::try_from(kept.as_micros()).unwrap_or(i64::MAX);
        let nothing = Batch::default();
        self.broken = Some("a commit was abandoned half-way".to_owned());
        self.begin().await?;
        match expiry::piece(&mut self.conn, &self.keyring.vault, kept).await {
            Ok(is_more) => {
                self.finish(&nothing).await?;
                Ok(if is_more { Upkeep::More } else { Upkeep::Rest })
            }
            Err(fault) => {
                let error = self.judge(fault);
                self.roll_back(&nothing).await.and(Err(error))
            }
        }
    }

    async fn commit_batch(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        if let Some(why) = &self.broken {
            return Err(StoreError::Fatal(format!("nothing is written any more, since {why}; restart the server")));
        }
        if batch.is_empty() {
            return Ok(Committed::default());
        }
        self.numbers.trim();
        if let Some(reserve) = self.reserve.as_mut().filter(|reserve| reserve.is_short()) {
            reserve.restore();
        }
        if let Some(reserve) = self.reserve.as_ref().filter(|reserve| reserve.is_short())
            && !(makes_room(batch) || is_small(batch, reserve) && reserve.is_fit_for_deletions())
        {
            return Err(StoreError::Full("the room that is left is kept for deletions".to_owned()));
        }
        self.choose_copying().await;
        let mut result = self.transact(batch).await;
        if matches!(result, Err(StoreError::Full(_))) && self.give_room(batch).await {
            result = self.transact(batch).await;
        }
        if result.is_ok() && !batch.purges.is_empty() {
            self.try_to("return free pages", VACUUM).await;
        }
        if result.is_ok() && makes_room(batch) {
            self.take_room_back().await;
        }
        result
    }

    async fn transact(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        self.broken = Some("a commit was abandoned half-way".to_owned());
        let result = match self.begin().await {
            Ok(()) => apply(&mut self.conn, &mut self.numbers, &self.keyring.vault, batch).await,
            Err(error) => return Err(error),
        };
        let result = match result {
            Err(Fault::Refused(_)) => {
                self.roll_back(batch).await?;
                self.broken = Some("a commit was abandoned half-way".to_owned());
                self.begin().await?;
                apply_apart(&mut self.conn, &mut self.numbers, &self.keyring.vault, batch).await
            }
            result => result,
        };
        let mut last_audited = None;
        let result = match result {
            Ok(committed) if !batch.audit.is_empty() => {
                // Read again after whatever goes wrong from here on.
                let last = self.last_audited.take();
                let rows = batch.audited(&committed);
                let kept = trail::Kept { time: self.retention.audit, bytes: self.retention.audit_bytes };
                let written = trail::write(&mut self.conn, &self.keyring.vault, last, rows, kept).await;
                written.map(|last| {
                    last_audited = last;
                    committed
                })
            }
            result => result,
        };
        let mut new_key = None;
        let result = match result {
            Ok(committed) if batch.new_data_key => self.keyring.add(&mut self.conn).await.map(|added| {
                let committed = Committed { data_key: Some(added.0), ..committed };
                new_key = Some(added);
                committed
            }),
            result => result,
        };
        match result {
            Ok(committed) => {
                self.finish(batch).await?;
                if last_audited.is_some() {
                    self.last_audited = last_audited;
                }
                if let Some((number, key)) = new_key {
                    self.keyring.vault.turn_to(number, key);
                }
                Ok(committed)
            }
            Err(fault) => {
                let error = self.judge(fault);
                self.roll_back(batch).await.and(Err(error))
            }
        }
    }

    /// What a fault is that is about no job in particular.
    fn judge(&self, fault: Fault) -> StoreError {
        match fault {
            Fault::NotWritten(why) if self.reserve.as_ref().is_some_and(Reserve::finds_no_room) => {
                StoreError::Full(why)
            }
            fault => fault.of_all(),
        }
    }

    /// Seals a piece of what is plain, or sealed with an older key.
    async fn seal_piece(&mut self) -> Result<Upkeep, StoreError> {
        if self.broken.is_some() {
            return Ok(Upkeep::Done);
        }
        let Some(mut progress) = upkeep::load(&mut self.conn).await? else { return self.erase_piece().await };
        if progress.is_through() {
            return self.clear_traces(progress).await;
        }
        // Overwrites the pages that long rows leave behind, too.
        sqlx::query("PRAGMA secure_delete = ON").execute(&mut self.conn).await?;
        let nothing = Batch::default();
        self.broken = Some("a commit was abandoned half-way".to_owned());
        self.begin().await?;
        match upkeep::piece(&mut self.conn, &self.keyring.vault, &mut progress).await {
            Ok(()) => self.finish(&nothing).await.map(|()| Upkeep::More),
            Err(fault) => {
                let error = self.judge(fault);
                self.roll_back(&nothing).await.and(Err(error))
            }
        }
    }

    /// All rows are sealed: what was plain is removed from free pages and from the log, a piece at a time. While a reader is
    /// in the way, or there is no room, more is left to do later.
    async fn clear_traces(&mut self, progress: Progress) -> Result<Upkeep, StoreError> {
        keys::remove_retired(&mut self.conn, self.keyring.vault.current()).await?;
        if progress.plain {
            let sql = "SELECT page_count * page_size, freelist_count \
                       FROM pragma_page_count, pragma_page_size, pragma_freelist_count";
            let (bytes, free): (i64, i64) = sqlx::query_as(sql).fetch_one(&mut self.conn).await?;
            let is_small = bytes <= REWRITTEN_BYTES_MAX;
            if is_small || free > 0 {
                let rewrite = if is_small { "VACUUM" } else { VACUUM };
                if let Err(error) = sqlx::query(rewrite).execute(&mut self.conn).await {
                    tracing::warn!(%error, "the store could not rewrite its file; what was plain may be left in it");
                    return Ok(Upkeep::Later);
                }
            }
            if is_small || free <= VACUUM_PAGES {
                // Once: the rest may have to be tried again.
                upkeep::rewritten(&mut self.conn, progress).await?;
            }
            return Ok(Upkeep::More);
        }
        if !self.empty_log_at_once().await? {
            return Ok(Upkeep::Later);
        }
        upkeep::end(&mut self.conn).await?;
        sqlx::query("PRAGMA secure_delete = FAST").execute(&mut self.conn).await?;
        tracing::info!("all secrets in the database are sealed with its present key");
        Ok(Upkeep::Done)
    }

    /// Copies the log where it has become long. When that fails, the next commits do it.
    async fn look_at_log(&mut self) {
        if self.broken.is_none()
            && !self.is_short()
            && let Err(error) = self.log.look(&mut self.conn).await
        {
            self.log.rest();
            tracing::warn!(%error, "the log of the store could not be copied between commits");
        }
    }

    /// Empties the log if no reader is in the way: nothing can be committed while one is waited for. Returns whether it did.
    async fn empty_log_at_once(&mut self) -> Result<bool, StoreError> {
        self.log.finish().await;
        sqlx::query("PRAGMA busy_timeout = 0").execute(&mut self.conn).await?;
        let emptied = sqlx::query_as(CHECKPOINT).fetch_one(&mut self.conn).await;
        let patience = AssertSqlSafe(format!("PRAGMA busy_timeout = {}", BUSY_TIMEOUT.as_millis()));
        sqlx::query(patience).execute(&mut self.conn).await?;
        let (is_busy, _, _): (i64, i64, i64) = emptied?;
        Ok(is_busy == 0)
    }

    /// Plain statements, not sqlx's transactions: those lose count when `SQLite` itself rolls back.
    async fn begin(&mut self) -> Result<(), StoreError> {
        let Err(error) = run(&mut self.conn, sqlx::query("BEGIN IMMEDIATE")).await else { return Ok(()) };
        self.broken = None;
        Err(self.judge(error.into()))
    }

    /// COMMIT. When it fails for want of room or of a lock, the transaction is not in the log as `SQLite` reads it, and a
    /// rollback settles that. When it fails otherwise (a sync that failed, say) its last frame may be on disk.
    async fn finish(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let Err(error) = run(&mut self.conn, sqlx::query("COMMIT")).await else {
            self.broken = None;
            return Ok(());
        };
        let error = self.judge(error.into());
        if let StoreError::Fatal(message) = &error {
            self.broken = Some(format!("a commit failed ({message})"));
            return Err(error);
        }
        self.roll_back(batch).await.and(Err(error))
    }

    /// `SQLite` may have rolled back by itself; then there is nothing to roll back, which is as good.
    async fn roll_back(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.numbers.forget(batch.submissions.iter().map(|new| new.job.id));
        self.numbers.forget(batch.additions.iter().map(|addition| addition.job));
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

    /// Gives the batch room of the reserve: a part of it to one that is small, which the log then grows into, or all of it
    /// to one that only removes, and then lets the log begin anew. Returns whether it did.
    async fn give_room(&mut self, batch: &Batch) -> bool {
        let Some(reserve) = &mut self.reserve else { return false };
        let (was_short, removes) = (reserve.is_short(), makes_room(batch));
        if removes {
            reserve.give_up();
        } else if is_small(batch, reserve) && !was_short {
            reserve.lend();
        } else {
            return false;
        }
        if !was_short {
            tracing::warn!("the disk is full: what ends or removes work uses the reserve of the store");
        }
        self.choose_copying().await;
        if removes {
            self.empty_log().await;
        }
        true
    }

    /// While the store is short of room its commits do not copy the log: new pages would make the database longer, by more
    /// than the part that is lent, and nothing would be left of that for what ends work.
    async fn choose_copying(&mut self) {
        let leaves = self.is_short();
        if leaves == self.leaves_log {
            return;
        }
        let pages = if leaves { 0 } else { self.log.bound() };
        let pragma = AssertSqlSafe(format!("PRAGMA wal_autocheckpoint = {pages}"));
        match sqlx::query(pragma).execute(&mut self.conn).await {
            Ok(_) => self.leaves_log = leaves,
            Err(error) => tracing::warn!(%error, "the store could not change who copies its log"),
        }
    }

    /// Whether the log can be copied without the room that small batches need.
    async fn has_room_to_copy(&mut self) -> bool {
        let sql = "SELECT page_count * page_size, file FROM pragma_page_count, pragma_page_size, pragma_database_list \
                   WHERE name = 'main'";
        let told: Result<(i64, String), _> = sqlx::query_as(sql).fetch_one(&mut self.conn).await;
        let Ok((bytes, file)) = told else { return false };
        let Ok(file) = std::fs::metadata(&file) else { return false };
        let growth = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_sub(file.len());
        growth == 0 || self.reserve.as_ref().is_none_or(|reserve| reserve.has_room_for(growth))
    }

    /// Takes the reserve back as soon as there is room, before somebody else does.
    async fn take_room_back(&mut self) {
        if self.reserve.as_ref().is_some_and(Reserve::is_short) {
            self.empty_log().await;
            if let Some(reserve) = &mut self.reserve {
                reserve.restore();
            }
        }
    }

    async fn empty_log(&mut self) {
        self.log.finish().await;
        self.try_to("empty the log", CHECKPOINT).await;
    }

    /// What only saves room: when it fails, the next purge tries again.
    async fn try_to(&mut self, what: &str, pragma: &'static str) {
        if let Err(error) = sqlx::query(pragma).execute(&mut self.conn).await {
            tracing::warn!(%error, "the store could not {what}");
        }
    }

    async fn close_files(mut self) {
        self.log.close().await;
        // Both only save the next start some work: what was committed is in the log.
        if let Err(error) = sqlx::query(CHECKPOINT).execute(&mut self.conn).await {
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

    fn between_commits(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(self.look_at_log())
    }

    fn is_short(&self) -> bool {
        self.reserve.as_ref().is_some_and(Reserve::is_short)
    }

    fn regain(&mut self) -> Answer<'_, ()> {
        Box::pin(async {
            if let Some(reserve) = &mut self.reserve {
                reserve.restore();
            }
            if self.is_short() && self.has_room_to_copy().await && self.empty_log_at_once().await? {
                self.reserve.iter_mut().for_each(Reserve::restore);
            }
            Ok(())
        })
    }

    fn upkeep(&mut self) -> Answer<'_, Upkeep> {
        Box::pin(self.seal_piece())
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(self.close_files())
    }
}

/// Whether the batch needs a small part of the reserve at most.
fn is_small(batch: &Batch, reserve: &Reserve) -> bool {
    bytes(batch) as u64 <= reserve.lent() / 2
}

/// How much a batch adds, in bytes, roughly.
fn bytes(batch: &Batch) -> usize {
    let Batch { submissions, additions, pages, moves, claims, retries, sweeps, events, respecced, .. } = batch;
    let tasks = |tasks: &[(u32, Arc<TaskSpec>)]| -> usize {
        tasks.iter().map(|(_, spec)| ROW_BYTES + spec.memory_bytes()).sum()
    };
    let pages = pages.iter().map(|page| match &page.content {
        Content::Inline(body) => ROW_BYTES + body.len(),
        Content::File { .. } => ROW_BYTES,
    });
    let swept = sweeps.iter().map(|it| it.limit).chain(retries.iter().map(|it| it.limit));
    submissions.iter().map(|it| it.job.spec.memory_bytes() + tasks(&it.tasks)).sum::<usize>()
        + additions.iter().map(|it| tasks(&it.tasks)).sum::<usize>()
        + pages.sum::<usize>()
        + moves.iter().map(|it| ROW_BYTES + it.row.memory_bytes()).sum::<usize>()
        + respecced.iter().map(|job| job.spec.memory_bytes()).sum::<usize>()
        + swept.map(|rows| rows as usize * ROW_BYTES).sum::<usize>()
        + (claims.len() + events.len() + submissions.len() + batch.jobs.len() + batch.audit.len()) * ROW_BYTES
}

/// Whether the batch does nothing but remove.
fn makes_room(batch: &Batch) -> bool {
    let Batch { submissions, additions, pages, moves, claims, lane_heads, retries, sweeps, .. } = batch;
    let Batch { events, jobs, respecced, limits, new_data_key, access, .. } = batch;
    let adds = !(submissions.is_empty() && additions.is_empty() && pages.is_empty() && moves.is_empty())
        || !(claims.is_empty() && lane_heads.is_empty() && retries.is_empty() && sweeps.is_empty())
        || !(events.is_empty() && jobs.is_empty() && respecced.is_empty() && limits.is_none() && !new_data_key)
        || !access.is_empty();
    !adds && !batch.is_empty()
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
    async fn the_log_is_copied_beside_the_commits_and_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (_store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.path().join("haul.db"));
        writer.log = LogCopier::new(options, 4);
        let mut longest = 0;
        // What is the same as before is not written again.
        for count in (20..40).cycle() {
            writer.commit(&hosts(count)).await.unwrap();
            writer.between_commits().await;
            let length = "PRAGMA wal_checkpoint(NOOP)";
            let (_, length, _): (i64, i64, i64) = sqlx::query_as(length).fetch_one(&mut writer.conn).await.unwrap();
            if length < longest {
                break;
            }
            longest = length;
        }
        Box::new(writer).close().await;
    }

    #[tokio::test]
    async fn the_log_is_left_alone_while_room_is_short() {
        let dir = tempfile::tempdir().unwrap();
        let (_store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
        let bound = writer.log.bound();
        assert!(bound > 0 && writer.has_room_to_copy().await);
        writer.reserve.as_mut().unwrap().lend();
        writer.choose_copying().await;
        let pragma = "PRAGMA wal_autocheckpoint";
        assert_eq!(sqlx::query_scalar::<_, i64>(pragma).fetch_one(&mut writer.conn).await.unwrap(), 0);
        // The next commit finds that there is room again.
        writer.commit(&hosts(1)).await.unwrap();
        assert!(!writer.is_short());
        assert_eq!(sqlx::query_scalar::<_, i64>(pragma).fetch_one(&mut writer.conn).await.unwrap(), bound);
        Box::new(writer).close().await;
    }

    #[tokio::test]
    async fn an_abandoned_commit_stops_the_writer() {
        let dir = tempfile::tempdir().unwrap();
        let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
        let batch = hosts(1);
        assert!(futures_util::poll!(writer.commit(&batch)).is_pending());
        assert!(matches!(writer.commit(&batch).await, Err(StoreError::Fatal(_))));
        // How far it came depends on the thread of the connection.
        let limits = store.limits().await.unwrap();
        assert!(limits.is_none() || limits == batch.limits);
    }
}
