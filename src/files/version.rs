//! Which version of a resource some bytes are of.
//!
//! This is where mixed files are made impossible: bytes are kept together with what the origin said about the version
//! that they came from, and [`Version::compare`] is the only judge of whether bytes of two responses may lie in one
//! file.

use serde::{Deserialize, Serialize};

use crate::model::failure::is_default;

/// What an origin said about the version of a resource that it sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Version {
    /// As sent, quotes and `W/` included; empty: none.
    #[serde(skip_serializing_if = "is_default")]
    pub etag: String,
    /// As sent; empty: none.
    #[serde(skip_serializing_if = "is_default")]
    pub last_modified: String,
    /// When the response was made, as sent.
    #[serde(skip_serializing_if = "is_default")]
    pub date: String,
    /// The size of the whole, where it was known.
    #[serde(skip_serializing_if = "is_default")]
    pub total: Option<u64>,
}

/// How two versions compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sameness {
    /// The same: their bytes go together.
    Same,
    /// The entity tags differ and all else agrees: nodes of one service, perhaps. Only a digest can tell.
    Drifted,
    /// Nothing proves that they are the same, nothing that they are not.
    Unproven,
    /// They differ.
    Different,
}

impl Version {
    /// Whether the entity tag promises the same bytes, and not only the same meaning.
    pub fn has_strong_etag(&self) -> bool {
        self.etag.starts_with('"')
    }

    /// Seconds from the last modification to the response; negative when either is missing or makes no sense.
    pub fn settled_seconds(&self) -> i64 {
        let parse = |text: &str| httpdate::parse_http_date(text).ok();
        let age =
            parse(&self.date).zip(parse(&self.last_modified)).map(|(date, modified)| date.duration_since(modified));
        match age {
            Some(Ok(age)) => i64::try_from(age.as_secs()).unwrap_or(i64::MAX),
            _ => -1,
        }
    }

    /// Compares the version of bytes that are held with one that was seen later.
    ///
    /// A date alone proves sameness only when the resource had rested for a second when the first response was made
    /// (RFC 9110, section 8.8.2.2): else it may have changed again under the same date.
    pub fn compare(&self, seen: &Version) -> Sameness {
        if matches!((self.total, seen.total), (Some(own), Some(other)) if own != other) {
            return Sameness::Different;
        }
        let dates = agree(&self.last_modified, &seen.last_modified);
        match agree(&self.etag, &seen.etag) {
            Some(true) if dates == Some(false) && !self.has_strong_etag() => Sameness::Different,
            Some(true) => Sameness::Same,
            Some(false) if dates == Some(true) && self.total.is_some() && self.total == seen.total => Sameness::Drifted,
            Some(false) => Sameness::Different,
            None => match dates {
                Some(false) => Sameness::Different,
                Some(true) if self.settled_seconds() >= 1 => Sameness::Same,
                _ => Sameness::Unproven,
            },
        }
    }

    /// Whether bytes of this version can ever be shown to be of the same version as others.
    pub fn is_provable(&self) -> bool {
        !self.etag.is_empty() || self.settled_seconds() >= 1
    }
}

/// `None` when one of them is missing.
fn agree(own: &str, other: &str) -> Option<bool> {
    (!own.is_empty() && !other.is_empty()).then_some(own == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "Tue, 01 Sep 2026 10:00:00 GMT";
    const NEW: &str = "Tue, 01 Sep 2026 10:00:05 GMT";

    fn version(etag: &str, last_modified: &str, date: &str, total: Option<u64>) -> Version {
        Version { etag: etag.into(), last_modified: last_modified.into(), date: date.into(), total }
    }

    #[test]
    fn every_pair() {
        let versions = [
            ("strong", version("\"a\"", OLD, NEW, Some(9))),
            ("strong, other tag", version("\"b\"", OLD, NEW, Some(9))),
            ("strong, other size", version("\"a\"", OLD, NEW, Some(8))),
            ("strong, other date", version("\"a\"", NEW, NEW, Some(9))),
            ("strong, size unknown", version("\"a\"", OLD, NEW, None)),
            ("weak", version("W/\"a\"", OLD, NEW, Some(9))),
            ("weak, other date", version("W/\"a\"", NEW, NEW, Some(9))),
            ("date only", version("", OLD, NEW, Some(9))),
            ("date only, just changed", version("", NEW, NEW, Some(9))),
            ("nothing", version("", "", "", Some(9))),
        ];
        let mut table = String::new();
        for (name, held) in &versions {
            for (other, seen) in &versions {
                table += &format!("{name} | {other} = {:?}\n", held.compare(seen));
            }
        }
        insta::assert_snapshot!(table);
    }
}
