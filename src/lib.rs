//! haul: durable fetch and download jobs over gRPC.

pub mod config;
pub mod model;
pub mod net;
pub mod pb;
pub mod store;
