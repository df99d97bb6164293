//! Attempts that wait for room at a host: of one tenant first come first served, and of several the tenant that has the
//! fewest requests there, or of such as have as many the one that had its last turn longest ago. Where a rate holds them back
//! all have none, mostly, and one of which many wait would otherwise come before all others.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::model::host::Host;
use crate::model::tenant::TenantNo;

/// A place in the queue of a host; of one tenant's, lower ones come first.
pub(super) type Ticket = u64;

/// Those who wait at one host.
type Waiting = BTreeMap<TenantNo, Queue>;

/// Somebody who waits.
#[derive(Debug)]
struct Waiter {
    woken: Arc<Notify>,
    /// It would not use room at the host, since its tenant leaves the places that are free to others: it is in nobody's way.
    is_held_back: bool,
}

/// Those of one tenant who wait at one host.
#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeMap<Ticket, Waiter>,
    /// The ticket that was next when one of them had its turn last; 0: none has.
    served: Ticket,
}

/// The queues of all hosts at which an attempt waits. The first in a queue is the only one that looks for room; whoever
/// leaves the front wakes the next. `standing` says of a tenant how many requests it has at the host; `None`: it may have
/// none more at the moment, whatever room there is.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// In an order of their own, since all of them may be woken at once and a simulation has to repeat itself.
    queues: BTreeMap<Host, Waiting>,
    next: Ticket,
    /// How many are held back.
    held_back: usize,
    /// Whether one was since [`Queues::forget_newly_held_back`].
    is_newly_held_back: bool,
}

impl Queue {
    /// The first of those that are held back, or of the others.
    fn first(&self, is_held_back: bool) -> Option<(Ticket, &Arc<Notify>)> {
        let first = self.waiting.iter().find(|(_, waiter)| waiter.is_held_back == is_held_back);
        first.map(|(ticket, waiter)| (*ticket, &waiter.woken))
    }
}

impl Queues {
    /// Takes the last place in the queue; `woken` is notified when it is the first and should look.
    pub(super) fn join(&mut self, host: &Host, tenant: TenantNo, woken: Arc<Notify>) -> Ticket {
        let ticket = self.next;
        self.next += 1;
        let queue = self.queues.entry(host.clone()).or_default().entry(tenant).or_default();
        queue.waiting.insert(ticket, Waiter { woken, is_held_back: false });
        ticket
    }

    /// Notes whether somebody who waits is held back for now, whatever room there is at the host. Then another one is the first.
    pub(super) fn hold_back(&mut self, host: &Host, tenant: TenantNo, ticket: Ticket, is_held_back: bool) {
        self.is_newly_held_back |= is_held_back;
        let Some(queue) = self.queues.get_mut(host).and_then(|waiting| waiting.get_mut(&tenant)) else { return };
        let Some(waiter) = queue.waiting.get_mut(&ticket).filter(|it| it.is_held_back != is_held_back) else { return };
        waiter.is_held_back = is_held_back;
        if is_held_back {
            self.held_back += 1;
        } else {
            self.held_back -= 1;
        }
    }

    /// Whether somebody is held back.
    pub(super) fn has_held_back(&self) -> bool {
        self.held_back > 0
    }

    /// Whether somebody was found to be held back since [`Queues::forget_newly_held_back`].
    pub(super) fn has_newly_held_back(&self) -> bool {
        self.is_newly_held_back
    }

    /// Begins to note whether somebody is found to be held back.
    pub(super) fn forget_newly_held_back(&mut self) {
        self.is_newly_held_back = false;
    }

    /// Notes that the first of a tenant has its turn.
    pub(super) fn serve(&mut self, host: &Host, tenant: TenantNo) {
        let next = self.next;
        if let Some(queue) = self.queues.get_mut(host).and_then(|waiting| waiting.get_mut(&tenant)) {
            queue.served = next;
        }
    }

    /// Gives a place up. Returns whether it was the first of its tenant, so that another is the first now.
    pub(super) fn leave(&mut self, host: &Host, tenant: TenantNo, ticket: Ticket) -> bool {
        let Some(waiting) = self.queues.get_mut(host) else { return false };
        let Some(queue) = waiting.get_mut(&tenant) else { return false };
        let was_first = queue.first(false).is_some_and(|(first, _)| first == ticket);
        if queue.waiting.remove(&ticket).is_some_and(|waiter| waiter.is_held_back) {
            self.held_back -= 1;
        }
        // That one had its turn is remembered as long as others wait.
        if waiting.values().all(|queue| queue.waiting.is_empty()) {
            self.queues.remove(host);
        }
        was_first
    }

    /// Returns whether somebody of the same tenant is before `ticket`; without one, whether anybody of it waits.
    pub(super) fn is_behind(&self, host: &Host, tenant: TenantNo, ticket: Option<Ticket>) -> bool {
        let queue = self.queues.get(host).and_then(|waiting| waiting.get(&tenant));
        queue.and_then(|queue| queue.first(false)).is_some_and(|(first, _)| Some(first) != ticket)
    }

    /// Returns the ticket of whoever is the first at `host`.
    pub(super) fn first(&self, host: &Host, standing: impl Fn(TenantNo) -> Option<u32>) -> Option<Ticket> {
        self.queues.get(host).and_then(|waiting| front(waiting, standing)).map(|(ticket, _)| ticket)
    }

    /// Wakes the first at `host`.
    pub(super) fn wake(&self, host: &Host, standing: impl Fn(TenantNo) -> Option<u32>) {
        if let Some((_, woken)) = self.queues.get(host).and_then(|waiting| front(waiting, standing)) {
            woken.notify_one();
        }
    }

    /// Wakes the first of each tenant at `host`.
    pub(super) fn wake_each(&self, host: &Host) {
        self.queues.get(host).into_iter().flat_map(BTreeMap::values).for_each(wake_first);
    }

    /// Wakes the first of each tenant at every host, of those that are held back too.
    pub(super) fn wake_all(&self) {
        self.queues.values().flat_map(BTreeMap::values).for_each(wake_first);
        self.wake_held_back();
    }

    /// Wakes the first that is held back of each tenant at every host.
    pub(super) fn wake_held_back(&self) {
        if self.held_back > 0 {
            let queues = self.queues.values().flat_map(BTreeMap::values);
            queues.filter_map(|queue| queue.first(true)).for_each(|(_, woken)| woken.notify_one());
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }
}

/// The first of the tenant with the fewest requests, and of several such tenants of the one that had its last turn longest
/// ago, or else whoever came first.
fn front(waiting: &Waiting, standing: impl Fn(TenantNo) -> Option<u32>) -> Option<(Ticket, &Arc<Notify>)> {
    let able = waiting.iter().filter_map(|(tenant, queue)| {
        let (ticket, woken) = queue.first(false)?;
        Some(((standing(*tenant)?, queue.served, ticket), woken))
    });
    able.min_by_key(|(rank, _)| *rank).map(|((.., ticket), woken)| (ticket, woken))
}

fn wake_first(queue: &Queue) {
    if let Some((_, woken)) = queue.first(false) {
        woken.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenant_with_the_fewest_requests_is_first() {
        let (mut queues, host) = (Queues::default(), Host::new("a:80"));
        let tickets = [1, 1, 2, 3].map(|tenant| (tenant, queues.join(&host, tenant, Arc::default())));
        let first = |queues: &Queues, has: [Option<u32>; 3]| queues.first(&host, |tenant| has[tenant as usize - 1]);
        assert_eq!(first(&queues, [Some(0), Some(0), Some(0)]), Some(0), "the one that came first");
        assert_eq!(first(&queues, [Some(4), Some(2), Some(3)]), Some(2));
        assert_eq!(first(&queues, [Some(4), None, Some(3)]), Some(3), "one that is paused holds nobody up");
        assert_eq!(first(&queues, [None, None, None]), None);
        let is_behind = |tenant, ticket| queues.is_behind(&host, tenant, ticket);
        assert!(is_behind(1, None) && is_behind(1, Some(1)) && !is_behind(1, Some(0)) && !is_behind(4, None));
        assert!(queues.leave(&host, 2, 2) && queues.leave(&host, 3, 3));
        assert_eq!(first(&queues, [Some(9), None, None]), Some(0), "of one tenant whoever came first");
        assert!(!queues.leave(&host, 1, 1) && queues.leave(&host, 1, 0));
        assert!(queues.is_empty() && tickets.len() == 4);
    }

    #[test]
    fn who_is_held_back_is_in_nobodys_way() {
        let (mut queues, host) = (Queues::default(), Host::new("a:80"));
        for tenant in [1, 1, 2] {
            queues.join(&host, tenant, Arc::default());
        }
        queues.hold_back(&host, 1, 0, true);
        assert_eq!(queues.first(&host, Some), Some(1), "another of the same tenant");
        assert!(queues.is_behind(&host, 1, Some(0)) && !queues.is_behind(&host, 1, Some(1)));
        queues.hold_back(&host, 1, 1, true);
        assert_eq!(queues.first(&host, Some), Some(2), "and then one of another tenant");
        assert!(queues.has_held_back() && queues.has_newly_held_back());
        queues.forget_newly_held_back();
        queues.hold_back(&host, 1, 0, false);
        assert_eq!(queues.first(&host, Some), Some(0), "it has kept its place");
        assert!(queues.leave(&host, 1, 0) && !queues.leave(&host, 1, 1) && queues.leave(&host, 2, 2));
        assert!(queues.is_empty() && !queues.has_held_back() && !queues.has_newly_held_back());
    }

    /// Where a rate holds all of them back nobody has any.
    #[test]
    fn tenants_that_have_as_many_take_turns() {
        let (mut queues, host) = (Queues::default(), Host::new("a:80"));
        for tenant in [1, 1, 1, 2, 3, 2] {
            queues.join(&host, tenant, Arc::default());
        }
        let mut order = Vec::new();
        while let Some(ticket) = queues.first(&host, |_| Some(0)) {
            let tenant = [1, 1, 1, 2, 3, 2][ticket as usize];
            queues.serve(&host, tenant);
            assert!(queues.leave(&host, tenant, ticket));
            order.push(tenant);
            // The next one that comes has a later ticket.
            queues.next += 1;
        }
        assert_eq!(order, [1, 2, 3, 1, 2, 1]);
        assert!(queues.is_empty());
    }
}
