//! `/metrics`: what Prometheus scrapes, in the form that it asks for.

use std::convert::Infallible;
use std::sync::Arc;

use async_compression::tokio::write::GzipEncoder;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, VARY};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tokio::io::AsyncWriteExt as _;
use tonic::body::Body;
use tower::Service;

use crate::rest::accept::prefers;
use crate::rest::answer::whole;
use crate::telemetry::metrics::page::Form;

/// Writes the page.
pub type Scrape = Arc<dyn Fn(Form) -> BoxFuture<'static, String> + Send + Sync>;

/// Makes the service that answers with the page, whatever the path. Who may ask is judged before it.
pub fn service(
    scrape: Scrape,
) -> impl Service<
    Request<Body>,
    Response = Response<Body>,
    Error = Infallible,
    Future = BoxFuture<'static, Result<Response<Body>, Infallible>>,
> + Clone
+ Send
+ Sync
+ 'static {
    tower::service_fn(move |request: Request<Body>| {
        let scrape = scrape.clone();
        let answer: BoxFuture<'static, Result<Response<Body>, Infallible>> = Box::pin(async move {
            let form = form(request.headers());
            Ok(answer(scrape(form).await, form, takes_gzip(request.headers())).await)
        });
        answer
    })
}

/// Chooses by what a client takes: who does not ask for the newer form gets the one that everything reads.
fn form(headers: &HeaderMap) -> Form {
    if prefers(headers, "application/openmetrics-text", "text/plain") { Form::OpenMetrics } else { Form::Classic }
}

async fn answer(page: String, form: Form, is_gzip: bool) -> Response<Body> {
    let packed = if is_gzip { gzipped(page.as_bytes()).await } else { None };
    let is_gzip = packed.is_some();
    let body = packed.unwrap_or_else(|| page.into());
    let mut response = whole(StatusCode::OK, form.content_type(), body);
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    if is_gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

async fn gzipped(page: &[u8]) -> Option<Bytes> {
    let mut encoder = GzipEncoder::new(Vec::with_capacity(page.len() / 4));
    encoder.write_all(page).await.ok()?;
    encoder.shutdown().await.ok()?;
    Some(encoder.into_inner().into())
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    // They may come in several lines.
    let lines: Vec<&str> = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok()).collect();
    let listed = lines.join(",");
    let mut encodings = listed.split(',').map(|encoding| encoding.split(';').map(str::trim));
    encodings.any(|mut parts| {
        parts.next() == Some("gzip") && parts.all(|it| !matches!(it, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

#[cfg(test)]
mod tests {
    use http::header::ACCEPT;

    use super::*;

    #[test]
    fn the_form_is_the_one_that_is_liked_best() {
        for (accept, expected) in [
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
                Form::OpenMetrics,
            ),
            ("application/openmetrics-text, text/plain", Form::OpenMetrics),
            ("text/plain;q=1, application/openmetrics-text;q=0.1", Form::Classic),
            ("application/openmetrics-text;q=0", Form::Classic),
            ("text/plain", Form::Classic),
            ("*/*", Form::Classic),
            ("", Form::Classic),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(form(&headers), expected, "{accept}");
        }
    }

    #[test]
    fn gzip_is_for_those_who_take_it() {
        let takes = |value: &'static str| {
            takes_gzip(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]))
        };
        assert!(takes("gzip") && takes("br, gzip;q=0.5") && takes("deflate,gzip"));
        assert!(!takes("") && !takes("br") && !takes("gzip;q=0") && !takes("gzip; q=0.0, br") && !takes("xgzip"));
    }
}
