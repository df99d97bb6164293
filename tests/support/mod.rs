//! What the black-box tests have in common. A test file takes it in with `#[path = "support/mod.rs"] mod support;`
//! (or `mod support;` where it lies beside it) and uses the parts that it needs.

// Each test binary uses another part of it, and a failed set-up should end the test at once.
#![allow(dead_code, unreachable_pub, missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc, clippy::return_self_not_must_use)]

pub mod answer;
pub mod collector;
pub mod disk;
pub mod faults;
pub mod object;
pub mod origin;
pub mod proxy;
pub mod relay;
pub mod reply;
pub mod request;
pub mod secure;
pub mod server;
pub mod spec;
pub mod switch;
pub mod tls;
