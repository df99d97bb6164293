//! Looks at a data directory as a start would find it, beside a running server or without one, and changes
//! nothing, except that a change which the end of a process cut within is undone, as any reader of the database does.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use sqlx::{Connection as _, SqliteConnection};

use crate::model::access::{AccessRow, Principal, Token};
use crate::model::book::Book;
use crate::store::sqlite::keys::{Keyring, RootKeys};
use crate::store::sqlite::lines;
use crate::store::sqlite::lock::{DirLock, LOCK_FILE};
use crate::store::sqlite::open_error::OpenError;
use crate::store::sqlite::rights;
use crate::store::sqlite::schema;
use crate::store::sqlite::text::Text;

/// What `SQLite` has beside a database that is open.
const LOG_FILES: [&str; 2] = ["haul.db-wal", "haul.db-shm"];

/// Reads who may call in the data directory `dir`: nobody, where there is no database or one of before there were principals. Fails
/// where a start would not take the database, or not get at its keys.
pub async fn look_beside(dir: &Path, roots: &RootKeys) -> Result<Book, OpenError> {
    rights::files(dir)?;
    rights::may_write(dir)?;
    let path = dir.join("haul.db");
    if !path.exists() {
        Keyring::check(None, dir, roots).await?;
        return Ok(Book::default());
    }
    let failed = |error| OpenError::Sqlite { path: path.clone(), error };
    let had_log = has_log(dir);
    let mut conn = schema::reading(&path).await?;
    let read = async {
        let has_keys = has_tables(&mut conn, &["data_keys"]).await.map_err(failed)?;
        Keyring::check(has_keys.then_some(&mut conn), dir, roots).await?;
        book(&mut conn).await.map_err(failed)
    }
    .await;
    // It read only; there is nothing to lose.
    let _ = conn.close().await;
    if !had_log {
        remove_log(dir);
    }
    read
}

/// Fails where another process uses the data directory `dir`.
pub fn is_free(dir: &Path) -> Result<(), OpenError> {
    DirLock::look(dir)
}

async fn book(conn: &mut SqliteConnection) -> Result<Book, sqlx::Error> {
    let mut all = Vec::new();
    if has_tables(conn, &["principals", "tokens", "settings"]).await? {
        let principals: Vec<Text> = sqlx::query_scalar("SELECT row FROM principals").fetch_all(&mut *conn).await?;
        let tokens: Vec<Text> = sqlx::query_scalar("SELECT row FROM tokens").fetch_all(&mut *conn).await?;
        let auth: Option<Text> =
            sqlx::query_scalar("SELECT value FROM settings WHERE key = 'auth'").fetch_optional(&mut *conn).await?;
        // Only whether somebody can sign in is asked: a row that does not parse is that of nobody.
        let parsed = principals.iter().filter_map(|row| lines::parse::<Principal>(row, "principal").ok());
        all.extend(parsed.map(|principal| AccessRow::Principal(Arc::new(principal))));
        let parsed = tokens.iter().filter_map(|row| lines::parse::<Token>(row, "token").ok());
        all.extend(parsed.map(|token| AccessRow::Token(Arc::new(token))));
        all.extend(auth.map(|_| AccessRow::Required));
    }
    Ok(Book::of(all))
}

/// Returns whether the database has all these tables.
pub(super) async fn has_tables(conn: &mut SqliteConnection, names: &[&str]) -> Result<bool, sqlx::Error> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table'";
    let there: Vec<String> = sqlx::query_scalar(sql).fetch_all(conn).await?;
    Ok(names.iter().all(|name| there.iter().any(|it| it == name)))
}

/// Returns whether the database has a log, which a read makes where there is none.
pub(super) fn has_log(dir: &Path) -> bool {
    LOG_FILES.iter().any(|name| dir.join(name).exists())
}

/// Removes the empty log that a read made, unless a server has started to use it meanwhile.
pub(super) fn remove_log(dir: &Path) {
    if !has_log(dir) {
        return;
    }
    let (lock_file, had_lock) = (dir.join(LOCK_FILE), dir.join(LOCK_FILE).exists());
    let Ok(_lock) = DirLock::take(dir) else { return };
    if !had_lock && let Ok(database) = std::fs::metadata(dir.join("haul.db")) {
        // Root may look at what another user's server uses, which the file must not keep out. Nobody else needs that, or may do it.
        let _ = std::os::unix::fs::chown(lock_file, Some(database.uid()), Some(database.gid()));
    }
    if std::fs::metadata(dir.join(LOG_FILES[0])).is_ok_and(|log| log.len() == 0) {
        for name in LOG_FILES {
            // An empty log that stays does no harm.
            let _ = std::fs::remove_file(dir.join(name));
        }
    }
}
