//! What commands print: JSON for programs, tables and lines for people.

use std::io::Write as _;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

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

fn pool() -> anyhow::Result<DescriptorPool> {
    Ok(DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET)?)
}

fn descriptor(name: &str) -> anyhow::Result<prost_reflect::MessageDescriptor> {
    pool()?.get_message_by_name(name).ok_or_else(|| anyhow::anyhow!("the contract has no message `{name}`"))
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

/// Prints a line. A closed pipe ends the process quietly: whoever read has seen enough.
pub(crate) fn line(text: &str) {
    bytes(format!("{text}\n").as_bytes());
}

/// Prints bytes as they are; see [`line()`].
pub(crate) fn bytes(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(bytes).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Prints rows under their headings, in columns.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let print = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        line(padded.join("  ").trim_end());
    };
    print(&mut headings.iter().copied());
    for row in rows {
        print(&mut row.iter().map(String::as_str));
    }
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
