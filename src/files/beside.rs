//! Work that waits for a device, beside those who do not.

use std::cell::Cell;

use tokio::task::{JoinError, spawn_blocking, yield_now};

thread_local! {
    static IS_DONE_HERE: Cell<bool> = const { Cell::new(false) };
}

/// Lets whatever this thread asks for be done at once by itself from now on. When another thread is done with it depends on how
/// busy the machine is, and a simulation must not: its histories repeat themselves.
pub fn do_here() {
    IS_DONE_HERE.set(true);
}

/// Whether it is.
pub(super) fn is_done_here() -> bool {
    IS_DONE_HERE.get()
}

/// Does `work` on a thread of its own.
///
/// # Errors
///
/// It panicked, or the runtime ends.
pub async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    if !is_done_here() {
        return spawn_blocking(work).await;
    }
    let done = work();
    // Others have their turns before anybody knows, as they have beside a thread.
    yield_now().await;
    Ok(done)
}
