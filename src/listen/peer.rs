//! Who is at the other end of a connection, as the layers above see it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::listen::budget::Share;
use crate::model::identity::Shown;

/// How many calls that anybody may make a connection may have open.
pub const BY_ANYBODY_MAX: usize = 16;

/// The other end of a connection. Each request has it among its extensions, as an `Arc`.
#[derive(Debug)]
pub struct Peer {
    /// Where it is.
    pub origin: Origin,
    /// Whether the connection is encrypted up to this process.
    pub is_encrypted: bool,
    /// The identities of the certificate that it has shown, which an authority of clients vouches for.
    pub certificate: Option<Shown>,
    /// The DNS names of the certificate that it was shown, in lower case.
    pub certificate_names: Arc<[String]>,
    /// What its unfinished messages may take.
    pub share: Arc<Share>,
    /// What answers that it has not read may take.
    pub outbound: Arc<Share>,
    /// Its open calls that anybody may make.
    pub by_anybody: ByAnybody,
}

/// Open calls that anybody may make: nobody is asked who makes them, so no bound of a caller holds for them.
#[derive(Debug, Default)]
pub struct ByAnybody(Arc<AtomicUsize>);

/// Such a call, until it is dropped.
#[derive(Debug)]
pub struct CallByAnybody(Arc<AtomicUsize>);

impl ByAnybody {
    /// Opens a call; `None` where there are as many as there may be.
    pub fn open(&self) -> Option<CallByAnybody> {
        let more = |count: usize| (count < BY_ANYBODY_MAX).then_some(count + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(CallByAnybody(self.0.clone()))
    }
}

impl Drop for CallByAnybody {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// At an address.
    Network(SocketAddr),
    /// On this machine, at the other end of a Unix socket, as the server's own user or root.
    Owner,
    /// On this machine, at the other end of a Unix socket, as another user.
    User {
        /// The user.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}
