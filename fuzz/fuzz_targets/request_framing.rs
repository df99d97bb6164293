//! However a request is cut, the same bytes are given on, none of them is lost, and no more is held than one message may have.
#![no_main]

use bytes::Bytes;
use haul::api::framing::{Framing, Packing};
use libfuzzer_sys::fuzz_target;

const HEAD_BYTES: usize = 5;

/// A message as a client sends it: with any flag, in any packing, and with a head that may lie.
type Sent<'a> = (u8, Option<u32>, bool, &'a [u8]);

fuzz_target!(|input: (bool, u8, u16, Vec<Sent>, &[u8], Vec<u16>)| {
    let (is_streaming, packing, bytes_max, messages, tail, cuts) = input;
    let (packing, bytes_max) = ([None, Some(Packing::Gzip), Some(Packing::Zstd)][usize::from(packing % 3)], usize::from(bytes_max));
    let mut body = Vec::new();
    for (flag, lie, is_packed, plain) in &messages {
        let payload = if *is_packed { gzip(plain) } else { plain.to_vec() };
        body.push(flag % 4);
        body.extend(lie.unwrap_or(payload.len() as u32).to_be_bytes());
        body.extend(payload);
    }
    body.extend(tail);

    let framing = || Framing::new(is_streaming, packing, bytes_max);
    let whole = given_on(framing(), &body, &[body.len()], bytes_max);
    let cut = given_on(framing(), &body, &cuts.iter().map(|it| usize::from(*it)).collect::<Vec<_>>(), bytes_max);
    assert_eq!(whole, cut, "the same however it is cut");
    if packing.is_none() && (is_streaming || whole.is_ok()) {
        assert_eq!(whole.as_deref(), Ok(&body[..]), "nothing is lost or changed");
    }
    // Whoever reads on knows of no packing: messages that the library takes are not packed, and none is too long.
    if let (Some(_), Ok(given)) = (packing, &whole) {
        let mut rest = &given[..];
        while let Some((head, behind)) = rest.split_first_chunk::<HEAD_BYTES>() {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            if head[0] > 1 || length > bytes_max || length > behind.len() {
                break;
            }
            assert_eq!(head[0], 0, "{head:?} of {body:?}");
            rest = &behind[length..];
        }
    }
});

/// Takes a body in pieces and returns all that is given on, or the code that it is refused with.
fn given_on(mut framing: Framing, body: &[u8], cuts: &[usize], bytes_max: usize) -> Result<Vec<u8>, i32> {
    let (mut given, mut at) = (Vec::new(), 0);
    let mut cuts = cuts.iter().cycle();
    while at < body.len() {
        let cut = cuts.next().map_or(1, |it| (*it).max(1));
        let to = (at + cut).min(body.len());
        framing.take(Bytes::copy_from_slice(&body[at..to]));
        at = to;
        while let Some(bytes) = framing.give().map_err(|status| status.code() as i32)? {
            given.extend(bytes);
        }
        // A message as it comes, beside the largest that came before. One that is too long is given on and not kept.
        let (announced, held) = framing.held();
        let most = 2 * (HEAD_BYTES + bytes_max).max(body.len()) as u64;
        assert!(held <= most && announced <= most, "{held} and {announced}, and {most} is the most");
        assert!(!framing.is_between() || framing.under_way().is_none());
    }
    given.extend(framing.last().map_err(|status| status.code() as i32)?.unwrap_or_default());
    assert!(framing.is_empty());
    Ok(given)
}

/// Packs by RFC 1952, without making anything shorter.
fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    for block in plain.chunks(usize::from(u16::MAX)) {
        let length = block.len() as u16;
        packed.push(0);
        packed.extend([length.to_le_bytes(), (!length).to_le_bytes()].concat());
        packed.extend(block);
    }
    // An empty block is the last one.
    packed.extend([1, 0, 0, 255, 255]);
    let sum = !plain.iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| sum >> 1 ^ (sum & 1) * 0xedb8_8320)
    });
    packed.extend(sum.to_le_bytes());
    packed.extend((plain.len() as u32).to_le_bytes());
    packed
}
