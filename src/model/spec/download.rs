//! Bytes to a file.

use serde::{Deserialize, Serialize};

use crate::model::checksum::{Algorithm, Checksum};
use crate::model::failure::is_default;

/// Bytes streamed to a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DownloadSpec {
    /// http or https, checked at the edge.
    pub url: String,
    /// Other places of the same bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub mirrors: Vec<String>,
    /// Relative to the job's directory; empty: derived.
    #[serde(skip_serializing_if = "is_default")]
    pub path: String,
    /// `None`: RENAME for a derived name, FAIL for a given one.
    #[serde(skip_serializing_if = "is_default")]
    pub on_conflict: Option<OnConflict>,
    /// All must match.
    #[serde(skip_serializing_if = "is_default")]
    pub checksums: Vec<Checksum>,
    /// To compute and record beside those checked.
    #[serde(skip_serializing_if = "is_default")]
    pub digests: Vec<Algorithm>,
    /// The exact size.
    #[serde(skip_serializing_if = "is_default")]
    pub expected_bytes: Option<u64>,
    /// The largest size.
    #[serde(skip_serializing_if = "is_default")]
    pub max_bytes: Option<u64>,
    /// Segments at once; 0: by size.
    #[serde(skip_serializing_if = "is_default")]
    pub max_connections: u32,
    /// Start over on each attempt.
    #[serde(skip_serializing_if = "is_default")]
    pub disable_resume: bool,
}

impl DownloadSpec {
    /// The policy that is in force.
    pub fn conflict_policy(&self) -> OnConflict {
        self.on_conflict.unwrap_or(if self.path.is_empty() { OnConflict::Rename } else { OnConflict::Fail })
    }
}

/// What a download does when its name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnConflict {
    /// Fail with `FILE_EXISTS`.
    Fail,
    /// Take `name (1).ext`.
    Rename,
    /// Replace the file, when the new one is complete.
    Overwrite,
    /// Keep a file that is verifiably the same; replace one that came from the same URL and was not changed since; take
    /// `name (1).ext` beside any other.
    Skip,
}
