//! `haul principal` and `haul whoami`: who may call a server, and what.

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
use crate::model::role::Grant;
use crate::pb;

#[derive(Debug, Subcommand)]
pub(crate) enum PrincipalCommand {
    /// Make a principal
    #[command(after_help = "Example:\n  haul principal create ci --grant submit --grant read")]
    Create(With<CreateArgs>),
    /// List principals
    #[command(after_help = "Example:\n  haul principal list")]
    List(With<Nothing>),
    /// Change what a principal may do
    #[command(after_help = "Example:\n  haul principal update ci --grant submit --disabled false")]
    Update(With<UpdateArgs>),
    /// Delete a principal, and revoke its tokens; its jobs stay
    #[command(after_help = "Example:\n  haul principal delete ci")]
    Delete(With<NameArgs>),
}

/// A principal to make.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its name: `ci`, or `acme/ci` for one that the admins of tenant `acme` manage
    name: String,
    /// What it may do: submit, read, control, admin (each @TENANT, or @* for all), operator, auditor, monitor
    #[arg(long, value_name = "ROLE[@TENANT]")]
    grant: Vec<Grant>,
    /// What identifies it without a token: `uri:URI` or `dns:NAME` of a certificate, `uid:N` or `gid:N` of this machine
    #[arg(long, value_name = "KIND:VALUE", value_parser = identity)]
    identity: Vec<pb::Identity>,
    /// The tenant that its calls are about when they name none
    #[arg(long, value_name = "TENANT", default_value = "", hide_default_value = true)]
    default_tenant: String,
    /// A name for people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    title: String,
}

/// What to change.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// Its name
    name: String,
    /// What it may do, in place of what it may do now
    #[arg(long, value_name = "ROLE[@TENANT]", conflicts_with = "no_grants")]
    grant: Vec<Grant>,
    /// Remove all its grants: it may do nothing
    #[arg(long)]
    no_grants: bool,
    /// What identifies it without a token, in place of what does now: `uri:URI`, `dns:NAME`, `uid:N`, `gid:N`
    #[arg(long, value_name = "KIND:VALUE", value_parser = identity, conflicts_with = "no_identities")]
    identity: Vec<pb::Identity>,
    /// Remove all its identities: tokens alone identify it
    #[arg(long)]
    no_identities: bool,
    /// Whether its calls are refused
    #[arg(long, value_name = "BOOL")]
    disabled: Option<bool>,
    /// The tenant that its calls are about when they name none; empty: it has none
    #[arg(long, value_name = "TENANT")]
    default_tenant: Option<String>,
    /// A name for people
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
}

/// Who is meant.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// Its name
    name: String,
}

pub(crate) async fn run(top: &Remote, command: PrincipalCommand) -> anyhow::Result<ExitCode> {
    match command {
        PrincipalCommand::Create(with) => {
            let (client, format, args) = open(top, with)?;
            create(&client, format, args).await
        }
        PrincipalCommand::List(with) => {
            let (client, format, _) = open(top, with)?;
            list(&client, format).await
        }
        PrincipalCommand::Update(with) => {
            let (client, format, args) = open(top, with)?;
            update(&client, format, args).await
        }
        PrincipalCommand::Delete(with) => {
            let (client, format, args) = open(top, with)?;
            delete(&client, format, args).await
        }
    }
}

/// Shows who calls.
pub(crate) async fn whoami(client: &Client, format: Format, _: Nothing) -> anyhow::Result<ExitCode> {
    let call = client.access().who_am_i(pb::WhoAmIRequest {}).await;
    let who = call.map_err(|status| client.explain(&status))?.into_inner();
    if format == Format::Json {
        json::print("haul.v1.WhoAmIResponse", &who)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut fields = vec![
        ("principal", Line::from(who.principal.as_str())),
        ("may", Line::from(grants_text(&who.grants))),
        (
            "tenant",
            Line::from(if who.tenant.is_empty() { "none: name one with --tenant" } else { who.tenant.as_str() }),
        ),
        ("known by", Line::from(who.method.to_lowercase())),
    ];
    if !who.token_id.is_empty() {
        fields.push(("token", Line::from(who.token_id.as_str())));
        let end = who.expire_time.as_ref();
        fields.push(("expires", Line::from(end.map_or("never".to_owned(), |_| words::time(end)))));
    }
    print_fields(&fields);
    Ok(ExitCode::SUCCESS)
}

async fn create(client: &Client, format: Format, args: CreateArgs) -> anyhow::Result<ExitCode> {
    let wish = pb::Principal {
        name: args.name,
        title: args.title,
        grants: args.grant.iter().map(grant).collect(),
        identities: args.identity,
        default_tenant: args.default_tenant,
        ..Default::default()
    };
    let request = pb::CreatePrincipalRequest { principal: Some(wish), request_id: String::new() };
    let call = client.access().create_principal(request).await;
    let made = call.map_err(|status| client.explain(&status))?.into_inner();
    print_one(format, &made.principal.unwrap_or_default(), made.authentication_required)
}

async fn update(client: &Client, format: Format, args: UpdateArgs) -> anyhow::Result<ExitCode> {
    let mut paths = Vec::new();
    if args.no_grants || !args.grant.is_empty() {
        paths.push("grants".to_owned());
    }
    if args.no_identities || !args.identity.is_empty() {
        paths.push("identities".to_owned());
    }
    if args.disabled.is_some() {
        paths.push("disabled".to_owned());
    }
    if args.default_tenant.is_some() {
        paths.push("default_tenant".to_owned());
    }
    if args.title.is_some() {
        paths.push("title".to_owned());
    }
    if paths.is_empty() {
        let options = "--grant, --identity, --disabled, --default-tenant or --title";
        return Err(Usage(format!("nothing to change; give {options}")).into());
    }
    let wish = pb::Principal {
        name: args.name,
        title: args.title.unwrap_or_default(),
        grants: args.grant.iter().map(grant).collect(),
        identities: args.identity,
        disabled: args.disabled.unwrap_or_default(),
        default_tenant: args.default_tenant.unwrap_or_default(),
        ..Default::default()
    };
    let request =
        pb::UpdatePrincipalRequest { principal: Some(wish), update_mask: Some(prost_types::FieldMask { paths }) };
    let call = client.access().update_principal(request).await;
    let changed = call.map_err(|status| client.explain(&status))?.into_inner();
    print_one(format, &changed.principal.unwrap_or_default(), changed.authentication_required)
}

async fn delete(client: &Client, format: Format, args: NameArgs) -> anyhow::Result<ExitCode> {
    let request = pb::DeletePrincipalRequest { name: args.name.clone(), etag: String::new() };
    let answer =
        client.access().delete_principal(request).await.map_err(|status| client.explain(&status))?.into_inner();
    match format {
        Format::Json => json::print("haul.v1.DeletePrincipalResponse", &answer)?,
        Format::Text => screen::line(format!("{} is deleted, and its tokens are revoked", args.name)),
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &Client, format: Format) -> anyhow::Result<ExitCode> {
    let (all, _) = pages::read(client, 0, async |page_size, page_token| {
        let request = pb::ListPrincipalsRequest { page_size, page_token, tenant: String::new() };
        let page = client.access().list_principals(request).await?.into_inner();
        Ok((page.principals, page.next_page_token))
    })
    .await?;
    if format == Format::Json {
        json::print_all("haul.v1.Principal", &all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let columns = [Column::name("PRINCIPAL", 10), Column::text("MAY", 10), Column::optional("LAST SEEN", 1)];
    let row = |it: &pb::Principal| {
        let may = if it.disabled { "nothing: it is disabled".to_owned() } else { grants_text(&it.grants) };
        let cells =
            vec![Line::from(it.name.as_str()), Line::from(may), Line::from(words::time(it.last_seen_time.as_ref()))];
        Row { cells, remark: it.title.clone() }
    };
    table::print(&columns, &all.iter().map(row).collect::<Vec<_>>());
    Ok(ExitCode::SUCCESS)
}

fn print_one(format: Format, principal: &pb::Principal, is_first: bool) -> anyhow::Result<ExitCode> {
    match format {
        Format::Json => json::print("haul.v1.Principal", principal)?,
        Format::Text => {
            let may = if principal.disabled { "nothing".to_owned() } else { grants_text(&principal.grants) };
            screen::line(format!("{} may {may}", principal.name));
        }
    }
    if is_first {
        screen::say(REQUIRED);
    }
    Ok(ExitCode::SUCCESS)
}

/// What is said of the change that makes authentication required.
pub(crate) const REQUIRED: &str = "from now on every call to this server needs a token or an identity, from this machine too: \
                                   --token-file or HAUL_TOKEN";

/// Reads `uri:URI`, `dns:NAME`, `uid:N` and `gid:N`.
fn identity(text: &str) -> Result<pb::Identity, String> {
    use pb::identity::Kind;
    let number = |text: &str| text.parse().map_err(|_| format!("`{text}` is not a number"));
    let kind = match text.split_once(':') {
        Some(("uri", uri)) => Kind::CertificateUri(uri.to_owned()),
        Some(("dns", name)) => Kind::CertificateDns(name.to_owned()),
        Some(("uid", uid)) => Kind::UnixUid(number(uid)?),
        Some(("gid", gid)) => Kind::UnixGid(number(gid)?),
        _ => return Err("write it as `uri:URI`, `dns:NAME`, `uid:N` or `gid:N`".to_owned()),
    };
    Ok(pb::Identity { kind: Some(kind) })
}

/// The message of a grant.
pub(crate) fn grant(grant: &Grant) -> pb::Grant {
    pb::Grant { role: grant.role as i32, tenant: grant.tenant.clone() }
}

/// Grants as people write them.
pub(crate) fn grants_text(grants: &[pb::Grant]) -> String {
    let text = |grant: &pb::Grant| {
        let role = grant.role().as_str_name().trim_start_matches("ROLE_").to_lowercase();
        if grant.tenant.is_empty() { role } else { format!("{role}@{}", grant.tenant) }
    };
    if grants.is_empty() { "nothing".to_owned() } else { grants.iter().map(text).collect::<Vec<_>>().join(" ") }
}
