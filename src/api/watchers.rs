//! Streams that stay open, counted over all clients and services, and the files that are open for them.

use std::sync::Arc;

use futures_util::stream::{BoxStream, Stream, StreamExt as _};
use tonic::{Response, Status};

use crate::api::kept_ids::KeptIds;
use crate::api::status::exhausted;
use crate::listen::budget::{Budget, Holder, Taken};

/// The most streams that one server holds open.
const WATCHERS_MAX: u64 = 10_000;

/// The places of streams that stay open. Nobody takes more than are left free.
#[derive(Clone, Debug)]
pub struct Watchers {
    streams: Arc<Budget>,
    files: Arc<Budget>,
    files_max: u64,
    ids: Arc<KeptIds>,
}

/// A place of a stream.
pub(crate) type Watching = Taken;

impl Watchers {
    /// Makes the places of a server that may have so many files open for streams.
    pub fn new(files_max: u64) -> Watchers {
        let (streams, files) = (Arc::new(Budget::new(WATCHERS_MAX)), Arc::new(Budget::new(files_max)));
        Watchers { streams, files, files_max, ids: Arc::default() }
    }

    /// Returns what counts the ids of jobs that streams keep.
    pub(crate) fn ids(&self) -> &Arc<KeptIds> {
        &self.ids
    }

    /// Counts a stream of somebody until it is dropped.
    pub(crate) fn watched<T: Send + 'static>(
        &self,
        holder: Holder,
        stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Result<Response<BoxStream<'static, Result<T, Status>>>, Status> {
        Ok(kept(self.place(holder)?, stream))
    }

    /// Takes a place for a stream of somebody.
    pub(crate) fn place(&self, holder: Holder) -> Result<Watching, Status> {
        self.streams.take(holder, 1).map_err(|_| {
            let message = format!(
                "too many of the {WATCHERS_MAX} streams that the server holds are open already; end some, or poll"
            );
            exhausted("TOO_MANY_WATCHERS", "watchers", message)
        })
    }

    /// Takes a place for a file that a stream of somebody keeps open.
    pub(crate) fn file(&self, holder: Holder) -> Result<Watching, Status> {
        self.files.take(holder, 1).map_err(|_| {
            let message = format!(
                "too many of the {} files that the server opens for its readers are open already; read them to their \
                 ends first",
                self.files_max
            );
            exhausted("TOO_MANY_WATCHERS", "open_files", message)
        })
    }
}

/// Returns an answer that keeps a place until it is dropped.
pub(crate) fn kept<T: Send + 'static, P: Send + 'static>(
    place: P,
    stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> Response<BoxStream<'static, Result<T, Status>>> {
    let stream = stream.map(move |message| {
        let _keep = &place;
        message
    });
    Response::new(stream.boxed())
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_stream_is_dropped() {
        let watchers = Watchers { streams: Arc::new(Budget::new(4)), ..Watchers::new(4) };
        let open =
            |number| watchers.watched(Holder::Known(number), futures_util::stream::pending::<Result<(), Status>>());
        let (first, _second) = (open(1).unwrap(), open(1).unwrap());
        let refused = open(1).map(|_| ()).unwrap_err();
        assert_eq!(refused.get_details_error_info().unwrap().reason, "TOO_MANY_WATCHERS");
        assert!(refused.get_details_quota_failure().is_some() && refused.get_details_retry_info().is_some());
        let other = open(2).expect("there is one for another");
        drop((first, other));
        assert!(open(1).is_ok());
        let _files = (watchers.file(Holder::Owner).unwrap(), watchers.file(Holder::Known(1)).unwrap());
        assert!(watchers.file(Holder::Known(1)).is_err() && watchers.file(Holder::Known(2)).is_ok());
    }
}
