//! Pauses of hosts, as they outlive the process that began them.

use crate::model::host::Host;
use crate::model::tenant::TenantNo;
use crate::model::time::Timestamp;

/// The number that stands for all tenants: what two of them were asked is for everybody. No tenant has it.
pub const FOR_ALL: TenantNo = 0;

/// What a pause is for: of each kind a tenant has one at a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PauseCause {
    /// The host has asked to wait.
    Asked,
    /// Connections to it failed in a row.
    Failures,
}

/// Which pause: whose, of which host, and what for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PauseKey {
    /// The tenant that waits, or [`FOR_ALL`].
    pub tenant: TenantNo,
    /// The host that it waits for.
    pub host: Host,
    /// Why.
    pub cause: PauseCause,
}

/// A pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPause {
    /// When it was asked for last, or the last connection failed.
    pub time: Timestamp,
    /// When it ends.
    pub until: Timestamp,
    /// How many connections failed in a row; 0: none.
    pub failures: u32,
    /// What was answered, or why the last connection failed.
    pub reason: String,
}

impl HostPause {
    /// Returns the pause as it is at `now`: one from a time to come, since the clock was set back, begins now.
    #[must_use]
    pub fn seen_at(mut self, now: Timestamp) -> HostPause {
        if self.time > now {
            self.until = now.plus(self.until.since(self.time));
            self.time = now;
        }
        self
    }
}

/// What became of a pause; `None`: it is over.
pub type PauseChange = (PauseKey, Option<HostPause>);
