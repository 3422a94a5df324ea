//! Path, host, cookies and query, each against a reader that takes as much for one of ours as an upstream might.
//!
//! An input is a head for people: a line `METHOD HOST PATH`, then lines `name: value`.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use percent_encoding::percent_decode;

use super::{authorizer, read_config, wait_for};
use crate::attributes::{Attributes, ClientAddress, Encoding, Header, Headers, Http, trim_blanks};
use crate::authorizer::Authorizer;
use crate::credential::stripping::{
    CookieChange, CredentialStripping, Forward, LOG_IN_COOKIES, SESSION_COOKIES,
};
use crate::credential::{CredentialLocation, CredentialLocations, CrossSite, cookie};
use crate::policy::normalize_host;
use crate::policy::path::{self, PermittedPaths};

/// Everything is open but what the rules close, and every spelling is permitted.
const GUARDED: &str = r#"
tokens: [{token: good-token-alice-1, actor: {id: alice}}]
routes:
- {path_prefix: /admin, allow: false}
- {path: /exact, allow: false}
- {host: admin.example, allow: false}
default: {allow: true}
paths: {permit: [empty_segment, encoded_slash, parameters, encoded_delimiter], case: ignore}
"#;

static GUARD: LazyLock<Authorizer> = LazyLock::new(|| authorizer(read_config(GUARDED)));

/// The target.
pub fn run(data: &[u8]) {
    let mut lines = data.split(|&byte| byte == b'\n');
    let mut words = lines.next().unwrap_or_default().splitn(3, |&byte| byte == b' ');
    let [method, host, path] = std::array::from_fn(|_| words.next().unwrap_or_default());
    let headers: Vec<_> = lines.filter_map(header).collect();

    check_path(path.split(|&byte| byte == b'?').next().unwrap_or_default());
    check_host(host);
    for encoding in [Encoding::Joined, Encoding::Lines] {
        let http = Http {
            method,
            host,
            path,
            headers: Headers::new(encoding, headers.clone()),
            client: ClientAddress::UNKNOWN,
        };
        check_cookies(&http);
        check_query(&http);
        check_rules(&http);
    }
}

fn header(line: &[u8]) -> Option<Header<'_>> {
    // A pseudo header begins with the colon.
    let colon = line.iter().skip(1).position(|&byte| byte == b':')? + 1;
    Some(Header { name: &line[..colon], value: trim_blanks(&line[colon + 1..]) })
}

fn check_path(raw: &[u8]) {
    let bit = |bits: usize, location: usize| bits >> location & 1 == 1;
    let permitted = |bits| PermittedPaths {
        empty_segment: bit(bits, 0),
        encoded_slash: bit(bits, 1),
        parameters: bit(bits, 2),
        encoded_delimiter: bit(bits, 3),
    };
    let read: Vec<_> = (0..16).map(|bits| path::read(raw, &permitted(bits))).collect();
    for (bits, one) in read.iter().enumerate() {
        let Ok(one) = one else { continue };
        let text = &*one.text;
        assert!(text.starts_with('/'), "{text:?}");
        assert!(!text.contains(char::is_control), "{text:?}");
        assert!(text.split(['/', '\\']).all(|segment| segment != "." && segment != ".."), "{text:?}");
        assert!(bit(bits, 0) || !text.contains("//"), "{text:?}");
        assert!(bit(bits, 1) || !text.contains('\\'), "{text:?}");
        assert!(bit(bits, 2) || !text.contains(';'), "{text:?}");
        assert!(bit(bits, 3) || !text.contains(['?', '#']), "{text:?}");
        assert_eq!(percent_decode(raw).collect::<Vec<u8>>(), text.as_bytes());
        assert!(bits != 0 || one.readings.is_empty(), "{one:?}");
        // What more is permitted takes nothing away.
        for (more, other) in read.iter().enumerate().filter(|(more, _)| bits & more == bits) {
            let other = other.as_ref().map(|other| &*other.text);
            assert_eq!(other, Ok(text), "{bits:b}, {more:b}");
        }
    }
}

fn check_host(host: &[u8]) {
    let Some(name) = normalize_host(host) else { return };
    let again = normalize_host(name.as_bytes());
    assert_eq!(again.as_deref(), Some(&*name));
    let is_legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.[:]".contains(&byte);
    assert!(name.bytes().all(is_legal), "{name:?}");
    let upper = normalize_host(&host.to_ascii_uppercase()).map(std::borrow::Cow::into_owned);
    assert_eq!(upper.as_deref(), Some(&*name));
}

const OURS: [&str; 2] = ["tok", "auth_token"];

fn locations() -> CredentialLocations {
    let cookie = |name: &str| CredentialLocation::Cookie { name: name.into(), cross_site: CrossSite::Deny };
    let [tok, auth_token] = OURS.map(cookie);
    CredentialLocations::new(vec![CredentialLocation::Query { name: "_auth_token".into() }, tok, auth_token])
}

/// Of the cookies exactly ours are cut.
fn check_cookies(http: &Http<'_>) {
    let locations = locations();
    let removal = CredentialStripping::of(http, &locations, Forward::Nothing);
    let is_ours = |name: &[u8]| {
        OURS.iter().chain(&SESSION_COOKIES).any(|ours| ours.as_bytes() == name)
            || LOG_IN_COOKIES.iter().any(|ours| name.starts_with(ours.as_bytes()))
    };
    let has_ours = cookie::without(&http.headers, is_ours).is_some();
    let rest = match &removal.cookie {
        CookieChange::None => {
            assert!(!has_ours, "a cookie of ours stays");
            return;
        }
        CookieChange::Remove => b"",
        CookieChange::Set(rest) => rest.as_bytes(),
    };
    assert!(has_ours, "cookies are changed, and none of them is ours");
    let headers = Headers::new(http.headers.encoding(), vec![Header { name: b"cookie", value: rest }]);
    assert_eq!(cookie::without(&headers, is_ours), None, "a cookie of ours stays");
    // An upstream may cut at less than we do.
    let blunt = rest.split(|byte| b";,".contains(byte)).map(trim_blanks);
    let sent = http.headers.all("cookie").flat_map(|line| line.split(|byte| b";,".contains(byte)));
    let sent: BTreeSet<_> = sent.map(trim_blanks).collect();
    for pair in blunt {
        assert!(pair.is_empty() || sent.contains(pair), "{} was not sent", pair.escape_ascii());
    }
    if rest.is_empty() {
        return;
    }
    for other in ["a", "b", "session"] {
        let before: Vec<_> = cookie::values(&http.headers, other).collect();
        assert_eq!(cookie::values(&headers, other).collect::<Vec<_>>(), before, "{other} is not what it was");
    }
}

/// Envoy removes a parameter by the very name that is there.
fn check_query(http: &Http<'_>) {
    let locations = locations();
    let removal = CredentialStripping::of(http, &locations, Forward::Nothing);
    let query = http.path.splitn(2, |&byte| byte == b'?').nth(1).unwrap_or_default();
    for parameter in query.split(|&byte| byte == b'&') {
        let raw = parameter.split(|&byte| byte == b'=').next().unwrap_or_default();
        let blanks: Vec<u8> = raw.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
        let is_ours = percent_decode(&blanks).eq(b"_auth_token".iter().copied());
        assert_eq!(removal.parameters.contains(&raw), is_ours, "{}", raw.escape_ascii());
    }
}

/// What an upstream may take for a closed path or host does not pass.
fn check_rules(http: &Http<'_>) {
    let request = Attributes { http: Some(http.clone()), policy: None, misspelled_policy: None };
    let decision = wait_for(GUARD.authorize(&request, None));
    if decision.verdict.is_err() {
        return;
    }
    for reading in path_readings(http.path_without_query()) {
        assert!(!is_below(&reading, "/admin"), "passes as {reading:?}");
        assert!(reading.trim_end_matches('/') != "/exact", "passes as {reading:?}");
    }
    for reading in host_readings(http.host) {
        assert!(reading != "admin.example", "passes as {reading:?}");
    }
}

fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// How upstreams read paths: each step is taken by some.
fn path_readings(raw: &[u8]) -> BTreeSet<String> {
    type Step = fn(&str) -> String;
    let steps: [Step; 7] = [
        |path| cut_parameters(path),
        |path| percent_decode(path.as_bytes()).decode_utf8_lossy().into_owned(),
        |path| cut_parameters(path),
        |path| path.split(['?', '#']).next().unwrap_or_default().to_owned(),
        |path| path.replace('\\', "/"),
        |path| {
            let segments: Vec<_> = path.split('/').skip(1).filter(|segment| !segment.is_empty()).collect();
            format!("/{}", segments.join("/"))
        },
        str::to_lowercase,
    ];
    let mut readings = BTreeSet::from([String::from_utf8_lossy(raw).into_owned()]);
    for step in steps {
        readings.extend(readings.iter().map(|reading| step(reading)).collect::<Vec<_>>());
    }
    readings
}

fn cut_parameters(path: &str) -> String {
    let segments = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
    segments.collect::<Vec<_>>().join("/")
}

fn host_readings(raw: &[u8]) -> BTreeSet<String> {
    let sent = String::from_utf8_lossy(raw).into_owned();
    let decoded = percent_decode(raw).decode_utf8_lossy().into_owned();
    let name = |host: &String| {
        let host = host.rsplit('@').next().unwrap_or_default();
        let end = host.find([':', '/', ';', '?', '#', ' ', '\\', ',', '\t']).unwrap_or(host.len());
        host[..end].trim_end_matches('.').to_lowercase()
    };
    [sent, decoded].iter().map(name).collect()
}
