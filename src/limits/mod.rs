//! Permits and rates: what may be asked of the network, by whom, how fast.
//!
//! [`hosts::Hosts`] knows every host's requests in flight, rate, pause and breaker, for all jobs together;
//! [`rate`] has the two kinds of rates (starts of requests, bytes); [`transport::Limited`] puts them around a
//! [`crate::net::Transport`], so that nothing above can send a request that is not counted. Which task goes next is not
//! decided here: the scheduler asks [`hosts::Hosts::try_start`] and is told why not.

pub mod hosts;
pub mod rate;
pub mod transport;

#[cfg(test)]
mod tests;

use crate::model::time::Timestamp;

/// Why a request may not start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// As many requests are in flight as may be.
    Full,
    /// The rate is used up until then.
    Rate(Timestamp),
    /// The host is left alone until then.
    Paused(Timestamp),
}

impl Blocked {
    /// When it may start at the earliest; `None`: when a request ends.
    pub fn until(self) -> Option<Timestamp> {
        match self {
            Blocked::Full => None,
            Blocked::Rate(until) | Blocked::Paused(until) => Some(until),
        }
    }
}
