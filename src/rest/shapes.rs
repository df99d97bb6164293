//! What messages look like as JSON: read once from the descriptors, so that an answer is written without looking anything up.

use std::collections::HashMap;

use prost::encoding::WireType;
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind};

/// The shapes of all messages of a pool.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    all: Vec<Shape>,
    by_name: HashMap<String, usize>,
}

/// The shape of a message: its fields, in the order of their numbers.
#[derive(Debug, Default)]
pub(crate) struct Shape {
    pub(crate) fields: Vec<FieldShape>,
}

/// The shape of a field.
#[derive(Debug)]
pub(crate) struct FieldShape {
    pub(crate) number: u32,
    pub(crate) name: String,
    /// Whether it is one of the events of a watch.
    pub(crate) is_event: bool,
    /// The name as JSON has it before the value: in quotes, with a colon.
    pub(crate) key: String,
    pub(crate) occurs: Occurs,
    pub(crate) value: Value,
    /// How one of its values is encoded, also where several are packed into one.
    pub(crate) wire: WireType,
}

/// How often a field occurs, and whether it is written where it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occurs {
    /// At most once; it is written with its default where it does not occur.
    OrDefault,
    /// At most once; it is left out where it does not occur.
    OrNot,
    /// Any number of times.
    List,
    /// Any number of times, as messages of a key and a value.
    Map,
}

/// What a value is.
#[derive(Debug)]
pub(crate) enum Value {
    Bool,
    Int32,
    /// A zigzag number.
    Sint32,
    Uint32,
    Int64,
    /// A zigzag number.
    Sint64,
    Uint64,
    Float,
    Double,
    Text,
    Bytes,
    /// The names of an enum, in quotes, in the order of their numbers.
    Enum(Vec<(i32, String)>),
    Timestamp,
    Duration,
    /// A message, by its place among the shapes.
    Message(usize),
}

impl Shapes {
    /// Reads the shapes of all messages of a pool.
    pub(crate) fn of(pool: &DescriptorPool) -> Shapes {
        let by_name = pool.all_messages().enumerate().map(|(at, it)| (it.full_name().to_owned(), at)).collect();
        let mut shapes = Shapes { all: Vec::new(), by_name };
        for message in pool.all_messages() {
            let fields = message.fields().map(|field| shapes.field(&field)).collect();
            shapes.all.push(Shape { fields });
        }
        shapes
    }

    /// Returns the place of a message by its full name.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Returns the shape at a place, which one of the shapes names.
    pub(crate) fn at(&self, place: usize) -> &Shape {
        &self.all[place]
    }

    fn field(&self, field: &FieldDescriptor) -> FieldShape {
        let occurs = if field.is_map() {
            Occurs::Map
        } else if field.is_list() {
            Occurs::List
        } else if field.supports_presence() {
            Occurs::OrNot
        } else {
            Occurs::OrDefault
        };
        let (value, wire) = self.value(&field.kind());
        let is_event = field.containing_oneof().is_some_and(|oneof| oneof.name() == "event");
        let (number, name) = (field.number(), field.name().to_owned());
        FieldShape { number, key: format!("\"{name}\":"), name, is_event, occurs, value, wire }
    }

    fn value(&self, kind: &Kind) -> (Value, WireType) {
        match kind {
            Kind::Bool => (Value::Bool, WireType::Varint),
            Kind::Int32 => (Value::Int32, WireType::Varint),
            Kind::Sint32 => (Value::Sint32, WireType::Varint),
            Kind::Uint32 => (Value::Uint32, WireType::Varint),
            Kind::Int64 => (Value::Int64, WireType::Varint),
            Kind::Sint64 => (Value::Sint64, WireType::Varint),
            Kind::Uint64 => (Value::Uint64, WireType::Varint),
            Kind::Fixed32 => (Value::Uint32, WireType::ThirtyTwoBit),
            Kind::Sfixed32 => (Value::Int32, WireType::ThirtyTwoBit),
            Kind::Float => (Value::Float, WireType::ThirtyTwoBit),
            Kind::Fixed64 => (Value::Uint64, WireType::SixtyFourBit),
            Kind::Sfixed64 => (Value::Int64, WireType::SixtyFourBit),
            Kind::Double => (Value::Double, WireType::SixtyFourBit),
            Kind::String => (Value::Text, WireType::LengthDelimited),
            Kind::Bytes => (Value::Bytes, WireType::LengthDelimited),
            Kind::Enum(of) => {
                let mut names: Vec<(i32, String)> = Vec::new();
                for value in of.values() {
                    // Of several names of one number the first one is written.
                    if names.iter().all(|(number, _)| *number != value.number()) {
                        names.push((value.number(), format!("\"{}\"", value.name())));
                    }
                }
                names.sort_unstable_by_key(|(number, _)| *number);
                (Value::Enum(names), WireType::Varint)
            }
            Kind::Message(of) => {
                let value = match of.full_name() {
                    "google.protobuf.Timestamp" => Value::Timestamp,
                    "google.protobuf.Duration" => Value::Duration,
                    name => Value::Message(self.find(name).unwrap_or_default()),
                };
                (value, WireType::LengthDelimited)
            }
        }
    }
}
