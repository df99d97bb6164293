//! Where a request goes: the scheme, host and port of its URL, in the forms in which HTTP writes them.

use http::HeaderValue;
use http::uri::Authority;
use url::{Host, Position, Url};

use crate::model::failure::{Failure, FailureReason};

/// The origin of a URL.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) https: bool,
    pub(super) host: Host<String>,
    pub(super) port: u16,
    /// For HTTP/1.1: the `Host` header.
    pub(super) host_header: HeaderValue,
    /// For HTTP/2.
    pub(super) authority: Authority,
}

impl Target {
    /// Reads the origin of `url`.
    pub(super) fn of(url: &Url) -> Result<Target, Failure> {
        // The port is written where it is not the scheme's own, which is when the URL keeps it.
        let text = &url[Position::BeforeHost..Position::AfterPort];
        let bad = || {
            let message = format!("`{text}` is not a host that HTTP can name; check the URL");
            Failure::fatal(FailureReason::Protocol, message)
        };
        Ok(Target {
            https: url.scheme() == "https",
            host: url.host().ok_or_else(bad)?.to_owned(),
            port: url.port_or_known_default().ok_or_else(bad)?,
            host_header: HeaderValue::from_str(text).map_err(|_| bad())?,
            authority: text.parse().map_err(|_| bad())?,
        })
    }

    /// The host, and the port where it is not the scheme's own, for messages.
    pub(super) fn name(&self) -> &str {
        self.authority.as_str()
    }
}
