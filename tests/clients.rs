//! Clients in other languages: those of `clients/`, as their guide uses them, while their server is killed and over TLS, and
//! errors as plain generated clients see them.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test ends at the first surprise.
#![allow(clippy::print_stderr)] // What is not tested is said.

#[path = "support/mod.rs"]
mod support;

mod clients {
    mod cuts;
    mod ends;
    mod errors;
    mod guide;
    mod programs;
    mod secure;
}
