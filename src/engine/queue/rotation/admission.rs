//! What the rotation and its caller say to each other about a lane.

use std::fmt;
use std::sync::Arc;

use crate::engine::queue::task::Wait;
use crate::model::host::Host;
use crate::model::ids::JobId;
use crate::model::tenant::TenantNo;
use crate::store::LaneNumber;

/// The caller's answer to a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The lane runs: the caller has taken the permits, that of this host among them.
    Go(Host),
    /// The lane has no task; the caller calls [`super::Rotation::has_work`] when it has one.
    Empty,
    /// The lane has no task in memory; the caller reads some and then calls [`super::Rotation::has_read`].
    Read,
    /// As [`Admission::Read`], but enough lanes are being read: the lane keeps its turn until there are fewer.
    Later,
    /// This host has no room; the caller calls [`super::Rotation::wake_host`] when it may have some.
    HostBlocked(Host),
    /// This host may have room, and takes nothing of this tenant; the caller calls [`super::Rotation::wake_host`] when it may.
    TenantBlocked(Host),
    /// Only some tasks of the tenant may start, and this is none of them: the lane goes behind the others, and the tenant rests after
    /// the pick unless one of it was found. The caller calls [`super::Rotation::set_tenant_resting`] when it may look again. A pick
    /// looks at a bounded number of lanes of the tenant, and the one that follows goes on at the next lower priority. Of the lanes
    /// of which nothing is in memory one is read for each rest, so a tenant that has thousands of them waits for the one that it
    /// wants until then, or until it stores less than it may.
    Behind,
    /// The lane's next task waits for something of its own, and is put aside after the pick: the lane goes on without it.
    Aside(Wait),
    /// The job has used up its rate; the caller calls [`super::Rotation::set_resting`] when it may start again.
    JobBlocked,
    /// The tenant has used up its rate; the caller calls [`super::Rotation::set_tenant_resting`] when it may start again.
    TenantResting,
}

/// A lane that may be next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) job: JobId,
    pub(crate) lane: LaneNumber,
    /// The host of the lane.
    pub(crate) host: &'a Host,
    /// How much of the room of the host is promised to other tenants.
    pub(crate) kept: u32,
}

/// The reason why a lane with work does not run, as far as the rotation knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The job may not run: it is paused, not begun or being stopped.
    Job,
    /// As many tasks of the job run as its `max_concurrency` allows.
    Cap,
    /// The job's rate is used up.
    Rate,
    /// The tenant may start nothing now.
    Tenant,
    /// The lane's host has no room.
    Host,
    /// Only its turn has not come.
    Turn,
}

/// What is known of tenants at hosts: how a tenant stands at one, the least being next, mostly by how many requests it has
/// there; `None`: it may have none more, whatever room there is. It is asked only where several tenants wait.
#[derive(Clone)]
pub(crate) struct Standing(pub(crate) Arc<HasThere>);

/// How a tenant stands at a host.
type HasThere = dyn Fn(&Host, TenantNo) -> Option<u32> + Send + Sync;

impl Default for Standing {
    /// Nobody has any.
    fn default() -> Self {
        Standing(Arc::new(|_, _| Some(0)))
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Standing")
    }
}
