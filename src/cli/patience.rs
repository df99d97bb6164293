//! How long a client waits for a server that went away, and how often it tries.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};

use crate::cli::client::is_local;

/// The first wait before a server that went away is tried again; each one after it is twice as long.
const BACKOFF: Duration = Duration::from_millis(250);
/// The longest such wait.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long a server may be away.
const AWAY_MAX: Duration = Duration::from_mins(5);

/// Decides whether and when to try again. A server that never answered is not waited for.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    heard: Option<Instant>,
    /// Tries since the server was last heard.
    tries: u32,
}

impl Patience {
    /// Makes that of a client whose server has answered something else already.
    pub(crate) fn of_server_that_answered() -> Patience {
        Patience { heard: Some(Instant::now()), tries: 0 }
    }

    /// Notes that the server answered.
    pub(crate) fn heard(&mut self) {
        self.heard = Some(Instant::now());
        self.tries = 0;
    }

    /// Makes a call until it is answered or another try cannot help. It must be one that may be made twice.
    pub(crate) async fn persist<T>(&mut self, mut call: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
        loop {
            let status = match call().await {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            let Some(wait) = self.wait(&status) else { return Err(status) };
            tokio::time::sleep(wait).await;
        }
    }

    /// When the server was last heard; `None`: never.
    pub(crate) fn last_heard(&self) -> Option<Instant> {
        self.heard
    }

    /// How long to wait before another try after `status`; `None`: another try cannot help.
    pub(crate) fn wait(&mut self, status: &Status) -> Option<Duration> {
        if !may_help(status) || self.heard.is_none_or(|heard| heard.elapsed() > AWAY_MAX) {
            return None;
        }
        let wait = BACKOFF.saturating_mul(1 << self.tries.min(10)).min(BACKOFF_MAX);
        self.tries += 1;
        Some(wait)
    }

    /// Whether the last wait was the first since the server was heard.
    pub(crate) fn is_first(&self) -> bool {
        self.tries == 1
    }
}

/// Returns whether the server went away, so that another try may find it again.
pub(crate) fn may_help(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => true,
        Code::Unknown | Code::Internal | Code::Cancelled => is_local(status),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_grow_while_a_server_is_away_and_end() {
        let away = Status::unavailable("draining");
        let mut patience = Patience::default();
        assert_eq!(patience.wait(&away), None, "it never was there");
        patience.heard();
        let waits: Vec<u128> = (0..7).map(|_| patience.wait(&away).unwrap().as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 5000, 5000]);
        patience.heard();
        assert_eq!(patience.wait(&Status::not_found("gone")), None);
        assert_eq!(patience.wait(&away), Some(BACKOFF));
        assert!(patience.is_first());
        tokio::time::advance(AWAY_MAX + BACKOFF).await;
        assert_eq!(patience.wait(&away), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_made_until_it_is_answered() {
        let mut answers = vec![Ok(7), Err(Status::unavailable("gone")), Err(Status::unavailable("draining"))];
        let mut patience = Patience::of_server_that_answered();
        assert_eq!(patience.persist(async || answers.pop().unwrap()).await.unwrap(), 7);
        let refused = patience.persist(async || Err::<(), _>(Status::not_found("no job"))).await;
        assert_eq!(refused.unwrap_err().code(), Code::NotFound);
    }
}
