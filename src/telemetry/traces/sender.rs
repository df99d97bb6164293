//! Sends spans in batches. A collector that is down or slow costs the spans that it does not take, and nothing else.

use std::env;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::transport::ClientTlsConfig;
use url::Url;

use crate::model::secret::redacted_text;
use crate::model::text;
use crate::telemetry::metrics::Metrics;

/// Spans that are sent at once.
const BATCH_MAX: usize = 512;
/// How long a batch that is not full waits for more.
const LINGER: Duration = Duration::from_secs(1);
/// How long a batch may take, connecting included, when `OTEL_EXPORTER_OTLP_TIMEOUT` does not say less.
const SEND_TIME: Duration = Duration::from_secs(10);
/// How long a shutdown waits for what is still queued.
const FLUSH_TIME: Duration = Duration::from_secs(2);

/// The environment asks for traces in a way that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The collector is to be spoken to in another way.
    #[error("`{0}` is `{1}`, and traces are sent by `grpc` alone; unset it, or name a collector's port for gRPC")]
    Protocol(&'static str, String),
    /// The address of the collector is none.
    #[error("`OTEL_EXPORTER_OTLP_ENDPOINT` is `{0}`, which is not a URL; write it like `http://127.0.0.1:4317`")]
    Endpoint(String),
    /// The rest of what the environment says.
    #[error("traces cannot be sent as the environment says by `OTEL_EXPORTER_OTLP_...`: {0}")]
    Exporter(String),
}

/// A variable of the environment that says something.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// Makes the exporter that the environment names; `None`: it names none.
pub(super) fn exporter() -> Result<Option<SpanExporter>, TracesError> {
    let endpoint = variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT"));
    let is_off = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || variable("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
    let Some(endpoint) = endpoint.filter(|_| !is_off) else { return Ok(None) };
    let is_url = Url::parse(&endpoint).is_ok_and(|url| url.has_host() && matches!(url.scheme(), "http" | "https"));
    if !is_url {
        return Err(TracesError::Endpoint(text::shown(&redacted_text(&endpoint))));
    }
    for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
        if let Some(protocol) = variable(name).filter(|protocol| protocol != "grpc") {
            return Err(TracesError::Protocol(name, text::shown(&protocol)));
        }
    }
    let mut builder = SpanExporter::builder().with_tonic();
    if variable("OTEL_EXPORTER_OTLP_TIMEOUT").or_else(|| variable("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT")).is_none() {
        builder = builder.with_timeout(SEND_TIME);
    }
    if !endpoint.starts_with("http://") {
        builder = builder.with_tls_config(ClientTlsConfig::new().with_native_roots());
    }
    let mut exporter = builder.build().map_err(|error| TracesError::Exporter(text::shown(&error.to_string())))?;
    // `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win.
    let mut resource = Resource::builder();
    if variable("OTEL_SERVICE_NAME").is_none()
        && !variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|all| all.contains("service.name="))
    {
        resource = resource.with_service_name("haul");
    }
    exporter.set_resource(&resource.build());
    Ok(Some(exporter))
}

/// Checks what the environment says of traces, as a start does. Calls for a runtime.
///
/// # Errors
/// As [`super::Traces::start`].
pub fn check() -> Result<(), TracesError> {
    exporter().map(drop)
}

/// Sends what [`super::Traces`] takes.
#[derive(Debug)]
pub struct Sender {
    exporter: SpanExporter,
    spans: mpsc::Receiver<SpanData>,
    metrics: Arc<Metrics>,
    /// Whether the last batch was lost, which is logged once for all that follow.
    is_losing: bool,
}

impl Sender {
    pub(super) fn new(exporter: SpanExporter, spans: mpsc::Receiver<SpanData>, metrics: Arc<Metrics>) -> Sender {
        Sender { exporter, spans, metrics, is_losing: false }
    }

    /// Sends until `closing`, and then for a moment what is still queued.
    pub async fn run(mut self, closing: CancellationToken) {
        let mut batch = Vec::new();
        let closed = closing.clone();
        let over = async move {
            closed.cancelled().await;
            sleep(FLUSH_TIME).await;
        };
        let over = over.shared();
        while self.gather(&mut batch, &closing).await {
            self.send(std::mem::take(&mut batch), over.clone()).await;
        }
        loop {
            while batch.len() < BATCH_MAX
                && let Ok(span) = self.spans.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                return;
            }
            self.send(std::mem::take(&mut batch), over.clone()).await;
        }
    }

    /// Fills a batch. Returns whether there will be more of them.
    async fn gather(&mut self, batch: &mut Vec<SpanData>, closing: &CancellationToken) -> bool {
        let mut until = None;
        while batch.len() < BATCH_MAX {
            let room = BATCH_MAX - batch.len();
            let full = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = closing.cancelled() => return false,
                count = self.spans.recv_many(batch, room) => {
                    if count == 0 {
                        return false;
                    }
                    until.get_or_insert(Instant::now() + LINGER);
                }
                () = full => break,
            }
        }
        true
    }

    /// Sends a batch, until `over`.
    async fn send(&mut self, batch: Vec<SpanData>, over: impl Future<Output = ()>) {
        let count = batch.len() as u64;
        let sent = tokio::select! {
            sent = self.exporter.export(batch) => sent.map_err(|error| error.to_string()),
            () = sleep(SEND_TIME) => Err("it does not answer".to_owned()),
            () = over => Err("it did not answer before the end".to_owned()),
        };
        match sent {
            Ok(()) => {
                self.metrics.spans_sent(count);
                if std::mem::take(&mut self.is_losing) {
                    tracing::info!("the collector accepts spans again");
                }
            }
            Err(why) => {
                self.metrics.spans_lost(count);
                if !std::mem::replace(&mut self.is_losing, true) {
                    tracing::warn!("the collector does not accept spans, so they are lost: {}", text::plain(&why));
                }
            }
        }
    }
}
