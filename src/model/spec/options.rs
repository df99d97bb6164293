//! Options as somebody set them, on a job or on a task.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::failure::is_default;
use crate::model::secret::Secret;

/// Options as somebody set them: `None` and empty mean "not set here".
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskOptions {
    /// When to try again.
    #[serde(skip_serializing_if = "is_default")]
    pub retry: RetryOptions,
    /// How long each part may take.
    #[serde(skip_serializing_if = "is_default")]
    pub timeouts: TimeoutOptions,
    /// What goes with each request.
    #[serde(skip_serializing_if = "is_default")]
    pub http: HttpOptions,
}

/// Options that mostly nobody set, and then take no memory; copies share what was set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SharedOptions(Option<Arc<TaskOptions>>);

impl From<TaskOptions> for SharedOptions {
    fn from(options: TaskOptions) -> Self {
        SharedOptions((options != TaskOptions::default()).then(|| Arc::new(options)))
    }
}

impl Deref for SharedOptions {
    type Target = TaskOptions;

    fn deref(&self) -> &TaskOptions {
        static UNSET: LazyLock<TaskOptions> = LazyLock::new(TaskOptions::default);
        self.0.as_deref().unwrap_or(&UNSET)
    }
}

impl DerefMut for SharedOptions {
    fn deref_mut(&mut self) -> &mut TaskOptions {
        Arc::make_mut(self.0.get_or_insert_default())
    }
}

impl Serialize for SharedOptions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.deref().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharedOptions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        TaskOptions::deserialize(deserializer).map(SharedOptions::from)
    }
}

/// See [`RetryPolicy`](crate::model::retry::RetryPolicy).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Field by field those of RetryPolicy.
pub struct RetryOptions {
    #[serde(skip_serializing_if = "is_default")]
    pub max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "is_default")]
    pub initial_backoff: Option<Duration>,
    #[serde(skip_serializing_if = "is_default")]
    pub max_backoff: Option<Duration>,
    #[serde(skip_serializing_if = "is_default")]
    pub backoff_multiplier: Option<f64>,
    #[serde(skip_serializing_if = "is_default")]
    pub jitter: Option<f64>,
    #[serde(skip_serializing_if = "is_default")]
    pub retry_statuses: Vec<u16>,
}

/// See [`Timeouts`](crate::model::spec::Timeouts).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // Field by field those of Timeouts.
pub struct TimeoutOptions {
    #[serde(skip_serializing_if = "is_default")]
    pub connect: Option<Duration>,
    #[serde(skip_serializing_if = "is_default")]
    pub response_headers: Option<Duration>,
    #[serde(skip_serializing_if = "is_default")]
    pub idle: Option<Duration>,
    #[serde(skip_serializing_if = "is_default")]
    pub low_speed_bytes_per_second: Option<u64>,
    #[serde(skip_serializing_if = "is_default")]
    pub low_speed_window: Option<Duration>,
    #[serde(skip_serializing_if = "is_default")]
    pub attempt: Option<Duration>,
    #[serde(skip_serializing_if = "is_default")]
    pub task: Option<Duration>,
}

/// What goes with each request of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpOptions {
    /// Sent as they are. A list here replaces the job's whole.
    #[serde(skip_serializing_if = "is_default")]
    pub headers: Vec<HeaderSpec>,
    /// RFC 7617.
    #[serde(skip_serializing_if = "is_default")]
    pub basic_auth: Option<(String, Secret)>,
    /// RFC 6750.
    #[serde(skip_serializing_if = "is_default")]
    pub bearer_token: Option<Secret>,
    /// `None`: [`HttpOptions::REDIRECTS_DEFAULT`].
    #[serde(skip_serializing_if = "is_default")]
    pub max_redirects: Option<u32>,
    /// May hold credentials, so it is a secret whole.
    #[serde(skip_serializing_if = "is_default")]
    pub proxy_url: Option<Secret>,
    /// `None`: `haul/VERSION`.
    #[serde(skip_serializing_if = "is_default")]
    pub user_agent: Option<String>,
    /// Trusted beside the system's roots.
    #[serde(skip_serializing_if = "is_default")]
    pub ca_pem: Option<String>,
    /// Goes with the key.
    #[serde(skip_serializing_if = "is_default")]
    pub client_certificate_pem: Option<String>,
    /// Goes with the certificate.
    #[serde(skip_serializing_if = "is_default")]
    pub client_key_pem: Option<Secret>,
    /// Accepts any certificate.
    #[serde(skip_serializing_if = "is_default")]
    pub insecure_skip_verify: Option<bool>,
    /// The name of a credential of the tenant, which the server adds where it is bound to.
    #[serde(skip_serializing_if = "is_default")]
    pub credential: Option<String>,
    /// Tells origins the trace that a request belongs to.
    #[serde(skip_serializing_if = "is_default")]
    pub propagate_trace: Option<bool>,
}

impl HttpOptions {
    /// Redirects that are followed when nothing is said.
    pub const REDIRECTS_DEFAULT: u32 = 10;
}

/// A header that a client set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeaderSpec {
    /// Checked at the edge.
    pub name: String,
    /// Hidden always: whether it may be shown is decided where it is shown.
    pub value: Secret,
    /// Stays with the origin that it was meant for, and is never shown.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sensitive: bool,
}

impl TaskOptions {
    /// The memory beside the struct itself, in bytes, roughly.
    pub(super) fn memory_bytes(&self) -> usize {
        let http = &self.http;
        let headers: usize =
            http.headers.iter().map(|header| header.name.len() + header.value.expose().len() + 72).sum();
        let pem = [http.ca_pem.as_ref(), http.client_certificate_pem.as_ref()];
        let pem: usize = pem.into_iter().flatten().map(String::len).sum();
        let secrets = [http.client_key_pem.as_ref(), http.bearer_token.as_ref(), http.proxy_url.as_ref()];
        let secrets: usize = secrets.into_iter().flatten().map(|secret| secret.expose().len()).sum();
        let basic = http.basic_auth.as_ref().map_or(0, |(user, password)| user.len() + password.expose().len());
        let agent = http.user_agent.as_ref().map_or(0, String::len) + http.credential.as_ref().map_or(0, String::len);
        headers + pem + secrets + basic + agent + 2 * self.retry.retry_statuses.len()
    }
}

impl SharedOptions {
    /// The memory beside the pointer, in bytes, roughly. What copies share is counted with each.
    pub(super) fn memory_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |options| 16 + size_of::<TaskOptions>() + options.memory_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_options_are_counted() {
        let long = || "x".repeat(100_000);
        let http = |http| TaskOptions { http, ..TaskOptions::default() }.memory_bytes();
        for bytes in [
            http(HttpOptions { bearer_token: Some(Secret::new(long())), ..HttpOptions::default() }),
            http(HttpOptions { user_agent: Some(long()), ..HttpOptions::default() }),
            http(HttpOptions { proxy_url: Some(Secret::new(long())), ..HttpOptions::default() }),
            http(HttpOptions { basic_auth: Some((String::new(), Secret::new(long()))), ..HttpOptions::default() }),
        ] {
            assert!(bytes >= 100_000, "{bytes}");
        }
    }
}
