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
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::runtime::Runtime;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::net::{classify, lock};

/// Look-ups at once. One that nobody waits for any more cannot be interrupted, so names whose servers are silent must not be
/// able to take all threads soon: each holds one for half a minute. A thread that waits costs its stack.
const THREADS_MAX: usize = 256;
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
    /// `None`: the system cannot start another thread.
    threads: Option<Runtime>,
    ask: fn(&str) -> io::Result<Vec<IpAddr>>,
    names: Arc<Names>,
}

type Names = Mutex<HashMap<Box<str>, Entry>>;

enum Entry {
    /// Asked for. Once a thread has begun it, it stays until its end, so that a name whose servers are silent holds one
    /// thread however often it is asked for.
    Asked(LookUp, Arc<AtomicBool>),
    Known(Arc<[IpAddr]>, Instant),
}

impl Entry {
    /// Whether it is of no more use: known for too long.
    fn is_over(&self) -> bool {
        matches!(self, Entry::Known(_, since) if since.elapsed() >= KEPT)
    }
}

/// Somebody who waits for a look-up. The last one takes it along, if no thread has begun it.
struct Waiter<'a> {
    names: &'a Names,
    name: &'a str,
    look_up: LookUp,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut names = lock(self.names);
        if let Some(Entry::Asked(look_up, has_begun)) = names.get(self.name)
            && look_up.ptr_eq(&self.look_up)
            && look_up.strong_count() == Some(2)
            && !has_begun.load(Ordering::Relaxed)
        {
            names.remove(self.name);
        }
    }
}

impl Resolver {
    /// A resolver that asks `ask`, which may block.
    pub(super) fn new(ask: fn(&str) -> io::Result<Vec<IpAddr>>) -> Resolver {
        let threads = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(THREADS_MAX)
            .thread_name("haul-names")
            .build()
            .ok();
        Resolver { threads, ask, names: Arc::default() }
    }

    /// Returns the addresses of a name in the order of the system, each once; at least one. Dropping the future gives
    /// the look-up up, unless others wait for it or a thread is at it.
    pub(super) async fn resolve(&self, name: &str) -> Result<Arc<[IpAddr]>, Arc<str>> {
        let waiter = match self.known(name) {
            Ok(addresses) => return Ok(addresses),
            Err(look_up) => Waiter { names: &self.names, name, look_up },
        };
        waiter.look_up.clone().await
    }

    /// Returns what is known of a name, else the look-up that is under way or begins now.
    fn known(&self, name: &str) -> Result<Arc<[IpAddr]>, LookUp> {
        let mut names = lock(&self.names);
        match names.get(name) {
            Some(Entry::Known(addresses, since)) if since.elapsed() < KEPT => return Ok(Arc::clone(addresses)),
            Some(Entry::Asked(look_up, _)) => return Err(look_up.clone()),
            _ => {}
        }
        if names.len() >= NAMES_MAX {
            names.retain(|_, entry| !entry.is_over());
        }
        let has_begun = Arc::new(AtomicBool::new(false));
        let look_up = self.look_up(name, Arc::clone(&has_begun));
        if names.len() < NAMES_MAX {
            names.insert(name.into(), Entry::Asked(look_up.clone(), has_begun));
        }
        Err(look_up)
    }

    fn look_up(&self, name: &str, has_begun: Arc<AtomicBool>) -> LookUp {
        let (ask, owned, names) = (self.ask, name.to_owned(), Arc::clone(&self.names));
        let Some(threads) = &self.threads else {
            return std::future::ready(Err(Arc::from("the system cannot start another thread"))).boxed().shared();
        };
        let thread = AbortOnDropHandle::new(threads.handle().spawn_blocking(move || {
            has_begun.store(true, Ordering::Relaxed);
            let answer = judge(ask(&owned));
            let mut names = lock(&names);
            match &answer {
                Ok(addresses) if names.len() < NAMES_MAX || names.contains_key(owned.as_str()) => {
                    names.insert(owned.into(), Entry::Known(Arc::clone(addresses), Instant::now()));
                }
                // A name that failed is asked for again by whoever comes next.
                _ => drop(names.remove(owned.as_str())),
            }
            answer
        }));
        let (names, name) = (Arc::clone(&self.names), name.to_owned());
        let answer = async move {
            thread.await.unwrap_or_else(|_| {
                // Its thread has not come to that.
                lock(&names).remove(name.as_str());
                Err(Arc::from("the look-up was given up"))
            })
        };
        answer.boxed().shared()
    }
}

/// The addresses in what the system says, each once.
fn judge(found: io::Result<Vec<IpAddr>>) -> Answer {
    let mut addresses = found.map_err(|error| Arc::from(classify::dns_error(&error)))?;
    let mut seen = HashSet::new();
    addresses.retain(|address| seen.insert(*address));
    if addresses.is_empty() {
        return Err(Arc::from("the name has no address"));
    }
    Ok(addresses.into())
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
    use std::sync::atomic::AtomicUsize;

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
        static STUCK: AtomicUsize = AtomicUsize::new(0);
        let resolver = Resolver::new(|name| {
            if name == "stuck" {
                STUCK.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_secs(2));
            }
            Ok(vec![[10, 0, 0, 1].into()])
        });
        let wait = Duration::from_millis(10);
        for _ in 0..3 {
            assert!(tokio::time::timeout(wait, resolver.resolve("stuck")).await.is_err(), "ends with whoever waits");
        }
        let asked = STUCK.load(Ordering::SeqCst);
        assert!(asked <= 1, "one thread, however often it is asked for: {asked}");
        resolver.resolve("other").await.unwrap();
        // The threads for the disk are others.
        tokio::task::spawn_blocking(|| ()).await.unwrap();
    }
}
