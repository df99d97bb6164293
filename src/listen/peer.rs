//! Who is at the other end of a connection, as the layers above see it.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::listen::budget::Share;
use crate::model::identity::Shown;

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
