//! haul: durable fetch and download jobs over gRPC.
//!
//! The modules in reading order. Words: [`model`] is the vocabulary and every decision over it, [`pb`] the generated
//! contract, whose messages [`codec`] reads, from JSON [`protojson`]; [`middleware`] is how anything stands around a call, [`named_file`] how a file is opened that a setting names. Ports: [`clock`], [`store`], [`net`], [`files`], [`limits`] and [`listen`] are the outside world, each behind a small
//! type. Work: [`fetch`] and [`download`] are one attempt each, [`engine`] owns all that runs. Faces: [`imports`] makes tasks of lists, [`api`] speaks
//! gRPC, [`rest`] HTTP and JSON, [`web`] joins them on one listener, [`server`] is the life of the process, [`cli`] the command line, [`config`] its settings, [`telemetry`] its log.
//!
//! `docs/ARCHITECTURE.md` has the map, the invariants and three walkthroughs; `tests/tidy.rs` holds who may import whom.

pub mod codec;
pub mod middleware;
pub mod model;
pub mod named_file;
pub mod pb;
pub mod protojson;

pub mod clock;
pub mod files;
pub mod limits;
pub mod listen;
pub mod net;
pub mod store;
pub mod vault;

pub mod download;
pub mod engine;
pub mod fetch;

pub mod api;
pub mod cli;
pub mod config;
pub mod imports;
pub mod rest;
pub mod server;
pub mod telemetry;
pub mod web;
