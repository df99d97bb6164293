//! Files that are there already: kept when they are verifiably the same, in the way otherwise.

use std::time::Duration;

use crate::download::Halt;
use crate::download::order::Order;
use crate::download::resume::Answer;
use crate::files::Durability;
use crate::files::binding::Binding;
use crate::files::bound::hash_existing;
use crate::files::commit::{committed_before, exists, made_before, make_durable};
use crate::files::digest::Hasher;
use crate::files::folder::Folder;
use crate::files::part::Part;
use crate::files::source::{Existing, Maker, Record};
use crate::model::failure::{Failure, FailureReason};
use crate::model::outcome::DownloadResult;
use crate::model::spec::OnConflict;

/// Files from this size on take so long to hash that the place of a request is not held meanwhile.
const LONG_READ_BYTES: u64 = 16 << 20;

/// A file that was made so short a time ago may not be on the device, whoever made it. Systems begin to write it within half a minute.
const FRESH_TIME: Duration = Duration::from_secs(60);

/// A file that the origin may say is still the same: what it is called, and what is known of it.
pub(super) struct Known {
    name: String,
    size: u64,
    maker: Maker,
}

impl Known {
    /// What the source of this id can be asked about: validators of another one, and the date of a file that somebody
    /// else made, say nothing of what it has.
    pub(super) fn record_of(&self, source: &str) -> Option<&Record> {
        match &self.maker {
            Maker::Download(record) if record.source == source => Some(record),
            _ => None,
        }
    }

    /// Whether an answer says that the file is still what the origin has: by 304, or by sending the same size and
    /// validators again.
    pub(super) fn is_unchanged(&self, answer: &Answer) -> bool {
        let seen = &answer.seen.version;
        let is_of_record = |record: &Record| {
            let own = Binding { source: record.source.clone(), final_url: record.url.clone(), ..Binding::default() };
            own.is_from_source_of(&answer.seen)
        };
        if let Maker::Download(record) = &self.maker
            && !is_of_record(record)
        {
            return false;
        }
        if answer.status == 304 {
            return matches!(self.maker, Maker::Download(_));
        }
        if answer.status != 200 || seen.total != Some(self.size) || answer.is_encoded {
            return false;
        }
        let agree = |own: &str, other: &str| !own.is_empty() && own == other;
        match &self.maker {
            Maker::Other { last_modified } => agree(last_modified, &seen.last_modified),
            Maker::Download(record) if record.etag.is_empty() && seen.etag.is_empty() => {
                agree(record.telling_date(), &seen.last_modified)
            }
            Maker::Download(record) => seen.has_strong_etag() && record.etag == seen.etag,
        }
    }
}

/// A file that is there, and of which nothing has to come.
pub(super) struct Settled {
    pub(super) file: DownloadResult,
    /// Of the answer that brought it; 0 where this task did not get it.
    pub(super) http_status: u16,
}

/// What a file of this name means before anything is transferred: the result, when there is nothing left to do; a
/// failure, when the name must not be used; `None`: go on.
pub(super) async fn settled(order: &Order<'_>, name: &str) -> Result<Option<Settled>, Halt> {
    let policy = order.spec.conflict_policy();
    let needs_look = match policy {
        OnConflict::Fail => true,
        OnConflict::Rename => order.has_history(),
        OnConflict::Skip => order.has_digest(),
        OnConflict::Overwrite => false,
    };
    if !needs_look {
        return Ok(None);
    }
    let Some(folder) = order.ctx.root.find_folder(&order.target.folder)? else { return Ok(None) };
    if policy == OnConflict::Skip {
        return of_right_digest(order, &folder, name).await;
    }
    if order.has_history()
        && let Some((name, existing)) =
            committed_before(order.ctx.root, &folder, name, order.ctx.part_key, &order.taken())?
    {
        return verified(order, &folder, &name, existing, false).await;
    }
    if policy == OnConflict::Fail && folder.has(name)? {
        // Of this very task, whose attempt a kill cut before anything of it was stored.
        if !order.ctx.part_is_shared
            && let Some((name, existing)) =
                committed_before(order.ctx.root, &folder, name, order.ctx.part_key, &order.taken())?
            && let Some(own) = verified(order, &folder, &name, existing, false).await?
        {
            return Ok(Some(own));
        }
        return Err(exists(&folder, name).into());
    }
    Ok(None)
}

/// The digest decides, wherever the file came from.
async fn of_right_digest(order: &Order<'_>, folder: &Folder, name: &str) -> Result<Option<Settled>, Halt> {
    if let Some(file) = folder.open_own(name)? {
        let existing = Existing::of(file, folder).map_err(|error| unreadable(folder, name, &error))?;
        if let Some(result) = verified(order, folder, name, existing, true).await? {
            return Ok(Some(result));
        }
    }
    match made_before(order.ctx.root, folder, name, &order.source_ids, &order.taken())? {
        Some((other, existing)) if other != name => verified(order, folder, &other, existing, true).await,
        _ => Ok(None),
    }
}

/// The file that the origin is asked about, if there is one: of the name that is expected, or made from it because the
/// name was taken.
pub(super) fn known_file(order: &Order<'_>, name: &str) -> Result<Option<Known>, Failure> {
    if order.spec.conflict_policy() != OnConflict::Skip || order.has_digest() {
        return Ok(None);
    }
    let Some(folder) = order.ctx.root.find_folder(&order.target.folder)? else { return Ok(None) };
    let mut found = made_before(order.ctx.root, &folder, name, &order.source_ids, &order.taken())?;
    if found.is_none() {
        let file = folder.open_own(name)?.map(|file| Existing::of(file, &folder)).transpose();
        found = file.map_err(|error| unreadable(&folder, name, &error))?.map(|existing| (name.to_owned(), existing));
    }
    let known = found.map(|(name, existing)| Known { name, size: existing.size, maker: existing.maker });
    let can_be_known = |known: &Known| {
        let has_validator = match &known.maker {
            Maker::Download(record) => !record.telling_tag().is_empty() || !record.telling_date().is_empty(),
            Maker::Other { last_modified } => !last_modified.is_empty(),
        };
        has_validator && order.spec.expected_bytes.is_none_or(|bytes| bytes == known.size)
    };
    Ok(known.filter(can_be_known))
}

/// The result of keeping a file that the origin says is still the same.
pub(super) async fn kept(order: &Order<'_>, known: &Known) -> Result<DownloadResult, Halt> {
    let folder = order.ctx.root.find_folder(&order.target.folder)?;
    let file = folder.as_ref().map(|folder| folder.open(&known.name)).transpose()?.flatten();
    let (Some(folder), Some(file)) = (folder, file) else {
        let message = format!("`{}` was removed while the origin was asked about it", known.name);
        return Err(Failure::retryable(FailureReason::Io, message).into());
    };
    let existing = Existing::of(file, &folder).map_err(|error| unreadable(&folder, &known.name, &error))?;
    let changed = || Failure::retryable(FailureReason::Io, format!("`{}` changed while it was looked at", known.name));
    if existing.maker != known.maker || existing.size != known.size {
        return Err(changed().into());
    }
    let result = verified(order, &folder, &known.name, existing, true).await?;
    Ok(result.ok_or_else(changed)?.file)
}

/// The result that a file is, when its size and digests are right.
async fn verified(
    order: &Order<'_>,
    folder: &Folder,
    name: &str,
    existing: Existing,
    skipped: bool,
) -> Result<Option<Settled>, Halt> {
    if order.spec.expected_bytes.is_some_and(|bytes| bytes != existing.size) {
        return Ok(None);
    }
    let path = folder.path_of(name);
    let was_made_by = |key: &str| existing.record().is_some_and(|record| record.key == key);
    let is_fresh = (order.ctx.now)().since(existing.changed) < FRESH_TIME;
    if order.ctx.durability == Durability::Full && (is_fresh || was_made_by(order.ctx.part_key)) {
        make_durable(order.ctx.root, folder, &existing).await?;
    }
    let Existing { file, size, identity, maker, .. } = existing;
    let hasher = Hasher::new(order.algorithms());
    let checksums = if hasher.is_idle() {
        Vec::new()
    } else {
        // Nothing is asked for meanwhile, and others may.
        if size >= LONG_READ_BYTES {
            order.ctx.transport.rest();
        }
        let hashed = hash_existing(file, path.clone(), hasher, order.ctx.stop).await;
        hashed.map_err(|failure| order.ctx.stopped_or(failure))?
    };
    if order.spec.checksums.iter().any(|wanted| !checksums.contains(wanted)) {
        return Ok(None);
    }
    order.ctx.meter.set_total(size);
    order.ctx.meter.set_done(size);
    let record = match maker {
        Maker::Download(record) => record,
        Maker::Other { .. } => Record::default(),
    };
    // Of this very task, which did not get to say so: unless runs share the keys of their parts.
    let is_own = !order.ctx.part_is_shared && record.key == order.ctx.part_key;
    let skipped = skipped && !is_own;
    let (http_status, connections) = if is_own { (record.http_status, record.connections) } else { (0, 0) };
    let file = DownloadResult {
        path,
        bytes: size,
        checksums,
        final_url: record.url,
        content_type: record.content_type,
        etag: record.etag,
        last_modified: record.last_modified,
        connections,
        skipped,
        created: (!skipped).then_some(identity),
        ..DownloadResult::default()
    };
    Ok(Some(Settled { file, http_status }))
}

/// Removes what an earlier attempt left, since a file is there.
pub(super) async fn drop_part(order: &Order<'_>, part: Option<Part>) -> Result<(), Failure> {
    let (root, folder, key) = (order.ctx.root, &order.target.folder, order.part_key());
    let part = match part {
        None if !order.has_history() => return Ok(()),
        None => Part::find(root, folder, key)?,
        part => part,
    };
    match part {
        Some(part) => part.discard().await,
        None => Part::remove_checkpoint(root, folder, key),
    }
}

fn unreadable(folder: &Folder, name: &str, error: &std::io::Error) -> Failure {
    Failure::retryable(FailureReason::Io, format!("cannot look at `{}`: {error}", folder.path_of(name)))
}
