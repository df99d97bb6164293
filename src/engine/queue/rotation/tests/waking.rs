//! Lanes that look again, and what is kept of those that wait.

use super::{World, job};
use crate::engine::queue::rotation::Admission;
use crate::model::host::Host;
use crate::model::tenant::{DEFAULT_NO, Parties, TenantNo};

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

/// A job may have as many lanes at one mirror as it has hosts. They go behind the others together, in their order.
#[test]
fn lanes_of_a_job_that_wait_at_one_host_change_their_priority_in_one_go() {
    let mut world = World::new(1, 0, 4);
    let mirror = Host::new("h0:80");
    for number in [1, 2] {
        world.lanes.add_job(job(number), 0, 0, true);
        for lane in 0..500 {
            world.lanes.add_lane(job(number), Host::new(&format!("own{lane}:80")));
            world.lanes.has_work(job(number), lane);
        }
    }
    assert!(world.lanes.pick(|_| Admission::HostBlocked(mirror.clone())).is_none());
    world.lanes.set_priority(job(1), 5);
    world.lanes.set_priority(job(2), 5);
    assert_eq!(world.lanes.parking.moved_past, 1500, "each entry is looked at once for a job");
    world.check();
    world.lanes.wake_host(&mirror, 1000);
    let mut looked = Vec::new();
    world.lanes.pick(|it| {
        looked.push((it.job, it.lane));
        Admission::HostBlocked(mirror.clone())
    });
    let of = |number| (0..500).map(move |lane| (job(number), lane));
    assert_eq!(looked.iter().filter(|(it, _)| *it == job(1)).copied().collect::<Vec<_>>(), of(1).collect::<Vec<_>>());
    assert_eq!(looked.len(), 1000);
}

/// Of a tenant of which only some tasks may start, each lane is looked at in its turn, and none is lost.
#[test]
fn lanes_that_are_passed_over_go_behind_the_others() {
    let mut world = World::new(1, 4, 4);
    for number in 1..=4 {
        world.add(number, 0, 0, &[(0, 1)]);
    }
    let mut looked = Vec::new();
    let picked = world.lanes.pick(|it| {
        looked.push(it.job);
        if it.job == job(3) { Admission::Go(it.host.clone()) } else { Admission::Behind }
    });
    assert_eq!((picked, &looked[..]), (Some((job(3), 0)), &[1, 2, 3].map(job)[..]));
    world.lanes.ended(job(3));
    world.check();
    // One of it was found, so it goes on, and each is looked at once; then it rests.
    for expected in [&[4, 1, 2].map(job)[..], &[]] {
        looked.clear();
        let picked = world.lanes.pick(|it| {
            looked.push(it.job);
            Admission::Behind
        });
        assert_eq!((picked, &looked[..]), (None, expected));
        world.check();
    }
    world.lanes.set_tenant_resting(DEFAULT_NO, false);
    let picked = world.lanes.pick(|it| Admission::Go(it.host.clone()));
    assert_eq!(picked, Some((job(4), 0)));
}

/// Many lanes of high priorities hide none of a low one, whatever they are more than a pick looks at.
#[test]
fn what_has_a_lower_priority_has_its_look() {
    let mut world = World::new(1, 4, 4);
    for number in 1..=200 {
        world.add(number, if number % 2 == 0 { 9 } else { 5 }, 0, &[(0, 1)]);
    }
    world.add(300, 1, 0, &[(0, 1)]);
    let mut picked = Vec::new();
    for _ in 0..3 {
        picked.push(
            world.lanes.pick(|it| if it.job == job(300) { Admission::Go(it.host.clone()) } else { Admission::Behind }),
        );
        world.lanes.set_tenant_resting(DEFAULT_NO, false);
        world.check();
    }
    assert_eq!(picked, [None, None, Some((job(300), 0))]);
    // The highest goes first again once something could start.
    let picked = world.lanes.pick(|it| Admission::Go(it.host.clone()));
    assert!(picked.is_some_and(|(it, _)| it.0.as_u128() % 2 == 0), "{picked:?}");
}

/// Whatever a tenant has: a pick looks at some of it, which are others each time, and comes to what has a lower priority, too.
#[test]
fn a_tenant_that_is_passed_over_rests_soon() {
    let mut world = World::new(1, 4, 4);
    for number in 1..=100 {
        world.add_for(16, number, &[(0, 1)]);
    }
    world.add_for(17, 200, &[(0, 1)]);
    let mut looked = Vec::new();
    for round in 0..2 {
        let picked = world.lanes.pick(|it| {
            looked.push(it.job);
            if it.job == job(200) { Admission::HostBlocked(it.host.clone()) } else { Admission::Behind }
        });
        assert!(picked.is_none());
        assert!(looked.len() <= 66 * (round + 1), "{}", looked.len());
        world.lanes.set_tenant_resting(16, false);
        world.check();
    }
    assert!((1..=100).chain([200]).all(|number| looked.contains(&job(number))), "{looked:?}");
    // One of lower priority is not behind one that is looked at again and again.
    world.add(300, 5, 0, &[(0, 1)]);
    world.add(301, 0, 0, &[(0, 1)]);
    let picked = world.lanes.pick(|it| match it.job {
        it if it == job(300) => Admission::Behind,
        _ if it.job == job(301) => Admission::Go(it.host.clone()),
        _ => Admission::Empty,
    });
    assert_eq!(picked, Some((job(301), 0)));
}
