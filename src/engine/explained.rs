//! Why jobs wait, looked up once for all who ask at about the same time: an answer takes the scheduler's turn, and who watches a
//! job or asks for it again and again is not to take it for each look.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::explanation::Explanation;
use crate::model::ids::JobId;
use crate::model::job::JobState;

/// Jobs of which an answer is kept before those are looked for that are too old.
const KEPT_MIN: usize = 1024;
/// An answer that is older is of no use to anybody.
const AGE_MAX: Duration = Duration::from_secs(1);

/// The answers of the last moment.
#[derive(Debug, Default)]
pub(crate) struct Explained {
    kept: Mutex<HashMap<JobId, Arc<Slot>>>,
}

/// Whoever asks holds it, so that the others take the same answer.
type Slot = tokio::sync::Mutex<Option<Answer>>;

#[derive(Debug)]
struct Answer {
    time: Instant,
    /// The state that the job was in. In another one it waits for something else.
    state: JobState,
    explanation: Arc<Explanation>,
}

impl Explained {
    /// Returns why a job in this state waits, as somebody was told at most `age` ago, or else what `ask` says.
    pub(crate) async fn of<E>(
        &self,
        (job, state): (JobId, JobState),
        age: Duration,
        ask: impl Future<Output = Result<Explanation, E>>,
    ) -> Result<Arc<Explanation>, E> {
        let slot = self.slot(job);
        let mut kept = slot.lock().await;
        if let Some(answer) = kept.as_ref().filter(|it| it.state == state && it.time.elapsed() <= age) {
            return Ok(answer.explanation.clone());
        }
        let explanation = Arc::new(ask.await?);
        *kept = Some(Answer { time: Instant::now(), state, explanation: explanation.clone() });
        Ok(explanation)
    }

    fn slot(&self, job: JobId) -> Arc<Slot> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MIN && kept.len() == kept.capacity() {
            // One that is being asked for is locked, and stays.
            let is_old = |slot: &Slot| {
                slot.try_lock().is_ok_and(|slot| slot.as_ref().is_none_or(|answer| answer.time.elapsed() > AGE_MAX))
            };
            kept.retain(|_, slot| !is_old(slot));
        }
        kept.entry(job).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn job(number: u128) -> JobId {
        JobId(uuid::Uuid::from_u128(number))
    }

    #[tokio::test(start_paused = true)]
    async fn one_asks_for_all() {
        let explained = Explained::default();
        let asked = std::sync::atomic::AtomicU32::new(0);
        let look = |state, millis| {
            let ask = async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Ok::<_, Infallible>(Explanation::default())
            };
            explained.of((job(1), state), Duration::from_millis(millis), ask)
        };
        let count = || asked.load(std::sync::atomic::Ordering::Relaxed);
        let all = (0..1000).map(|_| look(JobState::Running, 1000));
        let told = futures_util::future::join_all(all).await;
        assert!(told.windows(2).all(|two| matches!(two, [Ok(one), Ok(other)] if Arc::ptr_eq(one, other))));
        assert_eq!(count(), 1);
        tokio::time::sleep(Duration::from_millis(200)).await;
        let _ = look(JobState::Running, 1000).await;
        assert_eq!(count(), 1);
        let _ = look(JobState::Running, 100).await;
        assert_eq!(count(), 2, "too old for who asks for it now");
        let _ = look(JobState::Paused, 1000).await;
        assert_eq!(count(), 3, "it waits for something else");
    }

    #[tokio::test(start_paused = true)]
    async fn who_asked_long_ago_is_forgotten() {
        let explained = Explained::default();
        for number in 0..20_000 {
            let ask = std::future::ready(Ok::<_, Infallible>(Explanation::default()));
            explained.of((job(number), JobState::Running), AGE_MAX, ask).await.unwrap();
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert!(explained.kept.lock().unwrap().len() < 4 * KEPT_MIN);
    }
}
