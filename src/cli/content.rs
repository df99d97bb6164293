//! `haul cat`.

use std::process::ExitCode;

use clap::Args;

use crate::cli::client::Client;
use crate::cli::output;
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
    /// The items of a paginated fetch, one a line, following a running task to its end
    #[arg(long)]
    items: bool,
}

/// Prints a fetched body, a finished download, or the items of a listing.
pub(crate) async fn cat(client: &Client, args: CatArgs) -> anyhow::Result<ExitCode> {
    let job_id = client.job_id(&args.job).await?;
    let explain = |status: tonic::Status| client.explain(&status);
    let index = args.task.parse::<u32>();
    if args.items {
        let task = Some(index.map_or_else(|_| ItemsOf::TaskKey(args.task.clone()), ItemsOf::TaskIndex));
        let request = pb::StreamItemsRequest { job_id, task, after_item: None };
        let mut items = client.contents().stream_items(request).await.map_err(explain)?.into_inner();
        while let Some(item) = items.message().await.map_err(explain)? {
            output::line(&item.json);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let task = Some(index.map_or_else(|_| BytesOf::TaskKey(args.task.clone()), BytesOf::TaskIndex));
    let request = pb::ReadContentRequest { job_id, task, offset: 0, length: 0 };
    let mut chunks = client.contents().read_content(request).await.map_err(explain)?.into_inner();
    while let Some(chunk) = chunks.message().await.map_err(explain)? {
        output::bytes(&chunk.data);
    }
    Ok(ExitCode::SUCCESS)
}
