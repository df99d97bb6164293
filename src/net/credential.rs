//! Credentials on their way out: added to the requests that they are bound to, hop by hop, and looked for in what comes back.
//!
//! It must not know where credentials are kept, nor for whom: a [`CredentialSource`] says what goes with a request.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use crate::model::credential::Value;
use crate::model::credential::echo::{Echo, EchoScan, echoed};
use crate::model::failure::{Failure, FailureReason};
use crate::net::{Body, BodySource, Permit, Profile, Request, Response, Transport};

/// What a value of a query parameter may have as it is (RFC 3986, 2.3).
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Says what goes with a request.
pub trait CredentialSource: Send + Sync {
    /// Returns what goes with a request for this URL; `None`: nothing. Each redirect asks anew.
    fn attached(&self, method: &Method, url: &Url) -> Option<Attached<'_>>;

    /// Returns what must not come back; `None`: whatever may.
    fn echo(&self) -> Option<&Arc<Echo>>;
}

/// What goes with a request.
#[derive(Clone, Copy, Debug)]
pub struct Attached<'a> {
    /// The secret.
    pub value: &'a Value,
    /// Authorities to trust beside the system's, in PEM; empty: none.
    pub ca_pem: &'a str,
}

/// A transport whose requests carry what a source says.
pub struct Credentialed {
    /// What sends.
    pub inner: Arc<dyn Transport>,
    /// What is sent along.
    pub source: Arc<dyn CredentialSource>,
}

impl Credentialed {
    async fn exchange(&self, mut request: Request, profile: &Arc<Profile>) -> Result<Response, Failure> {
        let url = request.url.clone();
        let mut profile = Arc::clone(profile);
        if let Some(attached) = self.source.attached(&request.method, &url) {
            attach(attached, &mut request, &mut profile)?;
        }
        let sent = self.inner.send(request, &profile).await;
        let Some(echo) = self.source.echo() else { return sent.map(|response| Response { url, ..response }) };
        match sent {
            Ok(response) if holds(echo, &response.headers) => Err(echoed()),
            Ok(response) => {
                let source = Watched { body: response.body, scan: EchoScan::new(Arc::clone(echo)), is_over: false };
                // Of the URL that was asked nothing is shown but what the task itself had.
                Ok(Response { body: Body(Box::new(source)), url, ..response })
            }
            Err(failure) if echo.is_in_any_case(failure.message.as_bytes()) => Err(echoed()),
            Err(failure) => Err(failure),
        }
    }
}

impl Transport for Credentialed {
    fn send<'a>(&'a self, request: Request, profile: &'a Arc<Profile>) -> BoxFuture<'a, Result<Response, Failure>> {
        self.exchange(request, profile).boxed()
    }

    fn permit<'a>(&'a self, url: &'a Url) -> BoxFuture<'a, Result<Permit, Failure>> {
        self.inner.permit(url)
    }

    fn rest(&self) {
        self.inner.rest();
    }

    fn settle(&self) {
        self.inner.settle();
    }

    fn goes_by_proxy(&self, url: &Url, profile: &Profile) -> bool {
        self.inner.goes_by_proxy(url, profile)
    }

    fn is_paused(&self, url: &Url) -> bool {
        self.inner.is_paused(url)
    }
}

/// Adds a credential to a request.
fn attach(attached: Attached<'_>, request: &mut Request, profile: &mut Arc<Profile>) -> Result<(), Failure> {
    match attached.value {
        Value::Bearer(token) => set(request, AUTHORIZATION, &format!("Bearer {}", token.expose()))?,
        Value::Basic { user, password } => {
            let pair = STANDARD.encode(format!("{user}:{}", password.expose()));
            set(request, AUTHORIZATION, &format!("Basic {pair}"))?;
        }
        Value::Header { name, value } => {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unsendable())?;
            set(request, name, value.expose())?;
        }
        Value::Query { name, value } => set_parameter(&mut request.url, name, value.expose()),
        Value::Certificate { certificate, key } => {
            let mut own = Profile::clone(profile);
            own.http.client_certificate_pem = Some(certificate.clone());
            own.http.client_key_pem = Some(key.clone());
            *profile = Arc::new(own);
        }
    }
    if !attached.ca_pem.is_empty() {
        let mut own = Profile::clone(profile);
        own.http.ca_pem = Some(attached.ca_pem.to_owned());
        *profile = Arc::new(own);
    }
    Ok(())
}

fn set(request: &mut Request, name: HeaderName, text: &str) -> Result<(), Failure> {
    let mut value = HeaderValue::from_bytes(text.as_bytes()).map_err(|_| unsendable())?;
    value.set_sensitive(true);
    request.headers.insert(name, value);
    Ok(())
}

fn unsendable() -> Failure {
    let message = "the credential has characters that cannot be sent; its admin has to set it again";
    Failure::fatal(FailureReason::Credential, message)
}

/// Sets a parameter of the query, in place of all of that name. The others stay as they are written.
fn set_parameter(url: &mut Url, name: &str, value: &str) {
    let is_it = |pair: &str| url::form_urlencoded::parse(pair.as_bytes()).next().is_some_and(|(own, _)| own == name);
    let own = format!("{}={}", utf8_percent_encode(name, QUERY), utf8_percent_encode(value, QUERY));
    let others = url.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty() && !is_it(pair));
    let query: Vec<&str> = others.chain([own.as_str()]).collect();
    let query = query.join("&");
    url.set_query(Some(&query));
}

/// Returns whether a header has the secret.
fn holds(echo: &Echo, headers: &HeaderMap) -> bool {
    headers.iter().any(|(name, value)| echo.is_in(value.as_bytes()) || echo.is_in_any_case(name.as_str().as_bytes()))
}

/// A body that ends at the secret.
struct Watched {
    body: Body,
    scan: EchoScan,
    is_over: bool,
}

impl BodySource for Watched {
    fn chunk(&mut self) -> BoxFuture<'_, Option<Result<Bytes, Failure>>> {
        async move {
            if self.is_over {
                return None;
            }
            let chunk = self.body.chunk().await;
            match &chunk {
                Some(Ok(bytes)) if self.scan.finds(bytes) => {
                    self.is_over = true;
                    Some(Err(echoed()))
                }
                _ => chunk,
            }
        }
        .boxed()
    }

    fn origin_wait(&self) -> Duration {
        self.body.0.origin_wait()
    }
}

/// Returns a body that ends at the secret in it, for who has undone its coding.
pub fn watched(body: Body, echo: &Arc<Echo>) -> Body {
    Body(Box::new(Watched { body, scan: EchoScan::new(Arc::clone(echo)), is_over: false }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::secret::Secret;

    #[test]
    fn a_parameter_takes_the_place_of_its_own_name() {
        for (url, with) in [
            ("https://a/x", "https://a/x?k%20y=s%26%3D%2F%2Bt"),
            ("https://a/x?b=%20c&k+y=1&d&k%20y=2#f", "https://a/x?b=%20c&d&k%20y=s%26%3D%2F%2Bt#f"),
        ] {
            let mut url = Url::parse(url).unwrap();
            set_parameter(&mut url, "k y", "s&=/+t");
            assert_eq!(url.as_str(), with);
        }
    }

    #[test]
    fn each_kind_is_where_it_belongs() {
        let add = |value: &Value, ca_pem: &str| {
            let mut request = Request::get(Url::parse("https://a/x").unwrap());
            let mut profile = Arc::new(Profile::default());
            attach(Attached { value, ca_pem }, &mut request, &mut profile).unwrap();
            (request, profile)
        };
        let (request, profile) = add(&Value::Bearer(Secret::new("t0ken")), "");
        assert_eq!(request.headers[AUTHORIZATION], "Bearer t0ken");
        assert!(request.headers[AUTHORIZATION].is_sensitive());
        assert_eq!(*profile, Profile::default());
        let basic = Value::Basic { user: "me".into(), password: Secret::new("pw") };
        assert_eq!(add(&basic, "").0.headers[AUTHORIZATION], "Basic bWU6cHc=");
        let header = Value::Header { name: "x-key".into(), value: Secret::new("v") };
        assert_eq!(add(&header, "").0.headers["x-key"], "v");
        let pem = Value::Certificate { certificate: "c".into(), key: Secret::new("k") };
        let (request, profile) = add(&pem, "ca");
        assert!(request.headers.is_empty());
        assert_eq!(profile.http.client_certificate_pem.as_deref(), Some("c"));
        assert_eq!(profile.http.ca_pem.as_deref(), Some("ca"));
        let bad = Value::Bearer(Secret::new("a\nb"));
        let (mut request, mut profile) = (Request::get(Url::parse("https://a/").unwrap()), Arc::default());
        let failure = attach(Attached { value: &bad, ca_pem: "" }, &mut request, &mut profile).unwrap_err();
        assert_eq!(failure.reason, FailureReason::Credential);
    }
}
