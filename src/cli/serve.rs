//! `haul serve`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::cli::args::Usage;
use crate::cli::term::screen;
use crate::config::choices::{Auth, Exposed, FileDurability, HealthFor, LogFormat, Switch, TlsClientAuth, TlsVersion};
use crate::config::keys::{DataKey, KeyPlace};
use crate::config::network::{
    INBOUND_BYTES_PER_CONNECTION_MAX, Network, OUTBOUND_BYTES_MAX, OUTBOUND_BYTES_PER_CONNECTION_MAX, Place,
};
use crate::config::raw::ServeArgs;
use crate::config::tls::TlsConfig;
use crate::config::{Access, AuditLog, ServeConfig};
use crate::model::access::AuthMode;
use crate::model::browser::BrowserRules;
use crate::model::secret::redact_parameters;
use crate::server::{
    self, AuditSink, CallBounds, ClientAuth, ClientOptions, Durability, EngineSettings, Exposure, Guard, KeySource,
    ListenSettings, Policy, Retention, RootKeys, ServeError, ServerSettings, Socket, TlsSettings, descriptors,
};
use crate::telemetry;

/// The server, or a look at what it would do.
#[derive(Debug, Args)]
pub(crate) struct ServeCommand {
    #[command(flatten)]
    settings: ServeArgs,
    /// Say what the server would expose, and start nothing; exit 2 where it would not start, but for addresses that are in use
    #[arg(long)]
    check: bool,
}

/// Says what a server of these settings would expose. Starts and changes nothing.
async fn check(config: ServeConfig) -> anyhow::Result<ExitCode> {
    let notes = notes(&config);
    let network = config.network.clone();
    let settings = settings(config, None);
    let book = server::check(&settings).await.map_err(|error| Usage(error.to_string()))?;
    let is_required = settings.policy.mode == AuthMode::Required
        || (settings.policy.mode == AuthMode::Auto && (book.is_required || !settings.identities.is_empty()));
    for place in &network.listen {
        let who = match (place, is_required) {
            (_, true) => "callers authenticate",
            (Place::Socket { .. }, false) => "everybody who can open it may do everything",
            (Place::Address(_), false) if place.is_near() => "every user of this machine may do everything",
            (Place::Address(_), false) => "every client may do everything",
        };
        let ends = if is_required || settings.policy.mode == AuthMode::Off { "" } else { ", until there is a token" };
        let tls = match place {
            Place::Socket { .. } => "",
            Place::Address(_) if network.tls.is_some() => ", with TLS",
            Place::Address(_) => ", without TLS",
        };
        screen::line(format!("{place}{tls}: {who}{ends}"));
    }
    if let Some(at) = network.metrics_listen {
        let tls = if network.tls.is_some() { "with" } else { "without" };
        let who = if is_required { "metrics for callers with the role monitor" } else { "metrics for everybody" };
        screen::line(format!("{at}, {tls} TLS: {who}, and probes"));
    }
    let socket = settings.engine.data_dir.join("haul.sock");
    let own = match Socket::may_be_at(&socket) {
        Ok(()) => "the server's own user may do everything".to_owned(),
        Err(error) => format!("there is none ({error}), so the server's own user needs a token too, once there is one"),
    };
    screen::line(format!("unix:{}: {own}", socket.display()));
    for note in notes {
        screen::line(note);
    }
    // Last, so that all else is said of new settings beside the server that they are for.
    server::is_free(&settings.engine.data_dir).map_err(|error| Usage(error.to_string()))?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a server until SIGTERM or SIGINT.
pub(crate) async fn run(command: &ServeCommand) -> anyhow::Result<ExitCode> {
    let config = ServeConfig::load(&command.settings).map_err(|error| Usage(error.to_string()))?;
    let _log =
        telemetry::start(format(config.log_format), tracing::Level::INFO).map_err(|error| Usage(error.to_string()))?;
    if command.check {
        return check(config).await;
    }
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
    let mut notes = notes(&config);
    redact_parameters(&config.redact_query_params);
    if let Err(error) = descriptors::close_memory() {
        tracing::warn!("a core dump of this process would show keys and tokens: it cannot be forbidden ({error})");
    }
    let descriptors = descriptors::raise();
    notes.extend(descriptors::objection(descriptors));
    let (data_dir, download_dir) = (config.data_dir.clone(), config.download_dir.clone());
    server::serve(settings(config, descriptors), stop, reloaded, |addresses, recovered| {
        let version = env!("CARGO_PKG_VERSION");
        let (data_dir, download_dir) = (data_dir.display(), download_dir.display());
        let listening = addresses.join(", ");
        let (jobs, cut_attempts) = (recovered.jobs, recovered.attempts);
        tracing::info!(version, listening, %data_dir, %download_dir, jobs, cut_attempts, "haul serves");
        for note in &notes {
            tracing::warn!("{note}");
        }
        // Who started the server may have closed the pipe; the server is of use all the same.
        let mut out = std::io::stdout();
        let written = addresses.iter().try_for_each(|address| writeln!(out, "listening on {address}"));
        let _ = written.and_then(|()| out.flush());
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
    let network = &config.network;
    let far = network.listen.iter().find(|place| !place.is_near());
    let far_metrics = network.metrics_listen.map(Place::Address).filter(|place| !place.is_near());
    if let Some(at) = far_metrics.filter(|_| network.is_open && network.auth != Auth::Required) {
        let ends = if network.auth == Auth::Auto { "until there is a token, " } else { "" };
        notes.push(format!(
            "`--insecure-listen open` at `{at}`: {ends}every client that reaches it can read the metrics"
        ));
    }
    if let Some(far) = far.filter(|_| network.is_open) {
        let who = match network.auth {
            // A token is needed where one was made, and then nobody calls without.
            Auth::Required => "callers need a token",
            Auth::Auto => {
                "until there is a token, every client that reaches it can submit jobs, read results and delete files"
            }
            Auth::None => "every client that reaches it can submit jobs, read results and delete files",
        };
        notes.push(format!(
            "`--insecure-listen open` at `{far}`: nothing is encrypted, so everybody on the way can read along; {who}"
        ));
        if config.access.allow_private_networks {
            notes.push(
                "`--allow-private-networks` lets everybody who can submit jobs reach this machine and its private networks"
                    .to_owned(),
            );
        }
    }
    if let Some(far) = far.filter(|_| network.is_plaintext && !network.is_open) {
        notes.push(format!(
            "`--insecure-listen plaintext`: everybody on the way to `{far}` can read tokens and results, unless something in \
             front of it encrypts"
        ));
    }
    if config.network.auth == Auth::None {
        notes.push(
            "`--auth none`: every client that reaches the server may do everything, with a token or without".to_owned(),
        );
    }
    if config.forget_sealed {
        notes.push(
            "`--forget-sealed`: at a start with another root key all secrets in the database are given up; leave it out from \
             now on"
                .to_owned(),
        );
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
        is_modern: config.min_version == TlsVersion::V13,
        client_auth: match config.client_auth {
            TlsClientAuth::Off => ClientAuth::Off,
            TlsClientAuth::Optional => ClientAuth::Optional,
            TlsClientAuth::Required => ClientAuth::Required,
        },
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
        outbound_bytes_max: OUTBOUND_BYTES_MAX,
        outbound_bytes_per_connection_max: OUTBOUND_BYTES_PER_CONNECTION_MAX,
        handshake_time: network.handshake_timeout,
        answer_idle_max: network.answer_idle,
        age_max: network.connection_max_age,
    }
}

fn exposure(network: &Network) -> Exposure {
    Exposure {
        is_reflection_open: network.reflection == Exposed::Open,
        is_health_closed: network.health == HealthFor::Authenticated,
        counts_reads: network.audit_reads,
    }
}

fn call_bounds(network: &Network) -> CallBounds {
    CallBounds {
        calls_per_second: network.calls_per_second,
        open_max: network.max_streams_per_connection as usize,
        failures_per_minute: network.auth_failures_per_minute,
    }
}

fn engine_settings(config: &ServeConfig) -> EngineSettings {
    let roots = config.data_key.clone().map_or(RootKeys::Beside, root_keys);
    let Access {
        allow_private_networks,
        allow_networks,
        deny_networks,
        allow_hosts,
        deny_hosts,
        allow_ports,
        nat64_prefixes,
        egress_proxy,
    } = config.access.clone();
    EngineSettings {
        data_dir: config.data_dir.clone(),
        download_dir: config.download_dir.clone(),
        tenant_dirs: config.tenant_dirs.clone(),
        limits: config.limits.clone(),
        guard: Guard {
            allow_private: allow_private_networks,
            allow_networks,
            deny_networks,
            allow_hosts,
            deny_hosts,
            allow_ports,
            nat64_prefixes,
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
        root_keys: if config.forget_sealed { RootKeys::Forgetting(Box::new(roots)) } else { roots },
        egress_proxy,
        retention: Retention {
            secrets: config.secret_retention,
            audit: config.audit_retention,
            ..Retention::default()
        },
    }
}

fn settings(config: ServeConfig, descriptors: Option<u64>) -> ServerSettings {
    let (policy, insecure) = policy(&config.network);
    let (exposure, call_bounds) = (exposure(&config.network), call_bounds(&config.network));
    ServerSettings {
        engine: engine_settings(&config),
        listen: config.network.listen.clone(),
        metrics_listen: config.network.metrics_listen,
        metrics_hosts: config.metrics_hosts,
        tls: config.network.tls.clone().map(tls),
        identities: config.network.identities.clone(),
        bounds: bounds(&config.network, descriptors),
        request_body_idle: config.network.request_body_idle,
        has_grpc_web: config.network.grpc_web == Switch::On,
        has_dashboard: config.network.web == Switch::On,
        browsers: BrowserRules { hosts: config.network.web_hosts, origins: config.network.cors_origins },
        policy,
        exposure,
        has_reflection: config.network.reflection != Exposed::Off,
        insecure,
        token_lifetime_max: config.network.token_max_lifetime,
        call_bounds,
        trace_ratio: config.trace_ratio,
        shutdown_grace: config.shutdown_grace,
        client_options: ClientOptions {
            proxy: config.client_options.proxy,
            skip_verify: config.client_options.skip_verify,
        },
        audit_log: config.audit_log.map(|place| match place {
            AuditLog::Stderr => AuditSink::Stderr,
            AuditLog::File(path) => AuditSink::File(path),
        }),
    }
}
