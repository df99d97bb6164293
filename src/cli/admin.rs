//! `haul info`, `haul hosts`, `haul drain`: the server as its operator sees it.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;

use crate::cli::args::{Format, Nothing, With};
use crate::cli::client::Client;
use crate::cli::jobs::print_fields;
use crate::cli::json;
use crate::cli::limits;
use crate::cli::pages;
use crate::cli::term::line::{Hue, Line};
use crate::cli::term::screen;
use crate::cli::term::table::{self, Column, Row};
use crate::cli::term::words;
use crate::pb;

/// Shows what the server is and what it has to do.
pub(crate) async fn info(client: &Client, format: Format, _: Nothing) -> anyhow::Result<ExitCode> {
    let call = client.admin().get_server_info(pb::GetServerInfoRequest {}).await;
    let info = call.map_err(|status| client.explain(&status))?.into_inner();
    if format == Format::Json {
        json::print("haul.v1.GetServerInfoResponse", &info)?;
        return Ok(ExitCode::SUCCESS);
    }
    let counts = info.counts.unwrap_or_default();
    let uptime = info.uptime.and_then(|uptime| Duration::try_from(uptime).ok()).unwrap_or_default();
    let (pending, running, backing_off) = (counts.pending, counts.running, counts.backing_off);
    let tasks = format!("{running} running, {backing_off} backing off, {pending} pending");
    let limits = limits::fields(&info.limits.unwrap_or_default());
    let mut fields = vec![
        ("version", Line::from(info.version)),
        ("node", Line::from(info.node_id)),
        ("store", Line::from(info.store_backend)),
        ("up for", Line::from(words::duration(uptime))),
        ("tasks", Line::from(tasks)),
    ];
    fields.extend(limits.iter().map(|(name, value)| (name.as_str(), value.clone())));
    print_fields(&fields);
    Ok(ExitCode::SUCCESS)
}

/// Begins the shutdown of the server, as SIGTERM does.
pub(crate) async fn drain(client: &Client, format: Format, _: Nothing) -> anyhow::Result<ExitCode> {
    let call = client.admin().drain(pb::DrainRequest {}).await;
    let answer = call.map_err(|status| client.explain(&status))?.into_inner();
    match format {
        Format::Json => json::print("haul.v1.DrainResponse", &answer)?,
        Format::Text => screen::line("the server is shutting down: running tasks stop at a checkpoint, then it ends"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Lists the hosts that the server talks to.
pub(crate) async fn hosts(client: &Client, format: Format, _: Nothing) -> anyhow::Result<ExitCode> {
    let (hosts, _) = pages::read(client, 0, async |page_size, page_token| {
        let page = client.admin().list_hosts(pb::ListHostsRequest { page_size, page_token }).await?.into_inner();
        Ok((page.hosts, page.next_page_token))
    })
    .await?;
    if format == Format::Json {
        json::print_all("haul.v1.Host", &hosts)?;
        return Ok(ExitCode::SUCCESS);
    }
    let columns = [
        Column::name("HOST", 12),
        Column::whole("RUNNING").number(),
        Column::optional("WAITING", 1).number(),
        Column::optional("PAUSED UNTIL", 2),
    ];
    let row = |host: &pb::Host| {
        let most = host.limits.as_ref().map_or(0, |limits| limits.max_concurrent);
        let why = if host.pause_reason.is_empty() { &host.recent_error } else { &host.pause_reason };
        let cells = vec![
            Line::from(host.host.as_str()),
            Line::from(format!("{} of {most}", host.running)),
            Line::from(host.waiting.to_string()),
            Line::of(Hue::Warn, &words::time(host.paused_until.as_ref())),
        ];
        Row { cells, remark: why.clone() }
    };
    table::print(&columns, &hosts.iter().map(row).collect::<Vec<_>>());
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Seal secrets with a new key from now on; what is stored is sealed anew in the background
    Rotate(With<Nothing>),
}

/// Makes a new data key.
pub(crate) async fn rotate_key(client: &Client, format: Format, _: Nothing) -> anyhow::Result<ExitCode> {
    let call = client.access().rotate_data_key(pb::RotateDataKeyRequest {}).await;
    let answer = call.map_err(|status| client.explain(&status))?.into_inner();
    match format {
        Format::Json => json::print("haul.v1.RotateDataKeyResponse", &answer)?,
        Format::Text => screen::line(format!("secrets are sealed with key {} from now on", answer.data_key_id)),
    }
    Ok(ExitCode::SUCCESS)
}
