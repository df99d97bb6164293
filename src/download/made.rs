//! Which source a file was made from.

use sha2::{Digest as _, Sha256};
use url::Url;

use crate::files::Root;
use crate::files::commit::{Taken, made_before};
use crate::model::checksum::hex;
use crate::model::secret::source_name;

/// What a source is recognised by in what is kept on the disk.
pub(super) fn source_id(url: &Url) -> String {
    hex(&Sha256::digest(source_name(url))[..16])
}

/// The name of the file in the directory that a download made from this URL: `name`, or one that a rename gave it.
pub fn made_from(root: &Root, name: &str, url: &Url) -> Option<String> {
    let folder = root.find_folder("").ok()??;
    let sources = [source_id(url)];
    let found = made_before(root, &folder, name, &sources, &Taken::ReplaceOwn(Vec::new())).ok()?;
    found.map(|(name, _)| name)
}
