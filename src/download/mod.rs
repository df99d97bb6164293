//! One attempt at a download: probe, plan, transfer, verify, commit.
//!
//! Each step consumes the one before ([`probe::Probed`], [`plan::Planned`], [`transfer::Transferred`],
//! [`finish::Verified`]), so that what was not verified cannot be committed. The first request is the probe: there is no
//! HEAD, and its body is the first connection of the transfer. Every request starts from the URL that the client gave,
//! so a redirect target that has expired is resolved anew.
//!
//! A chunk goes from the socket into the file and the digest in one task, without a channel: all connections of one
//! download are polled by the future that [`run`] returns. It knows nothing of jobs, other tasks, or what becomes of a
//! failure; whether another attempt follows is for the engine.

mod announced;
mod ask;
mod attempt;
mod board;
mod carry;
mod ending;
mod existing;
mod finish;
mod flow;
mod held;
mod made;
mod order;
mod plan;
mod probe;
mod resume;
mod transfer;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use crate::download::made::made_from;
use crate::files::folder::join;
use crate::files::part::{Part, PartKey};
use crate::files::{Durability, Root, names};
use crate::model::credential::echo::Echo;
use crate::model::failure::{Failure, FailureReason};
use crate::model::outcome::{AttemptEnd, AttemptReport, Outcome, ShortOf};
use crate::model::progress::Meter;
use crate::model::retry::RetryPolicy;
use crate::model::spec::DownloadSpec;
use crate::model::storage::StorageHold;
use crate::model::time::Timestamp;
use crate::net::{Profile, Transport};

/// What an attempt works with.
#[derive(Clone, Copy)]
#[allow(clippy::struct_excessive_bools)] // Each is a fact of its own.
pub struct DownloadContext<'a> {
    /// Guarded, limited and timed; a request may wait in it for its permit.
    pub transport: &'a dyn Transport,
    /// What the requests have in common.
    pub profile: &'a Arc<Profile>,
    /// What must not be in the file.
    pub echo: Option<&'a Arc<Echo>>,
    /// Where files go.
    pub root: &'a Arc<Root>,
    /// The job's directory, relative to the root.
    pub directory: &'a str,
    /// Names the part file; belongs to one task for ever. Letters, digits, `-` and `_`.
    pub part_key: &'a str,
    /// Whether another process may use the same key, as it is made of the URL.
    pub part_is_shared: bool,
    /// Whether the task had an attempt before: else nothing can be left of one, and nothing is looked for.
    pub has_history: bool,
    /// Whether it is the first of its run, which asks all sources anew, whatever was noted of their turns in a run before.
    pub is_first: bool,
    /// Whether none follows if it fails.
    pub is_last: bool,
    /// When and how often a source is asked again.
    pub retry: &'a RetryPolicy,
    /// What it holds of the storage of its tenant.
    pub storage: &'a StorageHold,
    /// Shows how far it is.
    pub meter: &'a Meter,
    /// Stops it, at a checkpoint.
    pub stop: &'a CancellationToken,
    /// Cancelled once the store knows of the attempt. Nothing of it gets a name before: after a kill nobody would find it.
    pub stored: &'a CancellationToken,
    /// How far the finished file is forced to the device.
    pub durability: Durability,
    /// Sizes and times.
    pub settings: &'a Settings,
    /// The longest pause that an origin may ask for.
    pub retry_after_max: Duration,
    /// The wall clock.
    pub now: &'a (dyn Fn() -> Timestamp + Send + Sync),
}

/// Sizes and times of downloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A checkpoint follows after so many bytes.
    pub checkpoint_bytes: u64,
    /// A checkpoint follows after so long, if bytes came.
    pub checkpoint_interval: Duration,
    /// No segment is made smaller.
    pub segment_bytes_min: u64,
    /// Where the client leaves the number of connections to us: from this size on there may be several.
    pub segmented_from_bytes: u64,
    /// Where the client leaves the number of connections to us: the most.
    pub connections_auto: u32,
    /// Where the client leaves the number of connections to us: how long one alone is given, and each one more.
    pub grow_after: Duration,
    /// How long a connection that has nothing to do waits before it fetches the last bytes of a slower one again.
    pub race_after: Duration,
    /// The most bytes of a file whose task sets no limit of its own; `None`: any number.
    pub max_bytes: Option<u64>,
    /// A download that has gone on for so long holds no more room than it will take soon: an origin may announce any size, and
    /// send it as slowly as it likes.
    pub room_after: Duration,
    /// What soon means: within so long, at the speed that it had so far.
    pub room_time: Duration,
    /// And so much room in any case.
    pub room_bytes_min: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            checkpoint_bytes: 256 << 20,
            checkpoint_interval: Duration::from_secs(1),
            segment_bytes_min: 1 << 20,
            segmented_from_bytes: 16 << 20,
            connections_auto: 4,
            grow_after: Duration::from_secs(1),
            race_after: Duration::from_millis(500),
            max_bytes: None,
            room_after: Duration::from_secs(60),
            room_time: Duration::from_secs(3600),
            room_bytes_min: 64 << 20,
        }
    }
}

/// Makes one attempt at `spec`. What it holds at its end, if that is not a file, is checkpointed.
pub async fn run(ctx: &DownloadContext<'_>, spec: &DownloadSpec) -> (AttemptEnd, AttemptReport) {
    // Boxed: it is large, and the futures around it would be too.
    let (end, report) = Box::pin(attempt::run(ctx, spec)).await;
    let end = match end {
        Ok(result) => AttemptEnd::Done(Outcome::Download(result)),
        Err(Halt::Failed(failure)) => AttemptEnd::Failed(failure),
        Err(Halt::Stopped) => AttemptEnd::Stopped,
        Err(Halt::NoSpace { of, folder, needed_bytes, message }) => {
            AttemptEnd::NoSpace { of, folder, needed_bytes, message }
        }
    };
    (end, report)
}

impl DownloadContext<'_> {
    /// Whether what is kept of the attempt will be found. Parts that are named by their URL always are.
    fn is_known(&self) -> bool {
        self.part_is_shared || self.stored.is_cancelled()
    }

    /// Whether another attempt follows this failure, unless it was the last.
    fn may_follow(&self, failure: &Failure) -> bool {
        failure.retryable || self.retry.asks_for(failure)
    }

    /// What it means that work failed which ends early when the attempt is stopped.
    fn stopped_or(&self, failure: Failure) -> Halt {
        if self.stop.is_cancelled() { Halt::Stopped } else { failure.into() }
    }
}

/// The directory, relative to the root, that a download's file and its part lie in.
pub fn folder(directory: &str, spec: &DownloadSpec) -> Result<String, Failure> {
    Ok(Target::of(directory, spec)?.folder)
}

/// Removes the part of this key if nothing can ever become of it, since neither a validator nor a digest would prove that
/// the rest belongs to it: no later run could go on with it.
pub async fn drop_hopeless(
    root: &Arc<Root>,
    folder: &str,
    key: PartKey<'_>,
    spec: &DownloadSpec,
) -> Result<(), Failure> {
    match Part::find(root, folder, key)? {
        Some(part) if part.stored().is_some_and(|held| resume::can_go_on(held, !spec.checksums.is_empty())) => Ok(()),
        Some(part) => part.discard().await,
        None => Ok(()),
    }
}

/// Where a download goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    /// Relative to the root.
    folder: String,
    /// What the client called it; `None`: to be derived.
    name: Option<String>,
}

impl Target {
    fn of(directory: &str, spec: &DownloadSpec) -> Result<Target, Failure> {
        if !directory.is_empty() {
            names::check(directory)?;
        }
        if spec.path.is_empty() {
            return Ok(Target { folder: directory.to_owned(), name: None });
        }
        let (above, name) = names::split(&spec.path)?;
        Ok(Target { folder: join(directory, above), name: Some(name.to_owned()) })
    }
}

/// Why an attempt does not go on.
#[derive(Debug)]
enum Halt {
    Failed(Failure),
    Stopped,
    /// The file system of this directory, or the tenant, lacks room for so many bytes.
    NoSpace {
        of: ShortOf,
        folder: String,
        needed_bytes: u64,
        message: String,
    },
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Halt {
        Halt::Failed(failure)
    }
}

/// Returns whether a failure concerns the local disk or names, so that another source would not help, or must end it all.
fn is_local(failure: &Failure) -> bool {
    use FailureReason as R;
    matches!(failure.reason, R::Io | R::DiskFull | R::ForbiddenPath | R::FileExists | R::Internal | R::SecretEchoed)
}
