//! A request that came to nothing.

use http::Method;

use crate::model::failure::Failure;
use crate::model::retry::is_idempotent;

/// A request that came to nothing, and with it, mostly, its connection.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) failure: Failure,
    pub(super) fate: Fate,
}

/// What became of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nobody has looked at it: it was not sent, or its peer says so (RFC 9113, section 8.7).
    Unsent,
    /// Its peer serves it over HTTP/1.1 only, and has not looked at it.
    NeedsHttp1,
    /// It may have arrived, and nothing came back.
    Unanswered,
    /// It was answered, or must not be sent.
    Over,
}

impl Lost {
    /// Returns whether it may be sent again, on `is_fresh` saying whether it went out on a connection of its own
    /// making. A connection that had been idle was closed by its peer more often than not, and what repeats safely is
    /// repeated.
    pub(super) fn may_resend(&self, method: &Method, is_fresh: bool) -> bool {
        match self.fate {
            Fate::Unsent | Fate::NeedsHttp1 => true,
            Fate::Unanswered => !is_fresh && is_idempotent(method.as_str()),
            Fate::Over => false,
        }
    }
}
