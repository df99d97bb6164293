//! What several commands take: the server, the format of the output, the job.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::model::secret::Secret;

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

/// What the path of a server's socket stands behind.
pub(crate) const SOCKET: &str = "unix:";

/// Options of every command that talks to a server.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Remote {
    /// The server, as HOST:PORT, https://HOST:PORT or unix:PATH [env: `HAUL_SERVER`] [default: 127.0.0.1:4285]
    #[arg(long, value_name = "ADDR", help_heading = "Server and output")]
    pub(crate) server: Option<String>,
    /// Print for people, or the API's JSON, one document a line [default: text]
    #[arg(short, long, value_name = "FORMAT", hide_possible_values = true, help_heading = "Server and output")]
    pub(crate) output: Option<Format>,
    /// Authorities that the server's certificate is verified against, in PEM [env: `HAUL_CA`] [default: those of the system]
    #[arg(long, value_name = "FILE", help_heading = "Server and output")]
    pub(crate) ca: Option<PathBuf>,
    /// The certificate to show to the server, in PEM [env: `HAUL_CERT`]
    #[arg(long, value_name = "FILE", help_heading = "Server and output")]
    pub(crate) cert: Option<PathBuf>,
    /// The key of that certificate, in PEM [env: `HAUL_CERT_KEY`]
    #[arg(long, value_name = "FILE", help_heading = "Server and output")]
    pub(crate) cert_key: Option<PathBuf>,
    /// A file with the token to send [env: `HAUL_TOKEN_FILE`; `HAUL_TOKEN` is the token itself]
    #[arg(long, value_name = "FILE", help_heading = "Server and output")]
    pub(crate) token_file: Option<PathBuf>,
    /// The tenant whose jobs these are; `*` for all, to list and watch [env: `HAUL_TENANT`] [default: the caller's]
    #[arg(long, value_name = "NAME", help_heading = "Server and output")]
    pub(crate) tenant: Option<String>,
}

/// A server, and how it and its client prove who they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Where {
    /// The server, as it was given.
    pub(crate) server: String,
    /// Authorities that vouch for it; `None`: those of the system.
    pub(crate) ca: Option<PathBuf>,
    /// The certificate of the client.
    pub(crate) cert: Option<PathBuf>,
    /// The key of that certificate.
    pub(crate) cert_key: Option<PathBuf>,
    /// The token to send.
    pub(crate) token: Option<TokenSource>,
    /// The tenant to name.
    pub(crate) tenant: Option<String>,
}

impl Where {
    /// Returns whether anything is given that only TLS has a use for.
    pub(crate) fn has_certificates(&self) -> bool {
        self.ca.is_some() || self.cert.is_some() || self.cert_key.is_some()
    }
}

/// Where a token is. There is no option for the token itself, since lists of processes show those.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TokenSource {
    /// In this file.
    File(PathBuf),
    /// In the environment.
    Text(Secret),
}

/// The variables of the environment that clients of a server read.
const VARIABLES: [&str; 7] =
    ["HAUL_SERVER", "HAUL_TOKEN", "HAUL_TOKEN_FILE", "HAUL_TENANT", "HAUL_CA", "HAUL_CERT", "HAUL_CERT_KEY"];

/// Fails where a variable holds bytes that are no text: it would be taken as not set, and another server or caller be meant.
pub(crate) fn check_variables() -> Result<(), Usage> {
    let is_wrong = |name: &&&str| std::env::var_os(name).is_some_and(|value| value.to_str().is_none());
    match VARIABLES.iter().find(is_wrong) {
        Some(name) => Err(Usage(format!("`{name}` is not UTF-8; correct the variable"))),
        None => Ok(()),
    }
}

/// A variable of the environment that says something.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Remote {
    /// Returns an option about a server that is given, for commands that ask none.
    pub(crate) fn of_server(&self) -> Option<&'static str> {
        let given = [
            ("--server", self.server.is_some()),
            ("--ca", self.ca.is_some()),
            ("--cert", self.cert.is_some()),
            ("--cert-key", self.cert_key.is_some()),
            ("--token-file", self.token_file.is_some()),
        ];
        given.into_iter().find(|(_, is_given)| *is_given).map(|(name, _)| name)
    }

    /// The server and the format that are meant: these, else those of `weaker`, else the environment's and the defaults.
    pub(crate) fn over(self, weaker: &Remote) -> (Where, Format) {
        let stated = self.server.or_else(|| weaker.server.clone());
        let server = stated.or_else(|| environment("HAUL_SERVER")).unwrap_or_else(|| SERVER_DEFAULT.to_owned());
        // A socket has no TLS. What the environment says is for the server that it names, and must not keep the server's own
        // user from the socket.
        let is_socket = server.starts_with(SOCKET);
        let file = |own: Option<PathBuf>, weaker: &Option<PathBuf>, name| {
            let of_environment = || environment(name).filter(|_| !is_socket).map(PathBuf::from);
            own.or_else(|| weaker.clone()).or_else(of_environment)
        };
        let stated = self.token_file.or_else(|| weaker.token_file.clone());
        let text = || environment("HAUL_TOKEN").map(|text| TokenSource::Text(Secret::new(text)));
        let named = || environment("HAUL_TOKEN_FILE").map(|path| TokenSource::File(path.into()));
        let place = Where {
            server,
            token: stated.map(TokenSource::File).or_else(text).or_else(named),
            ca: file(self.ca, &weaker.ca, "HAUL_CA"),
            cert: file(self.cert, &weaker.cert, "HAUL_CERT"),
            cert_key: file(self.cert_key, &weaker.cert_key, "HAUL_CERT_KEY"),
            tenant: self.tenant.or_else(|| weaker.tenant.clone()).or_else(|| environment("HAUL_TENANT")),
        };
        (place, self.output.or(weaker.output).unwrap_or_default())
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

/// What `haul completions` takes.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// What `haul man` takes.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Where the pages go; it is there already
    pub(crate) dir: PathBuf,
}
