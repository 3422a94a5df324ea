//! TLS to directories, always verified with the CAs that the system trusts and those of `ldap.ca`.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::Problem;

/// Makes handshakes with directories.
pub(super) struct Client(TlsConnector);

impl Client {
    /// One that trusts these CAs in addition to the system's.
    ///
    /// # Errors
    /// There is no CA at all.
    pub(super) fn new(ca: &[CertificateDer<'static>]) -> Result<Self, Problem> {
        let mut roots = RootCertStore::empty();
        // A file of the system may contain some certificates that rustls cannot use.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(ca.iter().cloned());
        if roots.is_empty() {
            return Err(Problem::NoCa);
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has cipher suites for TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Every handshake verifies the certificate.
        config.resumption = Resumption::disabled();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Makes the handshake with this host, a name or an address.
    ///
    /// # Errors
    /// The host can be in no certificate, or the handshake fails.
    pub(super) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        stream: S,
    ) -> Result<TlsStream<S>, Problem> {
        let name = ServerName::try_from(host.to_owned()).map_err(Problem::Host)?;
        self.0.connect(name, stream).await.map_err(Problem::Tls)
    }
}
