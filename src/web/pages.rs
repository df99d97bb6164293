//! The dashboard over HTTP: one document for every page, and the files that it names.
//!
//! What it shows came from strangers, so the document may load and run nothing but files of this server, be framed by
//! nobody and send forms nowhere.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use tonic::body::Body;

use crate::api::outbound::Shared;
use crate::model::pages::is_page;
use crate::rest::answer::Refusal;
use crate::web::assets::{self, Asset};

const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; img-src 'self' blob:; object-src 'none'; form-action 'none'; frame-ancestors 'none'; \
     base-uri 'none'",
);
const METHODS: &str = "GET, HEAD";

/// Answers a request for a page or a file of the dashboard; `None` where the path is neither, and the client no browser
/// that would show a page about that.
pub(super) fn answer(method: &Method, path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
    let name = if is_page(path) { assets::INDEX } else { path.strip_prefix('/')? };
    // The document has the paths of its pages, and none of its own.
    let asset = assets::find(name).filter(|it| is_page(path) || it.name != assets::INDEX);
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    match asset {
        Some(asset) if is_read => Some(file(&asset, StatusCode::OK, headers)),
        Some(_) if *method == Method::OPTIONS => Some(methods()),
        Some(_) => Some(Refusal::no_method(method.as_str(), path, METHODS.to_owned()).into_response()),
        None if is_read && shows_pages(headers) => {
            Some(file(&assets::find(assets::INDEX)?, StatusCode::NOT_FOUND, headers))
        }
        None => None,
    }
}

fn file(asset: &Asset, code: StatusCode, headers: &HeaderMap) -> Response<Body> {
    let brotli = asset.brotli.as_ref().filter(|_| takes_brotli(headers));
    // Other bytes, other tag: a strong one names the bytes that are sent.
    let tag = if brotli.is_some() { format!("\"{}-br\"", asset.tag) } else { format!("\"{}\"", asset.tag) };
    let is_known = code == StatusCode::OK && texts(headers, &IF_NONE_MATCH).any(|it| is_named(it, &tag));
    let mut response = if is_known {
        Response::new(Body::empty())
    } else {
        Response::new(Body::new(Full::new(brotli.unwrap_or(&asset.plain).clone())))
    };
    // The bytes are those of the program.
    response.extensions_mut().insert(Shared);
    *response.status_mut() = if is_known { StatusCode::NOT_MODIFIED } else { code };
    let out = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        out.insert(ETAG, tag);
    }
    if brotli.is_some() && !is_known {
        out.insert(CONTENT_ENCODING, HeaderValue::from_static("br"));
    }
    out.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    out.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    out.insert(CONTENT_TYPE, HeaderValue::from_static(kind(asset.name)));
    out.insert(CONTENT_SECURITY_POLICY, POLICY);
    out.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    out.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn methods() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(METHODS));
    response
}

fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

fn texts<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().filter_map(|it| it.to_str().ok())
}

/// Returns whether a list of tags has this one. A proxy may have made it weak, which says the same here.
fn is_named(list: &str, tag: &str) -> bool {
    list.split(',').map(str::trim).any(|it| it == "*" || it.strip_prefix("W/").unwrap_or(it) == tag)
}

fn takes_brotli(headers: &HeaderMap) -> bool {
    texts(headers, &ACCEPT_ENCODING).flat_map(|it| it.split(',')).any(|it| {
        let (coding, weight) = it.split_once(';').unwrap_or((it, ""));
        let is_refused = weight.trim().strip_prefix("q=").is_some_and(|it| it.trim().parse() == Ok(0.0_f32));
        coding.trim().eq_ignore_ascii_case("br") && !is_refused
    })
}

/// Returns whether a client would show a document: browsers name HTML, other clients do not.
fn shows_pages(headers: &HeaderMap) -> bool {
    texts(headers, &ACCEPT).any(|it| it.contains("text/html"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(HeaderName, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn get(path: &str, all: &[(HeaderName, &str)]) -> Option<Response<Body>> {
        answer(&Method::GET, path, &headers(all))
    }

    #[test]
    fn a_page_is_the_document_and_may_load_nothing_of_others() {
        for path in ["/", "/jobs", "/jobs/x/tasks/7"] {
            let page = get(path, &[]).unwrap();
            assert_eq!(page.status(), StatusCode::OK, "{path}");
            assert_eq!(page.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
            assert_eq!(page.headers()[CONTENT_SECURITY_POLICY], POLICY);
            assert_eq!(page.headers()[CACHE_CONTROL], "no-cache");
            assert_eq!(page.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
        }
        assert!(get("/index.html", &[]).is_none(), "the document has no path of its own");
    }

    #[test]
    fn a_file_that_is_known_is_not_sent_again() {
        let plain = get("/app.js", &[]).unwrap();
        let tag = plain.headers()[ETAG].to_str().unwrap().to_owned();
        assert!(!tag.starts_with("W/"));
        for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
            let again = get("/app.js", &[(IF_NONE_MATCH, &known)]).unwrap();
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{known}");
        }
        assert_eq!(get("/app.js", &[(IF_NONE_MATCH, "\"other\"")]).unwrap().status(), StatusCode::OK);
        let packed = get("/app.js", &[(ACCEPT_ENCODING, "gzip, br")]).unwrap();
        assert_eq!(packed.headers()[CONTENT_ENCODING], "br");
        assert_ne!(packed.headers()[ETAG].to_str().unwrap(), tag, "other bytes have another tag");
        for other in ["gzip", "gzip, br;q=0", "brother"] {
            assert!(!get("/app.js", &[(ACCEPT_ENCODING, other)]).unwrap().headers().contains_key(CONTENT_ENCODING));
        }
    }

    #[test]
    fn what_is_not_there_is_a_page_to_browsers_alone() {
        let page = get("/schedules", &[(ACCEPT, "text/html,*/*;q=0.8")]).unwrap();
        assert_eq!(
            (page.status(), &page.headers()[CONTENT_TYPE]),
            (StatusCode::NOT_FOUND, &kind("x.html").parse().unwrap())
        );
        assert!(get("/schedules", &[(ACCEPT, "*/*")]).is_none());
        assert!(answer(&Method::POST, "/schedules", &headers(&[(ACCEPT, "text/html")])).is_none());
        assert_eq!(answer(&Method::POST, "/jobs", &HeaderMap::new()).unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    }

    #[test]
    fn the_dashboard_is_small() {
        let sizes = ["index.html", "app.js", "app.css", "favicon.svg"]
            .map(|name| assets::find(name).unwrap().brotli.map_or(0, |it| it.len()));
        assert!(sizes.iter().sum::<usize>() <= 120_000, "{sizes:?}");
    }
}
