//! A receiver of traces: OTLP's own gRPC service, as opentelemetry-proto generates it.
//!
//! Envoy's OpenTelemetry tracer sends to it as well as our server, so whoever speaks to it need not be ours.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Value, json};
use tonic::codec::CompressionEncoding;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use super::MAX_WAIT;

/// A collector on a port of its own.  It lives as long as the value.
pub struct Collector {
    address: SocketAddr,
    received: Arc<Received>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

#[derive(Default)]
struct Received {
    spans: Mutex<Vec<Sent>>,
    grown: Condvar,
}

/// A span as it came, ids in hexadecimal digits.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The attributes of whoever sent it.
    pub resource: Value,
    pub trace: String,
    pub id: String,
    /// Empty when it has none.
    pub parent: String,
    pub name: String,
    pub attributes: Value,
    pub span: Span,
    /// The request's metadata.
    pub metadata: tonic::metadata::MetadataMap,
}

impl Sent {
    /// `service.name` of whoever sent it.
    pub fn service(&self) -> &str {
        self.resource["service.name"].as_str().unwrap_or_default()
    }
}

impl Collector {
    pub fn start() -> Self {
        Self::serve(Server::builder())
    }

    /// A collector with this certificate and its key, in PEM.
    pub fn with_tls(certificate: &str, key: &str) -> Self {
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
        Self::serve(Server::builder().tls_config(tls).expect("a certificate and its key"))
    }

    fn serve(mut server: Server) -> Self {
        let received = Arc::new(Received::default());
        let service = TraceServiceServer::new(Ingest(Arc::clone(&received)));
        let service = service.accept_compressed(CompressionEncoding::Gzip);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (bound, address): (Sender<SocketAddr>, Receiver<SocketAddr>) = channel();
        std::thread::spawn(move || {
            super::grpc::block_on(async move {
                let any = SocketAddr::from(([127, 0, 0, 1], 0));
                let incoming = TcpIncoming::bind(any).expect("a free port");
                bound.send(incoming.local_addr().expect("a bound address")).expect("somebody waits");
                let until = async { drop(stopped.await) };
                let router = server.add_service(service);
                router.serve_with_incoming_shutdown(incoming, until).await.expect("a collector that runs");
            });
        });
        let address = address.recv_timeout(MAX_WAIT).expect("the collector starts");
        Self { address, received, _stop: stop }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every span so far.
    pub fn spans(&self) -> Vec<Sent> {
        self.received.spans.lock().unwrap().clone()
    }

    /// The first span of which this is true, now or soon.
    #[track_caller]
    pub fn wait_for(&self, what: &str, is_it: impl Fn(&Sent) -> bool) -> Sent {
        let deadline = Instant::now() + MAX_WAIT;
        let mut spans = self.received.spans.lock().unwrap();
        loop {
            if let Some(found) = spans.iter().find(|span| is_it(span)) {
                return found.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what} never came; what came: {spans:#?}");
            spans = self.received.grown.wait_timeout(spans, left).unwrap().0;
        }
    }

    /// The first span with this attribute, now or soon.
    #[track_caller]
    pub fn with_attribute(&self, name: &str, value: &str) -> Sent {
        self.wait_for(&format!("a span with {name}={value}"), |span| span.attributes[name] == value)
    }
}

struct Ingest(Arc<Received>);

#[tonic::async_trait]
impl TraceService for Ingest {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let metadata = request.metadata().clone();
        let mut spans = self.0.spans.lock().unwrap();
        for group in request.into_inner().resource_spans {
            let resource = object(&group.resource.unwrap_or_default().attributes);
            for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                spans.push(Sent {
                    resource: resource.clone(),
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    name: span.name.clone(),
                    attributes: object(&span.attributes),
                    span,
                    metadata: metadata.clone(),
                });
            }
        }
        self.0.grown.notify_all();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn object(attributes: &[KeyValue]) -> Value {
    attributes.iter().map(|pair| (pair.key.clone(), value(pair.value.as_ref()))).collect()
}

fn value(value: Option<&AnyValue>) -> Value {
    match value.and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => json!(text),
        Some(any_value::Value::IntValue(number)) => json!(number),
        Some(any_value::Value::BoolValue(yes)) => json!(yes),
        Some(other) => json!(format!("{other:?}")),
        None => Value::Null,
    }
}
