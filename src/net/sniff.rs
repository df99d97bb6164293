//! Whether content begins as its coding says that it does. Storage returns whatever coding was set when an object was
//! stored, so that what was never packed comes with a label of one.
//!
//! gzip and zstd have marks. Brotli and deflate have none, and almost any text is a valid stream of theirs for some bytes: it
//! may even come to the end of one, with the rest of the text behind it.

use std::io;

use async_compression::tokio::bufread::{BrotliDecoder, DeflateDecoder, ZlibDecoder};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::net::coding::Coding;

/// The bytes of the beginning of some content that are looked at, as far as there are so many. Half of all texts are valid
/// deflate for three bytes, and hardly any binary content is for a hundred.
pub(super) const HEAD_BYTES: usize = 4 << 10;

/// What is undone of the beginning of some content, to see whether that can be done.
const HEAD_DECODED_MAX: u64 = 256 << 10;

/// What came of undoing the beginning of some content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Undone {
    /// It is valid as far as it goes, or ends where it should.
    Valid,
    /// It is not of the coding, or has something behind the end of its stream.
    Invalid,
}

/// Returns whether content that begins with `head` is of this coding, as far as that can be told. `head` has
/// [`HEAD_BYTES`], or is all there is.
pub(super) async fn is_packed(coding: Coding, head: &[u8]) -> bool {
    let begins = |mark: &[u8]| head.iter().zip(mark).all(|(own, mark)| own == mark);
    match coding {
        Coding::Gzip => begins(&[0x1f, 0x8b]),
        // A frame, or one to be skipped.
        Coding::Zstd => {
            begins(&[0x28, 0xb5, 0x2f, 0xfd])
                || (head.first().is_some_and(|byte| byte & 0xf0 == 0x50) && begins(&[head[0], 0x2a, 0x4d, 0x18]))
        }
        Coding::Brotli | Coding::Deflate if is_text(head) => false,
        Coding::Brotli => undo(BrotliDecoder::new(head), BrotliDecoder::into_inner).await == Undone::Valid,
        Coding::Deflate if is_zlib(head) => {
            undo(ZlibDecoder::new(head), ZlibDecoder::into_inner).await == Undone::Valid
        }
        Coding::Deflate => undo(DeflateDecoder::new(head), DeflateDecoder::into_inner).await == Undone::Valid,
    }
}

/// Undoes the beginning of some content. `rest` takes from the decoder what it has not read.
async fn undo<'a, D: AsyncRead + Unpin>(decoder: D, rest: impl FnOnce(D) -> &'a [u8]) -> Undone {
    let mut decoder = decoder.take(HEAD_DECODED_MAX);
    match tokio::io::copy(&mut decoder, &mut tokio::io::sink()).await {
        Ok(HEAD_DECODED_MAX) => Undone::Valid,
        // Padding may follow the end, as it may behind members of gzip.
        Ok(_) if rest(decoder.into_inner()).iter().all(|byte| *byte == 0) => Undone::Valid,
        Err(error) if is_short(&error) => Undone::Valid,
        Ok(_) | Err(_) => Undone::Invalid,
    }
}

/// Returns whether these bytes are text of UTF-8, whose last character may be cut. Packed content is not, except for less than a
/// handful of bytes: each byte of it is a control character, or no character at all, in every second case.
fn is_text(head: &[u8]) -> bool {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() && head.len() >= HEAD_BYTES => {
            std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !text.is_empty() && text.chars().all(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\u{c}' | '\u{1b}'))
}

/// RFC 1950: method 8, a window of at most 32 KiB, and a check of both bytes.
pub(super) fn is_zlib(head: &[u8]) -> bool {
    match head {
        [method, flags, ..] => {
            method & 0x0f == 8 && method >> 4 <= 7 && (u16::from(*method) << 8 | u16::from(*flags)) % 31 == 0
        }
        _ => false,
    }
}

/// Returns whether a decoder says that its input ended too early.
pub(super) fn is_short(error: &io::Error) -> bool {
    // The second is how the decoder of zlib words that it has no input left.
    error.kind() == io::ErrorKind::UnexpectedEof || error.to_string() == "unexpected BufError"
}

#[cfg(test)]
mod tests {
    use async_compression::tokio::bufread::{BrotliEncoder, DeflateEncoder, ZlibEncoder};

    use super::*;

    async fn packed(coding: &str, plain: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder: Box<dyn AsyncRead + Unpin + '_> = match coding {
            "br" => Box::new(BrotliEncoder::new(plain)),
            "zlib" => Box::new(ZlibEncoder::new(plain)),
            _ => Box::new(DeflateEncoder::new(plain)),
        };
        encoder.read_to_end(&mut bytes).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn texts_are_not_packed() {
        let texts = [
            "{\n  \"a\": 1,\n  \"b\": \"two\"\n}\n",
            "[\n {}]",
            "[\n",
            "{\n ",
            "3,4,5\n6,7,8\n",
            "[section]\nkey = value\n",
            "; comment\n",
            "= title\n",
            "server:\n  port: 1\n",
            "80,443\n",
            "Xf",
            "hb",
            "größer: ja\n",
            "7",
        ];
        for text in texts {
            for coding in [Coding::Brotli, Coding::Deflate, Coding::Gzip, Coding::Zstd] {
                assert!(!is_packed(coding, text.as_bytes()).await, "{text:?} as {coding:?}");
            }
        }
        let long = "größer: ja\n".repeat(HEAD_BYTES);
        for cut in HEAD_BYTES..HEAD_BYTES + 4 {
            assert!(!is_packed(Coding::Brotli, &long.as_bytes()[..cut]).await, "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn what_has_something_behind_its_end_is_not_packed() {
        let plain: Vec<u8> = (0..3_000u32).flat_map(|n| (n * n).to_le_bytes()).collect();
        for (coding, sent) in [(Coding::Brotli, "br"), (Coding::Deflate, "zlib"), (Coding::Deflate, "raw")] {
            // Nothing at all may be packed to one byte that is also text, as `;` is.
            for plain in [&b"a"[..], b"abc", &plain] {
                let bytes = packed(sent, plain).await;
                let head = &bytes[..bytes.len().min(HEAD_BYTES)];
                assert!(is_packed(coding, head).await, "{sent} of {} bytes", plain.len());
                assert!(is_packed(coding, &[&bytes[..], &[0; 9]].concat()).await, "{sent} with padding");
                assert!(!is_packed(coding, &[&bytes[..], b"\xffmore"].concat()).await, "{sent} with more");
            }
        }
    }
}
