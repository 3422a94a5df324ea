//! HTTP/2 by the `h2` crate: header lines that HTTP/1.1 clients cannot split, and gRPC.

use std::net::SocketAddr;
use std::sync::mpsc;

use bytes::Bytes;
use http::{HeaderMap, Request};

use super::MAX_WAIT;

/// An answer over HTTP/2.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The trailers; of an answer that consists of trailers alone (as gRPC denials do) the headers.
    pub trailers: HeaderMap,
}

impl Answer {
    /// `grpc-status` from wherever it stands.
    pub fn grpc_status(&self) -> Option<&str> {
        let status = self.trailers.get("grpc-status").or_else(|| self.headers.get("grpc-status"));
        status.map(|status| status.to_str().expect("digits"))
    }

    /// `grpc-message` from wherever it stands.
    pub fn grpc_message(&self) -> Option<&str> {
        let message = self.trailers.get("grpc-message").or_else(|| self.headers.get("grpc-message"));
        message.map(|message| message.to_str().expect("percent-encoded text"))
    }
}

/// Sends one request over a connection of its own.  `Err` says how the stream or the connection broke.
pub fn send(to: SocketAddr, request: Request<()>, body: Option<Bytes>) -> Result<Answer, h2::Error> {
    super::grpc::block_on(async {
        let exchange = exchange(to, request, body);
        tokio::time::timeout(MAX_WAIT, exchange).await.expect("an answer over HTTP/2")
    })
}

async fn exchange(to: SocketAddr, request: Request<()>, body: Option<Bytes>) -> Result<Answer, h2::Error> {
    let stream = tokio::net::TcpStream::connect(to).await.expect("a connection");
    let (client, connection) = h2::client::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await?;
    let (answer, mut sending) = client.send_request(request, body.is_none())?;
    if let Some(body) = body {
        sending.send_data(body, true)?;
    }
    let (head, mut stream) = answer.await?.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    let trailers = stream.trailers().await?.unwrap_or_default();
    connection.abort();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.into(), trailers })
}

/// Opens a tunnel by extended CONNECT (RFC 8441) and gives back the status of the answer.
pub fn connect(to: SocketAddr, request: Request<()>) -> u16 {
    super::grpc::block_on(async {
        let exchange = async {
            let stream = tokio::net::TcpStream::connect(to).await.expect("a connection");
            let (client, mut connection) = h2::client::handshake(stream).await?;
            // Only a peer that has said so may be sent an extended CONNECT: its settings must come first.
            let mut client = tokio::select! {
                client = client.ready() => client?,
                ended = &mut connection => panic!("the connection ended: {ended:?}"),
            };
            let connection = tokio::spawn(connection);
            while !client.is_extended_connect_protocol_enabled() {
                tokio::task::yield_now().await;
            }
            let (answer, _sending) = client.send_request(request, false)?;
            let status = answer.await?.status().as_u16();
            connection.abort();
            Ok::<u16, h2::Error>(status)
        };
        tokio::time::timeout(MAX_WAIT, exchange).await.expect("an answer over HTTP/2").expect("an answer")
    })
}

/// Sends a request with a small body and these trailers, and gives back the status of the answer.
pub fn send_with_trailers(to: SocketAddr, request: Request<()>, trailers: &[(&str, &str)]) -> u16 {
    let mut map = HeaderMap::new();
    for (name, value) in trailers {
        let name: http::HeaderName = name.parse().expect("a name");
        map.append(name, value.parse().expect("a value"));
    }
    super::grpc::block_on(async {
        let exchange = async {
            let stream = tokio::net::TcpStream::connect(to).await.expect("a connection");
            let (client, connection) = h2::client::handshake(stream).await?;
            let connection = tokio::spawn(connection);
            let mut client = client.ready().await?;
            let (answer, mut sending) = client.send_request(request, false)?;
            sending.send_data(Bytes::from_static(b"\0\0\0\0\0"), false)?;
            sending.send_trailers(map)?;
            let status = answer.await?.status().as_u16();
            connection.abort();
            Ok::<u16, h2::Error>(status)
        };
        tokio::time::timeout(MAX_WAIT, exchange).await.expect("an answer over HTTP/2").expect("an answer")
    })
}

/// An application over HTTP/2 that keeps the trailers of what reaches it.  It lives as long as the test program.
pub struct Trailers {
    address: SocketAddr,
    seen: mpsc::Receiver<Vec<String>>,
}

impl Trailers {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let (tell, seen) = mpsc::channel();
        std::thread::spawn(move || {
            super::grpc::block_on(async {
                listener.set_nonblocking(true).expect("a listener of tokio's");
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener of tokio's");
                while let Ok((stream, _)) = listener.accept().await {
                    // Whoever goes away ends their connection and no other.
                    tokio::spawn(keep_trailers(stream, tell.clone()));
                }
            });
        });
        Self { address, seen }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The trailers of the next request, one `name: value` for each line.
    pub fn next(&self) -> Vec<String> {
        self.seen.recv_timeout(MAX_WAIT).expect("a request reaches the application")
    }
}

async fn keep_trailers(
    stream: tokio::net::TcpStream,
    tell: mpsc::Sender<Vec<String>>,
) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        let tell = tell.clone();
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(data) = body.data().await {
                body.flow_control().release_capacity(data?.len())?;
            }
            let trailers = body.trailers().await?.unwrap_or_default();
            let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
            };
            let _ = tell.send(trailers.iter().map(line).collect());
            respond.send_response(http::Response::new(()), true)?;
            Ok::<(), h2::Error>(())
        });
    }
    Ok(())
}
