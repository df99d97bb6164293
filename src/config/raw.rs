//! Settings as they are given: the same struct for flags, environment and file, so that each can say what the others can.
//!
//! Texts stay texts here; [`crate::config::ServeConfig`] reads them, wherever they came from, with one message for each
//! mistake.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;
use serde::Deserialize;

use crate::config::choices::{
    Auth, Exposed, FileDurability, HealthFor, IdentityArgs, InsecureListen, LogFormat, Switch, TenantArgs,
    TlsClientAuth, TlsVersion,
};
use crate::config::sizes::{self, parse_size};

/// The heading of the flags that say who may call.
const NETWORK: &str = "Network";

/// Makes the struct of the settings, and what puts one over another, of one list of fields.
macro_rules! settings {
    ($(#[$of_struct:meta])* pub struct $name:ident { $($(#[$of_field:meta])* pub $field:ident: Option<$type:ty>,)* }) => {
        $(#[$of_struct])*
        pub struct $name {
            $($(#[$of_field])* pub $field: Option<$type>,)*
        }

        impl $name {
            /// Returns these settings, and those of `weaker` where nothing is set here. A list replaces the weaker list
            /// whole.
            #[must_use]
            pub fn over(&self, weaker: &$name) -> $name {
                $name { $($field: self.$field.clone().or_else(|| weaker.$field.clone()),)* }
            }
        }
    };
}

settings! {
/// The settings of `haul serve`. A flag `--some-name` is `HAUL_SOME_NAME` in the environment and `some_name` in the file.
#[derive(Clone, Debug, Default, PartialEq, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServeArgs {
    /// Addresses with ports to listen on, and Unix sockets as `unix:PATH`, separated by commas; port 0 picks a free one [default: 127.0.0.1:4285]
    #[arg(long, env = "HAUL_LISTEN", value_name = "ADDR", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_several")]
    pub listen: Option<Vec<String>>,

    /// Who may open the sockets of `--listen unix:PATH`, as a mode of files [default: 0600]
    #[arg(long, env = "HAUL_SOCKET_MODE", value_name = "MODE", help_heading = NETWORK)]
    pub socket_mode: Option<String>,

    /// The group of these sockets, by name or number [default: that of the server]
    #[arg(long, env = "HAUL_SOCKET_GROUP", value_name = "GROUP", help_heading = NETWORK)]
    pub socket_group: Option<String>,

    /// Another address and port for `/metrics` and the probes; the main one has no `/metrics` then
    #[arg(long, env = "HAUL_METRICS_LISTEN", value_name = "ADDR")]
    pub metrics_listen: Option<String>,

    /// Hosts that have metrics of their own, as `name` or `name:port`, at most 100, separated by commas
    #[arg(long, env = "HAUL_METRICS_HOSTS", value_name = "HOST", value_delimiter = ',')]
    pub metrics_hosts: Option<Vec<String>>,

    /// Directory of the database [default: haul-data]
    #[arg(long, env = "HAUL_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Directory that downloads go to [default: downloads]
    #[arg(long, env = "HAUL_DOWNLOAD_DIR", value_name = "DIR")]
    pub download_dir: Option<PathBuf>,

    /// The most tasks that run at once [default: as stored, else 64]
    #[arg(long, env = "HAUL_MAX_CONCURRENT_TASKS", value_name = "N")]
    pub max_concurrent_tasks: Option<u32>,

    /// The most requests in flight to one host [default: as stored, else 8]
    #[arg(long, env = "HAUL_MAX_PER_HOST", value_name = "N")]
    pub max_per_host: Option<u32>,

    /// Let tasks reach private, loopback and link-local addresses
    #[arg(
        long,
        env = "HAUL_ALLOW_PRIVATE_NETWORKS",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new()
    )]
    pub allow_private_networks: Option<bool>,

    /// Networks that tasks may reach though they are private, separated by commas
    #[arg(long, env = "HAUL_ALLOW_NETWORKS", value_name = "NET", value_delimiter = ',')]
    pub allow_networks: Option<Vec<String>>,

    /// Networks that tasks must not reach, separated by commas
    #[arg(long, env = "HAUL_DENY_NETWORKS", value_name = "NET", value_delimiter = ',')]
    pub deny_networks: Option<Vec<String>>,

    /// Hosts that tasks may reach though their addresses are private, separated by commas; with a port, at that one alone
    #[arg(long, env = "HAUL_ALLOW_HOSTS", value_name = "HOST", value_delimiter = ',')]
    pub allow_hosts: Option<Vec<String>>,

    /// Hosts that tasks must not reach, separated by commas
    #[arg(long, env = "HAUL_DENY_HOSTS", value_name = "HOST", value_delimiter = ',')]
    pub deny_hosts: Option<Vec<String>>,

    /// Ports that tasks may reach though they belong to other protocols than HTTP (such as 25 and 6379), separated by commas
    #[arg(long, env = "HAUL_ALLOW_PORTS", value_name = "PORT", value_delimiter = ',')]
    pub allow_ports: Option<Vec<u16>>,

    /// Prefixes by which the network translates IPv6 to IPv4, beside `64:ff9b::/96`, separated by commas
    #[arg(long, env = "HAUL_NAT64_PREFIXES", value_name = "NET", value_delimiter = ',')]
    pub nat64_prefixes: Option<Vec<String>>,

    /// The proxy that all requests of tasks go through, as `http://`, `https://`, `socks5://` or `socks5h://`; tasks name no other then
    #[arg(long, env = "HAUL_EGRESS_PROXY", value_name = "URL", hide_env_values = true)]
    pub egress_proxy: Option<String>,

    /// Whether tasks may name a proxy (`http.proxy_url`) [default: true where only this machine reaches the server]
    #[arg(
        long,
        env = "HAUL_ALLOW_CLIENT_PROXY",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new()
    )]
    pub allow_client_proxy: Option<bool>,

    /// Whether tasks may accept any certificate (`http.insecure_skip_verify`) [default: true where only this machine reaches the server]
    #[arg(
        long,
        env = "HAUL_ALLOW_INSECURE_SKIP_VERIFY",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new()
    )]
    pub allow_insecure_skip_verify: Option<bool>,

    /// Parameters of queries whose values are secret, beside `token`, `key`, `sig` and others, separated by commas
    #[arg(long, env = "HAUL_REDACT_QUERY_PARAMS", value_name = "NAME", value_delimiter = ',')]
    pub redact_query_params: Option<Vec<String>>,

    /// How long running tasks have to stop on SIGTERM or SIGINT [default: 10s]
    #[arg(long, env = "HAUL_SHUTDOWN_GRACE", value_name = "TIME")]
    #[serde(deserialize_with = "time")]
    pub shutdown_grace: Option<String>,

    /// Whether finished downloads are synced to the disk [default: full]
    #[arg(long, env = "HAUL_FILE_DURABILITY", value_name = "HOW")]
    pub file_durability: Option<FileDurability>,

    /// The longest `Retry-After` that is obeyed [default: 1h]
    #[arg(long, env = "HAUL_RETRY_AFTER_MAX", value_name = "TIME")]
    #[serde(deserialize_with = "time")]
    pub retry_after_max: Option<String>,

    /// How the log on stderr is written; `HAUL_LOG` filters it [default: text]
    #[arg(long, env = "HAUL_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// The share of attempts of jobs of over 1,000 tasks that are traced though they did not fail, from 0 to 1; traces go where `OTEL_EXPORTER_OTLP_ENDPOINT` says [default: 0.01]
    #[arg(long, env = "HAUL_TRACE_RATIO", value_name = "RATIO")]
    pub trace_ratio: Option<f64>,

    /// Bytes that downloads leave free on their file system [default: 1 GiB or 5 % of it, whichever is less]
    #[arg(long, env = "HAUL_DISK_RESERVE", value_name = "BYTES", value_parser = parse_size)]
    #[serde(deserialize_with = "sizes::of_file")]
    pub disk_reserve: Option<u64>,

    /// The most bytes of a download that sets no `max_bytes` of its own [default: no limit]
    #[arg(long, env = "HAUL_MAX_DOWNLOAD_BYTES", value_name = "BYTES", value_parser = parse_size)]
    #[serde(deserialize_with = "sizes::of_file")]
    pub max_download_bytes: Option<u64>,
    /// Memory for tasks that wait for their turn, roughly [default: 67108864, which is 64 MiB]; what does not fit is read from the database again
    #[arg(long, value_name = "BYTES", env = "HAUL_QUEUE_BYTES", value_parser = parse_size)]
    #[serde(deserialize_with = "sizes::of_file")]
    pub queue_bytes: Option<u64>,

    /// Where the key of the secrets in the database is: `file:PATH` or `env:NAME`, with 64 hexadecimal digits [default: the file `haul.key` in the data directory, made at the first start]
    #[arg(long, env = "HAUL_DATA_KEY", value_name = "KEY")]
    pub data_key: Option<String>,

    /// Where the key is that `--data-key` replaces, for one start
    #[arg(long, env = "HAUL_DATA_KEY_PREVIOUS", value_name = "KEY")]
    pub data_key_previous: Option<String>,

    /// Start although the root key is lost, and give up all secrets in the database; for one start
    #[arg(
        long,
        env = "HAUL_FORGET_SEALED",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new()
    )]
    pub forget_sealed: Option<bool>,

    /// How long the secrets of a job are kept after its end, for `RetryJob`; `never`: as long as the job [default: 24h]
    #[arg(long, env = "HAUL_SECRET_RETENTION", value_name = "TIME")]
    #[serde(deserialize_with = "time")]
    pub secret_retention: Option<String>,

    /// Who has to authenticate [default: auto]
    #[arg(long, env = "HAUL_AUTH", value_name = "WHO", help_heading = NETWORK)]
    pub auth: Option<Auth>,

    /// The longest that a token may last [default: 366d]
    #[arg(long, env = "HAUL_TOKEN_MAX_LIFETIME", value_name = "TIME", help_heading = NETWORK)]
    #[serde(deserialize_with = "time")]
    pub token_max_lifetime: Option<String>,

    /// The most calls of one principal in a second on average; twice as many at once; 0 means no limit [default: 1000]
    #[arg(long, env = "HAUL_CALLS_PER_SECOND", value_name = "RATE", help_heading = NETWORK)]
    pub calls_per_second: Option<f64>,

    /// The most failed authentications from one address in a minute; further ones get `RATE_LIMITED`; 0 means no limit
    /// [default: 20]
    #[arg(long, env = "HAUL_AUTH_FAILURES_PER_MINUTE", value_name = "N", help_heading = NETWORK)]
    pub auth_failures_per_minute: Option<u32>,

    /// The protection to do without on addresses that other machines can reach: `plaintext` is without TLS, `open` also
    /// without authentication
    #[arg(long, env = "HAUL_INSECURE_LISTEN", value_name = "HOW", help_heading = NETWORK)]
    pub insecure_listen: Option<InsecureListen>,

    /// The server's certificate and the intermediate ones up to its authority, in PEM; turns TLS on
    #[arg(long, env = "HAUL_TLS_CERT", value_name = "FILE", help_heading = NETWORK)]
    pub tls_cert: Option<PathBuf>,

    /// The key of the server's certificate, in PEM
    #[arg(long, env = "HAUL_TLS_KEY", value_name = "FILE", help_heading = NETWORK)]
    pub tls_key: Option<PathBuf>,

    /// Authorities that the certificates of clients are verified against, in PEM
    #[arg(long, env = "HAUL_TLS_CLIENT_CA", value_name = "FILE", help_heading = NETWORK)]
    pub tls_client_ca: Option<PathBuf>,

    /// The lists of client certificates that their authority has revoked, in PEM, or one list in DER
    #[arg(long, env = "HAUL_TLS_CLIENT_CRL", value_name = "FILE", help_heading = NETWORK)]
    pub tls_client_crl: Option<PathBuf>,

    /// Whether clients must present certificates [default: required with `--tls-client-ca`, else off]
    #[arg(long, env = "HAUL_TLS_CLIENT_AUTH", value_name = "HOW", help_heading = NETWORK)]
    pub tls_client_auth: Option<TlsClientAuth>,

    /// The oldest version of TLS that clients may use [default: 1.2]
    #[arg(long, env = "HAUL_TLS_MIN_VERSION", value_name = "VERSION", help_heading = NETWORK)]
    pub tls_min_version: Option<TlsVersion>,

    /// Which principals are known by certificates and users of this machine
    #[arg(skip)]
    pub identity: Option<Vec<IdentityArgs>>,

    /// Tenants, by their names; one that does not exist is made at the start
    #[arg(skip)]
    pub tenants: Option<BTreeMap<String, TenantArgs>>,

    /// Who may list the methods of the server by reflection [default: authenticated]
    #[arg(long, env = "HAUL_REFLECTION", value_name = "WHO", help_heading = NETWORK)]
    pub reflection: Option<Exposed>,

    /// Who may ask `/healthz`, `/readyz` and the health service; probes have no token [default: open]
    #[arg(long, env = "HAUL_HEALTH", value_name = "WHO", help_heading = NETWORK)]
    pub health: Option<HealthFor>,

    /// Record calls that only read in the audit log, too
    #[arg(
        long,
        env = "HAUL_AUDIT_READS",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        help_heading = NETWORK
    )]
    pub audit_reads: Option<bool>,

    /// How long the audit log is kept; it takes 1 GiB at most [default: 365d]
    #[arg(long, env = "HAUL_AUDIT_RETENTION", value_name = "TIME", help_heading = NETWORK)]
    #[serde(deserialize_with = "time")]
    pub audit_retention: Option<String>,

    /// Where the audit log is written in addition to the database, a JSON document a line: a file, or `stderr`
    #[arg(long, env = "HAUL_AUDIT_LOG", value_name = "FILE", help_heading = NETWORK)]
    pub audit_log: Option<String>,

    /// Whether gRPC-Web is served, which browsers and the dashboard use [default: true]
    #[arg(
        long,
        env = "HAUL_GRPC_WEB",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        help_heading = NETWORK
    )]
    pub grpc_web: Option<bool>,

    /// Whether browsers are shown the dashboard [default: on, where gRPC-Web is served]
    #[arg(long, env = "HAUL_WEB", value_name = "SWITCH", help_heading = NETWORK)]
    pub web: Option<Switch>,

    /// Names under which browsers may reach the server, beside addresses and `localhost`, separated by commas
    #[arg(long, env = "HAUL_WEB_HOSTS", value_name = "HOST", value_delimiter = ',', help_heading = NETWORK)]
    pub web_hosts: Option<Vec<String>>,

    /// Origins whose web pages may call the server (`https://example.com`), separated by commas
    #[arg(long, env = "HAUL_CORS_ORIGINS", value_name = "ORIGIN", value_delimiter = ',', help_heading = NETWORK)]
    pub cors_origins: Option<Vec<String>>,

    /// The most connections at once [default: 4096, or half of the descriptors where these are fewer]
    #[arg(long, env = "HAUL_MAX_CONNECTIONS", value_name = "N", help_heading = NETWORK)]
    pub max_connections: Option<u32>,

    /// The most connections at once from one address, other than this machine's [default: 256]
    #[arg(long, env = "HAUL_MAX_CONNECTIONS_PER_ADDRESS", value_name = "N", help_heading = NETWORK)]
    pub max_connections_per_address: Option<u32>,

    /// The most calls at once on one connection, and of one principal over all of them [default: 1024]
    #[arg(long, env = "HAUL_MAX_STREAMS_PER_CONNECTION", value_name = "N", help_heading = NETWORK)]
    pub max_streams_per_connection: Option<u32>,

    /// Bytes of messages that have not arrived whole, at most 32 MiB of them on one connection [default: 268435456]
    #[arg(long, env = "HAUL_INBOUND_BUFFER_BYTES", value_name = "BYTES", value_parser = parse_size, help_heading = NETWORK)]
    #[serde(deserialize_with = "sizes::of_file")]
    pub inbound_buffer_bytes: Option<u64>,

    /// How long a new connection may take for TLS and to send its first bytes [default: 10s]
    #[arg(long, env = "HAUL_HANDSHAKE_TIMEOUT", value_name = "TIME", help_heading = NETWORK)]
    #[serde(deserialize_with = "time")]
    pub handshake_timeout: Option<String>,

    /// How long a request that is not whole may wait for its next byte [default: 15s]
    #[arg(long, env = "HAUL_REQUEST_BODY_IDLE", value_name = "TIME", help_heading = NETWORK)]
    #[serde(deserialize_with = "time")]
    pub request_body_idle: Option<String>,

    /// How long answers may wait for a client that reads none of them, before its connection is closed [default: 10m]
    #[arg(long, env = "HAUL_ANSWER_IDLE", value_name = "TIME", help_heading = NETWORK)]
    #[serde(deserialize_with = "time")]
    pub answer_idle: Option<String>,

    /// The age at which a connection is closed, after its calls have ended [default: 24h]
    #[arg(long, env = "HAUL_CONNECTION_MAX_AGE", value_name = "TIME", help_heading = NETWORK)]
    #[serde(deserialize_with = "time")]
    pub connection_max_age: Option<String>,

    /// A TOML file with the same settings, `_` in place of `-`
    #[arg(long, env = "HAUL_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
}
}
/// Reads a time of the settings file: a text as a flag has it, or seconds as a number, which is what a flag without a unit says.
fn time<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    struct Time;

    impl serde::de::Visitor<'_> for Time {
        type Value = String;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a time like `\"10s\"`")
        }

        fn visit_i64<E>(self, seconds: i64) -> Result<String, E> {
            Ok(seconds.to_string())
        }

        fn visit_f64<E>(self, seconds: f64) -> Result<String, E> {
            Ok(seconds.to_string())
        }

        fn visit_str<E>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
    }

    from.deserialize_any(Time).map(Some)
}

/// Reads one text, or several.
fn one_or_several<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    struct Texts;

    impl<'de> serde::de::Visitor<'de> for Texts {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a text, or a list of texts")
        }

        fn visit_str<E>(self, text: &str) -> Result<Vec<String>, E> {
            Ok(vec![text.to_owned()])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut texts: A) -> Result<Vec<String>, A::Error> {
            let mut read = Vec::new();
            while let Some(text) = texts.next_element()? {
                read.push(text);
            }
            Ok(read)
        }
    }

    from.deserialize_any(Texts).map(Some)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn line(args: &[&str]) -> Result<ServeArgs, clap::Error> {
        Line::try_parse_from(std::iter::once(&"haul").chain(args)).map(|line| line.serve)
    }

    #[test]
    fn flags_are_read() {
        let args = line(&[
            "--listen=127.0.0.1:0",
            "--allow-private-networks",
            "--file-durability",
            "none",
            "--deny-networks=10.0.0.0/8,fd00::/8",
            "--max-per-host",
            "3",
        ])
        .unwrap();
        let expected = ServeArgs {
            listen: Some(vec!["127.0.0.1:0".into()]),
            allow_private_networks: Some(true),
            file_durability: Some(FileDurability::None),
            deny_networks: Some(vec!["10.0.0.0/8".into(), "fd00::/8".into()]),
            max_per_host: Some(3),
            ..ServeArgs::default()
        };
        assert_eq!(args, expected);
        assert_eq!(line(&["--allow-private-networks=no"]).unwrap().allow_private_networks, Some(false));
        assert_eq!(line(&[]).unwrap(), ServeArgs::default());
        assert!(line(&["--nonsense"]).is_err());
    }
}
