//! The section `tls` of a listener: its certificate, and the CAs and names of client certificates.
//!
//! The files are read and checked with the configuration, so that a reload with a bad certificate changes nothing.  No
//! message holds a part of a private key.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{Error, InconsistentKeys, RootCertStore};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use zeroize::{Zeroize, Zeroizing};

use super::raw::Node;
use super::reader::{Fields, Reader};
use super::schema;
use super::secrets::shown_name;
use crate::file_problem::Unreadable;

/// A certificate that expires within this time is a warning.
const EXPIRY_WARNING: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The transport of a listener's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// HTTP without TLS.
    Plain,
    /// HTTP over TLS.
    Tls,
}

/// The TLS settings of all listeners; `None` for a listener without TLS.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// `ext_authz.tls`
    pub ext_authz: Option<ServerTls>,
    /// `admin.tls`
    pub admin: Option<ServerTls>,
}

/// The TLS settings of one listener.
#[derive(Clone)]
pub struct ServerTls {
    /// `cert` and `key`, which match.
    pub certified_key: Arc<CertifiedKey>,
    /// When the first certificate of the chain expires.
    pub expires_at: Timestamp,
    /// `client_ca`; with `None` clients need no certificate.
    pub client_ca: Option<ClientCa>,
}

/// Which client certificates are accepted.
#[derive(Clone)]
pub struct ClientCa {
    /// `client_ca`: at least one CA; one of them must have signed the client's certificate.
    pub roots: Arc<RootCertStore>,
    /// `client_names`: the client's certificate must have one of them.  With `None` any name is accepted.
    pub names: Option<Box<[Box<str>]>>,
}

/// A subject alternative name of a certificate (RFC 5280 section 4.2.1.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubjectName {
    /// A URI, such as a SPIFFE ID.
    Uri(String),
    /// A host's name, which may begin with `*.`.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

impl ServerTls {
    /// The validity of the listener's own certificate, the first one of the chain: from, and until.
    pub fn own_validity(&self) -> Option<(Timestamp, Timestamp)> {
        self.certified_key.cert.first().and_then(validity)
    }

    /// The names in the first certificate of the chain, in its order.
    pub fn names(&self) -> Vec<SubjectName> {
        let certificate = self.certified_key.cert.first().and_then(|der| parse_x509_certificate(der).ok());
        let extension = certificate.as_ref().map(|(_, certificate)| certificate.subject_alternative_name());
        let Some(Ok(Some(extension))) = extension else {
            return Vec::new();
        };
        extension.value.general_names.iter().filter_map(subject_name).collect()
    }
}

fn subject_name(name: &GeneralName<'_>) -> Option<SubjectName> {
    match name {
        GeneralName::URI(uri) => Some(SubjectName::Uri((*uri).to_owned())),
        GeneralName::DNSName(host) => Some(SubjectName::Dns((*host).to_owned())),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(SubjectName::Ip)
        }
        GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ServerTls")
            .field("expires_at", &self.expires_at)
            .field("client_ca", &self.client_ca)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientCa {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { roots, names } = self;
        formatter.debug_struct("ClientCa").field("roots", &roots.len()).field("names", names).finish()
    }
}

/// Whether a listener authenticates clients in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// It does not.
    None,
    /// By client certificates.
    ClientCertificates,
}

/// The content of the section, as far as it is valid.
pub struct TlsSection {
    /// Whether the section is there.
    pub transport: Transport,
    /// Whether `client_ca` is there, valid or not: an error in it is enough, without a warning that it is missing.
    pub protection: Protection,
    /// `None` when the section is missing or not valid.
    pub tls: Option<ServerTls>,
}

/// Reads the section.
pub fn read<'t>(reader: &mut Reader<'t>, node: Option<&'t Node>) -> TlsSection {
    let Some(node) = node else {
        return TlsSection { transport: Transport::Plain, protection: Protection::None, tls: None };
    };
    let what = "a mapping such as {cert: tls.crt, key: tls.key}";
    let fields = reader.fields(node, what, &schema::TLS);
    let protection = match fields.and_then(|fields| fields.get("client_ca")) {
        Some(_) => Protection::ClientCertificates,
        None => Protection::None,
    };
    let tls = fields.and_then(|fields| read_server(reader, fields));
    TlsSection { transport: Transport::Tls, protection, tls }
}

fn read_server<'t>(reader: &mut Reader<'t>, fields: Fields<'t>) -> Option<ServerTls> {
    let (cert, key) = (fields.get("cert"), fields.get("key"));
    if cert.is_none() || key.is_none() {
        reader.error(fields.at, "`tls` needs `cert` and `key`: the paths of two PEM files");
    }
    let chain = cert.and_then(|node| Some((read_chain(reader, node)?, node)));
    let signing_key = key.and_then(|node| Some((read_key(reader, node)?, node)));
    // All keys are read even if one is not valid, so that every problem is reported.
    let client_ca = read_client_ca(reader, fields);
    let (chain, cert) = chain?;
    let (signing_key, key) = signing_key?;
    let expires_at = chain.expires_at;
    let certified_key = CertifiedKey::new(chain.certificates, signing_key);
    match certified_key.keys_match() {
        // Some kinds of key cannot give their public key, so a mismatch cannot be detected.
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(Error::InconsistentKeys(_)) => {
            reader.error(
                &key.at,
                "this key does not fit the certificate in `cert`, the first one if the file has several",
            );
            return None;
        }
        Err(error) => {
            reader.error(&cert.at, format!("the first certificate cannot be used: {error}"));
            return None;
        }
    }
    Some(ServerTls { certified_key: Arc::new(certified_key), expires_at, client_ca: client_ca.ok()? })
}

/// A server's certificate, then the certificates of its issuers.
struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    expires_at: Timestamp,
}

fn read_chain<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<Chain> {
    let certificates = read_certificates(reader, node)?;
    let expires_at = certificates.iter().filter_map(|der| Some(validity(der)?.1)).min()?;
    Some(Chain { certificates, expires_at })
}

/// The client CAs; `Ok(None)` without `client_ca`.
fn read_client_ca<'t>(reader: &mut Reader<'t>, fields: Fields<'t>) -> Result<Option<ClientCa>, ()> {
    let names = fields.get("client_names").map(|node| read_names(reader, node).ok_or(())).transpose();
    let Some(node) = fields.get("client_ca") else {
        if let Some(entry) = fields.entry("client_names") {
            reader.error(
                &entry.at,
                "`client_names` needs certificates of clients, and clients are not asked for one: add \
                 `client_ca`",
            );
        }
        return Ok(None);
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(read_authorities(reader, node).ok_or(())?);
    Ok(Some(ClientCa { roots: Arc::new(roots), names: names? }))
}

/// The CAs of a PEM file: at least one, each of which a [`RootCertStore`] takes.
pub fn read_authorities<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<Vec<CertificateDer<'static>>> {
    let certificates = read_certificates(reader, node)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        if let Err(error) = roots.add(certificate.clone()) {
            reader.error(
                &node.at,
                format!(
                    "a certificate in this file cannot be the certificate of a CA: \
                     {error}"
                ),
            );
            return None;
        }
    }
    Some(certificates)
}

fn read_names<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<Box<[Box<str>]>> {
    let list =
        reader.list(node, "a list of names such as [\"spiffe://example.org/envoy\", envoy.example.org]")?;
    if list.is_empty() {
        reader.error(
            &node.at,
            "an empty list admits no client; leave it out to admit every certificate of `client_ca`",
        );
        return None;
    }
    let mut names = Vec::with_capacity(list.len());
    for element in list {
        let what = "text: a name such as spiffe://example.org/envoy or envoy.example.org";
        let Some(name) = reader.text(element, what) else {
            continue;
        };
        if name.as_str().is_empty() {
            reader.error(&element.at, "a name has at least one character");
        }
        if name.as_str().contains('*') {
            reader.warn(&element.at, "names are compared character by character: `*` is not a wildcard");
        }
        names.push(name.as_str().into());
    }
    Some(names.into())
}

/// All certificates of a file: at least one, each with a valid period.
fn read_certificates<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<Vec<CertificateDer<'static>>> {
    let pem = read_pem(reader, node, ShownPath::Shown)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let Ok(certificates) = read else {
        reader.error(&node.at, "this file is damaged: its PEM cannot be read");
        return None;
    };
    if certificates.is_empty() {
        reader.error(
            &node.at,
            "there is no certificate in this file: expected PEM with `-----BEGIN CERTIFICATE-----`",
        );
        return None;
    }
    for certificate in &certificates {
        let Some((from, until)) = validity(certificate) else {
            reader.error(
                &node.at,
                "a certificate in this file is damaged: the content of its PEM block is not a certificate",
            );
            return None;
        };
        if until <= reader.now {
            reader.warn(
                &node.at,
                format!("a certificate in this file has expired: it was valid until {until}"),
            );
        } else if until.duration_since(reader.now) <= EXPIRY_WARNING {
            reader.warn(
                &node.at,
                format!("a certificate in this file expires within 30 days: it is valid until {until}"),
            );
        } else if from > reader.now {
            reader.warn(
                &node.at,
                format!("a certificate in this file is not valid yet: it will be from {from} on"),
            );
        }
    }
    Some(certificates)
}

/// The first and the last moment of a certificate's validity; `None` when it cannot be parsed.
fn validity(certificate: &CertificateDer<'_>) -> Option<(Timestamp, Timestamp)> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    let validity = certificate.validity();
    let moment = |seconds| Timestamp::from_second(seconds).ok();
    Some((moment(validity.not_before.timestamp())?, moment(validity.not_after.timestamp())?))
}

fn read_key<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<Arc<dyn SigningKey>> {
    let pem = read_pem(reader, node, ShownPath::Masked)?;
    // The parser's error is dropped: it may quote a part of the key.
    let Ok(mut der) = PrivateKeyDer::from_pem_slice(&pem) else {
        let is_encrypted = pem.windows(9).any(|window| window == b"ENCRYPTED");
        let message = if is_encrypted {
            "the key in this file is encrypted, and the server cannot ask for its password: write it without a \
             password (`openssl pkey`), readable only by this server"
        } else {
            "there is no private key in this file: expected PEM with `-----BEGIN PRIVATE KEY-----`"
        };
        reader.error(&node.at, message);
        return None;
    };
    let key = any_supported_type(&der);
    der.zeroize();
    if key.is_err() {
        reader.error(
            &node.at,
            "the key in this file cannot be used: expected RSA of 2048 bits or more, ECDSA on P-256, P-384 or P-521, \
             or Ed25519",
        );
    }
    key.ok()
}

/// Whether messages show a path.
#[derive(Clone, Copy)]
enum ShownPath {
    Shown,
    /// The path of a private key.  The value may be the key itself by mistake.
    Masked,
}

/// Reads the PEM file that a key of the section names.
fn read_pem<'t>(reader: &mut Reader<'t>, node: &'t Node, shown: ShownPath) -> Option<Zeroizing<Vec<u8>>> {
    let path = reader.text(node, "text: the path of a PEM file")?.as_str();
    if path.contains("-----BEGIN") {
        reader.error(&node.at, "expected the path of a PEM file, found the content of one");
        return None;
    }
    if path.is_empty() {
        reader.error(&node.at, "expected the path of a PEM file, found an empty text");
        return None;
    }
    match reader.read_file(path) {
        Ok(pem) => {
            reader.warn_of_open_file(&node.at, path);
            Some(pem)
        }
        Err(error) => {
            let shown = match shown {
                ShownPath::Shown => format!(" {}", shown_name(path)),
                ShownPath::Masked => String::new(),
            };
            reader.error(&node.at, format!("the file{shown} cannot be read: {}", Unreadable(&error)));
            None
        }
    }
}
