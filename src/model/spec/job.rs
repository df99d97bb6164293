//! A job as it was asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::failure::is_default;
use crate::model::group::GroupPolicy;
use crate::model::limits::RateLimit;
use crate::model::spec::options::SharedOptions;
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
    pub defaults: SharedOptions,
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

impl JobSpec {
    /// The memory that the job's own part takes, in bytes, roughly.
    pub fn memory_bytes(&self) -> usize {
        let labels: usize = self.labels.iter().map(|(key, value)| key.len() + value.len() + 96).sum();
        size_of::<JobSpec>() + self.title.len() + labels + self.directory.len() + self.defaults.memory_bytes()
    }
}
