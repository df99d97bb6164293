//! What is remembered and what is forgotten, over random histories.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use proptest::prelude::*;

use crate::limits::hosts_tests::unsent;
use crate::limits::pause::Voice;
use crate::limits::shares::Portion;
use crate::limits::state::HostState;
use crate::limits::table::{Bounds, Table};
use crate::limits::turns::Asker;
use crate::limits::{Asking, Blocked};
use crate::model::host::Host;
use crate::model::limits::{HostLimits, Limits};
use crate::model::tenant::{DEFAULT_NO, TenantNo};
use crate::model::time::Timestamp;

const SECOND: i64 = 1_000_000;
const START: Step = Step::Start(Asker::Scheduler, DEFAULT_NO);
const TENANTS: [TenantNo; 3] = [DEFAULT_NO, 16, 17];
/// How many requests a tenant may have at one host.
const SHARE: Portion = Portion { most: 3, is_shared: true };

/// A table, and the limits that its hosts are made with.
struct Memory {
    table: Table,
    limits: HostLimits,
}

#[derive(Clone, Debug)]
enum Step {
    Start(Asker, TenantNo),
    Release,
    Pause(TenantNo, u64),
    Fail(TenantNo),
    Answer,
    Limit { max_concurrent: u32, per_second: f64, burst: u32 },
}

impl Memory {
    fn new(listed: usize, states: usize) -> Memory {
        let limits = Limits::default().with_own(&Host::new("any:80"), None);
        Memory { table: Table::new(Bounds { listed, states }), limits }
    }

    fn change<T>(&mut self, host: &Host, now: Timestamp, change: impl FnOnce(&mut HostState) -> T) -> T {
        let limits = &self.limits;
        self.table.change(host, now, || HostState::new(limits), change)
    }

    /// Takes a step at `host`; only a start has an answer.
    fn step(&mut self, host: &Host, step: &Step, now: Timestamp) -> Option<Result<(), Blocked>> {
        match step {
            Step::Release | Step::Answer => {
                self.table.change_known(host, now, |state| apply(state, step, now)).flatten()
            }
            Step::Start(..) | Step::Pause(..) | Step::Fail(_) => {
                self.change(host, now, |state| apply(state, step, now))
            }
            Step::Limit { max_concurrent, per_second, burst } => {
                self.limits.max_concurrent = *max_concurrent;
                self.limits.requests_per_second = *per_second;
                self.limits.burst = *burst;
                let limits = self.limits.clone();
                self.table.change_all(now, |_, state| state.set_limits(&limits, now));
                None
            }
        }
    }
}

fn tenant() -> impl Strategy<Value = TenantNo> {
    prop::sample::select(TENANTS.to_vec())
}

fn steps() -> impl Strategy<Value = Vec<(i64, usize, Step)>> {
    let step = prop_oneof![
        4 => tenant().prop_map(|tenant| Step::Start(Asker::Scheduler, tenant)),
        4 => tenant().prop_map(|tenant| Step::Start(Asker::Attempt, tenant)),
        6 => Just(Step::Release),
        1 => (tenant(), 0..100_000u64).prop_map(|(tenant, millis)| Step::Pause(tenant, millis)),
        3 => tenant().prop_map(Step::Fail),
        1 => Just(Step::Answer),
        1 => (1..5u32, prop_oneof![Just(0.0), 1e-6..1e-3, 0.001..100.0], 1..5u32)
            .prop_map(|(max_concurrent, per_second, burst)| Step::Limit { max_concurrent, per_second, burst }),
    ];
    let gap = prop_oneof![4 => 0..SECOND / 10, 2 => 0..30 * SECOND, 1 => 0..2 * 3600 * SECOND];
    prop::collection::vec((gap, 0..10usize, step), 1..400)
}

/// Takes a step at one host; those that change the limits are for all.
fn apply(state: &mut HostState, step: &Step, now: Timestamp) -> Option<Result<(), Blocked>> {
    match step {
        Step::Start(asker, tenant) => {
            let asking = Asking { lines_up: *asker == Asker::Scheduler, ..Asking::of(*tenant) };
            return Some(state.start(*asker, asking, SHARE, now));
        }
        Step::Release => {
            if let Some(tenant) = TENANTS.into_iter().find(|tenant| state.share(*tenant) > 0) {
                state.release(tenant, now);
            }
        }
        Step::Pause(tenant, millis) => {
            state.pause(*tenant, now.plus(Duration::from_millis(*millis)), "asked", Voice::Host, now);
        }
        Step::Fail(tenant) => drop(state.failed_to_connect(*tenant, Arc::new(unsent("refused")), now)),
        Step::Answer => drop(state.answered(TENANTS[0], now)),
        Step::Limit { .. } => {}
    }
    None
}

fn host(number: usize) -> Host {
    Host::new(&format!("{number}.example:80"))
}

proptest! {
    /// A host whose state is dropped answers as one whose state is kept for ever.
    #[test]
    fn forgetting_changes_no_answer(steps in steps()) {
        let mut memory = Memory::new(1, 1_000);
        let mut kept: HashMap<Host, HostState> = HashMap::new();
        let mut now = Timestamp(1_000_000 * SECOND);
        for (gap, number, step) in steps {
            now.0 += gap;
            let host = host(number);
            let answer = memory.step(&host, &step, now);
            let limits = &memory.limits;
            let state = kept.entry(host.clone()).or_insert_with(|| HostState::new(limits));
            prop_assert_eq!(answer, apply(state, &step, now));
            if let Step::Limit { .. } = step {
                for state in kept.values_mut() {
                    state.set_limits(limits, now);
                }
            }
            for tenant in TENANTS {
                let state = memory.table.get(&host);
                let check = state.map_or(Ok(()), |state| state.check(Asking::of(tenant), SHARE, now));
                prop_assert_eq!(check, kept[&host].check(Asking::of(tenant), SHARE, now));
                prop_assert!(state.is_none_or(|state| state.share(tenant) <= SHARE.most));
            }
        }
    }

    /// No host has more requests in flight than it may, none is forgotten that has one, and the table stays within its
    /// bounds but for hosts that have a request in flight.
    #[test]
    fn limits_are_never_exceeded(steps in steps()) {
        let mut memory = Memory::new(2, 4);
        let mut now = Timestamp(1_000_000 * SECOND);
        let mut in_flight = [0u32; 10];
        let mut busy_peak = 0;
        for (gap, number, step) in steps {
            now.0 += gap;
            let max = memory.limits.max_concurrent;
            match (&step, memory.step(&host(number), &step, now)) {
                (Step::Start(..), Some(Ok(()))) => {
                    prop_assert!(in_flight[number] < max);
                    in_flight[number] += 1;
                }
                (Step::Start(..), Some(Err(Blocked::Full))) => prop_assert!(in_flight[number] > 0),
                (Step::Release, _) => in_flight[number] = in_flight[number].saturating_sub(1),
                _ => {}
            }
            for (number, count) in in_flight.iter().enumerate() {
                let held = memory.table.get(&host(number)).map_or(0, HostState::in_flight);
                prop_assert_eq!(held, *count);
            }
            busy_peak = busy_peak.max(in_flight.iter().filter(|count| **count > 0).count());
            // A table that busy hosts made larger shrinks with the changes that follow and not at once.
            prop_assert!(memory.table.states() <= busy_peak.max(4));
            prop_assert!(memory.table.after(None).count() <= busy_peak.max(4));
            memory.table.check_files();
        }
    }

    /// Starts between two changes of the limits stay within the rate and one burst.
    #[test]
    fn rates_hold_across_changes(steps in steps()) {
        let mut memory = Memory::new(1, 1_000);
        let mut now = Timestamp(1_000_000 * SECOND);
        let mut starts: Vec<Vec<i64>> = vec![Vec::new(); 10];
        for (gap, number, step) in steps {
            now.0 += gap;
            if matches!(step, Step::Limit { .. }) {
                starts.iter_mut().for_each(Vec::clear);
            }
            if memory.step(&host(number), &step, now) == Some(Ok(())) {
                starts[number].push(now.0);
            }
            let (rate, burst) = (memory.limits.requests_per_second, memory.limits.burst);
            for starts in starts.iter().filter(|_| rate > 0.0) {
                for (i, first) in starts.iter().enumerate() {
                    let (count, window) = (starts.len() - i, starts[starts.len() - 1] - first);
                    let allowed = (window as f64 / SECOND as f64 + 0.01) * rate + f64::from(burst) + 0.01;
                    prop_assert!(count as f64 <= allowed, "{count} starts within {window} us at {rate}/s");
                }
            }
        }
    }
}

fn names(memory: &Memory) -> Vec<String> {
    memory.table.after(None).map(|row| row.host.to_string()).collect()
}

#[test]
fn the_one_at_rest_for_longest_goes_first() {
    let mut memory = Memory::new(3, 1_000);
    for number in [2, 0, 1] {
        memory.step(&host(number), &START, Timestamp(number as i64));
        memory.step(&host(number), &Step::Release, Timestamp(10 + number as i64));
    }
    memory.step(&host(0), &START, Timestamp(20));
    memory.step(&host(0), &Step::Release, Timestamp(21));
    memory.step(&host(3), &START, Timestamp(30));
    assert_eq!(names(&memory), ["0.example:80", "2.example:80", "3.example:80"]);
}

#[test]
fn a_table_that_busy_hosts_made_larger_shrinks() {
    let mut memory = Memory::new(2, 4);
    for number in 0..8 {
        memory.step(&host(number), &START, Timestamp(0));
    }
    assert_eq!(memory.table.states(), 8);
    for number in 0..8 {
        memory.step(&host(number), &Step::Pause(DEFAULT_NO, 9_000), Timestamp(1));
        memory.step(&host(number), &Step::Release, Timestamp(2));
    }
    assert_eq!((memory.table.states(), names(&memory).len()), (4, 4));
}

#[test]
fn a_host_at_rest_has_no_state() {
    let mut memory = Memory::new(10, 10);
    memory.limits.requests_per_second = 1.0;
    for number in 0..3 {
        memory.step(&host(number), &START, Timestamp(0));
        memory.step(&host(number), &Step::Release, Timestamp(1));
    }
    assert_eq!(memory.table.states(), 3, "their rates are used up");
    memory.step(&host(3), &START, Timestamp(2 * SECOND));
    memory.step(&host(3), &Step::Release, Timestamp(2 * SECOND));
    assert_eq!(memory.table.states(), 1);
    assert_eq!(names(&memory).len(), 4);
}

#[test]
fn hosts_whose_bodies_are_read_are_kept() {
    let mut memory = Memory::new(1, 1);
    let read = |memory: &mut Memory, now| memory.change(&host(0), now, |state| state.reader_begins(1, 0));
    let bytes = read(&mut memory, Timestamp(0));
    memory.step(&host(1), &Step::Pause(DEFAULT_NO, 1_000), Timestamp(0));
    assert!(Arc::ptr_eq(&bytes, &read(&mut memory, Timestamp(1))), "all bodies share one rate");
    for now in [2, 3] {
        memory.table.change_known(&host(0), Timestamp(now), |state| state.reader_ends(1, Timestamp(now)));
    }
    assert!(memory.table.get(&host(0)).is_none());
    assert!(!Arc::ptr_eq(&bytes, &read(&mut memory, Timestamp(4))));
}

#[tokio::test(start_paused = true)]
async fn bytes_that_the_rate_has_yet_to_allow_are_kept() {
    let mut memory = Memory::new(1, 1_000);
    let bytes = memory.change(&host(0), Timestamp(0), |state| state.reader_begins(1, 1_000));
    assert!(bytes.take(5_000).now_or_never().is_none(), "the body is dropped while it waits");
    memory.table.change_known(&host(0), Timestamp(0), |state| state.reader_ends(1, Timestamp(0)));
    assert_eq!(memory.table.get(&host(0)).and_then(HostState::rests_at), Some(Timestamp(5 * SECOND)));
    memory.step(&host(1), &START, Timestamp(5 * SECOND));
    assert!(memory.table.get(&host(0)).is_none());
}

#[test]
fn a_full_table_forgets_what_matters_for_the_shortest_time() {
    let mut memory = Memory::new(2, 3);
    for (number, millis) in [(0, 9_000), (1, 1_000), (2, 5_000), (3, 9_000)] {
        memory.step(&host(number), &Step::Pause(DEFAULT_NO, millis), Timestamp(0));
    }
    assert_eq!(names(&memory), ["0.example:80", "2.example:80", "3.example:80"]);
}

#[test]
fn the_last_error_outlives_the_state() {
    let mut memory = Memory::new(1, 1_000);
    memory.step(&host(0), &START, Timestamp(0));
    memory.table.note_error(&host(0), "cut".into(), Timestamp(1));
    memory.step(&host(0), &Step::Release, Timestamp(2));
    let noted: Vec<_> = memory.table.after(None).filter_map(|row| row.error).map(|it| (it.time, &*it.text)).collect();
    assert_eq!(noted, [(Timestamp(1), "cut")]);
    memory.table.note_error(&host(1), "reset".into(), Timestamp(3));
    assert_eq!(names(&memory), ["1.example:80"], "errors count as hosts do");
}
