//! Parameters of texts that are put together piece by piece.

use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::store::sqlite::reader::Ask;

/// A parameter.
pub(super) enum Value {
    Number(i64),
    Bytes(Vec<u8>),
    Text(String),
}

/// The parameters of a text that is put together piece by piece.
#[derive(Default)]
pub(super) struct Values(Vec<Value>);

impl Values {
    /// Adds a parameter, and returns its name.
    pub(super) fn add(&mut self, value: Value) -> String {
        self.0.push(value);
        format!("?{}", self.0.len())
    }

    /// The statement with all of them.
    pub(super) fn ask(self, text: String) -> Ask {
        self.0.into_iter().fold(Ask::new(AssertSqlSafe(text)), |ask, value| match value {
            Value::Number(number) => ask.bind(number),
            Value::Bytes(bytes) => ask.bind(bytes),
            Value::Text(text) => ask.bind(text),
        })
    }

    /// Runs a text that writes with all of them.
    pub(super) async fn run(self, text: String, conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let query = self.0.into_iter().fold(sqlx::query(AssertSqlSafe(text)), |query, value| match value {
            Value::Number(number) => query.bind(number),
            Value::Bytes(bytes) => query.bind(bytes),
            Value::Text(text) => query.bind(text),
        });
        query.execute(conn).await.map(drop)
    }
}
