//! One task in full: what came of it and each attempt, for `haul show JOB TASK` and `haul top`.

use std::process::ExitCode;
use std::time::SystemTime;

use crate::cli::args::Format;
use crate::cli::client::Client;
use crate::cli::json;
use crate::cli::states::{self, since_from, task_state};
use crate::cli::term::fields::print_fields;
use crate::cli::term::line::{Hue, Line};
use crate::cli::term::screen;
use crate::cli::term::table::{self, Column, Row};
use crate::cli::term::words;
use crate::pb;
use crate::pb::task::Result as Outcome;

/// Shows a task with its attempts or, if `spec`, what was submitted of it. `name` is its index, or its key.
pub(crate) async fn show(
    client: &Client,
    format: Format,
    job_id: String,
    name: pb::get_task_request::Task,
    spec: bool,
) -> anyhow::Result<ExitCode> {
    let request = pb::GetTaskRequest { job_id, task: Some(name), include_spec: spec, ..Default::default() };
    let answer = client.jobs().get_task(request).await.map_err(|status| client.explain(&status))?.into_inner();
    let task = answer.task.unwrap_or_default();
    match format {
        Format::Json => json::print("haul.v1.Task", &task)?,
        Format::Text if spec => json::print_set("haul.v1.TaskSpec", &task.spec.unwrap_or_default())?,
        Format::Text => print(&task),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(task: &pb::Task) {
    let hue = if task.error.is_some() { Hue::Bad } else { Hue::Warn };
    let mut fields = vec![
        ("task", Line::from(task.task_index.to_string())),
        ("state", task_state(task)),
        ("url", Line::from(task.url.as_str())),
        ("why", Line::of(hue, &states::why(task))),
    ];
    fields.extend(facts(task).into_iter().map(|(name, value)| (name, Line::from(value))));
    print_fields(&fields);
    if !task.attempt_log.is_empty() {
        screen::line("");
        table::print(&columns(), &rows(task, states::now()));
    }
}

/// The names and values of what is known of a task beside its state, its URL and its attempts.
pub(crate) fn facts(task: &pb::Task) -> Vec<(&'static str, String)> {
    let took = |end: &prost_types::Timestamp| {
        let end = SystemTime::try_from(*end).unwrap_or(SystemTime::UNIX_EPOCH);
        task.start_time.as_ref().map(|start| words::duration(since_from(start, end)))
    };
    let mut facts = vec![
        ("key", task.key.clone()),
        ("started", words::time(task.start_time.as_ref())),
        ("took", task.end_time.as_ref().and_then(took).unwrap_or_default()),
    ];
    match &task.result {
        Some(Outcome::FetchResult(fetched)) => {
            let listing = (fetched.pages > 0).then(|| {
                format!("{} with {}", words::count(fetched.pages.into(), "page"), words::count(fetched.items, "item"))
            });
            facts.extend([
                ("from", other_than(&task.url, &fetched.final_url)),
                ("status", fetched.http_status.to_string()),
                ("type", fetched.content_type.clone()),
                ("size", words::size(fetched.body_bytes)),
                ("listing", listing.unwrap_or_default()),
            ]);
        }
        Some(Outcome::DownloadResult(file)) => {
            let resumed = if file.resumed_bytes > 0 { words::size(file.resumed_bytes) } else { String::new() };
            facts.extend([
                ("from", other_than(&task.url, &file.final_url)),
                ("file", file.path.clone()),
                ("size", words::size(file.bytes)),
                ("type", file.content_type.clone()),
                ("etag", file.etag.clone()),
                ("digests", file.checksums.join(" ")),
                ("resumed at", resumed),
                ("skipped", if file.skipped { "the file was there already".to_owned() } else { String::new() }),
            ]);
        }
        None => {}
    }
    facts.retain(|(_, value)| !value.is_empty());
    facts
}

/// The URL that answered, where it is another than the one that was asked.
fn other_than(url: &str, last: &str) -> String {
    if url == last { String::new() } else { last.to_owned() }
}

/// The columns of a table of attempts.
pub(crate) fn columns() -> Vec<Column> {
    vec![
        Column::whole("TRY").number(),
        Column::optional("STARTED", 1),
        Column::optional("TOOK", 4).number(),
        Column::optional("ADDRESS", 2),
        Column::optional("STATUS", 5).number(),
        Column::optional("BYTES", 3).number(),
        Column::text("RESULT", 12),
    ]
}

/// A row for each attempt.
pub(crate) fn rows(task: &pb::Task, now: SystemTime) -> Vec<Row> {
    let last = task.attempt_log.len().saturating_sub(1);
    let is_done = |place: usize| place == last && task.state() == pb::TaskState::Succeeded;
    task.attempt_log.iter().enumerate().map(|(place, attempt)| row(task, attempt, is_done(place), now)).collect()
}

fn row(task: &pb::Task, attempt: &pb::Attempt, is_done: bool, now: SystemTime) -> Row {
    let end = attempt.end_time.and_then(|end| SystemTime::try_from(end).ok());
    let took = attempt.start_time.as_ref().map(|start| words::duration(since_from(start, end.unwrap_or(now))));
    let (hue, result) = match &attempt.error {
        Some(error) => (Hue::Bad, error.message.as_str()),
        None if is_done => (Hue::Good, "ok"),
        // By a pause, a drain, or the end of the server.
        None if end.is_some() => (Hue::Warn, "stopped before its end"),
        None => (Hue::Plain, "running"),
    };
    let resume = if attempt.resume.is_empty() { String::new() } else { format!("; {}", attempt.resume) };
    // A page of a listing, or a mirror.
    let place = other_than(&task.url, &attempt.url);
    let place = if attempt.error.is_some() && !place.is_empty() { format!(" ({place})") } else { String::new() };
    let status = if attempt.http_status > 0 { attempt.http_status.to_string() } else { String::new() };
    Row::of(vec![
        Line::from(attempt.number.to_string()),
        Line::from(words::time(attempt.start_time.as_ref())),
        Line::from(took.unwrap_or_default()),
        Line::from(attempt.remote_address.as_str()),
        Line::from(status),
        Line::from(words::size(attempt.bytes)),
        Line::of(hue, result).with(Hue::Plain, &place).with(Hue::Plain, &resume),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attempt_says_how_it_ended_and_where() {
        let time = Some(prost_types::Timestamp::default());
        let attempt = |url: &str, error: Option<pb::TaskError>| pb::Attempt {
            url: url.to_owned(),
            start_time: time,
            end_time: time,
            error,
            ..Default::default()
        };
        let missing = pb::TaskError { message: "the origin answered 404 Not Found".to_owned(), ..Default::default() };
        let mut task = pb::Task {
            url: "http://a/list".to_owned(),
            state: pb::TaskState::Succeeded.into(),
            attempt_log: vec![
                attempt("http://a/list", None),
                attempt("http://a/list?page=2", Some(missing.clone())),
                attempt("http://a/list", Some(missing)),
                attempt("http://a/list?page=2", None),
            ],
            ..Default::default()
        };
        let shown = |task: &pb::Task| {
            let rows = rows(task, SystemTime::UNIX_EPOCH);
            rows.iter().map(|row| row.cells.last().unwrap().text()).collect::<Vec<_>>()
        };
        let expected = [
            "stopped before its end",
            "the origin answered 404 Not Found (http://a/list?page=2)",
            "the origin answered 404 Not Found",
            "ok",
        ];
        assert_eq!(shown(&task), expected);
        task.state = pb::TaskState::Pending.into();
        assert_eq!(shown(&task)[3], "stopped before its end", "the job was paused");
    }
}
