//! Asking for something, in one line.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use haul::model::failure::{Failure, FailureReason};
use haul::model::spec::HttpOptions;
use haul::net::{Body, Guard, HttpClient, Profile, Request, Response, Session, Transport, exchange};
use tokio::runtime::{Builder, Runtime};

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

/// Does this so many times, one after the other, each on a thread and a runtime of its own that stay until the end.
pub(crate) fn one_thread_each(count: usize, work: impl Fn(&Runtime) + Sync) {
    let work = &work;
    let (over, _) = tokio::sync::watch::channel(false);
    std::thread::scope(|scope| {
        let mut turn = None;
        for _ in 0..count {
            let (done, next) = std::sync::mpsc::channel();
            let (before, mut over) = (turn.replace(next), over.subscribe());
            scope.spawn(move || {
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                before.map(|before: Receiver<()>| before.recv());
                work(&runtime);
                done.send(()).unwrap();
                // Its driver of sockets goes on, as on a thread that has other work.
                runtime.block_on(over.wait_for(|over| *over)).unwrap();
            });
        }
        turn.map(|last| last.recv());
        over.send_replace(true);
    });
}
