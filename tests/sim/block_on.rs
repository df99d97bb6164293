//! Runs a future of the store to its end without giving the simulated world a turn, so that threads of the store cannot
//! change the order of a history. The store has a runtime of its own, whose time is not paused.

use std::sync::LazyLock;

use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());

/// Returns what `future` returns; the simulated world stands still meanwhile.
pub(crate) fn in_one_go<T: Send>(future: impl Future<Output = T> + Send) -> T {
    // A thread of a runtime cannot wait for another runtime; one beside it can.
    let done = std::thread::scope(|scope| scope.spawn(|| RUNTIME.block_on(future)).join());
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
