//! Who waits at a host, and who is woken, under tokio's paused time.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::limits::Blocked;
use crate::limits::hosts::Hosts;
use crate::limits::hosts_tests::{START, hosts};
use crate::limits::permits::{HostPermit, NotNow};
use crate::model::host::Host;
use crate::model::limits::Limits;
use crate::model::tenant::DEFAULT_NO;

/// A task that waits at a host for a request and ends with it, and how often it was polled.
type Waiter = (tokio::task::JoinHandle<HostPermit>, Arc<AtomicU32>);

/// Starts attempts that wait at `host`, and lets each come to its rest.
async fn waiters(hosts: &Arc<Hosts>, host: &Host, count: usize) -> Vec<Waiter> {
    let tasks = TaskTracker::new();
    let waiter = |_| {
        let (hosts, host, polls) = (hosts.clone(), host.clone(), Arc::new(AtomicU32::new(0)));
        let counter = polls.clone();
        let task = tasks.spawn(async move {
            let mut start = Box::pin(hosts.start(&host, DEFAULT_NO, None));
            std::future::poll_fn(|context| {
                counter.fetch_add(1, Ordering::Relaxed);
                start.as_mut().poll(context)
            })
            .await
            .unwrap()
        });
        (task, polls)
    };
    let waiters = (0..count).map(waiter).collect();
    // Tokio's paused time goes on when no task has anything to do.
    tokio::time::sleep(Duration::from_millis(1)).await;
    waiters
}

fn polls(waiters: &[Waiter]) -> Vec<u32> {
    waiters.iter().map(|(_, polls)| polls.load(Ordering::Relaxed)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_release_wakes_the_first_at_its_host_and_nobody_else() {
    let hosts = hosts(1);
    let names: Vec<Host> = (0..20).map(|n| Host::new(&format!("{n}.example:80"))).collect();
    let mut held: Vec<_> = names.iter().map(|host| hosts.try_start(host, DEFAULT_NO, 0).unwrap()).collect();
    let mut all = Vec::new();
    for host in &names {
        all.extend(waiters(&hosts, host, 3).await);
    }
    assert_eq!(polls(&all), [1; 60]);
    drop(held.remove(7));
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mut expected = [1; 60];
    expected[21] = 2;
    assert_eq!(polls(&all), expected);
    assert!(all[21].0.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_ends_wakes_exactly_who_can_start() {
    let hosts = hosts(2);
    let host = Host::new("a:80");
    hosts.pause(&host, DEFAULT_NO, START.plus(Duration::from_millis(800)), "asked to wait");
    let mut waiters = waiters(&hosts, &host, 5).await;
    assert_eq!(polls(&waiters), [1; 5]);
    tokio::time::sleep(Duration::from_millis(798)).await;
    assert_eq!(polls(&waiters), [1; 5]);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(polls(&waiters), [2, 2, 1, 1, 1]);
    drop(waiters.remove(0).0.await);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(polls(&waiters), [2, 2, 1, 1]);
    assert!(waiters[1].0.is_finished());
}

#[tokio::test(start_paused = true)]
async fn the_scheduler_hears_of_room_and_not_of_releases_beyond_the_limit() {
    let hosts = hosts(3);
    let host = Host::new("a:80");
    let mut held: Vec<_> = (0..3).map(|_| hosts.try_start(&host, DEFAULT_NO, 0).unwrap()).collect();
    hosts.set_limits(Limits { max_per_host: 1, ..Limits::default() });
    hosts.take_freed();
    held.truncate(1);
    assert_eq!(hosts.take_freed(), []);
    held.clear();
    assert_eq!(hosts.take_freed(), [host]);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_gives_up_takes_no_permit_with_it() {
    let hosts = hosts(3);
    let host = Host::new("a:80");
    let held: Vec<_> = (0..3).map(|_| hosts.try_start(&host, DEFAULT_NO, 0).unwrap()).collect();
    let waiting = waiters(&hosts, &host, 30).await;
    // Some give up before there is room, some after they were woken for it, some with what they got.
    waiting.iter().step_by(3).for_each(|(task, _)| task.abort());
    drop(held);
    waiting.iter().skip(1).step_by(3).for_each(|(task, _)| task.abort());
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(hosts.views_after(None, 1)[0].running, 3);
    for (task, _) in waiting {
        task.abort();
        drop(task.await);
    }
    assert!(hosts.has_no_queues());
    let all: Vec<_> = (0..3).map(|_| hosts.try_start(&host, DEFAULT_NO, 0)).collect();
    assert!(all.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn no_host_waits_for_another() {
    let hosts = hosts(1);
    let names: Vec<Host> = (0..300).map(|n| Host::new(&format!("{n}.example:80"))).collect();
    let start = Instant::now();
    let orders = join_all(names.iter().map(|host| order_of(&hosts, host, 20))).await;
    assert!(orders.iter().all(|order| order.is_sorted()));
    // As long as one host alone takes, by the paused clock.
    assert_eq!(start.elapsed(), Duration::from_millis(20 * 5));
}

/// Starts `count` attempts that wait at `host` one after the other; returns the order in which they get through.
async fn order_of(hosts: &Arc<Hosts>, host: &Host, count: usize) -> Vec<usize> {
    let order = RefCell::new(Vec::new());
    join_all((0..count).map(|n| {
        let order = &order;
        async move {
            let permit = hosts.start(host, DEFAULT_NO, None).await.unwrap();
            order.borrow_mut().push(n);
            tokio::time::sleep(Duration::from_millis(5)).await;
            drop(permit);
        }
    }))
    .await;
    order.into_inner()
}

#[tokio::test(start_paused = true)]
async fn attempts_wait_in_order() {
    let hosts = hosts(1);
    let (a, b) = (Host::new("a:80"), Host::new("b:80"));
    let held = [hosts.try_start(&a, DEFAULT_NO, 0).unwrap(), hosts.try_start(&b, DEFAULT_NO, 0).unwrap()];
    let release = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(held);
    };
    let (at_a, at_b, ()) = tokio::join!(order_of(&hosts, &a, 20), order_of(&hosts, &b, 5), release);
    assert_eq!(at_a, (0..20).collect::<Vec<_>>());
    assert_eq!(at_b, (0..5).collect::<Vec<_>>());
    assert!(hosts.has_no_queues());
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_given_up_goes_to_the_next() {
    let hosts = hosts(1);
    let host = Host::new("a:80");
    let held = hosts.try_start(&host, DEFAULT_NO, 0).unwrap();
    let mut first = Box::pin(hosts.start(&host, DEFAULT_NO, None));
    let mut second = Box::pin(hosts.start(&host, DEFAULT_NO, None));
    assert!(futures_util::poll!(&mut first).is_pending());
    assert!(futures_util::poll!(&mut second).is_pending());
    // The first is woken for the room, and never looks.
    drop(held);
    drop(first);
    let start = Instant::now();
    assert!(second.await.is_ok());
    assert!(start.elapsed() < Duration::from_millis(1), "by a wake-up and not by a timer");
}

#[tokio::test(start_paused = true)]
async fn a_pause_sends_away_all_who_wait() {
    let hosts = hosts(1);
    let host = Host::new("a:80");
    let _held = hosts.try_start(&host, DEFAULT_NO, 0).unwrap();
    let until = START.plus(Duration::from_secs(3600));
    let pause = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        hosts.pause(&host, DEFAULT_NO, until, "asked to wait");
    };
    let start = Instant::now();
    let (ends, ()) = tokio::join!(join_all((0..5).map(|_| hosts.start(&host, DEFAULT_NO, None))), pause);
    assert!(ends.iter().all(|end| end.as_ref().is_err_and(|why| *why == NotNow::Paused(until))));
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(hosts.has_no_queues());
}

#[tokio::test(start_paused = true)]
async fn attempts_and_the_scheduler_share_a_host() {
    let hosts = hosts(2);
    let host = Host::new("a:80");
    let (tasks, requests) = (Cell::new(0), Cell::new(0));
    let is_over = Cell::new(false);
    let hold = Duration::from_millis(5);
    let scheduler = async {
        let mut running = tokio::task::JoinSet::new();
        while !is_over.get() {
            match hosts.try_start(&host, DEFAULT_NO, 0) {
                Ok(permit) => {
                    tasks.set(tasks.get() + 1);
                    running.spawn(async move {
                        tokio::time::sleep(hold).await;
                        drop(permit);
                    });
                }
                Err(Blocked::Full) => hosts.freed().await,
                Err(why) => tokio::time::sleep(why.until().unwrap().since(hosts.now())).await,
            }
        }
        while running.join_next().await.is_some() {}
    };
    let attempts = async {
        join_all((0..10).map(|_| async {
            for _ in 0..20 {
                let permit = hosts.start(&host, DEFAULT_NO, None).await.unwrap();
                requests.set(requests.get() + 1);
                tokio::time::sleep(hold).await;
                drop(permit);
            }
        }))
        .await;
        is_over.set(true);
    };
    tokio::join!(scheduler, attempts);
    assert_eq!(requests.get(), 200);
    assert!((150..=250).contains(&tasks.get()), "{} tasks beside {} requests", tasks.get(), requests.get());
}
