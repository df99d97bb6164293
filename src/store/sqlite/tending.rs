//! What the writer does when it has nothing else to do, a piece at a time: it seals what is plain or sealed with an older key, and
//! erases secrets, and removes rows of the audit, that have been kept long enough.

use crate::model::time::Timestamp;
use crate::store::sqlite::expiry;
use crate::store::sqlite::keys;
use crate::store::sqlite::trail;
use crate::store::sqlite::upkeep::{self, Progress};
use crate::store::sqlite::writer::{SqliteWriter, VACUUM, VACUUM_PAGES};
use crate::store::{Batch, StoreError, Upkeep, WriteStore as _};

/// The largest database that is rewritten when its secrets were plain, in bytes: that takes about a second, in which nothing
/// is committed. Of a larger one only the free pages are returned.
const REWRITTEN_BYTES_MAX: i64 = 64 << 20;

/// What may fail.
const PRUNE: &str = "remove old rows of the audit";

impl SqliteWriter {
    /// Erases a piece of the secrets that have been kept long enough.
    async fn erase_piece(&mut self, now: Timestamp) -> Result<Upkeep, StoreError> {
        let Some(kept) = self.retention.secrets else { return Ok(Upkeep::Done) };
        let kept = i64::try_from(kept.as_micros()).unwrap_or(i64::MAX);
        let nothing = Batch::default();
        self.broken = Some("a commit was abandoned half-way".to_owned());
        self.begin().await?;
        match expiry::piece(&mut self.conn, &self.keyring.vault, now, kept).await {
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

    /// Removes a piece of the rows of the audit that have been kept long enough. New rows do so, too; but none may come.
    async fn prune_audit(&mut self, Timestamp(now): Timestamp) -> Result<Upkeep, StoreError> {
        let kept = self.kept_of_audit();
        if self.failing.contains(PRUNE) || !trail::has_old(&mut self.conn, now, kept).await? {
            return Ok(Upkeep::Rest);
        }
        let nothing = Batch::default();
        // Read again after whatever goes wrong from here on.
        let last = self.last_audited.take();
        self.broken = Some("a commit was abandoned half-way".to_owned());
        self.begin().await?;
        match trail::remove_old(&mut self.conn, &self.keyring.vault, last, now, kept).await {
            Ok((last, are_removed)) => {
                self.finish(&nothing).await?;
                self.last_audited = Some(last);
                if !are_removed {
                    // A row was changed, which was said: until the next start new rows look for it.
                    self.failing.insert(PRUNE);
                }
                Ok(if are_removed { Upkeep::More } else { Upkeep::Rest })
            }
            Err(fault) => {
                let error = self.judge(fault);
                self.roll_back(&nothing).await.and(Err(error))
            }
        }
    }

    /// Removes and erases a piece of what was to be kept until `now`.
    async fn expire(&mut self, now: Timestamp) -> Result<Upkeep, StoreError> {
        match self.prune_audit(now).await? {
            Upkeep::Rest => Ok(if self.erase_piece(now).await? == Upkeep::More { Upkeep::More } else { Upkeep::Rest }),
            more => Ok(more),
        }
    }

    /// Seals a piece of what is plain, or sealed with an older key; where all is sealed, removes what was to be kept until `now`.
    pub(super) async fn tend(&mut self, now: Timestamp) -> Result<Upkeep, StoreError> {
        if self.broken.is_some() {
            return Ok(Upkeep::Done);
        }
        if self.is_short() {
            // The room that is lent is for what ends work.
            return Ok(Upkeep::Later);
        }
        let Some(mut progress) = upkeep::load(&mut self.conn).await? else { return self.expire(now).await };
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
}
