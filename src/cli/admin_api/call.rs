//! Calls of the admin API.

use std::io::{self, BufReader, Read, Write};

use bytes::{Buf, Bytes};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::response::Parts as Head;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use serde_json::de::IoRead;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::super::{CliError, escape_controls, print};
use super::words::{ApiAnswer, ApiDetail};
use super::{AdminApi, AdminApiError, AdminUrl, REQUEST_TIMEOUT, tls};

/// The largest body of an error that is read, in bytes.
const MAX_ERROR_BYTES: u64 = 64 * 1024;

/// The message of the admin listener about a path where it has nothing.
const NO_ROUTE: &str = "Not found";

/// The header that says how many items a list has, of which the body is one page.
const TOTAL_COUNT: &str = "x-total-count";

/// The body of a request.
#[derive(Clone, Copy)]
pub(in crate::cli) enum Body<'b> {
    /// None.
    Empty,
    /// One JSON value.
    Json(&'b Value),
    /// A JSON value a line.
    Lines(&'b str),
}

/// The query of a request's path.
#[derive(Clone)]
pub(in crate::cli) struct Query(Vec<(&'static str, String)>);

impl Query {
    pub(in crate::cli) fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a parameter if there is a value for it.
    pub(in crate::cli) fn with(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            self.0.push((name, value.to_string()));
        }
        self
    }

    /// The path with this query.
    pub(in crate::cli) fn of(&self, path: &str) -> String {
        let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.0).finish();
        if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
    }
}

/// The response to everything that gives no item, errors included.
#[derive(Deserialize)]
struct Message {
    message: String,
    /// Of an error: the members at fault.
    #[serde(default)]
    details: Vec<ApiDetail>,
}

/// A response that succeeded.
pub(in crate::cli) struct Response {
    body: Vec<u8>,
    url: AdminUrl,
    total: Option<u64>,
}

impl Response {
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, AdminApiError> {
        // The body may hold a token, and the parser's error could quote it.
        serde_json::from_slice(&self.body).map_err(|_| AdminApiError::UnexpectedBody(self.url.clone()))
    }

    /// The message that is the body, fit for a terminal.
    pub fn message(&self) -> Result<String, AdminApiError> {
        let Message { message, .. } = self.parse()?;
        Ok(escape_controls(&message))
    }

    /// The body as it came, as one line.
    pub fn to_line(&self) -> String {
        format!("{}\n", String::from_utf8_lossy(&self.body).trim_end())
    }

    /// The error that the body is not what the API answers.
    pub fn unexpected(&self) -> AdminApiError {
        AdminApiError::UnexpectedBody(self.url.clone())
    }

    /// How many items the whole list has.
    pub fn total(&self) -> Option<u64> {
        self.total
    }
}

/// A response whose body is read as it comes.
pub(in crate::cli) struct StreamedResponse {
    status: StatusCode,
    total: Option<u64>,
    body: StreamedBody,
}

/// The JSON of a body that is read as it comes.
pub(in crate::cli) type StreamedJson<'b> = serde_json::Deserializer<IoRead<BufReader<&'b mut StreamedBody>>>;

impl StreamedResponse {
    /// Parses the body, which is one JSON value.
    ///
    /// # Errors
    /// The connection breaks, or the body is something else.
    pub fn parse_with<T>(
        &mut self,
        parse: impl FnOnce(&mut StreamedJson<'_>) -> Result<T, serde_json::Error>,
    ) -> Result<T, AdminApiError> {
        let mut json = serde_json::Deserializer::from_reader(BufReader::new(&mut self.body));
        let parsed = parse(&mut json).and_then(|value| json.end().map(|()| value));
        parsed.map_err(|_| self.body.failure(AdminApiError::UnexpectedBody))
    }

    /// Copies the body to standard output, which then ends with a line ending.
    pub fn copy_to_stdout(mut self) -> Result<(), CliError> {
        let mut part = [0; 16 * 1024];
        let mut last = None;
        loop {
            match self.body.read(&mut part) {
                Ok(0) => return if matches!(last, None | Some(b'\n')) { Ok(()) } else { print("\n") },
                Ok(length) => {
                    last = part[..length].last().copied();
                    let written = io::stdout().write_all(&part[..length]);
                    match written {
                        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                        Err(error) => return Err(CliError::Output(error)),
                        Ok(()) => {}
                    }
                }
                Err(_) => return Err(self.body.failure(AdminApiError::UnexpectedBody).into()),
            }
        }
    }

    /// Reads the body whole.
    fn collect(mut self) -> Result<Response, AdminApiError> {
        let mut body = Vec::new();
        match self.body.read_to_end(&mut body) {
            Ok(_) => Ok(Response { body, url: self.body.url.clone(), total: self.total }),
            Err(_) => Err(self.body.failure(AdminApiError::UnexpectedBody)),
        }
    }

    /// The error that a response with a status that is not 2xx tells, of a call with this credential.
    fn into_error(self, credential: &str) -> AdminApiError {
        let Self { status, mut body, .. } = self;
        let mut text = Vec::new();
        if (&mut body).take(MAX_ERROR_BYTES).read_to_end(&mut text).is_err() {
            return body.failure(AdminApiError::UnexpectedBody);
        }
        match serde_json::from_slice(&text) {
            Ok(Message { message, .. })
                if status == StatusCode::NOT_FOUND && message == NO_ROUTE && !body.url.path().is_empty() =>
            {
                AdminApiError::NothingAtPath(body.url.clone())
            }
            Ok(Message { message, details }) => AdminApiError::Api(ApiAnswer {
                message: escape_controls(&message),
                details,
                status,
                rejected: (status == StatusCode::UNAUTHORIZED).then(|| credential.to_owned()),
            }),
            Err(_) => AdminApiError::UnexpectedStatus { url: body.url.clone(), status },
        }
    }
}

/// The body of a response, for readers that wait for it.
pub(in crate::cli) struct StreamedBody {
    runtime: CallRuntime,
    url: AdminUrl,
    body: Incoming,
    part: Bytes,
    /// Why reading failed.
    failure: Option<AdminApiError>,
}

impl Read for StreamedBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            let body = &mut self.body;
            let frame = self.runtime.run(async { timeout(REQUEST_TIMEOUT, body.frame()).await });
            let error = match frame {
                Ok(None) => return Ok(0),
                Ok(Some(Ok(frame))) => {
                    self.part = frame.into_data().unwrap_or_default();
                    continue;
                }
                Ok(Some(Err(source))) => AdminApiError::Connection { url: self.url.clone(), source },
                Err(_) => AdminApiError::Timeout(self.url.clone()),
            };
            self.failure = Some(error);
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let length = buffer.len().min(self.part.len());
        buffer[..length].copy_from_slice(&self.part[..length]);
        self.part.advance(length);
        Ok(length)
    }
}

impl StreamedBody {
    /// Why reading failed, or this where the body came whole.
    fn failure(&mut self, other: impl FnOnce(AdminUrl) -> AdminApiError) -> AdminApiError {
        self.failure.take().unwrap_or_else(|| other(self.url.clone()))
    }
}

/// The runtime of one call.
struct CallRuntime(Option<Runtime>);

impl CallRuntime {
    fn new() -> Result<Self, AdminApiError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self(Some(runtime.map_err(AdminApiError::Runtime)?)))
    }

    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.0.as_ref().expect("the runtime is there until it is dropped").block_on(future)
    }
}

impl Drop for CallRuntime {
    fn drop(&mut self) {
        // The process does not wait for a name that is still being resolved.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl AdminApi {
    /// Makes one call of this path, such as `/api/auth/keys`.  Any status but 2xx is an error, in the API's own words.
    pub(in crate::cli) fn call(
        &self,
        method: Method,
        path: &str,
        body: Body<'_>,
    ) -> Result<Response, AdminApiError> {
        self.start_call(method, path, body)?.collect()
    }

    /// Gets what is at this path.
    pub(in crate::cli) fn get(&self, path: &str) -> Result<Response, AdminApiError> {
        self.call(Method::GET, path, Body::Empty)
    }

    /// The same as [`Self::call`], until the response begins.
    pub(in crate::cli) fn start_call(
        &self,
        method: Method,
        path: &str,
        body: Body<'_>,
    ) -> Result<StreamedResponse, AdminApiError> {
        let url = &self.url;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", url.path()))
            .header(HOST, url.authority().as_str())
            .header(ACCEPT, "application/json")
            .header(AUTHORIZATION, self.authorization.clone());
        let (content_type, body) = match body {
            Body::Empty => (None, Bytes::new()),
            Body::Json(value) => (Some("application/json"), Bytes::from(value.to_string())),
            Body::Lines(lines) => (Some("application/x-ndjson"), Bytes::copy_from_slice(lines.as_bytes())),
        };
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let request = request.body(Full::new(body)).map_err(AdminApiError::Request)?;
        let runtime = CallRuntime::new()?;
        let sent = runtime.run(async { timeout(REQUEST_TIMEOUT, self.send(request)).await });
        let (head, body) = sent.unwrap_or_else(|_| Err(AdminApiError::Timeout(url.clone())))?;
        let body = StreamedBody { runtime, url: url.clone(), body, part: Bytes::new(), failure: None };
        let response = StreamedResponse { status: head.status, total: total(&head.headers), body };
        if head.status.is_success() { Ok(response) } else { Err(response.into_error(&self.credential)) }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<(Head, Incoming), AdminApiError> {
        let url = &self.url;
        // Before the connection: a file that cannot be read is not the server's fault.
        let client = if url.is_plain() { None } else { Some(tls::Client::new(&self.arguments)?) };
        let unknown = |source| AdminApiError::UnknownHost {
            host: escape_controls(url.host()),
            url: url.clone(),
            source,
        };
        let addresses: Vec<_> = lookup_host((url.host(), url.port())).await.map_err(unknown)?.collect();
        let stream = TcpStream::connect(addresses.as_slice())
            .await
            .map_err(|source| AdminApiError::Unreachable { url: url.clone(), source })?;
        match client {
            None => send_over(url, stream, request).await,
            Some(client) => send_over(url, client.handshake(url, stream).await?, request).await,
        }
    }
}

fn total(headers: &HeaderMap) -> Option<u64> {
    headers.get(TOTAL_COUNT)?.to_str().ok()?.parse().ok()
}

async fn send_over(
    url: &AdminUrl,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(Head, Incoming), AdminApiError> {
    let advice = if url.is_plain() { "; if it has TLS, the URL begins with https://" } else { "" };
    let broken = |source: hyper::Error| AdminApiError::NoHttp { url: url.clone(), source, advice };
    let (mut client, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // This task ends with the runtime.
    tokio::spawn(connection);
    Ok(client.send_request(request).await.map_err(broken)?.into_parts())
}
