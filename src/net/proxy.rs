//! Connections through a proxy: HTTP CONNECT (for plain targets too, so that what comes back is always the origin's
//! word and never the proxy's), `socks5`, and `socks5h`, which leaves the name to the proxy.
//!
//! The proxy's own address passes the guard like any other. With `socks5` the target is resolved and judged here; with
//! the other two the proxy resolves, so only literal addresses and denied names can be judged: what a name leads to is
//! the proxy's to filter.

use std::io;
use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::{Host, Url};

use crate::model::failure::{Failure, FailureReason};
use crate::model::secret::Secret;
use crate::net::connect;
use crate::net::connect::Dialled;
use crate::net::guard::Guard;

/// A CONNECT answer beyond this is no answer.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Where connections go instead of to their origin.
#[derive(PartialEq, Eq)]
pub(super) struct Proxy {
    kind: Kind,
    host: Host<String>,
    port: u16,
    credentials: Option<(String, Secret)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Socks5,
    Socks5h,
}

impl Proxy {
    /// Reads `http://`, `socks5://` or `socks5h://`, with credentials or without. Says nothing of a text that is none,
    /// since it may hold a password.
    pub(super) fn parse(text: &Secret) -> Result<Proxy, Failure> {
        let bad = |why: &str| Failure::fatal(FailureReason::Proxy, format!("`proxy_url` {why}"));
        let url = Url::parse(text.expose()).map_err(|_| bad("is no URL"))?;
        let kind = match url.scheme() {
            "http" => Kind::Http,
            "socks5" => Kind::Socks5,
            "socks5h" => Kind::Socks5h,
            _ => return Err(bad("must begin with `http://`, `socks5://` or `socks5h://`")),
        };
        // Parsed again because the hosts of schemes that are not the web's are taken for names, whatever they are.
        let host = url.host_str().and_then(|host| Host::parse(host).ok()).ok_or_else(|| bad("names no host"))?;
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let has_credentials = !url.username().is_empty() || url.password().is_some();
        let credentials =
            has_credentials.then(|| (decode(url.username()), Secret::new(decode(url.password().unwrap_or_default()))));
        let port = url.port().unwrap_or(if kind == Kind::Http { 80 } else { 1080 });
        Ok(Proxy { kind, host, port, credentials })
    }

    /// A stream to the target through the proxy.
    pub(super) async fn connect(&self, guard: &Guard, host: &Host<String>, port: u16) -> Result<Dialled, Failure> {
        let target = match self.kind {
            Kind::Socks5 => Target::Address(connect::resolve(guard, host, port).await?[0]),
            Kind::Http | Kind::Socks5h => {
                connect::judge_unresolved(guard, host)?;
                Target::Host(host, port)
            }
        };
        let mut dialled =
            connect::dial(guard, &self.host, self.port).await.map_err(|failure| self.unreached(failure))?;
        let stream = &mut dialled.stream;
        let shaken = match (self.kind, target) {
            (Kind::Http, _) => self.ask_http(stream, host, port).await,
            (_, target) => self.ask_socks(stream, &target).await,
        };
        match shaken {
            Ok(()) => Ok(dialled),
            Err(Refused::Lost(error)) => Err(Failure::retryable(
                FailureReason::Proxy,
                format!("the proxy `{self}` ended the connection before it answered ({error})"),
            )),
            Err(Refused::Said { why, retryable }) => {
                let message = format!("the proxy `{self}` does not connect to `{host}:{port}`: {why}");
                Err(Failure { retryable, ..Failure::fatal(FailureReason::Proxy, message) })
            }
        }
    }

    fn unreached(&self, failure: Failure) -> Failure {
        match failure.reason {
            FailureReason::ForbiddenAddress => failure,
            _ => Failure::retryable(
                FailureReason::Proxy,
                format!("cannot reach the proxy `{self}`: {}", failure.message),
            ),
        }
    }

    async fn ask_http(&self, stream: &mut TcpStream, host: &Host<String>, port: u16) -> Result<(), Refused> {
        let authorization = self.credentials.as_ref().map_or_else(String::new, |(name, password)| {
            let pair = STANDARD.encode(format!("{name}:{}", password.expose()));
            format!("Proxy-Authorization: Basic {pair}\r\n")
        });
        let ask = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{authorization}\r\n");
        stream.write_all(ask.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= HEAD_BYTES_MAX {
                return Err(Refused::fatal("its answer is too long"));
            }
            // Byte by byte, because what follows the head belongs to the origin. It is short and buffered by the kernel.
            head.push(stream.read_u8().await?);
        }
        judge_connect(&head)
    }

    async fn ask_socks(&self, stream: &mut TcpStream, target: &Target<'_>) -> Result<(), Refused> {
        let greeting: &[u8] = if self.credentials.is_some() { &[5, 2, 0, 2] } else { &[5, 1, 0] };
        stream.write_all(greeting).await?;
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await?;
        match (answer, &self.credentials) {
            ([5, 0], _) => {}
            ([5, 2], Some((name, password))) => authenticate(stream, name, password.expose()).await?,
            ([5, _], None) => return Err(Refused::fatal("it requires credentials; put them into `proxy_url`")),
            ([5, _], Some(_)) => return Err(Refused::fatal("it has no way to authenticate that haul knows")),
            _ => return Err(Refused::fatal("it does not speak SOCKS5")),
        }
        stream.write_all(&target.request()?).await?;
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        judge_socks(head[1])?;
        // The address that it connects from is of no use, but has to be read.
        let address_bytes = match head[3] {
            1 => 4,
            4 => 16,
            3 => usize::from(stream.read_u8().await?),
            _ => return Err(Refused::fatal("its answer is malformed")),
        };
        stream.read_exact(&mut vec![0; address_bytes + 2]).await?;
        Ok(())
    }
}

impl std::fmt::Display for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

enum Target<'a> {
    Address(SocketAddr),
    Host(&'a Host<String>, u16),
}

impl Target<'_> {
    /// The CONNECT of RFC 1928.
    fn request(&self) -> Result<Vec<u8>, Refused> {
        let mut ask = vec![5, 1, 0];
        let (ip, port) = match self {
            Target::Address(address) => (address.ip(), address.port()),
            Target::Host(Host::Ipv4(ip), port) => (IpAddr::V4(*ip), *port),
            Target::Host(Host::Ipv6(ip), port) => (IpAddr::V6(*ip), *port),
            Target::Host(Host::Domain(name), port) => {
                let length = u8::try_from(name.len()).map_err(|_| Refused::fatal("the host name is too long"))?;
                ask.extend([3, length]);
                ask.extend(name.as_bytes());
                ask.extend(port.to_be_bytes());
                return Ok(ask);
            }
        };
        match ip {
            IpAddr::V4(ip) => ask.extend(std::iter::once(1).chain(ip.octets())),
            IpAddr::V6(ip) => ask.extend(std::iter::once(4).chain(ip.octets())),
        }
        ask.extend(port.to_be_bytes());
        Ok(ask)
    }
}

enum Refused {
    Lost(io::Error),
    Said { why: String, retryable: bool },
}

impl Refused {
    fn fatal(why: &str) -> Refused {
        Refused::Said { why: why.into(), retryable: false }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Refused::Lost(error)
    }
}

/// RFC 1929.
async fn authenticate(stream: &mut TcpStream, name: &str, password: &str) -> Result<(), Refused> {
    let mut ask = vec![1];
    for text in [name, password] {
        ask.push(u8::try_from(text.len()).map_err(|_| Refused::fatal("the credentials are too long for SOCKS5"))?);
        ask.extend(text.as_bytes());
    }
    stream.write_all(&ask).await?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await?;
    if answer[1] == 0 { Ok(()) } else { Err(Refused::fatal("it does not accept the credentials of `proxy_url`")) }
}

fn judge_connect(head: &[u8]) -> Result<(), Refused> {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse::<u16>().ok());
    match status {
        Some(200..=299) => Ok(()),
        Some(407) => Err(Refused::fatal("it requires credentials that it accepts; put them into `proxy_url` (407)")),
        Some(status) => {
            Err(Refused::Said { why: format!("it answers {status}"), retryable: status == 429 || status >= 500 })
        }
        None => Err(Refused::fatal("it does not speak HTTP")),
    }
}

fn judge_socks(code: u8) -> Result<(), Refused> {
    let (why, retryable) = match code {
        0 => return Ok(()),
        2 => ("its rules forbid it", false),
        3 => ("the network is unreachable", true),
        4 => ("the host is unreachable", true),
        5 => ("the connection was refused", true),
        6 => ("the host did not answer in time", true),
        7 | 8 => ("it cannot make this kind of connection", false),
        _ => ("it failed for a reason of its own", true),
    };
    Err(Refused::Said { why: why.into(), retryable })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_urls_and_tells_nothing_of_bad_ones() {
        let proxy = Proxy::parse(&Secret::new("socks5h://me:p%40ss@127.0.0.1")).ok().unwrap();
        assert_eq!((proxy.to_string(), &proxy.host), ("127.0.0.1:1080".into(), &Host::Ipv4([127, 0, 0, 1].into())));
        assert_eq!(proxy.credentials.unwrap().1.expose(), "p@ss");
        for bad in ["hunter2", "ftp://hunter2@a/", "socks5://"] {
            let failure = Proxy::parse(&Secret::new(bad)).err().unwrap();
            assert_eq!(failure.reason, FailureReason::Proxy);
            assert!(!failure.message.contains("hunter2"), "{failure}");
        }
    }

    #[test]
    fn judges_answers() {
        let retryable = |head: &str| match judge_connect(head.as_bytes()) {
            Ok(()) => None,
            Err(Refused::Said { retryable, .. }) => Some(retryable),
            Err(Refused::Lost(_)) => unreachable!(),
        };
        assert_eq!(retryable("HTTP/1.1 200 OK\r\n\r\n"), None);
        assert_eq!(retryable("HTTP/1.0 200\r\n\r\n"), None);
        assert_eq!(retryable("HTTP/1.1 407 No\r\n\r\n"), Some(false));
        assert_eq!(retryable("HTTP/1.1 502 No\r\n\r\n"), Some(true));
        assert_eq!(retryable("SSH-2.0\r\n\r\n"), Some(false));
        assert!((1..=9).all(|code| judge_socks(code).is_err()));
    }
}
