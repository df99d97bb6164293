//! Ids and digests as their columns have them.

use uuid::Uuid;

use crate::model::ids::JobId;
use crate::store::StoreError;
use crate::vault::Vault;

/// An id as its column has it.
pub(super) fn blob(id: JobId) -> Vec<u8> {
    id.0.as_bytes().to_vec()
}

/// An id from its column.
pub(super) fn job_id(bytes: &[u8]) -> Result<JobId, StoreError> {
    Uuid::from_slice(bytes).map(JobId).map_err(|error| StoreError::Unreadable(format!("id of a job: {error}")))
}

/// What stands before a digest that only a holder of the key can compute.
const KEYED: u8 = 1;

/// A digest of [`crate::store::Store::keyed`] as its column has it.
pub(super) fn keyed_blob(digest: &[u8; 32]) -> Vec<u8> {
    [&[KEYED], digest.as_slice()].concat()
}

/// A keyed digest from its column. An older version has stored the digest itself.
pub(super) fn digest_of(vault: &Vault, bytes: &[u8]) -> Result<[u8; 32], StoreError> {
    if let Ok(plain) = <[u8; 32]>::try_from(bytes) {
        return Ok(keyed(vault, plain));
    }
    let digest = bytes.strip_prefix(&[KEYED]).and_then(|digest| digest.try_into().ok());
    digest.ok_or_else(|| StoreError::Unreadable(format!("digest of {} bytes", bytes.len())))
}

/// See [`crate::store::Store::keyed`].
pub(super) fn keyed(vault: &Vault, digest: [u8; 32]) -> [u8; 32] {
    vault.keyed("request", &[&digest])
}
