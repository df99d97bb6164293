//! Nobody waits for ever, whatever several tenants do at some hosts: a property of places, queues and turns together, under
//! tokio's paused time.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use proptest::prelude::*;

use crate::limits::Blocked;
use crate::limits::hosts::Hosts;
use crate::limits::hosts_tests::{hosts_under, unsent};
use crate::limits::permits::{AttemptPlace, HostPermit, NotNow};
use crate::model::host::Host;
use crate::model::limits::Limits;
use crate::model::tenant::{Share, TenantNo};
use crate::model::time::Timestamp;

const TENANTS: [TenantNo; 3] = [1, 16, 17];

/// An attempt: the hosts that it asks one after the other, and how long each answer takes.
#[derive(Clone, Debug)]
struct Task {
    tenant: TenantNo,
    requests: Vec<(usize, u64)>,
    /// After so long it is given up.
    patience: Option<u64>,
}

#[derive(Clone, Debug)]
enum Step {
    Task(Task),
    Pause { host: usize, tenant: TenantNo, millis: u64 },
    Limit { places: u32, max_per_host: u32, per_second: f64 },
    Shares { per_host: u32, weight: u32, are_several: bool },
    Fails(usize, TenantNo),
    Answers(usize, TenantNo),
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let host = 0..3usize;
    let tenant = prop::sample::select(TENANTS.to_vec());
    let requests = prop::collection::vec((host.clone(), 0..200u64), 1..4);
    let patience = prop_oneof![3 => Just(None), 1 => (0..2_000u64).prop_map(Some)];
    let step = prop_oneof![
        10 => (tenant.clone(), requests, patience)
            .prop_map(|(tenant, requests, patience)| Step::Task(Task { tenant, requests, patience })),
        1 => (host.clone(), tenant.clone(), 0..2_000u64)
            .prop_map(|(host, tenant, millis)| Step::Pause { host, tenant, millis }),
        1 => (1..6u32, 1..5u32, prop_oneof![Just(0.0), 1.0..100.0])
            .prop_map(|(places, max_per_host, per_second)| Step::Limit { places, max_per_host, per_second }),
        1 => (1..4u32, 1..4u32, any::<bool>())
            .prop_map(|(per_host, weight, are_several)| Step::Shares { per_host, weight, are_several }),
        1 => (host.clone(), tenant.clone()).prop_map(|(host, tenant)| Step::Fails(host, tenant)),
        1 => (host, tenant).prop_map(|(host, tenant)| Step::Answers(host, tenant)),
    ];
    prop::collection::vec((0..40u64, step), 1..120)
}

struct World {
    hosts: Arc<Hosts>,
    names: [Host; 3],
    waiting: RefCell<VecDeque<Task>>,
    done: Cell<usize>,
}

impl World {
    /// Asks for what an attempt needs behind its first request.
    async fn go_on(&self, place: &AttemptPlace, task: &Task) -> Result<(), Timestamp> {
        for (host, millis) in &task.requests[1..] {
            let permit = self.hosts.start(&self.names[*host], task.tenant, Some(place.wait())).await;
            let permit = permit.map_err(|why| match why {
                NotNow::Paused(until) | NotNow::Crowded(until) => until,
            })?;
            tokio::time::sleep(Duration::from_millis(*millis)).await;
            self.hosts.answered(&self.names[*host], task.tenant);
            drop(permit);
        }
        Ok(())
    }

    async fn attempt(self: Rc<Self>, task: Task, place: AttemptPlace, permit: HostPermit) -> Option<Task> {
        let work = async {
            tokio::time::sleep(Duration::from_millis(task.requests[0].1)).await;
            self.hosts.answered(&self.names[task.requests[0].0], task.tenant);
            drop(permit);
            self.go_on(&place, &task).await
        };
        let end = match task.patience {
            Some(millis) => tokio::time::timeout(Duration::from_millis(millis), work).await.unwrap_or(Ok(())),
            None => work.await,
        };
        drop(place);
        match end {
            Ok(()) => {
                self.done.set(self.done.get() + 1);
                None
            }
            Err(until) => {
                tokio::time::sleep(until.since(self.hosts.now())).await;
                Some(task)
            }
        }
    }

    /// Starts what can start. Returns when to look again, where that is known.
    fn dispatch(
        self: &Rc<Self>,
        running: &FuturesUnordered<LocalBoxFuture<'static, Option<Task>>>,
    ) -> Option<Timestamp> {
        let mut look = BTreeSet::new();
        let count = self.waiting.borrow().len();
        for _ in 0..count {
            let Some(mut place) = self.hosts.take_place() else { return look.into_iter().next() };
            let Some(task) = self.waiting.borrow_mut().pop_front() else { break };
            match self.hosts.try_start(&self.names[task.requests[0].0], task.tenant, 0) {
                Ok(mut permit) => {
                    place.begin();
                    permit.belongs_to(&place);
                    running.push(Box::pin(self.clone().attempt(task, place, permit)));
                }
                Err(why) => {
                    look.extend(why.until());
                    self.waiting.borrow_mut().push_back(task);
                }
            }
        }
        look.into_iter().next()
    }

    /// The scheduler, which looks when it is told that there is room, and when it knows that there will be.
    async fn schedule(self: Rc<Self>, all: usize) {
        let mut running: FuturesUnordered<LocalBoxFuture<'static, Option<Task>>> = FuturesUnordered::new();
        while self.done.get() < all {
            let look = self.dispatch(&running);
            let wait = look.map(|until| until.since(self.hosts.now()));
            let rested = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(end) = running.next() => self.waiting.borrow_mut().extend(end),
                () = self.hosts.freed() => drop(self.hosts.take_freed()),
                () = rested => {}
            }
        }
    }

    fn apply(&self, step: Step) {
        match step {
            Step::Task(task) => {
                self.waiting.borrow_mut().push_back(task);
                self.hosts.freed.notify_one();
            }
            Step::Pause { host, tenant, millis } => {
                let until = self.hosts.now().plus(Duration::from_millis(millis));
                self.hosts.pause(&self.names[host], tenant, until, "asked");
            }
            Step::Limit { places, max_per_host, per_second } => self.hosts.set_limits(Limits {
                max_concurrent_tasks: places,
                max_per_host,
                requests_per_second_per_host: per_second,
                ..Limits::default()
            }),
            Step::Shares { per_host, weight, are_several } => {
                let share = Share { per_host: Some(per_host), weight, ..Share::default() };
                self.hosts.set_shares(HashMap::from([(16, share)]), are_several);
            }
            Step::Fails(host, tenant) => {
                self.hosts.failed_to_connect(&self.names[host], tenant, &unsent("refused"));
            }
            Step::Answers(host, tenant) => self.hosts.answered(&self.names[host], tenant),
        }
    }
}

async fn run(steps: Vec<(u64, Step)>) {
    let hosts = hosts_under(Limits { max_concurrent_tasks: 3, max_per_host: 2, ..Limits::default() });
    hosts.set_shares(HashMap::new(), true);
    hosts.tell_parties_apart(true);
    let names = ["a:80", "b:80", "c:80"].map(Host::new);
    let world = Rc::new(World { hosts, names, waiting: RefCell::default(), done: Cell::new(0) });
    let all = steps.iter().filter(|(_, step)| matches!(step, Step::Task(_))).count();
    let happens = async {
        for (gap, step) in steps {
            tokio::time::sleep(Duration::from_millis(gap)).await;
            world.apply(step);
        }
    };
    let both = async { tokio::join!(happens, world.clone().schedule(all)) };
    let end = tokio::time::timeout(Duration::from_secs(600), both).await;
    assert!(end.is_ok(), "{} of {all} have ended, and the others wait for ever", world.done.get());
    assert!(world.hosts.has_no_queues() && world.hosts.has_place());
    for tenant in TENANTS {
        for name in &world.names {
            assert!(!matches!(world.hosts.check(name, tenant), Err(Blocked::Full | Blocked::LeftToOthers)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn nobody_waits_for_ever(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(steps));
    }
}
