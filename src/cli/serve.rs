//! `haul serve`.

use std::io::Write as _;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::cli::args::Usage;
use crate::config::keys::{DataKey, KeyPlace};
use crate::config::network::{INBOUND_BYTES_PER_CONNECTION_MAX, Network};
use crate::config::raw::{Auth, FileDurability, LogFormat, ServeArgs, TlsClientAuth};
use crate::config::tls::TlsConfig;
use crate::config::{Access, ServeConfig};
use crate::model::access::AuthMode;
use crate::model::browser::BrowserRules;
use crate::server::{
    self, CallBounds, ClientAuth, Durability, EngineSettings, Guard, KeySource, ListenSettings, Policy, RootKeys,
    ServeError, ServerSettings, TlsSettings, descriptors,
};
use crate::telemetry;

/// Runs a server until SIGTERM or SIGINT.
pub(crate) async fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let config = ServeConfig::load(args).map_err(|error| Usage(error.to_string()))?;
    let _log =
        telemetry::start(format(config.log_format), tracing::Level::INFO).map_err(|error| Usage(error.to_string()))?;
    // Without certificates to read anew, SIGHUP ends the server with its terminal, as it does every program.
    let mut hangup = config.network.tls.is_some().then(|| signal(SignalKind::hangup())).transpose()?;
    let (reload, reloaded) = watch::channel(());
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => return tracing::info!("SIGTERM received"),
                _ = interrupt.recv() => return tracing::info!("SIGINT received"),
                () = received(&mut hangup) => {
                    tracing::info!("SIGHUP received");
                    reload.send_replace(());
                }
            }
        }
    };
    let notes = notes(&config);
    let descriptors = descriptors::raise();
    let (data_dir, download_dir) = (config.data_dir.clone(), config.download_dir.clone());
    server::serve(settings(config, descriptors), stop, reloaded, |address| {
        let version = env!("CARGO_PKG_VERSION");
        let (data_dir, download_dir) = (data_dir.display(), download_dir.display());
        tracing::info!(version, %address, %data_dir, %download_dir, "haul serves");
        for note in &notes {
            tracing::warn!("{note}");
        }
        // Whoever started the server may have closed the pipe; the server is of use all the same.
        let _ = writeln!(std::io::stdout(), "listening on {address}").and_then(|()| std::io::stdout().flush());
    })
    .await
    .map_err(|error| match error {
        // The command line asks for something that cannot be.
        ServeError::NobodySignsIn(..) => Usage(error.to_string()).into(),
        other => anyhow::Error::from(other),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Waits for a signal that is listened for; for ever where it is not.
async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

fn format(format: LogFormat) -> telemetry::LogFormat {
    match format {
        LogFormat::Text => telemetry::LogFormat::Text,
        LogFormat::Json => telemetry::LogFormat::Json,
    }
}

/// What an operator must know about settings that are allowed and weaken what haul promises.
fn notes(config: &ServeConfig) -> Vec<String> {
    let mut notes = Vec::new();
    if config.network.is_open && !config.network.listen.ip().to_canonical().is_loopback() {
        notes.push(format!(
            "`--insecure-listen open`: whoever reaches `{}` can submit jobs, read results and delete files, and whoever is \
             on the way can read along",
            config.network.listen
        ));
        if config.access.allow_private_networks {
            notes.push(
                "`--allow-private-networks` lets whoever can submit jobs reach this machine and its private networks"
                    .to_owned(),
            );
        }
    }
    let is_near = config.network.listen.ip().to_canonical().is_loopback();
    if config.network.is_plaintext && !config.network.is_open && !is_near {
        notes.push(format!(
            "`--insecure-listen plaintext`: whoever is on the way to `{}` can read tokens and results, unless something in \
             front of it encrypts",
            config.network.listen
        ));
    }
    if config.network.auth == Auth::None {
        notes.push("`--auth none`: whoever reaches the server may do everything, tokens or not".to_owned());
    }
    if config.file_durability == FileDurability::None {
        notes.push("`--file-durability none`: a power cut can lose files of downloads that succeeded".to_owned());
    }
    notes
}

/// Whom the server takes callers for, and what it gives up for other machines.
fn policy(network: &Network) -> (Policy, &'static str) {
    let mode = match network.auth {
        Auth::Auto => AuthMode::Auto,
        Auth::Required => AuthMode::Required,
        Auth::None => AuthMode::Off,
    };
    let insecure = match (network.is_open, network.is_plaintext) {
        (true, _) => "open",
        (false, true) => "plaintext",
        (false, false) => "",
    };
    (Policy { mode, is_open: network.is_open }, insecure)
}

fn tls(config: TlsConfig) -> TlsSettings {
    TlsSettings {
        cert: config.cert,
        key: config.key,
        client_ca: config.client_ca,
        client_crl: config.client_crl,
        client_auth: match config.client_auth {
            TlsClientAuth::Off => ClientAuth::Off,
            TlsClientAuth::Optional => ClientAuth::Optional,
            TlsClientAuth::Required => ClientAuth::Required,
        },
        identities: config.identities,
    }
}

/// Converts where the key of a database is.
pub(crate) fn root_keys(key: DataKey) -> RootKeys {
    let source = |place| match place {
        KeyPlace::File(path) => KeySource::File(path),
        KeyPlace::Env(name) => KeySource::Env(name),
    };
    RootKeys::Kept { now: source(key.now), previous: key.previous.map(source) }
}

/// The bounds of the listener of a process that may have so many descriptors.
fn bounds(network: &Network, descriptors: Option<u64>) -> ListenSettings {
    let connections_max = descriptors::connections(network.max_connections.map(u64::from), descriptors);
    ListenSettings {
        connections_max: usize::try_from(connections_max).unwrap_or(usize::MAX),
        connections_per_address_max: network.max_connections_per_address as usize,
        streams_max: network.max_streams_per_connection,
        inbound_bytes_max: network.inbound_buffer_bytes,
        inbound_bytes_per_connection_max: INBOUND_BYTES_PER_CONNECTION_MAX,
        handshake_time: network.handshake_timeout,
        age_max: network.connection_max_age,
    }
}

fn settings(config: ServeConfig, descriptors: Option<u64>) -> ServerSettings {
    let (policy, insecure) = policy(&config.network);
    let Access { allow_private_networks, allow_networks, deny_networks, allow_hosts, deny_hosts, allow_ports } =
        config.access;
    ServerSettings {
        engine: EngineSettings {
            data_dir: config.data_dir,
            download_dir: config.download_dir,
            limits: config.limits,
            guard: Guard {
                allow_private: allow_private_networks,
                allow_networks,
                deny_networks,
                allow_hosts,
                deny_hosts,
                allow_ports,
            },
            // What its process inherited is not for the server to obey.
            proxies: None,
            file_durability: match config.file_durability {
                FileDurability::Full => Durability::Full,
                FileDurability::None => Durability::None,
            },
            retry_after_max: config.retry_after_max,
            // The other half is for what follows: their ends are stored, and calls are answered.
            drain_patience: config.shutdown_grace / 2,
            disk_reserve: config.disk_reserve,
            max_download_bytes: config.max_download_bytes,
            queue_bytes: config.queue_bytes as usize,
            parts_by_url: false,
            scratch: false,
            root_keys: config.data_key.map_or(RootKeys::Beside, root_keys),
        },
        listen: config.network.listen,
        metrics_listen: config.network.metrics_listen,
        metrics_hosts: config.metrics_hosts,
        tls: config.network.tls.clone().map(tls),
        bounds: bounds(&config.network, descriptors),
        request_body_idle: config.network.request_body_idle,
        has_dashboard: config.network.has_dashboard,
        browsers: BrowserRules { hosts: config.network.web_hosts, origins: config.network.cors_origins },
        policy,
        insecure,
        token_lifetime_max: config.network.token_max_lifetime,
        call_bounds: CallBounds {
            calls_per_second: config.network.calls_per_second,
            failures_per_minute: config.network.auth_failures_per_minute,
        },
        shutdown_grace: config.shutdown_grace,
    }
}
