//! The workbench: a client, and a sink that keeps everything in memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use haul::fetch::{FetchContext, Fetched, Page, PageCursor, Sink, Spool, run};
use haul::model::failure::{Failure, FailureReason};
use haul::model::outcome::{AttemptEnd, FetchResult, Outcome};
use haul::model::progress::Meter;
use haul::model::spec::FetchSpec;
use haul::model::time::Timestamp;
use haul::net::{Guard, HttpClient, Profile};
use tokio_util::sync::CancellationToken;

pub(crate) type OnPage = Box<dyn Fn(&Page) + Send + Sync>;

#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) pages: Mutex<Vec<Page>>,
    pub(crate) spooled: Arc<Mutex<Vec<Bytes>>>,
    pub(crate) open_spools: Arc<()>,
    pub(crate) on_page: Option<OnPage>,
    pub(crate) page_delay: Duration,
}

impl Sink for Memory {
    fn spool(&self) -> BoxFuture<'_, Result<Box<dyn Spool>, Failure>> {
        let spool = Memo { bytes: Vec::new(), all: Arc::clone(&self.spooled), _open: Arc::clone(&self.open_spools) };
        std::future::ready(Ok(Box::new(spool) as Box<dyn Spool>)).boxed()
    }

    fn page(&self, page: Page) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move {
            tokio::time::sleep(self.page_delay).await;
            if let Some(on_page) = &self.on_page {
                on_page(&page);
            }
            self.pages.lock().unwrap().push(page);
            Ok(())
        })
    }
}

struct Memo {
    bytes: Vec<u8>,
    all: Arc<Mutex<Vec<Bytes>>>,
    _open: Arc<()>,
}

impl Spool for Memo {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), Failure>> {
        self.bytes.extend_from_slice(&bytes);
        std::future::ready(Ok(())).boxed()
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<String, Failure>> {
        self.all.lock().unwrap().push(self.bytes.into());
        std::future::ready(Ok("spooled".to_owned())).boxed()
    }
}

pub(crate) struct Bench {
    pub(crate) client: HttpClient,
    pub(crate) profile: Arc<Profile>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) sink: Memory,
    pub(crate) stop: CancellationToken,
    pub(crate) retry_statuses: Vec<u16>,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench {
            client: HttpClient::new(Guard { allow_private: true, ..Guard::default() }),
            profile: Arc::default(),
            meter: Arc::default(),
            sink: Memory::default(),
            stop: CancellationToken::new(),
            retry_statuses: Vec::new(),
        }
    }

    pub(crate) async fn run(&self, spec: &FetchSpec) -> Fetched {
        self.resume(spec, None).await
    }

    pub(crate) async fn resume(&self, spec: &FetchSpec, resume: Option<PageCursor>) -> Fetched {
        let ctx = FetchContext {
            transport: &self.client,
            profile: &self.profile,
            echo: None,
            meter: &self.meter,
            sink: &self.sink,
            now: &|| Timestamp(0),
            stop: &self.stop,
            rest: None,
            retry_after_max: Duration::from_mins(1),
            retry_statuses: &self.retry_statuses,
            resume,
        };
        is_send(run(&ctx, spec)).await
    }

    pub(crate) async fn failure(&self, spec: &FetchSpec) -> Failure {
        match self.run(spec).await.end {
            AttemptEnd::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn reason(&self, spec: &FetchSpec) -> (FailureReason, bool) {
        let failure = self.failure(spec).await;
        (failure.reason, failure.retryable)
    }
}

/// The engine runs attempts in a set of tasks.
fn is_send<T: Send>(future: T) -> T {
    future
}

pub(crate) fn result(fetched: &Fetched) -> &FetchResult {
    match &fetched.end {
        AttemptEnd::Done(Outcome::Fetch(result)) => result,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn spec(url: String) -> FetchSpec {
    FetchSpec { url, ..FetchSpec::default() }
}
