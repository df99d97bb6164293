//! Attempts at fetches, over real sockets.

// Set-up that fails should end the test at once.
#![allow(clippy::unwrap_used)]

#[path = "support/mod.rs"]
mod support;

#[path = "fetch/bench.rs"]
mod bench;
#[path = "fetch/pages.rs"]
mod pages;
#[path = "fetch/responses.rs"]
mod responses;
