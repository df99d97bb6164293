//! The values of limits. Enforcing them is the work of [`crate::limits`].

use serde::{Deserialize, Serialize};

use crate::model::failure::is_default;
use crate::model::host::Host;

/// A ceiling on rates; 0 sets none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RateLimit {
    /// Starts of requests per second.
    #[serde(skip_serializing_if = "is_default")]
    pub requests_per_second: f64,
    /// How many may start at once after a pause; 0 means 1.
    #[serde(skip_serializing_if = "is_default")]
    pub burst: u32,
    /// Bytes of response bodies per second.
    #[serde(skip_serializing_if = "is_default")]
    pub bytes_per_second: u64,
}

/// What the server may ask of the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Tasks at once; at least 1.
    pub max_concurrent_tasks: u32,
    /// Requests at once to one host; at least 1.
    pub max_per_host: u32,
    /// Starts of requests to one host per second; 0: no limit.
    pub requests_per_second_per_host: f64,
    /// Bytes of response bodies per second, over all; 0: no limit.
    pub bytes_per_second: u64,
    /// Hosts with limits of their own.
    pub hosts: Vec<HostLimits>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_concurrent_tasks: 64,
            max_per_host: 8,
            requests_per_second_per_host: 0.0,
            bytes_per_second: 0,
            hosts: Vec::new(),
        }
    }
}

/// Limits of one host; what is 0 leaves the server's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostLimits {
    /// `host:port`, or `host` for every port of it.
    pub host: String,
    /// Requests at once.
    pub max_concurrent: u32,
    /// Starts of requests.
    pub requests_per_second: f64,
    /// How many may start at once after a pause.
    pub burst: u32,
    /// Bytes of response bodies.
    pub bytes_per_second: u64,
}

impl Limits {
    /// Returns what holds for `host`, whose entry is `own`: what is set there over the server's values.
    pub fn with_own(&self, host: &Host, own: Option<&HostLimits>) -> HostLimits {
        let own = own.cloned().unwrap_or_default();
        HostLimits {
            host: host.to_string(),
            max_concurrent: if own.max_concurrent == 0 { self.max_per_host } else { own.max_concurrent },
            requests_per_second: if own.requests_per_second == 0.0 {
                self.requests_per_second_per_host
            } else {
                own.requests_per_second
            },
            burst: own.burst.max(1),
            bytes_per_second: own.bytes_per_second,
        }
    }
}
