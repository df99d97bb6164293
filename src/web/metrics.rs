//! `/metrics`: what Prometheus scrapes, in the form that it asks for.

use std::convert::Infallible;
use std::sync::Arc;

use async_compression::tokio::write::GzipEncoder;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, HeaderName, VARY};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tokio::io::AsyncWriteExt as _;
use tonic::body::Body;
use tower::Service;

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
            let form = Form::accepted(&listed(request.headers(), &ACCEPT));
            Ok(answer(scrape(form).await, form, takes_gzip(request.headers())).await)
        });
        answer
    })
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
    let listed = listed(headers, &ACCEPT_ENCODING);
    let mut encodings = listed.split(',').map(|encoding| encoding.split(';').map(str::trim));
    encodings.any(|mut parts| {
        parts.next() == Some("gzip") && parts.all(|it| !matches!(it, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

/// Returns a header that may come in several lines as one.
fn listed(headers: &HeaderMap, name: &HeaderName) -> String {
    let lines: Vec<&str> = headers.get_all(name).iter().filter_map(|line| line.to_str().ok()).collect();
    lines.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_those_who_take_it() {
        let takes = |value: &'static str| {
            takes_gzip(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]))
        };
        assert!(takes("gzip") && takes("br, gzip;q=0.5") && takes("deflate,gzip"));
        assert!(!takes("") && !takes("br") && !takes("gzip;q=0") && !takes("gzip; q=0.0, br") && !takes("xgzip"));
    }
}
