//! The section `session`: the hosts for which sessions of applications are valid, and the log-in page for them.

use super::admin::{AdminSection, PublicUrl, SessionRules, read_public_url};
use super::raw::{Entry, Node};
use super::reader::Reader;
use super::schema;
use super::url::{is_host_name, is_ipv4};

/// Second labels under which registries of countries give out names, as in `example.co.uk`.
const REGISTRY_LABELS: [&str; 8] = ["ac", "co", "com", "edu", "gov", "net", "or", "org"];

/// The content of the section.
#[derive(Default)]
pub struct SessionSection<'t> {
    /// Its values.
    pub rules: SessionRules,
    domain_node: Option<&'t Node>,
    log_in_url_node: Option<&'t Node>,
}

/// Reads the section.
pub fn read<'t>(
    reader: &mut Reader<'t>,
    section: Option<&'t Entry>,
    admin: Option<&AdminSection<'t>>,
) -> SessionSection<'t> {
    let Some(Entry { value: node, .. }) = section else {
        return SessionSection::default();
    };
    let Some(fields) = reader.fields(node, "a mapping such as {domain: example.com}", &schema::SESSION)
    else {
        return SessionSection::default();
    };
    let log_in_url_node = fields.get("log_in_url");
    let log_in_url = log_in_url_node.and_then(|node| {
        if admin.is_some() {
            reader.error(
                &node.at,
                "this is for servers without `admin`: set `admin.public_url` and `admin.login_redirect` instead",
            );
        }
        let url = read_public_url(reader, node)?;
        if !url.is_encrypted_or_loopback() {
            reader.error(&node.at, "passwords would cross the network in plain text: write https://");
        }
        Some(url)
    });
    let domain_node = fields.get("domain");
    let domain = domain_node.and_then(|node| read_domain(reader, node));
    if let (Some(node), Some(domain)) = (domain_node, &domain) {
        match admin {
            Some(admin) if admin.public_url_node.is_none() => {
                reader.error(&node.at, "this needs `admin.public_url`, where people log in for these hosts");
            }
            Some(admin) => {
                check_page(reader, node, domain, "admin.public_url", admin.rules.public_url.as_ref());
                for host in admin.rules.login_hosts.iter().filter(|host| !is_within(host.host(), domain)) {
                    reader.error(
                        &node.at,
                        format!(
                            "browsers reject a cookie for this domain from {:?} of `admin.login_hosts`, which is \
                             not below the domain",
                            host.host()
                        ),
                    );
                }
            }
            None if log_in_url_node.is_none() => {
                reader.error(
                    &node.at,
                    "this needs `admin.public_url`, or without `admin` the key `log_in_url`: people log in there \
                     for these hosts",
                );
            }
            None => check_page(reader, node, domain, "log_in_url", log_in_url.as_ref()),
        }
    }
    SessionSection { rules: SessionRules { domain, log_in_url }, domain_node, log_in_url_node }
}

/// Checks what the section needs.  `takes_sessions` says whether Checks take a session.
pub fn check<'t>(reader: &mut Reader<'t>, section: &SessionSection<'t>, takes_sessions: bool) {
    if takes_sessions {
        return;
    }
    if let Some(node) = section.log_in_url_node {
        reader.error(
            &node.at,
            "this needs `session` among `credentials`: without it people who have logged in are sent to the \
             log-in page again and again",
        );
    }
    if let Some(node) = section.domain_node {
        reader.warn(&node.at, "this has no effect at Checks: `session` is not among `credentials`");
    }
}

fn read_domain<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<Box<str>> {
    let text = reader.text(node, "text such as example.com")?.as_str();
    let problem = if text.starts_with('.') {
        "write the domain without a dot at its beginning: hosts below it are always included"
    } else if !is_host_name(text) {
        "expected a domain such as example.com: no scheme, no port, no path, no `*`"
    } else if is_ipv4(text) {
        "an IP address has no hosts below it: expected a domain such as example.com"
    } else if !text.contains('.') {
        "browsers reject a cookie for a domain of one label: write a domain such as example.com"
    } else {
        ""
    };
    if !problem.is_empty() {
        reader.error(&node.at, problem);
        return None;
    }
    let domain = text.to_ascii_lowercase();
    if domain.split_once('.').is_some_and(|(first, top)| top.len() == 2 && REGISTRY_LABELS.contains(&first)) {
        reader.warn(
            &node.at,
            "this looks like a public suffix, below which anyone can register names, and browsers reject a \
             cookie for it",
        );
    }
    Some(domain.into())
}

/// Checks that the cookie from the page is valid under the domain.
fn check_page<'t>(
    reader: &mut Reader<'t>,
    node: &'t Node,
    domain: &str,
    key: &str,
    page: Option<&PublicUrl>,
) {
    // One that is not valid is an error already.
    let Some(page) = page else {
        return;
    };
    if !page.is_https() {
        reader.error(
            &node.at,
            format!("the cookie of a domain works only over https (`__Secure-`): `{key}` must be https"),
        );
    }
    if !is_within(page.host(), domain) {
        reader.error(
            &node.at,
            format!(
                "browsers reject a cookie for this domain from `{key}`: the domain must be the host of `{key}`, \
                 or a domain above it"
            ),
        );
    }
}

/// Whether a host is this domain or is below it.
fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
