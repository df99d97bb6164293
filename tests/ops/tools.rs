//! Programs that a test needs and that are not on every machine.

use std::path::{Path, PathBuf};

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A program that `scripts/tools` installs. `None`, with a word about it, where it cannot be had.
pub(crate) fn tool(name: &str, variable: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let path = named.unwrap_or_else(|| root().join(".tools").join(name));
    if path.exists() {
        return Some(path);
    }
    skip(&format!("there is no {name}: run scripts/tools, or set {variable}"));
    None
}

/// Says that something is not tested.
pub(crate) fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// Reads a file of the repository.
pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
