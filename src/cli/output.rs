//! What commands print: JSON for programs, tables and lines for people.

use std::io::{ErrorKind, Write as _};
use std::sync::OnceLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};

use crate::cli::client::Usage;
use crate::pb;

/// How a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// The API's JSON, one document a line.
    Json,
}

/// A type of the contract.
fn descriptor(name: &str) -> anyhow::Result<MessageDescriptor> {
    // Read once: a list has a line for each of its messages.
    static POOL: OnceLock<Option<DescriptorPool>> = OnceLock::new();
    let pool = POOL.get_or_init(|| DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET).ok()).as_ref();
    let message = pool.and_then(|pool| pool.get_message_by_name(name));
    message.ok_or_else(|| anyhow::anyhow!("the contract has no message `{name}`"))
}

/// A message as one line of protobuf JSON, with the names of the proto.
pub(crate) fn json(name: &str, message: &impl Message) -> anyhow::Result<String> {
    let dynamic = DynamicMessage::decode(descriptor(name)?, message.encode_to_vec().as_slice())?;
    let mut line = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut line);
    dynamic.serialize_with_options(&mut serializer, &SerializeOptions::new().use_proto_field_name(true))?;
    Ok(String::from_utf8(line)?)
}

/// Reads a message from JSON; a field that the contract has not is an error.
pub(crate) fn from_json<M: Message + Default>(name: &str, text: &str) -> anyhow::Result<M> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let dynamic = DynamicMessage::deserialize(descriptor(name)?, &mut deserializer)
        .and_then(|message| deserializer.end().map(|()| message))
        .map_err(|error| Usage(format!("the JSON is no {name}: {error}")))?;
    Ok(M::decode(dynamic.encode_to_vec().as_slice())?)
}

/// Prints a line. See [`bytes()`].
pub(crate) fn line(text: &str) {
    bytes(format!("{text}\n").as_bytes());
}

/// Prints a message as a line of JSON.
pub(crate) fn json_line(name: &str, message: &impl Message) -> anyhow::Result<()> {
    line(&json(name, message)?);
    Ok(())
}

/// Prints bytes as they are. A closed pipe ends the process quietly: whoever read has seen enough. Anything else that goes
/// wrong (a full disk under a redirect) must not look like success.
pub(crate) fn bytes(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            say(&format!("haul: cannot write to stdout: {error}"));
            std::process::exit(1);
        }
    }
}

/// Says something beside what is printed. If nobody hears it, that is no reason to stop.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Text of others (titles, names, messages of origins) on one line and without what a terminal would obey.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter }).collect()
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

/// Prints rows under their headings, in columns.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) {
    bytes(columns(headings, rows).as_bytes());
}

fn columns(headings: &[&str], rows: &[Vec<String>]) -> String {
    let rows = rows.iter().map(|row| row.iter().map(|cell| plain(cell)).collect::<Vec<_>>());
    let all: Vec<Vec<String>> =
        std::iter::once(headings.iter().map(ToString::to_string).collect()).chain(rows).collect();
    let width = |column: usize| all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..headings.len()).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let padded: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned() + "\n"
    };
    all.iter().map(line).collect()
}

/// A state without its prefix: `JOB_STATE_RUNNING` reads `running`.
pub(crate) fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase().replace('_', " ")
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// A time for people, in UTC.
pub(crate) fn time(time: Option<&prost_types::Timestamp>) -> String {
    time.map(|time| prost_types::Timestamp { nanos: 0, ..*time }.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_read_and_the_contracts_is_written() {
        let read = |text| from_json::<pb::JobSpec>("haul.v1.JobSpec", text);
        let snake =
            read(r#"{"title": "t", "rate_limit": {"bytes_per_second": "7"}, "start_time": "2026-01-02T03:04:05Z"}"#);
        let camel = read(r#"{"title": "t", "rateLimit": {"bytesPerSecond": 7}, "startTime": "2026-01-02T03:04:05Z"}"#);
        let spec = snake.unwrap();
        assert_eq!(spec, camel.unwrap());
        assert_eq!(
            json("haul.v1.JobSpec", &spec).unwrap(),
            r#"{"title":"t","start_time":"2026-01-02T03:04:05Z","rate_limit":{"bytes_per_second":"7"}}"#
        );
        assert!(read(r#"{"titel": "t"}"#).unwrap_err().to_string().contains("titel"));
        assert!(read("{} {}").unwrap_err().is::<Usage>());
    }

    #[test]
    fn compact_leaves_tokens_alone() {
        assert_eq!(compact("{\n \"a b\" : [1e400 , \"\\\" \\\\\" ] }\n"), r#"{"a b":[1e400,"\" \\"]}"#);
    }

    #[test]
    fn columns_are_aligned_and_nothing_moves_the_cursor() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = columns(&["JOB", "STATE", ""], &[row(["1", "running", "ä\x1b[2J"]), row(["12345", "", "x\ny"])]);
        assert_eq!(text, "JOB    STATE\n1      running  ä\u{fffd}[2J\n12345           x\u{fffd}y\n");
    }
}
