//! One attempt at a fetch: a request whose response is kept, or a listing that is followed page by page.
//!
//! It knows nothing of tasks, retries or the store: content goes out through [`Sink`], and the next attempt at a
//! listing goes on from the [`PageCursor`] of the last page that the sink kept. Memory is bounded by one response:
//! `max_response_bytes` where JSON has to be looked at, [`INLINE_BYTES_MAX`] where not.

mod attempt;
mod body;
pub mod json;
mod mark;
mod pages;
mod scan;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::model::credential::echo::Echo;
use crate::model::failure::Failure;
use crate::model::outcome::{AttemptEnd, AttemptReport};
use crate::model::progress::Meter;
use crate::model::time::Timestamp;
use crate::net::{Profile, Transport};

pub use attempt::run;
pub use pages::{Next, PageCursor};

/// Bodies up to this are handed over in memory, and larger ones spooled: 64 KiB.
pub const INLINE_BYTES_MAX: usize = 64 << 10;

/// What an attempt needs.
pub struct FetchContext<'a> {
    /// How requests go out.
    pub transport: &'a dyn Transport,
    /// What they have in common.
    pub profile: &'a Arc<Profile>,
    /// What must not be in the content. The transport looks for it in bodies as they come, and this is for decoded ones.
    pub echo: Option<&'a Arc<Echo>>,
    /// Told of every byte that comes in.
    pub meter: &'a Arc<Meter>,
    /// Where the content goes.
    pub sink: &'a dyn Sink,
    /// What dates in `Retry-After` count from where an answer has no `Date`.
    pub now: &'a (dyn Fn() -> Timestamp + Send + Sync),
    /// Ends the attempt as [`AttemptEnd::Stopped`], whatever it is waiting for.
    pub stop: &'a CancellationToken,
    /// Set where the request must not be sent twice: ends the attempt as long as none is under way. One that is goes on, and
    /// if `stop` ends it the attempt has failed.
    pub rest: Option<&'a CancellationToken>,
    /// The longest wait that an origin may ask for.
    pub retry_after_max: Duration,
    /// Statuses that the task wants to be tried again: successes among them fail, unless the task accepts them by name.
    pub retry_statuses: &'a [u16],
    /// The cursor of the last page that was kept, when an earlier attempt kept some.
    pub resume: Option<PageCursor>,
}

/// Where content goes.
pub trait Sink: Send + Sync {
    /// Begins a body that is too large to be handed over in memory.
    fn spool(&self) -> BoxFuture<'_, Result<Box<dyn Spool>, Failure>>;

    /// Keeps a page of a listing together with its cursor. The page must be durable when this returns: only then is the
    /// next one asked for.
    fn page(&self, page: Page) -> BoxFuture<'_, Result<(), Failure>>;
}

/// A body on its way to wherever large bodies are. Dropped before [`Spool::finish`], it leaves nothing.
pub trait Spool: Send {
    /// Takes the next bytes.
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), Failure>>;

    /// Ends it, and returns the name that the sink's owner finds it by.
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<String, Failure>>;
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// From 0.
    pub number: u32,
    /// The index of its first item among all items of the listing, from 0.
    pub first_item: u64,
    /// How many of its items belong to the listing: the first ones, all unless `max_items` ends within the page.
    pub item_count: u32,
    /// Its JSON as it was sent, decoded; [`json::items`] finds the items in it.
    pub body: Bytes,
    /// Where the listing stands once this page is kept.
    pub cursor: PageCursor,
}

/// The body of a response that was not a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchedBody {
    /// At most [`INLINE_BYTES_MAX`].
    Inline(Bytes),
    /// A larger one.
    Spooled {
        /// What [`Spool::finish`] returned.
        name: String,
        /// Its size.
        bytes: u64,
    },
}

/// What an attempt came to.
#[derive(Debug)]
pub struct Fetched {
    /// How it ended.
    pub end: AttemptEnd,
    /// What it saw, whatever its end.
    pub report: AttemptReport,
    /// The body, when it is done and was no listing.
    pub body: Option<FetchedBody>,
}
