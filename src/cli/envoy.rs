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
    /// What to print
    #[arg(long, value_enum, default_value_t = ConfigPart::Bootstrap)]
    part: ConfigPart,
    /// The module in Envoy's own process instead of a server beside it
    #[arg(long, conflicts_with = "address")]
    inside: bool,
    /// With --inside: the module's file, where Envoy runs
    #[arg(long, value_name = "PATH", requires = "inside", default_value = parts::MODULE)]
    module: PathBuf,
    /// Where Envoy reaches us, when that is not where we listen: HOST:PORT, unix:/path or unix:@name
    #[arg(long, value_name = "ADDRESS")]
    address: Option<Endpoint>,
    /// Where the bootstrap's listener listens: HOST:PORT
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10000")]
    listen: Endpoint,
    /// The application that the bootstrap sends requests to: HOST:PORT, unix:/path or unix:@name
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    upstream: Endpoint,
    #[command(flatten)]
    tls: TlsFiles,
}

/// A part of Envoy's configuration.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ConfigPart {
    /// A whole configuration that runs: a listener, an application, and all of the below
    Bootstrap,
    /// The entry of `http_filters`
    Filter,
    /// Members of the HTTP connection manager
    Hcm,
    /// The entry of `clusters` by which Envoy reaches us
    Cluster,
}

/// Why no Envoy configuration can be printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvoyError {
    /// The listener's port is known only at run time.
    #[error(
        "`ext_authz.listen` has port 0, which is any free one: say with --address where Envoy reaches us"
    )]
    AnyPort,
    /// The listener's socket has a path that Envoy's configuration cannot hold.
    #[error("the path of `ext_authz.listen` is not UTF-8, and Envoy wants it to be")]
    SocketPath,
    /// The module asks nobody.
    #[error("with --inside there is no cluster: the module decides in Envoy's own process")]
    NoCluster,
    /// The module's file or the configuration has a path that Envoy's configuration cannot hold.
    #[error("{0} is not UTF-8, and Envoy wants it to be")]
    Path(&'static str),
    /// TLS files for a listener without TLS.
    #[error(
        "--tls-ca, --tls-cert and --tls-key are for `ext_authz.tls`, which this configuration does not have"
    )]
    NoTls,
    /// A client certificate for a listener that asks for none.
    #[error(
        "--tls-cert and --tls-key are what Envoy shows where it is asked to, and `ext_authz.tls` has no `client_ca`"
    )]
    NoClientCa,
    /// Envoy could not tell our certificate from another one of the same CA.
    #[error(
        "the certificate in `ext_authz.tls.cert` has no name (subjectAltName) by which Envoy could know it: \
         anybody with a certificate of the same CA could answer instead of us"
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
            let module = self.module.to_str().ok_or(EnvoyError::Path("--module"))?;
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
