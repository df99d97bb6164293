//! Which addresses lately did not answer. They are dialled last, so that each request does not find it out anew.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::net::lock;

/// How long an address is remembered.
const KEPT: Duration = Duration::from_secs(30);
/// Addresses remembered; beyond, all are forgotten, which costs one more try each.
const ADDRESSES_MAX: usize = 4096;

/// What the process knows of addresses.
pub(super) static SYSTEM: LazyLock<Reach> = LazyLock::new(Reach::default);

/// Addresses, and when they were found dead.
#[derive(Default)]
pub(super) struct Reach(Mutex<HashMap<SocketAddr, Instant>>);

impl Reach {
    /// Takes note of an address that refused, failed, or was silent while another one answered.
    pub(super) fn failed(&self, address: SocketAddr) {
        let mut dead = lock(&self.0);
        if dead.len() >= ADDRESSES_MAX {
            dead.clear();
        }
        dead.insert(address, Instant::now());
    }

    /// Takes note of an address that answered.
    pub(super) fn answered(&self, address: SocketAddr) {
        lock(&self.0).remove(&address);
    }

    /// Moves those that lately did not answer behind the others; each group keeps its order. None is left out: what did
    /// not answer may do so again.
    pub(super) fn sort(&self, addresses: &mut [SocketAddr]) {
        let mut dead = lock(&self.0);
        if dead.is_empty() {
            return;
        }
        dead.retain(|_, since| since.elapsed() < KEPT);
        addresses.sort_by_key(|address| dead.contains_key(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_dead_come_last_for_a_while() {
        let reach = Reach::default();
        let all = [1, 2, 3].map(|port| SocketAddr::from(([10, 0, 0, 1], port)));
        let sorted = || {
            let mut sorted = all;
            reach.sort(&mut sorted);
            sorted.map(|address| address.port())
        };
        reach.failed(all[0]);
        reach.failed(all[1]);
        assert_eq!(sorted(), [3, 1, 2]);
        reach.answered(all[1]);
        assert_eq!(sorted(), [2, 3, 1]);
        tokio::time::advance(KEPT).await;
        assert_eq!(sorted(), [1, 2, 3]);
    }
}
