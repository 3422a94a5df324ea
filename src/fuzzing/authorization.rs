//! `authorization`: Bearer and Basic, against a reading of their grammar that is written down again here.
//!
//! Each line of an input is a line of the header.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::attributes::{ClientAddress, Encoding, Header, Headers, Http};
use crate::credential::stripping::{CredentialStripping, Forward};
use crate::credential::{self, Credential, CredentialLocation, CredentialLocations, CrossSite};

/// What a request shows, for comparing.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    Nothing,
    Token(Vec<u8>),
    Password(String, Vec<u8>),
    Error,
}

/// The target.
pub fn run(data: &[u8]) {
    let lines: Vec<_> = data.split(|&byte| byte == b'\n').collect();
    let joined = lines.join(&b","[..]);
    let by_line = shown(Encoding::Lines, &lines);
    assert_eq!(by_line, expected(&lines), "line by line");
    // Envoy's own codec joins the lines of this header, also where it hands over lines.
    for encoding in [Encoding::Lines, Encoding::Joined] {
        let by_comma = shown(encoding, &[&joined]);
        assert_eq!(by_comma, expected(&[&joined]), "{encoding:?}");
        assert!(
            lines.len() == 1 || !matches!(by_comma, Shown::Token(_) | Shown::Password(..)),
            "two lines are one credential"
        );
    }
}

fn locations() -> CredentialLocations {
    CredentialLocations::new(vec![
        CredentialLocation::Bearer,
        CredentialLocation::Basic { cross_site: CrossSite::Deny },
    ])
}

fn shown(encoding: Encoding, lines: &[&[u8]]) -> Shown {
    let entries = lines.iter().map(|value| Header { name: b"authorization", value });
    let headers = match encoding {
        Encoding::Lines => Headers::new(encoding, entries.collect()),
        // Of a map's entries with one key only the last one counts.
        Encoding::Joined => Headers::new(encoding, entries.take(1).collect()),
    };
    let http = Http { method: b"GET", host: b"h", path: b"/", headers, client: ClientAddress::UNKNOWN };
    let locations = locations();
    let found = match credential::extract(&http, &locations, &mut ()) {
        Ok(None) => Shown::Nothing,
        Err(_) => Shown::Error,
        Ok(Some(found)) => match found.credential {
            Credential::Token { digest, .. } => Shown::Token(digest.as_bytes().to_vec()),
            Credential::Password { user, password } => {
                Shown::Password(user, password.expose().as_bytes().to_vec())
            }
            Credential::Sessions(_) => panic!("a session in `authorization`"),
        },
    };
    let removal = CredentialStripping::of(&http, &locations, Forward::Nothing);
    if found != Shown::Nothing {
        let is_legal = !lines.iter().all(|line| std::str::from_utf8(line).is_err());
        assert!(removal.headers == ["authorization"] || !is_legal, "{found:?} stays in the request");
    }
    found
}

fn expected(lines: &[&[u8]]) -> Shown {
    let parts = || lines.iter().flat_map(|line| line.split(|&byte| byte == b',')).map(<[u8]>::trim_blanks);
    let ours = |part: &[u8]| matches!(scheme(part).as_str(), "bearer" | "basic");
    if let [line] = lines {
        let line = line.trim_blanks();
        if line.is_empty() {
            return Shown::Nothing;
        }
        let Ok(text) = std::str::from_utf8(line) else { return Shown::Error };
        if !text.contains(',') {
            return one(text);
        }
    }
    if parts().any(ours) { Shown::Error } else { Shown::Nothing }
}

/// One value (RFC 9110 section 11.4).
fn one(value: &str) -> Shown {
    let (_, rest) = value.split_once([' ', '\t']).unwrap_or((value, ""));
    let rest = rest.trim_matches([' ', '\t']);
    match scheme(value.as_bytes()).as_str() {
        "bearer" => token(rest),
        "basic" => {
            let decoded = STANDARD.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            match decoded.as_deref().and_then(|text| text.split_once(':')) {
                None => Shown::Error,
                Some(("api_key", password)) => token(password),
                Some((user, password)) => Shown::Password(user.to_owned(), password.as_bytes().to_vec()),
            }
        }
        _ => Shown::Nothing,
    }
}

fn token(text: &str) -> Shown {
    let is_legal = |byte: u8| (b'!'..=b'~').contains(&byte) && byte != b',' && byte != b';';
    if (1..=4096).contains(&text.len()) && text.bytes().all(is_legal) {
        Shown::Token(Sha256::digest(text).to_vec())
    } else {
        Shown::Error
    }
}

fn scheme(value: &[u8]) -> String {
    let word = value.split(|byte| b" \t".contains(byte)).next().unwrap_or_default();
    String::from_utf8_lossy(word).to_ascii_lowercase()
}

trait TrimBlanks {
    fn trim_blanks(&self) -> &Self;
}

impl TrimBlanks for [u8] {
    fn trim_blanks(&self) -> &Self {
        let is_blank = |byte: &u8| b" \t".contains(byte);
        let start = self.iter().position(|byte| !is_blank(byte)).unwrap_or(self.len());
        let end = self.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
        &self[start..end]
    }
}
