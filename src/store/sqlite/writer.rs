//! The writing half: one connection, one transaction for each batch.
//!
//! Invariant: when a commit returns an error, the transaction is rolled back, or the writer refuses all further work
//! because nobody can say what became of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::{Connection, SqliteConnection};

use crate::model::time::Timestamp;
use crate::store::sqlite::apply::{apply, apply_apart};
use crate::store::sqlite::errors::{Fault, NO_ROOM};
use crate::store::sqlite::in_place::InPlace;
use crate::store::sqlite::insert::run;
use crate::store::sqlite::keys::Keyring;
use crate::store::sqlite::lock::DirLock;
use crate::store::sqlite::log::{self, LogCopier};
use crate::store::sqlite::needs::{More, Need, room};
use crate::store::sqlite::numbers::Numbers;
use crate::store::sqlite::reserve::Reserve;
use crate::store::sqlite::script::{NotCommitted, Script};
use crate::store::sqlite::trail;
use crate::store::{Answer, Batch, Committed, Retention, StoreError, Upkeep, WriteStore};
use crate::vault::{Key, KeyNumber};

/// Pages that are returned to the file system at once: 8 MiB, more than a batch of purges frees.
pub(super) const VACUUM: &str = "PRAGMA incremental_vacuum(2048)";
/// The number in [`VACUUM`].
pub(super) const VACUUM_PAGES: i64 = 2048;
/// As [`VACUUM`], in one piece of upkeep: the next batch may wait for it, some milliseconds.
const VACUUM_PIECE: &str = "PRAGMA incremental_vacuum(512)";
const CHECKPOINT: &str = "PRAGMA wal_checkpoint(TRUNCATE)";

/// The one connection that writes. There is one a data directory, which its lock makes sure of.
pub struct SqliteWriter {
    pub(super) conn: SqliteConnection,
    numbers: Numbers,
    pub(super) keyring: Keyring,
    pub(super) log: LogCopier,
    /// Whether the commits do not copy the log, since the store is short of room.
    pub(super) leaves_log: bool,
    /// Whether there may be free pages to return to the file system.
    has_free_pages: bool,
    /// What only saves room and has failed when it was tried last.
    pub(super) failing: BTreeSet<&'static str>,
    /// None for a scratch store.
    pub(super) reserve: Option<Reserve>,
    in_place: InPlace,
    /// The last row of the audit, once it is known.
    pub(super) last_audited: Option<trail::Last>,
    pub(super) retention: Retention,
    /// Why it cannot be known what is stored, once that is so.
    pub(super) broken: Option<String>,
    /// Held until the connection is closed.
    lock: Arc<DirLock>,
}

/// What a transaction has come to, to be taken in once it has ended.
struct Stored {
    committed: Committed,
    last_audited: Option<trail::Last>,
    new_key: Option<(KeyNumber, Key)>,
}

impl SqliteWriter {
    pub(super) fn new(
        conn: SqliteConnection,
        numbers: Numbers,
        keyring: Keyring,
        log: LogCopier,
        reserve: Option<Reserve>,
        (in_place, lock): (InPlace, Arc<DirLock>),
    ) -> Self {
        SqliteWriter {
            conn,
            numbers,
            keyring,
            log,
            leaves_log: false,
            has_free_pages: false,
            failing: BTreeSet::new(),
            reserve,
            in_place,
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
        let (need, more) = match &self.reserve {
            None => (Need::Much, Some(More::Nothing)),
            Some(reserve) => {
                let need = Need::of(batch, reserve.lent());
                (need, room(need, self.left().await))
            }
        };
        let Some(more) = more else {
            return Err(StoreError::Full(format!("{NO_ROOM}, and the room that is left is kept for deletions")));
        };
        self.choose_copying().await;
        let mut result = self.transact(batch).await;
        if matches!(result, Err(StoreError::Full(_))) && more != More::Nothing {
            self.give_room(more).await;
            result = self.transact(batch).await;
        }
        if result.is_ok()
            && let Some(path) = self.in_place.missing()
        {
            let why =
                format!("`{}` is not in its place any more, and what is written to it may be lost", path.display());
            self.broken = Some(why.clone());
            return Err(StoreError::Fatal(why));
        }
        if result.is_ok() && !batch.purges.is_empty() {
            if self.is_short() {
                // The room is what others wait for.
                self.try_to("return free pages", VACUUM).await;
            } else {
                self.has_free_pages = true;
            }
        }
        if result.is_ok() && need == Need::Removes {
            self.take_room_back().await;
        }
        result
    }

    async fn transact(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        let mut result = self.carry_out(batch, false).await;
        if matches!(result, Err(NotCommitted::Before(Fault::Refused(_)))) {
            self.roll_back(batch).await?;
            result = self.carry_out(batch, true).await;
        }
        match result {
            Ok(Stored { committed, last_audited, new_key }) => {
                self.broken = None;
                if last_audited.is_some() {
                    self.last_audited = last_audited;
                }
                if let Some((number, key)) = new_key {
                    self.keyring.vault.turn_to(number, key);
                }
                Ok(committed)
            }
            Err(NotCommitted::Before(fault)) => {
                let error = self.judge(fault);
                self.roll_back(batch).await.and(Err(error))
            }
            Err(NotCommitted::AtItsEnd(fault)) => Err(self.end_failed(fault, batch).await),
        }
    }

    /// Carries out a batch in one transaction: as a whole, or job by job where something of it is refused (`apart`).
    async fn carry_out(&mut self, batch: &Batch, apart: bool) -> Result<Stored, NotCommitted> {
        self.broken = Some("a commit was abandoned half-way".to_owned());
        let kept = self.kept_of_audit();
        let vault = &self.keyring.vault;
        let mut script = Script::begin(&mut self.conn);
        let mut committed = if apart {
            apply_apart(script.conn().await?, &mut self.numbers, vault, batch).await?
        } else {
            apply(&mut script, &mut self.numbers, vault, batch).await?
        };
        let mut last_audited = None;
        if !batch.audit.is_empty() {
            // Read again after whatever goes wrong from here on.
            let last = self.last_audited.take();
            last_audited = trail::write(&mut script, vault, last, batch.audited(&committed), kept).await?;
        }
        let mut new_key = None;
        if batch.new_data_key {
            let added = self.keyring.add(script.conn().await?).await?;
            committed.data_key = Some(added.0);
            new_key = Some(added);
        }
        script.commit().await?;
        Ok(Stored { committed, last_audited, new_key })
    }

    /// How long rows of the audit are kept, and how much they may take.
    pub(super) fn kept_of_audit(&self) -> trail::Kept {
        trail::Kept { time: self.retention.audit, bytes: self.retention.audit_bytes }
    }

    /// What a fault is that is about no job in particular.
    pub(super) fn judge(&self, fault: Fault) -> StoreError {
        match fault {
            Fault::NotWritten(_) if self.reserve.as_ref().is_some_and(Reserve::finds_no_room) => {
                StoreError::Full(NO_ROOM.to_owned())
            }
            fault => fault.of_all(),
        }
    }

    /// Returns a few of the free pages that purges have left to the file system. Returns whether there are more. Where none can be
    /// returned, the next purge tries again.
    async fn return_pages(&mut self) -> bool {
        if !self.has_free_pages || self.broken.is_some() || self.is_short() {
            return false;
        }
        let before = self.free_pages().await;
        if before > 0 {
            self.try_to("return free pages", VACUUM_PIECE).await;
        }
        let left = self.free_pages().await;
        self.has_free_pages = (1..before).contains(&left);
        self.has_free_pages
    }

    async fn free_pages(&mut self) -> i64 {
        sqlx::query_scalar("PRAGMA freelist_count").fetch_one(&mut self.conn).await.unwrap_or_default()
    }

    /// Copies the log where it has become long. When that fails, the next commits do it.
    async fn look_at_log(&mut self) {
        if self.broken.is_none()
            && !self.is_short()
            && let Err(error) = self.log.look(&mut self.conn).await
        {
            self.log.rest();
            tracing::warn!(%error, "the log of the store could not be copied between commits");
            // A transaction that it began and could not end would be taken for that of the next batch. An error stays noted.
            let _ = self.end_transaction().await;
        }
    }

    /// Empties the log if no reader is in the way: nothing can be committed while one is waited for. Returns whether it did.
    pub(super) async fn empty_log_at_once(&mut self) -> Result<bool, StoreError> {
        self.log.finish().await;
        let (is_busy, ..) = log::copy(&mut self.conn, CHECKPOINT, Duration::ZERO).await?;
        Ok(is_busy == 0)
    }

    /// Plain statements, not sqlx's transactions: those lose count when `SQLite` itself rolls back.
    pub(super) async fn begin(&mut self) -> Result<(), StoreError> {
        let Err(error) = run(&mut self.conn, sqlx::query("BEGIN IMMEDIATE")).await else { return Ok(()) };
        self.broken = None;
        Err(self.judge(error.into()))
    }

    /// COMMIT.
    pub(super) async fn finish(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let Err(error) = run(&mut self.conn, sqlx::query("COMMIT")).await else {
            self.broken = None;
            return Ok(());
        };
        Err(self.end_failed(error.into(), batch).await)
    }

    /// After a COMMIT that failed. When that was for want of room or of a lock, the transaction is not in the log as `SQLite`
    /// reads it, and a rollback settles that. When it was for something else (a sync that failed, say) its last frame may be on
    /// disk.
    async fn end_failed(&mut self, fault: Fault, batch: &Batch) -> StoreError {
        let error = self.judge(fault);
        if let StoreError::Fatal(message) = &error {
            self.broken = Some(format!("a commit failed ({message})"));
            return error;
        }
        self.roll_back(batch).await.err().unwrap_or(error)
    }

    pub(super) async fn roll_back(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.numbers.forget(batch.submissions.iter().map(|new| new.job.id));
        self.numbers.forget(batch.additions.iter().map(|addition| addition.job));
        self.end_transaction().await
    }

    /// ROLLBACK. `SQLite` may have rolled back by itself; then there is nothing to roll back, which is as good.
    async fn end_transaction(&mut self) -> Result<(), StoreError> {
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

    pub(super) async fn empty_log(&mut self) {
        self.log.finish().await;
        self.try_to("empty the log", CHECKPOINT).await;
    }

    /// What only saves room: when it fails, the next purge tries again. On a full disk that may be each second: it is said once,
    /// and when it is over.
    async fn try_to(&mut self, what: &'static str, pragma: &'static str) {
        match sqlx::query(pragma).execute(&mut self.conn).await {
            Ok(_) if self.failing.remove(what) => tracing::info!("the store could {what} again"),
            Ok(_) => {}
            Err(error) if self.failing.insert(what) => tracing::warn!(%error, "the store could not {what}"),
            Err(error) => tracing::debug!(%error, "the store could still not {what}"),
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

    fn wants_rest(&self) -> bool {
        // What looks at the log does not, while the store is short.
        self.broken.is_none() && !self.is_short() && self.log.is_at_its_end()
    }

    fn rested(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(self.log.through())
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

    fn upkeep(&mut self, now: Timestamp) -> Answer<'_, Upkeep> {
        Box::pin(async move {
            let is_more = self.return_pages().await;
            let tended = self.tend(now).await?;
            Ok(if is_more { Upkeep::More } else { tended })
        })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(self.close_files())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limits::LimitsPatch;
    use crate::store::Store;
    use crate::store::sqlite::{Durability, SqliteStore};

    fn hosts(count: usize) -> Batch {
        let entry = crate::model::limits::HostLimits { host: "x".repeat(1000), ..Default::default() };
        let limits = LimitsPatch { hosts: Some(vec![entry; count]), ..LimitsPatch::default() };
        Batch { limits: Some(limits), ..Batch::default() }
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

    /// The next batch would begin within it and fail, as if the store could not be trusted.
    #[tokio::test]
    async fn a_transaction_that_a_look_at_the_log_leaves_open_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.path().join("haul.db"));
        writer.log = LogCopier::new(options, 4);
        // As if its end had failed. Within a transaction that has written, nothing is told of the log.
        sqlx::query("BEGIN IMMEDIATE").execute(&mut writer.conn).await.unwrap();
        sqlx::query("DELETE FROM settings").execute(&mut writer.conn).await.unwrap();
        writer.between_commits().await;
        let batch = hosts(1);
        writer.commit(&batch).await.unwrap();
        assert_eq!(store.limits().await.unwrap(), batch.limits);
        let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM settings").fetch_one(&mut writer.conn).await.unwrap();
        assert!(kept > 1, "what was within it is rolled back");
    }

    /// A full disk may stay full for hours, and it is tried again each second.
    #[tokio::test]
    async fn what_fails_again_and_again_is_noted_until_it_works() {
        let dir = tempfile::tempdir().unwrap();
        let (_store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
        let tries = ["SELECT nothing", "SELECT nothing", VACUUM, VACUUM, "SELECT nothing"];
        let mut noted = Vec::new();
        for pragma in tries {
            writer.try_to("return free pages", pragma).await;
            noted.push(writer.failing.contains("return free pages"));
        }
        assert_eq!(noted, [true, true, false, false, true]);
        assert_eq!(writer.failing.len(), 1);
    }

    /// Whoever waits for a batch does not wait for the room that its purges free, and the next one for a piece of it at most.
    #[tokio::test]
    async fn free_pages_are_returned_a_few_at_a_time_when_nobody_waits() {
        let dir = tempfile::tempdir().unwrap();
        let (_store, mut writer) = SqliteStore::open(dir.path(), Durability::Full).await.unwrap();
        writer.commit(&hosts(5000)).await.unwrap();
        let nobody = crate::model::ids::JobId(uuid::Uuid::from_u128(1));
        writer.commit(&Batch { purges: vec![(nobody, 1)], ..hosts(1) }).await.unwrap();
        let mut free = Vec::new();
        loop {
            free.push(writer.free_pages().await);
            if writer.upkeep(Timestamp(1)).await.unwrap() != Upkeep::More {
                break;
            }
        }
        assert!(free.len() > 2 && free.windows(2).all(|pair| (1..=512).contains(&(pair[0] - pair[1]))), "{free:?}");
        assert_eq!(writer.free_pages().await, 0);
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
