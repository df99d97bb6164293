//! The course of one attempt.

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, RANGE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use url::Url;

use crate::fetch::body;
use crate::fetch::body::Content;
use crate::fetch::json;
use crate::fetch::pages::{Arrived, Next, Pager};
use crate::fetch::{FetchContext, Fetched, FetchedBody, Page};
use crate::model::failure::{Failure, FailureReason};
use crate::model::outcome::{AttemptEnd, AttemptReport, FetchResult, Outcome};
use crate::model::progress::Meter;
use crate::model::secret::{REDACTED, is_secret_header, redacted, redacted_within};
use crate::model::spec::{FetchSpec, Pagination};
use crate::net::{Permit, Request, Response, Session, classify, coding, drain, exchange, range};

/// What is asked for where JSON is expected; anything is still taken.
const ACCEPT_JSON: HeaderValue = HeaderValue::from_static("application/json, */*;q=0.5");

/// What is kept of an answer's head with its task, in bytes: origins may send much more.
const HEADERS_BYTES_MAX: usize = 64 << 10;
const CONTENT_TYPE_BYTES_MAX: usize = 1024;

/// Runs one attempt at `spec`, to its end or until it is stopped.
pub async fn run(ctx: &FetchContext<'_>, spec: &FetchSpec) -> Fetched {
    let before = ctx.meter.received_bytes();
    let mut attempt = match Attempt::new(ctx, spec) {
        Ok(attempt) => attempt,
        Err(failure) => {
            let report = AttemptReport::default();
            return Fetched { end: AttemptEnd::Failed(failure), report, body: None };
        }
    };
    let end = tokio::select! {
        biased;
        () = ctx.stop.cancelled() => Ok(None),
        end = attempt.go() => end.map(Some),
    };
    let report = attempt.report(ctx.meter, before);
    match end {
        Ok(Some((result, body))) => Fetched { end: AttemptEnd::Done(Outcome::Fetch(result)), report, body },
        Ok(None) if ctx.rest.is_some() && attempt.is_under_way => {
            Fetched { end: AttemptEnd::Failed(cut()), report, body: None }
        }
        Ok(None) => Fetched { end: AttemptEnd::Stopped, report, body: None },
        Err(failure) => Fetched { end: AttemptEnd::Failed(failure), report, body: None },
    }
}

struct Attempt<'a> {
    ctx: &'a FetchContext<'a>,
    spec: &'a FetchSpec,
    url: Url,
    method: Method,
    headers: HeaderMap,
    /// Shared by the requests for all pages.
    body: Bytes,
    session: Session,
    /// The page of a listing that is asked for, from 0.
    page: u32,
    /// Whether an origin may have looked at a request whose answer is not kept yet.
    is_under_way: bool,
}

impl<'a> Attempt<'a> {
    fn new(ctx: &'a FetchContext<'a>, spec: &'a FetchSpec) -> Result<Attempt<'a>, Failure> {
        // The edge has checked both; a task that an older version stored may say otherwise.
        let bad = |what: &str| Failure::fatal(FailureReason::Protocol, format!("the task's {what} is not valid"));
        let url = Url::parse(&spec.url).map_err(|_| bad("URL"))?;
        let method = if spec.method.is_empty() {
            Method::GET
        } else {
            Method::from_bytes(spec.method.as_bytes()).map_err(|_| bad("method"))?
        };
        let mut session = Session::at(url.clone());
        session.wanted_statuses.clone_from(&spec.accept_statuses);
        let headers = own_headers(ctx, spec);
        let body = Bytes::copy_from_slice(&spec.body);
        Ok(Attempt { ctx, spec, url, method, headers, body, session, page: 0, is_under_way: false })
    }

    async fn go(&mut self) -> Result<(FetchResult, Option<FetchedBody>), Failure> {
        match &self.spec.pagination {
            None => self.single().await.map(|(result, body)| (result, Some(body))),
            Some(pagination) => {
                let result = self.listing(pagination).await;
                // The URL of the task, which stands beside the message, may answer.
                let named = |failure: Failure| match self.page {
                    0 => failure,
                    page => {
                        Failure { message: format!("page {} of the listing: {}", page + 1, failure.message), ..failure }
                    }
                };
                result.map(|result| (result, None)).map_err(named)
            }
        }
    }

    async fn single(&mut self) -> Result<(FetchResult, FetchedBody), Failure> {
        let response = self.ask(self.url.clone()).await?;
        let mut result = result_of(&response);
        self.ctx.meter.set_total(self.announced(&response).unwrap_or(0));
        let content = self.content(response)?;
        let body = if self.spec.expect_json {
            let body = content.whole().await?;
            json::check(&body)?;
            body::keep(body, self.ctx.sink).await?
        } else {
            content.kept(self.ctx.sink).await?
        };
        result.body_bytes = match &body {
            FetchedBody::Inline(bytes) => bytes.len() as u64,
            FetchedBody::Spooled { bytes, .. } => *bytes,
        };
        Ok((result, body))
    }

    async fn listing(&mut self, pagination: &Pagination) -> Result<FetchResult, Failure> {
        let base = self.url.clone();
        let mut pager = Pager::new(pagination, &base, self.ctx.resume.clone());
        loop {
            if let Next::Ended(result) = pager.cursor.next {
                return Ok(*result);
            }
            self.page = pager.cursor.pages;
            let response = self.ask(pager.request()?).await?;
            let result = result_of(&response);
            if pager.ends().contains(&response.status.as_u16()) {
                // There is no page here, which is what some origins say behind the last one.
                drain(response.body).await;
                pager.cursor.next = pager.ended(result);
                continue;
            }
            let (headers, url) = (response.headers.clone(), response.url.clone());
            let body: Bytes = self.content(response)?.whole().await?;
            let (number, first_item) = (pager.cursor.pages, pager.cursor.items);
            let turn = pager.turn(&Arrived { body: &body, headers: &headers, url: &url })?;
            if turn.is_last {
                pager.cursor.next = pager.ended(result);
            }
            if let Next::Url(next) = &pager.cursor.next {
                self.refuse_secret(next)?;
            }
            if turn.is_kept {
                let cursor = pager.cursor.clone();
                let page = Page { number, first_item, item_count: turn.item_count, body, cursor };
                self.ctx.sink.page(page).await?;
                self.is_under_way = false;
            }
        }
    }

    /// A response whose status the task accepts.
    async fn ask(&mut self, url: Url) -> Result<Response, Failure> {
        let (method, headers, body) = (self.method.clone(), self.headers.clone(), self.body.clone());
        if !body.is_empty() && url.origin() != self.url.origin() {
            let message = format!(
                "a page leads to another origin, `{}`, and the body of the request is for the task's own",
                redacted(&url)
            );
            return Err(Failure::fatal(FailureReason::Protocol, message));
        }
        let permit = self.permit(&url).await?;
        self.is_under_way = true;
        let request = Request { method, headers, body, permit, ..Request::get(url.clone()) };
        let response = exchange(self.ctx.transport, request, self.ctx.profile, &mut self.session).await?;
        if response.url != url {
            self.refuse_secret(&response.url)?;
        }
        let status = response.status.as_u16();
        // 202 is a success, and one that is worth asking again for where the task says so.
        let is_for_later = self.spec.accept_statuses.is_empty() && self.ctx.retry_statuses.contains(&status);
        let is_accepted = self.spec.accepts(status) && !is_for_later;
        let is_part = is_accepted && self.is_part_of_what_was_asked(&response);
        if is_accepted && !is_part {
            return Ok(response);
        }
        drain(response.body).await;
        if is_part {
            let message = "the origin answered a request for the whole with a part of it";
            return Err(Failure::retryable(FailureReason::Protocol, message));
        }
        let now = (self.ctx.now)();
        Err(classify::judge_status(response.status, &response.headers, now, self.ctx.retry_after_max))
    }

    /// Fails where an origin leads to a URL that holds the credential's secret: it would be kept with the URL.
    fn refuse_secret(&self, url: &Url) -> Result<(), Failure> {
        self.ctx.echo.map_or(Ok(()), |echo| echo.refuse(&[url.as_str()]))
    }

    /// Waits for the right to send, so that a request that must not be sent twice can still be stopped until then.
    async fn permit(&self, url: &Url) -> Result<Permit, Failure> {
        let Some(rest) = self.ctx.rest else { return Ok(Permit::default()) };
        tokio::select! {
            biased;
            () = rest.cancelled() => {
                let stopped = Failure::retryable(FailureReason::Cancelled, "the request was stopped before it was sent");
                Err(Failure { is_unsent: true, ..stopped })
            }
            permit = self.ctx.transport.permit(url) => permit,
        }
    }

    /// Returns whether the body is a part although the whole was asked for, and the task does not accept parts.
    fn is_part_of_what_was_asked(&self, response: &Response) -> bool {
        let is_accepted = response.status == StatusCode::PARTIAL_CONTENT && !self.spec.accept_statuses.is_empty();
        let is_for_whole = self.method != Method::HEAD && !is_set(self.ctx, &RANGE);
        is_for_whole && !is_accepted && range::is_part(response.status, &response.headers)
    }

    fn content(&self, response: Response) -> Result<Content, Failure> {
        let announced = self.announced(&response);
        let Response { body, status, headers, .. } = response;
        // Without a body, the head speaks of another answer.
        let status = if self.method == Method::HEAD { StatusCode::NO_CONTENT } else { status };
        let content = Content::new(body, status, &headers, announced, self.spec.response_bytes_max(), self.ctx.meter)?;
        Ok(match self.ctx.echo {
            Some(echo) => content.watched(echo),
            None => content,
        })
    }

    /// Returns how much body the origin says that there is, on its way. Without one, the header speaks of another
    /// response.
    fn announced(&self, response: &Response) -> Option<u64> {
        if self.method == Method::HEAD || matches!(response.status.as_u16(), 204 | 304) {
            return None;
        }
        if response.headers.contains_key(TRANSFER_ENCODING) {
            // Which tells where the body ends, whatever else does (RFC 9112, section 6.3).
            return None;
        }
        range::content_length(&response.headers)
    }

    fn report(&self, meter: &Meter, before: u64) -> AttemptReport {
        let trace = &self.session.trace;
        AttemptReport {
            url: redacted(trace.url.as_ref().unwrap_or(&self.url)),
            remote_address: trace.remote.map(|remote| remote.to_string()).unwrap_or_default(),
            http_status: trace.status,
            bytes: meter.received_bytes() - before,
            ..AttemptReport::default()
        }
    }
}

/// The failure of a request that must not be sent twice, and whose answer is not waited for any more.
fn cut() -> Failure {
    let message = "the server was shut down before the origin had answered, which may have done what it was asked for; \
                   `RetryJob` asks it again";
    Failure::fatal(FailureReason::Cancelled, message)
}

/// Returns what a fetch adds, unless the client has set it.
fn own_headers(ctx: &FetchContext<'_>, spec: &FetchSpec) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if !is_set(ctx, &ACCEPT_ENCODING) {
        headers.insert(ACCEPT_ENCODING, coding::ACCEPT_ENCODING);
    }
    if (spec.expect_json || spec.pagination.is_some()) && !is_set(ctx, &ACCEPT) {
        headers.insert(ACCEPT, ACCEPT_JSON);
    }
    headers
}

/// Returns whether the client has set this header itself.
fn is_set(ctx: &FetchContext<'_>, name: &HeaderName) -> bool {
    ctx.profile.http.headers.iter().any(|header| header.name.eq_ignore_ascii_case(name.as_str()))
}

fn result_of(response: &Response) -> FetchResult {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut bytes = 0;
    let headers = response.headers.iter().filter_map(|(name, value)| {
        let value = match name.as_str() {
            name if is_secret_header(name) => REDACTED.to_owned(),
            "link" | "location" | "content-location" | "refresh" => redacted_within(&text(value)),
            _ => text(value),
        };
        let all = bytes + name.as_str().len() + value.len();
        // What does not fit is left out, and a smaller one behind it may fit.
        (all <= HEADERS_BYTES_MAX).then(|| {
            bytes = all;
            (name.as_str().to_owned(), value)
        })
    });
    let headers = headers.collect();
    let content_type = response.headers.get(CONTENT_TYPE).map(text).unwrap_or_default();
    FetchResult {
        http_status: response.status.as_u16(),
        headers,
        final_url: redacted(&response.url),
        content_type: content_type[..content_type.floor_char_boundary(CONTENT_TYPE_BYTES_MAX)].to_owned(),
        ..FetchResult::default()
    }
}
