//! Where the key is that seals the secrets in the database.

use std::path::PathBuf;

use crate::config::raw::ServeArgs;

/// A place of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPlace {
    /// `file:PATH`, as an absolute path.
    File(PathBuf),
    /// `env:NAME`.
    Env(String),
}

/// The key of a database, kept by the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataKey {
    /// The key.
    pub now: KeyPlace,
    /// The one that it replaces.
    pub previous: Option<KeyPlace>,
}

impl DataKey {
    pub(super) fn resolve(args: &ServeArgs, wrong: &mut Vec<String>) -> Option<DataKey> {
        let previous = args.data_key_previous.as_deref();
        if previous.is_some() && args.data_key.is_none() {
            wrong.push("`data_key_previous` is set without `data_key`, the key that replaces it; set both".to_owned());
        }
        let previous = previous.and_then(|text| place("data_key_previous", text, wrong));
        let now = place("data_key", args.data_key.as_deref()?, wrong)?;
        Some(DataKey { now, previous })
    }
}

/// Reads where the key of a database is, for commands that open one without a server.
pub(crate) fn data_key(text: Option<&str>) -> Result<Option<DataKey>, String> {
    let mut wrong = Vec::new();
    let now = text.and_then(|text| place("--data-key", text, &mut wrong));
    match wrong.pop() {
        Some(wrong) => Err(wrong),
        None => Ok(now.map(|now| DataKey { now, previous: None })),
    }
}

/// The text may be the key itself, so it is not repeated.
fn place(name: &str, text: &str, wrong: &mut Vec<String>) -> Option<KeyPlace> {
    let found = match text.split_once(':') {
        Some(("file", path)) if !path.is_empty() => std::path::absolute(path).ok().map(KeyPlace::File),
        Some(("env", name)) if !name.is_empty() && !name.contains(['=', '\0']) => Some(KeyPlace::Env(name.to_owned())),
        _ => None,
    };
    if found.is_none() {
        wrong.push(format!("`{name}` must say where the key is, as `file:PATH` or `env:NAME`"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(now: Option<&str>, previous: Option<&str>) -> (Option<DataKey>, Vec<String>) {
        let args = ServeArgs {
            data_key: now.map(str::to_owned),
            data_key_previous: previous.map(str::to_owned),
            ..ServeArgs::default()
        };
        let mut wrong = Vec::new();
        let key = DataKey::resolve(&args, &mut wrong);
        (key, wrong)
    }

    #[test]
    fn a_place_is_a_file_or_a_variable() {
        let (now, previous) = (KeyPlace::File("/etc/key".into()), Some(KeyPlace::Env("OLD".into())));
        let expected = DataKey { now, previous };
        assert_eq!(resolve(Some("file:/etc/key"), Some("env:OLD")), (Some(expected), Vec::new()));
        assert_eq!(resolve(None, None), (None, Vec::new()));
    }

    #[test]
    fn what_is_no_place_is_refused_and_not_repeated() {
        let secret = "0123456789abcdef".repeat(4);
        for bad in [secret.as_str(), "file:", "env:", "env:A=B", "kms:x"] {
            let (key, wrong) = resolve(Some(bad), None);
            assert_eq!((key, wrong.len()), (None, 1), "{bad}");
            assert!(!wrong[0].contains(&secret));
        }
        assert_eq!(resolve(None, Some("env:OLD")).1.len(), 1);
    }
}
