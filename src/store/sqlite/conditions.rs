//! Conditions over a task as SQL, of `tasks t`, `task_states s` and `claims c`: what [`TaskFilter::fits`] says of one.

use crate::model::task_filter::TaskFilter;
use crate::store::sqlite::values::{Value, Values};

/// The error of the state row `s`.
pub(super) const ERROR: &str = "CASE typeof(s.error) WHEN 'integer' THEN (SELECT x.error FROM shared_errors x \
                     WHERE x.id = (s.id >> 32 << 32) + s.error) ELSE s.error END";

/// What stands at a path of the error; null where that is no JSON, since `SQLite` would fail the whole statement for it.
fn of_error(path: &str) -> String {
    format!("CASE WHEN json_valid({ERROR}) THEN ({ERROR}) ->> '{path}' END")
}

/// A condition on what failed, with ` AND ` before it; empty where there is none.
pub(super) fn of_failure(filter: &TaskFilter) -> String {
    if !filter.looks_at_failures() {
        return String::new();
    }
    let mut text = " AND c.id IS NULL AND s.state IN (3, 5, 6)".to_owned();
    if !filter.reasons.is_empty() {
        // As serde writes a variant, which is as it is named.
        let reasons: Vec<String> = filter.reasons.iter().map(|reason| format!("'{reason:?}'")).collect();
        text += &format!(" AND {} IN ({})", of_error("$.reason"), reasons.join(", "));
    }
    if !filter.http_statuses.is_empty() {
        let statuses: Vec<String> = filter.http_statuses.iter().map(ToString::to_string).collect();
        text += &format!(" AND coalesce({}, 0) IN ({})", of_error("$.http_status"), statuses.join(", "));
    }
    text
}

/// A condition on the host of the URL, which is that of the lane. `no` is the number of the job.
pub(super) fn of_host(host: &str, no: &str, values: &mut Values) -> String {
    let host = values.add(Value::Text(host.to_owned()));
    format!(" AND t.lane IN (SELECT h.id FROM lanes h WHERE {})", lanes_at(no, &host))
}

/// A condition on `lanes h` of the job with the number `no`: that they are those of `host`.
pub(super) fn lanes_at(no: &str, host: &str) -> String {
    format!(
        "h.id BETWEEN ({no} << 32) AND (({no} << 32) | 4294967295) \
         AND (h.host = {host} OR rtrim(h.host, '0123456789') = {host} || ':')"
    )
}
