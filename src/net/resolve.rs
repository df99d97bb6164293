//! Names to addresses.
//!
//! By the system's own resolver (`getaddrinfo`), so that `/etc/hosts`, search domains, `nsswitch.conf` and the order of
//! addresses are what they are for every other program of the machine; a resolver of our own would know neither names
//! of the local network nor those of a directory service. It blocks, so it runs on threads of its own: a name server
//! that does not answer holds up names and not the disk. Several requests of a tenant for a name share one look-up, and all
//! requests for a short while its answer. The threads are shared out between tenants, so that one whose names are never
//! answered holds up itself alone.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::model::tenant::TenantNo;
use crate::net::fair::Places;
use crate::net::{classify, lock};

/// Look-ups at once, of which one tenant has half. One that nobody waits for any more cannot be interrupted, so names whose servers
/// are silent must not be able to take all threads soon: each holds one for half a minute. A thread that waits costs its stack.
const THREADS_MAX: usize = 256;
/// How long an answer is used. The system's resolver does not say how long it holds; name servers say a minute or more,
/// mostly, and those who move a service by its name wait for that.
const KEPT: Duration = Duration::from_secs(10);
/// Names remembered.
const NAMES_MAX: usize = 4096;
/// Addresses of a name. Whoever has a name of their own may give it thousands, each of which would be remembered, and dialled
/// where those before it refuse.
const ADDRESSES_MAX: usize = 64;

/// The addresses of a name, or why there are none.
type Answer = Result<Arc<[IpAddr]>, Unresolved>;
type LookUp = Shared<BoxFuture<'static, Answer>>;

/// What is said where no thread can be had for a look-up.
const NO_THREAD: &str = "the system cannot start another thread";

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unresolved {
    pub(super) why: Arc<str>,
    /// Whether this machine had no means to ask, which says nothing of the name.
    pub(super) is_own: bool,
}

impl From<&str> for Unresolved {
    fn from(why: &str) -> Unresolved {
        Unresolved { why: why.into(), is_own: false }
    }
}

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
    places: Arc<Places>,
    ask: fn(&str) -> io::Result<Vec<IpAddr>>,
    names: Arc<Mutex<Names>>,
}

/// What is known of names, and asked for.
#[derive(Default)]
struct Names {
    known: HashMap<Box<str>, (Arc<[IpAddr]>, Instant)>,
    /// Look-ups of each tenant. Once a thread has begun one, it stays until its end, so that a name whose servers are silent
    /// holds one thread however often it is asked for.
    asked: HashMap<(TenantNo, Box<str>), Asked>,
}

struct Asked {
    look_up: LookUp,
    has_begun: Arc<AtomicBool>,
}

impl Names {
    /// A look-up is over. Another one of the same name, which was begun after this one was given up, stays.
    fn forget(&mut self, key: &(TenantNo, Box<str>), has_begun: &Arc<AtomicBool>) {
        if self.asked.get(key).is_some_and(|asked| Arc::ptr_eq(&asked.has_begun, has_begun)) {
            self.asked.remove(key);
        }
    }

    fn learn(&mut self, name: &str, addresses: &Arc<[IpAddr]>) {
        if self.known.len() >= NAMES_MAX {
            self.known.retain(|_, (_, since)| since.elapsed() < KEPT);
        }
        if self.known.len() < NAMES_MAX {
            self.known.insert(name.into(), (Arc::clone(addresses), Instant::now()));
        }
    }
}

/// Somebody who waits for a look-up. The last one takes it along, if no thread has begun it.
struct Waiter<'a> {
    names: &'a Mutex<Names>,
    key: (TenantNo, Box<str>),
    /// `None` once it goes.
    look_up: Option<LookUp>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut names = lock(self.names);
        let Some(own) = self.look_up.take() else { return };
        let is_same = names.asked.get(&self.key).is_some_and(|asked| asked.look_up.ptr_eq(&own));
        // Under the lock, so that of two who go at once one is the last.
        drop(own);
        let is_unused = is_same
            && names.asked.get(&self.key).is_some_and(|asked| {
                asked.look_up.strong_count() == Some(1) && !asked.has_begun.load(Ordering::Relaxed)
            });
        // Freed outside the lock: its place may go to another one.
        let unused = is_unused.then(|| names.asked.remove(&self.key));
        drop(names);
        drop(unused);
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
        Resolver { threads, places: Places::new(THREADS_MAX), ask, names: Arc::default() }
    }

    /// Returns the addresses of a name in the order of the system, each once; at least one. Dropping the future gives
    /// the look-up up, unless others wait for it or a thread is at it.
    pub(super) async fn resolve(&self, name: &str, tenant: TenantNo) -> Answer {
        let key = (tenant, Box::from(name));
        let waiter = match self.known(&key) {
            Ok(addresses) => return Ok(addresses),
            Err(look_up) => Waiter { names: &self.names, key, look_up: Some(look_up) },
        };
        match &waiter.look_up {
            Some(look_up) => look_up.clone().await,
            None => Err("the look-up was given up".into()),
        }
    }

    /// Returns what is known of a name, else the look-up that is under way or begins now.
    fn known(&self, key: &(TenantNo, Box<str>)) -> Result<Arc<[IpAddr]>, LookUp> {
        let mut names = lock(&self.names);
        if let Some((addresses, since)) = names.known.get(&key.1)
            && since.elapsed() < KEPT
        {
            return Ok(Arc::clone(addresses));
        }
        if let Some(asked) = names.asked.get(key) {
            return Err(asked.look_up.clone());
        }
        let has_begun = Arc::new(AtomicBool::new(false));
        let look_up = self.look_up(key.clone(), Arc::clone(&has_begun));
        if names.asked.len() < NAMES_MAX {
            names.asked.insert(key.clone(), Asked { look_up: look_up.clone(), has_begun });
        }
        Err(look_up)
    }

    fn look_up(&self, key: (TenantNo, Box<str>), has_begun: Arc<AtomicBool>) -> LookUp {
        let (system, names, places) = (self.ask, Arc::clone(&self.names), Arc::clone(&self.places));
        let Some(threads) = self.threads.as_ref().map(|threads| threads.handle().clone()) else {
            return std::future::ready(Err(Unresolved { is_own: true, ..NO_THREAD.into() })).boxed().shared();
        };
        let look_up = async move {
            let place = places.take(key.0).await;
            let (known, asked) = (Arc::clone(&names), key.clone());
            // Before a thread has it: from here on it goes on to its end, also where nobody waits for it any more.
            has_begun.store(true, Ordering::Relaxed);
            let begun = Arc::clone(&has_begun);
            let ask = move || {
                // As long as the system takes, also where nobody waits for it any more.
                let _place = place;
                let answer = judge(system(&asked.1));
                let mut names = lock(&known);
                // A name that failed is asked for again by whoever comes next.
                if let Ok(addresses) = &answer {
                    names.learn(&asked.1, addresses);
                }
                names.forget(&asked, &begun);
                answer
            };
            // It panics where the system starts no thread.
            let answer = match std::panic::catch_unwind(AssertUnwindSafe(|| threads.spawn_blocking(ask))) {
                Ok(thread) => thread.await.map_err(|_| Unresolved::from("the look-up was given up")),
                Err(_) => Err(Unresolved { is_own: true, ..NO_THREAD.into() }),
            };
            answer.unwrap_or_else(|unresolved| {
                lock(&names).forget(&key, &has_begun);
                Err(unresolved)
            })
        };
        look_up.boxed().shared()
    }
}

/// The addresses in what the system says, each once.
fn judge(found: io::Result<Vec<IpAddr>>) -> Answer {
    let unresolved = |error: io::Error| Unresolved {
        why: classify::dns_error(&error).into(),
        is_own: classify::is_want_of_means(&error),
    };
    let mut addresses = found.map_err(unresolved)?;
    let mut seen = HashSet::new();
    addresses.retain(|address| seen.insert(*address));
    addresses.truncate(ADDRESSES_MAX);
    if addresses.is_empty() {
        return Err("the name has no address".into());
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
        let answers = join_all((0..50).map(|_| resolver.resolve("a.example", 1))).await;
        assert!(answers.iter().all(|answer| answer.as_ref().unwrap().len() == 2), "each address once");
        resolver.resolve("a.example", 1).await.unwrap();
        assert_eq!(ASKED.load(Ordering::SeqCst), 1);
        resolver.resolve("b.example", 1).await.unwrap();
        assert_eq!(ASKED.load(Ordering::SeqCst), 2);
    }

    /// Whoever has a name of their own says how many addresses it has.
    #[tokio::test]
    async fn so_many_addresses_of_a_name_are_kept_and_no_more() {
        let resolver =
            Resolver::new(|_| Ok((0..4_000u32).map(|number| std::net::Ipv4Addr::from(number).into()).collect()));
        let found = resolver.resolve("a", 1).await.unwrap();
        assert_eq!((found.len(), found[1]), (ADDRESSES_MAX, [0, 0, 0, 1].into()));
    }

    #[tokio::test]
    async fn what_this_machine_lacks_says_nothing_of_a_name() {
        let resolver = Resolver::new(|_| Err(rustix::io::Errno::MFILE.into()));
        assert!(resolver.resolve("a", 1).await.unwrap_err().is_own);
    }

    #[tokio::test]
    async fn a_failure_is_not_remembered() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let resolver = Resolver::new(|_| match ASKED.fetch_add(1, Ordering::SeqCst) {
            0 => Err(io::Error::other("no such host")),
            1 => Ok(Vec::new()),
            _ => Ok(vec![[10, 0, 0, 1].into()]),
        });
        assert_eq!(resolver.resolve("a", 1).await, Err("no such host".into()));
        assert_eq!(resolver.resolve("a", 1).await, Err("the name has no address".into()));
        assert!(resolver.resolve("a", 1).await.is_ok());
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
            assert!(tokio::time::timeout(wait, resolver.resolve("stuck", 1)).await.is_err(), "ends with whoever waits");
        }
        let asked = STUCK.load(Ordering::SeqCst);
        assert!(asked <= 1, "one thread, however often it is asked for: {asked}");
        resolver.resolve("other", 1).await.unwrap();
        // The threads for the disk are others.
        tokio::task::spawn_blocking(|| ()).await.unwrap();
    }

    /// A tenant gives up many look-ups of names whose servers are silent, each in a thread until its end.
    #[tokio::test]
    async fn a_tenant_whose_names_are_silent_holds_up_itself_alone() {
        static IS_OVER: AtomicBool = AtomicBool::new(false);
        let resolver = Resolver::new(|name| {
            while name.ends_with(".silent") && !IS_OVER.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(vec![[10, 0, 0, 1].into()])
        });
        let names: Vec<_> = (0..1000).map(|number| format!("{number}.silent")).collect();
        let given_up = join_all(names.iter().map(|name| resolver.resolve(name, 1)));
        assert!(tokio::time::timeout(Duration::from_millis(50), given_up).await.is_err());
        assert!(tokio::time::timeout(Duration::from_millis(50), resolver.resolve("own", 1)).await.is_err());
        for answer in join_all((0..50).map(|_| resolver.resolve("good", 2))).await {
            answer.unwrap();
        }
        assert_eq!(lock(&resolver.names).asked.len(), 128, "none of the others has ended");
        IS_OVER.store(true, Ordering::SeqCst);
        resolver.resolve("own", 1).await.unwrap();
    }
}
