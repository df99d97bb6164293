//! A host as limits see it.

use std::fmt;

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use url::Url;

/// Host name (or address) and port, whatever the scheme: `example.com:443`, `[::1]:8080`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Host(Arc<str>);

impl Host {
    /// The host that a request to `url` goes to. `None` for a URL without a host.
    pub fn of(url: &Url) -> Option<Host> {
        // `example.com.` is `example.com`, said to be complete.
        let host = url.host_str()?;
        let host = host.strip_suffix('.').unwrap_or(host);
        let port = url.port_or_known_default()?;
        Some(Host(format!("{host}:{port}").into()))
    }

    /// A host from its `host:port` text.
    pub fn new(text: &str) -> Host {
        Host(text.into())
    }

    /// `host:port`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the port.
    pub fn name(&self) -> &str {
        self.0.rsplit_once(':').map_or(&*self.0, |(name, _)| name)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
