//! The command line: one file per command. `serve` and `get` run an engine in this process; the rest are clients of a
//! server and speak its contract.
//!
//! Exit codes: 0 when what was asked for is done, 1 when it failed, 2 when it was asked for in a way that cannot be.

mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::raw::ServeArgs;

/// Durable fetch and download jobs over gRPC.
#[derive(Debug, Parser)]
#[command(name = "haul", version, about)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    Serve(Box<ServeArgs>),
}

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    // One provider of TLS in the whole process, chosen before anything can ask for one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let line = Line::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(threads()).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error).context("cannot start the runtime")),
    };
    let result = runtime.block_on(async {
        match line.command {
            Command::Serve(args) => serve::run(&args).await,
        }
    });
    result.unwrap_or_else(|error| failed(&error))
}

/// Calls, scheduling and answers need little; the transfers have threads of their own.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).div_ceil(2).clamp(1, 4)
}

#[allow(clippy::print_stderr)] // A command says why it failed.
fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("haul: {error:#}");
    ExitCode::FAILURE
}
