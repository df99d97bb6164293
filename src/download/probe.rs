//! The first step: the first request, and what its answer is good for.

use crate::download::Halt;
use crate::download::ask::{Stream, send};
use crate::download::attempt::Attempt;
use crate::download::resume::{Answer, Ask, Verdict, decide, first_ask};
use crate::files::names;
use crate::files::part::{Binding, Part, Stored};
use crate::files::source::Record;
use crate::model::outcome::DownloadResult;
use crate::model::secret::source_name;
use crate::model::spec::OnConflict;

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
    pub(super) start: Start,
    /// `None`: nothing has to come.
    pub(super) stream: Option<Stream>,
    pub(super) name: String,
    pub(super) binding: Binding,
}

/// How the transfer starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// From nothing.
    Begin,
    /// With what is held, the body going on at this byte.
    Continue(u64),
    /// With what is held, the body starting from 0 and being of use from this byte on.
    Discard(u64),
    /// Nothing is missing.
    Complete,
}

impl Attempt<'_> {
    /// Asks a source, and asks differently for as long as the answer is of no use.
    pub(super) async fn probe(&mut self, source: usize) -> Result<Probe, Halt> {
        if let Some(probed) = self.all_is_held(source) {
            return Ok(Probe::Answered(probed));
        }
        let known = self.known_file()?;
        let url = self.sources[source].clone();
        let mut ask = first_ask(self.part.as_ref().and_then(Part::stored), self.trust_in(source));
        loop {
            let sent = send(self.ctx, &mut self.session, &url, &ask, known.as_ref().map(|(_, record)| record)).await;
            self.note_exchange();
            let stream = sent?;
            if let Some((name, record)) = &known
                && is_unchanged(&stream.answer, record)
            {
                return Ok(Probe::Settled(self.kept(name, record).await?));
            }
            let stored = self.part.as_ref().and_then(Part::stored);
            let start = match decide(stored, &ask, &stream.answer, self.trust_in(source)) {
                Verdict::AskAgain(next) => {
                    ask = next;
                    continue;
                }
                Verdict::Refuse(failure) => return Err(failure.into()),
                Verdict::Status => return Err(stream.failure(self.ctx).into()),
                Verdict::Begin(why) => {
                    let dropped = self.dropped.take();
                    self.note_restart(why.or(dropped));
                    Start::Begin
                }
                Verdict::Continue { at, .. } => self.note_continued(at, &ask, Start::Continue(at)),
                Verdict::Discard { to } => self.note_continued(to, &ask, Start::Discard(to)),
                Verdict::Complete => self.note_complete(),
            };
            return self.named(source, start, stream).await;
        }
    }

    /// All bytes came in an earlier attempt, which did not get to verify or to name them.
    fn all_is_held(&mut self, source: usize) -> Option<Probed> {
        let stored = self.part.as_ref()?.stored()?;
        let total = stored.binding.version.total?;
        if !stored.ranges.is_all_of(total) {
            return None;
        }
        let binding = stored.binding.clone();
        let name = self.name_for(source, &binding.suggested_name);
        let start = self.note_complete();
        Some(Probed { source, start, stream: None, name, binding })
    }

    /// Now that the name is known: is there anything to do?
    async fn named(&mut self, source: usize, start: Start, stream: Stream) -> Result<Probe, Halt> {
        let name = self.name_for(source, &stream.suggested_name);
        if self.target.name.is_none()
            && let Some(result) = self.settled(&name).await?
        {
            return Ok(Probe::Settled(result));
        }
        if self.spec.conflict_policy() == OnConflict::Skip
            && let Some((name, record)) = self.record_of(&name)?
            && is_unchanged(&stream.answer, &record)
        {
            return Ok(Probe::Settled(self.kept(&name, &record).await?));
        }
        let mut binding = Binding {
            version: stream.answer.version.clone(),
            url: source_name(&self.sources[source]),
            final_url: stream.final_url.clone(),
            suggested_name: stream.suggested_name.clone(),
            content_type: stream.answer.content_type.clone(),
            is_pieced: false,
        };
        if stream.answer.is_encoded {
            // Offsets in what is decoded mean nothing to the origin: nothing of it can be continued.
            binding.version = crate::files::version::Version::default();
        }
        let stream = (start != Start::Complete).then_some(stream);
        Ok(Probe::Answered(Probed { source, start, stream, name, binding }))
    }

    /// The client's name, else the origin's, else the URL's.
    pub(super) fn name_for(&self, source: usize, suggested: &str) -> String {
        let derived = || {
            let of_url = || names::from_url(&self.sources[source]);
            names::sanitize(suggested).or_else(of_url).unwrap_or_else(|| names::FALLBACK.to_owned())
        };
        self.target.name.clone().unwrap_or_else(derived)
    }

    fn held(&self) -> Option<&Stored> {
        self.part.as_ref().and_then(Part::stored)
    }

    fn note_restart(&mut self, why: Option<crate::download::resume::Why>) {
        self.report.resumed_from = 0;
        self.report.resume = why.map(|why| format!("restarted: {why}")).unwrap_or_default();
    }

    fn note_continued(&mut self, at: u64, ask: &Ask, start: Start) -> Start {
        self.report.resumed_from = at;
        self.report.resume = match start {
            Start::Discard(_) if ask.range.is_some() => {
                format!("continued at {at}: the origin ignores ranges, so what is before came again")
            }
            _ => format!("continued at {at}"),
        };
        start
    }

    fn note_complete(&mut self) -> Start {
        let held = self.held().map_or(0, |stored| stored.ranges.bytes());
        self.report.resumed_from = held;
        self.report.resume = format!("continued at {held}: nothing was missing");
        Start::Complete
    }
}

/// Whether the origin says that a file is still what it was: by 304, or by sending the same validators again where it
/// does not understand conditions.
fn is_unchanged(answer: &Answer, record: &Record) -> bool {
    if answer.status == 304 {
        return true;
    }
    if answer.status != 200 || answer.version.total != Some(record.size) || answer.is_encoded {
        return false;
    }
    if record.etag.is_empty() && answer.version.etag.is_empty() {
        return !record.last_modified.is_empty() && record.last_modified == answer.version.last_modified;
    }
    answer.version.has_strong_etag() && record.etag == answer.version.etag
}
