//! What goes from request to request of one task.

use std::net::SocketAddr;

use url::Url;

use crate::net::jar::Jar;

/// The state that the requests of one task share, and how far the last of them came.
#[derive(Clone, Debug)]
pub struct Session {
    /// The course of the last exchange, whatever its end.
    pub trace: Trace,
    /// Ranges of statuses, both ends included, that the caller wants as they are: redirects among them are not
    /// followed, and the bodies of errors among them are kept.
    pub wanted_statuses: Vec<(u16, u16)>,
    /// The task's own URL, whose origin the profile's secrets belong to.
    home: Option<Url>,
    pub(super) jar: Jar,
}

impl Session {
    /// Begins the session of a task whose own URL is `url`: the profile's secrets go to the origin of that URL and to
    /// no other, whichever URL is asked first. A text that is not a URL has no such origin.
    pub fn new(url: &str) -> Session {
        Session { home: Url::parse(url).ok(), ..Session::nowhere() }
    }

    /// As [`Session::new`], of a URL that was parsed already.
    pub fn at(home: Url) -> Session {
        Session { home: Some(home), ..Session::nowhere() }
    }

    fn nowhere() -> Session {
        Session { trace: Trace::default(), wanted_statuses: Vec::new(), home: None, jar: Jar::default() }
    }

    /// The task's own URL, if `url` is of the same origin.
    pub(super) fn home_of(&self, url: &Url) -> Option<&Url> {
        self.home.as_ref().filter(|home| home.origin() == url.origin())
    }

    /// Returns whether the caller wants answers of this status as they are.
    pub(super) fn wants(&self, status: u16) -> bool {
        self.wanted_statuses.iter().any(|&(first, last)| (first..=last).contains(&status))
    }
}

/// How far an exchange came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// The URL that was asked last. It may hold secrets.
    pub url: Option<Url>,
    /// The address that answered last; `None` when there was no answer.
    pub remote: Option<SocketAddr>,
    /// The status of the last answer; 0 when there was none.
    pub status: u16,
    /// Redirects followed.
    pub redirects: u32,
}
