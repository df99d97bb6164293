//! A connection to a server, and what its errors say to a person.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use url::Url;

use crate::cli::args::Usage;
use crate::model::text::plain;
use crate::pb::admin_service_client::AdminServiceClient;
use crate::pb::content_service_client::ContentServiceClient;
use crate::pb::job_service_client::JobServiceClient;

/// Windows wide enough that a burst of small messages does not end the connection while lines are printed.
const WINDOW_BYTES: u32 = 8 << 20;
/// The largest message that is taken. Servers send at most 4 MiB; this leaves room for those of other versions.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// How long a server has to take the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that is silent for the first while a call is open is asked, and given up after the second: it may be gone
/// without a word, and a watch would wait for ever.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// A server, connected to with the first call.
#[derive(Clone)]
pub(crate) struct Client {
    channel: Channel,
    server: String,
}

impl Client {
    /// Makes a client of the server at `host:port`, or at a URL.
    pub(crate) fn new(server: &str) -> anyhow::Result<Client> {
        let endpoint = Endpoint::from_shared(address(server)?)
            .map_err(|error| invalid(server, &error.to_string()))?
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

    /// Says to a person why a call failed. `INVALID_ARGUMENT` is a [`Usage`] error.
    pub(crate) fn explain(&self, status: &Status) -> anyhow::Error {
        let text = self.explained(status);
        if status.code() == Code::InvalidArgument { Usage(text).into() } else { anyhow::Error::msg(text) }
    }

    fn explained(&self, status: &Status) -> String {
        let violations = status.get_details_bad_request().map(|request| request.field_violations).unwrap_or_default();
        if violations.len() > 1 {
            let lines = violations
                .iter()
                .map(|violation| format!("\n  `{}` {}", plain(&violation.field), plain(&violation.description)));
            return format!("the request is invalid:{}", lines.collect::<String>());
        }
        let message = plain(status.message());
        if !is_local(status) {
            return message.into_owned();
        }
        let server = &self.server;
        match status.code() {
            Code::Unavailable if is_refused_connection(status) => format!(
                "no server answers at `{server}` ({}); start one with `haul serve`, or name another with --server",
                plain(&cause(status))
            ),
            Code::Unavailable if !message.is_empty() => format!("the server at `{server}` is unavailable: {message}"),
            Code::Unimplemented => format!(
                "the server at `{server}` does not know this call: it may be an older haul, or no haul at all; compare \
                 `haul --version` and `haul info`"
            ),
            Code::Unavailable | Code::Internal | Code::Unknown => format!(
                "what answers at `{server}` does not speak gRPC ({}); check that --server names the port of `haul serve`",
                plain(&cause(status))
            ),
            _ => message.into_owned(),
        }
    }
}

/// Returns whether no haul server sent this status: each error of one has details, and those made on this side have none.
pub(crate) fn is_local(status: &Status) -> bool {
    status.details().is_empty()
}

/// Returns whether the connection was never made.
fn is_refused_connection(status: &Status) -> bool {
    let mut error: Option<&dyn std::error::Error> = std::error::Error::source(status);
    while let Some(source) = error {
        if source.downcast_ref::<tonic::ConnectError>().is_some() {
            return true;
        }
        error = source.source();
    }
    false
}

/// The innermost error that a status was made of.
fn cause(status: &Status) -> String {
    let mut error: &dyn std::error::Error = status;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn invalid(server: &str, why: &str) -> Usage {
    Usage(format!("`{server}` is not the address of a server: {why}; write it like `127.0.0.1:4285`"))
}

/// The URL that is meant.
fn address(server: &str) -> Result<String, Usage> {
    let text = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    let url = Url::parse(&text).map_err(|error| invalid(server, &error.to_string()))?;
    if url.scheme() != "http" {
        return Err(invalid(server, "servers speak plain HTTP/2, so a proxy must end TLS on this side"));
    }
    if !url.has_host() || !matches!(url.path(), "" | "/") || url.query().is_some() {
        return Err(invalid(server, "it has more than a host and a port"));
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
