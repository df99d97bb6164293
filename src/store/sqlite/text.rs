//! Texts of rows, which damage may have made something else.

use std::fmt::Display;

use sqlx::decode::Decode;
use sqlx::error::BoxDynError;
use sqlx::sqlite::{SqliteTypeInfo, SqliteValueRef};
use sqlx::{Sqlite, Type};

use crate::store::StoreError;

/// A text as its column has it: its bytes, which damage may have made something else than UTF-8. Whoever reads a row judges its
/// own texts, so that one that is damaged fails no other row of the answer.
#[derive(Debug, Default)]
pub(super) struct Text(Vec<u8>);

impl Text {
    /// The text; `what` names it where it is none.
    pub(super) fn str(&self, what: impl Display) -> Result<&str, StoreError> {
        std::str::from_utf8(&self.0).map_err(|error| StoreError::Unreadable(format!("{what}: {error}")))
    }

    /// The text, owned; `what` names it where it is none.
    pub(super) fn string(self, what: impl Display) -> Result<String, StoreError> {
        String::from_utf8(self.0).map_err(|error| StoreError::Unreadable(format!("{what}: {error}")))
    }

    /// The text, with other signs in the places of bytes that are damaged.
    pub(super) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Type<Sqlite> for Text {
    fn type_info() -> SqliteTypeInfo {
        <[u8] as Type<Sqlite>>::type_info()
    }

    fn compatible(info: &SqliteTypeInfo) -> bool {
        <[u8] as Type<Sqlite>>::compatible(info)
    }
}

impl<'r> Decode<'r, Sqlite> for Text {
    fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxDynError> {
        <Vec<u8> as Decode<'r, Sqlite>>::decode(value).map(Text)
    }
}
