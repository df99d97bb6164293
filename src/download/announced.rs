//! Digests that an origin announces of what it sends, where they are of the whole representation: they are checked like
//! those that a client names.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;

use crate::model::checksum::{Algorithm, Checksum};

/// What S3 calls its digests.
const OF_S3: [(Algorithm, &str); 3] = [
    (Algorithm::Sha256, "x-amz-checksum-sha256"),
    (Algorithm::Sha1, "x-amz-checksum-sha1"),
    (Algorithm::Crc32c, "x-amz-checksum-crc32c"),
];

/// The digests of the whole representation in the head of an answer. `is_whole`: its body is all of it.
///
/// `Repr-Digest` (RFC 9530) is always of the whole. `Content-Digest`, `Content-MD5` and `x-amz-checksum-*` are of what this
/// answer holds, so they count where that is the whole. A composite of S3 is a digest of digests and says nothing of the bytes.
/// What is not readable, or of an algorithm that haul does not have, announces nothing. Must not be asked of a body whose
/// content coding is undone: all of them are of the encoded bytes.
pub(super) fn announced(is_whole: bool, headers: &HeaderMap) -> Vec<Checksum> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let mut found: Vec<Checksum> = dictionary(headers, "repr-digest");
    if is_whole {
        found.extend(dictionary(headers, "content-digest"));
        found.extend(text("content-md5").and_then(|value| checksum(Algorithm::Md5, value)));
        let is_composite = text("x-amz-checksum-type").is_some_and(|kind| kind.eq_ignore_ascii_case("composite"));
        for (algorithm, name) in OF_S3.into_iter().filter(|_| !is_composite) {
            // The parts of a composite are counted behind a dash, which base64 does not have.
            found.extend(text(name).and_then(|value| checksum(algorithm, value)));
        }
    }
    found.sort_by_key(|checksum| checksum.algorithm);
    found.dedup();
    found
}

/// The members of a structured dictionary (RFC 9651) whose keys are algorithms and whose values are byte sequences.
fn dictionary(headers: &HeaderMap, name: &str) -> Vec<Checksum> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let members = values.flat_map(|value| value.split(','));
    let read = |member: &str| {
        let (key, value) = member.trim().split_once('=')?;
        // Parameters, of which none is defined, follow a semicolon.
        let bytes = value.split(';').next()?.trim().strip_prefix(':')?.strip_suffix(':')?;
        let algorithm = match key.trim() {
            "sha-256" => Algorithm::Sha256,
            "sha-512" => Algorithm::Sha512,
            "sha" => Algorithm::Sha1,
            "md5" => Algorithm::Md5,
            "crc32c" => Algorithm::Crc32c,
            _ => return None,
        };
        checksum(algorithm, bytes)
    };
    let mut found: Vec<Checksum> = Vec::new();
    for checksum in members.filter_map(read) {
        // The last member of a key counts (RFC 9651, section 4.2.2).
        found.retain(|other| other.algorithm != checksum.algorithm);
        found.push(checksum);
    }
    found
}

fn checksum(algorithm: Algorithm, base64: &str) -> Option<Checksum> {
    let digest = STANDARD.decode(base64.trim()).ok()?;
    (digest.len() == algorithm.digest_bytes()).then_some(Checksum { algorithm, digest })
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const SHA256: &str = "uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=";
    const MD5: &str = "XrY7u+Ae7tCTyyK7j1rNww==";

    fn read(status: u16, lines: &[(&'static str, &str)]) -> String {
        let pairs =
            lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
        announced(status == 200, &pairs.collect())
            .iter()
            .map(|it| format!("{}={}", it.algorithm.name(), it.digest.len()))
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn what_is_of_the_whole_counts() {
        let repr = format!("sha-256=:{SHA256}:, unixsum=:AAAA:;p=1, md5=:{MD5}:");
        assert_eq!(read(200, &[("repr-digest", &repr)]), "sha256=32 md5=16");
        assert_eq!(read(206, &[("repr-digest", &repr)]), "sha256=32 md5=16");
        let content = format!("sha-256=:{SHA256}:");
        assert_eq!(read(200, &[("content-digest", &content)]), "sha256=32");
        assert_eq!(read(206, &[("content-digest", &content)]), "", "of the range");
        assert_eq!(read(200, &[("content-md5", MD5)]), "md5=16");
        assert_eq!(read(206, &[("content-md5", MD5)]), "");
        assert_eq!(read(200, &[("repr-digest", &repr), ("content-md5", MD5)]), "sha256=32 md5=16", "once");
        let twice = format!("md5=:{MD5}:, md5=:AAAAAAAAAAAAAAAAAAAAAA==:");
        assert_eq!(read(200, &[("repr-digest", &twice)]), "md5=16", "the last one");
    }

    #[test]
    fn composites_and_nonsense_announce_nothing() {
        assert_eq!(read(200, &[("x-amz-checksum-sha256", SHA256)]), "sha256=32");
        assert_eq!(read(200, &[("x-amz-checksum-sha256", &format!("{SHA256}-3"))]), "");
        let typed = [("x-amz-checksum-crc32c", "AAAAAA=="), ("x-amz-checksum-type", "COMPOSITE")];
        assert_eq!(read(200, &typed), "");
        assert_eq!(read(200, &typed[..1]), "crc32c=4");
        for value in ["", "sha-256", "sha-256=x", "sha-256=:x:", "sha-256=:AAAA:", "=:,:;"] {
            assert_eq!(read(200, &[("repr-digest", value)]), "", "{value}");
        }
    }
}
