//! Tenants beside each other at one host, and what outlives the process, under tokio's paused time.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::clock::Clock;
use crate::limits::Blocked;
use crate::limits::hosts::Hosts;
use crate::limits::hosts_tests::{SECOND, START, hosts, hosts_under, unsent};
use crate::limits::permits::AttemptPlace;
use crate::limits::views::HostView;
use crate::model::host::Host;
use crate::model::limits::{HostLimits, Limits};
use crate::model::tenant::{DEFAULT_NO, Parties, Party, Share, TenantNo};
use crate::model::time::Timestamp;

#[tokio::test(start_paused = true)]
async fn a_pause_of_one_tenant_holds_up_no_other() {
    let (hosts, host) = (hosts(2), Host::new("a:80"));
    let until = START.plus(Duration::from_secs(600));
    hosts.pause(&host, 16, until, "answered 429 and asked to wait 600 s");
    assert_eq!(hosts.try_start(&host, 16, 0).unwrap_err(), Blocked::Paused(until));
    assert!(hosts.explain_pause(&host, 16, until).contains("429"));
    let held = hosts.try_start(&host, 17, 0).unwrap();
    assert_eq!((hosts.rank(&host, 16), hosts.rank(&host, 17), hosts.rank(&host, 1)), (None, Some(1), Some(0)));
    assert_eq!(hosts.views_after(None, 9)[0].paused_until, Some(until), "who sees all sees it");
    hosts.pause(&host, 17, START.plus(Duration::from_secs(5)), "asked too");
    let Err(Blocked::Paused(all)) = hosts.check(&host, 1) else { panic!("two were told, so it is for all") };
    assert_eq!(all, START.plus(Duration::from_secs(5)));
    assert!(!hosts.explain_pause(&host, 1, all).contains("asked too"), "in nobody's words");
    assert_eq!(hosts.resume(&host), Some(true));
    assert_eq!(hosts.check(&host, 16), Ok(()));
    drop(held);
}

/// Further requests of attempts: room goes to the tenant that has the fewest there, and who is paused is in nobody's way.
#[tokio::test(start_paused = true)]
async fn attempts_of_several_tenants_share_a_host() {
    let (hosts, host) = (hosts(5), Host::new("a:80"));
    let mut held: Vec<_> = [16, 16, 16, 16, 17].map(|tenant| hosts.try_start(&host, tenant, 0).unwrap()).into();
    let order = RefCell::new(Vec::new());
    let wait = async |tenant| {
        let permit = hosts.start(&host, tenant, None).await.unwrap();
        order.borrow_mut().push(tenant);
        // Held for as long as the test lasts.
        std::mem::forget(permit);
    };
    let release = async {
        tokio::task::yield_now().await;
        hosts.pause(&host, 18, START.plus(Duration::from_millis(900)), "asked to wait a moment");
        for _ in 0..3 {
            drop(held.remove(0));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(order.borrow().len(), 3);
        drop(held);
    };
    tokio::join!(wait(18), wait(16), wait(17), wait(1), release);
    assert_eq!(*order.borrow(), [1, 17, 16, 18], "18 waited for the end of its pause");
}

fn per_host(tenant: TenantNo, most: u32) -> HashMap<TenantNo, Share> {
    [(tenant, Share { per_host: Some(most), ..Share::default() })].into()
}

#[tokio::test(start_paused = true)]
async fn a_tenant_has_no_more_at_a_host_than_its_share() {
    let (hosts, host) = (hosts(4), Host::new("a:80"));
    hosts.set_shares(per_host(16, 2), false);
    let held = [(); 2].map(|()| hosts.try_start(&host, 16, 0).unwrap());
    assert_eq!(hosts.try_start(&host, 16, 0).unwrap_err(), Blocked::Share);
    assert_eq!(hosts.rank(&host, 16), None);
    let _other = hosts.try_start(&host, 17, 0).unwrap();
    assert_eq!(hosts.try_start(&host, 17, 1).unwrap_err(), Blocked::Full, "the last place is kept for another");
    hosts.set_shares(per_host(16, 3), false);
    assert!(hosts.take_freed().contains(&host));
    assert!(hosts.try_start(&host, 16, 0).is_ok());
    hosts.set_shares(per_host(18, 0), false);
    assert_eq!(hosts.check(&Host::new("b:80"), 18), Err(Blocked::Share), "also where nothing is known of the host");
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_leaves_requests_of_a_host_to_others() {
    let one = HostLimits { host: "b".into(), max_concurrent: 1, ..HostLimits::default() };
    let hosts = hosts_under(Limits { hosts: vec![one], max_per_host: 8, ..Limits::default() });
    hosts.set_shares(HashMap::new(), true);
    let host = Host::new("a:80");
    let mut held: Vec<_> = (0..6).map(|_| hosts.try_start(&host, 16, 0).unwrap()).collect();
    assert_eq!(hosts.try_start(&host, 16, 0).unwrap_err(), Blocked::LeftToOthers);
    assert_eq!((hosts.rank(&host, 16), hosts.rank(&host, 17)), (None, Some(0)));
    held.push(hosts.try_start(&host, 17, 0).unwrap());
    assert_eq!(hosts.try_start(&host, 17, 0).unwrap_err(), Blocked::LeftToOthers);
    held.push(hosts.try_start(&host, 18, 0).unwrap());
    assert_eq!(hosts.try_start(&host, 16, 0).unwrap_err(), Blocked::Full);
    drop(held.pop());
    assert_eq!(hosts.take_freed(), std::slice::from_ref(&host));
    assert_eq!(hosts.check(&host, 16), Err(Blocked::LeftToOthers), "it still has the most");
    drop(held.pop());
    drop(held.pop());
    assert_eq!(hosts.check(&host, 16), Ok(()));
    drop(hosts.try_start(&host, 16, 0).unwrap());
    hosts.take_freed();
    assert!(hosts.set_shares(HashMap::new(), false), "the last other tenant goes");
    assert_eq!(hosts.take_freed(), std::slice::from_ref(&host));
    held.extend((0..3).map(|_| hosts.try_start(&host, 16, 0).unwrap()));
    hosts.set_shares(HashMap::new(), true);
    let only = hosts.try_start(&Host::new("b:80"), 16, 0).unwrap();
    assert_eq!(hosts.check(&Host::new("b:80"), 17), Err(Blocked::Full), "one request is for one");
    drop((only, held));
}

/// Attempts that have given their places away: one of the tenant that has the most does not take the last place back, and those
/// of others do not wait behind it for room at the host.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_goes_on_leaves_places_to_others() {
    let hosts = hosts_under(Limits { max_concurrent_tasks: 4, max_per_host: 1, ..Limits::default() });
    hosts.set_shares(HashMap::new(), true);
    let host = Host::new("b:80");
    let begin = |tenant, name: &str| {
        let mut place = hosts.take_place().unwrap();
        place.begin();
        let mut permit = hosts.try_start(&Host::new(name), tenant, 0).unwrap();
        permit.belongs_to(&place);
        (place, permit)
    };
    let full = hosts.try_start(&host, 18, 0).unwrap();
    let ((first, _), (second, _)) = (begin(16, "c:80"), begin(17, "d:80"));
    let order = RefCell::new(Vec::new());
    let go_on = async |place: &AttemptPlace, tenant| {
        let permit = hosts.start(&host, tenant, Some(place.wait())).await.unwrap();
        order.borrow_mut().push(tenant);
        tokio::time::sleep(Duration::from_millis(5)).await;
        drop(permit);
    };
    let rest = async {
        tokio::task::yield_now().await;
        let mut working: Vec<_> = ["e:80", "f:80", "g:80"].map(|name| begin(16, name)).into();
        drop(full);
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(*order.borrow(), [17]);
            working.pop();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(*order.borrow(), [17, 16]);
    };
    tokio::join!(go_on(&first, 16), go_on(&second, 17), rest);
    assert!(hosts.has_no_queues());
}

/// Whoever looks first would have every start of a rate, and the scheduler always looks for the same tenant first.
#[tokio::test(start_paused = true)]
async fn tenants_share_the_rate_of_a_host() {
    let hosts = hosts_under(Limits { requests_per_second_per_host: 20.0, ..Limits::default() });
    hosts.tell_parties_apart(true);
    let host = Host::new("a:80");
    let mut started = [0u32; 3];
    // The third has nothing to do any more after a second.
    for millis in 0..4_000 {
        for tenant in [16, 17, 18] {
            if (tenant != 18 || millis < 1_000) && hosts.try_start(&host, tenant, 0).is_ok() {
                started[tenant as usize - 16] += 1;
            }
        }
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    let [first, second, third] = started;
    assert!(first.abs_diff(second) <= 1 && (6..=8).contains(&third), "{started:?}");
    assert!(first + second + third >= 79, "nothing is lost but one turn: {started:?}");
}

#[tokio::test(start_paused = true)]
async fn as_many_look_as_a_rate_lets_start_something() {
    let host = Host::new("a:80");
    let own = HostLimits { host: "a".into(), requests_per_second: 20.0, burst: 5, ..HostLimits::default() };
    let hosts = hosts_under(Limits { hosts: vec![own], max_per_host: 4, ..Limits::default() });
    let mut held = vec![hosts.try_start(&host, DEFAULT_NO, 0).unwrap()];
    assert_eq!(hosts.lookers(&host), Ok(3), "no more than there is room for");
    for _ in 0..4 {
        held.truncate(1);
        held.push(hosts.try_start(&host, DEFAULT_NO, 0).unwrap());
    }
    let Err(until) = hosts.lookers(&host) else { panic!("the burst is used up") };
    assert_eq!(hosts.try_start(&host, DEFAULT_NO, 0).unwrap_err(), Blocked::Rate(until));
    tokio::time::advance(until.since(START)).await;
    assert_eq!(hosts.lookers(&host), Ok(2), "one that starts, and one that learns when the next may");
}

/// A tenant whose own way to a host leads nowhere is in nobody's way; where two meet the same it is the host.
#[tokio::test(start_paused = true)]
async fn a_breaker_of_one_tenant_holds_up_no_other() {
    let (hosts, host) = (hosts(4), Host::new("a:80"));
    let fail = |tenant: u32| (0..8).for_each(|_| hosts.failed_to_connect(&host, tenant, &unsent("of its own")));
    fail(16);
    let Err(Blocked::Paused(until)) = hosts.check(&host, 16) else { panic!("its breaker is open") };
    assert_eq!((hosts.rank(&host, 16), hosts.check(&host, 17)), (None, Ok(())));
    hosts.answered(&host, 17);
    assert_eq!(hosts.check(&host, 16), Err(Blocked::Paused(until)), "others have another way");
    tokio::time::sleep(Duration::from_millis(501)).await;
    let probe = hosts.try_start(&host, 16, 0).unwrap();
    assert_eq!(hosts.try_start(&host, 16, 0).unwrap_err(), Blocked::Full, "one probe at a time");
    assert_eq!(hosts.rank(&host, 16), None, "so that room is not kept for it");
    let others: Vec<_> = (0..3).map(|_| hosts.try_start(&host, 17, 0).unwrap()).collect();
    drop((probe, others));
    fail(16);
    fail(17);
    let Err(Blocked::Paused(all)) = hosts.check(&host, 18) else { panic!("two met it, so it is for all") };
    assert!(!hosts.explain_pause(&host, 18, all).contains("of its own"), "in nobody's words");
    assert!(hosts.explain_pause(&host, 17, all).contains("of its own"));
    hosts.answered(&host, 17);
    assert_eq!(hosts.check(&host, 18), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn pauses_outlive_the_process() {
    let (host, other) = (Host::new("a:80"), Host::new("b:80"));
    let later = |seconds| START.plus(Duration::from_secs(seconds));
    let before = hosts(4);
    before.pause(&host, 16, later(600), "answered 429");
    before.pause(&host, 16, later(300), "answered 503");
    before.pause(&other, 17, later(20), "answered 503");
    (0..8).for_each(|_| before.failed_to_connect(&other, 16, &unsent("refused")));
    let mut stored: BTreeMap<_, _> = before.take_pauses().into_iter().collect();
    assert_eq!(stored.len(), 3);
    assert_eq!(before.take_pauses(), [], "each is told once");
    before.answered(&other, 16);
    let mut learn = |hosts: &Hosts| {
        stored.extend(hosts.take_pauses());
        let mut pauses: Vec<_> = stored.iter().filter_map(|(key, pause)| Some((key.clone(), pause.clone()?))).collect();
        pauses.sort_by_key(|(_, pause)| pause.time);
        pauses
    };
    let pauses = learn(&before);
    assert_eq!(pauses.len(), 2, "an answer has closed the breaker: {pauses:?}");
    let again = Hosts::new(Limits::default(), Clock::paced(later(20)));
    again.restore(pauses);
    assert_eq!(again.check(&host, 16), Err(Blocked::Paused(later(600))));
    assert!(again.explain_pause(&host, 16, later(600)).contains("429"), "the longer one holds");
    assert_eq!((again.check(&host, 17), again.check(&other, 17)), (Ok(()), Ok(())));
    let whose = Parties { tenant: Some(16), principal: None };
    let names = |hosts: Vec<HostView>| hosts.into_iter().map(|view| view.host).collect::<Vec<_>>();
    assert_eq!(
        names(again.own_views_after(whose, None, 9)),
        std::slice::from_ref(&host),
        "also where nothing is asked"
    );
    assert!(again.own_views_after(whose, Some(&host), 9).is_empty());
    assert!(again.own_views_after(Parties { principal: Some(7), ..whose }, None, 9).is_empty());
    assert_eq!(again.resume(&host), Some(true));
    assert_eq!(learn(&again), [], "what was resumed, and what is past");
}

/// What two tenants were asked within a minute is for all, also where one of them had been asked for longer before.
#[tokio::test(start_paused = true)]
async fn a_pause_for_all_outlives_the_process() {
    let host = Host::new("a:80");
    let later = |seconds| START.plus(Duration::from_secs(seconds));
    let before = hosts(4);
    before.pause(&host, 16, later(900), "answered 429");
    tokio::time::advance(Duration::from_secs(70)).await;
    before.pause(&host, 17, later(300), "answered 503");
    assert_eq!(before.check(&host, 18), Ok(()), "that was more than a minute apart");
    before.pause(&host, 16, later(100), "answered 429 again");
    assert_eq!(before.check(&host, 18), Err(Blocked::Paused(later(100))));
    let mut pauses: Vec<_> = before.take_pauses().into_iter().filter_map(|(key, pause)| Some((key, pause?))).collect();
    pauses.sort_by_key(|(key, pause)| (pause.time, key.clone()));
    let again = Hosts::new(Limits::default(), Clock::paced(later(71)));
    again.restore(pauses);
    let until = [16, 17, 18].map(|tenant| again.check(&host, tenant));
    assert_eq!(until, [900, 300, 100].map(|seconds| Err(Blocked::Paused(later(seconds)))));
    assert_eq!(again.explain_pause(&host, 18, later(100)), before.explain_pause(&host, 18, later(100)));
    assert_eq!(again.take_pauses(), [], "nothing of it is new");
    assert_eq!(again.resume(&host), Some(true));
    assert_eq!(again.take_pauses().len(), 3);
}

/// What others read of a host that was lost to one tenant is no probe of that one.
#[tokio::test(start_paused = true)]
async fn who_probes_a_host_is_told_by_its_own_requests() {
    let (hosts, host) = (hosts(8), Host::new("a:80"));
    let mut read: Vec<_> = (0..3)
        .map(|_| {
            let permit = hosts.try_start(&host, 17, 0).unwrap();
            (permit, hosts.read(&host, Party { tenant: 17, principal: 0 }))
        })
        .collect();
    (0..8).for_each(|_| hosts.failed_to_connect(&host, 16, &unsent("refused")));
    tokio::time::sleep(Duration::from_millis(501)).await;
    let _probe = hosts.try_start(&host, 16, 0).unwrap();
    assert_eq!(hosts.try_start(&host, 16, 0).unwrap_err(), Blocked::Full, "one probe at a time");
    read.push((hosts.try_start(&host, 17, 0).unwrap(), hosts.read(&host, Party { tenant: 16, principal: 0 })));
    assert!(hosts.try_start(&host, 16, 0).is_ok(), "what it reads itself is no probe either");
}

/// The breaker of a host that is gone is as it was, whatever the clock says.
#[tokio::test(start_paused = true)]
async fn breakers_outlive_the_process() {
    let host = Host::new("a:80");
    let before = hosts(4);
    (0..8).for_each(|_| before.failed_to_connect(&host, DEFAULT_NO, &unsent("refused")));
    let stored: Vec<_> = before.take_pauses().into_iter().filter_map(|(key, pause)| Some((key, pause?))).collect();
    let again = hosts(4);
    again.restore(stored.clone());
    assert_eq!(again.check(&host, DEFAULT_NO), before.check(&host, DEFAULT_NO));
    assert_eq!(again.views_after(None, 9)[0].pause_reason, "8 connections in a row failed: refused");
    tokio::time::sleep(Duration::from_millis(501)).await;
    let _probe = again.try_start(&host, DEFAULT_NO, 0).unwrap();
    assert_eq!(again.try_start(&host, DEFAULT_NO, 0).unwrap_err(), Blocked::Full, "one probe at a time");
    let set_back = Hosts::new(Limits::default(), Clock::paced(Timestamp(START.0 - 3_600 * SECOND)));
    set_back.restore(stored);
    let Err(Blocked::Paused(until)) = set_back.check(&host, DEFAULT_NO) else { panic!("it is paused") };
    assert_eq!(until.since(set_back.now()), Duration::from_millis(500), "a clock that was set back makes it no longer");
    let anew = set_back.take_pauses();
    assert_eq!(anew[0].1.as_ref().unwrap().until, until, "nor does each start begin it again");
}
