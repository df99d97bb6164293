//! The command line, as a person and as a script use it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test ends at the first surprise.
#![allow(clippy::print_stderr)] // What is not tested is said.

#[path = "support/mod.rs"]
mod support;

mod cli {
    mod checking;
    mod checks;
    mod choosing;
    mod clients;
    mod feeding;
    mod get;
    mod guides;
    mod log;
    mod mistakes;
    mod readme;
    mod reference;
    mod rights;
    mod screens;
    mod terminal;
    mod top;
    mod words;
}
