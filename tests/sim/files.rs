//! The files of jobs, over a store that does not always say whose they are.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use haul::engine::workers::WorkerParts;
use haul::engine::{self, EngineParts};
use haul::model::failure::{Failure, FailureReason};
use haul::model::job::JobState;
use haul::model::spec::{DownloadSpec, JobSpec, RetryOptions, TaskOptions, TaskSpec, Work};
use haul::model::task_filter::TaskChoice;
use haul::net::{Body, BodySource, Profile, Request, Response, Transport};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::task::JoinSet;

use crate::directed::parts;
use crate::memory::MemoryStore;
use crate::slow_store::{Faults, SlowStore};

const CONTENT: &[u8] = b"0123456789";
/// So many bytes come before the first answer is cut.
const CUT: usize = 4;

/// A host that cuts its first answer, and the ranges that it was asked for.
#[derive(Clone, Default)]
struct Cutting(Arc<Mutex<Vec<String>>>);

struct Pieces(VecDeque<Result<Bytes, Failure>>);

impl BodySource for Pieces {
    fn chunk(&mut self) -> BoxFuture<'_, Option<Result<Bytes, Failure>>> {
        std::future::ready(self.0.pop_front()).boxed()
    }
}

impl Transport for Cutting {
    fn send<'a>(&'a self, request: Request, _: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        let range = request.headers.get(header::RANGE).map(|range| range.to_str().unwrap().to_owned());
        let mut headers = HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static("\"x\""))]);
        let (status, pieces) = if range.is_some() {
            let bytes = format!("bytes {CUT}-{}/{}", CONTENT.len() - 1, CONTENT.len());
            headers.insert(header::CONTENT_RANGE, bytes.parse().unwrap());
            (StatusCode::PARTIAL_CONTENT, VecDeque::from([Ok(Bytes::from_static(&CONTENT[CUT..]))]))
        } else {
            headers.insert(header::CONTENT_LENGTH, CONTENT.len().into());
            let cut = Failure::retryable(FailureReason::Truncated, "cut");
            (StatusCode::OK, VecDeque::from([Ok(Bytes::from_static(&CONTENT[..CUT])), Err(cut)]))
        };
        self.0.lock().unwrap().push(range.unwrap_or_default());
        let (url, body) = (request.url.clone(), Body(Box::new(Pieces(pieces))));
        std::future::ready(Ok(Response { status, headers, url, remote: None, body })).boxed()
    }
}

/// A retry goes on with what came before, also where the store does not say at once which tasks have parts.
pub(crate) async fn a_read_fails_as_parts_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (memory, faults, host) = (MemoryStore::default(), Faults::new(7, false, false), Cutting::default());
    faults.calm.store(true, Ordering::Relaxed);
    let store = Arc::new(SlowStore { inner: Arc::new(memory.clone()), faults: faults.clone() });
    let of = host.clone();
    let make =
        move || WorkerParts { transport: Arc::new(of.clone()), close: Box::new(|| Box::pin(std::future::ready(()))) };
    let parts = EngineParts { store, make: Arc::new(make), ..parts(dir.path(), &memory) };
    let (engine, task) = engine::start(parts, Box::new(memory.writer()), 1).await.unwrap();
    let mut work = JoinSet::new();
    work.spawn(task.run());
    let retry = RetryOptions { max_attempts: Some(1), ..RetryOptions::default() };
    let options = TaskOptions { retry, ..TaskOptions::default() };
    let download =
        DownloadSpec { url: "http://10.0.0.9/f".to_owned(), path: "f".to_owned(), ..DownloadSpec::default() };
    let task = TaskSpec { key: String::new(), work: Work::Download(download), options: options.into() };
    let job = engine.submit(JobSpec::default(), vec![task], "", None).await.unwrap().id;
    assert_eq!(engine.ended(job).await.unwrap().state, JobState::Failed);
    faults.fails_files.store(1, Ordering::Relaxed);
    engine.retry(job, TaskChoice::All).await.unwrap();
    let ended = engine.ended(job).await.unwrap();
    assert_eq!(ended.state, JobState::Succeeded);
    assert_eq!(*host.0.lock().unwrap(), [String::new(), format!("bytes={CUT}-")]);
    assert_eq!(std::fs::read(dir.path().join("downloads").join(ended.directory()).join("f")).unwrap(), CONTENT);
}
