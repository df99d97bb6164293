//! How many calls a principal or a tenant makes in a second and has open at once, and how many wrong credentials an address
//! shows in a minute.
//!
//! Good credentials are never refused for the failures of their neighbours: only further failures are.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::access::PrincipalNo;
use crate::model::tenant::TenantNo;
use crate::model::time::Timestamp;

/// Addresses that are remembered. When there are more, those that have not failed in this minute are forgotten, and then
/// those that may fail again.
const ADDRESSES_MAX: usize = 10_000;
/// Principals, or tenants, after which those that have made no call lately are forgotten.
const BUCKETS_MAX: usize = 10_000;
const SECOND_MICROS: f64 = 1_000_000.0;
const MINUTE_MICROS: i64 = 60_000_000;
/// How many seconds' calls may come at once.
const BURST_SECONDS: f64 = 2.0;

/// The settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CallBounds {
    /// Calls that a principal may make in a second, over time; 0: any number.
    pub calls_per_second: f64,
    /// Calls that a principal may have open at once, over all its connections.
    pub open_max: usize,
    /// Wrong credentials from one address in a minute after which further ones are told to wait; 0: any number.
    pub failures_per_minute: u32,
}

impl Default for CallBounds {
    fn default() -> Self {
        CallBounds { calls_per_second: 1_000.0, open_max: 1_024, failures_per_minute: 20 }
    }
}

/// What was counted.
#[derive(Debug, Default)]
pub(super) struct Counted {
    calls: Mutex<HashMap<PrincipalNo, Bucket>>,
    calls_about: Mutex<HashMap<TenantNo, Bucket>>,
    open: Mutex<HashMap<PrincipalNo, usize>>,
    failures: Mutex<HashMap<IpAddr, (i64, u32)>>,
}

/// The calls that somebody may make at once.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    calls: f64,
    at: Timestamp,
    rate: f64,
}

impl Bucket {
    /// The most calls that it has.
    fn burst(rate: f64) -> f64 {
        (rate * BURST_SECONDS).max(1.0)
    }

    /// As it is now, with such a rate.
    fn filled(self, rate: f64, now: Timestamp) -> Bucket {
        let calls = (self.calls + now.since(self.at).as_secs_f64() * rate).min(Bucket::burst(rate));
        Bucket { calls, at: now, rate }
    }

    /// Whether it is as good as none.
    fn is_full(self, now: Timestamp) -> bool {
        self.filled(self.rate, now).calls >= Bucket::burst(self.rate)
    }
}

/// The watches that are open, by whose jobs they are about.
#[derive(Clone, Debug, Default)]
pub struct OpenWatches(Arc<Mutex<HashMap<TenantNo, u32>>>);

/// A watch that is open.
#[derive(Debug)]
pub(super) struct OpenWatch {
    all: OpenWatches,
    tenant: TenantNo,
}

impl OpenWatches {
    /// Opens a watch of a tenant; `None` where it has `most` open already.
    pub(super) fn open(&self, tenant: TenantNo, most: Option<u32>) -> Option<OpenWatch> {
        let mut all = self.lock();
        let count = all.get(&tenant).copied().unwrap_or_default();
        if most.is_some_and(|most| count >= most) {
            return None;
        }
        all.insert(tenant, count + 1);
        Some(OpenWatch { all: self.clone(), tenant })
    }

    /// Returns how many a tenant has open.
    pub(super) fn of(&self, tenant: TenantNo) -> u32 {
        self.lock().get(&tenant).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantNo, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(count) = all.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.tenant);
            }
        }
    }
}

/// A call that is open.
#[derive(Debug)]
pub(super) struct OpenCall {
    counted: Arc<Counted>,
    principal: PrincipalNo,
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let mut open = self.counted.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.principal) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.principal);
            }
        }
    }
}

impl Counted {
    /// Opens a call of a principal; `None` where it has as many open as it may.
    pub(super) fn open_call(self: &Arc<Self>, bounds: CallBounds, principal: PrincipalNo) -> Option<OpenCall> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(principal).or_default();
        if *count >= bounds.open_max {
            return None;
        }
        *count += 1;
        Some(OpenCall { counted: self.clone(), principal })
    }

    /// Takes a call of a principal; fails with how long to wait where it makes too many.
    pub(super) fn take_call(&self, bounds: CallBounds, principal: PrincipalNo, now: Timestamp) -> Result<(), Duration> {
        take(&self.calls, principal, bounds.calls_per_second, now)
    }

    /// Takes a call about a tenant, which has so many a second; fails with how long to wait where there are too many.
    pub(super) fn take_call_about(&self, tenant: TenantNo, rate: f64, now: Timestamp) -> Result<(), Duration> {
        take(&self.calls_about, tenant, rate, now)
    }

    /// Counts wrong credentials; fails with how long to wait where there were too many.
    pub(super) fn note_failure(&self, bounds: CallBounds, address: &str, now: Timestamp) -> Result<(), Duration> {
        let Some(network) = address.parse().ok().map(network).filter(|_| bounds.failures_per_minute > 0) else {
            return Ok(());
        };
        let minute = now.0.div_euclid(MINUTE_MICROS);
        let mut all = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= ADDRESSES_MAX && !all.contains_key(&network) {
            all.retain(|_, (of, _)| *of == minute);
            if all.len() >= ADDRESSES_MAX {
                all.retain(|_, (_, count)| *count > bounds.failures_per_minute);
            }
            if all.len() >= ADDRESSES_MAX {
                // So many that fail so often are one flood, whose addresses do not come back.
                return Ok(());
            }
        }
        let (of, count) = all.entry(network).or_insert((minute, 0));
        if *of != minute {
            (*of, *count) = (minute, 0);
        }
        *count = count.saturating_add(1);
        if *count <= bounds.failures_per_minute {
            return Ok(());
        }
        Err(Timestamp((minute + 1) * MINUTE_MICROS).since(now))
    }
}

/// Takes a call of somebody who has so many a second; 0: any number.
fn take<K: Eq + Hash>(all: &Mutex<HashMap<K, Bucket>>, who: K, rate: f64, now: Timestamp) -> Result<(), Duration> {
    if rate <= 0.0 {
        return Ok(());
    }
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    if all.len() >= BUCKETS_MAX && !all.contains_key(&who) {
        // Those that were deleted are among them.
        all.retain(|_, bucket| !bucket.is_full(now));
    }
    let bucket = all.entry(who).or_insert(Bucket { calls: Bucket::burst(rate), at: now, rate });
    *bucket = bucket.filled(rate, now);
    if bucket.calls >= 1.0 {
        bucket.calls -= 1.0;
        return Ok(());
    }
    Err(Duration::from_micros(((1.0 - bucket.calls) / rate * SECOND_MICROS).ceil() as u64))
}

/// One customer of a provider has a /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Timestamp {
        Timestamp((seconds * SECOND_MICROS) as i64)
    }

    #[test]
    fn a_principal_has_its_rate_and_a_burst_of_twice_that() {
        let (counted, bounds) = (Counted::default(), CallBounds { calls_per_second: 2.0, ..CallBounds::default() });
        let call = |principal, seconds| counted.take_call(bounds, principal, at(seconds));
        for _ in 0..4 {
            assert_eq!(call(16, 1.0), Ok(()));
        }
        assert_eq!(call(16, 1.0), Err(Duration::from_millis(500)));
        assert_eq!(call(17, 1.0), Ok(()), "each has its own");
        assert_eq!(call(16, 1.5), Ok(()));
        assert!(call(16, 1.5).is_err());
        assert_eq!(call(16, 0.5), Err(Duration::from_millis(500)), "a clock that goes back gives nothing");
        let none = CallBounds { calls_per_second: 0.0, ..bounds };
        assert_eq!(counted.take_call(none, 16, at(0.5)), Ok(()));
    }

    #[test]
    fn a_principal_has_so_many_calls_open_and_gets_their_places_back() {
        let (counted, bounds) = (Arc::new(Counted::default()), CallBounds { open_max: 2, ..CallBounds::default() });
        let open = |principal| counted.open_call(bounds, principal);
        let (first, second) = (open(16), open(16));
        assert!(first.is_some() && second.is_some() && open(16).is_none());
        assert!(open(17).is_some(), "each has its own");
        drop(first);
        let third = open(16);
        assert!(third.is_some() && open(16).is_none());
        drop((second, third));
        assert!(counted.open.lock().unwrap().is_empty());
    }

    #[test]
    fn a_tenant_has_so_many_watches_open_and_gets_their_places_back() {
        let all = OpenWatches::default();
        let (first, second) = (all.open(1, Some(2)), all.open(1, None));
        assert!(first.is_some() && second.is_some() && all.open(1, Some(2)).is_none() && all.of(1) == 2);
        assert!(all.open(2, Some(1)).is_some() && all.of(2) == 0, "each has its own");
        assert!(all.open(3, Some(0)).is_none());
        drop(first);
        assert!(all.of(1) == 1 && all.open(1, Some(2)).is_some());
        drop(second);
        assert!(all.lock().is_empty());
    }

    #[test]
    fn an_address_that_fails_too_often_waits_until_the_minute_is_over() {
        let (counted, bounds) = (Counted::default(), CallBounds { failures_per_minute: 2, ..CallBounds::default() });
        let fail = |address, seconds| counted.note_failure(bounds, address, at(seconds));
        assert_eq!((fail("192.0.2.1", 70.0), fail("192.0.2.1", 71.0)), (Ok(()), Ok(())));
        assert_eq!(fail("192.0.2.1", 90.0), Err(Duration::from_secs(30)));
        assert_eq!(fail("::ffff:192.0.2.1", 90.0), Err(Duration::from_secs(30)));
        assert_eq!(fail("192.0.2.2", 90.0), Ok(()));
        assert_eq!(fail("192.0.2.1", 120.0), Ok(()));
        for address in ["2001:db8::1", "2001:db8::2"] {
            assert_eq!(fail(address, 70.0), Ok(()));
        }
        assert!(fail("2001:db8::3", 70.0).is_err(), "a /64 is one");
        assert_eq!(fail("", 70.0), Ok(()), "a socket has no address");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (counted, bounds) = (Counted::default(), CallBounds::default());
        for number in 0..u32::try_from(ADDRESSES_MAX * 2).unwrap() {
            let address = std::net::Ipv4Addr::from(number).to_string();
            counted.note_failure(bounds, &address, at(1.0)).unwrap();
        }
        assert!(counted.failures.lock().unwrap().len() <= ADDRESSES_MAX);
        for number in 0..PrincipalNo::try_from(BUCKETS_MAX).unwrap() {
            counted.take_call(bounds, number, at(1.0)).unwrap();
        }
        let kept = || counted.calls.lock().unwrap().len();
        counted.take_call(bounds, PrincipalNo::MAX, at(1.0)).unwrap();
        assert_eq!(kept(), BUCKETS_MAX + 1, "all have just made a call");
        counted.take_call(bounds, PrincipalNo::MAX - 1, at(9.0)).unwrap();
        assert_eq!(kept(), 1, "the others may make as many as if they had made none");
    }
}
