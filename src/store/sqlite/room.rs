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

    /// By how much a copy of the log would make the database longer; `None`: that cannot be found out.
    async fn growth(&mut self) -> Option<u64> {
        let sql = "SELECT page_count * page_size, file FROM pragma_page_count, pragma_page_size, pragma_database_list \
                   WHERE name = 'main'";
        let told: Result<(i64, String), _> = sqlx::query_as(sql).fetch_one(&mut self.conn).await;
        let (bytes, file) = told.ok()?;
        let file = std::fs::metadata(&file).ok()?;
        Some(u64::try_from(bytes).unwrap_or(u64::MAX).saturating_sub(file.len()))
    }

    /// Whether the log can be copied without the room that small batches need.
    pub(super) async fn has_room_to_copy(&mut self) -> bool {
        let Some(growth) = self.growth().await else { return false };
        growth == 0 || self.reserve.as_ref().is_none_or(|reserve| reserve.has_room_for(growth))
    }

    /// What is left of the reserve.
    pub(super) async fn left(&mut self) -> Left {
        // What cannot be found out is taken to be much.
        let growth = if self.is_short() { self.growth().await.unwrap_or(u64::MAX / 2) } else { 0 };
        self.reserve.as_ref().map_or(Left::NoReserve, |reserve| reserve.left(growth, reserve.free()))
    }

    /// Takes the reserve back as soon as there is room, before somebody else does. While a part of it is lent, a copy of the
    /// log that takes room would take that part, and nothing could be cancelled any more.
    pub(super) async fn take_room_back(&mut self) {
        let copies = match self.left().await {
            Left::All | Left::NoReserve => return,
            Left::Another | Left::Deletions => self.has_room_to_copy().await,
            Left::Less => true,
        };
        if copies {
            self.empty_log().await;
        }
        self.reserve.iter_mut().for_each(Reserve::restore);
    }
}
