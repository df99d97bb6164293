//! Streams that stay open, counted over all clients and services.

use std::sync::Arc;

use futures_util::stream::{BoxStream, Stream, StreamExt as _};
use tokio::sync::Semaphore;
use tonic::{Response, Status};

use crate::api::status::exhausted;

/// The most streams that one server holds open.
const WATCHERS_MAX: usize = 10_000;

/// The places of streams that stay open.
#[derive(Clone, Debug)]
pub struct Watchers(Arc<Semaphore>);

impl Default for Watchers {
    fn default() -> Self {
        Watchers(Arc::new(Semaphore::new(WATCHERS_MAX)))
    }
}

impl Watchers {
    /// Counts a stream until it is dropped.
    pub(crate) fn watched<T: Send + 'static>(
        &self,
        stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Result<Response<BoxStream<'static, Result<T, Status>>>, Status> {
        let message =
            || format!("{WATCHERS_MAX} streams are open already, as many as the server holds; end some, or poll");
        let place = self.0.clone().try_acquire_owned();
        let place = place.map_err(|_| exhausted("TOO_MANY_WATCHERS", "watchers", message()))?;
        let stream = stream.map(move |message| {
            let _keep = &place;
            message
        });
        Ok(Response::new(stream.boxed()))
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_stream_is_dropped() {
        let watchers = Watchers(Arc::new(Semaphore::new(1)));
        let open = || watchers.watched(futures_util::stream::pending::<Result<(), Status>>());
        let first = open().unwrap();
        let refused = open().map(|_| ()).unwrap_err();
        assert_eq!(refused.get_details_error_info().unwrap().reason, "TOO_MANY_WATCHERS");
        assert!(refused.get_details_quota_failure().is_some() && refused.get_details_retry_info().is_some());
        drop(first);
        assert!(open().is_ok());
    }
}
