//! The values of fields that are neither messages nor texts, read from the JSON of one value. Pure.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::DecodePaddingMode::Indifferent;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use prost_reflect::{DynamicMessage, EnumDescriptor, Kind, MessageDescriptor, Value};

use crate::protojson::number;

/// Bytes are read from either alphabet, with the `=` at their end and without.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true).with_decode_padding_mode(Indifferent);

/// Returns the value of a field of this kind. `None`: the JSON is no such value.
pub(super) fn value(kind: &Kind, json: &str) -> Option<Value> {
    match kind {
        Kind::Bool => serde_json::from_str(json).ok().map(Value::Bool),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => whole(json).map(Value::I32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => whole(json).map(Value::I64),
        Kind::Uint32 | Kind::Fixed32 => whole(json).map(Value::U32),
        Kind::Uint64 | Kind::Fixed64 => whole(json).map(Value::U64),
        Kind::Double => double(json).map(Value::F64),
        Kind::Float => double(json).map(|number| Value::F32(number as f32)),
        Kind::Enum(of) => choice(of, json).map(Value::EnumNumber),
        Kind::Bytes => bytes(json).map(|bytes| Value::Bytes(bytes.into())),
        Kind::Message(of) => message(of, json).map(Value::Message),
        Kind::String => text(json).map(|text| Value::String(text.into_owned())),
    }
}

/// Returns the text that a value is; `None`: it is none.
fn text(json: &str) -> Option<Cow<'_, str>> {
    if !json.starts_with('"') {
        return None;
    }
    // A text without an escape is what stands between its quotes.
    let inside = json.get(1..json.len().saturating_sub(1))?;
    if inside.contains('\\') { serde_json::from_str(json).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inside)) }
}

/// Returns the integer that a number is, or a number in quotes.
fn whole<T: TryFrom<i128>>(json: &str) -> Option<T> {
    let quoted = text(json);
    T::try_from(number::integer(quoted.as_deref().unwrap_or(json))?).ok()
}

fn double(json: &str) -> Option<f64> {
    match text(json).as_deref() {
        Some("NaN") => Some(f64::NAN),
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        quoted => number::double(quoted.unwrap_or(json)),
    }
}

/// Returns the number of an enum's value: by its name, or by the number itself, which may be one that is not known here.
fn choice(of: &EnumDescriptor, json: &str) -> Option<i32> {
    match text(json) {
        Some(name) => of.get_value_by_name(&name).map(|value| value.number()),
        None => i32::try_from(number::integer(json)?).ok(),
    }
}

fn bytes(json: &str) -> Option<Vec<u8>> {
    let text = text(json)?;
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    GeneralPurpose::new(alphabet, LENIENT).decode(text.as_bytes()).ok()
}

/// Reads a message that is one text in JSON.
fn message(of: &MessageDescriptor, json: &str) -> Option<DynamicMessage> {
    if of.full_name() == "google.protobuf.FieldMask" {
        return mask(of, &text(json)?);
    }
    DynamicMessage::deserialize(of.clone(), &mut serde_json::Deserializer::from_str(json)).ok()
}

/// Reads names of fields, each in either spelling, as names of fields are read everywhere. The library takes one of them.
fn mask(of: &MessageDescriptor, text: &str) -> Option<DynamicMessage> {
    let paths = text.split(',').filter(|path| !path.is_empty()).map(|path| Value::String(snake(path))).collect();
    let mut mask = DynamicMessage::new(of.clone());
    mask.try_set_field_by_name("paths", Value::List(paths)).ok()?;
    Some(mask)
}

fn snake(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 4);
    for letter in path.chars() {
        if letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}
