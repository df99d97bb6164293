//! A task as it was asked for.

use serde::{Deserialize, Serialize};

use crate::model::failure::is_default;
use crate::model::retry::is_idempotent;
use crate::model::spec::download::DownloadSpec;
use crate::model::spec::fetch::{FetchSpec, Pagination};
use crate::model::spec::options::SharedOptions;

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
    pub options: SharedOptions,
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
    /// What is told of a task of which the store has lost the spec: as of one that fetches nothing.
    pub fn lost() -> Self {
        TaskSpec { key: String::new(), work: Work::Fetch(FetchSpec::default()), options: SharedOptions::default() }
    }

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

impl Work {
    /// Whether its request may be sent twice.
    pub(super) fn is_idempotent(&self) -> bool {
        match self {
            Work::Fetch(fetch) => fetch.method.is_empty() || is_idempotent(&fetch.method),
            Work::Download(_) => true,
        }
    }

    /// The method of its request.
    pub fn method(&self) -> &str {
        match self {
            Work::Fetch(fetch) if !fetch.method.is_empty() => &fetch.method,
            Work::Fetch(_) | Work::Download(_) => "GET",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::fetch::PageStyle;

    #[test]
    fn long_parts_of_a_task_are_counted() {
        let long = || "x".repeat(100_000);
        let style = PageStyle::Cursor { param: long(), next_pointer: long() };
        let pagination = Some(Pagination { style, items_pointer: long(), max_pages: 0, max_items: 0 });
        let work = Work::Fetch(FetchSpec { pagination, ..FetchSpec::default() });
        let task = TaskSpec { key: String::new(), work, options: SharedOptions::default() };
        assert!(task.memory_bytes() >= 300_000, "{}", task.memory_bytes());
    }

    #[test]
    fn what_is_unset_is_not_stored() {
        let spec = TaskSpec {
            key: String::new(),
            work: Work::Fetch(FetchSpec { url: "http://a/".into(), ..FetchSpec::default() }),
            options: SharedOptions::default(),
        };
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(json, r#"{"work":{"fetch":{"url":"http://a/"}}}"#);
        assert_eq!(serde_json::from_str::<TaskSpec>(&json).unwrap(), spec);
    }
}
