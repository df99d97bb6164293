//! `haul serve`.

use std::io::Write as _;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::raw::{FileDurability, ServeArgs};
use crate::config::{Access, ServeConfig};
use crate::server::{self, Durability, EngineSettings, Guard, ServerSettings};
use crate::telemetry;

/// Runs a server until it is told to end.
pub(crate) async fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    telemetry::start("info");
    let config = match ServeConfig::load(args) {
        Ok(config) => config,
        Err(error) => {
            super::failed(&error.into());
            return Ok(ExitCode::from(2));
        }
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM"),
            _ = interrupt.recv() => tracing::info!("SIGINT"),
        }
    };
    server::serve(settings(config), stop, |address| {
        // Whoever started us may have closed the pipe; the server is of use all the same.
        let _ = writeln!(std::io::stdout(), "listening on {address}").and_then(|()| std::io::stdout().flush());
    })
    .await?;
    Ok(ExitCode::SUCCESS)
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
            parts_by_url: false,
            scratch: false,
        },
        listen: config.listen,
        shutdown_grace: config.shutdown_grace,
    }
}
