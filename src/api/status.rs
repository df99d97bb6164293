//! Makes errors as clients see them: one code, one `ErrorInfo`, and the details that the code calls for.
//!
//! The invariant of this file: the trailers of an error stay below 4 KiB whatever the input, since clients refuse those
//! from 8 KiB on and then show a connection error instead of ours. So texts of others pass through [`shown`], every
//! status is made by [`Fault`], and violations that do not fit are counted instead of listed.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

use http::HeaderMap;
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::engine::command::EngineError;
use crate::listen::peer::BY_ANYBODY_MAX;
use crate::model::access::AccessError;
use crate::model::ids::{JobId, TaskId};
use crate::model::job::WrongState;
use crate::model::quotas::Quota;
use crate::model::role::Role;
use crate::model::text::cut;
pub(crate) use crate::model::text::shown;
use crate::pb;
use crate::store::StoreError;

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "haul.v1";
/// The most violations that one answer lists; a client with more has one cause for all of them.
const VIOLATIONS_MAX: usize = 100;
/// When a client may try again what the server could not do just now.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// The most bytes of a message. It stands in the trailers up to three times, one of them percent-encoded.
const MESSAGE_BYTES_MAX: usize = 512;
/// The most bytes of a violation's field and of its description.
const VIOLATION_BYTES_MAX: (usize, usize) = (256, 400);
/// The most bytes of the trailers that hold an error, names and 32 bytes for each (RFC 9113, 6.5.2) included. The rest of
/// the 4 KiB is for the headers that a transport adds.
const WIRE_BYTES_MAX: usize = 3_600;

/// An error on its way to a client: what every status of this server is made of.
pub(crate) struct Fault {
    code: Code,
    message: String,
    details: ErrorDetails,
    /// What failed, where a task did.
    failure: Option<pb::TaskError>,
}

impl Fault {
    /// Returns an error with the `ErrorInfo` that each has.
    pub(crate) fn new(code: Code, reason: &str, message: impl AsRef<str>) -> Fault {
        let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
        let message = cut(message.as_ref().chars(), MESSAGE_BYTES_MAX);
        Fault { code, message, details, failure: None }
    }

    /// Adds to the `ErrorInfo` what a program may want to know.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Fault {
        if let Some(info) = self.details.error_info().cloned() {
            let mut metadata = info.metadata;
            metadata.insert(name.to_owned(), shown(value));
            self.details.set_error_info(info.reason, info.domain, metadata);
        }
        self
    }

    /// Adds what was not found.
    pub(crate) fn resource(mut self, kind: &str, name: &str) -> Fault {
        self.details.set_resource_info(kind, name, "", self.message.clone());
        self
    }

    /// Adds violations, each a field and what is wrong with it.
    pub(crate) fn violations(mut self, violations: impl IntoIterator<Item = (String, String)>) -> Fault {
        for (field, description) in violations {
            self.details.add_bad_request_violation(field, description);
        }
        self
    }

    fn retry_info(mut self) -> Fault {
        self.details.set_retry_info(Some(RETRY_DELAY));
        self
    }

    fn quota(mut self, subject: &str) -> Fault {
        self.details.add_quota_failure_violation(subject, self.message.clone());
        self
    }

    fn status(&self) -> Status {
        let status = Status::with_error_details(self.code, self.message.clone(), self.details.clone());
        let Some(failure) = &self.failure else { return status };
        let Ok(mut all) = tonic_types::pb::Status::decode(status.details()) else { return status };
        let type_url = "type.googleapis.com/haul.v1.TaskError".to_owned();
        all.details.push(prost_types::Any { type_url, value: failure.encode_to_vec() });
        Status::with_details(self.code, self.message.clone(), all.encode_to_vec().into())
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Status {
        fault.status()
    }
}

/// Returns how many bytes a status takes in trailers.
fn wire_bytes(status: &Status) -> usize {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        return usize::MAX;
    }
    trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

/// What is wrong with a request: all of it, each with the path of its field.
#[derive(Debug, Default)]
pub struct Violations {
    listed: Vec<(String, String)>,
    /// Violations beyond those that are listed.
    more: usize,
}

impl Violations {
    /// Notes that `field` is wrong, and what would be right.
    pub fn add(&mut self, field: impl Display, description: impl Into<String>) {
        if self.listed.len() < VIOLATIONS_MAX {
            let (field_bytes_max, description_bytes_max) = VIOLATION_BYTES_MAX;
            let field = cut(field.to_string().chars(), field_bytes_max);
            self.listed.push((field, cut(description.into().chars(), description_bytes_max)));
        } else {
            self.more += 1;
        }
    }

    /// Adds what was noted elsewhere.
    pub(crate) fn append(&mut self, other: Violations) {
        let room = VIOLATIONS_MAX.saturating_sub(self.listed.len()).min(other.listed.len());
        self.more += other.more + other.listed.len() - room;
        self.listed.extend(other.listed.into_iter().take(room));
    }

    /// Returns whether nothing is wrong so far.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// Returns the value when nothing is wrong, and otherwise `INVALID_ARGUMENT` with everything that is.
    pub fn or<T>(self, value: T) -> Result<T, Status> {
        if self.listed.is_empty() { Ok(value) } else { Err(self.into_status()) }
    }

    /// Returns a status of one violation.
    pub fn one(field: &str, description: impl Into<String>) -> Status {
        let mut violations = Violations::default();
        violations.add(field, description);
        violations.into_status()
    }

    fn into_status(self) -> Status {
        // As many as fit: more violations never take fewer bytes.
        let (mut fitting, mut too_many) = (0, self.listed.len() + 1);
        while fitting + 1 < too_many {
            let half = usize::midpoint(fitting, too_many);
            if wire_bytes(&self.status_of(half)) <= WIRE_BYTES_MAX { fitting = half } else { too_many = half }
        }
        self.status_of(fitting)
    }

    /// Returns the status that lists the first `count` violations, the last of which says how many more there are.
    fn status_of(&self, count: usize) -> Status {
        let total = self.listed.len() + self.more;
        let message = match self.listed.as_slice() {
            [(field, description)] => format!("`{field}` {description}"),
            [(field, description), ..] => format!("`{field}` {description} (and {} more)", total - 1),
            [] => String::new(),
        };
        let mut fault = Fault::new(Code::InvalidArgument, "INVALID_ARGUMENT", message);
        for (index, (field, description)) in self.listed.iter().take(count).enumerate() {
            let left = total - index - 1;
            let description = if index + 1 == count && left > 0 {
                format!("{description} (and {left} more violations, which do not fit here)")
            } else {
                description.clone()
            };
            fault.details.add_bad_request_violation(field, description);
        }
        fault.status()
    }
}

/// Returns `NOT_FOUND` of a named thing.
pub fn not_found(kind: &str, name: &str) -> Status {
    let name = shown(name);
    let message = format!("there is no {kind} `{name}`");
    let fault = Fault::new(Code::NotFound, &format!("{}_NOT_FOUND", kind.to_uppercase()), &message);
    fault.resource(&format!("haul.v1.{}", title_case(kind)), &name).into()
}

fn title_case(kind: &str) -> String {
    let mut letters = kind.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Returns `NOT_FOUND` of a job.
pub fn no_job(id: JobId) -> Status {
    not_found("job", &id.to_string())
}

/// Returns `FAILED_PRECONDITION`.
pub fn precondition(reason: &str, subject: &str, message: impl AsRef<str>) -> Status {
    precondition_fault(reason, subject, message).into()
}

fn precondition_fault(reason: &str, subject: &str, message: impl AsRef<str>) -> Fault {
    let mut fault = Fault::new(Code::FailedPrecondition, reason, message);
    fault.details.add_precondition_failure_violation(reason, subject, fault.message.clone());
    fault
}

/// Returns `FAILED_PRECONDITION` of a task that has ended without a result, with its error as a detail.
pub(crate) fn task_failed(id: TaskId, mut error: pb::TaskError) -> Status {
    let name = id.to_string();
    let message = format!("task `{name}` did not succeed, so its items end here: {}", error.message);
    let mut fault = Fault::new(Code::FailedPrecondition, "TASK_FAILED", message);
    fault.details.add_precondition_failure_violation("TASK_FAILED", name, "the task has ended without success");
    error.message = cut(error.message.chars(), MESSAGE_BYTES_MAX);
    error.url = shown(&error.url);
    fault.failure = Some(error);
    fault.into()
}

/// Returns `ALREADY_EXISTS`.
fn already_exists(reason: &str, message: &str) -> Status {
    Fault::new(Code::AlreadyExists, reason, message).into()
}

/// Returns `OUT_OF_RANGE`.
pub fn out_of_range(reason: &str, message: impl AsRef<str>) -> Status {
    Fault::new(Code::OutOfRange, reason, message).into()
}

/// Returns `UNAVAILABLE`, with when to come back.
pub fn unavailable(reason: &str, message: impl AsRef<str>) -> Status {
    Fault::new(Code::Unavailable, reason, message).retry_info().into()
}

/// Returns the error of a server that is shutting down: `UNAVAILABLE`.
pub fn draining() -> Status {
    unavailable("SERVER_DRAINING", "the server is shutting down; call again when it is back")
}

/// Returns `RESOURCE_EXHAUSTED` of what is free again later.
pub fn exhausted(reason: &str, subject: &str, message: impl AsRef<str>) -> Status {
    Fault::new(Code::ResourceExhausted, reason, message).quota(subject).retry_info().into()
}

/// Returns `RESOURCE_EXHAUSTED` of a message that will never fit, so without a time to try again.
pub(crate) fn message_too_large(message: impl AsRef<str>) -> Status {
    Fault::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message).quota("message").into()
}

/// Returns `INTERNAL`: the log has more.
pub fn internal(message: impl AsRef<str>) -> Status {
    Fault::new(Code::Internal, "INTERNAL", message).into()
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        tracing::error!("a read failed: {error}");
        match error {
            StoreError::Full(_) | StoreError::Retry(_) => unavailable("STORE_BUSY", error.to_string()),
            StoreError::Unreadable(_) | StoreError::Fatal(_) => internal(error.to_string()),
        }
    }
}

impl From<EngineError> for Status {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        match error {
            EngineError::NoJob(id) => no_job(id),
            EngineError::WrongState(job, WrongState { state, .. }) => {
                let fault = precondition_fault("WRONG_STATE", &job.to_string(), message);
                fault.with("state", &format!("JOB_STATE_{state}")).into()
            }
            EngineError::Sealed(job, _) => precondition("JOB_SEALED", &job.to_string(), message),
            EngineError::RequestIdTaken(_) => already_exists("REQUEST_ID_TAKEN", &message),
            EngineError::ChunkIdTaken(_) => already_exists("CHUNK_ID_TAKEN", &message),
            EngineError::KeysTaken(keys) => {
                let mut violations = Violations::default();
                for (place, key) in keys {
                    let key = shown(&key);
                    violations
                        .add(format!("tasks[{place}].key"), format!("`{key}` is the key of another task of the job"));
                }
                violations.into_status()
            }
            EngineError::NotRetryable(job, index) => {
                precondition("TASK_NOT_RETRYABLE", &TaskId { job, index }.to_string(), message)
            }
            EngineError::SecretsExpired(job) => precondition("SECRETS_EXPIRED", &job.to_string(), message),
            EngineError::NoHost(host) => not_found("host", host.as_str()),
            EngineError::NoTask(job, index) => not_found("task", &format!("{job}/{index}")),
            EngineError::TooManyTasks(job) => precondition("TOO_MANY_TASKS", &job.to_string(), message),
            EngineError::Draining => draining(),
            EngineError::Access(error) => error.into(),
            EngineError::NoTenant => tenant_required("must name one tenant: a job is of one"),
            EngineError::Quota { tenant, quota, .. } | EngineError::Longer { tenant, quota, .. } => {
                let fault = Fault::new(Code::ResourceExhausted, "QUOTA_EXCEEDED", message);
                fault.quota(&format!("tenants/{tenant}/{}", quota.name())).into()
            }
            EngineError::TaskRate { tenant, wait } => {
                let fault = Fault::new(Code::ResourceExhausted, "QUOTA_EXCEEDED", message);
                let mut fault = fault.quota(&format!("tenants/{tenant}/{}", Quota::TasksPerSecond.name()));
                fault.details.set_retry_info(Some(wait));
                fault.into()
            }
            EngineError::Suspended(tenant) => precondition("TENANT_SUSPENDED", &format!("tenants/{tenant}"), message),
            EngineError::StoreFull(_) => unavailable("STORE_FULL", message),
            EngineError::StoreBusy(_) => unavailable("STORE_BUSY", message),
            EngineError::Overloaded | EngineError::TooManyJobs => exhausted("OVERLOADED", "memory", &message),
            EngineError::Contradiction(_) => internal(&message),
            EngineError::Unreadable(_) => {
                tracing::error!("{message}");
                internal(&message)
            }
            EngineError::Store(_) => {
                tracing::error!("{message}");
                unavailable("STORE_FAILED", message)
            }
        }
    }
}

impl From<AccessError> for Status {
    fn from(error: AccessError) -> Self {
        let message = error.to_string();
        match error {
            AccessError::NoPrincipal(name) => not_found("principal", &name),
            AccessError::NoTenant(name) => not_found("tenant", &name),
            AccessError::TenantExists(_) => already_exists("TENANT_EXISTS", &message),
            AccessError::TenantNotEmpty(name) => precondition("TENANT_NOT_EMPTY", &format!("tenants/{name}"), message),
            AccessError::NoToken(id) => not_found("token", &id),
            AccessError::Exists(_) => already_exists("PRINCIPAL_EXISTS", &message),
            AccessError::IdentityTaken(_) => already_exists("IDENTITY_TAKEN", &message),
            AccessError::RequestIdTaken(_) => already_exists("REQUEST_ID_TAKEN", &message),
            AccessError::Escalation(_) => Fault::new(Code::PermissionDenied, "ESCALATION", message).into(),
            AccessError::MissingRole(role, tenant) => missing_role(role, &tenant, "", ""),
            AccessError::LastOperator => precondition("LAST_OPERATOR", "principals", message),
            AccessError::Stale(_) | AccessError::StaleCredential(_) => {
                Fault::new(Code::Aborted, "STALE_ETAG", message).into()
            }
            AccessError::Invalid(field, what) => Violations::one(field, what),
            AccessError::NoCredential(name) => not_found("credential", &name),
            AccessError::ValueRequired(field) => precondition("VALUE_REQUIRED", field, message),
            AccessError::CredentialInUse(name, _) => precondition("CREDENTIAL_IN_USE", &name, message),
            AccessError::TooManyCredentials(_) => {
                Fault::new(Code::ResourceExhausted, "QUOTA_EXCEEDED", message).quota("server/credentials").into()
            }
            AccessError::TooMany(what) => {
                let fault = Fault::new(Code::ResourceExhausted, "QUOTA_EXCEEDED", message);
                fault.quota(&format!("server/{what}")).into()
            }
            AccessError::TooManyOf(_, subject) => {
                Fault::new(Code::ResourceExhausted, "QUOTA_EXCEEDED", message).quota(&subject).into()
            }
        }
    }
}

/// Returns `PERMISSION_DENIED` of a caller who has no role for this.
pub(crate) fn missing_role(role: Role, tenant: &str, method: &str, more: &str) -> Status {
    let tenant = if role.is_of_server() { "" } else { tenant };
    let place = if tenant.is_empty() { String::new() } else { format!(" at tenant `{tenant}`") };
    let message = format!("this needs the role `{}`{place}{more}", role.name());
    let fault = Fault::new(Code::PermissionDenied, "MISSING_ROLE", message);
    let fault = fault.with("role", role.name()).with("tenant", tenant);
    if method.is_empty() { fault.into() } else { fault.with("method", method).into() }
}

/// Returns the error of a call that does not say which tenant it is about.
pub(crate) fn tenant_required(what: &str) -> Status {
    let mut fault = Fault::new(Code::InvalidArgument, "TENANT_REQUIRED", format!("`haul-tenant` {what}"));
    fault.details.add_bad_request_violation("haul-tenant", what);
    fault.into()
}

/// Returns `RESOURCE_EXHAUSTED` of who asks too often.
pub(crate) fn rate_limited(what: &str, subject: &str, wait: Duration) -> Status {
    let message = format!("there were too many {what} in a short time; wait {:.1} s and try again", wait.as_secs_f64());
    let mut fault = Fault::new(Code::ResourceExhausted, "RATE_LIMITED", message).quota(subject);
    fault.details.set_retry_info(Some(wait));
    fault.into()
}

/// Returns `RESOURCE_EXHAUSTED` of who has too many calls open.
pub(crate) fn too_many_streams(principal: &str, most: usize) -> Status {
    let message =
        format!("`{principal}` has {most} calls open, the most that one principal may; end some of them first");
    exhausted("TOO_MANY_STREAMS", &format!("principals/{principal}"), message)
}

/// Returns `RESOURCE_EXHAUSTED` of a connection that has too many calls open which anybody may make.
pub(crate) fn too_many_by_anybody() -> Status {
    let message = format!(
        "this connection has {BY_ANYBODY_MAX} calls open that need no token, the most that it may; end some of them first"
    );
    exhausted("TOO_MANY_STREAMS", "connection", message)
}

/// Returns `RESOURCE_EXHAUSTED` of a tenant that has as many watches open as it may.
pub(crate) fn too_many_watches(tenant: &str, most: u32) -> Status {
    let message =
        format!("tenant `{tenant}` may have at most {most} watchers; end some of them first, or have its quota raised");
    exhausted("QUOTA_EXCEEDED", &format!("tenants/{tenant}/{}", Quota::Watchers.name()), message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::job::JobState;

    fn of(texts: &[(String, String)]) -> Status {
        let mut violations = Violations::default();
        for (field, description) in texts {
            violations.add(field.clone(), description.clone());
        }
        violations.or(()).unwrap_err()
    }

    #[test]
    fn the_last_violation_says_how_many_more_there_are() {
        let many: Vec<_> = (0..150).map(|at| (format!("job.tasks[{at}].fetch.url"), "is empty".to_owned())).collect();
        let listed = of(&many).get_details_bad_request().unwrap().field_violations;
        let last = listed.last().unwrap();
        assert!(listed.len() > 20, "{}", listed.len());
        assert!(last.description.contains(&format!("and {} more", 150 - listed.len())), "{last:?}");
        let few = of(&many[..3]).get_details_bad_request().unwrap().field_violations;
        assert_eq!((few.len(), few[2].description.as_str()), (3, "is empty"));
    }

    /// The code, the reason, and the kinds of details beside `ErrorInfo`.
    fn shape(status: &Status) -> (Code, String, &'static str) {
        let details = status.get_error_details();
        assert!(!status.message().is_empty(), "{status:?}");
        let kinds = (
            details.resource_info().is_some(),
            details.precondition_failure().is_some(),
            details.quota_failure().is_some(),
            details.retry_info().is_some(),
        );
        let kinds = match kinds {
            (false, false, false, false) => "",
            (true, false, false, false) => "resource",
            (false, true, false, false) => "precondition",
            (false, false, true, false) => "quota",
            (false, false, true, true) => "quota, retry",
            (false, false, false, true) => "retry",
            _ => "more than one of them",
        };
        (status.code(), details.error_info().unwrap().reason.clone(), kinds)
    }

    #[test]
    fn every_error_has_the_details_that_its_code_calls_for() {
        let (job, text) = (JobId(uuid::Uuid::nil()), || "x".to_owned());
        let (access, engine) = (Status::from as fn(AccessError) -> Status, Status::from as fn(EngineError) -> Status);
        for (status, code, reason, kinds) in [
            (engine(EngineError::NoJob(job)), Code::NotFound, "JOB_NOT_FOUND", "resource"),
            (engine(EngineError::NoTask(job, 7)), Code::NotFound, "TASK_NOT_FOUND", "resource"),
            (
                engine(EngineError::Sealed(job, JobState::Failed)),
                Code::FailedPrecondition,
                "JOB_SEALED",
                "precondition",
            ),
            (engine(EngineError::TooManyTasks(job)), Code::FailedPrecondition, "TOO_MANY_TASKS", "precondition"),
            (engine(EngineError::SecretsExpired(job)), Code::FailedPrecondition, "SECRETS_EXPIRED", "precondition"),
            (engine(EngineError::Draining), Code::Unavailable, "SERVER_DRAINING", "retry"),
            (engine(EngineError::StoreFull(text())), Code::Unavailable, "STORE_FULL", "retry"),
            (engine(EngineError::StoreBusy(text())), Code::Unavailable, "STORE_BUSY", "retry"),
            (engine(EngineError::Overloaded), Code::ResourceExhausted, "OVERLOADED", "quota, retry"),
            (engine(EngineError::TooManyJobs), Code::ResourceExhausted, "OVERLOADED", "quota, retry"),
            (engine(EngineError::Contradiction(job)), Code::Internal, "INTERNAL", ""),
            (engine(EngineError::Unreadable(text())), Code::Internal, "INTERNAL", ""),
            (StoreError::Retry(text()).into(), Code::Unavailable, "STORE_BUSY", "retry"),
            (StoreError::Full(text()).into(), Code::Unavailable, "STORE_BUSY", "retry"),
            (StoreError::Unreadable(text()).into(), Code::Internal, "INTERNAL", ""),
            (access(AccessError::NoPrincipal(text())), Code::NotFound, "PRINCIPAL_NOT_FOUND", "resource"),
            (access(AccessError::NoToken(text())), Code::NotFound, "TOKEN_NOT_FOUND", "resource"),
            (access(AccessError::NoTenant(text())), Code::NotFound, "TENANT_NOT_FOUND", "resource"),
            (access(AccessError::NoCredential(text())), Code::NotFound, "CREDENTIAL_NOT_FOUND", "resource"),
            (access(AccessError::TenantExists(text())), Code::AlreadyExists, "TENANT_EXISTS", ""),
            (access(AccessError::Exists(text())), Code::AlreadyExists, "PRINCIPAL_EXISTS", ""),
            (access(AccessError::IdentityTaken(text())), Code::AlreadyExists, "IDENTITY_TAKEN", ""),
            (access(AccessError::LastOperator), Code::FailedPrecondition, "LAST_OPERATOR", "precondition"),
            (access(AccessError::Stale(text())), Code::Aborted, "STALE_ETAG", ""),
            (access(AccessError::TooMany("tokens")), Code::ResourceExhausted, "QUOTA_EXCEEDED", "quota"),
            (too_many_streams("x", 2), Code::ResourceExhausted, "TOO_MANY_STREAMS", "quota, retry"),
            (message_too_large("x"), Code::ResourceExhausted, "MESSAGE_TOO_LARGE", "quota"),
            (out_of_range("SEQUENCE_AHEAD", "x"), Code::OutOfRange, "SEQUENCE_AHEAD", ""),
        ] {
            assert_eq!(shape(&status), (code, reason.to_owned(), kinds));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn no_input_makes_trailers_of_4_kib(texts in prop::collection::vec(("\\PC{0,200}", "\\PC{0,700}"), 1..120)) {
            prop_assert!(wire_bytes(&of(&texts)) < 4_096);
        }

        #[test]
        fn one_long_text_does_not_either(text in "\\PC{0,3000}", url in "\\PC{0,3000}") {
            let id = TaskId { job: JobId(uuid::Uuid::nil()), index: 0 };
            let error = pb::TaskError { message: text.clone(), url, ..Default::default() };
            let all = [
                not_found("task", &text), precondition("WRONG_STATE", "job", &text), task_failed(id, error),
                unavailable("STORE_BUSY", &text), exhausted("TOO_MANY_WATCHERS", "watchers", &text), internal(&text),
            ];
            for status in all {
                prop_assert!(wire_bytes(&status) < 4_096, "{} {}", wire_bytes(&status), status.message());
            }
        }
    }
}
