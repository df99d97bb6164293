//! How long a batch waits for more before it is committed.

use std::time::Duration;

use tokio::time::Instant;

use crate::engine::outbox::Outbox;
use crate::engine::running::CROWD;

/// The longest that the start of an attempt waits to be committed together with others.
const START_LINGER: Duration = Duration::from_millis(4);
/// The longest that the end of a task waits so while many attempts run.
const END_LINGER: Duration = Duration::from_millis(5);

/// Starts of attempts and ends of tasks alone are no reason to commit at once: nobody waits for a start, and an attempt that
/// ends within moments takes its start with it. Where many attempts run, so many end within moments that a commit for each
/// handful would cost more than what they did; where few run, somebody may wait for each end. Any other change, and so the
/// end of a job, ends the wait.
#[derive(Debug, Default)]
pub(super) struct Linger {
    since: Option<Instant>,
}

impl Linger {
    /// How long the batch may still wait, while so many attempts run; `None`: it is empty, or may not.
    pub(super) fn left(&mut self, outbox: &Outbox, running: usize) -> Option<Duration> {
        let longest = match (outbox.claims() > 0, outbox.has_moves()) {
            (_, true) if running >= CROWD => END_LINGER,
            (true, false) => START_LINGER,
            _ => return None,
        };
        if !outbox.is_patient() {
            return None;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        longest.checked_sub(since.elapsed()).filter(|left| !left.is_zero())
    }
}
