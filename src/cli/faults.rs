//! Says what a server found wrong with the tasks of a list, by the lines on which they stand.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::cli::args::Usage;
use crate::cli::lists::Entry;
use crate::model::secret;
use crate::model::text::{plain, shown};

/// Returns what is wrong, a line each, where the server names a task of the list; `None`: it names none. `tasks` is the field of
/// the request that holds the tasks, `entry` what the task at a place in it was made of.
pub(crate) fn in_lines<'a>(status: &Status, tasks: &str, entry: impl Fn(usize) -> Option<&'a Entry>) -> Option<Usage> {
    if status.code() != Code::InvalidArgument {
        return None;
    }
    let of_task = |field: &str| {
        let (place, rest) = field.strip_prefix(tasks)?.strip_prefix('[')?.split_once(']')?;
        Some((entry(place.parse().ok()?)?, rest.trim_start_matches('.').to_owned()))
    };
    let violations = status.get_details_bad_request().map(|request| request.field_violations).unwrap_or_default();
    let mut names_task = false;
    // What an option says of all tasks is refused once, by its name.
    let options: Vec<(&str, &str)> =
        violations.iter().filter_map(|it| Some((option(&it.field)?, it.description.as_str()))).collect();
    let is_of_option = |violation: &tonic_types::FieldViolation| {
        of_task(&violation.field).is_some_and(|(entry, field)| entry.task.is_none() && !field.ends_with("url"))
            && options.iter().any(|(_, what)| *what == violation.description)
    };
    let lines: Vec<String> = violations
        .iter()
        .filter(|violation| !is_of_option(violation))
        .map(|violation| {
            if let Some((entry, field)) = of_task(&violation.field) {
                names_task = true;
                said(entry, &field, &violation.description)
            } else {
                let option = option(&violation.field).filter(|_| entry(0).is_some());
                names_task |= option.is_some();
                format!("`{}` {}", plain(option.unwrap_or(violation.field.as_str())), plain(&violation.description))
            }
        })
        .collect();
    names_task.then(|| Usage(lines.join("\n")))
}

/// Returns the option of `haul submit` that a field of its request is made of.
fn option(field: &str) -> Option<&'static str> {
    match field {
        "job.defaults.http.credential" => Some("--credential"),
        "job.title" => Some("--title"),
        "job.directory" => Some("--directory"),
        labels if labels.starts_with("job.labels") => Some("--label"),
        _ => None,
    }
}

/// What is wrong with an entry, and where that stands.
fn said(entry: &Entry, field: &str, what: &str) -> String {
    let what = plain(what);
    match (&entry.task, field) {
        (_, "") => entry.place.says(&format!("the task {what}")),
        // Only its URL was written.
        (None, _) if entry.place.is_typed() => {
            format!("the URL `{}` {what}", shown(&secret::redacted_text(&entry.text)))
        }
        (None, _) => entry.place.says(&format!("the URL {what}")),
        (Some(_), field) => entry.place.says(&format!("`{}` {what}", plain(field))),
    }
}
