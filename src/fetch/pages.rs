//! Where a listing stands and where it goes on. Pure: pages in, URLs out.

use std::collections::HashSet;

use http::HeaderMap;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::fetch::json;
use crate::fetch::mark::fingerprint;
use crate::model::failure::{Failure, FailureReason, is_default};
use crate::model::outcome::FetchResult;
use crate::model::secret::redacted;
use crate::model::spec::{PageStyle, Pagination};
use crate::net::link;
use crate::net::redirect::URL_BYTES_MAX;

/// How many of the latest requests or pages a cursor remembers, so that a circle is seen after a restart too. It is stored with
/// each page, so it is short; within an attempt [`SEEN_MAX`] are remembered.
const RECENT_MAX: usize = 32;
const SEEN_MAX: usize = 100_000;

/// How many pages in a row may bring the items of earlier ones: a page of a log may look as others do, and an origin that counts
/// nothing brings what it has for ever.
const REPEATS_MAX: u32 = 8;

/// Where a listing stands after a page. Opaque to whoever keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PageCursor {
    /// Pages kept.
    pub pages: u32,
    /// Items in them.
    pub items: u64,
    /// Bytes of them, decoded.
    pub bytes: u64,
    /// What comes next.
    pub next: Next,
    /// Fingerprints of the latest requests; where the listing counts, which makes each another, of the items of the latest pages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    recent: Vec<u64>,
    /// The fingerprint of the latest page.
    last_page: u64,
    /// How many of the latest pages brought the items of earlier ones.
    #[serde(default, skip_serializing_if = "is_default")]
    repeats: u32,
}

/// What comes after a page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// The URL that was given.
    First,
    /// A URL.
    Url(Url),
    /// A number of a page.
    Number(u64),
    /// A count of items to skip.
    Offset(u64),
    /// A value of the page before.
    Cursor(String),
    /// Nothing: this is the result of the whole listing.
    Ended(Box<FetchResult>),
}

/// A page as it came.
pub(super) struct Arrived<'a> {
    pub(super) body: &'a [u8],
    pub(super) headers: &'a HeaderMap,
    /// After redirects.
    pub(super) url: &'a Url,
}

/// What a page is to the listing.
#[derive(Debug, PartialEq)]
pub(super) struct Turn {
    /// How many of its items belong to it.
    pub(super) item_count: u32,
    /// Whether it is kept: an empty one that only says "no more" is not.
    pub(super) is_kept: bool,
    pub(super) is_last: bool,
}

/// Follows one listing.
pub(super) struct Pager<'a> {
    pagination: &'a Pagination,
    /// The URL that was given.
    base: &'a Url,
    pub(super) cursor: PageCursor,
    seen: HashSet<u64>,
}

impl<'a> Pager<'a> {
    /// From the start, or from where an earlier attempt came to.
    pub(super) fn new(pagination: &'a Pagination, base: &'a Url, resume: Option<PageCursor>) -> Pager<'a> {
        let start = match &pagination.style {
            PageStyle::PageNumber { first, .. } => Next::Number(*first),
            PageStyle::Offset { .. } => Next::Offset(0),
            PageStyle::LinkHeader | PageStyle::Cursor { .. } | PageStyle::NextUrl { .. } => Next::First,
        };
        let cursor = resume.unwrap_or(PageCursor {
            pages: 0,
            items: 0,
            bytes: 0,
            next: start,
            recent: Vec::new(),
            last_page: 0,
            repeats: 0,
        });
        let seen = cursor.recent.iter().copied().collect();
        Pager { pagination, base, cursor, seen }
    }

    /// The URL of the page to ask for. Fails when it has been asked for before: it would go on for ever.
    pub(super) fn request(&mut self) -> Result<Url, Failure> {
        let url = self.url();
        let (mark, what) = match &self.cursor.next {
            // Each is another. Whether the origin sees that is to be seen by what it brings.
            Next::Number(_) | Next::Offset(_) => return Ok(url),
            Next::Cursor(value) => (fingerprint(value.as_bytes()), "cursor"),
            _ => (fingerprint(url.as_str().as_bytes()), "URL"),
        };
        if !self.is_new(mark) {
            let message = format!(
                "page {} leads back to a {what} that has been asked for before, at `{}`; the listing would never end",
                self.cursor.pages.saturating_sub(1),
                redacted(&url)
            );
            return Err(Failure::fatal(FailureReason::Protocol, message));
        }
        Ok(url)
    }

    /// Returns whether a fingerprint is none of those that are remembered, and remembers it.
    fn is_new(&mut self, mark: u64) -> bool {
        if !self.seen.insert(mark) {
            return false;
        }
        if self.seen.len() > SEEN_MAX {
            self.seen = self.cursor.recent.iter().copied().collect();
            self.seen.insert(mark);
        }
        self.cursor.recent.push(mark);
        if self.cursor.recent.len() > RECENT_MAX {
            self.cursor.recent.remove(0);
        }
        true
    }

    /// Takes note of a page of a listing that counts, by what it brings. Fails where the origin seems to bring the same for ever.
    fn note_repeats(&mut self, body: &[u8], items: u64) -> Result<(), Failure> {
        let page = fingerprint(body);
        let is_same = self.cursor.pages > 0 && page == self.cursor.last_page;
        self.cursor.last_page = page;
        self.cursor.repeats = if self.is_new(items) { 0 } else { self.cursor.repeats.saturating_add(1) };
        // It ends by itself, and items with little in them may well be alike.
        let is_bounded = self.pagination.max_pages > 0 || self.pagination.max_items > 0;
        let what = if is_same {
            "is the same as the one before"
        } else if self.cursor.repeats >= REPEATS_MAX && !is_bounded {
            "has the items of an earlier one, as those before it have (set `max_pages` where that is right)"
        } else {
            return Ok(());
        };
        let message =
            format!("page {} {what}: the origin seems to ignore the parameter that counts", self.cursor.pages);
        Err(Failure::fatal(FailureReason::Protocol, message))
    }

    fn url(&self) -> Url {
        let mut url = match &self.cursor.next {
            Next::Url(url) => return url.clone(),
            _ => self.base.clone(),
        };
        match (&self.pagination.style, &self.cursor.next) {
            (PageStyle::PageNumber { param, size_param, size, .. }, Next::Number(number)) => {
                set_param(&mut url, param, &number.to_string());
                set_param(&mut url, size_param, &size.to_string());
            }
            (PageStyle::Offset { param, limit_param, limit }, Next::Offset(offset)) => {
                set_param(&mut url, param, &offset.to_string());
                set_param(&mut url, limit_param, &limit.to_string());
            }
            (PageStyle::Cursor { param, .. }, Next::Cursor(value)) => set_param(&mut url, param, value),
            _ => {}
        }
        url
    }

    /// Returns the statuses by which an answer that the task accepts says that there is no page: those without content, and
    /// behind the first page of a listing that counts those of what is not there, as frameworks answer behind the last one. A
    /// task that does not accept these fails by them: nobody can tell a listing that is over from one that broke off.
    pub(super) fn ends(&self) -> &'static [u16] {
        if self.counts() && self.cursor.pages > 0 { &[204, 205, 404, 410, 416] } else { &[204, 205] }
    }

    /// Whether its requests are told apart by a number.
    fn counts(&self) -> bool {
        matches!(self.cursor.next, Next::Number(_) | Next::Offset(_))
    }

    /// Takes a page in, and moves the cursor behind it. On the last page, [`PageCursor::next`] is for the caller to set.
    pub(super) fn turn(&mut self, page: &Arrived<'_>) -> Result<Turn, Failure> {
        let next_pointer = match &self.pagination.style {
            PageStyle::Cursor { next_pointer, .. } | PageStyle::NextUrl { next_pointer } => Some(next_pointer.as_str()),
            PageStyle::LinkHeader | PageStyle::PageNumber { .. } | PageStyle::Offset { .. } => None,
        };
        let json::Page { item_count: count, mark, next } =
            json::page(page.body, &self.pagination.items_pointer, next_pointer)?;
        if count == 0 {
            let is_kept = self.cursor.pages == 0;
            if is_kept {
                self.keep(page, 0);
            }
            return Ok(Turn { item_count: 0, is_kept, is_last: true });
        }
        if self.counts() {
            self.note_repeats(page.body, mark)?;
        }
        let limit = self.pagination.max_items;
        let wanted = if limit == 0 { count } else { count.min(limit.saturating_sub(self.cursor.items)) };
        let is_full = (limit > 0 && self.cursor.items + wanted >= limit)
            || (self.pagination.max_pages > 0 && self.cursor.pages + 1 >= self.pagination.max_pages);
        let next = if is_full { None } else { self.next(page, count, next)? };
        self.keep(page, wanted);
        let is_last = next.is_none();
        if let Some(next) = next {
            self.cursor.next = next;
        }
        Ok(Turn { item_count: u32::try_from(wanted).unwrap_or(u32::MAX), is_kept: true, is_last })
    }

    /// The end of the listing, with `result` of its last response.
    pub(super) fn ended(&self, result: FetchResult) -> Next {
        let PageCursor { pages, items, bytes, .. } = self.cursor;
        Next::Ended(Box::new(FetchResult { pages, items, body_bytes: bytes, ..result }))
    }

    fn keep(&mut self, page: &Arrived<'_>, items: u64) {
        self.cursor.pages += 1;
        self.cursor.items += items;
        self.cursor.bytes += page.body.len() as u64;
    }

    /// Returns where the listing goes on behind a page of `count` items; `None`: it ends. `named`: what its JSON says of that.
    fn next(&self, page: &Arrived<'_>, count: u64, named: Option<String>) -> Result<Option<Next>, Failure> {
        let url = |target: Option<String>| target.map(|target| resolve(page.url, &target).map(Next::Url)).transpose();
        Ok(match (&self.pagination.style, &self.cursor.next) {
            (PageStyle::LinkHeader, _) => {
                url(link::next(page.headers, page.url).map_err(|error| unreadable(page.url, error))?)?
            }
            (PageStyle::NextUrl { .. }, _) => url(named)?,
            (PageStyle::Cursor { .. }, _) => {
                named.map(|cursor| bounded(page.url, cursor)).transpose()?.map(Next::Cursor)
            }
            (PageStyle::PageNumber { .. }, Next::Number(number)) => {
                Some(Next::Number(number.checked_add(1).ok_or_else(|| uncountable(*number))?))
            }
            (PageStyle::Offset { .. }, Next::Offset(offset)) => {
                Some(Next::Offset(offset.checked_add(count).ok_or_else(|| uncountable(*offset))?))
            }
            // A cursor of another style does not fit this listing.
            (PageStyle::PageNumber { .. } | PageStyle::Offset { .. }, _) => None,
        })
    }
}

/// The failure of a page whose `Link` header cannot be read: it may have led on.
fn unreadable(page: &Url, error: link::Unreadable) -> Failure {
    let message = format!("the page at `{}` does not say whether it is the last: {error}", redacted(page));
    Failure::fatal(FailureReason::Protocol, message)
}

/// The failure of a page behind which there may be more, and no number for that.
fn uncountable(number: u64) -> Failure {
    let message = format!("page number {number} is not the last one, and there is no higher number for the next");
    Failure::fatal(FailureReason::Protocol, message)
}

/// Refuses a cursor that makes a URL of more bytes than one may have.
fn bounded(page: &Url, cursor: String) -> Result<String, Failure> {
    if cursor.len() <= URL_BYTES_MAX {
        return Ok(cursor);
    }
    let message = format!("the page at `{}` names a cursor of more than {URL_BYTES_MAX} bytes", redacted(page));
    Err(Failure::fatal(FailureReason::Protocol, message))
}

/// The next page's URL as a page names it, under the rules of redirects.
fn resolve(page: &Url, target: &str) -> Result<Url, Failure> {
    let from = redacted(page);
    let mut url = page.join(target).map_err(|_| {
        Failure::fatal(FailureReason::Protocol, format!("the page at `{from}` names a next one that is not a URL"))
    })?;
    // It is not sent, so that two which differ in nothing else are one request.
    url.set_fragment(None);
    if url.as_str().len() > URL_BYTES_MAX {
        let message = format!("the page at `{from}` names a next one with a URL of more than {URL_BYTES_MAX} bytes");
        return Err(Failure::fatal(FailureReason::Protocol, message));
    }
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        let message = format!(
            "the page at `{from}` names a next one with a `{}` URL; haul follows http and https only",
            url.scheme()
        );
        return Err(Failure::fatal(FailureReason::ForbiddenAddress, message));
    }
    if page.scheme() == "https" && url.scheme() == "http" {
        let message = format!("the page at `{from}` leads from https to http, which haul does not follow");
        return Err(Failure::fatal(FailureReason::Protocol, message));
    }
    Ok(url)
}

/// Sets a parameter of the query, and leaves the others as they are written. Without a name nothing is set.
fn set_param(url: &mut Url, name: &str, value: &str) {
    if name.is_empty() {
        return;
    }
    let is_it = |pair: &str| url::form_urlencoded::parse(pair.as_bytes()).next().is_some_and(|(own, _)| own == name);
    let mut query: String =
        url.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty() && !is_it(pair)).fold(
            String::new(),
            |mut query, pair| {
                query.push_str(pair);
                query.push('&');
                query
            },
        );
    query.push_str(&url::form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish());
    url.set_query(Some(&query));
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn pagination(style: PageStyle) -> Pagination {
        Pagination { style, items_pointer: String::new(), max_pages: 0, max_items: 0 }
    }

    fn number() -> PageStyle {
        PageStyle::PageNumber { param: "page".into(), first: 1, size_param: "n".into(), size: 2 }
    }

    /// Follows a listing through `pages` and says what it asked for and how it ended.
    fn follow(pagination: &Pagination, bodies: &[&str]) -> (Vec<String>, Result<PageCursor, Failure>) {
        let base = Url::parse("http://a.example/list?q=a%20b&page=9").unwrap();
        let mut pager = Pager::new(pagination, &base, None);
        let mut asked = Vec::new();
        for page in bodies {
            let url = match pager.request() {
                Ok(url) => url,
                Err(failure) => return (asked, Err(failure)),
            };
            asked.push(url[url::Position::BeforePath..].to_owned());
            let mut headers = HeaderMap::new();
            let (link, body) = page.split_once('|').unwrap_or(("", page));
            if !link.is_empty() {
                headers.insert("link", HeaderValue::from_str(&format!("<{link}>; rel=next")).unwrap());
            }
            match pager.turn(&Arrived { body: body.as_bytes(), headers: &headers, url: &url }) {
                Ok(turn) if turn.is_last => return (asked, Ok(pager.cursor)),
                Ok(_) => {}
                Err(failure) => return (asked, Err(failure)),
            }
        }
        (asked, Ok(pager.cursor))
    }

    #[test]
    fn every_style_finds_its_way_to_the_end() {
        let (asked, end) = follow(&pagination(number()), &["[1,2]", "[3]", "[]"]);
        assert_eq!(asked, ["/list?q=a%20b&page=1&n=2", "/list?q=a%20b&page=2&n=2", "/list?q=a%20b&page=3&n=2"]);
        let end = end.unwrap();
        assert_eq!((end.pages, end.items, end.bytes), (2, 3, 8));

        let offset = PageStyle::Offset { param: "skip".into(), limit_param: String::new(), limit: 0 };
        let (asked, _) = follow(&pagination(offset), &["[1,2,3]", "[4]", "[]"]);
        assert_eq!(
            asked.iter().map(|url| url.rsplit('&').next().unwrap()).collect::<Vec<_>>(),
            ["skip=0", "skip=3", "skip=4"]
        );

        let (asked, end) = follow(&pagination(PageStyle::LinkHeader), &["/p2?x|[1]", "p3|[2]", "[3]"]);
        assert_eq!((&asked[1..], end.unwrap().items), (&["/p2?x".to_owned(), "/p3".to_owned()][..], 3));

        let at = |style| Pagination { items_pointer: "/d".into(), ..pagination(style) };
        let cursor = PageStyle::Cursor { param: "page".into(), next_pointer: "/c".into() };
        let (asked, _) =
            follow(&at(cursor), &[r#"{"d":[1],"c":"x y&z"}"#, r#"{"d":[2],"c":7}"#, r#"{"d":[3],"c":null}"#]);
        assert_eq!(asked, ["/list?q=a%20b&page=9", "/list?q=a%20b&page=x+y%26z", "/list?q=a%20b&page=7"]);

        let next = PageStyle::NextUrl { next_pointer: "/n".into() };
        let (asked, end) = follow(&at(next), &[r#"{"d":[1],"n":"?p=2"}"#, r#"{"d":[],"n":"?p=3"}"#]);
        assert_eq!((asked[1].as_str(), end.unwrap().pages), ("/list?p=2", 1), "an empty page ends it");
    }

    #[test]
    fn limits_end_it() {
        let pages = ["[1,2]", "[3,4]", "[5,6]", "[]"];
        let (asked, end) = follow(&Pagination { max_pages: 2, ..pagination(number()) }, &pages);
        assert_eq!((asked.len(), end.unwrap().items), (2, 4));
        let (asked, end) = follow(&Pagination { max_items: 3, ..pagination(number()) }, &pages);
        assert_eq!((asked.len(), end.unwrap().items), (2, 3));
        let (asked, end) = follow(&pagination(number()), &["[]"]);
        assert_eq!((asked.len(), end.unwrap().pages), (1, 1), "an empty listing has its page");
    }

    #[test]
    fn circles_and_bad_targets_are_failures() {
        let reason = |pagination: &Pagination, pages: &[&str]| {
            let (asked, end) = follow(pagination, pages);
            (asked.len(), end.map(|_| ()).map_err(|failure| failure.reason))
        };
        let link = pagination(PageStyle::LinkHeader);
        let circle = (3, Err(FailureReason::Protocol));
        assert_eq!(reason(&link, &["/2|[1]", "/3|[2]", "/2|[3]", "/4|[1]"]), circle);
        assert_eq!(reason(&link, &["/list?q=a%20b&page=9|[1]", "[2]"]).1, Err(FailureReason::Protocol));
        assert_eq!(reason(&pagination(number()), &["[1]", "[2]", "[2]"]), circle);
        assert_eq!(reason(&link, &["ftp://b/|[1]"]).1, Err(FailureReason::ForbiddenAddress));
        assert_eq!(reason(&link, &["http://|[1]"]).1, Err(FailureReason::Protocol));
        let (base, style) = (Url::parse("http://a.example/").unwrap(), pagination(PageStyle::LinkHeader));
        let mut pager = Pager::new(&style, &base, None);
        let url = pager.request().unwrap();
        let headers = HeaderMap::from_iter([(http::header::LINK, HeaderValue::from_static("/2; rel=next"))]);
        let end = pager.turn(&Arrived { body: b"[1]", headers: &headers, url: &url });
        assert_eq!(end.unwrap_err().reason, FailureReason::Protocol, "an unreadable `Link` is not the end");
        assert_eq!(reason(&link, &["{}"]).1, Err(FailureReason::BadContent));
        let https = Url::parse("https://a/").unwrap();
        assert_eq!(resolve(&https, "http://a/2").unwrap_err().reason, FailureReason::Protocol);
    }

    /// An origin that ignores what it is asked, and writes the time into each page; and two of which each has its own page.
    #[test]
    fn the_same_items_for_ever_are_a_failure() {
        type Make<'a> = &'a dyn Fn(u32) -> String;
        let style = pagination(number());
        let at = Pagination { items_pointer: "/d".into(), ..style.clone() };
        let stamped = |number: u32| format!(r#"{{"d":[1,{{"a":2}}],"at":{number}}}"#);
        let spaced = |number: u32| format!("[1,{}2]", " ".repeat(number as usize));
        let by_turns = |number: u32| format!("[{}]", number % 2);
        let around = |number: u32| format!("[{}]", number % 5);
        let cases: [(&Pagination, Make<'_>, u32); 4] =
            [(&at, &stamped, 1), (&style, &spaced, 1), (&style, &by_turns, 2), (&style, &around, 5)];
        for (pagination, make, others) in cases {
            let bodies: Vec<String> = (0..100).map(make).collect();
            let (asked, end) = follow(pagination, &bodies.iter().map(String::as_str).collect::<Vec<_>>());
            let failure = end.unwrap_err();
            assert_eq!((failure.reason, asked.len()), (FailureReason::Protocol, (others + REPEATS_MAX) as usize));
            let message = format!("page {} has the items of an earlier one", others + REPEATS_MAX - 1);
            assert!(failure.message.starts_with(&message), "{}", failure.message);
        }
    }

    /// In a log of measurements many pages may look alike.
    #[test]
    fn some_pages_may_look_as_others_do() {
        let at = Pagination { items_pointer: "/d".into(), ..pagination(number()) };
        let items = |number: u32| if number.is_multiple_of(8) { number } else { 0 };
        let mut bodies: Vec<String> =
            (1..40).map(|number| format!(r#"{{"d":[{}],"n":{number}}}"#, items(number))).collect();
        bodies.push(r#"{"d":[]}"#.to_owned());
        let (_, end) = follow(&at, &bodies.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(end.unwrap().pages, 39);
    }

    #[test]
    fn pages_that_come_again_are_known_after_every_restart() {
        let base = Url::parse("http://a.example/").unwrap();
        let (style, headers) = (pagination(number()), HeaderMap::new());
        let mut stored = None;
        for number in 0..2 + REPEATS_MAX {
            let mut pager = Pager::new(&style, &base, stored.map(|text: String| serde_json::from_str(&text).unwrap()));
            let url = pager.request().unwrap();
            let body = format!("[{}]", number % 2);
            let turn = pager.turn(&Arrived { body: body.as_bytes(), headers: &headers, url: &url });
            assert_eq!(turn.is_err(), number == 1 + REPEATS_MAX, "page {number}");
            stored = Some(serde_json::to_string(&pager.cursor).unwrap());
        }
    }

    #[test]
    fn a_listing_that_has_no_more_numbers_is_not_complete() {
        let last = |style, bodies: &[&str]| follow(&pagination(style), bodies).1.map(|end| end.pages);
        let number = |first| PageStyle::PageNumber { param: "p".into(), first, size_param: String::new(), size: 0 };
        let failure = last(number(u64::MAX - 1), &["[1]", "[2]", "[3]"]).unwrap_err();
        assert_eq!(failure.reason, FailureReason::Protocol, "{}", failure.message);
        assert_eq!(last(number(u64::MAX - 1), &["[1]", "[]"]).unwrap(), 1);
        let limited = Pagination { max_pages: 2, ..pagination(number(u64::MAX - 1)) };
        assert_eq!(follow(&limited, &["[1]", "[2]"]).1.unwrap().pages, 2, "no more were asked for");
    }

    #[test]
    fn pages_count_from_0_in_messages() {
        let (_, circle) = follow(&pagination(PageStyle::LinkHeader), &["/list?q=a%20b&page=9|[1]", "[2]"]);
        assert!(circle.unwrap_err().message.starts_with("page 0 leads back to a URL"));
        let (_, same) = follow(&pagination(number()), &["[1]", "[1]"]);
        assert!(same.unwrap_err().message.starts_with("page 1 is the same as the one before"));
    }

    #[test]
    fn a_cursor_goes_on_after_a_restart_and_still_sees_the_circle() {
        let base = Url::parse("http://a.example/").unwrap();
        let style = pagination(PageStyle::LinkHeader);
        let mut headers = HeaderMap::new();
        headers.insert("link", HeaderValue::from_static("</2>; rel=next"));
        let mut pager = Pager::new(&style, &base, None);
        let url = pager.request().unwrap();
        pager.turn(&Arrived { body: b"[1]", headers: &headers, url: &url }).unwrap();
        let stored = serde_json::to_string(&pager.cursor).unwrap();

        let mut pager = Pager::new(&style, &base, serde_json::from_str(&stored).unwrap());
        let url = pager.request().unwrap();
        assert_eq!((url.as_str(), pager.cursor.pages), ("http://a.example/2", 1));
        headers.insert("link", HeaderValue::from_static("</>; rel=next"));
        pager.turn(&Arrived { body: b"[2]", headers: &headers, url: &url }).unwrap();
        assert_eq!(pager.request().unwrap_err().reason, FailureReason::Protocol);
    }

    proptest! {
        #[test]
        fn a_parameter_is_set_and_the_others_stay(query in "[a-z=&%20+]{0,20}", name in "[a-z]{1,3}", value in ".{0,9}") {
            let mut url = Url::parse("http://a/").unwrap();
            url.set_query(Some(&query));
            let others = |url: &Url| -> Vec<_> {
                url.query_pairs().filter(|(own, _)| *own != name).map(|(a, b)| (a.into_owned(), b.into_owned())).collect()
            };
            let before = others(&url);
            set_param(&mut url, &name, &value);
            prop_assert_eq!(others(&url), before);
            let set: Vec<_> = url.query_pairs().filter(|(own, _)| *own == name).map(|(_, v)| v.into_owned()).collect();
            prop_assert_eq!(set, vec![value]);
        }
    }
}
