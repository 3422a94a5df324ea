//! The request headers that Envoy's configuration must name.

use crate::actor::header::ActorHeader;
use crate::credential::CredentialLocations;

/// The request headers that Envoy's configuration must name, so that Envoy sends them to this server and this server may
/// change them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvoyHeaders {
    /// Those that may carry a credential.
    pub credentials: Vec<String>,
    /// Those of them that the server may empty.
    pub emptied: Vec<String>,
    /// The actor headers.
    pub actor: Vec<String>,
}

impl EnvoyHeaders {
    /// The headers of a configuration.  `has_keys`: with keys there are sessions, which a cookie carries.
    pub fn new(
        locations: &CredentialLocations,
        forward_credentials: bool,
        has_keys: bool,
        actor_headers: &[ActorHeader],
    ) -> Self {
        let mut credentials: Vec<String> = Vec::new();
        // Envoy sends the path with its query in any case.
        for header in locations.order().iter().filter_map(|location| location.header()) {
            if !credentials.iter().any(|earlier| earlier == header) {
                credentials.push(header.to_owned());
            }
        }
        let mut emptied = if forward_credentials { Vec::new() } else { credentials.clone() };
        let cookie = "cookie".to_owned();
        if has_keys && !credentials.contains(&cookie) {
            credentials.push(cookie.clone());
        }
        // The session cookie is removed even where credentials are forwarded.
        if credentials.contains(&cookie) && !emptied.contains(&cookie) {
            emptied.push(cookie);
        }
        let actor = actor_headers.iter().map(|header| header.name.to_string()).collect();
        Self { credentials, emptied, actor }
    }

    /// The headers that these add to earlier ones: Envoy's configuration for the earlier ones may lack them.
    pub fn added_to(&self, earlier: &Self) -> Vec<&str> {
        let parts = [
            (&self.credentials, &earlier.credentials),
            (&self.emptied, &earlier.emptied),
            (&self.actor, &earlier.actor),
        ];
        let mut added: Vec<&str> = Vec::new();
        for (now, before) in parts {
            for name in now.iter().filter(|name| !before.contains(name)) {
                if !added.contains(&name.as_str()) {
                    added.push(name);
                }
            }
        }
        added
    }
}
