//! How messages of the contract are read: as prost does, unless they hold more entries than a request may.
//!
//! An empty entry of a list is two bytes of a message and hundreds of bytes of memory, so the entries of a request are
//! counted before there is memory for them.
//!
//! What many clients are sent is written once, as [`Encoded`].

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::LazyLock;

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{DecodeError, Message, Name};
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstDecoder, ProstEncoder};

use crate::pb;

/// The most tasks of one message.
pub const TASKS_MAX: usize = 10_000;
/// The most entries of all lists of one message.
pub const ENTRIES_MAX: usize = 200_000;
/// A shorter message cannot hold too many entries: each has two bytes at least.
const SHORT: usize = TASKS_MAX * 2;
/// The room that is made for each message that is read or written, before its length is known. Most are shorter. The library
/// would make eight times as much for each, which the allocator finds and joins again at a cost that shows.
const ROOM_BYTES: usize = 1 << 10;
/// As many bytes of answers as are put together, as the library has it.
const TOGETHER_BYTES: usize = 32 << 10;
/// The entry that takes by far the most memory.
const TASK: &str = "haul.v1.TaskSpec";

/// The messages that clients send, by name.
static REQUESTS: LazyLock<HashMap<String, MessageDescriptor>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET).unwrap_or_default();
    let inputs = pool.services().flat_map(|service| service.methods().map(|method| method.input()).collect::<Vec<_>>());
    inputs.map(|input| (input.full_name().to_owned(), input)).collect()
});

/// There are too many entries in a message: in which field, and what is wrong with that, as for every violation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {what}")]
struct TooMany {
    field: String,
    what: String,
}

impl TooMany {
    /// Says that the field is one of the message `of`.
    fn within(self, of: &str) -> TooMany {
        TooMany { field: format!("{of}.{}", self.field), ..self }
    }
}

/// What was counted so far.
#[derive(Debug, Default)]
struct Count {
    tasks: usize,
    entries: usize,
}

impl Count {
    fn add(&mut self, field: &FieldDescriptor, entries: usize, is_task: bool) -> Result<(), TooMany> {
        self.entries = self.entries.saturating_add(entries);
        self.tasks += usize::from(is_task);
        let what = if self.tasks > TASKS_MAX {
            format!(
                "holds more than the {TASKS_MAX} tasks that one call may have; add more to an open job in further calls"
            )
        } else if self.entries > ENTRIES_MAX {
            format!(
                "has too many entries: the lists of a message hold at most {ENTRIES_MAX} together; send several messages"
            )
        } else {
            return Ok(());
        };
        Err(TooMany { field: field.name().to_owned(), what })
    }
}

/// Counts the entries of the lists and maps of a message. What cannot be read ends the count, and will end its reader.
fn count(of: &MessageDescriptor, mut bytes: &[u8], counted: &mut Count) -> Result<(), TooMany> {
    while bytes.has_remaining() {
        let Ok((number, wire)) = decode_key(&mut bytes) else { return Ok(()) };
        if wire != WireType::LengthDelimited {
            if let Some(field) = of.get_field(number).filter(FieldDescriptor::is_list) {
                counted.add(&field, 1, false)?;
            }
            if skip_field(wire, number, &mut bytes, DecodeContext::default()).is_err() {
                return Ok(());
            }
            continue;
        }
        let length = decode_varint(&mut bytes).ok().and_then(|length| usize::try_from(length).ok());
        let Some(content) = length.and_then(|length| bytes.get(..length)) else { return Ok(()) };
        bytes = &bytes[content.len()..];
        let Some(field) = of.get_field(number) else { continue };
        let inside = match field.kind() {
            Kind::Message(inside) => Some(inside),
            _ => None,
        };
        if field.is_list() || field.is_map() {
            let is_task = inside.as_ref().is_some_and(|inside| inside.full_name() == TASK);
            counted.add(&field, entries_of(&field, content), is_task)?;
        }
        if let Some(inside) = inside {
            count(&inside, content, counted).map_err(|many| many.within(field.name()))?;
        }
    }
    Ok(())
}

/// Returns how many entries of a list these bytes are: numbers are packed, and stand many in one.
fn entries_of(field: &FieldDescriptor, content: &[u8]) -> usize {
    match field.kind() {
        Kind::Message(_) | Kind::String | Kind::Bytes => 1,
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => content.len() / 8,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => content.len() / 4,
        // The last byte of each has its highest bit clear.
        _ => content.iter().filter(|byte| byte.is_ascii()).count(),
    }
}

/// A message that was encoded before, so that it is encoded once however many it is sent to.
#[derive(Debug, Clone, Default)]
pub struct Encoded(Bytes);

impl Encoded {
    /// Encodes a message.
    pub fn of(message: &impl Message) -> Encoded {
        Encoded(message.encode_to_vec().into())
    }

    /// The message that was encoded to these bytes.
    pub fn as_it_was(bytes: Bytes) -> Encoded {
        Encoded(bytes)
    }

    /// The bytes of the message.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

impl Message for Encoded {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.0);
    }

    /// Nothing is read as such a message: its fields are left out.
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        skip_field(wire_type, tag, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// Reads and writes messages.
#[derive(Debug, Clone)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        BoundedCodec(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(ROOM_BYTES, TOGETHER_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(ProstDecoder::new(BufferSettings::new(ROOM_BYTES, TOGETHER_BYTES)))
    }
}

/// Reads messages within their bounds.
#[derive(Debug, Clone)]
pub struct BoundedDecoder<U>(ProstDecoder<U>);

impl<U: Message + Name + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // Those of answers are the server's own.
        if buffer.remaining() > SHORT
            && let Some(request) = REQUESTS.get(&U::full_name())
        {
            let whole = buffer.chunk();
            count(request, whole, &mut Count::default()).map_err(|many| Status::invalid_argument(many.to_string()))?;
        }
        self.0.decode(buffer)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(name: &str, bytes: &[u8]) -> Result<(usize, usize), String> {
        let mut counted = Count::default();
        let ended = count(&REQUESTS[name], bytes, &mut counted).map_err(|many| many.field);
        ended.map(|()| (counted.tasks, counted.entries))
    }

    #[test]
    fn entries_are_counted_at_every_depth_and_over_repeated_parts() {
        let header = pb::Header::default();
        let http = pb::HttpOptions { headers: vec![header; 3], ..Default::default() };
        let options = Some(pb::TaskOptions { http: Some(http), ..Default::default() });
        let task = pb::TaskSpec { options, ..Default::default() };
        let job = pb::JobSpec {
            tasks: vec![task; 5],
            labels: [("a".to_owned(), "b".to_owned())].into(),
            ..Default::default()
        };
        let submit = pb::SubmitJobRequest { job: Some(job), ..Default::default() }.encode_to_vec();
        assert_eq!(counted("haul.v1.SubmitJobRequest", &submit), Ok((5, 21)));
        let twice = [submit.clone(), submit.clone()].concat();
        assert_eq!(counted("haul.v1.SubmitJobRequest", &twice), Ok((10, 42)), "both are merged into one");
        for length in 0..submit.len() {
            assert!(counted("haul.v1.SubmitJobRequest", &submit[..length]).is_ok());
        }
    }

    #[test]
    fn too_many_are_found_before_they_have_memory() {
        let tasks = b"\x1a\x00".repeat(TASKS_MAX + 1);
        assert_eq!(counted("haul.v1.AddTasksRequest", &tasks), Err("tasks".to_owned()));
        assert_eq!(counted("haul.v1.AddTasksRequest", &tasks[2..]), Ok((TASKS_MAX, TASKS_MAX)));
        let hosts = pb::Limits { hosts: vec![pb::HostLimits::default(); ENTRIES_MAX + 1], ..Default::default() };
        let limits = pb::UpdateLimitsRequest { limits: Some(hosts), ..Default::default() }.encode_to_vec();
        assert_eq!(counted("haul.v1.UpdateLimitsRequest", &limits), Err("limits.hosts".to_owned()));
    }

    #[test]
    fn numbers_are_counted_however_they_are_packed() {
        let request = pb::ListJobsRequest { states: vec![300; 10], ..Default::default() };
        assert_eq!(counted("haul.v1.ListJobsRequest", &request.encode_to_vec()), Ok((0, 10)));
        let field = REQUESTS["haul.v1.ListJobsRequest"].get_field_by_name("states").unwrap().number();
        let mut apart = Vec::new();
        for _ in 0..=ENTRIES_MAX {
            prost::encoding::int32::encode(field, &1, &mut apart);
        }
        assert_eq!(counted("haul.v1.ListJobsRequest", &apart), Err("states".to_owned()));
        let packed = pb::ListJobsRequest { states: vec![1; ENTRIES_MAX + 1], ..Default::default() };
        assert_eq!(counted("haul.v1.ListJobsRequest", &packed.encode_to_vec()), Err("states".to_owned()));
    }

    #[test]
    fn every_request_has_a_descriptor_by_the_name_that_its_type_has() {
        for name in [pb::SubmitJobRequest::full_name(), pb::AddTasksRequest::full_name()] {
            assert!(REQUESTS.contains_key(&name), "{name}");
        }
        assert!(!REQUESTS.contains_key(&pb::ListJobsResponse::full_name()));
    }
}
