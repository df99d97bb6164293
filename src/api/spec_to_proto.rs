//! Converts what was submitted from the model back to messages: defaults are not filled in, and secrets read `REDACTED`.

use std::time::Duration;

use prost::Message as _;
use tonic::Status;

use crate::api::to_proto::{group, rate_limit, timestamp};
use crate::model::job::Job;
use crate::model::limits::RateLimit;
use crate::model::secret::{self, REDACTED, Secret};
use crate::model::spec::{
    DownloadSpec, FetchSpec, HeaderSpec, HttpOptions, JobSpec, OnConflict, PageStyle, Pagination, RetryOptions,
    TaskOptions, TaskSpec, TimeoutOptions, Work,
};
use crate::pb;
use crate::store::Store;

/// The most tasks that the spec of a job includes, and their most bytes.
const TASKS_MAX: u32 = 1_000;
const TASKS_BYTES_MAX: usize = 1 << 20;

/// Puts what was submitted into a job's message, with its tasks where they are few and small.
pub(crate) async fn include(store: &dyn Store, job: &Job, message: &mut pb::Job) -> Result<(), Status> {
    let mut spec = self::job(&job.spec);
    let mut omitted = job.counts.total > TASKS_MAX;
    if !omitted {
        let tasks = store.tasks(job.id, &[], 0, TASKS_MAX).await?;
        omitted = tasks.items.len() < job.counts.total as usize;
        spec.tasks = tasks.items.iter().map(|stored| task(&stored.spec)).collect();
    }
    let bytes: usize = spec.tasks.iter().map(pb::TaskSpec::encoded_len).sum();
    if omitted || bytes > TASKS_BYTES_MAX {
        spec.tasks.clear();
        message.spec_tasks_omitted = true;
    }
    message.spec = Some(spec);
    Ok(())
}

fn job(spec: &JobSpec) -> pb::JobSpec {
    pb::JobSpec {
        title: spec.title.clone(),
        labels: spec.labels.clone().into_iter().collect(),
        tasks: Vec::new(),
        open: spec.open,
        group: Some(group(spec.group)),
        defaults: options(&spec.defaults),
        timeout: duration(spec.timeout),
        start_time: spec.start_time.map(timestamp),
        priority: spec.priority,
        rate_limit: (spec.rate_limit != RateLimit::default()).then(|| rate_limit(&spec.rate_limit)),
        directory: spec.directory.clone(),
        retention: duration(spec.retention),
    }
}

/// Converts a task as it was submitted.
pub(crate) fn task(spec: &TaskSpec) -> pb::TaskSpec {
    let work = match &spec.work {
        Work::Fetch(spec) => pb::task_spec::Work::Fetch(fetch(spec)),
        Work::Download(spec) => pb::task_spec::Work::Download(download(spec)),
    };
    pb::TaskSpec { key: spec.key.clone(), work: Some(work), options: options(&spec.options) }
}

fn fetch(spec: &FetchSpec) -> pb::FetchSpec {
    let status_range = |&(first, last): &(u16, u16)| pb::StatusRange { first: first.into(), last: last.into() };
    pb::FetchSpec {
        url: secret::redacted_text(&spec.url),
        method: spec.method.clone(),
        body: spec.body.clone().into(),
        max_response_bytes: spec.max_response_bytes,
        accept_statuses: spec.accept_statuses.iter().map(status_range).collect(),
        expect_json: spec.expect_json,
        pagination: spec.pagination.as_ref().map(pagination),
    }
}

fn pagination(spec: &Pagination) -> pb::Pagination {
    use pb::pagination::Style;
    let style = match spec.style.clone() {
        PageStyle::LinkHeader => Style::LinkHeader(pb::LinkHeader {}),
        PageStyle::PageNumber { param, first, size_param, size } => {
            Style::PageNumber(pb::PageNumber { param, first, size_param, size })
        }
        PageStyle::Offset { param, limit_param, limit } => Style::Offset(pb::Offset { param, limit_param, limit }),
        PageStyle::Cursor { param, next_pointer } => Style::Cursor(pb::Cursor { param, next_pointer }),
        PageStyle::NextUrl { next_pointer } => Style::NextUrl(pb::NextUrl { next_pointer }),
    };
    pb::Pagination {
        style: Some(style),
        items_pointer: spec.items_pointer.clone(),
        max_pages: spec.max_pages,
        max_items: spec.max_items,
    }
}

fn download(spec: &DownloadSpec) -> pb::DownloadSpec {
    let on_conflict = match spec.on_conflict {
        None => pb::OnConflict::Unspecified,
        Some(OnConflict::Fail) => pb::OnConflict::Fail,
        Some(OnConflict::Rename) => pb::OnConflict::Rename,
        Some(OnConflict::Overwrite) => pb::OnConflict::Overwrite,
        Some(OnConflict::Skip) => pb::OnConflict::Skip,
    };
    pb::DownloadSpec {
        url: secret::redacted_text(&spec.url),
        mirrors: spec.mirrors.iter().map(|url| secret::redacted_text(url)).collect(),
        path: spec.path.clone(),
        on_conflict: on_conflict.into(),
        checksums: spec.checksums.iter().map(ToString::to_string).collect(),
        digests: spec.digests.iter().map(|algorithm| algorithm.name().to_owned()).collect(),
        expected_bytes: spec.expected_bytes,
        max_bytes: spec.max_bytes,
        max_connections: spec.max_connections,
        disable_resume: spec.disable_resume,
    }
}

fn options(options: &TaskOptions) -> Option<pb::TaskOptions> {
    let set = |part: bool| part.then_some(());
    (*options != TaskOptions::default()).then(|| pb::TaskOptions {
        retry: set(options.retry != RetryOptions::default()).map(|()| retry(&options.retry)),
        timeouts: set(options.timeouts != TimeoutOptions::default()).map(|()| timeouts(&options.timeouts)),
        http: set(options.http != HttpOptions::default()).map(|()| http(&options.http)),
    })
}

fn retry(options: &RetryOptions) -> pb::RetryPolicy {
    pb::RetryPolicy {
        max_attempts: options.max_attempts,
        initial_backoff: duration(options.initial_backoff),
        max_backoff: duration(options.max_backoff),
        backoff_multiplier: options.backoff_multiplier,
        jitter: options.jitter,
        retry_statuses: options.retry_statuses.iter().map(|status| u32::from(*status)).collect(),
    }
}

fn timeouts(options: &TimeoutOptions) -> pb::Timeouts {
    let low_speed = pb::LowSpeed {
        bytes_per_second: options.low_speed_bytes_per_second,
        window: duration(options.low_speed_window),
    };
    pb::Timeouts {
        connect: duration(options.connect),
        response_headers: duration(options.response_headers),
        idle: duration(options.idle),
        low_speed: (low_speed != pb::LowSpeed::default()).then_some(low_speed),
        attempt: duration(options.attempt),
        task: duration(options.task),
    }
}

fn http(options: &HttpOptions) -> pb::HttpOptions {
    let hidden = |secret: &Option<Secret>| secret.as_ref().map(ToString::to_string).unwrap_or_default();
    let basic_auth = |(username, password): &(String, Secret)| pb::BasicAuth {
        username: username.clone(),
        password: password.to_string(),
    };
    pb::HttpOptions {
        headers: options.headers.iter().map(header).collect(),
        basic_auth: options.basic_auth.as_ref().map(basic_auth),
        bearer_token: hidden(&options.bearer_token),
        max_redirects: options.max_redirects,
        proxy_url: options.proxy_url.as_ref().map(|url| secret::redacted_text(url.expose())).unwrap_or_default(),
        user_agent: options.user_agent.clone().unwrap_or_default(),
        ca_pem: options.ca_pem.clone().unwrap_or_default(),
        client_certificate_pem: options.client_certificate_pem.clone().unwrap_or_default(),
        client_key_pem: hidden(&options.client_key_pem),
        insecure_skip_verify: options.insecure_skip_verify,
        credential: options.credential.clone().unwrap_or_default(),
        propagate_trace: options.propagate_trace,
    }
}

fn header(header: &HeaderSpec) -> pb::Header {
    let is_secret = header.sensitive || secret::is_secret_header(&header.name);
    pb::Header {
        name: header.name.clone(),
        value: if is_secret { REDACTED.to_owned() } else { header.value.expose().to_owned() },
        sensitive: header.sensitive,
    }
}

pub(crate) fn duration(value: Option<Duration>) -> Option<prost_types::Duration> {
    value.and_then(|value| value.try_into().ok())
}
