//! An attempt as a whole: the sources in turn, and the steps for each.

use url::Url;

use crate::download::probe::Probe;
use crate::download::resume::Why;
use crate::download::{DownloadContext, Halt, Target, is_local};
use crate::files::part::{Part, Trust};
use crate::model::failure::{Failure, FailureReason};
use crate::model::outcome::{AttemptReport, DownloadResult};
use crate::model::secret::{redacted, redacted_text, source_name};
use crate::model::spec::DownloadSpec;
use crate::net::Session;

/// What the steps of an attempt share.
pub(super) struct Attempt<'a> {
    pub(super) ctx: &'a DownloadContext<'a>,
    pub(super) spec: &'a DownloadSpec,
    pub(super) report: AttemptReport,
    pub(super) session: Session,
    /// The URL and its mirrors, in the order in which they are tried.
    pub(super) sources: Vec<Url>,
    /// Those that were not tried yet.
    pub(super) left: Vec<usize>,
    pub(super) target: Target,
    /// What is held, while no step has it.
    pub(super) part: Option<Part>,
    /// Why what was held is gone, until the report says so.
    pub(super) dropped: Option<Why>,
    /// The bytes that were verified last did not all come from one source and in this attempt.
    pub(super) was_pieced: bool,
    /// What the meter had counted before.
    received_before: u64,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(ctx: &'a DownloadContext<'a>, spec: &'a DownloadSpec) -> Self {
        Attempt {
            ctx,
            spec,
            report: AttemptReport { url: redacted_text(&spec.url), ..AttemptReport::default() },
            session: Session::default(),
            sources: Vec::new(),
            left: Vec::new(),
            target: Target { folder: String::new(), name: None },
            part: None,
            dropped: None,
            was_pieced: false,
            received_before: ctx.meter.received_bytes(),
        }
    }

    pub(super) fn into_report(mut self) -> AttemptReport {
        self.report.bytes = self.ctx.meter.received_bytes() - self.received_before;
        self.report
    }

    /// What decides whether an answer of the source that the held bytes are from may go with them.
    pub(super) fn trust(&self) -> Trust {
        if self.spec.checksums.is_empty() { Trust::Validators } else { Trust::Digest }
    }

    /// As above, for any source.
    pub(super) fn trust_in(&self, source: usize) -> Trust {
        let held_from = self.part.as_ref().and_then(Part::stored).map(|stored| &stored.binding.url);
        match self.trust() {
            Trust::Digest if held_from.is_some_and(|url| *url != source_name(&self.sources[source])) => {
                Trust::DigestAcross
            }
            trust => trust,
        }
    }

    pub(super) async fn run(&mut self) -> Result<DownloadResult, Halt> {
        let ctx = self.ctx;
        self.target = Target::of(ctx.directory, self.spec)?;
        if let Some(name) = self.target.name.clone()
            && let Some(result) = self.settled(&name).await?
        {
            return Ok(result);
        }
        self.part = Part::find(ctx.root, &self.target.folder, ctx.part_key)?;
        if self.spec.disable_resume
            && let Some(part) = self.part.take()
        {
            self.dropped = part.stored().map(|_| Why::ResumeDisabled);
            part.discard().await?;
        }
        self.sources = sources(self.spec, self.part.as_ref())?;
        let end = self.try_sources().await;
        if let Err(Halt::Failed(failure)) = &end
            && failure.reason == FailureReason::DiskFull
        {
            return Err(self.disk_full(failure));
        }
        end
    }

    /// A source that fails is left for the next one, within the attempt. A checksum that does not match is given one
    /// more try in all, from the start, where nobody else can be asked or the bytes came together in pieces.
    async fn try_sources(&mut self) -> Result<DownloadResult, Halt> {
        let mut failures: Vec<Failure> = Vec::new();
        let mut may_repeat = true;
        self.left = (0..self.sources.len()).collect();
        while let Some(source) = self.next_source() {
            let failure = match self.serve(source).await {
                Err(Halt::Failed(failure)) if !is_local(&failure) => failure,
                end => return end,
            };
            let is_poisoned = failure.reason == FailureReason::ChecksumMismatch;
            if is_poisoned && may_repeat && (self.sources.len() == 1 || self.was_pieced) {
                may_repeat = false;
                self.left.insert(0, source);
            }
            failures.push(failure);
        }
        Err(telling(failures).into())
    }

    /// The first source that is left and whose host is not left alone just now; else the first that is left.
    fn next_source(&mut self) -> Option<usize> {
        let is_open = |source: &usize| !self.ctx.transport.is_paused(&self.sources[*source]);
        let at = self.left.iter().position(is_open).unwrap_or(0);
        (!self.left.is_empty()).then(|| self.left.remove(at))
    }

    /// The steps, each of which consumes the one before.
    async fn serve(&mut self, source: usize) -> Result<DownloadResult, Halt> {
        let probed = match self.probe(source).await? {
            Probe::Settled(result) => return Ok(result),
            Probe::Answered(probed) => probed,
        };
        let planned = self.plan(probed).await?;
        let transferred = self.transfer(planned).await?;
        let verified = self.verify(transferred).await?;
        self.commit(verified).await
    }

    /// The disk was full in the middle: the task waits for room and goes on with what is held.
    fn disk_full(&self, failure: &Failure) -> Halt {
        let missing = self.ctx.meter.total().saturating_sub(self.ctx.meter.done());
        Halt::NoSpace { needed_bytes: missing.max(1 << 20), message: failure.message.clone() }
    }

    /// Says in the report who was asked last and what came.
    pub(super) fn note_exchange(&mut self) {
        let trace = &self.session.trace;
        if let Some(url) = &trace.url {
            self.report.url = redacted(url);
        }
        self.report.remote_address = trace.remote.map(|remote| remote.to_string()).unwrap_or_default();
        self.report.http_status = trace.status;
    }
}

/// The source that the held bytes are from goes first: it worked, and its validators are those of the bytes.
fn sources(spec: &DownloadSpec, part: Option<&Part>) -> Result<Vec<Url>, Failure> {
    let mut sources = std::iter::once(&spec.url)
        .chain(&spec.mirrors)
        .map(|text| {
            Url::parse(text).map_err(|error| {
                let message = format!("`{}` is not a URL ({error})", redacted_text(text));
                Failure::fatal(FailureReason::Protocol, message)
            })
        })
        .collect::<Result<Vec<Url>, Failure>>()?;
    if let Some(stored) = part.and_then(Part::stored) {
        sources.sort_by_key(|url| source_name(url) != stored.binding.url);
    }
    Ok(sources)
}

/// Of the failures of all sources the one that matters: one that another attempt may mend, else the first.
fn telling(mut failures: Vec<Failure>) -> Failure {
    let mismatch = failures.iter().rposition(|failure| failure.reason == FailureReason::ChecksumMismatch);
    let at = failures.iter().position(|failure| failure.retryable).or(mismatch).unwrap_or(0);
    if failures.is_empty() {
        return Failure::fatal(FailureReason::Internal, "there was no source to download from");
    }
    let count = failures.len();
    let mut failure = failures.swap_remove(at);
    if count > 1 && failure.reason != FailureReason::ChecksumMismatch {
        failure.message = format!("{} (none of the {count} sources worked)", failure.message);
    }
    failure
}
