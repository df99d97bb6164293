//! `haul backup`: a copy of a data directory as it was at one moment.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::cli::term::screen::say;
use crate::server::backup;

/// What is copied, and where to.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// Directory of the database to copy
    #[arg(long, env = "HAUL_DATA_DIR", value_name = "DIR", default_value = "haul-data")]
    data_dir: PathBuf,
    /// Copy the key of the secrets in the database too, if it lies in the data directory: whoever has the copy reads them
    #[arg(long)]
    with_key: bool,
    /// The directory to make; it must not exist
    to: PathBuf,
}

/// Makes the copy. Ctrl-C leaves nothing behind.
pub(crate) async fn run(args: &BackupArgs) -> anyhow::Result<ExitCode> {
    let done = tokio::select! {
        done = backup(&args.data_dir, &args.to, args.with_key) => done?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            return Ok(ExitCode::from(130));
        }
    };
    for path in &done.missing {
        say(format!(
            "haul: `{}` is missing in `{}`, so the copy is without it",
            path.display(),
            args.data_dir.display()
        ));
    }
    if done.is_without_key {
        say(format!(
            "haul: the copy is without `{}`, which opens the secrets in it; keep that file in another place (`--with-key` \
             copies it too)",
            args.data_dir.join("haul.key").display()
        ));
    }
    Ok(if done.missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
