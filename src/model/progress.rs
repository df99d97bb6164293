//! How far something is.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Counts what a running attempt has. Written by the attempt, read by watchers, never durable.
#[derive(Debug, Default)]
pub struct Meter {
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
    received_bytes: AtomicU64,
    connections: AtomicU32,
}

impl Meter {
    /// Sets how many bytes are in hand, those kept from earlier attempts included.
    pub fn set_done(&self, bytes: u64) {
        self.done_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Adds bytes that came from the network just now.
    pub fn received(&self, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Sets the size, once it is known.
    pub fn set_total(&self, bytes: u64) {
        self.total_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Sets how many connections carry it now.
    pub fn set_connections(&self, count: u32) {
        self.connections.store(count, Ordering::Relaxed);
    }

    /// Bytes in hand.
    pub fn done(&self) -> u64 {
        self.done_bytes.load(Ordering::Relaxed)
    }

    /// The size; 0 while it is not known.
    pub fn total(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that this attempt received.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Connections that carry it now.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// A look at progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// Bytes in hand.
    pub done_bytes: u64,
    /// The size as far as it is known; 0: not at all.
    pub total_bytes: u64,
    /// The rate of late.
    pub bytes_per_second: u64,
}

/// What downloads that do not run hold for their next attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Held {
    /// Bytes that are there.
    pub bytes: u64,
    /// The sizes of the files of which they are, as far as they are known; never less than `bytes`.
    pub total_bytes: u64,
}

impl Held {
    /// Adds what a download holds, since its attempt ended.
    pub fn add(&mut self, other: Held) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.total_bytes = self.total_bytes.saturating_add(other.total_bytes);
    }

    /// Takes away what a download holds, since its next attempt counts it.
    pub fn remove(&mut self, other: Held) {
        self.bytes = self.bytes.saturating_sub(other.bytes);
        self.total_bytes = self.total_bytes.saturating_sub(other.total_bytes);
    }
}
