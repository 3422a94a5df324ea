//! How Envoy speaks TLS to us: the transport socket of our cluster, for `ext_authz.tls`.

use clap::Args;

use super::EnvoyError;
use super::endpoint::Endpoint;
use super::yaml::quoted;
use crate::config::{ServerTls, SubjectName};

/// The files for TLS on Envoy's machine.
#[derive(Debug, Default, Args)]
pub struct TlsFiles {
    /// The path on Envoy's machine of the CA of this server's certificate (`ext_authz.tls.cert`), in PEM [default:
    /// /etc/envoy/ca.crt]
    #[arg(long = "tls-ca", value_name = "PATH")]
    ca: Option<String>,
    /// The path on Envoy's machine of Envoy's client certificate, in PEM [default: /etc/envoy/client.crt]
    #[arg(long = "tls-cert", value_name = "PATH")]
    cert: Option<String>,
    /// Where Envoy finds the key of that certificate, in PEM [default: /etc/envoy/client.key]
    #[arg(long = "tls-key", value_name = "PATH")]
    key: Option<String>,
}

/// Envoy's side of TLS.
#[derive(Debug)]
pub struct UpstreamTls {
    /// The name that must be in our certificate.
    name: SubjectName,
    /// The host that Envoy names in its handshake (RFC 6066 section 3).
    sni: Option<String>,
    /// The file of the CAs that may have signed our certificate.
    ca: String,
    /// Envoy's own certificate, where we ask for one.
    client: Option<ClientFiles>,
}

/// The files of Envoy's own certificate.
#[derive(Debug)]
struct ClientFiles {
    cert: String,
    key: String,
}

impl UpstreamTls {
    /// Envoy's side of a listener's TLS; `None` without one.
    ///
    /// # Errors
    /// Our certificate has no name, or `files` names files that would not be used.
    pub fn new(
        server: Option<&ServerTls>,
        address: &Endpoint,
        files: TlsFiles,
    ) -> Result<Option<Self>, EnvoyError> {
        let TlsFiles { ca, cert, key } = files;
        let Some(server) = server else {
            return match ca.or(cert).or(key) {
                Some(_) => Err(EnvoyError::NoTls),
                None => Ok(None),
            };
        };
        let client = match &server.client_ca {
            Some(_) => Some(ClientFiles {
                cert: cert.unwrap_or_else(|| "/etc/envoy/client.crt".to_owned()),
                key: key.unwrap_or_else(|| "/etc/envoy/client.key".to_owned()),
            }),
            None if cert.is_some() || key.is_some() => {
                return Err(EnvoyError::NoClientCa);
            }
            None => None,
        };
        let names = server.names();
        let name = expected_name(&names, address).ok_or(EnvoyError::NoCertificateName)?;
        let sni = match &name {
            SubjectName::Dns(host) if !host.contains('*') => Some(host.clone()),
            SubjectName::Dns(_) | SubjectName::Uri(_) | SubjectName::Ip(_) => host_names(&names).next(),
        };
        let ca = ca.unwrap_or_else(|| "/etc/envoy/ca.crt".to_owned());
        Ok(Some(Self { name, sni, ca, client }))
    }

    /// The member `transport_socket` of the cluster.
    pub fn transport_socket(&self) -> String {
        let mut text = SOCKET.to_owned();
        if let Some(sni) = &self.sni {
            text.push_str(&format!("    sni: {}\n", quoted(sni)));
        }
        text.push_str("    common_tls_context:\n      alpn_protocols: [h2]\n");
        if let Some(ClientFiles { cert, key }) = &self.client {
            text.push_str(&format!(
                "      # We ask for it: `client_ca` must have signed it, and `client_names`, if any, name it.
      tls_certificates:
      - certificate_chain: {{ filename: {} }}
        private_key: {{ filename: {} }}
",
                quoted(cert),
                quoted(key)
            ));
        }
        let (kind, name) = match &self.name {
            SubjectName::Uri(uri) => ("URI", uri.clone()),
            SubjectName::Dns(host) => ("DNS", host.clone()),
            SubjectName::Ip(address) => ("IP_ADDRESS", address.to_string()),
        };
        text.push_str(&format!(
            "      # Answers count from a server of this name alone, not from every server that the CA knows.
      validation_context:
        trusted_ca: {{ filename: {} }}
        match_typed_subject_alt_names: [{{ san_type: {kind}, matcher: {{ exact: {} }} }}]
",
            quoted(&self.ca),
            quoted(&name)
        ));
        text
    }
}

const SOCKET: &str = r#"# Envoy reads these files when it starts; let it have them by SDS to follow their renewal.
transport_socket:
  name: envoy.transport_sockets.tls
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
"#;

/// The name that Envoy is to verify: the host that it connects to where the certificate has it, else the most
/// specific one.
fn expected_name(names: &[SubjectName], address: &Endpoint) -> Option<SubjectName> {
    let connected = match address {
        Endpoint::Socket { host, .. } => names.iter().find_map(|name| match name {
            SubjectName::Dns(pattern) => matches_host(pattern, host).then(|| SubjectName::Dns(host.clone())),
            SubjectName::Uri(_) | SubjectName::Ip(_) => None,
        }),
        Endpoint::Pipe(_) => None,
    };
    let uri = || names.iter().find(|name| matches!(name, SubjectName::Uri(_))).cloned();
    let host = || host_names(names).next().map(SubjectName::Dns);
    let wildcard = || names.iter().find(|name| matches!(name, SubjectName::Dns(_))).cloned();
    connected.or_else(uri).or_else(host).or_else(wildcard).or_else(|| names.first().cloned())
}

/// The DNS names without a wildcard.
fn host_names(names: &[SubjectName]) -> impl Iterator<Item = String> {
    names.iter().filter_map(|name| match name {
        SubjectName::Dns(host) if !host.contains('*') => Some(host.clone()),
        SubjectName::Dns(_) | SubjectName::Uri(_) | SubjectName::Ip(_) => None,
    })
}

/// Whether a certificate's DNS name, which may begin with a wildcard, matches a host (RFC 6125 section 6.4.3).
fn matches_host(pattern: &str, host: &str) -> bool {
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(parent), Some((label, rest))) => !label.is_empty() && parent.eq_ignore_ascii_case(rest),
        (Some(_), None) => false,
        (None, _) => pattern.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_one_that_envoy_asks_for_or_else_the_one_that_says_most() {
        let read = |name: &str| match (name.parse(), name.contains(':')) {
            (Ok(address), _) => SubjectName::Ip(address),
            (Err(_), true) => SubjectName::Uri(name.to_owned()),
            (Err(_), false) => SubjectName::Dns(name.to_owned()),
        };
        let spiffe = "spiffe://example.org/authz";
        for (names, address, expected) in [
            (&["a.example", "authz.svc", spiffe][..], "Authz.svc:9191", Some("Authz.svc")),
            (&["*.svc", spiffe], "authz.svc:9191", Some("authz.svc")),
            (&["*.svc", spiffe], "a.authz.svc:9191", Some(spiffe)),
            (&["*.svc", spiffe], "svc:9191", Some(spiffe)),
            (&["127.0.0.1", "*.svc", "a.example"], "127.0.0.1:9191", Some("a.example")),
            (&["127.0.0.1", "*.svc"], "unix:/run/a.sock", Some("*.svc")),
            (&["127.0.0.1", "::1"], "unix:/run/a.sock", Some("127.0.0.1")),
            (&[], "127.0.0.1:9191", None),
        ] {
            let names: Vec<_> = names.iter().map(|name| read(name)).collect();
            assert_eq!(
                expected_name(&names, &address.parse().unwrap()),
                expected.map(read),
                "{names:?} {address}"
            );
        }
    }
}
