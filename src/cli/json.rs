//! The JSON of the command line: the API's messages, one document a line.

use std::sync::OnceLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};

use crate::cli::args::Usage;
use crate::cli::term::screen;
use crate::model::text::shown;
use crate::pb;
use crate::protojson::{self, Whose};

/// Looks up a message of the contract by its full name.
fn descriptor(name: &str) -> anyhow::Result<MessageDescriptor> {
    // Read once: a list has a line for each of its messages.
    static POOL: OnceLock<Option<DescriptorPool>> = OnceLock::new();
    let pool = POOL.get_or_init(|| DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET).ok()).as_ref();
    let message = pool.and_then(|pool| pool.get_message_by_name(name));
    message.ok_or_else(|| anyhow::anyhow!("the contract has no message `{name}`"))
}

/// Writes a message as one line of protobuf JSON, with the names of the proto and every field that has no presence: task 0
/// has its `task_index`, and an empty list is a list.
pub(crate) fn write(name: &str, message: &impl Message) -> anyhow::Result<String> {
    written(name, message, false)
}

fn written(name: &str, message: &impl Message, skip_defaults: bool) -> anyhow::Result<String> {
    let dynamic = DynamicMessage::decode(descriptor(name)?, message.encode_to_vec().as_slice())?;
    let mut line = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut line);
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(skip_defaults);
    dynamic.serialize_with_options(&mut serializer, &options)?;
    Ok(String::from_utf8(line)?)
}

/// Reads a message from a whole document of JSON; an error says where in it.
pub(crate) fn read<M: Message + Default>(name: &str, text: &str) -> anyhow::Result<M> {
    let place = |error: &serde_json::Error| format!("line {}, column {}", error.line(), error.column());
    read_at(name, text, place)
}

/// As [`read`], of a line of a list: whoever knows its number says it, so an error has the column alone.
pub(crate) fn read_line<M: Message + Default>(name: &str, text: &str) -> anyhow::Result<M> {
    read_at(name, text, |error| format!("column {}", error.column()))
}

fn read_at<M: Message + Default>(name: &str, text: &str, at: fn(&serde_json::Error) -> String) -> anyhow::Result<M> {
    let read = protojson::read(&descriptor(name)?, text.as_bytes(), Whose::Own).map_err(|unread| {
        let path = unread.path.to_string();
        let place = match path.as_str() {
            "." | "?" => String::new(),
            path if unread.is_of_contract => format!(" `{}`", shown(path)),
            path => format!(" `{}`:", shown(path)),
        };
        let why = unread.bare();
        // In brackets, so that it is no part of a list of names before it.
        let at = if unread.error.line() == 0 { String::new() } else { format!(" ({})", at(&unread.error)) };
        Usage(format!("cannot read the JSON as {name}:{place} {why}{at}"))
    })?;
    Ok(M::decode(read.encode_to_vec().as_slice())?)
}

/// Prints a message on a line of its own.
pub(crate) fn print(name: &str, message: &impl Message) -> anyhow::Result<()> {
    screen::document(&write(name, message)?);
    Ok(())
}

/// Prints what is set in a message on a line of its own: what a person wrote, without the defaults.
pub(crate) fn print_set(name: &str, message: &impl Message) -> anyhow::Result<()> {
    screen::document(&written(name, message, true)?);
    Ok(())
}

/// Prints messages, each on a line of its own.
pub(crate) fn print_all<M: Message>(name: &str, messages: &[M]) -> anyhow::Result<()> {
    messages.iter().try_for_each(|message| print(name, message))
}

/// JSON without the space between its tokens, each token as it was sent.
pub(crate) fn compact(text: &str) -> String {
    let (mut out, mut in_string, mut is_escaped) = (String::with_capacity(text.len()), false, false);
    for letter in text.chars() {
        if in_string {
            in_string = is_escaped || letter != '"';
            is_escaped = !is_escaped && letter == '\\';
        } else if letter == '"' {
            in_string = true;
        } else if letter.is_ascii_whitespace() {
            continue;
        }
        out.push(letter);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_read_and_the_contracts_is_written() {
        let read = |text| super::read::<pb::JobSpec>("haul.v1.JobSpec", text);
        let snake =
            read(r#"{"title": "t", "rate_limit": {"bytes_per_second": "7"}, "start_time": "2026-01-02T03:04:05Z"}"#);
        let camel = read(r#"{"title": "t", "rateLimit": {"bytesPerSecond": 7}, "startTime": "2026-01-02T03:04:05Z"}"#);
        let spec = snake.unwrap();
        assert_eq!(spec, camel.unwrap());
        let written = write("haul.v1.JobSpec", &spec).unwrap();
        for part in [r#""title":"t""#, r#""start_time":"2026-01-02T03:04:05Z""#, r#""bytes_per_second":"7""#] {
            assert!(written.contains(part), "{part}: {written}");
        }
        assert!(read(r#"{"titel": "t"}"#).unwrap_err().to_string().contains("titel"));
        assert!(read("{} {}").unwrap_err().is::<Usage>());
        for (text, part) in [
            (r#"{"title": "a", "title": "b"}"#, "`title` is given twice"),
            (r#"{"tasks": [{"fetch": {"url": 7}}]}"#, "`tasks[0].fetch.url` must be a string (line 1, column "),
            (r#"{"timeout": "1.5.5s"}"#, "`timeout` must be a duration in seconds"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.is::<Usage>() && error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn zeros_and_empty_lists_are_written() {
        let written: serde_json::Value =
            serde_json::from_str(&write("haul.v1.Task", &pb::Task::default()).unwrap()).unwrap();
        assert_eq!(written["task_index"], 0);
        assert_eq!(written["key"], "");
        assert_eq!(written["attempt_log"], serde_json::json!([]));
        assert_eq!(written.get("error"), None, "a field with presence is there only when it is set");
        let limits = write("haul.v1.Limits", &pb::Limits::default()).unwrap();
        assert!(limits.contains(r#""hosts":[]"#), "{limits}");
    }

    #[test]
    fn compact_keeps_tokens_as_they_are() {
        assert_eq!(compact("{\n \"a b\" : [1e400 , \"\\\" \\\\\" ] }\n"), r#"{"a b":[1e400,"\" \\"]}"#);
    }
}
