//! `haul audit`: who changed what, and whether the record of it is whole.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::cli::args::{Format, Remote, Usage, With};
use crate::cli::client::{Client, open};
use crate::cli::json;
use crate::cli::patience::Patience;
use crate::cli::serve::root_keys;
use crate::cli::term::screen;
use crate::cli::term::words;
use crate::config::keys;
use crate::model::text::shown;
use crate::pb;
use crate::server::{Head, RootKeys, verify_audit};

/// The most that is asked for at once.
const PAGE_SIZE: i32 = 1_000;
/// How often `--follow` asks for what is new.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);
/// What `--follow` shows of what was there already.
const FOLLOW_BEFORE: usize = 10;

/// The record, or its verification.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  haul audit --follow\n  haul audit --principal ci --limit 0 -o json\n  haul audit --subject tenants/acme"
)]
pub(crate) struct AuditCommand {
    #[command(subcommand)]
    verify: Option<Verify>,
    #[command(flatten)]
    list: With<ListArgs>,
}

#[derive(Debug, Subcommand)]
enum Verify {
    /// Check that no row of the record was changed or removed, whether or not a server uses the data directory
    #[command(
        after_help = "Example:\n  haul audit verify --data-dir /var/lib/haul --head \"$(cat head)\"\n\nThe server logs the \
                      head, a number with 64 hexadecimal digits, when it starts, each hour and when it ends. Exits with 1 when a row was changed, is missing or \
                      was not written by this server."
    )]
    Verify(VerifyArgs),
}

/// Which rows.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only rows of this principal
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    principal: String,
    /// Only rows about this: `jobs/ID`, `tokens/ID`, `principals/NAME`, `tenants/NAME`, `server`
    #[arg(long, value_name = "SUBJECT", default_value = "", hide_default_value = true)]
    subject: String,
    /// Show at most N rows, the newest; 0 shows all
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50, conflicts_with = "follow")]
    limit: usize,
    /// Show new rows as they come, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
}

/// What is verified.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Directory of the database
    #[arg(long, env = "HAUL_DATA_DIR", value_name = "DIR", default_value = "haul-data")]
    data_dir: PathBuf,
    /// Where the key of the database is, if it is not in the data directory: `file:PATH` or `env:NAME`
    #[arg(long, env = "HAUL_DATA_KEY", value_name = "KEY")]
    data_key: Option<String>,
    /// A head that was recorded earlier: its row must still be there
    #[arg(long, value_name = "NUMBER:DIGEST")]
    head: Option<String>,
}

pub(crate) async fn run(top: &Remote, command: AuditCommand) -> anyhow::Result<ExitCode> {
    if let Some(Verify::Verify(args)) = command.verify {
        let of_server = |remote: &Remote| remote.of_server().or(remote.output.map(|_| "--output"));
        if let Some(flag) = of_server(&command.list.remote).or_else(|| of_server(top)) {
            let message =
                format!("`audit verify` reads the database of this machine and asks no server; leave out {flag}");
            return Err(Usage(message).into());
        }
        return verify(args).await;
    }
    let (client, format, args) = open(top, command.list)?;
    let mut request = pb::ListAuditEventsRequest {
        page_size: PAGE_SIZE,
        principal: args.principal.clone(),
        subject: args.subject.clone(),
        ..Default::default()
    };
    let limit = match args.limit {
        _ if args.follow => FOLLOW_BEFORE,
        0 => usize::MAX,
        limit => limit,
    };
    let mut newest = newest(&client, &request, limit).await?;
    newest.reverse();
    show(format, &newest)?;
    if !args.follow {
        return Ok(ExitCode::SUCCESS);
    }
    request.after_sequence = Some(newest.last().map_or(0, |event| event.sequence));
    let mut patience = Patience::of_server_that_answered();
    loop {
        // What is new may be more than one answer looks at, and none of it what is asked for.
        let wait = match client.access().list_audit_events(request.clone()).await {
            Ok(page) => {
                patience.heard();
                let page = page.into_inner();
                show(format, &page.events)?;
                if page.next_page_token.is_empty() {
                    if let Some(last) = page.events.last() {
                        request.after_sequence = Some(last.sequence);
                        request.page_token = String::new();
                    }
                    FOLLOW_INTERVAL
                } else {
                    request.page_token = page.next_page_token;
                    continue;
                }
            }
            Err(status) => patience.wait(&status).ok_or_else(|| client.explain(&status))?,
        };
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                return Ok(ExitCode::SUCCESS);
            }
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Returns the newest events, at most so many, the newest first.
async fn newest(
    client: &Client,
    request: &pb::ListAuditEventsRequest,
    limit: usize,
) -> anyhow::Result<Vec<pb::AuditEvent>> {
    let mut all = Vec::new();
    let mut request = request.clone();
    while all.len() < limit {
        let call = client.access().list_audit_events(request.clone()).await;
        let page = call.map_err(|status| client.explain(&status))?.into_inner();
        all.extend(page.events);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    all.truncate(limit);
    Ok(all)
}

fn show(format: Format, events: &[pb::AuditEvent]) -> anyhow::Result<()> {
    if format == Format::Json {
        return json::print_all("haul.v1.AuditEvent", events);
    }
    for event in events {
        screen::line(sentence(event));
    }
    Ok(())
}

/// Returns an event as a line for people.
fn sentence(event: &pb::AuditEvent) -> String {
    let who = if event.principal.is_empty() { "nobody known" } else { &event.principal };
    let from = if event.address.is_empty() { String::new() } else { format!(" from {}", event.address) };
    let method = event.method.rsplit('/').next().unwrap_or_default();
    let subject = if event.subject.is_empty() { String::new() } else { format!(" {}", event.subject) };
    let changed = if event.changed.is_empty() { String::new() } else { format!(" ({})", event.changed.join(", ")) };
    let refused = match event.code.as_str() {
        "OK" => String::new(),
        code if event.reason.is_empty() => format!(": {code}"),
        code => format!(": {code} {}", event.reason),
    };
    let times = if event.count > 1 { format!(", {} times", event.count) } else { String::new() };
    let time = words::time(event.time.as_ref());
    format!("{} {time} {who}{from} {method}{subject}{changed}{refused}{times}", event.sequence)
}

async fn verify(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let head = match &args.head {
        None => None,
        Some(text) => Some(Head::parse(text).ok_or_else(|| {
            Usage(format!(
                "`{}` is not a head; write it as the server logged it: its number, a colon and all 64 hexadecimal digits",
                shown(text)
            ))
        })?),
    };
    let key = keys::data_key(args.data_key.as_deref()).map_err(Usage)?;
    let roots = key.map_or(RootKeys::Beside, root_keys);
    let verified = verify_audit(&args.data_dir, &roots, head.as_ref()).await?;
    for what in &verified.wrong {
        screen::line(what.as_str());
    }
    if !verified.wrong.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    if verified.unknown > 0 {
        let rows = words::count(verified.unknown, "earlier row");
        screen::line(format!("{rows} cannot be verified: the key is gone (`--forget-sealed`)"));
    }
    let head = if verified.head.is_empty() { String::new() } else { format!("; head {}", verified.head) };
    screen::line(format!("{} of the audit, none changed or missing{head}", words::count(verified.rows, "row")));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_sentence() {
        let done = pb::AuditEvent {
            sequence: 7,
            principal: "ops".into(),
            address: "192.0.2.1".into(),
            method: "haul.v1.AdminService/UpdateLimits".into(),
            subject: "server".into(),
            code: "OK".into(),
            changed: vec!["max_per_host".into()],
            count: 1,
            ..Default::default()
        };
        let refused = pb::AuditEvent {
            sequence: 8,
            method: "?".into(),
            code: "UNAUTHENTICATED".into(),
            reason: "BAD_CREDENTIALS/expired".into(),
            count: 3,
            ..Default::default()
        };
        let time = words::time(None);
        assert_eq!(sentence(&done), format!("7 {time} ops from 192.0.2.1 UpdateLimits server (max_per_host)"));
        assert_eq!(
            sentence(&refused),
            format!("8 {time} nobody known ?: UNAUTHENTICATED BAD_CREDENTIALS/expired, 3 times")
        );
    }
}
