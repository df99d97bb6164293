//! What is held of a host, each given back when it is dropped: the right to have a request in flight, the place of an
//! attempt among those that work, a body that is being read. And the wait for a further request, first come, first served.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::limits::hosts::{Hosts, Inner};
use crate::limits::places::AttemptNo;
use crate::limits::queue::Ticket;
use crate::limits::rate::ByteRate;
use crate::limits::recent::{Activity, UnderWay};
use crate::limits::state::HostState;
use crate::limits::turns::Asker;
use crate::limits::{Asking, Blocked};
use crate::model::failure::Failure;
use crate::model::host::Host;
use crate::model::tenant::{Party, TenantNo};
use crate::model::time::Timestamp;

/// The longest pause that an attempt which has begun waits for, with all that it holds.
const PAUSE_PATIENCE: Duration = Duration::from_secs(1);

/// How long an attempt is given back for which there is not even room to wait.
const CROWDED: Duration = Duration::from_secs(10);

/// The right to have one request in flight. Dropping it releases it.
#[derive(Debug)]
pub struct HostPermit {
    hosts: Arc<Hosts>,
    host: Host,
    tenant: TenantNo,
    attempt: Option<AttemptNo>,
    under_way: Option<UnderWay>,
    /// Where the request has failed already, with a probe that it waited for: why.
    failure: Option<Box<Failure>>,
}

impl HostPermit {
    /// Says which principal of the tenant the request is made for.
    pub fn is_for(&mut self, party: Party) {
        if self.failure.is_some() {
            return;
        }
        self.under_way = self.hosts.per_party.begin(party, &self.host, self.hosts.clock.now());
    }

    /// Says which attempt the request is of.
    pub fn belongs_to(&mut self, place: &AttemptPlace) {
        self.attempt = Some(place.attempt);
        let mut inner = self.hosts.lock();
        inner.places.is_for(place.attempt, self.tenant);
        inner.places.started(place.attempt);
    }

    /// Returns the host that a request may be sent to.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Returns why nothing is sent: the request shares the failure of one that it waited for.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_deref()
    }
}

impl Drop for HostPermit {
    fn drop(&mut self) {
        if self.failure.is_some() {
            self.hosts.release_nothing(self.attempt);
        } else {
            self.hosts.release(&self.host, self.tenant, self.attempt);
        }
    }
}

/// The place of an attempt among those that work at once. Dropping it says that the attempt has ended.
#[derive(Debug)]
pub struct AttemptPlace {
    hosts: Arc<Hosts>,
    attempt: AttemptNo,
    has_begun: bool,
    left: Option<u32>,
}

impl AttemptPlace {
    /// Notes that the attempt begins. A place that was taken for none is given back without a word.
    pub fn begin(&mut self) {
        self.has_begun = true;
    }

    /// Returns how many places were left free when it was taken; `None`: there is one tenant, who leaves nothing to others.
    pub fn left(&self) -> Option<u32> {
        self.left
    }

    /// Gives the place to others: the attempt asks nobody for anything any more, and is done once its file is on the device.
    /// Where so many are there already, it keeps it.
    pub(super) fn settle(&self) {
        let mut inner = self.hosts.lock();
        if inner.places.settles(self.attempt) {
            self.hosts.place_is_free(inner);
        }
    }

    /// Something that the attempt may have to wait for.
    pub(super) fn wait(&self) -> Waiting<'_> {
        Waiting { place: self, is_waiting: false }
    }
}

impl Drop for AttemptPlace {
    fn drop(&mut self) {
        let mut inner = self.hosts.lock();
        inner.places.end(self.attempt);
        // One that was taken for none may have held somebody back meanwhile.
        let holds_back = if self.has_begun { inner.queues.has_held_back() } else { inner.queues.has_newly_held_back() };
        if inner.places.are_wanted() || holds_back {
            inner.queues.wake_all();
        }
        drop(inner);
        // The scheduler itself took the other kind, and needs not be told.
        if self.has_begun {
            self.hosts.freed.notify_one();
        }
    }
}

/// An attempt that may have to wait for a request. Dropping it says that it does not any more.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    place: &'a AttemptPlace,
    is_waiting: bool,
}

impl Waiting<'_> {
    /// Notes that it waits: with nothing in flight it gives its place away.
    ///
    /// # Errors
    ///
    /// So many wait already that it is to be given back, and tried again at this time.
    pub(super) fn begin(&mut self) -> Result<(), Timestamp> {
        if self.is_waiting {
            return Ok(());
        }
        let hosts = &self.place.hosts;
        let now = hosts.clock.now();
        let mut inner = hosts.lock();
        let max = inner.places_max();
        let frees = inner.places.waits(self.place.attempt, max).map_err(|_| now.plus(CROWDED))?;
        self.is_waiting = true;
        if frees {
            hosts.place_is_free(inner);
        }
        Ok(())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.is_waiting {
            self.place.hosts.lock().places.waits_no_more(self.place.attempt);
        }
    }
}

/// Why an attempt does not get another request for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotNow {
    /// The host is paused until then.
    Paused(Timestamp),
    /// As many attempts as may wait for room wait already.
    Crowded(Timestamp),
}

/// A body of a host that is being read. Dropping it says that it is not read any more.
#[derive(Debug)]
pub struct HostReader {
    hosts: Arc<Hosts>,
    host: Host,
    tenant: TenantNo,
    rate: Arc<ByteRate>,
    activity: Arc<Activity>,
    /// What is counted for whom it is read.
    own: Option<Arc<Activity>>,
}

impl HostReader {
    /// Takes `bytes` of the host's rate, which all its bodies share, and waits until the rate has allowed them.
    pub async fn take(&self, bytes: u64) {
        let now = self.hosts.clock.now();
        self.activity.received(bytes, now);
        if let Some(own) = &self.own {
            own.received(bytes, now);
        }
        self.rate.take(bytes).await;
    }
}

impl Drop for HostReader {
    fn drop(&mut self) {
        let now = self.hosts.clock.now();
        self.hosts.lock().table.change_known(&self.host, now, |state| state.reader_ends(self.tenant, now));
    }
}

impl Hosts {
    /// Starts the first request of an attempt of a tenant to `host`, of whose room so much is `kept` for others. While
    /// attempts wait for more requests to it, they and the callers of this take turns.
    ///
    /// # Errors
    ///
    /// Why it may not start now.
    pub fn try_start(self: &Arc<Self>, host: &Host, tenant: TenantNo, kept: u32) -> Result<HostPermit, Blocked> {
        let now = self.clock.now();
        let asking = Asking { tenant, kept, lines_up: self.per_party.is_on() };
        self.lock().start(host, Asker::Scheduler, asking, now)?;
        let hosts = self.clone();
        Ok(HostPermit { hosts, host: host.clone(), tenant, attempt: None, under_way: None, failure: None })
    }

    /// Starts the first request of an attempt of a tenant that has waited for a probe of `host`, due since then, where the probe has
    /// failed: nothing is sent, and no limit concerns it.
    pub fn share(self: &Arc<Self>, host: &Host, tenant: TenantNo, due: Timestamp) -> Option<HostPermit> {
        let failure = Some(Box::new(self.shared_failure(host, tenant, due)?));
        Some(HostPermit { hosts: self.clone(), host: host.clone(), tenant, attempt: None, under_way: None, failure })
    }

    /// Returns how many places would be free if another attempt began; `None`: there is one tenant, who leaves nothing to others.
    pub fn left(&self) -> Option<u32> {
        let inner = self.lock();
        inner.rules.are_several.then(|| inner.places.left(inner.places_max()).saturating_sub(1))
    }

    /// Returns the tenants of which the number of attempts that have given their place away has changed, with that number.
    pub fn take_idle(&self) -> Vec<(TenantNo, u32)> {
        self.lock().places.take_idle()
    }

    /// Takes a place for an attempt, if as many as may do not work already.
    pub fn take_place(self: &Arc<Self>) -> Option<AttemptPlace> {
        let mut inner = self.lock();
        let max = inner.places_max();
        let attempt = inner.places.begin(max)?;
        inner.queues.forget_newly_held_back();
        let left = inner.rules.are_several.then(|| inner.places.left(max));
        Some(AttemptPlace { hosts: self.clone(), attempt, has_begun: false, left })
    }

    /// Waits until another request of an attempt to `host` may start, and starts it: of one tenant first come, first served,
    /// and of several the one that has the fewest there.
    ///
    /// # Errors
    ///
    /// The end of a pause that lasts for more than a second, which is not waited for; or that there is no room to wait.
    pub(super) async fn start(
        self: &Arc<Self>,
        host: &Host,
        tenant: TenantNo,
        mut waiting: Option<Waiting<'_>>,
    ) -> Result<HostPermit, NotNow> {
        let attempt = waiting.as_ref().map(|waiting| waiting.place.attempt);
        let woken = Arc::new(Notify::new());
        let (wants_place, is_held_back) = (false, false);
        let mut place = Place { hosts: self, host, tenant, woken, ticket: None, attempt, wants_place, is_held_back };
        loop {
            let now = self.clock.now();
            let until = match place.try_start(now) {
                Ok(permit) => return Ok(permit),
                Err(Blocked::Paused(until)) if until.since(now) > PAUSE_PATIENCE => return Err(NotNow::Paused(until)),
                Err(why) => why.until(),
            };
            if let Some(waiting) = &mut waiting {
                waiting.begin().map_err(NotNow::Crowded)?;
            }
            let rested = async {
                match until {
                    Some(until) => tokio::time::sleep(until.since(now)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = place.woken.notified() => {}
                () = rested => {}
            }
        }
    }

    /// Returns the end of a pause of `host` that [`Hosts::start`] does not wait for.
    pub(super) fn long_pause(&self, host: &Host, tenant: TenantNo) -> Option<Timestamp> {
        let now = self.clock.now();
        match self.check(host, tenant) {
            Err(Blocked::Paused(until)) if until.since(now) > PAUSE_PATIENCE => Some(until),
            _ => None,
        }
    }

    /// Begins to read a body of `host` for somebody.
    pub fn read(self: &Arc<Self>, host: &Host, party: Party) -> HostReader {
        let now = self.clock.now();
        let mut inner = self.lock();
        let limits = inner.rules.of(host);
        let begin = |state: &mut HostState| state.reader_begins(party.tenant, limits.bytes_per_second);
        let rate = inner.table.change(host, now, || HostState::new(&limits), begin);
        let activity = inner.recent.of(host, now);
        drop(inner);
        let own = self.per_party.of(party, host, now);
        HostReader { hosts: self.clone(), host: host.clone(), tenant: party.tenant, rate, activity, own }
    }
}

/// An attempt that wants a request, and its place in the queue once it had to wait. Dropping it leaves the queue.
struct Place<'a> {
    hosts: &'a Arc<Hosts>,
    host: &'a Host,
    tenant: TenantNo,
    woken: Arc<Notify>,
    ticket: Option<Ticket>,
    attempt: Option<AttemptNo>,
    /// There was room at the host, and no place for the attempt.
    wants_place: bool,
    /// Its tenant leaves the places that are free to others, and it has none.
    is_held_back: bool,
}

impl Place<'_> {
    fn try_start(&mut self, now: Timestamp) -> Result<HostPermit, Blocked> {
        let hosts = self.hosts;
        let mut inner = hosts.lock();
        let max = inner.places_max();
        let has_place = self.attempt.is_none_or(|attempt| inner.places.may_go_on(attempt, max));
        let was_held_back = self.look_at_places(&mut inner, max, now);
        let mut wants_place = false;
        let asking = Asking::of(self.tenant);
        let front = inner.front(self.host, now);
        let room = inner.check(self.host, asking, now);
        let started = if self.is_held_back {
            room.and(Err(Blocked::Full))
        } else if inner.queues.is_behind(self.host, self.tenant, self.ticket) {
            Err(Blocked::Full)
        } else if let Err(why @ (Blocked::Paused(_) | Blocked::Share | Blocked::LeftToOthers)) = room {
            // It may have been woken for room that another tenant can have.
            inner.wake(self.host, now);
            if why == Blocked::LeftToOthers {
                inner.change(self.host, now, |state| state.refused(Asker::Attempt, self.tenant, why));
            }
            Err(why)
        } else if front.is_some() && front != self.ticket {
            // It is another tenant's turn, which may not have been so when this one was woken.
            inner.wake(self.host, now);
            Err(Blocked::Full)
        } else if has_place {
            inner.start(self.host, Asker::Attempt, asking, now)
        } else {
            wants_place = room.is_ok();
            room.and(Err(Blocked::Full))
        };
        self.want_place(&mut inner, wants_place);
        match started {
            Ok(()) => {
                if let Some(attempt) = self.attempt {
                    inner.places.started(attempt);
                }
                if let Some(ticket) = self.ticket.take() {
                    inner.queues.serve(self.host, self.tenant);
                    inner.queues.leave(self.host, self.tenant, ticket);
                    inner.pass_on(self.host, now);
                }
                if was_held_back {
                    // More than one place may have become free.
                    inner.queues.wake_held_back();
                }
                drop(inner);
                let (host, tenant) = (self.host.clone(), self.tenant);
                let (hosts, attempt) = (hosts.clone(), self.attempt);
                Ok(HostPermit { hosts, host, tenant, attempt, under_way: None, failure: None })
            }
            Err(why) => {
                if self.ticket.is_none() {
                    let ticket = inner.queues.join(self.host, self.tenant, self.woken.clone());
                    inner.queues.hold_back(self.host, self.tenant, ticket, self.is_held_back);
                    self.ticket = Some(ticket);
                }
                Err(why)
            }
        }
    }

    /// Finds out whether the attempt is held back, and says so in the queue. Returns whether it was.
    fn look_at_places(&mut self, inner: &mut Inner, max: usize, now: Timestamp) -> bool {
        let Inner { rules, places, .. } = &*inner;
        let is_held_back = rules.are_several
            && self.attempt.is_some_and(|attempt| places.is_left_by(attempt, |tenant| rules.weight(tenant), max));
        let was_held_back = std::mem::replace(&mut self.is_held_back, is_held_back);
        if let Some(ticket) = self.ticket {
            inner.queues.hold_back(self.host, self.tenant, ticket, is_held_back);
            if is_held_back && !was_held_back {
                // Those behind it are the first now.
                inner.wake(self.host, now);
            }
            if was_held_back && !is_held_back {
                // More than one place may have become free, and this one may have to wait for its host.
                inner.queues.wake_held_back();
            }
        }
        was_held_back
    }

    fn want_place(&mut self, inner: &mut Inner, wants: bool) {
        if self.wants_place != wants {
            self.wants_place = wants;
            inner.places.wants(wants);
            if !wants {
                // The scheduler had to stand back.
                self.hosts.freed.notify_one();
            }
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let hosts = self.hosts;
        let mut inner = hosts.lock();
        self.want_place(&mut inner, false);
        // It may have been woken and not have looked.
        if inner.queues.leave(self.host, self.tenant, ticket) {
            inner.queues.wake_each(self.host);
        }
    }
}
