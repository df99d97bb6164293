//! A connection to a server, and what its errors say.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use url::Url;

use crate::pb::admin_service_client::AdminServiceClient;
use crate::pb::content_service_client::ContentServiceClient;
use crate::pb::job_service_client::JobServiceClient;

/// Windows wide enough that a burst of small messages does not end the connection while we print.
const WINDOW_BYTES: u32 = 8 << 20;
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// How long a server has to take the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that is silent for the one while a call is open is asked, and given up after the other: it may be gone without
/// a word, and a watch would wait for ever.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// A server.
#[derive(Clone)]
pub(crate) struct Client {
    channel: Channel,
    server: String,
}

/// What was asked for cannot be; the exit code is 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

impl Client {
    /// For the server at `host:port`, or at a URL. It connects with the first call.
    pub(crate) fn new(server: &str) -> anyhow::Result<Client> {
        let endpoint = Endpoint::from_shared(address(server)?)
            .map_err(|error| Usage(format!("`{server}` is no server: {error}; write it like `127.0.0.1:4285`")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1)
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        Ok(Client { channel: endpoint.connect_lazy(), server: server.to_owned() })
    }

    pub(crate) fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn contents(&self) -> ContentServiceClient<Channel> {
        ContentServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// What a call's error says to a person.
    pub(crate) fn explain(&self, status: &Status) -> anyhow::Error {
        let mut text = status.message().to_owned();
        if is_ours(status) && status.code() == Code::Unavailable {
            text = format!(
                "no server answers at `{}` ({}); start one with `haul serve`, or name another with --server",
                self.server,
                cause(status)
            );
        }
        let violations = status.get_details_bad_request().map(|request| request.field_violations).unwrap_or_default();
        if violations.len() > 1 {
            "the request is refused:".clone_into(&mut text);
            for violation in &violations {
                text += &format!("\n  `{}` {}", violation.field, violation.description);
            }
        }
        if status.code() == Code::InvalidArgument { Usage(text).into() } else { anyhow::Error::msg(text) }
    }
}

/// Whether no server said this: every error of a server has details, those that are made on this side have none.
pub(crate) fn is_ours(status: &Status) -> bool {
    status.details().is_empty()
}

/// What lies at the bottom of an error that was made on this side.
fn cause(status: &Status) -> String {
    let mut error: &dyn std::error::Error = status;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The URL that is meant.
fn address(server: &str) -> Result<String, Usage> {
    let text = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    let wrong = |why: &str| Usage(format!("`{server}` is no server: {why}; write it like `127.0.0.1:4285`"));
    let url = Url::parse(&text).map_err(|error| wrong(&error.to_string()))?;
    if url.scheme() != "http" {
        return Err(wrong("servers speak plain HTTP/2, so a proxy must end TLS on this side"));
    }
    if !url.has_host() || !matches!(url.path(), "" | "/") || url.query().is_some() {
        return Err(wrong("it has more than a host and a port"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_scheme() {
        for (text, url) in [
            ("127.0.0.1:4285", "http://127.0.0.1:4285"),
            ("http://localhost:1/", "http://localhost:1"),
            ("[::1]:7", "http://[::1]:7"),
            ("somewhere", "http://somewhere"),
        ] {
            assert_eq!(address(text).unwrap(), url);
        }
        for text in ["", "https://a:1", "http://a:1/x", "a:port", "grpc://a:1"] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
