//! Listings, page by page.

use std::sync::Arc;
use std::time::Duration;

use haul::fetch::{Page, PageCursor, json};
use haul::model::failure::FailureReason;
use haul::model::outcome::AttemptEnd;
use haul::model::secret::Secret;
use haul::model::spec::{FetchSpec, PageStyle, Pagination};
use haul::net::Profile;

use crate::bench::{Bench, result, spec};
use crate::support::origin::{Origin, Request};
use crate::support::reply::Reply;

const ITEMS: u64 = 25;
const SIZE: u64 = 10;

fn listing(url: String, style: PageStyle) -> FetchSpec {
    let pagination = Pagination { style, items_pointer: "/items".into(), max_pages: 0, max_items: 0 };
    FetchSpec { pagination: Some(pagination), ..spec(url) }
}

fn number() -> PageStyle {
    PageStyle::PageNumber { param: "page".into(), first: 1, size_param: "size".into(), size: SIZE }
}

/// An API that lists 25 items in every style at once.
fn api(request: &Request) -> Reply {
    let number = |name: &str| request.param(name).and_then(|text| text.parse::<u64>().ok());
    let from = match (number("page"), number("offset"), number("cursor")) {
        (Some(page), ..) => (page - 1) * SIZE,
        (_, Some(offset), _) | (_, _, Some(offset)) => offset,
        _ => 0,
    };
    let to = (from + SIZE).min(ITEMS);
    let items: Vec<String> = (from..to.max(from)).map(|item| format!("{{\"id\": {item}.0}}")).collect();
    let more = if to < ITEMS {
        format!(r#""next":"?cursor={to}","cursor":{to}"#)
    } else {
        r#""next":null,"cursor":"""#.into()
    };
    let reply = Reply::json(format!(r#"{{"items":[{}],{more}}}"#, items.join(",")));
    if to < ITEMS { reply.header("Link", &format!("<?cursor={to}>; rel=\"next\"")) } else { reply }
}

fn items(pages: &[Page]) -> Vec<String> {
    let of = |page: &Page| {
        let all = json::items(&page.body, "/items").unwrap();
        all.iter().take(page.item_count as usize).map(|item| item.get().to_owned()).collect::<Vec<_>>()
    };
    pages.iter().flat_map(of).collect()
}

fn expected(count: u64) -> Vec<String> {
    (0..count).map(|item| format!("{{\"id\": {item}.0}}")).collect()
}

#[tokio::test]
async fn every_style_brings_every_item_once_and_in_order() {
    let origin = Origin::start();
    origin.handle("/list", api);
    let styles = [
        (number(), 4),
        (PageStyle::Offset { param: "offset".into(), limit_param: "limit".into(), limit: SIZE }, 4),
        (PageStyle::LinkHeader, 3),
        (PageStyle::Cursor { param: "cursor".into(), next_pointer: "/cursor".into() }, 3),
        (PageStyle::NextUrl { next_pointer: "/next".into() }, 3),
    ];
    for (style, requests) in styles {
        let before = origin.all_requests().len();
        let bench = Bench::new();
        let fetched = bench.run(&listing(origin.url("/list"), style.clone())).await;
        let pages = bench.sink.pages.lock().unwrap();
        assert_eq!(items(&pages), expected(ITEMS), "{style:?}");
        let places: Vec<_> = pages.iter().map(|page| (page.number, page.first_item, page.item_count)).collect();
        assert_eq!(places, [(0, 0, 10), (1, 10, 10), (2, 20, 5)]);
        let kept = result(&fetched);
        let bytes: usize = pages.iter().map(|page| page.body.len()).sum();
        assert_eq!((kept.pages, kept.items, kept.body_bytes), (3, ITEMS, bytes as u64), "{style:?}");
        assert_eq!((fetched.body, origin.all_requests().len() - before), (None, requests));
    }
}

#[tokio::test]
async fn each_page_is_kept_before_the_next_is_asked_for() {
    let origin = Arc::new(Origin::start());
    origin.handle("/list", api);
    let mut bench = Bench::new();
    let seen = Arc::clone(&origin);
    bench.sink.page_delay = Duration::from_millis(30);
    bench.sink.on_page = Some(Box::new(move |page| assert_eq!(seen.all_requests().len(), page.number as usize + 1)));
    assert_eq!(result(&bench.run(&listing(origin.url("/list"), PageStyle::LinkHeader)).await).items, ITEMS);
}

#[tokio::test]
async fn it_goes_on_after_every_page() {
    let origin = Origin::start();
    origin.handle("/list", api);
    for style in [number(), PageStyle::NextUrl { next_pointer: "/next".into() }] {
        let spec = listing(origin.url("/list"), style);
        let whole = Bench::new();
        let end = whole.run(&spec).await;
        let pages = whole.sink.pages.lock().unwrap().clone();
        for kept in 1..=pages.len() {
            let stored = serde_json::to_string(&pages[kept - 1].cursor).unwrap();
            let cursor: PageCursor = serde_json::from_str(&stored).unwrap();
            let rest = Bench::new();
            let resumed = rest.resume(&spec, Some(cursor)).await;
            assert_eq!(*rest.sink.pages.lock().unwrap(), pages[kept..]);
            let (one, other) = (result(&resumed), result(&end));
            assert_eq!((one.pages, one.items, one.body_bytes), (other.pages, other.items, other.body_bytes));
        }
    }
}

#[tokio::test]
async fn a_page_that_fails_is_the_failure_and_the_next_attempt_goes_on_from_there() {
    let (origin, bench) = (Origin::start(), Bench::new());
    origin.handle("/list", |request| if request.nth == 1 { Reply::status(503) } else { api(request) });
    let spec = listing(origin.url("/list"), PageStyle::LinkHeader);
    assert_eq!(bench.reason(&spec).await, (FailureReason::HttpStatus, true));
    let cursor = bench.sink.pages.lock().unwrap().last().unwrap().cursor.clone();
    assert_eq!(result(&bench.resume(&spec, Some(cursor)).await).items, ITEMS);
    assert_eq!(items(&bench.sink.pages.lock().unwrap()), expected(ITEMS));
    assert_eq!(origin.all_requests().len(), 4);
}

#[tokio::test]
async fn limits_end_it_within_a_page() {
    let origin = Origin::start();
    origin.handle("/list", api);
    let limited = |max_pages, max_items| {
        let mut spec = listing(origin.url("/list"), PageStyle::LinkHeader);
        let pagination = spec.pagination.as_mut().unwrap();
        (pagination.max_pages, pagination.max_items) = (max_pages, max_items);
        spec
    };
    for (pages, count, expected_items) in [(2, 0, 20), (0, 13, 13), (0, 10, 10), (1, 13, 10)] {
        let bench = Bench::new();
        let fetched = bench.run(&limited(pages, count)).await;
        assert_eq!(result(&fetched).items, expected_items);
        assert_eq!(items(&bench.sink.pages.lock().unwrap()), expected(expected_items));
    }
    assert_eq!(origin.all_requests().len(), 2 + 2 + 1 + 1);
}

#[tokio::test]
async fn a_circle_is_an_error_that_keeps_what_came_before() {
    let (origin, bench) = (Origin::start(), Bench::new());
    origin.handle("/list", |request| {
        let next = if request.query == "b" { "?a" } else { "?b" };
        Reply::json(format!(r#"{{"items":[{}]}}"#, request.nth)).header("Link", &format!("<{next}>; rel=next"))
    });
    assert_eq!(
        bench.reason(&listing(origin.url("/list?a"), PageStyle::LinkHeader)).await,
        (FailureReason::Protocol, false)
    );
    assert_eq!((bench.sink.pages.lock().unwrap().len(), origin.all_requests().len()), (2, 2));

    let ignoring = Bench::new();
    origin.reply("/same", Reply::json(r#"{"items":[1]}"#));
    assert_eq!(ignoring.reason(&listing(origin.url("/same"), number())).await, (FailureReason::Protocol, false));
    assert_eq!(origin.requests("/same").len(), 2);
}

#[tokio::test]
async fn pages_that_are_not_what_they_should_be() {
    let (origin, bench) = (Origin::start(), Bench::new());
    origin.reply("/html", Reply::ok("<html>"));
    origin.reply("/object", Reply::json(r#"{"items":{}}"#));
    origin.reply("/ftp", Reply::json(r#"{"items":[1]}"#).header("Link", "<ftp://a/>; rel=next"));
    origin.reply("/large", Reply::json(format!(r#"{{"items":[{}0]}}"#, "0,".repeat(1 << 20))));
    let reason = async |path: &str| bench.reason(&listing(origin.url(path), PageStyle::LinkHeader)).await.0;
    assert_eq!(reason("/html").await, FailureReason::BadContent);
    assert_eq!(reason("/object").await, FailureReason::BadContent);
    assert_eq!(reason("/ftp").await, FailureReason::ForbiddenAddress);
    assert_eq!(reason("/large").await, FailureReason::TooLarge);
}

#[tokio::test]
async fn secrets_and_cookies_stay_at_home() {
    let (origin, other) = (Origin::start(), Origin::start_on([127, 0, 0, 2]));
    let away = other.url("/list");
    origin.handle("/list", move |request| {
        let next = if request.nth == 0 { "?2" } else { away.as_str() };
        Reply::json(format!(r#"{{"items":[{}]}}"#, request.nth))
            .header("Link", &format!("<{next}>; rel=next"))
            .header("Set-Cookie", "page=1")
    });
    other.reply("/list", Reply::json(r#"{"items":[9]}"#));
    let mut bench = Bench::new();
    let mut profile = Profile::default();
    profile.http.bearer_token = Some(Secret::new("token"));
    bench.profile = Arc::new(profile);
    let spec = listing(origin.url("/list"), PageStyle::LinkHeader);
    assert_eq!(result(&bench.run(&spec).await).items, 3);
    let second = &origin.all_requests()[1];
    assert_eq!((second.header("authorization"), second.header("cookie")), (Some("Bearer token"), Some("page=1")));
    let strangers = &other.all_requests()[0];
    assert_eq!((strangers.header("authorization"), strangers.header("cookie")), (None, None));

    // A later attempt that begins away from home keeps them to itself as well.
    let cursor = bench.sink.pages.lock().unwrap()[1].cursor.clone();
    bench.resume(&spec, Some(cursor)).await;
    assert_eq!(other.all_requests()[1].header("authorization"), None);
}

#[tokio::test]
async fn an_empty_listing_is_one_empty_page() {
    let (origin, bench) = (Origin::start(), Bench::new());
    origin.reply("/list", Reply::json(r#"{"items":null}"#));
    let fetched = bench.run(&listing(origin.url("/list"), number())).await;
    assert_eq!((result(&fetched).pages, result(&fetched).items), (1, 0));
    assert!(matches!(fetched.end, AttemptEnd::Done(_)));
}

#[tokio::test]
async fn no_content_behind_the_last_page_ends_it() {
    let (origin, bench) = (Origin::start(), Bench::new());
    origin.handle("/list", |request| match request.nth {
        0 | 1 => Reply::json(format!(r#"{{"items":[{}]}}"#, request.nth)),
        _ => Reply::status(204),
    });
    let fetched = bench.run(&listing(origin.url("/list"), number())).await;
    assert_eq!((result(&fetched).pages, result(&fetched).items, result(&fetched).http_status), (2, 2, 204));
    origin.reply("/none", Reply::status(204));
    let fetched = bench.run(&listing(origin.url("/none"), number())).await;
    assert_eq!((result(&fetched).pages, result(&fetched).items), (0, 0));
}

/// Frameworks answer so behind the last page, and an origin that breaks off may, too: the task says which it is.
#[tokio::test]
async fn a_page_that_is_not_there_ends_what_is_counted_where_the_task_accepts_that() {
    let page = r#"{"items":[1],"cursor":"a","next":"?b"}"#;
    let accepting = |spec: FetchSpec| FetchSpec { accept_statuses: vec![(200, 299), (404, 416)], ..spec };
    let start = |status: u16| {
        let origin = Origin::start();
        origin.handle("/list", move |request| match request.nth {
            0 | 2 => Reply::json(page).header("Link", "<?c>; rel=next"),
            _ => Reply::status(status).body("no such page"),
        });
        origin.reply("/none", Reply::status(status).body("no such page"));
        (origin, Bench::new())
    };
    let offset = || PageStyle::Offset { param: "skip".into(), limit_param: String::new(), limit: 0 };
    for status in [404, 410, 416] {
        let (origin, bench) = start(status);
        let reason = bench.reason(&listing(origin.url("/list"), number())).await;
        assert_eq!(reason, (FailureReason::HttpStatus, false), "{status}");
        let fetched = bench.run(&accepting(listing(origin.url("/list"), offset()))).await;
        assert_eq!((result(&fetched).pages, result(&fetched).items), (1, 1), "{status}");
        let reason = bench.reason(&accepting(listing(origin.url("/none"), number()))).await;
        assert_eq!(reason, (FailureReason::BadContent, false), "the first page is there, or the URL is wrong");
    }
    let (origin, bench) = start(205);
    let fetched = bench.run(&listing(origin.url("/list"), number())).await;
    assert_eq!((result(&fetched).pages, result(&fetched).items), (1, 1), "no content");
    for style in [
        PageStyle::LinkHeader,
        PageStyle::Cursor { param: "cursor".into(), next_pointer: "/cursor".into() },
        PageStyle::NextUrl { next_pointer: "/next".into() },
    ] {
        let (origin, bench) = start(404);
        let reason = bench.reason(&accepting(listing(origin.url("/list"), style))).await;
        assert_eq!(reason, (FailureReason::BadContent, false), "the page before has named it");
    }
}

#[tokio::test]
async fn a_link_that_cannot_be_read_is_no_end() {
    let (origin, bench) = (Origin::start(), Bench::new());
    let next = origin.url("/list?2");
    origin.reply("/list", Reply::json(r#"{"items":[1]}"#).header("Link", &format!("{next}; rel=next")));
    let reason = bench.reason(&listing(origin.url("/list"), PageStyle::LinkHeader)).await;
    assert_eq!(reason, (FailureReason::Protocol, false));
    assert_eq!(bench.sink.pages.lock().unwrap().len(), 0);
    // A line with a control character in it is no line to pass over.
    let odd =
        "HTTP/1.1 200 OK\r\nLink: </odd?2>; rel=\"next\"; title=\"\u{1}\"\r\nContent-Length: 13\r\n\r\n{\"items\":[1]}";
    origin.handle(
        "/odd",
        move |request| {
            if request.query.is_empty() { Reply::raw(odd) } else { Reply::json(r#"{"items":[2]}"#) }
        },
    );
    let end = bench.run(&listing(origin.url("/odd"), PageStyle::LinkHeader)).await;
    assert!(matches!(end.end, haul::model::outcome::AttemptEnd::Done(_)), "{:?}", end.end);
    assert_eq!(items(&bench.sink.pages.lock().unwrap()), ["1", "2"]);
}

#[tokio::test]
async fn the_body_of_a_listing_is_for_its_own_origin() {
    let (origin, elsewhere, bench) = (Origin::start(), Origin::start_on([127, 0, 0, 2]), Bench::new());
    elsewhere.reply("/2", Reply::json(r#"{"items":[2]}"#));
    origin.reply("/1", Reply::json(format!(r#"{{"items":[1],"next":"{}"}}"#, elsewhere.url("/2"))));
    let next_url = || PageStyle::NextUrl { next_pointer: "/next".into() };
    let failure = bench
        .failure(&FetchSpec {
            method: "POST".into(),
            body: br#"{"api_key":"secret"}"#.into(),
            ..listing(origin.url("/1"), next_url())
        })
        .await;
    assert_eq!((failure.reason, elsewhere.all_requests().len()), (FailureReason::Protocol, 0), "{failure}");
    let fetched = bench.run(&listing(origin.url("/1"), next_url())).await;
    assert_eq!(result(&fetched).items, 2, "without a body there is nothing to keep back");
}
