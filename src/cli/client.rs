//! A connection to a server, and what its errors say to a person.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use url::{Host, Url};

use crate::cli::args::{self, Format, Remote, SOCKET, TokenSource, Usage, Where, With};
use crate::cli::hints::hint;
use crate::model::secret::{self, Secret};
use crate::model::text::plain;
use crate::named_file;
use crate::pb::access_service_client::AccessServiceClient;
use crate::pb::admin_service_client::AdminServiceClient;
use crate::pb::content_service_client::ContentServiceClient;
use crate::pb::job_service_client::JobServiceClient;

/// Windows wide enough that a burst of small messages does not end the connection while lines are printed.
const WINDOW_BYTES: u32 = 8 << 20;
/// The largest message that is taken. Servers send at most 4 MiB; this leaves room for those of other versions.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// More than all authorities of a system.
const PEM_BYTES_MAX: u64 = 16 << 20;
/// The URL of a server on this machine that is reached by a socket: nobody looks at it.
const HERE: &str = "http://localhost";
/// How long a server has to take the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that is silent for the first while a call is open is asked, and given up after the second: it may be gone
/// without a word, and a watch would wait for ever.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(10));
/// The port of a server whose address names none, which is the one that `haul serve` listens at by default.
const PORT: u16 = 4285;

/// A server, connected to with the first call.
#[derive(Clone)]
pub(crate) struct Client {
    channel: Channel,
    heads: Heads,
    server: String,
}

/// A connection whose calls have a token and name a tenant, where there are such.
type Wire = InterceptedService<Channel, Heads>;

/// Adds the token and the tenant to each call.
#[derive(Clone)]
pub(crate) struct Heads {
    token: Option<MetadataValue<Ascii>>,
    tenant: Option<MetadataValue<Ascii>>,
}

impl Heads {
    fn new(place: &Where, url: &str) -> Result<Heads, Usage> {
        let tenant = place.tenant.as_deref().map(|name| {
            let value = MetadataValue::try_from(name).ok().filter(|_| !name.is_empty());
            value.ok_or_else(|| Usage(format!("`{name}` is not the name of a tenant; correct --tenant or HAUL_TENANT")))
        });
        Ok(Heads { token: bearer(place.token.as_ref(), url)?, tenant: tenant.transpose()? })
    }
}

impl Interceptor for Heads {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (name, value) in [("authorization", &self.token), ("haul-tenant", &self.tenant)] {
            if let Some(value) = value {
                request.metadata_mut().insert(name, value.clone());
            }
        }
        Ok(request)
    }
}

impl Client {
    /// Makes a client of the server at `host:port`, or at a URL.
    pub(crate) fn new(place: &Where) -> anyhow::Result<Client> {
        let server = place.server.as_str();
        if let Some(path) = server.strip_prefix(SOCKET) {
            return Client::at_socket(path, place);
        }
        let url = address(server)?;
        let mut endpoint = Endpoint::from_shared(url.clone()).map_err(|error| invalid(server, &error.to_string()))?;
        if url.starts_with("https:") {
            endpoint = endpoint.tls_config(tls(place)?).map_err(|error| {
                Usage(format!(
                    "the certificates for `{server}` cannot be used ({}); correct --ca, --cert and --cert-key",
                    innermost(&error)
                ))
            })?;
        } else if place.has_certificates() {
            return Err(Usage(format!(
                "certificates need TLS, and `{server}` is without it; begin it with `https://`, or leave out --ca, --cert and \
                 --cert-key (HAUL_CA, HAUL_CERT and HAUL_CERT_KEY)"
            ))
            .into());
        }
        let heads = Heads::new(place, &url)?;
        Ok(Client { channel: tuned(endpoint).connect_lazy(), heads, server: server.to_owned() })
    }

    /// Makes a client of the server that listens at a socket.
    fn at_socket(path: &str, place: &Where) -> anyhow::Result<Client> {
        if path.is_empty() {
            return Err(invalid(&place.server, "the path of its socket is missing").into());
        }
        if place.has_certificates() {
            return Err(Usage(format!(
                "certificates need TLS, and `{}` is a socket; leave out --ca, --cert and --cert-key",
                place.server
            ))
            .into());
        }
        let heads = Heads::new(place, HERE)?;
        let path = path.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = tuned(Endpoint::from_static(HERE)).connect_with_connector_lazy(connector);
        Ok(Client { channel, heads, server: place.server.clone() })
    }

    pub(crate) fn jobs(&self) -> JobServiceClient<Wire> {
        JobServiceClient::with_interceptor(self.channel.clone(), self.heads.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn contents(&self) -> ContentServiceClient<Wire> {
        ContentServiceClient::with_interceptor(self.channel.clone(), self.heads.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn admin(&self) -> AdminServiceClient<Wire> {
        AdminServiceClient::with_interceptor(self.channel.clone(), self.heads.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn access(&self) -> AccessServiceClient<Wire> {
        AccessServiceClient::with_interceptor(self.channel.clone(), self.heads.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
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
            let Some(info) = status.get_details_error_info() else { return message.into_owned() };
            let is_near = address(&self.server).is_ok_and(|url| is_loopback(&url));
            if is_near && info.reason == "NO_CREDENTIALS" {
                return format!("{message}; the server's own user needs none by `--server unix:DATA_DIR/haul.sock`");
            }
            return match hint(&info.reason, &info.metadata) {
                Some(hint) => format!("{message} ({hint})"),
                None => message.into_owned(),
            };
        }
        let server = &self.server;
        if let Some((_, code)) = message.split_once("mapped from HTTP status code ") {
            return format!(
                "what answers at `{server}` does not speak gRPC (HTTP status {code}); check that --server names the port of `haul \
                 serve`"
            );
        }
        match status.code() {
            Code::Unavailable if is_refused_connection(status) && is_without_tls(&cause(status)) => {
                format!("the server at `{server}` does not use TLS; write its address without `https://`")
            }
            Code::Unavailable if is_refused_connection(status) && cause(status).contains("peer certificate") => {
                format!(
                    "the certificate of `{server}` is not trusted ({}); name its authority with --ca, and the server by a name \
                 of its certificate",
                    plain(&cause(status))
                )
            }
            Code::Unavailable if is_refused_connection(status) => format!(
                "no server answers at `{server}` ({}); start one with `haul serve`, or name another with --server",
                plain(&cause(status))
            ),
            // A ping that was not answered.
            Code::Unavailable if cause(status).contains("timed out") => format!(
                "what listens at `{server}` has not answered for {} s; check that --server names the port of `haul serve`, or try \
                 again if the server has too much to do",
                (KEEPALIVE.0 + KEEPALIVE.1).as_secs()
            ),
            Code::Unavailable if !message.is_empty() => format!("the server at `{server}` is unavailable: {message}"),
            Code::Unimplemented => format!(
                "the server at `{server}` does not know this call: it may be an older haul, or no haul at all; compare \
                 `haul --version` and `haul info`"
            ),
            Code::Unavailable | Code::Internal | Code::Unknown => format!(
                "what answers at `{server}` does not speak gRPC ({}); check that --server names the port of `haul serve`, and \
                 begins with `https://` if that has TLS",
                plain(&cause(status))
            ),
            _ => message.into_owned(),
        }
    }
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
}

/// The server of a command, how it prints, and its own arguments.
pub(crate) fn open<A: clap::Args>(top: &Remote, with: With<A>) -> anyhow::Result<(Client, Format, A)> {
    args::check_variables()?;
    let (place, format) = with.remote.over(top);
    Ok((Client::new(&place)?, format, with.args))
}

/// Returns whether no haul server sent this status: each error of one has details, and those made on this side have none.
pub(crate) fn is_local(status: &Status) -> bool {
    status.details().is_empty()
}

/// Whether a handshake failed because the peer does not know TLS: it answered with text, or closed the connection.
fn is_without_tls(cause: &str) -> bool {
    cause.contains("corrupt message") || cause.contains("tls handshake eof")
}

/// Returns whether a connection that was made broke before a call was answered, so that nobody knows whether the server did what it
/// was asked for. Whoever answers something else than gRPC, or is silent, is no server.
pub(crate) fn is_cut(status: &Status) -> bool {
    const BROKEN: [&str; 4] = ["connection reset", "broken pipe", "connection closed", "peer closed connection"];
    let cause = cause(status).to_ascii_lowercase();
    is_local(status) && !is_refused_connection(status) && BROKEN.iter().any(|words| cause.contains(words))
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
    innermost(status)
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn invalid(server: &str, why: &str) -> Usage {
    let server = secret::redacted_text(server);
    Usage(format!("`{server}` is not the address of a server: {why}; write it like `127.0.0.1:4285`"))
}

/// The header of the token, which goes to this machine or over TLS and nowhere else.
fn bearer(source: Option<&TokenSource>, url: &str) -> Result<Option<MetadataValue<Ascii>>, Usage> {
    let Some(source) = source else { return Ok(None) };
    let (text, place) = match source {
        TokenSource::Text(text) => (text.clone(), "HAUL_TOKEN".to_owned()),
        TokenSource::File(path) => {
            let mut text = String::new();
            let read = named_file::open(path).and_then(|file| file.take(PEM_BYTES_MAX).read_to_string(&mut text));
            read.map_err(|error| Usage(format!("`{}` cannot be read ({error})", path.display())))?;
            (Secret::new(text), path.display().to_string())
        }
    };
    if url.starts_with("http:") && !is_loopback(url) {
        return Err(Usage(format!(
            "a token must not go to `{url}` without TLS, since whoever is on the way could read it; write `https://`, or \
             leave out --token-file and HAUL_TOKEN"
        )));
    }
    let text = text.expose().trim();
    let header = MetadataValue::try_from(format!("Bearer {text}")).ok().filter(|_| !text.is_empty());
    let mut header = header.ok_or_else(|| Usage(format!("`{place}` does not hold a token")))?;
    header.set_sensitive(true);
    Ok(Some(header))
}

/// Whether a URL leads to this machine.
fn is_loopback(url: &str) -> bool {
    match Url::parse(url).ok().as_ref().and_then(Url::host) {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    }
}

/// How the two sides prove who they are.
fn tls(place: &Where) -> Result<ClientTlsConfig, Usage> {
    let read = |path: &Path| {
        let mut bytes = Vec::new();
        let read = named_file::open(path).and_then(|file| file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes));
        match read {
            Ok(_) if bytes.len() as u64 <= PEM_BYTES_MAX => Ok(bytes),
            Ok(_) => {
                Err(Usage(format!("`{}` is larger than 16 MiB, so it is not a file of certificates", path.display())))
            }
            Err(error) => Err(Usage(format!("`{}` cannot be read ({error})", path.display()))),
        }
    };
    // The time to connect does not cover the handshake.
    let mut config = ClientTlsConfig::new().timeout(CONNECT_TIMEOUT);
    config = match &place.ca {
        Some(path) => config.ca_certificate(Certificate::from_pem(read(path)?)),
        None => config.with_native_roots(),
    };
    match (&place.cert, &place.cert_key) {
        (Some(cert), Some(key)) => Ok(config.identity(Identity::from_pem(read(cert)?, read(key)?))),
        (None, None) => Ok(config),
        _ => Err(Usage("--cert and --cert-key belong together; give both or neither".to_owned())),
    }
}

/// The URL that is meant. It holds no secret, since messages name the server.
fn address(server: &str) -> Result<String, Usage> {
    // A host alone is a server as `haul serve` starts one. A URL has the port of its scheme, as behind a proxy.
    if !server.is_empty() && server.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(invalid(server, "it is a number, and a port needs a host before it"));
    }
    let is_bare = |server: &str| !server.contains(['[', '/']) && server.bytes().filter(|it| *it == b':').count() > 1;
    if is_bare(server) {
        return Err(invalid(server, "an address of IPv6 stands in brackets, as in `[::1]:4285`"));
    }
    let has_port = server.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let text = match (server.contains("://"), has_port) {
        (true, _) => server.to_owned(),
        (false, true) => format!("http://{server}"),
        (false, false) => format!("http://{server}:{PORT}"),
    };
    let url = Url::parse(&text).map_err(|error| invalid(server, &error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid(server, "it is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid(server, "it has a user part, which a server does not take; a token goes into HAUL_TOKEN"));
    }
    if !url.has_host() || !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(invalid(server, "it has more than a host and a port"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_to_this_machine_or_over_tls() {
        let token = TokenSource::Text(Secret::new(" haul_x\n"));
        for good in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://a.example"] {
            let header = bearer(Some(&token), good).unwrap().unwrap();
            assert_eq!(header.to_str().unwrap(), "Bearer haul_x");
            assert!(!format!("{header:?}").contains("haul_x"));
        }
        for bad in ["http://a.example", "http://10.0.0.1:1", "http://localhost.a.example", "http://0.0.0.0:1"] {
            assert!(bearer(Some(&token), bad).is_err(), "{bad}");
            assert!(bearer(None, bad).unwrap().is_none());
        }
        for odd in ["", " ", "a\nb"] {
            assert!(bearer(Some(&TokenSource::Text(Secret::new(odd))), "https://a").is_err(), "{odd:?}");
        }
    }

    #[test]
    fn addresses_with_and_without_scheme() {
        for (text, url) in [
            ("127.0.0.1:4285", "http://127.0.0.1:4285"),
            ("http://localhost:1/", "http://localhost:1"),
            ("[::1]:7", "http://[::1]:7"),
            ("somewhere", "http://somewhere:4285"),
            ("[::1]", "http://[::1]:4285"),
            ("127.0.0.1", "http://127.0.0.1:4285"),
            ("somewhere:80", "http://somewhere"),
            ("http://somewhere", "http://somewhere"),
            ("https://a:1", "https://a:1"),
        ] {
            assert_eq!(address(text).unwrap(), url);
        }
        for text in ["", "http://a:1/x", "a:port", "grpc://a:1", "4285", "::1", "::1:4285"] {
            assert!(address(text).is_err(), "{text}");
        }
        for text in ["http://u:hidden@a:1", "u:hidden@a:99999", "http://a/?token=hidden", "a#token=hidden", "hidden@a"]
        {
            assert!(!address(text).unwrap_err().0.contains("hidden"), "{text}");
        }
    }
}
