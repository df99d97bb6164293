//! What a server is made by.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::api::access::{CallBounds, Exposure, Policy};
use crate::api::client_options::ClientOptions;
use crate::config::LimitSettings;
use crate::config::network::Place;
use crate::files::Durability;
use crate::listen::ListenSettings;
use crate::listen::tls::TlsSettings;
use crate::model::browser::BrowserRules;
use crate::model::identity::Identities;
use crate::model::secret::Secret;
use crate::net::{EnvironmentProxies, Guard};
use crate::server::audit_log::AuditSink;
use crate::store::Retention;
use crate::store::sqlite::RootKeys;

/// What an engine needs to know.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// Where the database and fetched bodies are.
    pub data_dir: PathBuf,
    /// Where downloads go.
    pub download_dir: PathBuf,
    /// Where those of some tenants go, by their names.
    pub tenant_dirs: BTreeMap<String, PathBuf>,
    /// What is said about limits; what is not said is as it was stored.
    pub limits: LimitSettings,
    /// Which addresses may be dialled.
    pub guard: Guard,
    /// The proxies of requests whose tasks name none; `None`: they go directly.
    pub proxies: Option<Arc<EnvironmentProxies>>,
    /// Whether finished downloads are synced.
    pub file_durability: Durability,
    /// The longest pause that an origin may ask for.
    pub retry_after_max: Duration,
    /// How long a drain waits for requests that must not be sent twice.
    pub drain_patience: Duration,
    /// Bytes that downloads leave free on their file system; `None`: 1 GiB or 5 % of it, whichever is less.
    pub disk_reserve: Option<u64>,
    /// The most bytes of a download whose task sets no limit of its own; `None`: any number.
    pub max_download_bytes: Option<u64>,
    /// Whether partial downloads are found again by their URL and path, whatever job they belong to.
    pub parts_by_url: bool,
    /// Memory for tasks that wait for their turn, in bytes, roughly.
    pub queue_bytes: usize,
    /// Whether the database may be lost with the power: for one that is thrown away.
    pub scratch: bool,
    /// Where the key of the secrets in the database is.
    pub root_keys: RootKeys,
    /// How long it keeps what is not for ever.
    pub retention: Retention,
    /// The proxy that all requests of tasks go through.
    pub egress_proxy: Option<Secret>,
}

/// What a server needs to know.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// The engine's part.
    pub engine: EngineSettings,
    /// Where calls are accepted.
    pub listen: Vec<Place>,
    /// Where metrics and probes are served alone; `None`: where calls are accepted.
    pub metrics_listen: Option<SocketAddr>,
    /// Hosts that have metrics of their own.
    pub metrics_hosts: Vec<String>,
    /// The certificates to show and to accept; `None`: nothing is encrypted.
    pub tls: Option<TlsSettings>,
    /// Which principals are known by certificates and users of this machine.
    pub identities: Identities,
    /// How many may connect, and how long they may be silent.
    pub bounds: ListenSettings,
    /// How long a request that is not whole may wait for its next byte.
    pub request_body_idle: Duration,
    /// Which web pages may call.
    pub browsers: BrowserRules,
    /// Whether gRPC-Web is served.
    pub has_grpc_web: bool,
    /// Whether there is a dashboard.
    pub has_dashboard: bool,
    /// Who has to authenticate.
    pub policy: Policy,
    /// Who may call the methods by which the server describes itself.
    pub exposure: Exposure,
    /// Whether the methods of the server can be listed by reflection.
    pub has_reflection: bool,
    /// What was given up for other machines, as the contract names it.
    pub insecure: &'static str,
    /// The longest that a token may last.
    pub token_lifetime_max: Duration,
    /// How often somebody may call, and fail.
    pub call_bounds: CallBounds,
    /// The share of the attempts of a large job that are traced although they did not fail, from 0 to 1.
    pub trace_ratio: f64,
    /// How long a drain may take.
    pub shutdown_grace: Duration,
    /// Where the audit is written beside the database.
    pub audit_log: Option<AuditSink>,
    /// What tasks may say about how they are sent.
    pub client_options: ClientOptions,
}
