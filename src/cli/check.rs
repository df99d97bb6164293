//! `haul check`: whether a data directory is what it must be.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::cli::term::screen;
use crate::server::audit;

/// What is checked.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Directory of the database to check
    #[arg(long, env = "HAUL_DATA_DIR", value_name = "DIR", default_value = "haul-data")]
    data_dir: PathBuf,
}

/// Prints what is wrong, a line each. Exits with 0 when nothing is.
pub(crate) async fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let found = audit(&args.data_dir).await?;
    for what in &found {
        screen::line(what.as_str());
    }
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
