//! Files that are there already: kept when they are verifiably the same, in the way otherwise.

use crate::download::Halt;
use crate::download::attempt::Attempt;
use crate::files::commit::{Taken, committed_before, exists, find_candidate};
use crate::files::digest::Hasher;
use crate::files::folder::Folder;
use crate::files::part::{Part, hash_existing};
use crate::files::source::{Existing, Record};
use crate::model::checksum::Checksum;
use crate::model::failure::{Failure, FailureReason};
use crate::model::outcome::DownloadResult;
use crate::model::secret::source_name;
use crate::model::spec::OnConflict;

impl Attempt<'_> {
    /// What a file of this name means before anything is transferred: the result, when there is nothing left to do; a
    /// failure, when the name must not be used; `None`: go on.
    pub(super) async fn settled(&mut self, name: &str) -> Result<Option<DownloadResult>, Halt> {
        let Some(folder) = self.ctx.root.find_folder(&self.target.folder)? else { return Ok(None) };
        match self.spec.conflict_policy() {
            policy @ (OnConflict::Fail | OnConflict::Rename) => {
                if let Some((name, existing)) = committed_before(&folder, name, self.ctx.part_key, &self.taken())? {
                    return self.verified(&folder, &name, existing, false).await;
                }
                if policy == OnConflict::Fail && folder.has(name)? {
                    return Err(exists(&folder, name).into());
                }
                Ok(None)
            }
            OnConflict::Skip if !self.spec.checksums.is_empty() => {
                // The digest decides, wherever the file came from.
                if let Some(file) = folder.open(name)? {
                    let existing = Existing::of(file).map_err(|error| lost(&folder, name, &error))?;
                    if let Some(result) = self.verified(&folder, name, existing, true).await? {
                        return Ok(Some(result));
                    }
                }
                match self.own_file(name)? {
                    Some((other, existing)) if other != name => self.verified(&folder, &other, existing, true).await,
                    _ => Ok(None),
                }
            }
            OnConflict::Skip | OnConflict::Overwrite => Ok(None),
        }
    }

    /// What happens to a file that has the name. A name that the client gave is the file that it means; one that was
    /// derived may be another source's too, whose file is not ours to replace.
    pub(super) fn taken(&self) -> Taken {
        match self.spec.conflict_policy() {
            OnConflict::Fail => Taken::Refuse,
            OnConflict::Rename => Taken::Rename,
            OnConflict::Skip if self.target.name.is_none() => {
                Taken::ReplaceOwn(self.sources.iter().map(source_name).collect())
            }
            OnConflict::Overwrite | OnConflict::Skip => Taken::Replace,
        }
    }

    /// The file of the name that we expect, if the origin can be asked whether it is still the same.
    pub(super) fn known_file(&self) -> Result<Option<(String, Record)>, Failure> {
        if self.spec.conflict_policy() != OnConflict::Skip || !self.spec.checksums.is_empty() {
            return Ok(None);
        }
        self.record_of(&self.name_for(0, ""))
    }

    /// What is remembered of a file that has this name, or one made from it because the name was taken, if it came from
    /// one of our sources and was not touched since.
    pub(super) fn record_of(&self, name: &str) -> Result<Option<(String, Record)>, Failure> {
        let found = self.own_file(name)?;
        let record = found.and_then(|(name, existing)| existing.record.map(|record| (name, record)));
        let can_be_asked = |record: &Record| {
            let has_size = self.spec.expected_bytes.is_none_or(|bytes| bytes == record.size);
            has_size && (!record.etag.is_empty() || !record.last_modified.is_empty())
        };
        Ok(record.filter(|(_, record)| can_be_asked(record)))
    }

    /// The file of this name, or one made from it, that may have come from one of our sources.
    fn own_file(&self, name: &str) -> Result<Option<(String, Existing)>, Failure> {
        let Some(folder) = self.ctx.root.find_folder(&self.target.folder)? else { return Ok(None) };
        let is_ours = |existing: &Existing| {
            existing.source().is_none_or(|from| self.sources.iter().any(|url| source_name(url) == from))
        };
        find_candidate(&folder, name, &self.taken(), is_ours)
    }

    /// The result of keeping a file that the origin says is still the same.
    pub(super) async fn kept(&mut self, name: &str, record: &Record) -> Result<DownloadResult, Halt> {
        let folder = self.ctx.root.find_folder(&self.target.folder)?;
        let file = folder.as_ref().map(|folder| folder.open(name)).transpose()?.flatten();
        let (Some(folder), Some(file)) = (folder, file) else {
            let message = format!("`{name}` was removed while the origin was asked about it");
            return Err(Failure::retryable(FailureReason::Io, message).into());
        };
        let existing = Existing::of(file).map_err(|error| lost(&folder, name, &error))?;
        let changed = || Failure::retryable(FailureReason::Io, format!("`{name}` changed while it was looked at"));
        if existing.record.as_ref() != Some(record) {
            return Err(changed().into());
        }
        let result = self.verified(&folder, name, existing, true).await?;
        Ok(result.ok_or_else(changed)?)
    }

    /// The result that a file is, when its size and digests are right.
    async fn verified(
        &mut self,
        folder: &Folder,
        name: &str,
        existing: Existing,
        skipped: bool,
    ) -> Result<Option<DownloadResult>, Halt> {
        if self.spec.expected_bytes.is_some_and(|bytes| bytes != existing.size) {
            return Ok(None);
        }
        let path = folder.path_of(name);
        let hasher = self.hasher();
        let checksums = if hasher.is_idle() {
            Vec::new()
        } else {
            hash_existing(existing.file, path.clone(), hasher, self.ctx.stop)
                .await
                .map_err(|failure| self.stopped_or(failure))?
                .finish()
        };
        if self.spec.checksums.iter().any(|wanted| !checksums.contains(wanted)) {
            return Ok(None);
        }
        let record = existing.record.unwrap_or_default();
        self.drop_part().await?;
        self.ctx.meter.set_total(existing.size);
        self.ctx.meter.set_done(existing.size);
        Ok(Some(DownloadResult {
            path,
            bytes: existing.size,
            checksums,
            final_url: if record.url.is_empty() { self.report.url.clone() } else { record.url },
            content_type: record.content_type,
            etag: record.etag,
            last_modified: record.last_modified,
            skipped,
            ..DownloadResult::default()
        }))
    }

    /// Removes what an earlier attempt left, since a file is there.
    async fn drop_part(&mut self) -> Result<(), Failure> {
        let part = match self.part.take() {
            Some(part) => Some(part),
            None => Part::find(self.ctx.root, &self.target.folder, self.ctx.part_key)?,
        };
        match part {
            Some(part) => part.discard().await,
            None => Part::remove_checkpoint(self.ctx.root, &self.target.folder, self.ctx.part_key),
        }
    }

    /// Computes what is to be checked and what is to be recorded.
    pub(super) fn hasher(&self) -> Hasher {
        let checked = self.spec.checksums.iter().map(|checksum: &Checksum| checksum.algorithm);
        Hasher::new(checked.chain(self.spec.digests.iter().copied()))
    }

    /// Reading back ends early when the attempt is stopped.
    pub(super) fn stopped_or(&self, failure: Failure) -> Halt {
        if self.ctx.stop.is_cancelled() { Halt::Stopped } else { failure.into() }
    }
}

fn lost(folder: &Folder, name: &str, error: &std::io::Error) -> Failure {
    Failure::retryable(FailureReason::Io, format!("could not look at `{}`: {error}", folder.path_of(name)))
}
