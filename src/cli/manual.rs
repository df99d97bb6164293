//! `haul completions` and `haul man`: what packages install beside the program, made of the grammar itself.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Command;
use clap_mangen::Man;

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
    let mut command = line::command(COLUMNS).disable_help_subcommand(true);
    command.build();
    pages(&command, &args.dir).with_context(|| format!("cannot write the manual to `{}`", args.dir.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the page of a command, and those of its subcommands.
fn pages(command: &Command, dir: &Path) -> io::Result<()> {
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        pages(subcommand, dir)?;
    }
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render(&mut page)?;
    let file = man.get_filename();
    std::fs::write(dir.join(&file), titled(&String::from_utf8_lossy(&page), file.trim_end_matches(".1")))
}

/// Returns a page with a title of its own. The library writes an empty date as nothing, so that what follows is taken for the date, and
/// names the subcommand in the place of the program.
fn titled(page: &str, name: &str) -> String {
    let title = format!(".TH {name} 1 \"\" \"haul {}\"", env!("CARGO_PKG_VERSION"));
    let mut lines: Vec<&str> = page.lines().collect();
    if let Some(line) = lines.iter_mut().find(|line| line.starts_with(".TH ")) {
        *line = &title;
    }
    lines.join("\n") + "\n"
}
