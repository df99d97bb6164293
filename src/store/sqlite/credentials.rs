//! Credentials, sealed whole. All of them are in memory, so they are read once, at the start.

use std::sync::Arc;

use sqlx::SqliteConnection;
use zeroize::Zeroizing;

use crate::model::access::AccessRow;
use crate::model::credential::Credential;
use crate::model::tenant::TenantNo;
use crate::store::StoreError;
use crate::store::sqlite::errors::Fault;
use crate::store::sqlite::reader::{Ask, Reader};
use crate::store::sqlite::text::Text;
use crate::vault::{Vault, VaultError, key_of};

/// What the place of a credential begins with; the other tables with bags have 1 to 3.
const TABLE: u8 = 4;

/// Tenant, name, bag.
type Row = (TenantNo, Text, Vec<u8>);

/// Where a bag opens.
fn place(tenant: TenantNo, name: &str) -> Vec<u8> {
    [&[TABLE], tenant.to_be_bytes().as_slice(), name.as_bytes()].concat()
}

/// Stores a credential.
pub(super) async fn put(conn: &mut SqliteConnection, vault: &Vault, credential: &Credential) -> Result<(), Fault> {
    let Credential { tenant, name, .. } = credential;
    let bag = vault.seal(&place(*tenant, name), &Zeroizing::new(serde_json::to_vec(credential)?))?;
    let sql = "REPLACE INTO credentials (tenant, name, sealed) VALUES (?1, ?2, ?3)";
    sqlx::query(sql).bind(tenant).bind(name).bind(bag).execute(conn).await?;
    Ok(())
}

/// Removes a credential.
pub(super) async fn remove(conn: &mut SqliteConnection, tenant: TenantNo, name: &str) -> Result<(), Fault> {
    let sql = "DELETE FROM credentials WHERE tenant = ?1 AND name = ?2";
    sqlx::query(sql).bind(tenant).bind(name).execute(conn).await?;
    Ok(())
}

/// Reads all credentials. One whose key is lost is there without its value; one that is damaged is an error, since to leave
/// it out would free its name.
pub(super) async fn all(reader: &Reader) -> Result<Vec<AccessRow>, StoreError> {
    let rows: Vec<Row> = reader.all(Ask::new("SELECT tenant, name, sealed FROM credentials")).await?;
    rows.into_iter().map(|row| read(&reader.vault, row).map(|it| AccessRow::Credential(Arc::new(it)))).collect()
}

fn read(vault: &Vault, (tenant, name, bag): Row) -> Result<Credential, StoreError> {
    let name = name.string("name of a credential")?;
    let wrong = |why: String| StoreError::Unreadable(format!("credential `{name}`: {why}"));
    let plain = match vault.open(&place(tenant, &name), &bag) {
        Ok(plain) => plain,
        Err(VaultError::NoKey(number)) => {
            tracing::warn!(credential = name, key = number, "the key of a credential is lost; set it again");
            return Ok(Credential::lost(tenant, &name));
        }
        Err(error) => return Err(wrong(error.to_string())),
    };
    // The parser's own words could show what it met.
    let read: Credential = serde_json::from_slice(&plain).map_err(|_| wrong("it does not parse".to_owned()))?;
    Ok(Credential { tenant, name, ..read })
}

/// Seals all that another key than the present one has sealed. They are few, so this is one piece.
pub(super) async fn seal_anew(conn: &mut SqliteConnection, vault: &Vault) -> Result<(), Fault> {
    let rows: Vec<Row> = sqlx::query_as("SELECT tenant, name, sealed FROM credentials").fetch_all(&mut *conn).await?;
    for row in rows.into_iter().filter(|row| key_of(&row.2) != Ok(vault.current())) {
        match read(vault, row) {
            Ok(credential) if credential.value.is_some() => put(conn, vault, &credential).await?,
            Ok(_) => {}
            Err(error) => tracing::error!("{error}; it is left as it is"),
        }
    }
    Ok(())
}
