//! Where a finished file came from, remembered with the file itself, so that a repeated download can ask the origin
//! whether it is still the same instead of fetching it again.
//!
//! It is an extended attribute. Where there are none, the time of modification takes the origin's `Last-Modified`: less
//! is known then, but the file can still be checked with a conditional request.

use std::fs::File;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Timespec, Timestamps, XattrFlags};
use serde::{Deserialize, Serialize};

use crate::model::failure::is_default;

const ATTRIBUTE: &str = "user.haul.source";
/// Longer than any record of ours; some file systems take 4096 at most.
const RECORD_BYTES_MAX: usize = 4000;

/// Where a file came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// The task that made it; see [`crate::files::part`].
    #[serde(skip_serializing_if = "is_default")]
    pub key: String,
    /// As it was asked for, without secrets.
    #[serde(skip_serializing_if = "is_default")]
    pub url: String,
    /// As sent.
    #[serde(skip_serializing_if = "is_default")]
    pub etag: String,
    /// As sent.
    #[serde(skip_serializing_if = "is_default")]
    pub last_modified: String,
    /// As sent.
    #[serde(skip_serializing_if = "is_default")]
    pub content_type: String,
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
    /// What was remembered, when the file is still as it was left.
    pub record: Option<Record>,
    /// Where it came from, even if it was changed since.
    source: Option<String>,
}

impl Existing {
    /// Looks at an open file.
    pub fn of(file: File) -> std::io::Result<Existing> {
        let metadata = file.metadata()?;
        let (size, modified) = (metadata.len(), metadata.modified()?);
        let remembered = read(&file);
        let source = remembered.as_ref().map(|record| record.url.clone());
        let record = match remembered {
            Some(record) => (record.size == size && record.modified == nanos(modified)).then_some(record),
            None => Some(Record { last_modified: whole_second(modified), size, ..Record::default() }),
        };
        Ok(Existing { file, size, record, source })
    }

    /// The URL that it came from, without secrets; `None`: nobody knows.
    pub fn source(&self) -> Option<&str> {
        self.source.as_deref()
    }
}

impl Record {
    /// Remembers this with `file`, whose bytes are complete. A file system that cannot is no reason to fail.
    pub(super) fn write(mut self, file: &File) {
        let Ok(metadata) = file.metadata() else { return };
        let Ok(modified) = metadata.modified() else { return };
        self.size = metadata.len();
        self.modified = nanos(modified);
        let Ok(json) = serde_json::to_vec(&self) else { return };
        let kept = json.len() <= RECORD_BYTES_MAX
            && rustix::fs::fsetxattr(file, ATTRIBUTE, &json, XattrFlags::empty()).is_ok();
        if !kept && let Ok(date) = httpdate::parse_http_date(&self.last_modified) {
            let seconds = date.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let time = Timespec { tv_sec: seconds as i64, tv_nsec: 0 };
            let _ = rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time });
        }
    }
}

fn read(file: &File) -> Option<Record> {
    let mut bytes = [0; RECORD_BYTES_MAX];
    let length = rustix::fs::fgetxattr(file, ATTRIBUTE, &mut bytes).ok()?;
    serde_json::from_slice(bytes.get(..length)?).ok()
}

fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_nanos() as u64
}

/// The date as a `Last-Modified`, if it can be one, being without a fraction; else empty.
fn whole_second(time: SystemTime) -> String {
    let whole = nanos(time).is_multiple_of(1_000_000_000);
    if whole { httpdate::fmt_http_date(time) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_until_the_file_is_touched() {
        let place = tempfile::tempdir_in(".").unwrap();
        let path = place.path().join("f");
        std::fs::write(&path, b"abc").unwrap();
        let record = Record { url: "http://a/".into(), etag: "\"x\"".into(), ..Record::default() };
        record.write(&File::open(&path).unwrap());
        let look = || Existing::of(File::open(&path).unwrap()).unwrap();
        let seen = look().record.unwrap();
        assert_eq!((seen.etag.as_str(), seen.size), ("\"x\"", 3));
        std::fs::write(&path, b"abd").unwrap();
        assert_eq!(look().record, None);
    }
}
