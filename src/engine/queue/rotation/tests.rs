//! The rotation over a small world: queues, hosts with room, tasks that run. No clock, no runtime.

mod tenants;
mod waking;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use uuid::Uuid;

use super::{Admission, Rotation, Standing};
use crate::engine::queue::parking::OLD_MAX;
use crate::model::host::Host;
use crate::model::ids::JobId;
use crate::model::tenant::{DEFAULT_NO, Parties, Party, TenantNo};

fn job(number: u128) -> JobId {
    JobId(Uuid::from_u128(number))
}

/// A world around the rotation: queues of tasks, hosts with room, tasks that run.
struct World {
    lanes: Rotation,
    queued: HashMap<(JobId, u32), u32>,
    host_of: HashMap<(JobId, u32), Host>,
    room: HashMap<Host, u32>,
    running: Vec<(JobId, u32)>,
    server_max: usize,
    /// Whether tenants leave places to each other.
    leaves: bool,
    order: Vec<(JobId, u32)>,
    /// The jobs whose lanes were told that a host takes nothing of their tenants.
    refused: Vec<JobId>,
    tenant_of: HashMap<JobId, TenantNo>,
    /// How many requests tenants have at hosts; `None`: the host takes nothing of them.
    at: Arc<Mutex<AtHosts>>,
}

/// How many requests tenants have at hosts.
type AtHosts = HashMap<(Host, TenantNo), Option<u32>>;

impl World {
    fn new(hosts: u32, room: u32, server_max: usize) -> World {
        World {
            lanes: Rotation::default(),
            queued: HashMap::new(),
            host_of: HashMap::new(),
            room: (0..hosts).map(|host| (Host::new(&format!("h{host}:80")), room)).collect(),
            running: Vec::new(),
            server_max,
            leaves: false,
            order: Vec::new(),
            refused: Vec::new(),
            tenant_of: HashMap::new(),
            at: Arc::default(),
        }
    }

    /// A world of several tenants: room at a host goes to who has the least there.
    fn shared(hosts: u32, room: u32, server_max: usize) -> World {
        let mut world = World::new(hosts, room, server_max);
        let at = world.at.clone();
        let standing =
            move |host: &Host, tenant| at.lock().unwrap().get(&(host.clone(), tenant)).copied().unwrap_or(Some(0));
        world.lanes.set_standing(Standing(Arc::new(standing)));
        world
    }

    fn add_for(&mut self, tenant: TenantNo, number: u128, tasks: &[(u32, u32)]) {
        let mut none = tasks.to_vec();
        for (_, count) in &mut none {
            *count = 0;
        }
        self.add(number, 0, 0, &none);
        self.lanes.set_party(job(number), Party { tenant, principal: 0 });
        self.tenant_of.insert(job(number), tenant);
        for &(host, count) in tasks {
            *self.queued.entry((job(number), host)).or_default() += count;
            self.lanes.has_work(job(number), host);
        }
    }

    fn pause(&mut self, host: u32, tenant: TenantNo, is_paused: bool) {
        let host = Host::new(&format!("h{host}:80"));
        let running =
            self.running.iter().filter(|lane| self.tenant_of(lane.0) == tenant && self.host_of[*lane] == host);
        let running = running.count() as u32;
        self.at.lock().unwrap().insert((host, tenant), (!is_paused).then_some(running));
    }

    fn tenant_of(&self, job: JobId) -> TenantNo {
        self.tenant_of.get(&job).copied().unwrap_or(DEFAULT_NO)
    }

    fn running_of(&self, tenant: TenantNo) -> usize {
        self.running.iter().filter(|lane| self.tenant_of(lane.0) == tenant).count()
    }

    fn count(&mut self, lane: (JobId, u32), change: i32) {
        let key = (self.host_of[&lane].clone(), self.tenant_of(lane.0));
        let mut at = self.at.lock().unwrap();
        let count = at.entry(key).or_insert(Some(0));
        *count = count.map(|count| count.saturating_add_signed(change));
    }

    fn check(&self) {
        self.lanes.check(|_, _| 0).unwrap();
    }

    fn add(&mut self, number: u128, priority: i32, cap: u32, tasks: &[(u32, u32)]) {
        self.lanes.add_job(job(number), priority, cap, true);
        let hosts = tasks.iter().map(|(host, _)| host + 1).max().unwrap_or(0);
        for host in 0..hosts {
            self.lanes.add_lane(job(number), Host::new(&format!("h{host}:80")));
        }
        for &(host, count) in tasks {
            let name = Host::new(&format!("h{host}:80"));
            let lane = (job(number), host);
            self.host_of.insert(lane, name);
            *self.queued.entry(lane).or_default() += count;
            if count > 0 {
                self.lanes.has_work(lane.0, lane.1);
            }
        }
    }

    fn dispatch(&mut self) {
        while self.running.len() < self.server_max {
            let left = self.server_max - self.running.len() - 1;
            self.lanes.set_left(self.leaves.then_some(left as u32));
            let (room, at, tenants, refused) = (&mut self.room, &self.at, &self.tenant_of, &mut self.refused);
            let picked = self.lanes.pick(|it| match room.get_mut(it.host) {
                _ if {
                    let tenant = tenants.get(&it.job).copied().unwrap_or(DEFAULT_NO);
                    at.lock().unwrap().get(&(it.host.clone(), tenant)) == Some(&None)
                } =>
                {
                    refused.push(it.job);
                    Admission::TenantBlocked(it.host.clone())
                }
                Some(room) if *room > it.kept => {
                    *room -= 1;
                    Admission::Go(it.host.clone())
                }
                _ => Admission::HostBlocked(it.host.clone()),
            });
            let Some(lane) = picked else { return };
            let queued = self.queued.get_mut(&lane).unwrap();
            *queued -= 1;
            if *queued > 0 {
                self.lanes.has_work(lane.0, lane.1);
            }
            self.running.push(lane);
            self.order.push(lane);
            self.count(lane, 1);
        }
    }

    fn end(&mut self, which: usize) {
        let lane = self.running.swap_remove(which % self.running.len());
        let host = self.host_of[&lane].clone();
        *self.room.get_mut(&host).unwrap() += 1;
        self.count(lane, -1);
        self.lanes.ended(lane.0);
        self.lanes.wake_host(&host, 1);
    }

    fn left(&self) -> u32 {
        self.queued.values().sum()
    }
}

#[test]
fn a_small_job_is_not_held_by_a_big_one() {
    let mut world = World::new(1, 4, 4);
    world.add(1, 0, 0, &[(0, 1000)]);
    world.dispatch();
    world.add(2, 0, 0, &[(0, 10)]);
    for _ in 0..24 {
        world.end(0);
        world.dispatch();
    }
    assert_eq!(world.queued[&(job(2), 0)], 0, "ten of the next 24 starts were the small job's");
}

#[test]
fn a_full_host_holds_only_its_own_lanes() {
    let mut world = World::new(2, 1, 8);
    world.add(1, 0, 0, &[(0, 100), (1, 100)]);
    world.dispatch();
    assert_eq!(world.running.len(), 2);
    for _ in 0..50 {
        let on_second = world.running.iter().position(|lane| lane.1 == 1).unwrap();
        world.end(on_second);
        world.dispatch();
    }
    assert_eq!(world.queued[&(job(1), 1)], 49, "host 0 never gave its place back, and host 1 went on");
}

#[test]
fn a_higher_priority_goes_first() {
    let mut world = World::new(1, 1, 1);
    world.add(1, 0, 0, &[(0, 5)]);
    world.add(2, 7, 0, &[(0, 5)]);
    world.dispatch();
    while !world.running.is_empty() {
        world.end(0);
        world.dispatch();
    }
    assert!(world.order[..5].iter().all(|lane| lane.0 == job(2)), "{:?}", world.order);
}

#[test]
fn a_paused_job_passes_its_room_on() {
    let mut world = World::new(1, 1, 4);
    world.add(1, 0, 0, &[(0, 5)]);
    world.add(2, 0, 0, &[(0, 5)]);
    world.add(3, 0, 0, &[(0, 5)]);
    world.dispatch();
    world.end(0);
    // Whoever was woken for the room is paused before it could take it.
    world.lanes.set_may_run(job(2), false);
    world.dispatch();
    assert_eq!(world.running.len(), 1);
    world.lanes.set_may_run(job(2), true);
    while !world.running.is_empty() {
        world.end(0);
        world.dispatch();
    }
    assert_eq!(world.left(), 0);
}

/// A job whose lanes wait at a host already goes before the others there as soon as it is raised.
#[test]
fn a_job_that_is_raised_while_it_is_parked_goes_first() {
    let mut world = World::new(1, 1, 4);
    world.add(1, 5, 0, &[(0, 50)]);
    world.add(2, 0, 0, &[(0, 5)]);
    for _ in 0..3 {
        world.dispatch();
        world.end(0);
    }
    world.dispatch();
    assert!(world.order.iter().all(|lane| lane.0 == job(1)));
    world.lanes.set_priority(job(2), 10);
    for _ in 0..5 {
        world.end(0);
        world.dispatch();
    }
    assert_eq!(world.queued[&(job(2), 0)], 0, "{:?}", world.order);
}

/// A job that is forgotten while its lane waits at a host, and taken in again.
#[test]
fn a_lane_that_comes_again_is_there_once() {
    let mut world = World::new(1, 1, 4);
    world.add(1, 0, 0, &[(0, 100)]);
    world.dispatch();
    for _ in 0..4 {
        world.lanes.remove_job(job(2));
        world.add(2, 0, 0, &[(0, 25)]);
        world.lanes.set_waiting(job(2), 0, 25);
        world.dispatch();
    }
    let host = Host::new("h0:80");
    assert_eq!(world.lanes.waiting_at(&host, Parties::default()), 25, "each task is counted once");
    for _ in 0..60 {
        world.end(0);
        world.dispatch();
    }
    let second = world.order[1..].iter().filter(|lane| lane.0 == job(2)).count();
    assert!((29..=31).contains(&second), "{second} of 60 starts were the second job's: {:?}", world.order);
}

#[test]
fn jobs_that_come_and_go_leave_nothing_at_a_host_without_room() {
    let mut world = World::new(1, 0, 4);
    for number in 0..10_000 {
        world.add(number, 0, 0, &[(0, 1)]);
        world.dispatch();
        world.lanes.remove_job(job(number));
    }
    let left: usize = world.lanes.parking.entries();
    assert!(left <= 2 * OLD_MAX, "{left}");
}

#[test]
fn jobs_that_come_and_go_leave_nothing_in_the_ring_of_a_tenant_that_may_start_nothing() {
    let mut world = World::new(1, 100, 0);
    world.add(0, 0, 0, &[(0, 1)]);
    for number in 1..10_000 {
        world.add(number, i32::from(number % 2 == 0), 0, &[(0, 1)]);
        world.lanes.remove_job(job(number));
    }
    let left = world.lanes.rings.entries();
    assert!(left <= 100, "{left}");
}

/// Lanes of which no task is in memory before it is read: each task by a read of its own that takes a while.
#[test]
fn a_lane_that_is_read_has_its_share_and_no_more() {
    for reads_take in 1..7_usize {
        let mut lanes = Rotation::default();
        // Jobs of four and of two lanes; the first lane of each has to be read.
        for (number, count) in [(1, 4), (2, 2)] {
            lanes.add_job(job(number), 0, 0, true);
            for lane in 0..count {
                lanes.add_lane(job(number), Host::new("h:80"));
                lanes.has_work(job(number), lane);
            }
        }
        let mut served: HashMap<(JobId, u32), usize> = HashMap::new();
        let mut read: Vec<((JobId, u32), usize)> = Vec::new();
        let mut in_memory: Vec<(JobId, u32)> = Vec::new();
        for turn in 0..6_000 {
            while let Some(place) = read.iter().position(|(_, at)| *at <= turn) {
                let (lane, _) = read.remove(place);
                in_memory.push(lane);
                lanes.has_read(lane.0, lane.1);
            }
            let picked = lanes.pick(|it| {
                let lane = (it.job, it.lane);
                if it.lane == 0 && !in_memory.contains(&lane) {
                    read.push((lane, turn + reads_take));
                    return Admission::Read;
                }
                Admission::Go(it.host.clone())
            });
            let Some(lane) = picked else { continue };
            in_memory.retain(|other| *other != lane);
            *served.entry(lane).or_default() += 1;
            lanes.ended(lane.0);
            lanes.has_work(lane.0, lane.1);
        }
        for (number, count) in [(1, 4), (2, 2)] {
            let of_job: Vec<usize> = (0..count).map(|lane| served[&(job(number), lane)]).collect();
            let all: usize = of_job.iter().sum();
            // A job of few lanes may lose a turn to a read.
            assert!((2_500..=3_500).contains(&all), "job {number} of two has {all} of 6,000; {served:?}");
            let others = &of_job[1..];
            let (least, most) = (others.iter().min().unwrap(), others.iter().max().unwrap());
            assert!(most - least <= 2, "reads take {reads_take}: {of_job:?}");
            assert!(of_job[0] <= most + 2, "reads take {reads_take}: {of_job:?}");
            assert!(of_job[0] * 3 >= *most, "reads take {reads_take}: {of_job:?}");
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    End(usize),
    Pause(u128),
    Resume(u128),
    Cap(u128, u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any::<usize>().prop_map(Step::End),
        1 => (0u128..5).prop_map(Step::Pause),
        1 => (0u128..5).prop_map(Step::Resume),
        1 => (0u128..5, 0u32..4).prop_map(|(job, cap)| Step::Cap(job, cap)),
    ]
}

proptest! {
    /// No limit is ever exceeded, nothing is left undone while there is room for it, and in the end all has run once.
    #[test]
    fn limits_hold_and_no_room_is_wasted(
        jobs in prop::collection::vec((-1i32..2, 0u32..3, prop::collection::vec(0u32..12, 3)), 1..5),
        room in 1u32..4,
        server_max in 1usize..10,
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut world = World::new(3, room, server_max);
        let mut caps = HashMap::new();
        let mut paused = HashMap::new();
        for (number, (priority, cap, tasks)) in jobs.iter().enumerate() {
            let tasks: Vec<(u32, u32)> = tasks.iter().enumerate().map(|(host, count)| (host as u32, *count)).collect();
            world.add(number as u128, *priority, *cap, &tasks);
            caps.insert(job(number as u128), *cap);
            paused.insert(job(number as u128), false);
        }
        let total = world.left();
        let resume = (0..jobs.len() as u128).map(Step::Resume);
        let uncap = (0..jobs.len() as u128).map(|number| Step::Cap(number, 0));
        let drain = std::iter::repeat_n(Step::End(0), total as usize);
        for step in steps.into_iter().chain(resume).chain(uncap).chain(drain) {
            match step {
                Step::End(which) if !world.running.is_empty() => world.end(which),
                Step::End(_) => {}
                Step::Pause(number) => {
                    world.lanes.set_may_run(job(number), false);
                    paused.entry(job(number)).and_modify(|paused| *paused = true);
                }
                Step::Resume(number) => {
                    world.lanes.set_may_run(job(number), true);
                    paused.entry(job(number)).and_modify(|paused| *paused = false);
                }
                Step::Cap(number, cap) => {
                    world.lanes.set_cap(job(number), cap);
                    caps.entry(job(number)).and_modify(|old| *old = cap);
                }
            }
            let before = world.order.len();
            world.dispatch();
            prop_assert!(world.running.len() <= server_max);
            for lane in &world.order[before..] {
                let running = world.running.iter().filter(|other| other.0 == lane.0).count() as u32;
                prop_assert!(caps[&lane.0] == 0 || running <= caps[&lane.0]);
                prop_assert!(!paused[&lane.0]);
            }
            if world.running.len() < server_max {
                for (lane, queued) in &world.queued {
                    let running = world.running.iter().filter(|other| other.0 == lane.0).count() as u32;
                    let capped = caps[&lane.0] != 0 && running >= caps[&lane.0];
                    let waits = *queued > 0 && world.room[&world.host_of[lane]] > 0;
                    prop_assert!(!waits || capped || paused[&lane.0], "{lane:?} could run and does not");
                }
            }
        }
        prop_assert_eq!(world.left(), 0);
        prop_assert_eq!(world.order.len() as u32, total);
    }
}
