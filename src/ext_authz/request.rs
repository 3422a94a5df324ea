//! From the bytes of a CheckRequest to [`Attributes`].

use bytes::Bytes;
use prost::Message;

use super::wire;
use crate::attributes::{Attributes, Encoding, Header, Headers, Http};

/// A decoded CheckRequest.  Its fields share the buffer it was decoded from.
pub struct Request(wire::AttributeContext);

impl Request {
    /// Decodes a message.  A CheckRequest without attributes is one without a request.
    ///
    /// # Errors
    /// The bytes are no protobuf message of this shape.  Text that is not UTF-8 is no error.
    pub fn decode(message: Bytes) -> Result<Self, prost::DecodeError> {
        let request = wire::CheckRequest::decode(message)?;
        Ok(Self(request.attributes.unwrap_or_default()))
    }

    /// The request's words.
    pub fn attributes(&self) -> Attributes<'_> {
        // In a map the last entry of a key counts.
        let extension = |name: &[u8]| {
            let mut entries = self.0.context_extensions.iter().rev();
            entries.find(|entry| entry.key == name).map(|entry| entry.value.as_ref())
        };
        let http = self.0.request.as_ref().and_then(|request| request.http.as_ref());
        Attributes { http: http.map(http_attributes), policy: extension(b"policy") }
    }
}

fn http_attributes(http: &wire::HttpRequest) -> Http<'_> {
    Http { method: &http.method, host: &http.host, path: &http.path, headers: headers(http) }
}

/// Envoy fills one of the two: `header_map` when `encode_raw_headers` is on, `headers` otherwise.
fn headers(http: &wire::HttpRequest) -> Headers<'_> {
    match &http.header_map {
        Some(map) if !map.headers.is_empty() => {
            let entries = map.headers.iter().map(|header| {
                let value = if header.raw_value.is_empty() { &header.value } else { &header.raw_value };
                Header { name: &header.key, value }
            });
            Headers::new(Encoding::Lines, entries.collect())
        }
        Some(_) | None => {
            let entries = http.headers.iter().map(|entry| Header { name: &entry.key, value: &entry.value });
            Headers::new(Encoding::Joined, entries.collect())
        }
    }
}
