//! Which version of a resource some bytes are of, as far as its origin says so.

use serde::{Deserialize, Serialize};

use crate::model::failure::is_default;

/// From this age on a `Last-Modified` is a strong validator: the resource had rested so long when the response was made
/// that neither a second change within the same second nor a difference between two clocks could hide a new version
/// (RFC 9110, section 8.8.2.2, with the distance that RFC 7232, section 2.2.2, names).
const DATE_STRONG_SECONDS: u64 = 60;

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
    /// When the response was made: as sent, or when it came if the origin did not say (RFC 9110, section 6.6.1).
    #[serde(skip_serializing_if = "is_default")]
    pub date: String,
    /// The size of the whole, where it was known.
    #[serde(skip_serializing_if = "is_default")]
    pub total: Option<u64>,
}

impl Version {
    /// Whether the entity tag promises the same bytes, and not only the same meaning. One without quotes is no entity
    /// tag (RFC 9110, section 8.8.3) and promises nothing; nor does an empty one, which programs send that have none.
    pub fn has_strong_etag(&self) -> bool {
        self.etag.len() > 2 && self.etag.starts_with('"') && self.etag.ends_with('"')
    }

    /// Whether the date of the last modification promises the same bytes.
    pub fn has_strong_date(&self) -> bool {
        let parse = |text: &str| httpdate::parse_http_date(text).ok();
        let (Some(made), Some(modified)) = (parse(&self.date), parse(&self.last_modified)) else { return false };
        made.duration_since(modified).is_ok_and(|age| age.as_secs() >= DATE_STRONG_SECONDS)
    }

    /// The validator under which a range may be asked for (`If-Range`); empty: there is none that is strong.
    pub fn strong_validator(&self) -> &str {
        if self.has_strong_etag() {
            &self.etag
        } else if self.has_strong_date() {
            &self.last_modified
        } else {
            ""
        }
    }

    /// Whether a strong validator shows that `seen`, of a later answer of the same origin, is this version.
    pub fn is_proved_by(&self, seen: &Version) -> bool {
        if self.has_strong_etag() && seen.has_strong_etag() {
            return self.etag == seen.etag;
        }
        let tags_differ = agree(&self.etag, &seen.etag) == Some(false);
        !tags_differ && agree(&self.last_modified, &seen.last_modified) == Some(true) && self.has_strong_date()
    }

    /// Whether the origin says with `seen` that its content is another one now. Tags alone that differ say so only
    /// where the dates do not agree: the nodes of one service may make tags of their own.
    pub fn is_contradicted_by(&self, seen: &Version) -> bool {
        let dates = agree(&self.last_modified, &seen.last_modified);
        let tags = agree(&self.etag, &seen.etag);
        !self.is_proved_by(seen) && (dates == Some(false) || (tags == Some(false) && dates.is_none()))
    }

    /// Whether both sizes are known and differ.
    pub fn has_other_size_than(&self, seen: &Version) -> bool {
        matches!((self.total, seen.total), (Some(own), Some(other)) if own != other)
    }

    /// Whether both sizes are known and agree.
    pub fn has_size_of(&self, seen: &Version) -> bool {
        self.total.is_some() && self.total == seen.total
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
    const SECONDS_LATER: &str = "Tue, 01 Sep 2026 10:00:59 GMT";
    const LATER: &str = "Tue, 01 Sep 2026 10:01:00 GMT";

    fn version(etag: &str, last_modified: &str, date: &str) -> Version {
        Version { etag: etag.into(), last_modified: last_modified.into(), date: date.into(), total: Some(9) }
    }

    #[test]
    fn every_pair() {
        let versions = [
            ("strong tag", version("\"a\"", OLD, SECONDS_LATER)),
            ("another strong tag", version("\"b\"", OLD, LATER)),
            ("strong tag, another date", version("\"a\"", LATER, LATER)),
            ("weak tag", version("W/\"a\"", OLD, SECONDS_LATER)),
            ("weak tag, strong date", version("W/\"a\"", OLD, LATER)),
            ("another weak tag, strong date", version("W/\"b\"", OLD, LATER)),
            ("unquoted tag", version("a", "", LATER)),
            ("empty tag", version("\"\"", "", LATER)),
            ("strong date", version("", OLD, LATER)),
            ("another date", version("", LATER, LATER)),
            ("young date", version("", OLD, SECONDS_LATER)),
            ("date without a date", version("", OLD, "")),
            ("nothing", version("", "", "")),
        ];
        let mut table = String::new();
        for (name, held) in &versions {
            for (other, seen) in &versions {
                let verdict = match (held.is_proved_by(seen), held.is_contradicted_by(seen)) {
                    (true, false) => "the same",
                    (false, true) => "another",
                    (false, false) => "unproven",
                    (true, true) => "BOTH",
                };
                table += &format!("{name} | {other} = {verdict}\n");
            }
        }
        insta::assert_snapshot!(table);
    }
}
