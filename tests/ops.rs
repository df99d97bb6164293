//! What operators have beside the program: metrics, alerts, a dashboard, packages.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test ends at the first surprise.
#![allow(clippy::print_stderr)] // What is not tested is said.

#[path = "support/mod.rs"]
mod support;

mod ops {
    mod alerts;
    mod deployments;
    mod metrics;
    mod packages;
    mod scraping;
    mod tools;
    mod traces;
}
