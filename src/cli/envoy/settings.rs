//! The values of our configuration that Envoy's depends on.

use super::EnvoyError;
use super::endpoint::Endpoint;
use super::tls::{TlsFiles, UpstreamTls};
use crate::config::{Config, EnvoyHeaders};
use crate::policy::PermittedOverrides;
use crate::return_to::LogInRedirect;

/// The values that Envoy's configuration is rendered from.
pub struct EnvoySettings {
    /// The actor headers.
    pub actor_headers: Vec<String>,
    /// The headers that may carry a credential.
    pub credentials: Vec<String>,
    /// Those of them that the server may empty.
    pub emptied: Vec<String>,
    /// Whether browsers are sent to the log-in page, with the address to come back to.
    pub redirects: bool,
    /// Whether answers say when a credential expires.
    pub tells_expiry: bool,
    /// The overrides that a trusted proxy before Envoy sets.
    pub permitted_overrides: PermittedOverrides,
    /// The address by which Envoy reaches us.
    pub server: Endpoint,
    /// How Envoy speaks TLS to us; `None` without `ext_authz.tls`.
    pub tls: Option<UpstreamTls>,
    /// The address on which Envoy listens.
    pub listener: Endpoint,
    /// The address of the application.
    pub upstream: Endpoint,
}

impl EnvoySettings {
    /// The settings for a configuration of ours; without `address` Envoy reaches us where we listen.
    ///
    /// # Errors
    /// [`EnvoyError`]: Envoy cannot reach us, cannot verify our certificate, or `tls_files` do not fit the configuration.
    pub fn new(
        config: &Config,
        address: Option<Endpoint>,
        listener: Endpoint,
        upstream: Endpoint,
        tls_files: TlsFiles,
    ) -> Result<Self, EnvoyError> {
        let rules = &config.rules;
        let EnvoyHeaders { credentials, emptied, actor: actor_headers } = EnvoyHeaders::new(
            &rules.locations,
            rules.forward_credentials,
            config.startup.keys.is_some(),
            &rules.actor_headers,
        );
        let server = match address {
            Some(address) => address,
            None => Endpoint::from_listen(&config.startup.ext_authz.listen)?,
        };
        let tls = UpstreamTls::new(config.tls.ext_authz.as_ref(), &server, tls_files)?;
        let permitted_overrides = rules.policies.permitted_overrides();
        let redirect = LogInRedirect::new(rules.admin.as_deref(), &rules.session, &rules.locations);
        Ok(Self {
            actor_headers,
            credentials,
            emptied,
            redirects: redirect.is_some(),
            tells_expiry: rules.keys.as_ref().is_some_and(|keys| keys.tell_expiry.is_some()),
            permitted_overrides,
            server,
            tls,
            listener,
            upstream,
        })
    }
}
