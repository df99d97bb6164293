//! `haul info`, `haul hosts`, `haul drain`: the server as its operator sees it.

use std::process::ExitCode;
use std::time::Duration;

use indicatif::HumanDuration;

use crate::cli::client::Client;
use crate::cli::limits;
use crate::cli::output::{self, Format};
use crate::pb;

/// Shows what the server is and what it has to do.
pub(crate) async fn info(client: &Client, format: Format) -> anyhow::Result<ExitCode> {
    let call = client.admin().get_server_info(pb::GetServerInfoRequest {}).await;
    let info = call.map_err(|status| client.explain(&status))?.into_inner();
    if format == Format::Json {
        output::json_line("haul.v1.GetServerInfoResponse", &info)?;
        return Ok(ExitCode::SUCCESS);
    }
    let counts = info.counts.unwrap_or_default();
    let uptime = info.uptime.and_then(|uptime| Duration::try_from(uptime).ok()).unwrap_or_default();
    output::line(&format!("version                        {}", output::plain(&info.version)));
    output::line(&format!("node                           {}", output::plain(&info.node_id)));
    output::line(&format!("store                          {}", output::plain(&info.store_backend)));
    output::line(&format!("up for                         {}", HumanDuration(uptime)));
    let (pending, running, backing_off) = (counts.pending, counts.running, counts.backing_off);
    output::line(&format!(
        "tasks                          {running} running, {backing_off} backing off, {pending} pending"
    ));
    limits::print(&info.limits.unwrap_or_default());
    Ok(ExitCode::SUCCESS)
}

/// Begins the end of the server, as SIGTERM does.
pub(crate) async fn drain(client: &Client, format: Format) -> anyhow::Result<ExitCode> {
    let call = client.admin().drain(pb::DrainRequest {}).await;
    let answer = call.map_err(|status| client.explain(&status))?.into_inner();
    match format {
        Format::Json => output::json_line("haul.v1.DrainResponse", &answer)?,
        Format::Text => output::line("the server drains: running tasks stop at a checkpoint, then it ends"),
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
        hosts.iter().try_for_each(|host| output::json_line("haul.v1.Host", host))?;
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
