//! Who is at the other end of a connection, as the layers above see it.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::listen::budget::Share;
use crate::listen::tls::Client;

/// The other end of a connection. Each request has it among its extensions, as an `Arc`.
#[derive(Debug)]
pub struct Peer {
    /// Its address; `None`: it is the server's own user, by the socket of the data directory.
    pub address: Option<SocketAddr>,
    /// Whose it is by its certificate; `None`: the connection is not encrypted up to this process.
    pub client: Option<Client>,
    /// The DNS names of the certificate that it was shown, in lower case.
    pub certificate_names: Arc<[String]>,
    /// What its unfinished messages may take.
    pub share: Arc<Share>,
}
