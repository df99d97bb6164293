//! `haul limits`: shows the limits of the server, and changes them.

use std::process::ExitCode;

use clap::Args;

use crate::cli::args::{Format, Usage};
use crate::cli::client::Client;
use crate::cli::json;
use crate::cli::term::fields::print_fields;
use crate::cli::term::line::Line;
use crate::cli::term::words;
use crate::config::sizes::parse_size;
use crate::model::host::normal;
use crate::model::text::shown;
use crate::pb;

/// What to change. Without any of it the limits are shown.
#[derive(Debug, Default, Args)]
pub(crate) struct LimitsArgs {
    /// The most tasks that run at once
    #[arg(long, value_name = "N", conflicts_with = "host")]
    max_concurrent_tasks: Option<u32>,
    /// The most requests in flight to one host
    #[arg(long, value_name = "N", conflicts_with = "host")]
    max_per_host: Option<u32>,
    /// Requests that may start to one host per second; 0: no limit
    #[arg(long, value_name = "X", conflicts_with = "host", value_parser = parse_rate)]
    requests_per_second_per_host: Option<f64>,
    /// Bytes per second, of all or with `--host` of one (`500k`, `10MiB`); 0: no limit
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    bytes_per_second: Option<u64>,
    /// Change the limits of this host (`example.com`, `example.com:443`) instead
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Requests at once to that host
    #[arg(long, value_name = "N")]
    max_concurrent: Option<u32>,
    /// Requests that may start to that host per second
    #[arg(long, value_name = "X", value_parser = parse_rate)]
    requests_per_second: Option<f64>,
    /// Requests to that host that may start at once after a pause
    #[arg(long, value_name = "N")]
    burst: Option<u32>,
    /// Remove the limits of that host; those for all hosts apply to it again
    #[arg(long, conflicts_with_all = ["max_concurrent", "requests_per_second", "burst", "bytes_per_second"])]
    remove: bool,
}

/// Reads a rate. A number of too many digits is infinite to the parser.
fn parse_rate(text: &str) -> Result<f64, Box<dyn std::error::Error + Send + Sync>> {
    let rate: f64 = text.parse()?;
    if rate.is_infinite() {
        return Err(format!("`{}` is too large; 0 means no limit", shown(text)).into());
    }
    Ok(rate)
}

impl LimitsArgs {
    /// Refuses an option that is of one host, where none is named.
    fn check(&self) -> Result<(), Usage> {
        let options = [
            (
                self.max_concurrent.is_some(),
                "--max-concurrent",
                ", or say `--max-concurrent-tasks` for all tasks of the server",
            ),
            (
                self.requests_per_second.is_some(),
                "--requests-per-second",
                ", or say `--requests-per-second-per-host` for each of them",
            ),
            (self.burst.is_some(), "--burst", ""),
            (self.remove, "--remove", ""),
        ];
        match options.into_iter().find(|(is_given, ..)| *is_given && self.host.is_none()) {
            Some((_, flag, meant)) => Err(Usage(format!("`{flag}` is of one host: name it with `--host`{meant}"))),
            None => Ok(()),
        }
    }
}

/// Shows the limits in force, after changing what was named.
pub(crate) async fn run(client: &Client, format: Format, args: LimitsArgs) -> anyhow::Result<ExitCode> {
    args.check()?;
    let explain = |status: tonic::Status| client.explain(&status);
    let call = client.admin().get_limits(pb::GetLimitsRequest {}).await;
    let current = call.map_err(explain)?.into_inner().limits.unwrap_or_default();
    let (mut limits, paths) = changed(&args, current)?;
    if !paths.is_empty() {
        let update_mask = Some(prost_types::FieldMask { paths: paths.into_iter().map(str::to_owned).collect() });
        let request = pb::UpdateLimitsRequest { limits: Some(limits), update_mask };
        let call = client.admin().update_limits(request).await;
        limits = call.map_err(explain)?.into_inner().limits.unwrap_or_default();
    }
    match format {
        Format::Json => json::print("haul.v1.Limits", &limits)?,
        Format::Text => print(&limits),
    }
    Ok(ExitCode::SUCCESS)
}

/// The limits as they are to be, and which fields of them are said.
fn changed(args: &LimitsArgs, mut limits: pb::Limits) -> Result<(pb::Limits, Vec<&'static str>), Usage> {
    let mut paths = Vec::new();
    if let Some(host) = &args.host {
        change_host(args, host, &mut limits.hosts)?;
        return Ok((limits, vec!["hosts"]));
    }
    if let Some(count) = args.max_concurrent_tasks {
        limits.max_concurrent_tasks = count;
        paths.push("max_concurrent_tasks");
    }
    if let Some(count) = args.max_per_host {
        limits.max_per_host = count;
        paths.push("max_per_host");
    }
    if let Some(rate) = args.requests_per_second_per_host {
        limits.requests_per_second_per_host = rate;
        paths.push("requests_per_second_per_host");
    }
    if let Some(rate) = args.bytes_per_second {
        limits.bytes_per_second = rate;
        paths.push("bytes_per_second");
    }
    Ok((limits, paths))
}

fn change_host(args: &LimitsArgs, name: &str, hosts: &mut Vec<pb::HostLimits>) -> Result<(), Usage> {
    let name = &normal(name)
        .ok_or_else(|| Usage(format!("`{name}` is not a host; write it like `example.com` or `example.com:443`")))?;
    let place = hosts.iter().position(|host| host.host == *name);
    if args.remove {
        let place = place.ok_or_else(|| Usage(format!("`{name}` has no limits of its own; see `haul limits`")))?;
        hosts.remove(place);
        return Ok(());
    }
    let said = args.max_concurrent.is_some()
        || args.requests_per_second.is_some()
        || args.burst.is_some()
        || args.bytes_per_second.is_some();
    if !said {
        return Err(Usage(
            "`--host` goes with what to change: `--max-concurrent`, `--requests-per-second`, `--burst`, \
             `--bytes-per-second` or `--remove`"
                .into(),
        ));
    }
    let place = place.unwrap_or_else(|| {
        hosts.push(pb::HostLimits { host: name.to_owned(), ..Default::default() });
        hosts.len() - 1
    });
    let host = &mut hosts[place];
    host.max_concurrent = args.max_concurrent.unwrap_or(host.max_concurrent);
    host.requests_per_second = args.requests_per_second.unwrap_or(host.requests_per_second);
    host.burst = args.burst.unwrap_or(host.burst);
    host.bytes_per_second = args.bytes_per_second.unwrap_or(host.bytes_per_second);
    Ok(())
}

/// Prints limits for people.
pub(crate) fn print(limits: &pb::Limits) {
    let fields = fields(limits);
    print_fields(&fields.iter().map(|(name, value)| (name.as_str(), value.clone())).collect::<Vec<_>>());
}

/// Limits as names and values.
pub(crate) fn fields(limits: &pb::Limits) -> Vec<(String, Line)> {
    let rate = |rate: f64| if rate > 0.0 { rate.to_string() } else { "no limit".to_owned() };
    let bytes = match limits.bytes_per_second {
        0 => "no limit".to_owned(),
        bytes => words::rate(bytes),
    };
    let mut fields = vec![
        ("tasks at once".to_owned(), Line::from(limits.max_concurrent_tasks.to_string())),
        ("requests at once to a host".to_owned(), Line::from(limits.max_per_host.to_string())),
        ("requests a second to a host".to_owned(), Line::from(rate(limits.requests_per_second_per_host))),
        ("bytes a second".to_owned(), Line::from(bytes)),
    ];
    fields.extend(limits.hosts.iter().map(|host| (host.host.clone(), Line::from(of_host(host)))));
    fields
}

/// What holds for one host, on one line.
fn of_host(host: &pb::HostLimits) -> String {
    let mut parts = Vec::new();
    if host.max_concurrent > 0 {
        parts.push(format!("{} at once", host.max_concurrent));
    }
    if host.requests_per_second > 0.0 {
        parts.push(format!("{} a second", host.requests_per_second));
    }
    if host.burst > 1 {
        parts.push(format!("bursts of {}", host.burst));
    }
    if host.bytes_per_second > 0 {
        parts.push(words::rate(host.bytes_per_second));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_changes() {
        let before = pb::Limits { max_concurrent_tasks: 64, max_per_host: 8, ..Default::default() };
        let (same, paths) = changed(&LimitsArgs::default(), before.clone()).unwrap();
        assert_eq!((same, paths.len()), (before.clone(), 0));

        let args = LimitsArgs { max_per_host: Some(2), bytes_per_second: Some(1 << 20), ..Default::default() };
        let (limits, paths) = changed(&args, before.clone()).unwrap();
        assert_eq!(paths, ["max_per_host", "bytes_per_second"]);
        assert_eq!((limits.max_per_host, limits.bytes_per_second), (2, 1 << 20));

        let host = Some("a.example".to_owned());
        let args = LimitsArgs { host: host.clone(), burst: Some(3), max_concurrent: Some(2), ..Default::default() };
        let (limits, paths) = changed(&args, limits).unwrap();
        assert_eq!(paths, ["hosts"]);
        let text: Vec<String> =
            fields(&limits).iter().map(|(name, value)| format!("{name}: {}", value.text())).collect();
        insta::assert_snapshot!(text.join("\n"));

        let args = LimitsArgs { host: host.clone(), remove: true, ..Default::default() };
        assert_eq!(changed(&args, limits).unwrap().0.hosts.len(), 0);
        assert!(changed(&args, before.clone()).is_err(), "it has none of its own");
        assert!(changed(&LimitsArgs { host, ..Default::default() }, before).is_err(), "nothing to change");
        let args = LimitsArgs { max_concurrent: Some(3), ..Default::default() };
        assert!(args.check().unwrap_err().0.contains("`--max-concurrent-tasks`"));
    }
}
