//! Tenants beside each other: their shares of the places, and of the room at hosts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::{World, job};
use crate::engine::queue::rotation::{Hold, Standing};
use crate::model::host::Host;
use crate::model::tenant::{Share, TenantNo};

#[test]
fn a_tenant_with_ten_tasks_goes_beside_one_with_ten_thousand() {
    let mut world = World::shared(1, 100, 8);
    world.add_for(16, 1, &[(0, 10_000)]);
    world.dispatch();
    world.add_for(17, 2, &[(0, 10)]);
    for _ in 0..10 {
        // Tasks of the first end, those of the second go on for long.
        let which = world.running.iter().position(|lane| lane.0 == job(1)).unwrap();
        world.end(which);
        world.dispatch();
    }
    assert_eq!((world.running_of(16), world.running_of(17)), (4, 4), "each has half of the places");
    world.check();
}

#[test]
fn a_weight_is_a_share_of_the_places() {
    let mut world = World::shared(1, 100, 12);
    world.lanes.set_shares([(17, Share { weight: 3, ..Share::default() })].into());
    world.add_for(16, 1, &[(0, 1000)]);
    world.add_for(17, 2, &[(0, 1000)]);
    world.dispatch();
    assert_eq!((world.running_of(16), world.running_of(17)), (3, 9));
    for _ in 0..100 {
        world.end(0);
        world.dispatch();
    }
    assert_eq!((world.running_of(16), world.running_of(17)), (3, 9));
}

/// Tasks that never end: who has the most at a host gets none of what becomes free there, however much new work it has.
#[test]
fn room_at_a_host_goes_to_the_tenant_with_the_fewest() {
    let mut world = World::shared(1, 4, 100);
    world.add_for(16, 1, &[(0, 1000)]);
    world.dispatch();
    world.add_for(17, 2, &[(0, 3)]);
    world.dispatch();
    for number in 3..100 {
        let which = world.running.iter().position(|lane| world.tenant_of(lane.0) == 16).unwrap();
        world.end(which);
        // Fresh lanes that have not waited would take the room.
        world.add_for(16, number, &[(0, 1)]);
        world.dispatch();
        world.check();
        if number >= 4 {
            assert_eq!((world.running_of(16), world.running_of(17)), (2, 2), "after {number}");
        }
    }
}

#[test]
fn a_pause_of_one_tenant_leaves_the_host_to_the_other() {
    let mut world = World::shared(1, 2, 100);
    world.add_for(16, 1, &[(0, 1000)]);
    world.add_for(17, 2, &[(0, 20)]);
    world.dispatch();
    world.pause(0, 16, true);
    for _ in 0..19 {
        world.end(0);
        world.dispatch();
        world.check();
    }
    let second = world.order.iter().filter(|lane| lane.0 == job(2)).count();
    assert_eq!((second, world.running_of(17)), (20, 2), "{:?}", world.order.len());
    world.end(0);
    world.end(0);
    world.dispatch();
    assert!(world.running.is_empty());
    world.pause(0, 16, false);
    world.lanes.wake_host(&Host::new("h0:80"), 2);
    world.dispatch();
    assert_eq!(world.running_of(16), 2);
}

#[test]
fn a_tenant_that_may_start_nothing_misses_no_room_for_good() {
    let mut world = World::shared(2, 2, 100);
    world.lanes.set_shares([(16, Share { running: Some(3), ..Share::default() })].into());
    world.add_for(17, 9, &[(0, 2), (1, 2)]);
    world.dispatch();
    // Its lanes are parked at both hosts, and it may start nothing when they have room.
    world.add_for(16, 1, &[(0, 100), (1, 100)]);
    world.dispatch();
    world.lanes.set_shares([(16, Share { is_suspended: true, ..Share::default() })].into());
    for _ in 0..4 {
        world.end(0);
        world.dispatch();
    }
    assert!(world.running.is_empty());
    world.check();
    world.lanes.set_shares([(16, Share { running: Some(3), ..Share::default() })].into());
    world.dispatch();
    assert_eq!(world.running_of(16), 3);
    for _ in 0..50 {
        world.end(0);
        world.dispatch();
        assert_eq!(world.running_of(16), 3);
        world.check();
    }
    world.lanes.set_shares(HashMap::new());
    world.dispatch();
    assert_eq!(world.running_of(16), 4, "as many as the hosts have room for");
}

/// A host that takes nothing of anybody any more: whoever waits there learns until when.
#[test]
fn whoever_waits_at_a_host_that_is_paused_for_all_looks_once() {
    let mut world = World::shared(1, 1, 100);
    world.add_for(16, 1, &[(0, 10)]);
    world.add_for(17, 2, &[(0, 10)]);
    world.dispatch();
    world.pause(0, 16, true);
    world.pause(0, 17, true);
    world.end(0);
    world.dispatch();
    world.refused.sort();
    assert_eq!(world.refused, [job(1), job(2)]);
    world.dispatch();
    assert_eq!((world.running.len(), world.refused.len()), (0, 2));
    world.check();
}

/// Who is refused there does not have all others asked again.
#[test]
fn at_a_host_that_is_paused_for_all_each_of_many_tenants_is_asked_a_few_times() {
    const TENANTS: u32 = 300;
    let mut world = World::shared(1, 1, 100);
    let asked = Arc::new(Mutex::new(0));
    let (count, at) = (asked.clone(), world.at.clone());
    let standing = move |host: &Host, tenant| {
        *count.lock().unwrap() += 1;
        at.lock().unwrap().get(&(host.clone(), tenant)).copied().unwrap_or(Some(0))
    };
    world.lanes.set_standing(Standing(Arc::new(standing)));
    for tenant in 2..TENANTS + 2 {
        world.pause(0, tenant, true);
        world.add_for(tenant, tenant.into(), &[(0, 1)]);
    }
    for look in 1..4 {
        world.dispatch();
        assert_eq!((world.running.len(), world.refused.len()), (0, look * TENANTS as usize));
        world.check();
        world.lanes.wake_host(&Host::new("h0:80"), 1);
    }
    world.dispatch();
    let asked = *asked.lock().unwrap();
    assert!(asked < 20 * TENANTS, "{asked}");
    // One that may go on is found at once.
    world.pause(0, 77, false);
    world.lanes.wake_host(&Host::new("h0:80"), 1);
    world.dispatch();
    assert_eq!(world.running, [(job(77), 0)]);
}

#[test]
fn a_tenant_that_is_left_alone_at_a_host_that_is_paused_for_it_looks() {
    let mut world = World::shared(1, 1, 100);
    world.add_for(16, 1, &[(0, 10)]);
    world.add_for(17, 2, &[(0, 1)]);
    world.dispatch();
    world.pause(0, 16, true);
    // The only task of the second runs, and ends.
    for _ in 0..2 {
        world.end(0);
        world.dispatch();
    }
    assert_eq!((world.running.len(), world.refused.as_slice()), (0, [job(1)].as_slice()));
}

/// Ends what runs of tenant 16, and then one task after another of the tenant that takes each place that is free.
fn lose_every_place(world: &mut World, taker: TenantNo) {
    let mut end_of = |tenant| {
        let which = world.running.iter().position(|lane| world.tenant_of(lane.0) == tenant).unwrap();
        world.end(which);
        world.dispatch();
        world.check();
        world.running_of(16)
    };
    // Whoever waits longest is next, and the second time that is not the first tenant.
    assert_eq!([end_of(16), end_of(16)], [1, 0]);
    for _ in 0..40 {
        end_of(taker);
    }
}

/// Room is kept for a tenant that holds more than its share elsewhere, while another one takes each place that is free.
#[test]
fn room_is_not_kept_for_ever_for_a_tenant_whose_turn_does_not_come() {
    let mut world = World::shared(2, 1, 12);
    world.room.insert(Host::new("h1:80"), 100);
    world.add_for(16, 1, &[(0, 100)]);
    world.dispatch();
    world.add_for(17, 2, &[(0, 5), (1, 10)]);
    world.dispatch();
    world.add_for(18, 3, &[(1, 100_000)]);
    world.dispatch();
    assert_eq!([16, 17, 18].map(|tenant| world.running_of(tenant)), [1, 10, 1]);
    lose_every_place(&mut world, 18);
    assert_eq!(world.running_of(16), 1, "its host has room, and nobody else comes to use it");
}

/// Tenants that have nothing to start have no turns that would have to be waited for.
#[test]
fn room_is_not_kept_for_ever_for_a_job_of_low_priority() {
    let mut world = World::shared(2, 1, 4);
    for idle in 100..1_100 {
        world.add_for(idle, u128::from(idle), &[]);
    }
    world.room.insert(Host::new("h1:80"), 100);
    world.add_for(16, 1, &[(0, 100)]);
    world.dispatch();
    world.add_for(17, 2, &[(0, 5)]);
    world.dispatch();
    world.add_for(17, 3, &[(1, 100_000)]);
    world.lanes.set_priority(job(3), 10);
    world.dispatch();
    lose_every_place(&mut world, 17);
    assert_eq!(world.running_of(16), 1);
}

/// Tenants of large weights: one whose tasks never end has its share of the places, and not all.
#[test]
fn a_large_weight_is_no_right_to_every_place() {
    let mut world = World::shared(1, 100, 10);
    let share = Share { weight: 100, ..Share::default() };
    world.lanes.set_shares([(16, share), (17, share)].into());
    world.add_for(16, 1, &[(0, 1000)]);
    world.add_for(17, 2, &[(0, 1000)]);
    world.dispatch();
    for _ in 0..100 {
        let which = world.running.iter().position(|lane| lane.0 == job(2)).unwrap();
        world.end(which);
        world.dispatch();
        assert_eq!(world.running_of(16), 5);
    }
}

/// A world whose tenants leave places to each other.
fn leaving(hosts: u32, room: u32, server_max: usize) -> World {
    World { leaves: true, ..World::shared(hosts, room, server_max) }
}

#[test]
fn a_tenant_whose_tasks_never_end_leaves_places_to_others() {
    let mut world = leaving(1, 100, 64);
    for (tenant, most) in [(16, 48), (17, 12), (18, 3), (19, 1)] {
        world.add_for(tenant, tenant.into(), &[(0, 1000)]);
        world.dispatch();
        assert_eq!(world.running_of(tenant), most);
        world.check();
    }
    assert_eq!(world.lanes.hold(job(16), 0), Hold::Tenant);
    assert!(world.lanes.is_held_back(16));
    // Who ends something gets what becomes free, and one that has the most only once there is much.
    for _ in 0..100 {
        let which = world.running.iter().position(|lane| lane.0 == job(19)).unwrap();
        world.end(which);
        world.dispatch();
        assert_eq!([16, 17, 18, 19].map(|tenant| world.running_of(tenant)), [48, 12, 3, 1]);
    }
    world.lanes.remove_job(job(17));
    world.running.retain(|lane| lane.0 != job(17));
    world.dispatch();
    let others = world.running_of(18) + world.running_of(19);
    assert_eq!((world.running_of(16), others), (48, 13), "as much as twice three times what is left");
    // The last other tenant goes.
    world.leaves = false;
    world.dispatch();
    assert_eq!(world.running.len(), 64);
    world.check();
}

/// Room at a host that a tenant missed while it left places to others is found again, whatever work it has elsewhere.
#[test]
fn who_was_held_back_finds_the_room_that_it_has_missed() {
    let mut world = leaving(2, 1, 8);
    world.room.insert(Host::new("h1:80"), 100);
    world.add_for(17, 9, &[(0, 1)]);
    world.dispatch();
    world.add_for(16, 1, &[(0, 1)]);
    world.dispatch();
    world.add_for(16, 2, &[(1, 10_000)]);
    world.dispatch();
    assert_eq!((world.running_of(16), world.running_of(17)), (5, 1));
    let end_of = |world: &mut World, number: u128| {
        let which = world.running.iter().position(|lane| lane.0 == job(number)).unwrap();
        world.end(which);
        world.dispatch();
        world.check();
    };
    end_of(&mut world, 9);
    for _ in 0..8 {
        end_of(&mut world, 2);
    }
    assert_eq!(world.queued[&(job(1), 0)], 0);
}

#[test]
fn fewer_places_than_there_were_hold_all_back() {
    let mut world = leaving(1, 100, 16);
    world.add_for(16, 1, &[(0, 1000)]);
    world.dispatch();
    assert_eq!(world.running_of(16), 12);
    world.server_max = 4;
    world.add_for(17, 2, &[(0, 10)]);
    world.dispatch();
    assert_eq!(world.running_of(17), 0);
    for _ in 0..9 {
        world.end(0);
        world.dispatch();
        world.check();
    }
    assert_eq!((world.running_of(16), world.running_of(17)), (3, 1), "the first place that is free is the other's");
}

proptest! {
    /// Tenants whose tasks never end, of any weights and with work at any hosts: all tasks of the others run.
    #[test]
    fn tasks_that_never_end_keep_no_other_tenant_waiting(
        places in 6..40_usize,
        rooms in prop::collection::vec(1..12_u32, 3),
        jobs in prop::collection::vec((0..3_u32, 0..3_u32, -2..3_i32, 1..30_u32), 1..12),
        ends in prop::collection::vec(any::<prop::sample::Index>(), 400),
    ) {
        const HOGS: u32 = 2;
        let mut world = leaving(6, 100, places);
        for (host, room) in rooms.iter().enumerate() {
            world.room.insert(Host::new(&format!("h{host}:80")), *room);
        }
        let add = |world: &mut World, number: usize| {
            let (tenant, host, priority, count) = jobs[number % jobs.len()];
            let id = number as u128 + 1;
            // What never ends is elsewhere, since this world shares no hosts.
            let (tenant, host) = if number < jobs.len() { (20 + tenant, host) } else { (16 + tenant % HOGS, 3 + host) };
            world.add_for(tenant, id, &[(host, count)]);
            world.lanes.set_priority(job(id), priority);
        };
        for number in 0..jobs.len() {
            add(&mut world, number + jobs.len());
            if number % 2 == 0 {
                world.dispatch();
            }
            add(&mut world, number);
        }
        for end in ends {
            world.dispatch();
            world.check();
            let may_end = |which: &usize| world.tenant_of(world.running[*which].0) >= 20;
            let ending: Vec<usize> = (0..world.running.len()).filter(may_end).collect();
            if ending.is_empty() {
                break;
            }
            world.end(ending[end.index(ending.len())]);
        }
        world.dispatch();
        let left = world.queued.iter().filter(|(lane, count)| **count > 0 && world.tenant_of(lane.0) >= 20);
        let running = world.running.iter().filter(|lane| world.tenant_of(lane.0) >= 20).count();
        prop_assert!(running > 0 || left.count() == 0, "{:?} run", world.running);
    }
}
