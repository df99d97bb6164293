//! A collector of traces: what it was told, by OTLP over gRPC.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::support::server::{Server, until};

/// What a collector got.
#[derive(Clone, Default)]
pub struct Got {
    pub spans: Arc<Mutex<Vec<Span>>>,
    /// The name of the service that told.
    pub names: Arc<Mutex<Vec<String>>>,
    pub hangs: bool,
}

#[tonic::async_trait]
impl TraceService for Got {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_resource in request.into_inner().resource_spans {
            let all = of_resource.resource.iter().flat_map(|it| &it.attributes);
            let name =
                all.filter(|it| it.key == "service.name").map(|it| text(it.value.as_ref().unwrap().value.as_ref()));
            self.names.lock().unwrap().extend(name);
            for of_scope in of_resource.scope_spans {
                self.spans.lock().unwrap().extend(of_scope.spans);
            }
        }
        if self.hangs {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A collector that runs until it is dropped.
pub struct Collector {
    pub got: Got,
    pub url: String,
    _serving: JoinSet<()>,
}

impl Collector {
    pub async fn start() -> Collector {
        Collector::with(Got::default()).await
    }

    pub async fn with(got: Got) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(got.clone());
        let serve = tonic::transport::Server::builder().add_service(service);
        let serve = serve.serve_with_incoming(TcpListenerStream::new(listener));
        let serving = JoinSet::from_iter([async move { serve.await.unwrap() }]);
        Collector { got, url, _serving: serving }
    }

    /// A server that tells this collector.
    pub async fn server(&self, more: &[(&'static str, &str)]) -> Server {
        let mut variables = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", self.url.clone())];
        variables.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        Server::within(tempfile::tempdir().unwrap(), &["--allow-private-networks"], variables).await
    }

    pub fn named(&self, name: &str) -> Vec<Span> {
        self.got.spans.lock().unwrap().iter().filter(|span| span.name == name).cloned().collect()
    }

    /// Waits for so many spans of a name.
    pub async fn wait(&self, name: &str, count: usize) -> Vec<Span> {
        until(async || self.named(name).len() >= count).await;
        let spans = self.named(name);
        assert_eq!(spans.len(), count, "{spans:#?}");
        spans
    }
}

pub fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}
