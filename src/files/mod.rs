//! The disk: the only code of haul that writes to it, apart from the database.
//!
//! Everything lies in the download root, reached through a directory handle that no path, link or name leads out of
//! ([`Root`]); bytes come into being in a part file whose name belongs to one task ([`part::Part`]), pass one gate
//! ([`bound::Bound`]) and are bound to the version of the resource that they were received under ([`binding::Binding`]); a
//! finished file appears under its name whole, checked, synced and at once, or not at all.
//!
//! It knows nothing of HTTP, jobs or retries. Appends and positioned writes go to the page cache and are done in place;
//! what waits for the device (syncing, reading back) is done on the blocking pool.

pub mod aside;
mod beside;
pub mod binding;
pub mod bound;
pub mod candidates;
mod checkpoint;
mod claims;
pub mod commit;
pub mod content;
mod device;
pub mod digest;
pub mod disk;
pub mod doubts;
mod error;
pub mod folder;
pub mod names;
mod open_folders;
pub mod part;
mod publish;
pub mod ranges;
pub mod remarks;
pub mod root;
pub mod roots;
pub mod source;
pub mod space;
mod syncs;
mod together;
mod unnamed;
pub mod version;

pub use beside::{beside, do_here};
pub use content::ContentStore;
pub use root::Root;
pub use roots::Roots;

/// How far a finished file is forced to the device before it is said to be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The file and its directory are synced: it survives a power cut.
    #[default]
    Full,
    /// Left to the kernel, for scratch data.
    None,
}
