//! Calls that are open: what each counts among, what is noted of its answer, and when it may not go on.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::api::access::bounds::{OpenCall, OpenWatch};
use crate::api::access::caller::{Caller, Shown, decide};
use crate::api::access::judge::Access;
use crate::api::access::refusals::Refusal;
use crate::api::access::table::{self, Need};
use crate::api::status::draining;
use crate::listen::peer::CallByAnybody;
use crate::model::book::Book;

/// How often an open stream of a session looks whether that has ended, and says that it is used.
const SESSION_LOOK: Duration = Duration::from_secs(60);

/// What an open call counts among, until it is dropped.
#[derive(Default)]
#[allow(dead_code)] // They are kept for their ends.
pub(super) struct Places {
    /// The calls that its caller has open.
    pub(super) open: Option<OpenCall>,
    /// The watches of its tenant.
    pub(super) watch: Option<OpenWatch>,
    /// The calls of its connection that anybody may make.
    pub(super) by_anybody: Option<CallByAnybody>,
}

/// Whether a call that is open may go on.
pub(super) struct Standing {
    pub(super) access: Access,
    pub(super) books: watch::Receiver<Arc<Book>>,
    pub(super) shown: Shown,
    /// `None`: anybody may make it.
    pub(super) caller: Option<Caller>,
    pub(super) need: Need,
    /// Empty: it is not there.
    pub(super) method: String,
    /// Whether it is in the audit when it is answered.
    pub(super) is_read: bool,
    pub(super) _places: Places,
}

impl Standing {
    /// Returns that of a call that anybody may make.
    pub(super) fn open(access: &Access, by_anybody: Option<CallByAnybody>) -> Standing {
        let shown = Shown::by(&HeaderMap::new(), &http::Extensions::new(), "");
        let (books, method) = (access.engine.books(), String::new());
        Standing {
            access: access.clone(),
            books,
            shown,
            caller: None,
            need: Need::Open,
            method,
            is_read: false,
            _places: Places { by_anybody, ..Places::default() },
        }
    }

    /// Counts an answer that refuses what the layer has let through.
    pub(super) fn note_refusal(&self, status: &Status) {
        if let Some(caller) = &self.caller {
            let (access, method) = (&self.access, Some(self.method.as_str()).filter(|it| !it.is_empty()));
            let now = access.engine.now();
            let (address, tenant) = (self.shown.address(), table::tenant(self.need, &caller.actor));
            let refusal = Refusal { who: Some(&caller.actor), address, tenant, method, detail: "" };
            access.refusals.note(refusal, status, now);
        }
    }

    /// Counts a read that is answered, where reads are counted.
    pub(super) fn note_read(&self) {
        if let Some(caller) = self.caller.as_ref().filter(|_| self.is_read) {
            let (address, tenant) = (self.shown.address(), table::tenant(self.need, &caller.actor));
            let method = Some(self.method.as_str());
            let call = Refusal { who: Some(&caller.actor), address, tenant, method, detail: "" };
            self.access.refusals.note_read(call, self.access.engine.now());
        }
    }

    /// Waits until the call may not go on.
    async fn lost(&self) -> Status {
        let Some(caller) = &self.caller else { return std::future::pending().await };
        let mut books = self.books.clone();
        let mut sessions = self.access.sessions.ended();
        let expire_time = caller.expire_time;
        // The call has just been judged by the book that `books` has seen, and what changes from there on is waited for. Only a
        // session may have ended in between.
        let mut is_due = self.shown.session().is_some();
        loop {
            let now = self.access.engine.now();
            if std::mem::replace(&mut is_due, true) {
                let book = books.borrow_and_update().clone();
                let rules = self.access.rules(&book);
                // A page that listens is one that is used.
                if let Some(session) = self.shown.session() {
                    self.access.sessions.note(session, now);
                }
                if let Err(denied) = decide(&self.shown, rules, (&self.method, self.need), Some(caller), now) {
                    return denied.status(&self.method);
                }
            }
            let expired = async {
                match expire_time {
                    Some(time) => tokio::time::sleep(time.since(now)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = books.changed() => if changed.is_err() {
                    // The engine has ended, and so will every call.
                    return std::future::pending().await;
                },
                Ok(()) = sessions.changed(), if self.shown.session().is_some() => {}
                () = tokio::time::sleep(SESSION_LOOK), if self.shown.session().is_some() => {}
                () = expired => {}
            }
        }
    }
}

/// Waits until a call may not go on, or until the server ends where its services do not see to that.
pub(super) async fn lost(standing: Arc<Standing>, closing: Option<CancellationToken>) -> Status {
    let closed = async {
        match closing {
            Some(closing) => closing.cancelled().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        status = standing.lost() => status,
        () = closed => draining(),
    }
}
