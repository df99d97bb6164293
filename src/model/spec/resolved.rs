//! The options that a task runs with: its own over its job's over the defaults.

use std::time::Duration;

use crate::model::header::is_header;
use crate::model::retry::RetryPolicy;
use crate::model::secret::Secret;
use crate::model::spec::options::{HeaderSpec, HttpOptions, TaskOptions, TimeoutOptions};
use crate::model::spec::task::TaskSpec;

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
    let parts = HttpParts::of(j, t);
    let mut headers = parts.headers.to_vec();
    // That header of the job is another way of authorising, too, and would win.
    if t.headers.is_empty() && (t.basic_auth.is_some() || t.bearer_token.is_some() || t.credential.is_some()) {
        headers.retain(|header| !is_header(&header.name, "authorization"));
    }
    if t.headers.is_empty() && t.user_agent.is_some() {
        headers.retain(|header| !is_header(&header.name, "user-agent"));
    }
    HttpOptions {
        headers,
        basic_auth: parts.auth.basic_auth.clone(),
        bearer_token: parts.auth.bearer_token.clone(),
        max_redirects: t.max_redirects.or(j.max_redirects),
        proxy_url: parts.proxy_url.cloned(),
        user_agent: t.user_agent.clone().or_else(|| j.user_agent.clone()),
        ca_pem: parts.ca_pem.map(str::to_owned),
        client_certificate_pem: parts.identity.client_certificate_pem.clone(),
        client_key_pem: parts.identity.client_key_pem.clone(),
        insecure_skip_verify: parts.insecure_skip_verify,
        credential: parts.credential.map(str::to_owned),
        propagate_trace: t.propagate_trace.or(j.propagate_trace),
    }
}

/// Whose parts a task runs with, those of its job or its own, without a copy of them.
#[derive(Clone, Copy, Debug)]
pub struct HttpParts<'a> {
    /// The headers.
    pub headers: &'a [HeaderSpec],
    /// Whose `basic_auth` and `bearer_token`.
    pub auth: &'a HttpOptions,
    /// Whose certificate with its key.
    pub identity: &'a HttpOptions,
    /// The proxy.
    pub proxy_url: Option<&'a Secret>,
    /// What is trusted beside the system's roots.
    pub ca_pem: Option<&'a str>,
    /// Whether any certificate is accepted.
    pub insecure_skip_verify: Option<bool>,
    /// The name of the credential.
    pub credential: Option<&'a str>,
}

impl<'a> HttpParts<'a> {
    /// Returns the parts that a task with the options `t` of a job with the options `j` runs with.
    pub fn of(j: &'a HttpOptions, t: &'a HttpOptions) -> HttpParts<'a> {
        // One way of authorising replaces another: a task with a token does not also send the job's password.
        let own_auth = t.basic_auth.is_some() || t.bearer_token.is_some();
        // A task that authorises itself in another way does not use the job's credential.
        let of_job = j.credential.as_deref().filter(|_| !own_auth);
        HttpParts {
            headers: if t.headers.is_empty() { &j.headers } else { &t.headers },
            auth: if own_auth || t.credential.is_some() { t } else { j },
            identity: if t.client_certificate_pem.is_some() { t } else { j },
            proxy_url: t.proxy_url.as_ref().or(j.proxy_url.as_ref()),
            ca_pem: t.ca_pem.as_deref().or(j.ca_pem.as_deref()),
            insecure_skip_verify: t.insecure_skip_verify.or(j.insecure_skip_verify),
            credential: t.credential.as_deref().or(of_job),
        }
    }
}

fn list<T: Clone>(task: &[T], job: &[T]) -> Vec<T> {
    if task.is_empty() { job.to_vec() } else { task.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::fetch::FetchSpec;
    use crate::model::spec::task::Work;

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
        job.http.headers = vec![header("a"), header("Authorization")];
        task.http.headers = Vec::new();
        assert_eq!(Options::resolve(&job, &task).http.headers, vec![header("a")], "and its header");
        task.http.bearer_token = None;
        assert_eq!(Options::resolve(&job, &task).http.headers, job.http.headers);
        job.http.headers = vec![header("a"), header("User-Agent")];
        task.http.headers = Vec::new();
        task.http.user_agent = Some("b".into());
        assert_eq!(Options::resolve(&job, &task).http.headers, vec![header("a")], "the task's own name is sent");
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
    fn a_post_is_sent_once_unless_somebody_says_otherwise() {
        let may_repeat = |method: &str, set: &dyn Fn(&mut TaskOptions, &mut TaskOptions)| {
            let (mut job, mut options) = (TaskOptions::default(), TaskOptions::default());
            set(&mut job, &mut options);
            let work = Work::Fetch(FetchSpec { method: method.into(), ..FetchSpec::default() });
            Options::of(&job, &TaskSpec { key: String::new(), work, options: options.into() }).retry.may_repeat
        };
        assert!(
            ["", "GET", "HEAD", "PUT", "DELETE", "OPTIONS"].into_iter().all(|method| may_repeat(method, &|_, _| {}))
        );
        assert!(["POST", "PATCH", "get", "LOCK"].into_iter().all(|method| !may_repeat(method, &|_, _| {})));
        assert!(may_repeat("POST", &|job, _| job.retry.max_attempts = Some(3)));
        assert!(may_repeat("POST", &|_, task| task.retry.max_attempts = Some(5)));
        assert!(may_repeat("POST", &|_, task| task.http.headers = vec![header("idempotency-key")]));
    }
}
