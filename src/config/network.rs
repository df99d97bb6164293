//! The settings of the listener: where it listens, who may call, and what a client may hold.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::config::choices::{Auth, Exposed, HealthFor, InsecureListen, Switch};
use crate::config::raw::ServeArgs;
use crate::config::tls::{TlsConfig, identities};
use crate::config::values::{duration, hosts, lifetime};
use crate::model::access::LIFETIME_MAX_DEFAULT;
use crate::model::identity::Identities;
use crate::model::secret;

/// Where the server listens when nothing is said: 4285 spells HAUL.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:4285";
/// Who may open a socket when nothing is said: its user.
const SOCKET_MODE_DEFAULT: u32 = 0o600;
/// The most connections from one address when nothing is said.
pub const CONNECTIONS_PER_ADDRESS_DEFAULT_MAX: u32 = 256;
/// The most calls on one connection when nothing is said.
pub const STREAMS_DEFAULT_MAX: u32 = 1_024;
/// The most bytes of unfinished messages when nothing is said.
pub const INBOUND_BYTES_DEFAULT_MAX: u64 = 256 << 20;
/// The most bytes of unfinished messages on one connection: twice the largest message. The bound of all cannot be lower.
pub const INBOUND_BYTES_PER_CONNECTION_MAX: u64 = 32 << 20;
/// The most bytes of answers that wait to be read.
pub const OUTBOUND_BYTES_MAX: u64 = 512 << 20;
/// The most of them on one connection: room for the largest page of a listing, twice.
pub const OUTBOUND_BYTES_PER_CONNECTION_MAX: u64 = 128 << 20;
/// The most calls of one principal in a second when nothing is said.
pub const CALLS_PER_SECOND_DEFAULT: f64 = 1_000.0;
/// Wrong credentials from one address in a minute when nothing is said.
pub const AUTH_FAILURES_PER_MINUTE_DEFAULT: u32 = 20;
/// How long a connection may be silent at its beginning when nothing is said.
pub const HANDSHAKE_DEFAULT: Duration = Duration::from_secs(10);
/// How long a request may wait for its next byte when nothing is said.
pub const REQUEST_BODY_IDLE_DEFAULT: Duration = Duration::from_secs(15);
/// How long answers may wait for a client that reads none of them when nothing is said: a person may look at a part of one.
pub const ANSWER_IDLE_DEFAULT: Duration = Duration::from_mins(10);
/// The age at which a connection is ended when nothing is said.
pub const CONNECTION_AGE_DEFAULT: Duration = Duration::from_hours(24);

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At an address; port 0 picks a free one.
    Address(SocketAddr),
    /// At a Unix socket.
    Socket {
        /// Its file.
        path: PathBuf,
        /// The mode of the file.
        mode: u32,
        /// Its group; `None`: that of the process.
        group: Option<u32>,
    },
}

impl Place {
    /// Returns whether only this machine reaches it.
    pub fn is_near(&self) -> bool {
        match self {
            Place::Address(address) => is_near(address),
            Place::Socket { .. } => true,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Address(address) => write!(f, "{address}"),
            Place::Socket { path, .. } => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The settings of the listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Where it listens.
    pub listen: Vec<Place>,
    /// Where it serves metrics and probes alone; `None`: where everything is.
    pub metrics_listen: Option<SocketAddr>,
    /// Whether every client that reaches the server may call it, from other machines too.
    pub is_open: bool,
    /// Whether other machines may connect without TLS.
    pub is_plaintext: bool,
    /// Who has to authenticate.
    pub auth: Auth,
    /// The longest that a token may last.
    pub token_max_lifetime: Duration,
    /// The most calls of one principal in a second; 0 means no limit.
    pub calls_per_second: f64,
    /// The most wrong credentials from one address in a minute; 0 means no limit.
    pub auth_failures_per_minute: u32,
    /// The certificates to show and to accept; `None`: nothing is encrypted.
    pub tls: Option<TlsConfig>,
    /// Which principals are known by certificates and users of this machine.
    pub identities: Identities,
    /// Who may list the methods of the server.
    pub reflection: Exposed,
    /// Who may ask whether the server is well.
    pub health: HealthFor,
    /// Whether calls that only read are in the audit.
    pub audit_reads: bool,
    /// Whether gRPC-Web is served.
    pub grpc_web: Switch,
    /// Whether there is a dashboard.
    pub web: Switch,
    /// Names under which browsers may reach the server, in lower case, without port.
    pub web_hosts: Vec<String>,
    /// Origins whose pages may call the server, as browsers write them.
    pub cors_origins: Vec<String>,
    /// The most connections at once; `None`: 4,096, or half of the descriptors where these are fewer.
    pub max_connections: Option<u32>,
    /// The most of them from one address.
    pub max_connections_per_address: u32,
    /// The most calls at once on one connection.
    pub max_streams_per_connection: u32,
    /// The most bytes of messages that have not arrived whole.
    pub inbound_buffer_bytes: u64,
    /// How long a connection may be silent at its beginning.
    pub handshake_timeout: Duration,
    /// How long a request may wait for its next byte.
    pub request_body_idle: Duration,
    /// How long answers may wait for a client that reads none of them.
    pub answer_idle: Duration,
    /// The age at which a connection is ended.
    pub connection_max_age: Duration,
}

impl Network {
    /// Reads the settings, and adds what is wrong with them to `wrong`.
    pub(super) fn resolve(merged: &ServeArgs, wrong: &mut Vec<String>) -> Network {
        let listen = places(merged, wrong);
        let metrics_listen = metrics_place(merged, wrong);
        same_ports(&listen, metrics_listen, wrong);
        let is_open = merged.insecure_listen == Some(InsecureListen::Open);
        let tls = TlsConfig::resolve(merged, wrong);
        let identities = identities(merged, wrong);
        let is_plaintext = is_open || merged.insecure_listen == Some(InsecureListen::Plaintext);
        let auth = merged.auth.unwrap_or_default();
        // Whether somebody can sign in is seen once the database is open.
        let knows_callers = auth != Auth::None && (tls.is_some() || is_plaintext);
        if !is_open && !knows_callers {
            refuse_far(&listen, metrics_listen, wrong);
        }
        let token_max_lifetime =
            lifetime("token_max_lifetime", merged.token_max_lifetime.as_deref(), LIFETIME_MAX_DEFAULT, wrong);
        let calls_per_second = calls_per_second(merged, wrong);
        let (grpc_web, web) = browser_faces(merged, wrong);
        let mut positive = |name: &str, value: Option<u32>| {
            if value == Some(0) {
                wrong.push(format!("`{name}` is 0, so nobody could ever call; set it to at least 1"));
            }
            value
        };
        let max_connections = positive("max_connections", merged.max_connections);
        let per_address = positive("max_connections_per_address", merged.max_connections_per_address);
        let streams = positive("max_streams_per_connection", merged.max_streams_per_connection);
        let inbound_buffer_bytes = merged.inbound_buffer_bytes.unwrap_or(INBOUND_BYTES_DEFAULT_MAX);
        if inbound_buffer_bytes < INBOUND_BYTES_PER_CONNECTION_MAX {
            wrong.push(format!(
                "`inbound_buffer_bytes` is {inbound_buffer_bytes}, too few for the largest messages; set it to at least \
                 {INBOUND_BYTES_PER_CONNECTION_MAX}"
            ));
        }
        let mut time = |name, text: &Option<String>, default| {
            let time = duration(name, text.as_deref(), default, wrong);
            if time.is_zero() {
                wrong.push(format!("`{name}` is 0, so nobody could ever call; write it like `{}s`", default.as_secs()));
            }
            time
        };
        Network {
            listen,
            metrics_listen,
            is_open,
            is_plaintext,
            auth,
            token_max_lifetime,
            calls_per_second,
            auth_failures_per_minute: merged.auth_failures_per_minute.unwrap_or(AUTH_FAILURES_PER_MINUTE_DEFAULT),
            tls,
            identities,
            handshake_timeout: time("handshake_timeout", &merged.handshake_timeout, HANDSHAKE_DEFAULT),
            request_body_idle: time("request_body_idle", &merged.request_body_idle, REQUEST_BODY_IDLE_DEFAULT),
            answer_idle: time("answer_idle", &merged.answer_idle, ANSWER_IDLE_DEFAULT),
            connection_max_age: time("connection_max_age", &merged.connection_max_age, CONNECTION_AGE_DEFAULT),
            reflection: merged.reflection.unwrap_or_default(),
            health: merged.health.unwrap_or_default(),
            audit_reads: merged.audit_reads.unwrap_or(false),
            grpc_web,
            web,
            web_hosts: hosts("web_hosts", merged.web_hosts.as_deref(), wrong),
            cors_origins: origins(merged.cors_origins.as_deref(), wrong),
            max_connections,
            max_connections_per_address: per_address.unwrap_or(CONNECTIONS_PER_ADDRESS_DEFAULT_MAX),
            max_streams_per_connection: streams.unwrap_or(STREAMS_DEFAULT_MAX),
            inbound_buffer_bytes,
        }
    }
}

/// Reads how many calls of a principal are taken in a second.
fn calls_per_second(merged: &ServeArgs, wrong: &mut Vec<String>) -> f64 {
    let rate = merged.calls_per_second.unwrap_or(CALLS_PER_SECOND_DEFAULT);
    if !(rate == 0.0 || (0.001..=1e9).contains(&rate)) {
        wrong.push(format!("`calls_per_second` is {rate}; set it to 0.001 or more, or to 0 for no limit"));
    }
    rate
}

/// Reads whether gRPC-Web is served, and whether there is a dashboard, which calls by it.
fn browser_faces(merged: &ServeArgs, wrong: &mut Vec<String>) -> (Switch, Switch) {
    let grpc_web = if merged.grpc_web.unwrap_or(true) { Switch::On } else { Switch::Off };
    let web = merged.web.unwrap_or(grpc_web);
    if (grpc_web, web) == (Switch::Off, Switch::On) {
        wrong.push("`web` needs `grpc_web`, which is off: the dashboard calls the server by gRPC-Web; turn `grpc_web` on, or `web` off".to_owned());
    }
    (grpc_web, web)
}

/// Reads where the server listens.
fn places(merged: &ServeArgs, wrong: &mut Vec<String>) -> Vec<Place> {
    let mode = merged
        .socket_mode
        .as_deref()
        .map_or(Some(SOCKET_MODE_DEFAULT), |text| u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777));
    let mode = mode.unwrap_or_else(|| {
        wrong.push("`socket_mode` is not a mode of files; write it like `0660`".to_owned());
        SOCKET_MODE_DEFAULT
    });
    let group = merged.socket_group.as_deref().and_then(|name| {
        let group = group(name);
        if group.is_none() {
            wrong.push(format!("`socket_group` is `{name}`, and there is no such group; correct it"));
        }
        group
    });
    let default = [LISTEN_DEFAULT.to_owned()];
    let texts = merged.listen.as_deref().unwrap_or(&default);
    if texts.is_empty() {
        wrong.push("`listen` is empty, so nobody could ever call; name an address".to_owned());
    }
    let mut places = Vec::with_capacity(texts.len());
    for text in texts {
        let place = match text.strip_prefix("unix:") {
            Some("") => None,
            Some(path) => std::path::absolute(path).ok().map(|path| Place::Socket { path, mode, group }),
            None => address(text).map(Place::Address),
        };
        match place {
            Some(place) if places.contains(&place) && !matches!(&place, Place::Address(it) if it.port() == 0) => {
                wrong.push(format!("`listen` has `{text}` twice; leave one out"));
            }
            Some(place) => places.push(place),
            None => wrong.push(not_an_address("listen", text, ", or `unix:/run/haul.sock`")),
        }
    }
    let of_sockets = [("socket_mode", merged.socket_mode.is_some()), ("socket_group", merged.socket_group.is_some())];
    if !texts.iter().any(|text| text.starts_with("unix:")) {
        let given = of_sockets.into_iter().filter(|(_, is_given)| *is_given);
        wrong
            .extend(given.map(|(name, _)| format!("`{name}` is set, and `listen` has no `unix:` place; leave it out")));
    }
    places
}

/// Reads where metrics are served alone.
fn metrics_place(merged: &ServeArgs, wrong: &mut Vec<String>) -> Option<SocketAddr> {
    let text = merged.metrics_listen.as_deref()?;
    let at = address(text);
    if at.is_none() {
        wrong.push(not_an_address("metrics_listen", text, ""));
    }
    at
}

/// Says which places take one port from each other, so that the server could listen at one of them alone.
fn same_ports(listen: &[Place], metrics_listen: Option<SocketAddr>, wrong: &mut Vec<String>) {
    let addresses: Vec<SocketAddr> =
        listen.iter().filter_map(|place| if let Place::Address(at) = place { Some(*at) } else { None }).collect();
    for (at, first) in addresses.iter().enumerate() {
        for second in addresses[at + 1..].iter().filter(|second| takes(first, second)) {
            wrong.push(format!(
                "`listen` has `{first}` and `{second}`, of which one takes the port of the other; leave one out"
            ));
        }
    }
    if let Some((at, taken)) = metrics_listen.and_then(|at| Some((at, addresses.iter().find(|it| takes(it, &at))?))) {
        wrong
            .push(format!("`metrics_listen` is `{at}`, whose port `listen` takes with `{taken}`; choose another port"));
    }
}

/// Returns whether nobody can listen at both addresses at once.
fn takes(first: &SocketAddr, second: &SocketAddr) -> bool {
    if first.port() == 0 || first.port() != second.port() {
        return false;
    }
    let (one, other) = (first.ip().to_canonical(), second.ip().to_canonical());
    let is_any_of_both = |ip: IpAddr| ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && !is_v6_alone();
    let is_any = |ip: IpAddr| ip.is_unspecified();
    is_any_of_both(one)
        || is_any_of_both(other)
        || (one.is_ipv4() == other.is_ipv4() && (one == other || is_any(one) || is_any(other)))
}

/// Returns whether `[::]` of this machine is for IPv6 alone.
fn is_v6_alone() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|text| text.trim() == "1")
}

/// Says that other machines reach a place of these, where nobody would have to say who calls.
fn refuse_far(listen: &[Place], metrics_listen: Option<SocketAddr>, wrong: &mut Vec<String>) {
    let far = listen.iter().find(|place| !place.is_near()).map(|place| ("listen", place.to_string()));
    let far_metrics = metrics_listen.filter(|at| !is_near(at)).map(|at| ("metrics_listen", at.to_string()));
    for (name, far) in far.into_iter().chain(far_metrics) {
        wrong.push(format!(
            "`{name}` is `{far}`, which other machines can reach, without authentication and TLS: every client that \
             reaches it could submit jobs, read results and delete files; set `--tls-cert` and `--tls-key` and make a \
             token with `haul token create`, listen on 127.0.0.1, or allow it with `--insecure-listen open`"
        ));
    }
}

/// Says what a place is to be written like, and `or` what else.
fn not_an_address(name: &str, text: &str, or: &str) -> String {
    format!(
        "`{name}` is `{text}`, which is not an address with a port; write it like `{LISTEN_DEFAULT}` or `[::]:4285`{or}"
    )
}

/// Returns whether only this machine reaches an address.
fn is_near(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn address(text: &str) -> Option<SocketAddr> {
    // `localhost` is what people type; no other name is looked up, since it could come to several addresses.
    let dialled = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    dialled.as_deref().unwrap_or(text).parse().ok()
}

/// Returns the number of a group of this machine.
fn group(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut parts = line.split(':');
        (parts.next() == Some(name)).then(|| parts.nth(1)?.parse().ok()).flatten()
    })
}

/// Reads origins. A pattern would let pages in whose names nobody has looked at, and `null` is the origin of any page
/// that wants it to be.
fn origins(texts: Option<&[String]>, wrong: &mut Vec<String>) -> Vec<String> {
    let mut origins = Vec::new();
    for text in texts.unwrap_or_default() {
        let shown = secret::redacted_text(text);
        let origin = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        match origin.map(|url| url.origin().ascii_serialization()) {
            Some(origin) if *text == origin && !text.contains('*') => origins.push(origin),
            Some(origin) if !text.contains('*') => wrong.push(format!(
                "`cors_origins` has `{shown}`, which is not an origin as browsers write it; write `{origin}`"
            )),
            _ => wrong.push(format!(
                "`cors_origins` has `{shown}`, which is not an origin; write each in full, like `https://example.com`"
            )),
        }
    }
    origins
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::choices::TlsClientAuth;

    fn resolved(args: &ServeArgs) -> Result<Network, String> {
        let mut wrong = Vec::new();
        let network = Network::resolve(args, &mut wrong);
        if wrong.is_empty() { Ok(network) } else { Err(wrong.join("\n")) }
    }

    #[test]
    fn other_machines_are_let_in_only_on_purpose() {
        let args = |listen: &str| ServeArgs { listen: Some(vec![listen.to_owned()]), ..ServeArgs::default() };
        for near in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "localhost:1", "unix:/x"] {
            assert!(resolved(&args(near)).is_ok(), "{near}");
        }
        let several = |listen: &[&str]| listen.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let mixed = ServeArgs { listen: Some(several(&["127.0.0.1:1", "0.0.0.0:1"])), ..ServeArgs::default() };
        assert!(resolved(&mixed).unwrap_err().contains("`0.0.0.0:1`"), "one that others reach is enough");
        let twice = ServeArgs { listen: Some(several(&["unix:/x", "unix:/x"])), ..ServeArgs::default() };
        assert!(resolved(&twice).unwrap_err().contains("twice"));
        for bad in [args("unix:"), ServeArgs { socket_mode: Some("rw".into()), ..args("unix:/x") }] {
            assert!(resolved(&bad).is_err());
        }
        for far in ["0.0.0.0:1", "[::]:1", "[::ffff:0.0.0.0]:1", "192.0.2.1:1", "10.0.0.1:1", "[fe80::1]:1"] {
            let refusal = resolved(&args(far)).unwrap_err();
            assert!(refusal.contains("TLS") && refusal.contains("--insecure-listen open"), "{refusal}");
            let open = ServeArgs { insecure_listen: Some(InsecureListen::Open), ..args(far) };
            assert!(resolved(&open).unwrap().is_open);
            let file = || Some("/x".into());
            let tls = ServeArgs { tls_cert: file(), tls_key: file(), ..args(far) };
            assert!(resolved(&tls).is_ok(), "whether somebody has a token is seen later");
            assert!(
                resolved(&ServeArgs { auth: Some(Auth::None), ..tls.clone() }).is_err(),
                "encrypted, and for everybody"
            );
            let plaintext = ServeArgs { insecure_listen: Some(InsecureListen::Plaintext), ..args(far) };
            assert!(resolved(&plaintext).is_ok_and(|network| network.is_plaintext && !network.is_open));
            assert!(resolved(&ServeArgs { auth: Some(Auth::None), ..plaintext }).is_err());
            assert!(resolved(&ServeArgs { tls_client_ca: file(), ..tls.clone() }).is_ok());
            let optional = Some(TlsClientAuth::Optional);
            let optional = ServeArgs { tls_client_ca: file(), tls_client_auth: optional, ..tls };
            assert!(resolved(&ServeArgs { auth: Some(Auth::None), ..optional }).is_err());
        }
    }

    #[test]
    fn no_place_takes_the_port_of_another() {
        let args = |listen: &[&str], metrics: Option<&str>| ServeArgs {
            listen: Some(listen.iter().map(|it| (*it).to_owned()).collect()),
            metrics_listen: metrics.map(str::to_owned),
            insecure_listen: Some(InsecureListen::Open),
            ..ServeArgs::default()
        };
        for bad in [["127.0.0.1:7", "0.0.0.0:7"], ["[::]:7", "[::1]:7"], ["127.0.0.1:7", "[::ffff:127.0.0.1]:7"]] {
            let said = resolved(&args(&bad, None)).unwrap_err();
            assert!(said.contains("takes the port of the other"), "{bad:?}: {said}");
        }
        let said = resolved(&args(&["127.0.0.1:7"], Some("127.0.0.1:7"))).unwrap_err();
        assert!(said.starts_with("`metrics_listen` is `127.0.0.1:7`"), "{said}");
        for good in [["127.0.0.1:7", "127.0.0.2:7"], ["127.0.0.1:7", "[::1]:7"], ["127.0.0.1:0", "0.0.0.0:0"]] {
            assert!(resolved(&args(&good, Some("127.0.0.1:8"))).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn metrics_are_served_to_other_machines_only_on_purpose() {
        let args = |listen: &str| ServeArgs { metrics_listen: Some(listen.to_owned()), ..ServeArgs::default() };
        assert_eq!(resolved(&args("localhost:9")).unwrap().metrics_listen, Some(SocketAddr::from(([127, 0, 0, 1], 9))));
        let refusal = resolved(&args("0.0.0.0:9")).unwrap_err();
        assert!(refusal.contains("`metrics_listen` is `0.0.0.0:9`") && refusal.contains("TLS"), "{refusal}");
        let open = ServeArgs { insecure_listen: Some(InsecureListen::Open), ..args("0.0.0.0:9") };
        assert!(resolved(&open).is_ok());
    }

    #[test]
    fn origins_are_written_in_full() {
        let read =
            |text: &str| resolved(&ServeArgs { cors_origins: Some(vec![text.to_owned()]), ..ServeArgs::default() });
        for good in ["https://example.com", "http://localhost:3000", "https://[::1]:8443"] {
            assert_eq!(read(good).unwrap().cors_origins, [good]);
        }
        for bad in
            ["*", "null", "https://*.example.com", "example.com", "https://Example.com", "https://a/", "ftp://a", ""]
        {
            assert!(read(bad).unwrap_err().contains("cors_origins"), "{bad}");
        }
        for bad in ["https://u:hidden@a", "u:hidden@a", "https://a/?token=hidden", "a/?token=hidden"] {
            assert!(!read(bad).unwrap_err().contains("hidden"), "{bad}");
        }
    }

    #[test]
    fn what_is_said_of_sockets_needs_one() {
        let with = |listen: &str| ServeArgs {
            listen: Some(vec![listen.to_owned()]),
            socket_mode: Some("0660".to_owned()),
            ..ServeArgs::default()
        };
        assert!(resolved(&with("unix:/run/haul.sock")).is_ok());
        let wrong = resolved(&with("127.0.0.1:0")).unwrap_err();
        assert!(format!("{wrong:?}").contains("`socket_mode` is set"), "{wrong:?}");
    }
}
