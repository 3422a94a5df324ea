//! The values of our configuration that Envoy's depends on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::EnvoyError;
use super::tls::{TlsFiles, UpstreamTls};
use crate::config::{Config, Listen};
use crate::credential::CredentialLocation;
use crate::policy::PermittedOverrides;

/// The values that Envoy's configuration is rendered from.
pub struct EnvoySettings {
    /// The actor headers.
    pub actor_headers: Vec<String>,
    /// The headers that may carry a credential.
    pub credentials: Vec<String>,
    /// Those of them that the server may empty.
    pub emptied: Vec<String>,
    /// The overrides that a trusted proxy before Envoy sets.
    pub permitted_overrides: PermittedOverrides,
    /// The address by which Envoy reaches us.
    pub server: Endpoint,
    /// How Envoy speaks TLS to us; `None` without `ext_authz.tls`.
    pub tls: Option<UpstreamTls>,
    /// The address on which Envoy listens.
    pub listener: Endpoint,
    /// The address of the application.
    pub upstream: Endpoint,
}

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
    fn from_listen(listen: &Listen) -> Result<Self, EnvoyError> {
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

impl EnvoySettings {
    /// The settings for a configuration of ours; without `address` Envoy reaches us where we listen.
    ///
    /// # Errors
    /// [`EnvoyError`]: Envoy cannot reach us, cannot verify our certificate, or `tls_files` do not fit the configuration.
    pub fn new(
        config: &Config,
        address: Option<Endpoint>,
        listener: Endpoint,
        upstream: Endpoint,
        tls_files: TlsFiles,
    ) -> Result<Self, EnvoyError> {
        let rules = &config.rules;
        let mut credentials: Vec<String> = Vec::new();
        let cookie = "cookie".to_owned();
        for location in rules.locations.order() {
            let header = match location {
                CredentialLocation::Bearer | CredentialLocation::Basic { .. } => "authorization".to_owned(),
                CredentialLocation::Header { name } => name.to_string(),
                CredentialLocation::Session { .. } | CredentialLocation::Cookie { .. } => cookie.clone(),
                // Envoy sends the path with its query in any case.
                CredentialLocation::Query { .. } => continue,
            };
            if !credentials.contains(&header) {
                credentials.push(header);
            }
        }
        let mut emptied = if rules.forward_credentials { Vec::new() } else { credentials.clone() };
        // There are sessions of our own where there are keys.
        if config.startup.keys.is_some() && !credentials.contains(&cookie) {
            credentials.push(cookie.clone());
        }
        // The session cookie is removed even where credentials are forwarded.
        if credentials.contains(&cookie) && !emptied.contains(&cookie) {
            emptied.push(cookie);
        }
        let server = match address {
            Some(address) => address,
            None => Endpoint::from_listen(&config.startup.ext_authz.listen)?,
        };
        let tls = UpstreamTls::new(config.tls.ext_authz.as_ref(), &server, tls_files)?;
        let actor_headers = rules.actor_headers.iter().map(|header| header.name.to_string()).collect();
        let permitted_overrides = rules.policies.permitted_overrides();
        Ok(Self { actor_headers, credentials, emptied, permitted_overrides, server, tls, listener, upstream })
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
