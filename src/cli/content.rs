//! `haul cat`.

use std::process::ExitCode;

use clap::Args;

use crate::cli::args::{Format, JobRef};
use crate::cli::client::Client;
use crate::cli::jobref;
use crate::cli::json;
use crate::cli::term::screen;
use crate::model::text::plain_lines;
use crate::pb;
use crate::pb::read_content_request::Task as BytesOf;
use crate::pb::stream_items_request::Task as ItemsOf;

/// What to print.
#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    #[command(flatten)]
    job: JobRef,
    /// The task: its index, or its key
    task: String,
    /// TASK is a key, even though it looks like a number
    #[arg(long)]
    key: bool,
    /// Begin at this byte
    #[arg(long, value_name = "BYTE", conflicts_with = "items")]
    offset: Option<u64>,
    /// Print at most so many bytes
    #[arg(long, value_name = "BYTES", conflicts_with = "items", value_parser = clap::value_parser!(u64).range(1..))]
    length: Option<u64>,
    /// Print the items of a paginated fetch, one a line, following a running task to its end
    #[arg(long)]
    items: bool,
    /// Begin after this item, counted from 0
    #[arg(long, value_name = "INDEX", requires = "items")]
    after_item: Option<u64>,
    /// On a terminal, print control characters as they are; without it they are replaced
    #[arg(long)]
    raw: bool,
}

/// Prints a fetched body, a finished download, or the items of a listing.
pub(crate) async fn cat(client: &Client, format: Format, args: CatArgs) -> anyhow::Result<ExitCode> {
    let job_id = jobref::resolve(client, &args.job.job).await?;
    let explain = |status: tonic::Status| client.explain(&status);
    let index = args.task.parse::<u32>().ok().filter(|_| !args.key);
    if args.items {
        let task = Some(index.map_or(ItemsOf::TaskKey(args.task), ItemsOf::TaskIndex));
        let request = pb::StreamItemsRequest { job_id, task, after_item: args.after_item };
        let mut items = client.contents().stream_items(request).await.map_err(explain)?.into_inner();
        let mut whole = String::new();
        while let Some(item) = items.message().await.map_err(explain)? {
            if format == Format::Json {
                json::print("haul.v1.StreamItemsResponse", &item)?;
                continue;
            }
            // A large item comes in parts. An origin may send an item over many lines.
            whole.push_str(&item.json);
            if item.last_part {
                screen::document(&json::compact(&whole));
                whole.clear();
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let task = Some(index.map_or(BytesOf::TaskKey(args.task), BytesOf::TaskIndex));
    let request =
        pb::ReadContentRequest { job_id, task, offset: args.offset.unwrap_or(0), length: args.length.unwrap_or(0) };
    let mut chunks = client.contents().read_content(request).await.map_err(explain)?.into_inner();
    let is_cleaned = !args.raw && screen::stdout_size().is_some();
    let mut tail = Vec::new();
    while let Some(chunk) = chunks.message().await.map_err(explain)? {
        match format {
            Format::Json => json::print("haul.v1.ReadContentResponse", &chunk)?,
            Format::Text if is_cleaned => tail = clean(tail, &chunk.data),
            Format::Text => screen::bytes(&chunk.data),
        }
    }
    screen::bytes(plain_lines(&String::from_utf8_lossy(&tail)).as_bytes());
    Ok(ExitCode::SUCCESS)
}

/// Prints bytes of an origin as text that a terminal does not obey. Returns the beginning of a character that the next
/// bytes complete.
fn clean(mut bytes: Vec<u8>, more: &[u8]) -> Vec<u8> {
    bytes.extend_from_slice(more);
    let begun = match std::str::from_utf8(&bytes) {
        Err(error) if error.error_len().is_none() => bytes.len() - error.valid_up_to(),
        // Behind what is not text there is nothing to wait for.
        _ => 0,
    };
    let rest = bytes.split_off(bytes.len() - begun);
    screen::bytes(plain_lines(&String::from_utf8_lossy(&bytes)).as_bytes());
    rest
}
