//! Content codings: gzip, br, zstd and deflate, undone while the body streams.
//!
//! How much may come out is for the reader to say: each chunk is small, so whoever counts them stops a bomb in time.

use std::io;

use async_compression::tokio::bufread::{BrotliDecoder, DeflateDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, header};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio_util::io::StreamReader;

use crate::model::failure::{Failure, FailureReason};
use crate::net::{Body, BodySource};

/// What is sent as `Accept-Encoding` by who decodes.
pub const ACCEPT_ENCODING: HeaderValue = HeaderValue::from_static("gzip, br, zstd, deflate");

/// The size of decoded chunks.
const CHUNK_BYTES: usize = 32 << 10;
/// Codings on top of each other; each multiplies what a bomb can do.
const CODINGS_MAX: usize = 3;
/// 8 MiB, the most that a zstd content coding may ask a decoder to hold (RFC 9659).
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

/// The body without its content codings. Unchanged when `headers` name none.
pub fn decode(body: Body, headers: &HeaderMap) -> Result<Body, Failure> {
    let codings = codings(headers)?;
    if codings.is_empty() {
        return Ok(body);
    }
    Ok(Body(Box::new(Decoded::Waiting(Some(body), codings))))
}

/// In the order in which they were applied.
fn codings(headers: &HeaderMap) -> Result<Vec<Coding>, Failure> {
    let fail = |message: String| Failure::fatal(FailureReason::Protocol, message);
    let mut codings = Vec::new();
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let text = value.to_str().map_err(|_| fail("the `Content-Encoding` is not text".into()))?;
        for name in text.split(',').map(|name| name.trim().to_ascii_lowercase()) {
            match name.as_str() {
                "" | "identity" => {}
                "gzip" | "x-gzip" => codings.push(Coding::Gzip),
                "deflate" => codings.push(Coding::Deflate),
                "br" => codings.push(Coding::Brotli),
                "zstd" => codings.push(Coding::Zstd),
                _ => return Err(fail(format!("the body has the content encoding `{name}`, which haul does not know"))),
            }
        }
    }
    if codings.len() > CODINGS_MAX {
        return Err(fail(format!("the body has {} content encodings, and {CODINGS_MAX} are the most", codings.len())));
    }
    Ok(codings)
}

type Reader = Box<dyn AsyncRead + Send + Unpin>;

enum Decoded {
    /// Before the first byte. A body without any is empty, and not a broken one: so are those of answers to HEAD.
    Waiting(Option<Body>, Vec<Coding>),
    Running(Reader),
    Ended,
}

impl BodySource for Decoded {
    fn chunk(&mut self) -> BoxFuture<'_, Option<Result<Bytes, Failure>>> {
        Box::pin(async move {
            let result = self.next().await;
            if !matches!(result, Ok(Some(_))) {
                *self = Decoded::Ended;
            }
            result.transpose()
        })
    }
}

impl Decoded {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        if let Decoded::Waiting(body, codings) = self {
            let Some(mut body) = body.take() else { return Ok(None) };
            let Some(first) = body.chunk().await.transpose()? else { return Ok(None) };
            let mut reader = encoded(first, body);
            for coding in codings.iter().rev() {
                reader = undo(*coding, reader).await.map_err(failure)?;
            }
            *self = Decoded::Running(reader);
        }
        let Decoded::Running(reader) = self else { return Ok(None) };
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        let count = reader.read_buf(&mut chunk).await.map_err(failure)?;
        Ok((count > 0).then(|| chunk.freeze()))
    }
}

/// The body as a reader. Its failures travel as I/O errors, and are unwrapped again by [`failure`].
fn encoded(first: Bytes, body: Body) -> Reader {
    let first = futures_util::stream::iter([Ok(first)]);
    let rest = futures_util::stream::unfold(body, |mut body| async move {
        let chunk = body.chunk().await?;
        Some((chunk.map_err(io::Error::other), body))
    });
    Box::new(StreamReader::new(Box::pin(first.chain(rest))))
}

async fn undo(coding: Coding, reader: Reader) -> io::Result<Reader> {
    let mut reader = BufReader::with_capacity(CHUNK_BYTES, reader);
    Ok(match coding {
        Coding::Gzip => {
            let mut decoder = GzipDecoder::new(reader);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
        Coding::Brotli => Box::new(BrotliDecoder::new(reader)),
        Coding::Zstd => {
            let mut decoder = ZstdDecoder::with_params(reader, &[DParameter::window_log_max(ZSTD_WINDOW_LOG_MAX)]);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
        // By the RFC it is zlib; some origins leave zlib's frame away.
        Coding::Deflate if is_zlib(reader.fill_buf().await?) => Box::new(ZlibDecoder::new(reader)),
        Coding::Deflate => Box::new(DeflateDecoder::new(reader)),
    })
}

/// RFC 1950: method 8, a window of at most 32 KiB, and a check of both bytes.
fn is_zlib(head: &[u8]) -> bool {
    match head {
        [method, flags, ..] => {
            method & 0x0f == 8 && method >> 4 <= 7 && (u16::from(*method) << 8 | u16::from(*flags)) % 31 == 0
        }
        [method] => method & 0x0f == 8,
        [] => false,
    }
}

fn failure(error: io::Error) -> Failure {
    let text = error.to_string();
    // The second is how the zlib decoder words that it has no input left.
    let is_short = error.kind() == io::ErrorKind::UnexpectedEof || text == "unexpected BufError";
    match error.downcast::<Failure>() {
        Ok(failure) => failure,
        _ if is_short => Failure::retryable(
            FailureReason::Truncated,
            "the body ended within its content encoding; the origin sent less than it meant to",
        ),
        _ => Failure::fatal(
            FailureReason::Protocol,
            format!("the body is not what its `Content-Encoding` says it is ({text})"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use async_compression::tokio::bufread::{BrotliEncoder, DeflateEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};

    use super::*;

    struct Chunks(VecDeque<Result<Bytes, Failure>>);

    impl BodySource for Chunks {
        fn chunk(&mut self) -> BoxFuture<'_, Option<Result<Bytes, Failure>>> {
            Box::pin(std::future::ready(self.0.pop_front()))
        }
    }

    async fn run(coding: &str, chunks: Vec<Result<Bytes, Failure>>) -> Result<Vec<u8>, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, coding.parse().unwrap());
        let mut body = decode(Body(Box::new(Chunks(chunks.into()))), &headers)?;
        let mut all = Vec::new();
        while let Some(chunk) = body.chunk().await {
            all.extend_from_slice(&chunk?);
        }
        assert!(body.chunk().await.is_none(), "the end is the end");
        Ok(all)
    }

    async fn encode(coding: &str, plain: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder: Reader = match coding {
            "gzip" => Box::new(GzipEncoder::new(plain.to_vec().leak() as &[u8])),
            "br" => Box::new(BrotliEncoder::new(plain.to_vec().leak() as &[u8])),
            "zstd" => Box::new(ZstdEncoder::new(plain.to_vec().leak() as &[u8])),
            "deflate" => Box::new(ZlibEncoder::new(plain.to_vec().leak() as &[u8])),
            _ => Box::new(DeflateEncoder::new(plain.to_vec().leak() as &[u8])),
        };
        encoder.read_to_end(&mut bytes).await.unwrap();
        bytes
    }

    fn in_pieces(bytes: &[u8], size: usize) -> Vec<Result<Bytes, Failure>> {
        bytes.chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect()
    }

    #[tokio::test]
    async fn every_coding_comes_back_whole_and_is_missed_when_cut() {
        let plain: Vec<u8> = (0..100_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for (coding, sent) in
            [("gzip", "gzip"), ("br", "br"), ("zstd", "zstd"), ("deflate", "deflate"), ("deflate", "raw")]
        {
            let bytes = encode(sent, &plain).await;
            for size in [1, 1000, usize::MAX >> 1] {
                assert_eq!(run(coding, in_pieces(&bytes, size)).await.as_deref(), Ok(&plain[..]), "{sent} by {size}");
            }
            let cut = run(coding, in_pieces(&bytes[..bytes.len() / 2], 1000)).await.unwrap_err();
            assert_eq!((cut.reason, cut.retryable), (FailureReason::Truncated, true), "{sent}: {cut}");
        }
        let twice = encode("br", &encode("gzip", b"abc").await).await;
        assert_eq!(run("gzip, br", in_pieces(&twice, 9)).await.as_deref(), Ok(&b"abc"[..]));
    }

    #[tokio::test]
    async fn what_cannot_be_decoded_says_so() {
        let garbage = || vec![Ok(Bytes::from_static(b"this was never compressed at all"))];
        for coding in ["gzip", "br", "zstd", "deflate"] {
            let failure = run(coding, garbage()).await.unwrap_err();
            assert_eq!(failure.reason, FailureReason::Protocol, "{coding}: {failure}");
        }
        assert_eq!(run("rot13", garbage()).await.unwrap_err().reason, FailureReason::Protocol);
        assert_eq!(run("gzip, gzip, gzip, gzip", garbage()).await.unwrap_err().reason, FailureReason::Protocol);
        assert_eq!(run("gzip", Vec::new()).await, Ok(Vec::new()));
        let lost = Failure::retryable(FailureReason::TimeoutIdle, "late");
        assert_eq!(run("gzip", vec![Ok(Bytes::from_static(b"\x1f")), Err(lost.clone())]).await, Err(lost));
    }
}
