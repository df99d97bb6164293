//! The log: to stderr, filtered by `HAUL_LOG`.

use tracing_subscriber::EnvFilter;

/// Starts the log. `HAUL_LOG` has the syntax of `tracing`'s filters; without it `fallback` holds.
pub fn start(fallback: &str) {
    let filter = EnvFilter::try_from_env("HAUL_LOG").unwrap_or_else(|_| EnvFilter::new(fallback));
    // A second start in one process (tests) finds the first one's log in place.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}
