//! `envoy`: prints the Envoy configuration that fits ours.

mod endpoint;
mod parts;
mod settings;
mod tls;
mod yaml;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

pub(super) use self::endpoint::Endpoint;
use self::settings::EnvoySettings;
use self::tls::TlsFiles;
use super::{CliError, ConfigFile, print};
use crate::config::{Config, PipeHandling, Serves};

#[derive(Debug, Args)]
pub(super) struct EnvoyArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// The part to print
    #[arg(long, value_enum, default_value_t = ConfigPart::Bootstrap)]
    part: ConfigPart,
    /// Configure the module inside Envoy instead of a separate server
    #[arg(long, conflicts_with = "address")]
    inside: bool,
    /// With --inside: the path of the module's file on Envoy's machine; a relative path is made absolute
    #[arg(long, value_name = "PATH", requires = "inside", default_value = parts::MODULE)]
    module: PathBuf,
    /// The address at which Envoy reaches this server: HOST:PORT, unix:/path or unix:@name [default: `ext_authz.listen`]
    #[arg(long, value_name = "ADDRESS")]
    address: Option<Endpoint>,
    /// The address at which Envoy listens in the bootstrap: HOST:PORT
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10000")]
    listen: Endpoint,
    /// The address of the application in the bootstrap: HOST:PORT, unix:/path or unix:@name
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    upstream: Endpoint,
    #[command(flatten)]
    tls: TlsFiles,
}

/// A part of Envoy's configuration.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ConfigPart {
    /// A complete configuration: a listener, an application, and the three parts below
    Bootstrap,
    /// The entry of `http_filters`
    Filter,
    /// Fields of the HTTP connection manager
    Hcm,
    /// The entry of `clusters` for this server
    Cluster,
}

/// Why no Envoy configuration can be printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvoyError {
    /// The listener's port is known only at run time.
    #[error(
        "`ext_authz.listen` has port 0, so the port is chosen at the start: give the address with --address"
    )]
    AnyPort,
    /// The listener's socket has a path that Envoy's configuration cannot hold.
    #[error(
        "the path of `ext_authz.listen` is not UTF-8, which Envoy's configuration requires: choose another path"
    )]
    SocketPath,
    /// The module asks no server.
    #[error(
        "--part cluster cannot be used with --inside: the module decides in Envoy's own process and needs no cluster"
    )]
    NoCluster,
    /// The module's file or the configuration has a path that Envoy's configuration cannot hold.
    #[error("{0} is not UTF-8, which Envoy's configuration requires: choose another path")]
    Path(&'static str),
    /// TLS files for a listener without TLS.
    #[error(
        "--tls-ca, --tls-cert and --tls-key need `ext_authz.tls`, which this configuration does not have"
    )]
    NoTls,
    /// A client certificate for a listener that asks for none.
    #[error(
        "--tls-cert and --tls-key need `ext_authz.tls.client_ca`: without it this server asks Envoy for no certificate"
    )]
    NoClientCa,
    /// Envoy could not tell our certificate from another one of the same CA.
    #[error(
        "the certificate in `ext_authz.tls.cert` has no subjectAltName, so Envoy cannot tell this server from another server \
         with a certificate of the same CA: use a certificate with a DNS name, IP address or URI"
    )]
    NoCertificateName,
}

impl EnvoyArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = if self.inside {
            let serves = Serves::Decisions { read_only: true };
            Config::load_for(&self.config.path, PipeHandling::Read, serves).outcome?
        } else {
            self.config.load()?
        };
        let settings = EnvoySettings::new(&config, self.address, self.listen, self.upstream, self.tls)?;
        if self.inside {
            let absolute = std::path::absolute(&self.config.path).unwrap_or(self.config.path);
            let path = absolute.to_str().ok_or(EnvoyError::Path("the path of the configuration"))?;
            let module = std::path::absolute(&self.module).unwrap_or(self.module);
            let module = module.to_str().ok_or(EnvoyError::Path("--module"))?;
            return print(&match self.part {
                ConfigPart::Bootstrap => parts::bootstrap_inside(&settings, &absolute, path, module),
                ConfigPart::Filter => parts::module(path, module),
                ConfigPart::Hcm => parts::manager(&settings),
                ConfigPart::Cluster => return Err(EnvoyError::NoCluster.into()),
            });
        }
        print(&match self.part {
            ConfigPart::Bootstrap => parts::bootstrap(&settings, &self.config.path),
            ConfigPart::Filter => parts::filter(&settings),
            ConfigPart::Hcm => parts::manager(&settings),
            ConfigPart::Cluster => parts::cluster(&settings),
        })
    }
}

/// A whole configuration that runs, for a configuration of ours without TLS.
///
/// # Errors
/// [`EnvoyError`]: Envoy cannot reach us.
pub(super) fn bootstrap(
    config: &Config,
    config_path: &Path,
    listen: Endpoint,
    upstream: Endpoint,
) -> Result<String, EnvoyError> {
    let settings = EnvoySettings::new(config, None, listen, upstream, TlsFiles::default())?;
    Ok(parts::bootstrap(&settings, config_path))
}
