//! `haul check`: whether a data directory is what it must be.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::cli::args::Usage;
use crate::cli::serve::root_keys;
use crate::cli::term::screen;
use crate::config::keys;
use crate::server::{RootKeys, audit, has_key};

/// What is checked.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Directory of the database to check
    #[arg(long, env = "HAUL_DATA_DIR", value_name = "DIR", default_value = "haul-data")]
    data_dir: PathBuf,
    /// Where the key of the database is, if it is not in the data directory: `file:PATH` or `env:NAME`
    #[arg(long, env = "HAUL_DATA_KEY", value_name = "KEY")]
    data_key: Option<String>,
}

/// Prints what is wrong, a line each. Exits with 0 when nothing is.
pub(crate) async fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let key = keys::data_key(args.data_key.as_deref()).map_err(Usage)?;
    let roots = key.map_or(RootKeys::Beside, root_keys);
    let found = audit(&args.data_dir, &roots).await?;
    if !has_key(&args.data_dir, &roots) {
        screen::say(
            "haul: the root key is not in the data directory and was not checked: a server does not start without it; name its \
             place with `--data-key`",
        );
    }
    for what in &found {
        screen::line(what.as_str());
    }
    if !found.is_empty() {
        screen::say(
            "haul: put back a backup, or correct what the lines name: a job among them can be deleted with `haul delete JOB`",
        );
    }
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
