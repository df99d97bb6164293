//! Connections through a proxy.
//!
//! The proxy's own address passes the guard like any other. With `socks5` the target is resolved and judged here; with
//! the others the proxy resolves, so only literal addresses and denied names can be judged: what a name leads to is the
//! proxy's to filter.

use std::io;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::sleep;
use tokio_socks::tcp::Socks5Stream;
use tokio_socks::{Error as SocksError, TargetAddr};
use url::Host;

use crate::model::failure::{Failure, FailureReason};
use crate::model::tenant::TenantNo;
use crate::net::guard::Guard;
use crate::net::identity::Identity;
use crate::net::proxy::{Kind, Proxy};
use crate::net::target::Target;
use crate::net::wire::Link;
use crate::net::{connect, tls};

/// A way to `target` through `proxy`, and the address of the proxy. The guards are those of the target and of the proxy.
pub(super) async fn connect(
    proxy: &Proxy,
    (guard, of_proxy): (&Guard, &Guard),
    identity: &Identity,
    target: &Target,
) -> Result<(Link, SocketAddr), Failure> {
    if proxy.kind == Kind::Socks5 {
        return by_address(proxy, (guard, of_proxy), identity.tenant(), target).await;
    }
    connect::judge_unresolved(guard, &target.host, target.port)?;
    let (link, remote) = dial(proxy, of_proxy, identity).await?;
    let link = match proxy.kind {
        Kind::Http | Kind::Https if !target.https => return Ok((link, remote)),
        Kind::Http | Kind::Https => tunnel(proxy, link, target).await,
        Kind::Socks5 | Kind::Socks5h => {
            // Longer than DNS has them, and than SOCKS can write.
            if matches!(&target.host, Host::Domain(name) if name.len() > usize::from(u8::MAX)) {
                return Err(Refused::fatal("the host name is too long").into_failure(proxy, target));
            }
            let address = match &target.host {
                Host::Ipv4(ip) => TargetAddr::Ip((*ip, target.port).into()),
                Host::Ipv6(ip) => TargetAddr::Ip((*ip, target.port).into()),
                Host::Domain(name) => TargetAddr::Domain(name.as_str().into(), target.port),
            };
            socks(proxy, link, address).await
        }
    };
    Ok((link.map_err(|refused| refused.into_failure(proxy, target))?, remote))
}

/// How long the proxy is waited for before it is asked for the next address beside this one: for one that is silent it may wait for
/// minutes itself.
const ADDRESS_TIME: Duration = Duration::from_secs(3);
/// Addresses that it is asked for at once.
const AT_ONCE_MAX: usize = 4;

/// Asks a SOCKS proxy for one address of the target after another, until it reaches one.
async fn by_address(
    proxy: &Proxy,
    (guard, of_proxy): (&Guard, &Guard),
    tenant: TenantNo,
    target: &Target,
) -> Result<(Link, SocketAddr), Failure> {
    let addresses = connect::resolve(guard, &target.host, target.port, tenant).await?;
    in_turn(addresses, |address| async move {
        let dialled = connect::dial(of_proxy, &proxy.host, proxy.port, tenant).await;
        let dialled = dialled.map_err(|failure| unreached(proxy, failure))?;
        let link = socks(proxy, Link::Tcp(dialled.stream), TargetAddr::Ip(address)).await;
        Ok(link.map(|link| (link, dialled.remote)))
    })
    .await?
    .map_err(|refused| refused.into_failure(proxy, target))
}

/// Tries addresses until one is reached, or none may be: the next one where one fails, or takes long. A failure of another kind ends it.
async fn in_turn<T, F>(
    addresses: Vec<SocketAddr>,
    reach: impl Fn(SocketAddr) -> F,
) -> Result<Result<T, Refused>, Failure>
where
    F: Future<Output = Result<Result<T, Refused>, Failure>>,
{
    let (mut first, mut addresses) = (None, addresses.into_iter());
    let mut asked = FuturesUnordered::new();
    loop {
        asked.extend(addresses.next().map(&reach));
        tokio::select! {
            end = asked.next() => match end {
                Some(Ok(Err(refused))) if refused.is_of_address => first = first.or(Some(refused)),
                Some(end) => return end,
                None => return Ok(Err(first.unwrap_or_else(|| Refused::fatal("the host has no address")))),
            },
            () = sleep(ADDRESS_TIME), if addresses.len() > 0 && asked.len() < AT_ONCE_MAX => {}
        }
    }
}

async fn dial(proxy: &Proxy, guard: &Guard, identity: &Identity) -> Result<(Link, SocketAddr), Failure> {
    let dialled = connect::dial(guard, &proxy.host, proxy.port, identity.tenant()).await;
    let dialled = dialled.map_err(|failure| unreached(proxy, failure))?;
    let link = if proxy.kind == Kind::Https {
        let stream = tls::handshake(identity.tls_proxy()?, dialled.stream, &proxy.host).await;
        Link::Tls(Box::new(stream.map_err(|failure| unreached(proxy, failure))?))
    } else {
        Link::Tcp(dialled.stream)
    };
    Ok((link, dialled.remote))
}

fn unreached(proxy: &Proxy, failure: Failure) -> Failure {
    match failure.reason {
        FailureReason::ForbiddenAddress => failure,
        _ => Failure {
            reason: FailureReason::Proxy,
            message: format!("cannot reach the proxy `{proxy}`: {}", failure.message),
            ..failure
        },
    }
}

/// Why a proxy does not lead to the target.
struct Refused {
    why: String,
    is_retryable: bool,
    /// Whether another address of the target may do better.
    is_of_address: bool,
}

impl Refused {
    fn fatal(why: &str) -> Refused {
        Refused { why: why.into(), is_retryable: false, is_of_address: false }
    }

    fn of_address(why: &str) -> Refused {
        Refused { why: why.into(), is_retryable: true, is_of_address: true }
    }

    fn lost(error: &dyn std::fmt::Display) -> Refused {
        let why = format!("the connection to it ended before it answered ({error})");
        Refused { why, is_retryable: true, is_of_address: false }
    }

    fn into_failure(self, proxy: &Proxy, target: &Target) -> Failure {
        let Refused { why, is_retryable, .. } = self;
        let message = format!("the proxy `{proxy}` does not connect to `{}:{}`: {why}", target.host, target.port);
        Failure { retryable: is_retryable, ..Failure::fatal(FailureReason::Proxy, message) }
    }
}

/// Asks an HTTP proxy for a tunnel.
async fn tunnel(proxy: &Proxy, link: Link, target: &Target) -> Result<Link, Refused> {
    let request = connect_request(proxy, target).map_err(|_| Refused::fatal("its name cannot be sent"))?;
    let shaken = http1::handshake(TokioIo::new(link)).await;
    let (mut sender, mut connection) = shaken.map_err(|error| Refused::lost(&error))?;
    let answer = {
        let mut asked = std::pin::pin!(sender.send_request(request));
        let mut is_over = false;
        std::future::poll_fn(|cx| {
            // Its error, if any, reaches the request.
            is_over = is_over || connection.poll_without_shutdown(cx).is_ready();
            match asked.as_mut().poll(cx) {
                Poll::Pending if is_over => {
                    // The request learns of the end of its connection only when it is polled after that.
                    asked.as_mut().poll(cx)
                }
                poll => poll,
            }
        })
        .await
    };
    let status = answer.map_err(|error| judge_error(&error))?.status();
    judge_status(status)?;
    let parts = connection.into_parts();
    // TLS begins with the client, so whatever comes before it is not the origin's.
    if parts.read_buf.is_empty() { Ok(parts.io.into_inner()) } else { Err(Refused::fatal("it sends bytes of its own")) }
}

fn connect_request(proxy: &Proxy, target: &Target) -> http::Result<Request<Empty<Bytes>>> {
    let authority = format!("{}:{}", target.host, target.port);
    let mut request = Request::builder().method(Method::CONNECT).header(HOST, &authority);
    if let Some(authorization) = proxy.authorization() {
        request = request.header(PROXY_AUTHORIZATION, authorization);
    }
    let uri = Uri::builder().authority(authority).build()?;
    request.uri(uri).body(Empty::new())
}

fn judge_error(error: &hyper::Error) -> Refused {
    if error.is_parse() { Refused::fatal("it does not speak HTTP") } else { Refused::lost(error) }
}

fn judge_status(status: StatusCode) -> Result<(), Refused> {
    match status.as_u16() {
        200..=299 => Ok(()),
        407 => Err(Refused::fatal("it requires credentials that it accepts; put them into `proxy_url` (407)")),
        code => {
            let is_retryable = code == 429 || code >= 500;
            Err(Refused { why: format!("it answers {code}"), is_retryable, is_of_address: false })
        }
    }
}

/// Asks a SOCKS5 proxy for a way to `address`.
async fn socks(proxy: &Proxy, link: Link, address: TargetAddr<'_>) -> Result<Link, Refused> {
    let stream = match &proxy.credentials {
        None => Socks5Stream::connect_with_socket(link, address).await,
        Some((name, password)) => {
            Socks5Stream::connect_with_password_and_socket(link, address, name, password.expose()).await
        }
    };
    stream.map(Socks5Stream::into_inner).map_err(|error| judge_socks(proxy, &error))
}

fn judge_socks(proxy: &Proxy, error: &SocksError) -> Refused {
    match error {
        SocksError::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            Refused::fatal("its answer is malformed")
        }
        SocksError::Io(error) => Refused::lost(error),
        SocksError::GeneralSocksServerFailure => Refused::of_address("it failed for a reason of its own"),
        SocksError::NetworkUnreachable => Refused::of_address("the network is unreachable"),
        SocksError::HostUnreachable => Refused::of_address("the host is unreachable"),
        SocksError::ConnectionRefused => Refused::of_address("the connection was refused"),
        SocksError::TtlExpired => Refused::of_address("the host did not answer in time"),
        SocksError::AddressTypeNotSupported => {
            Refused { is_of_address: true, ..Refused::fatal("it cannot make this kind of connection") }
        }
        SocksError::CommandNotSupported => Refused::fatal("it cannot make this kind of connection"),
        SocksError::ConnectionNotAllowedByRuleset => Refused::fatal("its rules forbid it"),
        SocksError::NoAcceptableAuthMethods | SocksError::AuthorizationRequired if proxy.credentials.is_none() => {
            Refused::fatal("it requires credentials; put them into `proxy_url`")
        }
        SocksError::NoAcceptableAuthMethods | SocksError::UnknownAuthMethod => {
            Refused::fatal("it has no way to authenticate that haul knows")
        }
        SocksError::PasswordAuthFailure(_) => Refused::fatal("it does not accept the credentials of `proxy_url`"),
        SocksError::InvalidAuthValues(_) => {
            Refused::fatal("name and password of `proxy_url` must each have from 1 to 255 bytes for SOCKS5")
        }
        _ => Refused::fatal("it does not speak SOCKS5"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::secret::Secret;

    #[test]
    fn judges_answers() {
        let retryable = |code| judge_status(StatusCode::from_u16(code).unwrap()).err().map(|it| it.is_retryable);
        assert_eq!(
            [200, 204, 407, 403, 429, 502].map(retryable),
            [None, None, Some(false), Some(false), Some(true), Some(true)]
        );
        let proxy = Proxy::parse(&Secret::new("socks5://p")).ok().unwrap();
        let of = |error| {
            let refused = judge_socks(&proxy, &error);
            (refused.is_retryable, refused.is_of_address)
        };
        assert_eq!(of(SocksError::HostUnreachable), (true, true));
        assert_eq!(of(SocksError::ConnectionNotAllowedByRuleset), (false, false));
        assert_eq!(of(SocksError::Io(io::ErrorKind::UnexpectedEof.into())), (true, false));
        assert_eq!(of(SocksError::UnknownError), (false, false));
    }

    #[tokio::test]
    async fn every_address_is_tried() {
        tokio::time::pause();
        let addresses = || [1, 2, 3].map(|port| SocketAddr::from(([10, 0, 0, 1], port))).to_vec();
        let refused = |is_of_address| Refused { is_of_address, ..Refused::fatal("no") };
        let third = in_turn(addresses(), |address| async move {
            match address.port() {
                3 => Ok(Ok(address.port())),
                _ => Ok(Err(refused(true))),
            }
        });
        assert_eq!(third.await.ok().unwrap().ok(), Some(3));
        let silent = in_turn(addresses(), |address| async move {
            if address.port() < 3 { std::future::pending().await } else { Ok(Ok::<_, Refused>(address.port())) }
        });
        assert_eq!(silent.await.ok().unwrap().ok(), Some(3), "none takes the time of the next one");
        let slow = in_turn(addresses(), |address| async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Ok(Ok::<_, Refused>(address.port()))
        });
        let slow = tokio::time::timeout(Duration::from_secs(10), slow).await;
        assert_eq!(slow.unwrap().ok().unwrap().ok(), Some(1), "a slow proxy is no silent one");
        let tried = std::cell::Cell::new(0);
        let ruled_out = in_turn(addresses(), |_| {
            tried.set(tried.get() + 1);
            std::future::ready(Ok(Err::<(), _>(refused(false))))
        });
        assert!(ruled_out.await.ok().unwrap().is_err());
        assert_eq!(tried.get(), 1, "another address would be refused as well");
    }
}
