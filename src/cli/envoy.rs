//! `envoy`: the Envoy configuration that fits ours.

mod parts;
mod surroundings;
mod tls;

use clap::{Args, ValueEnum};

use self::surroundings::{Endpoint, Surroundings};
use self::tls::TlsFiles;
use super::{Complaint, ConfigFile, print};

#[derive(Debug, Args)]
pub(super) struct Envoy {
    #[command(flatten)]
    config: ConfigFile,
    /// What to print
    #[arg(long, value_enum, default_value_t = Part::Bootstrap)]
    part: Part,
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
enum Part {
    /// A whole configuration that runs: a listener, an application, and all of the below
    Bootstrap,
    /// The entry of `http_filters`
    Filter,
    /// Members of the HTTP connection manager
    Hcm,
    /// The entry of `clusters` by which Envoy reaches us
    Cluster,
}

impl Envoy {
    pub(super) fn run(self) -> Result<(), Complaint> {
        let config = self.config.load()?;
        let surroundings = Surroundings::of(&config, self.address, self.listen, self.upstream, self.tls)?;
        print(&match self.part {
            Part::Bootstrap => parts::bootstrap(&surroundings, &self.config.path),
            Part::Filter => parts::filter(&surroundings),
            Part::Hcm => parts::manager(&surroundings),
            Part::Cluster => parts::cluster(&surroundings),
        })
    }
}
