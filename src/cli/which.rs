//! Which jobs a command is about, where it is about several.

use clap::Args;

use crate::cli::args::Usage;
use crate::cli::labels;
use crate::cli::states;
use crate::pb;

/// A filter of jobs; without any of it, all.
#[derive(Debug, Args)]
pub(crate) struct WhichJobs {
    /// Only jobs in this state, such as `running`; may be repeated
    #[arg(long = "state", value_name = "STATE", hide_possible_values = true, value_parser = states::JOB_STATES)]
    states: Vec<String>,
    /// Only jobs with this label, as KEY=VALUE; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Only jobs with this text in the title or in the value of a label, or with an id that begins with it
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
}

impl WhichJobs {
    /// Reads the filter as the contract has it.
    pub(crate) fn filter(&self) -> Result<pb::JobFilter, Usage> {
        Ok(pb::JobFilter {
            states: self.states.iter().map(|name| states::JOB_STATES.read(name)).collect::<Result<_, Usage>>()?,
            labels: labels::read(&self.labels)?,
            search: self.search.clone().unwrap_or_default(),
            ..Default::default()
        })
    }
}
