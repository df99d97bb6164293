//! The network layer over real sockets.

// Set-up that fails should end the test at once.
#![allow(clippy::unwrap_used)]

#[path = "support/mod.rs"]
mod support;

#[path = "net/beside_curl.rs"]
mod beside_curl;
#[path = "net/common.rs"]
mod common;
#[path = "net/connections.rs"]
mod connections;
#[path = "net/faults.rs"]
mod faults;
#[path = "net/http2.rs"]
mod http2;
#[path = "net/http2_peers.rs"]
mod http2_peers;
#[path = "net/origin_itself.rs"]
mod origin_itself;
#[path = "net/proxies.rs"]
mod proxies;
#[path = "net/redirects.rs"]
mod redirects;
#[path = "net/tls.rs"]
mod tls;
