//! A deterministic simulation: the real engine over the real store, with tokio's time paused, a scripted network, a store
//! that is slow, full or dead at random, and clients that give up at random moments and repeat themselves.
//!
//! Each seed is one history. `HAUL_SIM_SEED=N` repeats one, `HAUL_SIM_SECONDS=S` says for how long fresh ones are tried.
//! The loop checks the invariants of its owners after each step, and [`sim::world`] checks the whole history at its end.

// A panic is how a history fails; the time that tests may take is real time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_types, clippy::print_stdout)]

#[path = "sim/block_on.rs"]
mod block_on;
#[path = "sim/clients.rs"]
mod clients;
#[path = "sim/network.rs"]
mod network;
#[path = "sim/slow_store.rs"]
mod slow_store;
#[path = "sim/world.rs"]
mod world;

use std::time::{Duration, Instant};

/// Seeds that every run tries, since each once showed a defect.
const OLD_SEEDS: [u64; 4] = [1, 2, 3, 4];

/// Runs one history, on a thread of its own so that a panic names its seed.
fn run(seed: u64) {
    let thread = std::thread::Builder::new().name(format!("seed {seed}")).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(world::history(seed));
    });
    assert!(thread.unwrap().join().is_ok(), "the history of seed {seed} failed; repeat it with HAUL_SIM_SEED={seed}");
}

fn seconds(default: u64) -> u64 {
    std::env::var("HAUL_SIM_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn histories(salt: u64) {
    if let Some(seed) = std::env::var("HAUL_SIM_SEED").ok().and_then(|text| text.parse().ok()) {
        if salt == 0 {
            run(seed);
        }
        return;
    }
    if salt == 0 {
        OLD_SEEDS.into_iter().for_each(run);
    }
    let end = Instant::now() + Duration::from_secs(seconds(20));
    let first: u64 = rand::random::<u32>().into();
    let mut tried = 0;
    while Instant::now() < end {
        run(first + tried);
        tried += 1;
    }
    println!("{tried} histories, from seed {first} on");
}

#[test]
fn histories_hold_together() {
    histories(0);
}

/// The same on the second core.
#[test]
fn more_histories_hold_together() {
    histories(1);
}
