//! Labels on the command line.

use std::collections::{BTreeMap, HashMap};

use crate::cli::args::Usage;
use crate::model::text;

/// Reads labels that are written as `KEY=VALUE`.
pub(crate) fn read(texts: &[String]) -> Result<HashMap<String, String>, Usage> {
    let mut labels = HashMap::new();
    for text in texts {
        let (key, value) = text
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| Usage(format!("`{}` is not a label; write it like `team=red`", text::shown(text))))?;
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Usage(format!("the label `{}` is given twice; give it once", text::shown(key))));
        }
    }
    Ok(labels)
}

/// Writes labels on one line, in order of their keys.
pub(crate) fn shown(labels: &HashMap<String, String>) -> String {
    let sorted: BTreeMap<_, _> = labels.iter().collect();
    sorted.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}
