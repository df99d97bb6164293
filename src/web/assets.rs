//! The files of the dashboard, which are part of the program: `build.rs` lists and compresses what is in `web/dist/`.

use bytes::Bytes;
#[cfg(debug_assertions)]
use std::path::Path;

/// A file of the dashboard.
#[derive(Clone, Debug)]
pub(super) struct Asset {
    /// Its name, which is also its path.
    pub(super) name: &'static str,
    /// Names these bytes, and changes with them.
    pub(super) tag: String,
    /// The bytes as they are.
    pub(super) plain: Bytes,
    /// The bytes compressed by brotli.
    pub(super) brotli: Option<Bytes>,
}

/// A file as `build.rs` writes it down.
struct Embedded {
    name: &'static str,
    tag: &'static str,
    plain: &'static [u8],
    brotli: &'static [u8],
}

/// Brings `EMBEDDED`, the list of the files.
mod embedded {
    use super::Embedded;
    include!(concat!(env!("OUT_DIR"), "/assets.rs"));
}

/// The page, and the page of paths that do not exist.
pub(super) const INDEX: &str = "index.html";

/// Returns a file by its name.
pub(super) fn find(name: &str) -> Option<Asset> {
    let it = embedded::EMBEDDED.iter().find(|it| it.name == name)?;
    #[cfg(debug_assertions)]
    if let Some(folder) = std::env::var_os("HAUL_WEB_DIR") {
        return read(Path::new(&folder), it.name);
    }
    Some(Asset {
        name: it.name,
        tag: it.tag.to_owned(),
        plain: Bytes::from_static(it.plain),
        brotli: Some(Bytes::from_static(it.brotli)),
    })
}

/// Reads a file anew for each request, so that whoever works on the dashboard sees it without building the program.
#[cfg(debug_assertions)]
fn read(folder: &Path, name: &'static str) -> Option<Asset> {
    let plain = Bytes::from(std::fs::read(folder.join(name)).ok()?);
    let tag = plain.iter().fold(0_u64, |tag, byte| tag.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    Some(Asset { name, tag: format!("{tag:016x}"), plain, brotli: None })
}
