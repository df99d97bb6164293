//! What an attempt does: a fetch or a download, with what each keeps.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::download::{self, DownloadContext, Settings};
use crate::engine::attempt::{Ended, Launch};
use crate::engine::patience::patiently;
use crate::engine::runner::Runner;
use crate::fetch::{self, FetchContext, FetchedBody, INLINE_BYTES_MAX, Page, PageCursor, Sink, Spool};
use crate::files::content::Spooling;
use crate::limits::transport::Limited;
use crate::model::credential::echo::echoed;
use crate::model::failure::{Failure, FailureReason};
use crate::model::outcome::{AttemptEnd, AttemptReport, ShortOf};
use crate::model::spec::{DownloadSpec, FetchSpec, Work};
use crate::model::storage::{Full, StorageHold};
use crate::net::Profile;
use crate::store::{Content, NewPage};

/// Runs the work of an attempt to its end.
pub(crate) async fn run(
    runner: &Runner,
    launch: &Launch,
    transport: &Limited,
    profile: &Arc<Profile>,
    stop: &CancellationToken,
) -> Ended {
    let (end, report, body) = match &launch.spec.work {
        Work::Fetch(spec) => fetch(runner, launch, spec, transport, profile, stop).await,
        Work::Download(spec) => {
            let (end, report) = download(runner, launch, spec, transport, profile, stop).await;
            (end, report, None)
        }
    };
    Ended { id: launch.id, fence: launch.fence, end, report, body }
}

async fn fetch(
    runner: &Runner,
    launch: &Launch,
    spec: &FetchSpec,
    transport: &Limited,
    profile: &Arc<Profile>,
    stop: &CancellationToken,
) -> (AttemptEnd, AttemptReport, Option<NewPage>) {
    let resume = match cursor(runner, launch, spec).await {
        Ok(resume) => resume,
        Err(failure) => return (AttemptEnd::Failed(failure), as_before(launch), None),
    };
    let is_listing = spec.pagination.is_some();
    if is_listing {
        // What is there decides, whatever was counted when an attempt before was cut.
        launch.storage.holds(resume.as_ref().map_or(0, |resume| resume.bytes));
    }
    let sink = PageSink { runner, launch };
    let clock = runner.clock.clone();
    let now = move || clock.now();
    let context = FetchContext {
        transport,
        profile,
        echo: launch.echo(),
        meter: &launch.meter,
        sink: &sink,
        now: &now,
        stop,
        rest: (!launch.options.retry.may_repeat).then_some(&launch.rest),
        retry_after_max: runner.retry_after_max,
        retry_statuses: &launch.options.retry.retry_statuses,
        resume,
    };
    let mut fetched = fetch::run(&context, spec).await;
    if let (AttemptEnd::Done(_), Some(FetchedBody::Inline(bytes))) = (&fetched.end, &fetched.body)
        && let Err(full) = launch.storage.more(bytes.len() as u64)
    {
        (fetched.end, fetched.body) = (AttemptEnd::Failed(full_failure(full)), None);
    }
    if let (AttemptEnd::Failed(failure), Some(full)) = (&fetched.end, launch.storage.refusal())
        && failure.reason == FailureReason::DiskFull
    {
        fetched.end = no_room(launch, full, is_listing);
    }
    if is_listing && !matches!(fetched.end, AttemptEnd::Done(_)) {
        // Its pages are kept for the next attempt.
        fetched.report.held_bytes = launch.storage.bytes();
    }
    let content = fetched.body.map(|body| match body {
        FetchedBody::Inline(bytes) => Content::Inline(bytes),
        FetchedBody::Spooled { name, bytes } => Content::File { name, bytes },
    });
    let page = content.map(|content| NewPage { id: launch.id, page: 0, first_item: 0, items: 0, content, next: None });
    (fetched.end, fetched.report, page)
}

/// What an attempt has done that ended before it looked at what earlier ones have left: that is there still.
pub(crate) fn as_before(launch: &Launch) -> AttemptReport {
    AttemptReport { held_bytes: launch.storage.bytes(), ..AttemptReport::default() }
}

/// What it means that a tenant may not store more: the task waits for room, unless it can never have enough or what it asks
/// for may not be asked for twice.
fn no_room(launch: &Launch, full: Full, is_listing: bool) -> AttemptEnd {
    let whole = launch.storage.bytes().saturating_add(full.needed_bytes);
    if whole > full.most_bytes {
        let message = format!(
            "the response has {whole} bytes or more, and the tenant may store at most {} (`stored_bytes`); ask for a \
             larger quota",
            full.most_bytes
        );
        return AttemptEnd::Failed(Failure::fatal(FailureReason::DiskFull, message));
    }
    if !launch.options.retry.may_repeat {
        return AttemptEnd::Failed(full_failure(full));
    }
    // Nobody knows how many bytes are to come, and those of a single response come anew.
    let needed_bytes = if is_listing { full.needed_bytes } else { (whole + whole / 4).min(full.most_bytes) };
    let message = format!("there is no room for the response: {full}");
    AttemptEnd::NoSpace { of: ShortOf::Tenant, folder: String::new(), needed_bytes, message }
}

fn full_failure(full: Full) -> Failure {
    Failure::retryable(FailureReason::DiskFull, format!("there is no room for the response: {full}"))
}

/// The place where a listing goes on that an earlier attempt began. Memory knows pages that the store does not show yet.
async fn cursor(runner: &Runner, launch: &Launch, spec: &FetchSpec) -> Result<Option<PageCursor>, Failure> {
    if spec.pagination.is_none() || !launch.has_history {
        return Ok(None);
    }
    // Nothing was sent, so any request may be made again.
    let failed = |error: String| Failure {
        is_unsent: true,
        ..Failure::retryable(FailureReason::Internal, format!("cannot read where the listing goes on: {error}"))
    };
    // Only a credential is searched for in what comes back.
    if launch.credential.is_some() && runner.content.is_dropping(launch.id).await? {
        // The end of the process cut an attempt that had removed its pages: its end was not stored then.
        let last = patiently(|| runner.store.last_page(launch.id)).await.map_err(|error| failed(error.to_string()))?;
        if last.is_some() {
            return Err(Failure { is_unsent: true, ..echoed() });
        }
        runner.content.have_dropped(launch.id).await?;
    }
    let stored;
    let text = if let Some(text) = &launch.cursor {
        Some(&**text)
    } else {
        let read = patiently(|| runner.store.last_page(launch.id)).await;
        stored = read.map_err(|error| failed(error.to_string()))?;
        let next = stored.as_ref().map(|page| page.next.as_deref());
        if next == Some(None) {
            // Each page of a listing says where it goes on, until the secrets of an ended job are erased. To begin anew would
            // contradict the pages that are kept.
            let why = "where the listing goes on was erased with the secrets of the job; submit it again";
            return Err(Failure { is_unsent: true, ..Failure::fatal(FailureReason::Credential, why) });
        }
        next.flatten()
    };
    text.map(|text| serde_json::from_str(text).map_err(|error| failed(error.to_string()))).transpose()
}

/// Removes the files of pages that an attempt must not leave, since one of them had the secret that was sent. Their rows go
/// with its end.
pub(crate) async fn drop_pages(runner: &Runner, launch: &Launch) {
    let last = match patiently(|| runner.store.last_page(launch.id)).await {
        Ok(last) => last,
        Err(error) => return tracing::error!(task = %launch.id, "pages that are not kept stay in files: {error}"),
    };
    // One more may have been written that the store was not told of.
    let count = last.map_or(0, |page| page.page.saturating_add(1)).saturating_add(1);
    if let Err(failure) = runner.content.drop_pages(launch.id, count).await {
        tracing::error!(task = %launch.id, "pages that are not kept stay in files: {}", failure.message);
    }
}

/// Keeps pages and long bodies of one attempt.
struct PageSink<'a> {
    runner: &'a Runner,
    launch: &'a Launch,
}

impl Sink for PageSink<'_> {
    fn spool(&self) -> BoxFuture<'_, Result<Box<dyn Spool>, Failure>> {
        async move {
            let spooling = self.runner.content.spool(self.launch.id, 0).await?;
            Ok(Box::new(BodySpool(spooling, self.launch.storage.clone())) as Box<dyn Spool>)
        }
        .boxed()
    }

    fn page(&self, page: Page) -> BoxFuture<'_, Result<(), Failure>> {
        self.keep(page).boxed()
    }
}

impl PageSink<'_> {
    /// Durable when it returns.
    async fn keep(&self, page: Page) -> Result<(), Failure> {
        let bytes = page.body.len() as u64;
        self.launch.storage.more(bytes).map_err(full_failure)?;
        // Given back also where the attempt is cut meanwhile. One that is there all the same is counted when the listing goes on.
        let mut unkept = Unkept { storage: &self.launch.storage, bytes };
        self.write(page).await?;
        unkept.bytes = 0;
        Ok(())
    }

    /// The row of a page is committed after the file that it may name.
    async fn write(&self, page: Page) -> Result<(), Failure> {
        let id = self.launch.id;
        let content = if page.body.len() > INLINE_BYTES_MAX {
            let bytes = page.body.len() as u64;
            self.runner.content.write(id, page.number, page.body).await?;
            Content::File { name: page.number.to_string(), bytes }
        } else {
            self.runner.content.check_room(page.body.len() as u64)?;
            Content::Inline(page.body)
        };
        let lost = || Failure::retryable(FailureReason::Internal, "the server is shutting down");
        let next = serde_json::to_string(&page.cursor).map_err(|_| lost())?;
        let page = NewPage {
            id,
            page: page.number,
            first_item: page.first_item,
            items: u64::from(page.item_count),
            content,
            next: Some(next),
        };
        let pages = self.runner.pages().ok_or_else(lost)?;
        pages.keep(id, self.launch.fence, page).await
    }
}

/// Bytes of a page that is not kept yet. Dropping it gives them back.
struct Unkept<'a> {
    storage: &'a StorageHold,
    bytes: u64,
}

impl Drop for Unkept<'_> {
    fn drop(&mut self) {
        self.storage.less(self.bytes);
    }
}

/// A long body on its way into its content file.
struct BodySpool(Spooling, Arc<StorageHold>);

impl Spool for BodySpool {
    fn write(&mut self, bytes: bytes::Bytes) -> BoxFuture<'_, Result<(), Failure>> {
        let room = self.1.more(bytes.len() as u64).map_err(full_failure);
        // A write to the page cache: done in place.
        std::future::ready(room.and_then(|()| self.0.write(&bytes))).boxed()
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<String, Failure>> {
        self.0.finish().map(|done| done.map(|()| "0".to_owned())).boxed()
    }
}

async fn download(
    runner: &Runner,
    launch: &Launch,
    spec: &DownloadSpec,
    transport: &Limited,
    profile: &Arc<Profile>,
    stop: &CancellationToken,
) -> (AttemptEnd, AttemptReport) {
    let root = match runner.roots.of(&launch.tenant) {
        Ok(root) => root,
        Err(failure) => return (AttemptEnd::Failed(failure), as_before(launch)),
    };
    let part_key = runner.files.key(launch.id, spec);
    let settings = Settings { max_bytes: runner.max_download_bytes, ..Settings::default() };
    let clock = runner.clock.clone();
    let now = move || clock.now();
    let context = DownloadContext {
        transport,
        profile,
        echo: launch.echo(),
        root: &root,
        directory: &launch.directory,
        part_key: &part_key,
        part_is_shared: runner.files.by_url(),
        has_history: launch.has_history,
        is_first: launch.is_first,
        is_last: launch.is_last,
        retry: &launch.options.retry,
        meter: &launch.meter,
        stop,
        storage: &launch.storage,
        stored: &launch.stored,
        durability: runner.durability,
        settings: &settings,
        retry_after_max: runner.retry_after_max,
        now: &now,
    };
    download::run(&context, spec).await
}
