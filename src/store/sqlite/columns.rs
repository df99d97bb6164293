//! Ids and digests as their columns have them.

use uuid::Uuid;

use crate::model::ids::JobId;
use crate::store::StoreError;

/// An id as its column has it.
pub(super) fn blob(id: JobId) -> Vec<u8> {
    id.0.as_bytes().to_vec()
}

/// An id from its column.
pub(super) fn job_id(bytes: &[u8]) -> Result<JobId, StoreError> {
    Uuid::from_slice(bytes).map(JobId).map_err(|error| StoreError::Unreadable(format!("id of a job: {error}")))
}

/// A digest from its column.
pub(super) fn digest_of(bytes: &[u8]) -> Result<[u8; 32], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Unreadable(format!("digest of {} bytes", bytes.len())))
}
