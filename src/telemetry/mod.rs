//! What the process says about itself: the log here, what it counts in [`metrics`], and [`traces`] of what it does.
//!
//! The log is lines on stderr, as text or as JSON, filtered by `HAUL_LOG`. A log that cannot be written loses lines and counts them; it never stops, slows or ends what it reports on.

pub mod calls;
pub mod metrics;
pub mod process;
pub mod traces;
mod writer;

use std::env::{self, VarError};
use std::io::IsTerminal as _;
use std::sync::Arc;

use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::model::text;
use crate::telemetry::writer::{LogWriter, Queue};

/// The variable that filters the log.
pub const FILTER_VARIABLE: &str = "HAUL_LOG";

/// How lines of the log are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people, coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The value of `HAUL_LOG` is not a filter.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`HAUL_LOG` {0}; write a level (error, warn, info, debug, trace, off), or a list like `warn,haul::engine=debug`"
)]
pub struct FilterError(String);

/// The running log. Dropping it writes what is still queued, waiting for a blocked stderr no longer than a second.
#[derive(Debug)]
pub struct Log {
    queue: Arc<Queue>,
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Starts the log of the process. Without `HAUL_LOG` it shows `fallback` and what is worse.
///
/// # Errors
/// When `HAUL_LOG` is not a filter. When the writing thread cannot be started the log is silent, which is no reason to end.
pub fn start(format: LogFormat, fallback: Level) -> Result<Log, FilterError> {
    let filter = match env::var(FILTER_VARIABLE) {
        Ok(text) if !text.trim().is_empty() => filter(&text)?,
        Ok(_) | Err(VarError::NotPresent) => Targets::new().with_default(fallback),
        Err(VarError::NotUnicode(_)) => return Err(FilterError("is not text in UTF-8".to_owned())),
    };
    let colours = format == LogFormat::Text && colours_stderr();
    let queue = Queue::start();
    let clean: fn(&str) -> String = match format {
        LogFormat::Json => |line| text::json_escaped(line).into_owned(),
        LogFormat::Text if colours => text::plain_coloured,
        LogFormat::Text => |line| text::plain(line).into_owned(),
    };
    let writer = LogWriter::new(queue.clone(), clean);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).log_internal_errors(false);
    // Fails only when the process has a log already, as in tests of this library: that one stays.
    let _ = match format {
        LogFormat::Text => registry.with(layer.with_ansi(colours)).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true).with_current_span(false)).try_init(),
    };
    Ok(Log { queue })
}

/// Returns whether stderr shows colours: a terminal that nobody asked to stay without (<https://no-color.org>).
fn colours_stderr() -> bool {
    let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !is_set("NO_COLOR") && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Reads a filter. A bare word is a level or a part of haul: `inof` would otherwise be a target that nothing has, and the
/// log would be silent without a reason that anybody sees.
fn filter(text: &str) -> Result<Targets, FilterError> {
    let wrong = |error: &dyn std::fmt::Display| {
        FilterError(format!("is `{}`, which is not a filter: {error}", text.escape_debug()))
    };
    // The parser of directives takes what has no level, or no target, for one.
    let is_half = |directive: &str| directive.split('=').any(|part| part.trim().is_empty());
    for directive in text.split(',').map(str::trim) {
        if directive.contains('=') {
            if is_half(directive) {
                return Err(wrong(&format!("`{}` needs a target and a level", directive.escape_debug())));
            }
            continue;
        }
        let is_ours = directive == "haul" || directive.starts_with("haul::");
        // The parser of levels takes an empty text for one.
        if !is_ours && (directive.is_empty() || directive.parse::<LevelFilter>().is_err()) {
            return Err(FilterError(format!("has `{}`, which is not a level", directive.escape_debug())));
        }
    }
    text.parse().map_err(|error: tracing_subscriber::filter::ParseError| wrong(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_levels_and_targets() {
        for good in ["info", "WARN", "off", "haul=debug", "warn,haul::engine=trace", "haul", "info, hyper=debug"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["inof", "haul=loud", "info,,debug", "debug,sqlx", "a=b=c", "info;debug", "haul=", "=debug", "="] {
            let message = filter(bad).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(message.starts_with("`HAUL_LOG` ") && message.contains("error, warn, info"), "{bad}: {message}");
        }
    }
}
