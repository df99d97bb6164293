//! What attempts report and what tasks leave.

use serde::{Deserialize, Serialize};

use crate::model::checksum::Checksum;
use crate::model::failure::{Failure, TaskError, is_default};
use crate::model::time::Timestamp;

/// How one attempt ended. The attempt says what happened; the engine decides what it means.
#[derive(Debug)]
pub enum AttemptEnd {
    /// It has what the task is for.
    Done(Outcome),
    /// It has not.
    Failed(Failure),
    /// It was asked to stop, and has: what it holds is checkpointed. The engine knows the cause.
    Stopped,
    /// There is not enough room for what comes. The task is requeued and waits for it.
    NoSpace {
        /// Where there is too little.
        of: ShortOf,
        /// The directory, relative to the download root, on whose file system it is needed.
        folder: String,
        /// Bytes that are needed.
        needed_bytes: u64,
        /// For a person.
        message: String,
    },
}

/// What has too little room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ShortOf {
    /// The file system.
    Disk,
    /// The tenant, by its `stored_bytes`.
    Tenant,
}

/// What a task was for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A response.
    Fetch(FetchResult),
    /// A file.
    Download(DownloadResult),
}

/// The result of a fetch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FetchResult {
    /// Of the last response.
    pub http_status: u16,
    /// Of the last response, in order. Secret ones have their value replaced already.
    #[serde(skip_serializing_if = "is_default")]
    pub headers: Vec<(String, String)>,
    /// After decoding, over all pages.
    pub body_bytes: u64,
    /// After redirects, without secrets.
    pub final_url: String,
    /// The `Content-Type`.
    #[serde(skip_serializing_if = "is_default")]
    pub content_type: String,
    /// Pages of a paginated fetch.
    #[serde(skip_serializing_if = "is_default")]
    pub pages: u32,
    /// Items of a paginated fetch.
    #[serde(skip_serializing_if = "is_default")]
    pub items: u64,
}

/// What a download left.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DownloadResult {
    /// Relative to the download root.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Those checked and those asked for.
    #[serde(skip_serializing_if = "is_default")]
    pub checksums: Vec<Checksum>,
    /// After redirects, without secrets.
    pub final_url: String,
    /// The `Content-Type`.
    #[serde(skip_serializing_if = "is_default")]
    pub content_type: String,
    /// As the origin sent it.
    #[serde(skip_serializing_if = "is_default")]
    pub etag: String,
    /// As the origin sent it.
    #[serde(skip_serializing_if = "is_default")]
    pub last_modified: String,
    /// Kept from earlier attempts.
    #[serde(skip_serializing_if = "is_default")]
    pub resumed_bytes: u64,
    /// The most connections that it had at once.
    #[serde(skip_serializing_if = "is_default")]
    pub connections: u32,
    /// The file was there already.
    #[serde(skip_serializing_if = "is_default")]
    pub skipped: bool,
    /// Identifies the file, if this download created it: it owns no other.
    #[serde(skip_serializing_if = "is_default")]
    pub created: Option<CreatedFile>,
}

/// Tells a file that a download created from one that takes its name later, together with its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedFile {
    /// Its number in its file system.
    pub inode: u64,
    /// The time of its last modification, in nanoseconds since the epoch.
    pub modified_nanos: u64,
}

/// What an attempt saw on its way, whatever its end. Filled in by `fetch` and `download`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttemptReport {
    /// The mirror and the address after redirects, without secrets.
    #[serde(skip_serializing_if = "is_default")]
    pub url: String,
    /// The address that was dialled.
    #[serde(skip_serializing_if = "is_default")]
    pub remote_address: String,
    /// Of the last response; 0: none came.
    #[serde(skip_serializing_if = "is_default")]
    pub http_status: u16,
    /// Bytes of bodies received.
    #[serde(skip_serializing_if = "is_default")]
    pub bytes: u64,
    /// Where a download went on.
    #[serde(skip_serializing_if = "is_default")]
    pub resumed_from: u64,
    /// How it went on, for a person: `continued at N`, `restarted: content changed`, ….
    #[serde(skip_serializing_if = "is_default")]
    pub resume: String,
    /// How it went on, for a program.
    #[serde(skip_serializing_if = "is_default")]
    pub resume_kind: ResumeKind,
    /// Bytes of the file that a download holds at the end of the attempt, for the next one.
    #[serde(skip_serializing_if = "is_default")]
    pub held_bytes: u64,
    /// The size of the file of which they are; 0: not known.
    #[serde(skip_serializing_if = "is_default")]
    pub total_bytes: u64,
}

/// What an attempt at a download made of the bytes that were held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResumeKind {
    /// Nothing was held, or the attempt ended before it was known.
    #[default]
    Fresh,
    /// It went on behind what was held.
    Continued,
    /// The origin ignores ranges, so what was held came again.
    ReceivedAgain,
    /// Nothing was missing.
    Complete,
    /// It began at the start: the content changed.
    ContentChanged,
    /// It began at the start: nothing proves that the content is the same.
    Unproven,
    /// It began at the start: the answer was not the range that was asked for.
    UnusableAnswer,
    /// It began at the start, as the client asked.
    Disabled,
    /// It began at the start: a digest of the whole did not match.
    ChecksumMismatch,
}

/// An attempt as the log keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// From 1, as it counted.
    pub number: u32,
    /// Its start.
    pub start_time: Timestamp,
    /// Its end.
    pub end_time: Timestamp,
    /// What it saw.
    #[serde(flatten)]
    pub report: AttemptReport,
    /// Why it did not work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
}

impl Attempt {
    /// The memory that it takes, in bytes, roughly.
    pub fn memory_bytes(&self) -> usize {
        let AttemptReport { url, remote_address, resume, .. } = &self.report;
        let error = self.error.as_ref().map_or(0, TaskError::memory_bytes);
        size_of::<Attempt>() + url.len() + remote_address.len() + resume.len() + error
    }
}

impl Outcome {
    /// The memory that it takes, in bytes, roughly.
    pub fn memory_bytes(&self) -> usize {
        let texts = match self {
            Outcome::Fetch(fetch) => {
                let headers = fetch.headers.iter().map(|(name, value)| 48 + name.len() + value.len());
                headers.sum::<usize>() + fetch.final_url.len() + fetch.content_type.len()
            }
            Outcome::Download(download) => {
                let DownloadResult { path, final_url, content_type, etag, last_modified, checksums, .. } = download;
                let texts = [path, final_url, content_type, etag, last_modified];
                texts.iter().map(|text| text.len()).sum::<usize>() + checksums.len() * 128
            }
        };
        size_of::<Outcome>() + texts
    }
}

/// How many attempts the log of a task keeps: the last ones.
pub const ATTEMPT_LOG_MAX: usize = 20;
