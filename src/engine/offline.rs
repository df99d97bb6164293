//! Changes who may call while no server runs, so that nobody is locked out of their own data.

use std::path::Path;

use crate::clock::Clock;
use crate::model::access::{AccessAnswer, AccessChange, AccessError, Actor};
use crate::model::audit::{AuditEntry, AuditRow, Of};
use crate::model::book::Book;
use crate::store::sqlite::{Durability, OpenError, RootKeys, SqliteStore};
use crate::store::{Batch, Store as _, StoreError, WriteStore as _};

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The data directory could not be opened: a server may use it.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The change was refused.
    #[error(transparent)]
    Access(#[from] AccessError),
}

/// Makes the changes that `plan` wants, all or none, in a data directory that no server uses. Returns the last answer.
pub async fn change_access(
    dir: &Path,
    roots: &RootKeys,
    plan: impl FnOnce(&Book) -> Vec<AccessChange>,
) -> Result<AccessAnswer, OfflineError> {
    let (store, mut writer) = SqliteStore::open_with(dir, Durability::Full, roots).await?;
    let result = async {
        let mut book = store.access().await?;
        let (now, mut batch, mut answer) = (Clock::system().now(), Batch::default(), AccessAnswer::Done);
        for change in plan(&book) {
            let applied = book.apply(&change, &Actor::local(), now)?;
            let rows = AuditRow::of_access(&Actor::local(), &change, &applied.rows, &applied.book, now);
            batch.audit.extend(rows.into_iter().map(|row| AuditEntry { row, of: Of::Always }));
            batch.access.extend(applied.rows);
            (book, answer) = (applied.book, applied.answer);
        }
        writer.commit(&batch).await?;
        Ok(answer)
    };
    let result = result.await;
    Box::new(writer).close().await;
    result
}
