//! `haul completions` and `haul man`: what packages install beside the program, made of the grammar itself.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::args::{CompletionsArgs, ManArgs};
use crate::cli::line;

/// The width of the texts.
const COLUMNS: usize = 100;

/// Prints the completions for a shell.
pub(crate) fn completions(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut line::command(COLUMNS), "haul", &mut script);
    match io::stdout().write_all(&script).and_then(|()| io::stdout().flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot print the completions"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Writes a page for each command.
pub(crate) fn man(args: &ManArgs) -> anyhow::Result<ExitCode> {
    let command = line::command(COLUMNS).disable_help_subcommand(true);
    clap_mangen::generate_to(command, &args.dir)
        .with_context(|| format!("cannot write the manual to `{}`", args.dir.display()))?;
    Ok(ExitCode::SUCCESS)
}
