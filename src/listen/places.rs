//! Who may stay connected: so many connections in all, so many from one address.
//!
//! Where all places are taken, a new connection takes that of one without an open call of a known caller: first of one
//! on which nobody known ever called, the oldest of them, then of the one that has been idle the longest. So neither
//! connections that say nothing nor strangers who do not read what they are told keep out a client that has something to
//! say.
//!
//! Nor does somebody who opens calls on as many connections as there are: a call keeps its connection only while no more of the
//! caller's connections are kept than are free of such calls, and of the tenant's no more than three times as many. What somebody
//! has beyond that goes before those who are idle; it is looked at again when a place is needed.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio_util::sync::CancellationToken;

use crate::listen::budget::{Holder, may_hold};

/// How many times as many places as are free the callers of one tenant may keep, all of them together.
const TENANT_PARTS: usize = 3;

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
    /// How many connections open calls keep: of each who calls, and of each tenant.
    by_holder: HashMap<Holder, usize>,
    by_tenant: HashMap<u32, usize>,
    /// Connections that no open call keeps, in the order in which they lose their places.
    quiet: BTreeMap<Quiet, u64>,
    /// Connections without a place that are told so.
    farewells: usize,
}

/// How many of these there are at once: they have descriptors beside those that places stand for.
const FAREWELLS_MAX: usize = 8;

/// Why no call keeps a connection, and since when. In the order in which connections lose their places.
type Quiet = (Why, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    /// Nobody known has called on it.
    Unknown,
    /// Who calls on it has too many others.
    Beyond,
    /// No call is open.
    Idle,
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    /// In whose name the call holds what is bounded.
    pub holder: Holder,
    /// The only tenant that the caller may act for; `None`: any.
    pub tenant: Option<u32>,
}

#[derive(Debug)]
struct Connection {
    /// Open calls of known callers.
    calls: u32,
    /// Who made the first of them.
    caller: Option<Party>,
    /// Its key among the quiet ones; `None`: its calls keep it.
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
        if taken >= self.per_network_max && !network.is_some_and(|network| state.displace_unknown_of(network)) {
            return None;
        }
        if state.connections.len() >= self.max && !state.displace(self.max) {
            return None;
        }
        if let Some(network) = network {
            *state.by_network.entry(network).or_default() += 1;
        }
        let number = state.turn();
        let displaced = CancellationToken::new();
        let connection = Connection { calls: 0, caller: None, quiet: None, network, displaced: displaced.clone() };
        state.connections.insert(number, connection);
        state.mark_quiet(number, Why::Unknown);
        Some(Place { places: self.clone(), number, displaced, has_called: AtomicBool::new(false) })
    }

    /// Returns whether all places are taken, so that each new connection takes that of another one.
    pub(super) fn are_taken(&self) -> bool {
        self.lock().connections.len() >= self.max
    }

    /// Ends a connection that no open call keeps, so that its descriptor can be used. Returns whether there was one.
    pub(super) fn displace(&self) -> bool {
        self.lock().displace(self.max)
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

    fn displace(&mut self, max: usize) -> bool {
        while let Some((&(why, _), &number)) = self.quiet.first_key_value() {
            // Others have gone since its calls began.
            if why == Why::Beyond && self.keep(number, max) {
                continue;
            }
            if let Some(connection) = self.remove(number) {
                connection.displaced.cancel();
            }
            return true;
        }
        false
    }

    /// Ends the oldest connection of an address on which nobody known ever called. Returns whether there was one.
    fn displace_unknown_of(&mut self, network: IpAddr) -> bool {
        let is_of_it = |number: &u64| self.connections.get(number).is_some_and(|it| it.network == Some(network));
        let unknown = self.quiet.iter().take_while(|((why, _), _)| *why == Why::Unknown).map(|(_, number)| *number);
        let Some(number) = unknown.into_iter().find(is_of_it) else { return false };
        if let Some(connection) = self.remove(number) {
            connection.displaced.cancel();
        }
        true
    }

    fn mark_quiet(&mut self, number: u64, why: Why) {
        let key = (why, self.turn());
        if let Some(connection) = self.connections.get_mut(&number) {
            if let Some(old) = connection.quiet.replace(key) {
                self.quiet.remove(&old);
            }
            self.quiet.insert(key, number);
        }
    }

    /// Notes that a call of somebody is open on a connection.
    fn begin(&mut self, number: u64, party: Party, max: usize) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.calls += 1;
        if connection.calls == 1 {
            connection.caller = Some(party);
            if !self.keep(number, max) {
                self.mark_quiet(number, Why::Beyond);
            }
        }
    }

    /// Lets its open calls keep a connection, if whoever made them may have it kept.
    fn keep(&mut self, number: u64, max: usize) -> bool {
        let caller = self.connections.get(&number).and_then(|connection| connection.caller);
        let Some(party) = caller.filter(|party| self.may_keep(*party, max)) else { return false };
        if let Some(connection) = self.connections.get_mut(&number)
            && let Some(key) = connection.quiet.take()
        {
            self.quiet.remove(&key);
            *self.by_holder.entry(party.holder).or_default() += 1;
            if let Some(tenant) = party.tenant {
                *self.by_tenant.entry(tenant).or_default() += 1;
            }
        }
        true
    }

    /// Returns whether calls of somebody may keep one connection more. One each may have.
    fn may_keep(&self, Party { holder, tenant }: Party, max: usize) -> bool {
        let kept = self.connections.len() - self.quiet.len();
        let free = max.saturating_sub(kept + 1);
        let of_tenant = tenant.and_then(|tenant| self.by_tenant.get(&tenant)).copied().unwrap_or(0);
        let own = self.by_holder.get(&holder).copied().unwrap_or(0);
        (own == 0 || may_hold(holder, own as u64 + 1, free as u64))
            && (of_tenant == 0 || of_tenant < free.saturating_mul(TENANT_PARTS))
    }

    /// Notes that a call of somebody who is known has ended.
    fn end(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.calls -= 1;
        if connection.calls == 0 {
            let caller = connection.caller.take();
            if connection.quiet.is_none() {
                self.forget(caller);
            }
            self.mark_quiet(number, Why::Idle);
        }
    }

    fn forget(&mut self, keeper: Option<Party>) {
        let Some(Party { holder, tenant }) = keeper else { return };
        count_down(&mut self.by_holder, &holder);
        if let Some(tenant) = tenant {
            count_down(&mut self.by_tenant, &tenant);
        }
    }

    fn remove(&mut self, number: u64) -> Option<Connection> {
        let connection = self.connections.remove(&number)?;
        if let Some(key) = connection.quiet {
            self.quiet.remove(&key);
        }
        if let Some(network) = connection.network {
            count_down(&mut self.by_network, &network);
        }
        if connection.quiet.is_none() {
            self.forget(connection.caller);
        }
        Some(connection)
    }
}

fn count_down<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
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

    /// Says that a connection which has no place any more is told so, until what this returns is dropped; `None`: as many are told
    /// so already as may have descriptors beside those that have places.
    pub(super) fn farewell(&self) -> Option<Farewell> {
        let mut state = self.places.lock();
        (state.farewells < FAREWELLS_MAX).then(|| {
            state.farewells += 1;
            Farewell(self.places.clone())
        })
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

/// A connection that is told that its place is another's.
#[derive(Debug)]
pub(super) struct Farewell(Arc<Places>);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.lock().farewells -= 1;
    }
}

/// A call that is open.
#[derive(Debug)]
pub(super) struct OpenCall {
    place: Arc<Place>,
    /// In whose name it holds what is bounded, once that is known.
    holder: OnceLock<Holder>,
}

impl OpenCall {
    /// Notes who calls: the connection keeps its place for as long as the call is open, unless the caller has too many.
    fn identify(&self, party: Party) {
        let places = &self.place.places;
        if self.holder.set(party.holder).is_ok() {
            places.lock().begin(self.place.number, party, places.max);
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if self.holder.get().is_some() {
            self.place.places.lock().end(self.place.number);
        }
    }
}

/// Goes with each request of a connection: whoever knows the caller says so, and its call keeps the place and holds memory in the
/// caller's name.
#[derive(Clone, Debug)]
pub struct KnownCaller(pub(super) Weak<OpenCall>);

impl KnownCaller {
    /// Says who calls.
    pub fn identify(&self, party: Party) {
        if let Some(call) = self.0.upgrade() {
            call.identify(party);
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

    const OWNER: Party = Party { holder: Holder::Owner, tenant: None };

    fn known(place: &Arc<Place>) -> OpenCall {
        called(place, OWNER)
    }

    fn called(place: &Arc<Place>, party: Party) -> OpenCall {
        let call = place.call();
        call.identify(party);
        call
    }

    fn is_displaced(place: &Place) -> bool {
        place.displaced.is_cancelled()
    }

    /// Each has a descriptor for as long as it is told, which no place stands for.
    #[test]
    fn few_are_told_at_once_that_they_have_lost_their_places() {
        let places = Places::new(1, 100);
        let lost: Vec<Place> = (0..20).map(|_| places.take(LOOPBACK).unwrap()).collect();
        let mut told: Vec<Farewell> = lost.iter().filter_map(Place::farewell).collect();
        assert_eq!(told.len(), FAREWELLS_MAX);
        told.pop();
        assert!(lost[0].farewell().is_some(), "one has been told");
        assert!(lost[0].farewell().is_some() && told.len() < FAREWELLS_MAX);
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
        busy.identify(OWNER);
        drop((calls, stranger));
        let fourth = take().unwrap();
        assert!(is_displaced(&idle) && !is_displaced(&third));
        drop(busy);
        assert!(places.displace() && is_displaced(&fourth), "nobody known ever called on it");
        assert!(places.displace() && is_displaced(&third) && !places.displace());
    }

    /// As many connections with open calls as there are places, all of one caller or of many of one tenant.
    #[test]
    fn whose_calls_keep_too_many_places_gives_way_to_others() {
        for callers in [1, 7, 1000] {
            let places = Places::new(100, 1000);
            let take = || places.take(LOOPBACK).map(Arc::new);
            let idle = take().unwrap();
            drop(called(&idle, Party { holder: Holder::Known(2000), tenant: Some(2) }));
            let greedy: Vec<_> = (0..200_u64)
                .map(|number| {
                    let place = take().unwrap();
                    let call = called(&place, Party { holder: Holder::Known(number % callers), tenant: Some(1) });
                    (place, call)
                })
                .collect();
            let kept = greedy.iter().filter(|(place, _)| !is_displaced(place)).count();
            assert_eq!(kept, 99, "there is room for them");
            assert!(!is_displaced(&idle), "who is idle has not too many");
            let others: Vec<_> = (0..12_u64)
                .map(|number| {
                    let place = take().unwrap();
                    let call = called(&place, Party { holder: Holder::Known(1000 + number), tenant: Some(2) });
                    (place, call)
                })
                .collect();
            assert!(others.iter().all(|(place, _)| !is_displaced(place)) && !is_displaced(&idle), "{callers}");
            let late = take().unwrap();
            let call = called(&late, Party { holder: Holder::Known(5000), tenant: Some(3) });
            drop((greedy, others));
            assert!(places.displace() && !is_displaced(&late), "who is idle goes first");
            drop((idle, late, call));
            let state = places.lock();
            assert!(state.connections.is_empty() && state.quiet.is_empty());
            assert!(state.by_holder.is_empty() && state.by_tenant.is_empty());
        }
    }

    #[test]
    fn an_address_has_so_many_places_and_this_machine_any() {
        let places = Places::new(100, 2);
        let take = |address: &str| places.take(address.parse().unwrap());
        let held =
            ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8::2"].map(|it| Arc::new(take(it).unwrap()));
        let calls: Vec<_> = held.iter().map(known).collect();
        assert!(take("192.0.2.1").is_none() && take("2001:db8::3").is_none());
        assert!(take("192.0.2.2").is_some() && take("2001:db8:0:1::1").is_some());
        let own: Vec<_> = (0..50).map(|_| take("127.0.0.1")).chain((0..10).map(|_| take("::1"))).collect();
        assert!(own.iter().all(Option::is_some));
        drop((calls, held));
        assert!(take("192.0.2.1").is_some());
        // Those that say nothing give way to others behind their address.
        let silent: Vec<_> = (0..2).map(|_| take("192.0.2.1").unwrap()).collect();
        let third = take("192.0.2.1").unwrap();
        assert!(silent[0].displaced.is_cancelled() && !silent[1].displaced.is_cancelled());
        drop(third);
    }
}
