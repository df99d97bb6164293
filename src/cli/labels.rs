//! Labels on the command line.

use std::collections::{BTreeMap, HashMap};

use crate::cli::args::Usage;

/// Reads labels that are written as `KEY=VALUE`.
pub(crate) fn read(texts: &[String]) -> Result<HashMap<String, String>, Usage> {
    let split = |text: &String| {
        let (key, value) = text
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| Usage(format!("`{text}` is not a label; write it like `team=red`")))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    texts.iter().map(split).collect()
}

/// Writes labels on one line, in order of their keys.
pub(crate) fn shown(labels: &HashMap<String, String>) -> String {
    let sorted: BTreeMap<_, _> = labels.iter().collect();
    sorted.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}
