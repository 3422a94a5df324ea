//! A gRPC client of our server that is independent of it: the messages are envoy-types'.

use std::future::Future;

use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
pub use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};

use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, DeniedHttpResponse, OkHttpResponse};
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::MAX_WAIT;
use super::server::{ListenAddress, Server};

/// Runs a future on a runtime of its own.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// A channel to this address.
pub async fn channel(listen_address: &ListenAddress) -> Result<Channel, tonic::transport::Error> {
    let endpoint = match listen_address {
        ListenAddress::Tcp(address) => Endpoint::from_shared(format!("http://{address}"))?,
        ListenAddress::Unix(_) | ListenAddress::Abstract(_) => {
            Endpoint::from_static("http://ext-authz.local")
        }
    };
    let endpoint = endpoint.connect_timeout(MAX_WAIT).timeout(MAX_WAIT);
    let listen_address = listen_address.clone();
    match listen_address {
        ListenAddress::Tcp(_) => endpoint.connect().await,
        ListenAddress::Unix(path) => {
            let connect = move |_: Uri| {
                let path = path.clone();
                async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
            };
            endpoint.connect_with_connector(tower::service_fn(connect)).await
        }
        ListenAddress::Abstract(name) => {
            let connect = move |_: Uri| {
                let name = name.clone();
                async move { connect_abstract(&name).map(TokioIo::new) }
            };
            endpoint.connect_with_connector(tower::service_fn(connect)).await
        }
    }
}

fn connect_abstract(name: &str) -> std::io::Result<tokio::net::UnixStream> {
    use std::os::linux::net::SocketAddrExt as _;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
    stream.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(stream)
}

/// A client of Check on this channel, which takes messages of any size.
pub fn client(channel: Channel) -> AuthorizationClient<Channel> {
    AuthorizationClient::new(channel)
        .max_encoding_message_size(usize::MAX)
        .max_decoding_message_size(usize::MAX)
}

/// One connection, on which Checks are asked in turn.
pub struct Checks {
    runtime: tokio::runtime::Runtime,
    client: AuthorizationClient<Channel>,
}

impl Checks {
    pub fn of(server: &Server) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let channel = runtime.block_on(channel(server.listen_address())).expect("a connection");
        Self { runtime, client: client(channel) }
    }

    /// What Check says of a token; see [`verdict`].
    #[track_caller]
    pub fn verdict(&mut self, token: &str) -> String {
        let answer = self.runtime.block_on(self.client.check(bearer(token)));
        verdict(&answer.expect("no request leads to a gRPC error").into_inner())
    }
}

/// A request with this token.
pub fn bearer(token: &str) -> CheckRequest {
    request("GET", "app.example", "/", &[("authorization", &format!("Bearer {token}"))])
}

/// `""` for a pass, else the status and the message of the denial.
#[track_caller]
pub fn verdict(answer: &CheckResponse) -> String {
    if code(answer) == 0 {
        return String::new();
    }
    let (status, body) = refused(answer);
    let body: serde_json::Value = serde_json::from_str(&body).expect("a denial is JSON");
    format!("{status} {}", body["message"].as_str().expect("a denial has a message"))
}

/// Asks Check; a gRPC error is a failure, because no request may lead to one.
#[track_caller]
pub fn check(server: &Server, request: CheckRequest) -> CheckResponse {
    let answer = block_on(async {
        let channel = channel(server.listen_address()).await.expect("a connection");
        client(channel).check(request).await
    });
    match answer {
        Ok(answer) => answer.into_inner(),
        Err(error) => panic!("Check answered a gRPC error: {error}\n{}", server.log().text()),
    }
}

/// Asks the health service about a name.
pub fn health(server: &Server, service: &str) -> Result<&'static str, tonic::Status> {
    block_on(async {
        let channel = channel(server.listen_address()).await.expect("a connection");
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(channel).check(request).await?;
        Ok(answer.into_inner().status().as_str_name())
    })
}

/// A CheckRequest as Envoy makes it by default: headers joined in a map.
pub fn request(method: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> CheckRequest {
    let http = HttpRequest {
        method: method.to_owned(),
        host: host.to_owned(),
        path: path.to_owned(),
        scheme: "http".to_owned(),
        protocol: "HTTP/1.1".to_owned(),
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..HttpRequest::default()
    };
    let request = Request { http: Some(http), ..Request::default() };
    let attributes = AttributeContext { request: Some(request), ..AttributeContext::default() };
    CheckRequest { attributes: Some(attributes) }
}

/// The status code of an answer; an answer without a status would let the request pass.
#[track_caller]
pub fn code(answer: &CheckResponse) -> i32 {
    answer.status.as_ref().expect("every answer has a status").code
}

/// The denial inside an answer.
#[track_caller]
pub fn refusal(answer: &CheckResponse) -> &DeniedHttpResponse {
    assert_ne!(code(answer), 0, "{answer:?}");
    match &answer.http_response {
        Some(HttpResponse::DeniedResponse(refusal)) => refusal,
        other => panic!("not a denial: {other:?}"),
    }
}

/// What an answer tells Envoy to change before the request goes on.
#[track_caller]
pub fn pass(answer: &CheckResponse) -> &OkHttpResponse {
    assert_eq!(code(answer), 0, "{answer:?}");
    match &answer.http_response {
        Some(HttpResponse::OkResponse(pass)) => pass,
        other => panic!("not a pass: {other:?}"),
    }
}

/// The HTTP status and body of a denial.
#[track_caller]
pub fn refused(answer: &CheckResponse) -> (i32, String) {
    let refusal = refusal(answer);
    let status = refusal.status.as_ref().expect("a denial has an HTTP status");
    (status.code, refusal.body.clone())
}
