//! Opens the data directory, or says why not.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use crate::store::sqlite::in_place::InPlace;
use crate::store::sqlite::keys::{Keyring, RootKeys};
use crate::store::sqlite::lock::DirLock;
use crate::store::sqlite::log::{self, LogCopier, PAGE_BYTES};
use crate::store::sqlite::numbers::Numbers;
use crate::store::sqlite::open_error::OpenError;
use crate::store::sqlite::pieces::PIECE;
use crate::store::sqlite::reader::Reader;
use crate::store::sqlite::reserve::Reserve;
use crate::store::sqlite::rights;
use crate::store::sqlite::schema::{self, BUSY_TIMEOUT, MIGRATIONS, WRITER_BUSY_TIMEOUT};
use crate::store::sqlite::store::SqliteStore;
use crate::store::sqlite::writer::SqliteWriter;
use crate::vault::Vault;

/// Connections that read. Reads are short and the machine's cores are shared with the work itself.
const READERS_MAX: u32 = 4;
/// Connections that read for the tasks that the engine runs, and as many for the changes that it decides.
const ENGINE_READERS_MAX: u32 = 2;
/// Connections that read events. Many may follow jobs from their first event at once, and each only takes longer then.
const REPLAY_READERS_MAX: u32 = 2;
/// The engine waits as long as it takes: longer than any machine runs. (An endless wait overflows the clock.)
const ENGINE_PATIENCE: Duration = Duration::from_secs(u32::MAX as u64);
/// How long a caller's read waits for a connection.
const CALLERS_PATIENCE: Duration = Duration::from_secs(10);
/// Pages of the log after which a commit copies it back: 24 MiB beside a whole reserve. From an eighth of them on it is copied
/// beside the commits (see [`LogCopier`]). The more, the more updates of one page are copied once. On a small disk it is less, so that
/// the reserve has room for all of it.
const CHECKPOINT_PAGES_MAX: u64 = 8000;
/// What is left of the log's file after a checkpoint, in bytes.
const LOG_BYTES_MAX: &str = "67108864";
/// Memory for pages of the writing connection, in KiB (negative: as `SQLite` wants it).
const WRITER_CACHE_KIB: &str = "-8192";
/// Texts of statements that stay prepared: what the writer has of them at most times.
const STATEMENTS_MAX: usize = 256;

/// What a commit waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Until it survives a power cut.
    Full,
    /// Until the kernel has it; for scratch stores.
    Off,
}

impl SqliteStore {
    /// Opens the store in `dir`, which is made if it is not there, and locks it for this process until both halves are
    /// gone.
    pub async fn open(dir: &Path, durability: Durability) -> Result<(Arc<SqliteStore>, SqliteWriter), OpenError> {
        Self::open_with(dir, durability, &RootKeys::default()).await
    }

    /// As [`SqliteStore::open`], with a root key that need not lie in `dir`.
    pub async fn open_with(
        dir: &Path,
        durability: Durability,
        roots: &RootKeys,
    ) -> Result<(Arc<SqliteStore>, SqliteWriter), OpenError> {
        let path = dir.join("haul.db");
        let failed = |error| OpenError::Sqlite { path: path.clone(), error };
        schema::library(&library_version().await.map_err(failed)?)?;
        let unwritable = |error| OpenError::Unwritable { path: dir.to_owned(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unwritable)?;
        rights::make_private(dir)?;
        rights::files(dir)?;
        rights::may_write(dir)?;
        let lock = Arc::new(DirLock::wait_for(dir).await?);
        // A scratch store is thrown away, and nothing is ever deleted from it.
        let mut reserve = (durability == Durability::Full).then(|| Reserve::of(dir));
        // What was committed last is still in the log, and to read that, and even to look, takes some room.
        let mut looked = loop {
            match schema::database(&path).await {
                Err(error) if open_in(&mut reserve, &error) => {}
                looked => break looked?,
            }
        };
        create(dir, &path).map_err(unwritable)?;

        let checkpoint_pages = reserve
            .as_ref()
            .map_or(CHECKPOINT_PAGES_MAX, |reserve| (reserve.bytes() / 5 * 3 / PAGE_BYTES).min(CHECKPOINT_PAGES_MAX));
        let mut options = writer_options(&path, durability, checkpoint_pages);
        if !returns_room(looked.as_mut()).await.map_err(failed)? {
            options = options.auto_vacuum(SqliteAutoVacuum::Incremental);
        }
        let mut conn = loop {
            match connect(&path, &options).await {
                Err(error) if open_in(&mut reserve, &error) => {}
                connected => break connected?,
            }
        };
        if let Some(looked) = looked {
            // It read only; there is nothing to lose.
            let _ = looked.close().await;
        }
        let keyring = Keyring::load(&mut conn, dir, roots).await?;
        let vault = &keyring.vault;
        let node_id = node_id(&mut conn).await.map_err(failed)?;
        let numbers = Numbers::load(&mut conn).await.map_err(failed)?;
        sqlx::query(PIECE).execute(&mut conn).await.map_err(failed)?;
        let store = Arc::new(SqliteStore {
            callers: reader(&path, READERS_MAX, CALLERS_PATIENCE, vault),
            replays: reader(&path, REPLAY_READERS_MAX, ENGINE_PATIENCE, vault),
            engine: reader(&path, ENGINE_READERS_MAX, ENGINE_PATIENCE, vault),
            visits: reader(&path, ENGINE_READERS_MAX, ENGINE_PATIENCE, vault),
            node_id,
            _lock: lock.clone(),
        });
        let log = LogCopier::new(options, checkpoint_pages);
        if durability == Durability::Full && !reserve.as_ref().is_some_and(Reserve::is_short) {
            log.write_ahead(&mut conn).await.map_err(failed)?;
        }
        log::set_patience(&mut conn, WRITER_BUSY_TIMEOUT).await.map_err(failed)?;
        Ok((store, SqliteWriter::new(conn, numbers, keyring, log, reserve, (InPlace::of(&path), lock))))
    }
}

/// Takes room from the reserve where the disk is full; returns whether that may help.
fn open_in(reserve: &mut Option<Reserve>, error: &OpenError) -> bool {
    let Some(reserve) = reserve.as_mut().filter(|it| it.is_held() && it.finds_no_room()) else { return false };
    tracing::warn!(%error, "the disk is full: the store is opened in its reserve");
    if reserve.is_short() {
        reserve.give_up();
    } else {
        reserve.lend();
    }
    true
}

/// Whether room that purges free can be returned, which only a database without tables takes on. To say so again is a commit, which
/// would copy the log of a process that was killed before anything runs.
async fn returns_room(database: Option<&mut SqliteConnection>) -> Result<bool, sqlx::Error> {
    const INCREMENTAL: i64 = 2;
    let Some(conn) = database else { return Ok(false) };
    let mode: i64 = sqlx::query_scalar("PRAGMA auto_vacuum").fetch_one(conn).await?;
    Ok(mode == INCREMENTAL)
}

/// Opens the connection that writes, and brings the schema up to date.
async fn connect(path: &Path, options: &SqliteConnectOptions) -> Result<SqliteConnection, OpenError> {
    let failed = |error| OpenError::Sqlite { path: path.to_owned(), error };
    let mut conn = options.connect().await.map_err(failed)?;
    let migrated = MIGRATIONS.run_direct(None, &mut conn, false).await;
    migrated.map_err(|error| OpenError::Migrate { path: path.to_owned(), error })?;
    Ok(conn)
}

fn reader(path: &Path, connections_max: u32, patience: Duration, vault: &Arc<Vault>) -> Reader {
    let pool = SqlitePoolOptions::new()
        .max_connections(connections_max)
        // Who waits longer fails, which is reported. A line for each that waits a while would fill the log.
        .acquire_slow_threshold(patience)
        .min_connections(0)
        .acquire_timeout(patience)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(reader_options(path));
    Reader::new(pool, vault.clone())
}

/// Makes the file before `SQLite` does, since it holds secrets: `SQLite` gives its log the same mode.
fn create(dir: &Path, path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.sync_all()?;
    File::open(dir)?.sync_all()
}

fn writer_options(path: &Path, durability: Durability, checkpoint_pages: u64) -> SqliteConnectOptions {
    let synchronous = match durability {
        Durability::Full => SqliteSynchronous::Full,
        Durability::Off => SqliteSynchronous::Off,
    };
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(synchronous)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("wal_autocheckpoint", checkpoint_pages.to_string())
        .pragma("journal_size_limit", LOG_BYTES_MAX)
        .pragma("cache_size", WRITER_CACHE_KIB)
        .pragma("temp_store", "MEMORY")
        // What is deleted is overwritten within its page; what leaves whole pages behind was sealed.
        .pragma("secure_delete", "FAST")
        .foreign_keys(false)
        .statement_cache_capacity(STATEMENTS_MAX)
        .disable_statement_logging()
}

fn reader_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("temp_store", "MEMORY")
        .foreign_keys(false)
        .disable_statement_logging()
}

/// The version that really runs, which need not be the one of the headers.
async fn library_version() -> Result<String, sqlx::Error> {
    let mut conn = SqliteConnectOptions::new().in_memory(true).connect().await?;
    sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut conn).await
}

/// The name of this data, made at the first start.
async fn node_id(conn: &mut SqliteConnection) -> Result<String, sqlx::Error> {
    let fresh = uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string();
    sqlx::query("INSERT INTO settings (key, value) VALUES ('node_id', ?1) ON CONFLICT DO NOTHING")
        .bind(fresh)
        .execute(&mut *conn)
        .await?;
    sqlx::query_scalar("SELECT value FROM settings WHERE key = 'node_id'").fetch_one(conn).await
}
