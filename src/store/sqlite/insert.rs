//! Inserts of many rows by few statements.
//!
//! An awaited statement costs tens of microseconds and a row a few, so a table's rows of a batch go in together. The
//! texts have fixed numbers of rows, that each is prepared once and cached. The last statement is filled up with rows of
//! NULL, which its condition leaves out: 63 rows are one statement, not nine.
//!
//! A statement that fails leaves what it has inserted so far (`OR FAIL`), since its transaction or savepoint is rolled back
//! whole. To be able to undo the statement alone, `SQLite` would copy each page before it is changed.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use futures_util::TryStreamExt as _;
use sqlx::encode::Encode;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments, AssertSqlSafe, Either, Execute, Executor as _, Sqlite, SqliteConnection, Type};

use crate::store::sqlite::errors::Fault;

/// Numbers of rows that a text may have. The largest stays far below `SQLite`'s limit of 32,766 parameters.
pub(super) const SIZES: [usize; 7] = [1, 4, 8, 16, 32, 64, 256];

/// An insert into one table. The first column must never be NULL.
pub(super) struct Insert {
    head: &'static str,
    /// How many columns it has.
    pub(super) columns: usize,
    tail: &'static str,
    texts: [OnceLock<Arc<str>>; SIZES.len()],
}

impl Insert {
    /// `head` names table and columns, `tail` says what happens on a conflict.
    pub(super) const fn new(head: &'static str, columns: usize, tail: &'static str) -> Self {
        Insert { head, columns, tail, texts: [const { OnceLock::new() }; SIZES.len()] }
    }

    /// Inserts a row for each item, in order; `bind` adds the columns of one. Returns how many rows changed.
    pub(super) async fn run<T: Sync>(
        &self,
        conn: &mut SqliteConnection,
        items: &[T],
        bind: impl Fn(&mut Values, &T) -> Result<(), Fault> + Send,
    ) -> Result<u64, Fault> {
        let mut changed = 0;
        for chunk in items.chunks(SIZES[SIZES.len() - 1]) {
            let mut values = Values(SqliteArguments::default());
            self.bind(&mut values, chunk, &bind)?;
            let text = AssertSqlSafe(self.text(size_of_text(chunk.len())));
            changed += run(conn, sqlx::query_with(text, values.0)).await?;
        }
        Ok(changed)
    }

    /// Binds the columns of rows.
    pub(super) fn bind<T>(
        &self,
        values: &mut Values,
        items: &[T],
        bind: &impl Fn(&mut Values, &T) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let before = values.0.len();
        values.0.reserve(items.len() * self.columns, 0);
        for item in items {
            bind(values, item)?;
        }
        debug_assert_eq!(values.0.len() - before, items.len() * self.columns, "{}", self.head);
        Ok(())
    }

    /// The text for one of the [`SIZES`].
    pub(super) fn text(&self, place: usize) -> Arc<str> {
        self.texts[place].get_or_init(|| self.build(SIZES[place]).into()).clone()
    }

    fn build(&self, rows: usize) -> String {
        let row = format!("(?{})", ",?".repeat(self.columns - 1));
        let rows = vec![row; rows].join(",");
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "INSERT OR FAIL INTO {} SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL {}",
            self.head, self.tail
        );
        text
    }
}

/// The place of the smallest of [`SIZES`] that holds so many rows.
pub(super) fn size_of_text(rows: usize) -> usize {
    SIZES.iter().position(|size| *size >= rows).unwrap_or(SIZES.len() - 1)
}

/// Runs a statement that returns no rows. Returns how many rows it changed.
///
/// `Query::execute` waits for the end of the channel that the result comes by, too, which wakes the writer once more.
pub(super) async fn run<'q>(
    conn: &mut SqliteConnection,
    query: impl Execute<'q, Sqlite> + 'q,
) -> Result<u64, sqlx::Error> {
    let mut steps = conn.fetch_many(query);
    while let Some(step) = steps.try_next().await? {
        if let Either::Left(result) = step {
            return Ok(result.rows_affected());
        }
    }
    // The thread of the connection has died: what it was doing may be done or not.
    Err(sqlx::Error::WorkerCrashed)
}

/// The columns of rows, one after another.
pub(super) struct Values(pub(super) SqliteArguments);

impl Values {
    /// Adds the next column.
    pub(super) fn add<'t, T: Encode<'t, Sqlite> + Type<Sqlite>>(&mut self, value: T) -> Result<&mut Self, Fault> {
        Arguments::add(&mut self.0, value).map_err(|error| Fault::Refused(error.to_string()))?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_in_few_sizes() {
        let insert = Insert::new("t (a, b)", 2, "ON CONFLICT DO NOTHING");
        assert_eq!(
            &*insert.text(size_of_text(1)),
            "INSERT OR FAIL INTO t (a, b) SELECT * FROM (VALUES (?,?)) WHERE column1 IS NOT NULL ON CONFLICT DO NOTHING"
        );
        assert_eq!(insert.text(size_of_text(2)).matches("(?,?)").count(), 4);
        assert_eq!(insert.text(size_of_text(256)).matches("(?,?)").count(), 256);
    }
}
