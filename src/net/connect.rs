//! From a host and port to a TCP connection: resolve, filter by the guard, dial what is left.
//!
//! The one place that opens sockets. The address that was judged is the address that is dialled: nothing resolves a
//! second time in between.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Host;

use crate::model::failure::{Failure, FailureReason};
use crate::model::tenant::TenantNo;
use crate::net::guard::{Guard, Refusal, written};
use crate::net::reach::Reach;
use crate::net::{classify, reach, resolve};

/// The head start of one address before the next is tried beside it (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of a host that are dialled at once. Whoever gives a name many that are silent takes no more descriptors.
const AT_ONCE_MAX: usize = 4;
/// How long an address is dialled behind which there are as many others as are dialled at once.
const BRIEF: Duration = Duration::from_secs(2);
/// The kernel asks a silent peer whether it lives after the first, and then by the second, a few times: a connection
/// whose peer is gone ends even where a task has turned its timeouts off.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// A TCP connection and where it goes.
pub(super) struct Dialled {
    pub(super) stream: TcpStream,
    pub(super) remote: SocketAddr,
}

/// Connects to the first address of `host` that answers, for a tenant.
pub(super) async fn dial(guard: &Guard, host: &Host<String>, port: u16, tenant: TenantNo) -> Result<Dialled, Failure> {
    let addresses = resolve(guard, host, port, tenant).await?;
    match race(addresses, &reach::SYSTEM, TcpStream::connect).await {
        Ok((stream, remote)) => {
            // Small requests must not wait for the acknowledgement of the ones before. Where either option is not to be
            // had, the connection is still one.
            let _ = stream.set_nodelay(true);
            let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_INTERVAL);
            let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
            Ok(Dialled { stream, remote })
        }
        Err(error) => Err(classify::connect(&format!("{host}:{port}"), &error)),
    }
}

/// Returns the addresses of `host` that may be dialled, in the order in which to try them; at least one.
pub(super) async fn resolve(
    guard: &Guard,
    host: &Host<String>,
    port: u16,
    tenant: TenantNo,
) -> Result<Vec<SocketAddr>, Failure> {
    judge_port(guard, host, port)?;
    let name = match host {
        Host::Ipv4(ip) => return literal(guard, IpAddr::V4(*ip), port),
        Host::Ipv6(ip) => return literal(guard, IpAddr::V6(*ip), port),
        Host::Domain(name) => name,
    };
    guard.judge_name(name).map_err(|refusal| forbidden(name, false, refusal))?;
    let unresolved = |it: resolve::Unresolved| {
        if it.is_own { classify::dns_own(name, &it.why) } else { classify::dns(name, &it.why) }
    };
    let found = resolve::SYSTEM.resolve(name, tenant).await.map_err(unresolved)?;
    let mut refused = None;
    let mut allowed = Vec::new();
    for ip in found.iter() {
        match guard.judge_as(Some((name, port)), *ip) {
            Ok(()) => allowed.push(SocketAddr::new(*ip, port)),
            Err(refusal) => refused = refused.or(Some(refusal)),
        }
    }
    match refused {
        Some(refusal) if allowed.is_empty() => Err(forbidden(name, true, refusal)),
        _ => {
            let mut addresses = interleave(allowed);
            reach::SYSTEM.sort(&mut addresses);
            Ok(addresses)
        }
    }
}

fn literal(guard: &Guard, ip: IpAddr, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    judge_literal(guard, ip, port)?;
    Ok(vec![SocketAddr::new(ip, port)])
}

fn judge_literal(guard: &Guard, ip: IpAddr, port: u16) -> Result<(), Failure> {
    let judged = guard.judge_as(Some((&written(ip), port)), ip);
    judged.map_err(|refusal| forbidden(&ip.to_string(), false, refusal))
}

fn judge_port(guard: &Guard, host: &Host<String>, port: u16) -> Result<(), Failure> {
    guard.judge_port(port).map_err(|refusal| {
        let message = format!(
            "will not connect to `{host}:{port}`: it is {refusal}; a server allows it with `--allow-ports {port}`"
        );
        Failure::fatal(FailureReason::ForbiddenAddress, message)
    })
}

/// Judges as much as can be judged of a host that somebody else (a proxy) is going to resolve.
pub(super) fn judge_unresolved(guard: &Guard, host: &Host<String>, port: u16) -> Result<(), Failure> {
    judge_port(guard, host, port)?;
    match host {
        Host::Ipv4(ip) => judge_literal(guard, IpAddr::V4(*ip), port),
        Host::Ipv6(ip) => judge_literal(guard, IpAddr::V6(*ip), port),
        Host::Domain(name) => guard.judge_proxied_name(name, port).map_err(|refusal| forbidden(name, false, refusal)),
    }
}

/// The failure of a host that the guard refuses. For a name that was resolved it says neither which address it has nor
/// of which kind: whoever may submit a task would learn from it what the names of the inner network lead to.
fn forbidden(host: &str, is_resolved: bool, refusal: Refusal) -> Failure {
    let why = match refusal {
        _ if is_resolved && refusal != Refusal::Denied => "it leads to no public address".to_owned(),
        _ => format!("it is {refusal}"),
    };
    let remedy = if refusal.is_private() {
        "; the operator may start the server with `--allow-private-networks` or allow this network"
    } else {
        ""
    };
    Failure::fatal(FailureReason::ForbiddenAddress, format!("will not connect to `{host}`: {why}{remedy}"))
}

/// Families in turn, beginning with the one that the resolver put first (RFC 8305, section 4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (ours, others): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut mixed = Vec::with_capacity(ours.len() + others.len());
    let (mut ours, mut others) = (ours.into_iter(), others.into_iter());
    loop {
        let (one, other) = (ours.next(), others.next());
        if one.is_none() && other.is_none() {
            return mixed;
        }
        mixed.extend(one);
        mixed.extend(other);
    }
}

/// Dials one after another, each with a head start over the next; a failure starts the next at once. The first to
/// connect wins, and the rest is dropped. `reach` learns who failed, and who was silent for longer than a head start.
async fn race<T, F>(
    addresses: Vec<SocketAddr>,
    reach: &Reach,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<(T, SocketAddr)>
where
    F: Future<Output = io::Result<T>>,
{
    let mut waiting = addresses.into_iter();
    let mut running = FuturesUnordered::new();
    let mut silent = Vec::new();
    let mut first_error = None;
    loop {
        let latest = waiting.next();
        if let Some(address) = latest {
            let attempt = connect(address);
            let is_brief = waiting.len() >= AT_ONCE_MAX;
            running.push(async move {
                let silent = |_| Err(io::ErrorKind::TimedOut.into());
                let end = if is_brief { timeout(BRIEF, attempt).await.unwrap_or_else(silent) } else { attempt.await };
                (address, end)
            });
        }
        tokio::select! {
            end = running.next() => match end {
                Some((address, Ok(stream))) => {
                    reach.answered(address);
                    silent.into_iter().filter(|other| *other != address).for_each(|other| reach.failed(other));
                    return Ok((stream, address));
                }
                Some((address, Err(error))) => {
                    if !classify::is_want_of_means(&error) {
                        reach.failed(address);
                    }
                    silent.retain(|other| *other != address);
                    first_error = first_error.or(Some(error));
                }
                None => return Err(first_error.unwrap_or_else(|| io::Error::other("there is no address to dial"))),
            },
            () = tokio::time::sleep(STAGGER), if waiting.len() > 0 && running.len() < AT_ONCE_MAX => silent.extend(latest),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 80)).collect()
    }

    #[test]
    fn families_take_turns() {
        let mixed = interleave(addresses(&["::1", "::2", "::3", "1.1.1.1", "2.2.2.2"]));
        assert_eq!(mixed, addresses(&["::1", "1.1.1.1", "::2", "2.2.2.2", "::3"]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_delays_by_the_stagger_and_a_refusal_not_at_all() {
        let dial = |address: SocketAddr| async move {
            match address.ip().to_string().as_str() {
                "::1" => std::future::pending().await,
                "1.1.1.1" => Err(io::ErrorKind::ConnectionRefused.into()),
                _ => Ok(()),
            }
        };
        let (start, reach) = (Instant::now(), Reach::default());
        let mut all = addresses(&["::1", "1.1.1.1", "::2"]);
        let ((), winner) = race(all.clone(), &reach, dial).await.unwrap();
        assert_eq!((winner.ip().to_string().as_str(), start.elapsed().as_millis()), ("::2", 250));
        reach.sort(&mut all);
        assert_eq!(all, addresses(&["::2", "::1", "1.1.1.1"]), "both are remembered");
        let error = race(addresses(&["1.1.1.1"]), &reach, dial).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(race(Vec::new(), &reach, dial).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn few_of_many_silent_addresses_are_dialled_at_once_and_all_in_the_end() {
        struct One<'a>(&'a Cell<usize>);
        impl Drop for One<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        let (now, most) = (Cell::new(0), Cell::new(0));
        let all: Vec<SocketAddr> = (0..64).map(|n| SocketAddr::from(([10, 0, 0, n], 80))).collect();
        let dial = |address: SocketAddr| {
            now.set(now.get() + 1);
            most.set(most.get().max(now.get()));
            let one = One(&now);
            async move {
                let _one = one;
                if address.ip() == IpAddr::from([10, 0, 0, 63]) { Ok(()) } else { std::future::pending().await }
            }
        };
        let ((), winner) = race(all, &Reach::default(), dial).await.unwrap();
        assert_eq!((winner.ip().to_string().as_str(), most.get()), ("10.0.0.63", AT_ONCE_MAX));
    }

    #[tokio::test]
    async fn names_and_literals_are_judged_alike() {
        let guard = Guard::default();
        for host in ["localhost", "127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "[::1]"] {
            let failure = resolve(&guard, &Host::parse(host).unwrap(), 80, 1).await.unwrap_err();
            assert_eq!((failure.reason, failure.retryable), (FailureReason::ForbiddenAddress, false), "{host}");
        }
        let open = Guard { allow_private: true, ..Guard::default() };
        assert!(resolve(&open, &Host::parse("localhost").unwrap(), 80, 1).await.is_ok());
        let inner = resolve(&guard, &Host::parse("localhost").unwrap(), 80, 1).await.unwrap_err();
        assert!(!inner.message.contains("127.0.0.1") && !inner.message.contains("loopback"), "{inner}");
        insta::assert_snapshot!(
            resolve(&guard, &Host::parse("10.1.2.3").unwrap(), 80, 1).await.unwrap_err(),
            @"will not connect to `10.1.2.3`: it is a private address; the operator may start the server with `--allow-private-networks` or allow this network"
        );
    }

    #[tokio::test]
    async fn an_address_counts_among_the_hosts_of_the_operator() {
        let hosts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (allow_hosts, deny_hosts) = (hosts(&["127.0.0.1:80", "[::1]"]), hosts(&["8.8.8.8", "[2606:4700::1111]"]));
        let guard = Guard { allow_hosts, deny_hosts, ..Guard::default() };
        let judged = async |host: &str, port| {
            let host = Host::parse(host).unwrap();
            let unresolved = judge_unresolved(&guard, &host, port).is_ok();
            (resolve(&guard, &host, port, 1).await.is_ok(), unresolved)
        };
        for (host, port) in [("127.0.0.1", 80), ("2130706433", 80), ("[::1]", 80), ("[::1]", 8080), ("8.8.4.4", 80)] {
            assert_eq!(judged(host, port).await, (true, true), "{host}:{port}");
        }
        for host in ["127.0.0.2", "8.8.8.8", "0x8080808", "[2606:4700::1111]", "[::ffff:8.8.8.8]"] {
            assert_eq!(judged(host, 80).await, (false, false), "{host}");
        }
        assert_eq!(judged("127.0.0.1", 8080).await, (false, false), "the exception has a port");
    }
}
