//! The statements of a transaction on their way to the connection.
//!
//! What a statement costs is less the statement than the way to the thread of the connection and back: two threads wake each
//! other, and where others want the cores, too, each waits for one. So what needs no answer before the next statement goes
//! there together, as one text. `BEGIN` goes with the first of them, and COMMIT with the last: what a statement was to change is
//! judged by the one behind it, on the thread of the connection.

use futures_util::TryStreamExt as _;
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, Either, Executor as _, SqliteConnection};

use crate::store::sqlite::errors::{Fault, is_refusal};
use crate::store::sqlite::insert::{Insert, SIZES, Values, size_of_text};

/// Says why a statement was refused that has not changed as many rows as it was to.
pub(super) type Refusal = Box<dyn FnOnce() -> String + Send>;

/// Fails unless the statement before it has changed so many rows: then what follows it is not carried out.
/// What has to fail is no constant: that would be worked out whether it is needed or not.
const GUARD: &str = "SELECT json('refused' || changes()) WHERE changes() <> ?";

/// Why a text was not carried out to its end.
struct Stopped {
    /// How many of its statements were.
    done: usize,
    fault: Fault,
}

/// Why a transaction did not end.
pub(super) enum NotCommitted {
    /// Something failed before its end: nothing of it is stored once it is rolled back.
    Before(Fault),
    /// Its end failed.
    AtItsEnd(Fault),
}

impl From<Fault> for NotCommitted {
    fn from(fault: Fault) -> Self {
        NotCommitted::Before(fault)
    }
}

/// Statements that are carried out in order, the later the better: those that wait go with [`Script::send`], or before
/// anything else is asked of the connection, which only [`Script::conn`] gives away.
///
/// The inserts of a text have texts of one size, so that there are few texts, each of which stays prepared: a batch has about
/// as many jobs as specs, lanes and tasks, or as many ends of tasks as events.
pub(super) struct Script<'c> {
    conn: &'c mut SqliteConnection,
    text: String,
    values: Values,
    /// The place in [`SIZES`] of the inserts that wait.
    size: usize,
    has_inserts: bool,
    /// One for each statement that waits, of those that judge the one before them.
    refusals: Vec<Option<Refusal>>,
}

impl<'c> Script<'c> {
    /// The largest number of rows of an insert that goes with others. More cost more than their way.
    const ROWS_MAX: usize = 64;
    /// The largest number of rows that the other inserts of a text are filled up to. Rows that fill cost less than another way.
    const FILLED_MAX: usize = 16;

    /// A script within a transaction that has begun.
    pub(super) fn new(conn: &'c mut SqliteConnection) -> Self {
        let values = Values(SqliteArguments::default());
        Script { conn, text: String::new(), values, size: 0, has_inserts: false, refusals: Vec::new() }
    }

    /// A script that begins a transaction.
    pub(super) fn begin(conn: &'c mut SqliteConnection) -> Self {
        let mut script = Script::new(conn);
        script.put("BEGIN IMMEDIATE", None);
        script
    }

    /// Returns the connection, once what waits is done.
    pub(super) async fn conn(&mut self) -> Result<&mut SqliteConnection, Fault> {
        self.send().await?;
        Ok(self.conn)
    }

    /// Adds a statement of one unnumbered parameter.
    pub(super) fn statement(&mut self, sql: &'static str, value: String) -> Result<(), Fault> {
        self.put(sql, None);
        self.values.add(value).map(drop)
    }

    /// Refuses the script unless the last statement changes so many rows.
    pub(super) fn guard(&mut self, rows: usize, refusal: Refusal) -> Result<(), Fault> {
        self.put(GUARD, Some(refusal));
        self.values.add(i64::try_from(rows).unwrap_or(i64::MAX)).map(drop)
    }

    /// Makes the inserts that follow one text, of which the largest has so many rows.
    pub(super) fn expect(&mut self, rows: usize) {
        if (1..=Self::FILLED_MAX).contains(&rows) && !self.has_inserts {
            self.size = size_of_text(rows);
        }
    }

    /// Adds the inserts of a row for each item.
    pub(super) async fn insert<T: Sync>(
        &mut self,
        insert: &Insert,
        items: &[T],
        bind: impl Fn(&mut Values, &T) -> Result<(), Fault> + Send,
        refusal: Option<Refusal>,
    ) -> Result<(), Fault> {
        if items.len() > Self::ROWS_MAX {
            let changed = insert.run(self.conn().await?, items, bind).await?;
            let refusal = refusal.filter(|_| changed != items.len() as u64);
            return refusal.map_or(Ok(()), |refusal| Err(Fault::Refused(refusal())));
        }
        if items.is_empty() {
            return Ok(());
        }
        let wanted = size_of_text(items.len());
        if wanted > self.size && self.has_inserts {
            self.send().await?;
        }
        self.size = self.size.max(wanted);
        self.has_inserts = true;
        self.put(&insert.text(self.size), None);
        insert.bind(&mut self.values, items, &bind)?;
        for _ in items.len() * insert.columns..SIZES[self.size] * insert.columns {
            self.values.add(None::<i64>)?;
        }
        refusal.map_or(Ok(()), |refusal| self.guard(items.len(), refusal))
    }

    /// Inserts a row for each item. Returns how many rows changed.
    pub(super) async fn insert_now<T: Sync>(
        &mut self,
        insert: &Insert,
        items: &[T],
        bind: impl Fn(&mut Values, &T) -> Result<(), Fault> + Send,
    ) -> Result<u64, Fault> {
        match items.len() {
            0 => Ok(0),
            1..=Self::ROWS_MAX => {
                self.insert(insert, items, bind, None).await?;
                self.send().await
            }
            _ => insert.run(self.conn().await?, items, bind).await,
        }
    }

    /// Carries out what waits. Returns how many rows the last statement changed. After one that fails nothing is carried out.
    pub(super) async fn send(&mut self) -> Result<u64, Fault> {
        self.carry_out().await.map_err(|stopped| stopped.fault)
    }

    /// Carries out what waits, and ends the transaction.
    pub(super) async fn commit(mut self) -> Result<(), NotCommitted> {
        self.put("COMMIT", None);
        let last = self.refusals.len();
        match self.carry_out().await {
            Ok(_) => Ok(()),
            Err(Stopped { done, fault }) if done + 1 < last => Err(NotCommitted::Before(fault)),
            Err(Stopped { fault, .. }) => Err(NotCommitted::AtItsEnd(fault)),
        }
    }

    async fn carry_out(&mut self) -> Result<u64, Stopped> {
        let refusals = std::mem::take(&mut self.refusals);
        if refusals.is_empty() {
            return Ok(0);
        }
        (self.size, self.has_inserts) = (0, false);
        let values = std::mem::replace(&mut self.values, Values(SqliteArguments::default()));
        let text = AssertSqlSafe(std::mem::take(&mut self.text));
        let mut steps = self.conn.fetch_many(sqlx::query_with(text, values.0));
        let mut changed = 0;
        for (done, refusal) in refusals.into_iter().enumerate() {
            changed = loop {
                match steps.try_next().await {
                    Ok(Some(Either::Left(result))) => break result.rows_affected(),
                    Ok(Some(Either::Right(_))) => {}
                    // The thread of the connection has died: what it was doing may be done or not.
                    Ok(None) => return Err(Stopped { done, fault: sqlx::Error::WorkerCrashed.into() }),
                    Err(error) => {
                        let refusal = refusal.filter(|_| is_refusal(&error));
                        let fault = refusal.map_or_else(|| error.into(), |refusal| Fault::Refused(refusal()));
                        return Err(Stopped { done, fault });
                    }
                }
            };
        }
        Ok(changed)
    }

    fn put(&mut self, sql: &str, refusal: Option<Refusal>) {
        self.text += sql;
        self.text.push(';');
        self.refusals.push(refusal);
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Connection as _;

    use super::*;

    static PLAIN: Insert = Insert::new("t (a, b)", 2, "");
    static ROWS: Insert = Insert::new("t (a, b)", 2, "ON CONFLICT DO NOTHING");

    async fn store() -> SqliteConnection {
        let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        sqlx::raw_sql("CREATE TABLE t (a INTEGER PRIMARY KEY, b ANY)").execute(&mut conn).await.unwrap();
        conn
    }

    fn bind(row: &mut Values, (a, b): &(i64, i64)) -> Result<(), Fault> {
        row.add(*a)?.add(*b).map(drop)
    }

    async fn count(conn: &mut SqliteConnection) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(conn).await.unwrap()
    }

    fn rows(count: i64, from: i64) -> Vec<(i64, i64)> {
        (from..from + count).map(|a| (a, a)).collect()
    }

    #[tokio::test]
    async fn statements_are_carried_out_in_order_and_judged_one_by_one() {
        let mut conn = store().await;
        // Sizes of all kinds, those before and behind them smaller and larger.
        for (round, counts) in [[1, 1, 1], [3, 1, 2], [1, 64, 3], [64, 65, 1], [300, 1, 64]].into_iter().enumerate() {
            let mut script = Script::begin(&mut conn);
            let mut from = 1;
            for rows_of in counts {
                let refusal: Refusal = Box::new(move || format!("not {rows_of} rows in round {round}"));
                script.insert(&ROWS, &rows(rows_of, from), bind, Some(refusal)).await.unwrap();
                from += rows_of;
            }
            // The parameter of a statement is the next one, whatever stands before it.
            let (sql, last) = ("UPDATE t SET b = -1 WHERE a = json_extract(?, '$')", (from - 1).to_string());
            script.statement(sql, last).unwrap();
            assert_eq!(script.send().await.unwrap(), 1);
            assert_eq!(script.insert_now(&ROWS, &rows(2, from - 1), bind).await.unwrap(), 1, "one was there");
            let conn = script.conn().await.unwrap();
            assert_eq!(count(conn).await, from);
            let found: i64 = sqlx::query_scalar("SELECT a FROM t WHERE b = -1").fetch_one(&mut *conn).await.unwrap();
            assert_eq!(found, from - 1);
            sqlx::query("ROLLBACK").execute(&mut *conn).await.unwrap();
        }
    }

    /// The rows that a text has beyond those that are inserted are no reason.
    #[tokio::test]
    async fn a_statement_that_changes_fewer_rows_than_it_was_to_refuses_all() {
        let mut conn = store().await;
        for (before, count) in [(0, 3), (0, 64), (1, 3), (1, 64), (1, 65)] {
            let mut script = Script::begin(&mut conn);
            script.insert(&PLAIN, &rows(before, 1), bind, None).await.unwrap();
            let refusal: Refusal = Box::new(|| "as a test wants it".to_owned());
            let inserted = script.insert(&ROWS, &rows(count, 1), bind, Some(refusal)).await;
            let sent = match inserted {
                Ok(()) => script.send().await.map(drop),
                refused => refused,
            };
            match sent {
                Ok(()) => assert_eq!(before, 0, "{count} rows, all of them new"),
                Err(Fault::Refused(why)) => assert_eq!((before, why.as_str()), (1, "as a test wants it")),
                Err(fault) => panic!("{fault:?}"),
            }
            sqlx::query("ROLLBACK").execute(&mut conn).await.unwrap();
        }
        assert_eq!(count(&mut conn).await, 0);
    }

    #[tokio::test]
    async fn what_is_refused_is_not_committed() {
        let mut conn = store().await;
        let mut script = Script::begin(&mut conn);
        script.insert(&PLAIN, &rows(3, 1), bind, None).await.unwrap();
        assert!(script.commit().await.is_ok());
        assert!(sqlx::query("ROLLBACK").execute(&mut conn).await.is_err(), "it has ended");
        let mut script = Script::begin(&mut conn);
        script.insert(&PLAIN, &rows(3, 10), bind, None).await.unwrap();
        script.guard(4, Box::new(|| "as a test wants it".to_owned())).unwrap();
        let refused = script.commit().await;
        assert!(matches!(refused, Err(NotCommitted::Before(Fault::Refused(why))) if why == "as a test wants it"));
        sqlx::query("ROLLBACK").execute(&mut conn).await.unwrap();
        let mut script = Script::begin(&mut conn);
        script.insert(&PLAIN, &rows(1, 1), bind, None).await.unwrap();
        assert!(
            matches!(script.commit().await, Err(NotCommitted::Before(Fault::Refused(_)))),
            "the key is there already"
        );
        sqlx::query("ROLLBACK").execute(&mut conn).await.unwrap();
        let script = Script::new(&mut conn);
        assert!(matches!(script.commit().await, Err(NotCommitted::AtItsEnd(_))), "there is none to end");
        assert_eq!(count(&mut conn).await, 3);
    }

    #[tokio::test]
    async fn inserts_of_few_rows_are_one_text() {
        let mut conn = store().await;
        let mut script = Script::begin(&mut conn);
        script.expect(3);
        for (count, from) in [(1, 1), (3, 10), (2, 20)] {
            script.insert(&PLAIN, &rows(count, from), bind, None).await.unwrap();
        }
        assert_eq!(script.refusals.len(), 4, "nothing was sent");
        script.send().await.unwrap();
        // The next text is not filled up.
        script.insert(&PLAIN, &rows(1, 30), bind, None).await.unwrap();
        assert_eq!(script.size, 0);
        assert!(script.commit().await.is_ok());
        assert_eq!(count(&mut conn).await, 7);
    }

    #[tokio::test]
    async fn a_statement_that_fails_fails_the_script() {
        let mut conn = store().await;
        let mut script = Script::begin(&mut conn);
        script.insert(&PLAIN, &rows(1, 1), bind, None).await.unwrap();
        script.insert(&PLAIN, &rows(1, 1), bind, None).await.unwrap();
        assert!(matches!(script.send().await, Err(Fault::Refused(_))), "the key is there already");
        sqlx::query("ROLLBACK").execute(&mut conn).await.unwrap();
        assert_eq!(count(&mut conn).await, 0);
    }
}
