//! Downloads over real sockets from an origin that misbehaves. Each test asserts the final bytes and what the origin saw.

// Set-up that fails should end the test at once.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "support/mod.rs"]
mod support;

#[path = "download/chaos.rs"]
mod chaos;
#[path = "download/durable.rs"]
mod durable;
#[path = "download/files.rs"]
mod files;
#[path = "download/http2.rs"]
mod http2;
#[path = "download/interleavings.rs"]
mod interleavings;
#[path = "download/mirrors.rs"]
mod mirrors;
#[path = "download/pairs.rs"]
mod pairs;
#[path = "download/promise.rs"]
mod promise;
#[path = "download/ranges.rs"]
mod ranges;
#[path = "download/resume.rs"]
mod resume;
#[path = "download/rig.rs"]
mod rig;
#[path = "download/room.rs"]
mod room;
#[path = "download/segments.rs"]
mod segments;
