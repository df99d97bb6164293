//! How the writer gets along where room on the disk is short: with its reserve, and with a log that nobody copies meanwhile.

use sqlx::AssertSqlSafe;

use crate::store::WriteStore as _;
use crate::store::sqlite::needs::{Left, More};
use crate::store::sqlite::reserve::Reserve;
use crate::store::sqlite::writer::SqliteWriter;

impl SqliteWriter {
    /// Gives a batch room of the reserve: a part, which the log then grows into, or all of it, and then lets the log begin
    /// anew.
    pub(super) async fn give_room(&mut self, more: More) {
        let Some(reserve) = &mut self.reserve else { return };
        if !reserve.is_short() {
            tracing::warn!("the disk is full: what ends or removes work uses the reserve of the store");
        }
        match more {
            More::Nothing => return,
            More::Part => reserve.lend(),
            More::All => reserve.give_up(),
        }
        self.choose_copying().await;
        if more == More::All {
            self.empty_log().await;
        }
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

    /// Takes the reserve back as soon as there is room, before somebody else does. While a part of it is lent, a copy of the
    /// log that takes room would take that part, and nothing could be cancelled any more.
    pub(super) async fn take_room_back(&mut self) {
        let Some(left) = self.reserve.as_ref().map(Reserve::left) else { return };
        let copies = match left {
            Left::All | Left::NoReserve => return,
            Left::Deletions => self.has_room_to_copy().await,
            Left::Less => true,
        };
        if copies {
            self.empty_log().await;
        }
        self.reserve.iter_mut().for_each(Reserve::restore);
    }
}
