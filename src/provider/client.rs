//! Requests to providers: HTTP/1.1 (RFC 9112), each on a connection of its own.
//!
//! Certificates are always verified, with the CAs that the system trusts and those of `ca`.  http is only used to
//! addresses of this machine.  Redirects are not followed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::endpoint::Endpoint;
use super::error::{ProviderError, RequestProblem};

/// The most requests to one provider at a time.
pub(super) const MAX_REQUESTS: usize = 4;

/// The most bytes of an answer.
pub(super) const MAX_ANSWER_BYTES: usize = 1024 * 1024;

const AGENT: &str = concat!("envoy-auth-tokens/", env!("CARGO_PKG_VERSION"));

/// Sends the requests to one provider.
pub(super) struct Client {
    ca: Box<[CertificateDer<'static>]>,
    tls: OnceCell<TlsConnector>,
    requests: Semaphore,
}

/// A request.
pub(super) struct Outgoing<'a> {
    pub(super) url: &'a Endpoint,
    /// The value of `Authorization`.
    pub(super) authorization: Option<HeaderValue>,
    /// A form, written as forms are, to be posted; without one the request is a GET.
    pub(super) form: Option<String>,
}

/// An answer, of which not much is known.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) is_jwt: bool,
    body: Bytes,
}

impl Answer {
    /// The body as a JSON object.
    pub(super) fn object(&self) -> Option<Map<String, Value>> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The JSON object of an answer with status 200.
    ///
    /// # Errors
    /// It has another status, or another body.
    pub(super) fn into_object(self) -> Result<Map<String, Value>, RequestProblem> {
        match self.status {
            StatusCode::OK if self.is_jwt => Err(RequestProblem::Jwt),
            StatusCode::OK => self.object().ok_or(RequestProblem::NotJson),
            status => Err(unexpected(status)),
        }
    }
}

/// What an answer's status comes to where it should have been another.
pub(super) fn unexpected(status: StatusCode) -> RequestProblem {
    if status.is_redirection() {
        RequestProblem::Redirect(status.as_u16())
    } else {
        RequestProblem::Status(status.as_u16())
    }
}

impl Client {
    /// One that trusts these CAs in addition to the system's.
    pub(super) fn new(ca: &[CertificateDer<'static>]) -> Self {
        Self { ca: ca.into(), tls: OnceCell::new(), requests: Semaphore::new(MAX_REQUESTS) }
    }

    pub(super) fn ca(&self) -> &[CertificateDer<'static>] {
        &self.ca
    }

    /// Sends a request, once fewer than [`MAX_REQUESTS`] are on their way, and reads the whole answer, whatever it says.
    /// All of this has `limit`.
    ///
    /// # Errors
    /// There is no whole answer: [`ProviderError::Request`].
    pub(super) async fn send(&self, request: Outgoing<'_>, limit: Duration) -> Result<Answer, ProviderError> {
        let url = request.url.to_string();
        let answer = self.send_within(request, limit).await;
        answer.map_err(|problem| ProviderError::Request { url, problem })
    }

    async fn send_within(&self, request: Outgoing<'_>, limit: Duration) -> Result<Answer, RequestProblem> {
        let deadline = Instant::now() + limit;
        let Ok(permit) = timeout_at(deadline, self.requests.acquire()).await else {
            return Err(RequestProblem::Busy(MAX_REQUESTS));
        };
        let _permit = permit.expect("the semaphore is never closed");
        timeout_at(deadline, self.exchange(request)).await.unwrap_or(Err(RequestProblem::NoAnswer(limit)))
    }

    async fn exchange(&self, request: Outgoing<'_>) -> Result<Answer, RequestProblem> {
        let url = request.url;
        let request = request.into_http()?;
        if !url.is_https() {
            return exchange_over(connect(url).await?, request).await;
        }
        // Before the connection: a CA that is missing is not the provider's fault.
        let tls = self.tls().await?;
        let name = ServerName::try_from(url.host()).map_err(|_| RequestProblem::NotARequest)?;
        let stream = tls.connect(name, connect(url).await?).await;
        exchange_over(stream.map_err(|error| RequestProblem::Tls(Arc::new(error)))?, request).await
    }

    async fn tls(&self) -> Result<&TlsConnector, RequestProblem> {
        self.tls
            .get_or_try_init(|| async {
                let ca = self.ca.clone();
                // The system's CAs are files.
                let made = tokio::task::spawn_blocking(move || connector(&ca)).await;
                made.map_err(|_| RequestProblem::NoCa)?
            })
            .await
    }
}

fn connector(ca: &[CertificateDer<'static>]) -> Result<TlsConnector, RequestProblem> {
    let mut roots = RootCertStore::empty();
    // A system's file may hold certificates that rustls cannot use beside those that it can.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.add_parsable_certificates(ca.iter().cloned());
    if roots.is_empty() {
        return Err(RequestProblem::NoCa);
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites for TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Every handshake verifies the certificate.
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

impl Outgoing<'_> {
    fn into_http(self) -> Result<Request<Full<Bytes>>, RequestProblem> {
        let target = self.url.target().ok_or(RequestProblem::NotARequest)?;
        let method = if self.form.is_some() { Method::POST } else { Method::GET };
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, self.url.authority())
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, AGENT)
            .header(CONNECTION, "close");
        if let Some(authorization) = self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if self.form.is_some() {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let body = Full::new(Bytes::from(self.form.unwrap_or_default()));
        request.body(body).map_err(|_| RequestProblem::NotARequest)
    }
}

async fn connect(url: &Endpoint) -> Result<TcpStream, RequestProblem> {
    let found = tokio::net::lookup_host((url.host(), url.port())).await;
    let found: Vec<_> = found.map_err(|error| RequestProblem::Unresolvable(Arc::new(error)))?.collect();
    let is_allowed = |address: &SocketAddr| url.is_https() || address.ip().is_loopback();
    let addresses: Vec<_> = found.iter().copied().filter(is_allowed).collect();
    if addresses.is_empty() && !found.is_empty() {
        return Err(RequestProblem::NotLoopback);
    }
    TcpStream::connect(&*addresses).await.map_err(|error| RequestProblem::Unreachable(Arc::new(error)))
}

async fn exchange_over(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
) -> Result<Answer, RequestProblem> {
    let lost = |error: hyper::Error| RequestProblem::Lost(Arc::new(error));
    let (mut client, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    let mut exchange = std::pin::pin!(async move {
        let (head, body) = client.send_request(request).await.map_err(lost)?.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                RequestProblem::TooLong(MAX_ANSWER_BYTES)
            } else {
                RequestProblem::Cut
            }
        })?;
        let media_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        let media_type = media_type.split(';').next().unwrap_or("").trim();
        let is_jwt = media_type.eq_ignore_ascii_case("application/jwt");
        Ok(Answer { status: head.status, is_jwt, body: body.to_bytes() })
    });
    tokio::select! {
        answer = &mut exchange => answer,
        // Whatever ended the connection, the exchange says it.
        _ = connection => exchange.await,
    }
}
