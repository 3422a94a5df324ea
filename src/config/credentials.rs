//! The section `credentials`: the locations where a request may carry a credential.

use super::raw::{Entry, Location, Node, Text, Value};
use super::reader::{Fields, Reader, nearest};
use super::schema;
use crate::credential::{CredentialLocation, CredentialLocations, CrossSite};

const LOCATIONS: &str = "`bearer`, `basic`, `session`, {header: NAME}, {query: NAME} or {cookie: NAME}";

/// Headers that clients do not set, or whose removal would break the request.
const FORBIDDEN_HEADERS: [&str; 9] = [
    "host",
    "cookie",
    "connection",
    "content-length",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The meaning of the location `session`.
#[derive(Clone, Copy)]
pub enum Sessions {
    /// An error: sessions are stored in the key store, and there is no section `keys`.
    NeedKeys,
    /// Log-in is not possible here, but servers with the same store may have opened sessions, in cookies of these
    /// names.
    OpenedElsewhere(&'static [&'static str]),
    /// Cookies of these names.
    InCookies(&'static [&'static str]),
}

/// Reads the section; `query` is a location that a Datasette configuration adds behind bearer.
pub fn read<'t>(
    reader: &mut Reader<'t>,
    section: Option<&'t Entry>,
    query: Option<&'t Text>,
    sessions: Sessions,
) -> Vec<CredentialLocation> {
    let default = || {
        let mut locations =
            vec![CredentialLocation::Bearer, CredentialLocation::Basic { cross_site: CrossSite::Deny }];
        if let Some(name) = query {
            locations.insert(1, CredentialLocation::Query { name: name.as_str().into() });
        }
        locations
    };
    let Some(Entry { value: node, .. }) = section else {
        return default();
    };
    let Some(list) = reader.list(node, &format!("a list of {LOCATIONS}")) else {
        return default();
    };
    if list.is_empty() {
        reader.error(
            &node.at,
            "an empty list accepts no credential at all; leave `credentials` out for [bearer, basic]",
        );
    }
    let mut locations: Vec<CredentialLocation> = Vec::new();
    for node in list {
        let Some(location) = read_location(reader, node, sessions) else {
            continue;
        };
        if locations.iter().any(|earlier| is_same(earlier, &location)) {
            reader.error(&node.at, "this location is in the list already");
        }
        locations.push(location);
    }
    locations
}

/// The locations of the sections that give out credentials; `None` for one that is not there or empty.
pub struct CredentialSections<'t> {
    /// `tokens`.
    pub tokens: Option<&'t Location>,
    /// `users`.
    pub users: Option<&'t Location>,
    /// `ldap`.
    pub ldap: Option<&'t Location>,
    /// Whether Checks ask about its people.
    pub asks_ldap: bool,
    /// `oauth`.
    pub oauth: Option<&'t Location>,
    /// `keys`.
    pub keys: Option<&'t Location>,
}

/// Warns of credentials that no location accepts, and of a location that accepts none of the credentials.
///
/// With an admin listener they may be meant for that listener, which accepts every kind regardless of `credentials`.
pub fn warn_of_useless<'t>(
    reader: &mut Reader<'t>,
    section: Option<&'t Entry>,
    locations: &[CredentialLocation],
    sections: &CredentialSections<'t>,
    has_admin: bool,
) {
    let is_session = |location: &CredentialLocation| matches!(location, CredentialLocation::Session { .. });
    // Without the section `admin` people may have logged in at another server, unknown to this one.
    let has_people = sections.users.is_some() || sections.ldap.is_some() || sections.oauth.is_some();
    if let (Some(node), false, true) = (session_node(section), has_people, has_admin) {
        reader.warn(
            &node.at,
            "no session can be valid: sessions belong to people, and there are no `users`, no `ldap` and no \
             `oauth`",
        );
    }
    // An empty list is an error already.
    if has_admin || locations.is_empty() {
        return;
    }
    if locations.iter().all(is_session) {
        for at in [sections.tokens, sections.keys].into_iter().flatten() {
            reader.warn(at, "none of these can be used: no location in `credentials` takes a token");
        }
    }
    let takes_users = |location: &CredentialLocation| {
        matches!(location, CredentialLocation::Basic { .. } | CredentialLocation::Session { .. })
    };
    if locations.iter().any(takes_users) {
        return;
    }
    for at in [sections.users, sections.ldap.filter(|_| sections.asks_ldap)].into_iter().flatten() {
        reader.warn(
            at,
            "none of these can log in: `basic` is not among `credentials`, and there is no section `admin` with \
             a log-in page; add one of them (with `admin`, add `session` to `credentials` as well)",
        );
    }
}

/// Whether `session` is in the list.
pub fn has_session(section: Option<&Entry>) -> bool {
    session_node(section).is_some()
}

/// The word `session` in the list.
fn session_node(section: Option<&Entry>) -> Option<&Node> {
    let Some(Entry { value: Node { value: Value::List(list), .. }, .. }) = section else {
        return None;
    };
    let is_word = |node: &&Node| matches!(&node.value, Value::Text(text) if text.as_str() == "session");
    list.iter().find(is_word)
}

/// The locations in the form that the engine reads.
pub fn locations(order: Vec<CredentialLocation>) -> CredentialLocations {
    CredentialLocations::new(order)
}

/// Whether two locations are the same but for their options.
fn is_same(one: &CredentialLocation, other: &CredentialLocation) -> bool {
    (one.kind(), one.name()) == (other.kind(), other.name())
}

fn read_location<'t>(
    reader: &mut Reader<'t>,
    node: &'t Node,
    sessions: Sessions,
) -> Option<CredentialLocation> {
    match &node.value {
        Value::Text(text) => read_word(reader, node, text.as_str(), sessions),
        Value::Map(_) => read_mapping(reader, node),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::List(_) | Value::Unresolved { .. } => {
            reader.expected(node, LOCATIONS);
            None
        }
    }
}

fn read_word<'t>(
    reader: &mut Reader<'t>,
    node: &'t Node,
    word: &str,
    sessions: Sessions,
) -> Option<CredentialLocation> {
    match word {
        "bearer" => Some(CredentialLocation::Bearer),
        "basic" => Some(CredentialLocation::Basic { cross_site: CrossSite::Deny }),
        "session" => read_session(reader, node, sessions),
        named if CredentialLocation::NAMED.contains(&named) => {
            reader.error(&node.at, format!("`{named}` needs a name: {{{named}: NAME}}"));
            None
        }
        other => {
            let near = nearest(other, CredentialLocation::UNNAMED.into_iter());
            let advice = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            reader.error(&node.at, format!("expected {LOCATIONS}, found another word{advice}"));
            None
        }
    }
}

fn read_session<'t>(
    reader: &mut Reader<'t>,
    node: &'t Node,
    sessions: Sessions,
) -> Option<CredentialLocation> {
    match sessions {
        Sessions::NeedKeys => {
            reader.error(&node.at, "`session` needs the section `keys`: sessions are kept in its store");
            None
        }
        Sessions::OpenedElsewhere(cookies) => {
            reader.warn(
                &node.at,
                "without the section `admin` log-in is not possible here: only sessions that other servers opened in \
                 the same store are valid",
            );
            Some(CredentialLocation::Session { cookies })
        }
        Sessions::InCookies(cookies) => Some(CredentialLocation::Session { cookies }),
    }
}

fn read_mapping<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<CredentialLocation> {
    let kinds = ["header", "query", "cookie", "basic"];
    let fields = reader.fields(node, LOCATIONS, &schema::LOCATION)?;
    let [kind] = fields.present(&kinds)[..] else {
        reader.error(&node.at, format!("a location is one of {LOCATIONS}"));
        return None;
    };
    let beside = fields.get("allow_cross_site");
    if let Some(option) = beside
        && matches!(kind, "header" | "query")
    {
        reader.error(
            &option.at,
            format!(
                "no browser sends a {kind} by itself: `allow_cross_site` belongs to `cookie` and `basic`"
            ),
        );
    }
    let inner = fields.get(kind)?;
    match kind {
        "header" => read_header(reader, inner),
        "query" => read_query(reader, inner),
        "cookie" => read_cookie(reader, inner, beside),
        _ => read_basic(reader, inner, beside),
    }
}

fn read_header<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<CredentialLocation> {
    let text = reader.text(node, "text: the name of a header")?;
    let name = text.as_str().to_ascii_lowercase();
    let problem = if name == "authorization" {
        Some("the authorization header is read by `bearer` and `basic`".to_owned())
    } else if !is_token(&name) {
        Some(
            "a header's name consists of letters, digits and !#$%&'*+-.^_`|~ (RFC 9110 section 5.6.2)"
                .to_owned(),
        )
    } else if name.starts_with("proxy-") {
        Some(
            "headers that begin with `proxy-` are between a client and the next proxy, which may answer or remove them \
             before Envoy routes the request (RFC 9110 section 11.7); use `bearer`, or a header such as x-api-key"
                .to_owned(),
        )
    } else if FORBIDDEN_HEADERS.contains(&name.as_str()) {
        // The name is in our own list, so it may be shown.
        Some(format!("the header `{name}` cannot carry a token"))
    } else {
        None
    };
    if let Some(problem) = problem {
        reader.error(&node.at, problem);
        return None;
    }
    Some(CredentialLocation::Header { name: name.into() })
}

fn read_query<'t>(reader: &mut Reader<'t>, node: &'t Node) -> Option<CredentialLocation> {
    let text = reader.text(node, "text: the name of a query parameter")?;
    check_query(reader, node, text).then(|| CredentialLocation::Query { name: text.as_str().into() })
}

/// Checks the name of a query parameter.
pub fn check_query<'t>(reader: &mut Reader<'t>, node: &'t Node, text: &Text) -> bool {
    let is_legal = !text.as_str().is_empty() && !text.as_str().chars().any(char::is_control);
    if !is_legal {
        reader
            .error(&node.at, "a query parameter's name has at least one character and no control character");
    }
    is_legal
}

fn read_cookie<'t>(
    reader: &mut Reader<'t>,
    node: &'t Node,
    beside: Option<&'t Node>,
) -> Option<CredentialLocation> {
    let cross_site = read_cross_site(reader, beside);
    let text = reader.text(node, "text: the name of a cookie")?;
    if !is_token(text.as_str()) {
        reader.error(
            &node.at,
            "a cookie's name consists of letters, digits and !#$%&'*+-.^_`|~ (RFC 6265 section 4.1.1)",
        );
        return None;
    }
    Some(CredentialLocation::Cookie { name: text.as_str().into(), cross_site })
}

/// `{basic: {allow_cross_site: true}}`
fn read_basic<'t>(
    reader: &mut Reader<'t>,
    node: &'t Node,
    beside: Option<&'t Node>,
) -> Option<CredentialLocation> {
    if let Some(option) = beside {
        reader.error(&option.at, "for basic write the option inside: {basic: {allow_cross_site: true}}");
    }
    let fields: Fields<'t> =
        reader.fields(node, "a mapping such as {allow_cross_site: true}", &schema::BASIC)?;
    let cross_site = read_cross_site(reader, fields.get("allow_cross_site"));
    Some(CredentialLocation::Basic { cross_site })
}

fn read_cross_site<'t>(reader: &mut Reader<'t>, node: Option<&'t Node>) -> CrossSite {
    match node.and_then(|node| reader.boolean(node)) {
        Some(true) => CrossSite::Allow,
        Some(false) | None => CrossSite::Deny,
    }
}

/// A `token` of RFC 9110 section 5.6.2.
fn is_token(name: &str) -> bool {
    let is_token_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token_byte)
}
