//! The store in one `SQLite` database: one connection that writes (see [`SqliteWriter`]), a few that read.
//!
//! Files are by group of tables. Nothing outside knows the internal numbers of jobs or any SQL. Reads are single
//! statements, each of which sees one state of the database; only a page that is looked for among many rows takes several.

mod access;
mod additions;
mod ahead;
mod apply;
mod audit;
mod backup;
mod beside;
mod columns;
mod conditions;
mod contents;
mod credentials;
mod errors;
mod events;
mod expiry;
mod forget;
mod in_place;
mod insert;
mod jobs;
mod keys;
mod legible;
mod lines;
mod listing;
mod lock;
mod log;
mod look;
mod needs;
mod numbers;
mod open;
mod open_error;
mod pages;
mod pauses;
mod pieces;
#[cfg(test)]
mod plans;
mod purge;
mod reader;
mod recovery;
mod reserve;
mod rights;
mod room;
mod rows;
mod rules;
mod schema;
mod script;
mod sealed;
mod states;
mod store;
mod tasks;
mod tasks_found;
mod tending;
mod text;
mod trail;
mod upkeep;
mod values;
mod verify;
mod writer;

pub use crate::store::sqlite::audit::{audit, has_key};
pub use crate::store::sqlite::backup::{BackedUp, BackupError, backup};
pub use crate::store::sqlite::beside::{is_free, look_beside};
pub use crate::store::sqlite::keys::{KeySource, RootKeys};
pub use crate::store::sqlite::open::Durability;
pub use crate::store::sqlite::open_error::OpenError;
pub use crate::store::sqlite::store::SqliteStore;
pub use crate::store::sqlite::verify::{Head, Verified, verify_audit};
pub use crate::store::sqlite::writer::SqliteWriter;
