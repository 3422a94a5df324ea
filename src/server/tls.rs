//! TLS: the handshake of a connection, with certificates that can be replaced.
//!
//! The certificate, its key and the CA of the clients are one value, which is replaced as a whole.  A handshake uses
//! the value with which it started, and open connections are not affected.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, ServerConfig,
    SignatureScheme,
};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use super::Stream;
use super::log_throttle::LogThrottle;
use crate::config::{ClientCa, ServerTls, Tls};

/// How long a TLS handshake may take.
const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The protocol over TLS, by its name in ALPN (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `h2`
    Http2,
    /// `http/1.1`
    Http1,
}

/// The acceptors of the listeners that speak TLS.
#[derive(Debug, Clone)]
pub struct Acceptors {
    /// For `ext_authz`.
    pub ext_authz: Option<Arc<Acceptor>>,
    /// For `admin`.
    pub admin: Option<Arc<Acceptor>>,
}

impl Acceptors {
    /// An acceptor for each listener that has a certificate.
    pub fn new(tls: &Tls) -> Self {
        let acceptor = |name, tls: &Option<ServerTls>, protocol| {
            Some(Arc::new(Acceptor::new(name, tls.as_ref()?, protocol)))
        };
        Self {
            ext_authz: acceptor("ext_authz", &tls.ext_authz, Protocol::Http2),
            admin: acceptor("admin", &tls.admin, Protocol::Http1),
        }
    }

    /// Sets the certificates for new handshakes.  Whether a listener speaks TLS at all does not change: a listener
    /// without a new certificate keeps the one that it has.
    pub fn replace(&self, tls: &Tls) {
        for (acceptor, tls) in [(&self.ext_authz, &tls.ext_authz), (&self.admin, &tls.admin)] {
            if let (Some(acceptor), Some(tls)) = (acceptor, tls) {
                acceptor.replace(tls);
            }
        }
    }
}

/// Makes the handshakes of one listener.
pub struct Acceptor {
    listener: &'static str,
    protocol: Protocol,
    config: ArcSwap<ServerConfig>,
    log_throttle: LogThrottle,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Acceptor")
            .field("listener", &self.listener)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

impl Acceptor {
    /// An acceptor for the listener of this name.
    pub fn new(listener: &'static str, tls: &ServerTls, protocol: Protocol) -> Self {
        let config = ArcSwap::from_pointee(server_config(tls, protocol));
        Self { listener, protocol, config, log_throttle: LogThrottle::new() }
    }

    /// Sets the configuration for new handshakes.
    pub fn replace(&self, tls: &ServerTls) {
        self.config.store(Arc::new(server_config(tls, self.protocol)));
    }

    /// Makes the handshake.  Called in the task of the connection, so that no other one waits for a slow client.
    ///
    /// # Errors
    /// The handshake failed or took too long; it is logged.
    pub async fn accept(&self, stream: Stream) -> io::Result<Stream> {
        let client = stream.client();
        let handshake = tokio_rustls::TlsAcceptor::from(self.config.load_full()).accept(stream);
        let made = tokio::time::timeout(TLS_HANDSHAKE_TIMEOUT, handshake).await;
        let made = made.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match made {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err(error) => {
                self.log_failure(&client, &error);
                Err(error)
            }
        }
    }

    fn log_failure(&self, client: &str, error: &io::Error) {
        let listener = self.listener;
        let why = match error.kind() {
            io::ErrorKind::TimedOut => "the client did not finish the handshake in time".to_owned(),
            // A client that only checks whether the port is open disconnects like this.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                tracing::debug!(listener, client, "a client left before the TLS handshake was made");
                return;
            }
            _ => explanation(error),
        };
        if let Some(suppressed) = self.log_throttle.next_line() {
            tracing::warn!(listener, client, suppressed, "TLS handshake failed: {why}");
        }
    }
}

fn explanation(error: &io::Error) -> String {
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(Error::InvalidMessage(_)) => "the client does not speak TLS".to_owned(),
        Some(Error::NoCertificatesPresented) => "the client presents no certificate".to_owned(),
        Some(Error::InvalidCertificate(CertificateError::Other(OtherError(error)))) => error.to_string(),
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "the client's certificate is not signed by a CA of `client_ca`".to_owned()
        }
        Some(error) => error.to_string(),
        None => error.to_string(),
    }
}

fn server_config(tls: &ServerTls, protocol: Protocol) -> ServerConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites for TLS 1.2 and 1.3");
    let builder = match &tls.client_ca {
        Some(client_ca) => builder.with_client_cert_verifier(verifier(client_ca, provider)),
        None => builder.with_no_client_auth(),
    };
    let certificate = SingleCertAndKey::from(Arc::clone(&tls.certified_key));
    let mut config = builder.with_cert_resolver(Arc::new(certificate));
    config.alpn_protocols = vec![match protocol {
        Protocol::Http2 => b"h2".to_vec(),
        Protocol::Http1 => b"http/1.1".to_vec(),
    }];
    if tls.client_ca.is_some() {
        // A resumed session does not show a certificate again, so an expired one would continue to work.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config
}

fn verifier(client_ca: &ClientCa, provider: Arc<CryptoProvider>) -> Arc<dyn ClientCertVerifier> {
    let roots = Arc::clone(&client_ca.roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
        .build()
        .expect("the configuration has at least one CA, and no revocation lists");
    match &client_ca.names {
        Some(names) => Arc::new(NamedClients { verifier, names: names.clone() }),
        None => verifier,
    }
}

/// Admits clients whose certificate is valid and has one of these names.
#[derive(Debug)]
struct NamedClients {
    verifier: Arc<dyn ClientCertVerifier>,
    names: Box<[Box<str>]>,
}

/// A certificate is valid, but has none of the admitted names.
#[derive(Debug, thiserror::Error)]
#[error("none of the names in the client's certificate is one of `client_names`; it has {0}")]
struct NotNamed(String);

impl NamedClients {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let (_, certificate) =
            parse_x509_certificate(certificate).map_err(|_| CertificateError::BadEncoding)?;
        let extension = certificate.subject_alternative_name().map_err(|_| CertificateError::BadEncoding)?;
        let presented = extension.map(|extension| &extension.value.general_names[..]).unwrap_or_default();
        if presented.iter().any(|name| self.names.iter().any(|wanted| matches(name, wanted))) {
            return Ok(());
        }
        let names: Vec<_> = presented.iter().filter_map(escaped).take(MAX_LOGGED_NAMES).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Err(CertificateError::Other(OtherError(Arc::new(NotNamed(names)))).into())
    }
}

/// Names of a denied certificate that are logged.
const MAX_LOGGED_NAMES: usize = 4;
/// How long each may be.
const MAX_LOGGED_NAME_BYTES: usize = 256;

/// Whether a name in a certificate is this one.  Host names never have a colon, and URIs always do.
fn matches(name: &GeneralName<'_>, wanted: &str) -> bool {
    match name {
        GeneralName::URI(uri) => wanted.contains(':') && *uri == wanted,
        GeneralName::DNSName(host) => !wanted.contains(':') && *host == wanted,
        GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::IPAddress(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => false,
    }
}

fn escaped(name: &GeneralName<'_>) -> Option<String> {
    let (GeneralName::URI(text) | GeneralName::DNSName(text)) = name else {
        return None;
    };
    let text: String = text.chars().flat_map(char::escape_default).collect();
    Some(text[..text.len().min(MAX_LOGGED_NAME_BYTES)].to_owned())
}

impl ClientCertVerifier for NamedClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.verifier.verify_client_cert(end_entity, intermediates, now)?;
        self.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_compared_whole_and_with_its_own_kind() {
        let (uri, host) = ("spiffe://example.org/envoy", "envoy.example");
        for (name, wanted, expected) in [
            (GeneralName::URI(uri), uri, true),
            (GeneralName::DNSName(host), host, true),
            (GeneralName::DNSName(uri), uri, false),
            (GeneralName::URI(host), host, false),
            (GeneralName::RFC822Name(host), host, false),
            (GeneralName::URI("spiffe://example.org/envoy/"), uri, false),
            (GeneralName::URI("spiffe://example.org/"), uri, false),
            (GeneralName::DNSName("x.envoy.example"), host, false),
            (GeneralName::DNSName("x.envoy.example"), "*.envoy.example", false),
            (GeneralName::DNSName("*.example"), host, false),
        ] {
            assert_eq!(matches(&name, wanted), expected, "{name:?} {wanted}");
        }
    }

    #[test]
    fn a_logged_name_is_short_and_has_no_control_characters() {
        assert_eq!(escaped(&GeneralName::DNSName("a\n\u{1b}b")).as_deref(), Some("a\\n\\u{1b}b"));
        let long = "x".repeat(1_000);
        assert_eq!(escaped(&GeneralName::URI(&long)).map(|name| name.len()), Some(MAX_LOGGED_NAME_BYTES));
        assert_eq!(escaped(&GeneralName::RFC822Name("a@b")), None);
    }
}
