//! `haul credential`: secrets that the server sends to origins for the tasks that name them.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::cli::args::{Format, Nothing, Remote, Usage, With};
use crate::cli::client::{Client, open};
use crate::cli::json;
use crate::cli::lists;
use crate::cli::pages;
use crate::cli::term::fields::print_fields;
use crate::cli::term::line::Line;
use crate::cli::term::screen;
use crate::cli::term::table::{self, Column, Row};
use crate::cli::term::words;
use crate::clock::Clock;
use crate::config::values::parse_lifetime;
use crate::model::time::Timestamp;
use crate::pb;
use crate::pb::credential_value::Kind;

/// More than a secret, or a chain of certificates, has.
const FILE_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Subcommand)]
pub(crate) enum CredentialCommand {
    /// Make a credential, or change one
    #[command(
        after_help = "Examples:\n  haul credential set api --host api.example.com --path /v1 --bearer-from token.txt\n  haul \
                      credential set api --bearer-from -      # a new secret, bound as before\n  haul credential set api \
                      --path /v1/items   # a narrower binding\n\nWith --host and a secret every field is set; \
                      otherwise only what is named is changed. A wider binding needs the secret again."
    )]
    Set(Box<With<SetArgs>>),
    /// List credentials, without their secrets
    #[command(after_help = "Example:\n  haul credential list")]
    List(With<Nothing>),
    /// Show a credential, without its secret
    #[command(after_help = "Example:\n  haul credential show api")]
    Show(With<NameArgs>),
    /// Delete a credential
    #[command(after_help = "Example:\n  haul credential delete api")]
    Delete(With<DeleteArgs>),
}

/// A credential to make or to change.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Its name
    name: String,
    /// A host that it may be sent to: `api.example.com`, `api.example.com:8443`, `*.example.com`; may be repeated
    #[arg(long, value_name = "HOST", help_heading = "Binding")]
    host: Vec<String>,
    /// A path below which it may be sent; may be repeated [default: all]
    #[arg(long, value_name = "PATH", help_heading = "Binding")]
    path: Vec<String>,
    /// A method with which it may be sent; may be repeated [default: GET and HEAD]
    #[arg(long, value_name = "METHOD", help_heading = "Binding")]
    method: Vec<String>,
    /// Send it over http too, where everybody on the way can read it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = "Binding")]
    allow_http: Option<bool>,
    /// A principal whose jobs may use it; may be repeated [default: every submitter]
    #[arg(long, value_name = "PRINCIPAL", help_heading = "Binding")]
    user: Vec<String>,
    /// Keep answers that contain the secret
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = "Binding")]
    skip_echo_scan: Option<bool>,
    /// The time after which it ends (`12h`, `90d`), or `never`
    #[arg(long, value_name = "TIME", help_heading = "Binding")]
    expires_in: Option<String>,
    /// Authorities to trust for requests with it, in PEM
    #[arg(long, value_name = "FILE", help_heading = "Binding")]
    ca_pem: Option<PathBuf>,

    /// A file with a token, sent as `Authorization: Bearer`; `-` reads stdin
    #[arg(long, value_name = "FILE", group = "secret", help_heading = "Secret")]
    bearer_from: Option<PathBuf>,
    /// A file with `USER:PASSWORD`, sent as `Authorization: Basic`; `-` reads stdin
    #[arg(long, value_name = "FILE", group = "secret", help_heading = "Secret")]
    basic_from: Option<PathBuf>,
    /// A file with `NAME: VALUE`, sent as this header; `-` reads stdin
    #[arg(long, value_name = "FILE", group = "secret", help_heading = "Secret")]
    header_from: Option<PathBuf>,
    /// A file with `NAME=VALUE`, added to the query; `-` reads stdin
    #[arg(long, value_name = "FILE", group = "secret", help_heading = "Secret")]
    query_from: Option<PathBuf>,
    /// A client's certificate, in PEM
    #[arg(long, value_name = "FILE", group = "secret", requires = "client_key", help_heading = "Secret")]
    client_cert: Option<PathBuf>,
    /// The key of that certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "client_cert", help_heading = "Secret")]
    client_key: Option<PathBuf>,
}

/// Which credential.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// Its name
    name: String,
}

/// Which credential to delete.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Its name
    name: String,
    /// Delete it although jobs that have not ended name it: their next attempts fail
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(top: &Remote, command: CredentialCommand) -> anyhow::Result<ExitCode> {
    match command {
        CredentialCommand::Set(with) => {
            let (client, format, args) = open(top, *with)?;
            set(&client, format, args).await
        }
        CredentialCommand::List(with) => {
            let (client, format, _) = open(top, with)?;
            list(&client, format).await
        }
        CredentialCommand::Show(with) => {
            let (client, format, args) = open(top, with)?;
            let call = client.access().get_credential(pb::GetCredentialRequest { name: args.name }).await;
            let found = call.map_err(|status| client.explain(&status))?.into_inner();
            show(format, &found.credential.unwrap_or_default())
        }
        CredentialCommand::Delete(with) => {
            let (client, format, args) = open(top, with)?;
            delete(&client, format, args).await
        }
    }
}

async fn set(client: &Client, format: Format, args: SetArgs) -> anyhow::Result<ExitCode> {
    let request = request(args, Clock::system().now())?;
    let call = client.access().put_credential(request).await;
    let set = call.map_err(|status| client.explain(&status))?.into_inner();
    show(format, &set.credential.unwrap_or_default())
}

/// What to ask for. `now` is when `--expires-in` begins.
fn request(args: SetArgs, now: Timestamp) -> Result<pb::PutCredentialRequest, Usage> {
    let kind = secret(&args)?;
    let is_whole = !args.host.is_empty() && kind.is_some();
    let expire_time = match args.expires_in.as_deref() {
        None | Some("never") => None,
        Some(text) => {
            let after =
                parse_lifetime(text).ok_or_else(|| Usage("--expires-in: write it like `12h` or `90d`".to_owned()))?;
            let end = now.plus(after).0;
            let nanos = (end.rem_euclid(1_000_000) * 1_000) as i32;
            Some(prost_types::Timestamp { seconds: end.div_euclid(1_000_000), nanos })
        }
    };
    let ca_pem = args.ca_pem.as_deref().map(|path| text("--ca-pem", path)).transpose()?;
    let named = [
        ("hosts", !args.host.is_empty()),
        ("path_prefixes", !args.path.is_empty()),
        ("methods", !args.method.is_empty()),
        ("allow_http", args.allow_http.is_some()),
        ("users", !args.user.is_empty()),
        ("skip_echo_scan", args.skip_echo_scan.is_some()),
        ("expire_time", args.expires_in.is_some()),
        ("value", kind.is_some()),
        ("ca_pem", ca_pem.is_some()),
    ];
    let paths: Vec<String> = named.iter().filter(|(_, is)| *is).map(|(field, _)| (*field).to_owned()).collect();
    if paths.is_empty() {
        return Err(Usage("nothing to set; give --host and a secret, or what to change".to_owned()));
    }
    let wish = pb::Credential {
        name: args.name,
        hosts: args.host,
        path_prefixes: args.path,
        methods: args.method,
        allow_http: args.allow_http.unwrap_or_default(),
        users: args.user,
        skip_echo_scan: args.skip_echo_scan.unwrap_or_default(),
        expire_time,
        ..Default::default()
    };
    Ok(pb::PutCredentialRequest {
        credential: Some(wish),
        value: kind.map(|kind| pb::CredentialValue { kind: Some(kind) }),
        ca_pem: ca_pem.unwrap_or_default(),
        update_mask: (!is_whole).then_some(prost_types::FieldMask { paths }),
        request_id: String::new(),
    })
}

/// Reads the secret that is given. There is no option for the secret itself, since lists of processes show those.
fn secret(args: &SetArgs) -> Result<Option<Kind>, Usage> {
    let line = |flag: &str, path: &Path| text(flag, path).map(|text| text.trim().to_owned());
    let pair = |flag: &str, path: &Path, mark: char, form: &str| {
        let text = line(flag, path)?;
        let (name, value) =
            text.split_once(mark).ok_or_else(|| Usage(format!("`{flag}`: the file must hold `{form}`")))?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    };
    Ok(if let Some(path) = &args.bearer_from {
        Some(Kind::BearerToken(line("--bearer-from", path)?))
    } else if let Some(path) = &args.basic_from {
        let (username, password) = pair("--basic-from", path, ':', "USER:PASSWORD")?;
        Some(Kind::BasicAuth(pb::BasicAuth { username, password }))
    } else if let Some(path) = &args.header_from {
        let (name, value) = pair("--header-from", path, ':', "NAME: VALUE")?;
        Some(Kind::Header(pb::Header { name, value, sensitive: true }))
    } else if let Some(path) = &args.query_from {
        let (name, value) = pair("--query-from", path, '=', "NAME=VALUE")?;
        Some(Kind::QueryParameter(pb::QueryParameter { name, value }))
    } else if let (Some(certificate), Some(key)) = (&args.client_cert, &args.client_key) {
        let certificate_pem = text("--client-cert", certificate)?;
        Some(Kind::ClientCertificate(pb::ClientCertificate { certificate_pem, key_pem: text("--client-key", key)? }))
    } else {
        None
    })
}

fn text(flag: &str, path: &Path) -> Result<String, Usage> {
    let (name, reader) = lists::open(path)?;
    let mut text = String::new();
    let read = reader.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| Usage(format!("`{flag}`: cannot read {name}: {error}")))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Usage(format!("`{flag}`: {name} is larger than 64 KiB")));
    }
    Ok(text)
}

fn show(format: Format, it: &pb::Credential) -> anyhow::Result<ExitCode> {
    if format == Format::Json {
        json::print("haul.v1.Credential", it)?;
        return Ok(ExitCode::SUCCESS);
    }
    let or = |texts: &[String], none: &str| if texts.is_empty() { none.to_owned() } else { texts.join(" ") };
    let kind = if it.kind.is_empty() {
        "lost: its key is not there any more; set it again".to_owned()
    } else {
        it.kind.to_lowercase()
    };
    let mut fields = vec![
        ("credential", Line::from(it.name.as_str())),
        ("secret", Line::from(kind)),
        ("hosts", Line::from(or(&it.hosts, ""))),
        ("paths", Line::from(or(&it.path_prefixes, "all"))),
        ("methods", Line::from(or(&it.methods, "GET HEAD"))),
        ("users", Line::from(or(&it.users, "every submitter"))),
    ];
    if it.allow_http {
        fields.push(("http", Line::from("allowed")));
    }
    if it.skip_echo_scan {
        fields.push(("echo scan", Line::from("off")));
    }
    let end = it.expire_time.as_ref();
    fields.push(("expires", Line::from(end.map_or("never".to_owned(), |_| words::time(end)))));
    fields.push(("changed", Line::from(words::time(it.update_time.as_ref()))));
    fields.push(("last used", Line::from(words::time(it.last_use_time.as_ref()))));
    print_fields(&fields);
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &Client, format: Format) -> anyhow::Result<ExitCode> {
    let (all, _) = pages::read(client, 0, async |page_size, page_token| {
        let request = pb::ListCredentialsRequest { page_size, page_token };
        let page = client.access().list_credentials(request).await?.into_inner();
        Ok((page.credentials, page.next_page_token))
    })
    .await?;
    if format == Format::Json {
        json::print_all("haul.v1.Credential", &all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let columns = [
        Column::name("CREDENTIAL", 10),
        Column::text("SECRET", 6),
        Column::text("HOSTS", 10),
        Column::optional("LAST USED", 1),
    ];
    let row = |it: &pb::Credential| {
        let cells = vec![
            Line::from(it.name.as_str()),
            Line::from(it.kind.to_lowercase()),
            Line::from(it.hosts.join(" ")),
            Line::from(words::time(it.last_use_time.as_ref())),
        ];
        Row { cells, remark: String::new() }
    };
    table::print(&columns, &all.iter().map(row).collect::<Vec<_>>());
    Ok(ExitCode::SUCCESS)
}

async fn delete(client: &Client, format: Format, args: DeleteArgs) -> anyhow::Result<ExitCode> {
    let request = pb::DeleteCredentialRequest { name: args.name.clone(), etag: String::new(), force: args.force };
    let answer =
        client.access().delete_credential(request).await.map_err(|status| client.explain(&status))?.into_inner();
    match format {
        Format::Json => json::print("haul.v1.DeleteCredentialResponse", &answer)?,
        Format::Text => screen::line(format!("{} is deleted", args.name)),
    }
    Ok(ExitCode::SUCCESS)
}
