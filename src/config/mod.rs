//! The settings of `haul serve`: as they are given ([`raw`]), and as the server uses them ([`ServeConfig`]).
//!
//! Everything that can be wrong with a setting is found here, all of it at once, before anything is opened. This module
//! must not know what the settings do.

pub mod choices;
mod directories;
pub mod file;
pub mod keys;
pub mod network;
pub mod raw;
pub mod sizes;
pub mod tls;
pub(crate) mod values;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};

use crate::config::choices::{FileDurability, LogFormat};
use crate::config::directories::{directories, tenant_directories};
use crate::config::keys::DataKey;
use crate::config::network::{Network, Place};
use crate::config::raw::ServeArgs;
use crate::config::values::{
    duration, egress_proxy, hosts, hosts_and_ports, lifetime, metrics_hosts, nat64_prefixes, networks, ports,
};
use crate::model::limits::{Limits, LimitsPatch};
use crate::model::secret::Secret;
use crate::model::text::message;

pub use crate::config::directories::{DATA_DIR_DEFAULT, DOWNLOAD_DIR_DEFAULT};

/// How long a drain may take when nothing is said.
pub const SHUTDOWN_GRACE_DEFAULT: Duration = Duration::from_secs(10);
/// Memory for tasks that wait for their turn, in bytes, when nothing is said.
pub const QUEUE_BYTES_DEFAULT: u64 = 64 << 20;
/// The share of the attempts of a large job that are traced when nothing is said.
const TRACE_RATIO_DEFAULT: f64 = 0.01;
/// The least that may be said: room for the pages that are being read.
const QUEUE_BYTES_MIN: u64 = 4 << 20;
/// How long the secrets of a job are kept after its end when nothing is said.
pub const SECRET_RETENTION_DEFAULT: Duration = Duration::from_hours(24);
/// How long rows of the audit are kept when nothing is said.
pub const AUDIT_RETENTION_DEFAULT: Duration = Duration::from_hours(365 * 24);
/// The longest `Retry-After` that is obeyed when nothing is said.
pub const RETRY_AFTER_DEFAULT_MAX: Duration = Duration::from_hours(1);

/// Why the settings will not do: one line for each that is wrong.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// The settings of a server.
#[derive(Clone, Debug, PartialEq)]
pub struct ServeConfig {
    /// Where it listens, and for whom.
    pub network: Network,
    /// Hosts that have metrics of their own: `name` or `name:port`.
    pub metrics_hosts: Vec<String>,
    /// Where its database is, as an absolute path.
    pub data_dir: PathBuf,
    /// Where downloads go, as an absolute path; neither within `data_dir` nor around it.
    pub download_dir: PathBuf,
    /// Where downloads of some tenants go, as absolute paths; none within another of these directories.
    pub tenant_dirs: BTreeMap<String, PathBuf>,
    /// What was said about limits.
    pub limits: LimitSettings,
    /// What the server may connect to.
    pub access: Access,
    /// What tasks may say about how they are sent.
    pub client_options: ClientOptions,
    /// Parameters of queries whose values are secret, beside those that always are.
    pub redact_query_params: Vec<String>,
    /// How long a drain may take.
    pub shutdown_grace: Duration,
    /// Whether a finished download survives a power cut.
    pub file_durability: FileDurability,
    /// The longest `Retry-After` that is obeyed.
    pub retry_after_max: Duration,
    /// How the log is written.
    pub log_format: LogFormat,
    /// Of how many attempts of a large job that did not fail a collector of traces is told, from 0 to 1.
    pub trace_ratio: f64,
    /// Bytes that downloads leave free on their file system; `None`: 1 GiB or 5 % of it, whichever is less.
    pub disk_reserve: Option<u64>,
    /// The most bytes of a download whose task sets no limit of its own; `None`: any number.
    pub max_download_bytes: Option<u64>,
    /// Memory for tasks that wait for their turn, in bytes, roughly.
    pub queue_bytes: u64,
    /// Where the key of the secrets in the database is; `None`: in the data directory.
    pub data_key: Option<DataKey>,
    /// Whether secrets are given up whose key is lost.
    pub forget_sealed: bool,
    /// How long the secrets of a job are kept after its end; `None`: as long as the job.
    pub secret_retention: Option<Duration>,
    /// How long rows of the audit are kept.
    pub audit_retention: Duration,
    /// Where the audit is written beside the database.
    pub audit_log: Option<AuditLog>,
}

/// Where the audit is written beside the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditLog {
    /// To stderr.
    Stderr,
    /// To the end of this file, as an absolute path.
    File(PathBuf),
}

/// What the server may connect to. Deny goes before allow, allow before the rule on private networks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Access {
    /// Whether addresses that are not public may be dialled.
    pub allow_private_networks: bool,
    /// Networks that may be dialled, private ones too.
    pub allow_networks: Vec<IpNet>,
    /// Networks that must not be dialled.
    pub deny_networks: Vec<IpNet>,
    /// Hosts by name that may be asked though their addresses are private. In lower case, without port.
    pub allow_hosts: Vec<String>,
    /// Hosts by name that must not be asked.
    pub deny_hosts: Vec<String>,
    /// Ports that may be dialled though another protocol than HTTP has them.
    pub allow_ports: Vec<u16>,
    /// Prefixes by which the network translates to IPv4.
    pub nat64_prefixes: Vec<Ipv6Net>,
    /// The proxy that all requests of tasks go through.
    pub egress_proxy: Option<Secret>,
}

/// What tasks may say about how they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientOptions {
    /// Whether they may name a proxy.
    pub proxy: bool,
    /// Whether they may accept any certificate.
    pub skip_verify: bool,
}

/// What the settings say about limits. `UpdateLimits` changes what is stored, and that stays over a restart; the command
/// line and the environment win over it, the file only stands in for what nobody ever set.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitSettings {
    /// By flag or environment.
    pub max_concurrent_tasks: Option<u32>,
    /// By flag or environment.
    pub max_per_host: Option<u32>,
    /// The defaults, with what the file says.
    pub initial: Limits,
}

impl LimitSettings {
    /// The limits to start with, over those that are stored.
    pub fn over(&self, stored: Option<LimitsPatch>) -> Limits {
        let base = stored.unwrap_or_default().over(&self.initial);
        Limits {
            max_concurrent_tasks: self.max_concurrent_tasks.unwrap_or(base.max_concurrent_tasks),
            max_per_host: self.max_per_host.unwrap_or(base.max_per_host),
            ..base
        }
    }
}

impl ServeConfig {
    /// The settings of a command line (with its environment) over its file over the defaults.
    pub fn load(args: &ServeArgs) -> Result<ServeConfig, ConfigError> {
        let file = match &args.config {
            Some(path) => file::read_file(path).map_err(|error| ConfigError(vec![error]))?,
            None => ServeArgs::default(),
        };
        Self::resolve(args, &file)
    }

    /// As [`ServeConfig::load`], with what the file says in hand.
    pub fn resolve(args: &ServeArgs, file: &ServeArgs) -> Result<ServeConfig, ConfigError> {
        let mut wrong = Vec::new();
        let merged = args.over(file);
        let limits = LimitSettings {
            max_concurrent_tasks: args.max_concurrent_tasks,
            max_per_host: args.max_per_host,
            initial: initial_limits(file),
        };
        for (name, value) in
            [("max_concurrent_tasks", merged.max_concurrent_tasks), ("max_per_host", merged.max_per_host)]
        {
            if value == Some(0) {
                wrong.push(format!("`{name}` is 0, so nothing would ever run; set it to at least 1"));
            }
        }
        if merged.queue_bytes.is_some_and(|bytes| bytes < QUEUE_BYTES_MIN) {
            wrong.push(format!(
                "`queue_bytes` is too small for the pages that are read; set it to at least {QUEUE_BYTES_MIN}"
            ));
        }
        if merged.trace_ratio.is_some_and(|ratio| !(0.0..=1.0).contains(&ratio)) {
            wrong.push("`trace_ratio` must be a number from 0 to 1".to_owned());
        }
        let (data_dir, download_dir) = directories(&merged, &mut wrong);
        let network = Network::resolve(&merged, &mut wrong);
        let is_local = network.listen.iter().all(Place::is_near);
        let tenant_dirs = tenant_directories(&merged, &data_dir, &download_dir, &mut wrong);
        let config = ServeConfig {
            network,
            metrics_hosts: metrics_hosts(merged.metrics_hosts.as_deref(), &mut wrong),
            data_dir,
            download_dir,
            tenant_dirs,
            limits,
            access: access(&merged, &mut wrong),
            client_options: client_options(&merged, is_local),
            redact_query_params: merged.redact_query_params.clone().unwrap_or_default(),
            shutdown_grace: duration(
                "shutdown_grace",
                merged.shutdown_grace.as_deref(),
                SHUTDOWN_GRACE_DEFAULT,
                &mut wrong,
            ),
            file_durability: merged.file_durability.unwrap_or_default(),
            retry_after_max: duration(
                "retry_after_max",
                merged.retry_after_max.as_deref(),
                RETRY_AFTER_DEFAULT_MAX,
                &mut wrong,
            ),
            log_format: merged.log_format.unwrap_or_default(),
            trace_ratio: merged.trace_ratio.unwrap_or(TRACE_RATIO_DEFAULT),
            disk_reserve: merged.disk_reserve,
            max_download_bytes: merged.max_download_bytes,
            queue_bytes: merged.queue_bytes.unwrap_or(QUEUE_BYTES_DEFAULT),
            data_key: DataKey::resolve(&merged, &mut wrong),
            forget_sealed: merged.forget_sealed.unwrap_or(false),
            secret_retention: match merged.secret_retention.as_deref() {
                Some("never") => None,
                text => Some(lifetime("secret_retention", text, SECRET_RETENTION_DEFAULT, &mut wrong)),
            },
            audit_retention: lifetime(
                "audit_retention",
                merged.audit_retention.as_deref(),
                AUDIT_RETENTION_DEFAULT,
                &mut wrong,
            ),
            audit_log: merged.audit_log.as_deref().and_then(|text| audit_log(text, &mut wrong)),
        };
        if wrong.is_empty() { Ok(config) } else { Err(ConfigError(wrong.iter().map(|it| message(it)).collect())) }
    }
}

/// Reads what tasks may say about how they are sent.
fn client_options(merged: &ServeArgs, is_local: bool) -> ClientOptions {
    ClientOptions {
        proxy: merged.allow_client_proxy.unwrap_or(is_local) && merged.egress_proxy.is_none(),
        skip_verify: merged.allow_insecure_skip_verify.unwrap_or(is_local),
    }
}

/// Reads what tasks may reach.
fn access(merged: &ServeArgs, wrong: &mut Vec<String>) -> Access {
    Access {
        allow_private_networks: merged.allow_private_networks.unwrap_or(false),
        allow_networks: networks("allow_networks", merged.allow_networks.as_deref(), wrong),
        deny_networks: networks("deny_networks", merged.deny_networks.as_deref(), wrong),
        allow_hosts: hosts_and_ports("allow_hosts", merged.allow_hosts.as_deref(), wrong),
        deny_hosts: hosts("deny_hosts", merged.deny_hosts.as_deref(), wrong),
        allow_ports: ports(merged.allow_ports.as_deref(), wrong),
        nat64_prefixes: nat64_prefixes(merged.nat64_prefixes.as_deref(), wrong),
        egress_proxy: merged.egress_proxy.as_deref().and_then(|text| egress_proxy(text, wrong)),
    }
}

fn audit_log(text: &str, wrong: &mut Vec<String>) -> Option<AuditLog> {
    if text == "stderr" {
        return Some(AuditLog::Stderr);
    }
    let path = std::path::absolute(text).ok().map(AuditLog::File);
    if path.is_none() {
        wrong.push("`audit_log` is empty; name a file, or `stderr`".to_owned());
    }
    path
}

fn initial_limits(file: &ServeArgs) -> Limits {
    let defaults = Limits::default();
    Limits {
        max_concurrent_tasks: file.max_concurrent_tasks.unwrap_or(defaults.max_concurrent_tasks),
        max_per_host: file.max_per_host.unwrap_or(defaults.max_per_host),
        ..defaults
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn args(file: &str) -> ServeArgs {
        file::parse_file(file, Path::new("haul.toml")).unwrap()
    }

    #[test]
    fn defaults_do() {
        let config = ServeConfig::resolve(&ServeArgs::default(), &ServeArgs::default()).unwrap();
        assert_eq!(config.network.listen[0].to_string(), network::LISTEN_DEFAULT);
        assert_eq!(config.shutdown_grace, Duration::from_secs(10));
        assert_eq!(config.limits.over(None), Limits::default());
        assert!(config.data_dir.is_absolute() && config.download_dir.is_absolute());
        assert_eq!(config.access, Access::default());
    }

    #[test]
    fn the_command_line_is_stronger_than_the_file() {
        let file = args("listen = '127.0.0.1:1'\nmax_per_host = 2\nmax_concurrent_tasks = 3\nshutdown_grace = '1m'");
        let line = args("listen = 'localhost:0'\nmax_per_host = 5");
        let config = ServeConfig::resolve(&line, &file).unwrap();
        assert_eq!(config.network.listen[0].to_string(), "127.0.0.1:0");
        assert_eq!(config.shutdown_grace, Duration::from_mins(1));
        let limits = |limits: Limits| (limits.max_concurrent_tasks, limits.max_per_host);
        assert_eq!(limits(config.limits.over(None)), (3, 5));
        let stored = LimitsPatch { max_concurrent_tasks: Some(9), max_per_host: Some(9), ..LimitsPatch::default() };
        assert_eq!(limits(config.limits.over(Some(stored))), (9, 5));
        let stored = LimitsPatch { bytes_per_second: Some(7), ..LimitsPatch::default() };
        assert_eq!(limits(config.limits.over(Some(stored))), (3, 5), "what nobody set is the file's");
    }

    #[test]
    fn lists_are_read() {
        let file = args(
            "allow_networks = ['10.1.2.3/8', '::1']\ndeny_networks = ['192.0.2.7']\ndeny_hosts = ['Bücher.Example']\n\
             allow_hosts = ['DB.internal:5432', '*.corp.example', '[::1]']",
        );
        let access = ServeConfig::resolve(&ServeArgs::default(), &file).unwrap().access;
        let text = |networks: &[IpNet]| networks.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(text(&access.allow_networks), ["10.0.0.0/8", "::1/128"]);
        assert_eq!(text(&access.deny_networks), ["192.0.2.7/32"]);
        assert_eq!(access.deny_hosts, ["xn--bcher-kva.example"]);
        assert_eq!(access.allow_hosts, ["db.internal:5432", "*.corp.example", "[::1]"]);
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let file = args(
            "listen = 'here'\nmax_per_host = 0\ndata_dir = '/x'\ndownload_dir = '/x/y'\nallow_networks = ['10/33']\n\
             deny_hosts = ['http://x']\nshutdown_grace = 'soon'",
        );
        let error = ServeConfig::resolve(&ServeArgs::default(), &file).unwrap_err();
        insta::assert_snapshot!(error);
    }
}
