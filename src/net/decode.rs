//! Codings of bodies, undone while the body streams. Which ones, [`coding`](super::coding) says.
//!
//! How much may come out is for the reader to say: each chunk is small, so whoever counts them stops a bomb in time. A
//! body of which nothing comes out, or much of little, gives way to the other tasks of its thread.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader, ReadBuf};
use tokio::task::coop;
use tokio_util::io::StreamReader;

use crate::model::failure::{Failure, FailureReason};
use crate::net::coding::{Coding, transfer_codings};
use crate::net::members::{Members, Reader};
use crate::net::sniff::{HEAD_BYTES, is_packed, is_short, is_zlib};
use crate::net::{Body, BodySource};

/// The size of decoded chunks.
const CHUNK_BYTES: usize = 32 << 10;
/// What tells content in zlib's frame from deflate without it.
const ZLIB_HEADER_BYTES: usize = 2;
/// What a chunk counts as in the turn of its task, which has 128 units: to pack and unpack it costs as much as many reads.
const CHUNK_UNITS: usize = 8;
/// Encoded bytes that may come beyond twice what was made of them: no coding of content makes it so much larger, and what
/// decodes to nothing must end too. Decoders hold back as much as their windows, which have 16 MiB at most.
const SURPLUS_BYTES_MAX: u64 = 32 << 20;

/// How many times its encoded bytes a decoded body may have where nobody asked for the coding: one of more was made to fill
/// the disk. What was asked for is bounded by whoever reads it.
const EXPANSION_MAX: u64 = 1_000;

/// The body without these codings; unchanged when there are none.
pub fn undo(body: Body, codings: Vec<Coding>) -> Body {
    undo_as(body, codings, Origin::Asked)
}

/// As [`undo`], for a body that was asked for without any coding: one that does not begin as its coding does was never
/// packed, and the coding is a label that it was stored with.
pub fn undo_unasked(body: Body, codings: Vec<Coding>) -> Body {
    undo_as(body, codings, Origin::Label)
}

fn undo_as(body: Body, codings: Vec<Coding>, origin: Origin) -> Body {
    if codings.is_empty() { body } else { Body(Box::new(Decoded::Waiting(Some(body), codings, origin))) }
}

/// The body without what `Transfer-Encoding` names beside chunks.
pub(super) fn undo_transfer(body: Body, headers: &HeaderMap) -> Result<Body, Failure> {
    Ok(undo_as(body, transfer_codings(headers)?, Origin::Transfer))
}

/// Why a body has a coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// It was asked for.
    Asked,
    /// It was not, and may be no more than a word about what was stored.
    Label,
    /// It was not, and the body was packed for its way alone.
    Transfer,
}

enum Decoded {
    /// Before the first byte. A body without any is empty, and not a broken one: so are those of answers to HEAD.
    Waiting(Option<Body>, Vec<Coding>, Origin),
    Running(Reader, Arc<Count>, Origin),
    Ended,
}

/// Bytes before and behind the decoder.
#[derive(Default)]
struct Count {
    encoded: AtomicU64,
    decoded: AtomicU64,
}

impl Count {
    /// Takes bytes in, unless they are too many for what came out.
    fn take(&self, chunk: Bytes) -> io::Result<Bytes> {
        let length = chunk.len() as u64;
        let encoded = self.encoded.fetch_add(length, Ordering::Relaxed) + length;
        let decoded = self.decoded.load(Ordering::Relaxed);
        if encoded <= decoded.saturating_mul(2).saturating_add(SURPLUS_BYTES_MAX) {
            return Ok(chunk);
        }
        let message =
            format!("{encoded} encoded bytes make no more than {decoded}; the origin sends padding without end");
        Err(io::Error::other(Failure::fatal(FailureReason::TooLarge, message)))
    }

    /// Counts bytes that came out, unless they are too many for what was taken in.
    fn give(&self, count: usize, origin: Origin) -> Result<(), Failure> {
        let decoded = self.decoded.fetch_add(count as u64, Ordering::Relaxed) + count as u64;
        let encoded = self.encoded.load(Ordering::Relaxed);
        if origin == Origin::Asked || decoded <= encoded.saturating_mul(EXPANSION_MAX) {
            return Ok(());
        }
        let message = format!("{encoded} encoded bytes became more than {EXPANSION_MAX} times as many when decoded");
        Err(Failure::fatal(FailureReason::TooLarge, message))
    }
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
        if let Decoded::Waiting(body, codings, origin) = self {
            let origin = *origin;
            let Some(mut body) = body.take() else { return Ok(None) };
            let Some(first) = body.chunk().await.transpose()? else { return Ok(None) };
            let count = Arc::<Count>::default();
            let mut reader = encoded(first, body, &count);
            for coding in codings.iter().rev() {
                reader = stage(*coding, reader, origin == Origin::Label).await.map_err(failure)?;
            }
            *self = Decoded::Running(reader, count, origin);
        }
        let Decoded::Running(reader, all, origin) = self else { return Ok(None) };
        for _ in 0..CHUNK_UNITS {
            coop::consume_budget().await;
        }
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        let count = reader.read_buf(&mut chunk).await.map_err(failure)?;
        all.give(count, *origin)?;
        Ok((count > 0).then(|| chunk.freeze()))
    }
}

/// The body as a reader. Its failures travel as I/O errors, and are unwrapped again by [`failure`].
fn encoded(first: Bytes, body: Body, count: &Arc<Count>) -> Reader {
    let (first, count) = (futures_util::stream::iter([count.take(first)]), Arc::clone(count));
    let rest = futures_util::stream::unfold((body, count), |(mut body, count)| async move {
        let chunk = body.chunk().await?.map_err(io::Error::other).and_then(|chunk| count.take(chunk));
        Some((chunk, (body, count)))
    });
    Box::new(StreamReader::new(Box::pin(first.chain(rest))))
}

/// What goes into a decoder. Each read counts as work of its task: it may come from memory, and give nothing.
struct Polite(Reader);

impl AsyncRead for Polite {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(coop::poll_proceed(cx)).made_progress();
        let poll = Pin::new(&mut self.0).poll_read(cx, buf);
        if poll.is_ready() {
            // What is left of the turn may be less: it ends all the same.
            for _ in 1..CHUNK_UNITS {
                let Poll::Ready(progress) = coop::poll_proceed(cx) else { break };
                progress.made_progress();
            }
        }
        poll
    }
}

async fn stage(coding: Coding, reader: Reader, may_be_label: bool) -> io::Result<Reader> {
    let mut reader: Reader = Box::new(Polite(reader));
    let head = head(&mut reader, if may_be_label { HEAD_BYTES } else { ZLIB_HEADER_BYTES }).await?;
    let (is_packed, is_zlib) = (!may_be_label || is_packed(coding, &head).await, is_zlib(&head));
    let reader: Reader = Box::new(io::Cursor::new(head).chain(reader));
    if !is_packed {
        return Ok(reader);
    }
    let reader = BufReader::with_capacity(CHUNK_BYTES, reader);
    Ok(Box::new(match coding {
        Coding::Gzip => Members::gzip(reader),
        Coding::Brotli => Members::brotli(reader),
        Coding::Zstd => Members::zstd(reader),
        // By the RFC it is zlib; some origins leave zlib's frame away.
        Coding::Deflate if is_zlib => Members::zlib(reader),
        Coding::Deflate => Members::deflate(reader),
    }))
}

/// Reads so many bytes, or all there are. One read would not do: the first packet may bring a single byte.
async fn head(reader: &mut Reader, least: usize) -> io::Result<BytesMut> {
    let mut head = BytesMut::with_capacity(least);
    while head.len() < least && reader.read_buf(&mut head).await? > 0 {}
    Ok(head)
}

fn failure(error: io::Error) -> Failure {
    let (text, is_short) = (error.to_string(), is_short(&error));
    match error.downcast::<Failure>() {
        Ok(failure) => failure,
        _ if is_short => Failure::retryable(
            FailureReason::Truncated,
            "the body ended within its content encoding; the origin sent less than it meant to",
        ),
        _ => Failure::fatal(
            FailureReason::Protocol,
            format!("the body is not in the coding that its headers name ({text})"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use async_compression::tokio::bufread::{BrotliEncoder, DeflateEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
    use http::header;

    use super::*;
    use crate::net::coding::codings;

    struct Chunks(VecDeque<Result<Bytes, Failure>>);

    impl BodySource for Chunks {
        fn chunk(&mut self) -> BoxFuture<'_, Option<Result<Bytes, Failure>>> {
            Box::pin(std::future::ready(self.0.pop_front()))
        }
    }

    async fn run(coding: &str, chunks: Vec<Result<Bytes, Failure>>) -> Result<Vec<u8>, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, coding.parse().unwrap());
        let mut body = undo(Body(Box::new(Chunks(chunks.into()))), codings(&headers)?);
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
        assert_eq!(run("gzip, gzip, gzip, gzip", garbage()).await.unwrap_err().reason, FailureReason::Protocol);
        assert_eq!(run("gzip", Vec::new()).await, Ok(Vec::new()));
        let lost = Failure::retryable(FailureReason::TimeoutIdle, "late");
        assert_eq!(run("gzip", vec![Ok(Bytes::from_static(b"\x1f")), Err(lost.clone())]).await, Err(lost));
    }

    #[tokio::test]
    async fn what_was_never_packed_is_kept_where_no_coding_was_asked_for() {
        let (gzip, zstd) = (encode("gzip", b"abc").await, encode("zstd", b"abc").await);
        let (brotli, deflate, zlib) =
            (encode("br", b"abc").await, encode("raw", b"abc").await, encode("deflate", b"abc").await);
        let skipped = [&[0x5a, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 7], &zstd[..]].concat();
        for (codings, sent, plain) in [
            (vec![Coding::Gzip], &b"plain"[..], &b"plain"[..]),
            (vec![Coding::Zstd], b"plain", b"plain"),
            (vec![Coding::Gzip, Coding::Gzip], &gzip, b"abc"),
            (vec![Coding::Zstd], &zstd, b"abc"),
            (vec![Coding::Zstd], &skipped, b"abc"),
            (vec![Coding::Brotli], b"plain text that nobody has packed", b"plain text that nobody has packed"),
            (vec![Coding::Deflate], b"plain text that nobody has packed", b"plain text that nobody has packed"),
            (vec![Coding::Brotli], &brotli, b"abc"),
            (vec![Coding::Deflate], &deflate, b"abc"),
            (vec![Coding::Deflate], &zlib, b"abc"),
            (vec![Coding::Deflate], b"{\n  \"a\": 1\n}\n", b"{\n  \"a\": 1\n}\n"),
            (vec![Coding::Brotli], b"3,4,5\n", b"3,4,5\n"),
        ] {
            for size in [1, 20, 1000] {
                let mut body = undo_unasked(Body(Box::new(Chunks(in_pieces(sent, size).into()))), codings.clone());
                let mut all = Vec::new();
                while let Some(chunk) = body.chunk().await {
                    all.extend_from_slice(&chunk.unwrap());
                }
                assert_eq!(all, plain, "{codings:?} by {size}");
            }
        }
    }

    #[tokio::test]
    async fn an_unknown_coding_is_a_label() {
        for label in ["bzip2", "x-bzip2", "aws-chunked", "UTF-8", "none", "zip", "", "compress", "identity", "a, b"] {
            assert_eq!(
                run(label, vec![Ok(Bytes::from_static(b"as it came"))]).await.as_deref(),
                Ok(&b"as it came"[..])
            );
        }
        let packed = encode("gzip", b"abc").await;
        assert_eq!(run("GZIP, aws-chunked", in_pieces(&packed, 9)).await.as_deref(), Ok(&b"abc"[..]));
    }

    #[tokio::test]
    async fn a_transfer_coding_is_undone_or_refused() {
        let packed = encode("gzip", b"abc").await;
        let run = async |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::TRANSFER_ENCODING, value.parse().unwrap());
            let mut body = undo_transfer(Body(Box::new(Chunks(in_pieces(&packed, 9).into()))), &headers)?;
            let mut all = Vec::new();
            while let Some(chunk) = body.chunk().await {
                all.extend_from_slice(&chunk?);
            }
            Ok::<_, Failure>(all)
        };
        assert_eq!(run("gzip, chunked").await.as_deref(), Ok(&b"abc"[..]));
        assert_eq!(run("gzip").await.as_deref(), Ok(&b"abc"[..]));
        assert_eq!(run("chunked").await.as_ref(), Ok(&packed));
        assert_eq!(run("chunked, Chunked").await.as_ref(), Ok(&packed));
        for bad in ["compress, chunked", "chunked, gzip", "x, chunked"] {
            assert_eq!(run(bad).await.unwrap_err().reason, FailureReason::Protocol, "{bad}");
        }
    }

    #[tokio::test]
    async fn what_nothing_comes_out_of_gives_way_to_others() {
        let members = encode("gzip", b"").await.repeat(2_000);
        let large = encode("gzip", &vec![0; 8 << 20]).await;
        for (what, sent, length) in [("members", members, 0), ("zeros", large, 8 << 20)] {
            let mut turns = 0;
            let mut run = std::pin::pin!(run("gzip", in_pieces(&sent, 1 << 20)));
            let end = std::future::poll_fn(|cx| {
                turns += 1;
                run.as_mut().poll(cx)
            });
            assert_eq!(end.await.unwrap().len(), length, "{what}");
            // It is polled anew only after it gave way.
            assert!(turns > 1, "{what} hold their thread");
        }
    }

    #[tokio::test]
    async fn padding_ends() {
        let padded = [&encode("gzip", b"abc").await[..], &vec![0; 33 << 20]].concat();
        let failure = run("gzip", in_pieces(&padded, 1 << 20)).await.unwrap_err();
        assert_eq!((failure.reason, failure.retryable), (FailureReason::TooLarge, false), "{failure}");
    }

    #[tokio::test]
    async fn members_and_padding_are_read_to_their_end() {
        for coding in ["br", "deflate", "raw"] {
            let named = if coding == "raw" { "deflate" } else { coding };
            let one = encode(coding, b"one").await;
            for size in [1, 1000] {
                let padded = [&one[..], &[0; 700]].concat();
                assert_eq!(run(named, in_pieces(&padded, size)).await.as_deref(), Ok(&b"one"[..]), "{coding}");
                let twice = [&one[..], &one].concat();
                assert_eq!(run(named, in_pieces(&twice, size)).await.unwrap_err().reason, FailureReason::Protocol);
            }
        }
        for coding in ["gzip", "zstd"] {
            let (one, two) = (encode(coding, b"one").await, encode(coding, b"two").await);
            for size in [1, 1000] {
                let padded = [&one[..], &two, &[0; 700]].concat();
                assert_eq!(run(coding, in_pieces(&padded, size)).await.as_deref(), Ok(&b"onetwo"[..]), "{coding}");
                let dirty = [&one[..], &[0; 7], b"x"].concat();
                assert_eq!(run(coding, in_pieces(&dirty, size)).await.unwrap_err().reason, FailureReason::Protocol);
                let cut = [&one[..], &two[..5]].concat();
                assert_eq!(run(coding, in_pieces(&cut, size)).await.unwrap_err().reason, FailureReason::Truncated);
            }
        }
    }
}
