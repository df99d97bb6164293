//! What several commands take: the server, the format of the output, the job.

use clap::{Args, ValueEnum};

/// The command line asks for something that cannot be; the exit code is 2. May have several lines.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// How a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// The API's JSON, one document a line
    Json,
}

/// The server that a client talks to when nothing else is said.
const SERVER_DEFAULT: &str = "127.0.0.1:4285";

/// Options of every command that talks to a server.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Remote {
    /// The server, as HOST:PORT [env: `HAUL_SERVER`] [default: 127.0.0.1:4285]
    #[arg(long, value_name = "ADDR", help_heading = "Server and output")]
    pub(crate) server: Option<String>,
    /// Print for people, or the API's JSON, one document a line [default: text]
    #[arg(short, long, value_name = "FORMAT", hide_possible_values = true, help_heading = "Server and output")]
    pub(crate) output: Option<Format>,
}

impl Remote {
    /// The server and the format that are meant: these, else those of `weaker`, else the environment's and the defaults.
    pub(crate) fn over(self, weaker: &Remote) -> (String, Format) {
        let stated = self.server.or_else(|| weaker.server.clone());
        let environment = || std::env::var("HAUL_SERVER").ok().filter(|server| !server.is_empty());
        let server = stated.or_else(environment).unwrap_or_else(|| SERVER_DEFAULT.to_owned());
        (server, self.output.or(weaker.output).unwrap_or_default())
    }
}

/// The arguments of a command that talks to a server.
#[derive(Clone, Debug, Args)]
pub(crate) struct With<A: Args> {
    #[command(flatten)]
    pub(crate) args: A,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

/// A command without arguments of its own.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Nothing {}

/// The job that a command is about.
#[derive(Clone, Debug, Args)]
pub(crate) struct JobRef {
    /// The job: its id, a unique beginning or end of it, or `@last`, the newest job
    #[arg(value_name = "JOB")]
    pub(crate) job: String,
}
