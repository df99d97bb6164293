//! A number of places that tenants share: nobody holds more of them than are left free, and of those who wait goes first who
//! holds the fewest.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::model::tenant::TenantNo;
use crate::net::lock;

/// The places.
#[derive(Debug)]
pub(super) struct Places {
    state: Mutex<State>,
    max: usize,
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<TenantNo, usize>,
    /// How many are held by all.
    all: usize,
    /// Those who wait, with their numbers, in the order in which they came. No tenant has an empty list.
    waiting: HashMap<TenantNo, VecDeque<(u64, oneshot::Sender<Place>)>>,
    /// The number of who came last.
    number: u64,
}

/// A place that a tenant holds until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    tenant: TenantNo,
}

impl Places {
    /// Makes `max` places.
    pub(super) fn new(max: usize) -> Arc<Places> {
        Arc::new(Places { state: Mutex::default(), max })
    }

    /// Waits for a place. Dropping the future gives the turn up.
    pub(super) async fn take(self: &Arc<Self>, tenant: TenantNo) -> Place {
        let (sender, place) = oneshot::channel();
        lock(&self.state).line_up(tenant, sender);
        self.give_out();
        match place.await {
            Ok(place) => place,
            // Nobody drops a turn that is waited for.
            Err(_) => std::future::pending().await,
        }
    }

    /// Gives free places to those whose turn it is.
    fn give_out(self: &Arc<Self>) {
        loop {
            let next = lock(&self.state).next(self.max);
            let Some((tenant, sender)) = next else { return };
            // Whoever has gone meanwhile gives it back by dropping it, outside the lock.
            drop(sender.send(Place { places: self.clone(), tenant }));
        }
    }
}

impl State {
    fn line_up(&mut self, tenant: TenantNo, sender: oneshot::Sender<Place>) {
        self.number += 1;
        self.waiting.entry(tenant).or_default().push_back((self.number, sender));
    }

    fn next(&mut self, max: usize) -> Option<(TenantNo, oneshot::Sender<Place>)> {
        loop {
            let held = |tenant: &TenantNo| self.held.get(tenant).copied().unwrap_or(0);
            let free = max - self.all;
            let first = |(tenant, line): (&TenantNo, &VecDeque<(u64, _)>)| {
                let number = line.front().map(|(number, _)| *number);
                (free > 0 && held(tenant) < free).then(|| (held(tenant), number, *tenant))
            };
            let (_, _, tenant) = self.waiting.iter().filter_map(first).min()?;
            let sender = self.waiting.get_mut(&tenant).and_then(VecDeque::pop_front).map(|(_, sender)| sender);
            if self.waiting.get(&tenant).is_none_or(VecDeque::is_empty) {
                self.waiting.remove(&tenant);
            }
            let Some(sender) = sender.filter(|sender| !sender.is_closed()) else { continue };
            *self.held.entry(tenant).or_default() += 1;
            self.all += 1;
            return Some((tenant, sender));
        }
    }

    fn give_back(&mut self, tenant: TenantNo) {
        self.all -= 1;
        if let Some(held) = self.held.get_mut(&tenant) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&tenant);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.places.state).give_back(self.tenant);
        self.places.give_out();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn one_alone_holds_half_and_others_find_room_at_once() {
        let places = Places::new(16);
        let mut greedy = Vec::new();
        while let Some(place) = places.take(1).now_or_never() {
            greedy.push(place);
        }
        assert_eq!(greedy.len(), 8);
        let others: Vec<_> = (2..6).map(|tenant| places.take(tenant).now_or_never().unwrap()).collect();
        assert!(places.take(1).now_or_never().is_none());
        drop(others);
        assert!(places.take(1).now_or_never().is_none(), "it has its half");
        greedy.pop();
        let last = places.take(1).now_or_never().unwrap();
        drop((greedy, last));
        let state = lock(&places.state);
        assert!(state.all == 0 && state.held.is_empty() && state.waiting.is_empty());
    }

    /// A thousand of one tenant wait, some of whom have gone, and all get their turns.
    #[tokio::test]
    async fn who_waits_has_a_turn_and_who_has_gone_none() {
        let places = Places::new(4);
        let work = |tenant: TenantNo| {
            let places = places.clone();
            async move {
                let _place = places.take(tenant).await;
                tokio::task::yield_now().await;
            }
        };
        let mut gone: Vec<_> = (0..100).map(|_| Box::pin(places.take(1))).collect();
        let held: Vec<_> = gone.iter_mut().filter_map(futures_util::FutureExt::now_or_never).collect();
        assert_eq!(held.len(), 2);
        drop((held, gone));
        join_all((0..1000).map(|number| work(number % 3))).await;
        let state = lock(&places.state);
        assert!(state.all == 0 && state.held.is_empty() && state.waiting.is_empty());
    }
}
