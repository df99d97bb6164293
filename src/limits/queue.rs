//! Attempts that wait for room at a host, first come first served.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::model::host::Host;

/// A place in the queue of a host; lower ones come first.
pub(super) type Ticket = u64;

/// The queues of all hosts at which an attempt waits. The first in a queue is the only one that looks for room; whoever
/// leaves the front wakes the next.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// In an order of their own, since all of them may be woken at once and a simulation has to repeat itself.
    queues: BTreeMap<Host, BTreeMap<Ticket, Arc<Notify>>>,
    next: Ticket,
}

impl Queues {
    /// Takes the last place in the queue; `woken` is notified when it is the first and should look.
    pub(super) fn join(&mut self, host: &Host, woken: Arc<Notify>) -> Ticket {
        let ticket = self.next;
        self.next += 1;
        self.queues.entry(host.clone()).or_default().insert(ticket, woken);
        ticket
    }

    /// Gives a place up. Returns whether it was the first, so that another is the first now.
    pub(super) fn leave(&mut self, host: &Host, ticket: Ticket) -> bool {
        let Some(queue) = self.queues.get_mut(host) else { return false };
        let was_first = queue.first_key_value().is_some_and(|(first, _)| *first == ticket);
        queue.remove(&ticket);
        if queue.is_empty() {
            self.queues.remove(host);
        }
        was_first
    }

    /// Returns whether somebody is before `ticket`; without one, whether anybody waits.
    pub(super) fn is_behind(&self, host: &Host, ticket: Option<Ticket>) -> bool {
        let first = self.queues.get(host).and_then(|queue| queue.first_key_value());
        first.is_some_and(|(first, _)| Some(*first) != ticket)
    }

    /// Wakes the first at `host`.
    pub(super) fn wake(&self, host: &Host) {
        if let Some(queue) = self.queues.get(host) {
            wake_first(queue);
        }
    }

    /// Wakes the first at every host.
    pub(super) fn wake_all(&self) {
        self.queues.values().for_each(wake_first);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }
}

fn wake_first(queue: &BTreeMap<Ticket, Arc<Notify>>) {
    if let Some((_, woken)) = queue.first_key_value() {
        woken.notify_one();
    }
}
