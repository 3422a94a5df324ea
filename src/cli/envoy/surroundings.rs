//! What of our configuration Envoy has to know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::super::Complaint;
use super::tls::{TlsFiles, UpstreamTls};
use crate::config::{Config, Listen};
use crate::credential::CredentialLocation;
use crate::policy::PermittedOverrides;

/// What Envoy's configuration is made of.
pub struct Surroundings {
    /// The headers that tell of the actor.
    pub actor_headers: Vec<String>,
    /// The headers that may carry a credential.
    pub credentials: Vec<String>,
    /// Those of them that we may empty.
    pub emptied: Vec<String>,
    /// The overrides that a trusted proxy before Envoy sets.
    pub permitted_overrides: PermittedOverrides,
    /// Where Envoy reaches us.
    pub server: Endpoint,
    /// How Envoy speaks TLS to us; `None` where we speak none.
    pub tls: Option<UpstreamTls>,
    /// Where Envoy's listener listens.
    pub listener: Endpoint,
    /// The application.
    pub upstream: Endpoint,
}

/// An address as Envoy knows them.
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

/// A text is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected HOST:PORT, unix:/path or unix:@name")]
pub struct NoEndpoint;

impl FromStr for Endpoint {
    type Err = NoEndpoint;

    fn from_str(text: &str) -> Result<Self, NoEndpoint> {
        if let Some(path) = text.strip_prefix("unix:") {
            let is_path = path.starts_with(['/', '@']) && path.len() > 1;
            return is_path.then(|| Self::Pipe(path.to_owned())).ok_or(NoEndpoint);
        }
        let (host, port) = text.rsplit_once(':').ok_or(NoEndpoint)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = |host: &str| {
            !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        };
        let is_legal = match bare {
            Some(bare) => bare.parse::<Ipv6Addr>().is_ok(),
            None => is_host(host),
        };
        let port = port.parse().map_err(|_| NoEndpoint)?;
        is_legal.then(|| Self::Socket { host: bare.unwrap_or(host).to_owned(), port }).ok_or(NoEndpoint)
    }
}

impl Endpoint {
    /// Whether somebody must be asked for the address first.
    pub fn is_name(&self) -> bool {
        match self {
            Self::Socket { host, .. } => host.parse::<IpAddr>().is_err(),
            Self::Pipe(_) => false,
        }
    }

    /// Where others find what listens here.
    fn of_listener(listen: &Listen) -> Result<Self, Complaint> {
        match listen {
            Listen::Tcp(address) if address.port() == 0 => {
                Err("error: `ext_authz.listen` has port 0, which is any free one: \
                 say with --address where Envoy reaches us"
                    .to_owned())
            }
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
                let text = path.to_str().ok_or_else(|| {
                    "error: the path of `ext_authz.listen` is not UTF-8, and Envoy wants it to be".to_owned()
                })?;
                Ok(Self::Pipe(text.to_owned()))
            }
            Listen::Abstract(name) => Ok(Self::Pipe(format!("@{name}"))),
        }
    }
}

impl Surroundings {
    /// What a configuration means for Envoy.
    ///
    /// # Errors
    /// It does not say where Envoy reaches us, or how Envoy would know our certificate, or the files do not fit it.
    pub fn of(
        config: &Config,
        address: Option<Endpoint>,
        listener: Endpoint,
        upstream: Endpoint,
        tls_files: TlsFiles,
    ) -> Result<Self, Complaint> {
        let rules = &config.rules;
        let mut credentials: Vec<String> = Vec::new();
        let cookie = "cookie".to_owned();
        for location in rules.locations.order() {
            let header = match location {
                CredentialLocation::Bearer | CredentialLocation::Basic { .. } => "authorization".to_owned(),
                CredentialLocation::Header { name } => name.to_string(),
                CredentialLocation::Session { .. } | CredentialLocation::Cookie { .. } => cookie.clone(),
                // Envoy shows the path with its query in any case.
                CredentialLocation::Query { .. } => continue,
            };
            if !credentials.contains(&header) {
                credentials.push(header);
            }
        }
        let mut emptied = if rules.forward_credentials { Vec::new() } else { credentials.clone() };
        // Sessions of our own exist where keys do.
        if config.startup.keys.is_some() && !credentials.contains(&cookie) {
            credentials.push(cookie.clone());
        }
        // Our own session cookie is always cut, also where credentials are forwarded.
        if credentials.contains(&cookie) && !emptied.contains(&cookie) {
            emptied.push(cookie);
        }
        let server = match address {
            Some(address) => address,
            None => Endpoint::of_listener(&config.startup.ext_authz.listen)?,
        };
        let tls = UpstreamTls::of(config.tls.ext_authz.as_ref(), &server, tls_files)?;
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
            let found = Endpoint::of_listener(&listen.parse().unwrap()).ok();
            assert_eq!(found, expected.map(|text| text.parse().unwrap()), "{listen}");
        }
    }
}
