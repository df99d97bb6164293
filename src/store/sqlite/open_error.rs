//! Why a data directory cannot be opened.

use std::io;
use std::path::PathBuf;

use sqlx::migrate::MigrateError;

use crate::store::sqlite::errors::told;

/// Why the data directory was not opened. The database is as it was.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what each is, the fields what they name.
pub enum OpenError {
    #[error("this binary has SQLite {found}, which can corrupt its log; build it with SQLite 3.51.3 or newer")]
    OldLibrary { found: String },
    #[error(
        "the data directory `{}` is in use by another haul process{}; stop that one, or choose another `--data-dir`",
        path.display(), pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    InUse { path: PathBuf, pid: Option<u32> },
    #[error(
        "the data directory `{}` cannot be written to ({error}); give this user the right to, or choose another `--data-dir`",
        path.display()
    )]
    Unwritable { path: PathBuf, error: io::Error },
    #[error("`{}` cannot be read ({error}); give this user the right to", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("`{}` is in the place of a file of the data directory and is none; move it away, or choose another `--data-dir`", path.display())]
    Special { path: PathBuf },
    #[error("`{}` is a link to a file that is not there; put that file back, or remove the link", path.display())]
    Dangling { path: PathBuf },
    #[error("`{}` cannot be written to ({error}); give this user the right to", path.display())]
    ReadOnly { path: PathBuf, error: io::Error },
    #[error(
        "the data directory `{}` belongs to another user (uid {user}) and is open to others, which only its owner can \
         change; give it to the user that haul runs as, or choose another `--data-dir`",
        path.display()
    )]
    OthersDirectory { path: PathBuf, user: u32 },
    #[error(
        "`{}` belongs to another user (uid {user}), who may know what is in it; if it is yours, give it to the user that haul runs \
         as, else move it away",
        path.display()
    )]
    Stranger { path: PathBuf, user: u32 },
    #[error(
        "the database `{}` is of a newer haul (schema {found}, this binary knows {known}); run that version, or choose \
         another `--data-dir`",
        path.display()
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error(
        "the database `{}` is empty: no server has stored anything in it; start one, or set `--data-dir` to the server's data \
         directory",
        path.display()
    )]
    Empty { path: PathBuf },
    #[error("there is no database `{}`; set `--data-dir` to the server's data directory", path.display())]
    Missing { path: PathBuf },
    #[error("the database `{}` is not haul's; choose another `--data-dir`", path.display())]
    Foreign { path: PathBuf },
    #[error(
        "the database `{}` is damaged ({what}); it was left as it is: put back a backup, or move it away to start with \
         an empty one",
        path.display()
    )]
    Corrupt { path: PathBuf, what: String },
    #[error("the database `{}` was opened and could not be read: {}", path.display(), told(error))]
    Unread { path: PathBuf, error: sqlx::Error },
    #[error("the database `{}` could not be opened: {}", path.display(), told(error))]
    Sqlite { path: PathBuf, error: sqlx::Error },
    #[error(
        "the root key in the {place} cannot be read ({why}); without it the secrets in the database stay sealed: put it \
             back, or name it with `--data-key`; if it is lost, `--forget-sealed` gives these secrets up"
    )]
    Key { place: String, why: String },
    #[error(
        "the root key in the {place} is not the one of the database `{}`; name that one with `--data-key`, and if it is to \
         be replaced, name it with `--data-key-previous`",
        path.display()
    )]
    WrongKey { path: PathBuf, place: String },
    #[error("the schema of the database `{}` could not be brought up to date: {error}", path.display())]
    Migrate { path: PathBuf, error: MigrateError },
}
