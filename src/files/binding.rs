//! What the bytes of a part belong to, and the one judge of whether bytes of another answer may join them.
//!
//! [`Stored::admit`] is pure. Its result, [`Admitted`], is the proof that a part takes ([`crate::files::part`]): there is
//! no other way to add bytes to bytes that are held, so a file of two versions cannot come to be by mistake.

use serde::{Deserialize, Serialize};
use url::Url;

use crate::files::ranges::RangeSet;
use crate::files::remarks::Remarks;
use crate::files::version::Version;
use crate::model::checksum::Checksum;
use crate::model::failure::is_default;

/// What the bytes of a part belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Binding {
    /// The version they are of.
    pub version: Version,
    /// Recognises the URL that was asked: which mirror.
    pub source: String,
    /// After redirects, without secrets.
    pub final_url: String,
    /// The name that the origin suggested; empty: none.
    #[serde(skip_serializing_if = "is_default")]
    pub suggested_name: String,
    /// As sent.
    #[serde(skip_serializing_if = "is_default")]
    pub content_type: String,
    /// The status of the answer.
    #[serde(skip_serializing_if = "is_default")]
    pub http_status: u16,
    /// The most connections that brought them at once, over all attempts.
    #[serde(skip_serializing_if = "is_default")]
    pub connections: u32,
    /// Digests of the whole that the origin announced. They are checked like those that the client names.
    #[serde(skip_serializing_if = "is_default")]
    pub announced: Vec<Checksum>,
    /// Some of the bytes joined the others on the word of a digest that is still to be checked, and not of a validator.
    #[serde(skip_serializing_if = "is_default")]
    pub is_pieced: bool,
    /// Their content coding was undone, so that the origin knows nothing of their offsets.
    #[serde(skip_serializing_if = "is_default")]
    pub is_decoded: bool,
}

/// What a checkpoint claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// What the bytes belong to.
    pub binding: Binding,
    /// The bytes that are on the device.
    pub ranges: RangeSet,
    /// How many attempts in a row asked for a range of it and had an error of the server for an answer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub refusals: u32,
    /// What there was before bytes of another source joined on the word of a digest; `None`: none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
    /// What is known of sources.
    #[serde(flatten)]
    pub remarks: Remarks,
}

/// What there was before bytes of another source joined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// What the bytes belonged to.
    pub binding: Binding,
    /// The bytes.
    pub ranges: RangeSet,
    /// The sources that joined.
    pub joined: Vec<String>,
}

/// The proof that bytes of an answer may join those that are held. Only [`Stored`] makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    binding: Binding,
    ranges: RangeSet,
    before: Option<Before>,
}

/// Why held bytes are not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The validators or sizes say so, or bytes that came again differ from those that are held.
    #[error("content changed")]
    ContentChanged,
    /// Only the tags differ, and no digest will tell whether the bytes do.
    #[error("the entity tag changed")]
    TagChanged,
    /// There is no strong validator of the same source, and no digest.
    #[error("nothing proves that the content is the same")]
    Unproven,
    /// The answer holds other bytes than those that were asked for.
    #[error("the origin sent another range than it was asked for")]
    WrongRange,
    /// A 206 without a usable `Content-Range`.
    #[error("the origin sent a range without saying which")]
    NoContentRange,
    /// Offsets in encoded content mean nothing.
    #[error("the content is encoded, so it has no ranges")]
    Encoded,
    /// A 416 for bytes that are missing.
    #[error("the origin does not have the missing range")]
    Unsatisfiable,
    /// The client wants nothing to be continued.
    #[error("resuming is switched off")]
    ResumeDisabled,
    /// The whole had another digest, so that nobody can tell which of its bytes are wrong.
    #[error("the checksum did not match")]
    ChecksumMismatch,
}

impl Binding {
    /// Whether `other` came from the same source: asked for by the same URL, and served under the same one but for its
    /// query, which signed links change. Validators tell the versions of one resource apart (RFC 9110, section 8.8), and
    /// those of different hosts or paths say nothing of each other: a tag that is made of time and size is the same for any
    /// two files of one build.
    pub fn is_from_source_of(&self, other: &Binding) -> bool {
        let place = |url: &str| {
            let mut url = Url::parse(url).ok()?;
            url.set_query(None);
            url.set_fragment(None);
            Some(url)
        };
        self.source == other.source && place(&self.final_url) == place(&other.final_url)
    }
}

impl Stored {
    /// Whether bytes of an answer that belong to what `seen` says may join the held ones. `has_digest`: the client named
    /// a digest of the whole.
    ///
    /// A strong validator of the same source proves it. A digest of the whole that is still to be checked may vouch
    /// instead, as long as the sizes agree and the source does not itself say that its content changed. Where the size was not
    /// known, the same source may tell it now.
    pub fn admit(&self, seen: &Binding, has_digest: bool) -> Result<Admitted, Why> {
        let held = &self.binding;
        let is_shorter = seen.version.total.is_some_and(|total| total < self.ranges.end());
        if is_shorter || held.version.has_other_size_than(&seen.version) || announce_differently(held, seen) {
            return Err(Why::ContentChanged);
        }
        let is_same_source = held.is_from_source_of(seen);
        if is_same_source && !held.is_pieced && held.version.is_proved_by(&seen.version) {
            return Ok(self.proved(seen));
        }
        let is_contradicted = is_same_source && held.version.is_contradicted_by(&seen.version);
        let will_be_checked = has_digest || !held.announced.is_empty();
        if !self.may_share_with(&seen.source) {
            return Err(Why::ChecksumMismatch);
        }
        let is_sized_now = is_same_source && held.version.total.is_none() && seen.version.total.is_some();
        if will_be_checked && (held.version.has_size_of(&seen.version) || is_sized_now) && !is_contradicted {
            return Ok(self.vouched_for(seen));
        }
        let tags_differ = !held.version.etag.is_empty() && held.version.etag != seen.version.etag;
        Err(match is_same_source {
            true if is_contradicted => Why::ContentChanged,
            true if tags_differ && !seen.version.etag.is_empty() => Why::TagChanged,
            _ => Why::Unproven,
        })
    }

    /// Whether a 416 that says that the whole has `total` bytes means that all of it is held. `is_conditional`: it
    /// answers a request under a strong validator of the held version, which such an answer confirms (RFC 9110, section
    /// 14.2: ranges are looked at once the conditions hold).
    pub fn admit_as_whole(
        &self,
        total: u64,
        seen: &Binding,
        is_conditional: bool,
        has_digest: bool,
    ) -> Result<Admitted, Why> {
        if self.binding.version.total.is_some_and(|held| held != total) {
            return Err(Why::ContentChanged);
        }
        if !self.ranges.is_all_of(total) {
            return Err(Why::Unsatisfiable);
        }
        let mut sized = self.clone();
        sized.binding.version.total = Some(total);
        let says_nothing = seen.version.etag.is_empty() && seen.version.last_modified.is_empty();
        if is_conditional && says_nothing && self.binding.is_from_source_of(seen) && !self.binding.is_pieced {
            return Ok(sized.proved(seen));
        }
        sized.admit(seen, has_digest)
    }

    /// All bytes are held, so that none has to join them; `None`: some are missing, or only a digest could vouch for them and
    /// none will be checked. `has_digest`: the client named one of the whole.
    pub fn whole(&self, has_digest: bool) -> Option<Admitted> {
        let total = self.binding.version.total?;
        let is_vouched_for = !self.binding.is_pieced || has_digest || !self.binding.announced.is_empty();
        let is_whole = is_vouched_for && self.ranges.is_all_of(total);
        is_whole.then(|| Admitted {
            binding: self.binding.clone(),
            ranges: self.ranges.clone(),
            before: self.before.clone(),
        })
    }

    /// Whether nothing that is known speaks against one file with bytes of this source.
    pub fn may_share_with(&self, source: &str) -> bool {
        let held = &self.binding.source;
        held == source || (self.remarks.doubts.may_join(held) && self.remarks.doubts.may_join(source))
    }

    /// What is left of bytes of which some turned out to be wrong: what there was before those of other sources joined, who
    /// join no more; nothing of a source by itself. `were_checked`: they were whole, and had another digest.
    #[must_use]
    pub fn after_wrong_bytes(&self, were_checked: bool) -> Stored {
        let mut remarks = self.remarks.clone();
        let doubts = &mut remarks.doubts;
        if let Some(before) = &self.before {
            before.joined.iter().for_each(|source| doubts.keep_apart(source));
            let Before { binding, ranges, .. } = before.clone();
            return Stored { binding, ranges, remarks, ..Stored::default() };
        }
        if self.binding.is_pieced {
            // Of several versions, perhaps, of which it has the right one now.
            doubts.keep_apart(&self.binding.source);
        } else if were_checked {
            doubts.note_wrong(&self.binding.source);
        }
        Stored { remarks, ..Stored::default() }
    }

    fn proved(&self, seen: &Binding) -> Admitted {
        let mut binding = self.binding.clone();
        binding.version.total = binding.version.total.or(seen.version.total);
        binding.final_url.clone_from(&seen.final_url);
        binding.http_status = seen.http_status;
        binding.announced = union(&binding.announced, &seen.announced);
        Admitted { binding, ranges: self.ranges.clone(), before: self.before.clone() }
    }

    /// The source that serves now is asked with its own validators from then on.
    fn vouched_for(&self, seen: &Binding) -> Admitted {
        let held = &self.binding;
        let binding = Binding {
            version: Version { total: seen.version.total.or(held.version.total), ..seen.version.clone() },
            source: seen.source.clone(),
            final_url: seen.final_url.clone(),
            suggested_name: held.suggested_name.clone(),
            content_type: held.content_type.clone(),
            http_status: seen.http_status,
            connections: held.connections,
            announced: union(&held.announced, &seen.announced),
            is_pieced: true,
            is_decoded: false,
        };
        Admitted { binding, ranges: self.ranges.clone(), before: self.before_joined_by(&seen.source) }
    }

    fn before_joined_by(&self, source: &str) -> Option<Before> {
        let first = || (self.binding.source != source).then(|| Before::of(self.binding.clone(), self.ranges.clone()));
        let mut before = self.before.clone().or_else(first)?;
        before.add(source);
        Some(before)
    }
}

impl Before {
    fn of(binding: Binding, ranges: RangeSet) -> Before {
        Before { binding, ranges, joined: Vec::new() }
    }

    /// Bytes of one more source joined.
    fn add(&mut self, source: &str) {
        if self.binding.source != source && !self.joined.iter().any(|it| it == source) {
            self.joined.push(source.to_owned());
        }
    }

    /// Notes the sources that joined by another answer.
    pub(super) fn add_all(&mut self, other: &Before) {
        other.joined.iter().for_each(|source| self.add(source));
    }
}

impl Admitted {
    /// What the bytes belong to together.
    pub fn binding(&self) -> &Binding {
        &self.binding
    }

    /// The bytes that are held.
    pub fn ranges(&self) -> &RangeSet {
        &self.ranges
    }

    /// What there was before bytes of other sources joined.
    pub(super) fn before(&self) -> Option<&Before> {
        self.before.as_ref()
    }

    pub(super) fn into_parts(self) -> (Binding, RangeSet, Option<Before>) {
        (self.binding, self.ranges, self.before)
    }
}

fn announce_differently(held: &Binding, seen: &Binding) -> bool {
    let differs = |own: &Checksum| {
        seen.announced.iter().any(|other| other.algorithm == own.algorithm && other.digest != own.digest)
    };
    held.announced.iter().any(differs)
}

fn union(held: &[Checksum], seen: &[Checksum]) -> Vec<Checksum> {
    let new = seen.iter().filter(|checksum| !held.contains(checksum));
    held.iter().chain(new).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::checksum::Algorithm;

    const OLD: &str = "Tue, 01 Sep 2026 10:00:00 GMT";
    const LATER: &str = "Wed, 02 Sep 2026 10:00:00 GMT";

    fn binding(url: &str, etag: &str, total: Option<u64>) -> Binding {
        let version = Version { etag: etag.into(), last_modified: OLD.into(), date: LATER.into(), total };
        Binding { version, source: url.into(), final_url: url.into(), ..Binding::default() }
    }

    fn held(binding: Binding) -> Stored {
        Stored { binding, ranges: RangeSet::from_start(4), ..Stored::default() }
    }

    #[test]
    fn validators_are_of_one_source() {
        let stored = held(binding("http://a/f", "\"x\"", Some(9)));
        let same = binding("http://a/f", "\"x\"", Some(9));
        assert!(!stored.admit(&same, false).unwrap().binding().is_pieced);
        let mirror = binding("http://b/f", "\"x\"", Some(9));
        assert_eq!(stored.admit(&mirror, false), Err(Why::Unproven));
        assert!(stored.admit(&mirror, true).unwrap().binding().is_pieced);
        let elsewhere = Binding { final_url: "http://c/f".into(), ..same.clone() };
        assert_eq!(stored.admit(&elsewhere, false), Err(Why::Unproven), "redirected to another host");
        let moved = Binding { final_url: "http://a/g".into(), ..same.clone() };
        assert_eq!(stored.admit(&moved, false), Err(Why::Unproven), "redirected to another file of the host");
        let signed = Binding { final_url: "http://a/f?signature=2".into(), ..same };
        assert!(stored.admit(&signed, false).is_ok(), "a link that is signed anew");
    }

    #[test]
    fn what_only_a_digest_vouched_for_is_not_continued_without_one() {
        let same = binding("http://a/f", "\"x\"", Some(9));
        let stored = held(Binding { is_pieced: true, ..same.clone() });
        assert_eq!(stored.admit(&same, false), Err(Why::Unproven));
        assert!(stored.admit(&same, true).unwrap().binding().is_pieced);
        let whole = |is_pieced, announced| {
            let binding = Binding { announced, is_pieced, ..binding("http://a/f", "\"x\"", Some(4)) };
            [false, true].map(|has_digest| held(binding.clone()).whole(has_digest).is_some())
        };
        let announced = Checksum { algorithm: Algorithm::Sha256, digest: vec![1; 32] };
        assert_eq!(whole(false, Vec::new()), [true, true]);
        assert_eq!(whole(true, Vec::new()), [false, true], "nor taken for the file when nothing is missing");
        assert_eq!(whole(true, vec![announced]), [true, true]);
    }

    #[test]
    fn announced_digests_vouch_and_contradict() {
        let digest = |byte| vec![Checksum { algorithm: Algorithm::Sha256, digest: vec![byte; 32] }];
        let with = |etag, byte| Binding { announced: digest(byte), ..binding("http://a/f", etag, Some(9)) };
        let stored = held(with("\"x\"", 1));
        assert_eq!(stored.admit(&with("\"x\"", 2), true), Err(Why::ContentChanged), "whatever the tag says");
        assert!(stored.admit(&with("W/\"x\"", 1), false).is_ok(), "it will be checked in the end");
        let added = stored.admit(&binding("http://a/f", "\"x\"", Some(9)), false).unwrap();
        assert_eq!(added.binding().announced, digest(1), "not forgotten when an answer does not repeat it");
    }

    /// One of the two is wrong, and nobody knows which: what the first has brought is kept, and each goes on alone.
    #[test]
    fn a_digest_that_fails_undoes_the_join_and_not_what_was_before() {
        let [a, b] = ["http://a/f", "http://b/f"].map(|url| binding(url, "\"x\"", Some(9)));
        let alone = held(a.clone());
        let (binding, _, before) = alone.admit(&b, true).unwrap().into_parts();
        let joined = Stored { binding, ranges: RangeSet::from_start(9), before, ..Stored::default() };
        let joined: Stored = serde_json::from_slice(&serde_json::to_vec(&joined).unwrap()).unwrap();
        let left = joined.after_wrong_bytes(true);
        assert_eq!((&left.binding, &left.ranges, &left.before), (&alone.binding, &alone.ranges, &None));
        assert_eq!(left.admit(&b, true), Err(Why::ChecksumMismatch));
        assert!(!left.admit(&a, true).unwrap().binding().is_pieced, "it goes on by its validator");
        assert!(!left.remarks.doubts.is_wrong("http://b/f"), "it may be the one that is right");
        assert!(left.after_wrong_bytes(false).remarks.doubts.may_join("http://a/f"), "it contradicted itself");
        let other = left.after_wrong_bytes(true);
        assert_eq!((other.ranges.bytes(), other.remarks.doubts.is_wrong("http://a/f")), (0, true));
        let of_the_wrong_one = Stored { remarks: other.remarks, ..held(a) };
        assert_eq!(of_the_wrong_one.admit(&binding_of_c(), true), Err(Why::ChecksumMismatch), "nor do others join it");
    }

    fn binding_of_c() -> Binding {
        binding("http://c/f", "", Some(9))
    }

    #[test]
    fn a_416_completes_only_what_it_is_of() {
        let stored = held(binding("http://a/f", "\"x\"", None));
        let bare = Binding { version: Version::default(), ..binding("http://a/f", "", None) };
        assert_eq!(stored.admit_as_whole(4, &bare, true, false).unwrap().binding().version.total, Some(4));
        assert_eq!(stored.admit_as_whole(4, &bare, false, false), Err(Why::Unproven));
        assert_eq!(stored.admit_as_whole(5, &bare, true, false), Err(Why::Unsatisfiable));
        let other = binding("http://a/f", "\"y\"", Some(4));
        assert_eq!(stored.admit_as_whole(4, &other, true, false), Err(Why::TagChanged));
        let cut = held(binding("http://a/f", "\"x\"", Some(9)));
        for has_digest in [false, true] {
            let shorter = cut.admit_as_whole(4, &bare, true, has_digest);
            assert_eq!(shorter, Err(Why::ContentChanged), "what was said to be longer is not whole now");
        }
    }
}
