//! `haul info`, `haul hosts`, `haul drain`: the server as its operator sees it.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::cli::args::{Format, Nothing, With};
use crate::cli::client::Client;
use crate::cli::json;
use crate::cli::limits;
use crate::cli::pages;
use crate::cli::term::fields::print_fields;
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
        ("free for data", Line::from(words::size(info.disk_free_bytes))),
        ("free for downloads", Line::from(words::size(info.download_free_bytes))),
        ("database", Line::from(words::size(info.store_bytes))),
    ];
    let access = info.access.unwrap_or_default();
    let who = match access.auth.as_str() {
        "auto" => "nobody on this machine, until there is a token",
        "none" => "nobody",
        _ => "everybody",
    };
    fields.push(("authenticates", Line::from(who)));
    if !access.insecure.is_empty() {
        fields.push(("given up", Line::from(format!("--insecure-listen {}", access.insecure))));
    }
    if access.tls_not_after.is_some() {
        fields.push(("certificate ends", Line::from(words::time(access.tls_not_after.as_ref()))));
    }
    if !access.tls_reload_error.is_empty() {
        fields.push(("certificates not read", Line::from(access.tls_reload_error)));
    }
    fields.push(("data key", Line::from(access.data_key_id)));
    if access.sealing_rows_left > 0 {
        fields.push(("rows left to seal", Line::from(words::count(access.sealing_rows_left, "row"))));
    }
    let web = match (access.grpc_web, access.cors_origins.as_slice()) {
        (false, []) => None,
        (true, []) => Some("its own".to_owned()),
        (false, origins) => Some(origins.join(", ")),
        (true, origins) => Some(format!("its own, {}", origins.join(", "))),
    };
    if let Some(web) = web {
        fields.push(("pages that may call", Line::from(web)));
    }
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

/// What to do with a host; without any of it, hosts are listed.
#[derive(Debug, Args)]
pub(crate) struct HostsArgs {
    /// `resume` ends the pause of HOST
    #[arg(value_name = "resume", hide_possible_values = true, requires = "host")]
    action: Option<HostAction>,
    /// The host, as `example.com:443`
    #[arg(value_name = "HOST")]
    host: Option<String>,
}

/// What can be done with a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HostAction {
    /// End its pause
    Resume,
}

/// Lists the hosts that the server talks to, or ends the pause of one.
pub(crate) async fn hosts(client: &Client, format: Format, args: HostsArgs) -> anyhow::Result<ExitCode> {
    if let (Some(HostAction::Resume), Some(host)) = (args.action, args.host) {
        let call = client.admin().resume_host(pb::ResumeHostRequest { host }).await;
        let host = call.map_err(|status| client.explain(&status))?.into_inner().host.unwrap_or_default();
        match format {
            Format::Json => json::print("haul.v1.Host", &host)?,
            Format::Text => print_hosts(&[host]),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (hosts, _) = pages::read(client, 0, async |page_size, page_token| {
        let page = client.admin().list_hosts(pb::ListHostsRequest { page_size, page_token }).await?.into_inner();
        Ok((page.hosts, page.next_page_token))
    })
    .await?;
    if format == Format::Json {
        json::print_all("haul.v1.Host", &hosts)?;
        return Ok(ExitCode::SUCCESS);
    }
    print_hosts(&hosts);
    Ok(ExitCode::SUCCESS)
}

fn print_hosts(hosts: &[pb::Host]) {
    let columns = [
        Column::name("HOST", 12),
        Column::whole("RUNNING").number(),
        Column::optional("WAITING", 1).number(),
        Column::optional("SPEED", 3).number(),
        Column::optional("FAILED", 4).number(),
        Column::optional("PAUSED UNTIL", 2),
    ];
    let row = |host: &pb::Host| {
        let most = host.limits.as_ref().map_or(0, |limits| limits.max_concurrent);
        let why = if host.pause_reason.is_empty() { &host.recent_error } else { &host.pause_reason };
        let cells = vec![
            Line::from(host.host.as_str()),
            Line::from(format!("{} of {most}", host.running)),
            Line::from(host.waiting.to_string()),
            Line::from(if host.bytes_per_second > 0 { words::rate(host.bytes_per_second) } else { String::new() }),
            Line::from(host.recent_failures.to_string()),
            Line::of(Hue::Warn, &words::time(host.paused_until.as_ref())),
        ];
        Row { cells, remark: why.clone() }
    };
    table::print(&columns, &hosts.iter().map(row).collect::<Vec<_>>());
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Seal secrets with a new key from now on; what is stored is sealed anew in the background
    #[command(after_help = "Example:\n  haul key rotate")]
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
