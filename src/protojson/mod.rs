//! How messages of the contract are read from JSON, for every face that takes it.
//!
//! [`read`] is the one reader. It is stricter than the library's own, which is made to be lenient and to lose nothing of valid
//! documents, but takes the last of two values of one field, and reads numbers by way of doubles: here a field is given once,
//! whichever of its two names stands there, and an integer is what its text says or is refused.
//!
//! It knows descriptors and neither calls nor the command line: an error has the path of what is wrong, and its words follow
//! the path in a sentence.

pub(crate) mod expected;
pub mod number;
mod scalar;

use std::cell::Cell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, OneofDescriptor, Value};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_path_to_error::{Path, Track};

use crate::model::misfit;
use crate::protojson::expected::is_one_text;

/// The most entries of one list of a document that others send.
const LIST_ENTRIES_MAX: usize = 10_000;
/// The most entries of all its lists and objects.
const ENTRIES_MAX: usize = 400_000;

/// Whose document it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// One that others send: it is refused where it has more entries than there should be memory for.
    Others,
    /// One's own, of any size.
    Own,
}

/// Why a document was not read.
#[derive(Debug)]
pub struct Unread {
    /// Where in it.
    pub path: Path,
    /// Whether that is what the contract has against it; the error is the rest of a sentence that begins with the path then.
    /// Otherwise it is no JSON, or a value of another shape.
    pub is_of_contract: bool,
    /// What is wrong, and at which line and column.
    pub error: serde_json::Error,
}

impl Unread {
    /// Says what is wrong, with its line and column only where the path does not say as much: where it is no JSON.
    pub(crate) fn what(&self) -> String {
        let what = self.bare();
        if self.error.is_data() || self.error.line() == 0 {
            return what;
        }
        format!("{what} at line {} column {}", self.error.line(), self.error.column())
    }

    /// Says what is wrong, without its line and column.
    pub(crate) fn bare(&self) -> String {
        let mut text = self.error.to_string();
        text.truncate(text.rfind(" at line ").unwrap_or(text.len()));
        if let Some(inside) = text.strip_prefix("EOF while parsing ") {
            return format!("it ends within {inside}");
        }
        misfit::wanted(&text).map_or(text, |wanted| format!("must be {wanted}"))
    }
}

/// Reads a message from a whole document.
pub fn read(of: &MessageDescriptor, text: &[u8], whose: Whose) -> Result<DynamicMessage, Unread> {
    let left = (whose == Whose::Others).then(|| Cell::new(ENTRIES_MAX));
    let reader = Reader { left, is_of_contract: Cell::new(false) };
    let mut json = serde_json::Deserializer::from_slice(text);
    let mut track = Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let read = MessageSeed { reader: &reader, of }.deserialize(tracked);
    let unread = |path, error: serde_json::Error| {
        let is_of_contract = reader.is_of_contract.get() || misfit::wanted(&error.to_string()).is_some();
        Unread { path, is_of_contract, error }
    };
    let message = read.map_err(|error| unread(track.path(), error))?;
    json.end().map_err(|error| unread(Track::new().path(), error))?;
    Ok(message)
}

/// Returns a field by either of its names.
pub(crate) fn field_of(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name))
}

/// What is known of a document while it is read.
struct Reader {
    /// How many more entries there may be; `None`: any number.
    left: Option<Cell<usize>>,
    is_of_contract: Cell<bool>,
}

impl Reader {
    /// Counts an entry: one of a map before there is memory for it, and one of a list once it is read, with all that is in it counted.
    fn entry<E: Error>(&self) -> Result<(), E> {
        let Some(left) = &self.left else { return Ok(()) };
        let now = left.get().checked_sub(1).ok_or_else(|| E::custom("there are too many entries in the document"))?;
        left.set(now);
        Ok(())
    }

    /// Returns the error of what the contract does not allow.
    fn wrong<E: Error>(&self, what: impl fmt::Display) -> E {
        self.is_of_contract.set(true);
        E::custom(what)
    }
}

/// Reads a message that is an object in JSON.
struct MessageSeed<'r> {
    reader: &'r Reader,
    of: &'r MessageDescriptor,
}

impl MessageSeed<'_> {
    /// Returns the field that a key of the object names, and what is wrong with naming it there.
    fn field(&self, key: &str, given: &[(u32, String)]) -> Result<FieldDescriptor, String> {
        let Some(field) = field_of(self.of, key) else {
            return Err(expected::unknown(self.of, &[]));
        };
        match given.iter().find(|(number, _)| *number == field.number()) {
            Some((_, before)) if before == key => Err("is given twice".to_owned()),
            Some((_, before)) => Err(format!("is given twice, as `{before}` and as `{key}`")),
            None => Ok(field),
        }
    }
}

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = DynamicMessage;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<DynamicMessage, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_> {
    type Value = DynamicMessage;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<DynamicMessage, A::Error> {
        let reader = self.reader;
        let mut message = DynamicMessage::new(self.of.clone());
        // Under which name each field was given.
        let mut given: Vec<(u32, String)> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            let field = match self.field(&key, &given) {
                Ok(field) => field,
                Err(what) => match map.next_value_seed(Refused { reader, what })? {},
            };
            reader.entry()?;
            let taken = field.containing_oneof().filter(|one| one.fields().any(|it| message.has_field(&it)));
            if let Some(value) = map.next_value_seed(FieldSeed { reader, field: &field, taken })? {
                message.set_field(&field, value);
            }
            given.push((field.number(), key));
        }
        Ok(message)
    }
}

/// Refuses the value of a key, so that the path of the error ends with the key.
struct Refused<'r> {
    reader: &'r Reader,
    what: String,
}

impl<'de> DeserializeSeed<'de> for Refused<'_> {
    type Value = Infallible;

    fn deserialize<D: Deserializer<'de>>(self, _: D) -> Result<Infallible, D::Error> {
        Err(self.reader.wrong(self.what))
    }
}

/// Reads the value of a field; `null` is none.
struct FieldSeed<'r> {
    reader: &'r Reader,
    field: &'r FieldDescriptor,
    /// The fields of which a message has one, where it has one of these already.
    taken: Option<OneofDescriptor>,
}

impl<'de> DeserializeSeed<'de> for FieldSeed<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Option<Value>, D::Error> {
        json.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for FieldSeed<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or null")
    }

    fn visit_none<E>(self) -> Result<Option<Value>, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Option<Value>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<Option<Value>, D::Error> {
        let FieldSeed { reader, field, taken } = self;
        if let Some(one) = taken {
            return Err(reader.wrong(format!("may not stand beside another of {}", expected::choices(&one))));
        }
        if field.is_list() {
            let items = json.deserialize_seq(ListVisitor { reader, kind: field.kind() })?;
            return Ok(Some(Value::List(items)));
        }
        match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                let kind = entry.map_entry_value_field().kind();
                Ok(Some(Value::Map(json.deserialize_map(MapVisitor { reader, kind })?)))
            }
            kind => ValueSeed { reader, kind: &kind }.deserialize(json).map(Some),
        }
    }
}

struct ListVisitor<'r> {
    reader: &'r Reader,
    kind: Kind,
}

impl<'de> Visitor<'de> for ListVisitor<'_> {
    type Value = Vec<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut json: A) -> Result<Vec<Value>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = json.next_element_seed(ValueSeed { reader: self.reader, kind: &self.kind })? {
            self.reader.entry()?;
            items.push(item);
            if items.len() > LIST_ENTRIES_MAX && self.reader.left.is_some() {
                return Err(A::Error::custom(format!("the list has more than {LIST_ENTRIES_MAX} entries")));
            }
        }
        Ok(items)
    }
}

/// Reads a map of texts, as all maps of the contract are. Its keys are told apart as they stand there.
struct MapVisitor<'r> {
    reader: &'r Reader,
    kind: Kind,
}

impl<'de> Visitor<'de> for MapVisitor<'_> {
    type Value = HashMap<MapKey, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut json: A) -> Result<Self::Value, A::Error> {
        let reader = self.reader;
        let mut entries = HashMap::new();
        while let Some(key) = json.next_key::<String>()? {
            let key = MapKey::String(key);
            if entries.contains_key(&key) {
                let what = "is given twice".to_owned();
                match json.next_value_seed(Refused { reader, what })? {}
            }
            reader.entry()?;
            let value = json.next_value_seed(ValueSeed { reader, kind: &self.kind })?;
            entries.insert(key, value);
        }
        Ok(entries)
    }
}

/// Reads one value: that of a field, an item of a list, or a value of a map.
struct ValueSeed<'r> {
    reader: &'r Reader,
    kind: &'r Kind,
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Value, D::Error> {
        match self.kind {
            Kind::String => String::deserialize(json).map(Value::String),
            Kind::Message(of) if !is_one_text(of) => {
                MessageSeed { reader: self.reader, of }.deserialize(json).map(Value::Message)
            }
            kind => {
                let json = <&RawValue>::deserialize(json)?;
                let wrong = || self.reader.wrong(format!("must be {}", expected::value(kind)));
                scalar::value(kind, json.get()).ok_or_else(wrong)
            }
        }
    }
}

#[cfg(test)]
mod tests;
