//! A page of a running fetch on its way into a batch: plain data.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use crate::model::failure::Failure;
use crate::model::ids::{Fence, TaskId};
use crate::store::NewPage;

/// A page whose attempt waits until it is durable.
pub(super) struct Incoming {
    pub(super) id: TaskId,
    pub(super) fence: Fence,
    pub(super) page: NewPage,
    pub(super) reply: oneshot::Sender<Result<(), Failure>>,
}

/// Pages that wait for the next batch, one of each attempt at most: it holds the page, here or elsewhere.
pub(super) type IncomingPages = VecDeque<Incoming>;
