//! `haul tenant`: those whose jobs and files are kept apart.

use std::process::ExitCode;

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
use crate::pb;

#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Make a tenant
    #[command(after_help = "Example:\n  haul tenant create acme && haul token create acme/ci --grant submit@acme")]
    Create(With<CreateArgs>),
    /// List tenants
    List(With<Nothing>),
    /// Show a tenant
    Show(With<NameArgs>),
    /// Change a tenant
    #[command(after_help = "Example:\n  haul tenant update acme --title 'Acme Ltd.'")]
    Update(With<UpdateArgs>),
    /// Delete a tenant of which no jobs are left, with its principals and their tokens
    Delete(With<NameArgs>),
}

/// A tenant to make.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its name: letters a to z, digits and `-`
    name: String,
    /// For people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    title: String,
}

/// What to change.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// Its name
    name: String,
    /// For people
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
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
    let tenant = pb::Tenant { name: args.name, title: args.title, ..Default::default() };
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
    if paths.is_empty() {
        return Err(Usage("nothing to change; give --title".to_owned()).into());
    }
    let tenant = pb::Tenant { name: args.name, title: args.title.unwrap_or_default(), ..Default::default() };
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
    let columns = [Column::name("TENANT", 10), Column::optional("CREATED", 1)];
    let row = |it: &pb::Tenant| {
        let cells = vec![Line::from(it.name.as_str()), Line::from(words::time(it.create_time.as_ref()))];
        Row { cells, remark: it.title.clone() }
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
    if let Some(time) = &tenant.create_time {
        fields.push(("created", Line::from(words::time(Some(time)))));
    }
    print_fields(&fields);
    Ok(ExitCode::SUCCESS)
}
