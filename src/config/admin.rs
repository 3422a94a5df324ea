//! The section `admin`: the listener of the admin API, and who may use it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde_json::{Map, json};

use super::listeners::{Listen, read_listen};
use super::policies::read_allow;
use super::raw::{Node, Value};
use super::reader::Reader;
use super::schema;
use super::tls::{self, ServerTls, SubjectName, Transport};
use super::url::{Authority, is_loopback};
use crate::actor::Actor;
use crate::credential::stripping::{ADMIN_COOKIES, APPLICATION_COOKIES};
use crate::credential::{Kind, Principal};
use crate::keys::{Role, SessionScope};
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
    /// The node of `public_url`, be it valid or not.
    pub public_url_node: Option<&'t Node>,
    /// The node of `login_redirect`, where it is on.
    pub redirect_node: Option<&'t Node>,
    /// The nodes of what sends people of applications to log in: `login_redirect` where it is on, `login_hosts` where they
    /// are not empty.
    pub login_nodes: Vec<&'t Node>,
}

impl AdminSection<'_> {
    /// Whether one of these principals may manage keys, even if only their own.
    pub fn can_be_entered_by<'k>(&self, mut principal: impl Iterator<Item = &'k Principal>) -> bool {
        principal.any(|principal| self.rules.admits(principal))
    }

    /// Whether a person with these members and one of these roles from a directory or a provider is admitted.
    pub fn can_be_entered_with(&self, given: &[&str], roles: impl Iterator<Item = Role>) -> bool {
        let roles: Vec<Role> = roles.collect();
        let mut blocks = [&self.rules.allow, &self.rules.self_service].into_iter().filter_map(Policy::allow);
        blocks.any(|allow| {
            let members = match allow {
                Allow::Everyone => return true,
                Allow::NoOne => return false,
                Allow::Members { members, .. } => members,
            };
            // The members of people are not known here.
            let is_given = |name: &str| name == "id" || given.contains(&name);
            let has_role = |role: &Role| {
                let actor = Actor::configured(Map::from_iter([("role".to_owned(), role.as_str().into())]));
                actor.is_ok_and(|actor| allow.admits(&actor))
            };
            members.iter().any(|(name, _)| is_given(name)) || roles.iter().any(has_role)
        })
    }
}

impl AdminRules {
    /// The allow blocks of the section.
    pub fn allow_blocks(&self) -> impl Iterator<Item = &Allow> {
        [&self.allow, &self.self_service, &self.introspect].into_iter().filter_map(Policy::allow)
    }

    /// Whether this principal may manage all keys or, as a user, their own.
    pub fn admits(&self, principal: &Principal) -> bool {
        let is_admitted = |policy: &Policy| {
            principal.counts_under(policy.name())
                && policy.allow().is_none_or(|allow| allow.admits(&principal.actor))
        };
        is_admitted(&self.allow) || (principal.kind == Kind::User && is_admitted(&self.self_service))
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
    /// `admin.self_service`: which people may have keys of their own, by default none.  It never admits the anonymous.
    pub self_service: Policy,
    /// `admin.introspect`: the callers of token introspection, by default none.  It never admits anonymous requests.
    pub introspect: Policy,
    /// `admin.public_url`: the URL of the page in browsers, if it differs from the listener's address.
    pub public_url: Option<PublicUrl>,
    /// `admin.hosts`: further names of the listener, in lower case, without ports.
    pub hosts: Box<[Box<str>]>,
    /// The DNS names in the listener's certificate, in lower case; `*` stands for a label.
    pub certificate_names: Box<[Box<str>]>,
    /// `admin.trusted_proxies`: the networks of proxies with a trusted `X-Forwarded-For`.
    pub trusted_proxies: Box<[IpNet]>,
    /// `admin.org_name`: the name in `/api/org`.
    pub org_name: Box<str>,
    /// `admin.login_redirect`: whether browsers without a credential at Check are sent to the log-in page.
    pub login_redirect: bool,
    /// `admin.login_hosts`: hosts of applications, under which only log-in and log-out are served.
    pub login_hosts: Box<[LoginHost]>,
}

/// A host of an application under which its people log in and out: `host` or `host:port`, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginHost {
    authority: Box<str>,
}

impl LoginHost {
    /// Parses `host` or `host:port`; `is_https` says which port browsers leave out.  `None` when it is neither.
    pub fn parse(text: &str, is_https: bool) -> Option<Self> {
        Authority::parse(text)?;
        Some(Self { authority: without_default_port(&text.to_ascii_lowercase(), is_https).into() })
    }

    /// Host and port, as browsers write them in an address.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The host alone, IPv6 in brackets.
    pub fn host(&self) -> &str {
        without_port(&self.authority)
    }
}

/// The section `session`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SessionRules {
    /// `domain`: the application's session counts on every host under it.  In lower case, without a dot before it.
    pub domain: Option<Box<str>>,
    /// `log_in_url`: the log-in page of the server that has `admin`, for processes that have none.
    pub log_in_url: Option<PublicUrl>,
}

/// Where browsers find the page: scheme, host, port, and a path that does not end in a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    is_https: bool,
    authority: Box<str>,
    path: Box<str>,
}

/// A text is not the URL of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected https://host or https://host:port, optionally with a path such as /keys of letters, digits, `-`, \
     `.`, `_` and `~`"
)]
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

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.is_https { "https" } else { "http" }
    }

    /// The host alone, in lower case, IPv6 in brackets.
    pub fn host(&self) -> &str {
        without_port(&self.authority)
    }

    /// Whether requests to it never cross a network in plain text: https, or a host that is this machine.
    pub fn is_encrypted_or_loopback(&self) -> bool {
        self.is_https || is_loopback(self.host())
    }

    /// The path below which everything is served: empty, or `/keys`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Scheme, host and port, as `Origin` writes them (RFC 6454).
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme(), self.authority)
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{}", self.origin(), self.path)
    }
}

impl FromStr for PublicUrl {
    type Err = PublicUrlError;

    /// Parses an origin and a path; one trailing slash is dropped.  Scheme and host compare without case, a path with.
    fn from_str(text: &str) -> Result<Self, PublicUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(PublicUrlError)?;
        let is_https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(PublicUrlError),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        Authority::parse(authority).ok_or(PublicUrlError)?;
        // RFC 3986, section 2.3: nothing between a browser and here writes these in another way.
        let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let is_segment =
            |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(is_unreserved);
        if !path.split('/').skip(1).all(is_segment) {
            return Err(PublicUrlError);
        }
        let authority = authority.to_ascii_lowercase();
        Ok(Self { is_https, authority: without_default_port(&authority, is_https).into(), path: path.into() })
    }
}

fn without_default_port(authority: &str, is_https: bool) -> &str {
    authority.strip_suffix(if is_https { ":443" } else { ":80" }).unwrap_or(authority)
}

fn without_port(authority: &str) -> &str {
    Authority::parse(authority).map_or(authority, |parsed| parsed.host)
}

/// The name of the cookie of a session's scope, in a list of one.  With the prefix `__Host-` browsers accept it from this very host over
/// TLS alone, with `__Secure-` over TLS (RFC 6265bis section 4.1.3): `session.domain` has the application's of the latter kind.
pub fn session_cookies(
    scope: SessionScope,
    transport: Transport,
    public_url: Option<&PublicUrl>,
    rules: &SessionRules,
) -> &'static [&'static str] {
    let (names, of_domain) = match scope {
        SessionScope::Admin => (ADMIN_COOKIES, false),
        SessionScope::Application => (APPLICATION_COOKIES, rules.domain.is_some()),
    };
    let (plain, secure) = names.split_at(1);
    let (host, domain) = secure.split_at(1);
    match (is_secure(transport, public_url), of_domain) {
        (false, _) => plain,
        (true, false) => host,
        (true, true) => domain,
    }
}

/// The names of the cookie that Checks look for where another server opens the sessions: all, since that one's transport is
/// not known here, but for what `session.domain` says.
pub fn session_cookies_of_others(rules: &SessionRules) -> &'static [&'static str] {
    let (of_a_host, of_domain) = APPLICATION_COOKIES.split_at(2);
    let is_https = rules.log_in_url.as_ref().is_some_and(PublicUrl::is_https);
    match (rules.domain.is_some(), is_https) {
        (true, _) => of_domain,
        // A sibling host could set the one without the prefix.
        (false, true) => of_a_host.split_at(1).1,
        (false, false) => APPLICATION_COOKIES,
    }
}

/// Whether browsers connect over TLS, to us or to a proxy before us.
pub fn is_secure(transport: Transport, public_url: Option<&PublicUrl>) -> bool {
    transport == Transport::Tls || public_url.is_some_and(PublicUrl::is_https)
}

/// The prefixes of the listener's own paths.
const OWN_PATHS: [&str; 3] = ["api", "login", "logout"];

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9192);

/// Reads the section; `None` when it is not there.
pub fn read<'t>(reader: &mut Reader<'t>, section: Option<&'t Node>) -> Option<AdminSection<'t>> {
    let node = section?;
    let what = "a mapping such as {listen: \"127.0.0.1:9192\"}";
    let fields = reader.fields(node, what, &schema::ADMIN).unwrap_or_else(|| Reader::no_fields(node));
    let over_tls = fields.get("tls").is_some();
    let fields = if reader.serves_listeners { fields } else { fields.without(&["listen", "tls"]) };
    let listen_node = fields.get("listen");
    let mut tls = tls::read(reader, fields.get("tls"));
    if over_tls {
        tls.transport = Transport::Tls;
    }
    let danger = "try to log in and to manage keys";
    let listen = read_listen(reader, listen_node, danger, tls.protection, DEFAULT_LISTEN);
    let allow = match fields.get("allow") {
        Some(node) => read_admin_allow(reader, node),
        None => default_allow(),
    };
    let self_service = match fields.get("self_service") {
        Some(node) => read_self_service(reader, node),
        None => Allow::NoOne,
    };
    let introspect = match fields.get("introspect") {
        Some(node) => read_introspect(reader, node),
        None => Allow::NoOne,
    };
    let public_url_node = fields.get("public_url");
    let public_url = public_url_node.and_then(|node| {
        let url = read_public_url(reader, node);
        let hidden = url.as_ref().and_then(|url| url.path().split('/').nth(1));
        if hidden.is_some_and(|first| OWN_PATHS.contains(&first)) {
            reader.error(
                &node.at,
                "the path begins with api, login or logout, which are paths of this listener itself: choose \
                 another path",
            );
        }
        if tls.transport == Transport::Tls && url.as_ref().is_some_and(|url| !url.is_https()) {
            reader.warn(
                &node.at,
                "with `tls` browsers send the session cookie only over https, so this http URL keeps no session: \
                 write https://",
            );
        }
        url
    });
    let allow = Policy::new("admin".into(), Some(allow));
    let self_service = Policy::new("admin".into(), Some(self_service));
    let introspect = Policy::new("admin".into(), Some(introspect));
    let org_name = fields.get("org_name").and_then(|node| reader.text(node, "text such as Main Org."));
    let org_name = org_name.map_or("Main Org.", |text| text.as_str()).into();
    let hosts = read_hosts(reader, fields.get("hosts"));
    let trusted_proxies = read_networks(reader, fields.get("trusted_proxies"));
    let certificate_names = tls.tls.as_ref().map(dns_names).unwrap_or_default();
    let redirect_node = fields.get("login_redirect");
    let login_redirect = redirect_node.and_then(|node| reader.boolean(node)).unwrap_or(false);
    let hosts_node = fields.get("login_hosts");
    let login_hosts = read_login_hosts(reader, hosts_node, public_url.as_ref(), &hosts);
    let login_nodes = [
        redirect_node.filter(|_| login_redirect),
        hosts_node.filter(|node| !matches!(&node.value, Value::List(list) if list.is_empty())),
    ];
    Some(AdminSection {
        listen: AdminListen { listen, transport: tls.transport },
        listen_node,
        rules: AdminRules {
            allow,
            self_service,
            introspect,
            public_url,
            hosts,
            certificate_names,
            trusted_proxies,
            org_name,
            login_redirect,
            login_hosts,
        },
        tls: tls.tls,
        public_url_node,
        redirect_node: redirect_node.filter(|_| login_redirect),
        login_nodes: login_nodes.into_iter().flatten().collect(),
    })
}

/// A URL of a page.
pub fn read_public_url<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<PublicUrl> {
    let text = reader.text(node, "text such as https://keys.example.com")?;
    let url = text.as_str().parse();
    if let Err(PublicUrlError) = url {
        reader.error(&node.at, format!("{PublicUrlError}, found other text"));
    }
    let url: PublicUrl = url.ok()?;
    if let Some(problem) = unreachable_by_browsers(url.host()) {
        reader.warn(&node.at, problem);
    }
    Some(url)
}

/// Why browsers cannot reach a host, as far as its name shows.
fn unreachable_by_browsers(host: &str) -> Option<&'static str> {
    let inner = host.trim_start_matches('[').trim_end_matches(']');
    if inner.parse().is_ok_and(|address: IpAddr| address.is_unspecified()) {
        return Some(
            "this address stands for every interface of a listener, and no browser can open it: write the host name \
             that people type",
        );
    }
    // The names that Kubernetes gives to Services and Pods.
    let is_within = |domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    if is_within("svc") || is_within("cluster.local") {
        return Some(
            "this is a name of Kubernetes' own, which browsers outside the cluster do not know: write the name that people type",
        );
    }
    None
}

/// Checks what `login_redirect` and `login_hosts` need.  `takes_sessions` says whether Checks take a session.
pub fn check_log_in<'t>(
    reader: &mut Reader<'t>,
    admin: &AdminSection<'t>,
    session: &SessionRules,
    takes_sessions: bool,
) {
    if let (Some(node), Some(url)) = (admin.redirect_node, &admin.rules.public_url) {
        // Under a path, or on another port, the application can have the same host, whose cookies it gets.
        let is_apart = url.path().is_empty() && url.authority() == url.host() && !is_loopback(url.host());
        if takes_sessions && is_apart && session.domain.is_none() && admin.rules.login_hosts.is_empty() {
            reader.warn(
                &node.at,
                "who logs in there has a session for the host of `public_url` alone, and an application under another one never \
                 gets it: set `session.domain` to a domain above both, or list the application's host in `login_hosts`",
            );
        }
    }
    for node in &admin.login_nodes {
        if admin.public_url_node.is_none() {
            reader.error(&node.at, "this needs `public_url`, the address of the log-in page for browsers");
        }
        if !takes_sessions {
            reader.error(
                &node.at,
                "this needs `session` among `credentials`: without it people who have logged in are sent to the \
                 log-in page again and again",
            );
        }
    }
}

/// `login_hosts`.
fn read_login_hosts<'t>(
    reader: &mut Reader<'t>,
    node: Option<&'t Node>,
    public_url: Option<&PublicUrl>,
    hosts: &[Box<str>],
) -> Box<[LoginHost]> {
    let what = "a list of hosts such as [app.example.com, \"app.example.com:8443\"]";
    let list = node.and_then(|node| reader.list(node, what)).unwrap_or_default();
    let is_https = public_url.is_none_or(PublicUrl::is_https);
    let mut login_hosts: Vec<LoginHost> = Vec::new();
    for node in list {
        let Some(text) = reader.text(node, "text: a host such as app.example.com, or app.example.com:8443")
        else {
            continue;
        };
        let Some(host) = LoginHost::parse(text.as_str(), is_https) else {
            reader.error(
                &node.at,
                "expected a host such as app.example.com or app.example.com:8443: no scheme, no path, no `*`",
            );
            continue;
        };
        // Browsers keep cookies by host, whatever the port.
        let serves_page = public_url.is_some_and(|url| url.host() == host.host())
            || hosts.iter().any(|name| **name == *host.host());
        if serves_page {
            reader.error(
                &node.at,
                "the page is served under this host (`public_url`, `hosts`), and an application under the same \
                 host could act as the people who open the page: give the page a separate host",
            );
        }
        if login_hosts.contains(&host) {
            reader.error(&node.at, "this host is in the list already");
        }
        login_hosts.push(host);
    }
    login_hosts.into()
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
            "this admits anonymous requests, and a caller who manages keys can act as any actor; name a role, such \
             as {role: Admin}",
        );
    }
    allow
}

fn read_self_service<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Allow {
    let allow = read_allow(reader, node);
    if allow == Allow::Everyone {
        reader.error(
            &node.at,
            "this admits every credential and anonymous requests; name the people who may have their own keys, \
             such as {role: [Viewer, Editor, Admin]}, or {id: \"*\"} for all",
        );
    } else if allow.admits_anonymous() {
        reader.error(
            &node.at,
            "this admits anonymous requests, which cannot own keys; name people, such as {role: [Viewer, Editor, \
             Admin]}",
        );
    }
    allow
}

fn read_introspect<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Allow {
    let allow = read_allow(reader, node);
    if allow.admits_anonymous() {
        reader.error(
            &node.at,
            "this admits anonymous requests, which could try tokens here; name the callers, such as {id: \
             key:gateway}",
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
    fn browsers_cannot_come_to_every_host() {
        for host in ["0.0.0.0", "[::]", "keys.default.svc", "keys.default.svc.cluster.local"] {
            assert!(unreachable_by_browsers(host).is_some(), "{host}");
        }
        for host in
            ["localhost", "127.0.0.1", "[::1]", "keys", "keys.example.com", "svc", "mysvc", "10.0.0.1"]
        {
            assert_eq!(unreachable_by_browsers(host), None, "{host}");
        }
    }

    #[test]
    fn a_public_url_is_an_origin_and_a_path() {
        for (text, expected) in [
            ("https://keys.example.com", Some("https://keys.example.com")),
            ("https://keys.example.com/", Some("https://keys.example.com")),
            ("HTTPS://Keys.Example.COM:443", Some("https://keys.example.com")),
            ("https://keys.example.com:8443", Some("https://keys.example.com:8443")),
            ("http://localhost:9192", Some("http://localhost:9192")),
            ("http://[::1]:80", Some("http://[::1]")),
            ("https://keys.example.com/keys", Some("https://keys.example.com/keys")),
            ("HTTPS://App.Example.com:443/Keys/a.b_c~d-1/", Some("https://app.example.com/Keys/a.b_c~d-1")),
            ("https://keys.example.com//", None),
            ("https://keys.example.com/keys//", None),
            ("https://keys.example.com//keys", None),
            ("https://keys.example.com/.", None),
            ("https://keys.example.com/a/../b", None),
            ("https://keys.example.com/a%2fb", None),
            ("https://keys.example.com/a b", None),
            ("https://keys.example.com/a;b", None),
            ("https://keys.example.com/a\\b", None),
            ("https://keys.example.com/keys?x", None),
            ("https://keys.example.com/keys#x", None),
            ("https://keys.example.com\\@evil.example", None),
            ("https://keys..example.com", None),
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
    fn a_public_url_has_parts() {
        let parts = |text: &str| {
            let url: PublicUrl = text.parse().unwrap();
            (url.origin(), url.host().to_owned(), url.path().to_owned(), url.is_encrypted_or_loopback())
        };
        let expected = |origin: &str, host: &str, path: &str, is_safe| {
            (origin.to_owned(), host.to_owned(), path.to_owned(), is_safe)
        };
        for (text, found) in [
            (
                "https://Keys.example.com:8443/keys/",
                expected("https://keys.example.com:8443", "keys.example.com", "/keys", true),
            ),
            ("http://[::1]:9192", expected("http://[::1]:9192", "[::1]", "", true)),
            ("http://localhost", expected("http://localhost", "localhost", "", true)),
            ("http://keys.example.com", expected("http://keys.example.com", "keys.example.com", "", false)),
        ] {
            assert_eq!(parts(text), found, "{text}");
        }
    }

    #[test]
    fn log_in_hosts() {
        for (text, is_https, expected) in [
            ("App.example.com", true, Some(("app.example.com", "app.example.com"))),
            ("app.example.com:443", true, Some(("app.example.com", "app.example.com"))),
            ("app.example.com:443", false, Some(("app.example.com:443", "app.example.com"))),
            ("app.example.com:80", false, Some(("app.example.com", "app.example.com"))),
            ("app.example.com:8443", true, Some(("app.example.com:8443", "app.example.com"))),
            ("[::1]:8080", false, Some(("[::1]:8080", "[::1]"))),
            ("https://app.example.com", true, None),
            ("app.example.com/", true, None),
            ("*.example.com", true, None),
            ("user@app.example.com", true, None),
            ("app.example.com:", true, None),
            ("", true, None),
        ] {
            let found = LoginHost::parse(text, is_https);
            let found = found.as_ref().map(|host| (host.authority(), host.host()));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn the_default_admits_admins_alone() {
        assert!(
            matches!(default_allow(), Allow::Members { members, anonymous: false } if members.len() == 1)
        );
        let cookie = |transport, url: Option<&str>| {
            let (url, rules) = (url.map(|url| url.parse().unwrap()), SessionRules::default());
            session_cookies(SessionScope::Admin, transport, url.as_ref(), &rules)[0]
        };
        assert!(cookie(Transport::Plain, Some("https://h")).starts_with("__Host-"));
        assert!(cookie(Transport::Tls, None).starts_with("__Host-"));
        assert!(cookie(Transport::Tls, Some("http://h")).starts_with("__Host-"));
        assert_eq!(cookie(Transport::Plain, Some("http://h")), "eat_session");
        assert_eq!(cookie(Transport::Plain, None), "eat_session");
    }

    #[test]
    fn the_applications_cookie_is_that_of_a_host_or_of_a_domain() {
        let of_domain =
            |domain: Option<&str>| SessionRules { domain: domain.map(Into::into), log_in_url: None };
        let url: PublicUrl = "https://keys.example.com".parse().unwrap();
        let names = |scope, url, rules: &SessionRules| session_cookies(scope, Transport::Plain, url, rules);
        let (none, example) = (of_domain(None), of_domain(Some("example.com")));
        assert_eq!(names(SessionScope::Application, Some(&url), &none), ["__Host-eat_app"]);
        assert_eq!(names(SessionScope::Application, Some(&url), &example), ["__Secure-eat_app"]);
        assert_eq!(names(SessionScope::Application, None, &none), ["eat_app"]);
        assert_eq!(names(SessionScope::Admin, Some(&url), &example), ["__Host-eat_session"]);
        assert_eq!(session_cookies_of_others(&none), ["eat_app", "__Host-eat_app", "__Secure-eat_app"]);
        assert_eq!(session_cookies_of_others(&example), ["__Secure-eat_app"]);
    }
}
