//! How Envoy speaks TLS to us: the transport socket of our cluster, for `ext_authz.tls`.

use clap::Args;

use super::super::Complaint;
use super::parts::quoted;
use super::surroundings::Endpoint;
use crate::config::{ServerTls, SubjectName};

/// Where Envoy, on its own machine, finds what it needs for TLS.
#[derive(Debug, Args)]
pub struct TlsFiles {
    /// Where Envoy finds the CA of our certificate (`ext_authz.tls.cert`), in PEM [default: /etc/envoy/ca.crt]
    #[arg(long = "tls-ca", value_name = "PATH")]
    ca: Option<String>,
    /// Where Envoy finds the certificate that it shows us, in PEM [default: /etc/envoy/client.crt]
    #[arg(long = "tls-cert", value_name = "PATH")]
    cert: Option<String>,
    /// Where Envoy finds the key of that certificate, in PEM [default: /etc/envoy/client.key]
    #[arg(long = "tls-key", value_name = "PATH")]
    key: Option<String>,
}

/// What Envoy needs to know for a connection to us.
#[derive(Debug)]
pub struct UpstreamTls {
    /// The name that our certificate must have.
    name: SubjectName,
    /// The host's name that Envoy asks for (RFC 6066 section 3).
    sni: Option<String>,
    /// The file of the CAs that may have signed our certificate.
    ca: String,
    /// What Envoy shows, where we ask for it.
    client: Option<Client>,
}

/// The files of Envoy's own certificate.
#[derive(Debug)]
struct Client {
    cert: String,
    key: String,
}

impl UpstreamTls {
    /// What our side means for Envoy's.
    ///
    /// # Errors
    /// Our certificate has no name, or files are given for which there is no use.
    pub fn of(
        server: Option<&ServerTls>,
        address: &Endpoint,
        files: TlsFiles,
    ) -> Result<Option<Self>, Complaint> {
        let TlsFiles { ca, cert, key } = files;
        let Some(server) = server else {
            return match ca.or(cert).or(key) {
                Some(_) => Err("error: --tls-ca, --tls-cert and --tls-key are for `ext_authz.tls`, \
                     which this configuration does not have"
                    .to_owned()),
                None => Ok(None),
            };
        };
        let client = match &server.client_ca {
            Some(_) => Some(Client {
                cert: cert.unwrap_or_else(|| "/etc/envoy/client.crt".to_owned()),
                key: key.unwrap_or_else(|| "/etc/envoy/client.key".to_owned()),
            }),
            None if cert.is_some() || key.is_some() => {
                return Err("error: --tls-cert and --tls-key are what Envoy shows where it is asked to, \
                     and `ext_authz.tls` has no `client_ca`"
                    .to_owned());
            }
            None => None,
        };
        let names = server.names();
        let name = choose(&names, address).ok_or(
            "error: the certificate in `ext_authz.tls.cert` has no name (subjectAltName) by which Envoy could \
             know it: whoever has any certificate of the same CA could answer in our place",
        )?;
        let sni = match &name {
            SubjectName::Dns(host) if !host.contains('*') => Some(host.clone()),
            SubjectName::Dns(_) | SubjectName::Uri(_) | SubjectName::Ip(_) => hosts(&names).next(),
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
        if let Some(Client { cert, key }) = &self.client {
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
            "      # Answers count from a server of this name alone, not from whoever the CA knows.
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

/// The name to hold us to: the host that Envoy asks for where the certificate has it, else the one that says most.
fn choose(names: &[SubjectName], address: &Endpoint) -> Option<SubjectName> {
    let asked = match address {
        Endpoint::Socket { host, .. } => names.iter().find_map(|name| match name {
            SubjectName::Dns(pattern) => covers(pattern, host).then(|| SubjectName::Dns(host.clone())),
            SubjectName::Uri(_) | SubjectName::Ip(_) => None,
        }),
        Endpoint::Pipe(_) => None,
    };
    let uri = || names.iter().find(|name| matches!(name, SubjectName::Uri(_))).cloned();
    let host = || hosts(names).next().map(SubjectName::Dns);
    let wildcard = || names.iter().find(|name| matches!(name, SubjectName::Dns(_))).cloned();
    asked.or_else(uri).or_else(host).or_else(wildcard).or_else(|| names.first().cloned())
}

/// The names of hosts, less those that stand for several.
fn hosts(names: &[SubjectName]) -> impl Iterator<Item = String> {
    names.iter().filter_map(|name| match name {
        SubjectName::Dns(host) if !host.contains('*') => Some(host.clone()),
        SubjectName::Dns(_) | SubjectName::Uri(_) | SubjectName::Ip(_) => None,
    })
}

/// Whether a certificate for this name is one for this host (RFC 6125 section 6.4.3).
fn covers(pattern: &str, host: &str) -> bool {
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
            assert_eq!(choose(&names, &address.parse().unwrap()), expected.map(read), "{names:?} {address}");
        }
    }
}
