//! Converts what a task does from messages to the model.

use std::fmt::Display;

use http::Method;
use url::Url;

use crate::api::status::{Violations, shown};
use crate::model::checksum::{Algorithm, Checksum};
use crate::model::host::{Host, is_named};
use crate::model::method;
use crate::model::path;
use crate::model::secret::{is_redacted, redacted_text};
use crate::model::spec::{DownloadSpec, FetchSpec, OnConflict, PageStyle, Pagination, Work};
use crate::pb;

const URL_BYTES_MAX: usize = 8 << 10;
const BODY_BYTES_MAX: usize = 1 << 20;
const MIRRORS_MAX: usize = 16;
const PATH_BYTES_MAX: usize = 1024;
const CONNECTIONS_MAX: u32 = 64;
const RANGES_MAX: usize = 100;
/// Bytes of a JSON Pointer, or of the name of a parameter: a spec is sent back whole, within one message.
const NAME_BYTES_MAX: usize = 1024;
const SUMS_MAX: usize = 20;
/// More than the longest name of an algorithm with the 128 digits of SHA-512.
const SUM_BYTES_MAX: usize = 160;
/// The most bytes of a host's name and of a label in it (RFC 1035, 2.3.4).
const HOST_BYTES_MAX: (usize, usize) = (253, 63);

/// Reads what a task does, fetch or download, and which host it asks.
pub(crate) fn work(
    work: Option<pb::task_spec::Work>,
    path: &dyn Display,
    v: &mut Violations,
) -> Option<(Work, Option<Host>)> {
    match work {
        Some(pb::task_spec::Work::Fetch(spec)) => {
            let (spec, host) = fetch(spec, &format_args!("{path}.fetch"), v);
            Some((Work::Fetch(spec), host))
        }
        Some(pb::task_spec::Work::Download(spec)) => {
            let (spec, host) = download(spec, &format_args!("{path}.download"), v);
            Some((Work::Download(spec), host))
        }
        None => {
            v.add(path, "must say what to do: set `fetch` or `download`");
            None
        }
    }
}

/// Checks a URL. Returns the host that it names, where nothing is wrong.
fn url(text: &str, path: &dyn Display, v: &mut Violations) -> Option<Host> {
    if text.is_empty() {
        v.add(path, "is empty; give an absolute http or https URL");
        return None;
    }
    if text.len() > URL_BYTES_MAX {
        v.add(path, format!("is longer than {URL_BYTES_MAX} bytes"));
        return None;
    }
    // The parser would drop them, and another URL than the one that was given would be asked.
    if text.trim() != text || text.chars().any(char::is_control) {
        v.add(path, "has control characters, or spaces around it");
        return None;
    }
    match Url::parse(text) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") => {
            v.add(path, format!("has the scheme `{}`; only http and https are accepted", shown(url.scheme())));
        }
        Ok(_) if !is_named(text) => v.add(path, "does not name a host; write it like `https://example.com/file`"),
        Ok(url) => match unusable(&url) {
            Some(why) => v.add(path, why),
            None => return Host::of(&url),
        },
        // What stands before its query may be repeated, without what is secret by its name.
        Err(url::ParseError::RelativeUrlWithoutBase) if !text.contains([':', '@']) => {
            let plain = shown(&redacted_text(text.split(['?', '#']).next().unwrap_or_default()));
            let meant = plain.trim_start_matches('/');
            let hint = match Url::parse(&format!("https://{meant}")) {
                Ok(_) => format!("; did you mean `https://{meant}`?"),
                Err(_) => ", and is no URL with one either".to_owned(),
            };
            v.add(path, format!("`{plain}` has no scheme{hint}"));
        }
        Err(error) => v.add(path, format!("is not an absolute URL: {error}")),
    }
    None
}

/// Returns why a URL cannot be asked for, whatever answers there.
fn unusable(url: &Url) -> Option<&'static str> {
    let (name_bytes_max, label_bytes_max) = HOST_BYTES_MAX;
    let name = match url.host() {
        Some(url::Host::Domain(name)) => name.trim_end_matches('.'),
        Some(_) => "address",
        None => "",
    };
    if name.is_empty() {
        Some("does not name a host")
    } else if name.len() > name_bytes_max
        || name.split('.').any(|label| label.is_empty() || label.len() > label_bytes_max)
    {
        Some("names a host that cannot be: a name has at most 253 bytes, in parts of 1 to 63 bytes")
    } else if url.port() == Some(0) {
        Some("has the port 0, which cannot be connected to")
    } else if is_redacted(url) {
        Some("holds `REDACTED` where its secret was, as in a copied answer; give the secret itself")
    } else {
        None
    }
}

/// More than the longest registered method (RFC 9110, 16.1) has, 17.
const METHOD_BYTES_MAX: usize = 64;

fn method(text: &str, path: &dyn Display, v: &mut Violations) {
    if text.is_empty() {
        return;
    }
    if text.len() > METHOD_BYTES_MAX {
        return v.add(path, format!("is {} bytes long; at most {METHOD_BYTES_MAX} are accepted", text.len()));
    }
    if http::Method::from_bytes(text.as_bytes()).is_err() {
        v.add(path, format!("`{}` is not a method (RFC 9110, 9.1)", shown(text)));
    } else if let Some(why) = method::objection(text) {
        v.add(path, format!("`{}` {why}", shown(text)));
    }
}

fn fetch(spec: pb::FetchSpec, path: &dyn Display, v: &mut Violations) -> (FetchSpec, Option<Host>) {
    let host = url(&spec.url, &format_args!("{path}.url"), v);
    method(&spec.method, &format_args!("{path}.method"), v);
    if spec.body.len() > BODY_BYTES_MAX {
        v.add(
            format!("{path}.body"),
            format!("is {} bytes long; at most {BODY_BYTES_MAX} are accepted", spec.body.len()),
        );
    }
    let most = FetchSpec::RESPONSE_BYTES_MAX;
    if spec.max_response_bytes.is_some_and(|it| it == 0 || it > most) {
        v.add(format!("{path}.max_response_bytes"), format!("must be from 1 to {most}; use a download for more"));
    }
    if spec.method == Method::HEAD.as_str() {
        for (is_set, field) in [(spec.expect_json, "expect_json"), (spec.pagination.is_some(), "pagination")] {
            if is_set {
                v.add(format!("{path}.{field}"), "needs a body, which the answer to HEAD does not have");
            }
        }
    }
    let spec = FetchSpec {
        url: spec.url,
        method: spec.method,
        body: spec.body.into(),
        max_response_bytes: spec.max_response_bytes,
        accept_statuses: accept_statuses(&spec.accept_statuses, &format_args!("{path}.accept_statuses"), v),
        expect_json: spec.expect_json,
        pagination: spec.pagination.and_then(|it| pagination(it, &format_args!("{path}.pagination"), v)),
    };
    (spec, host)
}

fn accept_statuses(ranges: &[pb::StatusRange], path: &dyn Display, v: &mut Violations) -> Vec<(u16, u16)> {
    if ranges.len() > RANGES_MAX {
        v.add(path, format!("holds {} ranges; at most {RANGES_MAX} are accepted", ranges.len()));
        return Vec::new();
    }
    let mut good = Vec::new();
    for (index, range) in ranges.iter().enumerate() {
        if (100..600).contains(&range.first) && (range.first..600).contains(&range.last) {
            good.push((range.first as u16, range.last as u16));
        } else {
            v.add(format!("{path}[{index}]"), "must be a range within 100 to 599, `first` not above `last`");
        }
    }
    good
}

fn pagination(spec: pb::Pagination, path: &dyn Display, v: &mut Violations) -> Option<Pagination> {
    use pb::pagination::Style;
    let need = |name: &str, what: &str, v: &mut Violations| {
        if name.is_empty() {
            v.add(format!("{path}.{what}"), "is empty; name the query parameter");
        }
        short(name, &format_args!("{path}.{what}"), v);
    };
    let style = match spec.style {
        None => {
            v.add(
                path,
                "must say where the next page is: set `link_header`, `page_number`, `offset`, `cursor` or `next_url`",
            );
            return None;
        }
        Some(Style::LinkHeader(_)) => PageStyle::LinkHeader,
        Some(Style::PageNumber(it)) => {
            need(&it.param, "page_number.param", v);
            short(&it.size_param, &format_args!("{path}.page_number.size_param"), v);
            sized(&it.size_param, it.size, &format_args!("{path}.page_number.size"), v);
            differs(&it.size_param, &it.param, &format_args!("{path}.page_number.size_param"), v);
            PageStyle::PageNumber { param: it.param, first: it.first, size_param: it.size_param, size: it.size }
        }
        Some(Style::Offset(it)) => {
            need(&it.param, "offset.param", v);
            short(&it.limit_param, &format_args!("{path}.offset.limit_param"), v);
            sized(&it.limit_param, it.limit, &format_args!("{path}.offset.limit"), v);
            differs(&it.limit_param, &it.param, &format_args!("{path}.offset.limit_param"), v);
            PageStyle::Offset { param: it.param, limit_param: it.limit_param, limit: it.limit }
        }
        Some(Style::Cursor(it)) => {
            need(&it.param, "cursor.param", v);
            pointer(&it.next_pointer, false, &format_args!("{path}.cursor.next_pointer"), v);
            PageStyle::Cursor { param: it.param, next_pointer: it.next_pointer }
        }
        Some(Style::NextUrl(it)) => {
            pointer(&it.next_pointer, false, &format_args!("{path}.next_url.next_pointer"), v);
            PageStyle::NextUrl { next_pointer: it.next_pointer }
        }
    };
    pointer(&spec.items_pointer, true, &format_args!("{path}.items_pointer"), v);
    Some(Pagination { style, items_pointer: spec.items_pointer, max_pages: spec.max_pages, max_items: spec.max_items })
}

fn short(name: &str, path: &dyn Display, v: &mut Violations) {
    if name.len() > NAME_BYTES_MAX {
        v.add(path, format!("is longer than {NAME_BYTES_MAX} bytes"));
    }
}

fn sized(param: &str, size: u64, path: &dyn Display, v: &mut Violations) {
    if !param.is_empty() && size == 0 {
        v.add(path, "must be set where its parameter is named");
    }
}

fn differs(name: &str, other: &str, path: &dyn Display, v: &mut Violations) {
    if !name.is_empty() && name == other {
        v.add(path, "must differ from `param`: one query parameter cannot have both values");
    }
}

fn pointer(text: &str, may_be_empty: bool, path: &dyn Display, v: &mut Violations) {
    if text.is_empty() && may_be_empty {
        return;
    }
    short(text, path, v);
    let escapes_fit = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    if !text.starts_with('/') || !escapes_fit {
        v.add(path, "must be a JSON Pointer (RFC 6901), as in `/data/items`");
    }
}

fn download(spec: pb::DownloadSpec, path: &dyn Display, v: &mut Violations) -> (DownloadSpec, Option<Host>) {
    let host = url(&spec.url, &format_args!("{path}.url"), v);
    if spec.mirrors.len() > MIRRORS_MAX {
        v.add(
            format!("{path}.mirrors"),
            format!("holds {} mirrors; at most {MIRRORS_MAX} are accepted", spec.mirrors.len()),
        );
    }
    for (index, mirror) in spec.mirrors.iter().enumerate().take(MIRRORS_MAX) {
        url(mirror, &format_args!("{path}.mirrors[{index}]"), v);
    }
    relative_path(&spec.path, &format_args!("{path}.path"), v);
    if spec.max_connections > CONNECTIONS_MAX {
        v.add(format!("{path}.max_connections"), format!("must be at most {CONNECTIONS_MAX}"));
    }
    if let (Some(expected), Some(max)) = (spec.expected_bytes, spec.max_bytes)
        && expected > max
    {
        v.add(format!("{path}.expected_bytes"), "is more than `max_bytes`");
    }
    let spec = DownloadSpec {
        url: spec.url,
        mirrors: spec.mirrors,
        path: spec.path,
        on_conflict: on_conflict(spec.on_conflict, &format_args!("{path}.on_conflict"), v),
        checksums: checksums(&spec.checksums, &format_args!("{path}.checksums"), v),
        digests: digests(&spec.digests, &format_args!("{path}.digests"), v),
        expected_bytes: spec.expected_bytes,
        max_bytes: spec.max_bytes,
        max_connections: spec.max_connections,
        disable_resume: spec.disable_resume,
    };
    (spec, host)
}

fn on_conflict(policy: i32, path: &dyn Display, v: &mut Violations) -> Option<OnConflict> {
    match pb::OnConflict::try_from(policy) {
        Ok(pb::OnConflict::Unspecified) => None,
        Ok(pb::OnConflict::Fail) => Some(OnConflict::Fail),
        Ok(pb::OnConflict::Rename) => Some(OnConflict::Rename),
        Ok(pb::OnConflict::Overwrite) => Some(OnConflict::Overwrite),
        Ok(pb::OnConflict::Skip) => Some(OnConflict::Skip),
        Err(_) => {
            v.add(path, format!("{policy} is not an OnConflict"));
            None
        }
    }
}

fn checksums(texts: &[String], path: &dyn Display, v: &mut Violations) -> Vec<Checksum> {
    if texts.len() > SUMS_MAX {
        v.add(path, format!("holds {} checksums; at most {SUMS_MAX} are accepted", texts.len()));
        return Vec::new();
    }
    let mut good: Vec<Checksum> = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        if text.len() > SUM_BYTES_MAX {
            v.add(format!("{path}[{index}]"), format!("is {} bytes long, longer than any checksum", text.len()));
            continue;
        }
        match text.parse::<Checksum>() {
            Ok(sum) if good.iter().any(|other| other.algorithm == sum.algorithm && *other != sum) => {
                v.add(format!("{path}[{index}]"), format!("contradicts another {} digest", sum.algorithm.name()));
            }
            Ok(sum) => good.push(sum),
            Err(error) => v.add(format!("{path}[{index}]"), format!("is not a checksum: {error}")),
        }
    }
    good
}

fn digests(names: &[String], path: &dyn Display, v: &mut Violations) -> Vec<Algorithm> {
    if names.len() > SUMS_MAX {
        v.add(path, format!("holds {} digests; at most {SUMS_MAX} are accepted", names.len()));
        return Vec::new();
    }
    let mut good = Vec::new();
    for (index, name) in names.iter().enumerate() {
        match shown(name).parse::<Algorithm>() {
            Ok(algorithm) if good.contains(&algorithm) => {}
            Ok(algorithm) => good.push(algorithm),
            Err(error) => v.add(format!("{path}[{index}]"), error.to_string()),
        }
    }
    good
}

/// Checks a path below the download root. What links make of it is judged when it is opened.
pub(crate) fn relative_path(text: &str, path: &dyn Display, v: &mut Violations) {
    if text.is_empty() {
        return;
    }
    if text.len() > PATH_BYTES_MAX {
        v.add(path, format!("is {} bytes long; at most {PATH_BYTES_MAX} are accepted", text.len()));
    } else if let Some(why) = path::objection(text) {
        v.add(path, format!("`{}` {why}; choose another path", shown(text)));
    } else if text.contains('\\') {
        v.add(path, format!("`{}` has a backslash; parts are separated by `/`", shown(text)));
    }
}
