//! Messages in the body of a request: found by their heads, kept until they are whole where nobody else counts them, and
//! unpacked here, so that it is known what the gRPC library keeps of them.
//!
//! The library holds on to the one message of a call until its request ends, and to a buffer as large as the largest that a
//! stream has brought. A compressed message may be a thousand times smaller when it arrives.

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tonic::Status;

use crate::api::status::Violations;

/// The bytes before a message: whether it is compressed, and its length.
const HEAD_BYTES: usize = 5;

/// How messages of a request are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Packing {
    /// Takes the header out that says how messages are packed, where it is a way that is undone here: for whoever reads on
    /// they are not packed.
    pub(crate) fn take(headers: &mut HeaderMap) -> Option<Packing> {
        let packing = match headers.get("grpc-encoding")?.as_bytes() {
            b"gzip" => Packing::Gzip,
            b"zstd" => Packing::Zstd,
            _ => return None,
        };
        headers.remove("grpc-encoding");
        Some(packing)
    }

    /// Undoes it, and puts a head before the message.
    fn undo(self, packed: &[u8], bytes_max: usize) -> Result<Bytes, Status> {
        let reader: Box<dyn AsyncRead + Send + Unpin + '_> = match self {
            Packing::Gzip => Box::new(GzipDecoder::new(packed)),
            Packing::Zstd => Box::new(ZstdDecoder::new(packed)),
        };
        let mut whole = BytesMut::with_capacity(HEAD_BYTES + packed.len().saturating_mul(2).min(bytes_max));
        whole.put_bytes(0, HEAD_BYTES);
        let mut reader = reader.take(bytes_max as u64 + 1);
        let read = async {
            while reader.read_buf(&mut whole).await? > 0 {}
            Ok::<(), std::io::Error>(())
        };
        // Memory has no bytes that are still to come, so nothing of this waits.
        let read = read.now_or_never().unwrap_or_else(|| Err(std::io::ErrorKind::WouldBlock.into()));
        // The texts are those of the gRPC library for the same, which are completed on their way out.
        read.map_err(|error| Status::internal(format!("Error decompressing: {error}, while sending request")))?;
        let length = whole.len() - HEAD_BYTES;
        if length > bytes_max {
            let message =
                format!("Error decompressing: size limit, of {bytes_max} bytes, exceeded while decompressing message");
            return Err(Status::resource_exhausted(message));
        }
        whole[1..HEAD_BYTES].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        Ok(whole.freeze())
    }
}

/// Where a body stands within a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Meter {
    /// Bytes that have come of the message that is under way, with its head.
    come: u64,
    /// The first byte of its head.
    flag: u8,
    /// The length that the head says, of which so much is read.
    length: u64,
}

impl Meter {
    /// Takes the next bytes of a body, as far as the head of the message goes, or else the message. Returns how many.
    fn take(&mut self, bytes: &[u8]) -> usize {
        if self.has_head() {
            let missing = HEAD_BYTES as u64 + self.length - self.come;
            let taken = missing.min(bytes.len() as u64);
            self.come += taken;
            return taken as usize;
        }
        let taken = bytes.len().min(HEAD_BYTES - self.come as usize);
        for byte in &bytes[..taken] {
            if self.come == 0 {
                self.flag = *byte;
            } else {
                self.length = self.length << 8 | u64::from(*byte);
            }
            self.come += 1;
        }
        taken
    }

    fn has_head(&self) -> bool {
        self.come >= HEAD_BYTES as u64
    }

    fn is_whole(&self) -> bool {
        self.has_head() && self.come == HEAD_BYTES as u64 + self.length
    }

    /// Returns the bytes that the message under way will have, as far as its head is known.
    ///
    /// One that is longer than any may be announces nothing: the gRPC library refuses it by its head.
    fn announced(&self, message_bytes_max: usize) -> u64 {
        let is_known = self.has_head() && self.length <= message_bytes_max as u64;
        if is_known { HEAD_BYTES as u64 + self.length } else { self.come }
    }
}

/// Takes the bytes of a request and gives them on.
#[derive(Debug)]
pub struct Framing {
    /// Whether there may be more than one message, and answers before the end of the request.
    is_streaming: bool,
    packing: Option<Packing>,
    message_bytes_max: usize,
    meter: Meter,
    /// What has come and was not looked at yet.
    rest: Bytes,
    /// What is kept of the message that is under way.
    kept: BytesMut,
    /// The largest message that was given on.
    largest: u64,
    /// How many messages of a stream have come whole.
    whole: u64,
}

impl Framing {
    /// Begins a request. `is_streaming`: it may have more than one message, and is answered before its end.
    pub fn new(is_streaming: bool, packing: Option<Packing>, message_bytes_max: usize) -> Framing {
        let (meter, rest, kept) = (Meter::default(), Bytes::new(), BytesMut::new());
        Framing { is_streaming, packing, message_bytes_max, meter, rest, kept, largest: 0, whole: 0 }
    }

    /// Takes what has come. There is nothing left of what came before, as [`Framing::give`] has said.
    pub fn take(&mut self, bytes: Bytes) {
        self.rest = bytes;
    }

    /// Returns what can be given on; `None`: more has to come first.
    pub fn give(&mut self) -> Result<Option<Bytes>, Status> {
        while !self.rest.is_empty() {
            if self.meter.is_whole() && !self.is_streaming {
                return Err(one_too_many());
            }
            let had_head = self.meter.has_head();
            let taken = self.meter.take(&self.rest);
            let piece = self.rest.split_to(taken);
            let is_packed = self.meter.flag == 1 && self.packing.is_some();
            let is_kept = self.is_usable() && (is_packed || !self.is_streaming);
            if !had_head || is_kept {
                self.kept.extend_from_slice(&piece);
            }
            if !self.meter.has_head() {
                continue;
            }
            if !had_head && is_kept {
                let announced = self.meter.announced(self.message_bytes_max);
                self.kept.reserve((announced as usize).saturating_sub(self.kept.len()));
            }
            let is_whole = self.meter.is_whole();
            if is_whole && self.is_streaming {
                let meter = std::mem::take(&mut self.meter);
                self.whole += 1;
                if is_packed && is_kept {
                    return self.unpack().map(Some);
                }
                self.largest = self.largest.max(HEAD_BYTES as u64 + meter.length);
            }
            if !is_kept {
                return Ok(Some(if had_head { piece } else { self.unflagged() }));
            }
        }
        Ok(None)
    }

    /// Returns what is given on at the end of the request: its one message, or what has come of one that is not whole.
    pub fn last(&mut self) -> Result<Option<Bytes>, Status> {
        if self.kept.is_empty() {
            return Ok(None);
        }
        if self.meter.is_whole() && self.meter.flag == 1 && self.packing.is_some() {
            return self.unpack().map(Some);
        }
        self.largest = self.largest.max(self.kept.len() as u64);
        Ok(Some(self.unflagged()))
    }

    /// Returns whether nothing is kept here.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty() && self.kept.is_empty()
    }

    /// Returns the number of the message that has begun and is not whole.
    pub fn under_way(&self) -> Option<u64> {
        (self.meter.come > 0 && !self.meter.is_whole()).then_some(self.whole)
    }

    /// Returns whether all that has come is given on, and no message has begun.
    pub fn is_between(&self) -> bool {
        self.is_empty() && self.meter.come == 0
    }

    /// Returns the bytes that the request takes once the message under way has come, and those that it takes now.
    pub fn held(&self) -> (u64, u64) {
        let (announced, kept) = (self.meter.announced(self.message_bytes_max), self.meter.come);
        // What is packed lies beside the buffer for what it becomes, and what is not comes into that buffer.
        if self.kept.len() > HEAD_BYTES {
            (self.largest + announced, self.largest + kept)
        } else {
            (self.largest.max(announced), self.largest.max(kept))
        }
    }

    /// Returns whether the head under way is one of a message. The gRPC library refuses another.
    fn is_usable(&self) -> bool {
        let is_known = self.meter.flag == 0 || self.meter.flag == 1 && self.packing.is_some();
        is_known && self.meter.length <= self.message_bytes_max as u64
    }

    fn unpack(&mut self) -> Result<Bytes, Status> {
        let packed = std::mem::take(&mut self.kept);
        let Some(packing) = self.packing else { return Ok(packed.freeze()) };
        let whole = packing.undo(packed.get(HEAD_BYTES..).unwrap_or_default(), self.message_bytes_max)?;
        self.largest = self.largest.max(whole.len() as u64);
        Ok(whole)
    }

    /// Returns what is kept as a message that is not packed: its reader does not know of any packing.
    fn unflagged(&mut self) -> Bytes {
        if let (Some(_), Some(flag @ 1)) = (self.packing, self.kept.first_mut()) {
            *flag = 0;
        }
        std::mem::take(&mut self.kept).freeze()
    }
}

fn one_too_many() -> Status {
    Violations::one("message", "is followed by more bytes, and the method takes one message; end the request after it")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(length: usize) -> Vec<u8> {
        [&[0][..], &(length as u32).to_be_bytes(), &vec![7; length]].concat()
    }

    /// Takes a body in pieces, and returns what was given on with the most that was held.
    fn given_on(framing: &mut Framing, body: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, u64), Status> {
        let (mut out, mut most, mut at) = (Vec::new(), 0, 0);
        for cut in cuts.iter().cycle() {
            if at == body.len() {
                break;
            }
            let to = (at + cut).min(body.len());
            framing.take(Bytes::copy_from_slice(&body[at..to]));
            at = to;
            while let Some(bytes) = framing.give()? {
                out.extend(bytes);
            }
            most = most.max(framing.held().1);
        }
        Ok((out, most))
    }

    proptest! {
        #[test]
        fn however_it_is_cut_a_stream_is_given_on_as_it_comes(
            lengths in prop::collection::vec(0_usize..600, 0..6),
            cuts in prop::collection::vec(1_usize..200, 1..20),
            missing in 0_usize..300,
        ) {
            let mut body: Vec<u8> = lengths.iter().flat_map(|length| framed(*length)).collect();
            body.truncate(body.len().saturating_sub(missing));
            let mut framing = Framing::new(true, None, 1 << 10);
            let (mut out, most) = given_on(&mut framing, &body, &cuts).unwrap();
            out.extend(framing.last().unwrap().unwrap_or_default());
            prop_assert_eq!(&out, &body);
            let longest = lengths.iter().max().copied().unwrap_or(0);
            prop_assert!(most <= (HEAD_BYTES + longest) as u64);
        }

        #[test]
        fn however_it_is_cut_one_message_is_given_on_at_the_end(
            length in 0_usize..600,
            cuts in prop::collection::vec(1_usize..200, 1..20),
        ) {
            let body = framed(length);
            let mut framing = Framing::new(false, None, 1 << 10);
            let (out, most) = given_on(&mut framing, &body, &cuts).unwrap();
            prop_assert!(out.is_empty() && framing.held().0 == body.len() as u64 && most == body.len() as u64);
            prop_assert_eq!(framing.last().unwrap().unwrap(), &body);
            let more = [body, vec![0; 5]].concat();
            let mut framing = Framing::new(false, None, 1 << 10);
            prop_assert!(given_on(&mut framing, &more, &cuts).is_err());
        }
    }

    #[test]
    fn the_longest_length_does_not_overflow() {
        let mut meter = Meter::default();
        let mut bytes: &[u8] = &[0, 255, 255, 255, 255, 1, 2];
        while !bytes.is_empty() {
            bytes = &bytes[meter.take(bytes)..];
        }
        assert_eq!((meter.come, meter.announced(1 << 24)), (7, 7));
        assert_eq!(meter.announced(usize::MAX), 5 + u64::from(u32::MAX));
    }

    #[test]
    fn what_no_message_can_be_is_given_on_at_once_and_not_held() {
        for (packing, head) in
            [(None, [0, 1, 0, 0, 0]), (None, [1, 0, 0, 0, 9]), (Some(Packing::Gzip), [2, 0, 0, 0, 9])]
        {
            let mut framing = Framing::new(false, packing, 1 << 10);
            let body = [&head[..], &[7; 9]].concat();
            assert_eq!(given_on(&mut framing, &body, &[3]).unwrap().0, body);
            assert!(framing.is_empty());
        }
    }

    #[test]
    fn what_a_packed_message_becomes_is_held() {
        // 64 KiB of zeros, by gzip.
        let packed = {
            use async_compression::tokio::bufread::GzipEncoder;
            let zeros = vec![0; 64 << 10];
            let mut packed = Vec::new();
            GzipEncoder::new(&zeros[..]).read_to_end(&mut packed).now_or_never().unwrap().unwrap();
            packed
        };
        let body = [&[1][..], &(packed.len() as u32).to_be_bytes(), &packed].concat();
        let whole = HEAD_BYTES + (64 << 10);
        let mut stream = Framing::new(true, Some(Packing::Gzip), 1 << 20);
        let (out, most) = given_on(&mut stream, &[body.clone(), framed(10), body.clone()].concat(), &[50]).unwrap();
        assert_eq!(out.len(), whole * 2 + 15);
        assert_eq!(stream.held(), (whole as u64, whole as u64), "as long as the stream is open");
        assert!(most > whole as u64, "the second lies beside it as it comes");
        let mut one = Framing::new(false, Some(Packing::Gzip), 1 << 20);
        given_on(&mut one, &body, &[50]).unwrap();
        assert_eq!(one.last().unwrap().unwrap().len(), whole);
        assert_eq!(one.held().1.max(whole as u64), one.held().1);
        let mut small = Framing::new(true, Some(Packing::Gzip), 1 << 10);
        assert_eq!(given_on(&mut small, &body, &[50]).unwrap_err().code(), tonic::Code::ResourceExhausted);
    }
}
