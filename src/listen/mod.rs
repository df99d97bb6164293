//! Where calls come in: sockets, who may connect, how long they may be silent.
//!
//! [`accept::serve`] is the only accept loop, for all that is served. It knows connections and nothing of calls: what
//! answers them is a service that is handed in, and finds the [`peer::Peer`] with each request. No peer can hold more than
//! its bounds: a place among the connections ([`ListenSettings::connections_max`]), bytes of messages that are not whole
//! ([`budget`]), and time to say what it wants.

pub mod accept;
pub mod budget;
pub mod calls;
mod connection;
pub mod descriptors;
mod first_bytes;
pub mod peer;
mod places;
mod revoked;
pub mod socket;
pub mod tls;
mod turn;
mod unread;
mod validity;

use std::time::Duration;

pub use crate::listen::places::{KnownCaller, Party};

/// The bounds of a listener.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenSettings {
    /// The most connections at once.
    pub connections_max: usize,
    /// The most of them from one address (IPv6: from one /64); this machine's own have no such bound.
    pub connections_per_address_max: usize,
    /// The most calls at once on one connection.
    pub streams_max: u32,
    /// The most bytes of messages that have not arrived whole.
    pub inbound_bytes_max: u64,
    /// The most of them on one connection.
    pub inbound_bytes_per_connection_max: u64,
    /// The most bytes of answers that wait for clients to read them.
    pub outbound_bytes_max: u64,
    /// The most of them on one connection.
    pub outbound_bytes_per_connection_max: u64,
    /// How long a connection may take to say anything.
    pub handshake_time: Duration,
    /// How long answers may wait for a client that reads none of them, before its connection is closed.
    pub answer_idle_max: Duration,
    /// The age at which a connection is ended, so that clients spread anew over servers; calls on it finish first.
    pub age_max: Duration,
}
