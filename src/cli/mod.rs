//! The command line: one file per command. `serve` and `get` run an engine in this process; the rest are clients of a
//! server and speak its contract.
//!
//! Exit codes: 0 when what was asked for is done, 1 when it failed, 2 when the command line is wrong.

mod add;
mod admin;
mod args;
mod audit;
mod backup;
mod check;
mod chunks;
mod client;
mod content;
mod control;
mod credential;
mod events;
mod faults;
mod feed;
mod get;
mod hints;
mod imported;
mod jobref;
mod jobs;
mod json;
mod labels;
mod limits;
mod line;
mod lists;
mod manual;
mod many;
mod pages;
mod patience;
mod principal;
mod reference;
mod refusal;
mod serve;
mod states;
mod submit;
mod task;
mod tenant;
mod term;
mod token;
mod top;
mod urls;
mod watch;
mod which;

use std::process::ExitCode;

use clap::FromArgMatches as _;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::admin::KeyCommand;
use crate::cli::args::{Remote, Usage};
use crate::cli::client::open;
use crate::cli::line::{Command, Line};
use crate::cli::patience::Patience;
use crate::cli::term::screen;

pub use reference::reference;

/// The most columns that help takes: longer lines are hard to read.
const HELP_COLUMNS: usize = 100;

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    // One provider of TLS in the whole process, chosen before anything can ask for one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let columns = screen::stdout_size().map_or(HELP_COLUMNS, |size| size.columns.min(HELP_COLUMNS));
    let grammar = line::command(columns);
    let matches = grammar.clone().try_get_matches().unwrap_or_else(|error| refused(&error, &grammar));
    let is_typed = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
    let remote_flag = [
        ("server", "--server"),
        ("output", "--output"),
        ("ca", "--ca"),
        ("cert", "--cert"),
        ("cert_key", "--cert-key"),
        ("token_file", "--token-file"),
        ("tenant", "--tenant"),
    ]
    .into_iter()
    .find(|(name, _)| is_typed(name));
    let line = Line::from_arg_matches(&matches).unwrap_or_else(|error| refused(&error, &grammar));
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(threads()).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error).context("cannot start the runtime")),
    };
    {
        let _runtime = runtime.enter();
        // A write beyond what files may have (`ulimit -f`) fails then, instead of ending the process. What is listened for once does
        // not end it any more.
        let _ = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()));
    }
    let code = runtime.block_on(Box::pin(run(line, remote_flag.map(|(_, flag)| flag))));
    // Whatever was to be waited for has been. Files of deleted jobs that are being removed, or a file system that does not answer, do
    // not hold up the exit: what is left of them goes after the next start.
    runtime.shutdown_background();
    code.unwrap_or_else(|error| failed(&error))
}

/// Runs a command. `remote_flag` is an option of the clients of a server that stands before the command.
async fn run(line: Line, remote_flag: Option<&str>) -> anyhow::Result<ExitCode> {
    let is_local = matches!(
        line.command,
        Command::Serve(_)
            | Command::Get(_)
            | Command::Backup(_)
            | Command::Check(_)
            | Command::Completions(_)
            | Command::Man(_)
    );
    if let (true, Some(flag)) = (is_local, remote_flag) {
        let local = "`serve`, `get`, `backup` and `check` are not";
        return Err(Usage(format!("`{flag}` is for the clients of a server, which {local}")).into());
    }
    let top = &line.remote;
    match line.command {
        Command::Serve(args) => serve::run(&args).await,
        Command::Get(args) => get::run(*args).await,
        Command::Backup(args) => backup::run(&args).await,
        Command::Check(args) => check::run(&args).await,
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
        Command::Submit(with) => {
            let (client, format, args) = open(top, *with)?;
            submit::run(&client, format, args).await
        }
        Command::Add(with) => {
            let (client, format, args) = open(top, with)?;
            add::run(&client, format, args).await
        }
        Command::Watch(with) => {
            let (client, format, args) = open(top, with)?;
            let job_id = jobref::resolve(&client, &args.job).await?;
            screen::fail_unread();
            watch::follow(&client, format, &job_id, Patience::default()).await
        }
        Command::Wait(with) => {
            let (client, format, args) = open(top, with)?;
            watch::wait(&client, format, args).await
        }
        Command::Token(command) => Box::pin(token::run(top, command)).await,
        Command::Principal(command) => Box::pin(principal::run(top, command)).await,
        Command::Credential(command) => Box::pin(credential::run(top, command)).await,
        Command::Tenant(command) => Box::pin(tenant::run(top, command)).await,
        Command::Audit(command) => Box::pin(audit::run(top, command)).await,
        Command::Key(KeyCommand::Rotate(with)) => {
            let (client, format, args) = open(top, with)?;
            admin::rotate_key(&client, format, args).await
        }
        looks => Box::pin(look_or_control(top, looks)).await,
    }
}

/// Runs a command that asks a server once.
async fn look_or_control(top: &Remote, command: Command) -> anyhow::Result<ExitCode> {
    /// Opens the connection of a command, and hands it to the function that runs it.
    macro_rules! with {
        ($with:expr, $run:path) => {{
            let (client, format, args) = open(top, $with)?;
            $run(&client, format, args).await
        }};
    }
    match command {
        Command::List(it) => with!(it, jobs::list),
        Command::Show(it) => with!(it, jobs::show),
        Command::Tasks(it) => with!(it, jobs::tasks),
        Command::Cat(it) => with!(it, content::cat),
        Command::Seal(it) => with!(it, control::seal),
        Command::Cancel(it) => with!(it, control::cancel),
        Command::Pause(it) => with!(it, control::pause),
        Command::Resume(it) => with!(it, control::resume),
        Command::Retry(it) => with!(it, control::retry),
        Command::RetryNow(it) => with!(it, control::retry_now),
        Command::Control(it) => with!(it, many::control),
        Command::Events(it) => with!(it, events::events),
        Command::Update(it) => with!(it, control::update),
        Command::Delete(it) => with!(it, control::delete),
        Command::Limits(it) => with!(it, limits::run),
        Command::Hosts(it) => with!(it, admin::hosts),
        Command::Top(it) => with!(it, top::run),
        Command::Info(it) => with!(it, admin::info),
        Command::Drain(it) => with!(it, admin::drain),
        Command::Whoami(it) => with!(it, principal::whoami),
        Command::Serve(_)
        | Command::Get(_)
        | Command::Backup(_)
        | Command::Check(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Submit(_)
        | Command::Add(_)
        | Command::Watch(_)
        | Command::Wait(_)
        | Command::Token(_)
        | Command::Principal(_)
        | Command::Credential(_)
        | Command::Tenant(_)
        | Command::Audit(_)
        | Command::Key(_) => Ok(ExitCode::SUCCESS),
    }
}

/// Prints help, or what is wrong with the arguments, and ends the process. An argument may be text of others, which a script
/// passed on.
fn refused(error: &clap::Error, grammar: &clap::Command) -> ! {
    if !error.use_stderr() {
        error.exit();
    }
    let mut grammar = grammar.clone();
    grammar.build();
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let help = error.render();
        screen::draw(&if screen::has_stderr_colours() { help.ansi().to_string() } else { help.to_string() });
        screen::say("");
        screen::say("haul: name one of these commands");
    } else {
        let typed: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
        screen::say(format!("haul: {}", refusal::reason(error, &grammar, &typed)));
    }
    std::process::exit(error.exit_code());
}

/// Calls, scheduling and answers need little; the transfers have threads of their own.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).div_ceil(2).clamp(1, 4)
}

/// Says why a command failed, and what its exit code is.
fn failed(error: &anyhow::Error) -> ExitCode {
    for (at, part) in format!("{error:#}").lines().enumerate() {
        let front = if at == 0 { "haul: " } else { "" };
        screen::say(format!("{front}{part}"));
    }
    if error.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}
