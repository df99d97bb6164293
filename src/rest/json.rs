//! Messages of the contract as JSON, read and written by their descriptors.

use std::sync::LazyLock;

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor, SerializeOptions};
use serde_json::Value;
use serde_path_to_error::{Path, Segment};
use tonic::Status;

use crate::api::status::{Violations, internal, shown};
use crate::pb;
use crate::protojson::{self, Unread, Whose};
use crate::rest::shapes::Shapes;
use crate::rest::writer::{self, Look, Unwritable};

/// Every message of the contract, and those of error details.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut pool = DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET).unwrap_or_default();
    if let Err(error) = pool.decode_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET) {
        tracing::error!("the details of errors cannot be written as JSON: {error}");
    }
    pool
});

/// How they look as JSON.
static SHAPES: LazyLock<Shapes> = LazyLock::new(|| Shapes::of(pool()));

/// Returns the descriptors of the contract.
pub(crate) fn pool() -> &'static DescriptorPool {
    &POOL
}

/// Reads a message; `place` is the path of the message in the request.
pub(crate) fn read(descriptor: &MessageDescriptor, text: &[u8], place: &str) -> Result<DynamicMessage, Status> {
    protojson::read(descriptor, text, Whose::Others).map_err(|unread| unreadable(place, descriptor, &unread))
}

/// Reads a message from a value.
pub(crate) fn read_value(descriptor: &MessageDescriptor, value: &Value) -> Result<DynamicMessage, Status> {
    read(descriptor, value.to_string().as_bytes(), "")
}

/// Returns the error of a text that does not read as the message that stands at `place`.
fn unreadable(place: &str, descriptor: &MessageDescriptor, unread: &Unread) -> Status {
    let field = field_of(place, descriptor, &unread.path);
    let what = unread.what();
    let what = if unread.is_of_contract { what } else { format!("cannot be read: {}", shown(&what)) };
    Violations::one(if field.is_empty() { "body" } else { &field }, what)
}

/// Returns the name of a field by its path within what stands at `place`, a message of this type. The key of a map stands in brackets.
fn field_of(place: &str, descriptor: &MessageDescriptor, path: &Path) -> String {
    let mut field = place.to_owned();
    let (mut within, mut is_map) = (Some(descriptor.clone()), false);
    for segment in path {
        match segment {
            Segment::Seq { index } => field.push_str(&format!("[{index}]")),
            Segment::Map { key } | Segment::Enum { variant: key } if std::mem::take(&mut is_map) => {
                field.push_str(&format!("[{}]", shown(key)));
            }
            Segment::Map { key } | Segment::Enum { variant: key } => {
                if !field.is_empty() {
                    field.push('.');
                }
                // A name that is empty would not be seen.
                let name = if key.is_empty() { "\"\"".to_owned() } else { shown(key) };
                field.push_str(&name);
                let found = within.and_then(|of| protojson::field_of(&of, key));
                is_map = found.as_ref().is_some_and(prost_reflect::FieldDescriptor::is_map);
                within = found.and_then(|field| match field.kind() {
                    Kind::Message(of) => Some(of),
                    _ => None,
                });
            }
            // A text that ends, or is no JSON, where a name is expected.
            Segment::Unknown => {}
        }
    }
    field
}

/// Writes an encoded message as one line: the names of the proto, and every field that has no presence.
pub(crate) fn write(descriptor: &MessageDescriptor, message: &[u8]) -> Result<Vec<u8>, Status> {
    let mut line = Vec::with_capacity(512 + 2 * message.len());
    append(descriptor, message, &mut line)?;
    Ok(line)
}

/// As [`write()`], behind what is there already; an error adds nothing to it.
pub(crate) fn append(descriptor: &MessageDescriptor, message: &[u8], out: &mut Vec<u8>) -> Result<(), Status> {
    let before = out.len();
    let written = writer::write(&SHAPES, place(descriptor)?, message, out);
    written.map_err(|error| {
        out.truncate(before);
        unwritable(error)
    })
}

/// Looks at what an encoded message of a watch is about.
pub(crate) fn look(descriptor: &MessageDescriptor, message: &[u8]) -> Result<Look<'static>, Status> {
    writer::look(&SHAPES, place(descriptor)?, message).map_err(unwritable)
}

fn place(descriptor: &MessageDescriptor) -> Result<usize, Status> {
    let place = SHAPES.find(descriptor.full_name());
    place.ok_or_else(|| internal(format!("the contract has no message `{}`", descriptor.full_name())))
}

fn unwritable(error: Unwritable) -> Status {
    internal(format!("an answer cannot be written as JSON: {error}"))
}

fn options() -> SerializeOptions {
    SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false)
}

/// Returns the details of a status as JSON; one of a type that is not known is left out.
pub(crate) fn details(status: &Status) -> Vec<Value> {
    let all = tonic_types::pb::Status::decode(status.details()).unwrap_or_default();
    all.details.iter().filter_map(detail).collect()
}

fn detail(any: &prost_types::Any) -> Option<Value> {
    let name = any.type_url.rsplit('/').next()?;
    let message = DynamicMessage::decode(pool().get_message_by_name(name)?, any.value.as_slice()).ok()?;
    let Ok(Value::Object(fields)) = message.serialize_with_options(serde_json::value::Serializer, &options()) else {
        return None;
    };
    let mut detail = serde_json::Map::new();
    detail.insert("@type".to_owned(), Value::from(any.type_url.as_str()));
    detail.extend(fields);
    Some(Value::Object(detail))
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    fn read_job(text: &str) -> Result<DynamicMessage, (String, String)> {
        let descriptor = pool().get_message_by_name("haul.v1.JobSpec").unwrap();
        read(&descriptor, text.as_bytes(), "job").map_err(|status| {
            let violation = status.get_details_bad_request().unwrap().field_violations.remove(0);
            (violation.field, violation.description)
        })
    }

    #[test]
    fn what_does_not_read_is_named_by_its_path() {
        for (text, field, sign) in [
            (r#"{"titel": "x"}"#, "job.titel", "is unknown; the fields here are `title`, "),
            (r#"{"tasks": [{"fetch": {}}, {"fetch": {"url": 7}}]}"#, "job.tasks[1].fetch.url", "string"),
            (r#"{"tasks": [{"fetch": {"uri": "x"}}]}"#, "job.tasks[0].fetch.uri", "is unknown; the fields here are"),
            (r#"{"tasks": [{"fetch": {}, "download": {}}]}"#, "job.tasks[0].download", "of `fetch` and `download`"),
            (r#"{"title": "a", "title": "b"}"#, "job.title", "is given twice"),
            (r#"{"rate_limit": {}, "rateLimit": {}}"#, "job.rateLimit", "twice, as `rate_limit` and as `rateLimit`"),
            (r#"{"labels": {"a": "b", "a": "c"}}"#, "job.labels[a]", "twice"),
            (r#"{"priority": "high"}"#, "job.priority", "must be a whole number from -2147483648 to 2147483647"),
            (r#"{"priority": 99999999999}"#, "job.priority", "must be a whole number from "),
            (r#"{"group": {"mode": "none"}}"#, "job.group.mode", "must be one of `GROUP_MODE_UNSPECIFIED`, "),
            (r#"{"timeout": "soon"}"#, "job.timeout", "must be a duration in seconds, as `1.5s`"),
            (r#"{"start_time": 7}"#, "job.start_time", "must be a point in time"),
            (r#"{"open": 1}"#, "job.open", "must be true or false"),
            (r#"{"labels": {"a": 1}}"#, "job.labels[a]", "must be a string"),
            (r#"{"open":true,}"#, "job", "trailing comma"),
            (r#"{"title": "a"} {}"#, "job", "trailing"),
            (r#"{"title": "#, "job.title", "it ends within"),
            ("", "job", "it ends within"),
            ("[]", "job", "must be an object"),
            (r#"{"": 1}"#, "job.\"\"", "is unknown"),
            (r#"{"tasks": [null]}"#, "job.tasks[0]", "must be an object"),
            ("title=x", "job", "line 1"),
        ] {
            let (named, said) = read_job(text).unwrap_err();
            assert!(named == field && said.contains(sign), "{text}: {named}: {said}");
        }
        let (_, said) = read(&pool().get_message_by_name("haul.v1.JobSpec").unwrap(), b"{\"title\": \"\xff\"}", "job")
            .map(|_| ())
            .map_err(|status| (0, status.message().to_owned()))
            .unwrap_err();
        assert!(said.contains("UTF-8") || said.contains("unicode"), "{said}");
    }

    #[test]
    fn what_stands_in_the_wrong_place_is_not_repeated() {
        for http in [
            r#"{"basic_auth": "user:open-sesame, expected x"}"#,
            r#"{"bearer_token": 5353414}"#,
            r#"{"headers": "open-sesame \" x"}"#,
            r#"{"insecure_skip_verify": "open-sesame"}"#,
        ] {
            let (field, said) = read_job(&format!(r#"{{"defaults": {{"http": {http}}}}}"#)).unwrap_err();
            assert!(!said.contains("open-sesame") && !said.contains("5353414"), "{field}: {said}");
            let says_what = said.contains("expected") || said.contains("must be");
            assert!(field.starts_with("job.defaults.http.") && says_what, "{field}: {said}");
        }
    }

    #[test]
    fn both_spellings_are_read_and_zeros_are_written() {
        let one = read_job(r#"{"startTime": "2026-01-02T03:04:05Z", "rateLimit": {"bytesPerSecond": 7}}"#).unwrap();
        let other = read_job(r#"{"start_time": "2026-01-02T03:04:05Z", "rate_limit": {"bytes_per_second": "7"}}"#);
        assert_eq!(one, other.unwrap());
        let line = write(&one.descriptor_of(), &one.encode_to_vec()).unwrap();
        let value: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["rate_limit"]["bytes_per_second"], "7");
        assert_eq!((&value["title"], &value["tasks"]), (&Value::from(""), &serde_json::json!([])));
    }

    /// The descriptor of a message, by a name that reads well where it is called.
    trait DescriptorOf {
        fn descriptor_of(&self) -> MessageDescriptor;
    }

    impl DescriptorOf for DynamicMessage {
        fn descriptor_of(&self) -> MessageDescriptor {
            prost_reflect::ReflectMessage::descriptor(self)
        }
    }
}
