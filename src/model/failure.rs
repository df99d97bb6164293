//! Why something failed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::host::Host;
use crate::model::ids::TaskIndex;
use crate::model::secret::redacted_text;
use crate::model::time::Timestamp;

/// The classes of failure, as the contract names them. `docs/ERRORS.md` has an entry for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)] // The names are the contract's; each has its entry in docs/ERRORS.md.
pub enum FailureReason {
    Dns,
    Connect,
    Tls,
    Proxy,
    TimeoutConnect,
    TimeoutHeaders,
    TimeoutIdle,
    LowSpeed,
    TimeoutAttempt,
    TimeoutTask,
    TimeoutJob,
    HttpStatus,
    TooManyRedirects,
    ForbiddenAddress,
    ForbiddenPath,
    Protocol,
    Truncated,
    TooLarge,
    SizeMismatch,
    ChecksumMismatch,
    ContentChanged,
    BadContent,
    FileExists,
    DiskFull,
    Io,
    SiblingFailed,
    Cancelled,
    Internal,
    Credential,
    SecretEchoed,
}

impl FailureReason {
    /// All of them, in the order of the contract.
    pub const ALL: [FailureReason; 30] = [
        Self::Dns,
        Self::Connect,
        Self::Tls,
        Self::Proxy,
        Self::TimeoutConnect,
        Self::TimeoutHeaders,
        Self::TimeoutIdle,
        Self::LowSpeed,
        Self::TimeoutAttempt,
        Self::TimeoutTask,
        Self::TimeoutJob,
        Self::HttpStatus,
        Self::TooManyRedirects,
        Self::ForbiddenAddress,
        Self::ForbiddenPath,
        Self::Protocol,
        Self::Truncated,
        Self::TooLarge,
        Self::SizeMismatch,
        Self::ChecksumMismatch,
        Self::ContentChanged,
        Self::BadContent,
        Self::FileExists,
        Self::DiskFull,
        Self::Io,
        Self::SiblingFailed,
        Self::Cancelled,
        Self::Internal,
        Self::Credential,
        Self::SecretEchoed,
    ];
}

/// The most bytes of a message that are kept.
const MESSAGE_BYTES_MAX: usize = 2 << 10;

/// What an attempt, or a step of it, came to when it did not work. Net, files, fetch and download all fail with this.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Its class.
    pub reason: FailureReason,
    /// For a person: what, where, what to do. Lowercase, no final stop, values in backticks, no secrets.
    pub message: String,
    /// The status, where a response was the reason; else 0.
    pub http_status: u16,
    /// Whether another attempt may help.
    pub retryable: bool,
    /// How long the origin asked clients to wait (`Retry-After`, `RateLimit-Reset`).
    pub retry_after: Option<Duration>,
    /// Set where nothing was sent because the host is paused until then: the attempt does not count, and the task waits.
    pub paused_until: Option<Timestamp>,
    /// The host that is paused; `None` where it is something else that takes as long.
    pub paused_host: Option<Host>,
    /// Whether no origin has looked at the request, so that sending it again repeats nothing, whatever its method.
    pub is_unsent: bool,
    /// Whether it comes of this machine alone, and says nothing of the origin.
    pub is_own: bool,
}

impl Failure {
    /// A failure that another attempt cannot cure.
    pub fn fatal(reason: FailureReason, message: impl Into<String>) -> Self {
        Failure {
            reason,
            message: message.into(),
            http_status: 0,
            retryable: false,
            retry_after: None,
            paused_until: None,
            paused_host: None,
            is_unsent: false,
            is_own: false,
        }
    }

    /// A failure that may be gone at the next attempt.
    pub fn retryable(reason: FailureReason, message: impl Into<String>) -> Self {
        Failure { retryable: true, ..Self::fatal(reason, message) }
    }

    /// What is kept of it, as the failure of `attempt` (from 1). Origins have a part in what it says, so it is cut.
    pub fn into_error(mut self, attempt: u32) -> TaskError {
        self.message.truncate(self.message.floor_char_boundary(MESSAGE_BYTES_MAX));
        TaskError {
            reason: self.reason,
            message: self.message,
            http_status: self.http_status,
            retryable: self.retryable,
            attempt,
            task_index: None,
            url: String::new(),
        }
    }
}

/// A failure as it is kept and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskError {
    /// Its class.
    pub reason: FailureReason,
    /// For a person.
    pub message: String,
    /// Where a response was the reason; else 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub http_status: u16,
    /// Whether another attempt could have helped.
    #[serde(default, skip_serializing_if = "is_default")]
    pub retryable: bool,
    /// The attempt that it came from, from 1; 0 when it came from none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub attempt: u32,
    /// The task that failed, where the error stands outside it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub task_index: Option<TaskIndex>,
    /// The URL of that task, without secrets; empty within it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub url: String,
}

impl TaskError {
    /// The memory that it takes beside its own size, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.message.len() + self.url.len()
    }

    /// Returns the error for a place outside its task, so with the task that failed and its URL, which may hold secrets.
    #[must_use]
    pub fn of_task(&self, index: TaskIndex, url: &str) -> TaskError {
        TaskError { task_index: Some(index), url: redacted_text(url), ..self.clone() }
    }
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
