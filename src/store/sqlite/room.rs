//! How the writer gets along where room on the disk is short: with its reserve, and with a log that nobody copies meanwhile.

use sqlx::AssertSqlSafe;

use crate::store::sqlite::batch_size::{is_small, makes_room};
use crate::store::sqlite::reserve::Reserve;
use crate::store::sqlite::writer::SqliteWriter;
use crate::store::{Batch, WriteStore as _};

impl SqliteWriter {
    /// Gives the batch room of the reserve: a part of it to one that is small, which the log then grows into, or all of it
    /// to one that only removes, and then lets the log begin anew. Returns whether it did.
    pub(super) async fn give_room(&mut self, batch: &Batch) -> bool {
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
    pub(super) async fn choose_copying(&mut self) {
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
    pub(super) async fn has_room_to_copy(&mut self) -> bool {
        let sql = "SELECT page_count * page_size, file FROM pragma_page_count, pragma_page_size, pragma_database_list \
                   WHERE name = 'main'";
        let told: Result<(i64, String), _> = sqlx::query_as(sql).fetch_one(&mut self.conn).await;
        let Ok((bytes, file)) = told else { return false };
        let Ok(file) = std::fs::metadata(&file) else { return false };
        let growth = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_sub(file.len());
        growth == 0 || self.reserve.as_ref().is_none_or(|reserve| reserve.has_room_for(growth))
    }

    /// Takes the reserve back as soon as there is room, before somebody else does.
    pub(super) async fn take_room_back(&mut self) {
        if self.reserve.as_ref().is_some_and(Reserve::is_short) {
            self.empty_log().await;
            if let Some(reserve) = &mut self.reserve {
                reserve.restore();
            }
        }
    }
}
