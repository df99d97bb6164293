//! Re-exports the generated messages and services of `haul.v1`, and has no code of its own.

#![allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]

tonic::include_proto!("haul.v1");
include!(concat!(env!("OUT_DIR"), "/servers/haul.v1.rs"));

/// Every file of the contract with its imports, for reflection and for JSON.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/haul.bin"));
