//! Errors as clients see them: one code, one `ErrorInfo`, and what the code calls for beside it.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::engine::event::EngineError;
use crate::model::ids::JobId;
use crate::store::StoreError;

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "haul.v1";
/// Violations that one answer holds; a client with more has one cause for all of them.
const VIOLATIONS_MAX: usize = 100;
/// When a client may try again what the server could not do just now.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// What is wrong with a request: all of it, each with the path of its field.
#[derive(Debug, Default)]
pub struct Violations(Vec<(String, String)>);

impl Violations {
    /// Notes that `field` is wrong, and what would be right.
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        if self.0.len() < VIOLATIONS_MAX {
            self.0.push((field.into(), description.into()));
        }
    }

    /// Whether there is no room for more.
    pub fn is_full(&self) -> bool {
        self.0.len() >= VIOLATIONS_MAX
    }

    /// The value, when nothing is wrong; else `INVALID_ARGUMENT` with everything that is.
    pub fn or<T>(self, value: T) -> Result<T, Status> {
        if self.0.is_empty() { Ok(value) } else { Err(self.into_status()) }
    }

    /// A status of one violation.
    pub fn one(field: &str, description: impl Into<String>) -> Status {
        let mut violations = Violations::default();
        violations.add(field, description);
        violations.into_status()
    }

    fn into_status(self) -> Status {
        let mut details = info("INVALID_ARGUMENT");
        let message = match self.0.as_slice() {
            [(field, description)] => format!("`{field}` {description}"),
            [(field, description), rest @ ..] => format!("`{field}` {description} (and {} more)", rest.len()),
            [] => String::new(),
        };
        for (field, description) in self.0 {
            details.add_bad_request_violation(field, description);
        }
        Status::with_error_details(Code::InvalidArgument, message, details)
    }
}

fn info(reason: &str) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, DOMAIN, std::collections::HashMap::new())
}

/// `NOT_FOUND` of a named thing.
pub fn not_found(kind: &str, name: &str) -> Status {
    let mut details = info(&format!("{}_NOT_FOUND", kind.to_uppercase()));
    let message = format!("there is no {kind} `{name}`");
    details.set_resource_info(format!("haul.v1.{}", title_case(kind)), name, "", &message);
    Status::with_error_details(Code::NotFound, message, details)
}

fn title_case(kind: &str) -> String {
    let mut letters = kind.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// `NOT_FOUND` of a job.
pub fn no_job(id: JobId) -> Status {
    not_found("job", &id.to_string())
}

/// `FAILED_PRECONDITION`.
pub fn precondition(reason: &str, subject: &str, message: impl Into<String>) -> Status {
    let message = message.into();
    let mut details = info(reason);
    details.add_precondition_failure_violation(reason, subject, &message);
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

/// `ALREADY_EXISTS`.
fn already_exists(reason: &str, message: String) -> Status {
    Status::with_error_details(Code::AlreadyExists, message, info(reason))
}

/// `OUT_OF_RANGE`.
pub fn out_of_range(reason: &str, message: impl Into<String>) -> Status {
    Status::with_error_details(Code::OutOfRange, message, info(reason))
}

/// `UNAVAILABLE`, with when to come back.
pub fn unavailable(reason: &str, message: impl Into<String>) -> Status {
    let mut details = info(reason);
    details.set_retry_info(Some(RETRY_DELAY));
    Status::with_error_details(Code::Unavailable, message, details)
}

/// The server is going: `UNAVAILABLE`.
pub fn draining() -> Status {
    unavailable("SERVER_DRAINING", "the server is shutting down; call again when it is back")
}

/// `RESOURCE_EXHAUSTED` of a quota.
pub fn exhausted(subject: &str, message: impl Into<String>) -> Status {
    let message = message.into();
    let mut details = info("QUOTA_EXCEEDED");
    details.add_quota_failure_violation(subject, &message);
    details.set_retry_info(Some(RETRY_DELAY));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// `INTERNAL`: the log has more.
pub fn internal(message: impl Into<String>) -> Status {
    Status::with_error_details(Code::Internal, message, info("INTERNAL"))
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        tracing::error!("a read failed: {error}");
        match error {
            StoreError::Full(_) | StoreError::Retry(_) => unavailable("STORE_BUSY", error.to_string()),
            StoreError::Fatal(_) => internal(error.to_string()),
        }
    }
}

impl From<EngineError> for Status {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        match error {
            EngineError::NoJob(id) => no_job(id),
            EngineError::WrongState(_) => precondition("WRONG_STATE", "job", message),
            EngineError::Sealed(job) => precondition("JOB_SEALED", &job.to_string(), message),
            EngineError::RequestIdTaken(_) => already_exists("REQUEST_ID_TAKEN", message),
            EngineError::ChunkIdTaken(_) => already_exists("CHUNK_ID_TAKEN", message),
            EngineError::KeysTaken(keys) => {
                let mut violations = Violations::default();
                for (place, key) in keys {
                    violations
                        .add(format!("tasks[{place}].key"), format!("`{key}` is the key of another task of the job"));
                }
                violations.into_status()
            }
            EngineError::NotRetryable(index) => precondition("TASK_NOT_RETRYABLE", &index.to_string(), message),
            EngineError::NoTask(job, index) => not_found("task", &format!("{job}/{index}")),
            EngineError::TooManyTasks => precondition("TOO_MANY_TASKS", "job", message),
            EngineError::Draining => draining(),
            EngineError::Store(_) => {
                tracing::error!("{message}");
                unavailable("STORE_FAILED", message)
            }
        }
    }
}
