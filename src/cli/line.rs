//! The grammar of the command line.

use std::fmt::Write as _;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::cli::add::AddArgs;
use crate::cli::admin::{HostsArgs, KeyCommand};
use crate::cli::args::{CompletionsArgs, JobRef, ManArgs, Nothing, Remote, With};
use crate::cli::audit::AuditCommand;
use crate::cli::backup::BackupArgs;
use crate::cli::check::CheckArgs;
use crate::cli::content::CatArgs;
use crate::cli::control::{CancelArgs, DeleteArgs, RetryArgs, RetryNowArgs, UpdateArgs};
use crate::cli::credential::CredentialCommand;
use crate::cli::events::EventsArgs;
use crate::cli::get::GetArgs;
use crate::cli::jobs::{ListArgs, ShowArgs, TasksArgs};
use crate::cli::limits::LimitsArgs;
use crate::cli::many::ControlArgs;
use crate::cli::principal::PrincipalCommand;
use crate::cli::serve::ServeCommand;
use crate::cli::submit::SubmitArgs;
use crate::cli::tenant::TenantCommand;
use crate::cli::term;
use crate::cli::token::TokenCommand;
use crate::cli::top::TopArgs;
use crate::cli::watch::WaitArgs;

/// Durable fetch and download jobs over gRPC.
#[derive(Debug, Parser)]
#[command(name = "haul", version, about)]
pub(crate) struct Line {
    #[command(flatten)]
    pub(crate) remote: Remote,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server
    #[command(after_help = "Examples:\n  haul serve\n  haul serve --listen 127.0.0.1:0 --data-dir /var/lib/haul \
                            --download-dir /srv/downloads\n\nEach setting is a flag, a variable of the environment and a \
                            key of the file, in that order of strength.")]
    Serve(Box<ServeCommand>),
    /// Download now, without a server
    #[command(
        after_help = "Examples:\n  haul get https://example.com/file.iso\n  haul get -d images -j 8 -i urls.txt\n  \
                            haul get -O today.csv --bearer-from token https://api.example.com/export\n\nRun again, \
                            it resumes partial downloads and skips complete ones. It never replaces a file that it did not \
                            make from the same URL. http_proxy, HTTPS_PROXY, ALL_PROXY and NO_PROXY are obeyed."
    )]
    Get(Box<GetArgs>),
    /// Submit a job
    #[command(
        after_help = "Examples:\n  haul submit --watch https://example.com/file.iso\n  haul submit --fetch --mode \
                            collect -i urls.txt\n  haul submit -f job.json --request-id nightly-2026-11-26"
    )]
    Submit(Box<With<SubmitArgs>>),
    /// Add tasks to an open job
    #[command(
        after_help = "Examples:\n  haul submit --open --title crawl\n  find-urls | haul add @last -i -\n  haul seal \
                            @last\n\nAfter an interruption, run it again with the same list: nothing is added twice."
    )]
    Add(With<AddArgs>),
    /// Say that no more tasks will come to an open job
    #[command(after_help = "Example:\n  haul seal @last")]
    Seal(With<JobRef>),
    /// Follow a job to its end; exit 0 when it succeeded, 1 when not
    #[command(after_help = "Examples:\n  haul watch @last\n  haul watch 7c21f09b -o json")]
    Watch(With<JobRef>),
    /// Show jobs, a job, a task and hosts on the whole screen, as they change
    #[command(after_help = "Examples:\n  haul top\n  haul top @last\n  haul top --once\n\n`?` lists the keys.")]
    Top(With<TopArgs>),
    /// Wait for the end of a job; exit 0 when it succeeded, 1 when not, 124 when the time passed
    #[command(after_help = "Example:\n  haul wait @last --timeout 10m && publish")]
    Wait(With<WaitArgs>),
    /// List jobs, newest first
    #[command(
        after_help = "Examples:\n  haul list --state running --label team=red\n  haul list --search mirror --order \
                            end-time\n  haul list --limit 0 -o json | jq .job_id"
    )]
    List(With<ListArgs>),
    /// Show a job, or one task of it with its attempts, or what was submitted
    #[command(after_help = "Example:\n  haul show @last --spec > job.json && haul submit -f job.json")]
    Show(With<ShowArgs>),
    /// List the tasks of a job
    #[command(
        after_help = "Examples:\n  haul tasks @last --state failed\n  haul tasks @last --reason http-status --host \
                            example.com"
    )]
    Tasks(With<TasksArgs>),
    /// Print the result of a task: a fetched body, a downloaded file, or the items of a listing
    #[command(after_help = "Examples:\n  haul cat @last 0 > page.html\n  haul cat @last listing --items | jq .name")]
    Cat(With<CatArgs>),
    /// List what happened to a job, the last first
    #[command(after_help = "Example:\n  haul events @last --kind job-changed --kind job-ended")]
    Events(With<EventsArgs>),
    /// Stop a job's tasks and end it, or end some of its tasks
    #[command(after_help = "Examples:\n  haul cancel @last\n  haul cancel @last --task 7 --task 9")]
    Cancel(With<CancelArgs>),
    /// Pause a job: running tasks stop at a checkpoint
    #[command(after_help = "Example:\n  haul pause @last")]
    Pause(With<JobRef>),
    /// Resume a paused job
    #[command(after_help = "Example:\n  haul resume @last")]
    Resume(With<JobRef>),
    /// Run failed and cancelled tasks of an ended job again
    #[command(after_help = "Example:\n  haul retry @last --reason http-status --host example.com")]
    Retry(With<RetryArgs>),
    /// Try tasks that wait for their next attempt again, now
    #[command(after_help = "Examples:\n  haul retry-now @last\n  haul retry-now @last --host example.com")]
    RetryNow(With<RetryNowArgs>),
    /// Pause, resume, cancel, retry or delete all jobs that match
    #[command(
        after_help = "Examples:\n  haul control cancel --label team=red --state running\n  haul control delete --search \
                            nightly --yes"
    )]
    Control(With<ControlArgs>),
    /// Change the title, labels, priority or concurrency of a job
    #[command(after_help = "Example:\n  haul update @last --priority 5 --label team=red")]
    Update(With<UpdateArgs>),
    /// Delete an ended job
    #[command(after_help = "Examples:\n  haul delete @last\n  haul delete @last --files")]
    Delete(With<DeleteArgs>),
    /// Show or change the server's limits
    #[command(after_help = "Examples:\n  haul limits --max-per-host 4\n  haul limits --host example.com \
                            --requests-per-second 2")]
    Limits(With<LimitsArgs>),
    /// List the hosts that the server talks to, or end the pause of one
    #[command(after_help = "Examples:\n  haul hosts\n  haul hosts resume example.com:443")]
    Hosts(With<HostsArgs>),
    /// Show the server's version, limits and load
    #[command(after_help = "Examples:\n  haul info\n  haul info -o json | jq .version")]
    Info(With<Nothing>),
    /// Shut the server down as SIGTERM does: running tasks stop at a checkpoint
    #[command(after_help = "Example:\n  haul drain")]
    Drain(With<Nothing>),
    /// Show as whom the server knows you, and what you may do
    #[command(after_help = "Examples:\n  haul whoami\n  haul whoami --token-file token")]
    Whoami(With<Nothing>),
    /// Print completions for a shell
    #[command(hide = true, after_help = "Example:\n  haul completions bash > /etc/bash_completion.d/haul")]
    Completions(CompletionsArgs),
    /// Write the manual, a page for each command, into a directory
    #[command(hide = true, after_help = "Example:\n  mkdir man && haul man man && man -l man/haul.1")]
    Man(ManArgs),
    /// Make, list and revoke tokens
    #[command(subcommand, after_help = "Example:\n  haul token create ci --grant submit > token")]
    Token(TokenCommand),
    /// Make, list, change and delete principals, who call the server
    #[command(subcommand, after_help = "Example:\n  haul principal list")]
    Principal(PrincipalCommand),
    /// Make, list, change and delete credentials: secrets that the server sends to origins
    #[command(
        subcommand,
        after_help = "Example:\n  haul credential set api --host api.example.com --bearer-from token.txt"
    )]
    Credential(CredentialCommand),
    /// Make, list, change and delete tenants, whose jobs and files are kept apart
    #[command(subcommand, after_help = "Example:\n  haul tenant create acme")]
    Tenant(TenantCommand),
    /// Show who changed what and what was refused, or verify that the record is complete
    Audit(AuditCommand),
    /// Change the key that seals secrets in the database
    #[command(subcommand, after_help = "Example:\n  haul key rotate")]
    Key(KeyCommand),
    /// Copy a data directory, whether or not a server uses it
    #[command(after_help = "Example:\n  haul backup --data-dir /var/lib/haul /backup/haul-2026-11-26")]
    Backup(BackupArgs),
    /// Check a data directory, whether or not a server uses it; exit 0 when nothing is wrong, 1 when something is
    #[command(after_help = "Example:\n  haul check --data-dir /var/lib/haul")]
    Check(CheckArgs),
}

/// The commands as the help groups them.
const GROUPS: &[(&str, &[&str])] = &[
    ("Run", &["serve", "get"]),
    ("Submit", &["submit", "add", "seal"]),
    ("Look", &["top", "list", "show", "tasks", "events", "watch", "wait", "cat"]),
    ("Control", &["cancel", "pause", "resume", "retry", "retry-now", "update", "delete", "control"]),
    ("Operate", &["info", "limits", "hosts", "drain", "backup", "check"]),
    ("Access", &["whoami", "token", "principal", "tenant", "credential", "audit", "key"]),
];

/// The least columns for a help with texts beside the options.
const HELP_BESIDE_MIN: usize = 60;

/// Cells before the description of a command: two of margin, the longest name and a gap.
const ABOUT_INDENT: usize = 14;

/// Returns the command line, with its commands in groups, for a screen of so many columns.
pub(crate) fn command(columns: usize) -> clap::Command {
    let command = Line::command();
    let mut groups = String::new();
    let about = |name: &str| {
        let found = command.get_subcommands().find(|sub| sub.get_name() == name);
        found.and_then(clap::Command::get_about).map(ToString::to_string).unwrap_or_default()
    };
    for (group, names) in GROUPS {
        let _ = writeln!(groups, "{group}:");
        for name in *names {
            let line = term::line::Line::from(format!("  {name:<10}  {}", about(name)));
            for line in line.folded(columns, ABOUT_INDENT) {
                let _ = writeln!(groups, "{}", line.rendered(false));
            }
        }
        groups.push('\n');
    }
    let template =
        format!("{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{groups}Options:\n{{options}}{{after-help}}");
    let more = "Options but the last two are for commands that ask a server, which `serve`, `get`, `backup` and `check` do \
                not. `haul COMMAND --help` has the options of a command, and examples.";
    let command = command.term_width(columns).help_template(template).after_help(more).subcommand_required(true);
    let command = with_negative_numbers(command);
    if columns < HELP_BESIDE_MIN { with_help_below(command) } else { command }
}

/// Puts the text of each option below it: beside it there is no room for words.
fn with_help_below(command: clap::Command) -> clap::Command {
    command.next_line_help(true).mut_subcommands(with_help_below)
}

/// Lets every option take a negative number, so that what is wrong with it is said; without that clap takes `-1` for an
/// option and advises a `--` that does not help.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let admit = |arg: clap::Arg| {
        let is_time = arg.get_value_names().is_some_and(|names| names.iter().any(|name| name.as_str() == "TIME"));
        match arg.get_action().takes_values() {
            // `-1s` is no number.
            true if is_time => arg.allow_hyphen_values(true),
            true => arg.allow_negative_numbers(true),
            false => arg,
        }
    };
    command.mut_args(admit).mut_subcommands(with_negative_numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_stands_in_one_group() {
        let command = command(100);
        let mut named: Vec<&str> =
            command.get_subcommands().filter(|it| !it.is_hide_set()).map(clap::Command::get_name).collect();
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        named.sort_unstable();
        grouped.sort_unstable();
        assert_eq!(named, grouped, "give each command a place in GROUPS");
        command.debug_assert();
    }

    #[test]
    fn each_command_has_an_example() {
        fn walk(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
                let path = format!("{path} {}", sub.get_name());
                let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                let examples = help.split("\n\n").find(|part| part.starts_with("Example")).unwrap_or_default();
                let own = examples.split(['\n', '|', '&']).map(str::trim).filter(|line| line.starts_with(&path));
                assert!(own.count() > 0, "`{path} --help` has no example; add one to its `after_help`");
                walk(sub, &path);
            }
        }
        let mut command = command(100);
        command.build();
        walk(&command, "haul");
    }
}
