//! What was ordered: the facts of an attempt that no step changes.

use url::Url;

use crate::download::made::source_id;
use crate::download::{DownloadContext, Target};
use crate::files::commit::Taken;
use crate::files::names;
use crate::files::part::PartKey;
use crate::model::checksum::Algorithm;
use crate::model::failure::{Failure, FailureReason};
use crate::model::secret::redacted_text;
use crate::model::spec::{DownloadSpec, OnConflict};

/// What was ordered, and what it is done with.
pub(super) struct Order<'a> {
    pub(super) ctx: &'a DownloadContext<'a>,
    pub(super) spec: &'a DownloadSpec,
    pub(super) target: Target,
    /// The URL and its mirrors, as the client named them.
    pub(super) sources: Vec<Url>,
    /// What each of them is recognised by in what is kept on the disk. A digest, since their queries may hold secrets.
    pub(super) source_ids: Vec<String>,
    /// The name that the task's own URL gives where neither the client nor an origin has one: the same whoever serves.
    url_name: String,
}

/// The most bytes that a body may have, and the failure of one that has more.
pub(super) type Limit = (u64, Failure);

impl<'a> Order<'a> {
    pub(super) fn of(ctx: &'a DownloadContext<'a>, spec: &'a DownloadSpec) -> Result<Order<'a>, Failure> {
        let target = Target::of(ctx.directory, spec)?;
        let parse = |text: &String| {
            Url::parse(text).map_err(|error| {
                let message = format!("`{}` is not a URL ({error})", redacted_text(text));
                Failure::fatal(FailureReason::Protocol, message)
            })
        };
        let sources = std::iter::once(&spec.url).chain(&spec.mirrors).map(parse).collect::<Result<Vec<Url>, _>>()?;
        let source_ids = sources.iter().map(source_id).collect();
        let url_name = match (&target.name, sources.first()) {
            (None, Some(url)) => names::from_url(url).unwrap_or_else(|| names::FALLBACK.to_owned()),
            _ => String::new(),
        };
        Ok(Order { ctx, spec, target, sources, source_ids, url_name })
    }

    /// Whether the client named a digest of the whole.
    pub(super) fn has_digest(&self) -> bool {
        !self.spec.checksums.is_empty()
    }

    /// What is to be checked and what is to be recorded.
    pub(super) fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        let checked = self.spec.checksums.iter().map(|checksum| checksum.algorithm);
        checked.chain(self.spec.digests.iter().copied())
    }

    pub(super) fn part_key(&self) -> PartKey<'a> {
        PartKey { name: self.ctx.part_key, is_shared: self.ctx.part_is_shared }
    }

    /// Whether an earlier attempt may have left something.
    pub(super) fn has_history(&self) -> bool {
        self.ctx.has_history || self.ctx.part_is_shared
    }

    /// The client's name, else the origin's, else the URL's. What an origin suggests has been made fit for use.
    pub(super) fn name_for<'s>(&'s self, suggested: &'s str) -> &'s str {
        match &self.target.name {
            Some(name) => name,
            None if suggested.is_empty() => &self.url_name,
            None => suggested,
        }
    }

    /// What happens to a file that has the name. Only `OVERWRITE` replaces a file that somebody else made.
    pub(super) fn taken(&self) -> Taken {
        match self.spec.conflict_policy() {
            OnConflict::Fail => Taken::Refuse,
            OnConflict::Rename => Taken::Rename,
            OnConflict::Skip => Taken::ReplaceOwn(self.source_ids.clone()),
            OnConflict::Overwrite => Taken::Replace,
        }
    }

    /// Refuses a size that is not wanted.
    pub(super) fn check_size(&self, total: u64) -> Result<(), Failure> {
        if let Some(expected) = self.spec.expected_bytes.filter(|expected| total != *expected) {
            let message = format!("the file has {total} bytes and not the {expected} of `expected_bytes`");
            return Err(Failure::fatal(FailureReason::SizeMismatch, message));
        }
        match self.max_bytes() {
            Some((most, setting)) if total > most => {
                let message = format!("the file has {total} bytes and {setting} is {most}");
                Err(Failure::fatal(FailureReason::TooLarge, message))
            }
            _ => Ok(()),
        }
    }

    /// The most bytes that a body of unknown length may have.
    pub(super) fn limit(&self) -> Option<Limit> {
        let most = self.max_bytes();
        match self.spec.expected_bytes {
            Some(expected) if most.is_none_or(|(most, _)| expected <= most) => {
                let message = format!("the file has more than the {expected} bytes of `expected_bytes`");
                Some((expected, Failure::fatal(FailureReason::SizeMismatch, message)))
            }
            _ => most.map(|(most, setting)| {
                let message = format!("the file has more than the {most} bytes of {setting}");
                (most, Failure::fatal(FailureReason::TooLarge, message))
            }),
        }
    }

    fn max_bytes(&self) -> Option<(u64, &'static str)> {
        let own = self.spec.max_bytes.map(|most| (most, "`max_bytes`"));
        own.or(self.ctx.settings.max_bytes.map(|most| (most, "the server's `max_download_bytes`")))
    }
}
