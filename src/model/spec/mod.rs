//! What a client asked for, as it is kept: [`JobSpec`] and [`TaskSpec`]. Options stay partial, as they were set;
//! [`Options`] is what an attempt runs with.
//!
//! The stored form is JSON without what is unset, so that it is small and an older row stays readable.

mod download;
mod fetch;
mod job;
mod options;
mod resolved;
mod task;

pub use download::{DownloadSpec, OnConflict};
pub use fetch::{FetchSpec, PageStyle, Pagination};
pub use job::JobSpec;
pub use options::{HeaderSpec, HttpOptions, RetryOptions, SharedOptions, TaskOptions, TimeoutOptions};
pub use resolved::{HttpParts, Options, Timeouts};
pub use task::{TaskSpec, Work};
