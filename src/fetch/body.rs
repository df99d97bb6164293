//! Reading a response's body: counted, decoded, limited, and out of memory when it is large.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};

use crate::fetch::{FetchedBody, INLINE_BYTES_MAX, Sink};
use crate::model::credential::echo::Echo;
use crate::model::failure::{Failure, FailureReason};
use crate::model::progress::Meter;
use crate::net::{Body, BodySource, coding, decode, range, watched};

/// The body of a response as the fetch sees it: decoded, with at most `bytes_max` of it.
pub(super) struct Content {
    body: Body,
    /// Whether codings are undone.
    is_encoded: bool,
    bytes_max: u64,
    bytes: u64,
    /// How many bytes its head says that there are, where its framing does not.
    bytes_due: Option<u64>,
}

impl Content {
    /// `announced` is what the origin says that the body has: where that is too much already, it fails at once.
    pub(super) fn new(
        body: Body,
        status: StatusCode,
        headers: &HeaderMap,
        announced: Option<u64>,
        bytes_max: u64,
        meter: &Arc<Meter>,
    ) -> Result<Content, Failure> {
        let codings = coding::codings(headers)?;
        if codings.is_empty() && announced.is_some_and(|length| length > bytes_max) {
            return Err(too_large(bytes_max));
        }
        let is_told = announced.is_some() || !codings.is_empty();
        let bytes_due = if is_told { None } else { range::whole_length(status, headers) };
        let counted = Body(Box::new(Counted { body, meter: Arc::clone(meter) }));
        let is_encoded = !codings.is_empty();
        Ok(Content { body: decode::undo(counted, codings), is_encoded, bytes_max, bytes: 0, bytes_due })
    }

    /// The same, which ends at the secret.
    pub(super) fn watched(self, echo: &Arc<Echo>) -> Content {
        // What is not encoded the transport has looked at.
        if self.is_encoded { Content { body: watched(self.body, echo), ..self } } else { self }
    }

    async fn chunk(&mut self) -> Option<Result<Bytes, Failure>> {
        let Some(chunk) = self.body.chunk().await else {
            let due = self.bytes_due.take().filter(|due| *due != self.bytes)?;
            return Some(Err(other_length(self.bytes, due)));
        };
        if let Ok(chunk) = &chunk {
            self.bytes += chunk.len() as u64;
            if self.bytes > self.bytes_max {
                return Some(Err(too_large(self.bytes_max)));
            }
        }
        Some(chunk)
    }

    /// All of it, in memory.
    pub(super) async fn whole(mut self) -> Result<Bytes, Failure> {
        let Some(first) = self.chunk().await.transpose()? else { return Ok(Bytes::new()) };
        let Some(second) = self.chunk().await.transpose()? else { return Ok(first) };
        let mut all = BytesMut::with_capacity(first.len() + second.len());
        all.extend_from_slice(&first);
        all.extend_from_slice(&second);
        while let Some(chunk) = self.chunk().await {
            all.extend_from_slice(&chunk?);
        }
        Ok(all.freeze())
    }

    /// In memory while it is small, and through the sink's spool when it is not.
    pub(super) async fn kept(mut self, sink: &dyn Sink) -> Result<FetchedBody, Failure> {
        let Some(first) = self.chunk().await.transpose()? else { return Ok(FetchedBody::Inline(Bytes::new())) };
        // Copied together: a chunk of one byte may hold a whole buffer, and there may be a chunk for each byte.
        let mut more = BytesMut::new();
        while self.bytes <= INLINE_BYTES_MAX as u64 {
            match self.chunk().await.transpose()? {
                Some(chunk) if more.is_empty() => {
                    more.reserve(first.len() + chunk.len());
                    more.extend_from_slice(&first);
                    more.extend_from_slice(&chunk);
                }
                Some(chunk) => more.extend_from_slice(&chunk),
                None if more.is_empty() => return Ok(FetchedBody::Inline(first)),
                None => return Ok(FetchedBody::Inline(more.freeze())),
            }
        }
        let mut spool = sink.spool().await?;
        spool.write(if more.is_empty() { first } else { more.freeze() }).await?;
        while let Some(chunk) = self.chunk().await {
            spool.write(chunk?).await?;
        }
        Ok(FetchedBody::Spooled { name: spool.finish().await?, bytes: self.bytes })
    }
}

/// Bytes that are in memory already, kept by the same rule.
pub(super) async fn keep(bytes: Bytes, sink: &dyn Sink) -> Result<FetchedBody, Failure> {
    if bytes.len() <= INLINE_BYTES_MAX {
        return Ok(FetchedBody::Inline(bytes));
    }
    let count = bytes.len() as u64;
    let mut spool = sink.spool().await?;
    spool.write(bytes).await?;
    Ok(FetchedBody::Spooled { name: spool.finish().await?, bytes: count })
}

fn too_large(bytes_max: u64) -> Failure {
    let message = format!("the body is larger than {bytes_max} bytes; raise `max_response_bytes` or ask for less");
    Failure::fatal(FailureReason::TooLarge, message)
}

fn other_length(bytes: u64, due: u64) -> Failure {
    let message = format!("the body has {bytes} bytes, where its `Content-Range` says that there are {due}");
    Failure::retryable(if bytes < due { FailureReason::Truncated } else { FailureReason::Protocol }, message)
}

/// Tells the meter what comes from the network, before it is decoded.
struct Counted {
    body: Body,
    meter: Arc<Meter>,
}

impl BodySource for Counted {
    fn chunk(&mut self) -> BoxFuture<'_, Option<Result<Bytes, Failure>>> {
        Box::pin(async move {
            let chunk = self.body.chunk().await;
            if let Some(Ok(chunk)) = &chunk {
                self.meter.received(chunk.len() as u64);
            }
            chunk
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::{Page, Spool};

    /// A buffer of which a chunk is one byte.
    struct Buffer {
        _held: Arc<()>,
    }

    impl AsRef<[u8]> for Buffer {
        fn as_ref(&self) -> &[u8] {
            b"x"
        }
    }

    /// So many chunks of a byte each, and the most buffers that were there at once.
    struct Bytewise {
        left: u32,
        buffers: Arc<()>,
        most: Arc<std::sync::atomic::AtomicUsize>,
    }

    impl BodySource for Bytewise {
        fn chunk(&mut self) -> BoxFuture<'_, Option<Result<Bytes, Failure>>> {
            let more = self.left > 0;
            self.left = self.left.saturating_sub(1);
            let chunk = more.then(|| Ok(Bytes::from_owner(Buffer { _held: Arc::clone(&self.buffers) })));
            self.most.fetch_max(Arc::strong_count(&self.buffers), std::sync::atomic::Ordering::SeqCst);
            Box::pin(std::future::ready(chunk))
        }
    }

    struct Nowhere;

    impl Sink for Nowhere {
        fn spool(&self) -> BoxFuture<'_, Result<Box<dyn Spool>, Failure>> {
            Box::pin(std::future::ready(Err(Failure::fatal(FailureReason::Io, "no spool"))))
        }

        fn page(&self, _: Page) -> BoxFuture<'_, Result<(), Failure>> {
            Box::pin(std::future::ready(Ok(())))
        }
    }

    #[tokio::test]
    async fn a_body_that_comes_byte_by_byte_does_not_keep_a_buffer_for_each() {
        let (buffers, most) = (Arc::default(), Arc::<std::sync::atomic::AtomicUsize>::default());
        let body = Body(Box::new(Bytewise { left: 5_000, buffers, most: Arc::clone(&most) }));
        let meter = Arc::default();
        let content = Content::new(body, StatusCode::OK, &HeaderMap::new(), None, 1 << 20, &meter).unwrap();
        let kept = content.kept(&Nowhere).await.unwrap();
        assert!(matches!(kept, FetchedBody::Inline(bytes) if bytes.len() == 5_000));
        assert!(most.load(std::sync::atomic::Ordering::SeqCst) < 10);
    }
}
