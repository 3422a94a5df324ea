//! The client side of https.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{AdminApiError, AdminUrl, ServerArgs};

/// A client that makes TLS handshakes.
pub struct Client(TlsConnector);

impl Client {
    /// A client with the CAs and the certificate that the arguments name.
    pub fn new(arguments: &ServerArgs) -> Result<Self, AdminApiError> {
        let roots = match &arguments.ca_file {
            Some(path) => roots(path)?,
            None => match std::env::var_os("SSL_CERT_FILE") {
                Some(path) => roots(Path::new(&path))?,
                None => system_roots()?,
            },
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has cipher suites for TLS 1.2 and 1.3")
            .with_root_certificates(roots);
        let mut config = match (&arguments.cert_file, &arguments.key_file) {
            (Some(cert), Some(key)) => {
                let (chain, signing_key) = (certificates(cert)?, private_key(key)?);
                builder.with_client_auth_cert(chain, signing_key).map_err(|source| {
                    AdminApiError::ClientCertificate { cert: cert.clone(), key: key.clone(), source }
                })?
            }
            (Some(_), None) | (None, Some(_)) | (None, None) => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Makes the handshake with the server of this URL.
    ///
    /// # Errors
    /// The URL's host cannot be in a certificate, or the handshake fails.
    pub async fn handshake(
        &self,
        url: &AdminUrl,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, AdminApiError> {
        let name = ServerName::try_from(url.host().to_owned())
            .map_err(|source| AdminApiError::ServerName { host: url.host().to_owned(), source })?;
        self.0.connect(name, stream).await.map_err(|source| {
            let cause = source.get_ref().and_then(|error| error.downcast_ref::<Error>());
            let advice = match cause {
                Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                    ": name the CA of its certificate with --ca-file"
                }
                Some(Error::InvalidMessage(_)) => {
                    ": if the listener has no TLS, the URL begins with http://; check also that the URL is that of the admin listener (`admin.listen`)"
                }
                // ext_authz only speaks HTTP/2.
                Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
                    ": check that the URL is that of the admin listener (`admin.listen`) and not of ext_authz"
                }
                Some(_) | None => "",
            };
            AdminApiError::Handshake { url: url.clone(), source, advice }
        })
    }
}

/// The CAs that this system trusts.
fn system_roots() -> Result<RootCertStore, AdminApiError> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(loaded.certs);
    if added == 0 {
        return Err(AdminApiError::NoSystemCas(loaded.errors.into_iter().next()));
    }
    Ok(roots)
}

fn roots(path: &Path) -> Result<RootCertStore, AdminApiError> {
    let mut roots = RootCertStore::empty();
    // A file of the system may contain some certificates that rustls cannot use.
    let (added, _) = roots.add_parsable_certificates(certificates(path)?);
    if added == 0 {
        return Err(AdminApiError::NoUsableCa(path.to_owned()));
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, AdminApiError> {
    let unreadable = |source| AdminApiError::Certificates { path: path.to_owned(), source };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect();
    certificates.map_err(unreadable)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, AdminApiError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| match error {
        pem::Error::Io(source) => AdminApiError::PrivateKeyFile { path: path.to_owned(), source },
        // The cause is dropped: an error about the text of a key could quote a part of it.
        _ => AdminApiError::PrivateKey(path.to_owned()),
    })
}
