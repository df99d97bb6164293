//! Why a server ends other than by request.

use crate::engine;
use crate::listen::descriptors;
use crate::listen::tls::TlsError;
use crate::store::StoreError;
use crate::store::sqlite::OpenError;
use crate::telemetry::traces::TracesError;

/// Why a server did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store could not be opened.
    #[error(transparent)]
    Open(#[from] Box<OpenError>),
    /// The download directory, or that of contents, could not be used.
    #[error("{0}; give this user the right to use it, or choose another directory")]
    Directory(String),
    /// The engine did not start.
    #[error(transparent)]
    Start(#[from] engine::StartError),
    /// The store failed while the server ran.
    #[error("{0}; the server exits, so that a restart reads from the database what is true")]
    Store(#[from] StoreError),
    /// That tokens are needed could not be stored.
    #[error(transparent)]
    Engine(#[from] engine::command::EngineError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Other machines can reach it, and nothing says who calls.
    #[error(
        "`{0}` is `{1}`, which other machines can reach, and nobody could sign in: make a token first, by `haul token \
         create NAME --grant operator --offline`, or name who has which certificate by `[[identity]]` in the settings file"
    )]
    NobodySignsIn(&'static str, String),
    /// Traces cannot be sent.
    #[error(transparent)]
    Traces(#[from] TracesError),
    /// A place could not be listened at.
    #[error("cannot listen on `{1}`: {2}; choose another `--{0}`")]
    Listen(&'static str, String, std::io::Error),
    /// The system grants too little.
    #[error(transparent)]
    Descriptors(#[from] descriptors::TooFew),
    /// A socket could not be given to its group.
    #[error(
        "`socket_group` is a group that this user is not in (gid {0}), so no socket can be given to it; name a group of this \
         user, or put the user into that one"
    )]
    SocketGroup(u32),
    /// The descriptors that are built in do not fit together.
    #[error("reflection cannot be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}
