//! Codings of bodies by their names: those that the head of an answer names, as far as haul undoes them. Pure.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::model::failure::{Failure, FailureReason};

/// What is sent as `Accept-Encoding` by who decodes.
pub const ACCEPT_ENCODING: HeaderValue = HeaderValue::from_static("gzip, br, zstd, deflate");

/// What the names of files end with that are gzip by their own format. Formats that only may be are not among them: such
/// a file may well have been packed for its transport.
const GZIP_ENDINGS: [&str; 16] = [
    ".gz",
    ".gzip",
    ".tgz",
    ".taz",
    ".tpz",
    ".cpgz",
    ".crate",
    ".unitypackage",
    ".bgz",
    ".bgzf",
    ".dz",
    ".adz",
    ".svgz",
    ".emz",
    ".wmz",
    ".vgz",
];

/// Codings on top of each other; each multiplies what a bomb can do.
const CODINGS_MAX: usize = 3;

/// A coding that haul undoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950, and RFC 1951 from origins that leave zlib's frame away.
    Deflate,
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
}

impl Coding {
    fn named(name: &str) -> Option<Coding> {
        Some(match name {
            "gzip" | "x-gzip" => Coding::Gzip,
            "deflate" => Coding::Deflate,
            "br" => Coding::Brotli,
            "zstd" => Coding::Zstd,
            _ => return None,
        })
    }

    /// Returns whether a file of this name, or of this media type, is one of this coding, and meant to be kept in it.
    fn is_of_file(self, name: &str, content_type: &str) -> bool {
        let name = name.to_ascii_lowercase();
        let (endings, kind): (&[&str], _) = match self {
            Coding::Gzip => (&GZIP_ENDINGS, "gzip"),
            Coding::Brotli => (&[".br", ".tbr"], "brotli"),
            Coding::Zstd => (&[".zst", ".zstd", ".tzst", ".tzs"], "zstd"),
            Coding::Deflate => (&[".zz", ".deflate"], "zlib"),
        };
        endings.iter().any(|ending| name.ends_with(ending)) || content_type.to_ascii_lowercase().contains(kind)
    }
}

/// Returns the codings that `Content-Encoding` names, in the order in which they were applied.
///
/// A value that HTTP does not define as a coding is a label: storage returns whatever was set when the object was stored, such as
/// `aws-chunked`, `utf-8` or `bzip2`, and the bytes are what they are.
pub fn codings(headers: &HeaderMap) -> Result<Vec<Coding>, Failure> {
    let codings: Vec<Coding> =
        names(headers, &header::CONTENT_ENCODING).iter().filter_map(|name| Coding::named(name)).collect();
    bounded(codings)
}

/// As [`codings`], for a body that is to be a file called `name`: servers call archives encoded in what they are. Such a
/// file stays what its name says that it is.
pub fn codings_of_file(headers: &HeaderMap, name: &str) -> Result<Vec<Coding>, Failure> {
    let mut codings = codings(headers)?;
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if codings.first().is_some_and(|coding| coding.is_of_file(name, content_type)) {
        codings.remove(0);
    }
    Ok(codings)
}

/// Returns the codings that `Transfer-Encoding` names beside chunks, which are undone already (RFC 9112, section 7). What
/// is not known is refused: stored as it came, it would pass for the file.
pub(super) fn transfer_codings(headers: &HeaderMap) -> Result<Vec<Coding>, Failure> {
    let fail = |what: &str| Failure::fatal(FailureReason::Protocol, format!("the `Transfer-Encoding` {what}"));
    if headers.get_all(header::TRANSFER_ENCODING).iter().any(|value| value.to_str().is_err()) {
        return Err(fail("is not text"));
    }
    let names = names(headers, &header::TRANSFER_ENCODING);
    // Chunks are undone only where the last line ends with them. What else is said of them would leave them in the file.
    if names.last().is_some_and(|name| name == "chunked") && !is_undone(headers) {
        return Err(fail("does not end with `chunked`, and names it last"));
    }
    // Said twice, chunks were made once: more is forbidden (RFC 9112, section 7.1).
    let inner = names.iter().rposition(|name| name != "chunked").map_or(&[][..], |last| &names[..=last]);
    let known =
        |name: &String| Coding::named(name).ok_or_else(|| fail(&format!("`{name}` is not one that haul undoes")));
    bounded(inner.iter().filter(|name| *name != "identity").map(known).collect::<Result<_, _>>()?)
}

/// Returns whether hyper has undone the chunks of a body, as it does where they are the last member of the last line.
fn is_undone(headers: &HeaderMap) -> bool {
    let last = headers.get_all(header::TRANSFER_ENCODING).iter().next_back();
    let member = last.and_then(|value| value.to_str().ok()).and_then(|list| list.rsplit(',').next());
    member.is_some_and(|member| member.trim().eq_ignore_ascii_case("chunked"))
}

/// The tokens of a list, in lower case. What is not text has no tokens.
fn names(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let tokens = values.flat_map(|text| text.split(','));
    tokens.map(|token| token.trim().to_ascii_lowercase()).filter(|token| !token.is_empty()).collect()
}

fn bounded(codings: Vec<Coding>) -> Result<Vec<Coding>, Failure> {
    if codings.len() > CODINGS_MAX {
        let message =
            format!("the body has {} codings on top of each other; haul undoes at most {CODINGS_MAX}", codings.len());
        return Err(Failure::fatal(FailureReason::Protocol, message));
    }
    Ok(codings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_coding_that_cannot_be_read_is_refused() {
        let of = |values: &[&[u8]]| {
            let values =
                values.iter().map(|value| (header::TRANSFER_ENCODING, HeaderValue::from_bytes(value).unwrap()));
            transfer_codings(&values.collect())
        };
        assert_eq!(of(&[b"gzip, chunked"]), Ok(vec![Coding::Gzip]));
        assert_eq!(of(&[b"chunked,", b", chunked"]), Ok(vec![]));
        for bad in
            [&[&b"gz\xefp"[..]][..], &[b"chunked", b"\xe9"], &[b"what, chunked"], &[b"chunked,"], &[b"chunked", b","]]
        {
            assert_eq!(of(bad).unwrap_err().reason, FailureReason::Protocol, "{bad:?}");
        }
    }

    #[test]
    fn an_archive_is_kept_under_its_name() {
        let of = |coding: &str, kind: &str, name: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_ENCODING, coding.parse().unwrap());
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            codings_of_file(&headers, name).unwrap()
        };
        for (coding, name) in [
            ("gzip", "a.tar.GZ"),
            ("x-gzip", "a.tgz"),
            ("gzip", "i.svgz"),
            ("gzip", "serde-1.0.0.crate"),
            ("br", "a.js.br"),
            ("zstd", "a.tar.zst"),
        ] {
            assert_eq!(of(coding, "text/plain", name), [], "{name}");
        }
        assert_eq!(of("gzip", "application/x-gzip", "a"), []);
        assert_eq!(of("gzip", "text/plain", "a.txt"), [Coding::Gzip]);
        assert_eq!(of("br", "text/plain", "a.tar.gz"), [Coding::Brotli], "an archive that is packed once more");
        assert_eq!(of("gzip, gzip", "text/plain", "a.gz"), [Coding::Gzip]);
    }
}
