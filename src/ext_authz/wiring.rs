//! Clients that are configured in a way that cannot work with this listener: each is counted, and the log says what to
//! change.  Without that an operator sees nothing but denied requests at Envoy.

use prometheus_client::metrics::counter::Counter;

use crate::server::http2::{PREFACE, PREFACE_LENGTH};
use crate::server::log_throttle::LogThrottle;
use crate::telemetry::metrics::Metrics;

/// How a client is configured wrongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongWiring {
    /// HTTP/1 instead of HTTP/2.
    Http1,
    /// TLS on a listener without it.
    Tls,
    /// Bytes that are not HTTP/2.  (Plain text on a listener with TLS fails in the TLS handshake.)
    NotHttp2,
    /// HTTP/2 without gRPC: Envoy's `http_service`.
    NotGrpc,
    /// The second version of Envoy's API.
    V2,
    /// An authority that is not valid in a URI, such as Envoy derives from a cluster name with a bar.
    Authority,
}

impl WrongWiring {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Http1, Self::Tls, Self::NotHttp2, Self::NotGrpc, Self::V2, Self::Authority];

    /// The kind by the first bytes of a connection; `None` if they are the preface of HTTP/2.
    pub fn of_preface(preface: &[u8; PREFACE_LENGTH], is_tls: bool) -> Option<Self> {
        if preface == PREFACE {
            return None;
        }
        // A handshake record of TLS (RFC 8446 section 5.1).
        if !is_tls && preface.starts_with(&[0x16, 0x03]) {
            return Some(Self::Tls);
        }
        // A request line begins with a method (RFC 9112 section 3).
        let method = preface.iter().position(|&byte| byte == b' ');
        let is_method =
            method.is_some_and(|end| end > 0 && preface[..end].iter().all(u8::is_ascii_uppercase));
        Some(if is_method && !preface.starts_with(b"PRI ") { Self::Http1 } else { Self::NotHttp2 })
    }

    /// The kind by a path that is not served here.
    pub fn of_path(path: &str) -> Self {
        let is_v2 = path.starts_with("/envoy.service.auth.v2");
        if is_v2 { Self::V2 } else { Self::NotGrpc }
    }

    /// The word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Tls => "tls",
            Self::NotHttp2 => "not_http2",
            Self::NotGrpc => "not_grpc",
            Self::V2 => "v2_api",
            Self::Authority => "authority",
        }
    }

    /// What to change.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Http1 => {
                "This listener speaks gRPC, which needs HTTP/2, and was sent HTTP/1. Give the cluster \
                 explicit_http_config with http2_protocol_options, and the filter grpc_service.\n"
            }
            Self::Tls => {
                "This listener speaks plain HTTP/2, and was sent TLS. Set ext_authz.tls here, or remove the \
                 transport_socket of Envoy's cluster.\n"
            }
            Self::NotHttp2 => "This listener speaks gRPC over HTTP/2, and was sent something else.\n",
            Self::NotGrpc => {
                "This listener answers Envoy's ext_authz over gRPC, and this is another call. Use grpc_service in \
                 the ext_authz filter, not http_service.\n"
            }
            Self::V2 => {
                "This listener answers version 3 of Envoy's API, and this is a call of version 2. Set \
                 transport_api_version: V3 in the ext_authz filter.\n"
            }
            Self::Authority => {
                "This listener was sent an :authority that HTTP/2 forbids, such as a cluster's name with a bar in it. \
                 Set authority in the envoy_grpc of the ext_authz filter, to ext-authz.local for example.\n"
            }
        }
    }
}

/// Counts and logs them.
#[derive(Debug)]
pub struct WrongWirings([(WrongWiring, Counter, LogThrottle); WrongWiring::ALL.len()]);

impl WrongWirings {
    /// Counted in these metrics.
    pub fn new(metrics: &Metrics) -> Self {
        Self(WrongWiring::ALL.map(|kind| (kind, metrics.wrong_wirings(kind.as_str()), LogThrottle::new())))
    }

    /// Counts one, and logs it where the throttle allows it.
    pub fn report(&self, kind: WrongWiring, peer: &str) {
        for (_, counter, log_throttle) in self.0.iter().filter(|(counted, ..)| *counted == kind) {
            counter.inc();
            if let Some(suppressed) = log_throttle.next_line() {
                let (kind, advice) = (kind.as_str(), kind.advice().trim_end());
                tracing::warn!(listener = "ext_authz", kind, peer, suppressed, "wrong wiring: {advice}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_show_the_protocol() {
        let cases: &[(&[u8; 24], bool, Option<WrongWiring>)] = &[
            (PREFACE, false, None),
            (PREFACE, true, None),
            (b"GET / HTTP/1.1\r\nhost: h\r", false, Some(WrongWiring::Http1)),
            (b"PROPFIND /a/b HTTP/1.1\r\n", false, Some(WrongWiring::Http1)),
            (b"POST / HTTP/1.1\r\nhost: h", true, Some(WrongWiring::Http1)),
            (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03aaaaaaaaaaaaa", false, Some(WrongWiring::Tls)),
            (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03aaaaaaaaaaaaa", true, Some(WrongWiring::NotHttp2)),
            (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", false, Some(WrongWiring::NotHttp2)),
            (&[0; 24], false, Some(WrongWiring::NotHttp2)),
            (b" GET / HTTP/1.1\r\nhost:  ", false, Some(WrongWiring::NotHttp2)),
        ];
        for (bytes, is_tls, expected) in cases {
            assert_eq!(WrongWiring::of_preface(bytes, *is_tls), *expected, "{}", bytes.escape_ascii());
        }
        assert_eq!(WrongWiring::of_path("/envoy.service.auth.v2.Authorization/Check"), WrongWiring::V2);
        assert_eq!(WrongWiring::of_path("/envoy.service.auth.v2alpha.Authorization/Check"), WrongWiring::V2);
        assert_eq!(WrongWiring::of_path("/any"), WrongWiring::NotGrpc);
    }
}
