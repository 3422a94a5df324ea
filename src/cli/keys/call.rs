//! Calls of the admin API.

use std::io::{self, BufReader, Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use serde_json::de::IoRead;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::{
    AdminUrl, CliError, Detail, IssuedKey, KeysError, Message, REQUEST_TIMEOUT, ServerArgs, escape_controls,
    print, print_note, read_secret, tls,
};
use crate::config::Transport;
use crate::secret::Secret;

/// The largest body of an error that is read, in bytes.
const MAX_ERROR_BYTES: u64 = 64 * 1024;

/// A response with status 200.
pub(super) struct Response {
    body: Vec<u8>,
    url: AdminUrl,
}

impl Response {
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, KeysError> {
        // The body may hold a token, and the parser's error could quote it.
        serde_json::from_slice(&self.body).map_err(|_| KeysError::UnexpectedBody(self.url.clone()))
    }

    /// The body as it came, as one line.
    fn to_line(&self) -> String {
        format!("{}\n", String::from_utf8_lossy(&self.body).trim_end())
    }
}

/// A response whose body is read as it comes.
pub(super) struct StreamedResponse {
    status: StatusCode,
    body: StreamedBody,
}

/// The JSON of a body that is read as it comes.
pub(super) type StreamedJson<'b> = serde_json::Deserializer<IoRead<BufReader<&'b mut StreamedBody>>>;

impl StreamedResponse {
    /// Parses the body, which is one JSON value.
    ///
    /// # Errors
    /// The connection breaks, or the body is something else.
    pub fn parse_with<T>(
        &mut self,
        parse: impl FnOnce(&mut StreamedJson<'_>) -> Result<T, serde_json::Error>,
    ) -> Result<T, KeysError> {
        let mut json = serde_json::Deserializer::from_reader(BufReader::new(&mut self.body));
        let parsed = parse(&mut json).and_then(|value| json.end().map(|()| value));
        parsed.map_err(|_| self.body.failure(KeysError::UnexpectedBody))
    }

    /// Copies the body to standard output, with a line ending.
    pub fn copy_to_stdout(mut self) -> Result<(), CliError> {
        let mut part = [0; 16 * 1024];
        loop {
            match self.body.read(&mut part) {
                Ok(0) => return print("\n"),
                Ok(length) => {
                    let written = io::stdout().write_all(&part[..length]);
                    match written {
                        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                        Err(error) => return Err(CliError::Output(error)),
                        Ok(()) => {}
                    }
                }
                Err(_) => return Err(self.body.failure(KeysError::UnexpectedBody).into()),
            }
        }
    }

    /// Reads the body whole.
    fn collect(mut self) -> Result<Response, KeysError> {
        let mut body = Vec::new();
        match self.body.read_to_end(&mut body) {
            Ok(_) => Ok(Response { body, url: self.body.url.clone() }),
            Err(_) => Err(self.body.failure(KeysError::UnexpectedBody)),
        }
    }

    /// The error that a response with another status than 200 tells.
    fn into_error(self) -> KeysError {
        let Self { status, mut body } = self;
        let mut text = Vec::new();
        if (&mut body).take(MAX_ERROR_BYTES).read_to_end(&mut text).is_err() {
            return body.failure(KeysError::UnexpectedBody);
        }
        match serde_json::from_slice(&text) {
            Ok(Message { message, details }) => {
                let details = details.iter().map(|Detail { field, problem }| format!("; {field}: {problem}"));
                let message = format!("{message}{}", details.collect::<String>());
                KeysError::Api { message: escape_controls(&message), status }
            }
            Err(_) => KeysError::UnexpectedStatus { url: body.url.clone(), status },
        }
    }
}

/// The body of a response, for readers that wait for it.
pub(super) struct StreamedBody {
    runtime: CallRuntime,
    url: AdminUrl,
    body: Incoming,
    part: Bytes,
    /// Why reading failed.
    failure: Option<KeysError>,
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
                Ok(Some(Err(source))) => KeysError::Connection { url: self.url.clone(), source },
                Err(_) => KeysError::Timeout(self.url.clone()),
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
    fn failure(&mut self, other: impl FnOnce(AdminUrl) -> KeysError) -> KeysError {
        self.failure.take().unwrap_or_else(|| other(self.url.clone()))
    }
}

/// The runtime of one call.
struct CallRuntime(Option<Runtime>);

impl CallRuntime {
    fn new() -> Result<Self, KeysError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self(Some(runtime.map_err(KeysError::Runtime)?)))
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

impl ServerArgs {
    /// Makes one call and prints the message of the response.
    pub(super) fn call_and_print_message(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(), CliError> {
        let response = self.call(method, path, body)?;
        if self.json {
            return print(&response.to_line());
        }
        let Message { message, .. } = response.parse()?;
        print(&format!("{}\n", escape_controls(&message)))
    }

    /// Prints the token alone to standard output, so that it can be piped, and the rest to standard error.
    pub(super) fn print_token(&self, response: &Response, done: &str) -> Result<(), CliError> {
        if self.json {
            return print(&response.to_line());
        }
        let IssuedKey { id, name, key } = response.parse()?;
        let key = Secret::new(key);
        print_note(&format!(
            "Key {id}, {}, is {done}.  Its token is shown this once:",
            escape_controls(&name)
        ));
        print(&format!("{}\n", key.expose()))
    }

    fn authorization(&self) -> Result<HeaderValue, KeysError> {
        let value = match (&self.token_file, &self.user, &self.password_file) {
            (Some(path), None, None) => {
                Secret::new(format!("Bearer {}", read_secret("token", path)?.expose()))
            }
            (None, Some(user), Some(path)) => {
                let password = read_secret("password", path)?;
                let pair = Secret::new(format!("{user}:{}", password.expose()));
                Secret::new(format!("Basic {}", STANDARD.encode(pair.expose())))
            }
            _ => return Err(KeysError::NoCredential),
        };
        let mut value = HeaderValue::from_str(value.expose()).map_err(KeysError::CredentialCharacters)?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Makes one call below `/api/auth/keys`.  Any status but 200 is an error, in the API's own words.
    pub(super) fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response, KeysError> {
        self.start_call(method, path, body)?.collect()
    }

    /// The same, until the response begins.
    pub(super) fn start_call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<StreamedResponse, KeysError> {
        let url: AdminUrl = self.url.parse()?;
        let authorization = self.authorization()?;
        if url.transport == Transport::Plain && !url.is_local() {
            print_note(&format!("warning: the credential goes to {} without TLS", url.authority));
        }
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}/api/auth/keys{path}", url.path))
            .header(HOST, url.authority.as_str())
            .header(ACCEPT, "application/json")
            .header(AUTHORIZATION, authorization);
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body))).map_err(KeysError::Request)?;
        let runtime = CallRuntime::new()?;
        let sent = runtime.run(async { timeout(REQUEST_TIMEOUT, self.send(&url, request)).await });
        let (status, body) = sent.unwrap_or_else(|_| Err(KeysError::Timeout(url.clone())))?;
        let body = StreamedBody { runtime, url, body, part: Bytes::new(), failure: None };
        let response = StreamedResponse { status, body };
        if status == StatusCode::OK { Ok(response) } else { Err(response.into_error()) }
    }

    async fn send(
        &self,
        url: &AdminUrl,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Incoming), KeysError> {
        let client = match url.transport {
            Transport::Plain => None,
            // Before the connection: a file that cannot be read is not the server's fault.
            Transport::Tls => Some(tls::Client::new(self)?),
        };
        let stream = TcpStream::connect((url.host.as_str(), url.port))
            .await
            .map_err(|source| KeysError::Unreachable { url: url.clone(), source })?;
        match client {
            None => send_over(url, stream, request).await,
            Some(client) => send_over(url, client.handshake(url, stream).await?, request).await,
        }
    }
}

async fn send_over(
    url: &AdminUrl,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Incoming), KeysError> {
    let broken = |source: hyper::Error| KeysError::Connection { url: url.clone(), source };
    let (mut client, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // This task ends with the runtime.
    tokio::spawn(connection);
    let (head, body) = client.send_request(request).await.map_err(broken)?.into_parts();
    Ok((head.status, body))
}
