//! What calls are judged by, and what is counted of them: one for the process.

use std::collections::HashSet;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio_util::sync::CancellationToken;

use crate::api::access::bounds::{CallBounds, Counted, OpenWatches};
use crate::api::access::caller::{Policy, Rules};
use crate::api::access::refusals::Refusals;
use crate::api::access::sessions::Sessions;
use crate::api::access::table::Exposure;
use crate::api::access::uses::Uses;
use crate::engine::handle::Engine;
use crate::model::book::Book;
use crate::model::identity::Identities;

/// How often it is stored which tokens were used and what was refused.
const KEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Knows who calls. Each call has several clones of it.
#[derive(Clone)]
pub struct Access(Arc<Judge>);

/// What calls are judged by, and what is counted of them.
pub struct Judge {
    pub(super) engine: Engine,
    pub(super) policy: Policy,
    pub(super) identities: Arc<Identities>,
    pub(super) exposure: Exposure,
    /// Paths of methods whose answers go on.
    pub(super) streaming: HashSet<String>,
    pub(super) bounds: CallBounds,
    pub(super) counted: Arc<Counted>,
    pub(super) watches: OpenWatches,
    pub(super) refusals: Refusals,
    pub(super) uses: Uses,
    pub(super) sessions: Sessions,
    pub(super) closing: CancellationToken,
}

impl Deref for Access {
    type Target = Judge;

    fn deref(&self) -> &Judge {
        &self.0
    }
}

impl Access {
    /// Makes the layer for the services of these descriptors. `identities` are those of the settings; `closing` ends streams
    /// of services that do not end them by themselves.
    pub fn new(
        engine: Engine,
        policy: Policy,
        identities: Arc<Identities>,
        exposure: Exposure,
        bounds: CallBounds,
        descriptors: &[&[u8]],
        closing: CancellationToken,
    ) -> Access {
        let mut streaming = HashSet::new();
        let sets = descriptors.iter().filter_map(|bytes| FileDescriptorSet::decode(*bytes).ok());
        for file in sets.flat_map(|set| set.file) {
            for service in &file.service {
                let methods = service.method.iter().filter(|method| method.server_streaming());
                streaming
                    .extend(methods.map(|method| format!("{}.{}/{}", file.package(), service.name(), method.name())));
            }
        }
        Access(Arc::new(Judge {
            engine,
            policy,
            identities,
            exposure,
            streaming,
            bounds,
            counted: Arc::default(),
            watches: OpenWatches::default(),
            refusals: Refusals::default(),
            uses: Uses::default(),
            sessions: Sessions::default(),
            closing,
        }))
    }

    /// Stores each minute which tokens were used and what was refused, until `closing`.
    pub async fn store_uses(self, closing: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(KEEP_INTERVAL) => self.flush().await,
                () = closing.cancelled() => return,
            }
        }
    }

    /// Stores which tokens were used and what was refused since that was stored last.
    pub async fn flush(&self) {
        self.uses.flush(&self.engine).await;
        let rows = self.refusals.take(self.engine.now());
        let count = rows.len();
        if count > 0
            && let Err(error) = self.engine.audit(rows).await
        {
            tracing::warn!(count, "refused calls are not in the audit: {error}");
        }
    }

    /// Returns the watches that are open.
    pub fn watches(&self) -> OpenWatches {
        self.watches.clone()
    }

    /// Returns whether a token is needed just now.
    pub fn is_token_needed(&self) -> bool {
        self.policy.is_required(&self.engine.books().borrow())
    }

    /// Returns what a request is judged by, with this book.
    pub(super) fn rules<'a>(&'a self, book: &'a Book) -> Rules<'a> {
        Rules { policy: self.policy, identities: &self.identities, book, sessions: &self.sessions }
    }
}
