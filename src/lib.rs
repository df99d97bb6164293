//! haul: durable fetch and download jobs over gRPC.

pub mod fetch;
pub mod model;
pub mod net;
pub mod pb;
