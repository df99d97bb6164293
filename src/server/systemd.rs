//! What systemd is told, where it started the server: that it serves, that it ends, and that it is alive.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::engine::handle::Engine;

/// What the end of the process takes beside the drain.
const END_TIME: Duration = Duration::from_secs(5);

/// Says that calls are taken.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Says that the server ends, and how long it may take.
pub(super) fn stopping(grace: Duration) {
    let micros = u32::try_from((grace + END_TIME).as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros)]);
}

/// Says again and again that the server is alive, where systemd asks for that: each time after the engine's loop has
/// answered. One that has ended is no reason to be killed.
pub(super) async fn watch(engine: Engine, closing: CancellationToken) {
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    loop {
        // Whatever it says: that it is there is the answer.
        let _ = engine.named_hosts(std::iter::empty()).await;
        tell(&[NotifyState::Watchdog]);
        tokio::select! {
            () = tokio::time::sleep(patience / 3) => {}
            () = closing.cancelled() => return,
        }
    }
}

/// Nobody listens where systemd did not start the server, and that is no error.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot notify systemd: {error}");
    }
}
