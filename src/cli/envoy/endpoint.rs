//! Addresses in an Envoy configuration.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::EnvoyError;
use crate::config::Listen;

/// An address in an Envoy configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A host, by name or by IP address, and a port.
    Socket {
        /// The name or the address; IPv6 without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// The path of a Unix socket, or `@name` in the abstract namespace.
    Pipe(String),
}

/// A text is not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected HOST:PORT, unix:/path or unix:@name")]
pub struct EndpointError;

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let is_path = path.starts_with(['/', '@']) && path.len() > 1;
            return is_path.then(|| Self::Pipe(path.to_owned())).ok_or(EndpointError);
        }
        let (host, port) = text.rsplit_once(':').ok_or(EndpointError)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = |host: &str| {
            !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        };
        let is_legal = match bare {
            Some(bare) => bare.parse::<Ipv6Addr>().is_ok(),
            None => is_host(host),
        };
        let port = port.parse().map_err(|_| EndpointError)?;
        is_legal.then(|| Self::Socket { host: bare.unwrap_or(host).to_owned(), port }).ok_or(EndpointError)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket { host, port } if host.contains(':') => write!(formatter, "[{host}]:{port}"),
            Self::Socket { host, port } => write!(formatter, "{host}:{port}"),
            Self::Pipe(path) => write!(formatter, "unix:{path}"),
        }
    }
}

impl Endpoint {
    /// Whether it is a host name, which DNS must resolve.
    pub fn is_name(&self) -> bool {
        match self {
            Self::Socket { host, .. } => host.parse::<IpAddr>().is_err(),
            Self::Pipe(_) => false,
        }
    }

    /// The address by which this machine reaches a listener.
    ///
    /// # Errors
    /// The port is not fixed, or the path of the socket is not UTF-8.
    pub fn from_listen(listen: &Listen) -> Result<Self, EnvoyError> {
        match listen {
            Listen::Tcp(address) if address.port() == 0 => Err(EnvoyError::AnyPort),
            Listen::Tcp(address) => {
                let ip = match address.ip() {
                    IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
                    IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
                    ip => ip,
                };
                Ok(Self::Socket { host: ip.to_string(), port: address.port() })
            }
            Listen::Unix(path) => {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                let text = path.to_str().ok_or(EnvoyError::SocketPath)?;
                Ok(Self::Pipe(text.to_owned()))
            }
            Listen::Abstract(name) => Ok(Self::Pipe(format!("@{name}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_envoy_knows_them() {
        for (text, expected) in [
            ("127.0.0.1:9191", Some(("127.0.0.1", 9191))),
            ("[::1]:80", Some(("::1", 80))),
            ("authz.svc:9191", Some(("authz.svc", 9191))),
            ("unix:/run/a.sock", Some(("/run/a.sock", 0))),
            ("unix:@name", Some(("@name", 0))),
            ("unix:", None),
            ("unix:a.sock", None),
            ("unix:/", None),
            ("localhost", None),
            (":80", None),
            ("a b:80", None),
            ("a\"b:80", None),
            ("::1:80", None),
            ("h:65536", None),
        ] {
            let found = text.parse::<Endpoint>().ok().map(|endpoint| match endpoint {
                Endpoint::Socket { host, port } => (host, port),
                Endpoint::Pipe(path) => (path, 0),
            });
            assert_eq!(found, expected.map(|(host, port)| (host.to_owned(), port)), "{text}");
        }
    }

    #[test]
    fn where_envoy_finds_a_listener() {
        for (listen, expected) in [
            ("0.0.0.0:9191", Some("127.0.0.1:9191")),
            ("[::]:9191", Some("[::1]:9191")),
            ("10.0.0.1:9191", Some("10.0.0.1:9191")),
            ("unix:/run/a.sock", Some("unix:/run/a.sock")),
            ("unix:@name", Some("unix:@name")),
            ("127.0.0.1:0", None),
        ] {
            let found = Endpoint::from_listen(&listen.parse().unwrap()).ok();
            assert_eq!(found, expected.map(|text| text.parse().unwrap()), "{listen}");
        }
    }
}
