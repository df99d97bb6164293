//! Principals and tokens. All of them are in memory, so they are read once, at the start.

use std::sync::Arc;

use sqlx::SqliteConnection;

use crate::model::access::{AccessRow, Principal, Token};
use crate::model::book::Book;
use crate::model::tenant::Tenant;
use crate::model::token::TokenHash;
use crate::store::StoreError;
use crate::store::sqlite::credentials;
use crate::store::sqlite::errors::Fault;
use crate::store::sqlite::lines;
use crate::store::sqlite::reader::{Ask, Reader};
use crate::store::sqlite::text::Text;
use crate::vault::Vault;

pub(super) async fn write(conn: &mut SqliteConnection, vault: &Vault, changes: &[AccessRow]) -> Result<(), Fault> {
    for change in changes {
        let statement = match change {
            AccessRow::Principal(principal) => sqlx::query("REPLACE INTO principals (no, row) VALUES (?1, ?2)")
                .bind(principal.no as i64)
                .bind(serde_json::to_string(principal)?),
            AccessRow::Tenant(tenant) => sqlx::query("REPLACE INTO tenants (no, row) VALUES (?1, ?2)")
                .bind(i64::from(tenant.no))
                .bind(serde_json::to_string(tenant)?),
            AccessRow::Token(token) => sqlx::query("REPLACE INTO tokens (id, hash, row) VALUES (?1, ?2, ?3)")
                .bind(token.id.clone())
                .bind(token.hash.0.to_vec())
                .bind(serde_json::to_string(token)?),
            AccessRow::Forget(id) => sqlx::query("DELETE FROM tokens WHERE id = ?1").bind(id.clone()),
            AccessRow::Required => sqlx::query("REPLACE INTO settings (key, value) VALUES ('auth', 'required')"),
            AccessRow::Credential(credential) => {
                credentials::put(conn, vault, credential).await?;
                continue;
            }
            AccessRow::NoCredential(tenant, name) => {
                credentials::remove(conn, *tenant, name).await?;
                continue;
            }
        };
        statement.execute(&mut *conn).await?;
    }
    Ok(())
}

/// Reads who may call. A row that does not parse is an error: to leave out a revocation would let somebody in.
pub(super) async fn book(reader: &Reader) -> Result<Book, StoreError> {
    let mut all = Vec::new();
    // One statement a table; the writer has not begun, so they see one state.
    let tenants: Vec<(Text,)> = reader.all(Ask::new("SELECT row FROM tenants")).await?;
    for (row,) in tenants {
        all.push(AccessRow::Tenant(Arc::new(lines::parse::<Tenant>(&row, "tenant")?)));
    }
    let principals: Vec<(Text,)> = reader.all(Ask::new("SELECT row FROM principals")).await?;
    for (row,) in principals {
        all.push(AccessRow::Principal(Arc::new(lines::parse::<Principal>(&row, "principal")?)));
    }
    let tokens: Vec<(Vec<u8>, Text)> = reader.all(Ask::new("SELECT hash, row FROM tokens")).await?;
    for (hash, row) in tokens {
        let hash = <[u8; 32]>::try_from(hash.as_slice());
        let hash = hash.map_err(|_| StoreError::Unreadable("hash of a token has another length".to_owned()))?;
        let token = Token { hash: TokenHash(hash), ..lines::parse(&row, "token")? };
        all.push(AccessRow::Token(Arc::new(token)));
    }
    let auth: Option<(Text,)> = reader.first(Ask::new("SELECT value FROM settings WHERE key = 'auth'")).await?;
    all.extend(auth.map(|_| AccessRow::Required));
    all.extend(credentials::all(reader).await?);
    Ok(Book::of(all))
}
