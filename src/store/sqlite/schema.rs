//! The schema that this binary has, and whether a database is of it: looked at before anything is written.
//!
//! A file that is not ours, not whole, or newer than we are stays as it is, byte for byte: it is opened for reading only.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, SqlSafeStr as _, SqliteConnection};

use crate::store::sqlite::errors::{is_want_of_rights, is_want_of_room};
use crate::store::sqlite::open_error::OpenError;
use crate::store::sqlite::rights;

/// Forward only, by number. The macro that embeds a whole directory is not used: it needs `sqlx`, with `SQLite` and the
/// runtime, a second time, built for the compiler.
pub(super) static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let migrations = [
        (1, "first", include_str!("../../../migrations/sqlite/0001_first.sql")),
        (2, "sealing", include_str!("../../../migrations/sqlite/0002_sealing.sql")),
        (3, "access", include_str!("../../../migrations/sqlite/0003_access.sql")),
        (4, "audit", include_str!("../../../migrations/sqlite/0004_audit.sql")),
        (5, "tenants", include_str!("../../../migrations/sqlite/0005_tenants.sql")),
        (6, "credentials", include_str!("../../../migrations/sqlite/0006_credentials.sql")),
        (7, "pauses", include_str!("../../../migrations/sqlite/0007_pauses.sql")),
        (8, "ended_of", include_str!("../../../migrations/sqlite/0008_ended_of.sql")),
        (9, "stored_bytes", include_str!("../../../migrations/sqlite/0009_stored_bytes.sql")),
    ];
    let migration = |(number, name, text): (i64, &'static str, &'static str)| {
        Migration::new(number, name.into(), MigrationType::Simple, text.into_sql_str(), false)
    };
    Migrator::with_migrations(migrations.into_iter().map(migration).collect())
});

/// The oldest `SQLite` that keeps a log in WAL mode safe: older ones can corrupt it when it is reset.
const SQLITE_MIN: (u32, u32, u32) = (3, 51, 3);

/// "HAUL", as the first migration sets it.
const APPLICATION_ID: i64 = 0x4841_554c;

/// How long `SQLite` waits for a lock. Only a foreign process (a backup, a person's shell) ever holds one.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// As [`BUSY_TIMEOUT`], for the connection that writes: a commit that waits is tried again, and reported.
pub(super) const WRITER_BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// How large a database is checked whole at the start: that takes about 0.1 s. Of a larger one only the tables are
/// checked that a start depends on; damage elsewhere is reported by the read that meets it.
const CHECKED_BYTES_MAX: u64 = 32 << 20;

/// Refuses an `SQLite` library that is too old.
pub(super) fn library(version: &str) -> Result<(), OpenError> {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    let found = (next(), next(), next());
    if found >= SQLITE_MIN { Ok(()) } else { Err(OpenError::OldLibrary { found: version.to_owned() }) }
}

/// A database in which there is no table yet.
const EMPTY_BYTES: u64 = 4096;

/// Refuses a database that this binary must not write to. One that is not there, or empty, is fine. Of any other the connection
/// is returned that looked: whoever opens the next one before this one is closed need not read the whole log again, which `SQLite`
/// does for the first connection after a crash.
pub(super) async fn database(path: &Path) -> Result<Option<SqliteConnection>, OpenError> {
    path.parent().map_or(Ok(()), rights::files)?;
    let corrupt = |what: String| OpenError::Corrupt { path: path.to_owned(), what };
    let Some(bytes) = header(path)? else { return Ok(None) };
    let failed = |error: sqlx::Error| {
        if is_want_of_room(&error) || is_want_of_rights(&error) {
            OpenError::Sqlite { path: path.to_owned(), error }
        } else {
            corrupt(error.to_string())
        }
    };
    let mut result = look(path, bytes).await;
    if bytes <= EMPTY_BYTES && matches!(&result, Err(Refusal::Sql(error)) if is_half_made(error)) {
        undo(path).await.map_err(failed)?;
        result = look(path, bytes).await;
    }
    result.map(Some).map_err(|error| match error {
        Refusal::Open(error) => error,
        Refusal::Sql(error) => failed(error),
    })
}

/// As [`database`], with a connection for reads to an empty one as well.
pub(super) async fn reading(path: &Path) -> Result<SqliteConnection, OpenError> {
    match database(path).await? {
        Some(conn) => Ok(conn),
        None => open_read_only(path).await.map_err(|error| OpenError::Sqlite { path: path.to_owned(), error }),
    }
}

async fn look(path: &Path, bytes: u64) -> Result<SqliteConnection, Refusal> {
    let mut conn = open_read_only(path).await?;
    match inspect(&mut conn, path, bytes).await {
        Ok(()) => Ok(conn),
        Err(refusal) => {
            // It read only; there is nothing to lose.
            let _ = conn.close().await;
            Err(refusal)
        }
    }
}

/// Whether a change of the first start was cut before the database had its log: whoever opens it for reads alone must not undo that.
fn is_half_made(error: &sqlx::Error) -> bool {
    const READ_ONLY_ROLLBACK: &str = "776";
    error.as_database_error().and_then(DatabaseError::code).is_some_and(|code| code == READ_ONLY_ROLLBACK)
}

/// Undoes a change that was cut.
async fn undo(path: &Path) -> Result<(), sqlx::Error> {
    let mut conn = open_private(path).await?;
    sqlx::query("PRAGMA schema_version").execute(&mut conn).await?;
    conn.close().await
}

/// Opens a database for reads alone, with or without a server beside it.
pub(super) async fn open_read_only(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY_TIMEOUT);
    options.foreign_keys(false).disable_statement_logging().connect().await
}

/// Opens a database that is nobody else's.
pub(super) async fn open_private(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    SqliteConnectOptions::new().filename(path).foreign_keys(false).disable_statement_logging().connect().await
}

/// The size of the file, if it is there, has bytes, and begins as a database does.
fn header(path: &Path) -> Result<Option<u64>, OpenError> {
    let unreadable = |error| OpenError::Unreadable { path: path.to_owned(), error };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let bytes = file.metadata().map_err(unreadable)?.len();
    if bytes == 0 {
        return Ok(None);
    }
    let mut magic = Vec::new();
    file.by_ref().take(16).read_to_end(&mut magic).map_err(unreadable)?;
    if magic != b"SQLite format 3\0" {
        return Err(OpenError::Corrupt { path: path.to_owned(), what: "it is not an SQLite database".to_owned() });
    }
    Ok(Some(bytes))
}

enum Refusal {
    Open(OpenError),
    Sql(sqlx::Error),
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        Refusal::Sql(error)
    }
}

async fn inspect(conn: &mut SqliteConnection, path: &Path, bytes: u64) -> Result<(), Refusal> {
    let refuse = |error| Err(Refusal::Open(error));
    let application: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *conn).await?;
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'table'").fetch_all(&mut *conn).await?;
    // A first start that was cut has made the table of migrations and nothing else.
    let begun = tables.iter().all(|name| name == "_sqlx_migrations");
    if application != APPLICATION_ID && !begun {
        return refuse(OpenError::Foreign { path: path.to_owned() });
    }
    if !tables.is_empty() {
        let found: Option<i64> =
            sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(&mut *conn).await?;
        let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
        if let Some(found) = found.filter(|found| *found > known) {
            return refuse(OpenError::Newer { path: path.to_owned(), found, known });
        }
    }
    let whole = ["PRAGMA quick_check(1)".to_owned()];
    let needed = ["settings", "jobs", "claims"]
        .into_iter()
        .filter(|table| tables.iter().any(|name| name == table))
        .map(|table| format!("PRAGMA quick_check({table})"));
    let checks: Vec<String> = if bytes <= CHECKED_BYTES_MAX { whole.into_iter().collect() } else { needed.collect() };
    for check in checks {
        let verdict: String = sqlx::query_scalar(AssertSqlSafe(check)).fetch_one(&mut *conn).await?;
        if verdict != "ok" {
            let what = verdict.lines().collect::<Vec<_>>().join("; ");
            return refuse(OpenError::Corrupt { path: path.to_owned(), what });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that is forgotten would never be applied; a changed one would refuse every database that has it.
    #[test]
    fn every_migration_is_embedded_as_it_is() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/sqlite");
        let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let there: Vec<(String, String)> = files
            .iter()
            .map(|file| (file.file_name().unwrap().display().to_string(), std::fs::read_to_string(file).unwrap()))
            .collect();
        let embedded: Vec<(String, String)> = MIGRATIONS
            .iter()
            .map(|it| (format!("{:04}_{}.sql", it.version, it.description), it.sql.as_str().to_owned()))
            .collect();
        assert_eq!(embedded, there);
        let digest = &MIGRATIONS.iter().next().unwrap().checksum[..4];
        assert_eq!(digest, [0x5c, 0x17, 0x74, 0xa9], "databases have the digest of the first migration");
    }

    #[test]
    fn old_libraries_are_refused() {
        for (version, fine) in
            [("3.51.3", true), ("3.52.0", true), ("4.0.0", true), ("3.51.2", false), ("3.50.9", false), ("", false)]
        {
            assert_eq!(library(version).is_ok(), fine, "{version}");
        }
        insta::assert_snapshot!(library("3.46.1").unwrap_err());
    }
}
