//! `haul serve`.

use std::io::Write as _;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::cli::args::Usage;
use crate::config::raw::{FileDurability, LogFormat, ServeArgs};
use crate::config::{Access, ServeConfig};
use crate::server::{self, Durability, EngineSettings, Guard, ServerSettings};
use crate::telemetry;

/// Runs a server until SIGTERM or SIGINT.
pub(crate) async fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let config = ServeConfig::load(args).map_err(|error| Usage(error.to_string()))?;
    let _log =
        telemetry::start(format(config.log_format), tracing::Level::INFO).map_err(|error| Usage(error.to_string()))?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM received"),
            _ = interrupt.recv() => tracing::info!("SIGINT received"),
        }
    };
    let notes = notes(&config);
    let (data_dir, download_dir) = (config.data_dir.clone(), config.download_dir.clone());
    server::serve(settings(config), stop, |address| {
        let version = env!("CARGO_PKG_VERSION");
        let (data_dir, download_dir) = (data_dir.display(), download_dir.display());
        tracing::info!(version, %address, %data_dir, %download_dir, "haul serves");
        for note in &notes {
            tracing::warn!("{note}");
        }
        // Whoever started the server may have closed the pipe; the server is of use all the same.
        let _ = writeln!(std::io::stdout(), "listening on {address}").and_then(|()| std::io::stdout().flush());
    })
    .await?;
    Ok(ExitCode::SUCCESS)
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
    if !config.listen.ip().is_loopback() {
        notes.push(format!(
            "`{}` can be reached from other machines, and haul does not authenticate: whoever reaches it can submit jobs, \
             read results and delete files; listen on 127.0.0.1, or put an authenticating proxy in front",
            config.listen
        ));
        if config.access.allow_private_networks {
            notes.push(
                "`--allow-private-networks` lets whoever can submit jobs reach this machine and its private networks"
                    .to_owned(),
            );
        }
    }
    if config.file_durability == FileDurability::None {
        notes.push("`--file-durability none`: a power cut can lose files of downloads that succeeded".to_owned());
    }
    notes
}

fn settings(config: ServeConfig) -> ServerSettings {
    let Access { allow_private_networks, allow_networks, deny_networks, allow_hosts, deny_hosts } = config.access;
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
            },
            file_durability: match config.file_durability {
                FileDurability::Full => Durability::Full,
                FileDurability::None => Durability::None,
            },
            retry_after_max: config.retry_after_max,
            disk_reserve: config.disk_reserve,
            max_download_bytes: config.max_download_bytes,
            parts_by_url: false,
            scratch: false,
        },
        listen: config.listen,
        shutdown_grace: config.shutdown_grace,
    }
}
