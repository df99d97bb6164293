//! What a client asked for, as it is kept. Options stay partial, as they were set; [`crate::model::spec::Options`]
//! is what an attempt runs with.
//!
//! The stored form is JSON without what is unset, so that it is small and an older row stays readable.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::checksum::{Algorithm, Checksum};
use crate::model::failure::is_default;
use crate::model::group::GroupPolicy;
use crate::model::limits::RateLimit;
use crate::model::retry::{RetryPolicy, is_idempotent};
use crate::model::secret::Secret;
use crate::model::time::Timestamp;

/// A job without its tasks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobSpec {
    /// For people.
    #[serde(skip_serializing_if = "is_default")]
    pub title: String,
    /// For finding jobs again.
    #[serde(skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
    /// Whether more tasks may come. As submitted; whether the job is open now is in its state.
    #[serde(skip_serializing_if = "is_default")]
    pub open: bool,
    /// What one failure does to its siblings.
    pub group: GroupPolicy,
    /// Options of every task that does not say otherwise.
    #[serde(skip_serializing_if = "is_default")]
    pub defaults: TaskOptions,
    /// From the start of the job to its end.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: Option<Duration>,
    /// No task starts before.
    #[serde(skip_serializing_if = "is_default")]
    pub start_time: Option<Timestamp>,
    /// Higher goes first.
    #[serde(skip_serializing_if = "is_default")]
    pub priority: i32,
    /// What the whole job may ask of the network.
    #[serde(skip_serializing_if = "is_default")]
    pub rate_limit: RateLimit,
    /// Where its downloads go, relative to the download root. Empty: the job id.
    #[serde(skip_serializing_if = "is_default")]
    pub directory: String,
    /// How long it is kept after its end. `None`: until deleted.
    #[serde(skip_serializing_if = "is_default")]
    pub retention: Option<Duration>,
}

/// One task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// The client's name for it; empty: none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub key: String,
    /// What to do.
    pub work: Work,
    /// Overrides the job's defaults.
    #[serde(default, skip_serializing_if = "is_default")]
    pub options: TaskOptions,
}

/// What a task does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// A request whose response is kept.
    Fetch(FetchSpec),
    /// Bytes to a file.
    Download(DownloadSpec),
}

impl TaskSpec {
    /// The memory that the task takes, in bytes, roughly.
    pub fn memory_bytes(&self) -> usize {
        let work = match &self.work {
            Work::Fetch(fetch) => {
                let pagination = fetch.pagination.as_ref().map_or(0, Pagination::memory_bytes);
                let statuses = 4 * fetch.accept_statuses.len();
                fetch.url.len() + fetch.body.len() + fetch.method.len() + statuses + pagination
            }
            Work::Download(download) => {
                let mirrors: usize = download.mirrors.iter().map(|url| url.len() + 24).sum();
                download.url.len() + mirrors + download.path.len() + 64 * download.checksums.len()
            }
        };
        size_of::<TaskSpec>() + 64 + self.key.len() + work + self.options.memory_bytes()
    }
}

impl JobSpec {
    /// The memory that the job's own part takes, in bytes, roughly.
    pub fn memory_bytes(&self) -> usize {
        let labels: usize = self.labels.iter().map(|(key, value)| key.len() + value.len() + 96).sum();
        size_of::<JobSpec>() + self.title.len() + labels + self.directory.len() + self.defaults.memory_bytes()
    }
}

impl TaskOptions {
    /// The memory beside the struct itself, in bytes, roughly.
    fn memory_bytes(&self) -> usize {
        let http = &self.http;
        let headers: usize =
            http.headers.iter().map(|header| header.name.len() + header.value.expose().len() + 72).sum();
        let pem = [http.ca_pem.as_ref(), http.client_certificate_pem.as_ref()];
        let pem: usize = pem.into_iter().flatten().map(String::len).sum();
        let secrets = [http.client_key_pem.as_ref(), http.bearer_token.as_ref(), http.proxy_url.as_ref()];
        let secrets: usize = secrets.into_iter().flatten().map(|secret| secret.expose().len()).sum();
        let basic = http.basic_auth.as_ref().map_or(0, |(user, password)| user.len() + password.expose().len());
        let agent = http.user_agent.as_ref().map_or(0, String::len);
        headers + pem + secrets + basic + agent + 2 * self.retry.retry_statuses.len()
    }
}

impl Work {
    /// Whether its request may be sent twice.
    fn is_idempotent(&self) -> bool {
        match self {
            Work::Fetch(fetch) => fetch.method.is_empty() || is_idempotent(&fetch.method),
            Work::Download(_) => true,
        }
    }

    /// The URL that the client gave, with its secrets.
    pub fn url(&self) -> &str {
        match self {
            Work::Fetch(fetch) => &fetch.url,
            Work::Download(download) => &download.url,
        }
    }
}

/// An HTTP request whose response is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FetchSpec {
    /// http or https, checked at the edge.
    pub url: String,
    /// Empty: GET.
    #[serde(skip_serializing_if = "is_default")]
    pub method: String,
    /// The request's body.
    #[serde(skip_serializing_if = "is_default", with = "base64_text")]
    pub body: Vec<u8>,
    /// `None`: [`FetchSpec::RESPONSE_BYTES_DEFAULT`].
    #[serde(skip_serializing_if = "is_default")]
    pub max_response_bytes: Option<u64>,
    /// Statuses that count as success, both ends included. Empty: 200 to 299.
    #[serde(skip_serializing_if = "is_default")]
    pub accept_statuses: Vec<(u16, u16)>,
    /// The body must be JSON.
    #[serde(skip_serializing_if = "is_default")]
    pub expect_json: bool,
    /// Follow a listing over many pages.
    #[serde(skip_serializing_if = "is_default")]
    pub pagination: Option<Pagination>,
}

impl FetchSpec {
    /// How much of a response is kept when nothing is said: 1 MiB.
    pub const RESPONSE_BYTES_DEFAULT: u64 = 1 << 20;
    /// The most that may be asked for, since a page of JSON is held in memory: 64 MiB.
    pub const RESPONSE_BYTES_MAX: u64 = 64 << 20;

    /// The limit that is in force.
    pub fn response_bytes_max(&self) -> u64 {
        self.max_response_bytes.unwrap_or(Self::RESPONSE_BYTES_DEFAULT)
    }

    /// Whether a status counts as success.
    pub fn accepts(&self, status: u16) -> bool {
        if self.accept_statuses.is_empty() {
            return (200..300).contains(&status);
        }
        self.accept_statuses.iter().any(|&(first, last)| (first..=last).contains(&status))
    }
}

/// How a listing goes on from page to page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pagination {
    /// Where the next page is.
    pub style: PageStyle,
    /// JSON Pointer (RFC 6901) to the items; empty: the whole page.
    #[serde(default, skip_serializing_if = "is_default")]
    pub items_pointer: String,
    /// 0: no limit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_pages: u32,
    /// 0: no limit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_items: u64,
}

impl Pagination {
    /// The memory beside the struct itself, in bytes, roughly.
    fn memory_bytes(&self) -> usize {
        let style = match &self.style {
            PageStyle::LinkHeader => 0,
            PageStyle::PageNumber { param, size_param: other, .. }
            | PageStyle::Offset { param, limit_param: other, .. }
            | PageStyle::Cursor { param, next_pointer: other } => param.len() + other.len(),
            PageStyle::NextUrl { next_pointer } => next_pointer.len(),
        };
        self.items_pointer.len() + style
    }
}

/// Where the next page of a listing is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PageStyle {
    /// The `Link` header with `rel="next"` (RFC 8288).
    LinkHeader,
    /// A query parameter that counts pages.
    PageNumber {
        /// Its name.
        param: String,
        /// The number of the first page.
        first: u64,
        /// The parameter for the page's size; empty: none.
        size_param: String,
        /// The page's size.
        size: u64,
    },
    /// A query parameter that counts items.
    Offset {
        /// Its name.
        param: String,
        /// The parameter for the page's size; empty: none.
        limit_param: String,
        /// The page's size.
        limit: u64,
    },
    /// A query parameter with an opaque value from the page before.
    Cursor {
        /// Its name.
        param: String,
        /// JSON Pointer to the next value.
        next_pointer: String,
    },
    /// A page that says where the next one is.
    NextUrl {
        /// JSON Pointer to the next URL.
        next_pointer: String,
    },
}

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
    /// Keep a file that is verifiably the same; replace another.
    Skip,
}

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

/// See [`RetryPolicy`].
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

/// See [`Timeouts`].
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

/// How long each part of a task may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timeouts {
    /// Name lookup, TCP, proxy and TLS together.
    pub connect: Duration,
    /// From the request sent to the response head.
    pub response_headers: Duration,
    /// The longest time without a byte of the body; zero: no limit.
    pub idle: Duration,
    /// A body slower than this over the window fails; 0: no limit.
    pub low_speed_bytes_per_second: u64,
    /// The window of the rule above.
    pub low_speed_window: Duration,
    /// One attempt.
    pub attempt: Option<Duration>,
    /// All attempts and the waits between them.
    pub task: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(10),
            response_headers: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            low_speed_bytes_per_second: 1024,
            low_speed_window: Duration::from_secs(60),
            attempt: None,
            task: None,
        }
    }
}

/// The options that a task runs with: its own over its job's over the defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// When to try again.
    pub retry: RetryPolicy,
    /// How long each part may take.
    pub timeouts: Timeouts,
    /// What goes with each request.
    pub http: HttpOptions,
}

impl Options {
    /// The options of a task, given its job's defaults.
    ///
    /// Where nobody has said how often to try, a request whose method is not idempotent is sent once (RFC 9110, section
    /// 9.2.2): what may have had its effect is not repeated, unless an `Idempotency-Key` lets the origin see that it is
    /// the same.
    pub fn of(job: &TaskOptions, task: &TaskSpec) -> Options {
        let mut options = Options::resolve(job, &task.options);
        let is_set = job.retry.max_attempts.or(task.options.retry.max_attempts).is_some();
        let has_key = options.http.headers.iter().any(|header| header.name.eq_ignore_ascii_case("idempotency-key"));
        options.retry.may_repeat = is_set || has_key || task.work.is_idempotent();
        options
    }

    /// Merges field by field; a list that the task sets replaces the job's list whole.
    pub fn resolve(job: &TaskOptions, task: &TaskOptions) -> Options {
        let (j, t) = (&job.retry, &task.retry);
        let d = RetryPolicy::default();
        let initial_backoff = t.initial_backoff.or(j.initial_backoff).unwrap_or(d.initial_backoff);
        let retry = RetryPolicy {
            max_attempts: t.max_attempts.or(j.max_attempts).unwrap_or(d.max_attempts),
            initial_backoff,
            // Nobody who asks for a first wait of five minutes wants it cut to a default of one.
            max_backoff: t.max_backoff.or(j.max_backoff).unwrap_or(d.max_backoff.max(initial_backoff)),
            backoff_multiplier: t.backoff_multiplier.or(j.backoff_multiplier).unwrap_or(d.backoff_multiplier),
            jitter: t.jitter.or(j.jitter).unwrap_or(d.jitter),
            retry_statuses: list(&t.retry_statuses, &j.retry_statuses),
            may_repeat: d.may_repeat,
        };
        Options { retry, timeouts: timeouts(&job.timeouts, &task.timeouts), http: http(&job.http, &task.http) }
    }
}

fn timeouts(j: &TimeoutOptions, t: &TimeoutOptions) -> Timeouts {
    let d = Timeouts::default();
    Timeouts {
        connect: t.connect.or(j.connect).unwrap_or(d.connect),
        response_headers: t.response_headers.or(j.response_headers).unwrap_or(d.response_headers),
        idle: t.idle.or(j.idle).unwrap_or(d.idle),
        low_speed_bytes_per_second: t
            .low_speed_bytes_per_second
            .or(j.low_speed_bytes_per_second)
            .unwrap_or(d.low_speed_bytes_per_second),
        low_speed_window: t.low_speed_window.or(j.low_speed_window).unwrap_or(d.low_speed_window),
        attempt: t.attempt.or(j.attempt),
        task: t.task.or(j.task),
    }
}

fn http(j: &HttpOptions, t: &HttpOptions) -> HttpOptions {
    // One way of authorising replaces another: a task with a token does not also send the job's password.
    let own_auth = t.basic_auth.is_some() || t.bearer_token.is_some();
    let auth = if own_auth { t } else { j };
    let identity = if t.client_certificate_pem.is_some() { t } else { j };
    HttpOptions {
        headers: list(&t.headers, &j.headers),
        basic_auth: auth.basic_auth.clone(),
        bearer_token: auth.bearer_token.clone(),
        max_redirects: t.max_redirects.or(j.max_redirects),
        proxy_url: t.proxy_url.clone().or_else(|| j.proxy_url.clone()),
        user_agent: t.user_agent.clone().or_else(|| j.user_agent.clone()),
        ca_pem: t.ca_pem.clone().or_else(|| j.ca_pem.clone()),
        client_certificate_pem: identity.client_certificate_pem.clone(),
        client_key_pem: identity.client_key_pem.clone(),
        insecure_skip_verify: t.insecure_skip_verify.or(j.insecure_skip_verify),
    }
}

/// Bytes as base64 text: 4 characters for 3 bytes, where JSON's array of numbers takes up to 4 for each.
mod base64_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(D::Error::custom)
    }
}

fn list<T: Clone>(task: &[T], job: &[T]) -> Vec<T> {
    if task.is_empty() { job.to_vec() } else { task.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_client_can_make_long_is_counted() {
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
        let style = PageStyle::Cursor { param: long(), next_pointer: long() };
        let pagination = Some(Pagination { style, items_pointer: long(), max_pages: 0, max_items: 0 });
        let work = Work::Fetch(FetchSpec { pagination, ..FetchSpec::default() });
        let task = TaskSpec { key: String::new(), work, options: TaskOptions::default() };
        assert!(task.memory_bytes() >= 300_000, "{}", task.memory_bytes());
    }

    fn header(name: &str) -> HeaderSpec {
        HeaderSpec { name: name.into(), value: Secret::new("v"), sensitive: false }
    }

    #[test]
    fn a_task_overrides_its_job_field_by_field_and_lists_whole() {
        let mut job = TaskOptions::default();
        job.retry.max_attempts = Some(7);
        job.retry.jitter = Some(0.25);
        job.retry.retry_statuses = vec![418];
        job.http.headers = vec![header("a"), header("b")];
        job.http.basic_auth = Some(("me".into(), Secret::new("pw")));
        let mut task = TaskOptions::default();
        task.retry.jitter = Some(0.0);
        task.http.headers = vec![header("c")];
        task.http.bearer_token = Some(Secret::new("t"));

        let options = Options::resolve(&job, &task);
        assert_eq!(options.retry.max_attempts, 7);
        assert!(options.retry.jitter.abs() < f64::EPSILON);
        assert_eq!(options.retry.retry_statuses, vec![418]);
        assert_eq!(options.http.headers, vec![header("c")]);
        assert_eq!(options.http.basic_auth, None, "the task's token replaces the job's password");
    }

    #[test]
    fn a_long_first_wait_raises_the_default_of_the_longest() {
        let mut task = TaskOptions::default();
        task.retry.initial_backoff = Some(Duration::from_secs(300));
        let retry = Options::resolve(&TaskOptions::default(), &task).retry;
        assert_eq!((retry.initial_backoff, retry.max_backoff), (Duration::from_secs(300), Duration::from_secs(300)));
        task.retry.initial_backoff = Some(Duration::from_secs(2));
        assert_eq!(Options::resolve(&TaskOptions::default(), &task).retry.max_backoff, Duration::from_secs(60));
    }

    #[test]
    fn what_is_unset_is_not_stored() {
        let spec = TaskSpec {
            key: String::new(),
            work: Work::Fetch(FetchSpec { url: "http://a/".into(), ..FetchSpec::default() }),
            options: TaskOptions::default(),
        };
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(json, r#"{"work":{"fetch":{"url":"http://a/"}}}"#);
        assert_eq!(serde_json::from_str::<TaskSpec>(&json).unwrap(), spec);
    }

    #[test]
    fn a_post_is_sent_once_unless_somebody_says_otherwise() {
        let may_repeat = |method: &str, set: &dyn Fn(&mut TaskOptions, &mut TaskOptions)| {
            let (mut job, mut options) = (TaskOptions::default(), TaskOptions::default());
            set(&mut job, &mut options);
            let work = Work::Fetch(FetchSpec { method: method.into(), ..FetchSpec::default() });
            Options::of(&job, &TaskSpec { key: String::new(), work, options }).retry.may_repeat
        };
        assert!(
            ["", "GET", "HEAD", "PUT", "DELETE", "OPTIONS"].into_iter().all(|method| may_repeat(method, &|_, _| {}))
        );
        assert!(["POST", "PATCH", "get", "LOCK"].into_iter().all(|method| !may_repeat(method, &|_, _| {})));
        assert!(may_repeat("POST", &|job, _| job.retry.max_attempts = Some(3)));
        assert!(may_repeat("POST", &|_, task| task.retry.max_attempts = Some(5)));
        assert!(may_repeat("POST", &|_, task| task.http.headers = vec![header("idempotency-key")]));
    }

    #[test]
    fn a_body_is_stored_as_base64() {
        let spec = FetchSpec { body: vec![0, 255, 10, 34], ..FetchSpec::default() };
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(json, r#"{"url":"","body":"AP8KIg=="}"#);
        assert_eq!(serde_json::from_str::<FetchSpec>(&json).unwrap(), spec);
    }
}
