//! Converts options of tasks from messages to the model.

use http::{HeaderName, HeaderValue};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt::Display;
use std::time::Duration;

use crate::api::status::{Violations, shown};
use crate::api::values::{self, duration, positive};
use crate::model::header::{begins_header, is_header};
use crate::model::secret::{REDACTED, Secret, is_redacted, is_secret_header};
use crate::model::spec::{HeaderSpec, HttpOptions, RetryOptions, TaskOptions, TimeoutOptions};
use crate::pb;

const ATTEMPTS_MAX: u32 = 1_000;
const BACKOFF_MAX: Duration = Duration::from_secs(86_400);
const MULTIPLIER_MAX: f64 = 100.0;
const HEADERS_MAX: usize = 100;
/// The most bytes of the value of a header, and of all headers of a task.
const HEADER_BYTES_MAX: usize = 16 << 10;
const HEADERS_BYTES_MAX: usize = 256 << 10;
const REDIRECTS_MAX: u32 = 100;
const PROXY_BYTES_MAX: usize = 8 << 10;
const PEM_BYTES_MAX: usize = 64 << 10;
const STATUSES_MAX: usize = 500;
/// Headers that haul sets itself: where a message goes, how it is framed, and what is asked for under which condition.
const OWN_HEADERS: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
];
/// The prefix of the headers that make a request conditional, which are haul's too.
const CONDITIONAL: &str = "if-";
/// The header that a download sets itself; a fetch may ask for a part.
const RANGE: &str = "range";
const COPIED: &str = "is `REDACTED`, as in a copied answer; give the secret itself";

/// Reads options as they were set.
pub(crate) fn task_options(options: pb::TaskOptions, path: &dyn Display, v: &mut Violations) -> TaskOptions {
    TaskOptions {
        retry: options.retry.map(|it| retry(&it, &format_args!("{path}.retry"), v)).unwrap_or_default(),
        timeouts: options.timeouts.map(|it| timeouts(it, &format_args!("{path}.timeouts"), v)).unwrap_or_default(),
        http: options.http.map(|it| http(it, &format_args!("{path}.http"), v)).unwrap_or_default(),
    }
}

fn retry(retry: &pb::RetryPolicy, path: &dyn Display, v: &mut Violations) -> RetryOptions {
    if retry.max_attempts.is_some_and(|it| !(1..=ATTEMPTS_MAX).contains(&it)) {
        v.add(format!("{path}.max_attempts"), format!("must be from 1 to {ATTEMPTS_MAX}"));
    }
    if retry.backoff_multiplier.is_some_and(|it| !(1.0..=MULTIPLIER_MAX).contains(&it)) {
        v.add(format!("{path}.backoff_multiplier"), format!("must be from 1 to {MULTIPLIER_MAX}"));
    }
    if retry.jitter.is_some_and(|it| !(0.0..=1.0).contains(&it)) {
        v.add(format!("{path}.jitter"), "must be a fraction from 0 (none) to 1");
    }
    let initial_backoff = retry.initial_backoff.and_then(|it| positive(it, &format_args!("{path}.initial_backoff"), v));
    let max_backoff = retry.max_backoff.and_then(|it| positive(it, &format_args!("{path}.max_backoff"), v));
    for (name, value) in [("initial_backoff", initial_backoff), ("max_backoff", max_backoff)] {
        if value.is_some_and(|it| it > BACKOFF_MAX) {
            v.add(format!("{path}.{name}"), "must be at most a day");
        }
    }
    RetryOptions {
        max_attempts: retry.max_attempts,
        initial_backoff,
        max_backoff,
        backoff_multiplier: retry.backoff_multiplier,
        jitter: retry.jitter,
        retry_statuses: statuses(&retry.retry_statuses, &format_args!("{path}.retry_statuses"), v),
    }
}

/// Checks that the first wait of a task is within its longest, whichever of the two its job sets.
pub(crate) fn backoffs_fit(job: &TaskOptions, task: &TaskOptions, path: &dyn Display, v: &mut Violations) {
    let (j, t) = (&job.retry, &task.retry);
    let initial = t.initial_backoff.or(j.initial_backoff);
    let max = t.max_backoff.or(j.max_backoff);
    let (Some(initial), Some(max)) = (initial, max) else { return };
    if initial <= max {
        return;
    }
    if t.initial_backoff.is_some() {
        v.add(format!("{path}.retry.initial_backoff"), format!("is {initial:?}, longer than `max_backoff`, {max:?}"));
    } else if t.max_backoff.is_some() {
        v.add(format!("{path}.retry.max_backoff"), format!("is {max:?}, shorter than `initial_backoff`, {initial:?}"));
    }
}

/// Checks that a download does not ask for a range, by its own headers or by its job's.
pub(crate) fn no_range(job: &TaskOptions, task: &TaskOptions, path: &dyn Display, v: &mut Violations) {
    let is_range = |header: &HeaderSpec| is_header(&header.name, RANGE);
    if let Some(index) = task.http.headers.iter().position(is_range) {
        v.add(format!("{path}.options.http.headers[{index}].name"), "`Range` of a download is set by haul");
    } else if task.http.headers.is_empty() && job.http.headers.iter().any(is_range) {
        v.add(
            format!("{path}.download"),
            "has the header `Range` from the job's defaults; that of a download is set by haul",
        );
    }
}

fn statuses(statuses: &[u32], path: &dyn Display, v: &mut Violations) -> Vec<u16> {
    if statuses.len() > STATUSES_MAX {
        v.add(path, format!("holds {} statuses; at most {STATUSES_MAX} are accepted", statuses.len()));
        return Vec::new();
    }
    let mut good = Vec::with_capacity(statuses.len());
    for (index, status) in statuses.iter().enumerate() {
        match u16::try_from(*status) {
            Ok(status) if (100..600).contains(&status) => good.push(status),
            _ => v.add(format!("{path}[{index}]"), format!("{status} is not an HTTP status (100 to 599)")),
        }
    }
    good
}

fn timeouts(timeouts: pb::Timeouts, path: &dyn Display, v: &mut Violations) -> TimeoutOptions {
    let low_speed = timeouts.low_speed.unwrap_or_default();
    TimeoutOptions {
        connect: timeouts.connect.and_then(|it| positive(it, &format_args!("{path}.connect"), v)),
        response_headers: timeouts
            .response_headers
            .and_then(|it| positive(it, &format_args!("{path}.response_headers"), v)),
        idle: timeouts.idle.and_then(|it| duration(it, &format_args!("{path}.idle"), v)),
        low_speed_bytes_per_second: low_speed.bytes_per_second,
        low_speed_window: low_speed.window.and_then(|it| positive(it, &format_args!("{path}.low_speed.window"), v)),
        attempt: timeouts.attempt.and_then(|it| positive(it, &format_args!("{path}.attempt"), v)),
        task: timeouts.task.and_then(|it| positive(it, &format_args!("{path}.task"), v)),
    }
}

fn http(http: pb::HttpOptions, path: &dyn Display, v: &mut Violations) -> HttpOptions {
    if http.max_redirects.is_some_and(|it| it > REDIRECTS_MAX) {
        v.add(format!("{path}.max_redirects"), format!("must be at most {REDIRECTS_MAX}"));
    }
    if http.basic_auth.is_some() && !http.bearer_token.is_empty() {
        v.add(format!("{path}.bearer_token"), "cannot be combined with `basic_auth`: both set Authorization");
    }
    if HeaderValue::from_str(&http.bearer_token).is_err() {
        v.add(format!("{path}.bearer_token"), "holds characters that a header cannot");
    }
    values::text(&http.bearer_token, &format_args!("{path}.bearer_token"), HEADER_BYTES_MAX, v);
    values::text(&http.user_agent, &format_args!("{path}.user_agent"), HEADER_BYTES_MAX, v);
    if let Some(basic) = &http.basic_auth {
        values::text(&basic.username, &format_args!("{path}.basic_auth.username"), HEADER_BYTES_MAX, v);
        values::text(&basic.password, &format_args!("{path}.basic_auth.password"), HEADER_BYTES_MAX, v);
    }
    if http.bearer_token == REDACTED {
        v.add(format!("{path}.bearer_token"), COPIED);
    }
    if HeaderValue::from_str(&http.user_agent).is_err() {
        v.add(format!("{path}.user_agent"), "holds characters that a header cannot");
    }
    values::text(&http.proxy_url, &format_args!("{path}.proxy_url"), PROXY_BYTES_MAX, v);
    proxy(&http.proxy_url, &format_args!("{path}.proxy_url"), v);
    pem(&http, path, v);
    HttpOptions {
        headers: headers(http.headers, &format_args!("{path}.headers"), v),
        basic_auth: http.basic_auth.and_then(|it| basic_auth(it, &format_args!("{path}.basic_auth"), v)),
        bearer_token: filled(http.bearer_token).map(Secret::new),
        max_redirects: http.max_redirects,
        proxy_url: filled(http.proxy_url).map(Secret::new),
        user_agent: filled(http.user_agent),
        ca_pem: filled(http.ca_pem),
        client_certificate_pem: filled(http.client_certificate_pem),
        client_key_pem: filled(http.client_key_pem).map(Secret::new),
        insecure_skip_verify: http.insecure_skip_verify,
        credential: filled(http.credential),
        propagate_trace: http.propagate_trace,
    }
}

/// Returns whether haul sets this header itself.
pub(crate) fn is_own_header(name: &str) -> bool {
    OWN_HEADERS.iter().any(|own| is_header(name, own)) || begins_header(name, CONDITIONAL)
}

fn filled(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn headers(headers: Vec<pb::Header>, path: &dyn Display, v: &mut Violations) -> Vec<HeaderSpec> {
    if headers.len() > HEADERS_MAX {
        v.add(path, format!("holds {} headers; at most {HEADERS_MAX} are accepted", headers.len()));
        return Vec::new();
    }
    let bytes: usize = headers.iter().map(|it| it.name.len() + it.value.len()).sum();
    if bytes > HEADERS_BYTES_MAX {
        v.add(path, format!("hold {bytes} bytes; at most {HEADERS_BYTES_MAX} are accepted"));
        return Vec::new();
    }
    for (index, header) in headers.iter().enumerate() {
        values::text(&header.value, &format_args!("{path}[{index}].value"), HEADER_BYTES_MAX, v);
        match HeaderName::from_bytes(header.name.as_bytes()) {
            Ok(name) if is_own_header(name.as_str()) => {
                v.add(format!("{path}[{index}].name"), format!("`{}` is set by haul", shown(&header.name)));
            }
            Ok(_) => {}
            Err(_) => v.add(format!("{path}[{index}].name"), "is not a header name (RFC 9110, 5.1)"),
        }
        if header.value == REDACTED && (header.sensitive || is_secret_header(&header.name)) {
            v.add(format!("{path}[{index}].value"), COPIED);
        }
        if HeaderValue::from_str(&header.value).is_err() {
            v.add(format!("{path}[{index}].value"), "holds characters that a header cannot");
        }
    }
    let spec = |it: pb::Header| HeaderSpec { name: it.name, value: Secret::new(it.value), sensitive: it.sensitive };
    headers.into_iter().map(spec).collect()
}

fn basic_auth(auth: pb::BasicAuth, path: &dyn Display, v: &mut Violations) -> Option<(String, Secret)> {
    if auth.username.contains(':') || auth.username.chars().any(char::is_control) {
        v.add(format!("{path}.username"), "must hold neither a colon nor control characters (RFC 7617)");
        return None;
    }
    if auth.password.chars().any(char::is_control) {
        v.add(format!("{path}.password"), "must not hold control characters (RFC 7617)");
        return None;
    }
    if auth.password == REDACTED {
        v.add(format!("{path}.password"), COPIED);
    }
    Some((auth.username, Secret::new(auth.password)))
}

fn proxy(proxy_url: &str, path: &dyn Display, v: &mut Violations) {
    if proxy_url.is_empty() {
        return;
    }
    let url = url::Url::parse(proxy_url);
    let fits =
        |url: &url::Url| ["http", "https", "socks5", "socks5h"].contains(&url.scheme()) && url.host_str().is_some();
    match url {
        Ok(url) if is_redacted(&url) => v.add(path, COPIED),
        Ok(url) if fits(&url) => {}
        Err(url::ParseError::InvalidPort) => v.add(path, "has an invalid port; the largest is 65535"),
        _ => v.add(path, "must be an absolute URL of scheme http, https, socks5 or socks5h"),
    }
}

fn pem(http: &pb::HttpOptions, path: &dyn Display, v: &mut Violations) {
    let certificates = [("ca_pem", &http.ca_pem), ("client_certificate_pem", &http.client_certificate_pem)];
    for (name, pem) in certificates.into_iter().filter(|(_, pem)| !pem.is_empty()) {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        if pem.len() > PEM_BYTES_MAX || !read.is_ok_and(|certificates| !certificates.is_empty()) {
            v.add(format!("{path}.{name}"), "must hold one or more certificates in PEM, at most 64 KiB");
        }
    }
    if http.client_certificate_pem.is_empty() != http.client_key_pem.is_empty() {
        v.add(format!("{path}.client_key_pem"), "and `client_certificate_pem` must be set together");
    }
    let is_key = || PrivateKeyDer::from_pem_slice(http.client_key_pem.as_bytes()).is_ok();
    if !http.client_key_pem.is_empty() && (http.client_key_pem.len() > PEM_BYTES_MAX || !is_key()) {
        v.add(format!("{path}.client_key_pem"), "must hold a private key in PEM, at most 64 KiB");
    }
}
