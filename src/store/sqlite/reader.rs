//! The one way in which statements that read reach `SQLite`.

use std::sync::Arc;

use sqlx::encode::Encode;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments as _, FromRow, SqlSafeStr, SqlStr, Sqlite, SqlitePool, Type};

use crate::store::StoreError;
use crate::store::sqlite::lines::Page;
use crate::store::sqlite::text::Text;
use crate::vault::Vault;

/// A statement that reads, with its parameters.
///
/// A limit is written `LIMIT ?1 + 0`: by the value of a bare parameter `SQLite` would plan, and so compile the statement
/// again for each.
pub(super) struct Ask {
    text: SqlStr,
    arguments: SqliteArguments,
    unbound: Option<sqlx::Error>,
}

impl Ask {
    /// A statement without parameters.
    pub(super) fn new(text: impl SqlSafeStr) -> Ask {
        Ask { text: text.into_sql_str(), arguments: SqliteArguments::default(), unbound: None }
    }

    /// Adds the next parameter.
    pub(super) fn bind<'t, T: Encode<'t, Sqlite> + Type<Sqlite>>(mut self, value: T) -> Ask {
        if let Err(error) = self.arguments.add(value) {
            self.unbound = Some(sqlx::Error::Encode(error));
        }
        self
    }

    fn ready(self) -> Result<(SqlStr, SqliteArguments), StoreError> {
        match self.unbound {
            Some(error) => Err(error.into()),
            None => Ok((self.text, self.arguments)),
        }
    }
}

/// What a column is read as. A `String` is none of it: one row that is no UTF-8 would fail the whole answer.
pub(super) trait Column {}

impl Column for bool {}
impl Column for u16 {}
impl Column for u32 {}
impl Column for i64 {}
impl Column for Vec<u8> {}
impl Column for Text {}
impl<C: Column> Column for Option<C> {}

/// The columns of an answer.
pub(super) trait Columns: for<'r> FromRow<'r, SqliteRow> + Send + Unpin {}

macro_rules! columns {
    ($($name:ident),+) => {
        impl<$($name: Column),+> Columns for ($($name,)+) where Self: for<'r> FromRow<'r, SqliteRow> + Send + Unpin {}
    };
}

columns!(A);
columns!(A, B);
columns!(A, B, C);
columns!(A, B, C, D);
columns!(A, B, C, D, E);
columns!(A, B, C, D, E, F);
columns!(A, B, C, D, E, F, G);

/// Connections that read.
pub(super) struct Reader {
    pool: SqlitePool,
    /// Opens what is read.
    pub(super) vault: Arc<Vault>,
    /// Every text that was asked, for the test that reads their plans.
    #[cfg(test)]
    pub(super) asked: std::sync::Mutex<std::collections::BTreeSet<String>>,
}

impl Reader {
    /// Reads through the connections of `pool` what `vault` opens.
    pub(super) fn new(pool: SqlitePool, vault: Arc<Vault>) -> Reader {
        Reader {
            pool,
            vault,
            #[cfg(test)]
            asked: std::sync::Mutex::default(),
        }
    }

    /// Returns all rows of the answer.
    pub(super) async fn all<R: Columns>(&self, ask: Ask) -> Result<Vec<R>, StoreError> {
        #[cfg(test)]
        self.remember(&ask);
        let (text, arguments) = ask.ready()?;
        Ok(sqlx::query_as_with(text, arguments).fetch_all(&self.pool).await?)
    }

    /// Returns the first row of the answer.
    pub(super) async fn first<R: Columns>(&self, ask: Ask) -> Result<Option<R>, StoreError> {
        #[cfg(test)]
        self.remember(&ask);
        let (text, arguments) = ask.ready()?;
        Ok(sqlx::query_as_with(text, arguments).fetch_optional(&self.pool).await?)
    }

    /// Returns the one text that the answer is.
    pub(super) async fn text(&self, ask: Ask) -> Result<Text, StoreError> {
        Ok(self.first::<(Text,)>(ask).await?.map(|(text,)| text).unwrap_or_default())
    }

    /// Returns the page that the answer is.
    pub(super) async fn page(&self, ask: Ask) -> Result<Page, StoreError> {
        let (text, is_cut) = self.first::<(Text, bool)>(ask).await?.unwrap_or_default();
        Ok(Page { text, is_cut })
    }

    /// Takes every connection, as reads that last do.
    #[cfg(test)]
    pub(super) async fn hold_all(&self) -> Vec<sqlx::pool::PoolConnection<Sqlite>> {
        let mut all = Vec::new();
        for _ in 0..self.pool.options().get_max_connections() {
            all.push(self.pool.acquire().await.unwrap());
        }
        all
    }

    #[cfg(test)]
    fn remember(&self, ask: &Ask) {
        self.asked.lock().unwrap().insert(ask.text.as_str().to_owned());
    }
}
