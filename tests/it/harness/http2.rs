//! HTTP/2 by the `h2` crate: header lines that HTTP/1.1 clients cannot split, and gRPC.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request};

use super::PATIENCE;

/// An answer over HTTP/2.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The trailers; of an answer that consists of trailers alone (as gRPC refusals do) the headers.
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
        tokio::time::timeout(PATIENCE, exchange).await.expect("an answer over HTTP/2")
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
        tokio::time::timeout(PATIENCE, exchange).await.expect("an answer over HTTP/2").expect("an answer")
    })
}
