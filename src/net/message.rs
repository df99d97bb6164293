//! Requests in the forms in which they are sent. Pure.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, PROXY_AUTHORIZATION};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use http_body_util::Full;
use url::Position;

use crate::model::failure::{Failure, FailureReason};
use crate::net::Request;
use crate::net::target::Target;

/// How HTTP/1.1 names what it asks for (RFC 9112, section 3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// To an origin: by path and query.
    Origin,
    /// To a proxy that passes the request on: by the whole URL, with what the proxy asks for.
    Absolute {
        /// The value of `Proxy-Authorization`.
        authorization: Option<HeaderValue>,
    },
}

impl Form {
    /// Fails where the answer is the proxy's own, and says that it wants other credentials.
    pub(super) fn judge<T>(&self, answer: &http::Response<T>) -> Result<(), Failure> {
        if *self != Form::Origin && answer.status() == http::StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            let message = "the proxy requires credentials that it accepts; put them into `proxy_url` (407)";
            return Err(Failure::fatal(FailureReason::Proxy, message));
        }
        Ok(())
    }
}

/// The request for an HTTP/1.1 connection.
pub(super) fn http1(target: &Target, form: &Form, request: &Request) -> Result<http::Request<Full<Bytes>>, Failure> {
    let mut message = http::Request::new(Full::new(request.body.clone()));
    *message.method_mut() = request.method.clone();
    *message.headers_mut() = request.headers.clone();
    let headers = message.headers_mut();
    headers.entry(HOST).or_insert_with(|| target.host_header.clone());
    say_length(headers, request);
    *message.uri_mut() = match form {
        Form::Origin => Uri::from(path_of(request)?),
        Form::Absolute { authorization } => {
            if let Some(authorization) = authorization {
                headers.insert(PROXY_AUTHORIZATION, authorization.clone());
            }
            absolute(target, path_of(request)?)?
        }
    };
    Ok(message)
}

/// The head of the request for an HTTP/2 connection.
pub(super) fn http2(target: &Target, request: &Request) -> Result<http::Request<()>, Failure> {
    let mut message = http::Request::new(());
    *message.method_mut() = request.method.clone();
    *message.version_mut() = Version::HTTP_2;
    *message.headers_mut() = request.headers.clone();
    let headers = message.headers_mut();
    say_length(headers, request);
    // A `Host` that the client set takes the place of the authority, as it does over HTTP/1.1.
    let own_host = headers.remove(HOST);
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = Some(match own_host {
        Some(host) => host.as_bytes().try_into().map_err(|_| unsendable("the `Host` header"))?,
        None => target.authority.clone(),
    });
    parts.path_and_query = Some(path_of(request)?);
    *message.uri_mut() = Uri::from_parts(parts).map_err(|_| unsendable("the URL"))?;
    Ok(message)
}

/// Says how long the body is, also where a method that means to bring one comes without: origins refuse it with 411
/// otherwise (RFC 9110, section 8.6).
fn say_length(headers: &mut HeaderMap, request: &Request) {
    let is_awaited = matches!(request.method, Method::POST | Method::PUT | Method::PATCH);
    if is_awaited || !request.body.is_empty() {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(request.body.len()));
    }
}

fn absolute(target: &Target, path: PathAndQuery) -> Result<Uri, Failure> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if target.https { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(target.authority.clone());
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|_| unsendable("the URL"))
}

fn path_of(request: &Request) -> Result<PathAndQuery, Failure> {
    let text = &request.url[Position::BeforePath..Position::AfterQuery];
    PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(text.as_bytes())).map_err(|_| unsendable("the URL"))
}

fn unsendable(what: &str) -> Failure {
    Failure::fatal(FailureReason::Protocol, format!("{what} has characters that cannot be sent; percent-encode them"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, url: &str, body: &'static str) -> (Target, Request) {
        let url = url.parse().unwrap();
        let target = Target::of(&url).unwrap();
        (target, Request { method, body: body.into(), ..Request::get(url) })
    }

    #[test]
    fn each_form_names_what_it_asks_for() {
        let (target, request) = request(Method::GET, "http://me:pw@a.example:8080/x?y#z", "");
        let message = http1(&target, &Form::Origin, &request).unwrap();
        assert_eq!(message.uri(), "/x?y");
        assert_eq!(message.headers()[HOST], "a.example:8080");
        let form = Form::Absolute { authorization: Some(HeaderValue::from_static("Basic eA==")) };
        let message = http1(&target, &form, &request).unwrap();
        assert_eq!(message.uri().to_string(), "http://a.example:8080/x?y");
        assert_eq!(message.headers()[PROXY_AUTHORIZATION], "Basic eA==");
        assert_eq!(message.headers()[HOST], "a.example:8080");
    }

    #[test]
    fn a_method_that_means_to_bring_a_body_says_its_length() {
        for (method, body, length) in [
            (Method::GET, "", None),
            (Method::HEAD, "", None),
            (Method::DELETE, "", None),
            (Method::POST, "", Some("0")),
            (Method::PUT, "", Some("0")),
            (Method::PATCH, "", Some("0")),
            (Method::POST, "abc", Some("3")),
            (Method::GET, "abc", Some("3")),
        ] {
            let (target, request) = request(method.clone(), "https://a.example/", body);
            let (one, two) = (http1(&target, &Form::Origin, &request).unwrap(), http2(&target, &request).unwrap());
            for headers in [one.headers(), two.headers()] {
                let said = headers.get(CONTENT_LENGTH).map(|value| value.to_str().unwrap());
                assert_eq!(said, length, "{method} {body}");
            }
        }
    }
}
