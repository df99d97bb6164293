//! `haul cat`.

use std::process::ExitCode;

use clap::Args;

use crate::cli::client::Client;
use crate::cli::jobref;
use crate::cli::output::{self, Format};
use crate::pb;
use crate::pb::read_content_request::Task as BytesOf;
use crate::pb::stream_items_request::Task as ItemsOf;

/// What to print.
#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    /// The job's id, or a unique prefix of it
    job: String,
    /// The task's index, or its key
    task: String,
    /// TASK is a key, though it reads as a number
    #[arg(long)]
    key: bool,
    /// Begin at this byte
    #[arg(long, value_name = "BYTE", default_value_t = 0, conflicts_with = "items")]
    offset: u64,
    /// At most so many bytes; 0: to the end
    #[arg(long, value_name = "BYTES", default_value_t = 0, conflicts_with = "items")]
    length: u64,
    /// The items of a paginated fetch, one a line, following a running task to its end
    #[arg(long)]
    items: bool,
    /// Begin after this item, counted from 0
    #[arg(long, value_name = "INDEX", requires = "items")]
    after_item: Option<u64>,
}

/// Prints a fetched body, a finished download, or the items of a listing.
pub(crate) async fn cat(client: &Client, format: Format, args: CatArgs) -> anyhow::Result<ExitCode> {
    let job_id = jobref::resolve(client, &args.job).await?;
    let explain = |status: tonic::Status| client.explain(&status);
    let index = args.task.parse::<u32>().ok().filter(|_| !args.key);
    if args.items {
        let task = Some(index.map_or(ItemsOf::TaskKey(args.task), ItemsOf::TaskIndex));
        let request = pb::StreamItemsRequest { job_id, task, after_item: args.after_item };
        let mut items = client.contents().stream_items(request).await.map_err(explain)?.into_inner();
        while let Some(item) = items.message().await.map_err(explain)? {
            match format {
                Format::Json => output::json_line("haul.v1.StreamItemsResponse", &item)?,
                // An origin may send an item over many lines.
                Format::Text => output::line(&output::compact(&item.json)),
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let task = Some(index.map_or(BytesOf::TaskKey(args.task), BytesOf::TaskIndex));
    let request = pb::ReadContentRequest { job_id, task, offset: args.offset, length: args.length };
    let mut chunks = client.contents().read_content(request).await.map_err(explain)?.into_inner();
    while let Some(chunk) = chunks.message().await.map_err(explain)? {
        match format {
            Format::Json => output::json_line("haul.v1.ReadContentResponse", &chunk)?,
            Format::Text => output::bytes(&chunk.data),
        }
    }
    Ok(ExitCode::SUCCESS)
}
