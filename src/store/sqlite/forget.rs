//! Gives up what is sealed with keys that nobody can unwrap any more, so that a store whose root key is lost opens again.
//!
//! In the places of the secrets stands `REDACTED` then, and the jobs say that theirs are gone. It goes on in pieces, before the
//! keys themselves are replaced: a start that is cut finds the old keys, and begins again where there is something left.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::{Connection as _, SqliteConnection};

use crate::model::bag::{self, Bagged};
use crate::model::spec::{JobSpec, TaskSpec};
use crate::store::sqlite::expiry::say;
use crate::store::sqlite::lines::parse;
use crate::store::sqlite::text::Text;
use crate::vault::KeyNumber;

/// Rows of one piece.
const ROWS_MAX: i64 = 500;

/// A key and a spec.
type SpecRow = (i64, Text);

/// How many rows lost their secrets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Forgotten {
    pub(super) jobs: usize,
    pub(super) tasks: usize,
    pub(super) listings: u64,
}

/// Gives up all bags but those of the keys `known`. Credentials stay, without their values, until somebody sets them again.
pub(super) async fn all(conn: &mut SqliteConnection, known: &[KeyNumber]) -> Result<Forgotten, sqlx::Error> {
    // As a bag has the number of its key.
    let known: Vec<String> = known.iter().map(|number| format!("{number:08X}")).collect();
    let known = serde_json::to_string(&known).map_err(unwritable)?;
    let jobs = "SELECT job, spec FROM job_specs WHERE job > ?1 AND sealed IS NOT NULL \
                AND hex(substr(sealed, 2, 4)) NOT IN (SELECT value FROM json_each(?2)) ORDER BY job LIMIT ?3 + 0";
    let tasks = "SELECT id, spec FROM tasks WHERE id > ?1 AND sealed IS NOT NULL \
                 AND hex(substr(sealed, 2, 4)) NOT IN (SELECT value FROM json_each(?2)) ORDER BY id LIMIT ?3 + 0";
    let jobs = rows::<JobSpec>(conn, jobs, &known, Table::Jobs).await?;
    let tasks = rows::<TaskSpec>(conn, tasks, &known, Table::Tasks).await?;
    // A listing whose place is gone fails when it would go on.
    let sql = "UPDATE pages SET next = NULL, sealed = NULL WHERE sealed IS NOT NULL \
               AND hex(substr(sealed, 2, 4)) NOT IN (SELECT value FROM json_each(?1))";
    let listings = sqlx::query(sql).bind(&known).execute(conn).await?.rows_affected();
    Ok(Forgotten { jobs, tasks, listings })
}

fn unwritable(error: serde_json::Error) -> sqlx::Error {
    sqlx::Error::Encode(Box::new(error))
}

#[derive(Clone, Copy)]
enum Table {
    Jobs,
    Tasks,
}

/// Goes through the rows that `sql` selects. Returns how many there were.
async fn rows<T: Bagged + Serialize + DeserializeOwned>(
    conn: &mut SqliteConnection,
    sql: &'static str,
    known: &str,
    table: Table,
) -> Result<usize, sqlx::Error> {
    let (mut after, mut count) = (0_i64, 0);
    loop {
        let found: Vec<SpecRow> =
            sqlx::query_as(sql).bind(after).bind(known).bind(ROWS_MAX).fetch_all(&mut *conn).await?;
        let Some((last, _)) = found.last() else { return Ok(count) };
        after = *last;
        count += found.len();
        let mut whole = conn.begin().await?;
        for (key, spec) in found {
            let mut left = match parse::<T>(&spec, format_args!("row {key}")) {
                Ok(left) => left,
                Err(error) => {
                    tracing::error!("{error}; it is left as it is");
                    continue;
                }
            };
            bag::forget(&mut left);
            let spec = serde_json::to_string(&left).map_err(unwritable)?;
            let (update, job) = match table {
                Table::Jobs => ("UPDATE job_specs SET spec = ?2, sealed = NULL WHERE job = ?1", key),
                Table::Tasks => ("UPDATE tasks SET spec = ?2, sealed = NULL WHERE id = ?1", key >> 32),
            };
            sqlx::query(update).bind(key).bind(spec).execute(&mut *whole).await?;
            say(&mut whole, job).await?;
        }
        whole.commit().await?;
    }
}
