//! `POST /v1/jobs/{job_id}/tasks:import`: a list of any length becomes chunks of `AddTasks`, as it comes.
//!
//! A chunk is sent when the one before it is durable, so a slow store slows the client down, and memory holds one chunk and
//! one line, all of which is counted among what clients have sent. Each chunk that is durable has a line in the answer; the first line that cannot be read ends both.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::stream::unfold;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http::{Extensions, HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use memchr::memchr;
use prost::Message as _;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::api::inbound::{no_room, silent, slow};
use crate::api::status::{Fault, Violations, internal, shown};
use crate::imports::{CHUNK_BYTES, CHUNK_TASKS, ChunkIds, Kind, download};
use crate::listen::KnownCaller;
use crate::listen::budget::Hold;
use crate::listen::peer::Peer;
use crate::model::import::{Entry, Format, Item, LINE_BYTES_MAX, Lines, Wrong, metalink};
use crate::pb;
use crate::rest::Rest;
use crate::rest::answer::Refusal;
use crate::rest::body::BodyBounds;
use crate::rest::call::{Caller, framed};
use crate::rest::json;
use crate::rest::stream::{self, Form};
use crate::rest::template::{SplitPath, Template};

/// Where lists go.
pub(super) const PATH: &str = "/v1/jobs/{job_id}/tasks:import";

/// The types of lists, for messages.
const TYPES: &str = "text/uri-list, application/x-ndjson (a TaskSpec a line), text/x-aria2-input or \
                     application/metalink4+xml";

/// Documents that are read at once: until it has been read nobody knows how large one becomes.
static DOCUMENTS: Semaphore = Semaphore::const_new(2);

/// Returns the job that a path imports into; `None`: it is another path.
pub(super) fn job_of(path: &str) -> Option<String> {
    static TEMPLATE: LazyLock<Option<Template>> = LazyLock::new(|| Template::parse(PATH));
    TEMPLATE.as_ref()?.matches(&SplitPath::of(path)?)?.pop()
}

/// Answers a request to import a list into a job.
pub(super) async fn answer(rest: &Rest, job_id: String, request: Request<Body>) -> Result<Response<Body>, Refusal> {
    let (head, body) = request.into_parts();
    match head.method {
        Method::POST => {}
        Method::OPTIONS => return Ok(super::methods_of("POST, OPTIONS")),
        ref other => return Err(Refusal::no_method(other.as_str(), head.uri.path(), "POST, OPTIONS".to_owned())),
    }
    let kind = kind(head.uri.query().unwrap_or_default())?;
    let format = format(&head.headers)?;
    let service = json::pool().get_service_by_name("haul.v1.JobService");
    let rpc = service.and_then(|it| it.methods().find(|method| method.name() == "AddTasks"));
    let rpc = rpc.ok_or_else(|| internal("the contract has no AddTasks"))?;
    Form::of(&rpc, &head.headers)?;
    let caller = Caller::new(&head);
    let lines = Sent::default();
    let list = List::new(job_id, kind, format, &head, body, rest.bounds, lines.clone());
    let chunks = unfold(Some(list), |list| async move {
        let mut list = list?;
        match list.next().await {
            Ok(Some(chunk)) => Some((Ok(Frame::data(framed(&chunk.encode_to_vec()))), Some(list))),
            Ok(None) => None,
            Err(status) => Some((Err(status), None)),
        }
    });
    let messages = caller.last_call(&rest.services, &rpc, Body::new(StreamBody::new(chunks))).await?;
    stream::answer(messages.explained(move |status| lines.explain(status)), rpc.output(), Form::Lines, None).await
}

fn kind(query: &str) -> Result<Kind, Status> {
    match query {
        "" | "kind=download" => Ok(Kind::Download),
        "kind=fetch" => Ok(Kind::Fetch),
        _ => Err(Violations::one("kind", "must be `download` or `fetch`, and is the only parameter")),
    }
}

fn format(headers: &HeaderMap) -> Result<Format, Refusal> {
    let refused = |message: String| {
        let code = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Refusal::new(code, Code::InvalidArgument, "UNSUPPORTED_MEDIA_TYPE", &message)
    };
    if headers.get(CONTENT_ENCODING).is_some_and(|it| !it.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(refused("the list is sent encoded; send it as it is".to_owned()));
    }
    let kind = headers.get(CONTENT_TYPE).map(|kind| String::from_utf8_lossy(kind.as_bytes())).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    Format::of_type(&essence).ok_or_else(|| {
        let said =
            if essence.is_empty() { "does not say what it is".to_owned() } else { format!("is `{}`", shown(&essence)) };
        refused(format!("the list {said}; send it as {TYPES}"))
    })
}

/// The lines of the chunk that was sent last, which is the one that a refusal is about.
#[derive(Clone, Debug, Default)]
struct Sent(Arc<Mutex<Vec<u64>>>);

impl Sent {
    fn set(&self, lines: Vec<u64>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = lines;
    }

    /// Names lines of the list where a refusal names tasks of a chunk.
    fn explain(&self, status: Status) -> Status {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let line = |field: &str| {
            let place = field.strip_prefix("tasks[")?.split(']').next()?.parse::<usize>().ok()?;
            lines.get(place).copied()
        };
        let violations = status.get_details_bad_request().map(|request| request.field_violations).unwrap_or_default();
        let Some(first) = violations.first().and_then(|it| line(&it.field)) else { return status };
        let message = format!("line {first}: {}", status.message());
        let fault = Fault::new(Code::InvalidArgument, "INVALID_ARGUMENT", message).with("line", &first.to_string());
        let named = violations.into_iter().map(|it| match line(&it.field) {
            Some(line) => (it.field, format!("{} (line {line})", it.description)),
            None => (it.field, it.description),
        });
        fault.violations(named).into()
    }
}

/// A list on its way in.
struct List {
    job_id: String,
    kind: Kind,
    format: Format,
    body: Body,
    bounds: BodyBounds,
    /// What has come of the line that is not whole.
    buffer: BytesMut,
    /// How many bytes of it are known to have no end of a line.
    searched: usize,
    /// When what is in it began to come.
    began: Option<Instant>,
    /// What knows the connection, and who calls once anything is read.
    extensions: Extensions,
    hold: Option<Hold>,
    lines: Lines,
    ids: ChunkIds,
    is_over: bool,
    /// Tasks of the chunk that is not full, with their lines, the bytes of their text, and the memory that they take, about.
    tasks: Vec<pb::TaskSpec>,
    places: Vec<u64>,
    bytes: usize,
    tasks_bytes: usize,
    /// Files of a document, which is read whole.
    files: std::vec::IntoIter<Entry>,
    /// The memory that they need, about.
    files_bytes: usize,
    sent: Sent,
}

impl List {
    fn new(
        job_id: String,
        kind: Kind,
        format: Format,
        head: &Parts,
        body: Body,
        bounds: BodyBounds,
        sent: Sent,
    ) -> List {
        List {
            job_id,
            kind,
            format,
            body,
            bounds,
            buffer: BytesMut::new(),
            searched: 0,
            began: None,
            extensions: head.extensions.clone(),
            hold: None,
            lines: Lines::new(format),
            ids: ChunkIds::new(kind, format),
            is_over: false,
            tasks: Vec::new(),
            places: Vec::new(),
            bytes: 0,
            tasks_bytes: 0,
            files: Vec::new().into_iter(),
            files_bytes: 0,
            sent,
        }
    }

    /// Returns the next chunk; `None` after the last.
    async fn next(&mut self) -> Result<Option<pb::AddTasksRequest>, Status> {
        // The chunk before is durable by now.
        self.tasks_bytes = 0;
        self.count()?;
        // The time that it took is not the client's.
        self.began = self.began.map(|_| Instant::now());
        loop {
            while !self.is_full() {
                if let Some(entry) = self.files.next() {
                    self.files_bytes = self.files_bytes.saturating_sub(entry.1.memory());
                    self.add(entry)?;
                } else if !self.take_line()? {
                    break;
                }
            }
            if self.is_full() || (self.is_over && self.buffer.is_empty() && !self.tasks.is_empty()) {
                return Ok(Some(self.chunk()));
            }
            if self.is_over {
                return Ok(None);
            }
            self.read().await?;
        }
    }

    fn is_full(&self) -> bool {
        self.tasks.len() >= CHUNK_TASKS || self.bytes >= CHUNK_BYTES
    }

    /// Holds the room that everything here takes.
    fn count(&mut self) -> Result<(), Status> {
        let held = self.buffer.len() + self.lines.open_bytes() + self.tasks_bytes + self.files_bytes;
        if self.hold.is_none() {
            let peer = self.extensions.get::<Arc<Peer>>();
            self.hold = peer.map(|peer| Hold::new(peer.share.clone(), KnownCaller::holder_of(&self.extensions)));
        }
        match &mut self.hold {
            Some(hold) => hold.set(held as u64, held as u64).map_err(|_| no_room()),
            None => Ok(()),
        }
    }

    fn chunk(&mut self) -> pb::AddTasksRequest {
        self.bytes = 0;
        self.sent.set(std::mem::take(&mut self.places));
        let tasks = std::mem::take(&mut self.tasks);
        let chunk_id = self.ids.id();
        if self.format == Format::Metalink {
            // All of the document is in the digest from the first chunk on, so the number of chunks tells them apart.
            self.ids.take(b"chunk\n");
        }
        pb::AddTasksRequest { job_id: self.job_id.clone(), chunk_id, tasks }
    }

    /// Reads more of the body, within its bounds.
    async fn read(&mut self) -> Result<(), Status> {
        let BodyBounds { idle_max, whole_max, .. } = self.bounds;
        let idle = Instant::now() + idle_max;
        let end = self.began.map_or(idle, |began| began + whole_max);
        let Ok(next) = tokio::time::timeout_at(idle.min(end), self.body.frame()).await else {
            return Err(if end < idle { slow(whole_max) } else { silent(idle_max) });
        };
        match next {
            None => self.end().await?,
            Some(Err(error)) => {
                // For the gRPC library CANCELLED would be the end of a list that is whole.
                let why = format!("the list is incomplete: {}", shown(error.message()));
                return Err(wrong(&Wrong { line: self.lines.line() + 1, why }));
            }
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.buffer.extend_from_slice(&data);
                    self.began = self.began.or_else(|| (!data.is_empty()).then(Instant::now));
                }
            }
        }
        self.count()
    }

    /// Takes the next line that is whole out of the buffer. Returns whether there was one.
    fn take_line(&mut self) -> Result<bool, Status> {
        if self.format == Format::Metalink {
            return if self.buffer.len() > metalink::DOCUMENT_BYTES_MAX {
                Err(self.too_long("16 MiB"))
            } else {
                Ok(false)
            };
        }
        // A line may come byte by byte, so what was searched is not searched again.
        let Some(at) = memchr(b'\n', &self.buffer[self.searched..]).map(|at| self.searched + at) else {
            self.searched = self.buffer.len();
            return if self.buffer.len() > LINE_BYTES_MAX { Err(self.too_long("4 MiB")) } else { Ok(false) };
        };
        self.searched = 0;
        let line = self.buffer.split_to(at + 1).freeze();
        self.began = (!self.buffer.is_empty()).then(Instant::now);
        self.line(&line)?;
        Ok(true)
    }

    fn too_long(&self, max: &str) -> Status {
        let what = if self.format == Format::Metalink { "the document" } else { "a line" };
        wrong(&Wrong { line: self.lines.line() + 1, why: format!("{what} is longer than {max}") })
    }

    /// Takes the end of the list: its last line, its last entry, or all of a document.
    async fn end(&mut self) -> Result<(), Status> {
        self.is_over = true;
        let rest = self.buffer.split().freeze();
        self.searched = 0;
        if self.format == Format::Metalink {
            self.ids.take(&rest);
            // Up to a second of work, which would hold up all that shares a thread with it.
            let turn = DOCUMENTS.acquire().await.map_err(|_| internal("no document is read any more"))?;
            // The turn lasts as long as the work, which goes on where the request is broken off.
            let files = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                document(&rest)
            })
            .await;
            let files = files.map_err(|_| internal("the document could not be read"))?.map_err(|it| wrong(&it))?;
            self.files_bytes = files.iter().map(|(_, item)| item.memory()).sum();
            self.files = files.into_iter();
            self.count()?;
            return Ok(());
        }
        if !rest.is_empty() {
            self.line(&rest)?;
        }
        match self.lines.end() {
            Some(entry) => self.add(entry),
            None => Ok(()),
        }
    }

    fn line(&mut self, bytes: &Bytes) -> Result<(), Status> {
        self.ids.take(bytes);
        let Ok(text) = std::str::from_utf8(bytes) else {
            // The line is counted all the same, so that the message names it.
            let line = self.lines.line() + 1;
            return Err(wrong(&Wrong { line, why: NOT_UTF8.to_owned() }));
        };
        let entry = self.lines.next(text).map_err(|it| wrong(&it))?;
        entry.map_or(Ok(()), |entry| self.add(entry))
    }

    fn add(&mut self, (line, item): Entry) -> Result<(), Status> {
        self.bytes += item.text_bytes();
        self.tasks_bytes += size_of::<pb::TaskSpec>() + item.memory();
        let task = match item {
            Item::Url(url) => self.kind.task(&url),
            Item::File(file) => download(*file),
            Item::Json(text) => {
                let of = json::pool().get_message_by_name("haul.v1.TaskSpec");
                let of = of.ok_or_else(|| internal("the contract has no TaskSpec"))?;
                let read = json::read(&of, text.as_bytes(), "").map_err(|status| in_line(line, &status))?;
                let task = pb::TaskSpec::decode(read.encode_to_vec().as_slice());
                task.map_err(|_| internal("a task cannot be read"))?
            }
        };
        self.tasks.push(task);
        self.places.push(line);
        self.count()
    }
}

/// Reads a whole document.
fn document(bytes: &[u8]) -> Result<Vec<Entry>, Wrong> {
    let text = std::str::from_utf8(bytes).map_err(|_| Wrong { line: 1, why: NOT_UTF8.to_owned() })?;
    metalink::files(text)
}

const NOT_UTF8: &str = "this is not UTF-8; save the list as UTF-8, or percent-encode its URLs";

fn wrong(wrong: &Wrong) -> Status {
    in_line_because(wrong.line, &wrong.to_string(), [(format!("line {}", wrong.line), wrong.why.clone())])
}

/// Says which line has what `status` says of its task.
fn in_line(line: u64, status: &Status) -> Status {
    let wrong = Wrong { line, why: status.message().to_owned() };
    let found = status.get_details_bad_request().map(|request| request.field_violations).unwrap_or_default();
    if found.is_empty() {
        return self::wrong(&wrong);
    }
    let named = found.into_iter().map(|it| (format!("line {line}: {}", it.field), it.description));
    in_line_because(line, &wrong.to_string(), named)
}

fn in_line_because(line: u64, message: &str, violations: impl IntoIterator<Item = (String, String)>) -> Status {
    let fault = Fault::new(Code::InvalidArgument, "INVALID_ARGUMENT", message);
    fault.with("line", &line.to_string()).violations(violations).into()
}
