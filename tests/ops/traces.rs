//! Traces as a collector sees them: what is told, that it is the same after a kill, and that a collector which is not there,
//! or asks for nothing, costs nothing else.

use std::time::Duration;

use haul::pb;
use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::Request;

use crate::ops::metrics::{scrape, value};
use crate::support::collector::{Collector, Got, text};
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, command, refusal, until};
use crate::support::spec::{fetch, job, once, quick_retry};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";
const LOST: &str = "haul_trace_spans_total{outcome=\"lost\"}";

fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|it| it.key == key)?;
    Some(text(found.value.as_ref().unwrap().value.as_ref()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// Submits a job below the place of a caller.
async fn submit(server: &Server, spec: pb::JobSpec, flags: &str) -> String {
    let mut request = Request::new(pb::SubmitJobRequest { job: Some(spec), ..Default::default() });
    let place = format!("00-{TRACE}-{CALLER}-{flags}");
    request.metadata_mut().insert("traceparent", place.parse().unwrap());
    server.jobs().submit_job(request).await.unwrap().into_inner().job.unwrap().job_id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_told_below_its_caller() {
    let collector = Collector::start().await;
    let (server, origin) = (collector.server(&[]).await, Origin::start());
    origin.reply("/good", Reply::ok("hello"));
    origin.reply("/gone", Reply::status(404));
    let mut spec = job(vec![fetch(origin.url("/good?token=s3cret&page=1")), fetch(origin.url("/gone"))]);
    let headers = vec![pb::Header { name: "x-key".into(), value: "s3cret".into(), sensitive: true }];
    let http = pb::HttpOptions { headers, bearer_token: "s3cret".into(), ..Default::default() };
    spec.defaults = Some(pb::TaskOptions { http: Some(http), ..once() });
    spec.group = Some(crate::support::spec::group(pb::GroupMode::Collect, 0));
    let id = submit(&server, spec, "01").await;
    server.ended(&id).await;

    let job = collector.wait("job", 1).await.remove(0);
    assert_eq!((hex(&job.trace_id), hex(&job.parent_span_id)), (TRACE.to_owned(), CALLER.to_owned()));
    assert_eq!(attribute(&job, "haul.job_id").as_deref(), Some(id.as_str()));
    assert_eq!(attribute(&job, "haul.state").as_deref(), Some("failed"));
    assert_eq!(attribute(&job, "error.type").as_deref(), Some("http_status"));
    let attempts = collector.wait("attempt", 2).await;
    for attempt in &attempts {
        assert_eq!((&attempt.trace_id, &attempt.parent_span_id), (&job.trace_id, &job.span_id));
        assert_eq!(attribute(attempt, "haul.job_id").as_deref(), Some(id.as_str()));
        assert_eq!(attribute(attempt, "http.request.method").as_deref(), Some("GET"));
        assert_eq!(attribute(attempt, "server.address").as_deref(), Some("127.0.0.1"));
        assert!(attempt.end_time_unix_nano >= attempt.start_time_unix_nano && attempt.kind == 3, "a client's");
    }
    let of =
        |index: &str| attempts.iter().find(|it| attribute(it, "haul.task_index").as_deref() == Some(index)).unwrap();
    let (good, gone) = (of("0"), of("1"));
    let url = origin.url("/good?token=REDACTED&page=1");
    assert_eq!(attribute(good, "url.full"), Some(url));
    assert_eq!(attribute(good, "http.response.status_code").as_deref(), Some("200"));
    assert_eq!(attribute(good, "error.type"), None);
    assert_eq!(attribute(gone, "error.type").as_deref(), Some("http_status"));
    assert!(gone.status.as_ref().is_some_and(|status| status.code == 2 && status.message.contains("404")), "{gone:?}");

    let call = collector.wait("haul.v1.JobService/SubmitJob", 1).await.remove(0);
    assert_eq!((hex(&call.trace_id), hex(&call.parent_span_id)), (TRACE.to_owned(), CALLER.to_owned()));
    assert_eq!((attribute(&call, "rpc.method").as_deref(), call.kind), (Some("SubmitJob"), 2));
    let all = format!("{:?}", collector.got.spans.lock().unwrap());
    assert!(!all.contains("s3cret"), "{all}");
    assert!(collector.got.names.lock().unwrap().iter().all(|name| name == "haul"));
    // Calls of health have no name of their own.
    assert!(!all.contains("grpc.health"), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_the_same_after_a_kill() {
    let collector = Collector::start().await;
    let (mut server, origin) = (collector.server(&[("OTEL_SERVICE_NAME", "mirror")]).await, Origin::start());
    origin.replies("/late", vec![Reply::status(503), Reply::ok("hello")]);
    let mut spec = job(vec![fetch(origin.url("/late"))]);
    let wait = Some(prost_types::Duration { seconds: 3, nanos: 0 });
    let retry = pb::RetryPolicy { initial_backoff: wait, max_backoff: wait, ..quick_retry(3) };
    spec.defaults = Some(pb::TaskOptions { retry: Some(retry), ..Default::default() });
    let traced = submit(&server, spec.clone(), "01").await;
    let first = collector.wait("attempt", 1).await.remove(0);
    server.restart().await;
    server.ended(&traced).await;
    let job = collector.wait("job", 1).await.remove(0);
    assert_eq!((hex(&job.trace_id), hex(&job.parent_span_id)), (TRACE.to_owned(), CALLER.to_owned()));
    let attempts = collector.wait("attempt", 2).await;
    assert!(attempts.iter().all(|attempt| attempt.parent_span_id == job.span_id && attempt.trace_id == job.trace_id));
    assert_eq!(attempts[0], first);
    assert_ne!(attempts[1].span_id, first.span_id);
    assert_eq!(attribute(&attempts[1], "http.request.resend_count").as_deref(), Some("1"));
    assert!(collector.got.names.lock().unwrap().iter().all(|name| name == "mirror"));

    // A job whose caller traces nothing is a trace of its own, with the digits of its id; one whose caller does not record
    // its trace is not told.
    origin.reply("/good", Reply::ok("hello"));
    let spec = job_of(&origin, "/good");
    let silent = submit(&server, spec.clone(), "00").await;
    server.ended(&silent).await;
    let own = server.run(spec).await.job_id;
    let jobs = collector.wait("job", 2).await;
    assert_eq!(hex(&jobs[1].trace_id), own.replace('-', ""));
    assert_eq!(hex(&jobs[1].parent_span_id), "");
    assert!(server.terminate().success());
    assert_eq!(collector.named("job").len(), 2);
}

fn job_of(origin: &Origin, path: &str) -> pb::JobSpec {
    job(vec![fetch(origin.url(path))])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_queued_is_told_before_the_end() {
    let collector = Collector::start().await;
    let (mut server, origin) = (collector.server(&[]).await, Origin::start());
    origin.reply("/good", Reply::ok("hello"));
    let tasks = (0..700).map(|_| fetch(origin.url("/good"))).collect();
    server.run(job(tasks)).await;
    assert!(server.terminate().success());
    assert_eq!((collector.named("attempt").len(), collector.named("job").len()), (700, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_unless_it_is_asked_for() {
    let collector = Collector::start().await;
    let origin = Origin::start();
    origin.reply("/good", Reply::ok("hello"));
    for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "")] {
        let mut server = collector.server(&[off]).await;
        let id = submit(&server, job_of(&origin, "/good"), "01").await;
        server.ended(&id).await;
        let page = scrape(&server.address);
        assert!(value(&page, LOST).abs() < 0.5 && !page.contains("outcome=\"sent\"} 1"), "{off:?}");
        assert!(server.terminate().success());
    }
    assert!(collector.got.spans.lock().unwrap().is_empty());
    let mut refused = command(tempfile::tempdir().unwrap().path(), &[]);
    refused.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url).env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let (code, why) = refusal(refused);
    assert!(code != 0 && why.contains("`OTEL_EXPORTER_OTLP_PROTOCOL` is `http/protobuf`"), "{code}: {why}");
    for wrong in ["zz", "127.0.0.1:4317", "localhost:4317", "http://"] {
        let mut refused = command(tempfile::tempdir().unwrap().path(), &[]);
        refused.env("OTEL_EXPORTER_OTLP_ENDPOINT", wrong);
        let (code, why) = refusal(refused);
        assert!(code != 0 && why.contains(&format!("is `{wrong}`, which is not a URL")), "{code}: {why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_does_not_take_them_costs_spans_alone() {
    let origin = Origin::start();
    origin.reply("/good", Reply::ok("hello"));
    // Nobody listens there any more.
    let gone = Collector::start().await;
    let url = gone.url.clone();
    drop(gone);
    let variables = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", url)];
    let flags = ["--allow-private-networks"];
    let mut server = Server::within(tempfile::tempdir().unwrap(), &flags, variables).await;
    assert_eq!(server.run(job_of(&origin, "/good")).await.state(), pb::JobState::Succeeded);
    until(async || value(&scrape(&server.address), LOST) > 1.5).await;
    assert!(server.log().contains("the collector does not accept spans"), "{}", server.log());
    assert!(server.terminate().success());

    let hangs = Collector::with(Got { hangs: true, ..Got::default() }).await;
    let mut server = hangs.server(&[]).await;
    assert_eq!(server.run(job_of(&origin, "/good")).await.state(), pb::JobState::Succeeded);
    hangs.wait("job", 1).await;
    assert_eq!(server.run(job_of(&origin, "/good")).await.state(), pb::JobState::Succeeded);
    assert!(server.terminate().success());
    assert!(!server.log().contains("the drain took longer than"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_know_the_trace_where_that_is_asked_for() {
    let collector = Collector::start().await;
    let (server, origin, other) = (collector.server(&[]).await, Origin::start(), Origin::start());
    origin.reply("/silent", Reply::ok("hello"));
    origin.reply("/told", Reply::ok("hello"));
    other.reply("/elsewhere", Reply::ok("hello"));
    origin.reply("/away", Reply::redirect(302, &other.url("/elsewhere")));
    let asks = || pb::TaskOptions {
        http: Some(pb::HttpOptions { propagate_trace: Some(true), ..Default::default() }),
        ..Default::default()
    };
    let mut tasks = vec![fetch(origin.url("/silent")), fetch(origin.url("/told")), fetch(origin.url("/away"))];
    tasks[1].options = Some(asks());
    tasks[2].options = Some(asks());
    let id = submit(&server, job(tasks), "01").await;
    server.ended(&id).await;
    let sent = |path: &str| origin.requests(path)[0].header("traceparent").map(str::to_owned);
    assert_eq!(sent("/silent"), None);
    assert_eq!(other.requests("/elsewhere")[0].header("traceparent"), None, "strangers are told nothing");
    let told = sent("/told").unwrap();
    let attempts = collector.wait("attempt", 3).await;
    let of = attempts.iter().find(|it| attribute(it, "haul.task_index").as_deref() == Some("1")).unwrap();
    assert_eq!(told, format!("00-{TRACE}-{}-01", hex(&of.span_id)));
    let shown = pb::GetJobRequest { job_id: id, include_spec: true };
    let spec = server.jobs().get_job(shown).await.unwrap().into_inner().job.unwrap().spec.unwrap();
    assert_eq!(spec.tasks[1].options, Some(asks()));
    tokio::time::timeout(Duration::from_secs(60), async { drop(server) }).await.unwrap();
}
