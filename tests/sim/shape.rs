//! What kind of history a seed makes: how large, over which store, and with which bounds.

use haul::engine::bounds::Bounds;
use haul::store::PAGE_BYTES_MAX;
use rand::RngExt as _;
use rand::rngs::SmallRng;

/// One history of so many runs over the real store.
const REAL_STORE: u64 = 64;
/// One history of so many, over the real store as well, has tasks with bodies of which one alone fills a page.
const LONG_BODIES: u64 = 1024;

/// The size and the surroundings of a history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) real_store: bool,
    /// Bytes of the body of a request.
    pub(crate) body: usize,
    pub(crate) clients: u64,
    /// Steps of a client.
    pub(crate) steps: u32,
    /// Tasks of most submissions.
    pub(crate) tasks: u64,
    /// Servers that end by a kill, a failed disk or a drain before the last one.
    pub(crate) lives: u32,
    /// The store refuses the changes of a job now and then, as if it contradicted memory.
    pub(crate) contradicts: bool,
    /// Clients work for several tenants, which have quotas.
    pub(crate) tenants: bool,
    pub(crate) bounds: Bounds,
}

impl Shape {
    /// The shape of a history. Bounds are small, so that few tasks reach them, and sometimes those of a server.
    pub(crate) fn of(seed: u64, rng: &mut SmallRng) -> Shape {
        let small = |rng: &mut SmallRng, most: u32| rng.random_range(1..=most);
        let bounds = if rng.random_ratio(1, 8) {
            Bounds::default()
        } else {
            let piece_share = small(rng, 6);
            Bounds {
                jobs_bytes: Bounds::default().jobs_bytes,
                queue_bytes: if rng.random_ratio(1, 2) { 300_000 } else { 64 << 20 },
                lane_page: small(rng, 8),
                held_back: small(rng, 6) as usize,
                backoffs: small(rng, 10) as usize,
                due_page: small(rng, 6),
                piece_rows: piece_share * small(rng, 4),
                piece_share,
                // Of a few jobs, or of none.
                crowded_bytes: piece_share as usize * 1_000,
                changed_jobs: Bounds::default().changed_jobs,
                attempts: u32::MAX,
            }
        };
        if seed % LONG_BODIES == LONG_BODIES / 2 {
            // Memory takes one submission. Tasks of others stay in the store, and come page by page.
            let bounds = Bounds { queue_bytes: 1 << 20, ..Bounds::default() };
            let (real_store, body) = (true, PAGE_BYTES_MAX);
            let (contradicts, tenants) = (false, false);
            return Shape { real_store, body, clients: 2, steps: 6, tasks: 3, lives: 1, contradicts, tenants, bounds };
        }
        Shape {
            body: 0,
            real_store: seed.is_multiple_of(REAL_STORE),
            clients: rng.random_range(1..5),
            steps: rng.random_range(3..16),
            tasks: rng.random_range(3..16),
            lives: rng.random_range(0..4),
            contradicts: seed % 7 == 3,
            tenants: (seed / 7) % 3 == 2,
            bounds,
        }
    }
}
