//! What a field of the contract may be, for whoever sent something else.

use prost_reflect::{Kind, MessageDescriptor, OneofDescriptor};

/// Names that are listed in a message, at most.
const NAMES_MAX: usize = 12;

/// Says what a value of this kind is, as the rest of a sentence that begins with "must be".
pub(crate) fn value(kind: &Kind) -> String {
    let range = |least: &str, most: &str| format!("a whole number from {least} to {most}");
    match kind {
        Kind::Bool => "true or false".to_owned(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => range("-2147483648", "2147483647"),
        Kind::Uint32 | Kind::Fixed32 => range("0", "4294967295"),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => range("-9223372036854775808", "9223372036854775807"),
        Kind::Uint64 | Kind::Fixed64 => range("0", "18446744073709551615"),
        Kind::Double | Kind::Float => "a number".to_owned(),
        Kind::Bytes => "bytes in base64".to_owned(),
        Kind::Enum(of) => format!("one of {}", names(of.values().map(|value| value.name().to_owned()))),
        Kind::Message(inside) => text_of(inside).unwrap_or("an object").to_owned(),
        Kind::String => "a string".to_owned(),
    }
}

/// Says what the one text is that a message is in JSON; `None` for one that is an object.
fn text_of(message: &MessageDescriptor) -> Option<&'static str> {
    match message.full_name() {
        "google.protobuf.Duration" => Some("a duration in seconds, as `1.5s`"),
        "google.protobuf.Timestamp" => Some("a point in time, as `2026-01-02T03:04:05Z`"),
        "google.protobuf.FieldMask" => Some("names of fields, separated by commas"),
        _ => None,
    }
}

/// Returns whether the JSON of a message is one text.
pub(crate) fn is_one_text(message: &MessageDescriptor) -> bool {
    text_of(message).is_some()
}

/// Says of a field that a message does not have which it has, but for those that are given elsewhere.
pub(crate) fn unknown(message: &MessageDescriptor, elsewhere: &[&str]) -> String {
    let fields = message.fields().map(|field| field.name().to_owned());
    let fields: Vec<String> = fields.filter(|name| !elsewhere.contains(&name.as_str())).collect();
    match fields.as_slice() {
        [] => "is unknown; there are no fields here".to_owned(),
        [one] => format!("is unknown; the only field here is `{one}`"),
        _ => format!("is unknown; the fields here are {}", names(fields.into_iter())),
    }
}

/// Lists the fields of which a message has one.
pub(crate) fn choices(one: &OneofDescriptor) -> String {
    names(one.fields().map(|field| field.name().to_owned()))
}

fn names(mut all: impl Iterator<Item = String>) -> String {
    let mut listed: Vec<String> = all.by_ref().take(NAMES_MAX).map(|name| format!("`{name}`")).collect();
    if all.next().is_some() {
        listed.push("others".to_owned());
    }
    let last = listed.pop().unwrap_or_default();
    if listed.is_empty() { last } else { format!("{} and {last}", listed.join(", ")) }
}
