//! Limits hold whatever happens: a property of all hosts together, under tokio's paused time.

use std::cell::Cell;
use std::time::Duration;

use futures_util::future::join_all;
use proptest::prelude::*;

use crate::limits::hosts::Hosts;
use crate::limits::hosts_tests::{hosts, unsent};
use crate::model::host::Host;
use crate::model::limits::Limits;
use crate::model::tenant::DEFAULT_NO;
use crate::model::time::Timestamp;

/// What happens in a run: who comes when, and what changes meanwhile.
#[derive(Clone, Debug)]
enum Step {
    Task { host: usize, holds: u64 },
    Request { host: usize, holds: u64, patience: u64 },
    Pause { host: usize, millis: u64 },
    Limit { max_per_host: u32, per_second: f64 },
    Fails(usize),
    Answers(usize),
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let host = 0..3usize;
    let step = prop_oneof![
        4 => (host.clone(), 0..300u64).prop_map(|(host, holds)| Step::Task { host, holds }),
        6 => (host.clone(), 0..300u64, 0..5_000u64)
            .prop_map(|(host, holds, patience)| Step::Request { host, holds, patience }),
        1 => (host.clone(), 0..2_000u64).prop_map(|(host, millis)| Step::Pause { host, millis }),
        1 => (1..6u32, prop_oneof![Just(0.0), 0.5..200.0])
            .prop_map(|(max_per_host, per_second)| Step::Limit { max_per_host, per_second }),
        2 => host.clone().prop_map(Step::Fails),
        1 => host.prop_map(Step::Answers),
    ];
    prop::collection::vec((0..60u64, step), 1..200)
}

/// Requests in flight as an origin would count them.
#[derive(Default)]
struct Seen {
    in_flight: [Cell<u32>; 3],
    refused: Cell<u32>,
}

impl Seen {
    /// Counts a request that has just started, and judges it by the limits in force.
    fn start(&self, hosts: &Hosts, host: usize, pauses: &[Cell<Timestamp>; 3]) {
        let max = hosts.limits().max_per_host;
        assert!(self.in_flight[host].get() < max, "{} requests in flight, at most {max}", self.in_flight[host].get());
        assert!(pauses[host].get() <= hosts.now(), "started during a pause");
        self.in_flight[host].set(self.in_flight[host].get() + 1);
    }

    fn end(&self, host: usize) {
        self.in_flight[host].set(self.in_flight[host].get() - 1);
    }
}

async fn run(steps: Vec<(u64, Step)>) {
    let hosts = hosts(3);
    let names = ["a:80", "b:80", "c:80"].map(Host::new);
    let (seen, pauses) = (Seen::default(), <[Cell<Timestamp>; 3]>::default());
    let mut at = 0;
    let actors = steps.into_iter().map(|(gap, step)| {
        at += gap;
        let (hosts, names, seen, pauses) = (&hosts, &names, &seen, &pauses);
        async move {
            tokio::time::sleep(Duration::from_millis(at)).await;
            let hold = async |host: usize, millis, permit| {
                seen.start(hosts, host, pauses);
                tokio::time::sleep(Duration::from_millis(millis)).await;
                seen.end(host);
                drop(permit);
            };
            match step {
                Step::Task { host, holds } => match hosts.try_start(&names[host], DEFAULT_NO, 0) {
                    Ok(permit) => hold(host, holds, permit).await,
                    Err(_) => seen.refused.set(seen.refused.get() + 1),
                },
                Step::Request { host, holds, patience } => {
                    let patience = Duration::from_millis(patience);
                    if let Ok(Ok(permit)) =
                        tokio::time::timeout(patience, hosts.start(&names[host], DEFAULT_NO, None)).await
                    {
                        hold(host, holds, permit).await;
                    }
                }
                Step::Pause { host, millis } => {
                    let until = hosts.now().plus(Duration::from_millis(millis));
                    hosts.pause(&names[host], DEFAULT_NO, until, "asked");
                    pauses[host].set(pauses[host].get().max(until));
                }
                Step::Limit { max_per_host, per_second } => hosts.set_limits(Limits {
                    max_per_host,
                    requests_per_second_per_host: per_second,
                    ..Limits::default()
                }),
                Step::Fails(host) => hosts.failed_to_connect(&names[host], DEFAULT_NO, &unsent("refused")),
                Step::Answers(host) => hosts.answered(&names[host], DEFAULT_NO),
            }
        }
    });
    join_all(actors.collect::<Vec<_>>()).await;
    assert!(hosts.has_no_queues());
    // Whatever happened, every host can be used again once pauses are over.
    hosts.set_limits(Limits::default());
    tokio::time::sleep(Duration::from_secs(3601)).await;
    for name in &names {
        let all: Vec<_> = (0..Limits::default().max_per_host).map(|_| hosts.start(name, DEFAULT_NO, None)).collect();
        assert!(join_all(all).await.iter().all(Result::is_ok));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn limits_hold_whatever_happens(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(steps));
    }
}
