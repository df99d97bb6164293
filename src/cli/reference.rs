//! The page of all commands and options, made of the grammar itself.

use std::fmt::Write as _;

use crate::cli::line;

/// The width of the page.
const COLUMNS: usize = 100;

/// Returns `docs/guide/cli.md`: the help of every command as Markdown.
pub fn reference() -> String {
    let mut page = "# Command line\n\nThis page is generated from the command line itself; `UPDATE_DOCS=1 cargo test --test cli \
                    reference` writes it anew.\n\nExit codes: 0 when what was asked for is done, 1 when it failed, 2 when the \
                    command line is wrong, 124 when `haul wait` ran out of time, 130 when Ctrl-C interrupted `haul get` or `haul backup`, 129 when its terminal was closed under `haul get`, 143 when SIGTERM ended it, 141 when nobody reads what `haul watch` or `haul submit --watch` prints.\n"
        .to_owned();
    let mut command = line::command(COLUMNS).color(clap::ColorChoice::Never);
    command.build();
    let top = command.render_help();
    let _ = write!(page, "\n```text\n{}\n```\n", trimmed(&top.to_string()));
    for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help" && !sub.is_hide_set()) {
        describe(&mut page, sub, "haul");
    }
    page
}

/// Adds the help of a command, and of the commands below it.
fn describe(page: &mut String, command: &mut clap::Command, parent: &str) {
    let name = format!("{parent} {}", command.get_name());
    let _ = write!(page, "\n## {name}\n\n```text\n{}\n```\n", trimmed(&command.render_help().to_string()));
    for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
        describe(page, sub, &name);
    }
}

fn trimmed(help: &str) -> String {
    help.trim_end().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}
