//! Compressed streams that stand one behind another, with padding behind the last.
//!
//! gzip and zstd may be written in several members, which are one content; brotli and deflate are one stream. Tools that
//! write in blocks fill up the last one with zeros, which gzip(1) passes over too. Anything else behind a member is a member
//! that is broken, or content that was never packed, and is not taken for an end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_compression::tokio::bufread::{BrotliDecoder, DeflateDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use tokio::io::{AsyncBufRead, AsyncRead, BufReader, ReadBuf};
use tokio::task::coop;

/// The window that a zstd content coding may ask a decoder to hold, as a power of 2: 8 MiB (RFC 9659).
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Bytes that are still in a coding.
pub(super) type Reader = Box<dyn AsyncRead + Send + Unpin>;

type Source = BufReader<Reader>;

/// Reads all members, or the one stream of a coding that has no members.
pub(super) struct Members {
    kind: Kind,
    state: State,
}

#[derive(Clone, Copy)]
enum Kind {
    Gzip,
    Zstd,
    Brotli,
    Zlib,
    Deflate,
}

enum State {
    Within(Box<Decoder>),
    /// At the start, or behind a member. `is_last`: no further one may come, because zeros have come or the coding has one alone.
    Between {
        source: Source,
        is_first: bool,
        is_last: bool,
    },
    Ended,
}

enum Decoder {
    Gzip(GzipDecoder<Source>),
    Zstd(ZstdDecoder<Source>),
    Brotli(BrotliDecoder<Source>),
    Zlib(ZlibDecoder<Source>),
    Deflate(DeflateDecoder<Source>),
}

impl Members {
    pub(super) fn gzip(source: Source) -> Members {
        Members::of(Kind::Gzip, source)
    }

    pub(super) fn zstd(source: Source) -> Members {
        Members::of(Kind::Zstd, source)
    }

    pub(super) fn brotli(source: Source) -> Members {
        Members::of(Kind::Brotli, source)
    }

    pub(super) fn zlib(source: Source) -> Members {
        Members::of(Kind::Zlib, source)
    }

    pub(super) fn deflate(source: Source) -> Members {
        Members::of(Kind::Deflate, source)
    }

    fn of(kind: Kind, source: Source) -> Members {
        Members { kind, state: State::Between { source, is_first: true, is_last: false } }
    }
}

impl Kind {
    /// Returns whether several streams one behind another are one content.
    fn has_members(self) -> bool {
        matches!(self, Kind::Gzip | Kind::Zstd)
    }

    fn decoder(self, source: Source) -> Decoder {
        match self {
            Kind::Gzip => Decoder::Gzip(GzipDecoder::new(source)),
            Kind::Zstd => {
                let window = [DParameter::window_log_max(ZSTD_WINDOW_LOG_MAX)];
                Decoder::Zstd(ZstdDecoder::with_params(source, &window))
            }
            Kind::Brotli => Decoder::Brotli(BrotliDecoder::new(source)),
            Kind::Zlib => Decoder::Zlib(ZlibDecoder::new(source)),
            Kind::Deflate => Decoder::Deflate(DeflateDecoder::new(source)),
        }
    }
}

impl Decoder {
    fn into_source(self) -> Source {
        match self {
            Decoder::Gzip(decoder) => decoder.into_inner(),
            Decoder::Zstd(decoder) => decoder.into_inner(),
            Decoder::Brotli(decoder) => decoder.into_inner(),
            Decoder::Zlib(decoder) => decoder.into_inner(),
            Decoder::Deflate(decoder) => decoder.into_inner(),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Decoder::Gzip(decoder) => Pin::new(decoder).poll_read(cx, buf),
            Decoder::Zstd(decoder) => Pin::new(decoder).poll_read(cx, buf),
            Decoder::Brotli(decoder) => Pin::new(decoder).poll_read(cx, buf),
            Decoder::Zlib(decoder) => Pin::new(decoder).poll_read(cx, buf),
            Decoder::Deflate(decoder) => Pin::new(decoder).poll_read(cx, buf),
        }
    }
}

/// Returns how many zeros a buffer begins with.
fn zeros(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len())
}

impl AsyncRead for Members {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            match &mut self.state {
                State::Within(decoder) => {
                    let before = buf.filled().len();
                    ready!(decoder.poll_read(cx, buf))?;
                    if buf.filled().len() > before {
                        return Poll::Ready(Ok(()));
                    }
                    // A member may be empty, and so may be all that follow it.
                    ready!(coop::poll_proceed(cx)).made_progress();
                    let State::Within(decoder) = std::mem::replace(&mut self.state, State::Ended) else { continue };
                    let source = decoder.into_source();
                    self.state = State::Between { source, is_first: false, is_last: !self.kind.has_members() };
                }
                State::Between { source, is_first, is_last } => {
                    let ahead = ready!(Pin::new(&mut *source).poll_fill_buf(cx))?;
                    let padding = if *is_first { 0 } else { zeros(ahead) };
                    let (is_end, is_first) = (ahead.is_empty(), *is_first);
                    if padding > 0 {
                        *is_last = true;
                        Pin::new(source).consume(padding);
                        continue;
                    }
                    if *is_last && !is_end {
                        let error = "there are bytes after its end";
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                    }
                    let State::Between { source, .. } = std::mem::replace(&mut self.state, State::Ended) else {
                        continue;
                    };
                    // Nothing at all is for the decoder to judge, which misses its header.
                    if is_end && !is_first {
                        return Poll::Ready(Ok(()));
                    }
                    self.state = State::Within(Box::new(self.kind.decoder(source)));
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}
