//! Lanes that look again, and what is kept of those that wait.

use super::{World, job};
use crate::engine::queue::rotation::Admission;
use crate::model::host::Host;
use crate::model::tenant::{Parties, TenantNo};

/// However often a job that waits at a host changes its priority, nothing stays of those that it had.
#[test]
fn priorities_that_jobs_had_once_are_forgotten() {
    let mut world = World::new(1, 0, 4);
    world.add(1, 0, 0, &[(0, 1)]);
    world.add(2, 0, 0, &[(0, 1)]);
    world.dispatch();
    world.lanes.set_may_run(job(2), false);
    world.lanes.wake_host(&Host::new("h0:80"), 2);
    for priority in 0..100 {
        world.lanes.set_priority(job(1), priority);
        world.lanes.set_priority(job(2), priority);
        world.check();
    }
    assert_eq!((world.lanes.parking.priorities(), world.lanes.rings.priorities()), (0, 1));
    world.dispatch();
    world.lanes.set_priority(job(1), 7);
    assert_eq!((world.lanes.parking.priorities(), world.lanes.rings.priorities()), (1, 0));
}

/// All lanes that wait at the mirror of a host that is back may look, whatever their priority: a few at a time, each once.
#[test]
fn lanes_parked_at_a_mirror_look_a_few_at_a_time() {
    let mut world = World::new(1, 0, 4);
    for number in 0..300 {
        world.add_for(16 + (number % 3) as TenantNo, number, &[(0, 1)]);
        world.lanes.set_priority(job(number), (number % 5) as i32 - 2);
    }
    world.dispatch();
    let host = Host::new("h0:80");
    world.lanes.wake_all(&host);
    let mut looked = Vec::new();
    let mut rounds = 0;
    while world.lanes.has_to_wake() {
        rounds += 1;
        world.lanes.wake_more(20);
        let before = looked.len();
        let picked = world.lanes.pick(|it| {
            looked.push(it.job);
            Admission::HostBlocked(it.host.clone())
        });
        assert!(picked.is_none() && looked.len() - before <= 20);
        world.check();
    }
    assert!((15..60).contains(&rounds), "{rounds}");
    looked.sort_unstable();
    assert_eq!(looked, (0..300).map(job).collect::<Vec<_>>());
    assert_eq!(world.lanes.parking.entries(), 300);
    // A walk ends where nothing is parked any more.
    world.lanes.wake_all(&host);
    (0..300).for_each(|number| world.lanes.remove_job(job(number)));
    world.lanes.wake_more(1_000);
    assert!(!world.lanes.has_to_wake() && world.lanes.hosts_waited_for().is_empty());
}

/// A lane whose job gets another priority while those of its host look does so, too, wherever it stands from then on.
#[test]
fn a_lane_that_changes_its_place_looks_all_the_same() {
    for (before, now) in [(0, 5), (0, -5)] {
        let mut world = World::new(1, 0, 4);
        let host = Host::new("h0:80");
        for number in [1, 2, 3] {
            world.add(number, if number == 3 { before } else { 0 }, 0, &[(0, 1)]);
        }
        world.lanes.set_waiting(job(3), 0, 7);
        world.dispatch();
        world.lanes.wake_all(&host);
        world.lanes.wake_more(1);
        // One that is parked since stands at the front of the line that it goes to.
        world.add(4, now, 0, &[(0, 1)]);
        world.dispatch();
        world.lanes.set_priority(job(3), now);
        world.lanes.wake_more(1_000);
        let mut looked = Vec::new();
        let picked = world.lanes.pick(|it| {
            looked.push(it.job);
            Admission::HostBlocked(it.host.clone())
        });
        assert!(picked.is_none() && looked.contains(&job(3)), "{before} to {now}: {looked:?}");
        assert_eq!(world.lanes.waiting_at(&host, Parties::default()), 7);
        world.lanes.set_waiting(job(3), 0, 0);
        world.check();
    }
}
