//! Credentials: their locations in a request, their extraction, and the principal of an authenticated credential.
//!
//! The first location that carries anything decides alone.  A bad credential never falls through to the next location
//! or to anonymous; but a session's cookie that is malformed or whose session has ended counts as absent.

pub mod cookie;
pub mod cross_site;
pub mod query;
pub mod stripping;

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::actor::Actor;
use crate::attributes::{Headers, Http, NameLengthFilter, trim_blanks};
use crate::person::{Person, PersonSource};
use crate::secret::Secret;
use crate::token::{PlainToken, TokenDigest};

pub use cross_site::CrossSite;

/// The user name under which a Basic password is a token, as in Grafana.
pub const API_KEY_USER: &str = "api_key";

/// The maximum number of session cookies that are read from one request.  A browser has one for each domain and path
/// that set it.
pub const MAX_SESSION_COOKIES: usize = 8;

/// Where a request may carry a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialLocation {
    /// `Authorization: Bearer T` (RFC 6750 section 2.1).
    Bearer,
    /// `Authorization: Basic …` (RFC 7617): a user's name and password, or `api_key` and a token.
    Basic {
        /// Whether requests that another site caused may use it.
        cross_site: CrossSite,
    },
    /// Our own session cookie: a logged-in person.
    Session {
        /// Its names, from [`stripping::SESSION_COOKIES`]: more than one where another process sets it.
        cookies: &'static [&'static str],
    },
    /// A header whose whole value is the token.
    Header {
        /// Its name in lower case.
        name: Box<str>,
    },
    /// A query parameter.
    Query {
        /// Its decoded name.
        name: Box<str>,
    },
    /// A cookie.
    Cookie {
        /// Its name; case matters.
        name: Box<str>,
        /// Whether requests that another site caused may use it.
        cross_site: CrossSite,
    },
}

impl CredentialLocation {
    /// The configuration's words for locations that need no name.
    pub const UNNAMED: [&str; 3] = ["bearer", "basic", "session"];
    /// The configuration's words for locations with a name.
    pub const NAMED: [&str; 3] = ["header", "query", "cookie"];

    /// The word of the configuration: one of [`Self::UNNAMED`] or [`Self::NAMED`].
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Basic { .. } => "basic",
            Self::Session { .. } => "session",
            Self::Header { .. } => "header",
            Self::Query { .. } => "query",
            Self::Cookie { .. } => "cookie",
        }
    }

    /// The name of the header, query parameter or cookie where the configuration gives one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Bearer | Self::Basic { .. } | Self::Session { .. } => None,
            Self::Header { name } | Self::Query { name } | Self::Cookie { name, .. } => Some(name),
        }
    }

    /// The name of the header that carries it; `None` when the path does.
    pub fn header(&self) -> Option<&str> {
        match self {
            Self::Bearer | Self::Basic { .. } => Some("authorization"),
            Self::Session { .. } | Self::Cookie { .. } => Some("cookie"),
            Self::Header { name } => Some(name),
            Self::Query { .. } => None,
        }
    }
}

/// Such as `bearer` or `header x-api-key`.
impl std::fmt::Display for CredentialLocation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.kind())?;
        self.name().map_or(Ok(()), |name| write!(formatter, " {name}"))
    }
}

/// The locations to read, in order.
#[derive(Debug, Clone)]
pub struct CredentialLocations {
    order: Vec<CredentialLocation>,
    bearer: bool,
    basic: bool,
    cookies: HashSet<Box<[u8]>>,
    cookie_lengths: NameLengthFilter,
}

/// The credential of a request.
pub enum Credential {
    /// A token, as its digest.  The plain text is not passed on.
    Token {
        /// The SHA-256 of the token.
        digest: TokenDigest,
        /// Whether it has the format of the tokens that we issue, checksum included.
        issued_format: bool,
    },
    /// Sessions of logged-in people.  There are several where a browser holds cookies of this name from several domains
    /// or paths; another host of the domain may have set one.  The only live one is used.
    Sessions(Box<[SessionCookie]>),
    /// A user's name and password.
    Password {
        /// The name as sent.
        user: String,
        /// The password as sent.
        password: Secret,
    },
}

/// The value of a session cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionCookie {
    /// The SHA-256 of the value.
    pub digest: TokenDigest,
    /// Whether the value has the format of those that we make, checksum included.
    pub issued_format: bool,
}

/// A credential and the location that carried it.
pub struct PresentedCredential<'p> {
    /// The credential.
    pub credential: Credential,
    /// Its location.
    pub location: &'p CredentialLocation,
}

/// Why the content of a location is not a usable credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialError {
    /// The location holds two credentials.  An upstream that reads the other one would see another actor.
    Duplicate,
    /// A malformed token.
    MalformedToken,
    /// Malformed Basic credentials.
    MalformedBasic,
    /// Another site caused the request, and the browser sent the credential by itself.
    CrossSite,
}

/// The kind of an authenticated credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A token of the configuration.
    Token,
    /// A user of the configuration.
    User,
    /// An API key.
    Key,
    /// A session of a user who logged in.
    Session,
}

impl Kind {
    /// The word for logs, metrics and metadata.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::User => "user",
            Self::Key => "key",
            Self::Session => "session",
        }
    }
}

/// A credential that was authenticated, and the actor behind it.
#[derive(Debug)]
pub struct Principal {
    /// What kind of credential it is.
    pub kind: Kind,
    /// Its name: never a secret.
    pub name: Arc<str>,
    /// The id of an API key; `None` for other kinds.
    pub id: Option<i64>,
    /// The actor behind it.
    pub actor: Actor,
    /// The only policies under which the credential is valid; `None` for no restriction.
    pub policies: Option<PolicyNames>,
    /// The person behind a user or a session; `None` for other kinds.
    pub person: Option<Arc<Person>>,
    /// The owner of an API key, as of the time when this principal was made.
    pub owner: Option<Arc<Principal>>,
    /// The name of the service account that owns the API key.
    pub account: Option<Arc<str>>,
    /// The version of that account from which this principal was made; 0 for everything else.
    pub account_version: u64,
    /// The instant from which on the credential is expired.
    pub expires_at: Option<jiff::Timestamp>,
    /// The part of an answer that depends on the actor alone, made once under each snapshot.
    pub actor_answer: ArcSwapOption<CachedActorAnswer>,
}

/// Names of policies, unique and sorted, so that a lookup takes few comparisons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyNames(Box<[Arc<str>]>);

impl FromIterator<Arc<str>> for PolicyNames {
    fn from_iter<I: IntoIterator<Item = Arc<str>>>(names: I) -> Self {
        let mut names: Vec<_> = names.into_iter().collect();
        names.sort_unstable();
        names.dedup();
        Self(names.into())
    }
}

impl std::ops::Deref for PolicyNames {
    type Target = [Arc<str>];

    fn deref(&self) -> &[Arc<str>] {
        &self.0
    }
}

impl PolicyNames {
    /// Whether this name is among them.
    pub fn contains(&self, name: &str) -> bool {
        self.0.binary_search_by(|held| held.as_ref().cmp(name)).is_ok()
    }
}

/// The part of an answer that depends only on the actor, under one snapshot.  A check has shown that it can be built.
pub struct CachedActorAnswer {
    snapshot_version: u64,
    encoded: OnceLock<Box<[u8]>>,
}

impl CachedActorAnswer {
    /// A part that is not encoded yet.
    pub fn new(snapshot_version: u64) -> Self {
        Self { snapshot_version, encoded: OnceLock::new() }
    }

    /// The version of the snapshot under which it was checked.  A key lives longer than a snapshot, and other snapshots
    /// may have other headers.
    pub fn snapshot_version(&self) -> u64 {
        self.snapshot_version
    }

    /// The encoded part.  The first call encodes it.
    pub fn encoded(&self, encode: impl FnOnce() -> Box<[u8]>) -> &[u8] {
        self.encoded.get_or_init(encode)
    }
}

/// The bytes hold the actor, which does not belong in a debug line: only their number is shown.
impl std::fmt::Debug for CachedActorAnswer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.encoded.get().map_or(0, |bytes| bytes.len());
        write!(formatter, "CachedActorAnswer({bytes} bytes, snapshot {})", self.snapshot_version)
    }
}

impl Principal {
    /// A credential without restriction and expiry.
    pub fn new(kind: Kind, name: Arc<str>, actor: Actor) -> Self {
        Self {
            kind,
            name,
            id: None,
            actor,
            policies: None,
            person: None,
            owner: None,
            account: None,
            account_version: 0,
            expires_at: None,
            actor_answer: ArcSwapOption::empty(),
        }
    }

    /// Whether the credential is valid under the policy of this name.
    pub fn counts_under(&self, policy: &str) -> bool {
        self.policies.as_ref().is_none_or(|names| names.contains(policy))
    }

    /// The source of the person behind it, or of the owner of the key.
    pub fn source(&self) -> Option<&PersonSource> {
        let person = self.person.as_ref().or(self.owner.as_ref().and_then(|owner| owner.person.as_ref()));
        person.map(|person| &person.id.source)
    }

    /// The owner of an API key: `account:` and the name of a service account, or the source and the subject of a
    /// person, such as `ldap:ann`.  `None` for a key without an owner, and for other kinds.
    pub fn owner_name(&self) -> Option<String> {
        if let Some(account) = &self.account {
            return Some(format!("account:{account}"));
        }
        let person = &self.owner.as_ref()?.person.as_ref()?.id;
        Some(format!("{}:{}", person.source.as_str(), person.subject))
    }

    /// Whether it is expired at this instant.
    pub fn is_expired(&self, now: jiff::Timestamp) -> bool {
        has_expired(self.expires_at, now)
    }
}

/// Whether an expiry, if any, has passed: a credential is expired from that instant on.
pub fn has_expired(expires_at: Option<jiff::Timestamp>, now: jiff::Timestamp) -> bool {
    expires_at.is_some_and(|expires_at| now >= expires_at)
}

impl CredentialLocations {
    /// Locations in the order in which they are read.
    pub fn new(order: Vec<CredentialLocation>) -> Self {
        let bearer = order.iter().any(|location| matches!(location, CredentialLocation::Bearer));
        let basic = order.iter().any(|location| matches!(location, CredentialLocation::Basic { .. }));
        let name_of = |location: &CredentialLocation| match location {
            CredentialLocation::Cookie { name, .. } => Some(name.as_bytes().into()),
            CredentialLocation::Bearer
            | CredentialLocation::Basic { .. }
            | CredentialLocation::Session { .. }
            | CredentialLocation::Header { .. }
            | CredentialLocation::Query { .. } => None,
        };
        let cookies: HashSet<Box<[u8]>> = order.iter().filter_map(name_of).collect();
        let cookie_lengths = NameLengthFilter::of(cookies.iter().map(|name| &**name));
        Self { order, bearer, basic, cookies, cookie_lengths }
    }

    /// Whether one of the locations is the cookie of this name.
    pub fn reads_cookie(&self, name: &[u8]) -> bool {
        self.cookie_lengths.may_contain(name.len()) && self.cookies.contains(name)
    }

    /// The locations in order.
    pub fn order(&self) -> &[CredentialLocation] {
        &self.order
    }

    /// Sets the names of the session cookies, if sessions are read at all.
    pub fn set_session_cookies(&mut self, names: &'static [&'static str]) {
        for location in &mut self.order {
            if let CredentialLocation::Session { cookies } = location {
                *cookies = names;
            }
        }
    }

    /// Whether sessions are accepted.
    pub fn reads_sessions(&self) -> bool {
        self.order.iter().any(|location| matches!(location, CredentialLocation::Session { .. }))
    }

    /// Whether Basic credentials are accepted.
    pub fn reads_basic(&self) -> bool {
        self.basic
    }
}

/// Records the content of each location, in order, until one decides.
pub trait ExtractionTrace {
    /// This location was read.
    fn extracted(&mut self, _extraction: &Result<Extraction, CredentialError>) {}
}

impl ExtractionTrace for () {}

/// Extracts the request's credential: that of the first location that carries anything.
///
/// # Errors
/// [`CredentialError`]: a location has content that is not a credential or must not be used.
pub fn extract<'p>(
    http: &Http<'_>,
    locations: &'p CredentialLocations,
    trace: &mut impl ExtractionTrace,
) -> Result<Option<PresentedCredential<'p>>, CredentialError> {
    for location in &locations.order {
        let extraction = extract_checked(http, location, locations);
        trace.extracted(&extraction);
        match extraction? {
            Extraction::Nothing => {}
            Extraction::OtherScheme => return Ok(None),
            Extraction::Credential(credential) => {
                return Ok(Some(PresentedCredential { credential, location }));
            }
        }
    }
    Ok(None)
}

/// The content of a location, after the check of the site that caused the request.
fn extract_checked(
    http: &Http<'_>,
    location: &CredentialLocation,
    locations: &CredentialLocations,
) -> Result<Extraction, CredentialError> {
    let extraction = extract_from(http, location, locations)?;
    if matches!(extraction, Extraction::Credential(_)) {
        cross_site::check(http, location)?;
    }
    Ok(extraction)
}

/// Whether `authorization` holds a Bearer, well-formed or not.
pub fn carries_bearer(http: &Http<'_>) -> bool {
    let mut parts = http.headers.all("authorization").flat_map(parts_of);
    parts.any(|part| split_scheme(part).0.eq_ignore_ascii_case(b"bearer"))
}

/// The first location with content, and its content.  The site that caused the request is not checked.
pub fn extract_unchecked<'p>(
    http: &Http<'_>,
    locations: &'p CredentialLocations,
) -> Option<(&'p CredentialLocation, Result<Credential, CredentialError>)> {
    for location in &locations.order {
        match extract_from(http, location, locations) {
            Ok(Extraction::Nothing) => {}
            Ok(Extraction::OtherScheme) => return None,
            Ok(Extraction::Credential(credential)) => return Some((location, Ok(credential))),
            Err(error) => return Some((location, Err(error))),
        }
    }
    None
}

/// Whether sessions are read from this request: no earlier location has content.
pub fn reaches_sessions(http: &Http<'_>, locations: &CredentialLocations) -> bool {
    for location in &locations.order {
        if matches!(location, CredentialLocation::Session { .. }) {
            return true;
        }
        if !matches!(extract_from(http, location, locations), Ok(Extraction::Nothing)) {
            return false;
        }
    }
    false
}

/// The content of a location.
pub enum Extraction {
    /// Absent or empty: the next location is read.
    Nothing,
    /// Another scheme: there is no credential, and no later location is read.
    OtherScheme,
    /// A credential.
    Credential(Credential),
}

fn extract_from(
    http: &Http<'_>,
    location: &CredentialLocation,
    locations: &CredentialLocations,
) -> Result<Extraction, CredentialError> {
    match location {
        CredentialLocation::Bearer => match authorization(http, locations)? {
            Authorization::Absent | Authorization::Basic(_) => Ok(Extraction::Nothing),
            Authorization::OtherScheme => Ok(Extraction::OtherScheme),
            Authorization::Bearer(token) => Ok(Extraction::Credential(token_credential(token)?)),
        },
        CredentialLocation::Basic { .. } => match authorization(http, locations)? {
            Authorization::Absent | Authorization::Bearer(_) => Ok(Extraction::Nothing),
            Authorization::OtherScheme => Ok(Extraction::OtherScheme),
            Authorization::Basic(encoded) => Ok(Extraction::Credential(basic_credential(encoded)?)),
        },
        CredentialLocation::Session { cookies } => Ok(extract_session(http, cookies)),
        CredentialLocation::Header { name } => extract_header(http, name),
        CredentialLocation::Query { name } => extract_query(http, name),
        CredentialLocation::Cookie { name, .. } => extract_cookie(http, name),
    }
}

/// The content of the `authorization` header, of the enabled schemes.
enum Authorization<'a> {
    Absent,
    OtherScheme,
    /// The text after `Bearer` and its blanks.
    Bearer(&'a [u8]),
    /// The text after `Basic` and its blanks.
    Basic(&'a [u8]),
}

fn authorization<'a>(
    http: &Http<'a>,
    locations: &CredentialLocations,
) -> Result<Authorization<'a>, CredentialError> {
    let ours = |part| !matches!(scheme(part, locations), Authorization::OtherScheme | Authorization::Absent);
    let mut values = http.headers.all("authorization");
    let Some(value) = values.next() else {
        return Ok(Authorization::Absent);
    };
    // Two lines are malformed if one of them is ours.  Otherwise they are ignored, as where Envoy joins them.
    if values.next().is_some() {
        let mut parts = http.headers.all("authorization").flat_map(parts_of);
        return if parts.any(ours) {
            Err(CredentialError::Duplicate)
        } else {
            Ok(Authorization::OtherScheme)
        };
    }
    let value = trim_blanks(value);
    if value.is_empty() {
        return Ok(Authorization::Absent);
    }
    if std::str::from_utf8(value).is_err() {
        return Err(CredentialError::MalformedToken);
    }
    // Two lines that Envoy joined with a comma.  Our schemes do not contain commas, while others (Digest,
    // AWS4-HMAC-SHA256) contain many.
    if value.contains(&b',') {
        return if parts_of(value).any(ours) {
            Err(CredentialError::Duplicate)
        } else {
            Ok(Authorization::OtherScheme)
        };
    }
    Ok(scheme(value, locations))
}

/// The lines that Envoy may have joined with commas.
fn parts_of(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim_blanks)
}

/// A value's scheme, and the text after it and its blanks (RFC 9110 section 11.4).
fn split_scheme(value: &[u8]) -> (&[u8], &[u8]) {
    let end = value.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(value.len());
    let (scheme, rest) = value.split_at(end);
    (scheme, trim_blanks(rest))
}

/// The scheme is compared without regard to case (RFC 9110 section 11.1).
fn scheme<'a>(value: &'a [u8], locations: &CredentialLocations) -> Authorization<'a> {
    let (scheme, rest) = split_scheme(value);
    if locations.bearer && scheme.eq_ignore_ascii_case(b"bearer") {
        Authorization::Bearer(rest)
    } else if locations.basic && scheme.eq_ignore_ascii_case(b"basic") {
        Authorization::Basic(rest)
    } else {
        Authorization::OtherScheme
    }
}

fn token_credential(text: &[u8]) -> Result<Credential, CredentialError> {
    let token = PlainToken::new(text).map_err(|_| CredentialError::MalformedToken)?;
    Ok(Credential::Token { digest: token.digest(), issued_format: token.has_issued_format() })
}

/// RFC 7617 section 2: base64 of user name, colon, password; the name holds no colon.
fn basic_credential(encoded: &[u8]) -> Result<Credential, CredentialError> {
    let malformed = CredentialError::MalformedBasic;
    let decoded = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| malformed)?);
    let text = std::str::from_utf8(&decoded).map_err(|_| malformed)?;
    let (user, password) = text.split_once(':').ok_or(malformed)?;
    if user == API_KEY_USER {
        return token_credential(password.as_bytes()).map_err(|_| malformed);
    }
    Ok(Credential::Password { user: user.to_owned(), password: Secret::new(password.to_owned()) })
}

fn extract_header(http: &Http<'_>, name: &str) -> Result<Extraction, CredentialError> {
    let mut values = http.headers.all(name);
    let Some(value) = values.next() else {
        return Ok(Extraction::Nothing);
    };
    // A token has no comma, so a comma is where two lines were joined.
    if values.next().is_some() || value.contains(&b',') {
        return Err(CredentialError::Duplicate);
    }
    match trim_blanks(value) {
        [] => Ok(Extraction::Nothing),
        value => token_credential(value).map(Extraction::Credential),
    }
}

fn extract_query(http: &Http<'_>, name: &str) -> Result<Extraction, CredentialError> {
    let mut values = query::values(http, name);
    let Some(value) = values.next() else {
        return Ok(Extraction::Nothing);
    };
    if values.next().is_some() {
        return Err(CredentialError::Duplicate);
    }
    match query::decode(value) {
        value if value.is_empty() => Ok(Extraction::Nothing),
        value => token_credential(&value).map(Extraction::Credential),
    }
}

/// A cookie in another format counts as absent: it may be an old cookie or that of another program.
fn extract_session(http: &Http<'_>, names: &[&str]) -> Extraction {
    let cookies = names.iter().flat_map(|name| session_cookies(&http.headers, name));
    let cookies: Box<[SessionCookie]> = cookies.collect();
    if cookies.is_empty() {
        Extraction::Nothing
    } else {
        Extraction::Credential(Credential::Sessions(cookies))
    }
}

/// The first [`MAX_SESSION_COOKIES`] cookies of a name in our format.
pub fn session_cookies<'s, 'a: 's>(
    headers: &'s Headers<'a>,
    name: &'s str,
) -> impl Iterator<Item = SessionCookie> + 's {
    let tokens = cookie::values(headers, name).filter_map(|value| PlainToken::new(value).ok());
    tokens
        .map(|token| SessionCookie { digest: token.digest(), issued_format: token.has_issued_format() })
        .take(MAX_SESSION_COOKIES)
}

fn extract_cookie(http: &Http<'_>, name: &str) -> Result<Extraction, CredentialError> {
    let mut values = cookie::values(&http.headers, name);
    let Some(value) = values.next() else {
        return Ok(Extraction::Nothing);
    };
    if values.next().is_some() {
        return Err(CredentialError::Duplicate);
    }
    match value {
        [] => Ok(Extraction::Nothing),
        value => token_credential(value).map(Extraction::Credential),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::{ClientAddress, Encoding, Header, Headers};

    fn locations() -> Vec<CredentialLocation> {
        vec![
            CredentialLocation::Bearer,
            CredentialLocation::Basic { cross_site: CrossSite::Deny },
            CredentialLocation::Header { name: "x-api-key".into() },
            CredentialLocation::Query { name: "_auth_token".into() },
            CredentialLocation::Cookie { name: "auth_token".into(), cross_site: CrossSite::Deny },
        ]
    }

    /// `token T`, `password U:P`, `none` or the error, for a request with these headers.
    fn found(
        encoding: Encoding,
        path: &[u8],
        headers: &[(&str, &[u8])],
        locations: Vec<CredentialLocation>,
    ) -> String {
        let entries = headers.iter().map(|&(name, value)| Header { name: name.as_bytes(), value });
        let headers = Headers::new(encoding, entries.collect());
        let http = Http { method: b"GET", host: b"h", path, headers, client: ClientAddress::UNKNOWN };
        let locations = CredentialLocations::new(locations);
        match extract(&http, &locations, &mut ()) {
            Ok(None) => "none".to_owned(),
            Ok(Some(PresentedCredential { credential: Credential::Sessions(_), .. })) => "session".to_owned(),
            Ok(Some(PresentedCredential { credential: Credential::Token { digest, .. }, .. })) => {
                let candidates = ["T", "U", "b=c==", "a/b+c"];
                let digest_of = |text: &&&str| PlainToken::new(text.as_bytes()).unwrap().digest() == digest;
                format!("token {}", candidates.iter().find(digest_of).unwrap())
            }
            Ok(Some(PresentedCredential { credential: Credential::Password { user, password }, .. })) => {
                format!("password {user}:{}", password.expose())
            }
            Err(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn a_location_says_what_it_is_called_and_which_header_carries_it() {
        let cross_site = CrossSite::Deny;
        for (location, text, header) in [
            (CredentialLocation::Bearer, "bearer", Some("authorization")),
            (CredentialLocation::Basic { cross_site }, "basic", Some("authorization")),
            (CredentialLocation::Session { cookies: &["eat_session"] }, "session", Some("cookie")),
            (CredentialLocation::Header { name: "x-api-key".into() }, "header x-api-key", Some("x-api-key")),
            (CredentialLocation::Query { name: "t".into() }, "query t", None),
            (CredentialLocation::Cookie { name: "c".into(), cross_site }, "cookie c", Some("cookie")),
        ] {
            assert_eq!((&*location.to_string(), location.header()), (text, header));
            let words = if location.name().is_some() {
                CredentialLocation::NAMED
            } else {
                CredentialLocation::UNNAMED
            };
            assert!(words.contains(&location.kind()), "{text}");
        }
    }

    fn basic(text: &[u8]) -> Vec<u8> {
        format!("Basic {}", STANDARD.encode(text)).into_bytes()
    }

    #[test]
    fn what_the_authorization_header_holds() {
        let mut cases: Vec<(Vec<u8>, &str)> = Vec::new();
        let texts: &[(&[u8], &str)] = &[
            (b"Bearer T", "token T"),
            (b"bearer T", "token T"),
            (b"BEARER   T ", "token T"),
            (b"Bearer\tT", "token T"),
            (b"Bearer b=c==", "token b=c=="),
            (b"", "none"),
            (b"  ", "none"),
            (b"Bearer", "MalformedToken"),
            (b"Bearer ", "MalformedToken"),
            (b"Bearer T U", "MalformedToken"),
            (b"Bearer T;U", "MalformedToken"),
            (b"Bearer \xff", "MalformedToken"),
            (b"Negotiate \xff", "MalformedToken"),
            (b"BearerT", "none"),
            (b"T", "none"),
            (b"Negotiate abc", "none"),
            (b"AWS4-HMAC-SHA256 Credential=A/b, SignedHeaders=host, Signature=c", "none"),
            (b"Digest username=\"Mufasa\", realm=\"x\"", "none"),
            (b"Bearer T,Bearer U", "Duplicate"),
            (b"Bearer T,", "Duplicate"),
            (b",Bearer T", "Duplicate"),
            (b"Bearer T, Negotiate abc", "Duplicate"),
            (b"Negotiate abc,bearer T", "Duplicate"),
            (b"Basic VTpQ,Bearer T", "Duplicate"),
            (b"Basic", "MalformedBasic"),
            (b"Basic !", "MalformedBasic"),
            (b"Basic VTpQ=", "MalformedBasic"),
            (b"basic   VTpQ", "password U:P"),
        ];
        cases.extend(texts.iter().map(|&(text, expected)| (text.to_vec(), expected)));
        cases.push((basic(b"user:pass:word"), "password user:pass:word"));
        cases.push((basic(b"user:"), "password user:"));
        cases.push((basic(b":pass"), "password :pass"));
        cases.push((basic("Zoë:ñ".as_bytes()), "password Zoë:ñ"));
        cases.push((basic(b"user"), "MalformedBasic"));
        cases.push((basic(b"user:\xff"), "MalformedBasic"));
        cases.push((basic(b"api_key:T"), "token T"));
        cases.push((basic(b"api_key:"), "MalformedBasic"));
        cases.push((basic(b"api_key:a b"), "MalformedBasic"));
        cases.push((basic(b"API_KEY:T"), "password API_KEY:T"));
        cases.push(([b"Bearer ", [b'a'; 4097].as_slice()].concat(), "MalformedToken"));
        for (value, expected) in cases {
            for encoding in [Encoding::Joined, Encoding::Lines] {
                let found = found(encoding, b"/", &[("authorization", &value)], locations());
                assert_eq!(found, expected, "{}", value.escape_ascii());
            }
        }
    }

    #[test]
    fn two_lines_are_never_one_credential() {
        let twice: &[(&str, &[u8])] = &[("authorization", b"Bearer T"), ("Authorization", b"Negotiate abc")];
        assert_eq!(found(Encoding::Lines, b"/", twice, locations()), "Duplicate");
        let keys: &[(&str, &[u8])] = &[("x-api-key", b"T"), ("x-api-key", b"")];
        assert_eq!(found(Encoding::Lines, b"/", keys, locations()), "Duplicate");
        assert_eq!(found(Encoding::Joined, b"/", &[("x-api-key", b"T,")], locations()), "Duplicate");
    }

    #[test]
    fn the_other_places() {
        let cases: &[(&[u8], &[(&str, &[u8])], &str)] = &[
            (b"/", &[("x-api-key", b"T")], "token T"),
            (b"/", &[("x-api-key", b" T ")], "token T"),
            (b"/", &[("x-api-key", b"")], "none"),
            (b"/", &[("x-api-key", b"Bearer T")], "MalformedToken"),
            (b"/", &[("x-api-key", b"T\xff")], "MalformedToken"),
            (b"/?_auth_token=T", &[], "token T"),
            (b"/?a=b&%5Fauth%5ftoken=T&c", &[], "token T"),
            (b"/?_auth_token=a%2Fb%2Bc", &[], "token a/b+c"),
            (b"/?_auth_token=a+b", &[], "MalformedToken"),
            (b"/?_auth_token=%ff", &[], "MalformedToken"),
            (b"/?_auth_token=", &[], "none"),
            (b"/?_auth_token", &[], "none"),
            (b"/?_AUTH_TOKEN=T", &[], "none"),
            (b"/?x=\xff&_auth_token=T", &[], "token T"),
            (b"/?_auth_token=T&_auth_token=T", &[], "Duplicate"),
            (b"/?_auth_token=T&_auth%5Ftoken=", &[], "Duplicate"),
            (b"/_auth_token=T", &[], "none"),
            (b"/", &[("cookie", b"a=1; auth_token=T; b=\xff")], "token T"),
            (b"/", &[("cookie", b"a=1;auth_token=T")], "token T"),
            (b"/", &[("cookie", b"auth_token=b=c==")], "token b=c=="),
            (b"/", &[("cookie", b"Auth_Token=T")], "none"),
            (b"/", &[("cookie", b"auth_token=")], "none"),
            (b"/", &[("cookie", b"auth_token")], "none"),
            (b"/", &[("cookie", b"auth_token=a b")], "MalformedToken"),
            (b"/", &[("cookie", b"auth_token=T; auth_token=T")], "Duplicate"),
            (b"/", &[("authorization", b"Negotiate abc"), ("x-api-key", b"T")], "none"),
            (b"/", &[("authorization", b""), ("x-api-key", b"T")], "token T"),
            (b"/?_auth_token=U", &[("authorization", b"Bearer T"), ("x-api-key", b"U,U")], "token T"),
            (b"/", &[("x-api-key", b"a b"), ("cookie", b"auth_token=T")], "MalformedToken"),
        ];
        for (path, headers, expected) in cases {
            for encoding in [Encoding::Joined, Encoding::Lines] {
                let found = found(encoding, path, headers, locations());
                assert_eq!(found, *expected, "{} {headers:?}", path.escape_ascii());
            }
        }
    }

    #[test]
    fn cookies_of_several_lines_are_one_location() {
        let lines: &[(&str, &[u8])] = &[("cookie", b"a=1"), ("cookie", b"auth_token=T")];
        assert_eq!(found(Encoding::Lines, b"/", lines, locations()), "token T");
        let twice: &[(&str, &[u8])] = &[("cookie", b"auth_token=T"), ("cookie", b"auth_token=U")];
        assert_eq!(found(Encoding::Lines, b"/", twice, locations()), "Duplicate");
        // HTTP/1 lines joined by Envoy, in the map alone: a comma separates nothing in a single line.
        let joined: &[(&str, &[u8])] = &[("cookie", b"a=1,auth_token=T")];
        assert_eq!(found(Encoding::Joined, b"/", joined, locations()), "token T");
        assert_eq!(found(Encoding::Lines, b"/", joined, locations()), "none");
    }

    #[test]
    fn only_the_schemes_that_are_on_are_ours_and_order_decides() {
        let basic_value = basic(b"U:P");
        let both: &[(&str, &[u8])] = &[("authorization", &basic_value), ("x-api-key", b"T")];
        let key = || CredentialLocation::Header { name: "x-api-key".into() };
        let basic_location = || CredentialLocation::Basic { cross_site: CrossSite::Deny };
        assert_eq!(found(Encoding::Lines, b"/", both, vec![CredentialLocation::Bearer, key()]), "none");
        assert_eq!(found(Encoding::Lines, b"/", both, vec![key(), CredentialLocation::Bearer]), "token T");
        assert_eq!(
            found(Encoding::Lines, b"/", both, vec![CredentialLocation::Bearer, key(), basic_location()]),
            "token T"
        );
        assert_eq!(
            found(Encoding::Lines, b"/", both, vec![CredentialLocation::Bearer, basic_location(), key()]),
            "password U:P"
        );
        assert_eq!(found(Encoding::Lines, b"/", both, vec![]), "none");
    }
}
