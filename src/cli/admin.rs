//! `haul limits`, `haul hosts`.

use std::process::ExitCode;

use clap::Args;

use crate::cli::client::Client;
use crate::cli::output::{self, Format};
use crate::pb;

/// What to change; nothing: only show.
#[derive(Debug, Args)]
pub(crate) struct LimitsArgs {
    /// Tasks at once
    #[arg(long, value_name = "N")]
    max_concurrent_tasks: Option<u32>,
    /// Requests at once to one host
    #[arg(long, value_name = "N")]
    max_per_host: Option<u32>,
    /// Starts of requests to one host per second; 0: no limit
    #[arg(long, value_name = "RATE")]
    requests_per_second_per_host: Option<f64>,
    /// Bytes of responses per second over all; 0: no limit
    #[arg(long, value_name = "BYTES")]
    bytes_per_second: Option<u64>,
}

/// Shows the limits in force, after changing what was named.
pub(crate) async fn limits(client: &Client, format: Format, args: LimitsArgs) -> anyhow::Result<ExitCode> {
    let explain = |status: tonic::Status| client.explain(&status);
    let named = [
        ("max_concurrent_tasks", args.max_concurrent_tasks.is_some()),
        ("max_per_host", args.max_per_host.is_some()),
        ("requests_per_second_per_host", args.requests_per_second_per_host.is_some()),
        ("bytes_per_second", args.bytes_per_second.is_some()),
    ];
    let paths: Vec<String> =
        named.iter().filter(|(_, is_named)| *is_named).map(|(name, _)| (*name).to_owned()).collect();
    let limits = if paths.is_empty() {
        client.admin().get_limits(pb::GetLimitsRequest {}).await.map_err(explain)?.into_inner().limits
    } else {
        let limits = pb::Limits {
            max_concurrent_tasks: args.max_concurrent_tasks.unwrap_or_default(),
            max_per_host: args.max_per_host.unwrap_or_default(),
            requests_per_second_per_host: args.requests_per_second_per_host.unwrap_or_default(),
            bytes_per_second: args.bytes_per_second.unwrap_or_default(),
            hosts: Vec::new(),
        };
        let update_mask = Some(prost_types::FieldMask { paths });
        let request = pb::UpdateLimitsRequest { limits: Some(limits), update_mask };
        client.admin().update_limits(request).await.map_err(explain)?.into_inner().limits
    };
    let limits = limits.unwrap_or_default();
    if format == Format::Json {
        output::line(&output::json("haul.v1.Limits", &limits)?);
        return Ok(ExitCode::SUCCESS);
    }
    let none = |text: String, is_none: bool| if is_none { "no limit".to_owned() } else { text };
    let rate = limits.requests_per_second_per_host;
    output::line(&format!("tasks at once                  {}", limits.max_concurrent_tasks));
    output::line(&format!("requests at once to a host     {}", limits.max_per_host));
    output::line(&format!("requests a second to a host    {}", none(rate.to_string(), rate == 0.0)));
    let bytes = limits.bytes_per_second;
    output::line(&format!("bytes a second                 {}", none(output::size(bytes), bytes == 0)));
    for host in &limits.hosts {
        output::line(&output::json("haul.v1.HostLimits", host)?);
    }
    Ok(ExitCode::SUCCESS)
}

/// Lists the hosts that the server talks to.
pub(crate) async fn hosts(client: &Client, format: Format) -> anyhow::Result<ExitCode> {
    let mut hosts: Vec<pb::Host> = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListHostsRequest { page_size: 1000, page_token };
        let page = client.admin().list_hosts(request).await.map_err(|status| client.explain(&status))?.into_inner();
        hosts.extend(page.hosts);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if format == Format::Json {
        for host in &hosts {
            output::line(&output::json("haul.v1.Host", host)?);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let row = |host: &pb::Host| {
        let most = host.limits.as_ref().map_or(0, |limits| limits.max_concurrent);
        let paused = output::time(host.paused_until.as_ref());
        let why = if host.pause_reason.is_empty() { &host.recent_error } else { &host.pause_reason };
        vec![host.host.clone(), format!("{} of {most}", host.running), host.waiting.to_string(), paused, why.clone()]
    };
    output::table(&["HOST", "RUNNING", "WAITING", "PAUSED UNTIL", ""], &hosts.iter().map(row).collect::<Vec<_>>());
    Ok(ExitCode::SUCCESS)
}
