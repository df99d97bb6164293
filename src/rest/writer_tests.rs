//! What the writer writes is what the library with its message in between writes.

use proptest::prelude::{ProptestConfig, any, proptest};
use prost::Message as _;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, SerializeOptions, Value as Field,
};

use super::*;
use crate::protojson::{self, Whose};
use crate::rest::json::pool;

/// Every message that is written as JSON.
fn answers() -> Vec<MessageDescriptor> {
    let methods = pool().services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let own = methods.filter(|method| method.parent_service().full_name().starts_with("haul.v1."));
    own.map(|method| method.output()).chain(pool().get_message_by_name("haul.v1.AuditEvent")).collect()
}

/// Numbers that look like chance, the same ones each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A number of any size.
    fn any(&mut self) -> u64 {
        let shift = self.below(64);
        self.next() >> shift
    }

    fn text(&mut self) -> String {
        let letters = ["a", "\"", "\\", "\n", "\u{1}", "\u{7f}", "é", "\u{2028}", "😀", "</"];
        (0..self.below(6)).map(|_| letters[self.below(letters.len() as u64) as usize]).collect()
    }

    fn message(&mut self, of: &MessageDescriptor, depth: u32) -> DynamicMessage {
        let mut message = DynamicMessage::new(of.clone());
        if of.full_name() == "google.protobuf.Timestamp" {
            message.set_field_by_name("seconds", Field::I64(self.below(200_000_000_000) as i64));
            message.set_field_by_name("nanos", Field::I32(self.below(1_000_000_000) as i32));
            return message;
        }
        if of.full_name() == "google.protobuf.Duration" {
            let sign = if self.below(2) == 0 { 1 } else { -1 };
            message.set_field_by_name("seconds", Field::I64(sign * self.below(100_000) as i64));
            message.set_field_by_name("nanos", Field::I32(sign as i32 * self.below(1_000_000_000) as i32));
            return message;
        }
        for field in of.fields() {
            if self.below(3) == 0 || depth == 0 && matches!(field.kind(), Kind::Message(_)) {
                continue;
            }
            let value = self.field(&field, depth);
            message.set_field(&field, value);
        }
        message
    }

    fn field(&mut self, field: &FieldDescriptor, depth: u32) -> Field {
        if field.is_map() {
            let Kind::Message(entry) = field.kind() else { unreachable!("a map is a list of messages") };
            let value = entry.map_entry_value_field();
            let one = (MapKey::String(self.text()), self.value(&value.kind(), depth));
            return Field::Map([one].into());
        }
        if field.is_list() {
            return Field::List((0..self.below(4)).map(|_| self.value(&field.kind(), depth)).collect());
        }
        self.value(&field.kind(), depth)
    }

    fn value(&mut self, kind: &Kind, depth: u32) -> Field {
        match kind {
            Kind::Bool => Field::Bool(self.below(2) == 1),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Field::I32(self.any() as i32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Field::I64(self.any() as i64),
            Kind::Uint32 | Kind::Fixed32 => Field::U32(self.any() as u32),
            Kind::Uint64 | Kind::Fixed64 => Field::U64(self.any()),
            Kind::Float => Field::F32(f32::from_bits(self.next() as u32)),
            Kind::Double => {
                let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.5, f64::from_bits(self.next())];
                Field::F64(special[self.below(5) as usize])
            }
            Kind::String => Field::String(self.text()),
            Kind::Bytes => Field::Bytes(self.text().into_bytes().into()),
            // One number more than there are names.
            Kind::Enum(of) => Field::EnumNumber(self.below(of.values().len() as u64 + 1) as i32),
            Kind::Message(of) => Field::Message(self.message(of, depth.saturating_sub(1))),
        }
    }
}

/// What the library writes.
fn by_library(message: &DynamicMessage) -> String {
    let mut line = Vec::new();
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);
    message.serialize_with_options(&mut serde_json::Serializer::new(&mut line), &options).unwrap();
    String::from_utf8(line).unwrap()
}

fn shapes() -> Shapes {
    Shapes::of(pool())
}

fn written(shapes: &Shapes, of: &MessageDescriptor, bytes: &[u8]) -> Result<String, Unwritable> {
    let mut line = Vec::new();
    write(shapes, shapes.find(of.full_name()).unwrap(), bytes, &mut line)?;
    Ok(String::from_utf8(line).unwrap())
}

#[test]
fn no_answer_has_a_type_whose_json_is_of_its_own_but_times() {
    let (mut left, mut seen) = (answers(), std::collections::BTreeSet::new());
    while let Some(message) = left.pop() {
        if !seen.insert(message.full_name().to_owned()) || message.full_name().starts_with("google.protobuf.") {
            continue;
        }
        left.extend(message.fields().filter_map(|field| match field.kind() {
            Kind::Message(inside) => Some(inside),
            _ => None,
        }));
    }
    let of_google: Vec<_> = seen.iter().filter(|name| name.starts_with("google.")).collect();
    assert_eq!(of_google, ["google.protobuf.Duration", "google.protobuf.Timestamp"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_answer_is_written_as_the_library_writes_it_and_read_back(seed in any::<u64>()) {
        let (shapes, mut numbers) = (shapes(), Numbers(seed));
        for of in answers() {
            let message = numbers.message(&of, 4);
            let bytes = message.encode_to_vec();
            let line = written(&shapes, &of, &bytes).unwrap();
            assert_eq!(line, by_library(&message), "{}", of.full_name());
            // And what is read of it is the message again.
            let read = protojson::read(&of, line.as_bytes(), Whose::Own).unwrap();
            assert_eq!(by_library(&read), line, "{}", of.full_name());
        }
    }

    #[test]
    fn whatever_stands_for_a_message_is_read_by_both_or_by_none(seed in any::<u64>(), at in any::<usize>(), to in any::<u8>()) {
        let (shapes, mut numbers) = (shapes(), Numbers(seed));
        for of in answers() {
            let mut bytes = numbers.message(&of, 3).encode_to_vec();
            if bytes.is_empty() {
                continue;
            }
            let at = at % bytes.len();
            bytes[at] = to;
            let known = DynamicMessage::decode(of.clone(), bytes.as_slice());
            // What has two values of one choice, or one key twice, is written with both: the server encodes neither.
            if let (Ok(message), Ok(line)) = (known, written(&shapes, &of, &bytes)) {
                let is_json = serde_json::from_str::<serde_json::Value>(&line).is_ok();
                assert!(is_json, "{}: {line} {message:?}", of.full_name());
            }
        }
    }
}

#[test]
fn what_comes_in_pieces_or_out_of_order_is_put_together() {
    let shapes = shapes();
    let of = pool().get_message_by_name("haul.v1.GetJobResponse").unwrap();
    let piece = |job: crate::pb::Job| crate::pb::GetJobResponse { job: Some(job) }.encode_to_vec();
    let whole = [
        piece(crate::pb::Job { title: "later".into(), priority: 7, ..Default::default() }),
        // A field that the contract does not have.
        vec![0xf8, 0x07, 0x01],
        piece(crate::pb::Job { job_id: "a".into(), title: "last".into(), ..Default::default() }),
    ]
    .concat();
    let message = DynamicMessage::decode(of.clone(), whole.as_slice()).unwrap();
    let line = written(&shapes, &of, &whole).unwrap();
    assert_eq!(line, by_library(&message));
    assert!(line.contains(r#""job_id":"a","title":"last""#) && line.contains(r#""priority":7"#), "{line}");
    // Numbers stand packed or one by one.
    let of = pool().get_message_by_name("haul.v1.FailureCount").unwrap();
    let number = of.get_field_by_name("sample_task_indexes").unwrap().number();
    let one_by_one = [number << 3, 1, number << 3, 2, (number << 3) | 2, 2, 3, 4].map(|it| it as u8);
    assert!(written(&shapes, &of, &one_by_one).unwrap().contains(r#""sample_task_indexes":[1,2,3,4]"#));
}

#[test]
fn what_is_no_message_is_refused() {
    let shapes = shapes();
    let of = pool().get_message_by_name("haul.v1.GetJobResponse").unwrap();
    for bad in [&[0x0a, 5, 0x0a][..], &[0x08, 1], &[0x0a, 3, 0x0a, 1, 0xff], &[0xff]] {
        assert_eq!(written(&shapes, &of, bad), Err(Unwritable::Malformed), "{bad:?}");
    }
    let late = crate::pb::Job {
        create_time: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }),
        ..Default::default()
    };
    let late = crate::pb::GetJobResponse { job: Some(late) }.encode_to_vec();
    assert_eq!(written(&shapes, &of, &late), Err(Unwritable::OutOfRange));
}

#[test]
fn a_watch_is_looked_at_without_reading_it() {
    let shapes = shapes();
    let place = shapes.find("haul.v1.WatchJobResponse").unwrap();
    let event = |sequence, event| crate::pb::WatchJobResponse {
        sequence,
        time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        event,
    };
    let heartbeat = crate::pb::watch_job_response::Event::Heartbeat(crate::pb::Heartbeat {});
    let seen = look(&shapes, place, &event(7, Some(heartbeat)).encode_to_vec());
    assert_eq!(seen, Ok(Look { event: Some("heartbeat"), sequence: 7, ends_item: false }));
    assert_eq!(look(&shapes, place, &event(0, None).encode_to_vec()), Ok(Look::default()));
    let place = shapes.find("haul.v1.WatchJobsResponse").unwrap();
    let deleted = crate::pb::watch_jobs_response::Event::DeletedJobId("a".into());
    let deleted = crate::pb::WatchJobsResponse { event: Some(deleted) }.encode_to_vec();
    assert_eq!(
        look(&shapes, place, &deleted),
        Ok(Look { event: Some("deleted_job_id"), sequence: 0, ends_item: false })
    );
}
