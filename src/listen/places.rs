//! Who may stay connected: so many connections in all, so many from one address.
//!
//! Where all places are taken, a new connection takes that of one without an open call of a known caller: first of one
//! on which nobody known ever called, the oldest of them, then of the one that has been idle the longest. So neither
//! connections that say nothing nor strangers who do not read what they are told keep out a client that has something to
//! say.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio_util::sync::CancellationToken;

use crate::listen::budget::Holder;

/// All places of a listener.
#[derive(Debug)]
pub(super) struct Places {
    state: Mutex<State>,
    max: usize,
    per_network_max: usize,
}

#[derive(Debug, Default)]
struct State {
    /// A number for each connection, and for each time that one falls quiet.
    turns: u64,
    connections: HashMap<u64, Connection>,
    by_network: HashMap<IpAddr, usize>,
    /// Connections without an open call of a known caller, in the order in which they lose their places.
    quiet: BTreeMap<Quiet, u64>,
}

/// Whether a known caller has ever called on a connection, and since when it is quiet.
type Quiet = (bool, u64);

#[derive(Debug)]
struct Connection {
    /// Open calls of known callers.
    calls: u32,
    /// Its key among the quiet ones while it has no such call.
    quiet: Option<Quiet>,
    network: Option<IpAddr>,
    displaced: CancellationToken,
}

impl Places {
    /// Makes `max` places, of which `per_network_max` may be taken from one address.
    pub(super) fn new(max: usize, per_network_max: usize) -> Arc<Places> {
        Arc::new(Places { state: Mutex::default(), max, per_network_max })
    }

    /// Takes a place for a connection from `address`; `None` where there is none.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let network = network(address);
        let mut state = self.lock();
        let taken = network.and_then(|network| state.by_network.get(&network)).copied().unwrap_or(0);
        if taken >= self.per_network_max || (state.connections.len() >= self.max && !state.displace()) {
            return None;
        }
        if let Some(network) = network {
            *state.by_network.entry(network).or_default() += 1;
        }
        let number = state.turn();
        let displaced = CancellationToken::new();
        let connection = Connection { calls: 0, quiet: None, network, displaced: displaced.clone() };
        state.connections.insert(number, connection);
        state.mark_idle(number, false);
        Some(Place { places: self.clone(), number, displaced, has_called: AtomicBool::new(false) })
    }

    /// Ends a connection without an open call, so that its descriptor can be used. Returns whether there was one.
    pub(super) fn displace(&self) -> bool {
        self.lock().displace()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    fn displace(&mut self) -> bool {
        let Some((_, number)) = self.quiet.pop_first() else { return false };
        if let Some(connection) = self.remove(number) {
            connection.displaced.cancel();
        }
        true
    }

    fn mark_idle(&mut self, number: u64, has_called: bool) {
        let key = (has_called, self.turn());
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.quiet = Some(key);
            self.quiet.insert(key, number);
        }
    }

    fn remove(&mut self, number: u64) -> Option<Connection> {
        let connection = self.connections.remove(&number)?;
        if let Some(key) = connection.quiet {
            self.quiet.remove(&key);
        }
        if let Some(network) = connection.network
            && let Some(count) = self.by_network.get_mut(&network)
        {
            *count -= 1;
            if *count == 0 {
                self.by_network.remove(&network);
            }
        }
        Some(connection)
    }
}

/// The part of an address that one owner has; `None` for this machine, whose users it does not distinguish.
fn network(address: IpAddr) -> Option<IpAddr> {
    let address = address.to_canonical();
    match address {
        _ if address.is_loopback() => None,
        IpAddr::V4(_) => Some(address),
        IpAddr::V6(v6) => Some(IpAddr::V6((u128::from(v6) >> 64 << 64).into())),
    }
}

/// The place of one connection, which is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    displaced: CancellationToken,
    has_called: AtomicBool,
}

impl Place {
    /// Waits until another connection has taken the place.
    pub(super) async fn displaced(&self) {
        self.displaced.cancelled().await;
    }

    /// Returns whether a call was ever made.
    pub(super) fn has_called(&self) -> bool {
        self.has_called.load(Ordering::Relaxed)
    }

    /// Notes that a call begins, which lasts until what this returns is dropped.
    pub(super) fn call(self: &Arc<Self>) -> OpenCall {
        self.has_called.store(true, Ordering::Relaxed);
        OpenCall { place: self.clone(), holder: OnceLock::new() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().remove(self.number);
    }
}

/// A call that is open.
#[derive(Debug)]
pub(super) struct OpenCall {
    place: Arc<Place>,
    /// Who makes it, once that is known.
    holder: OnceLock<Holder>,
}

impl OpenCall {
    /// Notes who calls: the connection keeps its place for as long as the call is open.
    fn identify(&self, holder: Holder) {
        if self.holder.set(holder).is_err() {
            return;
        }
        let mut state = self.place.places.lock();
        if let Some(connection) = state.connections.get_mut(&self.place.number) {
            connection.calls += 1;
            if let Some(key) = connection.quiet.take() {
                state.quiet.remove(&key);
            }
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if self.holder.get().is_none() {
            return;
        }
        let mut state = self.place.places.lock();
        let Some(connection) = state.connections.get_mut(&self.place.number) else { return };
        connection.calls -= 1;
        if connection.calls == 0 {
            state.mark_idle(self.place.number, true);
        }
    }
}

/// Goes with each request of a connection: whoever knows the caller says so, and its call keeps the place and holds memory in the
/// caller's name.
#[derive(Clone, Debug)]
pub struct KnownCaller(pub(super) Weak<OpenCall>);

impl KnownCaller {
    /// Says who calls.
    pub fn identify(&self, holder: Holder) {
        if let Some(call) = self.0.upgrade() {
            call.identify(holder);
        }
    }

    /// Returns in whose name a request holds memory: a stranger's, until it is said who calls.
    pub fn holder(&self) -> Holder {
        self.0.upgrade().and_then(|call| call.holder.get().copied()).unwrap_or(Holder::Stranger)
    }

    /// Returns the same of a request with these extensions.
    pub fn holder_of(extensions: &http::Extensions) -> Holder {
        extensions.get::<KnownCaller>().map_or(Holder::Stranger, KnownCaller::holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn known(place: &Arc<Place>) -> OpenCall {
        let call = place.call();
        call.identify(Holder::Owner);
        call
    }

    fn is_displaced(place: &Place) -> bool {
        place.displaced.is_cancelled()
    }

    #[test]
    fn the_silent_lose_their_places_first_and_the_busy_never() {
        let places = Places::new(3, 2);
        let take = || places.take(LOOPBACK).map(Arc::new);
        let (silent, idle, busy) = (take().unwrap(), take().unwrap(), take().unwrap());
        drop(known(&idle));
        let call = known(&busy);
        let fourth = take().unwrap();
        assert!(is_displaced(&silent) && !is_displaced(&idle));
        let fifth = take().unwrap();
        assert!(is_displaced(&fourth), "it never called, though it is younger than the idle one");
        let calls = (known(&fifth), known(&fifth));
        let sixth = take().unwrap();
        assert!(is_displaced(&idle));
        drop(calls.0);
        drop(silent);
        let last_call = known(&sixth);
        assert!(take().is_none(), "all are busy");
        drop(calls.1);
        let seventh = take().unwrap();
        assert!(is_displaced(&fifth) && !is_displaced(&busy) && !is_displaced(&sixth));
        drop((call, seventh));
        assert!(places.displace() && !places.displace());
        drop((idle, busy, fourth, fifth, sixth, last_call));
        let state = places.lock();
        assert!(state.connections.is_empty() && state.quiet.is_empty() && state.by_network.is_empty());
    }

    #[test]
    fn a_stranger_whose_calls_are_open_gives_way_before_a_known_caller_who_is_idle() {
        let places = Places::new(2, 2);
        let take = || places.take(LOOPBACK).map(Arc::new);
        let (idle, stranger) = (take().unwrap(), take().unwrap());
        drop(known(&idle));
        let calls = (stranger.call(), stranger.call());
        let third = take().unwrap();
        assert!(is_displaced(&stranger) && !is_displaced(&idle));
        let busy = known(&third);
        busy.identify(Holder::Owner);
        drop((calls, stranger));
        let fourth = take().unwrap();
        assert!(is_displaced(&idle) && !is_displaced(&third));
        drop(busy);
        assert!(places.displace() && is_displaced(&fourth), "nobody known ever called on it");
        assert!(places.displace() && is_displaced(&third) && !places.displace());
    }

    #[test]
    fn an_address_has_so_many_places_and_this_machine_any() {
        let places = Places::new(100, 2);
        let take = |address: &str| places.take(address.parse().unwrap());
        let held: Vec<_> = ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8::2"].map(take).into();
        assert!(held.iter().all(Option::is_some));
        assert!(take("192.0.2.1").is_none() && take("2001:db8::3").is_none());
        assert!(take("192.0.2.2").is_some() && take("2001:db8:0:1::1").is_some());
        let own: Vec<_> = (0..50).map(|_| take("127.0.0.1")).chain((0..10).map(|_| take("::1"))).collect();
        assert!(own.iter().all(Option::is_some));
        drop(held);
        assert!(take("192.0.2.1").is_some());
    }
}
