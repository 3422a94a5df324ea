//! TLS to PostgreSQL, as the store's URL asks for it.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer as Authority, KeyPair, KeyUsagePurpose,
};

use crate::harness::issuer::{Issuer, config};
use crate::harness::postgres::{PASSWORD, Postgres};
use crate::harness::server::Server;

/// A PostgreSQL for `localhost` that speaks over TCP with TLS alone.
struct TlsPostgres {
    postgres: Postgres,
    database: String,
    folder: tempfile::TempDir,
}

impl TlsPostgres {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (ca, authority) = authority("ours");
        let (other, _) = self::authority("another");
        std::fs::write(folder.path().join("ca.pem"), ca).unwrap();
        std::fs::write(folder.path().join("other.pem"), other).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();

        let postgres = Postgres::start();
        let database = postgres.database();
        postgres.file("server.crt", &certificate.pem());
        postgres.file("server.key", &key.serialize_pem());
        postgres.file("pg_hba.conf", "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n");
        postgres.psql("postgres", "ALTER SYSTEM SET ssl = on");
        postgres.stop();
        postgres.resume();
        Self { postgres, database, folder }
    }

    fn pem(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn url(&self, host: &str, parameters: &str) -> String {
        let address = format!("{host}:{}", self.postgres.address().port());
        format!("{}{parameters}", self.postgres.url_at(address, &self.database))
    }

    /// Whether every connection of our server, of which there is one, is encrypted.
    fn is_encrypted(&self) -> bool {
        let sql = "SELECT count(*) > 0 AND bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                   WHERE application_name = 'envoy-auth-tokens'";
        self.postgres.psql(&self.database, sql) == "t"
    }
}

fn authority(name: &str) -> (String, Authority<'static, KeyPair>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), Authority::new(params, key))
}

fn verified(root: &Path) -> String {
    format!("?sslmode=verify-full&sslrootcert={}", root.display())
}

#[test]
fn the_url_says_how_postgresql_is_reached_and_whom_to_trust() {
    let postgres = TlsPostgres::start();
    // Verified; encrypted; and without a word encrypted as well, because the server offers it.
    let works = [verified(&postgres.pem("ca.pem")), "?sslmode=require".to_owned(), String::new()];
    for (number, parameters) in works.iter().enumerate() {
        let issuer = Issuer::start(&postgres.url("localhost", parameters));
        let (_, token) = issuer.create(&format!("key-{number}"));
        assert_eq!(issuer.checks().verdict(&token), "", "{parameters}");
        assert!(postgres.is_encrypted(), "{parameters}");
    }

    let nowhere = postgres.pem("nowhere.pem");
    let refused = [
        // An authority that did not sign it.
        (
            postgres.url("localhost", &verified(&postgres.pem("other.pem"))),
            "TLS: invalid peer certificate: UnknownIssuer",
        ),
        // Only public authorities are trusted when none is named.
        (postgres.url("localhost", "?sslmode=verify-full"), "TLS: invalid peer certificate: UnknownIssuer"),
        // A name that is not the certificate's.
        (postgres.url("127.0.0.1", &verified(&postgres.pem("ca.pem"))), "certificate not valid for name"),
        (postgres.url("localhost", "?sslmode=disable"), "no encryption"),
        (postgres.url("localhost", &verified(&nowhere)), &*format!("sslrootcert {}: ", nowhere.display())),
    ];
    for (url, reason) in refused {
        let ran = Server::with(&config(&url)).start_in_vain();
        assert_ne!(ran.code(), Some(0));
        assert!(ran.stderr.contains(reason), "{reason}:\n{}", ran.stderr);
        let (_, address) = url.split_once('@').unwrap();
        let (address, _) = address.split_once('?').unwrap();
        let message = format!("the key store postgres://{address} cannot be opened: ");
        assert!(ran.stderr.contains(&message), "{message}\n{}", ran.stderr);
        assert!(!ran.stderr.contains(PASSWORD) && !ran.stderr.contains("keys:"), "{}", ran.stderr);
    }
}

#[test]
fn a_postgresql_without_tls_is_rejected_when_tls_is_required() {
    let postgres = Postgres::shared();
    let url = postgres.url(&postgres.database());
    for mode in ["require", "verify-full"] {
        let ran = Server::with(&config(&format!("{url}?sslmode={mode}"))).start_in_vain();
        assert_ne!(ran.code(), Some(0));
        assert!(ran.stderr.contains("TLS: server does not support TLS"), "{}", ran.stderr);
        assert!(!ran.stderr.contains(PASSWORD), "{}", ran.stderr);
    }
}
