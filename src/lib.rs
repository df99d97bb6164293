//! haul: durable fetch and download jobs over gRPC.

pub mod download;
pub mod files;
pub mod model;
pub mod net;
pub mod pb;
