//! Permits, pauses and breakers under tokio's paused time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Clock;
use crate::limits::Blocked;
use crate::limits::hosts::Hosts;
use crate::limits::views::COUNTED_MAX;
use crate::model::failure::{Failure, FailureReason};
use crate::model::host::Host;
use crate::model::limits::{HostLimits, Limits};
use crate::model::tenant::{DEFAULT_NO, Party};
use crate::model::time::Timestamp;

pub(super) const SECOND: i64 = 1_000_000;
pub(super) const START: Timestamp = Timestamp(1_000_000 * SECOND);

/// A connection that could not be made.
pub(super) fn unsent(message: &str) -> Failure {
    Failure { is_unsent: true, ..Failure::retryable(FailureReason::Connect, message) }
}

pub(super) fn hosts(max_per_host: u32) -> Arc<Hosts> {
    hosts_under(Limits { max_per_host, ..Limits::default() })
}

pub(super) fn hosts_under(limits: Limits) -> Arc<Hosts> {
    Hosts::new(limits, Clock::paced(START))
}

#[tokio::test(start_paused = true)]
async fn a_host_has_no_more_requests_than_it_may() {
    let hosts = hosts(2);
    let host = Host::new("a:80");
    let first = hosts.try_start(&host, DEFAULT_NO, 0).unwrap();
    let _second = hosts.try_start(&host, DEFAULT_NO, 0).unwrap();
    assert_eq!(hosts.try_start(&host, DEFAULT_NO, 0).unwrap_err(), Blocked::Full);
    assert!(hosts.try_start(&Host::new("b:80"), DEFAULT_NO, 0).is_ok(), "another host is not held");
    drop(first);
    hosts.freed().await;
    assert!(hosts.take_freed().contains(&host));
    assert!(hosts.try_start(&host, DEFAULT_NO, 0).is_ok());
}

#[tokio::test(start_paused = true)]
async fn hosts_are_counted_and_found_by_their_names() {
    let hosts = hosts(2);
    let names = ["a.example:80", "a.example:443", "a.example-x:80", "a.example.org:80", "[::1]:80"];
    let permits: Vec<_> = names.map(|name| hosts.try_start(&Host::new(name), DEFAULT_NO, 0).unwrap()).into();
    hosts.pause(&Host::new("a.example:443"), DEFAULT_NO, START.plus(Duration::from_secs(60)), "it asked for it");
    assert_eq!(hosts.counts(), [4, 1]);
    let many: Vec<Host> = (0..3 * COUNTED_MAX).map(|number| Host::new(&format!("m{number}:80"))).collect();
    let at_many: Vec<_> = many.iter().map(|host| hosts.try_start(host, DEFAULT_NO, 0).unwrap()).collect();
    assert_eq!(hosts.counts(), [4 + many.len() as u64, 1]);
    drop(at_many);
    let found = |name: &str| -> Vec<(String, u32, bool)> {
        hosts.named(name).into_iter().map(|(host, running, is_paused)| (host.to_string(), running, is_paused)).collect()
    };
    let both = [("a.example:443".to_owned(), 1, true), ("a.example:80".to_owned(), 1, false)];
    assert_eq!(found("a.example"), both, "with each port, and no other name");
    assert_eq!(found("a.example:443"), both[..1]);
    assert_eq!(found("[::1]"), [("[::1]:80".to_owned(), 1, false)]);
    assert_eq!(found("b.example:80"), [("b.example:80".to_owned(), 0, false)], "one that is at rest");
    assert_eq!(found("b.example"), []);
    drop(permits);
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(
        hosts.named("a.example:443").first().map(|(_, running, is_paused)| (*running, *is_paused)),
        Some((0, false))
    );
}

#[tokio::test(start_paused = true)]
async fn a_release_wakes_who_waits_inside_an_attempt() {
    let hosts = hosts(1);
    let host = Host::new("a:80");
    let held = hosts.try_start(&host, DEFAULT_NO, 0).unwrap();
    let start = Instant::now();
    let release = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(held);
    };
    let (started, ()) = tokio::join!(hosts.start(&host, DEFAULT_NO, None), release);
    assert!(started.is_ok());
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn the_breaker_opens_probes_and_ramps_up() {
    let hosts = hosts(4);
    let host = Host::new("a:80");
    for _ in 0..8 {
        drop(hosts.try_start(&host, DEFAULT_NO, 0).unwrap());
        hosts.failed_to_connect(&host, DEFAULT_NO, &unsent("refused"));
    }
    let Err(Blocked::Paused(until)) = hosts.try_start(&host, DEFAULT_NO, 0) else { panic!("the breaker must be open") };
    assert_eq!(hosts.views_after(None, 9)[0].paused_until, Some(until));

    tokio::time::sleep(Duration::from_millis(501)).await;
    let probe = hosts.try_start(&host, DEFAULT_NO, 0).unwrap();
    assert_eq!(hosts.try_start(&host, DEFAULT_NO, 0).unwrap_err(), Blocked::Full, "one probe at a time");
    hosts.answered(&host, DEFAULT_NO);
    drop(probe);
    let two = [hosts.try_start(&host, DEFAULT_NO, 0).unwrap(), hosts.try_start(&host, DEFAULT_NO, 0).unwrap()];
    assert_eq!(hosts.try_start(&host, DEFAULT_NO, 0).unwrap_err(), Blocked::Full, "two after the first success");
    hosts.answered(&host, DEFAULT_NO);
    assert!(hosts.try_start(&host, DEFAULT_NO, 0).is_ok(), "one more for each answer");
    hosts.answered(&host, DEFAULT_NO);
    drop(two);
    let four: Vec<_> = (0..4).map(|_| hosts.try_start(&host, DEFAULT_NO, 0).unwrap()).collect();
    assert_eq!(four.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_and_is_not_shortened() {
    let hosts = hosts(4);
    let host = Host::new("a:80");
    let now = START;
    hosts.pause(&host, DEFAULT_NO, now.plus(Duration::from_secs(9)), "asked to wait");
    hosts.pause(&host, DEFAULT_NO, now.plus(Duration::from_secs(1)), "asked to wait less");
    assert_eq!(hosts.try_start(&host, DEFAULT_NO, 0).unwrap_err(), Blocked::Paused(now.plus(Duration::from_secs(9))));
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_for_a_week_at_most() {
    let hosts = hosts(4);
    let host = Host::new("a:80");
    hosts.pause(&host, DEFAULT_NO, Timestamp::MAX, "asked to wait for ever");
    assert_eq!(hosts.check(&host, DEFAULT_NO), Err(Blocked::Paused(START.plus(Duration::from_secs(7 * 24 * 3600)))));
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_explained() {
    let hosts = Hosts::new(Limits::default(), Clock::paced(Timestamp(1_795_694_400 * SECOND)));
    let host = Host::new("a.example:443");
    let pause = |seconds: i64| {
        let until = Timestamp((1_795_694_400 + seconds) * SECOND);
        hosts.pause(&host, DEFAULT_NO, until, "answered 503 and asked to wait");
        hosts.explain_pause(&host, DEFAULT_NO, until)
    };
    insta::assert_snapshot!(pause(187), @"`a.example:443` is paused until 12:03:07 UTC (answered 503 and asked to wait)");
    insta::assert_snapshot!(pause(2 * 24 * 3600), @"`a.example:443` is paused until 28 Nov 2026 12:00:00 UTC (answered 503 and asked to wait)");
    let other = Host::new("b.example:80");
    let over = hosts.explain_pause(&other, DEFAULT_NO, Timestamp(1_795_694_401 * SECOND));
    insta::assert_snapshot!(over, @"`b.example:80` is paused until 12:00:01 UTC");
}

#[tokio::test(start_paused = true)]
async fn an_answer_ends_what_the_breaker_began_and_no_other_pause() {
    let hosts = hosts(16);
    let host = Host::new("a:80");
    let late = hosts.try_start(&host, DEFAULT_NO, 0).unwrap();
    (0..8).for_each(|_| hosts.failed_to_connect(&host, DEFAULT_NO, &unsent("refused")));
    assert!(matches!(hosts.check(&host, DEFAULT_NO), Err(Blocked::Paused(_))));
    hosts.take_freed();
    hosts.answered(&host, DEFAULT_NO);
    assert_eq!(hosts.take_freed(), std::slice::from_ref(&host), "whoever waits looks again");
    assert_eq!(hosts.check(&host, DEFAULT_NO), Ok(()));
    drop(late);

    let until = START.plus(Duration::from_secs(60));
    hosts.pause(&host, DEFAULT_NO, until, "asked to wait");
    hosts.answered(&host, DEFAULT_NO);
    assert_eq!(hosts.check(&host, DEFAULT_NO), Err(Blocked::Paused(until)));

    // One that began while the breaker was open, and ends before it would have closed.
    let until = hosts.now().plus(Duration::from_millis(300));
    let other = Host::new("b:80");
    (0..8).for_each(|_| hosts.failed_to_connect(&other, DEFAULT_NO, &unsent("refused")));
    hosts.pause(&other, DEFAULT_NO, until, "asked to wait");
    assert!(matches!(hosts.check(&other, DEFAULT_NO), Err(Blocked::Paused(end)) if end > until));
    hosts.answered(&other, DEFAULT_NO);
    assert_eq!(hosts.check(&other, DEFAULT_NO), Err(Blocked::Paused(until)));
}

#[tokio::test(start_paused = true)]
async fn failures_that_nothing_follows_lapse() {
    let hosts = hosts(16);
    let host = Host::new("a:80");
    (0..7).for_each(|_| hosts.failed_to_connect(&host, DEFAULT_NO, &unsent("refused")));
    tokio::time::sleep(Duration::from_secs(3601)).await;
    hosts.failed_to_connect(&host, DEFAULT_NO, &unsent("refused"));
    assert_eq!(hosts.check(&host, DEFAULT_NO), Ok(()), "the first of a new row");
}

#[tokio::test(start_paused = true)]
async fn looking_at_a_host_does_not_remember_it() {
    let hosts = hosts(1);
    assert_eq!(hosts.check(&Host::new("a:80"), DEFAULT_NO), Ok(()));
    assert!(hosts.views_after(None, 9).is_empty());
}

#[tokio::test(start_paused = true)]
async fn every_one_of_many_dead_hosts_is_paused() {
    let hosts = hosts(8);
    let dead: Vec<Host> = (0..20_000).map(|n| Host::new(&format!("{n}.example:80"))).collect();
    for _ in 0..8 {
        for host in &dead {
            drop(hosts.try_start(host, DEFAULT_NO, 0).unwrap());
            hosts.failed_to_connect(host, DEFAULT_NO, &unsent("refused"));
        }
        hosts.take_freed();
    }
    let open =
        dead.iter().filter(|host| matches!(hosts.try_start(host, DEFAULT_NO, 0), Err(Blocked::Paused(_)))).count();
    assert_eq!(open, dead.len());
}

#[tokio::test(start_paused = true)]
async fn a_slow_rate_outlives_many_other_hosts() {
    let own = HostLimits { host: "slow".into(), requests_per_second: 0.1, ..HostLimits::default() };
    let hosts = hosts_under(Limits { hosts: vec![own], ..Limits::default() });
    let slow = Host::new("slow:80");
    drop(hosts.try_start(&slow, DEFAULT_NO, 0).unwrap());
    for n in 0..110_000 {
        drop(hosts.try_start(&Host::new(&format!("{n}.example:80")), DEFAULT_NO, 0).unwrap());
    }
    assert_eq!(hosts.try_start(&slow, DEFAULT_NO, 0).unwrap_err(), Blocked::Rate(START.plus(Duration::from_secs(10))));
    assert!(
        hosts.views_after(None, usize::MAX).len() <= 100_000,
        "and of the others no more are listed than are allowed"
    );
}

#[tokio::test(start_paused = true)]
async fn hosts_are_listed_by_name_in_pages() {
    let hosts = hosts(1);
    let names = ["d:1", "b:1", "a:1", "c:1", "a:2"];
    let held: Vec<_> = names.iter().map(|name| hosts.try_start(&Host::new(name), DEFAULT_NO, 0).unwrap()).collect();
    let page = |last: Option<&str>, limit| {
        let views = hosts.views_after(last.map(Host::new).as_ref(), limit);
        views.iter().map(|view| (view.host.to_string(), view.running)).collect::<Vec<_>>()
    };
    let listed = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), 1)).collect::<Vec<_>>();
    assert_eq!(page(None, 2), listed(&["a:1", "a:2"]));
    assert_eq!(page(Some("a:2"), 2), listed(&["b:1", "c:1"]));
    assert_eq!(page(Some("bb:1"), 9), listed(&["c:1", "d:1"]), "from a host that is not remembered any more");
    assert_eq!(page(Some("d:1"), 9), []);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn many_hosts_have_limits_of_their_own() {
    let own = |host: String, max_concurrent| HostLimits { host, max_concurrent, ..HostLimits::default() };
    let named = (0..100_000u32).map(|n| own(format!("{n}.example"), n % 7 + 1));
    let again = own("5.example".into(), 99);
    let with_port = own("5.example:81".into(), 50);
    let hosts = hosts_under(Limits { hosts: named.chain([again, with_port]).collect(), ..Limits::default() });
    for n in 0..100_000u32 {
        assert_eq!(hosts.max_concurrent(&Host::new(&format!("{n}.example:80"))), n % 7 + 1);
    }
    assert_eq!(hosts.max_concurrent(&Host::new("5.example:81")), 50);
    assert_eq!(hosts.max_concurrent(&Host::new("other.example:80")), Limits::default().max_per_host);
    assert!(hosts.views_after(None, 9).is_empty(), "limits alone make no host known");
    let host = Host::new("1.example:80");
    let _held = [hosts.try_start(&host, DEFAULT_NO, 0).unwrap(), hosts.try_start(&host, DEFAULT_NO, 0).unwrap()];
    assert_eq!(hosts.try_start(&host, DEFAULT_NO, 0).unwrap_err(), Blocked::Full);
}

#[tokio::test(start_paused = true)]
async fn a_new_byte_rate_reaches_bodies_that_are_read() {
    let hosts = hosts(1);
    let host = Host::new("a:80");
    let reader = hosts.read(&host, Party::default());
    reader.take(1_000_000_000).await;
    let start = Instant::now();
    let own = HostLimits { host: "a".into(), bytes_per_second: 1_000, ..HostLimits::default() };
    hosts.set_limits(Limits { hosts: vec![own], ..Limits::default() });
    reader.take(5_000).await;
    assert!(start.elapsed() >= Duration::from_secs(4));
}
