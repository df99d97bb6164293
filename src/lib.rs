//! haul: durable fetch and download jobs over gRPC.

pub mod model;
pub mod net;
pub mod pb;
pub mod store;
