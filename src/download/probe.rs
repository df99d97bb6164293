//! The first step: the first request, and what its answer is good for.

use url::Url;

use crate::download::Halt;
use crate::download::ask::{Stream, send};
use crate::download::existing::{Known, kept, known_file, settled};
use crate::download::held::{Anew, Held};
use crate::download::order::Order;
use crate::download::resume::{Ask, Verdict, first_ask, judge, refusals_after};
use crate::files::binding::{Admitted, Binding, Why};
use crate::files::version::Version;
use crate::model::failure::{Failure, FailureReason};
use crate::model::outcome::{AttemptReport, DownloadResult, ResumeKind};
use crate::model::secret::redacted;
use crate::net::{Permit, Session};

/// Who was asked last, and what came.
#[derive(Clone, Debug, Default)]
pub(super) struct Exchanged {
    url: String,
    remote_address: String,
    http_status: u16,
}

/// The session that the requests of an attempt share, and the report on them.
pub(super) struct Log {
    pub(super) session: Session,
    pub(super) report: AttemptReport,
}

impl Log {
    pub(super) fn of(order: &Order<'_>) -> Log {
        // Credentials are for the origin of the URL that the client named, whichever source is asked first.
        let session = order.sources.first().map_or_else(|| Session::new(""), |home| Session::at(home.clone()));
        Log { session, report: AttemptReport::default() }
    }

    /// The URL that was asked last; before the first, the task's own.
    pub(super) fn url(&self, order: &Order<'_>) -> String {
        match order.sources.first() {
            Some(home) if self.report.url.is_empty() => redacted(home),
            _ => self.report.url.clone(),
        }
    }

    /// Another source is asked now.
    pub(super) fn begin(&mut self, url: &Url) {
        self.tell(Exchanged { url: redacted(url), ..Exchanged::default() });
    }

    pub(super) fn exchanged(&self) -> Exchanged {
        let AttemptReport { url, remote_address, http_status, .. } = &self.report;
        Exchanged { url: url.clone(), remote_address: remote_address.clone(), http_status: *http_status }
    }

    /// Has the report tell of this exchange.
    pub(super) fn tell(&mut self, exchanged: Exchanged) {
        let Exchanged { url, remote_address, http_status } = exchanged;
        self.report = AttemptReport { url, remote_address, http_status, ..std::mem::take(&mut self.report) };
    }

    /// Notes who was asked last and what came.
    fn note_exchange(&mut self) {
        let trace = &self.session.trace;
        if let Some(url) = &trace.url {
            self.report.url = redacted(url);
        }
        self.report.remote_address = trace.remote.map(|remote| remote.to_string()).unwrap_or_default();
        self.report.http_status = trace.status;
    }

    /// Notes, once more, how the transfer went on that now goes on behind what it brought.
    pub(super) fn note_course_of(&mut self, before: &AttemptReport) {
        self.note_course(before.resumed_from, before.resume_kind, before.resume.clone());
    }

    /// Notes how the transfer goes on, and where.
    fn note_course(&mut self, from: u64, kind: ResumeKind, how: String) {
        self.report.resumed_from = from;
        self.report.resume_kind = kind;
        self.report.resume = how;
    }
}

/// What came of the first request.
#[allow(clippy::large_enum_variant)] // One a download, moved once.
pub(super) enum Probe {
    /// There is nothing to transfer.
    Settled(DownloadResult),
    /// There is.
    Answered(Probed),
}

/// An answer that is good for something.
pub(super) struct Probed {
    pub(super) source: usize,
    pub(super) name: String,
    pub(super) start: Start,
    /// `None`: nothing has to come.
    pub(super) stream: Option<Stream>,
}

/// What the transfer starts with.
pub(super) enum Start {
    /// Nothing; what comes belongs to this.
    Fresh(Box<Binding>),
    /// What is held, with the proof that what comes belongs to it.
    Held(Box<Admitted>),
}

impl Start {
    pub(super) fn binding(&self) -> &Binding {
        match self {
            Start::Fresh(binding) => binding,
            Start::Held(admitted) => admitted.binding(),
        }
    }
}

/// Asks a source, and asks differently for as long as the answer is of no use.
pub(super) async fn probe(order: &Order<'_>, source: usize, held: &mut Held, log: &mut Log) -> Result<Probe, Halt> {
    // All bytes came in an earlier attempt, which did not get to verify or to name them.
    if let Some(admitted) = held.stored().and_then(|stored| stored.whole(order.has_digest())) {
        // Nothing is asked for, and to read it back may take long.
        order.ctx.transport.rest();
        return Ok(Probe::Answered(complete(order, source, admitted, log)));
    }
    let expected = order.name_for("");
    let mut known = known_file(order, expected)?;
    let mut ask = first_ask(held.stored(), &order.source_ids[source], order.has_digest());
    loop {
        let record = known.as_ref().and_then(|known| known.record_of(&order.source_ids[source]));
        let is_conditional = record.is_some();
        let sent = send(order, &mut log.session, source, &ask, record, Permit::default()).await;
        log.note_exchange();
        let mut stream = match unless_unchanged(order, known.as_ref(), sent?).await? {
            Ok(stream) => stream,
            Err(result) => return Ok(Probe::Settled(result)),
        };
        if is_conditional && stream.answer.status == 304 {
            // Of another place than the one that the file came from: its validators say nothing of what is there.
            stream.leave().await;
            known = None;
            continue;
        }
        let verdict = judge(held.stored(), &ask, &stream.answer, order.has_digest());
        if !matches!(verdict, Verdict::AskAgain(_) | Verdict::Refuse(_) | Verdict::Status) {
            let name = order.name_for(&stream.answer.seen.suggested_name);
            if order.target.name.is_none()
                && let Some(result) = settled(order, name).await?
            {
                return Ok(Probe::Settled(result.file));
            }
            // The name is another than the one that was expected, and so is the file that may have it.
            if name != expected {
                known = known_file(order, name)?;
            }
            stream = match unless_unchanged(order, known.as_ref(), stream).await? {
                Ok(stream) => stream,
                Err(result) => return Ok(Probe::Settled(result)),
            };
        }
        match verdict {
            Verdict::AskAgain(next) => {
                stream.leave().await;
                ask = next;
            }
            Verdict::Refuse(failure) => {
                stream.leave().await;
                return Err(failure.into());
            }
            Verdict::Status => {
                held.set_refusals(refusals_after(held.stored(), &ask, &stream.answer)).await;
                return Err(stream.into_failure(order.ctx).await.into());
            }
            Verdict::Complete(admitted) => {
                stream.leave().await;
                return Ok(Probe::Answered(complete(order, source, admitted, log)));
            }
            Verdict::Join(admitted) => {
                // What was dropped was not all.
                held.dropped = None;
                note_join(log, &admitted, &stream, &ask);
                return Ok(answered(order, source, Start::Held(admitted.into()), stream));
            }
            Verdict::Begin(_) if held.anew == Anew::Forbidden && held.stored().is_some() => {
                stream.leave().await;
                held.anew = Anew::WasLeft;
                let message = "the source has something else than what is held of another, which is kept";
                return Err(Failure::retryable(FailureReason::ContentChanged, message).into());
            }
            Verdict::Begin(why) => return Ok(begun(order, source, held, stream, why, log)),
        }
    }
}

/// The answer, or the result where it says that the file that is there is still what the origin has.
async fn unless_unchanged(
    order: &Order<'_>,
    known: Option<&Known>,
    stream: Stream,
) -> Result<Result<Stream, DownloadResult>, Halt> {
    let Some(known) = known.filter(|known| known.is_unchanged(&stream.answer)) else { return Ok(Ok(stream)) };
    stream.leave().await;
    Ok(Err(kept(order, known).await?))
}

/// Notes that what is held is gone on with.
fn note_join(log: &mut Log, admitted: &Admitted, stream: &Stream, ask: &Ask) {
    let at = first_missing(admitted);
    let (kind, again) = if stream.at < at {
        let why = if ask.range.is_some() { "ignores ranges" } else { "sends no usable range" };
        (ResumeKind::ReceivedAgain, format!(": the origin {why}, so what is before came again"))
    } else {
        (ResumeKind::Continued, String::new())
    };
    log.note_course(at, kind, format!("continued at {at}{again}"));
}

/// The answer is taken from the start.
fn begun(
    order: &Order<'_>,
    source: usize,
    held: &mut Held,
    mut stream: Stream,
    why: Option<Why>,
    log: &mut Log,
) -> Probe {
    held.note_loss(&order.source_ids[source], order);
    let why = why.or(held.dropped.take());
    let how = why.map(|why| format!("restarted: {why}")).unwrap_or_default();
    log.note_course(0, why.map(kind_of).unwrap_or_default(), how);
    let start = Start::Fresh(fresh(&mut stream).into());
    answered(order, source, start, stream)
}

fn kind_of(why: Why) -> ResumeKind {
    match why {
        Why::ContentChanged | Why::TagChanged => ResumeKind::ContentChanged,
        Why::Unproven => ResumeKind::Unproven,
        Why::WrongRange | Why::NoContentRange | Why::Encoded | Why::Unsatisfiable => ResumeKind::UnusableAnswer,
        Why::ResumeDisabled => ResumeKind::Disabled,
        Why::ChecksumMismatch => ResumeKind::ChecksumMismatch,
    }
}

fn answered(order: &Order<'_>, source: usize, start: Start, stream: Stream) -> Probe {
    let name = order.name_for(&start.binding().suggested_name).to_owned();
    Probe::Answered(Probed { source, name, start, stream: Some(stream) })
}

fn complete(order: &Order<'_>, source: usize, admitted: Admitted, log: &mut Log) -> Probed {
    let bytes = admitted.ranges().bytes();
    if log.report.http_status == 0 {
        log.report.http_status = admitted.binding().http_status;
    }
    log.note_course(bytes, ResumeKind::Complete, format!("continued at {bytes}: nothing was missing"));
    let name = order.name_for(&admitted.binding().suggested_name).to_owned();
    Probed { source, name, start: Start::Held(admitted.into()), stream: None }
}

/// What a body that is taken from the start belongs to. Offsets in what is decoded mean nothing to the origin, so nothing
/// of it can be continued.
fn fresh(stream: &mut Stream) -> Binding {
    // What is left of the answer needs no more than whose it is.
    let source = stream.answer.seen.source.clone();
    let seen = std::mem::replace(&mut stream.answer.seen, Binding { source, ..Binding::default() });
    if stream.answer.is_encoded { Binding { version: Version::default(), ..seen } } else { seen }
}

fn first_missing(admitted: &Admitted) -> u64 {
    let total = admitted.binding().version.total.unwrap_or(u64::MAX);
    admitted.ranges().gaps(total).next().map_or(0, |gap| gap.start)
}
