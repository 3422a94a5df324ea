//! The metadata of a gRPC call in the head of a request (gRPC over HTTP/2, "Requests").

use std::time::Duration;

use http::{HeaderMap, Method, Request, StatusCode};

/// The metadata of a call that affect the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Metadata {
    /// Whether the content type is gRPC's.
    is_grpc: bool,
    /// Whether the client reads trailers, in which a gRPC answer has its status ("TE").
    expects_trailers: bool,
    /// `grpc-timeout`: how long the client waits for the answer.
    pub(super) timeout: Option<Duration>,
}

impl Metadata {
    /// The metadata of a gRPC call.
    ///
    /// # Errors
    /// The request is not a gRPC call: the HTTP status of the response.
    pub(super) fn from_request<B>(request: &Request<B>) -> Result<Self, StatusCode> {
        let metadata = Self::from_headers(request.headers());
        if request.method() != Method::POST {
            return Err(StatusCode::METHOD_NOT_ALLOWED);
        }
        if !metadata.is_grpc || !metadata.expects_trailers {
            return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        Ok(metadata)
    }

    /// Reads all headers in one pass, which takes fewer instructions than one lookup for each.  The first of two
    /// headers with the same name is used.
    fn from_headers(headers: &HeaderMap) -> Self {
        let (mut content_type, mut te, mut timeout) = (None, None, None);
        for (name, value) in headers {
            let first = match name.as_str() {
                "content-type" => &mut content_type,
                "te" => &mut te,
                "grpc-timeout" => &mut timeout,
                _ => continue,
            };
            first.get_or_insert(value.as_bytes());
        }
        Self {
            is_grpc: content_type.is_some_and(is_grpc),
            expects_trailers: te == Some(b"trailers"),
            timeout: timeout.and_then(parse_timeout),
        }
    }
}

fn is_grpc(content_type: &[u8]) -> bool {
    match content_type.strip_prefix(b"application/grpc") {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';')),
        None => false,
    }
}

/// `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn parse_timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0, |amount, digit| amount * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(amount * 3600)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_call_is_a_post_of_its_content_type_by_a_client_that_reads_trailers() {
        let cases = [
            ("POST", "application/grpc", "trailers", Ok(())),
            ("POST", "application/grpc+proto", "trailers", Ok(())),
            ("POST", "application/grpc;x=y", "trailers", Ok(())),
            ("GET", "application/grpc", "trailers", Err(StatusCode::METHOD_NOT_ALLOWED)),
            ("POST", "application/grpc-web", "trailers", Err(StatusCode::UNSUPPORTED_MEDIA_TYPE)),
            ("POST", "application/json", "trailers", Err(StatusCode::UNSUPPORTED_MEDIA_TYPE)),
            ("POST", "application/grpc", "gzip", Err(StatusCode::UNSUPPORTED_MEDIA_TYPE)),
        ];
        for (method, content_type, te, expected) in cases {
            let request =
                Request::builder().method(method).header("content-type", content_type).header("te", te);
            let metadata = Metadata::from_request(&request.body(()).unwrap());
            assert_eq!(metadata.map(drop), expected, "{method} {content_type} {te}");
        }
    }

    #[test]
    fn a_timeout_is_eight_digits_and_a_unit_at_most() {
        let cases: &[(&[u8], Option<Duration>)] = &[
            (b"1H", Some(Duration::from_secs(3600))),
            (b"2M", Some(Duration::from_secs(120))),
            (b"20S", Some(Duration::from_secs(20))),
            (b"99999999m", Some(Duration::from_millis(99_999_999))),
            (b"5u", Some(Duration::from_micros(5))),
            (b"0n", Some(Duration::ZERO)),
            (b"", None),
            (b"S", None),
            (b"100000000S", None),
            (b"1s", None),
            (b"-1S", None),
            (b"1.5S", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_timeout(text), *expected, "{}", text.escape_ascii());
        }
    }
}
