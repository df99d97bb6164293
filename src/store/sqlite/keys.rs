//! The keys of a data directory: the root key, which is outside the database, and the data keys, which it wraps there.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use sqlx::{Connection as _, SqliteConnection};
use zeroize::Zeroizing;

use crate::named_file;
use crate::store::sqlite::errors::Fault;
use crate::store::sqlite::forget;
use crate::store::sqlite::open_error::OpenError;
use crate::store::sqlite::{trail, upkeep};
use crate::vault::{Key, KeyNumber, Vault};

/// The root key of a data directory that is told of no other.
pub(super) const KEY_FILE: &str = "haul.key";
/// Where it is written before it has its name.
const NEW_KEY_FILE: &str = "haul.key.new";
/// What a mode grants to who is neither the user nor of the group.
const OTHERS: u32 = 0o007;
/// The mode of what the server keeps.
const OWN: u32 = 0o600;
/// More than a key and white space around it.
const KEY_FILE_BYTES_MAX: u64 = 4096;

/// What a data key is for, as its column has it.
const SEALS: i64 = 1;
const DIGESTS: i64 = 2;

/// Where a root key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// In a file.
    File(PathBuf),
    /// In a variable of the environment.
    Env(String),
}

impl std::fmt::Display for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KeySource::File(path) => write!(f, "file `{}`", path.display()),
            KeySource::Env(name) => write!(f, "variable `{name}`"),
        }
    }
}

/// The root keys of a start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RootKeys {
    /// The key lies in the data directory, where the first start makes it: backups without it are of no use to a thief.
    #[default]
    Beside,
    /// The operator keeps the key.
    Kept {
        /// The key.
        now: KeySource,
        /// The key that was used before, which wraps the data keys for the last time.
        previous: Option<KeySource>,
    },
    /// Nobody keeps the key: the data directory is for this process alone.
    Unkept,
    /// As the others say; and what no key of theirs opens is given up.
    Forgetting(Box<RootKeys>),
}

impl RootKeys {
    /// Returns where the key is.
    fn source(&self, dir: &Path) -> KeySource {
        match self {
            RootKeys::Beside => KeySource::File(dir.join(KEY_FILE)),
            RootKeys::Kept { now, .. } => now.clone(),
            RootKeys::Unkept => KeySource::Env(String::new()),
            RootKeys::Forgetting(roots) => roots.source(dir),
        }
    }

    /// Returns where keys are, and whether what they do not open is given up.
    fn split(&self) -> (&RootKeys, bool) {
        match self {
            RootKeys::Forgetting(roots) => (roots, true),
            roots => (roots, false),
        }
    }
}

/// The keys while the store is open.
pub(super) struct Keyring {
    root: Key,
    pub(super) vault: Arc<Vault>,
}

/// A row of `data_keys`: number, purpose, wrapped key.
type KeyRow = (KeyNumber, i64, Vec<u8>);
/// All of these.
const ROWS: &str = "SELECT id, purpose, wrapped FROM data_keys ORDER BY id";

impl Keyring {
    /// Reads the keys of the data directory `dir`, or makes them if it has none.
    pub(super) async fn load(conn: &mut SqliteConnection, dir: &Path, roots: &RootKeys) -> Result<Keyring, OpenError> {
        let failed = |error| OpenError::Sqlite { path: dir.join("haul.db"), error };
        let mut rows: Vec<KeyRow> = sqlx::query_as(ROWS).fetch_all(&mut *conn).await.map_err(failed)?;
        let source = roots.source(dir);
        let (roots, forgets) = roots.split();
        let root = match roots {
            RootKeys::Unkept => Key::random(),
            RootKeys::Beside if (rows.is_empty() || forgets) && has_none(dir) => make(dir)?,
            _ => read(&source)?,
        };
        if rows.is_empty() {
            first(conn, &root).await.map_err(failed)?;
            rows = sqlx::query_as(ROWS).fetch_all(&mut *conn).await.map_err(failed)?;
        }
        let previous = previous(roots)?;
        let wrong = || OpenError::WrongKey { path: dir.join("haul.db"), place: source.to_string() };
        if forgets && give_up(conn, &root, previous.as_ref(), &rows).await.map_err(failed)? {
            rows = sqlx::query_as(ROWS).fetch_all(&mut *conn).await.map_err(failed)?;
        }
        let (mut seals, mut digests, mut to_wrap) = (Vec::new(), None, Vec::new());
        for (number, purpose, wrapped) in rows {
            let name = name(number, purpose);
            let by_previous = || previous.as_ref().and_then(|previous| previous.unwrap_key(&name, &wrapped));
            let key = if let Some(key) = root.unwrap_key(&name, &wrapped) {
                key
            } else {
                let key = by_previous().ok_or_else(wrong)?;
                to_wrap.push((number, root.wrap(&name, &key).ok_or_else(wrong)?));
                key
            };
            if purpose == SEALS { seals.push((number, key)) } else { digests = Some(key) }
        }
        wrap_anew(conn, &to_wrap).await.map_err(failed)?;
        let vault = digests.and_then(|digests| Vault::new(seals, &digests)).ok_or_else(wrong)?;
        keep_others_from(&source, *roots == RootKeys::Beside);
        Ok(Keyring { root, vault: Arc::new(vault) })
    }

    /// Reads the keys of the data directory `dir`, and changes nothing.
    pub(super) async fn look(conn: &mut SqliteConnection, dir: &Path, roots: &RootKeys) -> Result<Vault, OpenError> {
        let failed = |error| OpenError::Sqlite { path: dir.join("haul.db"), error };
        let rows: Vec<KeyRow> = sqlx::query_as(ROWS).fetch_all(&mut *conn).await.map_err(failed)?;
        let source = roots.source(dir);
        let root = read(&source)?;
        let wrong = || OpenError::WrongKey { path: dir.join("haul.db"), place: source.to_string() };
        let (mut seals, mut digests) = (Vec::new(), None);
        for (number, purpose, wrapped) in rows {
            let key = root.unwrap_key(&name(number, purpose), &wrapped).ok_or_else(wrong)?;
            if purpose == SEALS { seals.push((number, key)) } else { digests = Some(key) }
        }
        digests.and_then(|digests| Vault::new(seals, &digests)).ok_or_else(wrong)
    }

    /// Fails where [`Keyring::load`] would, and changes nothing. `conn`: the database, if there is one with keys.
    pub(super) async fn check(
        conn: Option<&mut SqliteConnection>,
        dir: &Path,
        roots: &RootKeys,
    ) -> Result<(), OpenError> {
        let failed = |error| OpenError::Sqlite { path: dir.join("haul.db"), error };
        let rows: Vec<KeyRow> = match conn {
            Some(conn) => sqlx::query_as(ROWS).fetch_all(conn).await.map_err(failed)?,
            None => Vec::new(),
        };
        let source = roots.source(dir);
        let (roots, forgets) = roots.split();
        let root = match roots {
            RootKeys::Unkept => return Ok(()),
            // A start makes it.
            RootKeys::Beside if (rows.is_empty() || forgets) && has_none(dir) => return Ok(()),
            _ => read(&source)?,
        };
        let previous = previous(roots)?;
        if forgets || rows.iter().all(|row| opens(&root, previous.as_ref(), row)) {
            return Ok(());
        }
        Err(OpenError::WrongKey { path: dir.join("haul.db"), place: source.to_string() })
    }

    /// Stores a new data key, which seals once this transaction is durable and [`Vault::turn_to`] was called. Everything that
    /// is sealed by now is to be sealed anew.
    pub(super) async fn add(&self, conn: &mut SqliteConnection) -> Result<(KeyNumber, Key), Fault> {
        let last: KeyNumber = sqlx::query_scalar("SELECT max(id) FROM data_keys").fetch_one(&mut *conn).await?;
        let (number, key) = (last + 1, Key::random());
        insert(conn, &self.root, number, SEALS, &key).await?;
        upkeep::begin(conn, false).await?;
        Ok((number, key))
    }
}

/// Removes the data keys that seal nothing any more.
pub(super) async fn remove_retired(conn: &mut SqliteConnection, current: KeyNumber) -> Result<(), sqlx::Error> {
    let sql = "DELETE FROM data_keys WHERE purpose = ?1 AND id <> ?2";
    sqlx::query(sql).bind(SEALS).bind(current).execute(conn).await.map(drop)
}

/// Gives up the keys that neither root unwraps, with what they seal, and makes new ones in their places. Returns whether there
/// were any.
async fn give_up(
    conn: &mut SqliteConnection,
    root: &Key,
    previous: Option<&Key>,
    rows: &[KeyRow],
) -> Result<bool, sqlx::Error> {
    let known: Vec<&KeyRow> = rows.iter().filter(|row| opens(root, previous, row)).collect();
    if known.len() == rows.len() {
        return Ok(false);
    }
    let seals: Vec<KeyNumber> = known.iter().filter(|row| row.1 == SEALS).map(|row| row.0).collect();
    let told = forget::all(conn, &seals).await?;
    let has_digests = known.iter().any(|row| row.1 == DIGESTS);
    let mut next = rows.iter().map(|row| row.0).max().unwrap_or(0);
    let mut whole = conn.begin().await?;
    for row in rows.iter().filter(|row| !known.contains(row)) {
        sqlx::query("DELETE FROM data_keys WHERE id = ?1").bind(row.0).execute(&mut *whole).await?;
    }
    if seals.is_empty() {
        next += 1;
        insert(&mut whole, root, next, SEALS, &Key::random()).await?;
    }
    if !has_digests {
        let key = Key::random();
        insert(&mut whole, root, next + 1, DIGESTS, &key).await?;
        // The chain of the audit goes on with the new key; what is before cannot be verified any more.
        if let Some(vault) = Vault::new(vec![(next, Key::random())], &key) {
            trail::begin_anew(&mut whole, &vault).await?;
        }
    }
    whole.commit().await?;
    let (jobs, tasks, listings) = (told.jobs, told.tasks, told.listings);
    tracing::warn!(jobs, tasks, listings, "secrets whose key is lost were given up (`--forget-sealed`)");
    Ok(true)
}

/// Returns whether one of the root keys unwraps a data key.
fn opens(root: &Key, previous: Option<&Key>, (number, purpose, wrapped): &KeyRow) -> bool {
    let name = name(*number, *purpose);
    [Some(root), previous].into_iter().flatten().any(|root| root.unwrap_key(&name, wrapped).is_some())
}

fn name(number: KeyNumber, purpose: i64) -> String {
    format!("haul key {number} for {purpose}")
}

/// The first keys. Jobs of an older version are plain; they are sealed while the server runs.
async fn first(conn: &mut SqliteConnection, root: &Key) -> Result<(), sqlx::Error> {
    let mut whole = conn.begin().await?;
    insert(&mut whole, root, 1, DIGESTS, &Key::random()).await?;
    insert(&mut whole, root, 2, SEALS, &Key::random()).await?;
    let jobs: i64 =
        sqlx::query_scalar("SELECT count(*) FROM (SELECT 1 FROM jobs LIMIT 1)").fetch_one(&mut *whole).await?;
    if jobs > 0 {
        upkeep::begin(&mut whole, true).await?;
    }
    whole.commit().await
}

async fn insert(
    conn: &mut SqliteConnection,
    root: &Key,
    number: KeyNumber,
    purpose: i64,
    key: &Key,
) -> Result<(), sqlx::Error> {
    // Wrapping 32 bytes does not fail; a row that does not unwrap would be found at the next start.
    let wrapped = root.wrap(&name(number, purpose), key).unwrap_or_default();
    let sql = "INSERT INTO data_keys (id, purpose, wrapped) VALUES (?1, ?2, ?3)";
    sqlx::query(sql).bind(number).bind(purpose).bind(wrapped).execute(conn).await.map(drop)
}

async fn wrap_anew(conn: &mut SqliteConnection, keys: &[(KeyNumber, Vec<u8>)]) -> Result<(), sqlx::Error> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut whole = conn.begin().await?;
    for (number, wrapped) in keys {
        let sql = "UPDATE data_keys SET wrapped = ?2 WHERE id = ?1";
        sqlx::query(sql).bind(number).bind(wrapped.as_slice()).execute(&mut *whole).await?;
    }
    whole.commit().await?;
    tracing::info!("the data keys are wrapped by the new root key; the previous one is not needed any more");
    Ok(())
}

/// Reads the root key that was used before, if one is named.
fn previous(roots: &RootKeys) -> Result<Option<Key>, OpenError> {
    match roots {
        RootKeys::Kept { previous: Some(previous), .. } => read(previous).map(Some),
        _ => Ok(None),
    }
}

/// Reads a root key.
fn read(source: &KeySource) -> Result<Key, OpenError> {
    text_of(source)
        .and_then(|text| Key::read(&text).map_err(|error| format!("it {error}")))
        .map_err(|why| OpenError::Key { place: source.to_string(), why })
}

/// Reads the text of a root key.
fn text_of(source: &KeySource) -> Result<Zeroizing<String>, String> {
    match source {
        KeySource::File(path) => {
            let mut text = Zeroizing::new(String::with_capacity(KEY_FILE_BYTES_MAX as usize));
            let file = named_file::open(path).map_err(|error| error.to_string())?;
            file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
            Ok(text)
        }
        KeySource::Env(name) => {
            std::env::var(name).map(Zeroizing::new).map_err(|_| "it is not set, or is not valid UTF-8".to_owned())
        }
    }
}
/// Keeps others from a root key: that of the data directory is for its user alone, as all that is there. Where the operator
/// keeps it, it may be for a group too, and is only spoken of.
fn keep_others_from(source: &KeySource, is_own: bool) {
    let KeySource::File(path) = source else { return };
    let mode = std::fs::metadata(path).map_or(0, |file| file.mode() & 0o777);
    if is_own && mode & !OWN != 0 {
        if let Err(error) = std::fs::set_permissions(path, Permissions::from_mode(OWN)) {
            tracing::warn!("others may read the root key in the {source}, and that cannot be changed ({error})");
        }
    } else if mode & OTHERS != 0 {
        tracing::warn!(
            "the root key in the {source} is open to every user of this machine (mode {mode:03o}); use `chmod o=`"
        );
    }
}

/// Whether no key lies in the data directory. A file without one is as good as none: an older version left it where its first
/// start was cut, or found the disk full.
fn has_none(dir: &Path) -> bool {
    let path = dir.join(KEY_FILE);
    match text_of(&KeySource::File(path.clone())) {
        // Zeros are what a power cut leaves of what was written.
        Ok(text) => text.bytes().all(|byte| byte == 0 || byte.is_ascii_whitespace()),
        // What cannot be read is told as that.
        Err(_) => fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound),
    }
}

/// Makes the root key in the data directory. It has its name once it is there whole: a start that is cut, or finds the disk full,
/// leaves none, and the next one makes another.
fn make(dir: &Path) -> Result<Key, OpenError> {
    let (new, path) = (dir.join(NEW_KEY_FILE), dir.join(KEY_FILE));
    let key = Key::random();
    let mut text = key.digits();
    text.push('\n');
    let write = || {
        // What a start left that was cut is written anew.
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(OWN).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let mut file = options.open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|error| OpenError::Unwritable { path: dir.to_owned(), error })?;
    Ok(key)
}
