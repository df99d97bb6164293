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

/// What `UpdateLimits` changes, or what it has set so far: the fields that are `Some`. The rest is left to the settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // The contract's names.
pub struct LimitsPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_tasks: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_per_host: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_second_per_host: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<HostLimits>>,
}

impl LimitsPatch {
    /// Returns the names of what it changes.
    pub fn changed(&self) -> Vec<String> {
        let LimitsPatch { max_concurrent_tasks, max_per_host, requests_per_second_per_host, bytes_per_second, hosts } =
            self;
        let fields = [
            ("max_concurrent_tasks", max_concurrent_tasks.is_some()),
            ("max_per_host", max_per_host.is_some()),
            ("requests_per_second_per_host", requests_per_second_per_host.is_some()),
            ("bytes_per_second", bytes_per_second.is_some()),
            ("hosts", hosts.is_some()),
        ];
        fields.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| (*name).to_owned()).collect()
    }

    /// Returns the memory that the patch takes, in bytes, roughly.
    pub fn memory_bytes(&self) -> usize {
        self.hosts.iter().flatten().map(|limits| size_of::<HostLimits>() + limits.host.len()).sum()
    }

    /// Returns `limits` with the patch applied.
    pub fn over(&self, limits: &Limits) -> Limits {
        let LimitsPatch { max_concurrent_tasks, max_per_host, requests_per_second_per_host, bytes_per_second, hosts } =
            self.clone();
        Limits {
            max_concurrent_tasks: max_concurrent_tasks.unwrap_or(limits.max_concurrent_tasks),
            max_per_host: max_per_host.unwrap_or(limits.max_per_host),
            requests_per_second_per_host: requests_per_second_per_host.unwrap_or(limits.requests_per_second_per_host),
            bytes_per_second: bytes_per_second.unwrap_or(limits.bytes_per_second),
            hosts: hosts.unwrap_or_else(|| limits.hosts.clone()),
        }
    }

    /// Returns both changes in one, of which this one is the later.
    #[must_use]
    pub fn after(self, earlier: LimitsPatch) -> LimitsPatch {
        LimitsPatch {
            max_concurrent_tasks: self.max_concurrent_tasks.or(earlier.max_concurrent_tasks),
            max_per_host: self.max_per_host.or(earlier.max_per_host),
            requests_per_second_per_host: self.requests_per_second_per_host.or(earlier.requests_per_second_per_host),
            bytes_per_second: self.bytes_per_second.or(earlier.bytes_per_second),
            hosts: self.hosts.or(earlier.hosts),
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
