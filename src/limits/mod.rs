//! Permits and rates: what may be asked of the network, by whom, how fast.
//!
//! [`hosts::Hosts`] knows every host's requests in flight, rate, pauses and breaker, for all jobs together: `state` decides
//! over one host, `pause` and `breaker` over who may not ask it for a while, `shares` has what tenants have in flight there, `turns` and
//! `line` say who is next, `queue` has those who wait, `table` what is remembered, `kept` the pauses that outlive the process, `recent` what has happened at a host of late, `views` what people see of it. `places` counts the attempts that work at once, of which those that only wait are none. [`rate`] has the two
//! kinds of rates (starts of requests, bytes). [`transport::Limited`] puts them around a [`crate::net::Transport`],
//! so that nothing above can send a request that is not counted. Which task goes next is not decided here: the scheduler
//! calls [`hosts::Hosts::try_start`], whose error says why a request may not start.

mod breaker;
pub mod hosts;
mod kept;
mod line;
mod parties;
mod pause;
pub mod permits;
mod places;
mod queue;
pub mod rate;
mod recent;
mod shares;
mod state;
mod table;
mod text;
pub mod transport;
mod turns;
pub mod views;

#[cfg(test)]
mod hosts_tests;
#[cfg(test)]
mod rate_tests;
#[cfg(test)]
mod steps_tests;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tenants_steps_tests;
#[cfg(test)]
mod tenants_tests;
#[cfg(test)]
mod waiting_tests;

pub(crate) use crate::limits::shares::Asking;

use crate::model::time::Timestamp;

/// Why a request may not start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The limit on requests in flight is reached.
    Full,
    /// The rate allows no start before this time.
    Rate(Timestamp),
    /// The host is paused until this time, for the tenant that asks or for all.
    Paused(Timestamp),
    /// The tenant that asks has as many requests in flight there as it may.
    Share,
    /// The tenant that asks leaves the last ones to others.
    LeftToOthers,
}

impl Blocked {
    /// Returns the earliest time at which the request may start; `None`: when another request ends.
    pub fn until(self) -> Option<Timestamp> {
        match self {
            Blocked::Full | Blocked::Share | Blocked::LeftToOthers => None,
            Blocked::Rate(until) | Blocked::Paused(until) => Some(until),
        }
    }
}
