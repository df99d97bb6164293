//! Translates between gRPC and the engine: each handler validates, converts, makes one call, and converts back.
//!
//! Reads go to the store, changes to the engine. Nothing is decided here.

pub mod access;
mod add_tasks;
pub mod admin;
mod bodies;
pub mod client_options;
pub mod complete;
pub mod content;
mod control_jobs;
mod credentials;
pub mod deadline;
mod events;
mod filters;
mod flush;
pub mod frames;
pub mod framing;
mod from_proto;
pub mod guard;
pub mod inbound;
mod items;
pub mod jobs;
mod kept_ids;
mod looks;
mod lookup;
pub(crate) mod options;
pub mod outbound;
mod pages;
pub mod request_id;
mod shown;
mod spec_to_proto;
pub mod status;
pub(crate) mod to_proto;
mod totals;
mod values;
mod watch;
mod watch_jobs;
pub mod watchers;
mod work;
