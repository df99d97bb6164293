//! A real file system that is small.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A tmpfs of its own; dropping it unmounts it.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Of so many bytes, as `mount` takes them, at a directory that is there. `None`, said aloud so that nobody takes the
    /// test for passed: it needs root.
    #[allow(clippy::print_stderr)]
    pub fn mount(place: &Path, size: &str) -> Option<SmallDisk> {
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(place).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk(place.to_owned()));
        }
        eprintln!("SKIPPED: no small file system can be mounted here (it needs root)");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: what a killed server had open may still be closing.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}
