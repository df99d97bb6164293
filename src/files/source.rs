//! Where a finished file came from, remembered with the file itself, so that a repeated download can ask the origin
//! whether it is still the same instead of fetching it again, and so that a file that somebody else made is recognised.
//!
//! It is an extended attribute. Where there are none, the time of modification takes the origin's `Last-Modified`: such a
//! file is nobody's, but one that has the same date and size as the origin's is not fetched again.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::files::folder::Folder;
use crate::files::version::Version;
use crate::model::failure::is_default;
use crate::model::outcome::CreatedFile;
use crate::model::time::Timestamp;

const ATTRIBUTE: &str = "user.haul.source";
/// Longer than any record; some file systems take 4096 at most.
const RECORD_BYTES_MAX: usize = 4000;

/// Where a file came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// The task that made it; see [`crate::files::part`].
    #[serde(skip_serializing_if = "is_default")]
    pub key: String,
    /// Recognises the URL that was asked, which may hold secrets and is not kept.
    #[serde(skip_serializing_if = "is_default")]
    pub source: String,
    /// Where it came from in the end, without secrets.
    #[serde(skip_serializing_if = "is_default")]
    pub url: String,
    /// As sent.
    #[serde(skip_serializing_if = "is_default")]
    pub etag: String,
    /// As sent.
    #[serde(skip_serializing_if = "is_default")]
    pub last_modified: String,
    /// Whether that date was so young when the file was sent that it may be the one of another version, too.
    #[serde(skip_serializing_if = "is_default")]
    pub is_young: bool,
    /// As sent.
    #[serde(skip_serializing_if = "is_default")]
    pub content_type: String,
    /// Of the answer that brought it.
    #[serde(skip_serializing_if = "is_default")]
    pub http_status: u16,
    /// The most connections that brought it at once.
    #[serde(skip_serializing_if = "is_default")]
    pub connections: u32,
    /// The size when it was finished.
    pub size: u64,
    /// Nanoseconds since the epoch: the time of its modification when it was finished.
    pub modified: u64,
}

/// A file that is there, with what is known of its origin.
#[derive(Debug)]
pub struct Existing {
    /// Open for reading.
    pub file: File,
    /// Its size.
    pub size: u64,
    /// Identifies it as it is now.
    pub identity: CreatedFile,
    /// When it was written, renamed or linked last.
    pub changed: Timestamp,
    /// Who made it.
    pub maker: Maker,
}

/// Who made a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Maker {
    /// A download, and it is still as that left it.
    Download(Record),
    /// Somebody else, or it was changed since it was downloaded. Whole seconds as a `Last-Modified`, else empty: a copy
    /// that keeps the origin's date has those. Empty for a stranger's, too.
    Other {
        /// The time of its modification.
        last_modified: String,
    },
}

impl Existing {
    /// Looks at an open file of a directory. What a stranger's says of itself is not believed: anybody can write that.
    pub fn of(file: File, folder: &Folder) -> std::io::Result<Existing> {
        let metadata = file.metadata()?;
        let (size, identity) = (metadata.len(), identity(&metadata));
        let is_as_left = |record: &Record| record.size == size && record.modified == nanos(&metadata);
        let maker = match read(&file).filter(is_as_left) {
            _ if folder.is_of_stranger(&metadata) => Maker::Other { last_modified: String::new() },
            Some(record) => Maker::Download(record),
            None => Maker::Other { last_modified: whole_second(&metadata) },
        };
        let changed =
            Timestamp(metadata.ctime().saturating_mul(1_000_000).saturating_add(metadata.ctime_nsec() / 1_000));
        Ok(Existing { file, size, identity, changed, maker })
    }

    /// What was remembered, if a download made the file and nobody has changed it since.
    pub fn record(&self) -> Option<&Record> {
        match &self.maker {
            Maker::Download(record) => Some(record),
            Maker::Other { .. } => None,
        }
    }

    /// Whether a download made it from one of these sources, and nobody has changed it since.
    pub fn is_from(&self, sources: &[String]) -> bool {
        self.record().is_some_and(|record| sources.contains(&record.source))
    }
}

impl Record {
    /// The entity tag, where an answer that has it, too, is of the same bytes; empty: there is none.
    pub fn telling_tag(&self) -> &str {
        let version = Version { etag: self.etag.clone(), ..Version::default() };
        if version.has_strong_etag() { &self.etag } else { "" }
    }

    /// The date of the last modification, where an answer that has it, too, is of the same version; empty: there is none.
    pub fn telling_date(&self) -> &str {
        if self.is_young { "" } else { &self.last_modified }
    }

    /// Remembers this with `file`, whose bytes are complete, and says what the file is identified by from then on. A file
    /// system without attributes is not a reason to fail.
    pub(super) fn write(&mut self, file: &File, metadata: &Metadata) -> CreatedFile {
        self.size = metadata.len();
        self.modified = nanos(metadata);
        let kept = self.keep(file) || self.shorter().iter().any(|record| record.keep(file));
        if !kept
            && !self.is_young
            && let Ok(date) = httpdate::parse_http_date(&self.last_modified)
        {
            let seconds = date.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let time = Timespec { tv_sec: seconds as i64, tv_nsec: 0 };
            let _ = rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time });
            return file.metadata().map_or_else(|_| identity(metadata), |now| identity(&now));
        }
        identity(metadata)
    }

    /// Shorter records that do where this one has no room: it may be too long, or the file have other attributes. What a file is
    /// recognised by comes last, so that a repeated download does not take its own file for somebody else's.
    fn shorter(&self) -> [Record; 2] {
        let own = Record { content_type: String::new(), ..self.clone() };
        let place = own.url.split(['?', '#']).next().unwrap_or_default().to_owned();
        [Record { url: place, ..own.clone() }, Record { url: String::new(), ..own }]
    }

    fn keep(&self, file: &File) -> bool {
        let json = serde_json::to_vec(self).unwrap_or_default();
        (1..=RECORD_BYTES_MAX).contains(&json.len())
            && rustix::fs::fsetxattr(file, ATTRIBUTE, &json, XattrFlags::empty()).is_ok()
    }
}

/// What tells a file from one that takes its name later.
pub(super) fn identity(metadata: &Metadata) -> CreatedFile {
    CreatedFile { inode: metadata.ino(), modified_nanos: nanos(metadata) }
}

fn read(file: &File) -> Option<Record> {
    let mut bytes = [0; RECORD_BYTES_MAX];
    let length = rustix::fs::fgetxattr(file, ATTRIBUTE, &mut bytes).ok()?;
    serde_json::from_slice(bytes.get(..length)?).ok()
}

/// Whether the download of `key` has finished this file, as it is remembered before a file gets its name. Where nothing can be
/// remembered, every file may be one.
pub(super) fn may_be_finished(file: &File, key: &str) -> bool {
    match rustix::fs::fgetxattr(file, ATTRIBUTE, &mut [0_u8; 0]) {
        Ok(_) => read(file).is_some_and(|record| record.key == key),
        Err(error) => error != Errno::NODATA,
    }
}

/// The time of the last modification since the epoch; before it: 0.
fn nanos(metadata: &Metadata) -> u64 {
    let seconds = u64::try_from(metadata.mtime()).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec() as u64)
}

/// The date as a `Last-Modified`, if it can be one, being without a fraction; else empty.
fn whole_second(metadata: &Metadata) -> String {
    let nanos = nanos(metadata);
    let whole = nanos.is_multiple_of(1_000_000_000);
    if whole { httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_nanos(nanos)) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_until_the_file_is_touched() {
        let place = tempfile::tempdir_in(".").unwrap();
        let path = place.path().join("f");
        std::fs::write(&path, b"abc").unwrap();
        let mut record = Record { source: "a".into(), etag: "\"x\"".into(), ..Record::default() };
        let file = File::open(&path).unwrap();
        let created = record.write(&file, &file.metadata().unwrap());
        let dir = cap_std::fs::Dir::open_ambient_dir(place.path(), cap_std::ambient_authority()).unwrap();
        let folder = Folder::new(&dir, "").unwrap();
        let look = || Existing::of(File::open(&path).unwrap(), &folder).unwrap();
        let seen = look();
        assert_eq!((seen.record().unwrap().etag.as_str(), seen.size, seen.identity), ("\"x\"", 3, created));
        assert!(seen.is_from(&["a".to_owned()]) && !seen.is_from(&["b".to_owned()]));
        for url in [format!("http://h/f?{}", "q".repeat(5_000)), format!("http://h/{}", "f".repeat(5_000))] {
            record.url = url;
            record.write(&file, &file.metadata().unwrap());
            assert!(look().is_from(&["a".to_owned()]), "it is known by what fits");
            assert!(record.url.starts_with(&look().record().unwrap().url));
        }
        std::fs::write(&path, b"abd").unwrap();
        let changed = look();
        assert!(matches!(changed.maker, Maker::Other { .. }) && changed.identity != created);
    }
}
