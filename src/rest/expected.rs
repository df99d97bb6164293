//! What a field of the contract may be, for whoever sent something else.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_path_to_error::{Path, Segment};

/// Names that are listed in a message, at most.
const NAMES_MAX: usize = 12;

/// A place within a message.
pub(crate) enum Place {
    /// The message itself, or one within it.
    Message(MessageDescriptor),
    /// The value of a field, an item of a list, or a value of a map.
    Value(FieldDescriptor),
    /// A field that has many, as a whole.
    Many(FieldDescriptor),
}

/// Follows a path from a message to what it leads to. Returns `None` where the contract has nothing there.
pub(crate) fn find(message: MessageDescriptor, path: &Path) -> Option<Place> {
    path.iter().try_fold(Place::Message(message), |place, segment| match (place, segment) {
        (Place::Message(message), Segment::Map { key }) => {
            let field = message.get_field_by_name(key).or_else(|| message.get_field_by_json_name(key))?;
            Some(match field.kind() {
                _ if field.is_map() || field.is_list() => Place::Many(field),
                Kind::Message(inside) if text_of(&inside).is_none() => Place::Message(inside),
                _ => Place::Value(field),
            })
        }
        (Place::Many(field), Segment::Seq { .. }) if field.is_list() => Some(item(field)),
        (Place::Many(field), Segment::Map { .. }) if field.is_map() => match field.kind() {
            Kind::Message(entry) => Some(item(entry.map_entry_value_field())),
            _ => None,
        },
        _ => None,
    })
}

fn item(field: FieldDescriptor) -> Place {
    match field.kind() {
        Kind::Message(inside) if text_of(&inside).is_none() => Place::Message(inside),
        _ => Place::Value(field),
    }
}

impl Place {
    /// Says what belongs there, as the rest of a sentence that begins with "must be". `None` where a text that reads as JSON
    /// can be wrong otherwise, too.
    pub(crate) fn expected(&self) -> Option<String> {
        let Place::Value(field) = self else { return None };
        let range = |least: &str, most: &str| Some(format!("a whole number from {least} to {most}"));
        match field.kind() {
            Kind::Bool => Some("true or false".to_owned()),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => range("-2147483648", "2147483647"),
            Kind::Uint32 | Kind::Fixed32 => range("0", "4294967295"),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => range("-9223372036854775808", "9223372036854775807"),
            Kind::Uint64 | Kind::Fixed64 => range("0", "18446744073709551615"),
            Kind::Double | Kind::Float => Some("a number".to_owned()),
            Kind::Bytes => Some("bytes in base64".to_owned()),
            Kind::Enum(of) => Some(format!("one of {}", names(of.values().map(|value| value.name().to_owned())))),
            Kind::Message(inside) => text_of(&inside).map(str::to_owned),
            Kind::String => None,
        }
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

/// Lists the fields of a message by their names.
pub(crate) fn fields(message: &MessageDescriptor) -> String {
    names(message.fields().map(|field| field.name().to_owned()))
}

/// Lists the fields of which a message has one, by the name of the choice.
pub(crate) fn choices(message: &MessageDescriptor, name: &str) -> Option<(String, String)> {
    let oneof = message.oneofs().find(|oneof| oneof.name() == name)?;
    let mut all = oneof.fields().map(|field| field.name().to_owned());
    let first = all.next()?;
    Some((first.clone(), names(std::iter::once(first).chain(all))))
}

fn names(mut all: impl Iterator<Item = String>) -> String {
    let mut listed: Vec<String> = all.by_ref().take(NAMES_MAX).map(|name| format!("`{name}`")).collect();
    if all.next().is_some() {
        listed.push("others".to_owned());
    }
    let last = listed.pop().unwrap_or_default();
    if listed.is_empty() { last } else { format!("{} and {last}", listed.join(", ")) }
}
