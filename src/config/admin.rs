//! The section `admin`: the listener of the admin API, and who may use it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde_json::{Map, json};

use super::ldap::LdapSettings;
use super::listeners::{Listen, read_listen};
use super::policies::read_allow;
use super::raw::Node;
use super::reader::Reader;
use super::schema;
use super::tls::{self, ServerTls, SubjectName, Transport};
use crate::actor::Actor;
use crate::credential::Principal;
use crate::credential::stripping::{ADMIN_COOKIES, APPLICATION_COOKIES};
use crate::keys::SessionScope;
use crate::policy::{Allow, HostPattern, Policy};

/// The content of the section.
pub struct AdminSection<'t> {
    /// The listener.
    pub listen: AdminListen,
    /// The node of the listener's address.
    pub listen_node: Option<&'t Node>,
    /// The rules for requests.
    pub rules: AdminRules,
    /// The TLS settings of connections.
    pub tls: Option<ServerTls>,
}

impl AdminSection<'_> {
    /// Whether one of these principals may log in.
    pub fn can_be_entered_by<'k>(&self, mut principal: impl Iterator<Item = &'k Principal>) -> bool {
        let admits = |principal: &Principal| {
            let allow = self.rules.allow.allow();
            principal.counts_under(self.rules.allow.name())
                && allow.is_none_or(|allow| allow.admits(&principal.actor))
        };
        principal.any(admits)
    }

    /// Whether somebody of this directory may log in.
    pub fn can_be_entered_from(&self, directory: &LdapSettings) -> bool {
        let members = match self.rules.allow.allow() {
            None | Some(Allow::Everyone) => return true,
            Some(Allow::NoOne) => return false,
            Some(Allow::Members { members, .. }) => members,
        };
        // What the directory says of people is not known here.
        let is_given =
            |name: &str| name == "id" || directory.members.iter().any(|(given, _)| **given == *name);
        let has_role = |role: &str| {
            let actor = Actor::configured(Map::from_iter([("role".to_owned(), role.into())]));
            actor.is_ok_and(|actor| self.rules.allow.allow().is_some_and(|allow| allow.admits(&actor)))
        };
        members.iter().any(|(name, _)| is_given(name))
            || directory.roles.iter().any(|entry| has_role(entry.role.as_str()))
    }
}

/// `admin`: the listener of the key API and its page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminListen {
    /// `admin.listen`, by default `127.0.0.1:9192`.
    pub listen: Listen,
    /// Whether `admin.tls` is there.
    pub transport: Transport,
}

/// Who may manage keys, and by which host names.
#[derive(Debug)]
pub struct AdminRules {
    /// `admin.allow`, by default `{role: Admin}`.  It never admits the anonymous.
    pub allow: Policy,
    /// `admin.public_url`: the URL of the page in browsers, if it differs from the listener's address.
    pub public_url: Option<PublicUrl>,
    /// `admin.hosts`: further names of the listener, in lower case, without ports.
    pub hosts: Box<[Box<str>]>,
    /// The DNS names in the listener's certificate, in lower case; `*` stands for a label.
    pub certificate_names: Box<[Box<str>]>,
    /// `admin.trusted_proxies`: the networks of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Box<[IpNet]>,
    /// `admin.org_name`: what `/api/org` says.
    pub org_name: Box<str>,
}

/// An origin (RFC 6454): scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    is_https: bool,
    authority: Box<str>,
}

/// A text is not an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected https://host or https://host:port, without a path")]
pub struct PublicUrlError;

impl PublicUrl {
    /// Whether browsers connect over TLS.
    pub fn is_https(&self) -> bool {
        self.is_https
    }

    /// Host and port, in lower case; a default port is left out.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        write!(formatter, "{scheme}://{}", self.authority)
    }
}

impl FromStr for PublicUrl {
    type Err = PublicUrlError;

    /// Parses an origin; one trailing slash is accepted.
    fn from_str(text: &str) -> Result<Self, PublicUrlError> {
        let text = text.strip_suffix('/').unwrap_or(text).to_ascii_lowercase();
        let (is_https, authority) = match text.split_once("://") {
            Some(("https", authority)) => (true, authority),
            Some(("http", authority)) => (false, authority),
            Some(_) | None => return Err(PublicUrlError),
        };
        let default_port = if is_https { ":443" } else { ":80" };
        let authority = authority.strip_suffix(default_port).unwrap_or(authority);
        let parsed: http::uri::Authority = authority.parse().map_err(|_| PublicUrlError)?;
        let has_port = authority
            .strip_prefix(parsed.host())
            .is_some_and(|port| port.is_empty() || parsed.port_u16().is_some());
        if parsed.host().is_empty() || authority.contains('@') || !has_port {
            return Err(PublicUrlError);
        }
        Ok(Self { is_https, authority: authority.into() })
    }
}

/// The name of the cookie of a session's scope, in a list of one.  With the prefix `__Host-` browsers accept it from this very host over
/// TLS alone (RFC 6265bis section 4.1.3.2).
pub fn session_cookies(
    scope: SessionScope,
    transport: Transport,
    public_url: Option<&PublicUrl>,
) -> &'static [&'static str] {
    let names = match scope {
        SessionScope::Admin => ADMIN_COOKIES,
        SessionScope::Application => APPLICATION_COOKIES,
    };
    let (plain, host) = names.split_at(1);
    if is_secure(transport, public_url) { host } else { plain }
}

/// Whether browsers connect over TLS, to us or to a proxy before us.
pub fn is_secure(transport: Transport, public_url: Option<&PublicUrl>) -> bool {
    transport == Transport::Tls || public_url.is_some_and(PublicUrl::is_https)
}

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9192);

/// Reads the section; `None` when it is not there.
pub fn read<'t>(reader: &mut Reader<'t>, section: Option<&'t Node>) -> Option<AdminSection<'t>> {
    let node = section?;
    let what = "a mapping such as {listen: \"127.0.0.1:9192\"}";
    let fields = reader.fields(node, what, &schema::ADMIN).unwrap_or_else(|| Reader::no_fields(node));
    let listen_node = fields.get("listen");
    let tls = tls::read(reader, fields.get("tls"));
    let danger = "try to log in and to manage keys";
    let listen = read_listen(reader, listen_node, danger, tls.protection, DEFAULT_LISTEN);
    let allow = match fields.get("allow") {
        Some(node) => read_admin_allow(reader, node),
        None => default_allow(),
    };
    let public_url = fields.get("public_url").and_then(|node| {
        let text = reader.text(node, "text such as https://keys.example.com")?;
        let url = text.as_str().parse();
        if let Err(PublicUrlError) = url {
            reader.error(&node.at, format!("{PublicUrlError}, found other text"));
        }
        if tls.transport == Transport::Tls && url.as_ref().is_ok_and(|url: &PublicUrl| !url.is_https()) {
            reader.warn(
                &node.at,
                "browsers that come by http keep no session: with `tls` the session cookie is for https alone",
            );
        }
        url.ok()
    });
    let allow = Policy::new("admin".into(), Some(allow));
    let org_name = fields.get("org_name").and_then(|node| reader.text(node, "text such as Main Org."));
    let org_name = org_name.map_or("Main Org.", |text| text.as_str()).into();
    let hosts = read_hosts(reader, fields.get("hosts"));
    let trusted_proxies = read_networks(reader, fields.get("trusted_proxies"));
    let certificate_names = tls.tls.as_ref().map(dns_names).unwrap_or_default();
    Some(AdminSection {
        listen: AdminListen { listen, transport: tls.transport },
        listen_node,
        rules: AdminRules { allow, public_url, hosts, certificate_names, trusted_proxies, org_name },
        tls: tls.tls,
    })
}

/// Further host names by which clients reach the listener.
fn read_hosts<'t>(reader: &mut Reader<'t>, node: Option<&'t Node>) -> Box<[Box<str>]> {
    let what = "a list of host names such as [keys.example.com]";
    let list = node.and_then(|node| reader.list(node, what)).unwrap_or_default();
    let mut hosts = Vec::new();
    for node in list {
        let Some(text) = reader.text(node, "a host name such as keys.example.com") else {
            continue;
        };
        match HostPattern::parse(text.as_str()) {
            Ok(HostPattern::Exact(name)) => hosts.push(name),
            Ok(HostPattern::Below(_)) | Err(_) => {
                reader.error(
                    &node.at,
                    "expected a host name such as keys.example.com, without a port and without `*`",
                );
            }
        }
    }
    hosts.into()
}

/// Addresses, and networks in CIDR notation (RFC 4632).
fn read_networks<'t>(reader: &mut Reader<'t>, node: Option<&'t Node>) -> Box<[IpNet]> {
    let what = "a list of addresses and networks such as [10.0.0.0/8]";
    let list = node.and_then(|node| reader.list(node, what)).unwrap_or_default();
    let mut networks = Vec::new();
    for node in list {
        let Some(text) = reader.text(node, "an address or a network such as 10.0.0.0/8") else {
            continue;
        };
        let text = text.as_str();
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        match network {
            Ok(network) => networks.push(network),
            Err(_) => reader.error(&node.at, "expected an address or a network such as 10.0.0.0/8"),
        }
    }
    networks.into()
}

fn dns_names(tls: &ServerTls) -> Box<[Box<str>]> {
    let names = tls.names().into_iter().filter_map(|name| match name {
        SubjectName::Dns(name) => Some(name.to_ascii_lowercase().into()),
        SubjectName::Uri(_) | SubjectName::Ip(_) => None,
    });
    names.collect()
}

fn read_admin_allow<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Allow {
    let allow = read_allow(reader, node);
    if allow.admits_anonymous() {
        reader.error(
            &node.at,
            "this admits the anonymous, and somebody who manages keys can act as anybody; name a role, such as {role: Admin}",
        );
    }
    allow
}

fn default_allow() -> Allow {
    Allow::new(&json!({"role": "Admin"})).unwrap_or(Allow::NoOne)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_is_an_origin() {
        for (text, expected) in [
            ("https://keys.example.com", Some("https://keys.example.com")),
            ("https://keys.example.com/", Some("https://keys.example.com")),
            ("HTTPS://Keys.Example.COM:443", Some("https://keys.example.com")),
            ("https://keys.example.com:8443", Some("https://keys.example.com:8443")),
            ("http://localhost:9192", Some("http://localhost:9192")),
            ("http://[::1]:80", Some("http://[::1]")),
            ("https://keys.example.com/keys", None),
            ("https://keys.example.com?x", None),
            ("https://user@keys.example.com", None),
            ("https://keys.example.com:", None),
            ("https://keys.example.com:x", None),
            ("https://", None),
            ("keys.example.com", None),
            ("ftp://keys.example.com", None),
            ("", None),
        ] {
            let found = text.parse::<PublicUrl>().ok().map(|url| url.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn the_default_admits_admins_alone() {
        assert!(
            matches!(default_allow(), Allow::Members { members, anonymous: false } if members.len() == 1)
        );
        let cookie = |transport, url: Option<&str>| {
            session_cookies(SessionScope::Admin, transport, url.map(|url| url.parse().unwrap()).as_ref())[0]
        };
        assert!(cookie(Transport::Plain, Some("https://h")).starts_with("__Host-"));
        assert!(cookie(Transport::Tls, None).starts_with("__Host-"));
        assert!(cookie(Transport::Tls, Some("http://h")).starts_with("__Host-"));
        assert_eq!(cookie(Transport::Plain, Some("http://h")), "eat_session");
        assert_eq!(cookie(Transport::Plain, None), "eat_session");
    }
}
