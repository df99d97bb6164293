//! `haul tenant`: those whose jobs and files are kept apart.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::cli::args::{Format, Nothing, Remote, Usage, With};
use crate::cli::client::{Client, open};
use crate::cli::json;
use crate::cli::pages;
use crate::cli::term::fields::print_fields;
use crate::cli::term::line::Line;
use crate::cli::term::screen;
use crate::cli::term::table::{self, Column, Row};
use crate::cli::term::words;
use crate::config::values::parse_lifetime;
use crate::model::quotas::Quota;
use crate::pb;

#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Make a tenant
    #[command(after_help = "Example:\n  haul tenant create acme && haul token create acme/ci --grant submit@acme")]
    Create(With<CreateArgs>),
    /// List tenants
    #[command(after_help = "Example:\n  haul tenant list")]
    List(With<Nothing>),
    /// Show a tenant
    #[command(after_help = "Example:\n  haul tenant show acme")]
    Show(With<NameArgs>),
    /// Change a tenant
    #[command(
        after_help = "Examples:\n  haul tenant update acme --title 'Acme Ltd.'\n  haul tenant update acme --quota queued_tasks=100000 --quota running_tasks=none"
    )]
    Update(With<UpdateArgs>),
    /// Delete a tenant that has no jobs, with its principals and their tokens
    #[command(after_help = "Example:\n  haul tenant delete acme")]
    Delete(With<NameArgs>),
}

/// A tenant to make.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its name: letters a to z, digits and `-`
    name: String,
    /// A name for people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    title: String,
    #[command(flatten)]
    terms: Terms,
}

/// How much a quota allows.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Most {
    Number(f64),
    Time(Duration),
}

impl Most {
    fn number(self) -> f64 {
        match self {
            Most::Number(number) => number,
            Most::Time(time) => time.as_secs_f64(),
        }
    }

    fn time(self) -> Option<prost_types::Duration> {
        match self {
            Most::Number(_) => None,
            Most::Time(time) => prost_types::Duration::try_from(time).ok(),
        }
    }
}

impl fmt::Display for Most {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Most::Number(number) => number.fmt(f),
            Most::Time(time) => f.write_str(&words::duration(*time)),
        }
    }
}

/// What a tenant may have.
#[derive(Debug, Args)]
struct Terms {
    /// What it may have at most: `unfinished_jobs`, `queued_tasks`, `running_tasks`, `running_per_host`,
    /// `requests_per_second`, `bytes_per_second`, `stored_bytes`, `calls_per_second`, `watchers` or `tasks_per_second` and
    /// a number, `max_retention` or `max_attempt` and a time such as `7d`, or `none` in its place
    #[arg(long = "quota", value_name = "FIELD=N", value_parser = quota)]
    quotas: Vec<(Quota, Option<Most>)>,
    /// Its share of the tasks that run, relative to those of other tenants: 1 to 100
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    weight: Option<u32>,
    /// Refuse new work of it and start none of its tasks; `=false` ends the suspension
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    suspended: Option<bool>,
}

/// What to change.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// Its name
    name: String,
    /// A name for people
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    #[command(flatten)]
    terms: Terms,
}

/// Which tenant.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// Its name
    name: String,
}

pub(crate) async fn run(top: &Remote, command: TenantCommand) -> anyhow::Result<ExitCode> {
    match command {
        TenantCommand::Create(with) => {
            let (client, format, args) = open(top, with)?;
            create(&client, format, args).await
        }
        TenantCommand::List(with) => {
            let (client, format, _) = open(top, with)?;
            list(&client, format).await
        }
        TenantCommand::Show(with) => {
            let (client, format, args) = open(top, with)?;
            show(&client, format, args).await
        }
        TenantCommand::Update(with) => {
            let (client, format, args) = open(top, with)?;
            update(&client, format, args).await
        }
        TenantCommand::Delete(with) => {
            let (client, format, args) = open(top, with)?;
            delete(&client, format, args).await
        }
    }
}

async fn create(client: &Client, format: Format, args: CreateArgs) -> anyhow::Result<ExitCode> {
    let mut tenant = pb::Tenant { name: args.name, title: args.title, ..Default::default() };
    args.terms.put(&mut tenant);
    let request = pb::CreateTenantRequest { tenant: Some(tenant), request_id: String::new() };
    let call = client.access().create_tenant(request).await;
    let made = call.map_err(|status| client.explain(&status))?.into_inner();
    print_one(format, &made.tenant.unwrap_or_default())
}

async fn show(client: &Client, format: Format, args: NameArgs) -> anyhow::Result<ExitCode> {
    let call = client.access().get_tenant(pb::GetTenantRequest { name: args.name }).await;
    let found = call.map_err(|status| client.explain(&status))?.into_inner();
    print_one(format, &found.tenant.unwrap_or_default())
}

async fn update(client: &Client, format: Format, args: UpdateArgs) -> anyhow::Result<ExitCode> {
    let mut paths = Vec::new();
    if args.title.is_some() {
        paths.push("title".to_owned());
    }
    let mut tenant = pb::Tenant { name: args.name, title: args.title.unwrap_or_default(), ..Default::default() };
    paths.extend(args.terms.put(&mut tenant));
    if paths.is_empty() {
        return Err(Usage("nothing to change; give --title, --quota, --weight or --suspended".to_owned()).into());
    }
    let request = pb::UpdateTenantRequest { tenant: Some(tenant), update_mask: Some(prost_types::FieldMask { paths }) };
    let call = client.access().update_tenant(request).await;
    let changed = call.map_err(|status| client.explain(&status))?.into_inner();
    print_one(format, &changed.tenant.unwrap_or_default())
}

async fn delete(client: &Client, format: Format, args: NameArgs) -> anyhow::Result<ExitCode> {
    let request = pb::DeleteTenantRequest { name: args.name.clone(), etag: String::new() };
    let answer = client.access().delete_tenant(request).await.map_err(|status| client.explain(&status))?.into_inner();
    match format {
        Format::Json => json::print("haul.v1.DeleteTenantResponse", &answer)?,
        Format::Text => screen::line(format!("{} is deleted, with its principals and their tokens", args.name)),
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &Client, format: Format) -> anyhow::Result<ExitCode> {
    let (all, _) = pages::read(client, 0, async |page_size, page_token| {
        let page = client.access().list_tenants(pb::ListTenantsRequest { page_size, page_token }).await?.into_inner();
        Ok((page.tenants, page.next_page_token))
    })
    .await?;
    if format == Format::Json {
        json::print_all("haul.v1.Tenant", &all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let columns = [Column::name("TENANT", 10), Column::optional("CREATED", 1), Column::text("TITLE", 6)];
    let row = |it: &pb::Tenant| {
        let created = words::time(it.create_time.as_ref());
        let cells = vec![Line::from(it.name.as_str()), Line::from(created), Line::from(it.title.as_str())];
        Row { cells, remark: String::new() }
    };
    table::print(&columns, &all.iter().map(row).collect::<Vec<_>>());
    Ok(ExitCode::SUCCESS)
}

fn print_one(format: Format, tenant: &pb::Tenant) -> anyhow::Result<ExitCode> {
    if format == Format::Json {
        json::print("haul.v1.Tenant", tenant)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut fields = vec![("tenant", Line::from(tenant.name.as_str()))];
    if !tenant.title.is_empty() {
        fields.push(("title", Line::from(tenant.title.as_str())));
    }
    if tenant.suspended {
        fields.push(("suspended", Line::from("yes")));
    }
    if tenant.weight > 0 {
        fields.push(("weight", Line::from(tenant.weight.to_string())));
    }
    let usage = tenant.usage.unwrap_or_default();
    for (quota, most) in all(&tenant.quotas.unwrap_or_default()) {
        let is = match quota {
            Quota::UnfinishedJobs => Some(u64::from(usage.unfinished_jobs)),
            Quota::QueuedTasks => Some(usage.queued_tasks),
            Quota::RunningTasks => Some(u64::from(usage.running_tasks)),
            Quota::Watchers => Some(u64::from(usage.watchers)),
            Quota::BytesPerSecond => Some(usage.bytes_per_second as u64),
            Quota::StoredBytes => Some(usage.stored_bytes),
            Quota::RunningPerHost
            | Quota::RequestsPerSecond
            | Quota::MaxRetention
            | Quota::MaxAttempt
            | Quota::CallsPerSecond
            | Quota::TasksPerSecond => None,
        };
        let text = match (is.filter(|_| tenant.usage.is_some()), most) {
            (Some(is), Some(most)) => format!("{is} of {most}"),
            (Some(is), None) => is.to_string(),
            (None, Some(most)) => format!("at most {most}"),
            (None, None) => continue,
        };
        fields.push((quota.name(), Line::from(text)));
    }
    if let Some(time) = &tenant.create_time {
        fields.push(("created", Line::from(words::time(Some(time)))));
    }
    print_fields(&fields);
    Ok(ExitCode::SUCCESS)
}

impl Terms {
    /// Puts them into a tenant. Returns the paths of what is said.
    fn put(self, tenant: &mut pb::Tenant) -> Vec<String> {
        let mut paths = Vec::new();
        let mut quotas = pb::Quotas::default();
        for (quota, most) in self.quotas {
            let (number, time) = (most.map(Most::number), most.and_then(Most::time));
            match quota {
                Quota::UnfinishedJobs => quotas.unfinished_jobs = number.map(|most| most as u32),
                Quota::QueuedTasks => quotas.queued_tasks = number.map(|most| most as u64),
                Quota::RunningTasks => quotas.running_tasks = number.map(|most| most as u32),
                Quota::RunningPerHost => quotas.running_per_host = number.map(|most| most as u32),
                Quota::RequestsPerSecond => quotas.requests_per_second = number,
                Quota::BytesPerSecond => quotas.bytes_per_second = number.map(|most| most as u64),
                Quota::StoredBytes => quotas.stored_bytes = number.map(|most| most as u64),
                Quota::MaxRetention => quotas.max_retention = time,
                Quota::MaxAttempt => quotas.max_attempt = time,
                Quota::CallsPerSecond => quotas.calls_per_second = number,
                Quota::Watchers => quotas.watchers = number.map(|most| most as u32),
                Quota::TasksPerSecond => quotas.tasks_per_second = number,
            }
            paths.push(format!("quotas.{}", quota.name()));
        }
        tenant.quotas = (!paths.is_empty()).then_some(quotas);
        if let Some(weight) = self.weight {
            tenant.weight = weight;
            paths.push("weight".to_owned());
        }
        if let Some(suspended) = self.suspended {
            tenant.suspended = suspended;
            paths.push("suspended".to_owned());
        }
        paths
    }
}

/// Each quota with its value.
fn all(quotas: &pb::Quotas) -> [(Quota, Option<Most>); Quota::ALL.len()] {
    let time = |time: Option<prost_types::Duration>| Some(Most::Time(Duration::try_from(time?).ok()?));
    Quota::ALL.map(|quota| {
        let number = match quota {
            Quota::UnfinishedJobs => quotas.unfinished_jobs.map(f64::from),
            Quota::QueuedTasks => quotas.queued_tasks.map(|most| most as f64),
            Quota::RunningTasks => quotas.running_tasks.map(f64::from),
            Quota::RunningPerHost => quotas.running_per_host.map(f64::from),
            Quota::RequestsPerSecond => quotas.requests_per_second,
            Quota::BytesPerSecond => quotas.bytes_per_second.map(|most| most as f64),
            Quota::StoredBytes => quotas.stored_bytes.map(|most| most as f64),
            Quota::MaxRetention => return (quota, time(quotas.max_retention)),
            Quota::MaxAttempt => return (quota, time(quotas.max_attempt)),
            Quota::CallsPerSecond => quotas.calls_per_second,
            Quota::Watchers => quotas.watchers.map(f64::from),
            Quota::TasksPerSecond => quotas.tasks_per_second,
        };
        (quota, number.map(Most::Number))
    })
}

/// Reads `FIELD=N`.
fn quota(text: &str) -> Result<(Quota, Option<Most>), String> {
    let names = Quota::ALL.map(Quota::name).join(", ");
    let (name, most) = text.split_once('=').ok_or_else(|| "must be FIELD=N".to_owned())?;
    let quota = Quota::named(name).ok_or_else(|| format!("`{name}` is not a quota; use one of {names}"))?;
    if most == "none" {
        return Ok((quota, None));
    }
    if matches!(quota, Quota::MaxRetention | Quota::MaxAttempt) {
        let time = parse_lifetime(most).map(|time| (quota, Some(Most::Time(time))));
        return time.ok_or_else(|| format!("`{name}` takes a time such as `90s`, `12h` or `7d`, or `none`"));
    }
    let is_whole = !matches!(quota, Quota::RequestsPerSecond | Quota::CallsPerSecond | Quota::TasksPerSecond);
    let number = most.parse::<f64>().ok().filter(|most| most.is_finite() && *most >= 0.0);
    let most = number.filter(|most| !is_whole || (most.fract() == 0.0 && *most <= largest(quota)));
    most.map(|most| (quota, Some(Most::Number(most)))).ok_or_else(|| format!("`{name}` takes a number or `none`"))
}

/// The largest value that the field of a quota of whole numbers has.
fn largest(quota: Quota) -> f64 {
    match quota {
        Quota::QueuedTasks | Quota::BytesPerSecond | Quota::StoredBytes => 9e15,
        _ => f64::from(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_read_as_they_are_written() {
        assert_eq!(quota("queued_tasks=100000"), Ok((Quota::QueuedTasks, Some(Most::Number(100_000.0)))));
        assert_eq!(quota("requests_per_second=0.5"), Ok((Quota::RequestsPerSecond, Some(Most::Number(0.5)))));
        assert_eq!(
            quota("max_retention=7d"),
            Ok((Quota::MaxRetention, Some(Most::Time(Duration::from_secs(604_800)))))
        );
        assert_eq!(quota("running_tasks=none"), Ok((Quota::RunningTasks, None)));
        for bad in [
            "",
            "running_tasks",
            "running_tasks=",
            "x=1",
            "running_tasks=1.5",
            "running_tasks=-1",
            "unfinished_jobs=5e9",
            "watchers=0.5",
            "max_attempt=x",
        ] {
            assert!(quota(bad).is_err(), "{bad}");
        }
        let mut tenant = pb::Tenant::default();
        let terms = Terms {
            quotas: vec![(Quota::RunningTasks, Some(Most::Number(3.0))), (Quota::QueuedTasks, None)],
            weight: Some(2),
            suspended: Some(false),
        };
        assert_eq!(terms.put(&mut tenant), ["quotas.running_tasks", "quotas.queued_tasks", "weight", "suspended"]);
        let quotas = tenant.quotas.unwrap();
        assert_eq!((quotas.running_tasks, quotas.queued_tasks, tenant.weight), (Some(3), None, 2));
    }
}
