//! Conditions of requests, checked: which jobs and which tasks are meant.

use std::collections::BTreeSet;

use crate::api::status::{Violations, shown};
use crate::api::values;
use crate::model::event::EventKind;
use crate::model::failure::FailureReason;
use crate::model::host::normal;
use crate::model::ids::JobId;
use crate::model::job::JobState;
use crate::model::search::Search;
use crate::model::task::TaskState;
use crate::model::task_filter::{TaskChoice, TaskFilter};
use crate::pb;

/// The most bytes of a text that is looked for.
const SEARCH_BYTES_MAX: usize = 128;
/// The most bytes of a host with its port: a name has 253 at most.
const HOST_BYTES_MAX: usize = 261;
/// The most tasks that one call names.
const TASKS_MAX: usize = 10_000;
/// The most entries of another list of conditions: more than there are different ones.
const LIST_MAX: usize = 1_000;

/// The most jobs that one call names.
pub(crate) const IDS_MAX: usize = 10_000;

/// Reads names of jobs, each once, the newest first.
pub(crate) fn job_ids(texts: &[String], path: &str, most: usize, v: &mut Violations) -> Vec<JobId> {
    if texts.len() > most {
        v.add(path, format!("holds {} ids; at most {most} are accepted", texts.len()));
        return Vec::new();
    }
    let mut ids = BTreeSet::new();
    for (index, text) in texts.iter().enumerate() {
        match text.parse::<JobId>() {
            Ok(id) => drop(ids.insert(id)),
            Err(_) => v.add(format!("{path}[{index}]"), format!("`{}` is not a job id", shown(text))),
        }
    }
    ids.into_iter().rev().collect()
}

/// Reads numbers, each once and in the order of the contract. `what` is what each stands for.
fn numbered<T>(numbers: &[i32], path: &str, what: &str, read: impl Fn(i32) -> Option<T>, v: &mut Violations) -> Vec<T> {
    if numbers.len() > LIST_MAX {
        v.add(path, format!("holds {} entries; at most {LIST_MAX} are accepted", numbers.len()));
        return Vec::new();
    }
    for (index, number) in numbers.iter().enumerate() {
        if read(*number).is_none() {
            v.add(format!("{path}[{index}]"), format!("{number} is not a {what}"));
        }
    }
    let numbers: BTreeSet<i32> = numbers.iter().copied().collect();
    numbers.into_iter().filter_map(read).collect()
}

/// Reads states of jobs.
pub(crate) fn job_states(numbers: &[i32], path: &str, v: &mut Violations) -> Vec<JobState> {
    numbered(numbers, path, "state", |it| JobState::from_number(i64::from(it)), v)
}

/// Reads states of tasks.
pub(crate) fn task_states(numbers: &[i32], path: &str, v: &mut Violations) -> Vec<TaskState> {
    numbered(numbers, path, "state", |it| TaskState::from_number(i64::from(it)), v)
}

/// Reads kinds of durable events.
pub(crate) fn event_kinds(numbers: &[i32], path: &str, v: &mut Violations) -> Vec<EventKind> {
    numbered(numbers, path, "kind of event", |it| EventKind::from_number(i64::from(it)), v)
}

/// Reads a text that is looked for.
pub(crate) fn search(text: &str, path: &str, v: &mut Violations) -> Search {
    values::text(text, &path, SEARCH_BYTES_MAX, v);
    Search::new(text)
}

/// Reads classes of failure, each once and in the order of the contract.
pub(crate) fn reasons(numbers: &[i32], path: &str, v: &mut Violations) -> Vec<FailureReason> {
    numbered(numbers, path, "class of failure", reason, v)
}

/// The classes have their numbers by their order, from 1.
fn reason(number: i32) -> Option<FailureReason> {
    let place = usize::try_from(number).ok()?.checked_sub(1)?;
    FailureReason::ALL.get(place).copied()
}

/// Reads statuses of HTTP, each once and in order.
pub(crate) fn http_statuses(numbers: &[u32], path: &str, v: &mut Violations) -> Vec<u16> {
    let mut statuses = BTreeSet::new();
    for (index, number) in numbers.iter().enumerate().take(LIST_MAX) {
        match u16::try_from(*number) {
            Ok(status) if (100..600).contains(&status) => drop(statuses.insert(status)),
            _ => v.add(format!("{path}[{index}]"), format!("{number} is not a status; one is from 100 to 599")),
        }
    }
    if numbers.len() > LIST_MAX {
        v.add(path, format!("holds {} statuses; at most {LIST_MAX} are accepted", numbers.len()));
    }
    statuses.into_iter().collect()
}

/// Reads a host, with its port or for each of its ports, as the URLs of tasks have it.
pub(crate) fn host(text: &str, path: &str, v: &mut Violations) -> String {
    values::text(text, &path, HOST_BYTES_MAX, v);
    if text.contains(['/', '@', ' ']) {
        v.add(path, "must be `host` or `host:port`, as in `example.com:443`");
    }
    // What no URL can have is found nowhere.
    normal(text).unwrap_or_else(|| text.to_ascii_lowercase())
}

/// Reads which tasks a call is about that can act on those in the states `possible`.
pub(crate) fn task_choice(
    indexes: Vec<u32>,
    filter: Option<pb::TaskFilter>,
    possible: &[TaskState],
    v: &mut Violations,
) -> TaskChoice {
    if indexes.len() > TASKS_MAX {
        let wish = format!("holds {} indexes; at most {TASKS_MAX} are accepted, none means all", indexes.len());
        v.add("task_indexes", wish);
        return TaskChoice::All;
    }
    let Some(filter) = filter else {
        let indexes: BTreeSet<u32> = indexes.into_iter().collect();
        return if indexes.is_empty() { TaskChoice::All } else { TaskChoice::These(indexes.into_iter().collect()) };
    };
    if !indexes.is_empty() {
        v.add("filter", "cannot be combined with `task_indexes`; give one of them, or neither for all tasks");
    }
    let impossible =
        |state: &i32| TaskState::from_number(i64::from(*state)).is_some_and(|state| !possible.contains(&state));
    for (nth, state) in filter.states.iter().enumerate().filter(|(_, state)| impossible(state)) {
        let name = pb::TaskState::try_from(*state).map_or("", |state| state.as_str_name());
        v.add(format!("filter.states[{nth}]"), format!("is {}, which this call cannot act on", shown(name)));
    }
    let filter = task_filter(&filter, v);
    if filter.is_empty() { TaskChoice::All } else { TaskChoice::Fitting(filter) }
}

fn task_filter(filter: &pb::TaskFilter, v: &mut Violations) -> TaskFilter {
    TaskFilter {
        states: task_states(&filter.states, "filter.states", v),
        reasons: reasons(&filter.reasons, "filter.reasons", v),
        http_statuses: http_statuses(&filter.http_statuses, "filter.http_statuses", v),
        host: host(&filter.host, "filter.host", v),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::to_proto;

    #[test]
    fn a_host_is_found_however_it_is_spelt() {
        for (text, expected) in [
            ("LOCALHOST.:8080", "localhost:8080"),
            ("0x7f.1:80", "127.0.0.1:80"),
            ("b\u{fc}cher.example", "xn--bcher-kva.example"),
            ("a:x", "a:x"),
            ("", ""),
        ] {
            let mut v = Violations::default();
            assert_eq!(host(text, "host", &mut v), expected);
            assert!(v.is_empty(), "{text}");
        }
    }

    #[test]
    fn each_class_of_failure_has_its_number() {
        for (number, expected) in (1..).zip(FailureReason::ALL) {
            assert_eq!(reason(number), Some(expected));
            assert_eq!(to_proto::failure_reason(expected) as i32, number, "{expected:?}");
        }
        assert_eq!((reason(0), reason(-1), reason(31)), (None, None, None));
    }
}
