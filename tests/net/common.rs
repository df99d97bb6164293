//! Asking for something, in one line.

use std::sync::Arc;

use haul::model::failure::{Failure, FailureReason};
use haul::model::spec::HttpOptions;
use haul::net::{Body, Guard, HttpClient, Profile, Request, Response, Session, Transport, exchange};

/// A client that may reach the origins of tests.
pub(crate) fn client() -> HttpClient {
    HttpClient::new(Guard { allow_private: true, ..Guard::default() })
}

pub(crate) fn profile(set: impl FnOnce(&mut Profile)) -> Arc<Profile> {
    let mut profile = Profile::default();
    set(&mut profile);
    Arc::new(profile)
}

pub(crate) fn with_http(set: impl FnOnce(&mut HttpOptions)) -> Arc<Profile> {
    profile(|profile| set(&mut profile.http))
}

pub(crate) fn get(url: &str) -> Request {
    Request::get(url.parse().unwrap())
}

pub(crate) async fn read(mut body: Body) -> Result<Vec<u8>, Failure> {
    let mut all = Vec::new();
    while let Some(chunk) = body.chunk().await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all)
}

/// One hop, read to its end.
pub(crate) async fn fetch(client: &HttpClient, url: &str, profile: &Arc<Profile>) -> Result<(u16, Vec<u8>), Failure> {
    let response = client.send(get(url), profile).await?;
    Ok((response.status.as_u16(), read(response.body).await?))
}

/// The whole exchange, redirects and all.
pub(crate) async fn follow(client: &HttpClient, url: &str, profile: &Arc<Profile>) -> Result<Response, Failure> {
    exchange(client, get(url), profile, &mut Session::new(url)).await
}

pub(crate) fn class(failure: &Failure) -> (FailureReason, bool) {
    (failure.reason, failure.retryable)
}
