//! Sessions of browsers: a cookie in place of a token, which a page would have to keep where its scripts can read it.
//!
//! A session is in memory alone, ends with its token, and counts only for pages of this server: the guard says which
//! requests those are.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::COOKIE;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::model::time::Timestamp;

/// The name of the cookie. By its prefix, browsers keep it to this host, to TLS, and to every path.
const NAME: &str = "__Host-haul";
/// How long a session lasts, and how long it may be unused.
pub(crate) const AGE_MAX: Duration = Duration::from_hours(12);
const IDLE_MAX: Duration = Duration::from_hours(1);
/// The most sessions, and the most of one token; of more, those that were unused the longest end.
const SESSIONS_MAX: usize = 10_000;
const SESSIONS_PER_TOKEN_MAX: usize = 100;

/// A mark of requests that a page of this server sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnPage;

/// The digest of what a cookie holds: all that is kept of it.
pub(crate) type Key = [u8; 32];

#[derive(Clone, Debug)]
struct Session {
    token_id: String,
    end: Timestamp,
    used: Timestamp,
}

impl Session {
    fn is_live(&self, now: Timestamp) -> bool {
        now < self.end && now < self.used.plus(IDLE_MAX)
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    all: Mutex<HashMap<Key, Session>>,
    /// How many have been ended, so that open streams of one look again.
    ended: watch::Sender<u64>,
}

impl Sessions {
    /// Begins a session of a token that ends at `token_end`. Returns the cookie to set.
    pub(crate) fn begin(&self, token_id: &str, token_end: Option<Timestamp>, now: Timestamp) -> String {
        let value = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        let end = token_end.into_iter().chain([now.plus(AGE_MAX)]).min().unwrap_or(now);
        let mut all = self.lock();
        all.retain(|_, session| session.is_live(now));
        let own = all.values().filter(|session| session.token_id == token_id).count();
        let is_full = all.len() >= SESSIONS_MAX;
        if is_full || own >= SESSIONS_PER_TOKEN_MAX {
            let may_go = |session: &Session| is_full || session.token_id == token_id;
            let oldest = all.iter().filter(|(_, it)| may_go(it)).min_by_key(|(_, it)| it.used).map(|(key, _)| *key);
            oldest.map(|key| all.remove(&key));
        }
        all.insert(key_of(&value), Session { token_id: token_id.to_owned(), end, used: now });
        cookie(&value, end.since(now))
    }

    /// Returns the token of a session that counts at `now`.
    pub(crate) fn token_of(&self, key: &Key, now: Timestamp) -> Option<String> {
        self.lock().get(key).filter(|session| session.is_live(now)).map(|session| session.token_id.clone())
    }

    /// Notes that a session is used.
    pub(crate) fn note(&self, key: &Key, now: Timestamp) {
        if let Some(session) = self.lock().get_mut(key) {
            session.used = session.used.max(now);
        }
    }

    /// Ends a session, if there is one. Returns the cookie that takes its place.
    pub(crate) fn end(&self, key: Option<Key>) -> String {
        if key.is_some_and(|key| self.lock().remove(&key).is_some()) {
            self.ended.send_modify(|count| *count += 1);
        }
        cookie("", Duration::ZERO)
    }

    /// Changes whenever a session is ended.
    pub(crate) fn ended(&self) -> watch::Receiver<u64> {
        self.ended.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Session>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key_of(value: &str) -> Key {
    Sha256::digest(value).into()
}

fn cookie(value: &str, age: Duration) -> String {
    format!("{NAME}={value}; Path=/; Max-Age={}; Secure; HttpOnly; SameSite=Strict", age.as_secs())
}

/// Returns the session that a request shows; `None` where it shows none, or several.
pub(crate) fn shown(headers: &HeaderMap) -> Option<Key> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|it| it.split(';'));
    let mut values = pairs.filter_map(|pair| pair.trim().strip_prefix(NAME)?.strip_prefix('='));
    let value = values.next().filter(|value| !value.is_empty())?;
    values.next().is_none().then(|| key_of(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(cookie: &str) -> Option<Key> {
        let pair = cookie.split(';').next().unwrap();
        shown(&HeaderMap::from_iter([(COOKIE, format!("a=b; {pair}").parse().unwrap())]))
    }

    #[test]
    fn a_session_ends_by_age_by_silence_with_its_token_and_when_it_is_told_to() {
        let (sessions, now) = (Sessions::default(), Timestamp(1_000_000));
        let cookie = sessions.begin("t", None, now);
        assert!(cookie.ends_with("; Path=/; Max-Age=43200; Secure; HttpOnly; SameSite=Strict"), "{cookie}");
        let key = sent(&cookie).unwrap();
        assert_eq!(sessions.token_of(&key, now).as_deref(), Some("t"));
        assert_eq!(sessions.token_of(&key, now.plus(IDLE_MAX)), None);
        for hours in 1..=23 {
            sessions.note(&key, now.plus(Duration::from_mins(30 * hours)));
        }
        assert!(sessions.token_of(&key, now.plus(Duration::from_secs(12 * 3_600 - 1))).is_some());
        assert_eq!(sessions.token_of(&key, now.plus(AGE_MAX)), None);
        let short = sessions.begin("t", Some(now.plus(Duration::from_secs(9))), now);
        assert!(short.contains("Max-Age=9;"), "{short}");
        let news = sessions.ended();
        assert!(sessions.end(sent(&short)).contains("Max-Age=0;") && news.has_changed().unwrap());
        assert_eq!(sessions.token_of(&sent(&short).unwrap(), now), None);
    }

    #[test]
    fn sessions_have_a_bound_and_two_cookies_are_none() {
        let (sessions, now) = (Sessions::default(), Timestamp(0));
        let first = sent(&sessions.begin("t", None, now)).unwrap();
        for second in 1..=SESSIONS_PER_TOKEN_MAX as u64 {
            sessions.begin("t", None, now.plus(Duration::from_secs(second)));
        }
        assert_eq!((sessions.token_of(&first, now), sessions.lock().len()), (None, SESSIONS_PER_TOKEN_MAX));
        let twice = HeaderMap::from_iter([(COOKIE, "__Host-haul=a; __Host-haul=b".parse().unwrap())]);
        assert_eq!(shown(&twice), None);
        for none in ["", "__Host-haul=", "__Host-haul", "x__Host-haul=a", "__Host-haulx=a"] {
            assert_eq!(sent(none), None, "{none}");
        }
    }
}
