//! The client's side of https.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{AdminUrl, Complaint, Server};

/// Where systems keep the CAs that they trust, in one file: Debian, Red Hat, Alpine, SUSE.
const SYSTEM_CAS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// Makes handshakes with servers.
pub(super) struct Client(TlsConnector);

impl Client {
    /// A client that trusts and shows what the arguments say.
    pub(super) fn new(arguments: &Server) -> Result<Self, Complaint> {
        let roots = match &arguments.ca_file {
            Some(path) => roots(path)?,
            None => roots(&system_cas()?)?,
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has cipher suites for TLS 1.2 and 1.3")
            .with_root_certificates(roots);
        let mut config = match (&arguments.cert_file, &arguments.key_file) {
            (Some(cert), Some(key)) => {
                let (chain, signing_key) = (certificates(cert)?, private_key(key)?);
                builder.with_client_auth_cert(chain, signing_key).map_err(|error| {
                    let (cert, key) = (cert.display(), key.display());
                    format!("error: the certificate in {cert} and the key in {key} cannot be used: {error}")
                })?
            }
            (Some(_), None) | (None, Some(_)) | (None, None) => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Makes the handshake with the server of this URL.
    pub(super) async fn secure(
        &self,
        url: &AdminUrl,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Complaint> {
        let name = ServerName::try_from(url.host.clone())
            .map_err(|_| format!("error: --url: no certificate can be for the host {}", url.host))?;
        self.0.connect(name, stream).await.map_err(|error| {
            let why = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
            let advice = match why {
                Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                    ": name the CA of its certificate with --ca-file"
                }
                Some(Error::InvalidMessage(_)) => ": does it speak plain http?",
                Some(_) | None => "",
            };
            format!("error: no TLS with {url}: {error}{advice}")
        })
    }
}

/// The file that `$SSL_CERT_FILE` names, as OpenSSL has it, or the system's.
fn system_cas() -> Result<PathBuf, Complaint> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let found = named.or_else(|| SYSTEM_CAS.iter().map(PathBuf::from).find(|path| path.exists()));
    found.ok_or_else(|| {
        "error: this system has no file of CAs where we know to look: name one with --ca-file".to_owned()
    })
}

fn roots(path: &Path) -> Result<RootCertStore, Complaint> {
    let mut roots = RootCertStore::empty();
    // A system's file may hold what we cannot use beside what we can.
    let (added, _) = roots.add_parsable_certificates(certificates(path)?);
    if added == 0 {
        return Err(format!("error: there is no CA in {} that can be used", path.display()));
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Complaint> {
    let cannot = |error| format!("error: cannot read the certificates in {}: {error}", path.display());
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(cannot)?.collect();
    certificates.map_err(cannot)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Complaint> {
    // What is wrong with the text of a key could show a part of it.
    PrivateKeyDer::from_pem_file(path).map_err(|_| {
        format!("error: no private key in PEM, without a password, can be read from {}", path.display())
    })
}
