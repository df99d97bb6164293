//! stub
use crate::engine::attempts::*;
use crate::limits::transport::Limited;
use crate::model::outcome::*;
use crate::model::spec::Work;
use crate::net::Profile;
use crate::net::{Request, Session, exchange};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
pub(crate) async fn run(
    runner: &Runner,
    launch: &Launch,
    transport: &Limited,
    profile: &Arc<Profile>,
    stop: &CancellationToken,
) -> Ended {
    let _ = runner;
    let (id, fence) = (launch.id, launch.fence);
    let mut report = AttemptReport::default();
    let mut page = None;
    let work = async {
        let Work::Fetch(spec) = &launch.spec.work else { unreachable!() };
        let request = Request {
            method: http::Method::GET,
            url: spec.url.parse().unwrap(),
            headers: Default::default(),
            body: Default::default(),
        };
        let mut session = Session::default();
        let mut response = exchange(transport, request, profile, &mut session).await?;
        if !spec.accepts(response.status.as_u16()) {
            return Err(crate::net::classify::judge_status(
                response.status,
                &response.headers,
                runner.clock.now(),
                runner.retry_after_max,
            ));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.body.chunk().await {
            let c = chunk?;
            launch.meter.received(c.len() as u64);
            body.extend_from_slice(&c);
        }
        let n = body.len() as u64;
        report.bytes = n;
        page = Some(crate::store::NewPage {
            id,
            page: 0,
            first_item: 0,
            items: 0,
            content: crate::store::Content::Inline(body.into()),
            next: None,
        });
        Ok(Outcome::Fetch(FetchResult { http_status: response.status.as_u16(), body_bytes: n, ..Default::default() }))
    };
    let end = tokio::select! { r = work => match r { Ok(o) => AttemptEnd::Done(o), Err(f) => AttemptEnd::Failed(f) }, () = stop.cancelled() => AttemptEnd::Stopped };
    Ended { id, fence, end, report, body: page }
}
