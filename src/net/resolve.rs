//! Names to addresses.
//!
//! By the system's own resolver (`getaddrinfo`), so that `/etc/hosts`, search domains, `nsswitch.conf` and the order of
//! addresses are what they are for every other program of the machine; a resolver of our own would know neither names
//! of the local network nor those of a directory service. It blocks, so it runs on threads of its own: a name server
//! that does not answer holds up names and not the disk. Several requests for a name share one look-up, and for a short
//! while its answer.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::runtime::Runtime;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::net::{classify, lock};

/// Look-ups at once. One that nobody waits for any more cannot be interrupted, so a dead name server must not be able to
/// take all threads soon: it holds each for some seconds.
const THREADS_MAX: usize = 32;
/// How long an answer is used. The system's resolver does not say how long it holds; name servers say a minute or more,
/// mostly, and those who move a service by its name wait for that.
const KEPT: Duration = Duration::from_secs(10);
/// Names remembered.
const NAMES_MAX: usize = 4096;

/// The addresses of a name, or why there are none.
type Answer = Result<Arc<[IpAddr]>, Arc<str>>;
type LookUp = Shared<BoxFuture<'static, Answer>>;

/// The resolver of the process: what is known of names is known to all its clients.
pub(super) static SYSTEM: LazyLock<Resolver> = LazyLock::new(|| Resolver::new(ask_system));

fn ask_system(name: &str) -> io::Result<Vec<IpAddr>> {
    // The port means nothing here.
    Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

/// A resolver with its memory.
pub(super) struct Resolver {
    /// `None`: the system has no threads to give.
    threads: Option<Runtime>,
    ask: fn(&str) -> io::Result<Vec<IpAddr>>,
    names: Mutex<HashMap<Box<str>, Entry>>,
}

enum Entry {
    /// Asked for by somebody who still waits, unless it cannot be upgraded.
    Asked(WeakShared<BoxFuture<'static, Answer>>),
    Known(Arc<[IpAddr]>, Instant),
}

impl Resolver {
    /// A resolver that asks `ask`, which may block.
    pub(super) fn new(ask: fn(&str) -> io::Result<Vec<IpAddr>>) -> Resolver {
        let threads = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(THREADS_MAX)
            .thread_name("haul-names")
            .build()
            .ok();
        Resolver { threads, ask, names: Mutex::default() }
    }

    /// Returns the addresses of a name in the order of the system, each once; at least one. Dropping the future gives
    /// the look-up up, unless others wait for it.
    pub(super) async fn resolve(&self, name: &str) -> Result<Arc<[IpAddr]>, Arc<str>> {
        let look_up = match self.known(name) {
            Ok(addresses) => return Ok(addresses),
            Err(look_up) => look_up,
        };
        let answer = look_up.await;
        let mut names = lock(&self.names);
        match &answer {
            Ok(addresses) => {
                names.insert(name.into(), Entry::Known(Arc::clone(addresses), Instant::now()));
            }
            // A name that failed is asked for again by whoever comes next.
            Err(_) => {
                names.remove(name);
            }
        }
        answer
    }

    /// Returns what is known of a name, else the look-up that is under way or begins now.
    fn known(&self, name: &str) -> Result<Arc<[IpAddr]>, LookUp> {
        let mut names = lock(&self.names);
        match names.get(name) {
            Some(Entry::Known(addresses, since)) if since.elapsed() < KEPT => return Ok(Arc::clone(addresses)),
            Some(Entry::Asked(look_up)) if let Some(look_up) = look_up.upgrade() => return Err(look_up),
            _ => {}
        }
        if names.len() >= NAMES_MAX {
            names.retain(|_, entry| match entry {
                Entry::Known(_, since) => since.elapsed() < KEPT,
                Entry::Asked(look_up) => look_up.upgrade().is_some(),
            });
        }
        let look_up = self.look_up(name);
        if let Some(weak) = look_up.downgrade()
            && names.len() < NAMES_MAX
        {
            names.insert(name.into(), Entry::Asked(weak));
        }
        Err(look_up)
    }

    fn look_up(&self, name: &str) -> LookUp {
        let (ask, owned) = (self.ask, name.to_owned());
        let Some(threads) = &self.threads else {
            return std::future::ready(Err(Arc::from("the system has no threads to give"))).boxed().shared();
        };
        let thread = AbortOnDropHandle::new(threads.handle().spawn_blocking(move || ask(&owned)));
        async move {
            let found = thread.await.map_err(|_| Arc::from("the look-up was given up"))?;
            let mut addresses = found.map_err(|error| Arc::from(classify::dns_error(&error)))?;
            let mut seen = HashSet::new();
            addresses.retain(|address| seen.insert(*address));
            if addresses.is_empty() {
                return Err(Arc::from("the name has no address"));
            }
            Ok(addresses.into())
        }
        .boxed()
        .shared()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        // A thread within the system's resolver cannot be interrupted, and is not waited for.
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn requests_for_a_name_share_one_look_up_and_its_answer() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let resolver = Resolver::new(|_| {
            ASKED.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(20));
            Ok(vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into(), [10, 0, 0, 1].into()])
        });
        let answers = join_all((0..50).map(|_| resolver.resolve("a.example"))).await;
        assert!(answers.iter().all(|answer| answer.as_ref().unwrap().len() == 2), "each address once");
        resolver.resolve("a.example").await.unwrap();
        assert_eq!(ASKED.load(Ordering::SeqCst), 1);
        resolver.resolve("b.example").await.unwrap();
        assert_eq!(ASKED.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_failure_is_not_remembered() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let resolver = Resolver::new(|_| match ASKED.fetch_add(1, Ordering::SeqCst) {
            0 => Err(io::Error::other("no such host")),
            1 => Ok(Vec::new()),
            _ => Ok(vec![[10, 0, 0, 1].into()]),
        });
        assert_eq!(resolver.resolve("a").await, Err("no such host".into()));
        assert_eq!(resolver.resolve("a").await, Err("the name has no address".into()));
        assert!(resolver.resolve("a").await.is_ok());
    }

    #[tokio::test]
    async fn look_ups_that_are_stuck_hold_up_nobody_but_themselves() {
        let resolver = Resolver::new(|name| {
            if name == "stuck" {
                std::thread::sleep(Duration::from_secs(2));
            }
            Ok(vec![[10, 0, 0, 1].into()])
        });
        let wait = Duration::from_millis(10);
        assert!(tokio::time::timeout(wait, resolver.resolve("stuck")).await.is_err(), "ends with whoever waits");
        resolver.resolve("other").await.unwrap();
        // The threads for the disk are others.
        tokio::task::spawn_blocking(|| ()).await.unwrap();
    }
}
