//! Connections that wait for their next request, or take several at once.
//!
//! They are of all runtimes that use the client: an unused one goes to whichever asks for it.
//!
//! A pool belongs to one client and thereby to one guard, so a connection is never reused under another policy. Within
//! it, connections are kept apart by scheme, host, port and [`Identity`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::runtime::{Handle, Id};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::model::failure::Failure;
use crate::net::connection::Connection;
use crate::net::http1::Http1;
use crate::net::http2::Http2;
use crate::net::identity::Identity;
use crate::net::keep_alive::IDLE_TIME;
use crate::net::lock;
use crate::net::target::Target;

/// Unused connections kept for one endpoint.
const IDLE_PER_ENDPOINT_MAX: usize = 128;
/// Unused connections kept in all, as many of each protocol,
const IDLE_MAX: usize = 512;
/// of so many descriptors that the process may have one: hosts that are done with take none from tasks and clients.
const DESCRIPTORS_EACH: u64 = 32;
/// HTTP/2 connections to one endpoint; beyond, requests queue on the least busy.
const SHARED_MAX: usize = 8;
/// The same where requests ask for connections of their own.
const SEPARATE_MAX: usize = 32;

/// All endpoints of a client.
pub(super) struct Pool {
    endpoints: Mutex<HashMap<Box<str>, Vec<Arc<Endpoint>>>>,
    idle: Arc<Idle>,
}

/// The unused connections of HTTP/1.1 at all endpoints.
struct Idle {
    count: AtomicUsize,
    most: usize,
}

/// Where requests of one kind go, and the connections there.
pub(super) struct Endpoint {
    pub(super) target: Target,
    pub(super) identity: Arc<Identity>,
    /// Held while dialling where HTTP/2 is possible, so that a burst of requests shares one connection.
    pub(super) dialling: Semaphore,
    connections: Mutex<Connections>,
    idle: Arc<Idle>,
}

#[derive(Default)]
struct Connections {
    /// Unused ones, the latest last.
    http1: Vec<(Http1, Instant)>,
    http2: Vec<(Http2, Instant)>,
    protocol: Protocol,
}

/// What is known of the versions of HTTP that an endpoint speaks.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Not asked yet.
    #[default]
    Unknown,
    /// The last handshake chose HTTP/1.1, so that dialling one by one would only slow things down.
    Http1,
    /// The last handshake chose HTTP/2.
    Http2,
    /// The peer speaks HTTP/2 and has said that it serves requests over HTTP/1.1 only: HTTP/2 is not offered any more.
    Http1Only,
}

/// How a request comes to an HTTP/2 connection.
pub(super) enum Choice {
    /// On this one.
    Use(Connection),
    /// On a new one.
    Dial,
    /// Whether a connection has room is known once its peer has said so, which it does first of all.
    Settle(CancellationToken),
}

impl Pool {
    /// One that keeps fewer unused connections where the process may have few descriptors.
    pub(super) fn new() -> Pool {
        let most = most_of(getrlimit(Resource::Nofile).current);
        Pool { endpoints: Mutex::default(), idle: Arc::new(Idle { count: AtomicUsize::new(0), most }) }
    }

    /// The endpoint that a request to `url` goes to.
    pub(super) fn endpoint(&self, url: &Url, identity: &Arc<Identity>) -> Result<Arc<Endpoint>, Failure> {
        let (https, host, port) =
            (url.scheme() == "https", url.host_str().unwrap_or_default(), url.port_or_known_default());
        let same = |own: &&Arc<Endpoint>| {
            own.target.https == https && Some(own.target.port) == port && Arc::ptr_eq(&own.identity, identity)
        };
        let mut endpoints = lock(&self.endpoints);
        if let Some(known) = endpoints.get(host).and_then(|list| list.iter().find(same)) {
            return Ok(Arc::clone(known));
        }
        let endpoint = Arc::new(Endpoint {
            target: Target::of(url)?,
            identity: Arc::clone(identity),
            dialling: Semaphore::new(1),
            connections: Mutex::default(),
            idle: Arc::clone(&self.idle),
        });
        endpoints.entry(host.into()).or_default().push(Arc::clone(&endpoint));
        Ok(endpoint)
    }

    /// Returns how many connections of HTTP/1.1 wait for their next request.
    pub(super) fn unused(&self) -> usize {
        self.idle.count.load(Ordering::Relaxed)
    }

    /// Closes what has been idle for too long, and forgets endpoints that nobody uses.
    pub(super) fn sweep(&self) {
        lock(&self.endpoints).retain(|_, list| {
            list.retain(|endpoint| endpoint.expire(IDLE_TIME) > 0 || Arc::strong_count(endpoint) > 1);
            !list.is_empty()
        });
    }

    /// Closes the older half of the unused connections of HTTP/2, where there are as many (`unused`) as may be kept.
    pub(super) fn make_room(&self, unused: usize) {
        if unused < self.idle.most {
            return;
        }
        let endpoints: Vec<_> = lock(&self.endpoints).values().flatten().cloned().collect();
        let mut times = Vec::new();
        for endpoint in &endpoints {
            let connections = lock(&endpoint.connections);
            times.extend(connections.http2.iter().filter(|(http2, _)| http2.load() == 0).map(|(_, used)| *used));
        }
        times.sort_unstable();
        let Some(&middle) = times.get(times.len() / 2) else { return };
        for endpoint in endpoints {
            lock(&endpoint.connections).http2.retain(|(http2, used)| http2.load() > 0 || *used > middle);
        }
    }

    /// Closes every connection that is not in use.
    pub(super) fn close_unused(&self) {
        let endpoints: Vec<_> = lock(&self.endpoints).values().flatten().cloned().collect();
        for endpoint in endpoints {
            endpoint.expire(Duration::ZERO);
        }
    }

    /// Closes every connection that is not in use, and forgets the others, which close after their use.
    pub(super) fn clear(&self) {
        for endpoint in std::mem::take(&mut *lock(&self.endpoints)).into_values().flatten() {
            endpoint.expire(Duration::ZERO);
        }
    }
}

impl Endpoint {
    /// A connection that can carry a request now. `idle_max`: how long an HTTP/1.1 one may have been unused.
    pub(super) fn checkout(&self, is_separate: bool, idle_max: Duration) -> Option<Connection> {
        if self.protocol() == Protocol::Http2 {
            return match self.choose(is_separate) {
                Choice::Use(connection) => Some(connection),
                Choice::Dial | Choice::Settle(_) => None,
            };
        }
        let here = Handle::current().id();
        while let Some(mut http1) = self.take_http1(here, idle_max) {
            if http1.is_silent() {
                http1.settle_here();
                return Some(Connection::Http1(http1));
            }
        }
        None
    }

    /// Takes the latest that was used on the runtime `here`, or else the latest of any.
    fn take_http1(&self, here: Id, idle_max: Duration) -> Option<Http1> {
        let mut connections = lock(&self.connections);
        let before = connections.http1.len();
        // The clock is read once: for each of many unused connections that would be most of the cost.
        let now = Instant::now();
        let idle = |since: &Instant| now.saturating_duration_since(*since);
        connections.http1.retain(|(http1, since)| idle(since) < http1.idle_max);
        let fits = |(_, since): &(Http1, Instant)| idle(since) < idle_max;
        let own = connections.http1.iter().rposition(|entry| entry.0.home() == here && fits(entry));
        let at = own.or_else(|| connections.http1.iter().rposition(fits));
        let taken = at.map(|at| connections.http1.remove(at).0);
        self.idle.count.fetch_sub(before - connections.http1.len(), Ordering::Relaxed);
        taken
    }

    /// Chooses for a request that may share a connection, or asks for one of its own.
    ///
    /// A connection is dialled only where none is unused, on whichever runtime, so that there are never more of them
    /// than requests at once. One that another runtime uses is shared with it only where there may be no more.
    pub(super) fn choose(&self, is_separate: bool) -> Choice {
        let mut connections = lock(&self.connections);
        // An unused one whose windows would be too much now gives way to one with smaller windows, and one that may be dead to
        // one that is not.
        let is_good = |http2: &Http2| http2.has_window() && !http2.is_doubtful();
        connections.http2.retain(|(http2, _)| !http2.is_closed() && (http2.load() > 0 || is_good(http2)));
        let (list, most) = (&mut connections.http2, if is_separate { SEPARATE_MAX } else { SHARED_MAX });
        let key = |http2: &Http2| (http2.is_separate(), !http2.is_here(), http2.load());
        let has_place = |http2: &Http2| http2.load() == 0 || (!is_separate && http2.is_here() && http2.has_room());
        let fits = |http2: &Http2| is_good(http2) && has_place(http2);
        let best =
            list.iter().enumerate().filter(|(_, (http2, _))| fits(http2)).min_by_key(|(_, (http2, _))| key(http2));
        let is_unsettled =
            |(http2, _): &&(Http2, Instant)| http2.is_here() && !http2.is_settled() && !http2.is_doubtful();
        let index = match best {
            Some((index, _)) => index,
            None if !is_separate && let Some((http2, _)) = list.iter().find(is_unsettled) => {
                return Choice::Settle(http2.settled());
            }
            // There is always one, or one is made, whose windows are so small that there is room for them.
            None if list.len() < most || (list.len() == most && !list.iter().any(|(it, _)| it.has_window())) => {
                return Choice::Dial;
            }
            None => {
                let least = list
                    .iter()
                    .enumerate()
                    .min_by_key(|(_, (http2, _))| (http2.is_doubtful(), !http2.has_window(), http2.load()));
                let Some((index, _)) = least else { return Choice::Dial };
                index
            }
        };
        let (http2, used) = &mut list[index];
        *used = Instant::now();
        Choice::Use(Connection::Http2(http2.share(is_separate)))
    }

    /// Takes an HTTP/1.1 connection back after its answer has been read to the end.
    pub(super) fn give_back(&self, mut http1: Http1) {
        if !http1.is_ready() || http1.idle_max.is_zero() {
            return;
        }
        if self.idle.count.fetch_add(1, Ordering::Relaxed) < self.idle.most {
            let mut connections = lock(&self.connections);
            if connections.http1.len() < IDLE_PER_ENDPOINT_MAX {
                connections.http1.push((http1, Instant::now()));
                return;
            }
        }
        self.idle.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes note of a fresh connection. One of HTTP/2 is shared from now on, and the request has its share of it.
    pub(super) fn admit(&self, fresh: Connection, is_separate: bool) -> Connection {
        let mut connections = lock(&self.connections);
        let is_final = connections.protocol == Protocol::Http1Only;
        match fresh {
            Connection::Http1(http1) => {
                connections.protocol = if is_final { Protocol::Http1Only } else { Protocol::Http1 };
                Connection::Http1(http1)
            }
            Connection::Http2(http2) => {
                connections.protocol = if is_final { Protocol::Http1Only } else { Protocol::Http2 };
                let share = http2.share(is_separate);
                connections.http2.push((http2, Instant::now()));
                Connection::Http2(share)
            }
        }
    }

    /// Offers HTTP/1.1 only, from the next connection on.
    pub(super) fn need_http1(&self) {
        lock(&self.connections).protocol = Protocol::Http1Only;
    }

    /// Returns what is known of the versions that it speaks.
    pub(super) fn protocol(&self) -> Protocol {
        lock(&self.connections).protocol
    }

    /// Closes what has not been used for `idle_max`, and says how many are left.
    fn expire(&self, idle_max: Duration) -> usize {
        let mut connections = lock(&self.connections);
        let before = connections.http1.len();
        connections
            .http1
            .retain_mut(|(http1, since)| since.elapsed() < idle_max.min(http1.idle_max) && http1.is_ready());
        self.idle.count.fetch_sub(before - connections.http1.len(), Ordering::Relaxed);
        connections.http2.retain(|(http2, used)| (http2.load() > 0 || used.elapsed() < idle_max) && !http2.is_closed());
        connections.http1.len() + connections.http2.len()
    }
}

/// How many unused connections are kept where there may be so many descriptors; `None`: any number.
fn most_of(descriptors: Option<u64>) -> usize {
    descriptors.map_or(IDLE_MAX, |limit| usize::try_from(limit / DESCRIPTORS_EACH).unwrap_or(IDLE_MAX).min(IDLE_MAX))
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.idle.count.fetch_sub(lock(&self.connections).http1.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_kept_where_descriptors_are_few() {
        assert_eq!([Some(80), Some(1024), Some(1 << 20), None].map(most_of), [2, 32, 512, 512]);
    }
}
