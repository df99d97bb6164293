//! Counts calls, those of every face: how they ended, how long they took, and how many are open. Where there is a collector
//! of traces, each call gets a span.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::middleware::Middleware;
use crate::model::time::Timestamp;
use crate::model::trace::{TRACEPARENT, TraceParent};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::{CallSpan, Traces};

/// Counts calls of gRPC.
#[derive(Clone, Debug)]
pub struct CountCalls {
    metrics: Arc<Metrics>,
    /// What stands before the names of the methods that are counted by name.
    package: &'static str,
    tracer: Option<CallTracer>,
}

/// Makes a span of each call.
#[derive(Clone)]
pub struct CallTracer {
    /// Where the spans go.
    pub traces: Arc<Traces>,
    /// The time.
    pub now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl std::fmt::Debug for CallTracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CallTracer")
    }
}

impl CountCalls {
    /// Makes the layer. `package` is what the names of methods begin with, as in `package.Service/Method`.
    pub fn new(metrics: Arc<Metrics>, package: &'static str) -> CountCalls {
        CountCalls { metrics, package, tracer: None }
    }

    /// Tells of calls, too.
    #[must_use]
    pub fn traced(self, tracer: Option<CallTracer>) -> CountCalls {
        CountCalls { tracer, ..self }
    }
}

impl Middleware for CountCalls {
    type Kept = Call;

    fn before(&self, request: &mut Request<Body>) -> Result<Call, Box<Response<Body>>> {
        let path = request.uri().path().trim_start_matches('/');
        let method = path.strip_prefix(self.package).and_then(|rest| rest.strip_prefix('.')).unwrap_or("");
        let mut call = Call::begin(self.metrics.clone(), method);
        call.open = self.tracer.clone().map(|tracer| OpenSpan::begin(tracer, request.headers()));
        Ok(call)
    }

    async fn after<E: Send>(
        mut call: Call,
        answer: impl Future<Output = Result<Response<Body>, E>> + Send,
    ) -> Result<Response<Body>, E> {
        let response = answer.await?;
        // An answer without a message has its status in the head.
        if let Some(code) = code(response.headers()) {
            call.code = code;
            return Ok(response);
        }
        Ok(response.map(|body| Body::new(CountedBody { inner: body, call: Some(call) })))
    }
}

/// A call that is open. One that is dropped before its end was given up.
#[derive(Debug)]
pub struct Call {
    metrics: Arc<Metrics>,
    /// Its place among the methods.
    place: usize,
    since: Instant,
    code: Code,
    open: Option<OpenSpan>,
}

/// The span of a call that is open.
#[derive(Debug)]
struct OpenSpan {
    tracer: CallTracer,
    place: TraceParent,
    parent: Option<u64>,
    start: Timestamp,
}

impl OpenSpan {
    /// Begins below where the caller stands, or a trace of its own.
    fn begin(tracer: CallTracer, headers: &HeaderMap) -> OpenSpan {
        let caller = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).and_then(TraceParent::parse);
        let (own, span) = (rand::random::<u128>().max(1), rand::random::<u64>().max(1));
        let place = match caller {
            Some(caller) => TraceParent { span, ..caller },
            None => TraceParent { trace: own, span, is_sampled: true },
        };
        let start = (tracer.now)();
        OpenSpan { tracer, place, parent: caller.map(|caller| caller.span), start }
    }
}

impl Call {
    fn begin(metrics: Arc<Metrics>, method: &str) -> Call {
        let place = metrics.place(method);
        metrics.calls_at(place).begins();
        Call { metrics, place, since: Instant::now(), code: Code::Cancelled, open: None }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.metrics.calls_at(self.place).ends(self.code, self.since.elapsed());
        // Calls of health and reflection have no name of their own, and would be most of what is told.
        if let Some((open, method)) = self.open.take().zip(self.metrics.method(self.place)) {
            let OpenSpan { tracer, place, parent, start } = open;
            tracer.traces.call(CallSpan { place, parent, method, code: self.code, start, end: (tracer.now)() });
        }
    }
}

/// The body of an answer; its call is open until the trailers.
struct CountedBody {
    inner: Body,
    call: Option<Call>,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let ended = match &polled {
            Some(Ok(frame)) => frame.trailers_ref().map(|trailers| code(trailers).unwrap_or(Code::Ok)),
            Some(Err(status)) => Some(status.code()),
            None => Some(Code::Unknown),
        };
        if let Some(code) = ended
            && let Some(mut call) = self.call.take()
        {
            call.code = code;
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Reads how a call ended, where these headers say it.
fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};
    use tower::{ServiceBuilder, ServiceExt as _, service_fn};

    use super::*;
    use crate::middleware::MiddlewareLayer;
    use crate::telemetry::metrics::LabelValues;
    use crate::telemetry::metrics::page::{Form, Gauges, page};

    async fn call(metrics: &Arc<Metrics>, path: &str, response: Response<Body>, reads: bool) {
        let mut response = Some(response);
        let answers = service_fn(move |_: Request<Body>| {
            let response = response.take().unwrap_or_default();
            async move { Ok::<_, std::convert::Infallible>(response) }
        });
        let service =
            ServiceBuilder::new().layer(MiddlewareLayer(CountCalls::new(metrics.clone(), "haul.v1"))).service(answers);
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let answered = service.oneshot(request).await.unwrap();
        if reads {
            let _ = answered.into_body().collect().await;
        }
    }

    #[tokio::test]
    async fn a_call_is_counted_by_how_it_ended() {
        let methods = vec!["A/B".to_owned()];
        let metrics = Arc::new(Metrics::new(LabelValues { methods, ..LabelValues::default() }));
        let trailed = || {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "5".parse().unwrap());
            let frames = [Ok::<_, Status>(Frame::data(Bytes::from_static(b"x"))), Ok(Frame::trailers(trailers))];
            Response::new(Body::new(StreamBody::new(tokio_stream::iter(frames))))
        };
        call(&metrics, "/haul.v1.A/B", Status::unavailable("").into_http(), true).await;
        call(&metrics, "/haul.v1.A/B", trailed(), true).await;
        call(&metrics, "/haul.v1.A/B", trailed(), false).await;
        call(&metrics, "/haul.v1.A/C", trailed(), true).await;
        let cut = StreamBody::new(tokio_stream::iter([Ok::<_, Status>(Frame::data(Bytes::from_static(b"x")))]));
        call(&metrics, "/grpc.health.v1.Health/Check", Response::new(Body::new(cut)), true).await;
        let page = page(&metrics, Gauges::default(), Form::Classic);
        let counted: Vec<&str> = page.lines().filter(|line| line.starts_with("haul_calls_total{")).collect();
        assert_eq!(
            counted,
            [
                "haul_calls_total{method=\"A/B\",code=\"OK\"} 0",
                "haul_calls_total{method=\"A/B\",code=\"CANCELLED\"} 1",
                "haul_calls_total{method=\"A/B\",code=\"NOT_FOUND\"} 1",
                "haul_calls_total{method=\"A/B\",code=\"INTERNAL\"} 0",
                "haul_calls_total{method=\"A/B\",code=\"UNAVAILABLE\"} 1",
                "haul_calls_total{method=\"other\",code=\"OK\"} 0",
                "haul_calls_total{method=\"other\",code=\"UNKNOWN\"} 1",
                "haul_calls_total{method=\"other\",code=\"NOT_FOUND\"} 1",
                "haul_calls_total{method=\"other\",code=\"INTERNAL\"} 0",
            ]
        );
        assert!(page.contains("haul_call_duration_seconds_count{method=\"A/B\"} 3"), "{page}");
    }
}
