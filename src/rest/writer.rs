//! Writes messages as JSON from their encoded bytes: nothing stands between the two, so an answer costs one pass over it.
//!
//! What is written is what [`prost_reflect`] writes of the same message, in the same order: each field without presence, and of
//! the others those that are there.

use base64::display::Base64Display;
use base64::prelude::BASE64_STANDARD;
use bytes::Buf as _;
use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::rest::shapes::{FieldShape, Occurs, Shape, Shapes, Value};

/// The deepest message within messages that is written, as the library reads them.
const DEPTH_MAX: u32 = 100;
/// The times that JSON can have: years 1 to 9999, in seconds since the epoch.
const TIMES: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
/// The longest duration that JSON can have, in seconds, and the longest rest of one in nanoseconds.
const DURATION_MAX: (u64, u32) = (315_576_000_000, 999_999_999);

/// Why a message cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unwritable {
    /// It is no message of its type.
    #[error("it is not encoded as its type is")]
    Malformed,
    /// It holds a time that JSON does not have.
    #[error("a time is out of range")]
    OutOfRange,
    /// A message is within too many others.
    #[error("it is nested too deeply")]
    TooDeep,
}

/// What is encoded of a field at one place.
#[derive(Clone, Copy, Debug)]
enum Raw<'a> {
    /// A number of any kind, as bits.
    Bits(u64),
    /// A text, bytes, a message, or several numbers that are packed.
    Bytes(&'a [u8]),
}

/// Writes a message of the shape at `place`.
pub(crate) fn write(shapes: &Shapes, place: usize, message: &[u8], out: &mut Vec<u8>) -> Result<(), Unwritable> {
    Writer { shapes, found: Vec::with_capacity(64) }.message(place, message, out, DEPTH_MAX)
}

/// Looks at what a message of a watch is about.
pub(crate) fn look<'s>(shapes: &'s Shapes, place: usize, message: &[u8]) -> Result<Look<'s>, Unwritable> {
    let mut look = Look::default();
    let mut found = Vec::new();
    let shape = shapes.at(place);
    find(shape, message, &mut found)?;
    for (at, raw) in found {
        let field = &shape.fields[at];
        match raw {
            Raw::Bits(bits) if matches!(&*field.name, "sequence" | "item_index") => look.sequence = bits,
            Raw::Bits(bits) if field.name == "last_part" => look.ends_item = bits != 0,
            Raw::Bytes(_) if field.is_event => look.event = Some(&field.name),
            _ => {}
        }
    }
    Ok(look)
}

/// What is known of a message of a watch without reading what is in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Look<'s> {
    /// The name of the event.
    pub(crate) event: Option<&'s str>,
    /// The number of the last event, or of the item; 0 where the message has none.
    pub(crate) sequence: u64,
    /// Whether a client that has this message has a whole item.
    pub(crate) ends_item: bool,
}

/// Reads the next number of a wire type.
fn bits(wire: WireType, bytes: &mut &[u8]) -> Result<u64, Unwritable> {
    match wire {
        WireType::Varint => decode_varint(bytes).map_err(|_| Unwritable::Malformed),
        WireType::SixtyFourBit => bytes.try_get_u64_le().map_err(|_| Unwritable::Malformed),
        WireType::ThirtyTwoBit => bytes.try_get_u32_le().map(u64::from).map_err(|_| Unwritable::Malformed),
        WireType::LengthDelimited | WireType::StartGroup | WireType::EndGroup => Err(Unwritable::Malformed),
    }
}

/// Finds what is encoded of the fields of a message, and adds it in the order of the fields. Unknown fields are left out.
fn find<'a>(shape: &Shape, mut bytes: &'a [u8], found: &mut Vec<(usize, Raw<'a>)>) -> Result<(), Unwritable> {
    let base = found.len();
    let (mut next, mut is_sorted) = (0, true);
    while !bytes.is_empty() {
        let (number, wire) = decode_key(&mut bytes).map_err(|_| Unwritable::Malformed)?;
        // Mostly fields come in their order.
        let known = match shape.fields.get(next).filter(|field| field.number == number) {
            Some(_) => Ok(next),
            None => shape.fields.binary_search_by_key(&number, |field| field.number),
        };
        let Ok(at) = known else {
            skip_field(wire, number, &mut bytes, DecodeContext::default()).map_err(|_| Unwritable::Malformed)?;
            continue;
        };
        let field = &shape.fields[at];
        let raw = if wire == WireType::LengthDelimited {
            let length = decode_varint(&mut bytes).ok().and_then(|length| usize::try_from(length).ok());
            let content = length.and_then(|length| bytes.split_off(..length)).ok_or(Unwritable::Malformed)?;
            Raw::Bytes(content)
        } else {
            Raw::Bits(bits(wire, &mut bytes)?)
        };
        let is_packed = field.occurs == Occurs::List && wire == WireType::LengthDelimited;
        if field.wire != wire && !is_packed {
            return Err(Unwritable::Malformed);
        }
        is_sorted &= found.len() == base || found[found.len() - 1].0 <= at;
        found.push((at, raw));
        next = if matches!(field.occurs, Occurs::List | Occurs::Map) { at } else { at + 1 };
    }
    if !is_sorted {
        found[base..].sort_by_key(|(at, _)| *at);
    }
    Ok(())
}

struct Writer<'s, 'a> {
    shapes: &'s Shapes,
    /// What was found of the messages that are being written, each within the one before it.
    found: Vec<(usize, Raw<'a>)>,
}

impl<'a> Writer<'_, 'a> {
    fn message(&mut self, place: usize, bytes: &'a [u8], out: &mut Vec<u8>, depth: u32) -> Result<(), Unwritable> {
        let depth = depth.checked_sub(1).ok_or(Unwritable::TooDeep)?;
        let shape = self.shapes.at(place);
        let base = self.found.len();
        find(shape, bytes, &mut self.found)?;
        let end = self.found.len();
        let mut from = base;
        out.push(b'{');
        let mut is_first = true;
        for (at, field) in shape.fields.iter().enumerate() {
            let mut upto = from;
            while upto < end && self.found[upto].0 == at {
                upto += 1;
            }
            let range = std::mem::replace(&mut from, upto)..upto;
            if range.is_empty() && field.occurs == Occurs::OrNot {
                continue;
            }
            if !std::mem::take(&mut is_first) {
                out.push(b',');
            }
            out.extend_from_slice(field.key.as_bytes());
            self.field(field, range, out, depth)?;
        }
        out.push(b'}');
        self.found.truncate(base);
        Ok(())
    }

    /// Writes the value of a field that was found at these places.
    fn field(
        &mut self,
        field: &FieldShape,
        range: std::ops::Range<usize>,
        out: &mut Vec<u8>,
        depth: u32,
    ) -> Result<(), Unwritable> {
        match field.occurs {
            Occurs::OrDefault | Occurs::OrNot => match (&field.value, range.len()) {
                (Value::Message(place), 2..) => {
                    // A message that comes in pieces is what the pieces are one after the other.
                    let pieces: Vec<u8> =
                        self.found[range].iter().flat_map(|(_, raw)| raw.content()).copied().collect();
                    Writer { shapes: self.shapes, found: Vec::new() }.message(*place, &pieces, out, depth)
                }
                (value, 0) => self.value(value, None, out, depth),
                (value, _) => self.value(value, Some(self.found[range.end - 1].1), out, depth),
            },
            Occurs::List => {
                out.push(b'[');
                let mut is_first = true;
                for at in range {
                    let raw = self.found[at].1;
                    let is_packed = field.wire != WireType::LengthDelimited;
                    if let (Raw::Bytes(mut packed), true) = (raw, is_packed) {
                        while !packed.is_empty() {
                            let one = Raw::Bits(bits(field.wire, &mut packed)?);
                            comma(&mut is_first, out);
                            self.value(&field.value, Some(one), out, depth)?;
                        }
                    } else {
                        comma(&mut is_first, out);
                        self.value(&field.value, Some(raw), out, depth)?;
                    }
                }
                out.push(b']');
                Ok(())
            }
            Occurs::Map => {
                out.push(b'{');
                let mut is_first = true;
                for at in range {
                    comma(&mut is_first, out);
                    self.entry(&field.value, self.found[at].1, out, depth)?;
                }
                out.push(b'}');
                Ok(())
            }
        }
    }

    /// Writes an entry of a map, which is a message of a key and a value.
    fn entry(&mut self, value: &Value, raw: Raw<'a>, out: &mut Vec<u8>, depth: u32) -> Result<(), Unwritable> {
        let Value::Message(place) = value else { return Err(Unwritable::Malformed) };
        let [key, value] = &self.shapes.at(*place).fields[..] else { return Err(Unwritable::Malformed) };
        let base = self.found.len();
        find(self.shapes.at(*place), raw.content(), &mut self.found)?;
        let last = |found: &[(usize, Raw<'a>)], wanted| {
            found[base..].iter().rev().find(|(at, _)| *at == wanted).map(|(_, raw)| *raw)
        };
        let (raw_key, raw_value) = (last(&self.found, 0), last(&self.found, 1));
        self.found.truncate(base);
        let begun = out.len();
        self.value(&key.value, raw_key, out, depth)?;
        if out.get(begun) != Some(&b'"') {
            // Keys of JSON are texts.
            out.insert(begun, b'"');
            out.push(b'"');
        }
        out.push(b':');
        self.value(&value.value, raw_value, out, depth)
    }

    /// Writes one value; `None`: its default.
    fn value(&mut self, value: &Value, raw: Option<Raw<'a>>, out: &mut Vec<u8>, depth: u32) -> Result<(), Unwritable> {
        let bits = raw.map_or(0, Raw::bits);
        let content = raw.map_or(&[][..], |raw| raw.content());
        match value {
            Value::Bool => out.extend_from_slice(if bits == 0 { b"false" } else { b"true" }),
            // A negative number of 32 bits is encoded with 64.
            Value::Int32 => json(out, &(bits as i32)),
            Value::Sint32 => json(out, &(unzigzag(bits) as i32)),
            Value::Uint32 => json(out, &(bits as u32)),
            Value::Int64 => quoted(out, |out| json(out, &(bits as i64))),
            Value::Sint64 => quoted(out, |out| json(out, &unzigzag(bits))),
            Value::Uint64 => quoted(out, |out| json(out, &bits)),
            Value::Float => match f32::from_bits(bits as u32) {
                number if number.is_finite() => json(out, &number),
                number => not_finite(number.into(), out),
            },
            Value::Double => match f64::from_bits(bits) {
                number if number.is_finite() => json(out, &number),
                number => not_finite(number, out),
            },
            Value::Text => json(out, std::str::from_utf8(content).map_err(|_| Unwritable::Malformed)?),
            Value::Bytes => quoted(out, |out| display(out, &Base64Display::new(content, &BASE64_STANDARD))),
            Value::Enum(names) => {
                let number = bits as i32;
                match names.binary_search_by_key(&number, |(number, _)| *number) {
                    Ok(at) => out.extend_from_slice(names[at].1.as_bytes()),
                    Err(_) => json(out, &number),
                }
            }
            Value::Timestamp => {
                let time = prost_types::Timestamp::decode(content).map_err(|_| Unwritable::Malformed)?;
                if !TIMES.contains(&time.seconds) {
                    return Err(Unwritable::OutOfRange);
                }
                quoted(out, |out| display(out, &time));
            }
            Value::Duration => {
                let time = prost_types::Duration::decode(content).map_err(|_| Unwritable::Malformed)?;
                if time.seconds.unsigned_abs() > DURATION_MAX.0 || time.nanos.unsigned_abs() > DURATION_MAX.1 {
                    return Err(Unwritable::OutOfRange);
                }
                quoted(out, |out| display(out, &time));
            }
            Value::Message(place) => self.message(*place, content, out, depth)?,
        }
        Ok(())
    }
}

impl<'a> Raw<'a> {
    fn bits(self) -> u64 {
        match self {
            Raw::Bits(bits) => bits,
            Raw::Bytes(_) => 0,
        }
    }

    fn content(self) -> &'a [u8] {
        match self {
            Raw::Bits(_) => &[],
            Raw::Bytes(bytes) => bytes,
        }
    }
}

fn unzigzag(bits: u64) -> i64 {
    (bits >> 1) as i64 ^ -((bits & 1) as i64)
}

fn comma(is_first: &mut bool, out: &mut Vec<u8>) {
    if !std::mem::take(is_first) {
        out.push(b',');
    }
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

/// Writes a text or a number.
fn json(out: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) {
    // Neither fails, and memory takes what is written.
    let _ = serde_json::to_writer(out, value);
}

/// Writes a text that holds nothing that JSON escapes.
fn display(out: &mut Vec<u8>, value: &impl std::fmt::Display) {
    // Memory takes what is written.
    let _ = std::io::Write::write_fmt(out, format_args!("{value}"));
}

/// Writes what JSON has no number for.
fn not_finite(number: f64, out: &mut Vec<u8>) {
    let text = if number.is_nan() {
        "\"NaN\""
    } else if number > 0.0 {
        "\"Infinity\""
    } else {
        "\"-Infinity\""
    };
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
