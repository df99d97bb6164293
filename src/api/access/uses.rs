//! When tokens were last used: noted to the minute in memory, and stored once a minute.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::engine::handle::Engine;
use crate::model::access::{AccessChange, Actor};
use crate::model::time::Timestamp;

const MINUTE_MICROS: i64 = 60_000_000;

/// What was noted. Of each token it knows the last minute, so it is no larger than there are tokens.
#[derive(Debug, Default)]
pub(super) struct Uses(Mutex<HashMap<String, Use>>);

#[derive(Debug)]
struct Use {
    minute: i64,
    address: String,
    is_stored: bool,
}

impl Uses {
    pub(super) fn note(&self, actor: &Actor, now: Timestamp) {
        let minute = now.0.div_euclid(MINUTE_MICROS);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(&actor.token_id) {
            Some(known) if known.minute == minute => {}
            Some(known) => *known = Use { minute, address: actor.address.clone(), is_stored: false },
            None => {
                let fresh = Use { minute, address: actor.address.clone(), is_stored: false };
                all.insert(actor.token_id.clone(), fresh);
            }
        }
    }

    /// Takes what is not stored yet, and forgets tokens that are not used any more.
    fn take(&self) -> Vec<(String, Timestamp, String)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, known| !known.is_stored);
        all.iter_mut()
            .map(|(id, known)| {
                known.is_stored = true;
                (id.clone(), Timestamp(known.minute * MINUTE_MICROS), known.address.clone())
            })
            .collect()
    }

    /// Stores what was noted since the last time.
    pub(super) async fn flush(&self, engine: &Engine) {
        let used = self.take();
        if !used.is_empty()
            && let Err(error) = engine.change_access(AccessChange::Used(used)).await
        {
            // The next use of a token stores it again.
            tracing::debug!("the last use of tokens was not stored: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_stored_once_a_minute() {
        let uses = Uses::default();
        let actor = Actor { token_id: "t".into(), address: "192.0.2.1".into(), ..Actor::local() };
        let at = |seconds: i64| Timestamp(seconds * 1_000_000);
        uses.note(&actor, at(61));
        uses.note(&actor, at(119));
        assert_eq!(uses.take(), [("t".to_owned(), at(60), "192.0.2.1".to_owned())]);
        uses.note(&actor, at(119));
        assert_eq!(uses.take(), []);
        uses.note(&actor, at(120));
        assert_eq!(uses.take().len(), 1);
    }
}
