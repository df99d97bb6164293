//! `haul token`: makes, lists and revokes tokens, by a server or in a data directory that no server uses.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use rand::RngExt as _;
use tonic::Code;

use crate::cli::args::{Format, Remote, Usage, With};
use crate::cli::client::{Client, open};
use crate::cli::json;
use crate::cli::pages;
use crate::cli::principal::{REQUIRED, grant, grants_text};
use crate::cli::serve::root_keys;
use crate::cli::term::line::Line;
use crate::cli::term::screen;
use crate::cli::term::table::{self, Column, Row};
use crate::cli::term::words;
use crate::config::keys;
use crate::config::values::parse_lifetime;
use crate::engine::offline;
use crate::model::access::{AccessAnswer, AccessChange, LIFETIME_MAX_DEFAULT, NewToken};
use crate::model::role::Grant;
use crate::model::time::Timestamp;
use crate::model::token::TokenText;
use crate::pb;
use crate::server::RootKeys;

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token, which is printed once
    #[command(
        after_help = "Examples:\n  haul token create ci --grant submit > token\n  haul token create me --grant operator \
                      --grant control --grant submit --offline --data-dir /var/lib/haul\n\nOnly the token goes to stdout. A \
                      principal that does not exist is created with the grants; for one that exists, they limit what the \
                      token may do."
    )]
    Create(With<CreateArgs>),
    /// List tokens, without their secrets
    #[command(after_help = "Examples:\n  haul token list\n  haul token list ci --all")]
    List(With<ListArgs>),
    /// Revoke a token, and end its open streams
    #[command(after_help = "Example:\n  haul token revoke 5Qa0xN3fTz")]
    Revoke(With<RevokeArgs>),
}

/// A token to make.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The principal that it is for; created if it does not exist and --grant is given
    principal: String,
    /// What it may do: submit, read, control, admin (each @TENANT, or @* for all), operator, auditor, monitor
    #[arg(long, value_name = "ROLE[@TENANT]")]
    grant: Vec<Grant>,
    /// How long it lasts (`12h`, `90d`) [default: 90d]
    #[arg(long, value_name = "TIME", value_parser = lifetime, conflicts_with = "never_expires")]
    lifetime: Option<Duration>,
    /// Let it last until it is revoked; only for operators
    #[arg(long)]
    never_expires: bool,
    /// A name for people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    title: String,
    /// Make it in a data directory that no server uses
    #[arg(long)]
    offline: bool,
    /// The data directory
    #[arg(long, env = "HAUL_DATA_DIR", value_name = "DIR", default_value = "haul-data")]
    data_dir: PathBuf,
    /// Where the key of the database is, if it is not in the data directory: `file:PATH` or `env:NAME`
    #[arg(long, env = "HAUL_DATA_KEY", value_name = "KEY")]
    data_key: Option<String>,
}

/// Which tokens.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only tokens of this principal
    principal: Option<String>,
    /// List tokens that have expired or were revoked, too
    #[arg(long)]
    all: bool,
}

/// Which token.
#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// The id of the token: its part between `haul_` and the next `_`
    id: String,
    /// Revoke the tokens that were made with it, too
    #[arg(long)]
    with_descendants: bool,
}

fn lifetime(text: &str) -> Result<Duration, String> {
    parse_lifetime(text).ok_or_else(|| "write it like `12h` or `90d`".to_owned())
}

pub(crate) async fn run(top: &Remote, command: TokenCommand) -> anyhow::Result<ExitCode> {
    match command {
        TokenCommand::Create(With { args, remote }) if args.offline => {
            if let Some(flag) = remote.of_server().or_else(|| top.of_server()) {
                return Err(Usage(format!("--offline is without a server; leave out {flag}")).into());
            }
            create_offline(args, remote.output.or(top.output).unwrap_or_default()).await
        }
        TokenCommand::Create(with) => {
            let (client, format, args) = open(top, with)?;
            create(&client, format, args).await
        }
        TokenCommand::List(with) => {
            let (client, format, args) = open(top, with)?;
            list(&client, format, args).await
        }
        TokenCommand::Revoke(with) => {
            let (client, format, args) = open(top, with)?;
            revoke(&client, format, args).await
        }
    }
}

async fn create(client: &Client, format: Format, args: CreateArgs) -> anyhow::Result<ExitCode> {
    let grants: Vec<pb::Grant> = args.grant.iter().map(grant).collect();
    let is_without_grants = grants.is_empty();
    let mut no_principal = None;
    let mut is_new = false;
    if !grants.is_empty() {
        let principal = pb::Principal { name: args.principal.clone(), grants: grants.clone(), ..Default::default() };
        let request = pb::CreatePrincipalRequest { principal: Some(principal), request_id: String::new() };
        match client.access().create_principal(request).await {
            Ok(_) => is_new = true,
            Err(status) if status.code() == Code::AlreadyExists => {}
            // One that may make tokens and no principals is told by the next call whether there is the principal.
            Err(status) if status.code() == Code::PermissionDenied => no_principal = Some(status),
            Err(status) => return Err(client.explain(&status)),
        }
    }
    let request = pb::CreateTokenRequest {
        principal: args.principal.clone(),
        title: args.title,
        grants: if is_new { Vec::new() } else { grants },
        lifetime: args.lifetime.and_then(|time| prost_types::Duration::try_from(time).ok()),
        never_expires: args.never_expires,
        request_id: String::new(),
    };
    let made = match client.access().create_token(request).await {
        Ok(made) => made.into_inner(),
        Err(status) => {
            if is_new {
                screen::say(format!("principal {} was made; its token was not", args.principal));
            }
            // Why there is no principal says more than that there is none.
            let cause = no_principal.filter(|_| status.code() == Code::NotFound).unwrap_or(status);
            let error = client.explain(&cause);
            if cause.code() == Code::PermissionDenied && !args.principal.contains('/') {
                let hint =
                    format!("an admin makes those of its tenant, as `default/{}` is one of `default`", args.principal);
                return Err(anyhow::anyhow!("{error}; {hint}"));
            }
            if cause.code() == Code::NotFound && is_without_grants {
                return Err(anyhow::anyhow!("{error}; `--grant` says what a new one may do, and makes it"));
            }
            return Err(error);
        }
    };
    if format == Format::Json {
        json::print("haul.v1.CreateTokenResponse", &made)?;
        return Ok(ExitCode::SUCCESS);
    }
    let token = made.token.unwrap_or_default();
    let end = token.expire_time.as_ref();
    say(&token.token_id, &token.principal, end.map(|_| words::time(end)), made.authentication_required);
    screen::document(&made.secret);
    Ok(ExitCode::SUCCESS)
}

async fn create_offline(args: CreateArgs, format: Format) -> anyhow::Result<ExitCode> {
    let mut chance = rand::rng();
    let text = TokenText::of(|| chance.random_range(0..62));
    let new = NewToken {
        id: text.id().to_owned(),
        hash: text.hash(),
        principal: args.principal.clone(),
        title: args.title,
        grants: args.grant.clone(),
        lifetime: args.lifetime,
        lifetime_max: LIFETIME_MAX_DEFAULT,
        never_expires: args.never_expires,
        request_id: String::new(),
    };
    let plan = |book: &crate::model::book::Book| {
        if book.principal(&new.principal).is_some() || new.grants.is_empty() {
            return vec![AccessChange::CreateToken(new)];
        }
        let principal = AccessChange::CreatePrincipal {
            name: new.principal.clone(),
            title: String::new(),
            grants: new.grants.clone(),
            identities: Vec::new(),
            disabled: false,
            default_tenant: String::new(),
            request_id: String::new(),
        };
        vec![principal, AccessChange::CreateToken(NewToken { grants: Vec::new(), ..new })]
    };
    if let Some(why) = args.grant.iter().find_map(|grant| Some(format!("`{grant}` {}", grant.objection()?))) {
        return Err(Usage(why).into());
    }
    let key = keys::data_key(args.data_key.as_deref()).map_err(Usage)?;
    let roots = key.map_or(RootKeys::Beside, root_keys);
    let answer = offline::change_access(&args.data_dir, &roots, plan).await?;
    if let Some(owner) = other_owner(&args.data_dir) {
        screen::say(format!(
            "`{}` belongs to the user with the number {owner}, and the database that is in it now does not, so that a server of \
             that user cannot use it; run this as that user, or change the owner of the files there",
            args.data_dir.display()
        ));
    }
    if let AccessAnswer::Token { token, is_first, .. } = answer {
        let end = token.expire_time.map(stamp);
        if format == Format::Json {
            let made = pb::Token {
                token_id: token.id.clone(),
                principal: args.principal,
                title: token.title.clone(),
                grants: token.grants.iter().map(grant).collect(),
                create_time: Some(stamp(token.create_time)),
                expire_time: end,
                created_by: token.created_by.clone(),
                ..Default::default()
            };
            let secret = text.expose().to_owned();
            let made = pb::CreateTokenResponse { token: Some(made), secret, authentication_required: is_first };
            json::print("haul.v1.CreateTokenResponse", &made)?;
            return Ok(ExitCode::SUCCESS);
        }
        say(&token.id, &args.principal, end.as_ref().map(|_| words::time(end.as_ref())), is_first);
    }
    screen::document(text.expose());
    Ok(ExitCode::SUCCESS)
}

/// Returns the owner of a data directory whose database is somebody else's.
fn other_owner(dir: &Path) -> Option<u32> {
    let owner = |path: &Path| std::fs::metadata(path).ok().map(|it| it.uid());
    let (of_dir, of_files) = (owner(dir)?, owner(&dir.join("haul.db"))?);
    (of_dir != of_files).then_some(of_dir)
}

fn stamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.0.div_euclid(1_000_000), nanos: time.0.rem_euclid(1_000_000) as i32 * 1_000 }
}

/// Prints what is not secret about a token to stderr.
fn say(id: &str, principal: &str, end: Option<String>, is_first: bool) {
    let end = end.map_or("it never expires".to_owned(), |end| format!("it expires {end}"));
    screen::say(format!(
        "token {id} of {principal}; {end}. It is printed once: keep it in a file that only you can read."
    ));
    if is_first {
        screen::say(REQUIRED);
    }
}

async fn list(client: &Client, format: Format, args: ListArgs) -> anyhow::Result<ExitCode> {
    let principal = args.principal.unwrap_or_default();
    let (all, _) = pages::read(client, 0, async |page_size, page_token| {
        let principal = principal.clone();
        let request = pb::ListTokensRequest { page_size, page_token, principal, include_ended: args.all };
        let page = client.access().list_tokens(request).await?.into_inner();
        Ok((page.tokens, page.next_page_token))
    })
    .await?;
    if format == Format::Json {
        json::print_all("haul.v1.Token", &all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let columns = [
        Column::whole("TOKEN"),
        Column::name("PRINCIPAL", 10),
        Column::optional("MAY", 2),
        Column::optional("ENDS", 1),
        Column::optional("LAST USED", 3),
    ];
    let row = |token: &pb::Token| {
        let may = if token.grants.is_empty() { "all of it".to_owned() } else { grants_text(&token.grants) };
        let ends = match (&token.revoke_time, &token.expire_time) {
            (Some(_), _) => "revoked".to_owned(),
            (None, None) => "never".to_owned(),
            (None, end) => words::time(end.as_ref()),
        };
        let cells = vec![
            Line::from(token.token_id.as_str()),
            Line::from(token.principal.as_str()),
            Line::from(may),
            Line::from(ends),
            Line::from(words::time(token.last_use_time.as_ref())),
        ];
        Row { cells, remark: token.title.clone() }
    };
    table::print(&columns, &all.iter().map(row).collect::<Vec<_>>());
    Ok(ExitCode::SUCCESS)
}

async fn revoke(client: &Client, format: Format, args: RevokeArgs) -> anyhow::Result<ExitCode> {
    let request = pb::RevokeTokenRequest { token_id: args.id, with_descendants: args.with_descendants };
    let answer = client.access().revoke_token(request).await.map_err(|status| client.explain(&status))?.into_inner();
    match format {
        Format::Json => json::print("haul.v1.RevokeTokenResponse", &answer)?,
        Format::Text if answer.revoked == 0 => screen::line("it had ended already"),
        Format::Text => screen::line(format!("{} revoked", words::count(answer.revoked.into(), "token"))),
    }
    Ok(ExitCode::SUCCESS)
}
